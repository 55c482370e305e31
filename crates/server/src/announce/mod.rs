//! Events out: `metrics_collected` to webhooks and to NATS JetStream, each at least once and in order per source.
//!
//! Owns: how far each sink has come, in `<data>/announce/<name>.cursor`; and what a receiver refused, in
//! `<data>/announce/<name>.refused`.
//! Invariants: 1. a cursor is written only when the event log is durable up to it, so that places keep their meaning over a
//! crash; 2. an event is behind the cursor when the receiver has acknowledged it, or when it was refused and written down;
//! 3. a sink that is slow or down delays itself alone.
//! Limits: what the event log keeps; a sink that falls behind that is told the gap, which is counted and logged.

mod cursor;
mod envelope;
mod nats;
mod refused;
mod runner;
mod sink;
mod webhook;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use events::EventLog;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::EventSettings;
use crate::telemetry::Exposition;
use runner::{Runner, SinkStats};
use sink::Sink;

pub use envelope::Format;
pub use sink::Wants;
pub use webhook::signature;

/// Name, kind and help of a family, and its value for a sink, given the place of the newest event.
type Family = (&'static str, &'static str, &'static str, fn(&SinkStats, u64) -> f64);

/// The sinks at work.
pub struct Announcer {
    log: EventLog,
    sinks: Vec<Arc<SinkStats>>,
    tasks: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

impl Announcer {
    /// Starts all sinks; what they have not delivered yet comes first.
    ///
    /// **Errors** when a place for cursors cannot be made.
    pub fn start(
        settings: &EventSettings,
        node: &str,
        dir: &Path,
        log: &EventLog,
        now: &Arc<dyn Fn() -> i64 + Send + Sync>,
        stop: &watch::Receiver<bool>,
    ) -> std::io::Result<Announcer> {
        let dir = dir.join("announce");
        let mut announcer = Announcer { log: log.clone(), sinks: Vec::new(), tasks: parking_lot::Mutex::default() };
        if settings.is_empty() {
            return Ok(announcer);
        }
        std::fs::create_dir_all(&dir)?;
        for sink in Sink::all(settings) {
            let runner = Runner::new(sink, node, &dir, log.clone(), now.clone());
            announcer.sinks.push(runner.stats());
            let task = tokio::spawn(runner.run(stop.clone()));
            announcer.tasks.lock().push(task);
        }
        Ok(announcer)
    }

    /// Waits until all sinks have noted how far they are; the stop was told already.
    pub async fn finish(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // A panic is in the log; its cursor stays where it was.
            let _ = task.await;
        }
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let last_seq = self.log.stats().last_seq;
        let families: [Family; 7] = [
            ("quiver_event_sink_up", "gauge", "Whether the receiver took the last delivery.", |s, _| {
                f64::from(u8::from(s.up.load(Ordering::Relaxed)))
            }),
            ("quiver_event_sink_delivered_total", "counter", "Events that the receiver acknowledged.", |s, _| {
                s.delivered.load(Ordering::Relaxed) as f64
            }),
            ("quiver_event_sink_failures_total", "counter", "Deliveries that failed and are tried again.", |s, _| {
                s.failures.load(Ordering::Relaxed) as f64
            }),
            ("quiver_event_sink_refused_total", "counter", "Events that the receiver refused for good.", |s, _| {
                s.refused.load(Ordering::Relaxed) as f64
            }),
            (
                "quiver_event_sink_missed_total",
                "counter",
                "Events that were not kept until the sink got to them.",
                |s, _| s.missed.load(Ordering::Relaxed) as f64,
            ),
            ("quiver_event_sink_lag_events", "gauge", "Events that are not delivered yet.", |s, last_seq| {
                last_seq.saturating_sub(s.done_seq.load(Ordering::Relaxed)) as f64
            }),
            (
                "quiver_event_sink_lag_seconds",
                "gauge",
                "Age of the oldest event that waits to be acknowledged.",
                |s, _| s.lag_ms() as f64 / 1000.0,
            ),
        ];
        for (name, kind, help, value) in families {
            if self.sinks.is_empty() {
                continue;
            }
            page.family(name, kind, help);
            for sink in &self.sinks {
                page.sample(&[("sink", &sink.name)], value(sink, last_seq));
            }
        }
    }
}
