//! Milliseconds since 1970 to the catalog's text and back.

use jiff::Timestamp;

/// Writes `2025-06-21T10:00:00.000Z`; times outside the years 0 to 9999 become the nearest end.
pub fn to_text(ms: i64) -> String {
    let ms = ms.clamp(-62_135_596_800_000, 253_402_207_200_000);
    match Timestamp::from_millisecond(ms) {
        Ok(t) => format!("{t:.3}"),
        Err(_) => "1970-01-01T00:00:00.000Z".to_owned(),
    }
}

/// Reads what [`to_text`] wrote.
pub fn from_text(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        assert_eq!(to_text(1_750_500_000_000), "2025-06-21T10:00:00.000Z");
        for ms in [0, 1, 1_750_500_000_123, -1] {
            assert_eq!(from_text(&to_text(ms)), Some(ms));
        }
        assert_eq!(from_text("yesterday"), None);
        assert!(!to_text(i64::MAX).is_empty());
    }
}
