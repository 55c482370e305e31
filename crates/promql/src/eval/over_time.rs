//! Aggregations over the samples of a window.

use super::kahan::{Kahan, Mean};
use super::quantile::quantile;
use super::window::Window;

/// Sums up.
pub(super) fn sum(window: &Window<'_>) -> f64 {
    window.values.iter().fold(Kahan::default(), |sum, value| sum.add(*value)).total()
}

/// Gives the mean.
pub(super) fn avg(window: &Window<'_>) -> f64 {
    let mut mean = Mean::default();
    window.values.iter().for_each(|value| mean.add(*value));
    mean.get()
}

/// Gives the population variance.
pub(super) fn variance(window: &Window<'_>) -> f64 {
    let (mut count, mut mean, mut squares) = (0.0, Kahan::default(), Kahan::default());
    for value in window.values {
        count += 1.0;
        let delta = value - (mean.sum + mean.lost);
        mean = mean.add(delta / count);
        squares = squares.add(delta * (value - (mean.sum + mean.lost)));
    }
    (squares.sum + squares.lost) / count
}

/// Gives the median of the distances from the median.
pub(super) fn mad(window: &Window<'_>) -> f64 {
    let mut values = window.values.to_vec();
    if values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    let median = quantile(0.5, &mut values);
    values.iter_mut().for_each(|value| *value = (*value - median).abs());
    quantile(0.5, &mut values)
}

/// Gives a quantile.
pub(super) fn quantile_of(window: &Window<'_>, q: f64) -> f64 {
    quantile(q, &mut window.values.to_vec())
}

/// Finds the value that beats all others, and its time in seconds; a NaN is beaten by any value.
pub(super) fn extreme(window: &Window<'_>, beats: impl Fn(f64, f64) -> bool) -> Option<(f64, f64)> {
    let mut points = window.ts_ms.iter().zip(window.values);
    let mut best = points.clone().next()?;
    points.by_ref().for_each(|point| {
        if beats(*point.1, *best.1) || best.1.is_nan() {
            best = point;
        }
    });
    Some((*best.0 as f64 / 1000.0, *best.1))
}

/// Counts how often the value changes; NaN after NaN is no change.
pub(super) fn changes(window: &Window<'_>) -> f64 {
    count_pairs(window, |before, after| before != after && !(before.is_nan() && after.is_nan()))
}

/// Counts how often a counter started again.
pub(super) fn resets(window: &Window<'_>) -> f64 {
    let pairs = window.values.windows(2).zip(window.ts_ms.windows(2));
    let again = |(values, times): &(&[f64], &[i64])| match (values, times) {
        ([before, after], [t1, t2]) => after < before || window.starts_again(*t1, *t2),
        _ => false,
    };
    pairs.filter(again).count() as f64
}

fn count_pairs(window: &Window<'_>, counts: impl Fn(f64, f64) -> bool) -> f64 {
    window.values.windows(2).filter(|pair| matches!(pair, [a, b] if counts(*a, *b))).count() as f64
}

/// Gives the area under the samples in value × seconds: 0 takes the left value of each piece, 1 the right, else the mean.
pub(super) fn integral(window: &Window<'_>, strategy: f64) -> Option<f64> {
    if window.values.len() < 2 {
        return None;
    }
    let mut area = Kahan::default();
    for (ts, values) in window.ts_ms.windows(2).zip(window.values.windows(2)) {
        let ([t1, t2], [v1, v2]) = (ts, values) else { continue };
        let seconds = t2.saturating_sub(*t1) as f64 / 1000.0;
        let height = match strategy {
            0.0 => *v1,
            1.0 => *v2,
            _ => (v1 + v2) / 2.0,
        };
        area = area.add(height * seconds);
    }
    Some(area.total())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window<'a>(ts_ms: &'a [i64], values: &'a [f64]) -> Window<'a> {
        Window {
            ts_ms,
            values,
            histograms: &[],
            starts: &[],
            start_ms: 0,
            end_ms: 10_000,
            at_ms: 10_000,
            extension: None,
        }
    }

    #[test]
    fn windows_aggregate() {
        let w = window(&[1000, 2000, 3000, 5000], &[4.0, 1.0, f64::NAN, 1.0]);
        assert_eq!(extreme(&w, |new, best| new > best), Some((1.0, 4.0)));
        assert_eq!(extreme(&w, |new, best| new <= best), Some((5.0, 1.0)));
        assert_eq!((changes(&w), resets(&w)), (3.0, 1.0));
        let w = window(&[1000, 2000, 4000], &[1.0, 3.0, 5.0]);
        assert_eq!((sum(&w), avg(&w), mad(&w)), (9.0, 3.0, 2.0));
        assert_eq!(variance(&w), 8.0 / 3.0);
        assert_eq!((integral(&w, 0.0), integral(&w, 1.0), integral(&w, 2.0)), (Some(7.0), Some(13.0), Some(10.0)));
    }
}
