//! `POST /custom`: metrics of one's own, answered when they are durable.
//!
//! Invariant: received = accepted + duplicates + rejected + filtered, in samples (an object of a histogram is many).

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use model::{AppendError, Appended, Batch, CollectionMethod, CollectionReport, LABEL_NAME, Origin, Refusal, Verdict};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use uuid::Uuid;

use catalog::StoredResponse;
use collect::report::{self, PushFacts};

use super::Rest;
use super::body::{self, JsonBody, Query, flag, idempotency_key};
use super::changing::{Claimed, Once};
use super::fields::Issues;
use super::metric::MetricRows;
use super::problem::Problem;
use super::registration::ID_CHARS_MAX;
use crate::access::Pass;
use crate::prom::params::Params;
use crate::prom::write::RETRY_AFTER_FULL_S;

/// Elements of one request.
const METRICS_MAX: u32 = 1_000_000;
/// What the rows of a request may take; the elements themselves go one by one.
const ROWS_BYTES_MAX: usize = 8 << 20;
/// The word of refused new series.
const SERIES_LIMIT: &str = Refusal::SeriesLimit.as_str();

/// The specification's IngestionResult.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct IngestionResult {
    /// Id of this request; also of its event.
    pub request_id: String,
    /// ACCEPTED, PARTIAL or REJECTED.
    pub status: String,
    /// Samples that came in.
    pub received: u64,
    /// Samples stored.
    pub accepted: u64,
    /// Samples that were there already, bit for bit.
    pub duplicates: u64,
    /// Samples refused.
    pub rejected: u64,
    /// Samples taken out by a rule.
    pub filtered: u64,
    /// Series seen for the first time.
    pub new_series: u64,
    /// Why samples were refused.
    pub rejections: Vec<Rejection>,
    /// WAL_SYNCED: checksummed and fsynced before this answer.
    pub durability: String,
    /// Where the batch stands in this node's ledger.
    pub ledger: Ledger,
    /// How long it took us.
    pub processing_ms: f64,
}

/// Samples refused for one reason.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Rejection {
    /// Stable word.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// Index of the first one in the request.
    pub first_index: u64,
    /// The first one.
    pub example: RejectionExample,
    /// By which limit, who holds the room and which label explodes; where new series found no room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A refused sample.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RejectionExample {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Position in the ledger.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Ledger {
    /// The node.
    pub node: String,
    /// Rises with every start.
    pub epoch: u64,
    /// Rises with every batch.
    pub seq: u64,
}

/// The specification's Metric; for the document only, elements are read by hand so that mistakes have pointers.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct Metric {
    /// At most 200 characters of `[a-zA-Z_:][a-zA-Z0-9_:]*`.
    name: String,
    /// COUNTER, GAUGE, HISTOGRAM, SUMMARY or CUSTOM.
    metric_type: String,
    /// A number, or "NaN", "+Inf", "-Inf".
    #[schema(value_type = Object)]
    value: f64,
    /// Without names that start with two underscores.
    labels: Option<BTreeMap<String, String>>,
    /// RFC 3339 or Unix seconds; the time of receipt when absent.
    timestamp: Option<String>,
    /// MetricSource; becomes the label `source_type`.
    source: Option<String>,
    /// What it measures.
    help_text: Option<String>,
    /// Its unit.
    unit: Option<String>,
    /// When a counter started.
    start_timestamp: Option<String>,
    /// `{labels, value, timestamp}`.
    #[schema(value_type = Option<Object>)]
    exemplar: Option<Value>,
    /// `{count, sum, buckets: [[le, n]]}` instead of a value.
    #[schema(value_type = Option<Object>)]
    histogram: Option<Value>,
    /// `{count, sum, quantiles: [[q, v]]}` instead of a value.
    #[schema(value_type = Option<Object>)]
    summary: Option<Value>,
}

/// What is fixed before the body is looked at.
struct Intake {
    source_id: String,
    strict: bool,
    received_at_ms: i64,
    started: Instant,
    pass: Option<Arc<Pass>>,
}

