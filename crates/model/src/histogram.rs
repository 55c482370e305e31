//! Native histograms: buckets whose bounds follow from a schema, and their byte form.
//!
//! Invariants (checked by [`Histogram::check`]): 1. the lengths of the spans add up to the number of buckets; 2. only the
//! first span of a side may have a negative offset; 3. custom bounds stand only with [`CUSTOM_SCHEMA`], rise strictly and
//! are finite; custom histograms have neither negative buckets nor a zero bucket.
//! Limits: [`BUCKETS_MAX`] buckets a side.

use crate::coding::{Cursor, put_signed, put_varint};

/// The schema of histograms whose bounds are written out.
pub const CUSTOM_SCHEMA: i32 = -53;
/// The finest and the coarsest exponential schema.
pub const SCHEMAS: std::ops::RangeInclusive<i32> = -4..=8;
/// Buckets on one side of one histogram.
pub const BUCKETS_MAX: usize = 16_384;

/// A run of buckets without a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BucketSpan {
    /// Buckets left out since the end of the span before; for the first span, the index of its first bucket.
    pub offset: i32,
    /// How many buckets.
    pub length: u32,
}

/// What the sender says about a counter reset before this histogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum ResetHint {
    /// Look for yourself.
    #[default]
    Unknown = 0,
    /// There was one.
    Reset = 1,
    /// There was none.
    NoReset = 2,
    /// It is a gauge, which cannot reset.
    Gauge = 3,
}

impl ResetHint {
    /// Reads the number that `self as u8` gave; unknown numbers become `Unknown`.
    pub fn from_u8(n: u8) -> ResetHint {
        use ResetHint::{Gauge, NoReset, Reset, Unknown};
        [Unknown, Reset, NoReset, Gauge].get(usize::from(n)).copied().unwrap_or(Unknown)
    }
}

/// A native histogram. Counts are doubles, which hold every integer up to 2^53 exactly; they are absolute, not deltas.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Histogram {
    /// -4 to 8, or [`CUSTOM_SCHEMA`].
    pub schema: i32,
    /// Half the width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations.
    pub count: f64,
    /// Their sum.
    pub sum: f64,
    /// Where the positive buckets stand.
    pub positive_spans: Vec<BucketSpan>,
    /// Their counts.
    pub positive: Vec<f64>,
    /// Where the negative buckets stand.
    pub negative_spans: Vec<BucketSpan>,
    /// Their counts.
    pub negative: Vec<f64>,
    /// The upper bounds of a custom histogram, without the last, infinite one.
    pub custom_bounds: Vec<f64>,
    /// What is known of a reset.
    pub reset_hint: ResetHint,
}

/// Why a histogram is no good.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("invalid histogram: {0}")]
pub struct HistogramError(pub String);

fn bad<T>(text: impl Into<String>) -> Result<T, HistogramError> {
    Err(HistogramError(text.into()))
}

impl Histogram {
    /// Tells whether the bounds are written out.
    pub fn is_custom(&self) -> bool {
        self.schema == CUSTOM_SCHEMA
    }

    /// Checks the invariants of a histogram that came from outside.
    pub fn check(&self) -> Result<(), HistogramError> {
        if !self.is_custom() && !SCHEMAS.contains(&self.schema) {
            return bad(format!("schema {} is neither {CUSTOM_SCHEMA} nor from -4 to 8", self.schema));
        }
        check_side("positive", &self.positive_spans, &self.positive)?;
        check_side("negative", &self.negative_spans, &self.negative)?;
        if self.zero_threshold.is_nan() || self.zero_threshold < 0.0 {
            return bad("the zero threshold is negative or no number");
        }
        if negative(self.zero_count) || negative(self.count) {
            return bad("a count is negative");
        }
        if self.is_custom() {
            return self.check_custom();
        }
        if self.custom_bounds.is_empty() { Ok(()) } else { bad("custom bounds with an exponential schema") }
    }

    fn check_custom(&self) -> Result<(), HistogramError> {
        if !self.negative.is_empty() || !self.negative_spans.is_empty() {
            return bad("custom bounds with negative buckets");
        }
        if self.zero_count != 0.0 || self.zero_threshold != 0.0 {
            return bad("custom bounds with a zero bucket");
        }
        if self.custom_bounds.len() >= BUCKETS_MAX {
            return bad(format!("more than {BUCKETS_MAX} custom bounds"));
        }
        if self.custom_bounds.iter().any(|b| !b.is_finite()) {
            return bad("a custom bound is not finite");
        }
        if self.custom_bounds.windows(2).any(|w| w[0] >= w[1]) {
            return bad("custom bounds do not rise");
        }
        let end = self.positive_spans.iter().fold(0i64, |at, s| at + i64::from(s.offset) + i64::from(s.length));
        let starts_below = self.positive_spans.first().is_some_and(|s| s.offset < 0);
        if starts_below || end > self.custom_bounds.len() as i64 + 1 {
            return bad("buckets beyond the custom bounds");
        }
        Ok(())
    }

