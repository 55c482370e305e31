//! Stores what uploads hold, one upload at a time.
//!
//! Invariants: 1. batches are stored in order, each with its mark; 2. a batch that the log has is not stored again; 3. what the store
//! does not take now is tried again until the server stops.
//! Cost: at most [`SAMPLES_PER_SECOND_MAX`], so that old samples are on their way to blocks before many more come, and others have the
//! store, too.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use collect::report::{self, PushFacts};
use columns::ReadAt;
use model::{AppendError, Batch, CollectionMethod, CollectionReport, Counts, Origin, StreamMark, TypeCounts};
use sys::File;
use tokio::sync::watch;

use crate::access::pass::judge_sources;
use crate::sql::program;

use super::clean::Cleaned;
use super::cleaner::{CleanError, Cleaner};
use super::folder::{MARK_PREFIX, UPLOAD_BYTES_MAX, Upload, Uploads};
use super::meta::{Meta, State};
use super::rows::{self, Failure, Rows, Sink};

const SAMPLES_PER_SECOND_MAX: f64 = 400_000.0;
/// Pause before a batch is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// What is known of an upload is written after so many batches.
const SAVE_EVERY: u64 = 50;
/// How often uploads of yesterday are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);
/// A compressed file may inflate to so much.
const INFLATED_BYTES_MAX: u64 = 16 * UPLOAD_BYTES_MAX;

/// The file of an upload's bytes.
#[derive(Clone)]
pub struct BodyFile {
    file: Arc<dyn File>,
    len: u64,
    /// The place up to which it was read.
    reached: Arc<AtomicU64>,
}

struct Reader {
    body: BodyFile,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.body.file.read_at(buf, self.at)?;
        self.at += read as u64;
        self.body.reached.store(self.at, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads so much and no more; what goes beyond is an error, for an end would pass for that of the file.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        let too_much =
            || io::Error::new(io::ErrorKind::InvalidData, format!("more than {INFLATED_BYTES_MAX} bytes come of it"));
        self.left = self.left.checked_sub(read as u64).ok_or_else(too_much)?;
        Ok(read)
    }
}

impl BodyFile {
    /// Reads from the beginning.
    pub fn read(self, gzip: bool) -> Box<dyn Read + Send> {
        let reader = Reader { body: self, at: 0 };
        match gzip {
            false => Box::new(reader),
            true => {
                let inflating = flate2::bufread::MultiGzDecoder::new(io::BufReader::with_capacity(64 << 10, reader));
                Box::new(Bounded { inner: inflating, left: INFLATED_BYTES_MAX })
            }
        }
    }

    /// Reads anywhere.
    pub fn at_any_place(self) -> Arc<dyn ReadAt> {
        Arc::new(self)
    }
}

impl ReadAt for BodyFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, String> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.len);
        let end = end.ok_or_else(|| format!("{len} bytes at {offset} pass the end"))?;
        let mut bytes = vec![0; len];
        let mut at = 0;
        while at < len {
            match self.file.read_at(&mut bytes[at..], offset + at as u64) {
                Ok(0) => return Err("the file is shorter than it was".to_owned()),
                Ok(n) => at += n,
                Err(e) => return Err(e.to_string()),
            }
        }
        self.reached.fetch_max(end, Ordering::Relaxed);
        Ok(Bytes::from(bytes))
    }
}

/// How an upload ended.
enum End {
    Done,
    Failed(String),
    Cancelled,
    Stopped,
}

impl Uploads {
    /// Works until the server stops.
    pub async fn work(self, mut stop: watch::Receiver<bool>) {
        loop {
            while let Some(upload) = self.next_queued() {
                let (uploads, stopped) = (self.clone(), stop.clone());
                let done = tokio::task::spawn_blocking(move || uploads.process(&upload, &stopped)).await;
                if done.is_err() || *stop.borrow() {
                    break;
                }
            }
            let idle = tokio::select! {
                () = self.0.news.notified() => false,
                _ = tokio::time::sleep(PRUNE_EVERY) => true,
                _ = stop.wait_for(|stopped| *stopped) => return,
            };
            if idle {
                let (uploads, now_ms) = (self.clone(), (self.0.rest.now)());
                let _ = tokio::task::spawn_blocking(move || uploads.prune(now_ms)).await;
            }
        }
    }

