//! The messages that OTLP answers with, in the encoding of the request.
//!
//! `ExportMetricsServiceResponse` on success, whole or in part; `google.rpc.Status` on errors.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use model::coding::put_varint;
use serde_json::json;
use wire::otlp::PartialSuccess;

use crate::prom::write::Refused;
use crate::prom::write_headers;

/// How a request is written, and so its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// `application/x-protobuf`
    Protobuf,
    /// `application/json`
    Json,
}

impl Encoding {
    /// Reads a content type; parameters do not matter.
    pub fn from_content_type(text: &str) -> Option<Encoding> {
        let kind = text.split(';').next().unwrap_or_default().trim();
        let named = |encoding: &Encoding| kind.eq_ignore_ascii_case(encoding.content_type());
        [Encoding::Protobuf, Encoding::Json].into_iter().find(named)
    }

    /// Tells how a request is written; one that is in neither comes from a person, most likely.
    pub fn of_request(headers: &HeaderMap) -> Encoding {
        Encoding::from_content_type(write_headers::text(headers, header::CONTENT_TYPE)).unwrap_or(Encoding::Json)
    }

    /// Gives the content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Protobuf => "application/x-protobuf",
            Encoding::Json => "application/json",
        }
    }

    fn respond(self, status: StatusCode, body: Vec<u8>) -> Response {
        (status, [(header::CONTENT_TYPE, self.content_type())], body).into_response()
    }
}

/// Answers that all is stored, or all but what is named.
pub fn success(encoding: Encoding, partial: Option<&PartialSuccess>) -> Response {
    let body = match (encoding, partial) {
        (Encoding::Protobuf, partial) => message(partial),
        (Encoding::Json, None) => b"{}".to_vec(),
        (Encoding::Json, Some(partial)) => {
            // JSON of protobuf writes 64-bit numbers as text.
            let count = partial.rejected_data_points.to_string();
            let partial = json!({"rejectedDataPoints": count, "errorMessage": partial.error_message});
            json!({"partialSuccess": partial}).to_string().into_bytes()
        }
    };
    encoding.respond(StatusCode::OK, body)
}

/// Gives an `ExportMetricsServiceResponse`.
pub fn message(partial: Option<&PartialSuccess>) -> Vec<u8> {
    let Some(partial) = partial else { return Vec::new() };
    let mut inner = Vec::new();
    put_number(&mut inner, 1, partial.rejected_data_points);
    put_bytes(&mut inner, 2, partial.error_message.as_bytes());
    let mut message = Vec::new();
    put_bytes(&mut message, 1, &inner);
    message
}

/// Answers that nothing is stored.
pub fn error(encoding: Encoding, refused: &Refused) -> Response {
    let code = code_of(refused.status());
    let body = match encoding {
        Encoding::Protobuf => {
            let mut body = Vec::new();
            put_number(&mut body, 1, code);
            put_bytes(&mut body, 2, refused.text().as_bytes());
            body
        }
        Encoding::Json => json!({"code": code, "message": refused.text()}).to_string().into_bytes(),
    };
    let mut response = encoding.respond(refused.status(), body);
    if let Some(seconds) = refused.retry_after_s() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Gives the number of `google.rpc.Code` that stands for a status.
fn code_of(status: StatusCode) -> u64 {
    match status.as_u16() {
        408 => 4,        // DEADLINE_EXCEEDED
        413 | 429 => 8,  // RESOURCE_EXHAUSTED
        503 => 14,       // UNAVAILABLE
        400..=499 => 3,  // INVALID_ARGUMENT
        500..=599 => 13, // INTERNAL
        _ => 2,          // UNKNOWN
    }
}

fn put_number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_read_without_their_parameters() {
        for (text, expected) in [
            ("application/x-protobuf", Some(Encoding::Protobuf)),
            ("Application/X-Protobuf ; charset=utf-8", Some(Encoding::Protobuf)),
            ("application/json; charset=utf-8", Some(Encoding::Json)),
            ("application/jsonx", None),
            ("text/plain", None),
            ("", None),
        ] {
            assert_eq!(Encoding::from_content_type(text), expected, "{text}");
        }
    }
}
