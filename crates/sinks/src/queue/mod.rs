//! What is stored and has not gone to every sink yet: one queue on disk for all of them.
//!
//! The store shows each record after it is in the head ([`model::Follow`]). Its stored rows are encoded on the apply
//! thread into a buffer; a thread of the queue's own writes them to segments. Nothing is synced for the sake of a record:
//! the store's log has it, and the store cuts its log, or puts a checkpoint in its place, only after [`Follow::secure`].
//! Invariants: 1. an acknowledged record is in the store's log, or durable here; a start shows what is only in the log;
//! 2. entries stand in order of the ledger, each once; 3. a segment of an earlier start is never appended to; 4. a segment
//! goes when every sink has passed it, or when the queue is too large: then what a sink loses is counted and said.
//! Limits: [`QueueSettings`]; a full buffer slows the store, which slows the senders.
//! Fails how: a write that fails is tried again each second; meanwhile the buffer fills, and the store keeps its log. After a
//! sync that failed nobody knows what is on disk: nothing counts as secured any more until the next start, so that the store
//! keeps its log, which has it all.

mod arrivals;
pub mod entry;
mod places;
mod reader;
pub mod segment;
mod writer;

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::{Follow, Followed};
use parking_lot::{Condvar, Mutex};
use sys::Fs;
use tokio::sync::watch;

use arrivals::Arrivals;
use entry::Defined;
pub use places::Place;
use places::Places;
pub use reader::{HistogramRow, Reader, Row, Window, WindowSeries};
use segment::{FRAME_BYTES, Frame, HEADER_BYTES};

/// The beginning of a segment, in which the first entry's origin is.
const FIRST_BYTES: usize = 4 << 10;
/// A sync has failed in an earlier life.
const UNSYNCED: &str = "unsynced";
/// How long [`Follow::secure`] waits for the disk.
const SECURE_WAIT: Duration = Duration::from_secs(30);

/// What the queue may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueSettings {
    /// A segment that has grown to this is followed by a new one.
    pub segment_bytes_max: u64,
    /// The oldest segments go when all take more than this.
    pub bytes_max: u64,
    /// What may wait in memory for the disk.
    pub buffer_bytes_max: usize,
}

impl Default for QueueSettings {
    fn default() -> QueueSettings {
        QueueSettings { segment_bytes_max: 64 << 20, bytes_max: 16 << 30, buffer_bytes_max: 64 << 20 }
    }
}

/// A segment on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    /// Its entries come behind this place.
    after: u64,
    /// Bytes that are written.
    bytes: u64,
    /// It comes behind bytes whose sync has failed.
    loose: bool,
}

impl Segment {
    fn file_name(&self) -> String {
        segment::file_name(self.after, self.loose)
    }
}

/// Bytes that wait to be written to a segment.
struct Piece {
    after: u64,
    nonce: u64,
    bytes: Vec<u8>,
}

struct State {
    /// The last record that was taken.
    taken: u64,
    written: u64,
    synced: u64,
    /// The segment that entries go to, its nonce, and the bytes it has got; `None` before the first entry.
    open: Option<(u64, u64, u64)>,
    defined: Defined,
    waiting: VecDeque<Piece>,
    waiting_bytes: usize,
    sync_wanted: u64,
    segments: Vec<Segment>,
    trouble: Option<String>,
    /// A sync has failed: nothing is secured any more.
    broken: bool,
    arrivals: Arrivals,
    /// The store is being closed: nobody is made to wait any more.
    hurried: bool,
    closed: bool,
}

/// The queue. Dropping it ends its thread; [`Queue::close`] waits for it.
pub struct Queue {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

pub(crate) struct Shared {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    settings: QueueSettings,
    active: AtomicBool,
    state: Mutex<State>,
    /// Something waits to be written.
    came: Condvar,
    /// Something was written or synced.
    done: Condvar,
    /// The last record that readers can have.
    readable: watch::Sender<u64>,
    places: Mutex<Places>,
    figures: Figures,
    id: Mutex<String>,
}

#[derive(Default)]
struct Figures {
    rows: AtomicU64,
    entries_damaged: AtomicU64,
}

impl Queue {
    /// Makes a queue in a folder; nothing is read or written before the store opens it.
    pub fn new(fs: Arc<dyn Fs>, dir: &Path, settings: QueueSettings) -> Arc<Queue> {
        let state = State {
            taken: 0,
            written: 0,
            synced: 0,
            open: None,
            defined: Defined::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sync_wanted: 0,
            segments: Vec::new(),
            trouble: None,
            broken: false,
            arrivals: Arrivals::default(),
            hurried: false,
            closed: false,
        };
        let shared = Shared {
            fs,
            dir: dir.to_path_buf(),
            settings,
            active: AtomicBool::new(false),
            state: Mutex::new(state),
            came: Condvar::new(),
            done: Condvar::new(),
            readable: watch::Sender::new(0),
            places: Mutex::default(),
            figures: Figures::default(),
            id: Mutex::default(),
        };
        Arc::new(Queue { shared: Arc::new(shared), writer: Mutex::default() })
    }

