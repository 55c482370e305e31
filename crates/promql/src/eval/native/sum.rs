//! Adding, subtracting and averaging histograms of any layout: schemas, zero buckets and custom bounds are brought together.

use model::histogram::{CUSTOM_SCHEMA, Histogram, ResetHint};

use super::layout::{bound, side, spans};
use crate::eval::kahan::Kahan;

/// Exponential and custom buckets cannot be brought together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::eval) struct Incompatible;

/// What an addition had to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::eval) struct Added {
    /// One histogram says that it comes after a reset, the other that it does not.
    pub collision: bool,
    /// Custom bounds differed; those that both have remain.
    pub reconciled: bool,
}

impl Added {
    /// Takes over what another addition had to do.
    pub(in crate::eval) fn note(&mut self, other: Added) {
        self.collision |= other.collision;
        self.reconciled |= other.reconciled;
    }
}

/// A sum of histograms, with what rounding lost.
#[derive(Clone, Debug)]
pub(in crate::eval) struct Total {
    schema: i32,
    zero_threshold: f64,
    zero: Kahan,
    count: Kahan,
    sum: Kahan,
    positive: Vec<(i32, Kahan)>,
    negative: Vec<(i32, Kahan)>,
    custom: Vec<f64>,
    hint: ResetHint,
}

fn plain(value: f64) -> Kahan {
    Kahan { sum: value, lost: 0.0 }
}

impl Total {
    /// Starts with one histogram.
    pub(in crate::eval) fn new(h: &Histogram) -> Total {
        let plain_side = |buckets: Vec<(i32, f64)>| buckets.into_iter().map(|(i, count)| (i, plain(count))).collect();
        Total {
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            zero: plain(h.zero_count),
            count: plain(h.count),
            sum: plain(h.sum),
            positive: plain_side(side(&h.positive_spans, &h.positive)),
            negative: plain_side(side(&h.negative_spans, &h.negative)),
            custom: h.custom_bounds.clone(),
            hint: h.reset_hint,
        }
    }

    /// Gives the sum.
    pub(in crate::eval) fn get(&self) -> Histogram {
        let totals = |buckets: &[(i32, Kahan)]| spans(buckets.iter().map(|(i, count)| (*i, count.total())));
        let (positive_spans, positive) = totals(&self.positive);
        let (negative_spans, negative) = totals(&self.negative);
        Histogram {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero.total(),
            count: self.count.total(),
            sum: self.sum.total(),
            positive_spans,
            positive,
            negative_spans,
            negative,
            custom_bounds: self.custom.clone(),
            reset_hint: self.hint,
        }
    }

    /// Adds a histogram, or takes it away with a `sign` of -1.
    pub(in crate::eval) fn add(&mut self, h: &Histogram, sign: f64) -> Result<Added, Incompatible> {
        self.merge(Total::new(h), sign)
    }

    fn merge(&mut self, mut other: Total, sign: f64) -> Result<Added, Incompatible> {
        if (self.schema == CUSTOM_SCHEMA) != (other.schema == CUSTOM_SCHEMA) {
            return Err(Incompatible);
        }
        let mut added = Added { collision: self.adjust_hint(other.hint), reconciled: false };
        if self.schema == CUSTOM_SCHEMA {
            if self.custom != other.custom {
                added.reconciled = true;
                let common: Vec<f64> = self.custom.iter().copied().filter(|b| other.custom.contains(b)).collect();
                self.rebound(&common);
                other.rebound(&common);
            }
        } else {
            self.reconcile_zero(&mut other);
            let schema = self.schema.min(other.schema);
            self.reduce(schema);
            other.reduce(schema);
            self.zero = join(self.zero, other.zero, sign);
        }
        self.count = join(self.count, other.count, sign);
        self.sum = join(self.sum, other.sum, sign);
        self.positive = merged(&self.positive, &other.positive, sign);
        self.negative = merged(&self.negative, &other.negative, sign);
        Ok(added)
    }

