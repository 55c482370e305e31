//! InfluxDB's HTTP: `/write` and `/query` of version 1, `/api/v2/write`, `/ping` and `/health`.
//!
//! Invariants: 1. 204 means that all points are stored and fsynced; 2. of a 400 that names lines or counts, the others are.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRef, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use model::{Batch, CollectionMethod, LABEL_NAME, Matcher, Origin, Refusal, Select, TimeRange};
use serde_json::{Value, json};
use wire::gzip::{self, InflateError};

use super::influx::{self, Precision, Read};
use super::stats::{Dropped, LineStats};
use crate::prom::params::Params;
use crate::prom::write::{Arrived, Refused, Stored, WriteStats, Writer, refused_by_store};
use crate::prom::write_headers;
use crate::telemetry::Exposition;

/// What clients that look at the version are told: the last one whose line protocol this is.
const VERSION: &str = "1.8.10-quiver";
/// Source of requests that name neither themselves nor a database.
const DEFAULT_SOURCE: &str = "influx";
/// Databases that `SHOW DATABASES` lists.
const DATABASES_MAX: usize = 10_000;

/// Which version's answers a client expects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dialect {
    V1,
    V2,
}

/// Takes InfluxDB's requests. Cheap to clone.
#[derive(Clone)]
pub struct Influx(Arc<Inner>);

struct Inner {
    writer: Writer,
    select: Arc<dyn Select>,
    requests: WriteStats,
    lines: LineStats,
}

/// What a request says of its body.
struct Request {
    source_id: String,
    db: String,
    precision: Precision,
    gzip: bool,
}

impl Influx {
    /// Makes a receiver that shares room, decoders and events with a writer.
    pub fn new(writer: Writer, select: Arc<dyn Select>) -> Influx {
        let (requests, lines) = (WriteStats::default(), LineStats::default());
        Influx(Arc::new(Inner { writer, select, requests, lines }))
    }

    /// Gives the figures of lines.
    pub fn lines(&self) -> &LineStats {
        &self.0.lines
    }

    /// Writes the figures of requests.
    pub fn render(&self, page: &mut Exposition) {
        self.0.requests.render_as(page, "influx", "InfluxDB's line protocol");
    }

    async fn take(&self, dialect: Dialect, headers: &HeaderMap, uri: &Uri, body: Body) -> Result<Response, Refused> {
        let request = Request::read(dialect, headers, &Params::parse(uri.query().unwrap_or("")))?;
        let writer = &self.0.writer;
        let mut arrived = writer.receive(headers, body).await?;
        // A point costs a few times its text; what a gzip body says it inflates to may lie and is capped below.
        let len = arrived.buffers.body.len();
        let max = writer.limits().inflated_bytes_max;
        let plain = if request.gzip { gzip_hint(&arrived.buffers.body, max) } else { len };
        writer.fit(&mut arrived, len + plain)?;
        let (reading, answering) = (self.clone(), self.clone());
        let decode = move |arrived: &mut Arrived, batch: &mut Batch| reading.decode(&request, arrived, batch, plain);
        let answer = move |batch: &Batch, read: &Read, stored: Stored<'_>| match stored {
            Ok(_) => Ok(answering.answer(dialect, batch, read)),
            Err(error) => Err(refused_by_store(error)),
        };
        writer.store(arrived, decode, answer).await
    }

    fn decode(&self, request: &Request, arrived: &mut Arrived, batch: &mut Batch, max: usize) -> Result<Read, Refused> {
        let body = std::mem::take(&mut arrived.buffers.body);
        let inflated = match request.gzip {
            false => Ok(Vec::new()),
            true => gzip::inflate_capped(&body, max).map_err(|error| match error {
                InflateError::TooLarge { .. } => Refused::too_large(error.to_string()),
                InflateError::Damaged(_) => bad(error.to_string()),
            }),
        };
        let read = inflated.and_then(|inflated| {
            let plain = if request.gzip { &inflated } else { &body };
            self.0.requests.count_bytes(body.len(), plain.len());
            let (now_ms, source_id) = (arrived.received_at_ms, request.source_id.clone());
            let method = CollectionMethod::Streaming;
            batch.origin = Origin { target_id: source_id.clone(), source_id, method, received_at_ms: now_ms };
            let samples_max = self.0.writer.limits().request.samples_max;
            influx::read(plain, &request.db, request.precision, now_ms, samples_max, batch).map_err(Refused::too_large)
        });
        arrived.buffers.body = body;
        let read = read?;
        let lines = &self.0.lines;
        lines.lines(read.points + read.bad);
        lines.dropped(Dropped::BadLine, read.bad);
        lines.dropped(Dropped::Text, read.texts);
        Ok(read)
    }

    fn answer(&self, dialect: Dialect, batch: &Batch, read: &Read) -> Response {
        let counts = batch.counts();
        let refused = counts.refused_total();
        if read.bad == 0 && refused == 0 {
            return (StatusCode::NO_CONTENT, [("x-influxdb-version", VERSION)]).into_response();
        }
        self.0.requests.count_refused_in_part();
        let mut text = format!("partial write: {} points are stored", counts.received - refused);
        if read.bad > 0 {
            let lines: Vec<String> = read.errors.iter().map(|e| e.to_string()).collect();
            text.push_str(&format!("; {} lines are not understood: {}", read.bad, lines.join("; ")));
        }
        for (reason, count) in Refusal::ALL.iter().zip(counts.refused).filter(|(_, count)| *count > 0) {
            text.push_str(&format!("; refused {}: {count}", reason.as_str()));
        }
        error(dialect, StatusCode::BAD_REQUEST, &text)
    }

    /// Lists the values of `db`, which stand for databases.
    fn databases(&self) -> Vec<Value> {
        let named = Matcher::new(LABEL_NAME, model::MatchOp::NotEqual, "").ok();
        let matchers: Vec<Matcher> = named.into_iter().collect();
        let values = self.0.select.label_values("db", &matchers, TimeRange::ALL).unwrap_or_default();
        values.into_iter().take(DATABASES_MAX).map(|db| json!([db])).collect()
    }
}

