//! Quantiles of values.

use std::cmp::Ordering;

/// Orders values; NaN comes first.
pub(super) fn nan_first(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (a, b) => b.cmp(&a),
    }
}

/// Gives a quantile of the values, which get sorted: between two values the weighted mean of both.
pub(super) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(|a, b| nan_first(*a, *b));
    let last = values.len() - 1;
    let rank = q * last as f64;
    let lower = rank.floor() as usize;
    let weight = rank - rank.floor();
    let value = |at: usize| values.get(at.min(last)).copied().unwrap_or(f64::NAN);
    value(lower) * (1.0 - weight) + value(lower + 1) * weight
}

/// Tells whether a quantile asks for something that exists.
pub(super) fn is_valid(q: f64) -> bool {
    (0.0..=1.0).contains(&q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        let mut values = [3.0, 1.0, 2.0];
        assert_eq!(quantile(0.5, &mut values), 2.0);
        assert_eq!(quantile(0.75, &mut values), 2.5);
        assert_eq!(quantile(1.0, &mut values), 3.0);
        assert_eq!(quantile(-1.0, &mut values), f64::NEG_INFINITY);
        assert!(quantile(f64::NAN, &mut values).is_nan() && quantile(0.5, &mut []).is_nan());
        let mut with_nan = [1.0, f64::NAN, 2.0];
        assert_eq!(quantile(1.0, &mut with_nan), 2.0);
    }
}
