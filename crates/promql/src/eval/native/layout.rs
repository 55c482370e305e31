//! Where buckets lie: bounds from schemas, buckets in order, spans of buckets.

use model::histogram::{BucketSpan, Histogram};

/// One bucket.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::eval) struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Observations.
    pub count: f64,
    /// Which side it belongs to.
    pub side: Side,
}

/// The side of a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::eval) enum Side {
    Negative,
    Zero,
    Positive,
}

/// Gives the upper bound of the positive bucket with an index.
pub(super) fn bound(index: i32, schema: i32, custom: &[f64]) -> f64 {
    if schema == model::histogram::CUSTOM_SCHEMA {
        return match usize::try_from(index) {
            Ok(at) => custom.get(at).copied().unwrap_or(f64::INFINITY),
            Err(_) => f64::NEG_INFINITY,
        };
    }
    let exponent = f64::from(index) * 2f64.powi(schema.saturating_neg());
    let bound = exponent.exp2();
    // The last bucket of finite values ends at the largest of them.
    if bound.is_infinite() && exponent <= 1024.0 { f64::MAX } else { bound }
}

/// Gives index and count of the buckets of a side, in rising order of the index.
pub(super) fn side(spans: &[BucketSpan], counts: &[f64]) -> Vec<(i32, f64)> {
    Histogram::buckets(spans, counts).collect()
}

/// Makes spans and counts of indices that rise; empty buckets are left out.
pub(super) fn spans(buckets: impl IntoIterator<Item = (i32, f64)>) -> (Vec<BucketSpan>, Vec<f64>) {
    let (mut spans, mut counts): (Vec<BucketSpan>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut next = 0;
    for (index, count) in buckets.into_iter().filter(|(_, count)| *count != 0.0) {
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(BucketSpan { offset: index.saturating_sub(next), length: 1 }),
        }
        counts.push(count);
        next = index.saturating_add(1);
    }
    (spans, counts)
}

/// Gives the histogram without its empty buckets.
pub(in crate::eval) fn compact(h: &Histogram) -> Histogram {
    let (positive_spans, positive) = spans(side(&h.positive_spans, &h.positive));
    let (negative_spans, negative) = spans(side(&h.negative_spans, &h.negative));
    Histogram { positive_spans, positive, negative_spans, negative, ..h.clone() }
}

/// Gives the zero bucket.
pub(super) fn zero_bucket(h: &Histogram) -> Bucket {
    Bucket { lower: -h.zero_threshold, upper: h.zero_threshold, count: h.zero_count, side: Side::Zero }
}

/// Gives the negative buckets, from the highest to the lowest: as they are kept.
pub(super) fn negative(h: &Histogram) -> impl Iterator<Item = Bucket> + '_ {
    side(&h.negative_spans, &h.negative).into_iter().map(|(index, count)| Bucket {
        lower: -bound(index, h.schema, &[]),
        upper: -bound(index.saturating_sub(1), h.schema, &[]),
        count,
        side: Side::Negative,
    })
}

/// Gives the positive buckets, from the lowest to the highest.
pub(super) fn positive(h: &Histogram) -> impl Iterator<Item = Bucket> + '_ {
    side(&h.positive_spans, &h.positive).into_iter().map(|(index, count)| Bucket {
        lower: bound(index.saturating_sub(1), h.schema, &h.custom_bounds),
        upper: bound(index, h.schema, &h.custom_bounds),
        count,
        side: Side::Positive,
    })
}

/// Gives all buckets, from the lowest to the highest; the zero bucket only if something is in it.
pub(in crate::eval) fn all(h: &Histogram) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = negative(h).collect();
    buckets.reverse();
    if h.zero_count > 0.0 {
        buckets.push(zero_bucket(h));
    }
    buckets.extend(positive(h));
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers() {
        assert_eq!([0, 1, 2, -1].map(|i| bound(i, 0, &[])), [1.0, 2.0, 4.0, 0.5]);
        assert_eq!(bound(4, 1, &[]), 4.0);
        assert_eq!(bound(1, -1, &[]), 4.0);
        assert_eq!((bound(1024, 0, &[]), bound(1025, 0, &[])), (f64::MAX, f64::INFINITY));
        assert_eq!([-1, 0, 1].map(|i| bound(i, -53, &[5.0])), [f64::NEG_INFINITY, 5.0, f64::INFINITY]);
    }

    #[test]
    fn spans_leave_out_what_is_empty() {
        let (spans, counts) = spans([(-2, 1.0), (-1, 0.0), (0, 2.0), (1, 3.0)]);
        assert_eq!(counts, [1.0, 2.0, 3.0]);
        assert_eq!(spans, [BucketSpan { offset: -2, length: 1 }, BucketSpan { offset: 1, length: 2 }]);
    }
}