impl Request {
    fn read(dialect: Dialect, headers: &HeaderMap, params: &Params) -> Result<Request, Refused> {
        let precision = params.get("precision");
        let Some(precision) = Precision::read(precision) else {
            return Err(bad(format!("precision {precision:?} is none of ns, us, ms, s, m, h")));
        };
        let name = match dialect {
            Dialect::V1 => "db",
            Dialect::V2 => "bucket",
        };
        let db = [params.get("db"), params.get(name)].into_iter().find(|db| !db.is_empty()).unwrap_or_default();
        if db.chars().count() > write_headers::SOURCE_CHARS_MAX || db.chars().any(char::is_control) {
            return Err(bad(format!("{name} has more than 100 characters, or control characters")));
        }
        let gzip = match write_headers::text(headers, header::CONTENT_ENCODING).to_ascii_lowercase().as_str() {
            "" | "identity" => false,
            "gzip" => true,
            other => {
                let text = format!("content encoding {other:?} is not known; gzip is");
                return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
            }
        };
        let named = write_headers::named_source(headers, params)?;
        let source_id = named.unwrap_or_else(|| if db.is_empty() { DEFAULT_SOURCE } else { db }.to_owned());
        Ok(Request { source_id, db: db.to_owned(), precision, gzip })
    }
}

fn gzip_hint(body: &[u8], max: usize) -> usize {
    let declared = body.last_chunk::<4>().map_or(0, |end| u32::from_le_bytes(*end) as usize);
    // Bodies of several members declare less; text never shrinks by more than this.
    declared.max(body.len().saturating_mul(30)).min(max)
}

fn bad(text: impl Into<String>) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, text)
}

/// Makes the routes; the state must give an [`Influx`].
pub fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Influx: FromRef<S>,
{
    Router::new()
        .route("/write", post(write_v1))
        .route("/api/v2/write", post(write_v2))
        .route("/query", get(query).post(query))
        .route("/ping", get(ping).head(ping))
        .route("/health", get(health))
}

async fn write_v1(State(influx): State<Influx>, headers: HeaderMap, uri: Uri, body: Body) -> Response {
    write(influx, Dialect::V1, &headers, &uri, body).await
}

async fn write_v2(State(influx): State<Influx>, headers: HeaderMap, uri: Uri, body: Body) -> Response {
    write(influx, Dialect::V2, &headers, &uri, body).await
}

async fn write(influx: Influx, dialect: Dialect, headers: &HeaderMap, uri: &Uri, body: Body) -> Response {
    let response = influx.take(dialect, headers, uri, body).await.unwrap_or_else(|refused| {
        let mut response = error(dialect, refused.status(), refused.text());
        if let Some(seconds) = refused.retry_after_s() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    });
    influx.0.requests.count(response.status());
    response
}

/// An error in the shape that clients of the version read.
fn error(dialect: Dialect, status: StatusCode, text: &str) -> Response {
    let body = match dialect {
        Dialect::V1 => json!({"error": text}),
        Dialect::V2 => {
            let code = match status.as_u16() {
                400 | 415 => "invalid",
                413 => "request too large",
                500 => "internal error",
                _ => "unavailable",
            };
            json!({"code": code, "message": text})
        }
    };
    let mut response = (status, axum::Json(body)).into_response();
    let shown: String = text.chars().filter(|c| c.is_ascii() && !c.is_control()).take(500).collect();
    if let Ok(value) = HeaderValue::from_str(&shown) {
        response.headers_mut().insert("x-influxdb-error", value);
    }
    response
}

async fn ping() -> Response {
    (StatusCode::NO_CONTENT, [("x-influxdb-version", VERSION), ("x-influxdb-build", "quiver")]).into_response()
}

async fn health() -> Response {
    let body = json!({"name": "influxdb", "message": "ready for queries and writes", "status": "pass", "checks": [],
                      "version": VERSION});
    axum::Json(body).into_response()
}

/// Answers what senders ask before they write. Samples are asked for in PromQL.
async fn query(State(influx): State<Influx>, params: Params) -> Response {
    let text = params.get("q").trim().trim_end_matches(';').to_owned();
    let word = text.to_ascii_lowercase();
    let starts = |what: &str| word.starts_with(what);
    let series = if starts("show databases") {
        let known = influx.clone();
        let databases = tokio::task::spawn_blocking(move || known.databases()).await.unwrap_or_default();
        vec![json!({"name": "databases", "columns": ["name"], "values": databases})]
    } else if starts("create database") || starts("create retention policy") || starts("alter retention policy") {
        // There is nothing to create: a database is a label.
        Vec::new()
    } else if text.is_empty() {
        return error(Dialect::V1, StatusCode::BAD_REQUEST, "missing required parameter \"q\"");
    } else {
        let text = "InfluxQL is not spoken; ask in PromQL at /api/v1/query";
        return error(Dialect::V1, StatusCode::BAD_REQUEST, text);
    };
    let mut result = json!({"statement_id": 0});
    if !series.is_empty() {
        result["series"] = Value::Array(series);
    }
    let body = axum::Json(json!({"results": [result]}));
    ([("x-influxdb-version", VERSION)], body).into_response()
}
