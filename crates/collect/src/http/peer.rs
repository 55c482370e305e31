//! Who answered over TLS, as far as the first certificate says it.
//!
//! Just enough of X.509 to find its end: whether the certificate can be trusted is rustls' business, and decided before.

/// What the certificate of a target says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsPeer {
    /// Common name of the subject; empty when it has none.
    pub subject: String,
    /// Common name of the issuer; empty when it has none.
    pub issuer: String,
    /// When it ends; milliseconds since 1970.
    pub not_after_ms: i64,
    /// Such as `TLSv1_3`.
    pub version: String,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Reads a certificate in DER; `None` when it is something else.
pub(super) fn read(certificate: &[u8], version: String) -> Option<TlsPeer> {
    let mut outer = content(&mut &*certificate, SEQUENCE)?;
    let mut tbs = content(&mut outer, SEQUENCE)?;
    if tbs.first() == Some(&VERSION) {
        any(&mut tbs)?;
    }
    // Serial number and algorithm.
    any(&mut tbs)?;
    any(&mut tbs)?;
    let issuer = content(&mut tbs, SEQUENCE)?;
    let mut validity = content(&mut tbs, SEQUENCE)?;
    let subject = content(&mut tbs, SEQUENCE)?;
    any(&mut validity)?;
    let (tag, end) = any(&mut validity)?;
    let not_after_ms = time_ms(tag, end)?;
    Some(TlsPeer { subject: common_name(subject), issuer: common_name(issuer), not_after_ms, version })
}

/// Takes the next element: its tag and what is in it.
fn any<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], mut behind) = rest.split_first_chunk::<2>()?;
    let length = match first {
        0..=0x7f => usize::from(first),
        0x81..=0x84 => {
            let (bytes, after) = behind.split_at_checked(usize::from(first & 0x7f))?;
            behind = after;
            bytes.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte))
        }
        _ => return None,
    };
    let (inside, after) = behind.split_at_checked(length)?;
    *rest = after;
    Some((tag, inside))
}

fn content<'a>(rest: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    any(rest).filter(|(tag, _)| *tag == wanted).map(|(_, inside)| inside)
}

fn common_name(mut name: &[u8]) -> String {
    while let Some(mut set) = content(&mut name, SET) {
        let Some(mut pair) = content(&mut set, SEQUENCE) else { continue };
        let is_it = any(&mut pair).is_some_and(|(_, kind)| kind == COMMON_NAME);
        if let Some((_, text)) = any(&mut pair).filter(|_| is_it) {
            return String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(200).collect();
        }
    }
    String::new()
}

/// Reads `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time_ms(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, at) = match (tag, text.len()) {
        (UTC_TIME, 12) => (number(0, 2).map(|y| if y < 50 { 2000 + y } else { 1900 + y })?, 2),
        (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let part = |n: usize| number(at + 2 * n, at + 2 * n + 2);
    let (month, day) = (part(0)?, part(1)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    // Days since 1970 in the Gregorian calendar, years beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 719_469;
    Some((((days * 24 + part(2)?) * 60 + part(3)?) * 60 + part(4)?) * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time_ms(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(time_ms(GENERALIZED_TIME, b"20240229123456Z"), Some(1_709_210_096_000));
        assert_eq!(time_ms(UTC_TIME, b"491231235959Z"), Some(2_524_607_999_000));
        assert_eq!(time_ms(UTC_TIME, b"not a time!!Z"), None);
    }

    #[test]
    fn names_and_end_are_found_and_damage_is_no_harm() {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap_or_else(|e| panic!("{e}"));
        params.distinguished_name.push(rcgen::DnType::CommonName, "shop");
        params.not_after = rcgen::date_time_ymd(2049, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap_or_else(|e| panic!("{e}"));
        let certificate = params.self_signed(&key).unwrap_or_else(|e| panic!("{e}"));
        let der = certificate.der();
        let peer = read(der, "TLSv1_3".into()).unwrap_or_else(|| panic!("it is a certificate"));
        assert_eq!((peer.subject.as_str(), peer.issuer.as_str()), ("shop", "shop"));
        assert_eq!(peer.not_after_ms, 2_524_521_600_000);
        for cut in 0..der.len() {
            let _ = read(&der[..cut], String::new());
        }
    }
}
