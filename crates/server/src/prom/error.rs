//! Errors of the Prometheus paths: the envelope `{"status":"error","errorType":…,"error":…}` and its status codes.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use super::json;

/// The kinds of errors that Prometheus knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// A parameter or the query is wrong: 400.
    BadData,
    /// The query cannot be executed: 422.
    Execution,
    /// The client went away: 499.
    Canceled,
    /// The query took too long: 503.
    Timeout,
    /// Something on our side failed: 500.
    Internal,
    /// We cannot answer now: 503.
    Unavailable,
    /// There is no such thing: 404.
    NotFound,
    /// Nobody knows who asks: 401.
    Unauthorized,
    /// Who asks may not: 403.
    Forbidden,
    /// Who asks asks too often: 429.
    TooMany,
}

impl ErrorKind {
    /// Gives the word of the envelope.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::BadData => "bad_data",
            ErrorKind::Execution => "execution",
            ErrorKind::Canceled => "canceled",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Internal => "internal",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Unauthorized => "unauthorized",
            ErrorKind::Forbidden => "forbidden",
            ErrorKind::TooMany => "too_many_requests",
        }
    }

    /// Gives the status code.
    pub fn status(self) -> StatusCode {
        match self {
            ErrorKind::BadData => StatusCode::BAD_REQUEST,
            ErrorKind::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Canceled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            ErrorKind::Timeout | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

/// An error of a Prometheus path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {text}", kind.as_str())]
pub struct ApiError {
    /// Its kind.
    pub kind: ErrorKind,
    /// The sentence that the client sees.
    pub text: String,
}

impl ApiError {
    /// Makes an error.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> ApiError {
        ApiError { kind, text: text.into() }
    }

    /// Makes a `bad_data` error.
    pub fn bad_data(text: impl Into<String>) -> ApiError {
        ApiError::new(ErrorKind::BadData, text)
    }

    /// Makes Prometheus' `invalid parameter "name": reason`.
    pub fn invalid_parameter(name: &str, reason: impl std::fmt::Display) -> ApiError {
        ApiError::bad_data(format!("invalid parameter {name:?}: {reason}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(96 + self.text.len());
        body.extend_from_slice(b"{\"status\":\"error\",\"errorType\":");
        json::string(&mut body, self.kind.as_str());
        body.extend_from_slice(b",\"error\":");
        json::string(&mut body, &self.text);
        body.push(b'}');
        json_response(self.kind.status(), body)
    }
}

/// Makes a JSON answer out of finished bytes.
pub fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_prometheus_status() {
        use ErrorKind::*;
        let statuses = [
            (BadData, 400),
            (Execution, 422),
            (Canceled, 499),
            (Timeout, 503),
            (Internal, 500),
            (Unavailable, 503),
            (NotFound, 404),
            (Unauthorized, 401),
            (Forbidden, 403),
            (TooMany, 429),
        ];
        for (kind, status) in statuses {
            assert_eq!(kind.status().as_u16(), status);
        }
    }

    #[test]
    fn the_name_of_a_bad_parameter_is_quoted() {
        let error = ApiError::invalid_parameter("end", "end timestamp must not be before start time");
        assert_eq!(error.text, "invalid parameter \"end\": end timestamp must not be before start time");
    }
}
