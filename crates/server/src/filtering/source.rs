//! The filters of one source at work: what they make of each series is kept, sums wait for the store.
//!
//! Invariants: 1. every row of a batch keeps its place; 2. two series that filters make the same are told apart by their own
//! labels: the one that is in goes on until it was not sent for [`GONE_AFTER_MS`]; 3. what a batch adds to a sum counts when the
//! batch is stored.
//! Limits: [`KNOWN_MAX`] series are remembered.

use std::collections::HashMap;
use std::sync::Arc;

use collect::OwnSums;
use model::aggregate::{Added, Child, How, Total};
use model::filter::{FilterSet, Outcome, is_cumulative};
use model::{Batch, Labels, LabelsBuf, MetricType, Refusal, SeriesIndex, Verdict};
use parking_lot::{Condvar, Mutex};

/// Series of one source whose outcome is remembered.
const KNOWN_MAX: usize = 200_000;
/// After so long the place of a series is free; Prometheus' lookback.
const GONE_AFTER_MS: i64 = 300_000;
/// Label sets of refused series that are kept for whoever asks.
const EXAMPLES_MAX: usize = 200;

/// What becomes of a series.
#[derive(Clone, Debug)]
enum Fate {
    /// It is stored as it came.
    Same,
    /// It is stored under these labels.
    As(Labels),
    /// A filter takes it out.
    Dropped,
    /// It is added to a series of these labels.
    Sum(Labels, Option<usize>),
    /// The filters left something that is no series.
    Invalid,
}

#[derive(Default)]
struct Known {
    /// By the hash of labels and type.
    fates: HashMap<u64, Fate>,
    /// Who has the place of what is stored: the hash of its own labels, and when it was last seen.
    places: HashMap<u64, (u64, i64)>,
}

/// One source's filters.
pub struct SourceState {
    pub(super) set: Arc<FilterSet>,
    sums: OwnSums,
    known: Mutex<Known>,
    busy: Mutex<bool>,
    free: Condvar,
}

/// Held from the filtering of a batch until the store has answered, where sums are made.
pub struct Turn(Arc<SourceState>);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.busy.lock() = false;
        self.0.free.notify_one();
    }
}

impl Turn {
    /// The batch is stored.
    pub fn commit(&self) {
        self.0.sums.lock().commit();
    }
}

impl SourceState {
    /// Starts without knowledge.
    pub fn new(set: Arc<FilterSet>, sums: OwnSums) -> SourceState {
        SourceState { set, sums, known: Mutex::default(), busy: Mutex::default(), free: Condvar::new() }
    }

    /// Waits until no other batch of the source is on its way, where that matters.
    pub fn turn(self: &Arc<SourceState>) -> Option<Turn> {
        if !self.set.aggregates() {
            return None;
        }
        let mut busy = self.busy.lock();
        while *busy {
            self.free.wait(&mut busy);
        }
        *busy = true;
        Some(Turn(self.clone()))
    }

    /// Applies the filters to a batch.
    ///
    /// **Takes** what knows the type of a series by its name, where the batch does not say it.
    pub fn apply(&self, batch: &mut Batch, now_ms: i64, type_of: &dyn Fn(&str) -> MetricType) {
        let mut fates = Vec::with_capacity(batch.series.len());
        for at in 0..batch.series.len() {
            let series = SeriesIndex(at as u32);
            let Some(labels) = batch.labels(series) else {
                // By id alone: whoever sent it was not recalled, so that this is a series of ours.
                fates.push((Fate::Same, 0, MetricType::Unknown));
                continue;
            };
            let told = batch.families.get(batch.series[at].family as usize).map(|f| f.metric_type);
            let metric_type = match told.filter(|t| *t != MetricType::Unknown) {
                Some(metric_type) => metric_type,
                None if self.set.asks_types() => type_of(labels.metric_name()),
                None => MetricType::Unknown,
            };
            let own = labels.fingerprint().0;
            fates.push((self.fate_of(&labels, own, metric_type), own, metric_type));
        }
        let mut verdicts: Vec<Option<Verdict>> = Vec::with_capacity(fates.len());
        for (at, (fate, own, _)) in fates.iter().enumerate() {
            let series = SeriesIndex(at as u32);
            verdicts.push(match fate {
                Fate::Same if *own == 0 => None,
                Fate::Same => self.takes_place(batch, series, *own, *own, now_ms),
                Fate::As(labels) => {
                    let refused = self.takes_place(batch, series, labels.fingerprint().0, *own, now_ms);
                    if refused.is_none() {
                        batch.set_labels(series, labels);
                    }
                    refused
                }
                Fate::Dropped => Some(Verdict::Filtered),
                Fate::Invalid => Some(Verdict::Refused(Refusal::InvalidName)),
                Fate::Sum(..) => None,
            });
        }
        decide(batch, &verdicts);
        if self.set.aggregates() {
            self.add_up(batch, &fates, now_ms);
            let is_sum = |series: &SeriesIndex| matches!(fates.get(series.0 as usize), Some((Fate::Sum(..), ..)));
            batch.exemplars.retain(|exemplar| !is_sum(&exemplar.series));
            batch.start_timestamps.retain(|(series, _)| !is_sum(series));
        }
    }

