//! One stream coming in: frames to batches, batches to answers.
//!
//! Invariants: 1. frames of a stream are stored in order, one batch under way at a time, so that the mark of a batch speaks for all
//! frames before it; 2. a frame is answered after its batch is fsynced; 3. what the store does not take ends the session with the
//! reason, and nothing behind it is stored; 4. who reads no answers is not read from either.
//! Limits: a group has [`GROUP_FRAMES_MAX`] frames and about [`GROUP_BYTES_MAX`] bytes.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use collect::report::{self, PushFacts};
use model::{Batch, CollectionMethod, CollectionReport, Origin, StreamMark, TypeCounts};
use serde_json::json;
use tokio::sync::mpsc;
use uuid::Uuid;
use wire::inflating::InflatingError;

use super::frame::{self, Ack, Frame, Part};
use super::http::Streams;
use super::lines::LineFault;
use super::positions::Hold;
use super::stats::{Fault, StreamStats};
use crate::access::{NotYours, Pass};
use crate::rest::custom::{IngestionResult, Ledger};
use crate::rest::problem::Problem;

/// Frames that share a batch.
const GROUP_FRAMES_MAX: usize = 256;
/// Bytes of the frames that share a batch; the last one may go beyond.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// How far frames without timestamps may run ahead of the clock.
const AHEAD_MS_MAX: i64 = 1_000;
/// Silence that ends a session.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// A reader of answers who takes none for so long is gone.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Where frames come from.
pub trait Source: Send {
    /// Waits for a frame; `None` at the end. Cancelling it loses nothing.
    fn next(&mut self) -> impl Future<Output = Option<Result<Bytes, LineFault>>> + Send;

    /// Gives a frame that is there already.
    fn ready(&mut self) -> Option<Bytes>;
}

impl Source for super::lines::Lines {
    fn next(&mut self) -> impl Future<Output = Option<Result<Bytes, LineFault>>> + Send {
        super::lines::Lines::next(self)
    }

    fn ready(&mut self) -> Option<Bytes> {
        super::lines::Lines::ready(self)
    }
}

/// One connection's session.
pub struct Session {
    pub streams: Streams,
    /// Who sends.
    pub pass: Option<Arc<Pass>>,
    pub hold: Hold,
    pub source_id: String,
    pub strict: bool,
    /// Takes answers, without line ends.
    pub answers: mpsc::Sender<String>,
    /// The time of the last frame; milliseconds since 1970.
    pub last_ms: AtomicI64,
}

/// How a session ends.
enum End {
    /// The sender has nothing more, or is gone.
    Quiet,
    /// With a last line that says why.
    Said(&'static str, Option<Problem>),
}

impl Session {
    /// Runs until the sender is through, or something ends it.
    pub async fn run(self, mut source: impl Source) {
        if let End::Said(why, problem) = self.all(&mut source).await {
            let mut line = json!({"closed": why});
            if let Some(problem) = problem {
                line["error"] = serde_json::to_value(&problem).unwrap_or_default();
            }
            self.say(line.to_string()).await;
        }
    }

    async fn say(&self, line: String) -> bool {
        matches!(tokio::time::timeout(ANSWER_MAX, self.answers.send(line)).await, Ok(Ok(())))
    }

    async fn all(&self, source: &mut impl Source) -> End {
        let parts = self.streams.parts();
        let (last, _) = parts.positions.last(self.hold.stream_id());
        let hello = json!({"stream_id": self.hold.stream_id(), "last_seq": last, "node": parts.rest.node});
        if !self.say(hello.to_string()).await {
            return End::Quiet;
        }
        let mut stop = parts.rest.stop.clone();
        loop {
            let first = tokio::select! {
                first = source.next() => first,
                _ = tokio::time::sleep(IDLE_MAX) => {
                    StreamStats::one(&self.streams.stats().idle);
                    return End::Said("idle", None);
                }
                _ = stop.wait_for(|stopped| *stopped) => return End::Said("stopping", None),
                () = self.answers.closed() => return End::Quiet,
            };
            let mut group = match first {
                None => return End::Quiet,
                Some(Err(fault)) => return self.fault_end(fault),
                Some(Ok(line)) => vec![line],
            };
            let mut bytes = group[0].len();
            while group.len() < GROUP_FRAMES_MAX && bytes < GROUP_BYTES_MAX {
                let Some(line) = source.ready() else { break };
                bytes += line.len();
                group.push(line);
            }
            let Some(turn) = self.hold.turn().await else { return End::Said("taken_over", None) };
            let stored = self.store(group).await;
            drop(turn);
            match stored {
                Ok(acks) => {
                    for ack in acks {
                        let line = serde_json::to_string(&ack).unwrap_or_default();
                        if !self.say(line).await {
                            return End::Quiet;
                        }
                    }
                }
                Err(problem) => {
                    StreamStats::one(&self.streams.stats().failed);
                    return End::Said("failed", Some(problem));
                }
            }
        }
    }