    /// Works out the hint of the sum; tells whether the two contradict each other.
    fn adjust_hint(&mut self, other: ResetHint) -> bool {
        use ResetHint::{Gauge, NoReset, Reset, Unknown};
        match (self.hint, other) {
            (a, b) if a == b => {}
            (Gauge, _) | (_, Gauge) => self.hint = Gauge,
            (Unknown, _) | (_, Unknown) => self.hint = Unknown,
            (Reset | NoReset, _) => {
                self.hint = Unknown;
                return true;
            }
        }
        false
    }

    /// Moves the buckets to fewer bounds, each to the lowest bound that is not below its own.
    fn rebound(&mut self, bounds: &[f64]) {
        let target = |index: i32| {
            let upper = bound(index, CUSTOM_SCHEMA, &self.custom);
            bounds.partition_point(|b| *b < upper) as i32
        };
        self.positive = joined(self.positive.iter().map(|(index, count)| (target(*index), *count)));
        self.custom = bounds.to_vec();
    }

    /// Makes the buckets as wide as those of a lower schema.
    fn reduce(&mut self, schema: i32) {
        let shift = self.schema.saturating_sub(schema);
        if shift <= 0 {
            return;
        }
        let target = |index: i32| (index.saturating_sub(1) >> shift.min(31)).saturating_add(1);
        self.positive = joined(self.positive.iter().map(|(index, count)| (target(*index), *count)));
        self.negative = joined(self.negative.iter().map(|(index, count)| (target(*index), *count)));
        self.schema = schema;
    }

    /// Makes exponential buckets as wide as those of a lower schema.
    pub(in crate::eval) fn coarsen(&mut self, schema: i32) {
        if self.schema != CUSTOM_SCHEMA {
            self.reduce(schema);
        }
    }

    /// Widens the narrower zero bucket until both are the same; buckets that it swallows halfway widen it further.
    fn reconcile_zero(&mut self, other: &mut Total) {
        // Thresholds only grow, each time to a bound of a bucket of the other; NaN would never be reached.
        while self.zero_threshold < other.zero_threshold || other.zero_threshold < self.zero_threshold {
            if self.zero_threshold < other.zero_threshold {
                self.widen_zero(other.zero_threshold);
            } else {
                other.widen_zero(self.zero_threshold);
            }
        }
    }

    /// Makes the zero bucket at least this wide.
    pub(super) fn widen_zero(&mut self, threshold: f64) {
        let mut threshold = threshold;
        // Each round moves the threshold to a bound of a bucket further out, so that it ends.
        let populated_end = |total: &Total, threshold: f64| {
            let cut = |(index, count): &(i32, Kahan)| {
                let (low, high) = (bound(index.saturating_sub(1), total.schema, &[]), bound(*index, total.schema, &[]));
                (low < threshold && high > threshold && count.total() != 0.0).then_some(high)
            };
            total.positive.iter().chain(&total.negative).find_map(cut)
        };
        while let Some(end) = populated_end(self, threshold) {
            threshold = end;
        }
        let schema = self.schema;
        let swallowed = |index: i32| bound(index.saturating_sub(1), schema, &[]) < threshold;
        for buckets in [&mut self.positive, &mut self.negative] {
            for (_, count) in buckets.extract_if(.., |(index, _)| swallowed(*index)) {
                self.zero = join(self.zero, count, 1.0);
            }
        }
        self.zero_threshold = threshold;
    }

    /// Reduces to a schema and a zero bucket, to be compared with another.
    pub(super) fn at_layout(mut self, schema: i32, zero_threshold: f64) -> Total {
        self.widen_zero(zero_threshold);
        self.reduce(schema);
        self
    }

    pub(super) fn positive(&self) -> &[(i32, Kahan)] {
        &self.positive
    }

    pub(super) fn negative(&self) -> &[(i32, Kahan)] {
        &self.negative
    }

