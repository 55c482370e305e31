//! Attributes: keys and values, and a value as the text of a label.
//!
//! Limits: [`DEPTH_MAX`] values within values; what lies deeper becomes `null`.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::proto::{Message, WireError};

const DEPTH_MAX: usize = 16;

/// A `KeyValue`.
#[derive(Clone, Copy)]
pub(super) struct KeyValue<'a> {
    pub(super) key: &'a [u8],
    /// An `AnyValue`; `None` when not given.
    pub(super) value: Option<Message<'a>>,
}

pub(super) fn read_key_value<'a>(mut message: Message<'a>) -> Result<KeyValue<'a>, WireError> {
    let mut pair = KeyValue { key: &[], value: None };
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => pair.key = field.bytes()?,
            2 => pair.value = Some(field.message()?),
            _ => {}
        }
    }
    Ok(pair)
}

/// Gives a value as text, as OpenTelemetry's collector does: strings as they are, lists and maps as JSON, bytes as base64.
///
/// What is not UTF-8 is replaced.
pub(super) fn text_of<'a>(value: Option<Message<'a>>) -> Result<Cow<'a, str>, WireError> {
    let Some(mut message) = value else { return Ok(Cow::Borrowed("")) };
    let mut text = Cow::Borrowed("");
    while let Some(field) = message.next_field()? {
        text = match field.number {
            1 => String::from_utf8_lossy(field.bytes()?),
            2 => Cow::Borrowed(if field.varint()? != 0 { "true" } else { "false" }),
            3 => Cow::Owned((field.varint()? as i64).to_string()),
            4 => Cow::Owned(float_text(field.double()?)),
            5 | 6 => {
                let mut out = String::new();
                match field.number {
                    5 => put_list(field.message()?, 1, &mut out)?,
                    _ => put_map(field.message()?, 1, &mut out)?,
                }
                Cow::Owned(out)
            }
            7 => Cow::Owned(base64(field.bytes()?)),
            _ => text,
        };
    }
    Ok(text)
}

fn put_value(mut message: Message<'_>, depth: usize, out: &mut String) -> Result<(), WireError> {
    let start = out.len();
    while let Some(field) = message.next_field()? {
        if !(1..=7).contains(&field.number) {
            continue;
        }
        out.truncate(start);
        match field.number {
            1 => put_json_text(&String::from_utf8_lossy(field.bytes()?), out),
            2 => out.push_str(if field.varint()? != 0 { "true" } else { "false" }),
            // Writing into a String cannot fail.
            3 => drop(write!(out, "{}", field.varint()? as i64)),
            4 => put_json_float(field.double()?, out),
            5 | 6 if depth >= DEPTH_MAX => out.push_str("null"),
            5 => put_list(field.message()?, depth + 1, out)?,
            6 => put_map(field.message()?, depth + 1, out)?,
            _ => put_json_text(&base64(field.bytes()?), out),
        }
    }
    if out.len() == start {
        out.push_str("null");
    }
    Ok(())
}

fn put_list(mut message: Message<'_>, depth: usize, out: &mut String) -> Result<(), WireError> {
    let mut before = '[';
    while let Some(field) = message.next_field()? {
        if field.number == 1 {
            out.push(before);
            before = ',';
            put_value(field.message()?, depth, out)?;
        }
    }
    out.push_str(if before == '[' { "[]" } else { "]" });
    Ok(())
}

fn put_map(mut message: Message<'_>, depth: usize, out: &mut String) -> Result<(), WireError> {
    let mut before = '{';
    while let Some(field) = message.next_field()? {
        if field.number == 1 {
            let pair = read_key_value(field.message()?)?;
            out.push(before);
            before = ',';
            put_json_text(&String::from_utf8_lossy(pair.key), out);
            out.push(':');
            put_value(pair.value.unwrap_or(Message::new(&[])), depth, out)?;
        }
    }
    out.push_str(if before == '{' { "{}" } else { "}" });
    Ok(())
}

fn put_json_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn put_json_float(value: f64, out: &mut String) {
    match value.is_finite() {
        true => out.push_str(&float_text(value)),
        false => put_json_text(&float_text(value), out),
    }
}

/// Prints a float as Go's JSON does.
fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        format!("{value:e}").replace("e", if size < 1.0 { "e" } else { "e+" })
    } else {
        value.to_string()
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let three = [0, 1, 2].map(|i| u32::from(chunk.get(i).copied().unwrap_or(0)));
        let bits = three[0] << 16 | three[1] << 8 | three[2];
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_floats_are_printed_as_elsewhere() {
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|t| base64(t.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
        let floats = [1.0, 0.5, 1e21, 1e-7, -2.5e30, 1e20].map(float_text);
        assert_eq!(floats, ["1", "0.5", "1e+21", "1e-7", "-2.5e+30", "100000000000000000000"]);
    }

    #[test]
    fn nested_values_are_json_and_depth_ends() {
        // [1, "a\"", {"k": true}, null]
        let value =
            b"\x2a\x1a\x0a\x02\x18\x01\x0a\x04\x0a\x02a\"\x0a\x0b\x32\x09\x0a\x07\x0a\x01k\x12\x02\x10\x01\x0a\x00";
        let mut fixed = value.to_vec();
        fixed[1] = (value.len() - 2) as u8;
        assert_eq!(text_of(Some(Message::new(&fixed))).unwrap(), r#"[1,"a\"",{"k":true},null]"#);
        let mut deep = Vec::new();
        for _ in 0..25 {
            let mut outer = vec![0x0a, deep.len() as u8];
            outer.extend(&deep);
            deep = vec![0x2a, outer.len() as u8];
            deep.extend(&outer);
        }
        assert_eq!(text_of(Some(Message::new(&deep))).unwrap(), format!("{}null{}", "[".repeat(16), "]".repeat(16)));
    }
}
