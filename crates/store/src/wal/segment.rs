//! The segment that is being written, and the list of those that are full.
//!
//! Invariants: 1. a segment's name is durable before a record in it is acknowledged; 2. after a write that did not fit
//! the segment ends at the last good record, or is given up; 3. after a sync that failed it is cut back to what was
//! synced before, for the system may show bytes that are not on the disk to the next start; 4. a store never appends to a segment of an earlier start.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::{File, Fs};

use super::frame::SegmentHeader;

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// Why records could not be written.
#[derive(Clone, PartialEq, Debug)]
pub enum WriteError {
    /// The disk is full; nothing was kept and the next try may go well.
    NoSpace(String),
    /// No file could be opened; nothing was written, and the next try may go well.
    Later(String),
    /// Anything else: what the file holds now is unknown.
    Failed(String),
}

/// What is known of a segment without reading it.
#[derive(Clone, PartialEq, Debug)]
pub struct SegmentInfo {
    pub number: u64,
    pub bytes: u64,
    pub last_seq: u64,
    /// Latest sample time in it; `i64::MIN` when it holds none.
    pub max_ts_ms: i64,
}

/// Gives the file name of a segment.
pub fn file_name(number: u64) -> String {
    format!("{number:08}.wal")
}

/// Reads the number from a file name.
pub fn parse_file_name(name: &str) -> Option<u64> {
    name.strip_suffix(".wal")?.parse().ok()
}

/// Tells whether an error means that the disk is full.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENOSPC | EDQUOT)) || error.kind() == io::ErrorKind::StorageFull
}

struct Open {
    file: Box<dyn File>,
    path: PathBuf,
    nonce: u64,
    len: u64,
    /// How much of it is on the disk.
    synced: u64,
}

/// Too many files are open, in the system and in the process.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// Writes segments.
pub struct SegmentWriter {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    epoch: u64,
    bytes_max: u64,
    next_number: u64,
    open: Option<Open>,
}

impl SegmentWriter {
    /// Starts behind the segments that are there; creates nothing yet.
    pub fn new(fs: Arc<dyn Fs>, dir: &Path, epoch: u64, bytes_max: u64, next_number: u64) -> SegmentWriter {
        SegmentWriter { fs, dir: dir.to_path_buf(), epoch, bytes_max, next_number, open: None }
    }

    /// Makes room for records; gives the segment's number and nonce.
    pub fn prepare(&mut self) -> Result<(u64, u64), WriteError> {
        if self.open.as_ref().is_some_and(|open| open.len >= self.bytes_max) {
            self.roll();
        }
        if self.open.is_none() {
            let number = self.next_number;
            self.next_number += 1;
            self.open = Some(self.create(number)?);
        }
        let nonce = self.open.as_ref().map_or(0, |open| open.nonce);
        Ok((self.next_number - 1, nonce))
    }

    /// Lets the next record begin a new segment.
    pub fn roll(&mut self) {
        self.open = None;
    }

    fn create(&self, number: u64) -> Result<Open, WriteError> {
        let path = self.dir.join(file_name(number));
        let header = SegmentHeader { nonce: RandomState::new().build_hasher().finish(), epoch: self.epoch };
        let created = self.fs.create(&path);
        if let Err(error) = &created
            && matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
        {
            // Nothing is promised on a file that is not there.
            return Err(WriteError::Later(format!("cannot create {}: {error}", path.display())));
        }
        let made = created.and_then(|file| {
            file.append(&header.encode())?;
            file.sync_data()?;
            self.fs.sync_dir(&self.dir)?;
            Ok(file)
        });
        match made {
            Ok(file) => {
                let len = header.encode().len() as u64;
                Ok(Open { file, path, nonce: header.nonce, len, synced: len })
            }
            Err(error) => {
                // A file without records is harmless should this fail too.
                let _ = self.fs.remove_file(&path);
                Err(failure(&path, "create", &error))
            }
        }
    }

    /// Appends framed records in one write.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let Some(open) = self.open.as_mut() else {
            return Err(WriteError::Failed("no segment is open".to_owned()));
        };
        match open.file.append(bytes) {
            Ok(_) => {
                open.len += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                let failed = failure(&open.path, "write to", &error);
                if open.file.truncate(open.len).is_err() {
                    self.roll();
                }
                Err(failed)
            }
        }
    }

    /// Makes all appended records durable.
    ///
    /// **Errors** with `NoSpace` only where the next records go to another file: nothing is promised on this one any more.
    pub fn sync(&mut self) -> Result<(), WriteError> {
        let Some(open) = self.open.as_mut() else { return Ok(()) };
        let Err(error) = open.file.sync_data() else {
            open.synced = open.len;
            return Ok(());
        };
        let cut = open.file.truncate(open.synced).err();
        let also = cut.map(|e| format!("; it could not be cut back either: {e}")).unwrap_or_default();
        let text = format!("cannot sync {}: {error}{also}", open.path.display());
        // Some file systems find out only now that there is no room.
        if is_no_space(&error) && also.is_empty() {
            self.roll();
            return Err(WriteError::NoSpace(text));
        }
        Err(WriteError::Failed(text))
    }

    /// Gives the length of the open segment.
    pub fn len(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.len)
    }
}

fn failure(path: &Path, verb: &str, error: &io::Error) -> WriteError {
    let text = format!("cannot {verb} {}: {error}", path.display());
    if is_no_space(error) { WriteError::NoSpace(text) } else { WriteError::Failed(text) }
}
