//! RFC 9457 problems: the shape of every error under `/api/v1/metrics`.

use std::ops::{Deref, DerefMut};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use model::AppendError;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// At most this many errors are listed; the detail says when there are more.
pub const ERRORS_MAX: usize = 20;
/// Characters of a detail that quotes what came in.
const DETAIL_CHARS_MAX: usize = 1_000;

/// One thing that is wrong with a request.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the body, or `?name` for a query parameter.
    pub pointer: String,
    /// Stable word, such as `unknown_field`.
    pub reason: String,
    /// A sentence for people.
    pub detail: String,
    /// What would be right, where that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub example: Option<String>,
}

/// An error answer; boxed, because most results are no errors.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(transparent)]
pub struct Problem(Box<ProblemBody>);

impl Deref for Problem {
    type Target = ProblemBody;

    fn deref(&self) -> &ProblemBody {
        &self.0
    }
}

impl DerefMut for Problem {
    fn deref_mut(&mut self) -> &mut ProblemBody {
        &mut self.0
    }
}

/// The fields of an error answer.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// URN of the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened.
    pub detail: String,
    /// Stable word of the kind.
    pub code: String,
    /// Where in the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Whether the same request may work later.
    pub retryable: bool,
    /// When to try again.
    pub retry_after_ms: Option<u64>,
    /// The IngestionResult, when samples were examined and all refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub result: Option<Box<Value>>,
    /// The trace of the request: that of its `traceparent`, or the one that began here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The oldest event that can still be resumed after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_event_id: Option<String>,
    #[serde(skip)]
    #[schema(ignore)]
    allow: Option<String>,
}

impl Problem {
    /// Makes a problem; the title comes from the code.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Problem {
        let detail: String = detail.into();
        let cut = detail.char_indices().nth(DETAIL_CHARS_MAX).map_or(detail.len(), |(i, _)| i);
        Problem(Box::new(ProblemBody {
            kind: format!("urn:quiver:problem:{code}"),
            title: title(code, status),
            status: status.as_u16(),
            detail: detail[..cut].to_owned(),
            code: code.to_owned(),
            errors: Vec::new(),
            retryable: false,
            retry_after_ms: None,
            result: None,
            trace_id: None,
            oldest_event_id: None,
            allow: None,
        }))
    }

    /// Makes a 400 or 422 about one place of the request.
    pub fn at(status: StatusCode, code: &str, pointer: impl Into<String>, detail: impl Into<String>) -> Problem {
        let mut problem = Problem::new(status, code, detail);
        let error = FieldError {
            pointer: pointer.into(),
            reason: code.to_owned(),
            detail: problem.detail.clone(),
            example: None,
        };
        problem.errors.push(error);
        problem
    }

    /// Makes a 400 about a query parameter.
    pub fn parameter(name: &str, detail: impl Into<String>) -> Problem {
        Problem::at(StatusCode::BAD_REQUEST, "invalid_parameter", format!("?{name}"), detail)
    }

    /// Makes a 404.
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// Makes a 501: understood, but its part is not built.
    pub fn not_yet(pointer: impl Into<String>, detail: impl Into<String>) -> Problem {
        Problem::at(StatusCode::NOT_IMPLEMENTED, "not_yet", pointer, detail)
    }

    /// Marks it as worth trying again.
    pub fn retry_after_ms(mut self, ms: u64) -> Problem {
        self.retryable = true;
        self.retry_after_ms = Some(ms);
        self
    }

    /// Names the methods of a 405.
    pub fn allow(mut self, methods: &str) -> Problem {
        self.allow = Some(methods.to_owned());
        self
    }
}

fn title(code: &str, status: StatusCode) -> String {
    let title = match code {
        "not_yet" => "Not built yet",
        "not_found" => "Not found",
        "unknown_field" => "Unknown field",
        "wrong_type" => "Wrong type",
        "missing_field" => "Missing field",
        "unknown_value" => "Unknown value",
        "too_long" => "Too long",
        "forbidden_address" => "Address may not be scraped",
        "conflicting_url" => "Parts of the URL contradict each other",
        "conflicting_registration" => "A different target has this id",
        "managed_by_discovery" => "Target is managed by discovery",
        "nothing_accepted" => "No sample was accepted",
        "event_gap" => "Events are gone",
        _ => status.canonical_reason().unwrap_or("Error"),
    };
    title.to_owned()
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        self.trace_id = Some(crate::telemetry::trace::id());
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(ms) = self.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
        }
        if let Some(Ok(allow)) = self.allow.as_deref().map(HeaderValue::from_str) {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Problem {
        let detail = error.to_string();
        match error {
            AppendError::TooLarge { .. } => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_too_large", detail),
            AppendError::NoSpace(_) => {
                Problem::new(StatusCode::INSUFFICIENT_STORAGE, "no_space", detail).retry_after_ms(5_000)
            }
            AppendError::Busy { retry_after_ms } => {
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail).retry_after_ms(retry_after_ms)
            }
            AppendError::Failed(_) | AppendError::Closed | AppendError::StaleIds => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", detail).retry_after_ms(10_000)
            }
        }
    }
}

impl From<catalog::CatalogError> for Problem {
    fn from(error: catalog::CatalogError) -> Problem {
        use catalog::CatalogError;
        let detail = error.to_string();
        match error {
            CatalogError::Exists(_) => Problem::new(StatusCode::CONFLICT, "conflicting_registration", detail),
            CatalogError::NotFound(_) => Problem::not_found(detail),
            CatalogError::VersionMismatch { .. } => {
                Problem::new(StatusCode::PRECONDITION_FAILED, "version_mismatch", detail)
            }
            CatalogError::UndoExpired(_) => Problem::new(StatusCode::CONFLICT, "undo_expired", detail),
            CatalogError::TooLong { field, .. } => {
                Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "too_long", format!("/{field}"), detail)
            }
            CatalogError::Away(_) | CatalogError::Refused(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "catalog_unavailable", detail).retry_after_ms(5_000)
            }
            CatalogError::Database(_) | CatalogError::Migration(_) | CatalogError::Journal(_) => {
                tracing::error!("{detail}");
                let text = "the catalog could not be read or written; nothing has changed";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "catalog_unavailable", text).retry_after_ms(5_000)
            }
        }
    }
}
