//! `</` and `>/`: a histogram without the observations above or below a value.

use model::histogram::Histogram;

use super::distribution::share;
use super::layout::{Bucket, Side, compact, negative, positive, zero_bucket};

/// Gives the histogram without what lies above the limit (`upper`) or below it.
pub(in crate::eval) fn trim(h: &Histogram, limit: f64, upper: bool) -> Histogram {
    let mut out = h.clone();
    let mut cut = Cut { limit, upper, custom: h.is_custom(), ..Cut::default() };
    for (slot, bucket) in out.positive.iter_mut().zip(positive(h)) {
        cut.bucket(slot, bucket);
    }
    for (slot, bucket) in out.negative.iter_mut().zip(negative(h)) {
        cut.bucket(slot, bucket);
    }
    if h.zero_count > 0.0 {
        let below = split(&zero_bucket(h), limit, true);
        out.zero_count = if upper { below } else { h.zero_count - below };
        cut.kept += out.zero_count;
    }
    out.count = cut.kept;
    out.sum = 0.0;
    if cut.kept != 0.0 {
        out.sum = h.sum - cut.removed_sum;
        if (!cut.has_negative && out.sum < 0.0) || (!cut.has_positive && out.sum > 0.0) {
            out.sum = 0.0;
        }
    }
    compact(&out)
}

#[derive(Default)]
struct Cut {
    limit: f64,
    upper: bool,
    custom: bool,
    kept: f64,
    removed_sum: f64,
    has_positive: bool,
    has_negative: bool,
}

/// How much of a bucket lies at or below a value.
fn split(bucket: &Bucket, value: f64, linear: bool) -> f64 {
    if value <= bucket.lower {
        0.0
    } else if value >= bucket.upper {
        bucket.count
    } else {
        bucket.count * share(bucket, value, linear)
    }
}

impl Cut {
    fn bucket(&mut self, slot: &mut f64, bucket: Bucket) {
        if bucket.count == 0.0 {
            return;
        }
        self.see(&bucket);
        let (inside, outside) = match self.upper {
            true => (bucket.upper <= self.limit, bucket.lower >= self.limit),
            false => (bucket.lower >= self.limit, bucket.upper <= self.limit),
        };
        if inside {
            self.kept += bucket.count;
            return;
        }
        let (keep, middle) = self.part(&bucket);
        if outside {
            let middle = if self.custom { middle } else { (bucket.lower * bucket.upper).sqrt() };
            self.removed_sum += bucket.count * middle;
            *slot = 0.0;
        } else {
            self.removed_sum += (bucket.count - keep) * middle;
            self.kept += keep;
            *slot = keep;
        }
    }

    /// Notes on which side of zero observations may lie.
    fn see(&mut self, bucket: &Bucket) {
        match (self.custom, bucket.side) {
            (true, _) => {
                self.has_negative |= bucket.lower < 0.0 || bucket.upper <= 0.0;
                self.has_positive |= bucket.upper > 0.0;
            }
            (false, Side::Negative) => self.has_negative = true,
            (false, _) => self.has_positive = true,
        }
    }

    /// How much of a bucket stays, and where what goes lay on average.
    fn part(&self, bucket: &Bucket) -> (f64, f64) {
        if bucket.lower.is_infinite() || bucket.upper.is_infinite() {
            return self.infinite_part(bucket);
        }
        let below = split(bucket, self.limit, self.custom);
        let middle = |product: f64| match (self.custom, bucket.side) {
            (true, _) => (bucket.lower + bucket.upper) / 2.0,
            (false, Side::Negative) => -product.sqrt(),
            (false, _) => product.sqrt(),
        };
        match self.upper {
            true => (below, middle(bucket.lower.abs() * self.limit.abs())),
            false => (bucket.count - below, middle(self.limit.abs() * bucket.upper.abs())),
        }
    }

    /// In a bucket without end the observations lie nobody knows where; one that begins at -Inf and ends above zero
    /// counts as beginning at zero.
    fn infinite_part(&self, bucket: &Bucket) -> (f64, f64) {
        let limit = self.limit;
        if bucket.lower == f64::NEG_INFINITY {
            let from_zero = limit >= 0.0 && bucket.upper > limit && bucket.upper.is_finite();
            return match self.upper {
                true if limit >= bucket.upper => (bucket.count, 0.0),
                true if from_zero => (bucket.count * limit / bucket.upper, (limit + bucket.upper) / 2.0),
                false if limit <= bucket.lower => (bucket.count, 0.0),
                false if from_zero => (bucket.count * (1.0 - limit / bucket.upper), limit / 2.0),
                _ => (0.0, bucket.upper),
            };
        }
        match !self.upper && limit <= bucket.lower {
            true => (bucket.count, 0.0),
            false => (0.0, bucket.lower),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::histogram::BucketSpan;

    #[test]
    fn what_is_cut_off_is_gone() {
        let h = Histogram {
            count: 4.0,
            sum: 9.0,
            positive: vec![1.0, 2.0, 1.0],
            positive_spans: vec![BucketSpan { offset: 0, length: 3 }],
            ..Histogram::default()
        };
        let low = trim(&h, 2.0, true);
        assert_eq!((low.count, low.positive.clone()), (3.0, vec![1.0, 2.0]));
        let high = trim(&h, 2.0, false);
        assert_eq!((high.count, high.positive.clone()), (1.0, vec![1.0]));
        assert_eq!(trim(&h, 100.0, false).count, 0.0);
    }
}
