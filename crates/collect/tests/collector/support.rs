//! An exporter that says what the test wants, a store in memory that gives ids, an observer that remembers.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use collect::report::BatchIds;
use collect::{Collector, Observe, ScrapeOutcome, TargetSpec, TargetStatus};
use model::histogram::Histogram;
use model::{
    Append, AppendDone, AppendError, Appended, Batch, BatchExemplar, CollectionReport, Family, Labels, LedgerPosition,
    Refusal, SeriesId, SeriesIndex, Verdict, is_stale,
};
use parking_lot::Mutex;
use sys::Clock;
use url::Url;

/// What the exporter answers.
#[derive(Clone)]
pub struct Page {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Page {
    pub fn text(body: &str) -> Page {
        Page::of("text/plain; version=0.0.4", body.as_bytes())
    }

    pub fn open_metrics(body: &str) -> Page {
        Page::of("application/openmetrics-text; version=1.0.0; charset=utf-8", body.as_bytes())
    }

    /// A delimited protobuf body.
    pub fn protobuf(body: &[u8]) -> Page {
        let parameters = "proto=io.prometheus.client.MetricFamily; encoding=delimited";
        Page::of(&format!("application/vnd.google.protobuf; {parameters}"), body)
    }

    pub fn of(content_type: &str, body: &[u8]) -> Page {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Page { status: 200, headers, body: body.to_vec() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Page {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn status(mut self, status: u16) -> Page {
        self.status = status;
        self
    }
}

/// A real HTTP server on loopback.
pub struct Exporter {
    pub port: u16,
    state: Arc<ExporterState>,
}

struct ExporterState {
    page: Mutex<Page>,
    heads: Mutex<Vec<String>>,
    hold: Mutex<Option<Hold>>,
}

/// The next request reports itself and waits.
struct Hold {
    arrived: SyncSender<()>,
    release: Receiver<()>,
}

/// The test's end of a held request. Dropping it lets the request go on.
pub struct Held {
    arrived: Receiver<()>,
    _release: SyncSender<()>,
}

impl Held {
    /// Waits until the request is there.
    pub fn wait(&self) {
        self.arrived.recv().unwrap();
    }
}

impl Exporter {
    pub fn new(page: Page) -> Exporter {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(ExporterState { page: Mutex::new(page), heads: Mutex::default(), hold: Mutex::default() });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Exporter { port, state }
    }

    pub fn text(body: &str) -> Exporter {
        Exporter::new(Page::text(body))
    }

    pub fn show(&self, page: Page) {
        *self.state.page.lock() = page;
    }

    pub fn say(&self, body: &str) {
        self.show(Page::text(body));
    }

    pub fn hold_next(&self) -> Held {
        let (arrived_tx, arrived) = sync_channel(1);
        let (release_tx, release) = sync_channel(1);
        *self.state.hold.lock() = Some(Hold { arrived: arrived_tx, release });
        Held { arrived, _release: release_tx }
    }

    /// Gives the heads of all requests.
    pub fn heads(&self) -> Vec<String> {
        self.state.heads.lock().clone()
    }

    pub fn spec(&self) -> TargetSpec {
        let url = Url::parse(&format!("http://127.0.0.1:{}/metrics", self.port)).unwrap();
        let mut spec = TargetSpec::new("t", url, Labels::from_pairs([("job", "j"), ("instance", "i")]));
        // Nothing is due by itself while a test runs.
        spec.interval_ms = 100_000_000_000;
        spec
    }
}

fn serve(mut stream: TcpStream, state: &ExporterState) {
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        state.heads.lock().push(String::from_utf8(head).unwrap().to_lowercase());
        if let Some(hold) = state.hold.lock().take() {
            hold.arrived.send(()).unwrap();
            let _ = hold.release.recv();
        }
        let page = state.page.lock().clone();
        let mut answer = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", page.status, page.body.len());
        for (name, value) in &page.headers {
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
        answer.push_str("\r\n");
        if stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(&page.body)).is_err() {
            return;
        }
    }
}

/// One batch as the store saw it.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Labels and time and bits of what was stored.
    pub samples: Vec<(String, i64, f64)>,
    /// Series that came by id alone.
    pub by_id: usize,
    /// Series that came with their labels.
    pub by_labels: usize,
    pub report: Option<CollectionReport>,
    pub families: Vec<Family>,
    pub exemplars: Vec<BatchExemplar>,
    /// Native histograms that were stored.
    pub histograms: Vec<(String, i64, Arc<Histogram>)>,
    /// Series and start.
    pub starts: Vec<(String, i64)>,
    /// Type of each series that came with a family.
    pub types: HashMap<String, &'static str>,
}

impl Stored {
    /// Gives the samples of the body: no report series, no stale markers.
    pub fn body(&self) -> Vec<(String, f64)> {
        let mut list: Vec<(String, f64)> = self
            .samples
            .iter()
            .filter(|(name, _, value)| !is_report(name) && !is_stale(*value))
            .map(|(name, _, value)| (name.clone(), *value))
            .collect();
        list.sort_by(|a, b| a.partial_cmp(b).unwrap());
        list
    }

