//! `/api/v1/metrics/stream`: who comes in, who goes out.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRef, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use model::{Labels, Select, SeriesId};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;
use wire::inflating::{Coding, Inflating};

use super::lines::{Budgets, Lines as BodyLines, PIECE_BYTES};
use super::out;
use super::positions::Positions;
use super::session::Session;
use super::stats::StreamStats;
use super::tap::Tap;
use super::websocket::{self, Upgrade};
use crate::access::Pass;
use crate::prom::params::Params;
use crate::rest::Rest;
use crate::rest::body::{Query, flag};
use crate::rest::custom::source_id;
use crate::rest::problem::Problem;
use crate::rest::registration::is_target_id;
use crate::telemetry::Exposition;

/// The path.
pub const PATH: &str = "/api/v1/metrics/stream";
/// Streams that come in at a time.
const STREAMS_MAX: usize = 1_000;
/// Bytes of one frame.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// Bytes of all frames on their way.
const BUDGET_BYTES: usize = 64 << 20;
/// Bytes of all decoders of compressed bodies.
const DECODERS_BYTES: usize = 128 << 20;
/// Answers that wait for their reader.
pub const ANSWERS_MAX: usize = 64;

/// What streams work with.
pub struct StreamParts {
    /// Takes samples in.
    pub rest: Rest,
    /// Gives samples out.
    pub select: Arc<dyn Select>,
    /// How far streams have come.
    pub positions: Arc<Positions>,
    /// Hears of all samples that come in.
    pub tap: Arc<Tap>,
    /// Gives the labels of series by the store's ids; may block.
    pub labels: LabelsOf,
}

/// Gives the labels of series by the store's ids; those that are gone are left out.
pub type LabelsOf = Arc<dyn Fn(&[SeriesId]) -> Vec<(SeriesId, Labels)> + Send + Sync>;

/// The streams of a server. Cheap to clone.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    parts: StreamParts,
    stats: StreamStats,
    seats: Arc<Semaphore>,
    budgets: Budgets,
    listeners: Arc<AtomicUsize>,
}

impl Streams {
    /// Puts the parts together.
    pub fn new(parts: StreamParts) -> Streams {
        Streams(Arc::new(Inner {
            parts,
            stats: StreamStats::default(),
            seats: Arc::new(Semaphore::new(STREAMS_MAX)),
            budgets: Budgets {
                lines: Arc::new(Semaphore::new(BUDGET_BYTES / PIECE_BYTES)),
                decoders: Arc::new(Semaphore::new(DECODERS_BYTES / PIECE_BYTES)),
            },
            listeners: Arc::default(),
        }))
    }

    /// Gives the parts.
    pub fn parts(&self) -> &StreamParts {
        &self.0.parts
    }

    /// Gives the figures.
    pub fn stats(&self) -> &StreamStats {
        &self.0.stats
    }

    /// Gives the count of streams that go out.
    pub fn listeners(&self) -> &Arc<AtomicUsize> {
        &self.0.listeners
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let open = STREAMS_MAX - self.0.seats.available_permits();
        self.0.stats.render(page, open, self.0.listeners.load(Ordering::Relaxed));
    }

    /// Makes a session; its answers come out of the receiver.
    ///
    /// **Errors** when a name cannot be one, or there are too many streams.
    pub fn session(
        &self,
        headers: &HeaderMap,
        params: &Params,
    ) -> Result<(Session, mpsc::Receiver<String>, Seat), Problem> {
        let source_id = source_id(headers, params)?;
        let strict = flag(params, "strict", true)?;
        let stream_id = stream_id(headers, params)?;
        let named = params.all("stream_id").next().is_some() || headers.contains_key("x-stream-id");
        if named && Pass::in_force().is_some_and(|pass| pass.is_scoped()) && !belongs(&stream_id, &source_id) {
            let detail =
                format!("a stream of this token is named {source_id}:<anything>, for others end where its frames do");
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
        }
        let seat = self.0.seats.clone().try_acquire_owned().map_err(|_| {
            StreamStats::one(&self.0.stats.refused);
            let detail = format!("{STREAMS_MAX} streams are open already");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", detail).retry_after_ms(5_000)
        })?;
        StreamStats::one(&self.0.stats.opened);
        let hold = self.0.parts.positions.begin(&stream_id, (self.0.parts.rest.now)());
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        Ok((
            Session {
                streams: self.clone(),
                pass: Pass::in_force(),
                hold,
                source_id,
                strict,
                answers,
                last_ms: AtomicI64::new(0),
            },
            receiver,
            Seat(seat),
        ))
    }
}

