//! Functions of range vectors whose windows hold native histograms, alone or among doubles.

use std::cell::RefCell;
use std::sync::Arc;

use model::histogram::{Histogram, ResetHint};

use super::annotations::Annotations;
use super::error::EvalError;
use super::native::{self, Added, Incompatible, Mean, Total, detect_reset};
use super::range_fn::RangeFn;
use super::rate;
use super::selector::NO_EXTENDED_HISTOGRAMS;
use super::series::Point;
use super::window::Window;
use crate::ast::Span;

/// What the functions need to complain.
pub(super) struct Native<'n> {
    /// The series' metric.
    pub metric: &'n str,
    /// Where the range vector stands.
    pub at: Span,
    /// Where complaints go.
    pub notes: &'n RefCell<Annotations>,
}

/// A sample of either kind with its time.
#[derive(Clone, Copy)]
enum Sample<'w> {
    Float(i64, f64),
    Histogram(i64, &'w Arc<Histogram>),
}

impl Sample<'_> {
    fn ts_ms(&self) -> i64 {
        match self {
            Sample::Float(ts_ms, _) | Sample::Histogram(ts_ms, _) => *ts_ms,
        }
    }

    fn point(&self) -> Point {
        match self {
            Sample::Float(_, value) => Point::Float(*value),
            Sample::Histogram(_, histogram) => Point::Histogram(Arc::clone(histogram)),
        }
    }
}

/// Gives the samples of both kinds in order of their times.
fn merged<'w>(window: &Window<'w>) -> Vec<Sample<'w>> {
    let floats = window.ts_ms.iter().zip(window.values).map(|(ts, value)| Sample::Float(*ts, *value));
    let histograms = window.histograms.iter().map(|(ts, histogram)| Sample::Histogram(*ts, histogram));
    let mut all: Vec<Sample<'w>> = floats.chain(histograms).collect();
    all.sort_by_key(Sample::ts_ms);
    all
}