    /// Gives the index and count of each bucket of a side, in rising order of the index.
    pub fn buckets<'a>(spans: &'a [BucketSpan], counts: &'a [f64]) -> impl Iterator<Item = (i32, f64)> + 'a {
        let mut next = 0i32;
        let indexes = spans.iter().flat_map(move |span| {
            let first = next.saturating_add(span.offset);
            next = first.saturating_add(i32::try_from(span.length).unwrap_or(i32::MAX));
            first..next
        });
        indexes.zip(counts.iter().copied())
    }

    /// Tells whether the two are the same bit for bit.
    pub fn same_bits(&self, other: &Histogram) -> bool {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        self.encode(&mut a);
        other.encode(&mut b);
        a == b
    }

    /// Appends the byte form; `docs/format/histogram.md` draws it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let whole = self.counts_are_whole();
        out.push(u8::from(whole) | (self.reset_hint as u8) << 1);
        out.push(self.schema as i8 as u8);
        for value in [self.sum, self.zero_threshold] {
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        put_counts(out, whole, &[self.count, self.zero_count]);
        for (spans, counts) in [(&self.positive_spans, &self.positive), (&self.negative_spans, &self.negative)] {
            put_varint(out, spans.len() as u64);
            for span in spans {
                put_signed(out, i64::from(span.offset));
                put_varint(out, u64::from(span.length));
            }
            put_counts(out, whole, counts);
        }
        put_varint(out, self.custom_bounds.len() as u64);
        for bound in &self.custom_bounds {
            out.extend_from_slice(&bound.to_bits().to_le_bytes());
        }
    }

    /// Reads the byte form; gives the histogram and how many bytes it took. `None` when the bytes are none of ours.
    pub fn decode(bytes: &[u8]) -> Option<(Histogram, usize)> {
        let mut cursor = Cursor::new(bytes);
        let flags = cursor.u8().ok()?;
        let whole = flags & 1 == 1;
        let schema = i32::from(cursor.u8().ok()? as i8);
        let mut histogram = Histogram {
            reset_hint: ResetHint::from_u8(flags >> 1),
            schema,
            sum: cursor.f64().ok()?,
            zero_threshold: cursor.f64().ok()?,
            ..Histogram::default()
        };
        let counts = read_counts(&mut cursor, whole, 2)?;
        (histogram.count, histogram.zero_count) = (counts[0], counts[1]);
        (histogram.positive_spans, histogram.positive) = read_side(&mut cursor, whole)?;
        (histogram.negative_spans, histogram.negative) = read_side(&mut cursor, whole)?;
        let bounds = cursor.count().ok().filter(|bounds| *bounds <= BUCKETS_MAX)?;
        histogram.custom_bounds = (0..bounds).map(|_| cursor.f64().ok()).collect::<Option<_>>()?;
        Some((histogram, bytes.len() - cursor.left()))
    }

    fn counts_are_whole(&self) -> bool {
        let all = [self.count, self.zero_count];
        all.iter().chain(&self.positive).chain(&self.negative).all(|c| is_whole(*c))
    }
}

fn negative(count: f64) -> bool {
    count < 0.0
}

fn check_side(side: &str, spans: &[BucketSpan], counts: &[f64]) -> Result<(), HistogramError> {
    let mut total = 0u64;
    let mut at = 0i64;
    for (i, span) in spans.iter().enumerate() {
        if i > 0 && span.offset < 0 {
            return bad(format!("{side} span {i} starts before the end of the one before it"));
        }
        total += u64::from(span.length);
        at += i64::from(span.offset) + i64::from(span.length);
        if i32::try_from(at).is_err() {
            return bad(format!("{side} buckets beyond all indexes"));
        }
    }
    if total != counts.len() as u64 {
        return bad(format!("{side} spans hold {total} buckets, {} are given", counts.len()));
    }
    if counts.len() > BUCKETS_MAX {
        return bad(format!("{} {side} buckets, {BUCKETS_MAX} are allowed", counts.len()));
    }
    match counts.iter().position(|c| negative(*c)) {
        Some(i) => bad(format!("{side} bucket {i} has a negative count")),
        None => Ok(()),
    }
}

/// Whole, not -0, and small enough to be exact.
fn is_whole(count: f64) -> bool {
    (0.0..=9_007_199_254_740_992.0).contains(&count) && count.fract() == 0.0 && count.is_sign_positive()
}

