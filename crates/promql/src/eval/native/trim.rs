//! `</` and `>/`: a histogram without the observations above or below a value.

use model::histogram::Histogram;

use super::distribution::{clip_zero, share};
use super::layout::{Bucket, Side, compact, negative, positive, zero_bucket};

/// Gives the histogram without what lies above the limit (`upper`) or below it. The sum is estimated anew: what remains
/// of a bucket counts as lying in its middle. When nothing goes, everything stays as it was.
pub(in crate::eval) fn trim(h: &Histogram, limit: f64, upper: bool) -> Histogram {
    let mut out = h.clone();
    let mut cut = Cut { limit, upper, custom: h.is_custom(), count: 0.0, sum: 0.0, touched: false };
    for (slot, bucket) in out.positive.iter_mut().zip(positive(h)) {
        *slot = cut.keep(bucket);
    }
    for (slot, bucket) in out.negative.iter_mut().zip(negative(h)) {
        *slot = cut.keep(bucket);
    }
    if h.zero_count > 0.0 {
        let mut bucket = zero_bucket(h);
        clip_zero(&mut bucket, h);
        out.zero_count = cut.keep(bucket);
    }
    if !cut.touched {
        return h.clone();
    }
    out.count = cut.count;
    out.sum = cut.sum;
    compact(&out)
}

struct Cut {
    limit: f64,
    upper: bool,
    custom: bool,
    /// What remains so far, and its estimated sum.
    count: f64,
    sum: f64,
    /// Whether anything went.
    touched: bool,
}

impl Cut {
    /// Gives how much of a bucket remains.
    fn keep(&mut self, bucket: Bucket) -> f64 {
        if bucket.count == 0.0 {
            return 0.0;
        }
        let (kept, middle) = self.part(bucket);
        self.touched |= kept != bucket.count;
        if kept != 0.0 {
            self.count += kept;
            self.sum += kept * middle;
        }
        kept
    }

    /// How much of a bucket remains, and where that lies on average.
    fn part(&self, mut bucket: Bucket) -> (f64, f64) {
        if self.limit.is_infinite() {
            let all = self.upper == (self.limit > 0.0);
            return if all { (bucket.count, 0.0) } else { (0.0, 0.0) };
        }
        if bucket.lower == f64::NEG_INFINITY && bucket.upper == f64::INFINITY {
            return (0.0, 0.0);
        }
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 || self.limit < 0.0 {
                return self.endless_below(&bucket);
            }
            // A lowest bucket that ends above zero counts as beginning there.
            bucket.lower = 0.0;
        }
        if bucket.upper == f64::INFINITY {
            // Whatever lies in the highest bucket counts as lying above the limit.
            let middle = self.limit.max(bucket.lower);
            return if self.upper { (0.0, middle) } else { (bucket.count, middle) };
        }
        let (low, high) = match self.upper {
            true => (bucket.lower, self.limit.min(bucket.upper)),
            false => (self.limit.max(bucket.lower), bucket.upper),
        };
        if low >= high {
            return (0.0, 0.0);
        }
        let linear = self.custom || bucket.side == Side::Zero;
        let kept = match (low == bucket.lower, high == bucket.upper) {
            (true, true) => bucket.count,
            (true, false) => bucket.count * share(&bucket, high, linear),
            _ => bucket.count - bucket.count * share(&bucket, low, linear),
        };
        let middle = match (linear, bucket.side) {
            (true, _) => (low + high) / 2.0,
            (false, Side::Negative) => -(low * high).sqrt(),
            (false, _) => (low * high).sqrt(),
        };
        (kept, middle)
    }

    /// Whatever lies in a bucket that begins at -Inf counts as lying below the limit, unless it may be positive.
    fn endless_below(&self, bucket: &Bucket) -> (f64, f64) {
        match (self.upper, self.limit >= bucket.upper) {
            (true, true) => (bucket.count, bucket.upper),
            (true, false) if bucket.upper <= 0.0 => (bucket.count, self.limit),
            _ => (0.0, 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::histogram::{BucketSpan, CUSTOM_SCHEMA};

    fn histogram(counts: &[f64]) -> Histogram {
        Histogram {
            count: counts.iter().sum(),
            sum: 9.0,
            positive: counts.to_vec(),
            positive_spans: vec![BucketSpan { offset: 0, length: counts.len() as u32 }],
            ..Histogram::default()
        }
    }

    #[test]
    fn what_is_cut_off_is_gone() {
        let h = histogram(&[1.0, 2.0, 1.0]);
        let low = trim(&h, 2.0, true);
        assert_eq!((low.count, low.positive.clone()), (3.0, vec![1.0, 2.0]));
        let high = trim(&h, 2.0, false);
        assert_eq!((high.count, high.positive.clone()), (1.0, vec![1.0]));
        assert_eq!(trim(&h, 100.0, false).count, 0.0);
        assert_eq!(trim(&h, 0.1, false), h);
    }

    #[test]
    fn endless_buckets_are_not_halved() {
        let h = Histogram { schema: CUSTOM_SCHEMA, custom_bounds: vec![5.0], ..histogram(&[1.0, 100.0]) };
        assert_eq!(trim(&h, 2.0, true).positive, [0.4]);
        let high = trim(&h, 10.0, false);
        assert_eq!((high.count, high.sum), (100.0, 1000.0));
        assert_eq!(trim(&h, -10.0, false).sum, 500.0);
    }
}
