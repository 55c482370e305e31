//! The Prometheus API as a client sees it, over a store in memory.

#![allow(clippy::unwrap_used)]

mod asking;
mod federating;
mod keeping;
mod newer;
mod reading;
mod showing;
mod speed;
mod writing;
mod writing_v2;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use collect::report::BatchIds;
use collect::{DropReason, DroppedTarget, TargetOrigin, TargetSpec, TargetStatus};
use http::{HeaderMap, Request};
use model::{
    Append, AppendDone, AppendError, Appended, Batch, CollectionReport, Family, Health, Labels, LedgerPosition,
    Matcher, MetricType, Refusal, Samples, Select, SelectError, SeriesId, SeriesIndex, SeriesReader, TimeRange,
    Verdict,
};
use parking_lot::Mutex;
use serde_json::Value;
use store::{Exemplar, StoreStats};
use tower::ServiceExt;
use url::Url;

use super::*;
use crate::telemetry::Exposition;

/// The time of the server under test.
const NOW: i64 = 1_750_500_000_000;

/// An answer to an append that is not given yet.
type HeldAnswer = Box<dyn FnOnce() + Send>;

/// Keeps samples in memory and gives them out again.
#[derive(Default)]
struct Memory {
    series: Mutex<BTreeMap<Labels, BTreeMap<i64, f64>>>,
    ids: Mutex<BTreeMap<Labels, u64>>,
    families: Mutex<Vec<Family>>,
    fail: Mutex<Option<AppendError>>,
    /// Answers to appends wait here while it is set.
    held: Mutex<Option<Vec<HeldAnswer>>>,
    /// Selections wait while it is set.
    closed: AtomicBool,
    selecting: AtomicBool,
    broken: AtomicBool,
}

impl Memory {
    fn put(&self, labels: &[(&str, &str)], samples: &[(i64, f64)]) {
        let labels = Labels::from_pairs(labels.iter().copied());
        self.series.lock().entry(labels).or_default().extend(samples.iter().copied());
    }

    fn decide(&self, batch: &mut Batch) {
        let mut series = self.series.lock();
        for i in (0..batch.samples.len()).filter(|i| batch.verdicts[*i] == Verdict::Pending).collect::<Vec<_>>() {
            let sample = batch.samples[i];
            let samples = series.entry(batch.labels(sample.series).unwrap()).or_default();
            batch.verdicts[i] = match samples.get(&sample.ts_ms) {
                _ if sample.ts_ms > NOW + 600_000 => Verdict::Refused(Refusal::TooNew),
                None => Verdict::Stored,
                Some(known) if known.to_bits() == sample.value.to_bits() => Verdict::Duplicate,
                Some(_) => Verdict::Refused(Refusal::DuplicateConflict),
            };
            if batch.verdicts[i] == Verdict::Stored {
                samples.insert(sample.ts_ms, sample.value);
            }
        }
        batch.histograms.iter_mut().filter(|h| h.verdict == Verdict::Pending).for_each(|h| h.verdict = Verdict::Stored);
        let mut ids = self.ids.lock();
        for i in 0..batch.series.len() {
            let next = ids.len() as u64 + 1;
            let labels = batch.labels(SeriesIndex(i as u32)).unwrap();
            batch.series[i].id = SeriesId(*ids.entry(labels).or_insert(next));
        }
        self.families.lock().append(&mut batch.families.clone());
    }

    fn matching(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<Found>, SelectError> {
        self.selecting.store(true, Ordering::SeqCst);
        while self.closed.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(SelectError::Storage("block 7 is damaged".into()));
        }
        let all = self.series.lock();
        let accepts = |labels: &Labels| matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or("")));
        let inside = |samples: &BTreeMap<i64, f64>| samples.keys().any(|ts| range.contains(*ts));
        Ok(all
            .iter()
            .filter(|(labels, samples)| accepts(labels) && inside(samples))
            .map(|(labels, samples)| Found { labels: labels.clone(), samples: samples.clone() })
            .collect())
    }
}

struct Found {
    labels: Labels,
    samples: BTreeMap<i64, f64>,
}

impl SeriesReader for Found {
    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn read(&self, range: TimeRange, out: &mut Samples) -> Result<(), SelectError> {
        self.samples.iter().filter(|(ts, _)| range.contains(**ts)).for_each(|(ts, v)| out.push(*ts, *v));
        Ok(())
    }
}

