//! AWS Signature Version 4: what is signed, and how. Pure; time and keys are given.
//!
//! As all services but S3 want it: the path is normalised and encoded once more, the hash of the body is signed and not sent.

use std::fmt;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use ring::{digest, hmac};
use url::{Position, Url};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Keys that sign.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) session_token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys {}", self.access_key)
    }
}

/// For what a signature is good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
    pub(crate) at: Timestamp,
}

/// Brings a URL into the one form that is sent and signed: no empty path segments, the query sorted and encoded as RFC 3986 has it.
pub(crate) fn tidy(url: &mut Url) {
    let segments: Vec<&str> = url.path().split('/').filter(|part| !part.is_empty()).collect();
    let end = if url.path().ends_with('/') && !segments.is_empty() { "/" } else { "" };
    let path = format!("/{}{end}", segments.join("/"));
    if path != url.path() {
        url.set_path(&path);
    }
    let mut pairs: Vec<(String, String)> =
        url.query_pairs().map(|(name, value)| (encode(&name, false), encode(&value, false))).collect();
    pairs.sort();
    let query: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    url.set_query((!query.is_empty()).then(|| query.join("&")).as_deref());
}

/// Signs a request: adds its date, its signature and, of keys that end, their token.
///
/// **Takes** a tidy URL. Signed are the host, the content type, and what is AWS' own; other headers may change on the way.
/// **Errors** when keys are no header values.
pub(crate) fn sign(
    keys: &Keys,
    scope: Scope<'_>,
    method: &str,
    url: &Url,
    headers: &mut HeaderMap,
    body: &[u8],
) -> Result<(), http::header::InvalidHeaderValue> {
    headers.insert(DATE, HeaderValue::from_str(&date_time(scope.at))?);
    headers.remove(TOKEN);
    if let Some(token) = &keys.session_token {
        let mut token = HeaderValue::from_str(token)?;
        token.set_sensitive(true);
        headers.insert(TOKEN, token);
    }
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let mut signed = vec![(HOST.as_str().to_owned(), host.to_owned())];
    for name in headers.keys().filter(|name| **name == CONTENT_TYPE || name.as_str().starts_with("x-amz-")) {
        let values: Vec<String> = headers.get_all(name).iter().map(|v| squeezed(v.as_bytes())).collect();
        signed.push((name.as_str().to_owned(), values.join(",")));
    }
    signed.sort();
    let mut value = HeaderValue::from_str(&authorization(keys, scope, method, url, &signed, body))?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Ok(())
}

/// Gives the value of `Authorization`.
///
/// **Takes** the headers to sign, lower case and sorted.
fn authorization(
    keys: &Keys,
    scope: Scope<'_>,
    method: &str,
    url: &Url,
    headers: &[(String, String)],
    body: &[u8],
) -> String {
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let (path, query) = (encode(url.path(), true), url.query().unwrap_or(""));
    let request = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{}", hash(body));
    let date = scope.at.strftime("%Y%m%d").to_string();
    let within = format!("{date}/{}/{}/aws4_request", scope.region, scope.service);
    let text = format!("{ALGORITHM}\n{}\n{within}\n{}", date_time(scope.at), hash(request.as_bytes()));
    let mut key = mac(format!("AWS4{}", keys.secret_key).as_bytes(), &date);
    for part in [scope.region, scope.service, "aws4_request"] {
        key = mac(key.as_ref(), part);
    }
    let signature = hex(mac(key.as_ref(), &text).as_ref());
    format!("{ALGORITHM} Credential={}/{within}, SignedHeaders={names}, Signature={signature}", keys.access_key)
}

fn date_time(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Encodes all but the unreserved characters, and the slash if it is to stay.
fn encode(text: &str, slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~') || (slash && b == b'/') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// Takes the outer white space away, and makes one blank of each inner one.
fn squeezed(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// From AWS' own test suite (`aws-signing-test-suite`, Apache-2.0), and from botocore for requests such as ours; made by
    /// `tests/compat/sigv4_vectors.py`.
    const VECTORS: &str = include_str!("testdata/sigv4_vectors.json");

    fn text<'a>(case: &'a Value, name: &str) -> &'a str {
        case[name].as_str().unwrap_or_else(|| panic!("{name} of {case}"))
    }

    #[test]
    fn signatures_are_those_of_aws_and_of_botocore() {
        let cases: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
        assert!(cases.len() > 30);
        for case in &cases {
            let keys = Keys {
                access_key: text(case, "access_key").to_owned(),
                secret_key: text(case, "secret_key").to_owned(),
                session_token: case["token"].as_str().map(str::to_owned),
            };
            let at = text(case, "time").parse().unwrap();
            let scope = Scope { region: text(case, "region"), service: text(case, "service"), at };
            let mut url = Url::parse(text(case, "url")).unwrap();
            tidy(&mut url);
            let mut headers: Vec<(String, String)> = Vec::new();
            for pair in case["headers"].as_array().unwrap() {
                let (name, value) = (pair[0].as_str().unwrap().to_lowercase(), pair[1].as_str().unwrap());
                let value = squeezed(value.as_bytes());
                match headers.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => *known = format!("{known},{value}"),
                    None => headers.push((name, value)),
                }
            }
            headers.sort();
            let body = text(case, "body").as_bytes();
            let got = authorization(&keys, scope, text(case, "method"), &url, &headers, body);
            assert_eq!(got, text(case, "authorization"), "{}", text(case, "name"));
        }
    }

    #[test]
    fn a_request_gets_its_headers_and_nothing_of_the_secret() {
        let keys = Keys { access_key: "AK".into(), secret_key: "hunter2".into(), session_token: Some("tok".into()) };
        assert!(!format!("{keys:?}").contains("hunter2"));
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        let mut url = Url::parse("https://aps.example//a//b?z=1&a=x+y&a=%C3%BC").unwrap();
        tidy(&mut url);
        assert_eq!(url.as_str(), "https://aps.example/a/b?a=%C3%BC&a=x%20y&z=1");
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_static("x"));
        headers.insert("content-type", HeaderValue::from_static("application/x-protobuf"));
        sign(&keys, Scope { region: "r", service: "aps", at }, "POST", &url, &mut headers, b"body").unwrap();
        let said = headers[AUTHORIZATION].to_str().unwrap();
        assert!(said.contains("Credential=AK/20260102/r/aps/aws4_request"), "{said}");
        assert!(said.contains("SignedHeaders=content-type;host;x-amz-date;x-amz-security-token,"), "{said}");
        assert!(headers[AUTHORIZATION].is_sensitive() && headers[TOKEN].is_sensitive());
        assert_eq!(headers[DATE], "20260102T030405Z");
    }
}
