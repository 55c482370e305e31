//! `POST /api/v1/write`: remote write 1.0 and 2.0, answered when the samples are durable.
//!
//! Owns: the bytes in flight, the seats of decoders and the events of sources; OTLP takes its way through here, too, and
//! brings its own reader and answer.
//! Invariants: 1. 204 means that all samples are stored and fsynced; 2. of a 400 with counts the others are; 3. a client
//! that goes away takes neither the batch nor its event along; 4. bytes in flight are counted before they are read and
//! before they are inflated; 5. every answer says in `X-Prometheus-Remote-Write-*-Written` exactly what is durable.
//! Limits: [`WriteLimits`]. Who finds no room is answered 503 with `Retry-After`, which every sender tries again.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use collect::report::BatchIds;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use http_body_util::BodyExt;
use model::{
    Append, AppendDone, AppendError, Appended, Batch, BatchExemplar, CollectionMethod, Labels, NoRecall, Origin,
    Recall, Refusal, Select, SeriesIndex, Verdict,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use wire::remote_write::{self, DecodeStats, Limits, Written};
use wire::snappy::{self, SnappyError};

use super::api::{PromApi, Pushed, Source};
use super::params::Params;
use super::write_events::WriteEvents;
use super::write_headers::{self, Version};
use super::write_pool::{Buffers, Pool};
use crate::access::{NotYours, Pass};
use crate::memory::UNIT_BYTES;
use crate::telemetry::Exposition;

/// Bytes in flight are counted in pieces of this size.
const PIECE_BYTES: usize = UNIT_BYTES;
/// What a request may take as it came and inflated, at the same time.
const BOTH_BYTES_MAX: usize = 32 << 20;
/// What the rows of a request are expected to take, in bytes for each of its own, and at most.
const ROWS_FACTOR: usize = 2;
const ROWS_BYTES_MAX: usize = 32 << 20;
/// More memory than this is not set aside on the word of a header.
const RESERVE_BYTES_MAX: usize = 1 << 20;
/// What inflates to no more is decoded on the thread that received it, within a fraction of a millisecond.
const INLINE_BYTES_MAX: usize = 512 << 10;
/// Longest time for a body to arrive: what has come of it takes room meanwhile.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// What a sender that finds no room shall wait, in seconds.
const RETRY_AFTER_S: u64 = 1;
/// Room for series comes when others end.
pub(crate) const RETRY_AFTER_FULL_S: u64 = 60;
/// A full disk does not empty itself within a second.
const RETRY_AFTER_NO_SPACE_S: u64 = 30;

/// How much remote write may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteLimits {
    /// Bytes of one body on the wire.
    pub body_bytes_max: usize,
    /// Bytes of one body after inflating.
    pub inflated_bytes_max: usize,
    /// Bytes of all requests in flight, as they came and inflated.
    pub inflight_bytes_max: usize,
    /// Requests that are decoded at a time.
    pub decoders: usize,
    /// What one request may hold.
    pub request: Limits,
}

impl Default for WriteLimits {
    fn default() -> WriteLimits {
        WriteLimits {
            body_bytes_max: 32 << 20,
            inflated_bytes_max: 32 << 20,
            inflight_bytes_max: 256 << 20,
            decoders: 2 * std::thread::available_parallelism().map_or(1, usize::from),
            // What a request may become is bounded, not only what it is: a few bytes may stand for many.
            request: Limits {
                native_histograms: true,
                samples_max: 100_000,
                text_bytes_max: 8 << 20,
                histogram_bytes_max: 16 << 20,
                symbols_max: 200_000,
                ..Limits::default()
            },
        }
    }
}

/// What a writer works with.
pub struct WriterParts {
    /// The way into the store.
    pub append: Arc<dyn Append>,
    /// Knows the types of families.
    pub select: Arc<dyn Select>,
    /// Numbers batches.
    pub batch_ids: Arc<BatchIds>,
    /// Hears of each source once per second.
    pub pushed: Pushed,
    /// Gives the time, in milliseconds since 1970.
    pub now: Source<i64>,
    /// Limits.
    pub limits: WriteLimits,
}

/// What remote write brought.
#[derive(Default, Debug)]
pub struct WriteStats {
    stored: AtomicU64,
    refused_in_part: AtomicU64,
    bad: AtomicU64,
    busy: AtomicU64,
    failed: AtomicU64,
    body_bytes: AtomicU64,
    inflated_bytes: AtomicU64,
}