    /// Gives the series that were marked as ended.
    pub fn stale(&self) -> Vec<String> {
        let mut list: Vec<String> =
            self.samples.iter().filter(|(_, _, value)| is_stale(*value)).map(|(name, ..)| name.clone()).collect();
        list.sort();
        list
    }

    /// Gives the report series' values: up, samples scraped, after relabeling, added.
    pub fn facts(&self) -> (f64, f64, f64, f64) {
        let value = |name: &str| {
            let start = format!("{name}{{");
            self.samples.iter().find(|(n, ..)| n.starts_with(&start)).map_or(f64::NAN, |(_, _, value)| *value)
        };
        assert!(value("scrape_duration_seconds") >= 0.0);
        let post = value("scrape_samples_post_metric_relabeling");
        (value("up"), value("scrape_samples_scraped"), post, value("scrape_series_added"))
    }
}

pub fn is_report(name: &str) -> bool {
    name.starts_with("up{") || name.starts_with("scrape_")
}

/// Keeps samples in memory and gives ids.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    generation: AtomicU64,
    /// The next batch finds its ids outdated although it looked at the generation.
    pub renumber_on_submit: AtomicBool,
    pub fail: Mutex<VecDeque<AppendError>>,
    /// Answers wait here while it is set; the sender hears of each.
    held: Mutex<Option<(SyncSender<()>, Vec<Answer>)>>,
}

type Answer = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    ids: HashMap<Vec<u8>, u64>,
    labels: HashMap<u64, Vec<u8>>,
    last_id: u64,
    samples: HashMap<(Vec<u8>, i64), u64>,
    stored: Vec<Stored>,
    seq: u64,
}

