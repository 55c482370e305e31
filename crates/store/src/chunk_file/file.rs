//! One chunk file, open for reading, and a place in it.
//!
//! Invariants: 1. no byte of a chunk is given before its checksum agreed, which is seeded with file and place, so that
//! bytes of another chunk never pass; 2. a file whose name is gone is read on by those who hold it.
//! Limits: what look-ups keep of chunks read: [`LOOK_UP_BYTES_MAX`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use sys::{File, Fs};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::file_name;
use crate::wal::frame::{SEGMENT_HEADER_BYTES, SegmentHeader};

/// Bytes behind each chunk: its checksum.
pub const SUM_BYTES: usize = 8;
/// Enough for a batch that is sent again; the next one brings its own.
const LOOK_UP_BYTES_MAX: usize = 8 << 20;

/// Chunks that were read to decide about samples, and what is known of all files together.
#[derive(Default)]
pub struct LookUps {
    kept: Mutex<Kept>,
    damaged: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct Kept {
    chunks: HashMap<(u32, u32), Arc<[u8]>>,
    bytes: usize,
}

impl LookUps {
    /// Gives the bytes of all files in use.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Notes the bytes of all files in use.
    pub fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Counts the reads that met damage since the start.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }
}

/// A file of chunks.
pub struct ChunkFile {
    pub number: u32,
    path: PathBuf,
    file: Box<dyn File>,
    nonce: u64,
    look_ups: Arc<LookUps>,
}

impl std::fmt::Debug for ChunkFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

impl ChunkFile {
    /// Creates an empty file with its header; neither is durable yet.
    pub fn create(
        fs: &dyn Fs,
        dir: &Path,
        number: u32,
        header: SegmentHeader,
        look_ups: Arc<LookUps>,
    ) -> io::Result<ChunkFile> {
        let path = dir.join(file_name(number));
        let file = fs.create(&path)?;
        file.append(&header.encode())?;
        Ok(ChunkFile { number, path, file, nonce: header.nonce, look_ups })
    }

    /// Opens a file that is there; `None` when both copies of its header are broken.
    pub fn open(fs: &dyn Fs, dir: &Path, number: u32, look_ups: Arc<LookUps>) -> io::Result<Option<ChunkFile>> {
        let path = dir.join(file_name(number));
        let file = fs.open(&path)?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        file.read_at(&mut bytes, 0)?;
        let header = SegmentHeader::decode(&bytes);
        Ok(header.map(|header| ChunkFile { number, path, file, nonce: header.nonce, look_ups }))
    }

    /// Gives what seeds the checksums of its frames.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &dyn File {
        &*self.file
    }

    /// Gives the checksum of a chunk that stands at an offset.
    pub fn sum(&self, offset: u32, chunk: &[u8]) -> [u8; SUM_BYTES] {
        xxh3_64_with_seed(chunk, self.nonce ^ u64::from(offset)).to_le_bytes()
    }

    /// Reads a chunk.
    ///
    /// **Errors** name the file; then nothing of the chunk is known.
    fn read(&self, offset: u32, len: u32) -> Result<Arc<[u8]>, String> {
        let why = match self.read_if_sound(offset, len) {
            Ok(Some(chunk)) => return Ok(chunk),
            Ok(None) => "the checksum disagrees, or the file ends before them".to_owned(),
            Err(error) => error.to_string(),
        };
        self.look_ups.damaged.fetch_add(1, Ordering::Relaxed);
        Err(format!("chunk file {}: {len} bytes at byte {offset}: {why}", self.path.display()))
    }

    /// Reads a chunk; `None` when it is damaged.
    ///
    /// **Errors** when the disk does not answer, which says nothing about the chunk.
    fn read_if_sound(&self, offset: u32, len: u32) -> io::Result<Option<Arc<[u8]>>> {
        let mut bytes = vec![0; len as usize + SUM_BYTES];
        let read = self.file.read_at(&mut bytes, u64::from(offset))?;
        let (chunk, sum) = bytes.split_at(len as usize);
        let sound = read == bytes.len() && self.sum(offset, chunk) == sum;
        Ok(sound.then(|| Arc::from(chunk)))
    }
}

/// A chunk's place in a file.
#[derive(Clone, Debug)]
pub struct Stored {
    pub file: Arc<ChunkFile>,
    pub offset: u32,
    pub len: u32,
}

impl Stored {
    /// Reads the chunk.
    pub fn read(&self) -> Result<Arc<[u8]>, String> {
        self.file.read(self.offset, self.len)
    }

    /// Reads the chunk; `None` when it is damaged.
    ///
    /// **Errors** when the disk does not answer.
    pub fn read_if_sound(&self) -> io::Result<Option<Arc<[u8]>>> {
        self.file.read_if_sound(self.offset, self.len)
    }

    /// Reads the chunk to decide about a sample; neighbouring samples find it again. `None` when it is damaged, which
    /// is logged: the sample is then as good as new.
    pub fn look_up(&self) -> Option<Arc<[u8]>> {
        let key = (self.file.number, self.offset);
        let look_ups = &self.file.look_ups;
        if let Some(chunk) = look_ups.kept.lock().chunks.get(&key) {
            return Some(chunk.clone());
        }
        match self.read() {
            Ok(chunk) => {
                let mut kept = look_ups.kept.lock();
                if kept.bytes >= LOOK_UP_BYTES_MAX {
                    *kept = Kept::default();
                }
                kept.bytes += chunk.len();
                kept.chunks.insert(key, chunk.clone());
                Some(chunk)
            }
            Err(error) => {
                tracing::error!("{error}; a sample of its time counts as new");
                None
            }
        }
    }
}
