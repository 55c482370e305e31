//! A native histogram as protobuf schemas write it: spans, and behind them deltas of whole counts or absolute counts.
//!
//! Invariants: 1. what [`NativeParts::finish`] gives has passed [`Histogram::check`]; 2. no vector grows beyond
//! [`BUCKETS_MAX`] entries, however long the field; 3. whole counts are exact: beyond 2^53 they are refused.

use std::borrow::Cow;

use model::histogram::{BUCKETS_MAX, BucketSpan, Histogram, ResetHint};

use crate::proto::{Field, Message, WireError, unfold};

/// Up to here a double holds every whole number.
const EXACT_MAX: u64 = 1 << 53;
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
    /// **Errors** when the parts do not fit together, or the buckets of whole counts do not add up to the count (a NaN sum
    /// allows fewer): what Prometheus refuses, too.
    pub(crate) fn finish(self) -> Result<Histogram, Refused> {
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        let float = matches!(self.count, Some(Count::Float(_)));
        let (positive_spans, positive) = self.positive.finish(float)?;
        let (negative_spans, negative) = self.negative.finish(float)?;
        let histogram = Histogram {
            schema: self.schema,
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
        if !float {
            check_sum(&histogram)?;
        }
        Ok(histogram)
    }
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
