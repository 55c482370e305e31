//! Answers to range queries, kept and used again for the steps that cannot have changed.
//!
//! Owns: the last answer of each query, by its text, step and phase.
//! Invariants: 1. a kept step is used only if no sample that it looks at came, went or changed since it was computed
//! ([`model::Select::changes`]) and none is too old to be kept by now; 2. what depends on more than the data before a step
//! ([`promql::reach_ms`]) and answers that have something to be said about are not kept; 3. with the cache or without it an
//! answer is the same, bit for bit.
//! Limits: bytes in all, of which one answer may take a quarter; the least recently used makes room.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{Changed, Select};
use parking_lot::Mutex;
use promql::{EvalError, MatrixSeries, QueryResult, Value};

use crate::telemetry::Exposition;

/// One answer may take so much of all there is.
const SHARE: usize = 4;
/// Of the steps asked for so many must be known: two evaluations cost more than one.
const WORTH: i64 = 4;
/// What a kept answer takes beside its series.
const ENTRY_BYTES: usize = 256;
/// What a kept histogram takes about, with its buckets.
const HISTOGRAM_BYTES: usize = 512;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The expression, in any writing that means only it.
    pub query: &'a str,
    /// The first step, in milliseconds since 1970.
    pub start_ms: i64,
    /// The last step is not later.
    pub end_ms: i64,
    /// From step to step; positive.
    pub step_ms: i64,
    /// How far back a sample counts as current.
    pub lookback_ms: i64,
    /// What [`promql::reach_ms`] gives.
    pub reach_ms: i64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    query: String,
    step_ms: i64,
    /// Where between two multiples of the step the steps lie.
    phase_ms: i64,
    lookback_ms: i64,
}

struct Kept {
    /// The first and the last step.
    from_ms: i64,
    to_ms: i64,
    /// Everything that changed later is not in it.
    moment: u64,
    series: Vec<MatrixSeries>,
    bytes: usize,
}

#[derive(Default)]
struct State {
    /// With the time of the last use.
    kept: HashMap<Key, (Arc<Kept>, u64)>,
    bytes: usize,
    uses: u64,
}

/// The kept answers.
pub struct ResultCache {
    state: Mutex<State>,
    bytes_max: usize,
    whole: AtomicU64,
    in_part: AtomicU64,
    not: AtomicU64,
}

impl ResultCache {
    /// Makes one that keeps nothing yet; with no bytes it never does.
    pub fn new(bytes_max: usize) -> ResultCache {
        let zero = AtomicU64::default;
        ResultCache { state: Mutex::default(), bytes_max, whole: zero(), in_part: zero(), not: zero() }
    }

    /// Tells whether anything is ever kept.
    pub fn is_on(&self) -> bool {
        self.bytes_max > 0
    }

    /// Answers a range query from what is kept, as far as that is sure, and from `evaluate` for the rest.
    ///
    /// **Takes** `evaluate`, which computes the steps from one time to another.
    pub fn range(
        &self,
        select: &dyn Select,
        asked: &Asked<'_>,
        evaluate: &dyn Fn(i64, i64) -> Result<QueryResult, EvalError>,
    ) -> Result<QueryResult, EvalError> {
        let key = asked.key();
        let kept = self.get(&key);
        // Asked before anything is read: what comes meanwhile counts as changed later.
        let changed = select.changes(kept.as_ref().map_or(0, |kept| kept.moment));
        let Some((kept, (from_ms, to_ms))) = kept.and_then(|kept| Some((kept.clone(), asked.known(&kept, &changed)?)))
        else {
            self.not.fetch_add(1, Ordering::Relaxed);
            let result = evaluate(asked.start_ms, asked.end_ms)?;
            self.keep(key, asked, changed.moment, &result);
            return Ok(result);
        };
        let mut parts = Vec::with_capacity(3);
        if asked.start_ms < from_ms {
            parts.push(evaluate(asked.start_ms, from_ms - asked.step_ms)?);
        }
        let series = kept.series.iter().filter_map(|series| series.between(from_ms, to_ms));
        parts.push(QueryResult::of_matrix(series.collect()));
        if to_ms.saturating_add(asked.step_ms) <= asked.end_ms {
            parts.push(evaluate(to_ms + asked.step_ms, asked.end_ms)?);
        }
        if !parts.iter().all(QueryResult::is_plain) {
            // What is to be said counts all steps.
            self.not.fetch_add(1, Ordering::Relaxed);
            return evaluate(asked.start_ms, asked.end_ms);
        }
        let is_whole = parts.len() == 1;
        let result = QueryResult::joined(parts);
        if is_whole {
            self.whole.fetch_add(1, Ordering::Relaxed);
        } else {
            self.in_part.fetch_add(1, Ordering::Relaxed);
            self.keep(key, asked, changed.moment, &result);
        }
        Ok(result)
    }

