//! Times of the REST API: RFC 3339 with milliseconds out; RFC 3339 or Unix seconds in.

use jiff::Timestamp;
use serde_json::Value;

const MIN_MS: i64 = -62_135_596_800_000;
const MAX_MS: i64 = 253_402_207_200_000;

/// Writes `2025-06-21T10:00:00.000Z`; times outside the years 1 to 9999 become the nearest end.
pub fn to_text(ms: i64) -> String {
    Timestamp::from_millisecond(ms.clamp(MIN_MS, MAX_MS)).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}

/// Reads RFC 3339, a number of Unix seconds, or such a number as text.
pub fn from_json(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => from_seconds(n.as_f64()?),
        Value::String(text) => from_text(text),
        _ => None,
    }
}

/// Reads RFC 3339 or Unix seconds.
pub fn from_text(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return from_seconds(seconds);
    }
    if text.as_bytes().get(10).is_none_or(|b| !matches!(b, b'T' | b't' | b' ')) {
        return None;
    }
    text.parse::<Timestamp>().ok().map(|t| t.as_millisecond())
}

fn from_seconds(seconds: f64) -> Option<i64> {
    let ms = (seconds * 1000.0).round();
    (ms >= MIN_MS as f64 && ms <= MAX_MS as f64).then_some(ms as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_in_all_spellings() {
        for value in [
            json!("2025-06-21T10:00:00.000Z"),
            json!("2025-06-21T12:00:00+02:00"),
            json!(1_750_500_000),
            json!(1_750_500_000.0),
            json!("1750500000"),
        ] {
            assert_eq!(from_json(&value), Some(1_750_500_000_000), "{value}");
        }
        assert_eq!(from_json(&json!(1.5)), Some(1500));
        for bad in [
            json!("today"),
            json!("2025-06-21"),
            json!(true),
            json!(1e300),
            json!("NaN"),
            json!("2025-13-01T00:00:00Z"),
        ] {
            assert_eq!(from_json(&bad), None, "{bad}");
        }
        assert_eq!(to_text(1_750_500_000_085), "2025-06-21T10:00:00.085Z");
    }
}
