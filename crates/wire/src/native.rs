//! A native histogram as protobuf schemas write it: spans, and behind them deltas of whole counts or absolute counts.
//!
//! Invariants: 1. what [`NativeParts::finish`] gives has passed [`Histogram::check`]; 2. no vector grows beyond
//! [`BUCKETS_MAX`] entries, however long the field; 3. whole counts are exact: beyond 2^53 they are refused.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use model::histogram::{BUCKETS_MAX, BucketSpan, Histogram, ResetHint, SCHEMAS};

use crate::proto::{Field, Message, WireError, unfold};

/// Up to here a double holds every whole number.
const EXACT_MAX: u64 = 1 << 53;
/// The finest schema that is kept.
const FINEST: i32 = *SCHEMAS.end();
/// Finer ones that are taken.
const FINE_SCHEMAS: RangeInclusive<i32> = FINEST + 1..=52;
const TOO_MANY: &str = "too many buckets, spans or bounds";
const NOT_EXACT: &str = "a count is beyond 2^53 and cannot be kept exactly";

/// A count: whole or not.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Count {
    Whole(u64),
    Float(f64),
}

/// One side of the buckets.
#[derive(Default)]
pub(crate) struct Side {
    spans: Vec<BucketSpan>,
    /// Counts that came as deltas.
    whole: Vec<f64>,
    /// Counts that came as they are.
    absolute: Vec<f64>,
    /// The count that the next delta is added to.
    last: i64,
}

/// A histogram whose fields are being read.
#[derive(Default)]
pub(crate) struct NativeParts {
    pub(crate) schema: i32,
    pub(crate) zero_threshold: f64,
    pub(crate) sum: f64,
    pub(crate) count: Option<Count>,
    pub(crate) zero_count: Option<Count>,
    pub(crate) positive: Side,
    pub(crate) negative: Side,
    pub(crate) custom_bounds: Vec<f64>,
    pub(crate) reset_hint: ResetHint,
    /// What is wrong with what was read so far.
    pub(crate) fault: Option<&'static str>,
}

/// Why a histogram is refused, in words.
pub(crate) type Refused = Cow<'static, str>;

fn push<T>(list: &mut Vec<T>, item: T, fault: &mut Option<&'static str>) {
    if list.len() < BUCKETS_MAX {
        list.push(item);
    } else {
        *fault = Some(TOO_MANY);
    }
}

impl Side {
    /// Reads a `BucketSpan`.
    pub(crate) fn read_span(&mut self, field: Field<'_>, fault: &mut Option<&'static str>) -> Result<(), WireError> {
        let mut message = field.message()?;
        let mut span = BucketSpan::default();
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => span.offset = field.sint32()?,
                2 => span.length = field.varint()? as u32,
                _ => {}
            }
        }
        push(&mut self.spans, span, fault);
        Ok(())
    }

    /// Reads differences from one whole count to the next.
    pub(crate) fn read_deltas(&mut self, field: Field<'_>, fault: &mut Option<&'static str>) -> Result<(), WireError> {
        field.varints(|delta| {
            match self.last.checked_add(unfold(delta)).filter(|count| *count <= EXACT_MAX as i64) {
                Some(count) => self.last = count,
                None => *fault = Some(NOT_EXACT),
            }
            push(&mut self.whole, self.last as f64, fault);
        })
    }

    /// Reads counts as they are.
    pub(crate) fn read_counts(&mut self, field: Field<'_>, fault: &mut Option<&'static str>) -> Result<(), WireError> {
        field.fixed64s(|bits| push(&mut self.absolute, f64::from_bits(bits), fault))
    }

    fn finish(self, float: bool) -> Result<(Vec<BucketSpan>, Vec<f64>), Refused> {
        let (counts, other) = if float { (self.absolute, self.whole) } else { (self.whole, self.absolute) };
        if other.is_empty() { Ok((self.spans, counts)) } else { Err("whole and float counts are mixed".into()) }
    }
}

impl NativeParts {
    /// Reads the upper bounds of a custom histogram.
    pub(crate) fn read_bounds(&mut self, field: Field<'_>) -> Result<(), WireError> {
        let (bounds, fault) = (&mut self.custom_bounds, &mut self.fault);
        field.fixed64s(|bits| push(bounds, f64::from_bits(bits), fault))
    }

    /// Puts the parts together; a histogram is one of floats exactly if its count is.
    ///
    /// A schema finer than 8 becomes 8, as in Prometheus, which has reserved those up to 52.
    /// **Errors** when the parts do not fit together, or the buckets of whole counts do not add up to the count (a NaN sum
    /// allows fewer): what Prometheus refuses, too.
    pub(crate) fn finish(self) -> Result<Histogram, Refused> {
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        let float = matches!(self.count, Some(Count::Float(_)));
        let (positive_spans, positive) = self.positive.finish(float)?;
        let (negative_spans, negative) = self.negative.finish(float)?;
        let finer = if FINE_SCHEMAS.contains(&self.schema) { self.schema - FINEST } else { 0 };
        let mut histogram = Histogram {
            schema: self.schema - finer,
            zero_threshold: self.zero_threshold,
            zero_count: count_of(self.zero_count, float)?,
            count: count_of(self.count, float)?,
            sum: self.sum,
            positive_spans,
            positive,
            negative_spans,
            negative,
            custom_bounds: self.custom_bounds,
            reset_hint: self.reset_hint,
        };
        histogram.check().map_err(|e| Refused::from(e.0))?;
        if finer > 0 {
            coarsen(&mut histogram.positive_spans, &mut histogram.positive, finer as u32)?;
            coarsen(&mut histogram.negative_spans, &mut histogram.negative, finer as u32)?;
        }
        if !float {
            check_sum(&histogram)?;
        }
        Ok(histogram)
    }
}

