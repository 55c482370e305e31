//! `Histogram` of remote write 1.0 and 2.0: the fields have the same numbers.

use model::histogram::{Histogram, ResetHint};
use model::is_stale;

use crate::native::{Count, NativeParts, Refused};
use crate::proto::{Message, WireError};

/// What a histogram message says.
pub(super) struct Read {
    pub(super) ts_ms: i64,
    /// When it started to count, in 2.0; 0 when not given.
    pub(super) start_ms: i64,
    pub(super) value: Value,
}

pub(super) enum Value {
    /// The series has ended.
    Stale,
    Good(Histogram),
    Refused(Refused),
}

/// Reads a histogram message.
///
/// **Errors** when it is none; one that does not fit together is `Refused`.
pub(super) fn read(mut message: Message<'_>) -> Result<Read, WireError> {
    let mut parts = NativeParts::default();
    let (mut ts_ms, mut start_ms) = (0, 0);
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => parts.count = Some(Count::Whole(field.varint()?)),
            2 => parts.count = Some(Count::Float(field.double()?)),
            3 => parts.sum = field.double()?,
            4 => parts.schema = field.sint32()?,
            5 => parts.zero_threshold = field.double()?,
            6 => parts.zero_count = Some(Count::Whole(field.varint()?)),
            7 => parts.zero_count = Some(Count::Float(field.double()?)),
            8 => parts.negative.read_span(field, &mut parts.fault)?,
            9 => parts.negative.read_deltas(field, &mut parts.fault)?,
            10 => parts.negative.read_counts(field, &mut parts.fault)?,
            11 => parts.positive.read_span(field, &mut parts.fault)?,
            12 => parts.positive.read_deltas(field, &mut parts.fault)?,
            13 => parts.positive.read_counts(field, &mut parts.fault)?,
            14 => parts.reset_hint = ResetHint::from_u8(u8::try_from(field.varint()?).unwrap_or(0)),
            15 => ts_ms = field.varint()? as i64,
            16 => parts.read_bounds(field)?,
            17 => start_ms = field.varint()? as i64,
            _ => {}
        }
    }
    let value =
        if is_stale(parts.sum) { Value::Stale } else { parts.finish().map_or_else(Value::Refused, Value::Good) };
    Ok(Read { ts_ms, start_ms, value })
}
