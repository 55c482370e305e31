//! `histogram_quantile` and its kin over series with `le` labels.

use hashbrown::HashMap;
use model::Labels;

use super::buckets::{Bucket, bucket_fraction, bucket_quantile};
use super::error::EvalError;
use super::evaluator::{Evaluator, bare};
use super::frame::Frame;
use super::label_set::{filtered, with_label};
use super::quantile;
use super::series::{ABSENT, Series, Vector, is_absent};
use crate::ast::{Expr, Span};
use crate::go_text::general;

/// The label that holds a bucket's upper bound.
const BOUND: &str = "le";

/// The series of one histogram.
struct Histogram {
    labels: Labels,
    /// Upper bounds with their series.
    buckets: Vec<(f64, Series)>,
}

/// Histograms with their share of the budget.
struct Histograms<'a> {
    all: Vec<Histogram>,
    _held: Vector<'a>,
}

impl Evaluator<'_> {
    /// Puts the series of each histogram together.
    fn histograms(&self, arg: &Expr, frame: &Frame) -> Result<Histograms<'_>, EvalError> {
        let mut vector = self.vector(arg, frame)?;
        let mut at: HashMap<Labels, usize> = HashMap::new();
        let mut all: Vec<Histogram> = Vec::new();
        for series in std::mem::take(&mut vector.series) {
            self.tick_series()?;
            let text = series.labels.get(BOUND).unwrap_or_default();
            let Some(bound) = bound_of(text) else {
                let name = series.labels.metric_name();
                self.notes.borrow_mut().bad_bucket_label(name, text, bare(arg).span);
                continue;
            };
            let labels = filtered(&series.labels, |name| name != BOUND);
            let index = *at.entry(labels.clone()).or_insert(all.len());
            if index == all.len() {
                all.push(Histogram { labels, buckets: Vec::new() });
            }
            if let Some(histogram) = all.get_mut(index) {
                histogram.buckets.push((bound, series));
            }
        }
        Ok(Histograms { all, _held: vector })
    }

    /// Computes a value of each histogram at each step.
    fn over_histograms(
        &self,
        histograms: &Histograms<'_>,
        frame: &Frame,
        label: impl Fn(&Labels) -> Labels,
        mut value: impl FnMut(usize, &Labels, &mut Vec<Bucket>) -> f64,
    ) -> Result<Vector<'_>, EvalError> {
        let mut vector = self.empty()?;
        let mut buckets = Vec::new();
        for histogram in &histograms.all {
            let mut values = vec![ABSENT; frame.steps];
            for (step, slot) in values.iter_mut().enumerate() {
                buckets.clear();
                buckets.extend(histogram.buckets.iter().filter_map(|(bound, series)| {
                    let count = series.values.get(step).copied().filter(|count| !is_absent(*count))?;
                    Some(Bucket { bound: *bound, count })
                }));
                self.tick(buckets.len())?;
                if !buckets.is_empty() {
                    *slot = value(step, &histogram.labels, &mut buckets);
                }
            }
            vector.push(Series { labels: label(&histogram.labels), drop_name: true, values })?;
        }
        vector.merge()?;
        Ok(vector)
    }

    /// Evaluates the quantiles that are asked for, and complains of those that do not exist.
    fn quantile_argument(&self, q: &Expr, frame: &Frame) -> Result<Vec<f64>, EvalError> {
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
        at: Span,
        frame: &Frame,
        label: impl Fn(&Labels) -> Labels,
    ) -> Result<Vector<'_>, EvalError> {
        self.over_histograms(histograms, frame, label, |step, labels, buckets| {
            let q = qs.get(step).copied().unwrap_or(f64::NAN);
            let (value, forced) = bucket_quantile(q, buckets);
            if let Some(forced) = forced {
                let ts_ms = frame.at(step);
                self.notes.borrow_mut().forced_monotonicity(labels.metric_name(), at, ts_ms, forced);
            }
            value
        })
    }

    #[inline(never)]
    pub(super) fn histogram_quantile(&self, q: &Expr, arg: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let qs = self.quantile_argument(q, frame)?;
        let histograms = self.histograms(arg, frame)?;
        self.quantiles(&qs, &histograms, bare(arg).span, frame, Labels::clone)
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
        let columns: Vec<Vec<f64>> = qs.iter().map(|q| self.quantile_argument(q, frame)).collect::<Result<_, _>>()?;
        let histograms = self.histograms(arg, frame)?;
        let mut vector = self.empty()?;
        for column in &columns {
            // A quantile that changes from step to step makes a series for each of its values.
            let mut distinct: Vec<f64> = Vec::new();
            for q in column {
                if !distinct.iter().any(|known| known.to_bits() == q.to_bits()) {
                    distinct.push(*q);
                }
            }
            for q in distinct {
                let text = open_metrics(q);
                let set = |labels: &Labels| with_label(labels, name, &text);
                let mut part = self.quantiles(column, &histograms, bare(label).span, frame, set)?;
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
        self.over_histograms(&histograms, frame, Labels::clone, |step, _, buckets| {
            bucket_fraction(at(&low, step), at(&high, step), buckets)
        })
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