impl WriteStats {
    /// Counts a request of which a part was refused.
    pub(crate) fn count_refused_in_part(&self) {
        self.refused_in_part.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the bytes of a body, as they came and inflated.
    pub(crate) fn count_bytes(&self, body: usize, inflated: usize) {
        self.body_bytes.fetch_add(body as u64, Ordering::Relaxed);
        self.inflated_bytes.fetch_add(inflated as u64, Ordering::Relaxed);
    }

    /// Writes the figures of remote write.
    pub fn render(&self, page: &mut Exposition) {
        self.render_as(page, "remote_write", "remote write");
    }

    /// Writes the figures under another name.
    pub(crate) fn render_as(&self, page: &mut Exposition, name: &str, what: &str) {
        let help = format!("Requests of {what}, by what became of them.");
        page.family(&format!("quiver_{name}_requests_total"), "counter", &help);
        let outcomes = [
            ("stored", &self.stored),
            ("refused_in_part", &self.refused_in_part),
            ("bad", &self.bad),
            ("busy", &self.busy),
            ("failed", &self.failed),
        ];
        for (word, count) in outcomes {
            page.sample(&[("outcome", word)], count.load(Ordering::Relaxed) as f64);
        }
        let bytes = [("wire", &self.body_bytes), ("inflated", &self.inflated_bytes)];
        let help = format!("Bytes of bodies of {what} that were read.");
        page.family(&format!("quiver_{name}_bytes_total"), "counter", &help);
        for (word, count) in bytes {
            page.sample(&[("as", word)], count.load(Ordering::Relaxed) as f64);
        }
    }

    pub(crate) fn count(&self, status: StatusCode) {
        let counter = match status.as_u16() {
            200..300 => &self.stored,
            503 => &self.busy,
            500.. => &self.failed,
            _ => &self.bad,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes remote write. Cheap to clone.
#[derive(Clone)]
pub struct Writer(Arc<Inner>);

struct Inner {
    parts: WriterParts,
    pool: Pool,
    events: WriteEvents,
    stats: WriteStats,
    /// All the room there is.
    pieces: usize,
    room: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
}

/// Why nothing of a request is stored.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    retry_after_s: Option<u64>,
    text: String,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Refused {
        Refused { status, retry_after_s: None, text: text.into() }
    }

    /// Says when the sender shall try again.
    pub(crate) fn retry_after(self, seconds: u64) -> Refused {
        Refused { retry_after_s: Some(seconds), ..self }
    }

    /// Gives the status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Gives how long the sender shall wait before it tries again, if it shall.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        self.retry_after_s
    }

    /// Gives the reason.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn busy(text: impl Into<String>) -> Refused {
        Refused { retry_after_s: Some(RETRY_AFTER_S), ..Refused::new(StatusCode::SERVICE_UNAVAILABLE, text) }
    }

    pub(crate) fn too_large(text: impl Into<String>) -> Refused {
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }
}

impl From<NotYours> for Refused {
    fn from(not_yours: NotYours) -> Refused {
        let (status, text, retry_after_s) = not_yours.told();
        Refused { status, retry_after_s, text }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.text + "\n").into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A body that was read whole, on its way.
pub(crate) struct Arrived {
    /// When the request began.
    started: Instant,
    /// When the body was there; milliseconds since 1970.
    pub(crate) received_at_ms: i64,
    /// The bytes.
    pub(crate) buffers: Buffers,
    /// Who brought them.
    pass: Option<Arc<Pass>>,
    /// Held until the answer.
    room: OwnedSemaphorePermit,
}

/// What the store said.
pub(crate) type Stored<'a> = Result<&'a Appended, &'a AppendError>;

/// `POST /api/v1/write`
pub async fn write(State(api): State<PromApi>, headers: HeaderMap, uri: Uri, body: Body) -> Response {
    let response = match api.writer.take(&headers, &uri, body).await {
        Ok(response) => response,
        Err(refused) => nothing_written(refused),
    };
    api.writer.stats().count(response.status());
    response
}

impl Writer {
    /// Makes a writer.
    pub fn new(parts: WriterParts) -> Writer {
        let limits = parts.limits;
        let pieces = (limits.inflight_bytes_max / PIECE_BYTES).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Writer::sharing(parts, Arc::new(Semaphore::new(pieces)))
    }

