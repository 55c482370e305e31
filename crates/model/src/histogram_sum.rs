//! The sum of two native histograms, for whoever adds up: points of delta temporality, filters that aggregate.
//!
//! Invariants: 1. every observation of both is in the sum; 2. the sum is as coarse as the coarser one, its zero bucket as wide as
//! the wider one; 3. it passes [`Histogram::check`].

use std::collections::BTreeMap;

use crate::histogram::{BUCKETS_MAX, BucketSpan, Histogram, SCHEMAS};

/// Empty buckets in a row that are written rather than begin a new span.
const GAP_MAX: i64 = 2;

/// Gives the sum; `None` when the two do not go together: custom bounds that differ, or custom with exponential ones.
pub fn add(a: &Histogram, b: &Histogram) -> Option<Histogram> {
    if a.custom_bounds != b.custom_bounds || a.is_custom() != b.is_custom() {
        return None;
    }
    let mut sum = Sum {
        schema: a.schema.min(b.schema),
        zero_threshold: a.zero_threshold.max(b.zero_threshold),
        zero_count: a.zero_count + b.zero_count,
        positive: BTreeMap::new(),
        negative: BTreeMap::new(),
    };
    for one in [a, b] {
        let shift = one.schema.abs_diff(sum.schema);
        put_buckets(&mut sum.positive, &one.positive_spans, &one.positive, shift);
        put_buckets(&mut sum.negative, &one.negative_spans, &one.negative, shift);
    }
    if a.zero_threshold != b.zero_threshold {
        sum.widen_zero();
    }
    while sum.positive.len().max(sum.negative.len()) > BUCKETS_MAX / (1 + GAP_MAX as usize) {
        if !sum.coarsen() {
            return None;
        }
    }
    let (positive_spans, positive) = spans_of(&sum.positive)?;
    let (negative_spans, negative) = spans_of(&sum.negative)?;
    let histogram = Histogram {
        schema: sum.schema,
        zero_threshold: sum.zero_threshold,
        zero_count: sum.zero_count,
        count: a.count + b.count,
        sum: a.sum + b.sum,
        positive_spans,
        positive,
        negative_spans,
        negative,
        custom_bounds: a.custom_bounds.clone(),
        ..Histogram::default()
    };
    histogram.check().is_ok().then_some(histogram)
}

/// Gives a histogram of the same shape with nothing in it.
pub fn empty_like(one: &Histogram) -> Histogram {
    Histogram {
        schema: one.schema,
        zero_threshold: one.zero_threshold,
        custom_bounds: one.custom_bounds.clone(),
        ..Histogram::default()
    }
}

struct Sum {
    schema: i32,
    zero_threshold: f64,
    zero_count: f64,
    positive: BTreeMap<i32, f64>,
    negative: BTreeMap<i32, f64>,
}

impl Sum {
    /// Moves the buckets that the zero bucket reaches into it; one that it reaches in part widens it.
    fn widen_zero(&mut self) {
        let reached = |threshold: f64, side: &BTreeMap<i32, f64>, schema: i32| {
            let first = side.iter().find(|(_, count)| **count > 0.0).map(|(index, _)| *index)?;
            (upper_bound(first.saturating_sub(1), schema) < threshold).then_some(first)
        };
        loop {
            let mut found = false;
            for side in [&mut self.positive, &mut self.negative] {
                if let Some(index) = reached(self.zero_threshold, side, self.schema) {
                    // Below the first bucket with observations there are only empty ones.
                    self.zero_count += side.remove(&index).unwrap_or_default();
                    side.retain(|i, _| *i > index);
                    self.zero_threshold = self.zero_threshold.max(upper_bound(index, self.schema));
                    found = true;
                }
            }
            if !found {
                return;
            }
        }
    }

    /// Puts buckets together by twos; tells whether that was possible.
    fn coarsen(&mut self) -> bool {
        if self.schema <= *SCHEMAS.start() || !SCHEMAS.contains(&self.schema) {
            return false;
        }
        self.schema -= 1;
        for side in [&mut self.positive, &mut self.negative] {
            for (index, count) in std::mem::take(side) {
                *side.entry(coarser(index, 1)).or_default() += count;
            }
        }
        true
    }
}

fn put_buckets(side: &mut BTreeMap<i32, f64>, spans: &[BucketSpan], counts: &[f64], shift: u32) {
    for (index, count) in Histogram::buckets(spans, counts).filter(|(_, count)| *count != 0.0) {
        *side.entry(coarser(index, shift)).or_default() += count;
    }
}

/// Gives the bucket of a schema coarser by `shift` that a bucket lies in.
fn coarser(index: i32, shift: u32) -> i32 {
    (((i64::from(index) - 1) >> shift.min(62)) + 1) as i32
}

/// Gives the upper bound of an exponential bucket: the base to the power of its index.
fn upper_bound(index: i32, schema: i32) -> f64 {
    (f64::from(index) * f64::from(-schema).exp2()).exp2()
}

