//! `histogram_quantile` and its kin over series with `le` labels.

use hashbrown::HashMap;
use model::Labels;
use model::histogram::Histogram as NativeHistogram;

use super::buckets::{Bucket, bucket_fraction, bucket_quantile};
use super::error::EvalError;
use super::evaluator::{Evaluator, bare};
use super::frame::Frame;
use super::label_set::{filtered, with_label};
use super::native::{self, Observed};
use super::quantile;
use super::scalars::Scalars;
use super::series::{ABSENT, Series, Vector};
use crate::ast::{Expr, Span};
use crate::go_text::general;

/// The label that holds a bucket's upper bound.
const BOUND: &str = "le";

/// The series of one histogram: classic buckets, a native one, or both by mistake.
struct Histogram {
    labels: Labels,
    /// Upper bounds with their series.
    buckets: Vec<(f64, Series)>,
    native: Option<Series>,
}

/// What is known of a histogram at one step.
enum Shape<'h> {
    Classic(&'h mut Vec<Bucket>),
    Native(&'h NativeHistogram),
}

/// Histograms with their share of the budget.
struct Histograms<'a> {
    all: Vec<Histogram>,
    /// Where the argument stands.
    at: Span,
    _held: Vector<'a>,
}

impl Evaluator<'_> {
    /// Puts the series of each histogram together.
    fn histograms(&self, arg: &Expr, frame: &Frame) -> Result<Histograms<'_>, EvalError> {
        let mut vector = self.with_hints(false, || self.vector(arg, frame))?;
        let mut at: HashMap<Labels, usize> = HashMap::new();
        let mut all: Vec<Histogram> = Vec::new();
        for series in std::mem::take(&mut vector.series) {
            self.tick_series()?;
            let mut place = |labels: Labels| {
                let index = *at.entry(labels.clone()).or_insert(all.len());
                if index == all.len() {
                    all.push(Histogram { labels, buckets: Vec::new(), native: None });
                }
                index
            };
            let native = (!series.histograms.is_empty()).then(|| place(series.labels.clone()));
            let mut classic = None;
            if series.has_floats() {
                let text = series.labels.get(BOUND).unwrap_or_default();
                match bound_of(text) {
                    Some(bound) => classic = Some((place(filtered(&series.labels, |name| name != BOUND)), bound)),
                    None => {
                        let name = series.labels.metric_name();
                        self.notes.borrow_mut().bad_bucket_label(name, text, bare(arg).span);
                    }
                }
            }
            match (native, classic) {
                (Some(native), None) => set_native(&mut all, native, series),
                (None, Some((index, bound))) => add_bucket(&mut all, index, bound, series),
                (Some(native), Some((index, bound))) => {
                    set_native(&mut all, native, series.clone());
                    add_bucket(&mut all, index, bound, series);
                }
                (None, None) => {}
            }
        }
        Ok(Histograms { all, at: bare(arg).span, _held: vector })
    }

    /// Computes a value of each histogram at each step.
    fn over_histograms(
        &self,
        histograms: &Histograms<'_>,
        frame: &Frame,
        label: impl Fn(&Labels) -> Labels,
        mut value: impl FnMut(usize, &Labels, Shape<'_>) -> f64,
    ) -> Result<Vector<'_>, EvalError> {
        let mut vector = self.empty()?;
        let mut buckets = Vec::new();
        for histogram in &histograms.all {
            let mut values = vec![ABSENT; frame.steps];
            for (step, slot) in values.iter_mut().enumerate() {
                buckets.clear();
                buckets.extend(
                    histogram
                        .buckets
                        .iter()
                        .filter_map(|(bound, series)| Some(Bucket { bound: *bound, count: series.float(step)? })),
                );
                self.tick(buckets.len())?;
                let native = histogram.native.as_ref().and_then(|series| series.histogram(step));
                match native {
                    Some(_) if !buckets.is_empty() => {
                        let name = histogram.labels.metric_name();
                        self.notes.borrow_mut().mixed_classic_native(name, histograms.at);
                    }
                    Some(native) => *slot = value(step, &histogram.labels, Shape::Native(native)),
                    None if !buckets.is_empty() => {
                        *slot = value(step, &histogram.labels, Shape::Classic(&mut buckets));
                    }
                    None => {}
                }
            }
            vector.push(Series::floats(label(&histogram.labels), true, values))?;
        }
        vector.merge()?;
        Ok(vector)
    }

    /// Evaluates the quantiles that are asked for, and complains of those that do not exist.
    fn quantile_argument(&self, q: &Expr, frame: &Frame) -> Result<Scalars<'_>, EvalError> {
        let qs = self.scalar(q, frame)?;
        for q_value in qs.iter().filter(|q| !quantile::is_valid(**q)) {
            self.notes.borrow_mut().invalid_quantile(*q_value, bare(q).span);
        }
        Ok(qs)
    }

    fn quantiles(
        &self,
        qs: &[f64],
        histograms: &Histograms<'_>,
        frame: &Frame,
        label: impl Fn(&Labels) -> Labels,
    ) -> Result<Vector<'_>, EvalError> {
        let at = histograms.at;
        self.over_histograms(histograms, frame, label, |step, labels, shape| {
            let q = qs.get(step).copied().unwrap_or(f64::NAN);
            let metric = labels.metric_name();
            match shape {
                Shape::Classic(buckets) => {
                    let (value, forced) = bucket_quantile(q, buckets);
                    if let Some(forced) = forced {
                        self.notes.borrow_mut().forced_monotonicity(metric, at, frame.at(step), forced);
                    }
                    value
                }
                Shape::Native(histogram) => {
                    let (value, observed) = native::quantile(q, histogram);
                    let note = |effect: &str| {
                        self.notes.borrow_mut().nan_observations("histogram_quantile", effect, metric, at);
                    };
                    match observed {
                        Observed::Numbers => {}
                        Observed::OnlyNan => note("result is NaN"),
                        Observed::SomeNan => note("result is skewed higher"),
                    }
                    value
                }
            }
        })
    }

    #[inline(never)]
    pub(super) fn histogram_quantile(&self, q: &Expr, arg: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let qs = self.quantile_argument(q, frame)?;
        let histograms = self.histograms(arg, frame)?;
        self.quantiles(&qs, &histograms, frame, Labels::clone)
    }

    #[inline(never)]
    pub(super) fn histogram_quantiles(
        &self,
        arg: &Expr,
        label: &Expr,
        qs: &[Expr],
        frame: &Frame,
    ) -> Result<Vector<'_>, EvalError> {
        let name = self.text(label)?;
        let columns: Vec<Scalars<'_>> =
            qs.iter().map(|q| self.quantile_argument(q, frame)).collect::<Result<_, _>>()?;
        let histograms = self.histograms(arg, frame)?;
        let mut vector = self.empty()?;
        for column in &columns {
            // A quantile that changes from step to step makes a series for each of its values.
            let mut distinct: Vec<f64> = Vec::new();
            for q in column.iter() {
                if !distinct.iter().any(|known| known.to_bits() == q.to_bits()) {
                    distinct.push(*q);
                }
            }
            for q in distinct {
                let text = open_metrics(q);
                let set = |labels: &Labels| with_label(labels, name, &text);
                let mut part = self.quantiles(column, &histograms, frame, set)?;
                for series in &mut part.series {
                    series.map(|step, value| match column.get(step) {
                        Some(other) if other.to_bits() == q.to_bits() => value,
                        _ => ABSENT,
                    });
                }
                vector.append(part)?;
            }
        }
        vector.merge()?;
        Ok(vector)
    }

    #[inline(never)]
    pub(super) fn histogram_fraction(
        &self,
        low: &Expr,
        high: &Expr,
        arg: &Expr,
        frame: &Frame,
    ) -> Result<Vector<'_>, EvalError> {
        let (low, high) = (self.scalar(low, frame)?, self.scalar(high, frame)?);
        let histograms = self.histograms(arg, frame)?;
        let at = |column: &[f64], step: usize| column.get(step).copied().unwrap_or(f64::NAN);
        self.over_histograms(&histograms, frame, Labels::clone, |step, labels, shape| {
            let (low, high) = (at(&low, step), at(&high, step));
            match shape {
                Shape::Classic(buckets) => bucket_fraction(low, high, buckets),
                Shape::Native(histogram) => {
                    if histogram.sum.is_nan() && histogram.count > 0.0 && !low.is_nan() && !high.is_nan() {
                        let effect = "which are excluded from all fractions";
                        let metric = labels.metric_name();
                        self.notes.borrow_mut().nan_observations("histogram_fraction", effect, metric, histograms.at);
                    }
                    native::fraction(low, high, histogram)
                }
            }
        })
    }
}

fn set_native(all: &mut [Histogram], index: usize, series: Series) {
    if let Some(histogram) = all.get_mut(index) {
        histogram.native = Some(series);
    }
}

fn add_bucket(all: &mut [Histogram], index: usize, bound: f64, series: Series) {
    if let Some(histogram) = all.get_mut(index) {
        histogram.buckets.push((bound, series));
    }
}

/// Reads an upper bound.
fn bound_of(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// Prints a float as OpenMetrics wants it: never without a point or an exponent.
fn open_metrics(value: f64) -> String {
    let text = general(value);
    if value.is_finite() && !text.contains(['.', 'e']) { text + ".0" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_labels_have_a_point() {
        assert_eq!([1.0, 0.5, 0.0, f64::INFINITY].map(open_metrics), ["1.0", "0.5", "0.0", "+Inf"]);
        assert_eq!((bound_of("+Inf"), bound_of("0.1"), bound_of("x")), (Some(f64::INFINITY), Some(0.1), None));
    }
}
