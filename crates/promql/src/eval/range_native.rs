//! Functions of range vectors whose windows hold native histograms, alone or among doubles.

use std::cell::RefCell;
use std::sync::Arc;

use model::histogram::{Histogram, ResetHint};

use super::annotations::Annotations;
use super::error::EvalError;
use super::native::{self, Added, Incompatible, Mean, Total, detect_reset};
use super::range_fn::RangeFn;
use super::rate::{self, Before};
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
            "changes" => anchored(&all(), window).map(|samples| count_pairs(samples, changed)),
            "resets" => anchored(&all(), window).map(|samples| count_pairs(samples, |a, b| was_reset(window, a, b))),
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
            if name == "double_exponential_smoothing" {
                // Its factors are checked in any case; without doubles nothing else comes out.
                floats(window, scalars)?;
            }
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
        if window.extension.is_some() {
            return self.extended(window, counter, per_second);
        }
        let gaps = histograms.len().checked_sub(1)?;
        let ((first_ms, first), (last_ms, _)) = (histograms.first()?, histograms.last()?);
        let gained = if gaps > 0 { Some(self.gained(window, counter)?) } else { None };
        let (gained, before) = match (window.began_inside(*first_ms).filter(|_| counter), gained) {
            (Some(start), gained) => (self.with_first(gained, first)?, Before::Began(start)),
            (None, None) => return None,
            (None, Some(gained)) => {
                let zero = (counter && gained.count > 0.0 && first.count >= 0.0).then_some(first.count / gained.count);
                (gained, Before::Unknown(zero))
            }
        };
        let mut factor = rate::factor(window, (*first_ms, *last_ms), gaps, before);
        if per_second {
            factor /= window.seconds();
        }
        Some(point(native::scaled(&gained, factor < 0.0, |value| value * factor)))
    }

    /// Gives what was gained since the counter was zero: what the first histogram has, too.
    fn with_first(&self, gained: Option<Histogram>, first: &Histogram) -> Option<Histogram> {
        let Some(gained) = gained else { return Some(first.clone()) };
        let mut total = Total::new(&gained);
        self.reconciled(total.add(first, 1.0), "addition")?;
        Some(total.get())
    }

    fn gained(&self, window: &Window<'_>, counter: bool) -> Option<Histogram> {
        let histograms = window.histograms;
        let [(first_ms, first), (second_ms, second), ..] = histograms else { return None };
        let (_, last) = histograms.last()?;
        if counter {
            self.note_kind(histograms, counter);
        }
        // What stands before a reset right at the beginning does not matter, whatever its layout.
        let nothing = Histogram {
            schema: second.schema,
            custom_bounds: second.custom_bounds.clone(),
            zero_threshold: second.zero_threshold,
            ..Histogram::default()
        };
        let again = counter && (window.starts_again(*first_ms, *second_ms) || detect_reset(second, first));
        let mut before: &Histogram = if again { &nothing } else { first };
        let between = histograms.get(1..histograms.len() - 1).unwrap_or_default();
        let odd = |h: &Histogram| h.is_custom() != before.is_custom();
        if odd(last) || (counter && between.iter().any(|(_, h)| odd(h))) {
            self.notes.borrow_mut().mixed_schemas(self.metric, self.at);
            return None;
        }
        let mut total = Total::new(last);
        self.reconciled(total.add(before, -1.0), "subtraction")?;
        if counter {
            let mut before_ms = *first_ms;
            for (ts_ms, histogram) in histograms.get(1..).unwrap_or_default() {
                if window.starts_again(before_ms, *ts_ms) || detect_reset(histogram, before) {
                    self.reconciled(total.add(before, 1.0), "addition")?;
                }
                (before_ms, before) = (*ts_ms, histogram);
            }
            let coarsest = histograms.iter().skip(1).map(|(_, h)| h.schema).min()?;
            total.coarsen(coarsest);
        } else {
            self.note_kind(histograms, counter);
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

    pub(super) fn reconciled(&self, added: Result<Added, Incompatible>, during: &str) -> Option<Added> {
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
            (Sample::Float(t1, a), Sample::Float(t2, b)) if counter && (b < a || window.starts_again(*t1, *t2)) => {
                Some(Point::Float(b / divisor))
            }
            (Sample::Float(_, a), Sample::Float(_, b)) => Some(Point::Float((b - a) / divisor)),
            (Sample::Histogram(t1, a), Sample::Histogram(t2, b)) => {
                self.note_kind(&[(*t1, Arc::clone(a)), (*t2, Arc::clone(b))], counter);
                let mut total = Total::new(b);
                if !counter || !(window.starts_again(*t1, *t2) || detect_reset(b, a)) {
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

fn was_reset(window: &Window<'_>, before: &Sample<'_>, after: &Sample<'_>) -> bool {
    let again = || window.starts_again(before.ts_ms(), after.ts_ms());
    match (before, after) {
        (Sample::Float(_, a), Sample::Float(_, b)) => b < a || again(),
        (Sample::Histogram(_, a), Sample::Histogram(_, b)) => again() || detect_reset(b, a),
        _ => true,
    }
}

/// Gives the samples from the last one before an anchored range on; `None` when no sample lies in the range.
fn anchored<'s, 'w>(all: &'s [Sample<'w>], window: &Window<'_>) -> Option<&'s [Sample<'w>]> {
    if window.extension.is_none() {
        return Some(all);
    }
    let before = all.iter().take_while(|sample| sample.ts_ms() <= window.start_ms).count();
    if before == all.len() { None } else { all.get(before.saturating_sub(1)..) }
}
