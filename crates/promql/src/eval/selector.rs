//! Selectors of instant vectors: the latest sample of each series within the lookback, unless it is a stale marker.

use std::sync::Arc;

use model::histogram::{Histogram, ResetHint};
use model::{Labels, Matcher, Samples, TimeRange, is_stale};

use super::error::EvalError;
use super::evaluator::Evaluator;
use super::frame::{Frame, Reference};
use super::native;
use super::range_native::Native;
use super::series::{ABSENT, Point, Series, Vector};
use crate::ast::{RangeExtension, Span, VectorSelector};

/// What is taken of the sample that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Take {
    /// Its value.
    Value,
    /// Its time in seconds.
    Seconds,
    /// Its time in milliseconds.
    Milliseconds,
    /// When the counting began that it belongs to, in seconds.
    Start,
}

impl Evaluator<'_> {
    #[inline(never)]
    pub(super) fn instant_selector(
        &self,
        selector: &VectorSelector,
        at: Span,
        frame: &Frame,
    ) -> Result<Vector<'_>, EvalError> {
        if selector.extension == Some(RangeExtension::Smoothed) {
            return self.smoothed_selector(selector, at, frame);
        }
        self.latest(selector, frame, Take::Value)
    }

    /// Gives the latest sample of each series at each step.
    pub(super) fn latest(&self, selector: &VectorSelector, frame: &Frame, take: Take) -> Result<Vector<'_>, EvalError> {
        let reference = self.times.reference(selector.offset.as_ref(), selector.at)?;
        self.latest_at(&selector.matchers, reference, frame, take)
    }

    /// Gives the latest sample of each series that matches, as seen from where `reference` says.
    pub(super) fn latest_at(
        &self,
        matchers: &[Matcher],
        reference: Reference,
        frame: &Frame,
        take: Take,
    ) -> Result<Vector<'_>, EvalError> {
        let lookback_ms = self.options.lookback_ms.max(1);
        let range = self.lookback_range(reference, frame, lookback_ms, 0);
        self.columns(matchers, range, |labels, samples| {
            let values = latest_column(samples, reference, frame, lookback_ms, take);
            let mut series = Series::floats(labels, false, values);
            if !samples.histograms.is_empty() {
                latest_histograms(samples, reference, frame, lookback_ms, take, &mut series);
            }
            Ok(series)
        })
    }

    /// Gives each series at the steps, drawn as lines between its samples.
    fn smoothed_selector(&self, selector: &VectorSelector, at: Span, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let reference = self.times.reference(selector.offset.as_ref(), selector.at)?;
        let lookback_ms = self.options.lookback_ms.max(1);
        let range = self.lookback_range(reference, frame, lookback_ms, lookback_ms);
        self.columns(&selector.matchers, range, |labels, samples| {
            drop_stale(samples);
            let values = smoothed_column(samples, reference, frame, lookback_ms);
            let mut series = Series::floats(labels, false, values);
            if !samples.histograms.is_empty() {
                self.smoothed_histograms(samples, reference, (at, frame, lookback_ms), &mut series);
            }
            Ok(series)
        })
    }

    /// Puts in the histograms on the lines between histograms; where doubles stand near by, nothing comes out.
    fn smoothed_histograms(
        &self,
        samples: &Samples,
        reference: Reference,
        (at, frame, lookback_ms): (Span, &Frame, i64),
        series: &mut Series,
    ) {
        let metric = series.labels.metric_name().to_owned();
        let native = Native { metric: &metric, at, notes: &self.notes };
        for step in 0..frame.steps {
            let now = reference.of(frame.at(step));
            let (from, to) = (now.saturating_sub(lookback_ms), now.saturating_add(lookback_ms));
            let first = samples.histograms.partition_point(|(ts, _)| *ts <= from);
            let end = samples.histograms.partition_point(|(ts, _)| *ts <= to);
            let near = samples.histograms.get(first..end).unwrap_or_default();
            if near.is_empty() {
                continue;
            }
            let floats = samples.ts_ms.partition_point(|ts| *ts <= from);
            if samples.ts_ms.get(floats).is_some_and(|ts| *ts <= to) {
                self.notes.borrow_mut().mixed_range(&metric, at);
                series.unset(step);
                continue;
            }
            let next = near.partition_point(|(ts, _)| *ts < now);
            let found = match (next.checked_sub(1).and_then(|before| near.get(before)), near.get(next)) {
                (_, Some((ts, exact))) if *ts == now => Some(Histogram::clone(exact)),
                (Some(before), Some(after)) => native.line(before, after, now, false),
                (Some((_, before)), None) => Some(Histogram::clone(before)),
                (None, _) => None,
            };
            if let Some(histogram) = found {
                series.set(step, Point::Histogram(Arc::new(histogram)));
            }
        }
    }

    fn lookback_range(&self, reference: Reference, frame: &Frame, back_ms: i64, ahead_ms: i64) -> TimeRange {
        TimeRange {
            start_ms: reference.of(frame.start_ms).saturating_sub(back_ms - 1),
            end_ms: reference.of(frame.end_ms()).saturating_add(ahead_ms),
        }
    }

    /// Reads each series once and makes a column of it.
    pub(super) fn columns(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        mut column: impl FnMut(Labels, &mut Samples) -> Result<Series, EvalError>,
    ) -> Result<Vector<'_>, EvalError> {
        let mut vector = self.empty()?;
        let mut samples = Samples::default();
        for reader in self.readers(matchers, range)? {
            samples.clear();
            reader.read(range, &mut samples)?;
            self.check_size(&samples)?;
            self.tick_series()?;
            self.hint_resets(&mut samples);
            let series = column(Labels::clone(reader.labels()), &mut samples)?;
            self.tick(samples.len() + samples.histograms.len() + series.values.len())?;
            self.used(series.present() as u64);
            vector.push(series)?;
        }
        Ok(vector)
    }

    /// Says of each histogram whether it comes after a reset, where nobody said so yet.
    pub(super) fn hint_resets(&self, samples: &mut Samples) {
        if !self.hints.get() {
            return;
        }
        let mut before: Option<Arc<Histogram>> = None;
        for (_, histogram) in &mut samples.histograms {
            let known = Arc::clone(histogram);
            if let Some(before) = before.filter(|_| known.reset_hint == ResetHint::Unknown) {
                let reset = native::detect_reset(&known, &before);
                let hint = if reset { ResetHint::Reset } else { ResetHint::NoReset };
                *histogram = Arc::new(native::with_hint(Histogram::clone(&known), hint));
            }
            before = Some(known);
        }
    }

    /// Refuses a series that alone has more samples than may be held.
    pub(super) fn check_size(&self, samples: &Samples) -> Result<(), EvalError> {
        let weight = samples.len() + samples.histograms.len();
        match weight as u64 > self.budget.limit() {
            true => Err(EvalError::TooManySamples(self.budget.limit())),
            false => Ok(()),
        }
    }
}

