//! The checkpoint: what the head has and no chunk file has yet goes to chunk files, then the log is cut.
//!
//! It goes: capture (begun under the apply lock, so that it falls between two records) → series log, metadata,
//! exemplars and accounts durable → chunks durable → manifest durable → the head keeps only the places of sealed chunks → the files of
//! what was still growing last time removed → segments cut. A crash between any two leaves a log that holds more than
//! it needs, never less. What still grows is written anew each time; a start reads it as chunks that grow no more.
//! Fails how: the disk is full or a file fails: what was written is taken back, head and log keep everything, the next
//! round tries again with new files.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::chunk_file::{FileInfo, LookUps, Manifest, Synced, Writer, file_name};
use crate::core::Core;
use crate::head::{Capture, Out};
use crate::maintain::{MaintenanceError, failed};
use crate::store::Store;

/// What checkpoints know of each other. Only the store's slow work holds it.
pub struct Checkpoints {
    pub manifest: Manifest,
    /// Not both copies of the manifest on disk are this one.
    pub uneven: bool,
    /// The last record in the head when chunks were frozen last.
    pub frozen_seq: u64,
    /// Its chunk files, for what does not grow any more; `None` while a capture has it.
    sealed: Option<Writer>,
    /// The files of what was growing at the last checkpoint.
    growing: Vec<FileInfo>,
    numbers: Arc<AtomicU32>,
    look_ups: Arc<LookUps>,
    round: u64,
}

impl Checkpoints {
    /// Goes on from the state on disk; `next_number` is free for a file.
    pub fn new(manifest: Manifest, uneven: bool, next_number: u32, look_ups: Arc<LookUps>) -> Checkpoints {
        Checkpoints {
            manifest,
            uneven,
            frozen_seq: 0,
            sealed: None,
            growing: Vec::new(),
            numbers: Arc::new(AtomicU32::new(next_number)),
            look_ups,
            round: 0,
        }
    }

    /// Tells the rest of the store how large the files are.
    pub fn note_bytes(&self) {
        self.look_ups.set_bytes(self.manifest.files.iter().map(|f| f.bytes).sum());
    }

    /// A manifest may be on disk once or not at all: what it names stays until the next one is there twice. The next
    /// checkpoint writes everything again, to other files.
    fn not_stored(&mut self, revision: u64, old: Vec<FileInfo>, growing: Vec<FileInfo>, lasting: Vec<FileInfo>) {
        self.manifest.revision = revision;
        self.uneven = true;
        if let Some(sealed) = self.sealed.as_mut() {
            sealed.abandon();
        }
        let listed = |f: &FileInfo| self.manifest.files.iter().any(|known| known.number == f.number);
        self.growing = old.into_iter().chain(growing).chain(lasting.into_iter().filter(|f| !listed(f))).collect();
    }
}

impl Store {
    /// Does a checkpoint when enough of the log is not covered by one.
    pub(crate) fn checkpoint_if_due(&self) -> Result<u64, MaintenanceError> {
        let (seq, growing) = {
            let state = self.core.checkpoints.lock();
            (state.manifest.seq, state.growing.iter().map(|f| f.bytes).sum::<u64>())
        };
        let uncovered: u64 =
            self.pipeline.with_segments(|all| all.iter().filter(|s| s.last_seq > seq).map(|s| s.bytes).sum());
        // What grows is written anew each time: many series with few samples make it worth to wait.
        let due = self.core.config.checkpoint_bytes.max(growing / 2);
        if uncovered < due { Ok(0) } else { self.cover_log() }
    }

    /// Brings everything that is not in blocks to chunk files now, so that the next start has no log to replay; gives how
    /// many segments of the log were cut. It is done without being asked whenever enough of the log has come, see
    /// [`crate::StoreConfig::checkpoint_bytes`].
    ///
    /// **Errors** leave head and log as they were.
    pub fn checkpoint(&self) -> Result<u64, MaintenanceError> {
        let _schedule = self.schedule.lock();
        self.cover_log()
    }

    fn cover_log(&self) -> Result<u64, MaintenanceError> {
        let core = &self.core;
        // What is committed from now on goes to segments that this checkpoint leaves.
        self.pipeline.roll();
        let seq = core.write_checkpoint()?;
        self.cut_segments(seq).map_err(failed("cut the write-ahead log"))
    }
}

impl Core {
    fn chunk_dir(&self) -> PathBuf {
        self.config.dir.join("chunks")
    }

