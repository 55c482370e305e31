//! The labels of a series in the shape that nearly all senders write, copied without looking at each for its own sake.
//!
//! That shape: the labels come first, no length needs a second byte, all is ASCII, names are sorted, unique and not empty,
//! values are not empty, `__name__` is there. Then the canonical encoding is the protobuf without its tags. Any other shape
//! is left to the general reader.

use model::LABEL_NAME;

use super::limits::Limits;
use crate::proto::Message;

const LABELS_TAG: u8 = 1 << 3 | 2;
const NAME_TAG: u8 = 1 << 3 | 2;
const VALUE_TAG: u8 = 2 << 3 | 2;
/// What a label field holds besides name and value with their lengths.
const LABEL_TAGS_AND_LEN: usize = 4;
/// Lengths below this take one byte, in protobuf and in our encoding alike.
const SHORT: u8 = 0x80;

/// Appends the canonical encoding of a `TimeSeries`' labels and gives the message from the first sample on.
///
/// **Gives** `None` when the shape is another one, or there are no samples; then `out` may hold a part.
#[inline]
pub(super) fn copy_labels<'m>(series: Message<'m>, limits: &Limits, out: &mut Vec<u8>) -> Option<Message<'m>> {
    if limits.name_bytes_max.min(limits.value_bytes_max) < usize::from(SHORT) {
        return None;
    }
    let bytes = series.rest();
    let mut at = 0;
    let mut labels = 0;
    let mut last_name: &[u8] = &[];
    let mut named = false;
    while bytes.get(at) == Some(&LABELS_TAG) {
        let (counted_name, counted_value) = split_label(&bytes[at..])?;
        let name = &counted_name[1..];
        if name <= last_name || counted_value.len() == 1 {
            return None;
        }
        named |= name == LABEL_NAME.as_bytes();
        last_name = name;
        out.extend_from_slice(counted_name);
        out.extend_from_slice(counted_value);
        labels += 1;
        at += LABEL_TAGS_AND_LEN + counted_name.len() + counted_value.len();
    }
    let rest = series.after(at);
    let usual = named && labels <= limits.labels_max && bytes[..at].is_ascii();
    (usual && has_only_values(rest)).then_some(rest)
}

/// Splits a label field, tag and length included, into name and value, each with its length before it; `None` when it is
/// not name and value of short lengths.
#[inline]
fn split_label(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let &[_, len, NAME_TAG, name_len, ..] = bytes else { return None };
    let value_at = 4 + usize::from(name_len);
    let (&VALUE_TAG, &value_len) = (bytes.get(value_at)?, bytes.get(value_at + 1)?) else { return None };
    let end = value_at + 2 + usize::from(value_len);
    let short = len < SHORT && name_len < SHORT && value_len < SHORT;
    if !short || usize::from(len) + 2 != end || end > bytes.len() {
        return None;
    }
    Some((&bytes[3..value_at], &bytes[value_at + 1..end]))
}

/// Tells whether there are samples, exemplars or histograms, and no more labels among them, where no sender puts them but the
/// format allows them; damage counts as such.
fn has_only_values(mut rest: Message<'_>) -> bool {
    let mut any = false;
    loop {
        match rest.next_field() {
            Ok(None) => return any,
            Ok(Some(field)) if field.number != 1 => any |= matches!(field.number, 2..=4),
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(series: &[u8]) -> Option<(Vec<u8>, usize)> {
        let mut out = Vec::new();
        let rest = copy_labels(Message::new(series), &Limits::default(), &mut out)?;
        Some((out, rest.rest().len()))
    }

    const NAMED: &[u8] = b"\x0a\x0d\x0a\x08__name__\x12\x01a";
    const SAMPLE: &[u8] = b"\x12\x02\x10\x05";

    #[test]
    fn the_usual_shape_is_copied() {
        let series = [NAMED, b"\x0a\x06\x0a\x01b\x12\x01c", SAMPLE].concat();
        assert_eq!(copy(&series), Some((b"\x08__name__\x01a\x01b\x01c".to_vec(), 4)));
    }

    #[test]
    fn every_other_shape_is_left() {
        let others: [&[&[u8]]; 11] = [
            &[NAMED],
            &[NAMED, b"\x28\x02"],
            &[SAMPLE],
            &[SAMPLE, NAMED],
            &[NAMED, SAMPLE, b"\x0a\x06\x0a\x01b\x12\x01c"],
            &[NAMED, b"\x0a\x06\x0a\x01b\x12\x01\xff", SAMPLE],
            &[NAMED, b"\x0a\x05\x0a\x01b\x12\x00", SAMPLE],
            &[NAMED, NAMED, SAMPLE],
            &[NAMED, b"\x0a\x06\x0a\x01B\x12\x01c", SAMPLE],
            &[b"\x0a\x06\x0a\x01b\x12\x01c", SAMPLE],
            &[NAMED, b"\x0a\x06\x12\x01c\x0a\x01b", SAMPLE],
        ];
        for parts in others {
            assert_eq!(copy(&parts.concat()), None, "{parts:?}");
        }
        let whole = [NAMED, SAMPLE].concat();
        for cut in 0..whole.len() {
            assert_eq!(copy(&whole[..cut]), None, "{cut}");
        }
    }
}
