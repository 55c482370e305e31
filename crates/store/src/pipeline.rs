//! From the submitters' records to the disk and on into the head.
//!
//! Owns: the queue, the commit thread (one write and one fdatasync for all that waits) and the apply thread.
//! Invariants: 1. `done` is called exactly once for each item, whatever happens; 2. `Ok` comes after the fdatasync and
//! after the head has it; 3. records reach the head in the order of the log; 4. after a failed sync nothing is
//! acknowledged any more.
//! Limits: `queue_bytes_max` over both threads.
//! Fails how: no space: the waiting items get `NoSpace`, later ones are tried again; anything else: `Failed` for ever.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use model::{AppendDone, AppendError, Appended, Batch};
use parking_lot::{Condvar, Mutex};

use crate::core::Core;
use crate::wal::frame::{FRAME_BYTES, Frame};
use crate::wal::record::Definition;
use crate::wal::segment::{SegmentInfo, SegmentWriter, WriteError};

/// Groups between the threads: one being applied, one ready.
const GROUPS_MAX: usize = 2;
/// When so much is on its way, nobody waits for company.
const PATIENCE_BYTES_MAX: u64 = 1 << 20;
/// What one burst has grown the buffer to is not kept.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// A batch that waits. Dropped without an answer, it answers `Closed`.
pub struct Item {
    /// Room for the frame, then the payload.
    pub framed: Vec<u8>,
    pub frame: Frame,
    pub definitions: Vec<Definition>,
    pub max_ts_ms: i64,
    /// It may wait a little for company, see [`crate::StoreConfig::scrape_patience_ms`].
    pub patient: bool,
    pub waiting: Waiting,
}

/// The submitter's end of an item.
pub struct Waiting(Option<(Batch, AppendDone)>);

impl Waiting {
    pub fn new(batch: Batch, done: AppendDone) -> Waiting {
        Waiting(Some((batch, done)))
    }

    fn batch(&mut self) -> Option<&mut Batch> {
        self.0.as_mut().map(|w| &mut w.0)
    }

    pub fn answer(mut self, result: Result<Appended, AppendError>) {
        self.give(result);
    }

    fn give(&mut self, result: Result<Appended, AppendError>) {
        if let Some((mut batch, done)) = self.0.take() {
            if result.is_err() {
                batch.forget_ids();
            }
            // A panic in the giver's code must not end the store's thread.
            if catch_unwind(AssertUnwindSafe(|| done(batch, result))).is_err() {
                tracing::error!("an append's callback panicked");
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.give(Err(AppendError::Closed));
    }
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Bytes queued or being written or applied.
    bytes: u64,
    /// Until when the items may wait for company; `None` when one of them is in a hurry.
    patience_ends: Option<Instant>,
    closed: bool,
    failed: Option<String>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something came, or the queue was closed.
    came: Condvar,
    /// Something was done.
    room: Condvar,
    bytes_max: u64,
    patience: Duration,
    fsyncs: AtomicU64,
    roll: Mutex<bool>,
    segments: Mutex<Vec<SegmentInfo>>,
}

/// Both threads and what goes through them.
pub struct Pipeline {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Items with their seq, and the room in the queue that each gives back.
type Group = Vec<(Item, u64, u64)>;

impl Pipeline {
    /// Starts the threads. `segments` are those of earlier lives.
    pub fn start(
        core: Arc<Core>,
        writer: SegmentWriter,
        segments: Vec<SegmentInfo>,
        seq: u64,
    ) -> std::io::Result<Pipeline> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            came: Condvar::new(),
            room: Condvar::new(),
            bytes_max: core.config.queue_bytes_max,
            patience: Duration::from_millis(core.config.scrape_patience_ms),
            fsyncs: AtomicU64::new(0),
            roll: Mutex::new(false),
            segments: Mutex::new(segments),
        });
        let (to_apply, from_commit) = sync_channel(GROUPS_MAX);
        let committer = Committer { shared: shared.clone(), writer, seq, to_apply, buffer: Vec::new() };
        let applier = Applier { shared: shared.clone(), core, from_commit };
        let threads = vec![
            thread::Builder::new().name("store-commit".into()).spawn(move || committer.run())?,
            thread::Builder::new().name("store-apply".into()).spawn(move || applier.run())?,
        ];
        Ok(Pipeline { shared, threads: Mutex::new(threads) })
    }