    /// Says whether there is a sink. Without one the store's records pass by, and what an earlier run left goes.
    pub fn activate(&self, active: bool) {
        self.shared.active.store(active, Ordering::SeqCst);
        if active && self.writer.lock().is_none() {
            let shared = self.shared.clone();
            match std::thread::Builder::new().name("sinks-queue".into()).spawn(move || writer::run(&shared)) {
                Ok(thread) => *self.writer.lock() = Some(thread),
                Err(error) => tracing::error!(%error, "the queue of the sinks has no thread: its buffer will fill"),
            }
        }
    }

    /// Gives a sink its place: where it was, or the end for one that is new. Places of others than `names` go.
    ///
    /// **Errors** when the folder cannot be read or written.
    pub fn places(&self, names: &[String]) -> io::Result<Vec<Arc<Place>>> {
        let shared = &self.shared;
        shared.prepare()?;
        let end = shared.state.lock().taken;
        let places = shared.places.lock().choose(&*shared.fs, &shared.dir, names, end)?;
        shared.release();
        Ok(places)
    }

    /// Starts to read behind a place.
    pub fn reader(&self, place: &Arc<Place>) -> Reader {
        Reader::new(self.shared.clone(), place.clone())
    }

    /// Lets go of segments that every sink has passed.
    pub fn release(&self) {
        self.shared.release();
    }

    /// Gives the last record taken.
    pub fn end(&self) -> u64 {
        self.shared.state.lock().taken
    }

    /// Tells when the first record behind a place came in, about; `None` when there is none.
    pub fn waits_since_ms(&self, place: &Place) -> Option<i64> {
        let (state, seq) = (self.shared.state.lock(), place.seq());
        if seq < state.taken { state.arrivals.behind(seq) } else { None }
    }

    /// Gives the name of this queue's ledger: places in it mean nothing in another.
    pub fn id(&self) -> String {
        self.shared.id.lock().clone()
    }

    /// Gives bytes on disk, bytes that wait in memory, and why writing does not go on, if so.
    pub fn load(&self) -> (u64, u64, Option<String>) {
        let state = self.shared.state.lock();
        (state.segments.iter().map(|s| s.bytes).sum(), state.waiting_bytes as u64, state.trouble.clone())
    }

    /// Gives rows taken, and entries that were damaged on disk.
    pub fn counts(&self) -> (u64, u64) {
        let figures = &self.shared.figures;
        (figures.rows.load(Ordering::Relaxed), figures.entries_damaged.load(Ordering::Relaxed))
    }

    /// Says that the store is about to be closed: it does not wait for a full buffer any more.
    pub fn hurry(&self) {
        self.shared.state.lock().hurried = true;
        self.shared.done.notify_all();
    }

    /// Writes and syncs what waits, and ends the thread. A second call does nothing.
    pub fn close(&self) {
        {
            let mut state = self.shared.state.lock();
            (state.hurried, state.closed) = (true, true);
        }
        self.shared.came.notify_all();
        self.shared.done.notify_all();
        if self.writer.lock().take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the sinks' queue panicked; the store's log has what it had not written");
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    /// Somebody waits for what is not on disk yet.
    fn sync_is_due(&self) -> bool {
        !self.broken && self.sync_wanted > self.synced && self.taken > self.synced
    }
}

impl Shared {
    /// Makes the folder, and the queue's name.
    fn prepare(&self) -> io::Result<()> {
        let mut id = self.id.lock();
        if !id.is_empty() {
            return Ok(());
        }
        self.fs.create_dir_all(&self.dir)?;
        if let Some(above) = self.dir.parent() {
            self.fs.sync_dir(above)?;
        }
        let path = self.dir.join("id");
        if self.fs.exists(&path) {
            *id = String::from_utf8_lossy(&self.fs.read(&path)?).trim().to_owned();
        }
        if id.is_empty() {
            let name = format!("{:016x}", RandomState::new().build_hasher().finish());
            let file = self.fs.create(&path)?;
            file.append(name.as_bytes())?;
            file.sync_data()?;
            self.fs.sync_dir(&self.dir)?;
            *id = name;
        }
        Ok(())
    }

