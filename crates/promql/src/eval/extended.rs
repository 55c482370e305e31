//! `anchored` and `smoothed` ranges: the ends of the range take the sample before them, or lie on a line between two.

use model::Samples;

use super::window::Window;
use crate::ast::RangeExtension;

/// The samples strictly inside of a range, and the values at its ends.
struct Ends<'a> {
    left: f64,
    right: f64,
    inner_ts: &'a [i64],
    inner: &'a [f64],
}

/// Gives the difference between the ends of the range; of a counter with what it lost when it started again.
pub(super) fn delta(window: &Window<'_>, counter: bool) -> Option<f64> {
    let ends = ends(window, counter)?;
    let mut value = ends.right - ends.left;
    if counter {
        let mut before = ends.left;
        for after in ends.inner.iter().chain(std::iter::once(&ends.right)) {
            if *after < before {
                value += before;
            }
            before = *after;
        }
    }
    Some(value)
}

fn ends<'a>(window: &Window<'a>, counter: bool) -> Option<Ends<'a>> {
    let smoothed = window.extension == Some(RangeExtension::Smoothed);
    let (mut first, mut last) = (first_index(window), window.ts_ms.len().checked_sub(1)?);
    if smoothed {
        last = window.ts_ms.iter().take(last).take_while(|ts| **ts < window.end_ms).count();
    }
    let point = |at: usize| window.ts_ms.get(at).copied().zip(window.values.get(at).copied());
    let ((first_ms, mut left), (last_ms, mut right)) = (point(first)?, point(last)?);
    if last_ms <= window.start_ms || (smoothed && first_ms > window.end_ms) {
        return None;
    }
    if smoothed && first_ms < window.start_ms {
        left = line((first_ms, left), point(first + 1)?, window.start_ms, counter);
    }
    if smoothed && last > 0 && last_ms > window.end_ms {
        right = line(point(last - 1)?, (last_ms, right), window.end_ms, counter);
    }
    if first_ms <= window.start_ms {
        first += 1;
    }
    let end = if last_ms >= window.end_ms { last } else { last + 1 };
    let inner = first.min(end)..end;
    Some(Ends { left, right, inner_ts: window.ts_ms.get(inner.clone())?, inner: window.values.get(inner)? })
}

/// The last sample at or before the start of the range, else the first one.
fn first_index(window: &Window<'_>) -> usize {
    let all_but_last = window.ts_ms.len().saturating_sub(1);
    last_before(window.ts_ms.iter().copied().take(all_but_last), window.start_ms)
}

/// The index of the last time that is not after another; 0 when there is none.
pub(super) fn last_before(times: impl Iterator<Item = i64>, start_ms: i64) -> usize {
    times.take_while(|ts| *ts <= start_ms).count().saturating_sub(1)
}

/// The value at a time between two points; a counter that fell started from zero in between.
fn line(first: (i64, f64), second: (i64, f64), at: i64, counter: bool) -> f64 {
    let from = if counter && second.1 < first.1 { 0.0 } else { first.1 };
    super::selector::line((first.0, from), second, at)
}

/// Gives the window from the last sample before the range on; `None` when no sample lies in the range.
pub(super) fn anchored<'a>(window: &Window<'a>) -> Option<Window<'a>> {
    if window.extension != Some(RangeExtension::Anchored) {
        return Some(*window);
    }
    if window.ts_ms.last().is_none_or(|ts| *ts <= window.start_ms) {
        return None;
    }
    let first = first_index(window);
    Some(Window { ts_ms: window.ts_ms.get(first..)?, values: window.values.get(first..)?, ..*window })
}

/// Gives the samples of the range with one at each of its ends.
pub(super) fn extended_samples(window: &Window<'_>) -> Samples {
    let mut samples = Samples::default();
    let Some(ends) = ends(window, false) else { return samples };
    samples.push(window.start_ms, ends.left);
    for (ts, value) in ends.inner_ts.iter().zip(ends.inner) {
        samples.push(*ts, *value);
    }
    samples.push(window.end_ms, ends.right);
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window<'a>(ts_ms: &'a [i64], values: &'a [f64], extension: RangeExtension) -> Window<'a> {
        Window {
            ts_ms,
            values,
            histograms: &[],
            starts: &[],
            start_ms: 15,
            end_ms: 135,
            at_ms: 135,
            extension: Some(extension),
        }
    }

    #[test]
    fn smoothed_counters_start_from_zero_after_a_reset() {
        let (ts, values) = ([0, 60, 120, 180], [9.0, 8.0, 5.0, 4.0]);
        assert_eq!(delta(&window(&ts, &values, RangeExtension::Smoothed), true), Some(12.0));
        assert_eq!(delta(&window(&ts, &values, RangeExtension::Smoothed), false), Some(4.75 - 8.75));
    }

    #[test]
    fn anchored_ranges_take_the_sample_before() {
        let w = window(&[0, 60, 120], &[1.0, 2.0, 4.0], RangeExtension::Anchored);
        assert_eq!(delta(&w, false), Some(3.0));
        let samples = extended_samples(&w);
        assert_eq!((samples.ts_ms, samples.values), (vec![15, 60, 120, 135], vec![1.0, 2.0, 4.0, 4.0]));
        assert!(anchored(&window(&[0, 15], &[1.0, 2.0], RangeExtension::Anchored)).is_none());
    }
}