    fn fault_end(&self, fault: LineFault) -> End {
        let (fault, problem) = told(fault);
        self.streams.stats().fault(fault);
        problem.map_or(End::Quiet, |problem| End::Said("failed", Some(problem)))
    }

    /// Gives each frame of a group a time of its own: frames without timestamps that arrived while the batch before was under way
    /// must not meet in one millisecond. More than a thousand frames a second do.
    fn times(&self, frames: usize, received_at_ms: i64) -> Vec<i64> {
        let mut last = self.last_ms.load(Ordering::Relaxed);
        let times = (0..frames as i64).map(|i| {
            let even = received_at_ms - (frames as i64 - 1 - i);
            last = even.max(last.saturating_add(1)).min(received_at_ms + AHEAD_MS_MAX);
            last
        });
        let times = times.collect();
        self.last_ms.store(last, Ordering::Relaxed);
        times
    }

    /// Judges a batch by who sends; a rate slows him, for a stream has no other way to be told.
    async fn admit(&self, batch: &Batch) -> Result<(), Problem> {
        let Some(pass) = &self.pass else { return Ok(()) };
        loop {
            match pass.judge(batch) {
                Err(NotYours::TooMany(wait)) => {
                    let mut stop = self.streams.parts().rest.stop.clone();
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_secs_f64(wait.clamp(0.001, 60.0))) => {}
                        _ = stop.wait_for(|stopped| *stopped) => return Err(NotYours::TooMany(wait).into()),
                        () = self.answers.closed() => return Err(NotYours::TooMany(wait).into()),
                    }
                }
                judged => return judged.map_err(Problem::from),
            }
        }
    }

    /// Stores the frames of a group that are new, in one batch, and answers all of them.
    async fn store(&self, lines: Vec<Bytes>) -> Result<Vec<Ack>, Problem> {
        let started = Instant::now();
        let parts = self.streams.parts();
        let received_at_ms = (parts.rest.now)();
        let origin = Origin {
            target_id: self.source_id.clone(),
            source_id: self.source_id.clone(),
            method: CollectionMethod::Streaming,
            received_at_ms,
        };
        let (last, _) = parts.positions.last(self.hold.stream_id());
        let strict = self.strict;
        let times = self.times(lines.len(), received_at_ms);
        let reading = tokio::task::spawn_blocking(move || Group::read(&lines, origin, &times, last, strict));
        let broken =
            |_| Problem::new(http::StatusCode::INTERNAL_SERVER_ERROR, "internal", "the frames could not be read");
        let mut group = reading.await.map_err(broken)?;
        let stats = self.streams.stats();
        for entry in &group.entries {
            match entry {
                Entry::Repeated(_) => StreamStats::one(&stats.repeated),
                Entry::Bad(..) => StreamStats::one(&stats.bad),
                Entry::New(..) => {}
            }
        }
        if group.batch.samples.is_empty() {
            // Nothing of it needs to be durable: a repetition comes to the same.
            let common = blank_result(&Uuid::now_v7().to_string(), &parts.rest.node);
            return Ok(group.answers(&common, 0, &Batch::default()));
        }
        self.admit(&group.batch).await?;
        let mark = StreamMark { stream_id: self.hold.stream_id().to_owned(), seq: group.seq };
        let mut batch = std::mem::take(&mut group.batch);
        let report = report::for_push(
            &parts.rest.batch_ids,
            PushFacts {
                origin: batch.origin.clone(),
                duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                summary: group.points,
                samples_count: batch.samples.len() as u64,
                error: None,
            },
        );
        batch.report = Some(report.clone());
        batch.mark = Some(mark.clone());
        let (batch, appended) = parts.rest.submit(batch).await;
        let appended = match appended {
            Ok(appended) => appended,
            Err(error) => {
                let health = model::Health::Unhealthy;
                parts.rest.observer.pushed(CollectionReport { error: Some(error.to_string()), health, ..report });
                return Err(Problem::from(error));
            }
        };
        parts.positions.note(&mark, appended.counts, received_at_ms);
        parts.rest.observer.pushed(CollectionReport { counts: appended.counts, ..report.clone() });
        let common = IngestionResult {
            ledger: Ledger { node: parts.rest.node.clone(), epoch: appended.ledger.epoch, seq: appended.ledger.seq },
            processing_ms: (started.elapsed().as_secs_f64() * 1e6).round() / 1e3,
            ..blank_result(&Uuid::from_bytes(report.event_id).to_string(), &parts.rest.node)
        };
        let answers = group.answers(&common, appended.new_series, &batch);
        stats.frames.fetch_add(answers.iter().filter(|a| a.result.is_some()).count() as u64, Ordering::Relaxed);
        Ok(answers)
    }
}

