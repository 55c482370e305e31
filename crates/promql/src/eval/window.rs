//! Functions of range vectors: each series is read once, its windows slide over the sorted samples.

use std::sync::Arc;

use model::histogram::{Histogram, ResetHint};
use model::{Labels, Samples, TimeRange};

use super::error::EvalError;
use super::evaluator::{Evaluator, bare, impossible};
use super::frame::{Frame, Reference};
use super::native;
use super::range_fn::{self, RangeFn};
use super::range_native::Native;
use super::scalars::Scalars;
use super::selector::{NO_EXTENDED_HISTOGRAMS, drop_stale};
use super::series::{Point, Series, Vector, histogram_weight};
use crate::ast::{DurationExpr, Expr, ExprKind, RangeExtension, Span, VectorSelector};

/// The samples that a function sees at one step: times in `(start_ms, end_ms]`, for `anchored` and `smoothed` some more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window<'a> {
    /// Times, rising.
    pub ts_ms: &'a [i64],
    /// The values that belong to them; never stale.
    pub values: &'a [f64],
    /// Native histograms with their times, rising; there is at least one value or histogram.
    pub histograms: &'a [(i64, Arc<Histogram>)],
    /// When the counting began that samples belong to, of the whole series; see [`Samples::starts`].
    pub starts: &'a [(i64, i64)],
    /// Where the range begins (exclusive).
    pub start_ms: i64,
    /// Where the range ends (inclusive).
    pub end_ms: i64,
    /// The time of the step.
    pub at_ms: i64,
    /// `anchored` or `smoothed`.
    pub extension: Option<RangeExtension>,
}

impl Window<'_> {
    /// Gives the length of the range in seconds.
    pub(super) fn seconds(&self) -> f64 {
        self.end_ms.saturating_sub(self.start_ms) as f64 / 1000.0
    }
}

/// A range vector before it is read.
pub(super) struct Range {
    reference: Reference,
    range_ms: i64,
    extension: Option<RangeExtension>,
    lookback_ms: i64,
}

impl Range {
    /// The times from which samples are taken at a step: exclusive start, inclusive end.
    fn bounds(&self, at_ms: i64) -> (i64, i64) {
        let end = self.reference.of(at_ms);
        let start = end.saturating_sub(self.range_ms);
        match self.extension {
            None => (start, end),
            Some(RangeExtension::Anchored) => (start.saturating_sub(self.lookback_ms), end),
            Some(RangeExtension::Smoothed) => {
                (start.saturating_sub(self.lookback_ms), end.saturating_add(self.lookback_ms))
            }
        }
    }

    /// The times from which samples are taken at any step.
    fn times(&self, frame: &Frame) -> TimeRange {
        let (start, _) = self.bounds(frame.start_ms);
        let (_, end) = self.bounds(frame.end_ms());
        TimeRange { start_ms: start.saturating_add(1), end_ms: end }
    }

    /// Walks over the steps; gives each the samples of its window.
    fn windows<'s>(
        &self,
        samples: &'s Samples,
        frame: &Frame,
        mut visit: impl FnMut(usize, Window<'s>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let (mut low, mut high) = (0, 0);
        let (mut first, mut last) = (0, 0);
        let histograms = &samples.histograms;
        for step in 0..frame.steps {
            let at_ms = frame.at(step);
            let (start, end) = self.bounds(at_ms);
            low += samples.ts_ms.iter().skip(low).take_while(|ts| **ts <= start).count();
            high = high.max(low);
            high += samples.ts_ms.iter().skip(high).take_while(|ts| **ts <= end).count();
            let (Some(ts_ms), Some(values)) = (samples.ts_ms.get(low..high), samples.values.get(low..high)) else {
                continue;
            };
            first += histograms.iter().skip(first).take_while(|(ts, _)| *ts <= start).count();
            last = last.max(first);
            last += histograms.iter().skip(last).take_while(|(ts, _)| *ts <= end).count();
            let histograms = histograms.get(first..last).unwrap_or_default();
            if ts_ms.is_empty() && histograms.is_empty() {
                continue;
            }
            let end_ms = self.reference.of(at_ms);
            let start_ms = end_ms.saturating_sub(self.range_ms);
            let (starts, extension) = (samples.starts.as_slice(), self.extension);
            visit(step, Window { ts_ms, values, histograms, starts, start_ms, end_ms, at_ms, extension })?;
        }
        Ok(())
    }
}

