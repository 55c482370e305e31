//! A cumulative distribution as a native histogram that grows with what it sees.
//!
//! Invariants: 1. what it makes passes [`Histogram::check`]; 2. at most [`BUCKETS_MAX`] buckets a side: when more are needed,
//! neighbours are joined and the resolution halves.

use std::collections::BTreeMap;

use model::histogram::{BucketSpan, Histogram};

/// Buckets of one side, as OpenTelemetry has it.
const BUCKETS_MAX: usize = 160;
/// Resolution at the start: eight buckets for each doubling, so that a quantile is right to 5 %.
const SCHEMA_FIRST: i32 = 3;
const SCHEMA_MIN: i32 = -4;
/// What is nearer to zero counts as zero; Prometheus' client has the same.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// The distribution of all values seen.
#[derive(Clone, PartialEq, Debug)]
pub struct Sketch {
    schema: i32,
    count: f64,
    sum: f64,
    zero: f64,
    positive: BTreeMap<i32, f64>,
    negative: BTreeMap<i32, f64>,
}

impl Default for Sketch {
    fn default() -> Sketch {
        Sketch {
            schema: SCHEMA_FIRST,
            count: 0.0,
            sum: 0.0,
            zero: 0.0,
            positive: BTreeMap::new(),
            negative: BTreeMap::new(),
        }
    }
}

impl Sketch {
    /// Adds a finite value that stands for `weight` events.
    pub fn add(&mut self, value: f64, weight: f64) {
        self.count += weight;
        self.sum += value * weight;
        if value.abs() <= ZERO_THRESHOLD {
            self.zero += weight;
            return;
        }
        let index = index(value.abs(), self.schema);
        let side = if value > 0.0 { &mut self.positive } else { &mut self.negative };
        *side.entry(index).or_default() += weight;
        self.fit();
    }

    /// Puts what an earlier life had seen under what this one has.
    pub fn add_base(&mut self, base: &Histogram) {
        if base.is_custom() || base.schema < SCHEMA_MIN {
            return;
        }
        let mut other = Sketch {
            schema: base.schema,
            count: base.count,
            sum: base.sum,
            zero: base.zero_count,
            positive: Histogram::buckets(&base.positive_spans, &base.positive).collect(),
            negative: Histogram::buckets(&base.negative_spans, &base.negative).collect(),
        };
        while other.schema > self.schema {
            other.halve();
        }
        while self.schema > other.schema {
            self.halve();
        }
        self.count += other.count;
        self.sum += other.sum;
        self.zero += other.zero;
        for (side, more) in [(&mut self.positive, other.positive), (&mut self.negative, other.negative)] {
            for (index, n) in more.into_iter().filter(|(_, n)| *n > 0.0) {
                *side.entry(index).or_default() += n;
            }
        }
        self.fit();
    }

    fn fit(&mut self) {
        while self.positive.len().max(self.negative.len()) > BUCKETS_MAX && self.schema > SCHEMA_MIN {
            self.halve();
        }
    }

    /// Joins each two neighbours.
    fn halve(&mut self) {
        self.schema -= 1;
        for side in [&mut self.positive, &mut self.negative] {
            let mut joined = BTreeMap::new();
            for (index, n) in std::mem::take(side) {
                *joined.entry((index + 1) >> 1).or_default() += n;
            }
            *side = joined;
        }
    }

    /// Gives the histogram.
    pub fn to_histogram(&self) -> Histogram {
        let (positive_spans, positive) = spans(&self.positive);
        let (negative_spans, negative) = spans(&self.negative);
        // The count is the sum of the buckets, whatever fractions add up to.
        let count = self.zero + positive.iter().sum::<f64>() + negative.iter().sum::<f64>();
        Histogram {
            schema: self.schema,
            zero_threshold: ZERO_THRESHOLD,
            zero_count: self.zero,
            count,
            sum: self.sum,
            positive_spans,
            positive,
            negative_spans,
            negative,
            ..Histogram::default()
        }
    }
}

/// Gives the bucket: `2^((index - 1) / 2^schema) < value <= 2^(index / 2^schema)`.
fn index(value: f64, schema: i32) -> i32 {
    let scale = f64::from(schema).exp2();
    let mut index = (value.log2() * scale).ceil() as i32;
    // Logarithms of powers of two are not always whole.
    if value <= (f64::from(index - 1) / scale).exp2() {
        index -= 1;
    } else if value > (f64::from(index) / scale).exp2() {
        index += 1;
    }
    index
}

fn spans(side: &BTreeMap<i32, f64>) -> (Vec<BucketSpan>, Vec<f64>) {
    let mut spans: Vec<BucketSpan> = Vec::new();
    let mut next = 0;
    for index in side.keys() {
        match spans.last_mut() {
            Some(span) if *index == next => span.length += 1,
            _ => spans.push(BucketSpan { offset: index - next, length: 1 }),
        }
        next = index + 1;
    }
    (spans, side.values().copied().collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_find_their_buckets() {
        for (value, schema, wanted) in [(1.0, 3, 0), (1.01, 3, 1), (2.0, 3, 8), (2.1, 0, 2), (0.5, 0, -1), (4.0, -1, 1)]
        {
            assert_eq!(index(value, schema), wanted, "{value}");
        }
    }

    #[test]
    fn a_restart_goes_on_where_the_last_life_ended() {
        let (mut whole, mut first, mut second) = (Sketch::default(), Sketch::default(), Sketch::default());
        for i in 0..1000 {
            let value = f64::from(i) * 0.37 - 20.0;
            whole.add(value, 1.0);
            if i < 600 { &mut first } else { &mut second }.add(value, 1.0);
        }
        second.add_base(&first.to_histogram());
        let (a, b) = (whole.to_histogram(), second.to_histogram());
        assert_eq!((a.count, a.schema, &a.positive, &a.negative), (b.count, b.schema, &b.positive, &b.negative));
        assert!((a.sum - b.sum).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn what_comes_out_is_a_histogram(values in prop::collection::vec((any::<f64>(), 0.01f64..3.0), 0..400)) {
            let mut sketch = Sketch::default();
            let finite: Vec<_> = values.into_iter().filter(|(v, _)| v.is_finite()).collect();
            for (value, weight) in &finite {
                sketch.add(*value, *weight);
            }
            let histogram = sketch.to_histogram();
            prop_assert!(histogram.check().is_ok(), "{:?}", histogram.check());
            prop_assert!(histogram.positive.len().max(histogram.negative.len()) <= BUCKETS_MAX);
            let total: f64 = finite.iter().map(|(_, w)| w).sum();
            prop_assert!((histogram.count - total).abs() <= 1e-6 * total.max(1.0));
        }
    }
}
