//! Arithmetic as Go's `math` does it, where Rust's differs.

/// Gives the larger; NaN wins over all but +Inf.
pub(super) fn max(a: f64, b: f64) -> f64 {
    match () {
        () if a == f64::INFINITY || b == f64::INFINITY => f64::INFINITY,
        () if a.is_nan() || b.is_nan() => f64::NAN,
        () if a == 0.0 && b == 0.0 => a + b,
        () if a > b => a,
        () => b,
    }
}

/// Gives the smaller; NaN wins over all but -Inf.
pub(super) fn min(a: f64, b: f64) -> f64 {
    -max(-a, -b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_wins() {
        assert!(max(f64::NAN, 1.0).is_nan() && min(1.0, f64::NAN).is_nan());
        assert_eq!(max(f64::NAN, f64::INFINITY), f64::INFINITY);
        assert_eq!((max(1.0, 2.0), min(1.0, 2.0)), (2.0, 1.0));
        assert!(max(-0.0, 0.0).is_sign_positive() && min(-0.0, 0.0).is_sign_negative());
    }
}
