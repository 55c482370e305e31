//! `GET /query`: PromQL with the Prometheus envelope on success and a problem on failure.

use std::future::Future;
use std::pin::Pin;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use super::problem::Problem;
use super::{Rest, completeness};
use crate::prom::error::{ApiError, ErrorKind};
use crate::prom::params::Params;

/// An answer that is on its way.
pub type Answer = Pin<Box<dyn Future<Output = Result<Response, ApiError>> + Send>>;

/// Answers PromQL with Prometheus' parameters and envelope.
pub trait Ask: Send + Sync {
    /// As `/api/v1/query`: `query`, `time`, `timeout`, `limit`, `lookback_delta`, `stats`.
    fn instant(&self, params: Params) -> Answer;

    /// As `/api/v1/query_range`: `query`, `start`, `end`, `step`, `timeout`, `limit`, `lookback_delta`, `stats`.
    fn range(&self, params: Params) -> Answer;
}

/// Asks in PromQL: a range with `start`, `end` and `step`, else an instant.
#[utoipa::path(
    get, path = "/api/v1/metrics/query", tag = "query",
    params(
        ("query" = String, Query, description = "PromQL; with lang=sql one SELECT, see /api/v1/metrics/sql"),
        ("lang" = Option<String>, Query, description = "promql or sql"),
        ("start" = Option<String>, Query, description = "Start of a range: RFC 3339 or Unix seconds"),
        ("end" = Option<String>, Query, description = "End of a range, included"),
        ("step" = Option<String>, Query, description = "Duration or seconds; at most 11,000 points a series"),
        ("time" = Option<String>, Query, description = "Time of an instant query; now when absent"),
        ("timeout" = Option<String>, Query, description = "Longest time to compute"),
        ("limit" = Option<u64>, Query, description = "Most series in the answer"),
        ("lookback_delta" = Option<String>, Query, description = "How far back a sample counts as current; 5m when absent"),
    ),
    responses(
        (status = 200, description = "MetricQueryResult: Prometheus' success envelope, and `completeness`: the share of scheduled scrapes that are stored", body = Object),
        (status = 400, description = "A parameter or the query is wrong", body = crate::rest::problem::ProblemBody),
        (status = 422, description = "The query cannot be executed", body = crate::rest::problem::ProblemBody),
        (status = 503, description = "The query took too long", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn query(State(rest): State<Rest>, headers: HeaderMap, params: Params) -> Result<Response, Problem> {
    match params.get("lang").to_ascii_lowercase().as_str() {
        "" | "promql" => {}
        "sql" => {
            let Some(sql) = rest.sql.get() else {
                return Err(Problem::not_yet("?lang", "this server answers no SQL"));
            };
            return crate::sql::by_parameter(sql, &params, &headers).await;
        }
        _ => return Err(Problem::parameter("lang", "lang is promql or sql")),
    }
    if params.get("query").trim().is_empty() {
        return Err(Problem::at(StatusCode::BAD_REQUEST, "missing_field", "?query", "query is missing"));
    }
    let range = ["start", "end", "step"].into_iter().filter(|name| !params.get(name).is_empty()).count();
    let with_time = !params.get("time").is_empty();
    if range > 0 && with_time {
        let detail = "time asks for an instant, start, end and step for a range; not both";
        return Err(Problem::parameter("time", detail));
    }
    if range == 0 {
        let answer = rest.ask.instant(params.clone()).await.map_err(problem_of)?;
        return Ok(completeness::add(rest, &params, answer).await);
    }
    for name in ["start", "end", "step"] {
        if params.get(name).is_empty() {
            let detail = format!("{name} is missing: a range has start, end and step");
            return Err(Problem::at(StatusCode::BAD_REQUEST, "missing_field", format!("?{name}"), detail));
        }
    }
    let answer = rest.ask.range(params.clone()).await.map_err(problem_of)?;
    Ok(completeness::add(rest, &params, answer).await)
}

fn problem_of(error: ApiError) -> Problem {
    let (code, retryable) = match error.kind {
        ErrorKind::BadData => ("invalid_query", false),
        ErrorKind::Execution => ("query_failed", false),
        ErrorKind::Canceled => ("query_canceled", false),
        ErrorKind::Timeout => ("query_timeout", true),
        ErrorKind::Internal => ("internal", false),
        ErrorKind::Unavailable => ("unavailable", true),
        ErrorKind::NotFound => ("not_found", false),
        ErrorKind::Unauthorized => ("unauthorized", false),
        ErrorKind::Forbidden => ("forbidden", false),
        ErrorKind::TooMany => ("too_many_requests", true),
    };
    let mut problem = match parameter_of(&error.text) {
        Some(name) if error.kind == ErrorKind::BadData => {
            Problem::at(error.kind.status(), code, format!("?{name}"), error.text.clone())
        }
        _ => Problem::new(error.kind.status(), code, error.text.clone()),
    };
    problem.retryable = retryable;
    problem
}

/// Finds the parameter that Prometheus' sentence names: `invalid parameter "step": ...`.
fn parameter_of(text: &str) -> Option<&str> {
    let name = text.strip_prefix("invalid parameter \"")?.split('"').next()?;
    Some(name).filter(|n| !n.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_status_and_place() {
        let problem = problem_of(ApiError::invalid_parameter("step", "zero or negative"));
        assert_eq!((problem.status, problem.errors[0].pointer.as_str()), (400, "?step"));
        let problem = problem_of(ApiError::new(ErrorKind::Timeout, "query timed out"));
        assert_eq!((problem.status, problem.retryable, problem.errors.len()), (503, true, 0));
    }
}
