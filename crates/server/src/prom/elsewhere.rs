//! Queries that another store answers: those that ask for times in front of what is kept here, or all of them.
//!
//! What was asked goes there word for word, and the answer comes back as it is: the other store's labels (with external labels
//! and what relabeling made), its limits, its texts.
//! Invariants: 1. an answer is given on whole or not at all; 2. nobody's credentials but those of the configuration go there.
//! Limits: [`ANSWER_BYTES_MAX`], [`ASKED_AT_ONCE`], the time of a query.
//! Fails how: the store is away, or says what is no answer: 503 with the reason; nothing is made up from what is here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use axum::response::Response;
use bytes::Bytes;
use collect::{AddressPolicy, HttpSettings, Posted, Poster};
use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use promql::ast::{At, DurationExpr, Expr, ExprKind};
use serde::Deserialize;
use tokio::sync::Semaphore;
use url::Url;

use super::error::{ApiError, ErrorKind, json_response};
use super::params::Params;
use crate::telemetry::Exposition;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Questions at once; others wait for their turn within their time.
const ASKED_AT_ONCE: usize = 8;
/// Of an answer that is none so much is repeated.
const SHOWN_MAX: usize = 300;
/// Says whose answer it is.
const ANSWERED_BY: &str = "x-quiver-answered-by";

/// What is asked of another store.
#[derive(Clone)]
pub struct ElsewhereSettings {
    /// The store's name.
    pub name: String,
    /// What stands in front of `/api/v1/query`.
    pub url: Url,
    /// TLS, authentication, headers.
    pub client: Arc<HttpSettings>,
    /// Longest time for an answer.
    pub timeout: Duration,
    /// Everything is asked there, not only what is older than what is kept here.
    pub always: bool,
    /// How long samples are kept here, in milliseconds.
    pub kept_ms: i64,
}

impl PartialEq for ElsewhereSettings {
    fn eq(&self, other: &ElsewhereSettings) -> bool {
        let all = |s: &ElsewhereSettings| (s.name.clone(), s.url.clone(), s.timeout, s.always, s.kept_ms);
        all(self) == all(other) && self.client.options() == other.client.options()
    }
}

/// Where queries go as well; nowhere until it is said. Cheap to clone.
#[derive(Clone, Default)]
pub struct Elsewhere {
    store: Arc<ArcSwapOption<Store>>,
    figures: Arc<Figures>,
}

#[derive(Default)]
struct Figures {
    answered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

struct Store {
    settings: ElsewhereSettings,
    seats: Semaphore,
    /// Connections that nobody uses.
    idle: Mutex<Vec<Poster>>,
}

/// The beginning of every answer.
#[derive(Deserialize)]
struct Envelope {
    status: String,
}

impl Elsewhere {
    /// Says where queries go from now on.
    pub fn set(&self, settings: Option<ElsewhereSettings>) {
        if self.store.load().as_ref().map(|store| &store.settings) != settings.as_ref() {
            let store = |settings| Store { settings, seats: Semaphore::new(ASKED_AT_ONCE), idle: Mutex::default() };
            self.store.store(settings.map(store).map(Arc::new));
        }
    }

