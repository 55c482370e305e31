//! Writes JSON byte for byte as Prometheus does: floats as Go prints them, times as seconds with three decimals.

use std::io::Write;

use model::Labels;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes a JSON string with Go's escapes (`<`, `>`, `&` and the two line separators as `\uXXXX`).
pub fn string(out: &mut Vec<u8>, text: &str) {
    write_string(out, text, true);
}

/// Writes a JSON string; `<`, `>` and `&` stay as they are, as in label sets.
pub fn plain_string(out: &mut Vec<u8>, text: &str) {
    write_string(out, text, false);
}

fn write_string(out: &mut Vec<u8>, text: &str, html: bool) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (i, c) in text.char_indices() {
        let escape: &[u8] = match c {
            '"' => b"\\\"",
            '\\' => b"\\\\",
            '\n' => b"\\n",
            '\r' => b"\\r",
            '\t' => b"\\t",
            '\u{2028}' if html => b"\\u2028",
            '\u{2029}' if html => b"\\u2029",
            '<' | '>' | '&' if html => b"",
            c if c < ' ' => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..i]);
        if escape.is_empty() {
            let b = c as u8;
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(b >> 4)]);
            out.push(HEX[usize::from(b & 15)]);
        } else {
            out.extend_from_slice(escape);
        }
        from = i + c.len_utf8();
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// Writes a number as Go's `strconv.FormatFloat(v, 'f' or 'e', -1, 64)` does, choosing as Prometheus' API does.
pub fn float(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
        return;
    }
    if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
        return;
    }
    let abs = value.abs();
    if abs != 0.0 && !(1e-6..1e21).contains(&abs) {
        exponent(out, value);
    } else {
        // Display is the shortest decimal that reads back the same, never with an exponent: Go's 'f', -1.
        let _ = write!(out, "{value}");
    }
}

/// Writes Go's 'e' form, which has a sign and at least two digits in the exponent: `1e+21`, `1e-07`.
pub fn exponent(out: &mut Vec<u8>, value: f64) {
    if !value.is_finite() {
        return float(out, value);
    }
    let text = format!("{value:e}");
    let (mantissa, exp) = text.split_once('e').unwrap_or((&text, "0"));
    out.extend_from_slice(mantissa.as_bytes());
    let (sign, digits) = exp.strip_prefix('-').map_or(('+', exp), |digits| ('-', digits));
    let _ = write!(out, "e{sign}{digits:0>2}");
}

/// Writes a value as a JSON string: `"0.1"`, `"NaN"`, `"+Inf"`.
pub fn value(out: &mut Vec<u8>, v: f64) {
    out.push(b'"');
    float(out, v);
    out.push(b'"');
}

/// Writes a time as seconds: `1435781430.781`, `1435781430`.
pub fn timestamp(out: &mut Vec<u8>, ts_ms: i64) {
    if ts_ms < 0 {
        out.push(b'-');
    }
    let abs = ts_ms.unsigned_abs();
    let _ = write!(out, "{}", abs / 1000);
    let fraction = abs % 1000;
    if fraction != 0 {
        let _ = write!(out, ".{fraction:03}");
    }
}

/// Writes `[time,"value"]`.
pub fn point(out: &mut Vec<u8>, ts_ms: i64, v: f64) {
    out.push(b'[');
    timestamp(out, ts_ms);
    out.push(b',');
    value(out, v);
    out.push(b']');
}

/// Writes a label set as an object.
pub fn labels(out: &mut Vec<u8>, set: &Labels) {
    pairs(out, set.iter());
}

/// Writes pairs as an object.
pub fn pairs<'a>(out: &mut Vec<u8>, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    out.push(b'{');
    for (i, (name, text)) in pairs.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        plain_string(out, name);
        out.push(b':');
        plain_string(out, text);
    }
    out.push(b'}');
}

/// Writes a list of strings.
pub fn strings<S: AsRef<str>>(out: &mut Vec<u8>, items: &[S]) {
    list(out, items, |out, s| string(out, s.as_ref()));
}

/// Writes a list.
pub fn list<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut item: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (i, one) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        item(out, one);
    }
    out.push(b']');
}

/// Closes a success envelope around `data` (the bytes of its value), with warnings and infos when there are any.
pub fn success(data: &[u8], warnings: &[String], infos: &[String]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 64);
    out.extend_from_slice(b"{\"status\":\"success\",\"data\":");
    out.extend_from_slice(data);
    if !warnings.is_empty() {
        out.extend_from_slice(b",\"warnings\":");
        strings(&mut out, warnings);
    }
    if !infos.is_empty() {
        out.extend_from_slice(b",\"infos\":");
        strings(&mut out, infos);
    }
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_are_go_s() {
        // Right column: strconv.AppendFloat with the format that Prometheus' MarshalFloat chooses.
        let known = [
            (1.0, "1"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (0.0, "0"),
            (100.0, "100"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (1e-6, "0.000001"),
            (9.99e-7, "9.99e-07"),
            (1e-7, "1e-07"),
            (5e-324, "5e-324"),
            (-1.234e-10, "-1.234e-10"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (123456789.123, "123456789.123"),
            (0.30000000000000004, "0.30000000000000004"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ];
        for (value, expected) in known {
            assert_eq!(text(|out| float(out, value)), expected);
        }
    }

    #[test]
    fn times_are_seconds_with_three_decimals_or_none() {
        let known = [
            (0, "0"),
            (1, "0.001"),
            (10, "0.010"),
            (1435781430781, "1435781430.781"),
            (20_000, "20"),
            (-1500, "-1.500"),
        ];
        for (ts_ms, expected) in known {
            assert_eq!(text(|out| timestamp(out, ts_ms)), expected);
        }
        assert_eq!(text(|out| timestamp(out, i64::MIN)), "-9223372036854775.808");
    }

    #[test]
    fn strings_escape_as_go_does() {
        assert_eq!(
            text(|out| string(out, "a\"b\\c\n\t\r\u{1}<é&>\u{2028}")),
            r#""a\"b\\c\n\t\r\u0001\u003cé\u0026\u003e\u2028""#
        );
        assert_eq!(text(|out| plain_string(out, "<&>")), "\"<&>\"");
    }

    proptest::proptest! {
        #[test]
        fn any_string_is_read_back(s in ".*") {
            for written in [text(|out| string(out, &s)), text(|out| plain_string(out, &s))] {
                proptest::prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), s.clone());
            }
        }

        #[test]
        fn any_float_is_read_back(bits: u64) {
            let v = f64::from_bits(bits);
            if v.is_finite() {
                let written = text(|out| float(out, v));
                proptest::prop_assert_eq!(written.parse::<f64>().unwrap().to_bits(), bits);
            }
        }
    }
}
