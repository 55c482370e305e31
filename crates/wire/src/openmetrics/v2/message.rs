//! Fields of protobuf, written.

use model::coding::put_varint;

fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    put_varint(out, u64::from(number << 3 | wire_type));
}

pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// An empty text is not written.
pub(super) fn put_text(out: &mut Vec<u8>, number: u32, text: &str) {
    if !text.is_empty() {
        put_bytes(out, number, text.as_bytes());
    }
}

pub(super) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_tag(out, number, 1);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

pub(super) fn put_whole(out: &mut Vec<u8>, number: u32, value: u64) {
    put_tag(out, number, 0);
    put_varint(out, value);
}

pub(super) fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_whole(out, number, value as u64);
}

/// Folded, so that small negative numbers are short.
pub(super) fn put_signed(out: &mut Vec<u8>, number: u32, value: i64) {
    put_whole(out, number, ((value << 1) ^ (value >> 63)) as u64);
}