/// What Prometheus says of histograms in `anchored` and `smoothed` ranges that are asked for themselves.
pub(super) const NO_EXTENDED_HISTOGRAMS: &str = "anchored modifier is not supported with histograms";

/// Gives when the counting began that the sample of a time belongs to; 0 when that is not known.
pub(super) fn start_of(starts: &[(i64, i64)], ts_ms: i64) -> i64 {
    let found = starts.binary_search_by_key(&ts_ms, |(ts, _)| *ts).ok().and_then(|at| starts.get(at));
    found.map_or(0, |(_, start)| *start)
}

/// Takes the stale markers out.
pub(super) fn drop_stale(samples: &mut Samples) {
    samples.histograms.retain(|(_, histogram)| !is_stale(histogram.sum));
    if !samples.values.iter().any(|value| is_stale(*value)) {
        return;
    }
    let mut keep = samples.values.iter().map(|value| !is_stale(*value));
    samples.ts_ms.retain(|_| keep.next().unwrap_or(false));
    samples.values.retain(|value| !is_stale(*value));
}

fn latest_column(samples: &Samples, reference: Reference, frame: &Frame, lookback_ms: i64, take: Take) -> Vec<f64> {
    let mut values = vec![ABSENT; frame.steps];
    // The first sample later than what is read.
    let mut next = 0;
    for (step, value) in values.iter_mut().enumerate() {
        let at = reference.of(frame.at(step));
        next += samples.ts_ms.iter().skip(next).take_while(|ts| **ts <= at).count();
        let Some(found) = next.checked_sub(1) else { continue };
        let (Some(&ts_ms), Some(&sample)) = (samples.ts_ms.get(found), samples.values.get(found)) else { continue };
        if ts_ms <= at.saturating_sub(lookback_ms) || is_stale(sample) {
            continue;
        }
        *value = match take {
            Take::Value => sample,
            Take::Seconds => ts_ms as f64 / 1000.0,
            Take::Milliseconds => ts_ms as f64,
            Take::Start => start_of(&samples.starts, ts_ms) as f64 / 1000.0,
        };
    }
    values
}