impl MemoryStore {
    /// Makes all ids given so far worthless.
    pub fn renumber(&self) {
        let mut state = self.state.lock();
        state.ids.clear();
        state.labels.clear();
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub fn batches(&self) -> usize {
        self.state.lock().stored.len()
    }

    pub fn last(&self) -> Stored {
        self.state.lock().stored.last().cloned().unwrap_or_default()
    }

    pub fn all(&self) -> Vec<Stored> {
        self.state.lock().stored.clone()
    }

    /// Holds answers back; gives who is told of each.
    pub fn hold(&self) -> Receiver<()> {
        let (tx, rx) = sync_channel(64);
        *self.held.lock() = Some((tx, Vec::new()));
        rx
    }

    pub fn release(&self) {
        let held = self.held.lock().take();
        for answer in held.into_iter().flat_map(|(_, answers)| answers) {
            answer();
        }
    }

    fn take(&self, batch: &mut Batch) -> Result<Appended, AppendError> {
        if self.renumber_on_submit.swap(false, Ordering::SeqCst) {
            self.renumber();
        }
        if let Some(error) = self.fail.lock().pop_front() {
            return Err(error);
        }
        let generation = self.generation();
        let mut state = self.state.lock();
        let mut stored = Stored { report: batch.report.clone(), families: batch.families.clone(), ..Stored::default() };
        let mut new_series = 0;
        for at in 0..batch.series.len() {
            let bytes = batch.label_bytes(SeriesIndex(at as u32)).to_vec();
            let id = batch.series[at].id;
            if bytes.is_empty() {
                stored.by_id += 1;
                if batch.generation != generation || !state.labels.contains_key(&id.0) {
                    return Err(AppendError::StaleIds);
                }
                continue;
            }
            stored.by_labels += 1;
            let known = state.ids.get(&bytes).copied();
            let id = known.unwrap_or_else(|| {
                new_series += 1;
                state.last_id += 1;
                let id = state.last_id;
                state.ids.insert(bytes.clone(), id);
                state.labels.insert(id, bytes);
                id
            });
            batch.series[at].id = SeriesId(id);
        }
        batch.generation = generation;
        let name = |state: &State, series: SeriesIndex| {
            let bytes = &state.labels[&batch.series[series.0 as usize].id.0];
            Labels::from_bytes(bytes).unwrap().to_string()
        };
        for at in 0..batch.samples.len() {
            if batch.verdicts[at] != Verdict::Pending {
                continue;
            }
            let sample = batch.samples[at];
            let key = state.labels[&batch.series[sample.series.0 as usize].id.0].clone();
            let verdict = match state.samples.get(&(key.clone(), sample.ts_ms)) {
                None => Verdict::Stored,
                Some(bits) if *bits == sample.value.to_bits() => Verdict::Duplicate,
                Some(_) => Verdict::Refused(Refusal::DuplicateConflict),
            };
            batch.verdicts[at] = verdict;
            if verdict == Verdict::Stored {
                state.samples.insert((key, sample.ts_ms), sample.value.to_bits());
                stored.samples.push((name(&state, sample.series), sample.ts_ms, sample.value));
            }
        }
        for at in 0..batch.histograms.len() {
            if batch.histograms[at].verdict == Verdict::Pending {
                batch.histograms[at].verdict = Verdict::Stored;
                let taken = &batch.histograms[at];
                let (name, histogram) = (name(&state, taken.series), taken.histogram.clone());
                stored.histograms.push((name, taken.ts_ms, histogram));
            }
        }
        for (at, series) in batch.series.iter().enumerate() {
            if let Some(family) = batch.families.get(series.family as usize) {
                stored.types.insert(name(&state, SeriesIndex(at as u32)), family.metric_type.as_str());
            }
        }
        stored.exemplars = batch.exemplars.clone();
        stored.starts = batch.start_timestamps.iter().map(|(s, ms)| (name(&state, *s), *ms)).collect();
        let counts = batch.counts();
        assert!(counts.balances(), "{counts:?}");
        state.stored.push(stored);
        state.seq += 1;
        Ok(Appended { counts, new_series, ledger: LedgerPosition { epoch: 1, seq: state.seq } })
    }
}

impl Append for MemoryStore {
    fn submit(&self, mut batch: Batch, done: AppendDone) {
        let result = self.take(&mut batch);
        let answer = move || done(batch, result);
        match self.held.lock().as_mut() {
            Some((told, held)) => {
                held.push(Box::new(answer));
                told.send(()).unwrap();
            }
            None => answer(),
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

/// Remembers what it hears.
pub struct Listener {
    heard: Mutex<Vec<(CollectionReport, TargetStatus, LedgerPosition)>>,
    told: SyncSender<()>,
    pub told_rx: Mutex<Receiver<()>>,
}

impl Default for Listener {
    fn default() -> Listener {
        let (told, told_rx) = sync_channel(10_000);
        Listener { heard: Mutex::default(), told, told_rx: Mutex::new(told_rx) }
    }
}

impl Listener {
    pub fn all(&self) -> Vec<(CollectionReport, TargetStatus, LedgerPosition)> {
        self.heard.lock().clone()
    }

    pub fn last(&self) -> (CollectionReport, TargetStatus, LedgerPosition) {
        self.heard.lock().last().cloned().unwrap()
    }
}

impl Observe for Listener {
    fn collected(&self, report: CollectionReport, status: TargetStatus, ledger: LedgerPosition) {
        self.heard.lock().push((report, status, ledger));
        let _ = self.told.try_send(());
    }
}

/// A clock that moves one second at each look.
pub struct TickingClock(AtomicI64);

impl Clock for TickingClock {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1_000, Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        0
    }
}

pub struct World {
    pub collector: Arc<Collector>,
    pub store: Arc<MemoryStore>,
    pub heard: Arc<Listener>,
}

impl World {
    pub fn new() -> World {
        let store = Arc::new(MemoryStore::default());
        let heard = Arc::new(Listener::default());
        let clock = Arc::new(TickingClock(AtomicI64::new(1_750_000_000_000)));
        let ids = Arc::new(BatchIds::new("n1"));
        let collector = Collector::with_clock(store.clone(), heard.clone(), ids, clock);
        World { collector: Arc::new(collector), store, heard }
    }

    /// A world that scrapes one target.
    pub fn with(spec: TargetSpec) -> World {
        let world = World::new();
        world.collector.upsert(spec);
        world
    }

    /// Scrapes `t` and gives what came of it and what the store got.
    pub async fn scrape(&self) -> (ScrapeOutcome, Stored) {
        let before = self.store.batches();
        let outcome = self.collector.scrape_now("t").await.unwrap();
        let stored = if self.store.batches() > before { self.store.last() } else { Stored::default() };
        (outcome, stored)
    }

    /// Waits for the observer to hear once more.
    pub async fn hear(&self) {
        let heard = self.heard.clone();
        tokio::task::spawn_blocking(move || heard.told_rx.lock().recv().unwrap()).await.unwrap();
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Names as the store shows them, with the target's labels.
pub fn named(names: &[&str]) -> Vec<String> {
    let mut list: Vec<String> = names.iter().map(|n| labeled(n)).collect();
    list.sort();
    list
}

/// `a` or `a{x="1"}` with the target's labels; the labels given must sort before `instance`.
pub fn labeled(name: &str) -> String {
    match name.split_once('{') {
        None => format!("{name}{{instance=\"i\", job=\"j\"}}"),
        Some((name, rest)) => format!("{name}{{{}, instance=\"i\", job=\"j\"}}", rest.trim_end_matches('}')),
    }
}

pub fn valued(list: &[(&str, f64)]) -> Vec<(String, f64)> {
    let mut list: Vec<(String, f64)> = list.iter().map(|(n, v)| (labeled(n), *v)).collect();
    list.sort_by(|a, b| a.partial_cmp(b).unwrap());
    list
}