/// A place among the streams that come in; given back on drop.
pub struct Seat(#[allow(dead_code, reason = "it is held")] tokio::sync::OwnedSemaphorePermit);

/// Tells whether a stream's name begins with its source's.
fn belongs(stream_id: &str, source_id: &str) -> bool {
    stream_id.strip_prefix(source_id).is_some_and(|rest| rest.starts_with(':'))
}

/// Reads `?stream_id=`, else `X-Stream-Id`; makes one when there is none.
fn stream_id(headers: &HeaderMap, params: &Params) -> Result<String, Problem> {
    let header = headers.get("x-stream-id").map(|v| v.to_str().unwrap_or("?"));
    match params.all("stream_id").next().or(header) {
        None => Ok(Uuid::now_v7().to_string()),
        Some(id) if is_target_id(id) => Ok(id.to_owned()),
        Some(_) => Err(Problem::parameter("stream_id", "stream_id is [A-Za-z0-9._:-]{1,100}")),
    }
}

/// Makes the route; the state must give [`Streams`].
pub fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Streams: FromRef<S>,
{
    Router::new().route(PATH, get(from_here).post(to_here))
}

/// Takes frames in.
#[utoipa::path(
    post, path = "/api/v1/metrics/stream", tag = "ingestion",
    request_body(content = String, content_type = "application/x-ndjson",
        description = "One frame a line: {\"seq\": 7, \"metrics\": [Metric, ...]}, or one Metric; the connection may stay open for as long as it likes. Content-Encoding gzip or zstd: what was flushed is read at once"),
    params(
        ("stream_id" = Option<String>, Query, description = "Names the stream; X-Stream-Id does the same. A frame whose seq is not above the last one stored of its stream is not stored again, over restarts and kills too"),
        ("source_id" = Option<String>, Query, description = "Label job of the samples; X-Source-Id does the same; default custom"),
        ("strict" = Option<bool>, Query, description = "false ignores unknown fields"),
    ),
    responses(
        (status = 200, description = "First {\"stream_id\", \"last_seq\"}, then for each frame {\"ack\": seq, ...IngestionResult} once it is fsynced, {\"ack\", \"repeated\": true}, or {\"ack\", \"error\"}; at last, unless the sender ends, {\"closed\": why}", body = String, content_type = "application/x-ndjson"),
        (status = 415, description = "Neither NDJSON nor JSON, or compressed in another way than gzip or zstd", body = crate::rest::problem::ProblemBody),
        (status = 503, description = "Too many streams", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn to_here(
    State(streams): State<Streams>,
    headers: HeaderMap,
    Query(params): Query,
    body: Body,
) -> Result<Response, Problem> {
    let inflating = check_content(&headers)?.map(Inflating::new).transpose();
    let inflating = inflating.map_err(|e| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", e.to_string()))?;
    let (session, answers, seat) = streams.session(&headers, &params)?;
    let lines = BodyLines::new(body, inflating, FRAME_BYTES_MAX, streams.0.budgets.clone());
    // Spawned: what has begun is done to the end, whoever goes away.
    tokio::spawn(async move {
        let _seat = seat;
        session.run(lines).await;
    });
    Ok(ndjson(answers))
}

/// Gives samples out, or takes frames in over a WebSocket.
#[utoipa::path(
    get, path = "/api/v1/metrics/stream", tag = "query",
    params(
        ("match" = Vec<String>, Query, description = "Selectors of series, as in PromQL; match[] does the same. A WebSocket without any sends frames in, as POST does"),
        ("from" = Option<String>, Query, description = "First the samples since then: RFC 3339, Unix seconds, or a duration before now such as 5m"),
        ("after" = Option<String>, Query, description = "Token of the last frame seen: goes on from there"),
    ),
    responses(
        (status = 200, description = "NDJSON: {\"labels\", \"samples\": [[ms, value], ...], \"token\"}; {\"live\": true, \"token\"} when the past is through; {\"missed\": n} to a reader who is too slow; a heartbeat in silence", body = String, content_type = "application/x-ndjson"),
        (status = 400, description = "A selector or time is wrong", body = crate::rest::problem::ProblemBody),
        (status = 503, description = "Too many listeners", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn from_here(
    State(streams): State<Streams>,
    headers: HeaderMap,
    Query(params): Query,
    request: Request,
) -> Result<Response, Problem> {
    let upgrade = Upgrade::of(request)?;
    match (upgrade, selects(&params)) {
        (Some(upgrade), false) => websocket::to_here(streams, upgrade, &headers, &params),
        (Some(upgrade), true) => {
            let lines = out::begin(&streams, &params)?;
            Ok(websocket::from_here(upgrade, lines))
        }
        (None, _) => Ok(ndjson(out::begin(&streams, &params)?)),
    }
}

/// Tells whether a request names series, and so wants to hear of them.
pub fn selects(params: &Params) -> bool {
    params.all("match").chain(params.all("match[]")).next().is_some()
}

/// Gives how a body is compressed, if it is one we read.
fn check_content(headers: &HeaderMap) -> Result<Option<Coding>, Problem> {
    let text = |name: header::HeaderName| headers.get(name).map(|v| v.to_str().unwrap_or("?").to_ascii_lowercase());
    let encoding = text(header::CONTENT_ENCODING).filter(|e| !e.trim().is_empty() && e.trim() != "identity");
    let unknown = |encoding: &String| {
        let detail = format!("content encoding {encoding:?} is not understood; {} are", Coding::NAMES);
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail)
    };
    let coding = encoding.map(|e| Coding::from_name(&e).ok_or_else(|| unknown(&e))).transpose()?;
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    let good =
        ["", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/json", "text/plain"];
    if good.contains(&essence) {
        return Ok(coding);
    }
    let detail = format!("content type {essence:?}; send application/x-ndjson");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
}

/// An answer of lines that come one by one.
fn ndjson(lines: mpsc::Receiver<String>) -> Response {
    let lines = ReceiverStream::new(lines).map(|mut line| {
        line.push('\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    let mut response = Body::from_stream(lines).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