    fn get(&self, key: &Key) -> Option<Arc<Kept>> {
        let mut state = self.state.lock();
        state.uses += 1;
        let uses = state.uses;
        let (kept, used) = state.kept.get_mut(key)?;
        *used = uses;
        Some(kept.clone())
    }

    fn keep(&self, key: Key, asked: &Asked<'_>, moment: u64, result: &QueryResult) {
        let Value::Matrix(series) = &result.value else { return };
        let bytes = ENTRY_BYTES + key.query.len() + series.iter().map(bytes_of).sum::<usize>();
        if !result.is_plain() || bytes > self.bytes_max / SHARE {
            return;
        }
        let kept = Kept { from_ms: asked.start_ms, to_ms: asked.last_ms(), moment, series: series.clone(), bytes };
        let mut state = self.state.lock();
        state.uses += 1;
        let uses = state.uses;
        if let Some((old, _)) = state.kept.insert(key, (Arc::new(kept), uses)) {
            state.bytes -= old.bytes;
        }
        state.bytes += bytes;
        while state.bytes > self.bytes_max {
            let oldest = state.kept.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            let Some((old, _)) = oldest.and_then(|key| state.kept.remove(&key)) else { return };
            state.bytes -= old.bytes;
        }
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let help = "Range queries that may be answered from kept answers, by how much of them was.";
        page.family("quiver_query_cache_total", "counter", help);
        for (word, count) in [("all", &self.whole), ("part", &self.in_part), ("nothing", &self.not)] {
            page.sample(&[("kept", word)], count.load(Ordering::Relaxed) as f64);
        }
        let (bytes, answers) = {
            let state = self.state.lock();
            (state.bytes, state.kept.len())
        };
        page.gauge("quiver_query_cache_bytes", "Bytes of kept answers, about.", bytes as f64);
        page.gauge("quiver_query_cache_answers", "Kept answers.", answers as f64);
    }
}

impl Asked<'_> {
    fn key(&self) -> Key {
        Key {
            query: self.query.to_owned(),
            step_ms: self.step_ms,
            phase_ms: self.start_ms.rem_euclid(self.step_ms),
            lookback_ms: self.lookback_ms,
        }
    }

    /// Gives the last step.
    fn last_ms(&self) -> i64 {
        self.at_or_before(self.end_ms)
    }

    /// Gives the last step that is not later than a time.
    fn at_or_before(&self, ts_ms: i64) -> i64 {
        let steps = ts_ms.saturating_sub(self.start_ms).div_euclid(self.step_ms);
        self.start_ms.saturating_add(steps.saturating_mul(self.step_ms))
    }

    /// Gives the steps that are known from a kept answer, the first and the last, if they are worth it.
    fn known(&self, kept: &Kept, changed: &Changed) -> Option<(i64, i64)> {
        let first_sure_ms = changed.kept_from_ms.saturating_add(self.reach_ms);
        let from_ms = kept.from_ms.max(self.start_ms).max(first_sure_ms);
        // Up: a step before that may look at what is gone.
        let from_ms = self.at_or_before(from_ms.saturating_add(self.step_ms - 1));
        // A step looks at samples of its own time and before: all steps before the first change are as they were.
        let to_ms = self.at_or_before(kept.to_ms.min(self.end_ms).min(changed.from_ms.saturating_sub(1)));
        let (known_ms, all_ms) = (to_ms.checked_sub(from_ms)?, self.end_ms.checked_sub(self.start_ms)?);
        (known_ms >= 0 && known_ms.checked_add(self.step_ms)? >= all_ms / WORTH).then_some((from_ms, to_ms))
    }
}

fn bytes_of(series: &MatrixSeries) -> usize {
    let samples = &series.samples;
    size_of::<MatrixSeries>()
        + series.labels.as_bytes().len()
        + samples.ts_ms.len() * (size_of::<i64>() + size_of::<f64>())
        + samples.histograms.len() * HISTOGRAM_BYTES
}
