//! `anchored` and `smoothed` ranges of native histograms.

use std::sync::Arc;

use model::histogram::{Histogram, ResetHint};

use super::extended::last_before;
use super::native::{self, Total, detect_reset};
use super::range_native::Native;
use super::series::Point;
use super::window::Window;
use crate::ast::RangeExtension;

/// A histogram with its time.
type Timed = (i64, Arc<Histogram>);

/// The samples that count, and the histograms at the ends of the range.
struct Ends<'w> {
    /// From the one that stands for the left end to the one that stands for the right end.
    samples: &'w [Timed],
    left: Histogram,
    right: Histogram,
    /// Whether the left end lies on a line that a reset goes through.
    left_is_reset: bool,
}

impl Native<'_> {
    /// Gives the difference between the ends of the range, per second if `per_second`.
    pub(super) fn extended(&self, window: &Window<'_>, counter: bool, per_second: bool) -> Option<Point> {
        let ends = self.ends(window, counter)?;
        let counts = |h: &Histogram| h.reset_hint != ResetHint::Gauge;
        if !counter && (counts(&ends.left) || counts(&ends.right)) {
            self.notes.borrow_mut().not_gauge(self.metric, self.at);
        }
        let mut total = Total::new(&ends.right);
        self.reconciled(total.add(&ends.left, -1.0), "subtraction")?;
        if counter {
            self.add_lost(&mut total, &ends)?;
        }
        let gained = native::with_hint(total.get(), ResetHint::Gauge);
        let divisor = if per_second { window.seconds() } else { 1.0 };
        Some(Point::Histogram(Arc::new(native::scaled(&gained, false, |value| value / divisor))))
    }

    fn ends<'w>(&self, window: &Window<'w>, counter: bool) -> Option<Ends<'w>> {
        let smoothed = window.extension == Some(RangeExtension::Smoothed);
        let all = window.histograms;
        let all_but_last = all.get(..all.len().checked_sub(1)?)?;
        let first = last_before(all_but_last.iter().map(|(ts, _)| *ts), window.start_ms);
        let last = match smoothed {
            true => all_but_last.partition_point(|(ts, _)| *ts < window.end_ms),
            false => all_but_last.len(),
        };
        let samples = all.get(first..=last)?;
        let (first, last) = (samples.first()?, samples.last()?);
        if last.0 <= window.start_ms || (smoothed && first.0 > window.end_ms) {
            return None;
        }
        self.check_kinds(samples, counter)?;
        let (mut left, mut right) = (Histogram::clone(&first.1), Histogram::clone(&last.1));
        let mut left_is_reset = false;
        if smoothed && first.0 < window.start_ms {
            let second = samples.get(1)?;
            left_is_reset = detect_reset(&second.1, &first.1);
            left = self.line(first, second, window.start_ms, counter)?;
        }
        // The sample before the last may be one before those that count.
        if smoothed && last.0 > window.end_ms {
            let at = all.partition_point(|(ts, _)| *ts < last.0);
            if let Some(before) = at.checked_sub(1).and_then(|at| all.get(at)) {
                right = self.line(before, last, window.end_ms, counter)?;
            }
        }
        Some(Ends { samples, left, right, left_is_reset })
    }

    /// Refuses exponential buckets among custom ones; complains of gauges where counters are expected.
    fn check_kinds(&self, samples: &[Timed], counter: bool) -> Option<()> {
        let custom = samples.first()?.1.is_custom();
        for (_, histogram) in samples {
            if histogram.is_custom() != custom {
                self.notes.borrow_mut().mixed_schemas(self.metric, self.at);
                return None;
            }
            if counter && histogram.reset_hint == ResetHint::Gauge {
                self.notes.borrow_mut().not_counter(self.metric, self.at);
            }
        }
        Some(())
    }

    /// Gives the histogram at a time between two; a counter that fell started from zero in between.
    pub(super) fn line(&self, first: &Timed, second: &Timed, at: i64, counter: bool) -> Option<Histogram> {
        if at == first.0 || at == second.0 {
            return Some(Histogram::clone(if at == first.0 { &first.1 } else { &second.1 }));
        }
        let part = at.saturating_sub(first.0) as f64 / second.0.saturating_sub(first.0) as f64;
        if counter && detect_reset(&second.1, &first.1) {
            return Some(native::scaled(&second.1, false, |value| value * part));
        }
        let mut gained = Total::new(&second.1);
        self.reconciled(gained.add(&first.1, -1.0), "subtraction")?;
        let mut total = Total::new(&native::scaled(&gained.get(), false, |value| value * part));
        self.reconciled(total.add(&first.1, 1.0), "addition")?;
        Some(total.get())
    }

    /// Adds what the counter had when it started again.
    fn add_lost(&self, total: &mut Total, ends: &Ends<'_>) -> Option<()> {
        let (mut before, mut next) = (&ends.left, 1);
        if ends.left_is_reset {
            // The line to the left end has begun at zero already.
            (before, next) = (&ends.samples.get(1)?.1, 2);
        }
        let last = ends.samples.len().checked_sub(1)?;
        let Some(between) = ends.samples.get(next..last) else { return Some(()) };
        for after in between.iter().map(|(_, histogram)| &**histogram).chain([&ends.right]) {
            if detect_reset(after, before) {
                self.reconciled(total.add(before, 1.0), "addition")?;
            }
            before = after;
        }
        Some(())
    }
}
