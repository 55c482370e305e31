//! `POST /api/v1/read`: remote read, as samples in one message or as a stream of chunks.
//!
//! Invariants: 1. what is asked is answered whole or not with 200 (a stream that fails breaks off); 2. the store is read where
//! it may block, in the seat of a look-up.
//! Limits: [`READ_BYTES_MAX`] and [`INFLATED_BYTES_MAX`] of a request, [`QUERIES_MAX`] queries, the samples a query may hold,
//! [`ANSWER_BYTES_MAX`] of an answer of samples, frames of [`FRAME_BYTES_MAX`].

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::{HeaderMap, StatusCode, header};
use model::{Batch, Labels, LabelsBuf, Matcher, NO_FAMILY, Samples, Select, SelectError, SeriesReader, TimeRange};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wire::snappy;

use super::api::PromApi;
use super::error::{ApiError, ErrorKind};
use super::read_message::{self, Query, Request};
use super::xor_chunk;

const READ_BYTES_MAX: usize = 1 << 20;
const INFLATED_BYTES_MAX: usize = 4 << 20;
/// Queries of one request; Prometheus sends one.
pub const QUERIES_MAX: usize = 100;
/// What an answer of samples may grow to before it is packed. A stream has no such limit.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// As Prometheus' `--storage.remote.read-max-bytes-in-frame`.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Frames that wait for a slow reader.
const FRAMES_WAITING_MAX: usize = 4;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// `POST /api/v1/read`
pub async fn read(State(api): State<PromApi>, headers: HeaderMap, body: Body) -> Response {
    match answer(&api, &headers, body).await {
        Ok(response) => response,
        // Remote read has no envelope.
        Err(error) => (error.kind.status(), error.text + "\n").into_response(),
    }
}

async fn answer(api: &PromApi, headers: &HeaderMap, body: Body) -> Result<Response, ApiError> {
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("snappy");
    if !encoding.eq_ignore_ascii_case("snappy") {
        return Err(ApiError::bad_data(format!("content encoding {encoding:?} is not known; only snappy is")));
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, READ_BYTES_MAX)).await;
    let bytes = read.map_err(|_| ApiError::bad_data("the body did not arrive in time"))?;
    let bytes = bytes.map_err(|e| ApiError::bad_data(format!("the body cannot be read: {e}")))?;
    let bytes = snappy::decode_block(&bytes, INFLATED_BYTES_MAX).map_err(|e| ApiError::bad_data(e.to_string()))?;
    let request = read_message::request(&bytes).map_err(ApiError::bad_data)?;
    let work = Work {
        external: (api.external_labels)().into_iter().collect(),
        samples_max: api.queries.limits().samples_max,
        request,
    };
    if work.request.wants_chunks { chunks(api, work).await } else { samples(api, work).await }
}

/// What is to be done.
struct Work {
    request: Request,
    external: BTreeMap<String, String>,
    samples_max: u64,
}

impl Work {
    /// Selects what a query asks for, sorted by labels. Matchers for external labels are no matchers: all series have them.
    fn select(&self, select: &dyn Select, query: &Query) -> Result<Vec<Box<dyn SeriesReader>>, ApiError> {
        let is_external = |m: &Matcher| {
            m.op() == model::MatchOp::Equal && self.external.get(m.name()).is_some_and(|value| value == m.value())
        };
        let matchers: Vec<Matcher> = query.matchers.iter().filter(|m| !is_external(m)).cloned().collect();
        let mut found = select.select(&matchers, query.range()).map_err(failed)?;
        found.sort_by(|a, b| a.labels().cmp(b.labels()));
        Ok(found)
    }

    /// Adds the external labels that a series does not have itself.
    fn labels(&self, series: &Labels) -> Labels {
        if self.external.is_empty() {
            return series.clone();
        }
        let mut labels = LabelsBuf::from_labels(series);
        for (name, value) in &self.external {
            if series.get(name).is_none() {
                labels.push(name, value);
            }
        }
        labels.to_labels()
    }

    fn count(&self, so_far: &mut u64, samples: &Samples) -> Result<(), ApiError> {
        *so_far += (samples.len() + samples.histograms.len()) as u64;
        if *so_far > self.samples_max {
            return Err(ApiError::bad_data(format!("exceeded sample limit ({})", self.samples_max)));
        }
        Ok(())
    }
}

impl Query {
    fn range(&self) -> TimeRange {
        TimeRange { start_ms: self.start_ms, end_ms: self.end_ms }
    }
}

fn failed(error: SelectError) -> ApiError {
    ApiError::new(ErrorKind::Internal, error.to_string())
}

