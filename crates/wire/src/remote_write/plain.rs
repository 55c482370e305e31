//! The labels of a series in the shape that nearly all senders write, copied without looking at each for its own sake.
//!
//! That shape: the labels come first, no length needs a second byte, all is ASCII, names are sorted, unique and not empty,
//! values are not empty, `__name__` is there. Then the canonical encoding is the protobuf without its tags. Any other shape
//! is left to the general reader.

use model::LABEL_NAME;

use super::limits::Limits;
use crate::proto::Message;

const LABELS_TAG: u8 = 1 << 3 | 2;
const SAMPLES_TAG: u8 = 2 << 3 | 2;
const SAMPLE_VALUE_TAG: u8 = 1 << 3 | 1;
const SAMPLE_TIME_TAG: u8 = 2 << 3;
const NAME_TAG: u8 = 1 << 3 | 2;
const VALUE_TAG: u8 = 2 << 3 | 2;
/// What a label field holds besides name and value with their lengths.
const LABEL_TAGS_AND_LEN: usize = 4;
/// Lengths below this take one byte, in protobuf and in our encoding alike.
const SHORT: u8 = 0x80;

/// Gives the bytes of the labels that a `TimeSeries` begins with, as far as each is shorter than 128 bytes.
#[inline]
pub(super) fn written_labels(series: &[u8]) -> &[u8] {
    let mut at = 0;
    while let Some(&[LABELS_TAG, len]) = series.get(at..).and_then(|rest| rest.first_chunk::<2>())
        && len < SHORT
        && at + 2 + usize::from(len) <= series.len()
    {
        at += 2 + usize::from(len);
    }
    &series[..at]
}

/// Reads the rest of a `TimeSeries` that is nothing but one sample in the form that nearly all senders write.
#[inline]
pub(super) fn lone_sample(rest: &[u8]) -> Option<(i64, f64)> {
    let (&[SAMPLES_TAG, len], sample) = rest.split_first_chunk::<2>()? else { return None };
    if usize::from(len) != sample.len() { None } else { usual_sample(sample) }
}

/// Reads a `Sample` of the form that nearly all senders write: value and time in milliseconds, and nothing else.
#[inline]
pub(super) fn usual_sample(sample: &[u8]) -> Option<(i64, f64)> {
    // A value of 0 is left out.
    let (value, time) = match sample.split_first_chunk::<9>() {
        Some((&[SAMPLE_VALUE_TAG, ref bits @ ..], time)) => (f64::from_bits(u64::from_le_bytes(*bits)), time),
        _ => (0.0, sample),
    };
    let (&SAMPLE_TIME_TAG, digits) = time.split_first()? else { return None };
    // Ten bytes may be more than 64 bits: left to the general reader.
    let (last, before) = digits.split_last()?;
    if digits.len() > 9 || *last >= SHORT || before.iter().any(|byte| *byte < SHORT) {
        return None;
    }
    let ts_ms = digits.iter().rev().fold(0u64, |number, byte| number << 7 | u64::from(byte & 0x7f));
    Some((ts_ms as i64, value))
}

/// Appends the canonical encoding of labels as [`written_labels`] gives them.
///
/// **Gives** `false` when their shape is another one; then `out` may hold a part.
#[inline]
pub(super) fn copy_labels(written: &[u8], limits: &Limits, out: &mut Vec<u8>) -> bool {
    if limits.name_bytes_max.min(limits.value_bytes_max) < usize::from(SHORT) {
        return false;
    }
    out.reserve(written.len());
    let mut rest = written;
    let mut labels = 0;
    let mut last_name: &[u8] = &[];
    let mut named = false;
    while !rest.is_empty() {
        let Some((counted_name, counted_value)) = split_label(rest) else { return false };
        let name = &counted_name[1..];
        if name <= last_name || counted_value.len() == 1 {
            return false;
        }
        named |= name == LABEL_NAME.as_bytes();
        last_name = name;
        out.extend_from_slice(counted_name);
        out.extend_from_slice(counted_value);
        labels += 1;
        rest = &rest[LABEL_TAGS_AND_LEN + counted_name.len() + counted_value.len()..];
    }
    named && labels <= limits.labels_max && written.is_ascii()
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
pub(super) fn has_only_values(mut rest: Message<'_>) -> bool {
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
    use proptest::prelude::*;

    use super::*;

    fn copy(series: &[u8]) -> Option<(Vec<u8>, usize)> {
        let mut out = Vec::new();
        let written = written_labels(series);
        let rest = Message::new(series).after(written.len());
        let usual = has_only_values(rest) && copy_labels(written, &Limits::default(), &mut out);
        usual.then(|| (out, rest.rest().len()))
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
        assert_eq!(lone_sample(SAMPLE), Some((5, 0.0)));
        for cut in 0..whole.len() {
            assert_eq!(copy(&whole[..cut]), None, "{cut}");
        }
    }

    proptest! {
        /// What the quick reader takes, the general one reads alike; what it leaves may be anything.
        #[test]
        fn a_lone_sample_is_read_like_any(ts_ms: i64, bits: u64, zero: bool, mut noise in prop::collection::vec(any::<u8>(), 0..4), cut in 0usize..30) {
            let mut sample = Vec::new();
            if !zero {
                sample.push(SAMPLE_VALUE_TAG);
                sample.extend_from_slice(&bits.to_le_bytes());
            }
            sample.push(SAMPLE_TIME_TAG);
            let mut rest = ts_ms as u64;
            while rest >= 0x80 {
                sample.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            sample.push(rest as u8);
            let mut bytes = vec![SAMPLES_TAG, sample.len() as u8];
            bytes.append(&mut sample);
            bytes.append(&mut noise);
            bytes.truncate(bytes.len().min(cut));
            if let Some((read_ms, value)) = lone_sample(&bytes) {
                let mut fields = Message::new(&bytes);
                let mut inner = fields.next_field().unwrap().unwrap().message().unwrap();
                prop_assert!(fields.next_field().unwrap().is_none());
                let (mut wanted_ms, mut wanted) = (0, 0.0f64);
                while let Some(field) = inner.next_field().unwrap() {
                    match field.number {
                        1 => wanted = field.double().unwrap(),
                        _ => wanted_ms = field.varint().unwrap() as i64,
                    }
                }
                prop_assert_eq!((read_ms, value.to_bits()), (wanted_ms, wanted.to_bits()));
            }
        }
    }
}
