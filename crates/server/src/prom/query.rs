//! `query`, `query_range`, `query_exemplars`, `format_query`, `parse_query`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use model::Matcher;
use promql::ast::{Expr, ExprKind};
use store::Exemplar;

use super::api::PromApi;
use super::error::{ApiError, json_response};
use super::params::{Params, TIME_MAX_MS, TIME_MIN_MS};
use super::{ast_json, json};

/// Makes a success out of what `write` writes as the data.
pub(super) fn success(write: impl FnOnce(&mut Vec<u8>)) -> Response {
    let mut data = Vec::new();
    write(&mut data);
    json_response(StatusCode::OK, json::success(&data, &[], &[]))
}

/// `/api/v1/query`
pub async fn instant(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    api.queries.instant(&params).await
}

/// `/api/v1/query_range`
pub async fn range(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    api.queries.range(&params).await
}

/// `/api/v1/query_exemplars`
pub async fn exemplars(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    let start_ms = params.time_ms_or("start", TIME_MIN_MS)?;
    let end_ms = params.time_ms_or("end", TIME_MAX_MS)?;
    if end_ms < start_ms {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let expr = api.queries.parse(params.get("query")).map_err(ApiError::bad_data)?;
    let mut selectors = Vec::new();
    selectors_of(&expr, &mut selectors);
    if selectors.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let find = api.exemplars.clone();
    let range = model::TimeRange { start_ms, end_ms };
    let found = api.queries.look_up(move |_| {
        let found: BTreeMap<_, _> = selectors.iter().flat_map(|matchers| find(matchers, range)).collect();
        Ok(found)
    });
    let found = found.await?;
    Ok(success(|out| {
        json::list(out, found, |out, (labels, exemplars)| {
            out.extend_from_slice(b"{\"seriesLabels\":");
            json::labels(out, &labels);
            out.extend_from_slice(b",\"exemplars\":");
            json::list(out, &exemplars, write_exemplar);
            out.push(b'}');
        });
    }))
}

fn write_exemplar(out: &mut Vec<u8>, exemplar: &Exemplar) {
    out.extend_from_slice(b"{\"labels\":");
    json::labels(out, &exemplar.labels);
    out.extend_from_slice(b",\"value\":");
    json::value(out, exemplar.value);
    out.extend_from_slice(b",\"timestamp\":");
    json::timestamp(out, exemplar.ts_ms);
    out.push(b'}');
}

/// Collects the selectors of a query, outermost first.
fn selectors_of(expr: &Expr, out: &mut Vec<Vec<Matcher>>) {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::Duration(_) | ExprKind::String(_) => {}
        ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => out.push(selector.matchers.clone()),
        ExprKind::Subquery { expr, .. } | ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => {
            selectors_of(expr, out);
        }
        ExprKind::Aggregate(aggregate) => {
            aggregate.param.iter().for_each(|param| selectors_of(param, out));
            selectors_of(&aggregate.expr, out);
        }
        ExprKind::Call { args, .. } => args.iter().for_each(|arg| selectors_of(arg, out)),
        ExprKind::Binary(binary) => {
            selectors_of(&binary.lhs, out);
            selectors_of(&binary.rhs, out);
        }
    }
}

fn parsed(api: &PromApi, params: &Params) -> Result<Expr, ApiError> {
    api.queries.parse(params.get("query")).map_err(|e| ApiError::invalid_parameter("query", e))
}

/// `/api/v1/format_query`
pub async fn format(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    let expr = parsed(&api, &params)?;
    Ok(success(|out| json::string(out, &promql::format(&expr))))
}

/// `/api/v1/parse_query`
pub async fn parse(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    let expr = parsed(&api, &params)?;
    Ok(success(|out| ast_json::write(out, &expr)))
}