/// Answers with one message that holds all samples.
async fn samples(api: &PromApi, work: Work) -> Result<Response, ApiError> {
    let body = api.queries.look_up(move |select| {
        let (mut out, mut count) = (Vec::new(), 0);
        for query in &work.request.queries {
            let mut result = Vec::new();
            for reader in work.select(select, query)? {
                let mut samples = Samples::default();
                reader.read(query.range(), &mut samples).map_err(failed)?;
                work.count(&mut count, &samples)?;
                result.extend(time_series(&work.labels(reader.labels()), &samples));
                if out.len() + result.len() > ANSWER_BYTES_MAX {
                    let text = "the answer is too large; ask for less at a time, or for STREAMED_XOR_CHUNKS";
                    return Err(ApiError::bad_data(text));
                }
            }
            read_message::put_bytes(&mut out, 1, &result);
        }
        snappy::encode_block(&out).map_err(|e| ApiError::new(ErrorKind::Internal, e.to_string()))
    });
    let headers = [(header::CONTENT_TYPE, "application/x-protobuf"), (header::CONTENT_ENCODING, "snappy")];
    Ok((StatusCode::OK, headers, body.await?).into_response())
}

/// Writes a `TimeSeries` as field 1 of a `QueryResult`: just as it stands in a request of remote write.
fn time_series(labels: &Labels, samples: &Samples) -> Vec<u8> {
    let mut batch = Batch::default();
    let series = batch.push_labels(labels, NO_FAMILY);
    samples.ts_ms.iter().zip(&samples.values).for_each(|(ts, value)| batch.push_sample(series, *ts, *value));
    for (ts_ms, histogram) in &samples.histograms {
        batch.push_histogram(series, *ts_ms, std::sync::Arc::clone(histogram));
    }
    wire::remote_write::encode_v1(&batch)
}

/// Answers with a stream of frames; each holds chunks of one series.
async fn chunks(api: &PromApi, work: Work) -> Result<Response, ApiError> {
    let (tx, mut rx) = mpsc::channel::<Result<Bytes, ApiError>>(FRAMES_WAITING_MAX);
    let api = api.clone();
    tokio::spawn(async move {
        let frames = tx.clone();
        let done = api.queries.look_up(move |select| write_frames(select, &work, &frames)).await;
        if let Err(error) = done {
            // Nobody listens any more when this fails.
            drop(tx.send(Err(error)).await);
        }
    });
    // The first frame tells whether there is an answer at all.
    let first = match rx.recv().await {
        None => None,
        Some(Ok(frame)) => Some(Ok(frame)),
        Some(Err(error)) => return Err(error),
    };
    let rest = ReceiverStream::new(rx).map(|frame| frame.map_err(std::io::Error::other));
    let all = futures_util::stream::iter(first).chain(rest);
    let content_type = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, content_type)], Body::from_stream(all)).into_response())
}

fn write_frames(
    select: &dyn Select,
    work: &Work,
    frames: &mpsc::Sender<Result<Bytes, ApiError>>,
) -> Result<(), ApiError> {
    let mut count = 0;
    for (index, query) in work.request.queries.iter().enumerate() {
        for reader in work.select(select, query)? {
            let mut samples = Samples::default();
            reader.read(query.range(), &mut samples).map_err(failed)?;
            work.count(&mut count, &samples)?;
            let labels = work.labels(reader.labels());
            if !samples.histograms.is_empty() {
                let text = format!("{labels} holds native histograms, which are read as SAMPLES only");
                return Err(ApiError::new(ErrorKind::Execution, text));
            }
            for frame in series_frames(&labels, &samples, index) {
                if frames.blocking_send(Ok(frame)).is_err() {
                    // The reader went away.
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Cuts a series into chunks, and its chunks into frames.
fn series_frames(labels: &Labels, samples: &Samples, query: usize) -> Vec<Bytes> {
    let head = read_message::labels(labels);
    let mut frames = Vec::new();
    let mut series = head.clone();
    let times = samples.ts_ms.chunks(xor_chunk::SAMPLES_MAX);
    for (ts_ms, values) in times.zip(samples.values.chunks(xor_chunk::SAMPLES_MAX)) {
        let (Some(first), Some(last)) = (ts_ms.first(), ts_ms.last()) else { continue };
        let chunk = read_message::chunk(*first, *last, &xor_chunk::encode(ts_ms, values));
        if series.len() > head.len() && series.len() + chunk.len() > FRAME_BYTES_MAX {
            frames.push(read_message::frame(&series, query));
            series.truncate(head.len());
        }
        series.extend_from_slice(&chunk);
    }
    if series.len() > head.len() {
        frames.push(read_message::frame(&series, query));
    }
    frames
}