/// Puts in the histograms that are later than the double that was found.
fn latest_histograms(
    samples: &Samples,
    reference: Reference,
    frame: &Frame,
    lookback_ms: i64,
    take: Take,
    series: &mut Series,
) {
    for step in 0..frame.steps {
        let at = reference.of(frame.at(step));
        let after = samples.histograms.partition_point(|(ts, _)| *ts <= at);
        let Some((ts, histogram)) = after.checked_sub(1).and_then(|found| samples.histograms.get(found)) else {
            continue;
        };
        let floats = samples.ts_ms.partition_point(|ts| *ts <= at);
        let float_ts = floats.checked_sub(1).and_then(|found| samples.ts_ms.get(found));
        if *ts <= at.saturating_sub(lookback_ms) || float_ts.is_some_and(|float_ts| float_ts >= ts) {
            continue;
        }
        series.unset(step);
        if !is_stale(histogram.sum) {
            series.set(
                step,
                match take {
                    Take::Value | Take::Milliseconds => Point::Histogram(Arc::clone(histogram)),
                    Take::Seconds => Point::Float(*ts as f64 / 1000.0),
                    Take::Start => Point::Float(start_of(&samples.starts, *ts) as f64 / 1000.0),
                },
            );
        }
    }
}

fn smoothed_column(samples: &Samples, reference: Reference, frame: &Frame, lookback_ms: i64) -> Vec<f64> {
    (0..frame.steps)
        .map(|step| {
            let at = reference.of(frame.at(step));
            let next = samples.ts_ms.partition_point(|ts| *ts < at);
            let point = |i: usize| samples.ts_ms.get(i).copied().zip(samples.values.get(i).copied());
            let after = point(next).filter(|(ts, _)| *ts <= at.saturating_add(lookback_ms));
            let before = next.checked_sub(1).and_then(point).filter(|(ts, _)| *ts > at.saturating_sub(lookback_ms));
            match (before, after) {
                (_, Some((ts, value))) if ts == at => value,
                (Some(left), Some(right)) => line(left, right, at),
                (Some((_, value)), None) => value,
                (None, _) => ABSENT,
            }
        })
        .collect()
}

/// Gives the value at a time on the line through two points.
pub(super) fn line((t1, v1): (i64, f64), (t2, v2): (i64, f64), at: i64) -> f64 {
    v1 + (v2 - v1) * at.saturating_sub(t1) as f64 / t2.saturating_sub(t1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::stale_nan;

    fn samples(points: &[(i64, f64)]) -> Samples {
        let mut samples = Samples::default();
        points.iter().for_each(|(ts, value)| samples.push(*ts, *value));
        samples
    }

    #[test]
    fn the_lookback_is_open_on_the_left_and_ends_at_stale_markers() {
        let data = samples(&[(0, 1.0), (10, 2.0), (20, stale_nan()), (40, 3.0)]);
        let frame = Frame { start_ms: 0, step_ms: 5, steps: 10 };
        let column = latest_column(&data, Reference::Moving { offset_ms: 0 }, &frame, 10, Take::Value);
        let want = [1.0, 1.0, 2.0, 2.0, ABSENT, ABSENT, ABSENT, ABSENT, 3.0, 3.0];
        assert_eq!(column.map_bits(), want.to_vec().map_bits());
        let fixed = latest_column(&data, Reference::Fixed { ts_ms: 12 }, &frame, 10, Take::Milliseconds);
        assert_eq!(fixed, [10.0; 10]);
    }

    #[test]
    fn smoothing_draws_lines() {
        let data = samples(&[(10, 1.0), (20, 3.0)]);
        let frame = Frame { start_ms: 5, step_ms: 10, steps: 4 };
        let column = smoothed_column(&data, Reference::Moving { offset_ms: 0 }, &frame, 10);
        assert_eq!(column.map_bits(), vec![ABSENT, 2.0, 3.0, ABSENT].map_bits());
    }

    trait MapBits {
        fn map_bits(self) -> Vec<u64>;
    }

    impl MapBits for Vec<f64> {
        fn map_bits(self) -> Vec<u64> {
            self.into_iter().map(f64::to_bits).collect()
        }
    }
}
