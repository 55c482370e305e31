//! `GET /api/v1/metrics/live`.

use std::convert::Infallible;

use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::response::sse::{Event as SseEvent, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use promql::ast::ValueType;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;

use super::kept::Token;
use super::session::{Asked, Closing, Event, Session};
use super::stats::LiveStats;
use super::{Live, STEPS_MAX};
use crate::access::Pass;
use crate::prom::params::{Params, parse_duration_ms};
use crate::rest::body::Query;
use crate::rest::problem::Problem;
use crate::stream::{Upgrade, lines_out, since_ms};

/// The path.
pub const PATH: &str = "/api/v1/metrics/live";
const STEP_MS_MIN: f64 = 1_000.0;
const STEP_MS_MAX: f64 = 86_400_000.0;
/// Samples of a scrape have the time of its beginning: they come a little later.
const DELAY_MS: f64 = 5_000.0;
const DELAY_MS_MAX: f64 = 3_600_000.0;
const CORRECT_MS: f64 = 3_600_000.0;
/// What a browser waits before it comes back.
const RETRY: std::time::Duration = std::time::Duration::from_secs(2);

/// Makes the route; the state must give [`Live`].
pub fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Live: FromRef<S>,
{
    Router::new().route(PATH, get(live))
}

/// Keeps a PromQL expression up to date.
#[utoipa::path(
    get, path = "/api/v1/metrics/live", tag = "query",
    params(
        ("query" = String, Query, description = "PromQL that gives a vector or a scalar, and whose steps depend on their own past alone: no @, no negative offset, no info()"),
        ("step" = String, Query, description = "Duration or seconds, 1s to 1d; steps lie at its multiples since 1970"),
        ("delay" = Option<String>, Query, description = "A step is computed when it is so old; 5s when absent, at most 1h"),
        ("correct" = Option<String>, Query, description = "For so long a step that was sent is sent again when late samples or deletions change it; 1h when absent, 0 for never, at most 11,000 steps"),
        ("from" = Option<String>, Query, description = "First the steps since then: RFC 3339, Unix seconds, a duration before now such as 5m, or the token of the last event. At most 11,000 steps. Else the last step that is over"),
        ("Last-Event-ID" = Option<String>, Header, description = "The token of the last event, as browsers send it: goes on behind it"),
    ),
    responses(
        (status = 200, description = "SSE, or as messages of a WebSocket: {\"event\": \"step\" | \"corrected\", \"time\", \"resultType\": \"vector\", \"result\": [...], \"token\"}, with \"error\" in the place of the result where a step has none; {\"event\": \"live\"} when the past is through; at last {\"event\": \"closed\", \"error\"}", body = String, content_type = "text/event-stream"),
        (status = 400, description = "The query, a parameter or the token is wrong", body = crate::rest::problem::ProblemBody),
        (status = 422, description = "The query cannot be kept up to date, or there are too many steps", body = crate::rest::problem::ProblemBody),
        (status = 429, description = "Too many live queries", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn live(
    State(live): State<Live>,
    headers: HeaderMap,
    Query(params): Query,
    request: Request,
) -> Result<Response, Problem> {
    let upgrade = Upgrade::of(request)?;
    let (events, closing) = live.begin(&headers, &params)?;
    match upgrade {
        Some(upgrade) => Ok(lines_out(upgrade, messages(events, closing))),
        None => Ok(sse(events, closing)),
    }
}

impl Live {
    /// Begins a live query.
    ///
    /// **Errors** when the request is wrong or there are too many.
    pub(super) fn begin(
        &self,
        headers: &HeaderMap,
        params: &Params,
    ) -> Result<(mpsc::Receiver<Event>, Closing), Problem> {
        let asked = self.asked(params)?;
        let begin = Begin::read(headers, params, &asked, (self.0.parts.now)())?;
        let pass = Pass::in_force();
        let name = pass.as_ref().map(|pass| pass.name.as_str()).filter(|name| *name != "anonymous");
        let seat = self.seat(name).ok_or_else(|| {
            LiveStats::add(&self.0.stats.refused, 1);
            let limits = &self.0.parts.limits;
            let detail = format!("at most {} live queries, and {} of one token or user", limits.all, limits.of_one);
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_live_queries", detail).retry_after_ms(10_000)
        })?;
        let (session, events, closing) = Session::new(self.clone(), asked, begin.next_ms, seat);
        tokio::spawn(session.run(begin.token));
        Ok((events, closing))
    }

    fn asked(&self, params: &Params) -> Result<Asked, Problem> {
        let query = params.get("query");
        if query.trim().is_empty() {
            return Err(Problem::at(StatusCode::BAD_REQUEST, "missing_field", "?query", "query is missing"));
        }
        if params.get("step").is_empty() {
            let detail = "step is missing: a duration such as 15s";
            return Err(Problem::at(StatusCode::BAD_REQUEST, "missing_field", "?step", detail));
        }
        let step_ms = duration_ms(params, "step", STEP_MS_MIN, (STEP_MS_MIN, STEP_MS_MAX))?;
        let delay_ms = duration_ms(params, "delay", DELAY_MS, (0.0, DELAY_MS_MAX))?;
        let longest = (step_ms * STEPS_MAX) as f64;
        let correct_ms = duration_ms(params, "correct", CORRECT_MS.min(longest), (0.0, longest))?;
        let queries = &self.0.parts.queries;
        let invalid = |text| Problem::at(StatusCode::BAD_REQUEST, "invalid_query", "?query", text);
        let expr = queries.parse(query).map_err(invalid)?;
        let kind = promql::value_type(&expr);
        if !matches!(kind, ValueType::Scalar | ValueType::Vector) {
            return Err(invalid(format!(
                "the expression gives a {}, a live query a vector or a scalar",
                kind.as_str()
            )));
        }
        let limits = queries.limits();
        promql::reach_ms(&expr, limits.lookback_ms, limits.default_step_ms).ok_or_else(|| {
            let detail = "a step of a live query depends on nothing but the samples before it: not on @, a negative \
                          offset, anchored or smoothed ranges or info()";
            Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "not_live", "?query", detail)
        })?;
        let question = xxh3_64(format!("{step_ms} {correct_ms} {query}").as_bytes()) as u32;
        Ok(Asked { query: query.to_owned(), step_ms, delay_ms, correct_ms, question })
    }
}

/// Where it begins.
struct Begin {
    /// The first step to send.
    next_ms: i64,
    token: Option<Token>,
}

impl Begin {
    fn read(headers: &HeaderMap, params: &Params, asked: &Asked, now_ms: i64) -> Result<Begin, Problem> {
        let step_ms = asked.step_ms;
        let final_ms = now_ms.saturating_sub(asked.delay_ms).div_euclid(step_ms).saturating_mul(step_ms);
        let id = headers.get("last-event-id").map(|v| v.to_str().unwrap_or("?")).filter(|id| !id.is_empty());
        let from = params.get("from");
        let named = id.map(|id| ("Last-Event-ID", id)).or(from.starts_with("l1.").then_some(("from", from)));
        let (next_ms, token, name) = if let Some((name, text)) = named {
            let token = Token::read(text).ok_or_else(|| Problem::parameter(name, "that is no token of ours"))?;
            if token.question != asked.question || token.last_ms.rem_euclid(step_ms) != 0 {
                let detail = "the token is of a live query with another query, step or correct";
                return Err(Problem::parameter(name, detail));
            }
            (token.last_ms.saturating_add(step_ms), Some(token), name)
        } else if from.is_empty() {
            (final_ms, None, "from")
        } else {
            let from_ms = since_ms(from, now_ms).map_err(|e| Problem::parameter("from", e))?;
            let up_ms = from_ms.saturating_add(step_ms - 1).div_euclid(step_ms).saturating_mul(step_ms);
            (up_ms, None, "from")
        };
        if final_ms.saturating_sub(next_ms) / step_ms >= STEPS_MAX {
            let detail = format!("{name} is more than {STEPS_MAX} steps ago: ask query_range for what is older");
            return Err(Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "too_many_steps", format!("?{name}"), detail));
        }
        if next_ms.saturating_sub(now_ms) > STEPS_MAX.saturating_mul(step_ms) {
            return Err(Problem::parameter(name, format!("{name} is too far in the future")));
        }
        Ok(Begin { next_ms, token })
    }
}

fn duration_ms(params: &Params, name: &str, default: f64, (least, most): (f64, f64)) -> Result<i64, Problem> {
    let text = params.get(name);
    if text.is_empty() {
        return Ok(default as i64);
    }
    let ms = parse_duration_ms(text).map_err(|e| Problem::parameter(name, e))?;
    if !(least..=most).contains(&ms) {
        let shown = |ms: f64| model::format_duration_ms(ms as i64);
        let detail = format!("{name} is between {} and {} here", shown(least), shown(most));
        return Err(Problem::parameter(name, detail));
    }
    Ok(ms as i64)
}

/// An answer of events; the last says why there are no more.
fn sse(events: mpsc::Receiver<Event>, closing: Closing) -> Response {
    let first =
        futures_util::stream::iter([Ok::<_, Infallible>(SseEvent::default().comment("connected").retry(RETRY))]);
    let rest = futures_util::stream::unfold(Some((events, closing)), |state| async {
        let (mut events, closing) = state?;
        match events.recv().await {
            Some(Event::Heartbeat) => Some((Ok(SseEvent::default().comment("heartbeat")), Some((events, closing)))),
            Some(Event::Object { id, json }) => {
                let mut event = SseEvent::default().data(json);
                if let Some(id) = id {
                    event = event.id(id);
                }
                Some((Ok(event), Some((events, closing))))
            }
            None => closing.get().map(|json| (Ok(SseEvent::default().data(json)), None)),
        }
    });
    let mut response = Sse::new(futures_util::StreamExt::chain(first, rest)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The same as messages.
fn messages(mut events: mpsc::Receiver<Event>, closing: Closing) -> mpsc::Receiver<String> {
    let (lines, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = lines.closed() => return,
            };
            let Some(event) = event else { break };
            if lines.send(event.json()).await.is_err() {
                return;
            }
        }
        if let Some(json) = closing.get() {
            // Gone already is fine here.
            let _ = lines.send(json.clone()).await;
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked { query: "up".to_owned(), step_ms: 15_000, delay_ms: 5_000, correct_ms: 0, question: 9 }
    }

    #[test]
    fn it_begins_at_a_step() {
        let begin = |query: &str, id: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(id) = id {
                headers.insert("last-event-id", id.parse().unwrap());
            }
            let read = Begin::read(&headers, &Params::parse(query), &asked(), 1_000_004_000);
            read.map(|begin| (begin.next_ms, begin.token.is_some())).map_err(|p| p.code.clone())
        };
        // The last step that is older than the delay.
        assert_eq!(begin("", None), Ok((999_990_000, false)));
        assert_eq!(begin("from=1m", None), Ok((999_945_000, false)));
        assert_eq!(begin("from=999900", None), Ok((999_900_000, false)));
        assert_eq!(begin("from=999901", None), Ok((999_915_000, false)));
        let token = Token { question: 9, last_ms: 999_900_000, steps: 3, digest: 1 }.to_string();
        assert_eq!(begin("from=1m", Some(&token)), Ok((999_915_000, true)), "the header wins");
        assert_eq!(begin(&format!("from={token}"), None), Ok((999_915_000, true)));
        let other = Token { question: 8, last_ms: 999_900_000, steps: 3, digest: 1 }.to_string();
        for (query, id) in [("", Some("t_5")), ("", Some(&*other)), ("from=soon", None), ("from=9999999999", None)] {
            assert!(begin(query, id).is_err(), "{query} {id:?}");
        }
        assert_eq!(begin("from=1", None).unwrap_err(), "too_many_steps");
    }
}
