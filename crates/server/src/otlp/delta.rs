//! Points of delta temporality become sums since the start, without a memory that a restart could lose.
//!
//! The state of a series is its last stored sample: the time up to which it is added up, and the sum. What is kept in memory is a
//! copy of that, and whenever it is missing it is read from the store.
//! Invariants: 1. a point is added exactly once: its sample is the proof, so one that comes again after a crash or a lost answer
//! finds its sample and is a duplicate; 2. the sum of a series goes on from what was fsynced, from nothing else: whatever became
//! of a batch that failed, its series are read anew; 3. two batches with a series in common are added one after the other.
//! Limits: [`KNOWN_BYTES_MAX`] of copies; a batch waits at most [`WAIT_MAX`] for another one with the same series.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use model::histogram::Histogram;
use model::{Batch, Labels, Matcher, Samples, Select, SeriesIndex, TimeRange, Verdict, is_stale};
use parking_lot::{Condvar, Mutex};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::prom::write::Refused;
use crate::telemetry::Exposition;

/// Memory for copies of the last samples; when it is full, half of them are forgotten and read again when they are needed.
const KNOWN_BYTES_MAX: usize = 64 << 20;
/// What an entry takes besides its histogram.
const ENTRY_BYTES: usize = 96;
const WAIT_MAX: Duration = Duration::from_secs(2);
const RETRY_AFTER_S: u64 = 1;
/// How far back the last sample is looked for when a point does not say when it started.
const LOOK_BACK_MS: i64 = 3_600_000;
/// No start is believed to lie further back.
const START_AGE_MAX_MS: i64 = 86_400_000;

/// A label set.
pub(super) type Key = u128;

/// What a series has come to.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Total {
    Number(f64),
    Histogram(Arc<Histogram>),
    /// A stale marker: what comes next begins anew.
    Ended,
}

impl Total {
    pub(super) fn of_number(value: f64) -> Total {
        if is_stale(value) { Total::Ended } else { Total::Number(value) }
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES
            + match self {
                Total::Histogram(h) => {
                    8 * (h.positive.len() + h.negative.len() + h.custom_bounds.len())
                        + 8 * (h.positive_spans.len() + h.negative_spans.len())
                        + size_of::<Histogram>()
                }
                _ => 0,
            }
    }
}

/// The last sample of a series.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Last {
    pub(super) ts_ms: i64,
    pub(super) total: Total,
}

/// What became of points.
#[derive(Default, Debug)]
pub(super) struct DeltaStats {
    pub(super) first: AtomicU64,
    pub(super) next: AtomicU64,
    pub(super) after_gap: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) overlapping: AtomicU64,
    pub(super) late: AtomicU64,
    read: AtomicU64,
}

/// Adds points up.
pub struct Deltas {
    select: Arc<dyn Select>,
    /// Nobody shall be able to make two label sets meet.
    seed: u64,
    state: Mutex<State>,
    freed: Condvar,
    pub(super) stats: DeltaStats,
}

#[derive(Default)]
struct State {
    known: HashMap<Key, Last>,
    known_bytes: usize,
    /// Series of batches on their way into the store.
    busy: HashSet<Key>,
    evictions: u32,
}

impl State {
    fn remember(&mut self, key: Key, last: Last) {
        self.forget(key);
        self.known_bytes += last.total.bytes();
        self.known.insert(key, last);
    }

    fn forget(&mut self, key: Key) {
        if let Some(last) = self.known.remove(&key) {
            self.known_bytes -= last.total.bytes();
        }
    }

    /// Makes room by forgetting about half.
    fn shrink(&mut self, bytes_max: usize) {
        while self.known_bytes > bytes_max {
            let bit = self.evictions % 128;
            self.evictions += 1;
            let bytes = &mut self.known_bytes;
            self.known.retain(|key, last| {
                let stays = key >> bit & 1 == 0;
                if !stays {
                    *bytes -= last.total.bytes();
                }
                stays
            });
        }
    }
}

impl Deltas {
    /// Starts with nothing known.
    ///
    /// **Takes** the way to what is stored: it must show whatever was acknowledged.
    pub fn new(select: Arc<dyn Select>) -> Deltas {
        Deltas {
            select,
            seed: uuid::Uuid::new_v4().as_u128() as u64,
            state: Mutex::default(),
            freed: Condvar::new(),
            stats: DeltaStats::default(),
        }
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let stats = &self.stats;
        let help = "Samples of OTLP points with delta temporality, by how they were added up.";
        page.family("quiver_otlp_delta_samples_total", "counter", help);
        for (word, count) in [
            ("first", &stats.first),
            ("next", &stats.next),
            ("after_gap", &stats.after_gap),
            ("repeated", &stats.repeated),
            ("overlapping", &stats.overlapping),
            ("late", &stats.late),
        ] {
            page.sample(&[("outcome", word)], count.load(Ordering::Relaxed) as f64);
        }
        let help = "Series of delta temporality whose last sum was read from the store.";
        page.family("quiver_otlp_delta_reads_total", "counter", help);
        page.sample(&[], stats.read.load(Ordering::Relaxed) as f64);
        page.family("quiver_otlp_delta_series", "gauge", "Series of delta temporality whose last sum is in memory.");
        page.sample(&[], self.state.lock().known.len() as f64);
    }

    pub(super) fn key(&self, label_bytes: &[u8]) -> Key {
        xxh3_128_with_seed(label_bytes, self.seed)
    }

