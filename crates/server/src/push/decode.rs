//! The two escapes of a push URL: percent signs, and base64 with the alphabet for URLs.

/// Undoes percent escapes; a plus sign stays one.
///
/// **Errors** when an escape is not one, or the result is not UTF-8.
pub fn percent(text: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => out.push((high << 4 | low) as u8),
            _ => return Err(format!("invalid URL escape in {text:?}")),
        }
    }
    String::from_utf8(out).map_err(|_| format!("{text:?} is not UTF-8"))
}

/// Reads base64 with `-` and `_`, with or without padding.
///
/// **Errors** when it is none, or what it holds is not UTF-8.
pub fn base64(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('=');
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0u32, 0u32);
    for (at, byte) in text.bytes().enumerate() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return Err(format!("illegal base64 data at input byte {at}")),
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    if text.len() % 4 == 1 {
        return Err(format!("illegal base64 data at input byte {}", text.len() - 1));
    }
    String::from_utf8(out).map_err(|_| "the decoded text is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_escapes_are_undone() {
        for (text, plain) in [("", ""), ("a+b", "a+b"), ("a%2Fb%20c", "a/b c"), ("%C3%BC", "ü")] {
            assert_eq!(percent(text).as_deref(), Ok(plain), "{text}");
        }
        for bad in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn base64_is_read_with_and_without_padding() {
        // The examples of the Pushgateway's README, and bytes that differ in the two alphabets.
        let known = [
            ("L3Zhci90bXA=", "/var/tmp"),
            ("L3Zhci90bXA", "/var/tmp"),
            ("zqDPgc6_zrzOt864zrXPjc-C", "Προμηθεύς"),
            ("=", ""),
            ("", ""),
            ("Zg==", "f"),
            ("Zm8", "fo"),
        ];
        for (text, plain) in known {
            assert_eq!(base64(text).as_deref(), Ok(plain), "{text}");
        }
        for bad in ["L3Zh ci9", "A", "zqDPgc6/", "AAA=A", "____"] {
            assert!(base64(bad).is_err(), "{bad}");
        }
    }
}
