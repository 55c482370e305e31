//! Numbers for people: the `humanize` functions of Prometheus' templates.

use jiff::Timestamp;

use super::value::{significant, special};

/// `1.234k`
pub fn decimal(value: f64) -> String {
    if value == 0.0 || special(value).is_some() {
        return significant(value, 4);
    }
    if value.abs() < 1.0 {
        let (value, prefix) = small(value);
        return significant(value, 4) + prefix;
    }
    let (value, prefix) = large(value, 1000.0, &["k", "M", "G", "T", "P", "E", "Z", "Y"]);
    significant(value, 4) + prefix
}

/// `1.234ki`
pub fn binary(value: f64) -> String {
    if value.abs() <= 1.0 || special(value).is_some() {
        return significant(value, 4);
    }
    let (value, prefix) = large(value, 1024.0, &["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"]);
    significant(value, 4) + prefix
}

fn large(mut value: f64, base: f64, prefixes: &[&'static str]) -> (f64, &'static str) {
    let mut prefix = "";
    for next in prefixes {
        if value.abs() < base {
            break;
        }
        prefix = next;
        value /= base;
    }
    (value, prefix)
}

fn small(mut value: f64) -> (f64, &'static str) {
    let mut prefix = "";
    for next in ["m", "u", "n", "p", "f", "a", "z", "y"] {
        if value.abs() >= 1.0 {
            break;
        }
        prefix = next;
        value *= 1000.0;
    }
    (value, prefix)
}

/// `1d 2h 3m 4s`
pub fn duration(seconds: f64) -> String {
    if special(seconds).is_some() {
        return significant(seconds, 4);
    }
    if seconds == 0.0 {
        return "0s".to_owned();
    }
    if seconds.abs() < 1.0 {
        let (value, prefix) = small(seconds);
        return significant(value, 4) + prefix + "s";
    }
    let (sign, magnitude) = if seconds < 0.0 { ("-", -seconds) } else { ("", seconds) };
    // Saturates, as nobody reads a duration of that length.
    let whole = magnitude as i64;
    let (s, m, h, d) = (whole % 60, whole / 60 % 60, whole / 3600 % 24, whole / 86_400);
    match (d, h, m) {
        (0, 0, 0) => format!("{sign}{}s", significant(magnitude, 4)),
        (0, 0, _) => format!("{sign}{m}m {s}s"),
        (0, _, _) => format!("{sign}{h}h {m}m {s}s"),
        _ => format!("{sign}{d}d {h}h {m}m {s}s"),
    }
}

/// `12.34%`
pub fn percentage(value: f64) -> String {
    significant(value * 100.0, 4) + "%"
}

/// `2015-06-29 13:09:22.5 +0000 UTC`
///
/// **Errors** for times that are none.
pub fn timestamp(seconds: f64) -> Result<String, String> {
    match special(seconds) {
        Some(text) => Ok(text.to_owned()),
        None if at(seconds).is_none() => {
            Err(format!("{seconds} cannot be represented as a nanoseconds timestamp since it overflows int64"))
        }
        None => Ok(time_text(seconds)),
    }
}

fn at(seconds: f64) -> Option<Timestamp> {
    Timestamp::from_nanosecond((seconds * 1e9) as i128).ok()
}

/// Writes a time as Go's `Time.String`.
pub fn time_text(seconds: f64) -> String {
    let Some(at) = at(seconds) else { return seconds.to_string() };
    let nanos = at.subsec_nanosecond().rem_euclid(1_000_000_000);
    let whole = at.strftime("%Y-%m-%d %H:%M:%S").to_string();
    match format!("{nanos:09}").trim_end_matches('0') {
        "" => format!("{whole} +0000 UTC"),
        part => format!("{whole}.{part} +0000 UTC"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of Prometheus' own tests.
    #[test]
    fn numbers_read_as_in_prometheus() {
        for (value, text) in
            [(0.0, "0"), (1.0, "1"), (1_234_567.0, "1.235M"), (0.12, "120m"), (f64::NAN, "NaN"), (-1500.0, "-1.5k")]
        {
            assert_eq!(decimal(value), text);
        }
        for (value, text) in [(0.0, "0"), (1.0, "1"), (1_048_576.0, "1Mi"), (0.12, "0.12")] {
            assert_eq!(binary(value), text);
        }
        for (value, text) in [
            (0.0, "0s"),
            (1.0, "1s"),
            (60.0, "1m 0s"),
            (3600.0, "1h 0m 0s"),
            (86_400.0, "1d 0h 0m 0s"),
            (86_400.0 + 3600.0, "1d 1h 0m 0s"),
            (-(86_400.0 * 2.0 + 3600.0 * 3.0 + 60.0 * 4.0 + 5.0), "-2d 3h 4m 5s"),
            (899.99, "14m 59s"),
            (0.1, "100ms"),
            (0.0001, "100us"),
            (0.12345, "123.5ms"),
            (60.1, "1m 0s"),
            (12.345, "12.35s"),
        ] {
            assert_eq!(duration(value), text, "{value}");
        }
        assert_eq!(percentage(-0.22222), "-22.22%");
        assert_eq!(percentage(0.123456), "12.35%");
        assert_eq!(timestamp(1435065584.128), Ok("2015-06-23 13:19:44.128 +0000 UTC".to_owned()));
        assert_eq!(timestamp(f64::INFINITY), Ok("+Inf".to_owned()));
        assert!(timestamp(1e300).is_err());
    }
}
