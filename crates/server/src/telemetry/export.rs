//! The server's own spans and metrics on their way out, as OTLP over HTTP.
//!
//! Invariants: 1. nothing that is measured waits for this: a span that finds the queue full is dropped and counted; 2. the requests
//! made here are no spans; 3. what cannot be sent after [`TRIES_MAX`] tries is given up and counted.
//! Limits: the queue of the settings, [`BATCH_MAX`] spans in a request, one request at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use collect::{AddressPolicy, Poster};
use parking_lot::Mutex;
use sys::spans::{self, Ended, Hear, Kind, Noted};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use wire::otlp::send::{AttributeValue, Span, Speaker, encode_metrics, encode_spans};

use super::exposition::Exposition;
use super::own::Own;
use super::points::points_of;
use crate::config::telemetry::{MetricSettings, Receiver, TelemetrySettings, TraceSettings};

/// Spans of one request.
const BATCH_MAX: usize = 512;
/// How long spans wait for others.
const GATHER: Duration = Duration::from_secs(1);
/// How often a request is sent at most.
const TRIES_MAX: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a receiver can ask for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Spans that are left when the server stops get this long.
const LAST: Duration = Duration::from_secs(1);

/// What became of spans and metrics.
#[derive(Default, Debug)]
pub struct ExportStats {
    spans_sent: AtomicU64,
    spans_dropped: AtomicU64,
    spans_failed: AtomicU64,
    metrics_sent: AtomicU64,
    metrics_failed: AtomicU64,
    retries: AtomicU64,
    trouble: AtomicBool,
}

impl ExportStats {
    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
        page.family("quiver_telemetry_spans_total", "counter", "Spans of our own by what became of them.");
        let spans = [("sent", &self.spans_sent), ("dropped", &self.spans_dropped), ("failed", &self.spans_failed)];
        for (outcome, n) in spans {
            page.sample(&[("outcome", outcome)], load(n));
        }
        page.family(
            "quiver_telemetry_metric_exports_total",
            "counter",
            "Pages of own metrics sent by OTLP, by outcome.",
        );
        for (outcome, n) in [("sent", &self.metrics_sent), ("failed", &self.metrics_failed)] {
            page.sample(&[("outcome", outcome)], load(n));
        }
        page.counter(
            "quiver_telemetry_retries_total",
            "OTLP requests that were tried again.",
            self.retries.load(Ordering::Relaxed),
        );
    }

    /// Notes whether the receiver takes what it is sent; news are logged.
    fn trouble(&self, text: Option<&str>) {
        if self.trouble.swap(text.is_some(), Ordering::Relaxed) != text.is_some() {
            match text {
                Some(text) => tracing::warn!("own telemetry cannot be sent: {text}"),
                None => tracing::info!("own telemetry is sent again"),
            }
        }
    }
}

/// Both on their way out.
pub struct Exporter {
    stats: Arc<ExportStats>,
    node: Arc<str>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    spans: bool,
}

/// Puts spans into the queue.
struct Queue {
    spans: mpsc::Sender<Ended>,
    stats: Arc<ExportStats>,
}