/// A call of a function of a range vector.
pub(super) struct RangeCall<'e> {
    /// Its name.
    pub name: &'static str,
    /// The range vector.
    pub matrix: &'e Expr,
    /// The scalar arguments, a value for each step.
    pub scalars: Vec<Scalars<'e>>,
}

/// What is called at each step, and where the range vector stands in the query.
struct Calls<'c, 'e> {
    function: RangeFn,
    call: &'c RangeCall<'e>,
    at: Span,
}

impl Evaluator<'_> {
    #[inline(never)]
    pub(super) fn range_call(&self, call: &RangeCall<'_>, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let Some(function) = range_fn::lookup(call.name) else { return impossible("function of a range vector") };
        let matrix = bare(call.matrix);
        let mut vector = self.empty()?;
        self.each_series(matrix, frame, call.name, |range, series, samples| {
            let keeps_name = matches!(call.name, "last_over_time" | "first_over_time");
            let drop_name = series.drop_name || !keeps_name;
            let mut series = Series::absent(series.labels, drop_name, frame.steps);
            let calls = Calls { function, call, at: matrix.span };
            self.slide(&calls, range, samples, frame, &mut series)?;
            self.note_non_counter(call.name, &series, matrix.span);
            vector.push(series)
        })?;
        Ok(vector)
    }

    fn note_non_counter(&self, function: &str, series: &Series, at: Span) {
        if !matches!(function, "rate" | "increase") {
            return;
        }
        let name = series.labels.metric_name();
        let counts = ["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix));
        if !name.is_empty() && !counts && series.has_floats() {
            self.notes.borrow_mut().possible_non_counter(name, at);
        }
    }

    /// Complains of start timestamps that contradict each other, where they were used.
    fn note_starts(&self, calls: &Calls<'_, '_>, window: &Window<'_>, series: &Series) {
        let used = matches!(calls.call.name, "rate" | "increase") && window.extension.is_none();
        if used && !window.starts.is_empty() && window.starts_overlap() {
            self.notes.borrow_mut().overlapping_starts(series.labels.metric_name(), calls.at);
        }
    }

    fn slide(
        &self,
        calls: &Calls<'_, '_>,
        range: &Range,
        samples: &Samples,
        frame: &Frame,
        series: &mut Series,
    ) -> Result<(), EvalError> {
        let call = calls.call;
        let mut scalars = Vec::with_capacity(call.scalars.len());
        range.windows(samples, frame, |step, window| {
            let weight =
                window.values.len() + window.histograms.iter().map(|(_, h)| histogram_weight(h)).sum::<usize>();
            let _held = self.budget.hold(weight)?;
            self.used(weight as u64);
            self.tick(weight)?;
            scalars.clear();
            scalars.extend(call.scalars.iter().filter_map(|column| column.get(step)));
            let point = if window.histograms.is_empty() {
                (calls.function)(&window, &scalars)?.map(Point::Float)
            } else {
                let metric = series.labels.metric_name();
                let native = Native { metric, at: calls.at, notes: &self.notes };
                native.call(call.name, calls.function, &window, &scalars)?
            };
            if let Some(point) = point {
                self.note_starts(calls, &window, series);
                series.set(step, point);
            }
            Ok(())
        })
    }

    /// Reads a range vector series by series.
    fn each_series(
        &self,
        matrix: &Expr,
        frame: &Frame,
        function: &str,
        mut visit: impl FnMut(&Range, Head, &Samples) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        match &matrix.kind {
            ExprKind::Matrix { selector, range } => {
                let range = self.range_of(selector, range)?;
                check_extension(range.extension, function)?;
                let times = range.times(frame);
                let mut samples = Samples::default();
                for reader in self.readers(&selector.matchers, times)? {
                    samples.clear();
                    reader.read(times, &mut samples)?;
                    self.check_size(&samples)?;
                    self.tick_series()?;
                    drop_stale(&mut samples);
                    self.hint_resets(&mut samples);
                    visit(&range, Head { labels: Labels::clone(reader.labels()), drop_name: false }, &samples)?;
                }
                Ok(())
            }
            ExprKind::Subquery { .. } => {
                let (range, inner_frame, inner) = self.subquery(matrix, frame)?;
                for series in inner.series {
                    self.tick_series()?;
                    let samples = present_samples(&series, &inner_frame);
                    visit(&range, Head { labels: series.labels, drop_name: series.drop_name }, &samples)?;
                }
                Ok(())
            }
            _ => impossible("expression where a range vector stands"),
        }
    }

    pub(super) fn range_of(&self, selector: &VectorSelector, range: &DurationExpr) -> Result<Range, EvalError> {
        Ok(Range {
            reference: self.times.reference(selector.offset.as_ref(), selector.at)?,
            range_ms: self.times.positive_ms(range)?,
            extension: selector.extension,
            lookback_ms: self.options.lookback_ms.max(1),
        })
    }

    /// Evaluates what a subquery repeats, at the multiples of its step that lie in its ranges.
    fn subquery(&self, subquery: &Expr, frame: &Frame) -> Result<(Range, Frame, Vector<'_>), EvalError> {
        let ExprKind::Subquery { expr, range, step, offset, at } = &subquery.kind else {
            return impossible("expression where a subquery stands");
        };
        let range = Range {
            reference: self.times.reference(offset.as_ref(), *at)?,
            range_ms: self.times.positive_ms(range)?,
            extension: None,
            lookback_ms: 0,
        };
        let step_ms = match step {
            Some(step) => self.times.positive_ms(step)?,
            None => self.options.default_step_ms.max(1),
        };
        let times = range.times(frame);
        let after = times.start_ms.saturating_sub(1);
        // The first multiple of the step after the exclusive start; rounding up never passes it for negative times.
        let start_ms = after.div_euclid(step_ms).saturating_add(1).saturating_mul(step_ms);
        let limit = self.budget.limit();
        match Frame::between(start_ms, times.end_ms, step_ms, limit) {
            Some(inner) => Ok((range, inner, self.with_hints(false, || self.vector(expr, &inner))?)),
            None if start_ms > times.end_ms => Ok((range, Frame::instant(start_ms), self.empty()?)),
            None => Err(EvalError::TooManySamples(limit)),
        }
    }

    /// Gives a range vector at one time, as an instant query that asks for it.
    pub(super) fn matrix_at(&self, matrix: &Expr, ts_ms: i64) -> Result<Vec<(Head, Samples)>, EvalError> {
        let frame = Frame::instant(ts_ms);
        let mut hold = self.budget.hold(0)?;
        let mut found = Vec::new();
        self.each_series(matrix, &frame, "", |range, head, samples| {
            range.windows(samples, &frame, |_, window| {
                let (ts_ms, values) = (window.ts_ms.to_vec(), window.values.to_vec());
                let histograms = window.histograms.to_vec();
                let mut samples = Samples { ts_ms, values, histograms, starts: Vec::new() };
                if range.extension.is_some() && !window.histograms.is_empty() {
                    return Err(EvalError::Execution(NO_EXTENDED_HISTOGRAMS.to_owned()));
                }
                if range.extension.is_some() {
                    samples = range_fn::extended_samples(&window);
                }
                let weight = samples.histograms.iter().map(|(_, h)| histogram_weight(h)).sum::<usize>();
                hold.grow((samples.len() + weight) as u64)?;
                self.used(samples.len() as u64);
                if !samples.is_empty() {
                    found.push((head.clone(), samples));
                }
                Ok(())
            })
        })?;
        Ok(found)
    }
}