    /// Makes a writer that shares the room for bytes in flight, in pieces of [`UNIT_BYTES`], with others.
    pub fn sharing(parts: WriterParts, room: Arc<Semaphore>) -> Writer {
        let limits = parts.limits;
        let pieces = (limits.inflight_bytes_max / PIECE_BYTES).clamp(1, room.available_permits().max(1));
        Writer(Arc::new(Inner {
            pool: Pool::default(),
            events: WriteEvents::new(Arc::clone(&parts.select)),
            stats: WriteStats::default(),
            pieces,
            room,
            decoders: Arc::new(Semaphore::new(limits.decoders.max(1))),
            parts,
        }))
    }

    /// Gives the figures.
    pub fn stats(&self) -> &WriteStats {
        &self.0.stats
    }

    /// Reports each source once per second until the server stops, and a last time then.
    pub async fn report_each_second(&self, mut stop: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stopped = tokio::select! {
                _ = tick.tick() => false,
                _ = stop.wait_for(|stopped| *stopped) => true,
            };
            self.report();
            if stopped {
                return;
            }
        }
    }

    /// Reports what came since the last time.
    pub fn report(&self) {
        let parts = &self.0.parts;
        for report in self.0.events.report((parts.now)(), &parts.batch_ids) {
            (parts.pushed)(report);
        }
    }

    /// Gives the way to what is stored.
    pub(crate) fn select(&self) -> &Arc<dyn Select> {
        &self.0.parts.select
    }

    /// Gives what one request may hold.
    pub(crate) fn limits(&self) -> &WriteLimits {
        &self.0.parts.limits
    }

    pub(super) async fn take(&self, headers: &HeaderMap, uri: &Uri, body: Body) -> Result<Response, Refused> {
        let version = write_headers::check(headers)?;
        let source_id = write_headers::source_id(headers, &Params::parse(uri.query().unwrap_or("")))?;
        let mut arrived = self.receive(headers, body).await?;
        let body = &arrived.buffers.body;
        // A length that is not allowed or no length at all is refused by the decoder, which takes no room.
        let inflated = snap::raw::decompress_len(body).ok().filter(|n| *n <= self.limits().inflated_bytes_max);
        let plain = inflated.unwrap_or(0);
        if body.len() + plain > BOTH_BYTES_MAX {
            let text = format!(
                "the body takes {} bytes as it came and inflated, {BOTH_BYTES_MAX} are allowed",
                body.len() + plain
            );
            return Err(Refused::too_large(text));
        }
        let bytes = body.len() + plain + (plain * ROWS_FACTOR).min(ROWS_BYTES_MAX);
        self.fit(&mut arrived, bytes)?;
        let (decoder, writer) = (self.clone(), self.clone());
        let decode = move |arrived: &mut Arrived, batch: &mut Batch, recall: &mut dyn Recall| {
            let received_at_ms = arrived.received_at_ms;
            let method = CollectionMethod::Streaming;
            batch.origin = Origin { target_id: source_id.clone(), source_id, method, received_at_ms };
            decoder.decode(version, &mut arrived.buffers, batch, recall)
        };
        let answer = move |batch: &Batch, stats: &DecodeStats, stored: Stored<'_>| match stored {
            Ok(appended) => Ok(writer.answer(batch, stats, appended)),
            Err(error) => Err(refused_by_store(error)),
        };
        self.store_recalling(arrived, plain <= INLINE_BYTES_MAX, decode, answer).await
    }

    /// Reads a body, taking room for what has come: one that is only announced keeps nobody out.
    ///
    /// **Errors** when it is too large, there is no room, or it does not arrive.
    pub(crate) async fn receive(&self, headers: &HeaderMap, body: Body) -> Result<Arrived, Refused> {
        let started = Instant::now();
        let limits = self.limits();
        let declared = write_headers::content_length(headers);
        if declared.is_some_and(|len| len > limits.body_bytes_max as u64) {
            return Err(body_too_large(limits.body_bytes_max));
        }
        let mut room = self.acquire(1)?;
        let mut buffers = self.0.pool.buffers();
        buffers.body.reserve(declared.map_or(0, |len| len as usize).min(RESERVE_BYTES_MAX));
        let reading = self.read_body(body, &mut buffers.body, &mut room);
        match tokio::time::timeout(BODY_TIMEOUT, reading).await {
            Ok(read) => read?,
            Err(_) => return Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        }
        let received_at_ms = (self.0.parts.now)();
        Ok(Arrived { started, received_at_ms, buffers, pass: Pass::in_force(), room })
    }