/// Puts the buckets of a side that has passed its check together by twos `shift` times.
fn coarsen(spans: &mut Vec<BucketSpan>, counts: &mut Vec<f64>, shift: u32) -> Result<(), Refused> {
    let (old_spans, old_counts) = (std::mem::take(spans), std::mem::take(counts));
    let mut last: Option<i64> = None;
    for (index, count) in Histogram::buckets(&old_spans, &old_counts) {
        let index = ((i64::from(index) - 1) >> shift) + 1;
        if last == Some(index)
            && let Some(merged) = counts.last_mut()
        {
            *merged += count;
            continue;
        }
        let gap = last.map_or(index, |last| index - last - 1);
        match spans.last_mut() {
            Some(span) if gap == 0 => span.length += 1,
            _ => {
                let offset = i32::try_from(gap).map_err(|_| "buckets beyond all indexes")?;
                spans.push(BucketSpan { offset, length: 1 });
            }
        }
        counts.push(count);
        last = Some(index);
    }
    Ok(())
}

fn count_of(count: Option<Count>, float: bool) -> Result<f64, Refused> {
    match (count, float) {
        (None, _) => Ok(0.0),
        (Some(Count::Float(count)), true) => Ok(count),
        (Some(Count::Whole(count)), false) => exact_count(count),
        _ => Err("whole and float counts are mixed".into()),
    }
}

/// Checks that the buckets of whole counts hold what the count says.
fn check_sum(histogram: &Histogram) -> Result<(), Refused> {
    let buckets: f64 = histogram.positive.iter().chain(&histogram.negative).sum::<f64>() + histogram.zero_count;
    let fits = if histogram.sum.is_nan() { buckets <= histogram.count } else { buckets == histogram.count };
    if fits {
        return Ok(());
    }
    Err(format!("the buckets hold {buckets} observations, the count says {}", histogram.count).into())
}

/// Checks a histogram of whole counts: what [`Histogram::check`] looks at, and that the buckets add up to the count.
pub(crate) fn check_whole(histogram: &Histogram) -> Result<(), Refused> {
    histogram.check().map_err(|e| Refused::from(e.0))?;
    check_sum(histogram)
}

/// Gives a whole count as a double.
///
/// **Errors** when it cannot be kept exactly.
pub(crate) fn exact_count(count: u64) -> Result<f64, Refused> {
    if count <= EXACT_MAX { Ok(count as f64) } else { Err(NOT_EXACT.into()) }
}

/// Gives the memory that a histogram takes in a batch, roughly.
pub(crate) fn memory_of(histogram: &Histogram) -> usize {
    let spans = histogram.positive_spans.len() + histogram.negative_spans.len();
    let counts = histogram.positive.len() + histogram.negative.len() + histogram.custom_bounds.len();
    256 + 8 * (spans + counts)
}

/// Reads a `google.protobuf.Timestamp` as milliseconds since 1970; what does not fit becomes the nearest that does.
pub(crate) fn read_timestamp(mut message: Message<'_>) -> Result<i64, WireError> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => seconds = field.varint()? as i64,
            2 => nanos = i64::from(field.varint()? as i32),
            _ => {}
        }
    }
    Ok(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(schema: i32, spans: &[(i32, u32)], counts: &[f64]) -> Result<Histogram, Refused> {
        let side = |spans: &[(i32, u32)], counts: &[f64]| Side {
            spans: spans.iter().map(|(offset, length)| BucketSpan { offset: *offset, length: *length }).collect(),
            whole: counts.to_vec(),
            ..Side::default()
        };
        let count = Some(Count::Whole(counts.iter().sum::<f64>() as u64));
        NativeParts { schema, count, positive: side(spans, counts), ..NativeParts::default() }.finish()
    }

    #[test]
    fn schemas_finer_than_8_become_8_and_lose_nothing() {
        // By twos: -3 and -2 are -1, -1 and 0 are 0, 1 and 2 are 1; 9 is 5.
        let taken = read(9, &[(-3, 6), (6, 1)], &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]).unwrap();
        let buckets: Vec<_> = Histogram::buckets(&taken.positive_spans, &taken.positive).collect();
        assert_eq!((taken.schema, buckets), (8, vec![(-1, 3.0), (0, 12.0), (1, 48.0), (5, 64.0)]));
        let finest = read(52, &[(i32::MAX - 2, 2)], &[1.0, 2.0]).unwrap();
        assert_eq!((finest.schema, finest.positive.iter().sum::<f64>(), finest.count), (8, 3.0, 3.0));
        assert!(read(53, &[(0, 1)], &[1.0]).is_err());
        assert!(read(-5, &[(0, 1)], &[1.0]).is_err());
        assert!(read(20, &[(0, 2)], &[1.0]).is_err(), "what does not fit together is not made to");
    }
}
