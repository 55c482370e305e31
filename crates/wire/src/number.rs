//! Numbers as the exposition formats write them: floats like Go's, timestamps exact to the nanosecond.

/// The NaN that Prometheus stores for every NaN it reads as text.
const NORMAL_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;
const NANOS_PER_SECOND: i128 = 1_000_000_000;
const NANOS_PER_MILLI: i128 = 1_000_000;
/// Digits of whole seconds that are added up exactly; more go through a float.
const EXACT_SECOND_DIGITS: usize = 25;

/// Reads the float that the bytes start with and gives its length.
///
/// What Go's `ParseFloat` reads but for hexadecimal and underscores, which the formats forbid: a number beyond the range
/// and a NaN with a sign are refused, every NaN gets Prometheus' bits. Who calls looks at what follows.
#[inline]
pub(crate) fn float_prefix(bytes: &[u8]) -> Option<(f64, usize)> {
    if let Some(short) = short_decimal(bytes) {
        return Some(short);
    }
    let (value, len) = fast_float2::parse_partial::<f64, _>(bytes).ok()?;
    if value.is_finite() { Some((value, len)) } else { special(value, bytes, len) }
}

/// Powers of ten that a double holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Reads the plain decimal that the bytes start with, as nearly all numbers of a body are.
///
/// Where the digits make a whole number below 2^53 and the power of ten is exact, too, one division rounds correctly. Anything else
/// is `None`: an exponent, a word, a plus, more digits.
#[inline]
fn short_decimal(bytes: &[u8]) -> Option<(f64, usize)> {
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    let (mut number, mut at, mut point) = (0u64, start, None);
    loop {
        match bytes.get(at) {
            Some(digit @ b'0'..=b'9') => number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')),
            Some(b'.') if point.is_none() => point = Some(at),
            Some(b'e' | b'E') => return None,
            _ => break,
        }
        at += 1;
    }
    let digits = at - start - usize::from(point.is_some());
    // 19 digits fit into 64 bits, so that nothing has wrapped.
    if digits == 0 || digits > 19 || number >= 1 << 53 {
        return None;
    }
    let places = point.map_or(0, |point| at - point - 1);
    let value = number as f64 / EXACT_POWERS.get(places)?;
    Some((if negative { -value } else { value }, at))
}

#[cold]
fn special(value: f64, bytes: &[u8], len: usize) -> Option<(f64, usize)> {
    let signed = matches!(bytes.first(), Some(b'+' | b'-'));
    if value.is_nan() {
        return (!signed).then_some((f64::from_bits(NORMAL_NAN_BITS), len));
    }
    let in_words = matches!(bytes.get(usize::from(signed)), Some(b'i' | b'I'));
    in_words.then_some((value, len))
}

/// Reads a float that takes the whole text: what Go's `ParseFloat` accepts without hexadecimal and underscores.
pub fn parse_go_float(text: &str) -> Option<f64> {
    float_prefix(text.as_bytes()).filter(|(_, len)| *len == text.len()).map(|(value, _)| value)
}

/// Reads the whole number that the bytes start with; `None` when there is none or it is beyond 64 bits.
pub(crate) fn int_prefix(bytes: &[u8]) -> Option<(i64, usize)> {
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut value: i64 = 0;
    let mut at = start;
    while let Some(digit) = bytes.get(at).filter(|b| b.is_ascii_digit()) {
        let digit = i64::from(digit - b'0');
        value = value.checked_mul(10)?;
        value = if negative { value.checked_sub(digit)? } else { value.checked_add(digit)? };
        at += 1;
    }
    (at > start).then_some((value, at))
}

/// An OpenMetrics timestamp in nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Nanos(i128);

impl Nanos {
    /// Gives milliseconds, cut towards zero; what does not fit becomes the largest or smallest that does.
    pub(crate) fn to_millis(self) -> i64 {
        let millis = self.0 / NANOS_PER_MILLI;
        i64::try_from(millis).unwrap_or(if millis < 0 { i64::MIN } else { i64::MAX })
    }
}

/// Reads the timestamp in seconds that the bytes start with.
///
/// Plain decimals are exact, where a float would turn 1520879607.789 into .788; exponents go through a float.
pub(crate) fn seconds_prefix(bytes: &[u8]) -> Option<(Nanos, usize)> {
    let sign = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let whole = digits(&bytes[sign..]);
    let mut end = sign + whole;
    let mut nanos: i128 = 0;
    let mut fraction = 0;
    if bytes.get(end) == Some(&b'.') {
        let places = &bytes[end + 1..];
        fraction = digits(places);
        for place in 0..9 {
            let digit = places[..fraction].get(place).map_or(0, |digit| digit - b'0');
            nanos = nanos * 10 + i128::from(digit);
        }
        end += 1 + fraction;
    }
    let plain = !matches!(bytes.get(end), Some(b'e' | b'E')) && whole <= EXACT_SECOND_DIGITS && whole + fraction > 0;
    if !plain {
        let (seconds, len) = float_prefix(bytes).filter(|(seconds, _)| seconds.is_finite())?;
        return Some((Nanos((seconds * NANOS_PER_SECOND as f64) as i128), len));
    }
    let seconds = bytes[sign..sign + whole].iter().fold(0i128, |sum, b| sum * 10 + i128::from(b - b'0'));
    let total = seconds * NANOS_PER_SECOND + nanos;
    Some((Nanos(if bytes[0] == b'-' { -total } else { total }), end))
}