    async fn read_body(
        &self,
        mut body: Body,
        into: &mut Vec<u8>,
        room: &mut OwnedSemaphorePermit,
    ) -> Result<(), Refused> {
        let max = self.limits().body_bytes_max;
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|e| Refused::new(StatusCode::BAD_REQUEST, format!("the body cannot be read: {e}")))?;
            let Some(bytes) = frame.data_ref() else { continue };
            if into.len() + bytes.len() > max {
                return Err(body_too_large(max));
            }
            make_room(into, bytes.len(), max);
            let missing = pieces(into.len() + bytes.len()).min(self.0.pieces).saturating_sub(room.num_permits());
            if missing > 0 {
                room.merge(self.acquire(missing)?);
            }
            into.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn acquire(&self, pieces: usize) -> Result<OwnedSemaphorePermit, Refused> {
        Arc::clone(&self.0.room)
            .try_acquire_many_owned(u32::try_from(pieces).unwrap_or(u32::MAX))
            .map_err(|_| Refused::busy("too many bytes of pushed samples are in flight; try again"))
    }

    /// Makes the room taken fit, now that the size is known. What is larger than all the room there is goes alone.
    ///
    /// **Errors** when there is no such room now.
    pub(crate) fn fit(&self, arrived: &mut Arrived, bytes: usize) -> Result<(), Refused> {
        let room = &mut arrived.room;
        let (held, wanted) = (room.num_permits(), pieces(bytes).min(self.0.pieces));
        if wanted > held {
            room.merge(self.acquire(wanted - held)?);
        } else {
            drop(room.split(held - wanted));
        }
        Ok(())
    }

    /// Decodes a body, stores the batch, notes it for the event of its source and answers.
    ///
    /// **Takes** `decode`, which may block, and fills the batch and its origin; and `answer`, which is asked with the verdicts
    /// once all that was stored is fsynced.
    pub(crate) async fn store<T: Send + 'static>(
        &self,
        arrived: Arrived,
        decode: impl FnOnce(&mut Arrived, &mut Batch) -> Result<T, Refused> + Send + 'static,
        answer: impl FnOnce(&Batch, &T, Stored<'_>) -> Result<Response, Refused> + Send + 'static,
    ) -> Result<Response, Refused> {
        let decode = move |arrived: &mut Arrived, batch: &mut Batch, _: &mut dyn Recall| decode(arrived, batch);
        self.store_recalling(arrived, false, decode, answer).await
    }

