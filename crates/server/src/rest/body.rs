//! Request bodies: JSON, bounded while they inflate, and the headers around them.
//!
//! Limits: the body limit counts inflated bytes.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, BufReader, Read};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::FromRequestParts;
use flate2::bufread::MultiGzDecoder;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use super::problem::Problem;
use crate::prom::params::Params;

/// What is set aside for a body before it is there.
const FIRST_BYTES_MAX: u64 = 64 << 10;
/// A body gets room in few large steps: while it is copied both copies are in memory, what is only set aside is not.
const GROWTH: usize = 16;
/// Characters of an `Idempotency-Key`.
const KEY_CHARS_MAX: usize = 200;

/// The parameters of the URL alone.
pub struct Query(pub Params);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Query, Infallible> {
        Ok(Query(Params::parse(parts.uri.query().unwrap_or_default())))
    }
}

/// A JSON body as it came.
pub struct JsonBody {
    wire: Vec<u8>,
    gzip: bool,
    bytes_max: usize,
}

/// Reads a JSON body of at most so many bytes, inflated.
pub async fn read_json(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let body = receive(headers, body, bytes_max).await?;
    if !body.gzip {
        return Ok(Bytes::from(body.wire));
    }
    // A body of many empty members keeps a thread busy.
    let inflated = tokio::task::spawn_blocking(move || body.inflate()).await;
    inflated.unwrap_or_else(|_| Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed")))
}

/// Receives a JSON body without inflating it.
pub async fn receive(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<JsonBody, Problem> {
    check_content_type(headers)?;
    let encoding = headers.get(header::CONTENT_ENCODING).map(|v| v.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    let gzip = match encoding.as_deref() {
        None | Some("" | "identity") => false,
        Some("gzip" | "x-gzip") => true,
        Some(other) => {
            let detail = format!("content encoding {other:?} is not understood; gzip and identity are");
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail));
        }
    };
    Ok(JsonBody { wire: collect(body, bytes_max).await?, gzip, bytes_max })
}

/// Joins what arrives at once: a body in pieces of one byte costs no more than another.
pub(crate) async fn collect(mut body: Body, bytes_max: usize) -> Result<Vec<u8>, Problem> {
    let expected = HttpBody::size_hint(&body).lower();
    if expected > bytes_max as u64 {
        return Err(too_large(bytes_max));
    }
    let mut bytes = Vec::with_capacity(expected.min(FIRST_BYTES_MAX) as usize);
    while let Some(frame) = body.frame().await {
        let incomplete = |e| Problem::new(StatusCode::BAD_REQUEST, "incomplete_body", format!("body: {e}"));
        let Ok(data) = frame.map_err(incomplete)?.into_data() else { continue };
        if bytes.len() + data.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        let wanted = bytes.len() + data.len();
        if wanted > bytes.capacity() {
            bytes.reserve_exact(wanted.max(bytes.capacity().saturating_mul(GROWTH).min(bytes_max)) - bytes.len());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

impl JsonBody {
    /// Gives each element of the list that the body is, one at a time and inflated on the way: what lies behind the
    /// element that `each` refuses is not looked at.
    ///
    /// **Errors** when the body is no list, or no JSON, or too large; or with the error of `each`.
    pub fn each_element(&self, each: impl FnMut(Value) -> Result<(), Problem>) -> Result<(), Problem> {
        if !self.gzip {
            return elements(&mut serde_json::Deserializer::from_slice(&self.wire), each);
        }
        let mut inflating = Inflating::new(self);
        let result = elements(&mut serde_json::Deserializer::from_reader(BufReader::new(&mut inflating)), each);
        inflating.trouble.map_or(result, Err)
    }

    /// Gives the hash of the inflated body after some other bytes.
    pub fn hash_after(&self, other: &[u8]) -> Result<u64, Problem> {
        let mut hash = Xxh3::new();
        hash.update(other);
        if !self.gzip {
            hash.update(&self.wire);
            return Ok(hash.digest());
        }
        let mut inflating = Inflating::new(self);
        let mut piece = [0; 8 << 10];
        while let Ok(n @ 1..) = inflating.read(&mut piece) {
            hash.update(&piece[..n]);
        }
        inflating.trouble.map_or(Ok(hash.digest()), Err)
    }

    fn inflate(&self) -> Result<Bytes, Problem> {
        let (mut inflating, mut bytes) = (Inflating::new(self), Vec::new());
        let _ = inflating.read_to_end(&mut bytes);
        inflating.trouble.map_or(Ok(Bytes::from(bytes)), Err)
    }
}

/// Inflates, and remembers why it had to end.
struct Inflating<'b> {
    decoder: MultiGzDecoder<&'b [u8]>,
    left: usize,
    bytes_max: usize,
    trouble: Option<Problem>,
}

impl<'b> Inflating<'b> {
    fn new(body: &'b JsonBody) -> Inflating<'b> {
        let decoder = MultiGzDecoder::new(&body.wire[..]);
        Inflating { decoder, left: body.bytes_max, bytes_max: body.bytes_max, trouble: None }
    }
}

impl Read for Inflating<'_> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let read = match self.decoder.read(piece) {
            Ok(n) if n <= self.left => Ok(n),
            Ok(_) => Err(too_large(self.bytes_max)),
            Err(e) => Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_encoding", format!("gzip: {e}"))),
        };
        let n = read.map_err(|problem| {
            self.trouble = Some(problem);
            io::Error::other("the body cannot be inflated")
        })?;
        self.left -= n;
        Ok(n)
    }
}

fn elements<'de, R: serde_json::de::Read<'de>>(
    json: &mut serde_json::Deserializer<R>,
    each: impl FnMut(Value) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut list = List { each, opened: false, refused: None };
    let read = json.deserialize_seq(&mut list).and_then(|()| json.end());
    match (list.refused, read) {
        (Some(problem), _) => Err(problem),
        (None, Ok(())) => Ok(()),
        (None, Err(e)) if e.is_data() && !list.opened => {
            Err(Problem::at(StatusCode::BAD_REQUEST, "wrong_type", "", "the body is a list of metrics"))
        }
        (None, Err(e)) => Err(syntax_problem(&e)),
    }
}

struct List<F> {
    each: F,
    opened: bool,
    refused: Option<Problem>,
}

impl<'de, F: FnMut(Value) -> Result<(), Problem>> Visitor<'de> for &mut List<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.opened = true;
        while let Some(value) = list.next_element_seed(Unambiguous)? {
            if let Err(problem) = (self.each)(value) {
                self.refused = Some(problem);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

fn too_large(bytes_max: usize) -> Problem {
    let detail = format!("the body is larger than {bytes_max} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or("?").to_ascii_lowercase();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let detail = format!("content type {essence:?}; send application/json");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
}

/// Makes a 400 out of a syntax error.
pub fn syntax_problem(error: &serde_json::Error) -> Problem {
    Problem::at(StatusCode::BAD_REQUEST, "invalid_json", "", format!("invalid JSON: {error}"))
}

/// Parses a whole body.
pub fn parse(bytes: &[u8]) -> Result<Value, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    Unambiguous.deserialize(&mut json).and_then(|value| json.end().map(|()| value)).map_err(|e| syntax_problem(&e))
}

/// Reads a value in which no object names a field twice: readers differ in which of the two they believe.
struct Unambiguous;

impl<'de> DeserializeSeed<'de> for Unambiguous {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Unambiguous)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut map = serde_json::Map::new();
        while let Some(name) = object.next_key::<String>()? {
            if map.contains_key(&name) {
                let name: String = name.chars().take(100).collect();
                return Err(A::Error::custom(format!("the field {name:?} stands twice in one object")));
            }
            map.insert(name, object.next_value_seed(Unambiguous)?);
        }
        Ok(Value::Object(map))
    }
}

/// Gives the `Idempotency-Key`.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str().map(str::trim) {
        Ok(key) if !key.is_empty() && key.len() <= KEY_CHARS_MAX => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("Idempotency-Key has 1 to {KEY_CHARS_MAX} printable ASCII characters");
            Err(Problem::at(StatusCode::BAD_REQUEST, "invalid_header", "Idempotency-Key", detail))
        }
    }
}

