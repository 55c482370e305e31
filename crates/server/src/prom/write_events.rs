//! Events of remote write: one per source and second, with arithmetic that adds up.
//!
//! Owns: the open window of each source.
//! Invariants: 1. metrics_count is the sum of its summary; 2. the counts of all windows are the sum of the counts of all
//! batches; 3. a window is reported once.
//! Limits: [`SOURCES_MAX`] sources a second; those beyond it share the default source's window.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use collect::report::{self, BatchIds, PushFacts};
use model::{
    AppendError, Appended, Batch, CollectionMethod, CollectionReport, Counts, Health, Origin, Select, TypeCounts,
};
use parking_lot::Mutex;

use super::point_kinds::PointKinds;

/// Source of requests that name none.
pub const DEFAULT_SOURCE: &str = "remote_write";
/// Sources with a window of their own.
pub const SOURCES_MAX: usize = 1_000;
/// Reports after which types are looked up anew: five minutes.
const REPORTS_PER_LOOK_UP: u64 = 300;

/// Gathers what remote write brings.
pub struct WriteEvents {
    windows: Mutex<Windows>,
    kinds: Mutex<PointKinds>,
}

#[derive(Default)]
struct Windows {
    open: HashMap<String, Window>,
    reports: u64,
}

struct Window {
    started: Instant,
    finished: Instant,
    summary: TypeCounts,
    counts: Counts,
    stored_requests: u64,
    failed_requests: u64,
    error: Option<String>,
}

impl WriteEvents {
    /// Starts without windows; `select` knows the types of families.
    pub fn new(select: Arc<dyn Select>) -> WriteEvents {
        WriteEvents { windows: Mutex::default(), kinds: Mutex::new(PointKinds::new(select)) }
    }

    /// Notes one request: when it began, and what became of its batch.
    pub fn note(&self, source_id: &str, started: Instant, batch: &Batch, result: &Result<Appended, AppendError>) {
        // What was not taken comes again: it is an error, but no points.
        let summary = match result {
            Ok(_) => self.kinds.lock().count(batch),
            Err(_) => TypeCounts::default(),
        };
        let mut windows = self.windows.lock();
        let open = &mut windows.open;
        let source_id =
            if open.len() < SOURCES_MAX || open.contains_key(source_id) { source_id } else { DEFAULT_SOURCE };
        match open.get_mut(source_id) {
            Some(window) => window.add(started, &summary, result),
            None => {
                let mut window = Window::new(started);
                window.add(started, &summary, result);
                open.insert(source_id.to_owned(), window);
            }
        }
    }

    /// Closes all windows and gives their reports, sorted by source.
    pub fn report(&self, now_ms: i64, ids: &BatchIds) -> Vec<CollectionReport> {
        let mut closed: Vec<(String, Window)> = {
            let mut windows = self.windows.lock();
            windows.reports += 1;
            if windows.reports.is_multiple_of(REPORTS_PER_LOOK_UP) {
                self.kinds.lock().forget();
            }
            windows.open.drain().collect()
        };
        closed.sort_by(|a, b| a.0.cmp(&b.0));
        closed.into_iter().map(|(source_id, window)| window.report(source_id, now_ms, ids)).collect()
    }
}

impl Window {
    fn new(started: Instant) -> Window {
        Window {
            started,
            finished: started,
            summary: TypeCounts::default(),
            counts: Counts::default(),
            stored_requests: 0,
            failed_requests: 0,
            error: None,
        }
    }

    fn add(&mut self, started: Instant, summary: &TypeCounts, result: &Result<Appended, AppendError>) {
        self.started = self.started.min(started);
        self.finished = Instant::now();
        self.summary.counters += summary.counters;
        self.summary.gauges += summary.gauges;
        self.summary.histograms += summary.histograms;
        self.summary.summaries += summary.summaries;
        self.summary.others += summary.others;
        match result {
            Ok(appended) => {
                self.stored_requests += 1;
                self.counts.merge(&appended.counts);
            }
            Err(error) => {
                self.failed_requests += 1;
                self.error.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn report(self, source_id: String, now_ms: i64, ids: &BatchIds) -> CollectionReport {
        let failed = self.failed_requests;
        let facts = PushFacts {
            origin: Origin {
                target_id: source_id.clone(),
                source_id,
                method: CollectionMethod::Streaming,
                received_at_ms: now_ms,
            },
            duration_ms: u64::try_from((self.finished - self.started).as_millis()).unwrap_or(u64::MAX),
            summary: self.summary,
            samples_count: self.counts.received,
            error: self.error.map(|error| format!("{failed} requests were not stored: {error}")),
        };
        let mut report = report::for_push(ids, facts);
        report.counts = self.counts;
        if failed > 0 && self.stored_requests > 0 {
            report.health = Health::Degraded;
        }
        report
    }
}