    /// Takes series for one batch, waiting for the batches that have them.
    ///
    /// **Errors** when that takes too long; the sender shall try again.
    /// **Cost** it may block: call it where that is allowed.
    pub(super) fn claim(self: &Arc<Deltas>, keys: HashSet<Key>) -> Result<Claim, Refused> {
        let until = Instant::now() + WAIT_MAX;
        let mut state = self.state.lock();
        while keys.iter().any(|key| state.busy.contains(key)) {
            if self.freed.wait_until(&mut state, until).timed_out() {
                let text = "another request with the same series of delta temporality is on its way; try again";
                return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(RETRY_AFTER_S));
            }
        }
        state.busy.extend(keys.iter().copied());
        let known = keys.iter().filter_map(|key| Some((*key, state.known.get(key)?.clone()))).collect();
        let (deltas, series, committed) = (Arc::clone(self), HashMap::new(), AtomicBool::new(false));
        Ok(Claim { deltas, keys, known, series, committed })
    }

    /// Reads the last sample that counts for a point.
    ///
    /// **Errors** when the store cannot be read; the sender shall try again.
    pub(super) fn read_last(&self, labels: &Labels, start_ms: i64, ts_ms: i64) -> Result<Option<Last>, Refused> {
        self.stats.read.fetch_add(1, Ordering::Relaxed);
        let back = if start_ms > 0 { START_AGE_MAX_MS } else { LOOK_BACK_MS };
        let start_ms = start_ms.max(ts_ms.saturating_sub(back)).min(ts_ms);
        let samples = self.read(labels, TimeRange { start_ms, end_ms: i64::MAX })?;
        let number = samples.ts_ms.last().zip(samples.values.last());
        let number = number.map(|(ts_ms, value)| Last { ts_ms: *ts_ms, total: Total::of_number(*value) });
        let histogram = samples.histograms.into_iter().last();
        let histogram = histogram.map(|(ts_ms, h)| Last { ts_ms, total: Total::Histogram(h) });
        Ok(match (number, histogram) {
            (Some(number), Some(histogram)) if histogram.ts_ms > number.ts_ms => Some(histogram),
            (number, histogram) => number.or(histogram),
        })
    }

    /// Reads the sample at one time.
    pub(super) fn read_at(&self, labels: &Labels, ts_ms: i64) -> Result<Option<Total>, Refused> {
        let samples = self.read(labels, TimeRange { start_ms: ts_ms, end_ms: ts_ms })?;
        let histogram = samples.histograms.into_iter().next().map(|(_, h)| Total::Histogram(h));
        Ok(samples.values.first().map(|value| Total::of_number(*value)).or(histogram))
    }

    fn read(&self, labels: &Labels, range: TimeRange) -> Result<Samples, Refused> {
        let failed = |error: &dyn std::fmt::Display| {
            let text = format!("the last sum cannot be read: {error}");
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(RETRY_AFTER_S)
        };
        let matchers: Vec<Matcher> = labels.iter().map(|(name, value)| Matcher::equal(name, value)).collect();
        let found = self.select.select(&matchers, range).map_err(|e| failed(&e))?;
        let mut samples = Samples::default();
        // Series with more labels match, too.
        if let Some(series) = found.iter().find(|series| series.labels() == labels) {
            series.read(range, &mut samples).map_err(|e| failed(&e))?;
        }
        Ok(samples)
    }
}

/// Series that belong to one batch until it is stored or has failed.
pub struct Claim {
    deltas: Arc<Deltas>,
    keys: HashSet<Key>,
    /// What they have come to, with this batch.
    pub(super) known: HashMap<Key, Last>,
    /// Which series of the batch were added up.
    pub(super) series: HashMap<SeriesIndex, Key>,
    committed: AtomicBool,
}

impl Claim {
    pub(super) fn deltas(&self) -> &Arc<Deltas> {
        &self.deltas
    }

    /// Remembers the sums of a batch that is durable, but for the series of which the store refused something.
    pub fn commit(&self, batch: &Batch) {
        let samples = batch.samples.iter().map(|s| s.series).zip(batch.verdicts.iter().copied());
        let histograms = batch.histograms.iter().map(|h| (h.series, h.verdict));
        let lost: HashSet<Key> = samples
            .chain(histograms)
            .filter(|(_, verdict)| !matches!(verdict, Verdict::Stored | Verdict::Duplicate))
            .filter_map(|(series, _)| self.series.get(&series).copied())
            .collect();
        let mut state = self.deltas.state.lock();
        for (key, last) in &self.known {
            match lost.contains(key) {
                true => state.forget(*key),
                false => state.remember(*key, last.clone()),
            }
        }
        state.shrink(KNOWN_BYTES_MAX);
        self.committed.store(true, Ordering::Relaxed);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.deltas.state.lock();
        let failed = !self.committed.load(Ordering::Relaxed);
        for key in &self.keys {
            state.busy.remove(key);
            if failed {
                state.forget(*key);
            }
        }
        drop(state);
        self.deltas.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_forgotten_and_counted() {
        let mut state = State::default();
        let number = |n: f64| Last { ts_ms: 1, total: Total::Number(n) };
        for key in 0..1_000u128 {
            state.remember(xxh3_128_with_seed(&key.to_le_bytes(), 7), number(key as f64));
        }
        assert_eq!(state.known_bytes, 1_000 * ENTRY_BYTES);
        state.shrink(400 * ENTRY_BYTES);
        assert!(state.known.len() <= 400 && !state.known.is_empty(), "{}", state.known.len());
        assert_eq!(state.known_bytes, state.known.len() * ENTRY_BYTES);
        let key = *state.known.keys().next().unwrap();
        let histogram = Total::Histogram(Arc::new(Histogram { positive: vec![1.0; 100], ..Histogram::default() }));
        state.remember(key, Last { ts_ms: 2, total: histogram });
        assert!(state.known_bytes > (state.known.len() - 1) * ENTRY_BYTES + 800);
        state.shrink(0);
        assert_eq!((state.known.len(), state.known_bytes), (0, 0));
    }
}
