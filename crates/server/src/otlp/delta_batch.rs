//! One batch with points of delta temporality, added up.
//!
//! The rules are OpenTelemetry's: a point whose start is the end of the one before is added; one that starts later, or is the
//! first, begins a new run; one that lies before the end of what is added up already is refused, unless it is the very same.
//! A run begins with a sample of zero at its start, so that `increase` sees its first point, and after a gap a reset.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::histogram::Histogram;
use model::{Batch, BatchHistogram, BatchSample, LABEL_NAME, Refusal, SeriesIndex, Verdict, stale_nan};
use wire::otlp::{RejectedPoint, Stats};

use super::delta::{Claim, Deltas, Key, Last, Total};
use crate::prom::write::Refused;
use model::histogram_sum;

/// A start that lies further back is not taken for one: no sample of zero is put there.
const ZERO_AGE_MAX_MS: i64 = 86_400_000;

/// Where a value stands in the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Sample(usize),
    Histogram(usize),
}

/// One value of a point.
struct Value {
    at: At,
    series: SeriesIndex,
    key: Key,
    start_ms: i64,
    ts_ms: i64,
    /// Which point it is of.
    point: usize,
}

/// How a value stands to the last one of its series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    First,
    AfterGap,
    Next,
    Same,
    Overlapping,
    Late,
}

fn place(last: Option<&Last>, start_ms: i64, ts_ms: i64) -> Place {
    let Some(last) = last else { return Place::First };
    match () {
        () if ts_ms == last.ts_ms => Place::Same,
        () if ts_ms < last.ts_ms => Place::Late,
        // Who does not say when a point started says that it goes on.
        () if start_ms <= 0 || start_ms == last.ts_ms => Place::Next,
        () if start_ms > last.ts_ms => Place::AfterGap,
        () => Place::Overlapping,
    }
}

/// Replaces the differences in a batch by sums.
///
/// **Gives** the series taken, to be committed once the batch is durable; `None` when it has no such points.
/// **Errors** when the series cannot be had now; the batch is of no more use then.
/// **Cost** it may block and read the store.
pub fn add_up(deltas: &Arc<Deltas>, batch: &mut Batch, stats: &mut Stats) -> Result<Option<Claim>, Refused> {
    if stats.deltas.is_empty() {
        return Ok(None);
    }
    let mut values = values_of(deltas, batch, stats);
    // Within a batch, too, points may come in any order.
    values.sort_by_key(|value| value.ts_ms);
    let claim = deltas.claim(values.iter().map(|value| value.key).collect())?;
    let mut adding =
        Adding { batch, stats, claim, zeros: Vec::new(), going_on: HashSet::new(), refused: HashSet::new() };
    for value in &values {
        adding.add(value)?;
    }
    Ok(Some(adding.finish()))
}

fn values_of(deltas: &Deltas, batch: &Batch, stats: &Stats) -> Vec<Value> {
    let mut values = Vec::new();
    for (point, delta) in stats.deltas.iter().enumerate() {
        let mut push = |at, series, ts_ms| {
            let key = deltas.key(batch.label_bytes(series));
            values.push(Value { at, series, key, start_ms: delta.start_ms, ts_ms, point });
        };
        for i in delta.samples.start as usize..delta.samples.end as usize {
            push(At::Sample(i), batch.samples[i].series, batch.samples[i].ts_ms);
        }
        for i in delta.histograms.start as usize..delta.histograms.end as usize {
            push(At::Histogram(i), batch.histograms[i].series, batch.histograms[i].ts_ms);
        }
    }
    values
}

struct Adding<'b> {
    batch: &'b mut Batch,
    stats: &'b mut Stats,
    claim: Claim,
    /// Zeros to put before values.
    zeros: Vec<(At, i64)>,
    /// Series whose run started earlier than this point says.
    going_on: HashSet<SeriesIndex>,
    /// Points that are refused.
    refused: HashSet<usize>,
}

