//! The log: appends events to segments, keeps them for a time, finds them again.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::CollectionReport;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::segment::{self, SegmentCursor, SegmentInfo, id_time_ms};
use crate::subscription::{SubscribeError, Subscription};
use crate::{Event, EventError, EventId};

/// Bytes of events that may wait for the disk; past it the publisher writes itself, and while the
/// disk refuses, the newest events are lost and counted (the store takes nothing either on such a disk).
pub const PENDING_BYTES_MAX: usize = 32 << 20;
/// Bytes of waiting events at which they are written without being asked.
const PENDING_BYTES_WRITE: usize = 256 << 10;
/// Events that a live subscriber may lag behind before it reads from disk.
const LIVE_EVENTS_MAX: usize = 4096;
/// Ids of the newest events, to recognise one that is published twice.
const RECENT_IDS_MAX: usize = 8192;

/// How much is kept.
#[derive(Clone, Debug)]
pub struct EventLogConfig {
    /// Events older than this go, a segment at a time.
    pub keep_ms: i64,
    /// The oldest segments go beyond this.
    pub bytes_max: u64,
    /// A segment is finished at this size.
    pub segment_bytes_max: u64,
}

impl Default for EventLogConfig {
    fn default() -> Self {
        EventLogConfig { keep_ms: 86_400_000, bytes_max: 2 << 30, segment_bytes_max: 16 << 20 }
    }
}

/// What can be said about the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventLogStats {
    /// Events published since the start, restored ones included.
    pub published: u64,
    /// Events left out because they were there already.
    pub duplicates: u64,
    /// Bytes in no sound frame, found at the start.
    pub damaged_bytes: u64,
    /// Events that found no room while the disk refused.
    pub lost: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Sequence number of the newest event; 0 when there is none.
    pub last_seq: u64,
}

/// The event log of one node. Cheap to clone.
#[derive(Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    dir: PathBuf,
    config: EventLogConfig,
    state: Mutex<State>,
    /// Held while writing to the file, so that publishing does not wait for the disk. Taken before `state`.
    writing: Mutex<Writer>,
    live: broadcast::Sender<Event>,
    published: AtomicU64,
    duplicates: AtomicU64,
    damaged_bytes: AtomicU64,
    lost: AtomicU64,
}

struct State {
    next_seq: u64,
    pending: Vec<Pending>,
    pending_bytes: usize,
    recent: HashSet<EventId>,
    recent_order: std::collections::VecDeque<EventId>,
    /// All segments by first sequence number; the last one is open for writing.
    segments: BTreeMap<u64, SegmentInfo>,
    /// Sequence number up to which the segments hold everything.
    written_seq: u64,
}

struct Pending {
    seq: u64,
    id: EventId,
    frame: Vec<u8>,
}

#[derive(Default)]
struct Writer {
    file: Option<(u64, File)>,
    poisoned: bool,
}

impl EventLog {
    /// Opens or creates the log in a directory.
    ///
    /// **Errors** when a file cannot be read or written. Damage inside files is no error, see
    /// [`EventLogStats::damaged_bytes`].
    pub fn open(dir: &Path) -> Result<EventLog, EventError> {
        EventLog::open_with(dir, EventLogConfig::default())
    }

    /// Opens or creates the log with limits of one's own.
    pub fn open_with(dir: &Path, config: EventLogConfig) -> Result<EventLog, EventError> {
        fs::create_dir_all(dir).map_err(|e| io_error(dir, e))?;
        let mut segments = BTreeMap::new();
        let mut damaged = 0;
        for (first_seq, path) in segment_files(dir)? {
            let (info, lost) = SegmentInfo::open(&path, first_seq).map_err(|e| io_error(&path, e))?;
            if lost > 0 {
                tracing::warn!(path = %path.display(), lost, "event log: bytes in no sound frame");
            }
            damaged += lost;
            segments.insert(first_seq, info);
        }
        let last_seq = segments.values().map(|s| s.last_seq).max().unwrap_or(0);
        let shared = Shared {
            dir: dir.to_owned(),
            config,
            state: Mutex::new(State {
                next_seq: last_seq + 1,
                pending: Vec::new(),
                pending_bytes: 0,
                recent: HashSet::new(),
                recent_order: std::collections::VecDeque::new(),
                segments,
                written_seq: last_seq,
            }),
            writing: Mutex::default(),
            live: broadcast::channel(LIVE_EVENTS_MAX).0,
            published: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            damaged_bytes: AtomicU64::new(damaged),
            lost: AtomicU64::new(0),
        };
        Ok(EventLog { shared: Arc::new(shared) })
    }

