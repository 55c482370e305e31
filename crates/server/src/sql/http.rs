//! `POST /api/v1/metrics/sql`.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRef, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Format, SQL_CHARS_MAX, Sql};
use crate::prom::params::Params;
use crate::rest::body::Query;
use crate::rest::problem::Problem;

/// Bytes of a request; a character has at most four, and JSON may write it as twelve.
const BODY_BYTES_MAX: usize = 12 * SQL_CHARS_MAX + 1_000;
const ARROW: &str = "application/vnd.apache.arrow.stream";
const PARQUET: &str = "application/vnd.apache.parquet";

/// A statement.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlRequest {
    /// One SELECT over `metrics_ts`, `series`, `targets`, `rollups` and `promql('...', start, end, step)`.
    #[schema(example = "SELECT metric_name, count(*) FROM metrics_ts GROUP BY 1 ORDER BY 2 DESC LIMIT 10")]
    pub query: String,
}

/// Makes the route; the state must give [`Sql`].
pub fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Sql: FromRef<S>,
{
    Router::new().route("/api/v1/metrics/sql", post(ask))
}

/// Answers one SELECT over all samples.
#[utoipa::path(
    post, path = "/api/v1/metrics/sql", tag = "query",
    request_body(content = SqlRequest, description = "As JSON; or the bare statement as application/sql or text/plain"),
    params(("format" = Option<String>, Query, description = "json, arrow, csv or parquet; else Accept says it")),
    responses(
        (status = 200, description = "Columns and rows: JSON, or a stream of Arrow IPC, CSV, Parquet as Accept asks", body = Object),
        (status = 400, description = "No SQL; the place is told", body = crate::rest::problem::ProblemBody),
        (status = 406, description = "No shape that is known", body = crate::rest::problem::ProblemBody),
        (status = 422, description = "Refused, or more than a query may use, or without a bound on the time where one is needed", body = crate::rest::problem::ProblemBody),
        (status = 501, description = "The program quiver-analytics is not installed", body = crate::rest::problem::ProblemBody),
        (status = 503, description = "The program cannot be started", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn ask(
    State(sql): State<Sql>,
    Query(params): Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let format = format_of(&params, &headers)?;
    let bytes = to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| {
        let detail = format!("a request has at most {BODY_BYTES_MAX} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    })?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let statement = match kind.as_str() {
        "" | "application/json" => {
            let read: Result<SqlRequest, _> = serde_json::from_slice(&bytes);
            read.map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "invalid_json", format!("body: {e}")))?.query
        }
        "application/sql" | "text/plain" => String::from_utf8(bytes.to_vec())
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "invalid_utf8", "the statement is no UTF-8"))?,
        "application/x-www-form-urlencoded" => Params::parse(&String::from_utf8_lossy(&bytes)).get("query").to_owned(),
        other => {
            let detail = format!("{other:?}: a statement comes as application/json, application/sql or text/plain");
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
    };
    respond(&sql, &statement, format).await
}

/// Answers `/query?lang=sql`.
pub async fn by_parameter(sql: &Sql, params: &Params, headers: &HeaderMap) -> Result<Response, Problem> {
    let format = format_of(params, headers)?;
    respond(sql, params.get("query"), format).await
}

async fn respond(sql: &Sql, statement: &str, format: Format) -> Result<Response, Problem> {
    if statement.trim().is_empty() {
        return Err(Problem::at(StatusCode::BAD_REQUEST, "missing_field", "/query", "the statement is missing"));
    }
    let answer = sql.answer(statement, format).await?;
    let kind = match format {
        Format::Json => "application/json",
        Format::Arrow => ARROW,
        Format::Csv => "text/csv; charset=utf-8",
        Format::Parquet => PARQUET,
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], answer).into_response())
}

fn format_of(params: &Params, headers: &HeaderMap) -> Result<Format, Problem> {
    match params.get("format").to_ascii_lowercase().as_str() {
        "" => {}
        "json" => return Ok(Format::Json),
        "arrow" => return Ok(Format::Arrow),
        "csv" => return Ok(Format::Csv),
        "parquet" => return Ok(Format::Parquet),
        _ => return Err(Problem::parameter("format", "format is json, arrow, csv or parquet")),
    }
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    for range in accept.split(',') {
        let kind = range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "" | "*/*" | "application/*" | "application/json" => return Ok(Format::Json),
            "text/csv" | "text/*" => return Ok(Format::Csv),
            ARROW => return Ok(Format::Arrow),
            PARQUET | "application/x-parquet" => return Ok(Format::Parquet),
            _ => {}
        }
    }
    let detail = format!("answers are application/json, text/csv, {ARROW} or {PARQUET}");
    Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_wins_over_the_header_and_the_first_known_kind_counts() {
        let accept = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, text.parse().unwrap());
            headers
        };
        let of = |query: &str, header: &str| format_of(&Params::parse(query), &accept(header));
        assert_eq!(of("format=csv", "application/json").unwrap(), Format::Csv);
        assert_eq!(of("", "image/png, application/vnd.apache.parquet;q=0.9, */*").unwrap(), Format::Parquet);
        assert_eq!(of("", "*/*").unwrap(), Format::Json);
        assert_eq!(of("", "image/png").unwrap_err().status, 406);
        assert_eq!(of("format=xml", "*/*").unwrap_err().status, 400);
    }
}