/// Gives the version that `If-Match` asks for; `None` without the header or with `*`.
pub fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or("?").trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.trim_start_matches("W/").trim_matches('"').parse().ok();
    match number {
        Some(version) => Ok(Some(version)),
        None => Err(Problem::at(
            StatusCode::BAD_REQUEST,
            "invalid_header",
            "If-Match",
            "If-Match is the ETag of the target",
        )),
    }
}

/// Gives a query flag: `?name`, `?name=true`, `?name=1`.
pub fn flag(params: &Params, name: &str, default: bool) -> Result<bool, Problem> {
    match params.all(name).next() {
        None => Ok(default),
        Some("" | "1") => Ok(true),
        Some("0") => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(Problem::parameter(name, format!("{name} is true or false"))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), http::HeaderValue::from_static(v))).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes it")
    }

    async fn status(pairs: &[(&'static str, &'static str)], body: Vec<u8>) -> u16 {
        read_json(&headers(pairs), Body::from(body), 1_000).await.map_or_else(|p| p.status, |_| 200)
    }

    #[tokio::test]
    async fn bodies_are_bounded_and_typed() {
        assert_eq!(status(&[], b"[]".to_vec()).await, 200);
        assert_eq!(status(&[("content-type", "Application/JSON; charset=utf-8")], b"[]".to_vec()).await, 200);
        assert_eq!(status(&[("content-type", "application/merge-patch+json")], b"[]".to_vec()).await, 200);
        assert_eq!(status(&[("content-type", "text/plain")], b"[]".to_vec()).await, 415);
        assert_eq!(status(&[("content-encoding", "br")], b"[]".to_vec()).await, 415);
        assert_eq!(status(&[], vec![b' '; 1_001]).await, 413);
        assert_eq!(status(&[("content-encoding", "gzip")], gzip(&[b' '; 1_000])).await, 200);
        assert_eq!(status(&[("content-encoding", "gzip")], gzip(&vec![b' '; 10_000_000])[..900].to_vec()).await, 413);
        assert_eq!(status(&[("content-encoding", "gzip")], b"not gzip".to_vec()).await, 400);
    }

    async fn received(pairs: &[(&'static str, &'static str)], body: Vec<u8>) -> JsonBody {
        receive(&headers(pairs), Body::from(body), 1_000).await.unwrap_or_else(|p| panic!("{}", p.detail))
    }

    #[tokio::test]
    async fn elements_come_one_at_a_time_plain_and_inflated() {
        let text = br#"[1, -2, 2.5, "\u00e9", null, true, {"a": [{}]}]"#.to_vec();
        let expected: Value = parse(&text).unwrap_or_default();
        let packed = gzip(&text);
        let (plain, packed) = (received(&[], text).await, received(&[("content-encoding", "gzip")], packed).await);
        for body in [&plain, &packed] {
            let mut got = Vec::new();
            let done = body.each_element(|value| {
                got.push(value);
                Ok(())
            });
            assert_eq!((done, Value::Array(got)), (Ok(()), expected.clone()));
            let mut seen = 0;
            let stopped = body.each_element(|_| {
                seen += 1;
                Err(Problem::not_found("enough"))
            });
            assert_eq!((stopped.map_err(|p| p.status), seen), (Err(404), 1));
        }
        assert_eq!(plain.hash_after(b"x").ok(), packed.hash_after(b"x").ok());
        assert_ne!(plain.hash_after(b"x").ok(), plain.hash_after(b"y").ok());
    }

    #[tokio::test]
    async fn lists_that_are_none_are_told_why() {
        for (text, status, word) in [
            ("{}", 400, "list of metrics"),
            ("[1", 400, "EOF"),
            ("[1] x", 400, "trailing"),
            (r#"[{"a":1,"a":2}]"#, 400, "twice"),
        ] {
            let packed = received(&[("content-encoding", "gzip")], gzip(text.as_bytes())).await;
            for body in [received(&[], text.into()).await, packed] {
                let problem = body.each_element(|_| Ok(())).err().unwrap_or_else(|| panic!("{text} is taken"));
                assert!(problem.status == status && problem.detail.contains(word), "{text}: {}", problem.detail);
            }
        }
        let bomb = received(&[("content-encoding", "gzip")], gzip(&vec![b' '; 100_000])).await;
        assert_eq!(bomb.each_element(|_| Ok(())).map_err(|p| p.status), Err(413));
        assert_eq!(bomb.hash_after(b"").map_err(|p| p.status), Err(413));
    }

    #[test]
    fn headers_are_read() {
        assert_eq!(if_match(&headers(&[("if-match", "\"7\"")])).ok(), Some(Some(7)));
        assert_eq!(if_match(&headers(&[("if-match", "*")])).ok(), Some(None));
        assert!(if_match(&headers(&[("if-match", "x")])).is_err());
        assert!(idempotency_key(&headers(&[("idempotency-key", "")])).is_err());
    }
}