    /// Publishes the event of a finished collection; one with an id seen lately is left out.
    ///
    /// **Promises** readable by subscribers at once, on disk after [`EventLog::sync`].
    pub fn publish(&self, report: CollectionReport) {
        let write_now = self.shared.state.lock().append(&self.shared, Arc::new(report));
        if write_now && let Err(error) = self.shared.write() {
            tracing::warn!("{error}");
        }
    }

    /// Publishes those of the reports, found in the store's WAL at the start, that are not in the log yet.
    ///
    /// **Gives** how many were missing.
    pub fn restore(&self, reports: impl IntoIterator<Item = CollectionReport>) -> Result<u64, EventError> {
        let reports: Vec<CollectionReport> = reports.into_iter().collect();
        let Some(oldest_ms) = reports.iter().map(|r| id_time_ms(&r.event_id)).min() else {
            return Ok(0);
        };
        let mut known = self.shared.ids_since(oldest_ms)?;
        let mut restored = 0;
        for report in reports {
            if known.insert(report.event_id) {
                restored += 1;
                self.publish(report);
            } else {
                self.shared.duplicates.fetch_add(1, Ordering::Relaxed);
            }
        }
        // On a full disk they wait in memory; what they are made from is not cut away before they are written.
        if let Err(error) = self.shared.write() {
            tracing::warn!("{error}; it is tried again");
        }
        Ok(restored)
    }

    /// Writes what waits, without fsync; call it each second or so.
    pub fn write(&self) -> Result<(), EventError> {
        self.shared.write()
    }

    /// Writes and fsyncs all that was published; the store's WAL may be cut up to there afterwards.
    pub fn sync(&self) -> Result<(), EventError> {
        self.shared.write()?;
        self.shared.fsync()
    }

    /// Deletes finished segments that are too old or too many.
    pub fn retain(&self, now_ms: i64) -> Result<(), EventError> {
        let config = &self.shared.config;
        loop {
            let victim = {
                let mut state = self.shared.state.lock();
                let total: u64 = state.segments.values().map(|s| s.bytes).sum();
                let count = state.segments.len();
                let too_old = |s: &SegmentInfo| s.max_ms < now_ms.saturating_sub(config.keep_ms);
                let first = state.segments.first_key_value().filter(|_| count > 1);
                let victim = first.filter(|(_, s)| total > config.bytes_max || too_old(s)).map(|(k, _)| *k);
                victim.and_then(|k| state.segments.remove(&k))
            };
            match victim {
                None => return Ok(()),
                Some(segment) => fs::remove_file(&segment.path).map_err(|e| io_error(&segment.path, e))?,
            }
        }
    }

    /// Listens: from the event after `resume_after` on, or from now on.
    ///
    /// **Errors** with [`SubscribeError::Gone`] when that event is not in the log any more, or never was.
    pub fn subscribe(
        &self,
        source_id: Option<String>,
        resume_after: Option<EventId>,
    ) -> Result<Subscription, SubscribeError> {
        let live = self.shared.live.subscribe();
        let next_seq = match resume_after {
            None => self.shared.state.lock().next_seq,
            Some(id) => match self.shared.find(&id)? {
                Some(seq) => seq + 1,
                None => return Err(SubscribeError::Gone { oldest: self.shared.oldest_id()? }),
            },
        };
        Ok(Subscription::new(Arc::clone(&self.shared), live, source_id, next_seq))
    }

    /// Listens from a place in the log on, or from the oldest event when that place is not kept any more.
    ///
    /// **Takes** a place that this log knows: of an event that [`EventLog::sync`] has made durable, or the next one. One that
    /// lies beyond the log is of another log, and everything that is kept comes.
    /// **Gives** how many events were missed besides.
    pub fn subscribe_at(&self, seq: u64) -> Result<(Subscription, u64), EventError> {
        let live = self.shared.live.subscribe();
        self.shared.write()?;
        let state = self.shared.state.lock();
        let end = state.next_seq;
        let kept = state.segments.values().find(|s| s.last_seq >= s.first_seq).map_or(end, |s| s.first_seq);
        drop(state);
        let beyond = seq > end;
        let next_seq = if beyond { kept } else { seq.max(kept) };
        let missed = if beyond { 0 } else { next_seq - seq.min(next_seq) };
        Ok((Subscription::new(Arc::clone(&self.shared), live, None, next_seq), missed))
    }

