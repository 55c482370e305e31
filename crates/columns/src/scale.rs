//! Doubles as scaled integers, where not a bit is lost.
//!
//! Most measured values are decimals of few digits. `v = n / 10^e` packs several times better as `n` than as a double.
//! A value is scaled only when dividing gives back the same bits; `-0.0`, NaNs, infinities and long fractions are not.

/// The largest exponent: 10^22 is the last power of ten that is exact as a double.
pub const EXPONENT_MAX: u8 = 22;

/// The largest magnitude of a scaled integer: up to here all integers are exact as doubles.
pub const SCALED_MAX: i64 = 1 << 53;

const POWERS: [f64; EXPONENT_MAX as usize + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// A series is scaled when at most one value in this many needs the second column.
const MISFIT_SHARE: usize = 8;

/// Gives the divisor that belongs to an exponent; exponents past the maximum count as the maximum.
pub fn divisor(exponent: u8) -> f64 {
    POWERS[usize::from(exponent.min(EXPONENT_MAX))]
}

/// Gives the integer `n` for which `n / 10^exponent` has the very bits of `value`.
pub fn to_scaled(value: f64, exponent: u8) -> Option<i64> {
    let power = divisor(exponent);
    let rounded = (value * power).round_ties_even();
    if rounded.is_nan() || rounded.abs() > SCALED_MAX as f64 {
        return None;
    }
    let n = rounded as i64;
    (from_scaled(n, power).to_bits() == value.to_bits()).then_some(n)
}

/// Gives the double that a scaled integer stands for.
pub fn from_scaled(n: i64, divisor: f64) -> f64 {
    n as f64 / divisor
}

/// Finds the smallest exponent at which (nearly) all values scale; `None` when too many do not.
///
/// **Cost** one multiplication and one division per value; a value that never scales costs 23.
pub fn choose_exponent(values: &[f64], is_exempt: impl Fn(f64) -> bool) -> Option<u8> {
    let allowed = values.len() / MISFIT_SHARE;
    let mut exponent = 0u8;
    let mut misfits = 0usize;
    let mut raised = false;
    for &value in values {
        if is_exempt(value) || to_scaled(value, exponent).is_some() {
            continue;
        }
        match (exponent + 1..=EXPONENT_MAX).find(|e| to_scaled(value, *e).is_some()) {
            Some(higher) if value.is_finite() => {
                exponent = higher;
                raised = true;
            }
            _ => misfits += 1,
        }
        if misfits > allowed {
            return None;
        }
    }
    // Values that fitted a lower exponent may be too large for the last one.
    let still = |v: &&f64| !is_exempt(**v) && to_scaled(**v, exponent).is_none();
    (!raised || values.iter().filter(still).count() <= allowed).then_some(exponent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_scale_and_come_back() {
        assert_eq!(choose_exponent(&[0.5, 12.25, 3.0], |_| false), Some(2));
        assert_eq!(to_scaled(12.25, 2), Some(1225));
        assert_eq!(choose_exponent(&[0.0, 1e9, -7.0], |_| false), Some(0));
        assert_eq!(choose_exponent(&[], |_| false), Some(0));
    }

    #[test]
    fn special_values_never_scale() {
        for v in [-0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE / 2.0, 0.1 + 0.2, 1e300] {
            for e in 0..=EXPONENT_MAX {
                assert_eq!(to_scaled(v, e), None, "{v} at exponent {e}");
            }
            assert_eq!(choose_exponent(&[v], |_| false), None);
        }
    }

    #[test]
    fn sixteen_digits_scale_when_the_bits_come_back() {
        assert_eq!(to_scaled(1.0 / 3.0, 16), Some(3_333_333_333_333_333));
        assert_eq!(from_scaled(3_333_333_333_333_333, divisor(16)).to_bits(), (1.0f64 / 3.0).to_bits());
        assert_eq!(to_scaled((SCALED_MAX + 2) as f64, 0), None, "beyond 2^53 integers have gaps");
        assert_eq!(to_scaled(-SCALED_MAX as f64, 0), Some(-SCALED_MAX));
    }

    #[test]
    fn one_misfit_does_not_spoil_a_series() {
        let mut values: Vec<f64> = (0..100).map(|i| f64::from(i) / 10.0).collect();
        values[50] = f64::NAN;
        assert_eq!(choose_exponent(&values, |_| false), Some(1));
    }

    #[test]
    fn large_integers_beside_small_decimals_stay_plain() {
        let values: Vec<f64> = (0..8).map(|i| if i % 2 == 0 { 9e15 + 2.0 * f64::from(i) } else { 1e-10 }).collect();
        assert_eq!(choose_exponent(&values, |_| false), None);
    }

    proptest! {
        #[test]
        fn what_scales_has_the_same_bits(bits: u64, n in -SCALED_MAX..=SCALED_MAX, e in 0..=EXPONENT_MAX) {
            for v in [f64::from_bits(bits), n as f64 / divisor(e)] {
                if let Some(m) = to_scaled(v, e) {
                    prop_assert_eq!((m as f64 / divisor(e)).to_bits(), v.to_bits());
                    prop_assert!(m.abs() <= SCALED_MAX);
                }
            }
        }
    }
}
