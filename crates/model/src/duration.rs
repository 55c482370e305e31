//! Durations as Prometheus writes them: `1h30m`, `15s`, `500ms`.

/// A duration that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a valid duration string: \"{0}\"")]
pub struct DurationError(pub String);

const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads a duration in milliseconds; units from large to small, each at most once, `0` alone needs no unit.
pub fn parse_duration_ms(text: &str) -> Result<i64, DurationError> {
    let error = || DurationError(text.to_owned());
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text;
    let mut total = 0i64;
    let mut next_unit = 0;
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..digits].parse().map_err(|_| error())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[..letters];
        rest = &rest[letters..];
        let at = UNITS.iter().position(|(name, _)| *name == unit).ok_or_else(error)?;
        if at < next_unit {
            return Err(error());
        }
        next_unit = at + 1;
        let part = number.checked_mul(UNITS[at].1).ok_or_else(error)?;
        total = total.checked_add(part).ok_or_else(error)?;
    }
    Ok(total)
}

/// Writes a duration the way Prometheus prints it: `1h30m`, `0s` for zero.
pub fn format_duration_ms(ms: i64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    if ms < 0 {
        out.push('-');
    }
    let mut rest = ms.unsigned_abs();
    for (index, (unit, size)) in UNITS.iter().enumerate() {
        let size = *size as u64;
        // Years, weeks and days only when nothing is left over, as Prometheus does: 25h stays 1d1h, 8d stays 8d.
        if index < 2 && !rest.is_multiple_of(size) {
            continue;
        }
        if rest >= size {
            out.push_str(&format!("{}{}", rest / size, unit));
            rest %= size;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print() {
        for (text, ms) in [("15s", 15_000), ("1h30m", 5_400_000), ("500ms", 500), ("1d", 86_400_000), ("0", 0)] {
            assert_eq!(parse_duration_ms(text), Ok(ms));
        }
        for bad in ["", "15", "s", "1m1h", "1s1s", "-1s", "1.5h", "99999999999999999999y", "9999999999999y"] {
            assert!(parse_duration_ms(bad).is_err(), "{bad}");
        }
        for (ms, text) in
            [(0, "0s"), (90_000, "1m30s"), (90_061_000, "1d1h1m1s"), (604_800_000, "1w"), (691_200_000, "8d")]
        {
            assert_eq!(format_duration_ms(ms), text);
        }
    }
}