    /// Finds the segments; gives the last entry. The torn end of the newest is cut off by never being read.
    fn load(&self, secured: u64) -> io::Result<u64> {
        self.prepare()?;
        let names = self.fs.list(&self.dir)?;
        let mut found: Vec<u64> = names.iter().filter_map(|n| segment::parse_file_name(n)).collect();
        found.sort_unstable();
        // The store's log has what they hold.
        let loose: Vec<&String> = names.iter().filter(|name| segment::is_loose(name)).collect();
        let unsynced = names.iter().any(|name| name == UNSYNCED) || !loose.is_empty();
        for name in loose {
            self.fs.remove_file(&self.dir.join(name))?;
        }
        let mut segments = Vec::new();
        let mut arrivals = Arrivals::default();
        let mut last = 0;
        for (i, after) in found.iter().enumerate() {
            let path = self.dir.join(segment::file_name(*after, false));
            if let Some((seq, at_ms)) = self.first_arrival(&path)? {
                arrivals.note(seq, at_ms);
            }
            if i + 1 < found.len() {
                segments.push(Segment { after: *after, bytes: self.fs.open(&path)?.len()?, loose: false });
                continue;
            }
            let bytes = self.fs.read(&path)?;
            let walked = segment::prefix(&bytes, secured);
            // A header that a crash tore is in front of nothing that was secured.
            if walked.is_none() && secured > *after {
                self.figures.entries_damaged.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    path = %path.display(),
                    "a segment of the sinks' queue has a damaged header; samples in it are lost to the sinks"
                );
            }
            let walked = walked.unwrap_or_default();
            let behind = segment::walk(&bytes, walked.last_seq.unwrap_or(*after)).map_or(0, |w| w.rows_after);
            if behind > 0 {
                tracing::warn!(
                    samples = behind,
                    "the sinks' queue has a hole; what lies behind it comes again from the store's log"
                );
            }
            last = walked.last_seq.unwrap_or(*after);
            match walked.last_seq {
                Some(_) => segments.push(Segment { after: *after, bytes: walked.end as u64, loose: false }),
                None => self.fs.remove_file(&path)?,
            }
            // What the last life wrote may not be durable yet, and the store is about to hear that it is here.
            if walked.last_seq.is_some() {
                match unsynced {
                    false => self.fs.open(&path)?.sync_data()?,
                    true => self.write_anew(&path, bytes.get(..walked.end).unwrap_or_default())?,
                }
            }
        }
        // Records up to there that have no rows are nowhere.
        last = last.max(secured);
        self.fs.sync_dir(&self.dir)?;
        if names.iter().any(|name| name == UNSYNCED) {
            self.fs.remove_file(&self.dir.join(UNSYNCED))?;
        }
        let mut state = self.state.lock();
        (state.segments, state.arrivals) = (segments, arrivals);
        (state.taken, state.written, state.synced) = (last, last, last);
        self.readable.send_replace(last);
        Ok(last)
    }

    /// Puts other bytes in a file's place, on disk for sure: what a failed sync left counts as clean, and another sync of the
    /// same file would write nothing.
    fn write_anew(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let fresh = path.with_extension("new");
        let file = self.fs.create(&fresh)?;
        file.append(bytes)?;
        file.sync_data()?;
        self.fs.rename(&fresh, path)
    }

    /// Reads when the first record of a segment came in, if that can be told.
    fn first_arrival(&self, path: &Path) -> io::Result<Option<(u64, i64)>> {
        let mut bytes = [0; FIRST_BYTES];
        let read = self.fs.open(path)?.read_at(&mut bytes, 0)?;
        let bytes = bytes.get(..read).unwrap_or_default();
        let frame = segment::nonce_of(bytes).and_then(|nonce| Frame::decode(bytes.get(HEADER_BYTES..)?, nonce));
        let payload = bytes.get(HEADER_BYTES + FRAME_BYTES..).unwrap_or_default();
        Ok(frame.and_then(|frame| Some((frame.seq, entry::received_at_ms(payload)?))))
    }

    fn remove_all(&self) -> io::Result<()> {
        if self.fs.exists(&self.dir) {
            self.fs.remove_dir_all(&self.dir)?;
        }
        Ok(())
    }