    /// Tells why nothing is taken any more.
    pub fn refusal(&self) -> Option<AppendError> {
        self.shared.queue.lock().refusal()
    }

    /// Tells whether a write or sync of the log has failed.
    pub fn has_failed(&self) -> bool {
        self.shared.queue.lock().failed.is_some()
    }

    /// Queues an item, waiting for room; answers it itself when there is none.
    pub fn enqueue(&self, item: Item, wait: Duration) {
        let bytes = item.framed.len() as u64;
        let deadline = Instant::now() + wait;
        let mut queue = self.shared.queue.lock();
        // One that is larger than the queue gets in when it is alone.
        while queue.refusal().is_none() && queue.bytes > 0 && queue.bytes + bytes > self.shared.bytes_max {
            if self.shared.room.wait_until(&mut queue, deadline).timed_out() {
                drop(queue);
                return item.waiting.answer(Err(AppendError::Busy { retry_after_ms: 1000 }));
            }
        }
        if let Some(refusal) = queue.refusal() {
            drop(queue);
            return item.waiting.answer(Err(refusal));
        }
        queue.bytes += bytes;
        let first = queue.items.is_empty();
        let hurries = !item.patient || queue.bytes >= PATIENCE_BYTES_MAX;
        if first {
            queue.patience_ends = Some(Instant::now() + self.shared.patience);
        }
        if hurries {
            queue.patience_ends = None;
        }
        queue.items.push_back(item);
        // The commit thread sleeps on while patient items gather.
        if first || hurries {
            self.shared.came.notify_one();
        }
    }