impl Adding<'_> {
    fn add(&mut self, value: &Value) -> Result<(), Refused> {
        let last = match self.claim.known.get(&value.key) {
            Some(last) => Some(last.clone()),
            None => {
                let labels = self.batch.labels(value.series).unwrap_or_default();
                self.claim.deltas().read_last(&labels, value.start_ms, value.ts_ms)?
            }
        };
        let place = place(last.as_ref(), value.start_ms, value.ts_ms);
        match place {
            Place::First | Place::AfterGap => self.begin(value, last.as_ref(), place),
            Place::Next => self.go_on(value, last.as_ref()),
            Place::Overlapping if self.is_end(value) => self.begin(value, last.as_ref(), place),
            Place::Overlapping => {
                self.remember(value, last);
                self.refuse(
                    value,
                    place,
                    "it overlaps the point before it, up to which the series is added up already",
                );
            }
            Place::Same | Place::Late => self.repeat(value, last)?,
        }
        Ok(())
    }

    fn delta(&self, value: &Value) -> Total {
        match value.at {
            At::Sample(i) => Total::of_number(self.batch.samples[i].value),
            At::Histogram(i) => Total::Histogram(Arc::clone(&self.batch.histograms[i].histogram)),
        }
    }

    fn is_end(&self, value: &Value) -> bool {
        self.delta(value) == Total::Ended
    }

    fn begin(&mut self, value: &Value, last: Option<&Last>, place: Place) {
        self.count(place);
        let total = self.delta(value);
        let earliest_ms = last.map_or(i64::MIN, |last| last.ts_ms.saturating_add(1));
        let zero_ms = value.start_ms.max(earliest_ms);
        let recent = value.ts_ms.saturating_sub(value.start_ms) <= ZERO_AGE_MAX_MS;
        if total != Total::Ended && value.start_ms > 0 && zero_ms < value.ts_ms && recent {
            self.zeros.push((value.at, zero_ms));
        }
        self.take(value, total);
    }

    fn go_on(&mut self, value: &Value, last: Option<&Last>) {
        let sum = match (last.map(|last| &last.total), self.delta(value)) {
            (_, Total::Ended) => Some(Total::Ended),
            (Some(Total::Number(sum)), Total::Number(delta)) => Some(Total::Number(sum + delta)),
            (Some(Total::Histogram(sum)), Total::Histogram(delta)) => {
                histogram_sum::add(sum, &delta).map(|sum| Total::Histogram(Arc::new(sum)))
            }
            _ => None,
        };
        // After an end, or when the shape has changed, a new run begins.
        let Some(sum) = sum else { return self.begin(value, last, Place::First) };
        self.count(Place::Next);
        self.going_on.insert(value.series);
        self.take(value, sum);
    }

    /// Writes what the series has come to in the place of the difference.
    fn take(&mut self, value: &Value, total: Total) {
        self.put(value, &total);
        self.claim.series.insert(value.series, value.key);
        self.remember(value, Some(Last { ts_ms: value.ts_ms, total }));
    }

    fn put(&mut self, value: &Value, total: &Total) {
        match (value.at, total) {
            (At::Sample(i), Total::Number(sum)) => self.batch.samples[i].value = *sum,
            (At::Sample(i), Total::Ended) => self.batch.samples[i].value = stale_nan(),
            (At::Histogram(i), Total::Histogram(sum)) => self.batch.histograms[i].histogram = Arc::clone(sum),
            // Another kind stands there: the store sees a conflict.
            _ => {}
        }
    }

    fn remember(&mut self, value: &Value, last: Option<Last>) {
        if let Some(last) = last {
            self.claim.known.insert(value.key, last);
        }
    }

    /// A point whose sample is there was counted already; one whose time has passed without it cannot be counted any more.
    fn repeat(&mut self, value: &Value, last: Option<Last>) -> Result<(), Refused> {
        self.remember(value, last);
        let labels = self.batch.labels(value.series).unwrap_or_default();
        let deltas = Arc::clone(self.claim.deltas());
        let stored = deltas.read_at(&labels, value.ts_ms)?;
        let base = if value.start_ms > 0 { deltas.read_at(&labels, value.start_ms)? } else { None };
        match stored {
            Some(total) if self.is_repetition(value, base.as_ref(), &total) => {
                self.count(Place::Same);
                self.going_on.insert(value.series);
                self.claim.series.insert(value.series, value.key);
                self.put(value, &total);
            }
            _ => self.refuse(value, Place::Late, "it ends before the point up to which the series is added up already"),
        }
        Ok(())
    }

    /// Tells whether a stored sum is what the point made of what stood at its start. Where a run begins there is a zero, which
    /// must not pass for the end of a point that comes too late.
    fn is_repetition(&self, value: &Value, base: Option<&Total>, stored: &Total) -> bool {
        let unknown_base = value.start_ms <= 0;
        match (self.delta(value), stored) {
            (Total::Ended, Total::Ended) => true,
            (Total::Number(delta), Total::Number(stored)) => {
                let base = if let Some(Total::Number(base)) = base { *base } else { 0.0 };
                unknown_base || (base + delta).to_bits() == stored.to_bits()
            }
            (Total::Histogram(delta), Total::Histogram(stored)) => {
                let base = if let Some(Total::Histogram(base)) = base { base.count } else { 0.0 };
                unknown_base || base + delta.count == stored.count
            }
            _ => false,
        }
    }

    fn refuse(&mut self, value: &Value, place: Place, text: &str) {
        self.count(place);
        let reason = Refusal::DuplicateConflict;
        match value.at {
            At::Sample(i) => self.batch.verdicts[i] = Verdict::Refused(reason),
            At::Histogram(i) => self.batch.histograms[i].verdict = Verdict::Refused(reason),
        }
        if self.refused.insert(value.point) {
            self.stats.rejected += 1;
        }
        let labels = self.batch.labels(value.series).unwrap_or_default();
        let metric = labels.get(LABEL_NAME).unwrap_or_default().chars().take(200).collect();
        let text = format!("a point of delta temporality is refused: {text}");
        self.stats.first_rejected.get_or_insert(RejectedPoint { metric, reason, text });
    }

    fn count(&self, place: Place) {
        let stats = &self.claim.deltas().stats;
        let counter = match place {
            Place::First => &stats.first,
            Place::AfterGap => &stats.after_gap,
            Place::Next => &stats.next,
            Place::Same => &stats.repeated,
            Place::Overlapping => &stats.overlapping,
            Place::Late => &stats.late,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn finish(self) -> Claim {
        let Adding { batch, stats, claim, zeros, going_on, .. } = self;
        batch.start_timestamps.retain(|(series, _)| !going_on.contains(series));
        insert_zeros(batch, stats, zeros);
        claim
    }
}

/// Puts each zero before its value, so that a series stays in the order of time.
fn insert_zeros(batch: &mut Batch, stats: &mut Stats, zeros: Vec<(At, i64)>) {
    let (mut samples, mut histograms) = (Vec::new(), Vec::new());
    for (at, ts_ms) in zeros {
        match at {
            At::Sample(i) => samples.push((i, ts_ms)),
            At::Histogram(i) => histograms.push((i, ts_ms)),
        }
    }
    samples.sort_unstable();
    histograms.sort_unstable();
    for end in &mut stats.point_ends {
        end.samples += samples.partition_point(|(at, _)| *at < end.samples as usize) as u32;
        end.histograms += histograms.partition_point(|(at, _)| *at < end.histograms as usize) as u32;
    }
    if !samples.is_empty() {
        let old = std::mem::take(&mut batch.samples).into_iter().zip(std::mem::take(&mut batch.verdicts));
        let mut zeros = samples.into_iter().peekable();
        for (i, (sample, verdict)) in old.enumerate() {
            if let Some((_, ts_ms)) = zeros.next_if(|(at, _)| *at == i) {
                batch.samples.push(BatchSample { series: sample.series, ts_ms, value: 0.0 });
                batch.verdicts.push(Verdict::Pending);
            }
            batch.samples.push(sample);
            batch.verdicts.push(verdict);
        }
    }
    if !histograms.is_empty() {
        let old = std::mem::take(&mut batch.histograms);
        let mut zeros = histograms.into_iter().peekable();
        for (i, one) in old.into_iter().enumerate() {
            if let Some((_, ts_ms)) = zeros.next_if(|(at, _)| *at == i) {
                let histogram: Arc<Histogram> = Arc::new(histogram_sum::empty_like(&one.histogram));
                batch.histograms.push(BatchHistogram {
                    series: one.series,
                    ts_ms,
                    histogram,
                    verdict: Verdict::Pending,
                });
            }
            batch.histograms.push(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_where_the_rules_say() {
        let last = Last { ts_ms: 100, total: Total::Number(1.0) };
        for (start_ms, ts_ms, wanted) in [
            (100, 110, Place::Next),
            (0, 110, Place::Next),
            (101, 110, Place::AfterGap),
            (99, 110, Place::Overlapping),
            (90, 100, Place::Same),
            (100, 100, Place::Same),
            (90, 99, Place::Late),
        ] {
            assert_eq!(place(Some(&last), start_ms, ts_ms), wanted, "{start_ms} {ts_ms}");
            assert_eq!(place(None, start_ms, ts_ms), Place::First);
        }
    }
}