/// Whole counts as zigzag differences, others as doubles.
fn put_counts(out: &mut Vec<u8>, whole: bool, counts: &[f64]) {
    let mut before = 0i64;
    for count in counts {
        if whole {
            put_signed(out, *count as i64 - before);
            before = *count as i64;
        } else {
            out.extend_from_slice(&count.to_bits().to_le_bytes());
        }
    }
}

fn read_counts(cursor: &mut Cursor<'_>, whole: bool, len: usize) -> Option<Vec<f64>> {
    let mut before = 0i64;
    let mut counts = Vec::with_capacity(len.min(cursor.left()));
    for _ in 0..len {
        counts.push(if whole {
            before = before.checked_add(cursor.signed().ok()?)?;
            before as f64
        } else {
            cursor.f64().ok()?
        });
    }
    Some(counts)
}

fn read_side(cursor: &mut Cursor<'_>, whole: bool) -> Option<(Vec<BucketSpan>, Vec<f64>)> {
    let len = cursor.count().ok().filter(|len| *len <= BUCKETS_MAX)?;
    let mut spans = Vec::with_capacity(len);
    let mut buckets = 0usize;
    for _ in 0..len {
        let offset = i32::try_from(cursor.signed().ok()?).ok()?;
        let length = u32::try_from(cursor.varint().ok()?).ok()?;
        buckets = buckets.checked_add(length as usize).filter(|n| *n <= BUCKETS_MAX)?;
        spans.push(BucketSpan { offset, length });
    }
    Some((spans, read_counts(cursor, whole, buckets)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn side(whole: bool) -> impl Strategy<Value = (Vec<BucketSpan>, Vec<f64>)> {
        let count = if whole { (0u64..1 << 40).prop_map(|n| n as f64).boxed() } else { any::<f64>().boxed() };
        prop::collection::vec((0..50i32, prop::collection::vec(count, 0..6)), 0..5).prop_map(|runs| {
            let span = |(offset, counts): &(i32, Vec<f64>)| BucketSpan { offset: *offset, length: counts.len() as u32 };
            (runs.iter().map(span).collect(), runs.iter().flat_map(|r| r.1.clone()).collect())
        })
    }

    fn any_histogram() -> impl Strategy<Value = Histogram> {
        (any::<bool>(), -4..=8i32, any::<[f64; 4]>(), 0..4u8).prop_flat_map(|(whole, schema, [a, b, c, d], hint)| {
            let (count, zero_count) = if whole { (17.0, 3.0) } else { (a, b) };
            (side(whole), side(whole)).prop_map(move |(positive, negative)| Histogram {
                schema,
                zero_threshold: c.abs(),
                zero_count,
                count,
                sum: d,
                positive_spans: positive.0,
                positive: positive.1,
                negative_spans: negative.0,
                negative: negative.1,
                custom_bounds: Vec::new(),
                reset_hint: ResetHint::from_u8(hint),
            })
        })
    }

    proptest! {
        #[test]
        fn bytes_are_read_back_bit_for_bit(histogram in any_histogram(), behind in any::<u8>()) {
            let mut bytes = Vec::new();
            histogram.encode(&mut bytes);
            let len = bytes.len();
            bytes.push(behind);
            let (back, used) = Histogram::decode(&bytes).expect("our own bytes");
            prop_assert_eq!(used, len);
            prop_assert!(back.same_bits(&histogram));
            prop_assert_eq!(back.positive_spans, histogram.positive_spans);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some((histogram, used)) = Histogram::decode(&bytes) {
                prop_assert!(used <= bytes.len());
                let _ = histogram.check();
                Histogram::buckets(&histogram.positive_spans, &histogram.positive).for_each(drop);
            }
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let good = Histogram {
            positive_spans: vec![BucketSpan { offset: -2, length: 1 }, BucketSpan { offset: 3, length: 2 }],
            positive: vec![1.0, 2.0, 3.0],
            count: 6.0,
            ..Histogram::default()
        };
        assert_eq!(good.check(), Ok(()));
        let buckets: Vec<_> = Histogram::buckets(&good.positive_spans, &good.positive).collect();
        assert_eq!(buckets, [(-2, 1.0), (2, 2.0), (3, 3.0)]);
        let broken: [fn(&mut Histogram); 7] = [
            |h| h.positive.push(1.0),
            |h| h.positive_spans[1].offset = -1,
            |h| h.schema = 9,
            |h| h.positive[0] = -1.0,
            |h| h.zero_threshold = f64::NAN,
            |h| h.custom_bounds = vec![1.0],
            |h| (h.schema, h.custom_bounds) = (CUSTOM_SCHEMA, vec![1.0, 2.0]),
        ];
        for (i, break_it) in broken.iter().enumerate() {
            let mut histogram = good.clone();
            break_it(&mut histogram);
            assert!(histogram.check().is_err(), "case {i}");
        }
    }
}