fn spans_of(side: &BTreeMap<i32, f64>) -> Option<(Vec<BucketSpan>, Vec<f64>)> {
    let (mut spans, mut counts): (Vec<BucketSpan>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut last: Option<i64> = None;
    for (index, count) in side {
        let index = i64::from(*index);
        let gap = last.map_or(index, |last| index - last - 1);
        match spans.last_mut() {
            Some(span) if gap <= GAP_MAX => {
                span.length += gap as u32 + 1;
                counts.extend((0..gap).map(|_| 0.0));
            }
            _ => spans.push(BucketSpan { offset: i32::try_from(gap).ok()?, length: 1 }),
        }
        counts.push(*count);
        last = Some(index);
    }
    Some((spans, counts))
}

#[cfg(test)]
mod tests {
    use crate::histogram::CUSTOM_SCHEMA;
    use proptest::prelude::*;

    use super::*;

    fn exponential(schema: i32, offset: i32, counts: &[f64]) -> Histogram {
        Histogram {
            schema,
            count: counts.iter().sum(),
            sum: 1.5,
            positive_spans: vec![BucketSpan { offset, length: counts.len() as u32 }],
            positive: counts.to_vec(),
            ..Histogram::default()
        }
    }

    fn buckets(h: &Histogram) -> Vec<(i32, f64)> {
        Histogram::buckets(&h.positive_spans, &h.positive).filter(|b| b.1 != 0.0).collect()
    }

    #[test]
    fn buckets_of_the_same_schema_are_added() {
        let sum = add(&exponential(0, 1, &[1.0, 2.0]), &exponential(0, 2, &[4.0, 0.0, 0.0, 0.0, 8.0])).unwrap();
        assert_eq!(buckets(&sum), [(1, 1.0), (2, 6.0), (6, 8.0)]);
        assert_eq!((sum.count, sum.sum, sum.positive_spans.len()), (15.0, 3.0, 2));
        assert_eq!(add(&empty_like(&sum), &sum).map(|h| buckets(&h)), Some(buckets(&sum)));
    }

    #[test]
    fn the_coarser_schema_and_the_wider_zero_bucket_win() {
        // Indexes 1..=4 of schema 1 are 1, 1, 2, 2 of schema 0.
        let sum = add(&exponential(1, 1, &[1.0, 2.0, 4.0, 8.0]), &exponential(0, 1, &[16.0])).unwrap();
        assert_eq!((sum.schema, buckets(&sum)), (0, vec![(1, 19.0), (2, 12.0)]));
        // A zero bucket up to 1.5 reaches into (1, 2], which it takes whole.
        let wide = Histogram { zero_threshold: 1.5, zero_count: 3.0, count: 3.0, ..Histogram::default() };
        let sum = add(&exponential(0, 0, &[1.0, 2.0, 4.0]), &wide).unwrap();
        assert_eq!((sum.zero_threshold, sum.zero_count, buckets(&sum)), (2.0, 6.0, vec![(2, 4.0)]));
    }

    #[test]
    fn custom_bounds_must_be_the_same() {
        let custom = |bounds: &[f64], counts: &[f64]| Histogram {
            schema: CUSTOM_SCHEMA,
            custom_bounds: bounds.to_vec(),
            ..exponential(CUSTOM_SCHEMA, 0, counts)
        };
        let sum = add(&custom(&[1.0, 2.0], &[1.0, 2.0, 4.0]), &custom(&[1.0, 2.0], &[1.0])).unwrap();
        assert_eq!(buckets(&sum), [(0, 2.0), (1, 2.0), (2, 4.0)]);
        assert_eq!(add(&custom(&[1.0], &[1.0]), &custom(&[2.0], &[1.0])), None);
        assert_eq!(add(&custom(&[1.0], &[1.0]), &exponential(0, 0, &[1.0])), None);
    }

    proptest! {
        #[test]
        fn no_observation_is_lost(
            a in (-4..=8i32, -500..500i32, proptest::collection::vec(0..9u8, 0..40), 0..4u8),
            b in (-4..=8i32, -500..500i32, proptest::collection::vec(0..9u8, 0..40), 0..4u8),
        ) {
            let make = |(schema, offset, counts, zero): (i32, i32, Vec<u8>, u8)| {
                let counts: Vec<f64> = counts.into_iter().map(f64::from).collect();
                let mut one = exponential(schema, offset, &counts);
                one.zero_threshold = f64::from(zero) * 0.25;
                one.zero_count = f64::from(zero);
                one.count += one.zero_count;
                one
            };
            let (a, b) = (make(a), make(b));
            let sum = add(&a, &b).unwrap();
            let inside = sum.zero_count + sum.positive.iter().chain(&sum.negative).sum::<f64>();
            prop_assert_eq!(inside, a.count + b.count);
            prop_assert_eq!(sum.count, a.count + b.count);
            prop_assert!(sum.check().is_ok());
        }
    }
}
