//! Text as Go writes it: quoted strings and characters, numbers and durations.

use std::fmt::Write;

/// Quotes a string as Go's `strconv.Quote`.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    text.chars().for_each(|c| push_escaped(&mut out, c, '"'));
    out.push('"');
    out
}

/// Quotes a character as Go's `%q`; the end of input counts as U+FFFD.
pub(crate) fn quote_char(c: Option<char>) -> String {
    let mut out = String::from("'");
    push_escaped(&mut out, c.unwrap_or(char::REPLACEMENT_CHARACTER), '\'');
    out.push('\'');
    out
}

fn push_escaped(out: &mut String, c: char, quote: char) {
    match c {
        _ if c == quote || c == '\\' => out.extend(['\\', c]),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        // The lexer refuses a bare U+FFFD, as Prometheus does; escaped it reads back.
        char::REPLACEMENT_CHARACTER if quote == '"' => out.push_str("\\ufffd"),
        _ if is_print(c) => out.push(c),
        _ => push_code(out, c as u32),
    }
}

fn push_code(out: &mut String, code: u32) {
    // Writing into a String cannot fail.
    let _ = match code {
        0..0x80 => write!(out, "\\x{code:02x}"),
        0x80..0x1_0000 => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

fn is_print(c: char) -> bool {
    let invisible = matches!(c as u32, 0xad | 0x200b..=0x200f | 0x2028..=0x202f | 0x2060..=0x206f | 0xe000..=0xf8ff
        | 0xfdd0..=0xfdef | 0xfeff | 0xfff0..=0xfffb | 0xfffe | 0xffff | 0xe0000..=0x10ffff);
    c == ' ' || !(c.is_control() || c.is_whitespace() || invisible)
}

/// Prints a float as Go's `FormatFloat(v, 'f', -1, 64)`.
pub fn float(value: f64) -> String {
    match value {
        v if v.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        v => v.to_string(),
    }
}

const UNITS_MS: [(&str, u64, bool); 7] = [
    ("y", 365 * 86_400_000, true),
    ("w", 7 * 86_400_000, true),
    ("d", 86_400_000, false),
    ("h", 3_600_000, false),
    ("m", 60_000, false),
    ("s", 1_000, false),
    ("ms", 1, false),
];

/// Prints milliseconds as Prometheus prints a duration; years and weeks only when nothing remains.
pub fn duration(ms: i64) -> String {
    let mut out = String::new();
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 0 {
        out.push('-');
    }
    let mut rest = ms.unsigned_abs();
    for (unit, size, exact) in UNITS_MS {
        let count = rest / size;
        if count > 0 && (!exact || rest.is_multiple_of(size)) {
            let _ = write!(out, "{count}{unit}");
            rest -= count * size;
        }
    }
    out
}

/// The longest duration in milliseconds that Go's nanoseconds can hold.
const MAX_DURATION_MS: u64 = i64::MAX as u64 / 1_000_000;

/// Reads a Prometheus duration such as `1h30m`; gives milliseconds.
///
/// **Errors** carry Prometheus' text.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    if text == "0" {
        return Ok(0);
    }
    if text.is_empty() {
        return Err("empty duration string".to_owned());
    }
    let invalid = || format!("not a valid duration string: {}", quote(text));
    let (mut rest, mut next_unit, mut total) = (text, 0, 0_u64);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let at =
            UNITS_MS.iter().position(|(name, ..)| *name == unit).filter(|&at| at >= next_unit).ok_or_else(invalid)?;
        if digits == 0 {
            return Err(invalid());
        }
        let size = UNITS_MS.get(at).map_or(1, |u| u.1);
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(size));
        total = part
            .and_then(|part| total.checked_add(part))
            .filter(|&t| t <= MAX_DURATION_MS)
            .ok_or("duration out of range")?;
        (rest, next_unit) = (tail, at + 1);
    }
    Ok(total as i64)
}