fn digits(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| b.is_ascii_digit()).count()
}

/// Prints a float the way OpenMetrics wants it in `le` and `quantile`: Go's shortest `%g`, with `.0` where it would look
/// like a whole number.
pub fn format_openmetrics_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value == 0.0 {
        return "0.0".to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    // Go's limits for the shortest form.
    if (-4..6).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn floats_are_read_like_go_does() {
        let exact = [
            ("1", 1.0),
            ("+1", 1.0),
            ("-1.5e-3", -1.5e-3),
            ("5.", 5.0),
            (".5", 0.5),
            ("1E5", 1e5),
            ("inf", f64::INFINITY),
            ("+Inf", f64::INFINITY),
            ("-infinity", f64::NEG_INFINITY),
            ("9223372036854775808", 9223372036854775808.0),
            ("0000000000000000000000000000000000000000001.2e-1", 0.12),
            ("1.7976931348623157e308", f64::MAX),
            ("4.9e-324", f64::from_bits(1)),
            ("1e-400", 0.0),
            ("0.1000000000000000055511151231257827021181583404541015625", 0.1),
        ];
        for (text, value) in exact {
            assert_eq!(parse_go_float(text).map(f64::to_bits), Some(f64::to_bits(value)), "{text}");
        }
        assert_eq!(parse_go_float("-0").map(f64::to_bits), Some((-0.0f64).to_bits()));
        for text in ["NaN", "nan", "nAn"] {
            assert_eq!(parse_go_float(text).map(f64::to_bits), Some(NORMAL_NAN_BITS), "{text}");
        }
    }

    proptest! {
        /// The short way is the long way, bit for bit, with the same end.
        #[test]
        fn short_decimals_are_read_like_all(text in "-?[0-9]{0,12}(\\.[0-9]{0,12})?[ x.1e\n]{0,2}", random: f64, hundredths in 0u64..1 << 56) {
            let spelled = [text, random.to_string(), format!("{}.{:02}", hundredths / 100, hundredths % 100)];
            for text in spelled {
                if let Some((value, len)) = short_decimal(text.as_bytes()) {
                    let long = fast_float2::parse_partial::<f64, _>(text.as_bytes()).ok();
                    prop_assert_eq!(Some((value.to_bits(), len)), long.map(|(v, len)| (v.to_bits(), len)), "{}", text);
                }
            }
        }
    }

    #[test]
    fn what_go_or_the_formats_refuse_is_refused() {
        let refused = [
            "",
            " 1",
            "1 ",
            ".",
            "+",
            "-",
            "e5",
            "1e",
            "1e+",
            "+nan",
            "-NaN",
            "1e400",
            "-1e999",
            "infin",
            "in",
            "0x1",
            "0x1p-2",
            "0X1P3",
            "1_2",
            "0b1",
            "0o1",
            "1.1.1",
            "1,5",
            "١",
            "--1",
            "1z",
            "Infinity1",
        ];
        for text in refused {
            assert_eq!(parse_go_float(text), None, "{text}");
        }
    }

    #[test]
    fn whole_numbers_stop_at_64_bits() {
        assert_eq!(int_prefix(b"123x"), Some((123, 3)));
        assert_eq!(int_prefix(b"-9223372036854775808"), Some((i64::MIN, 20)));
        assert_eq!(int_prefix(b"9223372036854775808"), None);
        assert_eq!(int_prefix(b"-"), None);
        assert_eq!(int_prefix(b""), None);
    }

    #[test]
    fn seconds_are_exact() {
        let millis = |text: &str| seconds_prefix(text.as_bytes()).map(|(n, len)| (n.to_millis(), len));
        assert_eq!(millis("1520879607.789"), Some((1_520_879_607_789, 14)));
        assert_eq!(millis("000"), Some((0, 3)));
        assert_eq!(millis("-1.1"), Some((-1100, 4)));
        assert_eq!(millis("-0.5"), Some((-500, 4)));
        assert_eq!(millis("1.5e3"), Some((1_500_000, 5)));
        assert_eq!(millis("12345678901234567890.1234567890"), Some((i64::MAX, 31)));
        assert_eq!(millis("1e300"), Some((i64::MAX, 5)));
        assert_eq!(millis(&"9".repeat(40)), Some((i64::MAX, 40)));
        for text in ["", ".", "-", "NaN", "Inf", "-Inf", "1e999", "z"] {
            assert_eq!(millis(text), None, "{text}");
        }
        let nanos = |text: &str| seconds_prefix(text.as_bytes()).map(|(n, _)| n.0);
        assert_eq!(nanos("0.0000000001"), Some(0));
        assert_eq!(nanos("0.0000000010"), Some(1));
        assert!(nanos("1520879607.789000001") > nanos("1520879607.789"));
    }

    #[test]
    fn label_floats_are_printed_like_go_does() {
        let cases = [
            (1.0, "1.0"),
            (-0.0, "0.0"),
            (0.25, "0.25"),
            (100_000.0, "100000.0"),
            (1e6, "1e+06"),
            (1_234_567.8, "1.2345678e+06"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (1.1e-10, "1.1e-10"),
            (-2.5e120, "-2.5e+120"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(format_openmetrics_float(value), text);
        }
    }
}