    /// Waits until nothing is queued, being written or being applied; `false` when that takes too long.
    pub fn wait_until_idle(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let mut queue = self.shared.queue.lock();
        while queue.bytes > 0 {
            if self.shared.room.wait_until(&mut queue, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    /// Lets the next record begin a new segment.
    pub fn roll(&self) {
        *self.shared.roll.lock() = true;
    }

    /// Works on the list of segments, oldest first.
    pub fn with_segments<T>(&self, act: impl FnOnce(&mut Vec<SegmentInfo>) -> T) -> T {
        act(&mut self.shared.segments.lock())
    }

    /// Counts the fdatasync calls.
    pub fn fsyncs(&self) -> u64 {
        self.shared.fsyncs.load(Ordering::Relaxed)
    }

    /// Tells whether both threads run; not after closing.
    pub fn is_alive(&self) -> bool {
        let threads = self.threads.lock();
        !threads.is_empty() && threads.iter().all(|thread| !thread.is_finished())
    }

    /// Takes nothing more, finishes what waits, ends the threads. A second call does nothing.
    pub fn close(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.came.notify_all();
        self.shared.room.notify_all();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

impl Queue {
    fn refusal(&self) -> Option<AppendError> {
        match &self.failed {
            Some(text) => Some(AppendError::Failed(text.clone())),
            None => self.closed.then_some(AppendError::Closed),
        }
    }
}

impl Shared {
    fn release(&self, bytes: u64) {
        let mut queue = self.queue.lock();
        queue.bytes = queue.bytes.saturating_sub(bytes);
        drop(queue);
        self.room.notify_all();
    }

    fn fail(&self, text: &str) {
        let mut queue = self.queue.lock();
        queue.failed.get_or_insert_with(|| text.to_owned());
        drop(queue);
        self.room.notify_all();
    }
}

struct Committer {
    shared: Arc<Shared>,
    writer: SegmentWriter,
    seq: u64,
    to_apply: SyncSender<Group>,
    buffer: Vec<u8>,
}

impl Committer {
    fn run(mut self) {
        while let Some(items) = self.next_items() {
            let bytes: u64 = items.iter().map(|i| i.framed.len() as u64).sum();
            let refusal = self.shared.queue.lock().failed.clone().map(WriteError::Failed);
            match refusal.map_or_else(|| self.commit(&items), Err) {
                Ok(first) => {
                    let written = |(mut item, seq): (Item, u64)| {
                        let bytes = std::mem::take(&mut item.framed).len() as u64;
                        (item, seq, bytes)
                    };
                    let group = items.into_iter().zip(first..).map(written).collect();
                    if self.to_apply.send(group).is_err() {
                        self.shared.fail("the apply thread has ended");
                        self.shared.release(bytes);
                    }
                }
                Err(error) => self.refuse(items, bytes, error),
            }
        }
    }

    fn next_items(&self) -> Option<Vec<Item>> {
        let mut queue = self.shared.queue.lock();
        while queue.items.is_empty() {
            if queue.closed {
                return None;
            }
            self.shared.came.wait(&mut queue);
        }
        while let Some(end) = queue.patience_ends.filter(|_| !queue.closed) {
            if self.shared.came.wait_until(&mut queue, end).timed_out() {
                break;
            }
        }
        Some(queue.items.drain(..).collect())
    }

    /// Writes and syncs the items; gives the first one's seq.
    fn commit(&mut self, items: &[Item]) -> Result<u64, WriteError> {
        if std::mem::take(&mut *self.shared.roll.lock()) {
            self.writer.roll();
        }
        let (number, nonce) = self.writer.prepare()?;
        self.buffer.clear();
        let first = self.seq + 1;
        // A seq that was tried is never used again, for the disk may have kept it.
        self.seq += items.len() as u64;
        for (item, seq) in items.iter().zip(first..) {
            self.buffer.extend_from_slice(&Frame { seq, ..item.frame }.encode(nonce));
            self.buffer.extend_from_slice(item.framed.get(FRAME_BYTES..).unwrap_or_default());
        }
        let appended = self.writer.append(&self.buffer);
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        appended?;
        self.note(number, items);
        self.writer.sync()?;
        self.shared.fsyncs.fetch_add(1, Ordering::Relaxed);
        Ok(first)
    }

    fn note(&self, number: u64, items: &[Item]) {
        let mut segments = self.shared.segments.lock();
        if segments.last().is_none_or(|s| s.number != number) {
            segments.push(SegmentInfo { number, bytes: 0, last_seq: 0, max_ts_ms: i64::MIN });
        }
        if let Some(segment) = segments.last_mut() {
            segment.bytes = self.writer.len();
            segment.last_seq = self.seq;
            segment.max_ts_ms = items.iter().map(|i| i.max_ts_ms).fold(segment.max_ts_ms, i64::max);
        }
    }

    fn refuse(&self, items: Vec<Item>, bytes: u64, error: WriteError) {
        let answer = match error {
            WriteError::NoSpace(text) => AppendError::NoSpace(text),
            WriteError::Later(text) => {
                tracing::warn!("the write-ahead log: {text}; senders are told to try again");
                AppendError::Busy { retry_after_ms: 1000 }
            }
            WriteError::Failed(text) => {
                tracing::error!("the write-ahead log failed and takes nothing more: {text}");
                self.shared.fail(&text);
                AppendError::Failed(text)
            }
        };
        self.shared.release(bytes);
        items.into_iter().for_each(|item| item.waiting.answer(Err(answer.clone())));
    }
}

struct Applier {
    shared: Arc<Shared>,
    core: Arc<Core>,
    from_commit: Receiver<Group>,
}

impl Applier {
    fn run(self) {
        for group in &self.from_commit {
            for (mut item, seq, bytes) in group {
                let result = match item.waiting.batch() {
                    Some(batch) => {
                        let applied = self.core.apply_batch(batch, &item.definitions, seq);
                        self.core.show_batch(batch, seq);
                        applied
                    }
                    None => Err(AppendError::Closed),
                };
                item.waiting.answer(result);
                self.shared.release(bytes);
            }
        }
    }
}