/// A series without its values.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Its labels.
    pub labels: Labels,
    /// Whether its name is to be dropped at the end.
    pub drop_name: bool,
}

/// The values of a subquery as samples. Between them samples may be missing or stand twice, so that hints about resets
/// no longer hold.
fn present_samples(series: &Series, frame: &Frame) -> Samples {
    let mut samples = Samples::default();
    for step in 0..frame.steps {
        match series.point(step) {
            Some(Point::Float(value)) => samples.push(frame.at(step), value),
            Some(Point::Histogram(histogram)) => {
                let histogram = match histogram.reset_hint {
                    ResetHint::Unknown | ResetHint::Gauge => histogram,
                    ResetHint::Reset | ResetHint::NoReset => {
                        Arc::new(native::with_hint(Histogram::clone(&histogram), ResetHint::Unknown))
                    }
                };
                samples.histograms.push((frame.at(step), histogram));
            }
            None => {}
        }
    }
    samples
}

/// Refuses functions that would take the samples outside of the range for samples in it.
fn check_extension(extension: Option<RangeExtension>, function: &str) -> Result<(), EvalError> {
    let (word, allowed): (_, &[&str]) = match extension {
        None => return Ok(()),
        Some(RangeExtension::Anchored) => ("anchored", &["changes", "delta", "increase", "rate", "resets"]),
        Some(RangeExtension::Smoothed) => ("smoothed", &["delta", "increase", "rate"]),
    };
    if function.is_empty() || allowed.contains(&function) {
        return Ok(());
    }
    let allowed = allowed.join(", ");
    Err(EvalError::Execution(format!("{word} modifier can only be used with: {allowed} - not with {function}")))
}
