//! OTLP over gRPC: `MetricsService/Export`, on a port of its own.
//!
//! A call is a POST over HTTP/2 whose body is one message behind five bytes; its answer ends with trailers. From the message on
//! it goes the way of OTLP over HTTP.
//! Invariants: 1. status 0 means that all points but those of the partial success are stored and fsynced; 2. nothing is set
//! aside on the word of a message's length; 3. a call that takes longer than its `grpc-timeout` is answered
//! `DEADLINE_EXCEEDED`, while what was handed to the store becomes durable all the same: the sender's next try is a duplicate.
//! Limits: those of OTLP over HTTP, for the whole body of a call; one message a call.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, StatusCode, header};

use super::answer::{self, Encoding};
use super::body::{Compression, Kind};
use super::grpc_answer::{self, Code};
use super::handler::Otlp;
use crate::prom::params::Params;
use crate::prom::write::{Arrived, Refused};
use crate::prom::write_headers;

/// Where calls go.
pub const PATH: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
/// A flag and a length stand before each message.
const PREFIX_BYTES: usize = 5;

/// Makes the routes of the port: one method, and an answer that every client understands for all others.
pub fn router(otlp: Otlp) -> Router {
    Router::new().route(PATH, post(export).fallback(unknown)).fallback(unknown).with_state(otlp)
}

async fn export(State(otlp): State<Otlp>, headers: HeaderMap, body: Body) -> Response {
    if !is_grpc(&headers) {
        return not_grpc();
    }
    let call = take(&otlp, &headers, body);
    let answered = match timeout_of(&headers) {
        None => call.await,
        Some(limit) => tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
            let text = "the call took longer than its grpc-timeout";
            Err(Failed::from(Refused::new(StatusCode::REQUEST_TIMEOUT, text)))
        }),
    };
    let (status, response) = match answered {
        Ok(response) => (StatusCode::OK, response),
        Err(failed) => (failed.status, grpc_answer::error(failed.code, &failed.text)),
    };
    otlp.stats().count(status);
    response
}

/// Why a call failed: as it is counted, and as it is answered.
struct Failed {
    status: StatusCode,
    code: Code,
    text: String,
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Failed {
        Failed { status: refused.status(), code: Code::of_status(refused.status()), text: refused.text().to_owned() }
    }
}

async fn take(otlp: &Otlp, headers: &HeaderMap, body: Body) -> Result<Response, Failed> {
    let name = text(headers, "grpc-encoding");
    let compression = Compression::from_name(name).ok_or_else(|| {
        let text = format!("grpc-encoding {name:?} is not known; {} are", Compression::NAMES);
        Failed { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, code: Code::Unimplemented, text }
    })?;
    let source_id = write_headers::named_source(headers, &Params::parse(""))?;
    let arrived = otlp.writer().receive(headers, body).await?;
    let kind =
        Kind { encoding: Encoding::Protobuf, compression: of_message(&arrived, compression)?, framing: PREFIX_BYTES };
    let respond = |partial: Option<&_>| grpc_answer::success(&answer::message(partial));
    Ok(otlp.export(arrived, kind, source_id, respond).await?)
}

/// Checks what stands before the message; gives how it is compressed.
fn of_message(arrived: &Arrived, compression: Compression) -> Result<Compression, Refused> {
    let bad = |text: String| Refused::new(StatusCode::BAD_REQUEST, text);
    let Some(([flag, length @ ..], message)) = arrived.buffers.body.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(bad("the call has no message".to_owned()));
    };
    let declared = u32::from_be_bytes(*length) as usize;
    if declared != message.len() {
        let held = message.len();
        let what = if declared > held { "is cut short" } else { "is not the only one" };
        return Err(bad(format!("the message {what}: it declares {declared} bytes, the call holds {held}")));
    }
    match flag {
        0 => Ok(Compression::None),
        1 if compression != Compression::None => Ok(compression),
        1 => Err(bad("the message says that it is compressed, grpc-encoding does not say how".to_owned())),
        flag => Err(bad(format!("the message begins with {flag}, which is neither 0 nor 1"))),
    }
}

/// Reads `grpc-timeout`: at most eight digits and a unit. What is no such text is no limit, as in gRPC's own libraries.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = text(headers, "grpc-timeout");
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3_600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = write_headers::text(headers, header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/grpc") || kind.eq_ignore_ascii_case("application/grpc+proto")
}

async fn unknown(headers: HeaderMap) -> Response {
    match is_grpc(&headers) {
        true => grpc_answer::error(Code::Unimplemented, &format!("this port has one method, {PATH}")),
        false => not_grpc(),
    }
}

/// Answers somebody who is not let in.
pub fn turned_away(status: StatusCode, text: &str) -> Response {
    grpc_answer::error(Code::of_status(status), text)
}

/// Who comes here without gRPC has mistaken the port.
fn not_grpc() -> Response {
    let text = "this port speaks OTLP over gRPC; OTLP over HTTP is taken at /v1/metrics of the HTTP port\n";
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response()
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().unwrap());
            timeout_of(&headers)
        };
        assert_eq!(read("10S"), Some(Duration::from_secs(10)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!((read("3u"), read("4n")), (Some(Duration::from_micros(3)), Some(Duration::from_nanos(4))));
        for none in ["", "S", "10", "-1S", "123456789S", "1 S", "\u{7f}S"] {
            assert_eq!(none.parse::<http::HeaderValue>().ok().and_then(|_| read(none)), None, "{none}");
        }
        assert_eq!(timeout_of(&HeaderMap::new()), None);
    }
}
