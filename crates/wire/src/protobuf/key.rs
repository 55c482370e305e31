//! The raw key of a series of a protobuf body: enough to know it again and to read its labels from, cheap to compare.
//!
//! Layout: a byte for the kind; the bound's bits (little endian) if the kind has one; length (LEB128) and text of the family's
//! name; the metric's label fields as they stand in the body. A metric's keys differ in their first bytes only.

use model::{LABEL_NAME, LabelsBuf};

use crate::number::format_openmetrics_float;
use crate::proto::Message;

/// What a sample is to its metric.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Kind {
    /// The metric itself, a number.
    Plain,
    /// The metric itself, a native histogram.
    Native,
    Count,
    Sum,
    Bucket(f64),
    Quantile(f64),
}

impl Kind {
    fn tag(self) -> u8 {
        match self {
            Kind::Plain => 0,
            Kind::Native => 1,
            Kind::Count => 2,
            Kind::Sum => 3,
            Kind::Bucket(_) => 4,
            Kind::Quantile(_) => 5,
        }
    }

    fn bound(self) -> Option<f64> {
        match self {
            Kind::Bucket(bound) | Kind::Quantile(bound) => Some(bound),
            _ => None,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Kind::Count => "_count",
            Kind::Sum => "_sum",
            Kind::Bucket(_) => "_bucket",
            Kind::Plain | Kind::Native | Kind::Quantile(_) => "",
        }
    }
}

/// Appends a key.
pub(super) fn write(kind: Kind, name: &str, labels: &[u8], out: &mut Vec<u8>) {
    out.push(kind.tag());
    if let Some(bound) = kind.bound() {
        out.extend_from_slice(&bound.to_bits().to_le_bytes());
    }
    let mut len = name.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(labels);
}

/// Tells whether a key is what [`write`] would write, without writing it.
#[inline]
pub(super) fn is(key: &[u8], kind: Kind, name: &str, labels: &[u8]) -> bool {
    let Some((&tag, mut rest)) = key.split_first() else { return false };
    if tag != kind.tag() {
        return false;
    }
    if let Some(bound) = kind.bound() {
        match rest.split_first_chunk::<8>() {
            Some((bits, after)) if u64::from_le_bytes(*bits) == bound.to_bits() => rest = after,
            _ => return false,
        }
    }
    let mut len = name.len();
    while len >= 0x80 {
        if rest.split_off_first() != Some(&(len as u8 | 0x80)) {
            return false;
        }
        len >>= 7;
    }
    rest.split_off_first() == Some(&(len as u8))
        && rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest == labels)
}

/// Gives the label fields of a key if it is one of a number that is the metric itself, of this family.
#[inline]
pub(super) fn plain_labels<'k>(key: &'k [u8], name: &str) -> Option<&'k [u8]> {
    let [0, len @ 0..0x80, rest @ ..] = key else { return None };
    if usize::from(*len) == name.len() { rest.strip_prefix(name.as_bytes()) } else { None }
}

/// Splits a key into kind, family name and label fields; `None` for bytes that are no key.
fn split(key: &[u8]) -> Option<(Kind, &str, &[u8])> {
    let (&tag, mut rest) = key.split_first()?;
    let kind = match tag {
        0 => Kind::Plain,
        1 => Kind::Native,
        2 => Kind::Count,
        3 => Kind::Sum,
        4 | 5 => {
            let (bits, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            let bound = f64::from_bits(u64::from_le_bytes(*bits));
            if tag == 4 { Kind::Bucket(bound) } else { Kind::Quantile(bound) }
        }
        _ => return None,
    };
    let mut message = Message::new(rest);
    let len = usize::try_from(message.read_varint().ok()?).ok()?;
    let (name, labels) = message.rest().split_at_checked(len)?;
    Some((kind, std::str::from_utf8(name).ok()?, labels))
}

/// Gives the metric name of a key's series; empty for bytes that are no key.
pub(super) fn metric_name(key: &[u8]) -> String {
    split(key).map_or_else(String::new, |(kind, name, _)| format!("{name}{}", kind.suffix()))
}

/// Appends the labels of a key's series, `__name__` first, the others as they stand, then `le` or `quantile`.
///
/// **Errors** with a text when a label is not valid.
pub(super) fn labels(key: &[u8], out: &mut LabelsBuf) -> Result<(), &'static str> {
    let (kind, name, fields) = split(key).ok_or("the bytes are no key of a series")?;
    match kind.suffix() {
        "" => out.push(LABEL_NAME, name),
        suffix => out.push(LABEL_NAME, &format!("{name}{suffix}")),
    }
    let mut fields = Message::new(fields);
    while let Some(field) = fields.next_field().map_err(|_| "the labels are malformed")? {
        let mut pair = field.message().map_err(|_| "the labels are malformed")?;
        let (name, value) = read_pair(&mut pair).ok_or("a label is not UTF-8 or malformed")?;
        if name.is_empty() {
            return Err("a label name is empty");
        }
        out.push(name, value);
    }
    match kind {
        Kind::Bucket(bound) => out.push("le", &format_openmetrics_float(bound)),
        Kind::Quantile(bound) => out.push("quantile", &format_openmetrics_float(bound)),
        _ => {}
    }
    Ok(())
}

/// Reads a `LabelPair`.
pub(super) fn read_pair<'a>(pair: &mut Message<'a>) -> Option<(&'a str, &'a str)> {
    let (mut name, mut value) = (&[][..], &[][..]);
    while let Some(field) = pair.next_field().ok()? {
        match field.number {
            1 => name = field.bytes().ok()?,
            2 => value = field.bytes().ok()?,
            _ => {}
        }
    }
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
}
