//! `GET /targets/{id}/latest`: what a target said last.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::Latest;
use crate::rest::problem::Problem;

/// The specification's Metric.
#[derive(Serialize, ToSchema)]
pub struct LatestMetric {
    /// Name of the series.
    pub name: String,
    /// MetricType.
    pub metric_type: String,
    /// A number, or `NaN`, `+Inf` or `-Inf` as text.
    #[schema(value_type = Object)]
    pub value: serde_json::Value,
    /// All labels but the name.
    pub labels: std::collections::BTreeMap<String, String>,
    /// RFC 3339.
    pub timestamp: String,
    /// MetricSource, where the series has it as a label.
    pub source: Option<String>,
    /// What the target says of it.
    pub help_text: Option<String>,
}

/// Shows what a target said last: each of its series that has not ended, 50,000 at most.
#[utoipa::path(
    get, path = "/api/v1/metrics/targets/{target_id}/latest", tag = "targets",
    params(("target_id" = String, Path, description = "Names the target")),
    responses(
        (status = 200, description = "The latest metrics; the same list stands in the cache", body = Vec<LatestMetric>),
        (status = 404, description = "No such target", body = crate::rest::problem::ProblemBody),
        (status = 503, description = "The store could not be read", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn latest_metrics(State(latest): State<Latest>, Path(target_id): Path<String>) -> Result<Response, Problem> {
    match latest.get(&target_id).await {
        Some(Ok(text)) => Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response()),
        Some(Err(reason)) => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", reason);
            Err(problem.retry_after_ms(5_000))
        }
        None => Err(Problem::not_found(format!("there is no target {target_id:?}"))),
    }
}
