//! `GET /events`: `metrics_collected` as Server-Sent Events, resumable.
//!
//! Limits: [`SUBSCRIBERS_MAX`] listeners; a heartbeat each [`HEARTBEAT`].

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as SseEvent, Sse};
use axum::response::{IntoResponse, Response};
use events::{Delivery, EventId, SubscribeError, Subscription};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use model::CollectionReport;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::Query;
use super::problem::Problem;
use super::{Rest, time};
use crate::announce::Format;
use crate::prom::params::Params;

/// Longest silence on a stream.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// Listeners at a time.
pub const SUBSCRIBERS_MAX: usize = 1_000;

/// The event of the specification.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct MetricsCollectedEvent {
    /// UUID version 7.
    pub event_id: String,
    /// When the collection was done; RFC 3339.
    pub timestamp: String,
    /// What was collected.
    pub metrics_collected: MetricsCollectedData,
}

/// What was collected.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct MetricsCollectedData {
    /// `batch_YYYYMMDD_<node>_<number>`.
    pub collection_batch_id: String,
    /// Who the samples are attributed to.
    pub source_id: String,
    /// The target, or the source id when none is registered.
    pub target_id: String,
    /// Metric points; the sum of the summary.
    pub metrics_count: u64,
    /// How long it took.
    pub collection_duration_ms: u64,
    /// CollectionMethod.
    pub collection_method: String,
    /// The target's state afterwards.
    pub target_health: String,
    /// Points by type.
    pub metrics_summary: MetricsSummaryData,
    /// Refused samples, and one for a failed collection.
    pub error_count: u64,
    /// floor(metrics_count * 1000 / collection_duration_ms); 0 ms counts as 1.
    pub samples_per_second: u64,
    /// Samples on the wire; a histogram is many.
    pub samples_count: u64,
    /// Why the collection failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Points by type.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct MetricsSummaryData {
    /// Counters.
    pub counters: u64,
    /// Gauges.
    pub gauges: u64,
    /// Histograms.
    pub histograms: u64,
    /// Summaries.
    pub summaries: u64,
    /// All else; left out when there are none.
    #[serde(skip_serializing_if = "is_zero")]
    pub others: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl From<&CollectionReport> for MetricsCollectedEvent {
    fn from(r: &CollectionReport) -> MetricsCollectedEvent {
        MetricsCollectedEvent {
            event_id: id_text(&r.event_id),
            timestamp: time::to_text(r.finished_at_ms),
            metrics_collected: MetricsCollectedData {
                collection_batch_id: r.batch_id.clone(),
                source_id: r.origin.source_id.clone(),
                target_id: r.origin.target_id.clone(),
                metrics_count: r.summary.total(),
                collection_duration_ms: r.duration_ms,
                collection_method: r.origin.method.as_str().to_owned(),
                target_health: r.health.as_str().to_owned(),
                metrics_summary: MetricsSummaryData {
                    counters: r.summary.counters,
                    gauges: r.summary.gauges,
                    histograms: r.summary.histograms,
                    summaries: r.summary.summaries,
                    others: r.summary.others,
                },
                error_count: r.error_count(),
                samples_per_second: r.samples_per_second(),
                samples_count: r.samples_count,
                error: r.error.clone(),
            },
        }
    }
}

fn id_text(id: &EventId) -> String {
    Uuid::from_bytes(*id).to_string()
}

/// A place among the listeners; given back on drop.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(seats: &Arc<AtomicUsize>) -> Option<Seat> {
        let taken = seats.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(seats));
        (taken < SUBSCRIBERS_MAX).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Streams events.
