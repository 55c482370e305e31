//! `notifications`, `notifications/live`: what people should know of the server itself, as Prometheus' pages show it.
//!
//! Limits: [`LISTENERS_MAX`] listeners; who comes beyond them is told that there is nothing, as in Prometheus.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::StatusCode;

use super::api::PromApi;
use super::json;
use super::query::success;
use super::status::{RuntimeInfo, go_time, object, quoted};

/// Prometheus' `--web.max-notifications-subscribers`.
pub const LISTENERS_MAX: usize = 16;
/// How soon listeners hear of a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Prometheus' words.
const RELOAD_FAILED: &str = "Configuration reload has failed.";

/// Something that is so, or was until now.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Notice {
    text: &'static str,
    since_ms: i64,
    active: bool,
}

impl Notice {
    fn write(&self) -> String {
        let members = [
            ("text", quoted(self.text)),
            ("date", quoted(&go_time(Some(self.since_ms)))),
            ("active", self.active.to_string()),
        ];
        let mut out = Vec::new();
        object(&mut out, &members);
        String::from_utf8(out).unwrap_or_default()
    }
}

/// Gives what is so now.
fn active(runtime: &RuntimeInfo) -> Vec<Notice> {
    let failed = (!runtime.reload_ok).then_some(Notice {
        text: RELOAD_FAILED,
        since_ms: runtime.reload_tried_at_ms,
        active: true,
    });
    failed.into_iter().collect()
}

/// Gives what a listener is told after a look: what is new or of another time, and what is not so any more.
fn changes(before: &[Notice], now: &[Notice]) -> Vec<Notice> {
    let over = before.iter().filter(|b| now.iter().all(|n| n.text != b.text));
    let over = over.map(|b| Notice { active: false, ..b.clone() });
    over.chain(now.iter().filter(|n| !before.contains(n)).cloned()).collect()
}

/// `/api/v1/notifications`
pub async fn notifications(State(api): State<PromApi>) -> Response {
    let notices = active(&(api.runtime)());
    success(|out| json::list(out, &notices, |out, notice| out.extend_from_slice(notice.write().as_bytes())))
}

/// `/api/v1/notifications/live`: an event for each notice, and for each that is over.
pub async fn live(State(api): State<PromApi>) -> Response {
    let Ok(seat) = api.listeners.clone().try_acquire_owned() else {
        return StatusCode::NO_CONTENT.into_response();
    };
    let mut stop = api.stop.clone();
    let look = tokio::time::interval(LOOK_EVERY);
    let state = (api, look, Vec::new(), seat);
    let told = stream::unfold(state, |(api, mut look, before, seat)| async move {
        loop {
            look.tick().await;
            let now = active(&(api.runtime)());
            let news = changes(&before, &now);
            if !news.is_empty() {
                let events: Vec<_> =
                    news.iter().map(|notice| Ok::<_, Infallible>(Event::default().data(notice.write()))).collect();
                return Some((stream::iter(events), (api, look, now, seat)));
            }
        }
    });
    let ended = async move { drop(stop.wait_for(|stopped| *stopped).await) };
    let told = futures_util::StreamExt::take_until(futures_util::StreamExt::flatten(told), Box::pin(ended));
    Sse::new(told).keep_alive(KeepAlive::default()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_told_when_it_comes_and_when_it_is_over() {
        let good = RuntimeInfo { reload_ok: true, ..RuntimeInfo::default() };
        let failed = |at| RuntimeInfo { reload_tried_at_ms: at, ..RuntimeInfo::default() };
        assert!(active(&good).is_empty());
        let first = active(&failed(1_000));
        assert_eq!(
            first[0].write(),
            r#"{"text":"Configuration reload has failed.","date":"1970-01-01T00:00:01Z","active":true}"#
        );
        assert_eq!(changes(&[], &first), first);
        assert_eq!(changes(&first, &first), []);
        assert_eq!(changes(&first, &active(&failed(2_000))).len(), 1, "it failed again");
        let over = changes(&first, &active(&good));
        assert_eq!((over.len(), over[0].active), (1, false));
    }
}
