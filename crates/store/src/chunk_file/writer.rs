//! Appends pages to chunk files.
//!
//! Invariants: 1. a place is given out only for bytes that are durable; 2. after a failed write or sync nothing is
//! appended to that file any more; 3. a file never grows past what a place can name.
//! Limits: [`FILE_BYTES_MAX`] before the next file begins, [`PAGE_BYTES_MAX`] before the next page does.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sys::Fs;

use super::Stored;
use super::file::{ChunkFile, LookUps, SUM_BYTES};
use super::manifest::FileInfo;
use super::page::{Entry, Index, Kind};
use crate::wal::frame::{FRAME_BYTES, Frame, SEGMENT_HEADER_BYTES, SegmentHeader};

const FILE_BYTES_MAX: u64 = 256 << 20;
const PAGE_BYTES_MAX: usize = 4 << 20;
/// A sync of much at once would hold up those of the log.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;

/// Names a chunk of the head: series, kind, and which of its chunks of that kind.
pub type Tag = (u32, Kind, u32);

struct Open {
    file: Arc<ChunkFile>,
    info: FileInfo,
    /// What was synced last; 0 for a file that nobody knows of yet.
    synced_bytes: u64,
    /// What was given out to be synced early.
    early_bytes: u64,
}

/// Appends pages.
pub struct Writer {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    epoch: u64,
    numbers: Arc<AtomicU32>,
    look_ups: Arc<LookUps>,
    seq: u64,
    open: Option<Open>,
    /// Files that are full but not synced.
    full: Vec<Open>,
    index: Index,
    data: Vec<u8>,
    tags: Vec<Option<Tag>>,
    placed: Vec<(Tag, Stored)>,
    buffer: Vec<u8>,
}

/// What is durable after a sync.
#[derive(Default)]
pub struct Synced {
    /// The files that were written to, as they are now.
    pub files: Vec<FileInfo>,
    /// Where the tagged chunks are.
    pub placed: Vec<(Tag, Stored)>,
}

impl Writer {
    /// Starts without a file; `numbers` gives the number of the next one.
    pub fn new(fs: Arc<dyn Fs>, dir: &Path, epoch: u64, numbers: Arc<AtomicU32>, look_ups: Arc<LookUps>) -> Writer {
        Writer {
            fs,
            dir: dir.to_path_buf(),
            epoch,
            numbers,
            look_ups,
            seq: 0,
            open: None,
            full: Vec::new(),
            index: Index::default(),
            data: Vec::new(),
            tags: Vec::new(),
            placed: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Says of which record the coming pages are the state, and of which the frozen chunks in them.
    pub fn begin(&mut self, seq: u64, frozen_seq: u64) {
        self.seq = seq;
        self.index = Index { frozen_seq, ..Index::default() };
    }

    /// Adds a chunk to the page; its `len` is taken from the bytes. Ids must not fall within a page.
    pub fn add(&mut self, entry: Entry, chunk: &[u8], tag: Option<Tag>) -> io::Result<()> {
        let len = u32::try_from(chunk.len()).map_err(|_| io::Error::other("a chunk is too large for a file"))?;
        self.data.extend_from_slice(chunk);
        self.data.extend_from_slice(&[0; SUM_BYTES]);
        self.index.entries.push(Entry { len, ..entry });
        self.tags.push(tag);
        if self.data.len() >= PAGE_BYTES_MAX { self.finish_page() } else { Ok(()) }
    }

    /// Writes the page, if anything is in it.
    pub fn finish_page(&mut self) -> io::Result<()> {
        if self.index.entries.is_empty() {
            return Ok(());
        }
        let written = self.write_page();
        self.index.entries.clear();
        self.data.clear();
        self.tags.clear();
        written
    }

    fn write_page(&mut self) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| open.info.bytes >= FILE_BYTES_MAX) {
            self.roll();
        }
        if self.open.is_none() {
            self.open = Some(self.create()?);
        }
        let Some(open) = self.open.as_mut() else { return Ok(()) };
        let mut payload = Vec::with_capacity(self.index.entries.len() * 12 + 32);
        self.index.encode(&mut payload);
        let data_offset = open.info.bytes + FRAME_BYTES as u64 + payload.len() as u64;
        self.index.data_offset = data_offset;
        payload.clear();
        self.index.encode(&mut payload);
        let too_large = || io::Error::other("a page is too large for a file");
        let frame = Frame::of(&payload, self.seq).ok_or_else(too_large)?.encode(open.file.nonce());
        let mut at = 0usize;
        for (entry, tag) in self.index.entries.iter().zip(&self.tags) {
            let offset = u32::try_from(data_offset + at as u64).map_err(|_| too_large())?;
            let (chunk, sum) = self.data[at..].split_at_mut(entry.len as usize);
            sum[..SUM_BYTES].copy_from_slice(&open.file.sum(offset, chunk));
            at += entry.len as usize + SUM_BYTES;
            open.info.max_ms = open.info.max_ms.max(entry.max_ms);
            let stored = Stored { file: open.file.clone(), offset, len: entry.len };
            self.placed.extend(tag.map(|tag| (tag, stored)));
        }
        self.buffer.clear();
        for part in [&frame[..], &payload, &self.data, &frame, &payload] {
            self.buffer.extend_from_slice(part);
        }
        open.file.file().append(&self.buffer)?;
        open.info.bytes += self.buffer.len() as u64;
        open.info.chunks += self.index.entries.len() as u64;
        open.info.last_seq = open.info.last_seq.max(self.seq);
        Ok(())
    }