impl Select for Memory {
    fn select(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<Box<dyn SeriesReader>>, SelectError> {
        Ok(self.matching(matchers, range)?.into_iter().map(|f| Box::new(f) as Box<dyn SeriesReader>).collect())
    }

    fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError> {
        let found = self.matching(matchers, range)?;
        let names: BTreeSet<_> = found.iter().flat_map(|f| f.labels.iter().map(|(n, _)| n.to_owned())).collect();
        Ok(names.into_iter().collect())
    }

    fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError> {
        let found = self.matching(matchers, range)?;
        let values: BTreeSet<_> = found.iter().filter_map(|f| f.labels.get(name).map(str::to_owned)).collect();
        Ok(values.into_iter().collect())
    }

    fn metadata(&self, family: Option<&str>) -> Vec<Family> {
        let mut found: Vec<_> =
            self.families.lock().iter().filter(|f| family.is_none_or(|name| f.name == name)).cloned().collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }
}

impl Append for Memory {
    fn submit(&self, mut batch: Batch, done: AppendDone) {
        if let Some(error) = self.fail.lock().clone() {
            return done(batch, Err(error));
        }
        self.decide(&mut batch);
        let counts = batch.counts();
        let answer =
            move || done(batch, Ok(Appended { counts, new_series: 0, ledger: LedgerPosition { epoch: 1, seq: 1 } }));
        match self.held.lock().as_mut() {
            Some(held) => held.push(Box::new(answer)),
            None => answer(),
        }
    }

    fn generation(&self) -> u64 {
        0
    }
}

struct World {
    memory: Arc<Memory>,
    api: PromApi,
    app: Router,
    reports: Arc<Mutex<Vec<CollectionReport>>>,
}

impl World {
    fn new() -> World {
        World::with(QueryLimits::default(), WriteLimits::default())
    }

    fn with(query_limits: QueryLimits, write_limits: WriteLimits) -> World {
        let memory = Arc::new(Memory::default());
        let reports = Arc::new(Mutex::new(Vec::new()));
        let (pushed, found) = (Arc::clone(&reports), Arc::clone(&memory));
        let select: Arc<dyn Select> = Arc::clone(&memory) as Arc<dyn Select>;
        let now: api::Source<i64> = Arc::new(|| NOW);
        let api = PromApi::new(PromParts {
            append: Arc::clone(&memory) as Arc<dyn Append>,
            queries: QueryService::new(Arc::clone(&select), query_limits, Arc::clone(&now)),
            select,
            targets: Arc::new(all_targets),
            dropped: Arc::new(all_dropped),
            exemplars: Arc::new(move |matchers, range| exemplars_of(&found, matchers, range)),
            store_stats: Arc::new(store_stats),
            blocks: Arc::new(newer::all_blocks),
            relabel_rules: Arc::new(|pool| (pool == "node").then(newer::relabel_rules)),
            config_text: Arc::new(|| "global:\n  scrape_interval: 15s\n".to_owned()),
            external_labels: Arc::new(external_labels),
            flags: Arc::new(|| vec![("web.listen".into(), ":9090".into()), ("config.file".into(), "a<b".into())]),
            runtime: Arc::new(|| RuntimeInfo { started_at_ms: NOW - 1_500, reload_ok: true, ..RuntimeInfo::default() }),
            admin: None,
            build: BuildInfo { version: "0.1.0".into(), ..BuildInfo::default() },
            external_host: "box:9090".into(),
            now,
            write_limits,
            batch_ids: Arc::new(BatchIds::new("n1")),
            pushed: Arc::new(move |report| pushed.lock().push(report)),
            room: None,
            rules: Arc::new(Vec::new),
            alertmanagers: Arc::new(Default::default),
            stop: tokio::sync::watch::channel(false).1,
        });
        World { memory, app: router::<PromApi>().with_state(api.clone()), api, reports }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answered {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.app.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 10 << 20).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answered { status: parts.status.as_u16(), headers: parts.headers, text, bytes: bytes.to_vec() }
    }

    /// Asks below `/api/v1`; spaces, braces and brackets need no escapes here.
    async fn get(&self, path: &str) -> Answered {
        self.send("GET", &format!("/api/v1{}", escaped(path)), &[], Body::empty()).await
    }

