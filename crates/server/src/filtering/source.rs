//! The filters of one source at work: what they make of each series is kept, sums wait for the store.
//!
//! Invariants: 1. every row of a batch keeps its place; 2. two series that filters make the same are told apart by their own
//! labels: the one that is in goes on until it was not sent for [`GONE_AFTER_MS`]; 3. what a batch adds to a sum counts when the
//! batch is stored, and the time of a sum is that of what was stored of it; 4. a sum takes the samples of each series in order,
//! and gauges that are not older than its last sample by more than [`GONE_AFTER_MS`].
//! Limits: the filters' word on [`KNOWN_MAX`] series is remembered; [`PLACES_MAX`] series may be such that others can become the
//! same, more are refused.

use std::collections::HashMap;
use std::sync::Arc;

use collect::{OwnSums, Turn};
use model::aggregate::{Added, Child, Coming, How, Total};
use model::filter::{Acts, CREATED, FilterSet, Outcome, is_cumulative};
use model::{Batch, Labels, LabelsBuf, MetricType, Refusal, SeriesIndex, Verdict};
use parking_lot::Mutex;
use wire::openmetrics;

use super::KnownType;

/// Series of one source whose outcome is remembered; beyond, filters are asked anew.
const KNOWN_MAX: usize = 200_000;
/// Places of one source.
const PLACES_MAX: usize = 200_000;
/// Places of series that are gone are looked for this often: it costs a look at all of them.
const SWEEP_EVERY_MS: i64 = 10_000;
/// After so long the place of a series is free; Prometheus' lookback.
const GONE_AFTER_MS: i64 = 300_000;
/// Label sets of refused series that are kept for whoever asks.
const EXAMPLES_MAX: usize = 200;

/// What becomes of a series.
#[derive(Clone, Debug)]
enum Fate {
    /// It is stored as it came, and no other one can become the same.
    Alone,
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
    fates: HashMap<u64, (Fate, Acts)>,
    /// Who has the place of what is stored: the hash of its own labels, and when it was last seen.
    places: HashMap<u64, (u64, i64)>,
    /// When places of series that are gone were looked for.
    swept_ms: Option<i64>,
}

impl Known {
    /// Tells whether a series may have a place.
    fn has_room(&mut self, place: u64, now_ms: i64) -> bool {
        if self.places.len() < PLACES_MAX || self.places.contains_key(&place) {
            return true;
        }
        if self.swept_ms.is_none_or(|at_ms| now_ms.abs_diff(at_ms) >= SWEEP_EVERY_MS.unsigned_abs()) {
            self.swept_ms = Some(now_ms);
            self.places.retain(|_, (_, seen_ms)| now_ms.saturating_sub(*seen_ms) <= GONE_AFTER_MS);
        }
        self.places.len() < PLACES_MAX
    }
}

/// A series of a batch, and what becomes of it.
struct Asked {
    fate: Fate,
    /// The hash of its own labels.
    own: u64,
    metric_type: MetricType,
    /// It says since when another one counts.
    created: bool,
    acts: Acts,
}

/// One source's filters.
pub struct SourceState {
    pub(super) set: Arc<FilterSet>,
    sums: OwnSums,
    known: Mutex<Known>,
}

/// Held from the filtering of a batch until the store has answered.
pub struct Filtering {
    adding: Option<Adding>,
    /// How many samples each combination of filters acted on.
    pub(super) acted: Vec<(Acts, u64)>,
}

impl Filtering {
    /// The batch is stored, but for what its verdicts say.
    pub fn commit(&self, batch: &Batch) {
        if let Some(adding) = &self.adding {
            adding.commit(batch);
        }
    }
}

/// Held where sums are made: other batches of the source wait.
struct Adding {
    turn: Turn,
    rows: Vec<SumRow>,
}

/// A row that is the sample of a sum.
struct SumRow {
    is_histogram: bool,
    at: usize,
    group: u32,
    at_ms: i64,
}

impl Adding {
    fn commit(&self, batch: &Batch) {
        let sums = self.turn.sums();
        {
            let mut sums = sums.lock();
            for row in &self.rows {
                let verdict = match row.is_histogram {
                    true => batch.histograms.get(row.at).map(|h| h.verdict),
                    false => batch.verdicts.get(row.at).copied(),
                };
                let has_the_time = match verdict {
                    // A sample of that time is there already.
                    Some(Verdict::Refused(reason)) => reason == Refusal::DuplicateConflict,
                    Some(_) => true,
                    None => false,
                };
                if has_the_time {
                    sums.stored(row.group, row.at_ms);
                }
            }
        }
        sums.commit();
    }
}