/// Takes metrics in.
#[utoipa::path(
    post, path = "/api/v1/metrics/custom", tag = "ingestion", request_body = Vec<Metric>,
    params(
        ("source_id" = Option<String>, Query, description = "Label job of the samples; X-Source-Id does the same; default custom"),
        ("Idempotency-Key" = Option<String>, Header, description = "A retry with the same key is answered as the first one"),
        ("strict" = Option<bool>, Query, description = "false ignores unknown fields"),
    ),
    responses(
        (status = 200, description = "All or some samples were taken, durably", body = IngestionResult),
        (status = 400, description = "Not understood", body = crate::rest::problem::ProblemBody),
        (status = 413, description = "Too large", body = crate::rest::problem::ProblemBody),
        (status = 422, description = "All samples were refused; result holds the IngestionResult", body = crate::rest::problem::ProblemBody),
        (status = 429, description = "Try again later", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn custom(
    State(rest): State<Rest>,
    headers: HeaderMap,
    Query(params): Query,
    body: Body,
) -> Result<Response, Problem> {
    let started = Instant::now();
    match params.get("durability").to_ascii_lowercase().as_str() {
        "" | "wal" => {}
        "replicated" => return Err(Problem::not_yet("?durability", "replication is not built yet")),
        other => {
            return Err(Problem::parameter(
                "durability",
                format!("durability {other:?} is neither wal nor replicated"),
            ));
        }
    }
    let source_id = source_id(&headers, &params)?;
    let strict = flag(&params, "strict", true)?;
    let key = idempotency_key(&headers)?;
    let body = Arc::new(body::receive(&headers, body, rest.body_bytes_max).await?);
    let intake = Intake { source_id, strict, received_at_ms: rest.now_ms(), started, pass: Pass::in_force() };
    // Spawned: a client that goes away must not leave a durable batch without its event, or a key half used.
    let task = tokio::spawn(async move {
        match key {
            None => Ok(ingest(&rest, &intake, body).await?.into_response()),
            Some(key) => ingest_once(&rest, intake, &key, body).await,
        }
    });
    task.await.unwrap_or_else(|_| Err(broken_off()))
}

fn broken_off() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed")
}

/// Takes the metrics of the first request with a key; the others get its answer.
async fn ingest_once(rest: &Rest, mut intake: Intake, key: &str, body: Arc<JsonBody>) -> Result<Response, Problem> {
    let key = format!("custom/{key}");
    let (hashed, source) = (body.clone(), [intake.source_id.as_bytes(), b"\0"].concat());
    let hash = tokio::task::spawn_blocking(move || hashed.hash_after(&source)).await.map_err(|_| broken_off())??;
    match Once::claim(rest, key, hash, intake.received_at_ms).await? {
        Once::Answered(response) => Ok(response),
        Once::Work(claimed, claimed_at_ms) => {
            intake.received_at_ms = claimed_at_ms;
            let outcome = ingest(rest, &intake, body).await;
            remember(claimed, &outcome).await;
            Ok(outcome?.into_response())
        }
    }
}

/// Keeps the answer to a key, unless trying again may give another one.
async fn remember(claimed: Claimed, outcome: &Result<Json<IngestionResult>, Problem>) {
    let (status, body) = match outcome {
        Ok(Json(result)) => (200, serde_json::to_string(result)),
        Err(problem) if problem.retryable || problem.status >= 500 => return claimed.release().await,
        Err(problem) => (problem.status, serde_json::to_string(problem)),
    };
    let response = StoredResponse { status, head: String::new(), body: body.unwrap_or_default() };
    if let Err(problem) = claimed.finish(&response).await {
        tracing::error!("idempotency key: {}", problem.detail);
    }
}

/// Gives a stored answer again.
pub fn replay(stored: &StoredResponse) -> Response {
    let status = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::OK);
    let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
    let mut response = (status, stored.body.clone()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    if let Ok(location) = HeaderValue::from_str(&stored.head)
        && !stored.head.is_empty()
    {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// The key was used for something else.
pub fn other_request() -> Problem {
    let detail = "this Idempotency-Key was used with another request";
    Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "Idempotency-Key", detail)
}

/// The key is in use.
pub fn in_progress() -> Problem {
    let detail = "a request with this Idempotency-Key is running";
    Problem::new(StatusCode::CONFLICT, "idempotency_key_in_use", detail).retry_after_ms(1_000)
}

/// Gives the source that a request names: `?source_id=`, else `X-Source-Id`, else `custom`.
pub fn source_id(headers: &HeaderMap, params: &Params) -> Result<String, Problem> {
    let header = headers.get("x-source-id").map(|v| v.to_str().unwrap_or("\0"));
    let (place, text) = match (params.all("source_id").next(), header) {
        (Some(text), _) => ("?source_id", text),
        (None, Some(text)) => ("X-Source-Id", text),
        (None, None) => return Ok("custom".to_owned()),
    };
    let length = text.chars().count();
    if length > ID_CHARS_MAX {
        let detail = format!("source_id has {length} characters, {ID_CHARS_MAX} are allowed");
        return Err(Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "too_long", place, detail));
    }
    if text.is_empty() || text.chars().any(char::is_control) {
        let detail = "source_id is empty or holds control characters";
        return Err(Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "invalid_id", place, detail));
    }
    Ok(text.to_owned())
}