    fn fate_of(&self, labels: &Labels, own: u64, metric_type: MetricType) -> Fate {
        let key = own.wrapping_add((metric_type as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if let Some(fate) = self.known.lock().fates.get(&key) {
            return fate.clone();
        }
        let mut buf = LabelsBuf::from_labels(labels);
        let fate = match self.set.apply(&mut buf, metric_type) {
            Outcome::Dropped(_) => Fate::Dropped,
            Outcome::Kept { changed, aggregate } => {
                let after = buf.to_labels();
                match aggregate {
                    _ if after.metric_name().is_empty() => Fate::Invalid,
                    Some(_) => Fate::Sum(after, aggregate),
                    None if changed => Fate::As(after),
                    None => Fate::Same,
                }
            }
        };
        let mut known = self.known.lock();
        if known.fates.len() >= KNOWN_MAX {
            known.fates.clear();
        }
        known.fates.insert(key, fate.clone());
        fate
    }

    /// Takes the place of what a series is stored as; gives why not when another one has it.
    fn takes_place(
        &self,
        batch: &mut Batch,
        series: SeriesIndex,
        place: u64,
        own: u64,
        now_ms: i64,
    ) -> Option<Verdict> {
        if !self.set.transforms() {
            return None;
        }
        let mut known = self.known.lock();
        if known.places.len() >= KNOWN_MAX && !known.places.contains_key(&place) {
            known.places.retain(|_, (_, seen_ms)| now_ms.saturating_sub(*seen_ms) <= GONE_AFTER_MS);
            if known.places.len() >= KNOWN_MAX {
                return Some(Verdict::Refused(Refusal::SeriesLimit));
            }
        }
        let holder = known.places.entry(place).or_insert((own, now_ms));
        if holder.0 == own || now_ms.saturating_sub(holder.1) > GONE_AFTER_MS {
            *holder = (own, now_ms);
            return None;
        }
        drop(known);
        let labels = batch.labels(series).unwrap_or_default();
        if batch.advice.is_none() {
            batch.advice = Some(format!(
                "filters make {labels} the same series as another one, which goes on; AGGREGATE_AWAY in the place of \
                 DROP_LABEL adds them up"
            ));
        }
        if batch.examples.len() < EXAMPLES_MAX {
            batch.examples.push((Refusal::LabelCollision, labels));
        }
        Some(Verdict::Refused(Refusal::LabelCollision))
    }

    /// Adds up the rows of sums, time by time; the first row of each sum and time becomes its sample.
    fn add_up(&self, batch: &mut Batch, fates: &[(Fate, u64, MetricType)], now_ms: i64) {
        let rows = sum_rows(batch, fates);
        self.sums.lock().begin();
        let mut at = 0;
        while let Some(first) = rows.get(at) {
            let step = rows[at..].iter().take_while(|row| row.ts_ms == first.ts_ms).count();
            self.add_step(batch, &rows[at..at + step], fates, now_ms);
            at += step;
        }
    }

    fn add_step(&self, batch: &mut Batch, rows: &[Row], fates: &[(Fate, u64, MetricType)], now_ms: i64) {
        let Some(ts_ms) = rows.first().map(|row| row.ts_ms) else { return };
        self.sums.lock().next_step(ts_ms);
        let mut firsts = Vec::new();
        for row in rows {
            let Some((Fate::Sum(labels, filter), own, metric_type)) = fates.get(row.series.0 as usize) else {
                continue;
            };
            let how = self.how(batch, row, *metric_type, filter.unwrap_or_default());
            let child = match self.sums.child(*own, labels, how, now_ms) {
                Some(child) if self.takes_place(batch, row.series, labels.fingerprint().0, SUM, now_ms).is_none() => {
                    child
                }
                Some(_) => {
                    row.decide(batch, Verdict::Refused(Refusal::LabelCollision));
                    continue;
                }
                None => {
                    row.decide(batch, Verdict::Refused(Refusal::SeriesLimit));
                    continue;
                }
            };
            match self.add_row(batch, row, child) {
                Ok(Added::First) => firsts.push(row),
                Ok(Added::More | Added::Nothing) => row.decide(batch, Verdict::Filtered),
                Err(verdict) => row.decide(batch, verdict),
            }
        }
        let totals = self.sums.lock().totals(GONE_AFTER_MS);
        for (row, sum) in firsts.into_iter().zip(totals) {
            row.write(batch, &sum.labels, sum.at_ms, sum.total);
        }
    }

    fn how(&self, batch: &Batch, row: &Row, metric_type: MetricType, filter: usize) -> How {
        match (row.is_histogram, metric_type) {
            (true, MetricType::GaugeHistogram) => How::GaugeHistogram,
            (true, _) => How::Histogram,
            (false, _) => {
                let labels = LabelsBuf::from_labels(&batch.labels(row.series).unwrap_or_default());
                match is_cumulative(&labels, metric_type) {
                    true => How::Cumulative,
                    false => How::Gauge(self.set.function(filter)),
                }
            }
        }
    }

    /// Adds a row unless its child is past it.
    fn add_row(&self, batch: &Batch, row: &Row, child: Child) -> Result<Added, Verdict> {
        let mut sums = self.sums.lock();
        if let Some((last_ms, last)) = sums.last(child).filter(|(last_ms, _)| row.ts_ms <= *last_ms) {
            let value = batch.samples.get(row.at).filter(|_| !row.is_histogram).map(|s| s.value.to_bits());
            return Err(match row.ts_ms == last_ms {
                true if value == last.map(f64::to_bits) => Verdict::Duplicate,
                true => Verdict::Refused(Refusal::DuplicateConflict),
                false => Verdict::Refused(Refusal::TooOld),
            });
        }
        Ok(match row.is_histogram {
            true => {
                batch.histograms.get(row.at).map_or(Added::Nothing, |h| sums.add_histogram(child, h.histogram.clone()))
            }
            false => batch.samples.get(row.at).map_or(Added::Nothing, |s| sums.add(child, s.value)),
        })
    }
}

/// Stands for a sum among those who have places.
const SUM: u64 = u64::MAX;

/// A row that is added to a sum.
struct Row {
    ts_ms: i64,
    series: SeriesIndex,
    is_histogram: bool,
    at: usize,
}

impl Row {
    fn decide(&self, batch: &mut Batch, verdict: Verdict) {
        let slot = match self.is_histogram {
            true => batch.histograms.get_mut(self.at).map(|h| &mut h.verdict),
            false => batch.verdicts.get_mut(self.at),
        };
        if let Some(slot) = slot {
            *slot = verdict;
        }
    }

    /// Makes the row the sample of its sum.
    fn write(&self, batch: &mut Batch, labels: &Labels, at_ms: i64, total: Total) {
        // The child's own place in the batch, so that the child itself does not come to be.
        batch.set_labels(self.series, labels);
        match total {
            Total::Float(value) => {
                if let Some(sample) = batch.samples.get_mut(self.at) {
                    (sample.ts_ms, sample.value) = (at_ms, value);
                }
            }
            Total::Histogram(histogram) => {
                if let Some(row) = batch.histograms.get_mut(self.at) {
                    (row.ts_ms, row.histogram) = (at_ms, histogram);
                }
            }
            Total::Incompatible => self.decide(batch, Verdict::Refused(Refusal::InvalidValue)),
        }
    }
}

/// Gives the rows of sums in order of their times; rows of one time stay in their order.
fn sum_rows(batch: &Batch, fates: &[(Fate, u64, MetricType)]) -> Vec<Row> {
    let is_sum = |series: SeriesIndex| matches!(fates.get(series.0 as usize), Some((Fate::Sum(..), ..)));
    let mut rows: Vec<Row> = Vec::new();
    for (at, (sample, verdict)) in batch.samples.iter().zip(&batch.verdicts).enumerate() {
        if *verdict == Verdict::Pending && is_sum(sample.series) {
            rows.push(Row { ts_ms: sample.ts_ms, series: sample.series, is_histogram: false, at });
        }
    }
    for (at, one) in batch.histograms.iter().enumerate() {
        if one.verdict == Verdict::Pending && is_sum(one.series) {
            rows.push(Row { ts_ms: one.ts_ms, series: one.series, is_histogram: true, at });
        }
    }
    rows.sort_by_key(|row| row.ts_ms);
    rows
}

/// Writes the verdicts of series into their rows, and takes out what belongs to rows that are not stored.
fn decide(batch: &mut Batch, verdicts: &[Option<Verdict>]) {
    let of = |series: SeriesIndex| verdicts.get(series.0 as usize).copied().flatten();
    for (sample, verdict) in batch.samples.iter().zip(batch.verdicts.iter_mut()) {
        if let (Verdict::Pending, Some(decided)) = (*verdict, of(sample.series)) {
            *verdict = decided;
        }
    }
    for one in &mut batch.histograms {
        if let (Verdict::Pending, Some(decided)) = (one.verdict, of(one.series)) {
            one.verdict = decided;
        }
    }
    batch.exemplars.retain(|exemplar| of(exemplar.series).is_none());
    batch.start_timestamps.retain(|(series, _)| of(*series).is_none());
}