    /// The same for a format whose series may be known by the bytes that name them; `quick` says that decoding takes less
    /// than to wake another thread for it.
    async fn store_recalling<T: Send + 'static>(
        &self,
        arrived: Arrived,
        quick: bool,
        decode: impl FnOnce(&mut Arrived, &mut Batch, &mut dyn Recall) -> Result<T, Refused> + Send + 'static,
        answer: impl FnOnce(&Batch, &T, Stored<'_>) -> Result<Response, Refused> + Send + 'static,
    ) -> Result<Response, Refused> {
        let writer = self.clone();
        // Spawned: a client that goes away must not leave a durable batch without its event.
        let task = tokio::spawn(async move { writer.store_all(arrived, quick, decode, answer).await });
        task.await.unwrap_or_else(|_| Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed")))
    }

    async fn store_all<T: Send + 'static>(
        &self,
        mut arrived: Arrived,
        quick: bool,
        decode: impl FnOnce(&mut Arrived, &mut Batch, &mut dyn Recall) -> Result<T, Refused> + Send + 'static,
        answer: impl FnOnce(&Batch, &T, Stored<'_>) -> Result<Response, Refused> + Send + 'static,
    ) -> Result<Response, Refused> {
        let inner = &self.0;
        let Ok(seat) = Arc::clone(&inner.decoders).acquire_owned().await else {
            return Err(Refused::busy("the server is stopping"));
        };
        let (tx, rx) = oneshot::channel();
        let writer = self.clone();
        let hand_in = move || {
            let pool = &writer.0.pool;
            let mut batch = pool.batch();
            let append = &writer.0.parts.append;
            // Held until the batch is submitted: the ids that it gives stay good so long.
            // Who writes for some sources only is looked at label by label.
            let scoped = arrived.pass.as_ref().is_some_and(|pass| pass.is_scoped());
            let mut recall: Box<dyn Recall + '_> = if scoped { Box::new(NoRecall) } else { append.recall() };
            let decoded = decode(&mut arrived, &mut batch, &mut *recall);
            recall.end();
            let Arrived { started, buffers, room, pass, .. } = arrived;
            pool.give_buffers(buffers);
            let judged = |decoded| match pass.map_or(Ok(()), |pass| pass.judge(&batch)) {
                Ok(()) => Ok(decoded),
                Err(not_yours) => Err(Refused::from(not_yours)),
            };
            let decoded = decoded.and_then(judged);
            let decoded = match decoded {
                Ok(decoded) => decoded,
                Err(refused) => {
                    pool.give_batch(batch);
                    return Err(refused);
                }
            };
            // The store may make us wait for room; others can decode meanwhile.
            drop(seat);
            let done: AppendDone = Box::new(move |batch, result| drop(tx.send((batch, result))));
            if quick {
                append.submit_now(batch, done)
            } else {
                append.submit(batch, done)
            }
            Ok((decoded, started, room))
        };
        let failed = || Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed");
        let handed =
            if quick { hand_in() } else { tokio::task::spawn_blocking(hand_in).await.map_err(|_| failed())? };
        let (decoded, started, room) = handed?;
        let closed = || Refused::busy("the store is closed");
        let (mut batch, mut result) = rx.await.map_err(|_| closed())?;
        if quick && matches!(result, Err(AppendError::Busy { .. })) {
            let again = self.submit_waiting(batch).await.ok_or_else(closed)?;
            (batch, result) = again;
        }
        inner.events.note(&batch.origin.source_id, started, &batch, &result);
        let answer = answer(&batch, &decoded, result.as_ref());
        inner.pool.give_batch(batch);
        drop(room);
        answer
    }

    /// Submits a batch from a thread that may wait for room.
    async fn submit_waiting(&self, batch: Batch) -> Option<(Batch, Result<Appended, AppendError>)> {
        let append = Arc::clone(&self.0.parts.append);
        tokio::task::spawn_blocking(move || append.append(batch)).await.ok()
    }

    fn decode(
        &self,
        version: Version,
        buffers: &mut Buffers,
        batch: &mut Batch,
        recall: &mut dyn Recall,
    ) -> Result<DecodeStats, Refused> {
        let limits = self.limits();
        let Buffers { body, inflated } = buffers;
        let block = snappy::decode_block_into(body, limits.inflated_bytes_max, inflated);
        self.stats().count_bytes(body.len(), block.as_ref().map_or(0, |bytes| bytes.len()));
        let bytes = block.map_err(|error| match error {
            SnappyError::TooLarge { .. } => Refused::too_large(error.to_string()),
            SnappyError::Damaged(_) => Refused::new(StatusCode::BAD_REQUEST, error.to_string()),
        })?;
        let decoded = match version {
            Version::V1 => {
                batch.generation = recall.begin(&batch.origin);
                remote_write::decode_v1_recalling(bytes, batch, &limits.request, recall)
            }
            Version::V2 => remote_write::decode_v2(bytes, batch, &limits.request),
        };
        decoded.map_err(|error| match error.is_too_large() {
            true => Refused::too_large(error.to_string()),
            false => Refused::new(StatusCode::BAD_REQUEST, error.to_string()),
        })
    }

    fn answer(&self, batch: &Batch, stats: &DecodeStats, appended: &Appended) -> Response {
        let refused = appended.counts.refused_total();
        let response = match refused {
            0 => StatusCode::NO_CONTENT.into_response(),
            _ if appended.counts.refused[Refusal::SeriesLimit as usize] > 0 => {
                self.stats().count_refused_in_part();
                let text = self.refusal_text(batch, stats, appended);
                Refused::new(StatusCode::TOO_MANY_REQUESTS, text.trim_end())
                    .retry_after(RETRY_AFTER_FULL_S)
                    .into_response()
            }
            _ => {
                self.stats().count_refused_in_part();
                (StatusCode::BAD_REQUEST, self.refusal_text(batch, stats, appended)).into_response()
            }
        };
        // The exemplars of a series that the store refused went with it.
        let of_a_series = |e: &&BatchExemplar| batch.series.get(e.series.0 as usize).is_some_and(|s| s.id.is_some());
        let exemplars = batch.exemplars.iter().filter(of_a_series).count();
        with_written(response, Written { exemplars, ..stats.written(batch) })
    }

    /// Says how many samples were refused for which reasons, and which was the first.
    fn refusal_text(&self, batch: &Batch, stats: &DecodeStats, appended: &Appended) -> String {
        let counts = &appended.counts;
        let mut text =
            format!("{} of {} samples were refused, the others are stored", counts.refused_total(), counts.received);
        for (reason, count) in Refusal::ALL.iter().zip(counts.refused).filter(|(_, count)| *count > 0) {
            // Writing into a String cannot fail.
            let _ = write!(text, "; {}: {count}", reason.as_str());
        }
        if let Some(advice) = &batch.advice {
            let _ = write!(text, "; {advice}");
        }
        if let Some((what, index, series, ts_ms, reason)) = first_refused(batch) {
            let labels = self.labels_of(batch, series).to_string();
            let labels: String = labels.chars().take(500).collect();
            let _ = write!(text, "; the first is {what} {index} ({labels} at {ts_ms}): {}", reason.as_str());
        }
        if let Some(series) = &stats.first_refused {
            let _ = write!(text, "; series {}: {}", series.index, series.text);
        }
        if let Some(histogram) = &stats.first_refused_histogram {
            let (series, ts_ms, reason) = (histogram.series, histogram.ts_ms, &histogram.text);
            let _ = write!(text, "; histogram of series {series} at {ts_ms}: {reason}");
        }
        text.push('\n');
        text
    }

    /// Gives the labels of a series, also of one that was recalled.
    fn labels_of(&self, batch: &Batch, series: SeriesIndex) -> Labels {
        let known = || self.0.parts.append.labels_of(batch.series.get(series.0 as usize)?.id);
        batch.labels(series).or_else(known).unwrap_or_default()
    }
}

/// Answers that nothing is stored.
pub(crate) fn nothing_written(refused: Refused) -> Response {
    with_written(refused.into_response(), Written::default())
}

/// Says how much of a request is stored: senders of 2.0 count on it.
fn with_written(mut response: Response, written: Written) -> Response {
    let counts = [
        ("x-prometheus-remote-write-samples-written", written.samples),
        ("x-prometheus-remote-write-histograms-written", written.histograms),
        ("x-prometheus-remote-write-exemplars-written", written.exemplars),
    ];
    for (name, count) in counts {
        response.headers_mut().insert(name, HeaderValue::from(count as u64));
    }
    response
}

/// Large bodies get room in few and large steps: while they are copied both copies are in memory, what is only set aside is
/// not.
fn make_room(bytes: &mut Vec<u8>, more: usize, max: usize) {
    let wanted = bytes.len() + more;
    if wanted > bytes.capacity() {
        bytes.reserve_exact(wanted.max(bytes.capacity().saturating_mul(16).min(max)) - bytes.len());
    }
}

fn pieces(bytes: usize) -> usize {
    bytes.div_ceil(PIECE_BYTES)
}

fn body_too_large(max: usize) -> Refused {
    Refused::too_large(format!("the body is larger than {max} bytes"))
}

pub(crate) fn refused_by_store(error: &AppendError) -> Refused {
    let (status, retry_after_s) = match error {
        AppendError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, None),
        AppendError::NoSpace(_) => (StatusCode::INSUFFICIENT_STORAGE, Some(RETRY_AFTER_NO_SPACE_S)),
        AppendError::Busy { retry_after_ms } => {
            (StatusCode::SERVICE_UNAVAILABLE, Some(retry_after_ms.div_ceil(1_000).max(1)))
        }
        AppendError::StaleIds | AppendError::Closed => (StatusCode::SERVICE_UNAVAILABLE, Some(RETRY_AFTER_S)),
        AppendError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, None),
    };
    Refused { status, retry_after_s, text: error.to_string() }
}

/// Finds the first refused sample, else the first refused histogram, with its place in the request.
fn first_refused(batch: &Batch) -> Option<(&'static str, usize, SeriesIndex, i64, Refusal)> {
    let reason = |verdict: Verdict| match verdict {
        Verdict::Refused(reason) => Some(reason),
        _ => None,
    };
    let samples = batch.samples.iter().zip(&batch.verdicts).enumerate();
    let mut samples = samples.map(|(i, (s, verdict))| ("sample", i, s.series, s.ts_ms, *verdict));
    let histograms = batch.histograms.iter().enumerate();
    let mut histograms = histograms.map(|(i, h)| ("histogram", i, h.series, h.ts_ms, h.verdict));
    let refused = |(what, i, series, ts_ms, verdict)| Some((what, i, series, ts_ms, reason(verdict)?));
    samples.find_map(refused).or_else(|| histograms.find_map(refused))
}