    /// Answers there, if that is where this is answered; `None` when it is answered here.
    ///
    /// **Takes** a path such as `/api/v1/query`, and the earliest time whose samples are needed, if one is known.
    pub async fn answer(
        &self,
        path: &str,
        params: &Params,
        earliest_ms: Option<i64>,
        (now_ms, deadline): (i64, Instant),
    ) -> Option<Result<Response, ApiError>> {
        let store = self.store.load_full()?;
        let kept_from_ms = now_ms.saturating_sub(store.settings.kept_ms);
        if !store.settings.always && earliest_ms.is_none_or(|earliest_ms| earliest_ms >= kept_from_ms) {
            return None;
        }
        let answer = store.ask(path, params, deadline).await;
        let counter = match &answer {
            Ok(answer) if answer.status() == StatusCode::OK => &self.figures.answered,
            Ok(_) => &self.figures.refused,
            Err(error) => {
                tracing::warn!(store = store.settings.name, path, "{}", error.text);
                &self.figures.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Some(answer)
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let help = "Queries that were passed on to another store, by what became of them.";
        page.family("quiver_queries_passed_on_total", "counter", help);
        for (outcome, counter) in
            [("answered", &self.figures.answered), ("refused", &self.figures.refused), ("failed", &self.figures.failed)]
        {
            page.sample(&[("outcome", outcome)], counter.load(Ordering::Relaxed) as f64);
        }
    }
}

impl Store {
    async fn ask(&self, path: &str, params: &Params, deadline: Instant) -> Result<Response, ApiError> {
        let asking = async {
            let Ok(_seat) = self.seats.acquire().await else { return Err("it is closed".to_owned()) };
            self.exchange(path, params).await
        };
        let failed = |why: String| {
            let text = format!("{} does not answer, to which this query is passed on: {why}", self.settings.name);
            ApiError::new(ErrorKind::Unavailable, text)
        };
        let posted = match tokio::time::timeout_at(deadline.into(), asking).await {
            Ok(posted) => posted.map_err(failed)?,
            Err(_) => {
                return Err(ApiError::new(ErrorKind::Timeout, "query timed out in the store to which it is passed on"));
            }
        };
        let envelope = serde_json::from_str::<Envelope>(&posted.text).ok();
        let status = StatusCode::from_u16(posted.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let is_answer = match envelope.as_ref().map(|envelope| envelope.status.as_str()) {
            Some("success") => status == StatusCode::OK,
            // What it says of the query is said to who asks; what it says of us is not his affair.
            Some("error") => matches!(posted.status, 400 | 422 | 503),
            _ => false,
        };
        if !posted.whole {
            return Err(failed(format!("its answer is larger than {} MiB", ANSWER_BYTES_MAX >> 20)));
        }
        if !is_answer {
            // Stores repeat credentials in such pages: they are for our log alone.
            let shown: String = posted.text.trim().chars().take(SHOWN_MAX).collect();
            tracing::warn!(store = self.settings.name, status = posted.status, "no answer to a query: {shown}");
            return Err(failed(format!("status {}; its words are in the log", posted.status)));
        }
        let mut response = json_response(status, posted.text.into_bytes());
        if let Ok(name) = HeaderValue::from_str(&self.settings.name) {
            response.headers_mut().insert(ANSWERED_BY, name);
        }
        Ok(response)
    }

    async fn exchange(&self, path: &str, params: &Params) -> Result<Posted, String> {
        let ElsewhereSettings { url, client, timeout, .. } = &self.settings;
        let mut url = url.clone();
        url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
        let idle = self.idle.lock().pop();
        let poster = idle.unwrap_or_else(|| Poster::new(client.clone(), AddressPolicy::allow_all(), *timeout));
        let posted = if path.contains("/label/") {
            url.query_pairs_mut().extend_pairs(params.pairs());
            poster.get(&url, ANSWER_BYTES_MAX).await
        } else {
            let form = Bytes::from(params.as_form());
            poster.post_form(&url, form, ANSWER_BYTES_MAX).await
        };
        let mut idle = self.idle.lock();
        if idle.len() < ASKED_AT_ONCE {
            idle.push(poster);
        }
        posted.map_err(|error| error.message)
    }
}

/// Gives the earliest time whose samples a query from `start_ms` to `end_ms` needs.
pub fn earliest_ms(expr: &Expr, (start_ms, end_ms): (i64, i64), lookback_ms: i64, default_step_ms: i64) -> i64 {
    let whole = (start_ms, end_ms);
    earliest(expr, start_ms, &Known { whole, lookback_ms, default_step_ms })
}

struct Known {
    /// Of the query, whatever subqueries make of it.
    whole: (i64, i64),
    lookback_ms: i64,
    default_step_ms: i64,
}

impl Known {
    /// Gives the time at which something is evaluated first.
    fn moved(&self, start_ms: i64, at: Option<&At>, offset: Option<&DurationExpr>) -> i64 {
        let at_ms = match at {
            None => start_ms,
            Some(At::TimeMs(ms)) => *ms,
            Some(At::Start) => self.whole.0,
            Some(At::End) => self.whole.1,
        };
        at_ms.saturating_sub(offset.map_or(0, plain))
    }
}

fn earliest(expr: &Expr, start_ms: i64, known: &Known) -> i64 {
    let of = |expr: &Expr| earliest(expr, start_ms, known);
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::Duration(_) | ExprKind::String(_) => i64::MAX,
        ExprKind::Vector(selector) => {
            let at_ms = known.moved(start_ms, selector.at.as_ref(), selector.offset.as_ref());
            at_ms.saturating_sub(known.lookback_ms)
        }
        ExprKind::Matrix { selector, range } => {
            let at_ms = known.moved(start_ms, selector.at.as_ref(), selector.offset.as_ref());
            at_ms.saturating_sub(plain(range))
        }
        ExprKind::Subquery { expr, range, step, offset, at } => {
            let step_ms = step.as_ref().map_or(known.default_step_ms, plain);
            let at_ms = known.moved(start_ms, at.as_ref(), offset.as_ref());
            earliest(expr, at_ms.saturating_sub(plain(range)).saturating_sub(step_ms), known)
        }
        ExprKind::Aggregate(aggregate) => {
            let param = aggregate.param.as_ref().map_or(i64::MAX, |param| of(param));
            of(&aggregate.expr).min(param)
        }
        ExprKind::Call { args, .. } => args.iter().map(of).min().unwrap_or(i64::MAX),
        ExprKind::Binary(binary) => of(&binary.lhs).min(of(&binary.rhs)),
        ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => of(expr),
    }
}

/// Gives a duration; one that is computed counts as none.
fn plain(duration: &DurationExpr) -> i64 {
    match duration {
        DurationExpr::Ms(ms) => *ms,
        DurationExpr::Computed(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_sample_that_a_query_needs_is_known() {
        let earliest =
            |query: &str| earliest_ms(&promql::parse(query).unwrap(), (10_000_000, 20_000_000), 300_000, 60_000);
        for (query, wanted) in [
            ("a", 9_700_000),
            ("1 + time()", i64::MAX),
            ("rate(a[1h]) + b", 6_400_000),
            ("a offset 1h", 6_100_000),
            ("a offset -1h", 13_300_000),
            ("a @ 5000", 4_700_000),
            ("rate(a[5m] @ end())", 19_700_000),
            ("sum(a) + topk(2, b @ 7)", -293_000),
            ("max_over_time(a[1h:1m] offset 1m)", 10_000_000 - 60_000 - 3_600_000 - 60_000 - 300_000),
            ("max_over_time(rate(a[5m] @ start())[1h:])", 9_700_000),
        ] {
            assert_eq!(earliest(query), wanted, "{query}");
        }
    }
}