    pub(super) fn zero(&self) -> (f64, f64) {
        (self.zero.total(), self.zero_threshold)
    }

    /// Multiplies everything.
    fn scale(&mut self, factor: f64) {
        self.zero = self.zero.scale(factor);
        self.count = self.count.scale(factor);
        self.sum = self.sum.scale(factor);
        for (_, count) in self.positive.iter_mut().chain(&mut self.negative) {
            *count = count.scale(factor);
        }
    }

    /// Divides everything; not the same as multiplying by the inverse where large numbers cancel out.
    fn divide(&mut self, divisor: f64) {
        let quotient = |k: Kahan| Kahan { sum: k.sum / divisor, lost: k.lost / divisor };
        self.zero = quotient(self.zero);
        self.count = quotient(self.count);
        self.sum = quotient(self.sum);
        for (_, count) in self.positive.iter_mut().chain(&mut self.negative) {
            *count = quotient(*count);
        }
    }

    fn overflows(&self) -> bool {
        let all = self.positive.iter().chain(&self.negative).map(|(_, count)| count);
        [self.zero, self.count, self.sum].iter().chain(all).any(|k| k.sum.is_infinite())
    }
}

fn join(a: Kahan, b: Kahan, sign: f64) -> Kahan {
    let sum = a.add(sign * b.sum);
    if b.lost == 0.0 { sum } else { sum.add(sign * b.lost) }
}

/// Joins buckets that now have the same index; the indices rise.
fn joined(buckets: impl Iterator<Item = (i32, Kahan)>) -> Vec<(i32, Kahan)> {
    let mut out: Vec<(i32, Kahan)> = Vec::new();
    for (index, count) in buckets {
        match out.last_mut() {
            Some((last, total)) if *last == index => *total = join(*total, count, 1.0),
            _ => out.push((index, count)),
        }
    }
    out
}

fn merged(a: &[(i32, Kahan)], b: &[(i32, Kahan)], sign: f64) -> Vec<(i32, Kahan)> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut out = Vec::with_capacity(a.len().max(b.len()));
    loop {
        match (a.peek(), b.peek()) {
            (Some((i, x)), Some((j, y))) if i == j => {
                out.push((*i, join(*x, *y, sign)));
                a.next();
                b.next();
            }
            (Some((i, x)), Some((j, _))) if i < j => {
                out.push((*i, *x));
                a.next();
            }
            (Some((i, x)), None) => {
                out.push((*i, *x));
                a.next();
            }
            (_, Some((j, y))) => {
                out.push((*j, join(Kahan::default(), *y, sign)));
                b.next();
            }
            (None, None) => return out,
        }
    }
}

/// A mean of histograms: the plain quotient while nothing overflows, else updated one by one.
#[derive(Clone, Debug)]
pub(in crate::eval) struct Mean {
    total: Total,
    count: f64,
    incremental: bool,
}

impl Mean {
    /// Starts with one histogram.
    pub(in crate::eval) fn new(h: &Histogram) -> Mean {
        Mean { total: Total::new(h), count: 1.0, incremental: false }
    }

    /// Adds a histogram.
    pub(in crate::eval) fn add(&mut self, h: &Histogram) -> Result<Added, Incompatible> {
        self.count += 1.0;
        if !self.incremental {
            let mut next = self.total.clone();
            let added = next.add(h, 1.0)?;
            if !next.overflows() {
                self.total = next;
                return Ok(added);
            }
            self.incremental = true;
            self.total.divide(self.count - 1.0);
        }
        self.total.scale((self.count - 1.0) / self.count);
        let mut part = Total::new(h);
        part.divide(self.count);
        self.total.merge(part, 1.0)
    }

    /// Gives the mean.
    pub(in crate::eval) fn get(&self) -> Histogram {
        let mut total = self.total.clone();
        if !self.incremental {
            total.divide(self.count);
        }
        total.get()
    }
}