    /// Brings the head's state to chunk files; gives the last record that they cover.
    fn write_checkpoint(&self) -> Result<u64, MaintenanceError> {
        let mut state = self.checkpoints.lock();
        let mut next = state.manifest.clone();
        let Some((out, exemplars)) = self.capture(&mut state, &mut next) else { return Ok(state.manifest.seq) };
        let Out { mut sealed, mut open, failed: error } = out;
        let write = || -> Result<(Synced, Synced), MaintenanceError> {
            error.map_or(Ok(()), Err).map_err(failed("write chunk files"))?;
            // The small files first: chunk files that are not synced yet can be taken back, should one of them fail.
            self.secure_side_files()?;
            self.write_exemplars(&exemplars)?;
            self.store_accounts()?;
            self.secure_follower(next.seq).map_err(failed("secure what follows the store"))?;
            let growing = open.sync().map_err(failed("sync chunk files"))?;
            let lasting = sealed.sync().inspect_err(|_| self.remove_chunk_files(&growing.files));
            Ok((lasting.map_err(failed("sync chunk files"))?, growing))
        };
        let written = write();
        if written.is_err() {
            sealed.abandon();
            open.abandon();
        }
        state.sealed = Some(sealed);
        let (lasting, growing) = written?;
        let old = std::mem::take(&mut state.growing);
        next.files.retain(|f| old.iter().all(|o| o.number != f.number));
        next.take(&lasting.files);
        next.take(&growing.files);
        next.next_id = self.registry.next_id();
        if let Err(error) = next.store(&*self.fs, &self.chunk_dir()) {
            state.not_stored(next.revision, old, growing.files, lasting.files);
            return Err(failed("write the manifest of the chunk files")(error));
        }
        (state.manifest, state.uneven, state.growing) = (next, false, growing.files);
        state.note_bytes();
        self.head.move_to_files(lasting.placed);
        self.remove_chunk_files(&old);
        Ok(state.manifest.seq)
    }

    /// Captures the head between two records; gives what was written, and the exemplars as of then. `None` when nothing
    /// came since the last checkpoint.
    fn capture(&self, state: &mut Checkpoints, next: &mut Manifest) -> Option<(Out, Vec<u8>)> {
        state.round += 1;
        let (numbers, look_ups) = (state.numbers.clone(), state.look_ups.clone());
        let writer = || Writer::new(self.fs.clone(), &self.chunk_dir(), self.epoch, numbers.clone(), look_ups.clone());
        let mut open = writer();
        let mut sealed = state.sealed.take().unwrap_or_else(writer);
        let (capture, exemplars) = {
            let applied = self.applied.lock();
            if applied.seq == next.seq && !state.uneven {
                drop(applied);
                state.sealed = Some(sealed);
                return None;
            }
            (next.seq, next.totals) = (applied.seq, applied.totals);
            sealed.begin(applied.seq, state.frozen_seq);
            open.begin(applied.seq, state.frozen_seq);
            let capture = Arc::new(Capture::new(state.round, self.head.window_ms(), sealed, open));
            self.head.begin_capture(capture.clone());
            (capture, self.exemplars.read().encode(applied.seq))
        };
        self.head.capture_rest(&capture);
        self.head.end_capture();
        // The apply thread may have begun with a record before the end.
        drop(self.applied.lock());
        let capture = Arc::into_inner(capture);
        debug_assert!(capture.is_some(), "nobody else holds the capture");
        Some((capture?.into_out(), exemplars))
    }

    fn remove_chunk_files(&self, files: &[FileInfo]) {
        for file in files {
            let path = self.chunk_dir().join(file_name(file.number));
            if let Err(error) = self.fs.remove_file(&path) {
                // No manifest names it: the next start removes it.
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }

    /// Removes the chunk files whose chunks are all in blocks.
    pub(crate) fn drop_covered_chunk_files(&self) -> io::Result<()> {
        let ledger = *self.ledger.lock();
        let mut state = self.checkpoints.lock();
        let (covered, kept): (Vec<FileInfo>, Vec<FileInfo>) =
            state.manifest.files.iter().partition(|f| ledger.covers(f.last_seq, f.max_ms));
        if covered.is_empty() {
            return Ok(());
        }
        let mut next = Manifest { files: kept, ..state.manifest.clone() };
        next.next_id = self.registry.next_id();
        let stored = next.store(&*self.fs, &self.chunk_dir());
        state.manifest.revision = next.revision;
        state.uneven = stored.is_err();
        stored?;
        state.manifest = next;
        state.note_bytes();
        state.growing.retain(|f| covered.iter().all(|c| c.number != f.number));
        if let Some(sealed) = state.sealed.as_mut() {
            sealed.roll();
        }
        self.remove_chunk_files(&covered);
        Ok(())
    }
}
