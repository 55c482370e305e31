//! The file `sums`: what filters added up, so that a start goes on where the last life ended.
//!
//! It may be older than the store, or missing: see [`model::aggregate`]. XXH3-64 of the rest (8 bytes), then what
//! [`Sums::encode`] gives.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use collect::{SUMS_BYTES_MAX, Sums};
use parking_lot::Mutex;
use sys::Fs;
use xxhash_rust::xxh3::xxh3_64;

/// A file beyond [`SMALL_BYTES`] is not written more often.
const LARGE_EVERY: Duration = Duration::from_secs(60);
const SMALL_BYTES: usize = 1 << 20;

/// Writes the sums to disk.
pub struct SumsFile {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    sums: Arc<Sums>,
    last: Mutex<Option<(Instant, usize)>>,
    left_out: AtomicUsize,
}

impl SumsFile {
    /// Reads the file into the sums. Blocks.
    ///
    /// **Gives** what is wrong with it, if anything: the sums then go on from what is stored.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, sums: Arc<Sums>) -> (SumsFile, Option<String>) {
        let path = dir.join("sums");
        let file = SumsFile { fs, path, sums, last: Mutex::default(), left_out: AtomicUsize::new(0) };
        let bytes = match file.fs.read(&file.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (file, None),
            Err(error) => {
                let trouble = format!("{}: {error}", file.path.display());
                return (file, Some(trouble));
            }
        };
        let trouble = |text: &str| Some(format!("{}: {text}; sums go on from what is stored", file.path.display()));
        if bytes.len() > SUMS_BYTES_MAX + 8 {
            let trouble = trouble("it is too large");
            return (file, trouble);
        }
        let whole = bytes.split_first_chunk::<8>().filter(|(hash, rest)| u64::from_le_bytes(**hash) == xxh3_64(rest));
        let taken = whole.is_some_and(|(_, rest)| file.sums.decode(rest));
        let trouble = if taken { None } else { trouble("it is damaged") };
        (file, trouble)
    }

    /// Writes the file if anything has changed, a large one not too often. Blocks.
    pub fn save(&self) -> io::Result<()> {
        let last = *self.last.lock();
        if last.is_some_and(|(at, bytes)| bytes > SMALL_BYTES && at.elapsed() < LARGE_EVERY) {
            return Ok(());
        }
        self.save_now()
    }

    /// Writes the file if anything has changed. Blocks.
    pub fn save_now(&self) -> io::Result<()> {
        let Some(encoded) = self.sums.encode() else { return Ok(()) };
        if self.left_out.swap(encoded.left_out, Ordering::Relaxed) == 0 && encoded.left_out > 0 {
            let (path, owners) = (self.path.display(), encoded.left_out);
            tracing::error!(
                "{path}: no room for the sums of {owners} targets or sources; a start goes on from what is stored"
            );
        }
        let temporary = self.path.with_extension("tmp");
        let file = self.fs.create(&temporary)?;
        file.append(&xxh3_64(&encoded.bytes).to_le_bytes())?;
        file.append(&encoded.bytes)?;
        file.sync_data()?;
        drop(file);
        self.fs.rename(&temporary, &self.path)?;
        self.fs.sync_dir(self.path.parent().unwrap_or(Path::new(".")))?;
        self.sums.written(&encoded);
        *self.last.lock() = Some((Instant::now(), encoded.bytes.len()));
        Ok(())
    }

    /// Gives the bytes that were written last, and the owners that found no room in them.
    pub fn figures(&self) -> (usize, usize) {
        (self.last.lock().map_or(0, |(_, bytes)| bytes), self.left_out.load(Ordering::Relaxed))
    }
}
