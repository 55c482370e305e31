//! Request bodies: JSON, bounded while they inflate, and the headers around them.
//!
//! Limits: the body limit counts inflated bytes.

use std::convert::Infallible;
use std::io::Read;

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::problem::Problem;
use crate::prom::params::Params;

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

/// Reads a JSON body of at most so many bytes, inflated.
pub async fn read_json(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    check_content_type(headers)?;
    let encoding = headers.get(header::CONTENT_ENCODING).map(|v| v.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    #[allow(clippy::disallowed_methods, reason = "the body is wrapped in Limited")]
    let collected = Limited::new(body, bytes_max).collect().await;
    let bytes = match collected {
        Ok(collected) => collected.to_bytes(),
        Err(e) if e.downcast_ref::<LengthLimitError>().is_some() => return Err(too_large(bytes_max)),
        Err(e) => return Err(Problem::new(StatusCode::BAD_REQUEST, "incomplete_body", format!("body: {e}"))),
    };
    match encoding.as_deref() {
        None | Some("" | "identity") => Ok(bytes),
        Some("gzip" | "x-gzip") => inflate(&bytes, bytes_max),
        Some(other) => {
            let detail = format!("content encoding {other:?} is not understood; gzip and identity are");
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail))
        }
    }
}

fn too_large(bytes_max: usize) -> Problem {
    let detail = format!("the body is larger than {bytes_max} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

fn inflate(bytes: &[u8], bytes_max: usize) -> Result<Bytes, Problem> {
    let mut out = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(bytes).take(bytes_max as u64 + 1);
    if let Err(e) = reader.read_to_end(&mut out) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_encoding", format!("gzip: {e}")));
    }
    if out.len() > bytes_max { Err(too_large(bytes_max)) } else { Ok(Bytes::from(out)) }
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
    serde_json::from_slice(bytes).map_err(|e| syntax_problem(&e))
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

    #[test]
    fn headers_are_read() {
        assert_eq!(if_match(&headers(&[("if-match", "\"7\"")])).ok(), Some(Some(7)));
        assert_eq!(if_match(&headers(&[("if-match", "*")])).ok(), Some(None));
        assert!(if_match(&headers(&[("if-match", "x")])).is_err());
        assert!(idempotency_key(&headers(&[("idempotency-key", "")])).is_err());
    }
}
