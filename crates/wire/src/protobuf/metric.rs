//! One `Metric` of a family: its labels as they stand, and its value taken apart far enough to walk it.

use std::borrow::Cow;

use model::MetricType;
use model::histogram::{Histogram, ResetHint};

use crate::native::{Count, NativeParts, Refused, read_timestamp};
use crate::proto::{Message, WireError};

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
fn value_field(metric_type: MetricType) -> u32 {
    match metric_type {
        MetricType::Gauge => 2,
        MetricType::Counter => 3,
        MetricType::Summary => 4,
        MetricType::Histogram | MetricType::GaugeHistogram => 7,
        _ => 5,
    }
}

/// Reads a `Metric` without looking into its labels or its value.
pub(super) fn read_metric<'a>(mut message: Message<'a>, metric_type: MetricType) -> Result<Metric<'a>, WireError> {
    let whole = message.rest();
    let mut metric = Metric::default();
    let value_field = value_field(metric_type);
    // Where the labels read so far start and end.
    let (mut start, mut end) = (0, 0);
    loop {
        let here = whole.len() - message.rest().len();
        let Some(field) = message.next_field()? else { return Ok(metric) };
        match field.number {
            1 => {
                field.bytes()?;
                let after = whole.len() - message.rest().len();
                if metric.labels.is_empty() {
                    start = here;
                }
                if metric.labels.is_empty() || (here == end && matches!(metric.labels, Cow::Borrowed(_))) {
                    metric.labels = Cow::Borrowed(&whole[start..after]);
                } else {
                    metric.labels.to_mut().extend_from_slice(&whole[here..after]);
                }
                end = after;
            }
            // As Prometheus has it, 0 is no timestamp.
            6 => metric.ts_ms = Some(field.varint()? as i64).filter(|ts_ms| *ts_ms != 0),
            number if number == value_field => metric.value = Some(field.message()?),
            _ => {}
        }
    }
}

/// Reads a `Gauge`, `Counter` or `Untyped`.
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
