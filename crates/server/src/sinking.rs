//! Sinks: made from the configuration, driven, stopped, told of at `/metrics`.
//!
//! Invariants: 1. the queue stands before the store is opened, so that no record passes by; 2. a reload leaves sinks alone
//! that stay as they are, ends others at a window's end and begins them anew at their place; 3. the figures of a sink go on
//! as long as it is configured.
//! Fails how: a sink whose task panics is said to be down, and begins anew at its place.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use collect::{AddressPolicy, Poster, Secret};
use http::{HeaderName, HeaderValue};
use model::{Family, Follower};
use parking_lot::Mutex;
use sinks::{
    Answer, Influx, InfluxSettings, Later, MakePost, Place, Post, Postgres, PostgresSettings, Queue, QueueSettings,
    RemoteWrite, RunSettings, Sink, SinkStats, Surroundings,
};
use sys::spans::{Kind, Span};
use sys::{Fs, RealFs};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::config::sinks::{Database, Http, Password, SinkConfig, SinkKind, Sinks};
use crate::prom::api::Source;
use crate::telemetry::Exposition;
use crate::telemetry::trace::TRACEPARENT;

/// Samples of a window, however many requests there may be at once.
const WINDOW_ROWS_MAX: usize = 200_000;
/// A sink that does not end by then is left alone.
const STOP_MAX: Duration = Duration::from_secs(3);

/// A sink that ended by a bug of ours begins anew after so long.
const AGAIN: Duration = Duration::from_secs(5);

/// What sinks ask the rest of the server.
pub struct Around {
    /// `external_labels` in force.
    pub external_labels: Source<Vec<(String, String)>>,
    /// All families known.
    pub families: Source<Vec<Family>>,
    /// Milliseconds since 1970.
    pub now_ms: Source<i64>,
}

/// All sinks of the server.
pub struct Sinking {
    queue: Arc<Queue>,
    /// As the configuration said it at the start.
    queue_bytes_max: Option<u64>,
    fs: Arc<dyn Fs>,
    around: OnceLock<Around>,
    started_at_ms: i64,
    running: tokio::sync::Mutex<Vec<Running>>,
    shown: Mutex<Vec<Shown>>,
}

struct Running {
    config: SinkConfig,
    /// `external_labels` as they were when it began.
    labels: Vec<(String, String)>,
    shown: Shown,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Shown {
    name: String,
    kind: &'static str,
    place: Arc<Place>,
    stats: Arc<SinkStats>,
}

impl Sinking {
    /// Makes the queue in a data directory; the store opens it.
    pub fn new(data_dir: &Path, config: &Sinks, now_ms: i64) -> Arc<Sinking> {
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        let defaults = QueueSettings::default();
        let bytes_max = config.queue_bytes_max.unwrap_or(defaults.bytes_max);
        let segment_bytes_max = defaults.segment_bytes_max.min(bytes_max / 4);
        let settings = QueueSettings { bytes_max, segment_bytes_max, ..defaults };
        let queue = Queue::new(fs.clone(), &data_dir.join("sinks"), settings);
        queue.activate(!config.all.is_empty());
        let (running, shown) = Default::default();
        let queue_bytes_max = config.queue_bytes_max;
        Arc::new(Sinking { queue, queue_bytes_max, fs, around: OnceLock::new(), started_at_ms: now_ms, running, shown })
    }

    /// Gives what the store shows its records to.
    pub fn follower(&self) -> Follower {
        Follower(Some(self.queue.clone()))
    }

    /// Says what the rest of the server knows; once, before the first [`Sinking::apply`].
    pub fn surround(&self, around: Around) {
        let _ = self.around.set(around);
    }

