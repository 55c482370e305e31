//! Answers of gRPC: a message and trailers, or a status alone.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Full};

use super::body::Compression;

const STATUS: &str = "grpc-status";
/// Longer reasons are cut: a header has its limits.
const TEXT_BYTES_MAX: usize = 1_000;

/// The codes that we answer with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// The request is wrong and always will be.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// Who asks may not.
    PermissionDenied = 7,
    /// It is too large.
    ResourceExhausted = 8,
    /// There is no such method or compression.
    Unimplemented = 12,
    /// The fault is ours.
    Internal = 13,
    /// Try again.
    Unavailable = 14,
    /// Nobody knows who asks.
    Unauthenticated = 16,
}

impl Code {
    /// Gives the code for what HTTP would answer. Senders try again on 4 and 14 only.
    pub fn of_status(status: StatusCode) -> Code {
        match status.as_u16() {
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            408 => Code::DeadlineExceeded,
            413 => Code::ResourceExhausted,
            415 => Code::Unimplemented,
            429 | 503 => Code::Unavailable,
            400..500 => Code::InvalidArgument,
            _ => Code::Internal,
        }
    }
}

/// Answers with a message.
pub fn success(message: &[u8]) -> Response {
    let mut framed = Vec::with_capacity(5 + message.len());
    framed.push(0);
    // Our messages are some hundred bytes.
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from(0));
    let body = Full::from(framed).with_trailers(std::future::ready(Some(Ok(trailers))));
    respond(Body::new(body))
}

/// Answers that nothing is stored.
pub fn error(code: Code, text: &str) -> Response {
    let mut response = respond(Body::empty());
    let headers = response.headers_mut();
    headers.insert(STATUS, HeaderValue::from(code as u16));
    // What is percent-encoded is visible ASCII.
    if let Ok(text) = HeaderValue::from_str(&percent_encoded(text)) {
        headers.insert("grpc-message", text);
    }
    response
}

fn respond(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static(Compression::NAMES));
    response
}

/// Encodes a text as gRPC wants it in headers.
fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes().take(TEXT_BYTES_MAX) {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_visible_ascii_is_encoded() {
        assert_eq!(percent_encoded("a b%é\n"), "a b%25%C3%A9%0A");
        let response = error(Code::Unavailable, &"é".repeat(5_000));
        assert_eq!(response.headers()[STATUS], "14");
        assert_eq!(response.headers()["grpc-message"].len(), 3 * TEXT_BYTES_MAX);
    }
}