    fn next_queued(&self) -> Option<Arc<Upload>> {
        let all = self.0.all.lock();
        let queued = all.values().filter(|u| u.meta.lock().state == State::Queued);
        queued.min_by_key(|u| u.meta.lock().created_ms).cloned()
    }

    /// Stores one upload. Blocks.
    fn process(&self, upload: &Upload, stop: &watch::Receiver<bool>) {
        upload.meta.lock().state = State::Processing;
        let end = self.store_all(upload, stop);
        let id = {
            let mut meta = upload.meta.lock();
            meta.state = match end {
                End::Done => State::Done,
                End::Failed(why) => {
                    meta.error = Some(why);
                    State::Failed
                }
                End::Cancelled => State::Cancelled,
                End::Stopped => State::Queued,
            };
            if meta.state.is_final() {
                meta.finished_ms = Some((self.0.rest.now)());
            }
            match meta.state {
                State::Done => &self.0.stats.done,
                _ => &self.0.stats.failed,
            }
            .fetch_add(u64::from(meta.state.is_final()), Ordering::Relaxed);
            meta.upload_id.clone()
        };
        if let Err(error) = self.save(upload) {
            // The body stays, so that a restart comes to the same end.
            tracing::error!("upload {id}: what became of it could not be written: {error}");
            return;
        }
        if upload.meta.lock().state.is_final() {
            self.0.recovered.lock().remove(&id);
            if let Err(error) = self.remove_body(&id) {
                tracing::warn!("upload {id}: its file stays: {error}");
            }
        }
    }