impl Hear for Queue {
    fn ended(&self, span: Ended) {
        if self.spans.try_send(span).is_err() {
            self.stats.spans_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Exporter {
    /// Hears of spans from here on, if they go anywhere.
    pub fn start(settings: &TelemetrySettings, node: &str) -> Arc<Exporter> {
        let (stats, node) = (Arc::<ExportStats>::default(), Arc::from(node));
        let exporter =
            Exporter { stats: stats.clone(), node, tasks: Mutex::default(), spans: settings.traces.is_some() };
        if let Some(TraceSettings { to, sampling_fraction, queue }) = settings.traces.clone() {
            let (spans, waiting) = mpsc::channel(queue);
            exporter
                .tasks
                .lock()
                .push(tokio::spawn(send_spans(waiting, Sender::new(to, stats.clone(), &exporter.node))));
            spans::listen(Arc::new(Queue { spans, stats }), sampling_fraction);
        }
        Arc::new(exporter)
    }

    /// Sends the page of own metrics every now and then, if it goes anywhere.
    pub fn follow(&self, settings: &TelemetrySettings, own: Arc<Own>, started_at_ms: i64, stop: watch::Receiver<bool>) {
        if let Some(MetricSettings { to, interval }) = settings.metrics.clone() {
            let sender = Sender::new(to, self.stats.clone(), &self.node);
            let start_ns = started_at_ms.max(0).unsigned_abs().saturating_mul(1_000_000);
            self.tasks.lock().push(tokio::spawn(send_metrics(own, sender, (interval, start_ns), stop)));
        }
    }

    /// Gives the figures.
    pub fn stats(&self) -> &ExportStats {
        &self.stats
    }

    /// Hears of no more spans, and sends what waits, if that goes quickly.
    pub async fn finish(&self) {
        if self.spans {
            // The queue's end goes with the hearer.
            spans::deafen();
        }
        let tasks = std::mem::take(&mut *self.tasks.lock());
        let end = tokio::time::Instant::now() + LAST;
        for mut task in tasks {
            if tokio::time::timeout_at(end, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// One receiver.
struct Sender {
    to: Receiver,
    poster: Poster,
    stats: Arc<ExportStats>,
    node: Arc<str>,
}

impl Sender {
    fn new(to: Receiver, stats: Arc<ExportStats>, node: &Arc<str>) -> Sender {
        let poster = Poster::new(to.http.clone(), AddressPolicy::allow_all(), to.timeout);
        Sender { to, poster, stats, node: node.clone() }
    }

    fn resource(&self) -> [(&str, &str); 3] {
        let version = env!("CARGO_PKG_VERSION");
        [("service.name", "quiver"), ("service.version", version), ("service.instance.id", &self.node)]
    }

    /// Sends a request until it is taken, refused, or given up; tells whether it was taken.
    async fn send(&self, body: Vec<u8>) -> bool {
        let body = Bytes::from(body);
        let mut pause = PAUSE;
        for tried in 1..=TRIES_MAX {
            let posted = self.poster.post(&self.to.url, &[], "application/x-protobuf", body.clone()).await;
            let (text, again, after) = match posted {
                Ok(posted) if (200..300).contains(&posted.status) => {
                    self.stats.trouble(None);
                    return true;
                }
                Ok(posted) => {
                    let again = matches!(posted.status, 429 | 502 | 503 | 504);
                    (format!("status {}", posted.status), again, posted.retry_after_s.map(Duration::from_secs))
                }
                Err(error) => (error.message, true, None),
            };
            self.stats.trouble(Some(&text));
            if !again || tried == TRIES_MAX {
                break;
            }
            self.stats.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(after.unwrap_or(pause).min(PAUSE_MAX)).await;
            pause *= 2;
        }
        false
    }
}

async fn send_spans(mut waiting: mpsc::Receiver<Ended>, sender: Sender) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let until = tokio::time::Instant::now() + GATHER;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            match tokio::time::timeout_at(until, waiting.recv_many(&mut batch, room)).await {
                Ok(1..) => {}
                // Nobody gives any more, or the time is up.
                _ => break,
            }
        }
        let body = {
            let resource = sender.resource();
            let version = env!("CARGO_PKG_VERSION");
            let speaker = Speaker { resource: &resource, scope: "quiver", version };
            encode_spans(speaker, batch.iter().map(shown))
        };
        let outcome = if sender.send(body).await { &sender.stats.spans_sent } else { &sender.stats.spans_failed };
        outcome.fetch_add(batch.len() as u64, Ordering::Relaxed);
        batch.clear();
    }
}

fn shown(span: &Ended) -> Span<'_> {
    let kind = match span.kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
    };
    let value = |noted| match noted {
        &Noted::Number(n) => AttributeValue::Number(n),
        Noted::Text(text) => AttributeValue::Text(text),
    };
    Span {
        trace_id: span.context.trace_id,
        span_id: span.context.span_id,
        parent: span.parent,
        name: &span.name,
        kind,
        start_ns: span.start_ns,
        end_ns: span.end_ns,
        attributes: span.notes.iter().map(|(key, noted)| (*key, value(noted))).collect(),
        failure: span.failure.as_deref(),
    }
}

async fn send_metrics(
    own: Arc<Own>,
    sender: Sender,
    (interval, start_ns): (Duration, u64),
    mut stop: watch::Receiver<bool>,
) {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
        let own = own.clone();
        // Counting a large head takes a while.
        let Ok(metrics) = tokio::task::spawn_blocking(move || points_of(&own.page())).await else { continue };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let body = {
            let resource = sender.resource();
            let speaker = Speaker { resource: &resource, scope: "quiver", version: env!("CARGO_PKG_VERSION") };
            encode_metrics(speaker, &metrics, start_ns, u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
        };
        let outcome = if sender.send(body).await { &sender.stats.metrics_sent } else { &sender.stats.metrics_failed };
        outcome.fetch_add(1, Ordering::Relaxed);
    }
}