    fn figures(&self) -> String {
        let mut page = Exposition::default();
        self.api.render(&mut page);
        page.finish()
    }
}

/// Escapes what may not stand in a URL, and `+`, which would be a space.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            ' ' | '"' | '{' | '}' | '[' | ']' | '<' | '>' | '+' => out.push_str(&format!("%{:02X}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

#[derive(Debug)]
struct Answered {
    status: u16,
    headers: HeaderMap,
    text: String,
    bytes: Vec<u8>,
}

impl Answered {
    /// Checks the envelope of a success and gives the whole text.
    #[track_caller]
    fn success(self) -> String {
        assert_eq!(self.status, 200, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/json");
        assert!(self.text.starts_with("{\"status\":\"success\",\"data\":"), "{}", self.text);
        self.text
    }

    /// Gives what stands under `data`.
    #[track_caller]
    fn data(self) -> Value {
        serde_json::from_str::<Value>(&self.success()).unwrap()["data"].take()
    }

    /// Checks the envelope of an error.
    #[track_caller]
    fn error(self, status: u16, kind: &str, text: &str) {
        assert_eq!(self.headers["content-type"], "application/json");
        let body: Value = serde_json::from_str(&self.text).unwrap();
        let expected = serde_json::json!({"status": "error", "errorType": kind, "error": text});
        assert_eq!((self.status, body), (status, expected));
    }
}

fn external_labels() -> Vec<(String, String)> {
    [("zone", "ie"), ("foo", "baz")].map(|(n, v)| (n.to_owned(), v.to_owned())).into()
}

fn spec(id: &str, job: &str, url: &str) -> TargetSpec {
    let mut spec = TargetSpec::new(id, Url::parse(url).unwrap(), Labels::from_pairs([("job", job), ("instance", id)]));
    spec.source_id = job.into();
    spec.discovered_labels = Labels::from_pairs([("__address__", id)]);
    spec
}

fn status(spec: &TargetSpec, health: Health) -> TargetStatus {
    TargetStatus {
        target_id: spec.target_id.clone(),
        source_id: spec.source_id.clone(),
        origin: spec.origin.clone(),
        health,
        last_error: None,
        last_scrape_ms: (health == Health::Healthy).then_some(NOW - 250),
        scrape_duration_ms: 12,
        samples_scraped: 3,
        next_scrape_ms: None,
        consecutive_failures: 0,
        scrapes: 1,
        missed_ticks: 0,
        series_current: 3,
        since_ms: NOW,
    }
}

fn all_targets() -> Vec<(TargetSpec, TargetStatus)> {
    let mut node = spec("node:9100", "node", "http://localhost:9100/metrics?a=1");
    node.origin = TargetOrigin::Discovery { job: "nodes".into() };
    let mut off = spec("off:1", "node", "http://off:1/metrics");
    off.enabled = false;
    let desk = spec("desk:1", "desk", "http://desk:1/metrics");
    [(desk, Health::Unknown), (node, Health::Healthy), (off, Health::Disabled)]
        .map(|(spec, health)| {
            let status = status(&spec, health);
            (spec, status)
        })
        .into()
}

fn all_dropped() -> Vec<(String, DroppedTarget)> {
    let discovered_labels = Labels::from_pairs([("__address__", "gone:1")]);
    vec![("nodes".into(), DroppedTarget { discovered_labels, reason: DropReason::Relabeled })]
}

fn exemplars_of(memory: &Memory, matchers: &[Matcher], range: TimeRange) -> Vec<(Labels, Vec<Exemplar>)> {
    let found = memory.matching(matchers, TimeRange::ALL).unwrap();
    let exemplar = Exemplar { labels: Labels::from_pairs([("trace_id", "abc")]), ts_ms: NOW - 21, value: 6.0 };
    let inside = range.contains(exemplar.ts_ms);
    found.into_iter().filter(|_| inside).map(|f| (f.labels, vec![exemplar.clone()])).collect()
}

fn store_stats() -> StoreStats {
    let list = |names: &[(&str, u64)]| names.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect::<Vec<_>>();
    StoreStats {
        series: 5,
        head_chunks: 7,
        label_pairs: 9,
        head_min_ms: Some(1),
        head_max_ms: Some(2),
        top_metric_names: list(&[("up", 3), ("b", 2)]),
        top_label_names: list(&[("job", 2)]),
        top_label_bytes: list(&[("job", 40)]),
        top_label_pairs: list(&[("job=node", 3)]),
        ..StoreStats::default()
    }
}

/// Waits for something that another thread does.
async fn until(happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
}