/// Gives the histogram with each number changed, as by a factor; a negative factor makes a gauge of it.
pub(in crate::eval) fn scaled(h: &Histogram, negative: bool, change: impl Fn(f64) -> f64) -> Histogram {
    let mut out = h.clone();
    out.zero_count = change(h.zero_count);
    out.count = change(h.count);
    out.sum = change(h.sum);
    out.positive.iter_mut().chain(&mut out.negative).for_each(|count| *count = change(*count));
    if negative {
        out.reset_hint = ResetHint::Gauge;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::histogram::BucketSpan;

    fn histogram(schema: i32, offset: i32, counts: &[f64]) -> Histogram {
        let count = counts.iter().sum();
        let positive_spans = vec![BucketSpan { offset, length: counts.len() as u32 }];
        Histogram { schema, count, positive: counts.to_vec(), positive_spans, ..Histogram::default() }
    }

    #[test]
    fn schemas_come_together_at_the_coarser() {
        let mut total = Total::new(&histogram(1, 1, &[1.0, 2.0, 3.0]));
        assert_eq!(total.add(&histogram(0, 1, &[10.0]), 1.0), Ok(Added::default()));
        let sum = total.get();
        assert_eq!((sum.schema, sum.count), (0, 16.0));
        assert_eq!(side(&sum.positive_spans, &sum.positive), [(1, 13.0), (2, 3.0)]);
    }

    #[test]
    fn zero_buckets_swallow_what_they_reach() {
        let mut narrow = histogram(0, 0, &[4.0, 5.0]);
        narrow.zero_threshold = 0.25;
        let mut wide = histogram(0, 2, &[1.0]);
        wide.zero_threshold = 0.75;
        wide.zero_count = 2.0;
        let mut total = Total::new(&narrow);
        total.add(&wide, 1.0).unwrap();
        let sum = total.get();
        // 0.75 lies in the populated bucket from 0.5 to 1, so that the zero bucket grows to 1.
        assert_eq!((sum.zero_threshold, sum.zero_count), (1.0, 6.0));
        assert_eq!(side(&sum.positive_spans, &sum.positive), [(1, 5.0), (2, 1.0)]);
    }

    #[test]
    fn custom_bounds_that_differ_leave_what_both_have() {
        let custom = |bounds: &[f64], counts: &[f64]| Histogram {
            custom_bounds: bounds.to_vec(),
            ..histogram(CUSTOM_SCHEMA, 0, counts)
        };
        let mut total = Total::new(&custom(&[1.0, 2.0, 5.0], &[1.0, 2.0, 3.0, 4.0]));
        let added = total.add(&custom(&[1.0, 5.0], &[10.0, 20.0, 30.0]), 1.0).unwrap();
        assert!(added.reconciled);
        let sum = total.get();
        assert_eq!((sum.custom_bounds, sum.positive), (vec![1.0, 5.0], vec![11.0, 25.0, 34.0]));
        assert_eq!(total.add(&histogram(0, 0, &[1.0]), 1.0), Err(Incompatible));
    }

    #[test]
    fn indices_at_the_ends_of_their_type_do_no_harm() {
        let mut total = Total::new(&histogram(8, i32::MIN, &[1.0, 2.0]));
        let wide = Histogram { zero_threshold: f64::INFINITY, ..histogram(-4, i32::MAX - 1, &[1.0, 3.0]) };
        assert_eq!(total.add(&wide, 1.0), Ok(Added::default()));
        assert_eq!((total.get().count, total.get().zero_threshold), (7.0, f64::INFINITY));
    }

    #[test]
    fn hints_that_contradict_are_noticed() {
        let hinted = |hint| Histogram { reset_hint: hint, ..histogram(0, 0, &[1.0]) };
        let mut total = Total::new(&hinted(ResetHint::Reset));
        assert!(total.add(&hinted(ResetHint::NoReset), 1.0).unwrap().collision);
        assert_eq!(total.get().reset_hint, ResetHint::Unknown);
    }
}