    /// Puts a configuration in force.
    pub async fn apply(self: &Arc<Sinking>, config: Sinks) {
        let mut running = self.running.lock().await;
        if config.queue_bytes_max != self.queue_bytes_max {
            tracing::warn!("`queue_size` under `quiver: sinks:` has changed; it counts from the next start on");
        }
        let labels = self.around.get().map(|around| (around.external_labels)()).unwrap_or_default();
        let stays = |one: &Running| {
            config.all.contains(&one.config) && (one.labels == labels || one.config.kind.as_str() != "remote_write")
        };
        let (kept, ended): (Vec<Running>, Vec<Running>) = std::mem::take(&mut *running).into_iter().partition(stays);
        let known: Vec<(String, Shown)> = ended.iter().map(|one| (one.config.id.clone(), one.shown.clone())).collect();
        end(ended).await;
        *running = kept;
        self.show(&running);
        let none = config.all.is_empty();
        if none && !self.queue_is_used() {
            return;
        }
        if !none {
            self.queue.activate(true);
        }
        let ids: Vec<String> = config.all.iter().map(|sink| sink.id.clone()).collect();
        let queue = self.queue.clone();
        let places = match tokio::task::spawn_blocking(move || queue.places(&ids)).await {
            Ok(Ok(places)) => places,
            Ok(Err(error)) => return tracing::error!(%error, "the places of the sinks cannot be used: no sink runs"),
            Err(error) => return tracing::error!(%error, "the places of the sinks cannot be used: no sink runs"),
        };
        if none {
            self.queue.activate(false);
            return;
        }
        for (config, place) in config.all.into_iter().zip(places) {
            if running.iter().any(|one| one.config.id == config.id) {
                continue;
            }
            let stats = known.iter().find(|(id, _)| *id == config.id).map(|(_, shown)| shown.stats.clone());
            let (name, kind, stats) = (config.name.clone(), config.kind.as_str(), stats.unwrap_or_default());
            let shown = Shown { name, kind, place, stats };
            let (stop, stopped) = watch::channel(false);
            let task = tokio::spawn(drive(self.clone(), config.clone(), shown.clone(), stopped));
            running.push(Running { config, labels: labels.clone(), shown, stop, task });
        }
        self.show(&running);
    }

    /// Says which sinks `/metrics` tells of.
    fn show(&self, running: &[Running]) {
        let mut shown: Vec<Shown> = running.iter().map(|one| one.shown.clone()).collect();
        shown.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        *self.shown.lock() = shown;
    }

    fn queue_is_used(&self) -> bool {
        model::Follow::wants(&*self.queue)
    }

    fn make(&self, config: SinkConfig, stats: &Arc<SinkStats>) -> (RunSettings, Box<dyn Sink>) {
        let rows_max = |http: &sinks::HttpSettings| http.samples_max.saturating_mul(http.shards.1).min(WINDOW_ROWS_MAX);
        let run_of = |http: &sinks::HttpSettings| RunSettings {
            rows_max: rows_max(http),
            gather: http.gather,
            backoff: http.backoff,
        };
        match config.kind {
            SinkKind::RemoteWrite(http, settings) => {
                let run = run_of(&settings.http);
                let posts = posts(http, stats.clone());
                (run, Box::new(RemoteWrite::new(*settings, posts, self.surroundings(), stats.clone())))
            }
            SinkKind::Influx(http, settings) => {
                let run = run_of(&settings);
                let settings = InfluxSettings { http: settings };
                (run, Box::new(Influx::new(settings, posts(http, stats.clone()), stats.clone())))
            }
            SinkKind::Postgres(database) => {
                let backoff = (Duration::from_millis(100), Duration::from_secs(5));
                let run = RunSettings { rows_max: database.samples_max, gather: database.gather, backoff };
                let settings = postgres(config.id, *database, self.queue.id(), self.surroundings().now_ms);
                (run, Box::new(Postgres::new(settings, stats.clone())))
            }
        }
    }

    fn surroundings(&self) -> Surroundings {
        match self.around.get() {
            Some(Around { external_labels, families, now_ms }) => Surroundings {
                external_labels: external_labels.clone(),
                families: families.clone(),
                now_ms: now_ms.clone(),
            },
            None => Surroundings {
                external_labels: Arc::new(Vec::new),
                families: Arc::new(Vec::new),
                now_ms: Arc::new(|| i64::MAX),
            },
        }
    }