/// An answer before anything is counted.
pub fn blank_result(request_id: &str, node: &str) -> IngestionResult {
    IngestionResult {
        request_id: request_id.to_owned(),
        status: "ACCEPTED".to_owned(),
        received: 0,
        accepted: 0,
        duplicates: 0,
        rejected: 0,
        filtered: 0,
        new_series: 0,
        rejections: Vec::new(),
        durability: "WAL_SYNCED".to_owned(),
        ledger: Ledger { node: node.to_owned(), epoch: 0, seq: 0 },
        processing_ms: 0.0,
    }
}

/// Says what a fault is called in figures, and what the sender is told.
fn told(fault: LineFault) -> (Fault, Option<Problem>) {
    use http::StatusCode;
    match fault {
        LineFault::Broken(_) => (Fault::Broken, None),
        LineFault::TooLong(max) => {
            let detail = format!("a frame is longer than {max} bytes");
            (Fault::TooLong, Some(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "frame_too_long", detail)))
        }
        LineFault::NoRoom => {
            let detail = "other streams have taken the memory there is for frames on their way";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after_ms(1_000);
            (Fault::NoRoom, Some(problem))
        }
        LineFault::Inflating(error) => {
            let (fault, status, code) = match error {
                InflatingError::Damaged(_) => (Fault::Damaged, StatusCode::BAD_REQUEST, "damaged_body"),
                InflatingError::CutShort => (Fault::CutShort, StatusCode::BAD_REQUEST, "incomplete_body"),
                InflatingError::Bomb => (Fault::Bomb, StatusCode::PAYLOAD_TOO_LARGE, "inflates_too_far"),
            };
            let detail = format!("{error}; frames up to the last one acknowledged are stored");
            (fault, Some(Problem::new(status, code, detail)))
        }
    }
}

enum Entry {
    New(u64, Part),
    Repeated(u64),
    Bad(u64, Problem),
}

/// Frames that share a batch.
struct Group {
    batch: Batch,
    points: TypeCounts,
    entries: Vec<Entry>,
    /// The last new frame.
    seq: u64,
}

impl Group {
    fn read(lines: &[Bytes], origin: Origin, times: &[i64], last: u64, strict: bool) -> Group {
        let batch = Batch::new(origin.clone());
        let mut group = Group { batch, points: TypeCounts::default(), entries: Vec::new(), seq: last };
        for (line, now_ms) in lines.iter().zip(times).filter(|(line, _)| !line.trim_ascii().is_empty()) {
            let frame = Frame::read(line, &origin, *now_ms, strict);
            let seq = frame.seq.unwrap_or(group.seq.saturating_add(1));
            group.entries.push(match frame.rows {
                _ if seq <= group.seq => Entry::Repeated(seq),
                Err(problem) => Entry::Bad(seq, problem),
                Ok(rows) => {
                    group.seq = seq;
                    Entry::New(seq, frame::join(&mut group.batch, &mut group.points, rows))
                }
            });
        }
        group
    }

    fn answers(self, common: &IngestionResult, new_series: u64, batch: &Batch) -> Vec<Ack> {
        let last = self.seq;
        let answer = |entry| match entry {
            Entry::Repeated(ack) => Ack { ack, repeated: true, result: None, error: None },
            Entry::Bad(ack, problem) => Ack { ack, repeated: false, result: None, error: Some(problem) },
            Entry::New(ack, part) => {
                let mut result = part.result(batch, common);
                // Series are counted for the whole batch: the last frame stands for all.
                result.new_series = if ack == last { new_series } else { 0 };
                Ack { ack, repeated: false, result: Some(result), error: None }
            }
        };
        self.entries.into_iter().map(answer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_decide_what_is_new() {
        let line = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let metric = r#""name":"a","metric_type":"GAUGE","value":1"#;
        let lines = [
            line(&format!("{{\"seq\":3,{metric}}}")),
            line(""),
            line(&format!("{{\"seq\":5,{metric}}}")),
            line("no json"),
            line(&format!("{{{metric}}}")),
            line(&format!("{{\"seq\":5,{metric}}}")),
            line("{\"seq\":9,\"metrics\":[]}"),
        ];
        let group = Group::read(&lines, Origin::default(), &[1; 7], 4, true);
        assert_eq!((group.seq, group.batch.samples.len()), (9, 2));
        let answers = group.answers(&blank_result("r", "n"), 2, &Batch::default());
        let shown: Vec<_> = answers.iter().map(|a| (a.ack, a.repeated, a.error.is_some())).collect();
        assert_eq!(
            shown,
            [
                (3, true, false),
                (5, false, false),
                (6, false, true),
                (6, false, false),
                (5, true, false),
                (9, false, false)
            ]
        );
        let json = serde_json::to_value(&answers[1]).unwrap();
        assert_eq!((&json["ack"], &json["durability"]), (&json!(5), &json!("WAL_SYNCED")));
        assert_eq!(serde_json::to_value(&answers[0]).unwrap(), json!({"ack": 3, "repeated": true}));
    }
}