impl Native<'_> {
    /// Calls a function over a window with at least one histogram.
    pub(super) fn call(
        &self,
        name: &str,
        floats: RangeFn,
        window: &Window<'_>,
        scalars: &[f64],
    ) -> Result<Option<Point>, EvalError> {
        if window.extension.is_some() {
            return Err(EvalError::Execution(NO_EXTENDED_HISTOGRAMS.to_owned()));
        }
        let all = || merged(window);
        let seconds = |sample: &Sample<'_>| Point::Float(sample.ts_ms() as f64 / 1000.0);
        Ok(match name {
            "rate" | "increase" => self.rate(window, true, name == "rate"),
            "delta" => self.rate(window, false, false),
            "irate" => self.last_two(window, true),
            "idelta" => self.last_two(window, false),
            "sum_over_time" => self.unmixed(window).and_then(|histograms| self.sum(histograms)),
            "avg_over_time" => self.unmixed(window).and_then(|histograms| self.mean(histograms)),
            "absent_over_time" | "present_over_time" => Some(Point::Float(1.0)),
            "count_over_time" => Some(Point::Float((window.values.len() + window.histograms.len()) as f64)),
            "first_over_time" => all().first().map(Sample::point),
            "last_over_time" => all().last().map(Sample::point),
            "ts_of_first_over_time" => all().first().map(seconds),
            "ts_of_last_over_time" => all().last().map(seconds),
            "changes" => Some(count_pairs(&all(), changed)),
            "resets" => Some(count_pairs(&all(), was_reset)),
            _ => self.only_floats(name, floats, window, scalars)?,
        })
    }

    /// Calls a function that knows doubles only, and says that histograms were ignored.
    fn only_floats(
        &self,
        name: &str,
        floats: RangeFn,
        window: &Window<'_>,
        scalars: &[f64],
    ) -> Result<Option<Point>, EvalError> {
        if window.values.is_empty() {
            return Ok(None);
        }
        let trend = matches!(name, "deriv" | "predict_linear" | "double_exponential_smoothing" | "integral");
        self.notes.borrow_mut().ignored_in_range(self.metric, self.at);
        if trend && window.values.len() < 2 {
            return Ok(None);
        }
        Ok(floats(window, scalars)?.map(Point::Float))
    }

    /// Gives the histograms, unless doubles stand among them.
    fn unmixed<'w>(&self, window: &Window<'w>) -> Option<&'w [(i64, Arc<Histogram>)]> {
        if window.values.is_empty() {
            return Some(window.histograms);
        }
        self.notes.borrow_mut().mixed_range(self.metric, self.at);
        None
    }

    fn sum(&self, histograms: &[(i64, Arc<Histogram>)]) -> Option<Point> {
        let ((_, first), rest) = histograms.split_first()?;
        let mut total = Total::new(first);
        let mut added = Added::default();
        for (_, histogram) in rest {
            added.note(self.compatible(total.add(histogram, 1.0))?);
        }
        self.aggregated(histograms, added);
        Some(point(total.get()))
    }

    fn mean(&self, histograms: &[(i64, Arc<Histogram>)]) -> Option<Point> {
        let ((_, first), rest) = histograms.split_first()?;
        let mut mean = Mean::new(first);
        let mut added = Added::default();
        for (_, histogram) in rest {
            added.note(self.compatible(mean.add(histogram))?);
        }
        self.aggregated(histograms, added);
        Some(point(mean.get()))
    }

    fn aggregated(&self, histograms: &[(i64, Arc<Histogram>)], added: Added) {
        let any = |hint: ResetHint| histograms.iter().any(|(_, h)| h.reset_hint == hint);
        let mut notes = self.notes.borrow_mut();
        if any(ResetHint::Reset) && any(ResetHint::NoReset) {
            notes.conflicting_resets("aggregation", self.at);
        }
        if added.reconciled {
            notes.reconciled_buckets("aggregation", self.at);
        }
    }

    fn compatible(&self, added: Result<Added, Incompatible>) -> Option<Added> {
        if added.is_err() {
            self.notes.borrow_mut().mixed_schemas(self.metric, self.at);
        }
        added.ok()
    }

    /// Gives the difference between the ends of the range, per second if `per_second`.
    fn rate(&self, window: &Window<'_>, counter: bool, per_second: bool) -> Option<Point> {
        let histograms = self.unmixed(window)?;
        let gaps = histograms.len().checked_sub(1).filter(|gaps| *gaps > 0)?;
        let ((first_ms, first), (last_ms, _)) = (histograms.first()?, histograms.last()?);
        let gained = self.gained(histograms, counter)?;
        let zero = (counter && gained.count > 0.0 && first.count >= 0.0).then_some(first.count / gained.count);
        let mut factor = rate::factor(window, (*first_ms, *last_ms), gaps, zero);
        if per_second {
            factor /= window.seconds();
        }
        Some(point(native::scaled(&gained, factor < 0.0, |value| value * factor)))
    }

    fn gained(&self, histograms: &[(i64, Arc<Histogram>)], counter: bool) -> Option<Histogram> {
        let [(_, first), (_, second), ..] = histograms else { return None };
        let (_, last) = histograms.last()?;
        self.note_kind(histograms, counter);
        // What stands before a reset right at the beginning does not matter, whatever its layout.
        let nothing = Histogram {
            schema: second.schema,
            custom_bounds: second.custom_bounds.clone(),
            zero_threshold: second.zero_threshold,
            ..Histogram::default()
        };
        let mut before: &Histogram = if counter && detect_reset(second, first) { &nothing } else { first };
        let between = histograms.get(1..histograms.len() - 1).unwrap_or_default();
        let odd = |h: &Histogram| h.is_custom() != before.is_custom();
        if odd(last) || (counter && between.iter().any(|(_, h)| odd(h))) {
            self.notes.borrow_mut().mixed_schemas(self.metric, self.at);
            return None;
        }
        let mut total = Total::new(last);
        self.reconciled(total.add(before, -1.0), "subtraction")?;
        if counter {
            for (_, histogram) in histograms.get(1..).unwrap_or_default() {
                if detect_reset(histogram, before) {
                    self.reconciled(total.add(before, 1.0), "addition")?;
                }
                before = histogram;
            }
            let coarsest = histograms.iter().skip(1).map(|(_, h)| h.schema).min()?;
            total.coarsen(coarsest);
        }
        Some(native::with_hint(total.get(), ResetHint::Gauge))
    }

    fn note_kind(&self, histograms: &[(i64, Arc<Histogram>)], counter: bool) {
        let gauge = |(_, h): &(i64, Arc<Histogram>)| h.reset_hint == ResetHint::Gauge;
        let ends = [histograms.first(), histograms.last()];
        let mut notes = self.notes.borrow_mut();
        if counter && histograms.iter().any(gauge) {
            notes.not_counter(self.metric, self.at);
        }
        if !counter && ends.into_iter().flatten().any(|end| !gauge(end)) {
            notes.not_gauge(self.metric, self.at);
        }
    }

    fn reconciled(&self, added: Result<Added, Incompatible>, during: &str) -> Option<Added> {
        let added = self.compatible(added)?;
        if added.reconciled {
            self.notes.borrow_mut().reconciled_buckets(during, self.at);
        }
        Some(added)
    }

    /// Gives the difference between the last two samples, per second if of a counter.
    fn last_two(&self, window: &Window<'_>, counter: bool) -> Option<Point> {
        let all = merged(window);
        let [.., before, after] = all.as_slice() else { return None };
        let seconds = after.ts_ms().saturating_sub(before.ts_ms()) as f64 / 1000.0;
        if seconds == 0.0 {
            return None;
        }
        let divisor = if counter { seconds } else { 1.0 };
        match (before, after) {
            (Sample::Float(_, a), Sample::Float(_, b)) if counter && b < a => Some(Point::Float(b / divisor)),
            (Sample::Float(_, a), Sample::Float(_, b)) => Some(Point::Float((b - a) / divisor)),
            (Sample::Histogram(t1, a), Sample::Histogram(t2, b)) => {
                self.note_kind(&[(*t1, Arc::clone(a)), (*t2, Arc::clone(b))], counter);
                let mut total = Total::new(b);
                if !counter || !detect_reset(b, a) {
                    self.reconciled(total.add(a, -1.0), "subtraction")?;
                }
                let gained = native::with_hint(total.get(), ResetHint::Gauge);
                Some(point(native::scaled(&gained, false, |value| value / divisor)))
            }
            _ => {
                self.notes.borrow_mut().mixed_range(self.metric, self.at);
                None
            }
        }
    }
}

fn point(histogram: Histogram) -> Point {
    Point::Histogram(Arc::new(histogram))
}

fn count_pairs(samples: &[Sample<'_>], counts: impl Fn(&Sample<'_>, &Sample<'_>) -> bool) -> Point {
    let pairs = samples.windows(2).filter(|pair| matches!(pair, [a, b] if counts(a, b)));
    Point::Float(pairs.count() as f64)
}

fn changed(before: &Sample<'_>, after: &Sample<'_>) -> bool {
    match (before, after) {
        (Sample::Float(_, a), Sample::Float(_, b)) => a != b && !(a.is_nan() && b.is_nan()),
        (Sample::Histogram(_, a), Sample::Histogram(_, b)) => !native::equal(a, b),
        _ => true,
    }
}

fn was_reset(before: &Sample<'_>, after: &Sample<'_>) -> bool {
    match (before, after) {
        (Sample::Float(_, a), Sample::Float(_, b)) => b < a,
        (Sample::Histogram(_, a), Sample::Histogram(_, b)) => detect_reset(b, a),
        _ => true,
    }
}
