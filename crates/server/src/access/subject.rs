//! The subject of a certificate, as text.
//!
//! The certificate was verified before: what is read here is well-formed, and what is not gives no name. Lengths of DER are checked at
//! every step.

/// Attributes of names and how they are written.
const ATTRIBUTES: [(&[u8], &str); 8] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
];
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const INTEGER: u8 = 0x02;

/// Who a certificate is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// `CN=agent,O=example`, in the order of the certificate.
    pub text: String,
    /// The common name alone.
    pub common_name: Option<String>,
}

/// Reads the subject of a certificate in DER; `None` when there is none.
pub fn read(certificate: &[u8]) -> Option<Subject> {
    let (SEQUENCE, whole, _) = value(certificate)? else { return None };
    let (SEQUENCE, mut rest, _) = value(whole)? else { return None };
    // The version is optional and explicit.
    let (tag, _, behind) = value(rest)?;
    if tag != INTEGER {
        rest = behind;
    }
    // Serial number, algorithm, issuer, validity.
    for _ in 0..4 {
        rest = value(rest)?.2;
    }
    let (SEQUENCE, mut names, _) = value(rest)? else { return None };
    let (mut parts, mut common_name) = (Vec::new(), None);
    while !names.is_empty() {
        let (SET, mut set, behind) = value(names)? else { return None };
        names = behind;
        while !set.is_empty() {
            let (SEQUENCE, pair, behind) = value(set)? else { return None };
            set = behind;
            let (OID, oid, text) = value(pair)? else { return None };
            let text = text_of(value(text)?)?;
            if let Some((_, name)) = ATTRIBUTES.iter().find(|(known, _)| *known == oid) {
                if *name == "CN" {
                    common_name = Some(text.clone());
                }
                parts.push(format!("{name}={}", text.replace('\\', "\\\\").replace(',', "\\,")));
            }
        }
    }
    if parts.is_empty() { None } else { Some(Subject { text: parts.join(","), common_name }) }
}

/// Splits the first value off: its tag, its content, what lies behind it.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0usize, |all, b| all << 8 | usize::from(*b)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Reads a text: UTF-8, printable, IA5 or T61 string. Control characters are no part of a name.
fn text_of((tag, content, _): (u8, &[u8], &[u8])) -> Option<String> {
    if !matches!(tag, 0x0c | 0x13 | 0x14 | 0x16) {
        return None;
    }
    let text = std::str::from_utf8(content).ok()?;
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn certificate(set: impl Fn(&mut rcgen::DistinguishedName)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["host".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        set(&mut params.distinguished_name);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn subjects_are_read_and_cut_certificates_give_none() {
        let der = certificate(|name| {
            name.push(DnType::CommonName, "agent, one");
            name.push(DnType::OrganizationName, "exämple");
        });
        let subject = read(&der).unwrap();
        assert_eq!(subject.text, "CN=agent\\, one,O=exämple");
        assert_eq!(subject.common_name.as_deref(), Some("agent, one"));
        assert_eq!(read(&certificate(|_| ())), None);
        for cut in 0..der.len().min(200) {
            assert_eq!(read(&der[..cut]), None, "{cut}");
        }
        for at in 0..der.len().min(300) {
            let mut bent = der.clone();
            bent[at] ^= 0xff;
            // Whatever comes out, nothing breaks.
            let _ = read(&bent);
        }
    }
}