#[utoipa::path(
    get, path = "/api/v1/metrics/events", tag = "events",
    params(
        ("source_id" = Option<String>, Query, description = "Only events of this source"),
        ("resume_after" = Option<String>, Query, description = "Id of the last event seen; Last-Event-ID does the same"),
        ("format" = Option<String>, Query, description = "plain, or cloudevents for an envelope of CloudEvents 1.0"),
    ),
    responses(
        (status = 200, description = "A stream of events; the data of each is one object", body = MetricsCollectedEvent, content_type = "text/event-stream"),
        (status = 410, description = "The events after that id are not kept any more", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn stream(State(rest): State<Rest>, headers: HeaderMap, Query(params): Query) -> Result<Response, Problem> {
    if params.all("window").next().is_some() {
        return Err(Problem::not_yet("?window", "aggregation windows are not built yet"));
    }
    let source_id = params.all("source_id").next().filter(|s| !s.is_empty()).map(str::to_owned);
    let after = resume_after(&headers, &params)?;
    let format =
        Format::parse(params.get("format")).map_err(|e| Problem::parameter("format", format!("format: {e}")))?;
    let node = rest.node.clone();
    let seat = Seat::take(&rest.seats).ok_or_else(|| {
        let detail = format!("{SUBSCRIBERS_MAX} listeners are here already");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_listeners", detail).retry_after_ms(10_000)
    })?;
    let log = rest.events.clone();
    // Looking for the event to resume after reads files.
    let subscribed = tokio::task::spawn_blocking(move || log.subscribe(source_id, after)).await;
    let subscription = match subscribed {
        Ok(Ok(subscription)) => subscription,
        Ok(Err(error)) => return Err(subscribe_problem(error)),
        Err(_) => return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is stopping")),
    };
    let stop = rest.stop.clone();
    let listener = Listener { subscription, format, node, stop, started: false, done: false, _seat: seat };
    let stream = futures_util::stream::unfold(listener, |mut listener| async move {
        let item = listener.next().await?;
        Some((Ok::<_, Infallible>(item), listener))
    });
    let mut response = Sse::new(stream).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn resume_after(headers: &HeaderMap, params: &Params) -> Result<Option<EventId>, Problem> {
    let header = headers.get("last-event-id").map(|v| v.to_str().unwrap_or("?"));
    let (name, text) = match (params.all("resume_after").next(), header) {
        (Some(text), _) => ("resume_after", text),
        (None, Some(text)) => ("Last-Event-ID", text),
        (None, None) => return Ok(None),
    };
    if text.is_empty() {
        return Ok(None);
    }
    match Uuid::parse_str(text) {
        Ok(id) => Ok(Some(*id.as_bytes())),
        Err(e) => Err(Problem::parameter(name, format!("{name} is the id of an event: {e}"))),
    }
}

fn subscribe_problem(error: SubscribeError) -> Problem {
    match error {
        SubscribeError::Gone { oldest } => {
            let detail = "the event to resume after is not kept any more, or never was; events in between may be lost";
            let mut problem = Problem::new(StatusCode::GONE, "event_gap", detail);
            problem.oldest_event_id = oldest.as_ref().map(id_text);
            problem
        }
        SubscribeError::Log(e) => {
            tracing::error!("{e}");
            let detail = "the event log could not be read";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "events_unavailable", detail).retry_after_ms(5_000)
        }
        SubscribeError::Closed => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is stopping")
                .retry_after_ms(5_000)
        }
    }
}

struct Listener {
    subscription: Subscription,
    format: Format,
    node: String,
    stop: tokio::sync::watch::Receiver<bool>,
    started: bool,
    done: bool,
    _seat: Seat,
}

impl Listener {
    /// Gives what is to be sent next; `None` ends the stream.
    async fn next(&mut self) -> Option<SseEvent> {
        if self.done {
            return None;
        }
        if !self.started {
            self.started = true;
            return Some(SseEvent::default().comment("connected"));
        }
        let delivery = tokio::select! {
            delivery = self.subscription.next() => delivery,
            _ = tokio::time::sleep(HEARTBEAT) => return Some(SseEvent::default().comment("heartbeat")),
            _ = self.stop.wait_for(|stopped| *stopped) => return None,
        };
        match delivery {
            Ok(Delivery::Event(event)) => {
                let data = self.format.show(&event, &self.node).to_string();
                Some(SseEvent::default().id(id_text(&event.id())).event("metrics_collected").data(data))
            }
            Ok(Delivery::Lagged { behind }) => {
                Some(SseEvent::default().comment(format!("lagged by {behind}, reading from disk")))
            }
            Err(error) => {
                // The stream has begun, so the problem comes as its last event.
                self.done = true;
                let problem = subscribe_problem(error);
                Some(SseEvent::default().event("problem").data(serde_json::to_string(&problem).unwrap_or_default()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use model::TypeCounts;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_arithmetic_of_the_event_adds_up(n in prop::array::uniform5(0u64..1 << 40), ms in 0u64..1 << 40) {
            let report = CollectionReport {
                summary: TypeCounts { counters: n[0], gauges: n[1], histograms: n[2], summaries: n[3], others: n[4] },
                duration_ms: ms,
                ..CollectionReport::default()
            };
            let event = serde_json::to_value(MetricsCollectedEvent::from(&report)).expect("it is JSON");
            let data = &event["metrics_collected"];
            let number = |v: &serde_json::Value| v.as_u64().unwrap_or(0);
            let summary = &data["metrics_summary"];
            let sum: u64 = ["counters", "gauges", "histograms", "summaries", "others"].iter().map(|k| number(&summary[k])).sum();
            prop_assert_eq!(number(&data["metrics_count"]), sum);
            let rate = u128::from(sum) * 1000 / u128::from(ms.max(1));
            prop_assert_eq!(u128::from(number(&data["samples_per_second"])), rate);
            prop_assert_eq!(summary.get("others").is_some(), n[4] > 0);
        }
    }

    #[test]
    fn the_specifications_example_comes_out() {
        let report = CollectionReport {
            summary: TypeCounts { counters: 450, gauges: 600, histograms: 150, summaries: 50, others: 0 },
            duration_ms: 85,
            finished_at_ms: 1_750_500_000_000,
            ..CollectionReport::default()
        };
        let event = MetricsCollectedEvent::from(&report);
        assert_eq!(event.timestamp, "2025-06-21T10:00:00.000Z");
        assert_eq!((event.metrics_collected.metrics_count, event.metrics_collected.samples_per_second), (1250, 14705));
    }
}