/// Gives seconds of milliseconds as Go's `Duration.Seconds`.
pub(crate) fn seconds(ms: i64) -> f64 {
    (ms / 1000) as f64 + (ms % 1000 * 1_000_000) as f64 / 1e9
}

/// Prints a float as Go's `%g`: as few digits as tell it apart.
pub(crate) fn general(value: f64) -> String {
    scientific(value, &format!("{value:e}"), 6)
}

/// Prints a float as Go's `%.<digits>g`.
pub(crate) fn general_digits(value: f64, digits: usize) -> String {
    scientific(value, &format!("{value:.*e}", digits.saturating_sub(1)), digits.max(1) as i32)
}

/// Turns `d.ddde<n>` into Go's form: plain unless the exponent is below -4 or not below `limit`.
fn scientific(value: f64, text: &str, limit: i32) -> String {
    let Some((mantissa, exponent)) = text.split_once('e').filter(|_| value.is_finite()) else { return float(value) };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let mantissa = if mantissa.contains('.') { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
    if (-4..limit).contains(&exponent) {
        return format!("{mantissa}e{exponent}").parse::<f64>().map_or_else(|_| float(value), float);
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

/// Prints a time in UTC as Go's `RFC3339Nano`, with as many digits of the second as needed.
pub(crate) fn rfc3339(ts_ms: i64) -> String {
    let (days, ms) = (ts_ms.div_euclid(86_400_000), ts_ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (second, fraction) = (ms / 1000, ms % 1000);
    let mut out =
        format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    if fraction > 0 {
        let _ = write!(out, ".{fraction:03}");
        out.truncate(out.trim_end_matches('0').len());
    }
    out.push('Z');
    out
}

/// Gives year, month and day of a day counted from 1970-01-01 (proleptic Gregorian).
pub(crate) fn civil(days: i64) -> (i64, i64, i64) {
    // Eras of 400 years begin on the first of March, so that the leap day comes last.
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_prometheus_prints_them() {
        for (ms, want) in [
            (0, "0s"),
            (90_000, "1m30s"),
            (604_800_000, "1w"),
            (90 * 86_400_000, "90d"),
            (-300_000, "-5m"),
            (324, "324ms"),
        ] {
            assert_eq!(duration(ms), want);
        }
    }

    #[test]
    fn durations_parse_in_falling_units_only() {
        assert_eq!(parse_duration("1h30m"), Ok(5_400_000));
        assert_eq!(parse_duration("1y2w3d4h5m6s7ms"), Ok(31_536_000_000 + 1_209_600_000 + 259_200_000 + 14_706_007));
        for bad in ["5", "m", "1m1h", "1m1m", "5hs", "1.5h"] {
            assert_eq!(parse_duration(bad), Err(format!("not a valid duration string: \"{bad}\"")));
        }
        assert_eq!(parse_duration("9999999999y"), Err("duration out of range".to_owned()));
    }

    #[test]
    fn quoting_is_gos() {
        assert_eq!(quote("a\"b\\\n\u{7f}ü\u{200b}"), r#""a\"b\\\n\x7fü\u200b""#);
        assert_eq!(quote_char(Some('\'')), r"'\''");
        assert_eq!(quote_char(None), "'\u{fffd}'");
    }

    #[test]
    fn floats_and_times_print_as_go_prints_them() {
        for (value, want) in [(1.1, "1.1"), (1e6, "1e+06"), (123_456.0, "123456"), (1e-5, "1e-05"), (-50.0, "-50")] {
            assert_eq!(general(value), want);
        }
        assert_eq!(general(f64::INFINITY), "+Inf");
        assert_eq!(general_digits(0.123, 2), "0.12");
        assert_eq!(general_digits(123.0, 2), "1.2e+02");
        assert_eq!(rfc3339(951_782_400_120), "2000-02-29T00:00:00.12Z");
        assert_eq!(rfc3339(-1000), "1969-12-31T23:59:59Z");
    }
}