async fn ingest(rest: &Rest, intake: &Intake, body: Arc<JsonBody>) -> Result<Json<IngestionResult>, Problem> {
    let origin = Origin {
        target_id: intake.source_id.clone(),
        source_id: intake.source_id.clone(),
        method: CollectionMethod::BatchUpload,
        received_at_ms: intake.received_at_ms,
    };
    let strict = intake.strict;
    let now_ms = intake.received_at_ms;
    // Megabytes of JSON take longer than other requests should wait.
    let read = move || read_rows(&body, origin, now_ms, strict);
    let mut rows = match tokio::task::spawn_blocking(read).await {
        Ok(rows) => rows?,
        Err(_) => return Err(broken_off()),
    };
    if let Some(pass) = &intake.pass {
        pass.judge(&rows.batch)?;
    }
    let samples = rows.batch.samples.len() as u64;
    let facts = PushFacts {
        origin: rows.batch.origin.clone(),
        duration_ms: u64::try_from(intake.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        summary: rows.points,
        samples_count: samples,
        error: None,
    };
    let report = report::for_push(&rest.batch_ids, facts);
    if samples == 0 {
        let result = result_of(rest, intake, &rows.batch, &[], &Appended::default(), &report);
        return Ok(Json(result));
    }
    rows.batch.report = Some(report.clone());
    let (batch, appended) = rest.submit(rows.batch).await;
    let appended = match appended {
        Ok(appended) => appended,
        Err(error) => return Err(failed(rest, report, error)),
    };
    rest.observer.pushed(CollectionReport { counts: appended.counts, ..report.clone() });
    let result = result_of(rest, intake, &batch, &rows.element_of_sample, &appended, &report);
    if result.rejected > 0 && result.accepted + result.duplicates + result.filtered == 0 {
        let detail = format!("all {} samples were refused: {}", result.rejected, reasons(&result));
        // Room for series may come; what is wrong stays wrong.
        let mut problem = match (&batch.advice, result.rejections.iter().all(|r| r.reason == SERIES_LIMIT)) {
            (Some(advice), true) => {
                Problem::new(StatusCode::TOO_MANY_REQUESTS, SERIES_LIMIT, format!("{detail}; {advice}"))
                    .retry_after_ms(RETRY_AFTER_FULL_S * 1_000)
            }
            _ => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "nothing_accepted", detail),
        };
        problem.result = serde_json::to_value(&result).ok().map(Box::new);
        return Err(problem);
    }
    Ok(Json(result))
}

fn failed(rest: &Rest, mut report: CollectionReport, error: AppendError) -> Problem {
    report.error = Some(error.to_string());
    report.health = model::Health::Unhealthy;
    rest.observer.pushed(report);
    Problem::from(error)
}

fn reasons(result: &IngestionResult) -> String {
    let list: Vec<String> = result.rejections.iter().map(|r| format!("{} {}", r.count, r.reason)).collect();
    list.join(", ")
}

fn read_rows(body: &JsonBody, origin: Origin, now_ms: i64, strict: bool) -> Result<MetricRows, Problem> {
    let source_id = origin.source_id.clone();
    let mut rows = MetricRows::new(Batch::new(origin), &source_id, now_ms);
    let mut issues = Issues::new(strict);
    let mut index = 0;
    body.each_element(|value| {
        if index == METRICS_MAX {
            let detail = format!("more than {METRICS_MAX} metrics in one request");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_metrics", detail));
        }
        rows.add(index, &value, &mut issues);
        if rows.bytes() > ROWS_BYTES_MAX {
            let detail =
                format!("more than {ROWS_BYTES_MAX} bytes of samples after {index} metrics; send less at a time");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_metrics", detail));
        }
        index += 1;
        Ok(())
    })?;
    issues.into_result()?;
    Ok(rows)
}

fn result_of(
    rest: &Rest,
    intake: &Intake,
    batch: &Batch,
    elements: &[u32],
    appended: &Appended,
    report: &CollectionReport,
) -> IngestionResult {
    let counts = &appended.counts;
    let rejected = counts.refused_total();
    let status = match (rejected, counts.received - rejected.min(counts.received)) {
        (0, _) => "ACCEPTED",
        (_, 0) => "REJECTED",
        _ => "PARTIAL",
    };
    IngestionResult {
        request_id: Uuid::from_bytes(report.event_id).to_string(),
        status: status.to_owned(),
        received: counts.received,
        accepted: counts.stored,
        duplicates: counts.duplicates,
        rejected,
        filtered: counts.filtered,
        new_series: appended.new_series,
        rejections: rejections(batch, elements),
        durability: "WAL_SYNCED".to_owned(),
        ledger: Ledger { node: rest.node.clone(), epoch: appended.ledger.epoch, seq: appended.ledger.seq },
        processing_ms: (intake.started.elapsed().as_secs_f64() * 1e6).round() / 1e3,
    }
}

/// Groups the refused samples of a batch by reason.
fn rejections(batch: &Batch, elements: &[u32]) -> Vec<Rejection> {
    let mut found: BTreeMap<Refusal, (u64, usize)> = BTreeMap::new();
    for (i, verdict) in batch.verdicts.iter().enumerate() {
        if let Verdict::Refused(reason) = verdict {
            found.entry(*reason).or_insert((0, i)).0 += 1;
        }
    }
    let show = |(reason, (count, first)): (Refusal, (u64, usize))| {
        let labels = batch.samples.get(first).and_then(|s| batch.labels(s.series)).unwrap_or_default();
        Rejection {
            reason: reason.as_str().to_owned(),
            count,
            first_index: elements.get(first).copied().unwrap_or_default().into(),
            example: RejectionExample {
                name: labels.metric_name().to_owned(),
                labels: labels
                    .iter()
                    .filter(|(n, _)| *n != LABEL_NAME)
                    .map(|(n, v)| (n.to_owned(), v.to_owned()))
                    .collect(),
            },
            detail: batch.advice.clone().filter(|_| reason == Refusal::SeriesLimit),
        }
    };
    found.into_iter().map(show).collect()
}