    /// Removes the segments that all places have passed, and the oldest ones of a queue that is too large.
    fn release(&self) {
        let places = self.places.lock();
        if let Some(passed) = places.passed_by_all() {
            self.state.lock().arrivals.forget(passed);
        }
        loop {
            let (oldest, next, total) = {
                let state = self.state.lock();
                let [oldest, next, ..] = state.segments.as_slice() else { return };
                (*oldest, next.after, state.segments.iter().map(|s| s.bytes).sum::<u64>())
            };
            let passed = places.have_passed(next);
            if !places.are_known() || (!passed && total <= self.settings.bytes_max) {
                return;
            }
            let path = self.dir.join(oldest.file_name());
            if !passed {
                self.give_up(&places, &path, next);
            }
            if let Err(error) = self.fs.remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, path = %path.display(), "a segment of the sinks' queue could not be removed");
                return;
            }
            self.state.lock().segments.retain(|s| s.after != oldest.after);
        }
    }

    /// Counts what the places that have not passed a segment lose with it, and moves them behind it.
    fn give_up(&self, places: &Places, path: &Path, next: u64) {
        let bytes = self.fs.read(path).unwrap_or_default();
        for place in places.behind(next) {
            let rows = segment::walk(&bytes, place.seq()).map_or(0, |walked| walked.rows_after);
            tracing::error!(
                sink = place.name(),
                samples = rows,
                "the queue of the sinks is full: samples that this sink has not taken are lost to it; the store has them"
            );
            place.lose(rows, next);
        }
    }

    fn put(&self, record: &Followed<'_>) {
        let mut state = self.state.lock();
        if record.seq <= state.taken {
            return;
        }
        // One that is larger than the buffer gets in when it is alone.
        while state.waiting_bytes > self.settings.buffer_bytes_max
            && !state.hurried
            && self.active.load(Ordering::Relaxed)
        {
            self.done.wait_for(&mut state, Duration::from_secs(1));
        }
        let rows = entry::rows_of(record);
        if rows + record.exemplars.len() > 0 {
            let state = &mut *state;
            let (after, nonce, bytes) = self.target(state);
            let mut framed = vec![0; FRAME_BYTES];
            entry::encode(record, &mut state.defined, &mut framed);
            let Some(frame) = Frame::of(&framed[FRAME_BYTES..], record.seq, rows) else {
                tracing::error!(seq = record.seq, "a record of 4 GiB cannot go to the sinks");
                state.taken = record.seq;
                return;
            };
            framed[..FRAME_BYTES].copy_from_slice(&frame.encode(nonce));
            state.open = Some((after, nonce, bytes + framed.len() as u64));
            state.arrivals.note(record.seq, record.origin.received_at_ms);
            state.waiting_bytes += framed.len();
            match state.waiting.back_mut() {
                Some(piece) if piece.after == after => piece.bytes.extend_from_slice(&framed),
                _ => state.waiting.push_back(Piece { after, nonce, bytes: framed }),
            }
            self.figures.rows.fetch_add(rows as u64, Ordering::Relaxed);
        }
        state.taken = record.seq;
        drop(state);
        self.came.notify_one();
    }

    /// Gives the segment that the next entry goes to: the open one, or a new one behind what was taken.
    fn target(&self, state: &mut State) -> (u64, u64, u64) {
        if let Some(open) = state.open.filter(|open| open.2 < self.settings.segment_bytes_max) {
            return open;
        }
        state.defined.clear();
        (state.taken, RandomState::new().build_hasher().finish(), HEADER_BYTES as u64)
    }
}

impl Follow for Queue {
    fn wants(&self) -> bool {
        self.shared.active.load(Ordering::Relaxed)
    }

    fn open(&self, secured: u64) -> io::Result<u64> {
        if self.wants() { self.shared.load(secured) } else { self.shared.remove_all().map(|()| 0) }
    }

    fn passed(&self, seq: u64) {
        let mut state = self.shared.state.lock();
        if state.taken < seq {
            // Records of a time without sinks. What is still on its way to the disk comes in front.
            let all_synced = state.synced == state.taken;
            state.taken = seq;
            if all_synced {
                (state.written, state.synced) = (seq, seq);
                self.shared.readable.send_replace(seq);
            }
        }
        drop(state);
        self.shared.came.notify_one();
    }

    fn record(&self, record: &Followed<'_>) {
        self.shared.put(record);
    }

    fn secure(&self, seq: u64) -> Result<(), String> {
        let deadline = Instant::now() + SECURE_WAIT;
        let mut state = self.shared.state.lock();
        state.sync_wanted = state.sync_wanted.max(seq);
        self.shared.came.notify_one();
        while state.synced < seq {
            if !self.wants() {
                return Ok(());
            }
            if state.broken {
                return Err("the queue of the sinks could not be synced; what it has is not relied on".to_owned());
            }
            if self.shared.done.wait_until(&mut state, deadline).timed_out() {
                let why = state.trouble.clone().unwrap_or_else(|| "the disk is too slow".to_owned());
                return Err(format!("the queue of the sinks is not on disk: {why}"));
            }
        }
        Ok(())
    }
}
