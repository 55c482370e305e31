//! How fast values change.

use super::extended;
use super::window::Window;

/// Gives the increase per second of a counter.
pub(super) fn rate(window: &Window<'_>) -> Option<f64> {
    if window.extension.is_some() {
        return extended::delta(window, true).map(|value| value / window.seconds());
    }
    extrapolated(window, true).map(|(value, factor)| value * (factor / window.seconds()))
}

/// Gives the increase of a counter.
pub(super) fn increase(window: &Window<'_>) -> Option<f64> {
    if window.extension.is_some() {
        return extended::delta(window, true);
    }
    extrapolated(window, true).map(|(value, factor)| value * factor)
}

/// Gives the difference between the ends of a gauge.
pub(super) fn delta(window: &Window<'_>) -> Option<f64> {
    if window.extension.is_some() {
        return extended::delta(window, false);
    }
    extrapolated(window, false).map(|(value, factor)| value * factor)
}

/// Gives the difference of first and last sample, and by what to multiply it so that it covers the range.
fn extrapolated(window: &Window<'_>, counter: bool) -> Option<(f64, f64)> {
    let gaps = window.values.len().checked_sub(1)?;
    let (first, last) = (*window.values.first()?, *window.values.last()?);
    let times = (*window.ts_ms.first()?, *window.ts_ms.last()?);
    let mut value = last - first;
    if counter {
        value += lost_in_resets(window);
    }
    let before = match window.began_inside(times.0).filter(|_| counter) {
        Some(start) => {
            value += first;
            Before::Began(start)
        }
        None if gaps == 0 => return None,
        None => Before::Unknown((counter && value > 0.0 && first >= 0.0).then_some(first / value)),
    };
    Some((value, factor(window, times, gaps, before)))
}

/// What is known of a range before its first sample.
pub(super) enum Before {
    /// Nothing. A counter is never drawn below zero: with it goes what it began with as a part of what it gained.
    Unknown(Option<f64>),
    /// The counter was zero at this time, inside of the range.
    Began(i64),
}

/// Gives by what to multiply the difference between two samples so that it covers the range.
///
/// The value is drawn on to an end of the range when a sample would be expected not much beyond it, else by half the
/// mean distance of samples.
pub(super) fn factor(window: &Window<'_>, (first_ms, last_ms): (i64, i64), gaps: usize, before: Before) -> f64 {
    let seconds = |from: i64, to: i64| to.saturating_sub(from) as f64 / 1000.0;
    let mut to_start = seconds(window.start_ms, first_ms);
    let mut to_end = seconds(last_ms, window.end_ms);
    let mut sampled = seconds(first_ms, last_ms);
    let between = if gaps == 0 { 0.0 } else { sampled / gaps as f64 };
    let threshold = between * 1.1;
    match before {
        Before::Began(start_ms) => (to_start, sampled) = (0.0, seconds(start_ms, last_ms)),
        Before::Unknown(zero) => {
            if to_start >= threshold {
                to_start = between / 2.0;
            }
            if let Some(to_zero) = zero.map(|part| sampled * part)
                && to_zero < to_start
            {
                to_start = to_zero;
            }
        }
    }
    if to_end >= threshold {
        to_end = between / 2.0;
    }
    if sampled == 0.0 { 1.0 } else { (sampled + to_start + to_end) / sampled }
}

/// Sums up what a counter had when it started again.
fn lost_in_resets(window: &Window<'_>) -> f64 {
    let pairs = window.values.windows(2).zip(window.ts_ms.windows(2));
    pairs
        .map(|pair| match pair {
            ([a, b], [t1, t2]) if b < a || window.starts_again(*t1, *t2) => *a,
            _ => 0.0,
        })
        .sum()
}

/// Gives the increase per second between the last two samples of a counter.
pub(super) fn irate(window: &Window<'_>) -> Option<f64> {
    let (before, after, seconds) = last_two(window)?;
    let [.., t1, t2] = window.ts_ms else { return None };
    let again = after < before || window.starts_again(*t1, *t2);
    let value = if again { after } else { after - before };
    Some(value / seconds)
}

/// Gives the difference between the last two samples.
pub(super) fn idelta(window: &Window<'_>) -> Option<f64> {
    last_two(window).map(|(before, after, _)| after - before)
}

fn last_two(window: &Window<'_>) -> Option<(f64, f64, f64)> {
    let ([.., before, after], [.., t1, t2]) = (window.values, window.ts_ms) else { return None };
    let ms = t2.saturating_sub(*t1);
    (ms != 0).then_some((*before, *after, ms as f64 / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_reach_to_the_ends_but_not_below_zero() {
        let mut window = Window {
            ts_ms: &[10_000, 20_000, 30_000, 40_000],
            values: &[1.0, 2.0, 0.5, 1.5],
            histograms: &[],
            starts: &[],
            start_ms: 0,
            end_ms: 50_000,
            at_ms: 50_000,
            extension: None,
        };
        // 0.5 + 2 gained in 30 s; 10 s to the end, and back to zero in 30 * 1 / 2.5 = 12 s, more than the 10 s there are.
        assert_eq!(increase(&window), Some(2.5 * (50.0 / 30.0)));
        assert_eq!(rate(&window), Some(2.5 * (50.0 / 30.0 / 50.0)));
        assert_eq!(delta(&window), Some(0.5 * (50.0 / 30.0)));
        assert_eq!((irate(&window), idelta(&window)), (Some(0.1), Some(1.0)));
        window.values = &[0.0, 1.0, 2.0, 3.0];
        assert_eq!(increase(&window), Some(3.0 * (40.0 / 30.0)));
        (window.values, window.ts_ms) = (&[1.0], &[10_000]);
        assert_eq!((rate(&window), irate(&window)), (None, None));
    }
}
