//! Trends: linear regression and double exponential smoothing.

use super::error::EvalError;
use super::kahan::Kahan;
use super::window::Window;

/// Gives the slope per second.
pub(super) fn deriv(window: &Window<'_>) -> Option<f64> {
    if window.values.len() < 2 {
        return None;
    }
    // Counted from a time near the samples, so that the squares stay small.
    Some(linear(window, *window.ts_ms.first()?).0)
}

/// Gives the value that the regression has so many seconds after the step.
pub(super) fn predict(window: &Window<'_>, seconds: f64) -> Option<f64> {
    if window.values.len() < 2 {
        return None;
    }
    let (slope, intercept) = linear(window, window.at_ms);
    Some(slope * seconds + intercept)
}

/// Gives slope per second and value at a time by least squares.
fn linear(window: &Window<'_>, at_ms: i64) -> (f64, f64) {
    let first = window.values.first().copied().unwrap_or(f64::NAN);
    if window.values.iter().skip(1).all(|value| *value == first) {
        return if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) };
    }
    let (mut sum_x, mut sum_y) = (Kahan::default(), Kahan::default());
    let (mut sum_xy, mut sum_xx) = (Kahan::default(), Kahan::default());
    for (ts, y) in window.ts_ms.iter().zip(window.values) {
        let x = ts.saturating_sub(at_ms) as f64 / 1000.0;
        sum_x = sum_x.add(x);
        sum_y = sum_y.add(*y);
        sum_xy = sum_xy.add(x * y);
        sum_xx = sum_xx.add(x * x);
    }
    let n = window.values.len() as f64;
    let [x, y, xy, xx] = [sum_x, sum_y, sum_xy, sum_xx].map(|sum| sum.sum + sum.lost);
    let slope = (xy - x * y / n) / (xx - x * x / n);
    (slope, y / n - slope * x / n)
}

/// Gives the value smoothed by two factors: how fast old values fade, and how fast the trend does.
pub(super) fn smoothing(window: &Window<'_>, factors: &[f64]) -> Result<Option<f64>, EvalError> {
    let [smoothing, trend] = factors else { return Ok(None) };
    check_factor("smoothing", *smoothing)?;
    check_factor("trend", *trend)?;
    let [first, second, ..] = window.values else { return Ok(None) };
    let (mut before, mut level, mut slope) = (0.0, *first, second - first);
    for (i, value) in window.values.iter().enumerate().skip(1) {
        if i > 1 {
            slope = trend * (level - before) + (1.0 - trend) * slope;
        }
        let next = smoothing * value + (1.0 - smoothing) * (level + slope);
        (before, level) = (level, next);
    }
    Ok(Some(level))
}

fn check_factor(name: &str, factor: f64) -> Result<(), EvalError> {
    if factor <= 0.0 || factor >= 1.0 {
        let letter = name.chars().next().unwrap_or('s');
        let text = format!("invalid {name} factor. Expected: 0 < {letter}f < 1, got: {factor:.6}");
        return Err(EvalError::Execution(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_and_drawn_on() {
        let mut window = Window {
            ts_ms: &[1000, 2000, 3000],
            values: &[1.0, 3.0, 5.0],
            histograms: &[],
            starts: &[],
            start_ms: 0,
            end_ms: 3000,
            at_ms: 3000,
            extension: None,
        };
        assert_eq!((deriv(&window), predict(&window, 10.0)), (Some(2.0), Some(25.0)));
        assert_eq!(smoothing(&window, &[0.5, 0.5]), Ok(Some(5.0)));
        let error = smoothing(&window, &[0.5, 1.0]).unwrap_err().to_string();
        assert_eq!(error, "invalid trend factor. Expected: 0 < tf < 1, got: 1.000000");
        window.values = &[f64::INFINITY; 3];
        assert!(deriv(&window).is_some_and(f64::is_nan));
    }
}