    /// Ends all sinks, at the end of a window where that comes soon.
    pub async fn stop(&self) {
        end(std::mem::take(&mut *self.running.lock().await)).await;
        self.queue.hurry();
    }

    /// Brings the queue to disk; after the store is closed.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let shown = self.shown.lock();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let samples = "Samples and native histograms by what became of them on their way to a sink.";
        page.family("quiver_sink_samples_total", "counter", samples);
        for sink in shown.iter() {
            let stats = &sink.stats;
            for (outcome, n) in [
                ("sent", get(&stats.sent)),
                ("failed", get(&stats.failed)),
                ("filtered", get(&stats.filtered)),
                ("unwritable", get(&stats.unwritable)),
                ("duplicate", get(&stats.duplicates)),
                ("lost", sink.place.lost()),
            ] {
                page.sample(&[("sink", &sink.name), ("kind", sink.kind), ("outcome", outcome)], n as f64);
            }
        }
        for (name, help, ask) in COUNTERS {
            page.family(name, "counter", help);
            for sink in shown.iter() {
                page.sample(&[("sink", &sink.name), ("kind", sink.kind)], get(ask(&sink.stats)) as f64);
            }
        }
        let end = self.queue.end();
        let now_ms = self.around.get().map_or(self.started_at_ms, |around| (around.now_ms)());
        for (name, help, ask) in GAUGES {
            page.family(name, "gauge", help);
            for sink in shown.iter() {
                let figure = ask(self, sink, end, now_ms);
                page.sample(&[("sink", &sink.name), ("kind", sink.kind)], figure);
            }
        }
        drop(shown);
        let (bytes, waiting, trouble) = self.queue.load();
        let (rows, damaged) = self.queue.counts();
        page.gauge("quiver_sink_queue_bytes", "Bytes of the queue on disk.", bytes as f64);
        page.gauge("quiver_sink_queue_waiting_bytes", "Bytes of the queue that wait for the disk.", waiting as f64);
        let ok = f64::from(u8::from(trouble.is_none()));
        page.gauge("quiver_sink_queue_ok", "Whether the queue can be written.", ok);
        page.counter("quiver_sink_queue_samples_total", "Samples that went into the queue.", rows);
        page.counter("quiver_sink_queue_damaged_total", "Damaged parts of the queue, passed over.", damaged);
    }
}

type Counter = fn(&SinkStats) -> &AtomicU64;
const COUNTERS: [(&str, &str, Counter); 3] = [
    ("quiver_sink_exemplars_total", "Exemplars that a sink has taken.", |s| &s.exemplars),
    ("quiver_sink_bytes_total", "Bytes that a sink has taken, as they were sent.", |s| &s.bytes),
    ("quiver_sink_retries_total", "Requests that were tried again.", |s| &s.retries),
];

type Gauge = fn(&Sinking, &Shown, u64, i64) -> f64;
const GAUGES: [(&str, &str, Gauge); 5] = [
    ("quiver_sink_up", "Whether a sink took what it was sent last.", |_, sink, _, _| {
        f64::from(u8::from(sink.stats.why().is_none()))
    }),
    ("quiver_sink_pending_batches", "Batches that a sink does not have yet.", |_, sink, end, _| {
        end.saturating_sub(sink.place.seq()) as f64
    }),
    ("quiver_sink_lag_seconds", "Age of the oldest batch that a sink does not have yet.", |all, sink, _, now_ms| {
        let since = all.queue.waits_since_ms(&sink.place);
        since.map_or(0.0, |since_ms| now_ms.saturating_sub(since_ms).max(0) as f64 / 1000.0)
    }),
    ("quiver_sink_highest_timestamp_seconds", "Latest time of a sample that a sink is done with.", |_, sink, _, _| {
        sink.stats.highest_ts_ms.load(Ordering::Relaxed) as f64 / 1000.0
    }),
    ("quiver_sink_shards", "Requests at once, last time.", |_, sink, _, _| {
        sink.stats.shards.load(Ordering::Relaxed) as f64
    }),
];

