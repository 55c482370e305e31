//! One `Metric` of a family: its labels as they stand, and its value taken apart far enough to walk it.

use std::borrow::Cow;

use model::MetricType;
use model::histogram::{Histogram, ResetHint};

use crate::native::{Count, NativeParts, Refused, read_timestamp};
use crate::proto::{Message, WireError};

const LABEL_TAG: u8 = 1 << 3 | 2;

/// A metric, whatever its type.
#[derive(Clone, Default)]
pub(super) struct Metric<'a> {
    /// The label fields with their tags.
    pub(super) labels: Cow<'a, [u8]>,
    pub(super) ts_ms: Option<i64>,
    /// The value of the family's type; `None` when the metric has none.
    pub(super) value: Option<Message<'a>>,
}

/// The value of a metric.
#[derive(Clone, Copy, Default)]
pub(super) struct Point<'a> {
    /// The number; of a histogram or summary, the count.
    pub(super) value: f64,
    pub(super) sum: f64,
    /// When it started to count.
    pub(super) start_ms: Option<i64>,
    pub(super) exemplar: Option<Message<'a>>,
    /// It has a part that only a native histogram has.
    pub(super) is_native: bool,
    /// It has classic buckets.
    pub(super) has_buckets: bool,
}

/// A bucket or quantile.
#[derive(Clone, Copy, Default)]
pub(super) struct Part<'a> {
    pub(super) bound: f64,
    pub(super) value: f64,
    pub(super) exemplar: Option<Message<'a>>,
}

/// Gives the number of the field of `Metric` that holds the value.
pub(super) fn value_field(metric_type: MetricType) -> u32 {
    match metric_type {
        MetricType::Gauge => 2,
        MetricType::Counter => 3,
        MetricType::Summary => 4,
        MetricType::Histogram | MetricType::GaugeHistogram => 7,
        _ => 5,
    }
}

/// Reads a `Metric` without looking into its labels or its value.
#[inline]
pub(super) fn read_metric<'a>(message: Message<'a>, metric_type: MetricType) -> Result<Metric<'a>, WireError> {
    let value_field = value_field(metric_type);
    let whole = message.rest();
    let mut labels = Cow::Borrowed(&whole[..plain_labels_len(whole)]);
    let mut fields = message.after(labels.len());
    let (mut ts_ms, mut value) = (None, None);
    loop {
        let here = fields.rest();
        let Some(field) = fields.next_field()? else { return Ok(Metric { labels, ts_ms, value }) };
        match field.number {
            // Labels that do not stand first, or are long.
            1 => {
                field.bytes()?;
                labels.to_mut().extend_from_slice(&here[..here.len() - fields.rest().len()]);
            }
            // As Prometheus has it, 0 is no timestamp.
            6 => ts_ms = Some(field.varint()? as i64).filter(|ts_ms| *ts_ms != 0),
            number if number == value_field => value = Some(field.message()?),
            _ => {}
        }
    }
}

/// Measures the labels that a metric starts with, as long as each is shorter than 128 bytes.
#[inline]
fn plain_labels_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some([LABEL_TAG, len @ 0..0x80, ..]) = bytes.get(at..) {
        let end = at + 2 + usize::from(*len);
        if end > bytes.len() {
            break;
        }
        at = end;
    }
    at
}

/// Reads a `Gauge`, `Counter` or `Untyped`.
#[inline]
pub(super) fn read_number(mut message: Message<'_>) -> Result<Point<'_>, WireError> {
    let mut point = Point::default();
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => point.value = field.double()?,
            2 => point.exemplar = Some(field.message()?),
            3 => point.start_ms = Some(read_timestamp(field.message()?)?),
            _ => {}
        }
    }
    Ok(point)
}

/// Reads count, sum and start of a `Summary`.
pub(super) fn read_summary(mut message: Message<'_>) -> Result<Point<'_>, WireError> {
    let mut point = Point::default();
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => point.value = field.varint()? as f64,
            2 => point.sum = field.double()?,
            4 => point.start_ms = Some(read_timestamp(field.message()?)?),
            _ => {}
        }
    }
    Ok(point)
}

/// Reads count, sum and start of a `Histogram`, and what kind it is.
pub(super) fn read_histogram(mut message: Message<'_>) -> Result<Point<'_>, WireError> {
    let mut point = Point::default();
    let mut float = 0.0;
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => point.value = field.varint()? as f64,
            2 => point.sum = field.double()?,
            3 => point.has_buckets = true,
            4 => float = field.double()?,
            6 | 8 => point.is_native |= field.double()? > 0.0,
            7 => point.is_native |= field.varint()? > 0,
            9 | 12 => point.is_native = true,
            15 => point.start_ms = Some(read_timestamp(field.message()?)?),
            _ => {}
        }
    }
    if float > 0.0 {
        point.value = float;
    }
    Ok(point)
}

/// Reads the next `Quantile` or `Bucket` of a summary or histogram; `None` after the last.
pub(super) fn next_part<'a>(rest: &mut Message<'a>, is_summary: bool) -> Result<Option<Part<'a>>, WireError> {
    while let Some(field) = rest.next_field()? {
        if field.number == 3 {
            let part = field.message()?;
            return if is_summary { read_quantile(part) } else { read_bucket(part) }.map(Some);
        }
    }
    Ok(None)
}

fn read_quantile(mut message: Message<'_>) -> Result<Part<'_>, WireError> {
    let mut part = Part::default();
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => part.bound = field.double()?,
            2 => part.value = field.double()?,
            _ => {}
        }
    }
    Ok(part)
}

fn read_bucket(mut message: Message<'_>) -> Result<Part<'_>, WireError> {
    let mut part = Part::default();
    let mut float = 0.0;
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => part.value = field.varint()? as f64,
            2 => part.bound = field.double()?,
            3 => part.exemplar = Some(field.message()?),
            4 => float = field.double()?,
            _ => {}
        }
    }
    if float > 0.0 {
        part.value = float;
    }
    Ok(part)
}

/// Reads the native histogram of a `Histogram`.
///
/// **Errors** with the reason when it does not fit together.
pub(super) fn read_native(mut message: Message<'_>, metric_type: MetricType) -> Result<Histogram, Refused> {
    let mut parts = NativeParts::default();
    let (mut count, mut float_count, mut zero, mut float_zero) = (0, 0.0, 0, 0.0);
    let mut read = || -> Result<(), WireError> {
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => count = field.varint()?,
                2 => parts.sum = field.double()?,
                4 => float_count = field.double()?,
                5 => parts.schema = field.sint32()?,
                6 => parts.zero_threshold = field.double()?,
                7 => zero = field.varint()?,
                8 => float_zero = field.double()?,
                9 => parts.negative.read_span(field, &mut parts.fault)?,
                10 => parts.negative.read_deltas(field, &mut parts.fault)?,
                11 => parts.negative.read_counts(field, &mut parts.fault)?,
                12 => parts.positive.read_span(field, &mut parts.fault)?,
                13 => parts.positive.read_deltas(field, &mut parts.fault)?,
                14 => parts.positive.read_counts(field, &mut parts.fault)?,
                _ => {}
            }
        }
        Ok(())
    };
    read().map_err(|e| Refused::from(e.to_string()))?;
    let float = float_count > 0.0 || float_zero > 0.0;
    parts.count = Some(if float { Count::Float(float_count) } else { Count::Whole(count) });
    parts.zero_count = Some(if float { Count::Float(float_zero) } else { Count::Whole(zero) });
    if metric_type == MetricType::GaugeHistogram {
        parts.reset_hint = ResetHint::Gauge;
    }
    parts.finish()
}