    /// Says how the log is doing.
    pub fn stats(&self) -> EventLogStats {
        let state = self.shared.state.lock();
        EventLogStats {
            published: self.shared.published.load(Ordering::Relaxed),
            duplicates: self.shared.duplicates.load(Ordering::Relaxed),
            damaged_bytes: self.shared.damaged_bytes.load(Ordering::Relaxed),
            lost: self.shared.lost.load(Ordering::Relaxed),
            bytes: state.segments.values().map(|s| s.bytes).sum::<u64>() + state.pending_bytes as u64,
            last_seq: state.next_seq - 1,
        }
    }
}

impl State {
    /// Queues an event and tells the live ones; gives whether it is time to write.
    fn append(&mut self, shared: &Shared, report: Arc<CollectionReport>) -> bool {
        let id = report.event_id;
        if !self.recent.insert(id) {
            shared.duplicates.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.recent_order.push_back(id);
        if self.recent_order.len() > RECENT_IDS_MAX
            && let Some(old) = self.recent_order.pop_front()
        {
            self.recent.remove(&old);
        }
        if self.pending_bytes > PENDING_BYTES_MAX {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        let mut frame = Vec::with_capacity(320);
        self.pending_bytes += segment::put_frame(seq, &report, &mut frame) as usize;
        self.pending.push(Pending { seq, id, frame });
        shared.published.fetch_add(1, Ordering::Relaxed);
        // Sent under the lock: the order of the channel is the order of the sequence numbers. No receiver is no error.
        let _ = shared.live.send(Event { seq, report });
        self.pending_bytes >= PENDING_BYTES_WRITE
    }
}

impl Shared {
    /// Moves all waiting events into segments.
    pub(crate) fn write(&self) -> Result<(), EventError> {
        let mut writer = self.writing.lock();
        if writer.poisoned {
            return Err(EventError::Poisoned);
        }
        let taken = {
            let mut state = self.state.lock();
            std::mem::take(&mut state.pending)
        };
        let mut rest = taken.into_iter().peekable();
        while rest.peek().is_some() {
            let mut batch = Vec::new();
            if let Err(error) = self.write_some(&mut writer, &mut rest, &mut batch) {
                let mut state = self.state.lock();
                let newer = std::mem::take(&mut state.pending);
                state.pending = batch.into_iter().chain(rest).chain(newer).collect();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes as many events as fit into the open segment; on an error all that it took are in `batch`.
    fn write_some(
        &self,
        writer: &mut Writer,
        rest: &mut std::iter::Peekable<std::vec::IntoIter<Pending>>,
        batch: &mut Vec<Pending>,
    ) -> Result<(), EventError> {
        let Some(first_seq) = rest.peek().map(|p| p.seq) else { return Ok(()) };
        let mut info = self.open_segment(writer, first_seq)?;
        let before = info.bytes;
        let mut bytes = Vec::new();
        while info.bytes < self.config.segment_bytes_max
            && let Some(event) = rest.next()
        {
            info.note(event.seq, &event.id, event.frame.len() as u64);
            bytes.extend_from_slice(&event.frame);
            batch.push(event);
        }
        let Some((_, file)) = writer.file.as_mut() else { return Ok(()) };
        if let Err(error) = file.write_all(&bytes) {
            // What came through of it is cut off again, so that no frame stands twice.
            let cut = file.set_len(before);
            writer.poisoned = cut.is_err();
            return Err(io_error(&info.path, error));
        }
        let written: usize = batch.iter().map(|p| p.frame.len()).sum();
        batch.clear();
        let mut state = self.state.lock();
        state.pending_bytes = state.pending_bytes.saturating_sub(written);
        state.written_seq = info.last_seq;
        state.segments.insert(info.first_seq, info);
        Ok(())
    }

    /// Gives the segment to write to, a new one if the last is full.
    fn open_segment(&self, writer: &mut Writer, next_seq: u64) -> Result<SegmentInfo, EventError> {
        let last = self.state.lock().segments.last_key_value().map(|(_, s)| s.clone());
        if let (Some((first_seq, _)), Some(info)) = (&writer.file, &last)
            && *first_seq == info.first_seq
            && info.bytes < self.config.segment_bytes_max
        {
            return Ok(info.clone());
        }
        if let (Some((_, mut file)), Some(info)) = (writer.file.take(), &last) {
            let finish = file.write_all(&info.trailer()).and_then(|()| file.sync_all());
            if let Err(error) = finish {
                writer.poisoned = true;
                return Err(io_error(&info.path, error));
            }
        }
        // After a start a new segment begins: what is behind the last sound frame of an old one stays untouched.
        let info = SegmentInfo::new(&self.dir, next_seq);
        let file = create_segment(&info).map_err(|e| io_error(&info.path, e))?;
        writer.file = Some((info.first_seq, file));
        sync_dir(&self.dir)?;
        self.state.lock().segments.insert(info.first_seq, info.clone());
        Ok(info)
    }

    fn fsync(&self) -> Result<(), EventError> {
        let mut writer = self.writing.lock();
        let Some((first_seq, file)) = &writer.file else { return Ok(()) };
        let result = file.sync_data();
        if let Err(error) = result {
            let path = SegmentInfo::new(&self.dir, *first_seq).path;
            writer.poisoned = true;
            return Err(io_error(&path, error));
        }
        Ok(())
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.state.lock().next_seq
    }

    /// Gives the segment that holds a sequence number or, when that is gone, the oldest one after it.
    pub(crate) fn segment_of(&self, seq: u64) -> Option<SegmentInfo> {
        let state = self.state.lock();
        let at_or_before = state.segments.range(..=seq).next_back().map(|(_, s)| s.clone());
        let holding = at_or_before.filter(|s| s.last_seq >= seq);
        holding.or_else(|| state.segments.range(seq..).map(|(_, s)| s).find(|s| s.last_seq >= seq).cloned())
    }

    pub(crate) fn oldest_id(&self) -> Result<Option<EventId>, EventError> {
        self.write()?;
        let segments: Vec<SegmentInfo> = self.state.lock().segments.values().cloned().collect();
        for info in segments {
            let mut cursor = SegmentCursor::open(&info.path, info.bytes).map_err(|e| io_error(&info.path, e))?;
            if let Some(event) = cursor.next().map_err(|e| io_error(&info.path, e))? {
                return Ok(Some(event.id()));
            }
        }
        Ok(None)
    }

    /// Finds the sequence number of an event.
    fn find(&self, id: &EventId) -> Result<Option<u64>, EventError> {
        let ms = id_time_ms(id);
        let mut found = None;
        self.scan(
            |s| s.min_ms <= ms && ms <= s.max_ms,
            |event| {
                if event.id() == *id {
                    found = Some(event.seq);
                }
                found.is_none()
            },
        )?;
        Ok(found)
    }

    fn ids_since(&self, oldest_ms: i64) -> Result<HashSet<EventId>, EventError> {
        let mut known = HashSet::new();
        self.scan(
            |s| s.max_ms >= oldest_ms,
            |event| {
                if id_time_ms(&event.id()) >= oldest_ms {
                    known.insert(event.id());
                }
                true
            },
        )?;
        Ok(known)
    }

    /// Shows the events of the wanted segments, newest segment first, until `show` says enough.
    fn scan(
        &self,
        wanted: impl Fn(&SegmentInfo) -> bool,
        mut show: impl FnMut(Event) -> bool,
    ) -> Result<(), EventError> {
        self.write()?;
        let segments: Vec<SegmentInfo> =
            self.state.lock().segments.values().rev().filter(|s| wanted(s)).cloned().collect();
        for info in segments {
            let mut cursor = match SegmentCursor::open(&info.path, info.bytes) {
                Ok(cursor) => cursor,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(io_error(&info.path, e)),
            };
            while let Some(event) = cursor.next().map_err(|e| io_error(&info.path, e))? {
                if !show(event) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.write().and_then(|()| self.fsync()) {
            tracing::warn!("{error}");
        }
    }
}

fn create_segment(info: &SegmentInfo) -> io::Result<File> {
    // A file of that name can only be one without a single sound frame; it makes room but is kept aside.
    if info.path.exists() {
        fs::rename(&info.path, info.path.with_extension("damaged"))?;
    }
    let mut file = OpenOptions::new().create_new(true).append(true).open(&info.path)?;
    file.write_all(&segment::header(info.first_seq))?;
    Ok(file)
}

fn segment_files(dir: &Path) -> Result<Vec<(u64, PathBuf)>, EventError> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| io_error(dir, e))? {
        let path = entry.map_err(|e| io_error(dir, e))?.path();
        let is_segment = path.extension().is_some_and(|e| e == "events");
        let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if let (true, Ok(first_seq)) = (is_segment, u64::from_str_radix(name, 16)) {
            out.push((first_seq, path));
        }
    }
    out.sort();
    Ok(out)
}

fn sync_dir(dir: &Path) -> Result<(), EventError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_error(dir, e))
}

pub(crate) fn io_error(path: &Path, source: io::Error) -> EventError {
    EventError::Io { path: path.to_owned(), source }
}
