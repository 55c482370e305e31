//! Errors that are known before a path's own handler is asked, in the shape that the clients of the path read.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::otlp;
use crate::prom::error::{ApiError, ErrorKind};
use crate::prom::write::{self, Refused};
use crate::rest::problem::Problem;

/// How errors of a path look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// RFC 9457, below `/api/v1/metrics`.
    Problem,
    /// Prometheus' envelope, on its query paths.
    Envelope,
    /// Text and what was written, for senders of remote write.
    RemoteWrite,
    /// `google.rpc.Status`.
    Otlp(otlp::Encoding),
    /// A line of text: the Pushgateway and everything else.
    Text,
}

/// An error and when to try again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Early {
    /// The status.
    pub status: StatusCode,
    /// The stable word of a problem.
    pub code: &'static str,
    /// A sentence.
    pub text: String,
    /// Whether it may go well in a moment.
    pub again: bool,
}

const RETRY_AFTER_S: u64 = 1;

impl Shape {
    /// Tells the shape by path and headers.
    pub fn of(path: &str, headers: &HeaderMap) -> Shape {
        let below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if otlp::PATHS.contains(&path) {
            return Shape::Otlp(otlp::Encoding::of_request(headers));
        }
        match () {
            () if path == "/api/v1/write" => Shape::RemoteWrite,
            () if below("/api/v1/metrics") => Shape::Problem,
            () if below("/api/v1") => Shape::Envelope,
            () => Shape::Text,
        }
    }

    /// Makes the answer.
    pub fn answer(self, early: Early) -> Response {
        let Early { status, code, text, again } = early;
        let refused = |text: String| match again {
            true => Refused::new(status, text).retry_after(RETRY_AFTER_S),
            false => Refused::new(status, text),
        };
        match self {
            Shape::Problem => {
                let problem = Problem::new(status, code, text);
                if again { problem.retry_after_ms(1_000 * RETRY_AFTER_S) } else { problem }.into_response()
            }
            Shape::Envelope => {
                let kind = match status.as_u16() {
                    401 => ErrorKind::Unauthorized,
                    403 => ErrorKind::Forbidden,
                    408 => ErrorKind::Timeout,
                    429 => ErrorKind::TooMany,
                    503 => ErrorKind::Unavailable,
                    _ => ErrorKind::BadData,
                };
                let mut response = ApiError::new(kind, text).into_response();
                *response.status_mut() = status;
                if again {
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
                }
                response
            }
            Shape::RemoteWrite => write::nothing_written(refused(text)),
            Shape::Otlp(encoding) => otlp::error(encoding, &refused(text)),
            Shape::Text => refused(text).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(path: &str, content_type: &str) -> (u16, String) {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        let early = Early { status: StatusCode::REQUEST_TIMEOUT, code: "x", text: "slow".into(), again: true };
        let response = Shape::of(path, &headers).answer(early);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1", "{path}");
        let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        if path == "/api/v1/write" {
            assert_eq!(response.headers()["x-prometheus-remote-write-samples-written"], "0");
        }
        (response.status().as_u16(), kind)
    }

    #[test]
    fn every_path_answers_in_its_own_shape() {
        for (path, content_type, wanted) in [
            ("/api/v1/metrics/custom", "application/json", "application/problem+json"),
            ("/api/v1/metrics", "application/json", "application/problem+json"),
            ("/api/v1/query", "application/x-www-form-urlencoded", "application/json"),
            ("/api/v1/metricsx", "application/json", "application/json"),
            ("/api/v1/write", "application/x-protobuf", "text/plain; charset=utf-8"),
            ("/v1/metrics", "application/x-protobuf", "application/x-protobuf"),
            ("/api/v1/otlp/v1/metrics", "application/json; charset=utf-8", "application/json"),
            ("/metrics/job/a", "text/plain", "text/plain; charset=utf-8"),
            ("/-/reload", "text/plain", "text/plain; charset=utf-8"),
        ] {
            assert_eq!(answered(path, content_type), (408, wanted.to_owned()), "{path}");
        }
    }
}