impl SourceState {
    /// Starts without knowledge.
    pub fn new(set: Arc<FilterSet>, sums: OwnSums) -> SourceState {
        SourceState { set, sums, known: Mutex::default() }
    }

    /// Tells whether its sums have gone.
    pub fn is_gone(&self) -> bool {
        self.sums.is_gone()
    }

    /// Applies the filters to a batch; waits until no other batch of the source is on its way, where that matters.
    ///
    /// **Takes** the latest time that is stored, and what knows the type of a series by its name, where the batch does not say it.
    pub fn apply(
        &self,
        batch: &mut Batch,
        now_ms: i64,
        newest_ms: i64,
        type_of: &dyn Fn(&str) -> KnownType,
    ) -> Filtering {
        let adding = self.set.aggregates().then(|| Adding { turn: self.sums.turn(), rows: Vec::new() });
        let asked: Vec<Asked> = (0..batch.series.len()).map(|at| self.ask(batch, at, type_of)).collect();
        let mut verdicts: Vec<Option<Verdict>> = Vec::with_capacity(asked.len());
        for (at, Asked { fate, own, .. }) in asked.iter().enumerate() {
            let series = SeriesIndex(at as u32);
            verdicts.push(match fate {
                Fate::Alone => None,
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
        let acted = count_acts(batch, &asked);
        decide(batch, &verdicts);
        let Some(mut adding) = adding else { return Filtering { adding: None, acted } };
        self.add_up(batch, &asked, now_ms, newest_ms, &mut adding.rows);
        let is_sum =
            |series: &SeriesIndex| matches!(asked.get(series.0 as usize).map(|a| &a.fate), Some(Fate::Sum(..)));
        batch.exemplars.retain(|exemplar| !is_sum(&exemplar.series));
        batch.start_timestamps.retain(|(series, _)| !is_sum(series));
        Filtering { adding: Some(adding), acted }
    }

    /// Asks what becomes of a series of a batch.
    fn ask(&self, batch: &Batch, at: usize, type_of: &dyn Fn(&str) -> KnownType) -> Asked {
        let Some(labels) = batch.labels(SeriesIndex(at as u32)) else {
            // By id alone: whoever sent it was not recalled, so that this is a series of ours.
            let metric_type = MetricType::Unknown;
            return Asked { fate: Fate::Alone, own: 0, metric_type, created: false, acts: Acts::default() };
        };
        let name = labels.metric_name();
        let told = batch.families.get(batch.series[at].family as usize);
        let known = match told.filter(|f| f.metric_type != MetricType::Unknown) {
            Some(family) => KnownType {
                metric_type: family.metric_type,
                created: openmetrics::is_created_of(name, &family.name, family.metric_type),
            },
            None if self.set.asks_types() => type_of(name),
            None => KnownType::default(),
        };
        let own = labels.fingerprint().0;
        let (fate, acts) = self.fate_of(&labels, own, known.metric_type);
        Asked { fate, own, metric_type: known.metric_type, created: known.created, acts }
    }

    fn fate_of(&self, labels: &Labels, own: u64, metric_type: MetricType) -> (Fate, Acts) {
        let key = own.wrapping_add((metric_type as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if let Some(fate) = self.known.lock().fates.get(&key) {
            return fate.clone();
        }
        let mut buf = LabelsBuf::from_labels(labels);
        let (outcome, acts) = self.set.apply_noting(&mut buf, metric_type);
        let fate = match outcome {
            Outcome::Dropped(_) => Fate::Dropped,
            Outcome::Kept { changed, aggregate } => {
                let after = buf.to_labels();
                match aggregate {
                    _ if after.metric_name().is_empty() => Fate::Invalid,
                    Some(_) => Fate::Sum(after, aggregate),
                    None if changed => Fate::As(after),
                    None if self.set.may_collide(labels.metric_name()) => Fate::Same,
                    None => Fate::Alone,
                }
            }
        };
        let mut known = self.known.lock();
        if known.fates.len() >= KNOWN_MAX {
            known.fates.clear();
        }
        known.fates.insert(key, (fate.clone(), acts));
        (fate, acts)
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
        let mut known = self.known.lock();
        if !known.has_room(place, now_ms) {
            return Some(Verdict::Refused(Refusal::SeriesLimit));
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
    fn add_up(&self, batch: &mut Batch, asked: &[Asked], now_ms: i64, newest_ms: i64, sums: &mut Vec<SumRow>) {
        let rows = sum_rows(batch, asked);
        self.sums.lock().begin(Coming { lookback_ms: GONE_AFTER_MS, newest_ms });
        for step in rows.chunk_by(|a, b| a.ts_ms == b.ts_ms) {
            if step.first().is_some_and(|row| row.ts_ms > newest_ms) {
                step.iter().for_each(|row| row.decide(batch, Verdict::Refused(Refusal::TooNew)));
                continue;
            }
            self.add_step(batch, step, asked, now_ms, sums);
        }
    }

    fn add_step(&self, batch: &mut Batch, rows: &[Row], asked: &[Asked], now_ms: i64, sums: &mut Vec<SumRow>) {
        let Some(ts_ms) = rows.first().map(|row| row.ts_ms) else { return };
        self.sums.lock().next_step(ts_ms);
        let mut firsts = Vec::new();
        for row in rows {
            let Some(asked) = asked.get(row.series.0 as usize) else { continue };
            let Fate::Sum(labels, filter) = &asked.fate else { continue };
            let how = self.how(batch, row, asked, filter.unwrap_or_default());
            let verdict = match self.takes_place(batch, row.series, labels.fingerprint().0, SUM, now_ms) {
                Some(refused) => refused,
                None => match self.sums.child(asked.own, labels, how, now_ms) {
                    None => Verdict::Refused(Refusal::SeriesLimit),
                    Some(child) => match self.add_row(batch, row, child) {
                        Ok(()) => {
                            firsts.push(row);
                            continue;
                        }
                        Err(verdict) => verdict,
                    },
                },
            };
            row.decide(batch, verdict);
        }
        let totals = self.sums.lock().totals();
        for (row, sum) in firsts.into_iter().zip(totals) {
            sums.push(SumRow { is_histogram: row.is_histogram, at: row.at, group: sum.group, at_ms: sum.at_ms });
            row.write(batch, &sum.labels, sum.at_ms, sum.total);
        }
    }

    fn how(&self, batch: &Batch, row: &Row, asked: &Asked, filter: usize) -> How {
        match (row.is_histogram, asked.metric_type) {
            (true, MetricType::GaugeHistogram) => How::GaugeHistogram,
            (true, _) => How::Histogram,
            (false, _) if asked.created => How::Gauge(CREATED),
            (false, metric_type) => {
                let labels = LabelsBuf::from_labels(&batch.labels(row.series).unwrap_or_default());
                match is_cumulative(&labels, metric_type) {
                    true => How::Cumulative,
                    false => How::Gauge(self.set.function(filter)),
                }
            }
        }
    }

    /// Adds a row; gives what becomes of one that is not the first of its sum.
    fn add_row(&self, batch: &Batch, row: &Row, child: Child) -> Result<(), Verdict> {
        let mut sums = self.sums.lock();
        let again = |same| if same { Verdict::Duplicate } else { Verdict::Refused(Refusal::DuplicateConflict) };
        if let Some((last_ms, last)) = sums.last(child).filter(|(last_ms, _)| row.ts_ms <= *last_ms) {
            let same = || match row.is_histogram {
                true => batch.histograms.get(row.at).map(|h| &h.histogram) == sums.last_histogram(child).as_ref(),
                false => batch.samples.get(row.at).map(|s| s.value.to_bits()) == last.map(f64::to_bits),
            };
            return Err(match row.ts_ms == last_ms {
                true => again(same()),
                false => Verdict::Refused(Refusal::TooOld),
            });
        }
        let added = match row.is_histogram {
            true => {
                batch.histograms.get(row.at).map_or(Added::Nothing, |h| sums.add_histogram(child, h.histogram.clone()))
            }
            false => batch.samples.get(row.at).map_or(Added::Nothing, |s| sums.add(child, s.value)),
        };
        match added {
            Added::First => Ok(()),
            Added::More | Added::Nothing => Err(Verdict::Filtered),
            Added::Again(same) => Err(again(same)),
            Added::Late => Err(Verdict::Refused(Refusal::TooOld)),
        }
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
fn sum_rows(batch: &Batch, asked: &[Asked]) -> Vec<Row> {
    let is_sum = |series: SeriesIndex| matches!(asked.get(series.0 as usize).map(|a| &a.fate), Some(Fate::Sum(..)));
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

/// Counts the samples that filters acted on.
fn count_acts(batch: &Batch, asked: &[Asked]) -> Vec<(Acts, u64)> {
    let mut counts: HashMap<Acts, u64> = HashMap::new();
    let samples = batch.samples.iter().zip(&batch.verdicts).map(|(s, v)| (s.series, *v));
    let histograms = batch.histograms.iter().map(|h| (h.series, h.verdict));
    for (series, _) in samples.chain(histograms).filter(|(_, verdict)| *verdict == Verdict::Pending) {
        if let Some(acts) = asked.get(series.0 as usize).map(|a| a.acts).filter(|acts| *acts != Acts::default()) {
            *counts.entry(acts).or_default() += 1;
        }
    }
    counts.into_iter().collect()
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