    fn create(&self) -> io::Result<Open> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let header = SegmentHeader { nonce: RandomState::new().build_hasher().finish(), epoch: self.epoch };
        let made = ChunkFile::create(&*self.fs, &self.dir, number, header, self.look_ups.clone());
        let file = Arc::new(made.inspect_err(|_| {
            // An empty file is harmless should this fail too.
            let _ = self.fs.remove_file(&self.dir.join(super::file_name(number)));
        })?);
        let bytes = SEGMENT_HEADER_BYTES as u64;
        Ok(Open {
            file,
            info: FileInfo { number, bytes, chunks: 0, last_seq: 0, max_ms: i64::MIN },
            synced_bytes: 0,
            early_bytes: 0,
        })
    }

    /// Lets the next page begin a new file.
    pub fn roll(&mut self) {
        self.full.extend(self.open.take().filter(|open| open.info.bytes > open.synced_bytes));
    }

    /// Gives the file when so much was written that it should be synced already, by whoever can wait.
    pub fn early(&mut self) -> Option<Arc<ChunkFile>> {
        let open = self.open.as_mut()?;
        if open.info.bytes - open.early_bytes.max(open.synced_bytes) < UNSYNCED_BYTES_MAX {
            return None;
        }
        open.early_bytes = open.info.bytes;
        Some(open.file.clone())
    }

    /// Makes all pages durable, the names of their files included.
    pub fn sync(&mut self) -> io::Result<Synced> {
        let mut files = Vec::new();
        let mut new_names = false;
        for open in self.full.iter_mut().chain(&mut self.open) {
            if open.info.bytes > open.synced_bytes {
                open.file.file().sync_data()?;
                new_names |= open.synced_bytes == 0;
                files.push(open.info);
            }
        }
        if new_names {
            self.fs.sync_dir(&self.dir)?;
        }
        self.full.clear();
        if let Some(open) = &mut self.open {
            open.synced_bytes = open.info.bytes;
        }
        Ok(Synced { files, placed: std::mem::take(&mut self.placed) })
    }

    /// Takes back what was not synced, as far as the disk allows, and never touches those files again.
    pub fn abandon(&mut self) {
        self.index.entries.clear();
        self.data.clear();
        self.tags.clear();
        self.placed.clear();
        for open in self.full.drain(..).chain(self.open.take()) {
            // Nothing refers to those bytes: should this fail, they only take room until the next start.
            let _ = match open.synced_bytes {
                0 => self.fs.remove_file(open.file.path()),
                synced => open.file.file().truncate(synced),
            };
        }
    }
}
