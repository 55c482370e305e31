//! Quantiles, fractions and variance: exponential interpolation within buckets, linear in the zero bucket and custom ones.

use model::histogram::Histogram;

use super::layout::{Bucket, Side, all};
use crate::eval::kahan::Kahan;

/// What NaN observations, which lie in no bucket, did to a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::eval) enum Observed {
    /// There are none.
    Numbers,
    /// The result is NaN because of them.
    OnlyNan,
    /// The result would be lower without them.
    SomeNan,
}

/// A bucket around zero ends at zero when the other side has no buckets.
pub(super) fn clip_zero(bucket: &mut Bucket, h: &Histogram) {
    if h.is_custom() || !(bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return;
    }
    if h.negative.is_empty() && !h.positive.is_empty() {
        bucket.lower = 0.0;
    } else if h.positive.is_empty() && !h.negative.is_empty() {
        bucket.upper = 0.0;
    }
}

/// Gives a quantile.
pub(in crate::eval) fn quantile(q: f64, h: &Histogram) -> (f64, Observed) {
    if q < 0.0 {
        return (f64::NEG_INFINITY, Observed::Numbers);
    }
    if q > 1.0 {
        return (f64::INFINITY, Observed::Numbers);
    }
    if h.count == 0.0 || q.is_nan() {
        return (f64::NAN, Observed::Numbers);
    }
    // From the nearer end; with NaN observations always from the lower one, because they count as highest.
    let forward = h.sum.is_nan() || q < 0.5;
    let mut buckets = all(h);
    let mut rank = q * h.count;
    if !forward {
        buckets.reverse();
        rank = (1.0 - q) * h.count;
    }
    let mut count = 0.0f64;
    let mut found = Bucket { lower: 0.0, upper: 0.0, count: 0.0, side: Side::Zero };
    for bucket in buckets.into_iter().filter(|bucket| bucket.count != 0.0) {
        found = bucket;
        count += bucket.count;
        if count >= rank {
            break;
        }
    }
    clip_zero(&mut found, h);
    if h.is_custom() {
        if found.lower == f64::NEG_INFINITY {
            if found.upper <= 0.0 {
                return (found.upper, Observed::Numbers);
            }
            found.lower = 0.0;
        } else if found.upper == f64::INFINITY {
            return (found.lower, Observed::Numbers);
        }
    }
    let count = count.min(h.count);
    if count < rank {
        return if h.sum.is_nan() { (f64::NAN, Observed::OnlyNan) } else { (found.upper, Observed::Numbers) };
    }
    rank = if forward { rank - (count - found.count) } else { count - rank };
    let observed = if h.sum.is_nan() { Observed::SomeNan } else { Observed::Numbers };
    (inside(&found, rank / found.count, h), observed)
}

/// Gives the value that has a fraction of a bucket below it.
fn inside(bucket: &Bucket, fraction: f64, h: &Histogram) -> f64 {
    if h.is_custom() || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return bucket.lower + (bucket.upper - bucket.lower) * fraction;
    }
    let (low, high) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
    if bucket.lower > 0.0 {
        (low + (high - low) * fraction).exp2()
    } else {
        -(high + (low - high) * (1.0 - fraction)).exp2()
    }
}

/// Gives the fraction of a bucket that lies below a value in it.
pub(super) fn share(bucket: &Bucket, value: f64, linear: bool) -> f64 {
    if linear {
        return (value - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let (low, high, at) = (bucket.lower.abs().log2(), bucket.upper.abs().log2(), value.abs().log2());
    if value > 0.0 { (at - low) / (high - low) } else { 1.0 - (at - high) / (low - high) }
}

/// Gives the fraction of observations between two bounds.
pub(in crate::eval) fn fraction(lower: f64, upper: f64, h: &Histogram) -> f64 {
    if h.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    (rank_of(upper, h) - rank_of(lower, h)) / h.count
}

/// How many observations lie below a value.
fn rank_of(value: f64, h: &Histogram) -> f64 {
    let mut rank = 0.0f64;
    for mut bucket in all(h) {
        let zero = bucket.lower <= 0.0 && bucket.upper >= 0.0;
        clip_zero(&mut bucket, h);
        if h.is_custom() && bucket.lower == f64::NEG_INFINITY && bucket.upper > 0.0 {
            bucket.lower = 0.0;
            if value < 0.0 {
                return rank.min(h.count);
            }
        }
        if bucket.lower >= value {
            return rank.min(h.count);
        }
        if bucket.upper > value {
            let linear = h.is_custom() || zero;
            let part = match bucket.lower.is_infinite() || bucket.upper.is_infinite() {
                true if bucket.upper.is_infinite() => 0.0,
                true => 1.0,
                false => share(&bucket, value, linear),
            };
            return (rank + bucket.count * part).min(h.count);
        }
        rank += bucket.count;
    }
    // NaN observations lie in no bucket and below no value.
    if h.sum.is_nan() { rank.min(h.count) } else { h.count }
}

/// Gives the estimated variance: each observation counts as lying in the middle of its bucket.
pub(in crate::eval) fn variance(h: &Histogram) -> f64 {
    let mean = h.sum / h.count;
    let mut squares = Kahan::default();
    for bucket in all(h).into_iter().filter(|bucket| bucket.count != 0.0) {
        let middle = if h.is_custom() {
            (bucket.upper + bucket.lower) / 2.0
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            (bucket.upper * bucket.lower).sqrt() * bucket.upper.signum()
        };
        let delta = middle - mean;
        squares = squares.add(bucket.count * delta * delta);
    }
    (squares.sum + squares.lost) / h.count
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::histogram::BucketSpan;

    fn histogram() -> Histogram {
        Histogram {
            count: 4.0,
            sum: 5.0,
            positive: vec![1.0, 2.0, 1.0],
            positive_spans: vec![BucketSpan { offset: 0, length: 3 }],
            ..Histogram::default()
        }
    }

    #[test]
    fn the_middle_of_a_bucket_is_its_geometric_mean() {
        let (value, observed) = quantile(0.5, &histogram());
        assert!((value - 2f64.sqrt()).abs() < 1e-12 && observed == Observed::Numbers);
        assert_eq!(fraction(1.0, 2.0, &histogram()), 0.5);
        assert_eq!(fraction(0.0, 8.0, &histogram()), 1.0);
        assert!((fraction(f64::NEG_INFINITY, 2f64.sqrt(), &histogram()) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn nan_observations_are_noticed() {
        let h = Histogram { count: 8.0, sum: f64::NAN, ..histogram() };
        assert_eq!(quantile(0.9, &h).1, Observed::OnlyNan);
        assert_eq!(quantile(0.1, &h).1, Observed::SomeNan);
    }
}