/// Keeps a sink at work until it is told to stop.
async fn drive(all: Arc<Sinking>, config: SinkConfig, shown: Shown, mut stopped: watch::Receiver<bool>) {
    loop {
        let (settings, sink) = all.make(config.clone(), &shown.stats);
        let parts = (all.queue.clone(), shown.place.clone(), all.fs.clone());
        // Ends with this task.
        let mut task = JoinSet::new();
        task.spawn(sinks::run(sink, settings, parts, shown.stats.clone(), stopped.clone()));
        let ended = task.join_next().await;
        if *stopped.borrow() || stopped.has_changed().is_err() {
            return;
        }
        let why = ended.and_then(Result::err).map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        tracing::error!(sink = shown.name, "a bug of ours has stopped a sink: {why}; it begins anew at its place");
        shown.stats.trouble(Some("a bug of ours has stopped it"));
        if tokio::time::timeout(AGAIN, stopped.wait_for(|stop| *stop)).await.is_ok() {
            return;
        }
    }
}

async fn end(running: Vec<Running>) {
    for one in &running {
        one.stop.send_replace(true);
    }
    for one in running {
        let mut task = one.task;
        if tokio::time::timeout(STOP_MAX, &mut task).await.is_err() {
            // What it was sending goes out again at the next start.
            task.abort();
        }
    }
}

fn postgres(name: String, database: Database, queue_id: String, now_ms: Source<i64>) -> PostgresSettings {
    let password = database.password;
    let read = move || match &password {
        None => Ok(None),
        Some(Password::Secret(Secret::Inline(text))) => Ok(Some(text.clone())),
        Some(Password::Secret(Secret::File(path))) => match crate::config::load::read_text(path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) => Err(format!("cannot read the password from {}: {error}", path.display())),
        },
        Some(Password::Secret(Secret::Env(name)) | Password::Env(name)) => {
            std::env::var(name).map(Some).map_err(|_| format!("the environment has no {name} with the password"))
        }
    };
    PostgresSettings {
        name,
        connect: database.connect,
        layout: database.layout,
        password: Arc::new(read),
        queue_id,
        retention: database.retention,
        now_ms,
    }
}

/// Makes senders for a URL, each with a connection of its own.
fn posts(http: Http, stats: Arc<SinkStats>) -> MakePost {
    Box::new(move || {
        let poster = Poster::new(http.client.clone(), AddressPolicy::allow_all(), http.timeout);
        Box::new(Sender { url: http.url.clone(), poster, stats: stats.clone() })
    })
}

struct Sender {
    url: url::Url,
    poster: Poster,
    stats: Arc<SinkStats>,
}

impl Post for Sender {
    fn post<'a>(&'a self, headers: &'a [(&'static str, String)], body: Bytes) -> Later<'a, Result<Answer, String>> {
        Box::pin(async move {
            let value = |text: &str| HeaderValue::from_str(text).map_err(|e| e.to_string());
            let pairs = headers.iter().map(|(name, text)| Ok((HeaderName::from_static(name), value(text)?)));
            let mut pairs = pairs.collect::<Result<Vec<_>, String>>()?;
            let mut span = Span::child(self.stats.span(), "POST", Kind::Client);
            span.note("server.address", self.url.host_str().unwrap_or(""));
            span.note("http.request.body.size", body.len() as u64);
            if let Some(context) = span.context() {
                pairs.push((HeaderName::from_static(TRACEPARENT), value(&context.traceparent())?));
            }
            // The type stands among the headers.
            let posted = self.poster.post(&self.url, &pairs, "application/octet-stream", body).await;
            match &posted {
                Ok(posted) => span.note("http.response.status_code", u64::from(posted.status)),
                Err(error) => span.fail(&error.message),
            }
            let posted = posted.map_err(|error| error.message)?;
            let written = |name: &str| posted.headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
            let samples = written("x-prometheus-remote-write-samples-written");
            let histograms = written("x-prometheus-remote-write-histograms-written");
            let written = samples.map(|n| n + histograms.unwrap_or(0));
            Ok(Answer { status: posted.status, text: posted.text, retry_after_s: posted.retry_after_s, written })
        })
    }
}
