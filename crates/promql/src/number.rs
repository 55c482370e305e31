//! Number literals, read as Go's `ParseInt(text, 0, 64)` with `ParseFloat` behind it.

use crate::go_text::quote;

/// Reads a number literal.
///
/// **Errors** carry Prometheus' text.
pub(crate) fn parse(text: &str) -> Result<f64, String> {
    let error = |what: &str| format!("error parsing number: strconv.ParseFloat: parsing {}: {what}", quote(text));
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "inf" => return Ok(f64::INFINITY),
        "nan" => return Ok(f64::NAN),
        _ if !underscores_fit(&lower) => return Err(error("invalid syntax")),
        _ => {}
    }
    let plain = lower.replace('_', "");
    if let Some(value) = integer(&plain) {
        return Ok(value as f64);
    }
    if plain.starts_with("0x") {
        return Err(error("invalid syntax"));
    }
    match plain.parse::<f64>() {
        Ok(value) if value.is_infinite() => Err(error("value out of range")),
        Ok(value) => Ok(value),
        Err(_) => Err(error("invalid syntax")),
    }
}

fn integer(plain: &str) -> Option<i64> {
    match plain.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None if plain.len() > 1 && plain.starts_with('0') => i64::from_str_radix(plain, 8).ok(),
        None => plain.parse().ok(),
    }
}

/// Underscores must separate digits; one may follow the `0x`.
fn underscores_fit(lower: &str) -> bool {
    let bytes = lower.as_bytes();
    bytes.iter().enumerate().filter(|(_, b)| **b == b'_').all(|(i, _)| {
        let before = i.checked_sub(1).and_then(|i| bytes.get(i));
        let after = bytes.get(i + 1);
        let after_prefix = i == 2 && lower.starts_with("0x");
        (after_prefix || before.is_some_and(u8::is_ascii_hexdigit)) && after.is_some_and(u8::is_ascii_hexdigit)
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn numbers_read_as_go_reads_them() {
        let cases = [
            ("1", 1.0),
            ("1_000_000", 1e6),
            ("0x1f", 31.0),
            ("0x_1F", 31.0),
            ("0755", 493.0),
            ("08", 8.0),
            ("1.5e3", 1500.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("Inf", f64::INFINITY),
            ("1_000.5", 1000.5),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text), Ok(want), "{text}");
        }
        assert!(parse("nAN").is_ok_and(f64::is_nan));
        assert!(parse("1e400").is_err_and(|e| e.ends_with("value out of range")));
        assert!(parse("0xffffffffffffffffff").is_err());
    }
}