    fn store_all(&self, upload: &Upload, stop: &watch::Receiver<bool>) -> End {
        let meta = upload.meta.lock().clone();
        let (reached, file) = match self.body(&meta.upload_id).and_then(|file| Ok((file.len()?, file))) {
            Ok(found) => found,
            Err(error) => return End::Failed(format!("its file cannot be opened: {error}")),
        };
        let body = BodyFile { file: Arc::from(file), len: reached, reached: Arc::default() };
        let progress = body.reached.clone();
        let rows = if meta.clean.is_empty() { rows::reader(&meta, body) } else { self.cleaned(upload, &meta, body) };
        let mut rows = match rows {
            Ok(rows) => rows,
            Err(failure) => return End::Failed(text_of(failure)),
        };
        let started = Instant::now();
        let mut samples = 0u64;
        for seq in 1.. {
            if *stop.borrow() {
                return End::Stopped;
            }
            if upload.meta.lock().state == State::Cancelled {
                return End::Cancelled;
            }
            let (stored, more) = match self.store_one(upload, &mut *rows, seq, stop) {
                Ok(done) => done,
                Err(end) => return end,
            };
            samples += stored;
            upload.meta.lock().processed_bytes = progress.load(Ordering::Relaxed).min(reached);
            if seq % SAVE_EVERY == 0
                && let Err(error) = self.save(upload)
            {
                tracing::warn!("upload {}: {error}", meta.upload_id);
            }
            if !more {
                upload.meta.lock().processed_bytes = reached;
                return End::Done;
            }
            let due = Duration::from_secs_f64(samples as f64 / SAMPLES_PER_SECOND_MAX);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
        End::Done
    }

    /// Makes the reader of an upload that is cleaned up.
    fn cleaned(&self, upload: &Upload, meta: &Meta, body: BodyFile) -> Result<Box<dyn Rows>, Failure> {
        let program = program::find(self.0.analytics.as_deref()).map_err(Failure::Content)?;
        let cleaner = Cleaner::start(&program, &meta.clean).map_err(|error| {
            if matches!(error, CleanError::Gone(_)) {
                self.0.stats.cleaners_gone.fetch_add(1, Ordering::Relaxed);
            }
            Failure::Content(format!("clean-up: {error}"))
        })?;
        if meta.cleaned_by.as_deref().is_some_and(|before| before != cleaner.version()) {
            // Its batches would not be those that are stored already.
            let why = "another quiver-analytics is here than the one that began with this upload: send it again";
            return Err(Failure::Content(why.to_owned()));
        }
        upload.meta.lock().cleaned_by = Some(cleaner.version().to_owned());
        self.save(upload).map_err(Failure::Disk)?;
        Ok(Box::new(Cleaned::open(meta, body, cleaner)?))
    }

    /// Reads and stores one batch; gives its samples, and whether there are more. What was read before a failure is stored, too.
    fn store_one(
        &self,
        upload: &Upload,
        rows: &mut dyn Rows,
        seq: u64,
        stop: &watch::Receiver<bool>,
    ) -> Result<(u64, bool), End> {
        let (id, source_id, created_ms, counted, bound) = {
            let meta = upload.meta.lock();
            (meta.upload_id.clone(), meta.source_id.clone(), meta.created_ms, meta.seq, meta.bound)
        };
        let origin = Origin {
            target_id: source_id.clone(),
            source_id: source_id.clone(),
            method: CollectionMethod::BatchUpload,
            received_at_ms: (self.0.rest.now)(),
        };
        let (mut batch, mut points) = (Batch::new(origin), TypeCounts::default());
        let (mut bad, mut left_out) = (Vec::new(), BTreeMap::new());
        let mut sink = Sink {
            batch: &mut batch,
            points: &mut points,
            bad: &mut bad,
            left_out: &mut left_out,
            source_id: &source_id,
            now_ms: created_ms,
        };
        let filled = rows.fill(&mut sink);
        if bound {
            judge_sources(&batch, std::slice::from_ref(&source_id)).map_err(End::Failed)?;
        }
        let samples = (batch.samples.len() + batch.histograms.len()) as u64;
        let known = self.0.recovered.lock().get(&id).and_then(|batches| batches.get(&seq).copied());
        if seq > counted {
            let (counts, new_series) = match known {
                Some(counts) => (counts, 0),
                None if samples == 0 => (Counts::default(), 0),
                None => self.append(&id, batch, points, seq, stop)?,
            };
            let mut meta = upload.meta.lock();
            self.0.stats.bad_rows.fetch_add(bad.len() as u64, Ordering::Relaxed);
            self.0.stats.left_out.fetch_add(left_out.values().sum(), Ordering::Relaxed);
            bad.into_iter().for_each(|(line, detail)| meta.bad(line, detail));
            left_out.into_iter().for_each(|(step, n)| *meta.left_out.entry(step).or_default() += n);
            meta.count(seq, &counts, new_series);
        }
        match filled {
            Ok(more) => Ok((samples, more)),
            Err(failure) => Err(End::Failed(text_of(failure))),
        }
    }

    fn append(
        &self,
        id: &str,
        mut batch: Batch,
        summary: TypeCounts,
        seq: u64,
        stop: &watch::Receiver<bool>,
    ) -> Result<(Counts, u64), End> {
        let rest = &self.0.rest;
        let samples_count = (batch.samples.len() + batch.histograms.len()) as u64;
        let facts = PushFacts { origin: batch.origin.clone(), duration_ms: 0, summary, samples_count, error: None };
        let report = report::for_push(&rest.batch_ids, facts);
        batch.report = Some(report.clone());
        batch.mark = Some(StreamMark { stream_id: format!("{MARK_PREFIX}{id}"), seq });
        loop {
            let (again, result) = rest.append.append(batch);
            match result {
                Ok(appended) => {
                    rest.observer.pushed(CollectionReport { counts: appended.counts, ..report });
                    return Ok((appended.counts, appended.new_series));
                }
                Err(error @ AppendError::TooLarge { .. }) => return Err(End::Failed(error.to_string())),
                Err(error) => {
                    tracing::warn!("upload {id}: {error}; it is tried again");
                    batch = again;
                    std::thread::sleep(RETRY);
                    if *stop.borrow() {
                        return Err(End::Stopped);
                    }
                }
            }
        }
    }
}

fn text_of(failure: Failure) -> String {
    match failure {
        Failure::Content(text) => text,
        Failure::Disk(error) => format!("its file cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_inflates_too_far_does_not_end_quietly() {
        let read = |left| {
            let mut out = Vec::new();
            Bounded { inner: &b"12345"[..], left }.read_to_end(&mut out).map(|_| out)
        };
        assert_eq!(read(5).unwrap(), b"12345");
        assert_eq!(read(4).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
