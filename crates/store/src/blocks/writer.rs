//! Writes a block into a temporary folder and publishes it in one step.
//!
//! Invariants: 1. until the rename the folder has a name that a start removes; 2. every file and the folder are synced
//! before the rename, the folder above after it: a crash leaves a whole block or none.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use columns::{ReadAt, SamplesFile, SamplesWriter, SeriesRow, SeriesWriter};
use model::{Labels, Samples, TimeRange};
use sys::Fs;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::BlockInput;
use super::block::{Block, Shared};
use super::checksums::{FileSums, SummedFile, VerifiedFile};
use super::manifest::{Manifest, POSTINGS, SAMPLES, SERIES};
use super::postings::PostingsWriter;

/// How the names of folders begin that are not finished.
pub const UNFINISHED: &str = "tmp-";
/// Measured on node exporter data: higher levels gain little and cost much.
const ZSTD_LEVEL: i32 = 3;
/// A block's number stands above this many bits of its series' numbers.
const SERIES_BITS: u32 = 32;

/// A block under construction; removed again when it is dropped unpublished.
pub struct BlockWriter {
    shared: Arc<Shared>,
    blocks_dir: PathBuf,
    dir: PathBuf,
    manifest: Manifest,
    files: Option<Files>,
}

struct Files {
    samples: SamplesWriter<SummedFile>,
    series: SeriesWriter<SummedFile>,
    postings: PostingsWriter<SummedFile>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl BlockWriter {
    /// Starts a block; nothing is on disk before the first series comes.
    pub fn new(shared: Arc<Shared>, blocks_dir: &Path, id: u64, window: TimeRange) -> BlockWriter {
        let manifest = Manifest {
            id,
            window_start_ms: window.start_ms,
            window_end_ms: window.end_ms,
            min_ms: i64::MAX,
            max_ms: i64::MIN,
            ..Manifest::default()
        };
        let dir = blocks_dir.join(format!("{UNFINISHED}{id}"));
        BlockWriter { shared, blocks_dir: blocks_dir.to_path_buf(), dir, manifest, files: None }
    }

    /// Notes blocks that this one takes the place of.
    pub fn replaces(&mut self, ids: Vec<u64>) {
        self.manifest.replaces = ids;
    }

    /// Tells whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.manifest.series == 0
    }

    /// Adds a series; they come sorted by labels, each once.
    pub fn add(&mut self, input: &BlockInput) -> Result<(), String> {
        let (Some(first), Some(last)) = (input.samples.ts_ms.first(), input.samples.ts_ms.last()) else {
            return Ok(());
        };
        if self.files.is_none() {
            self.files = Some(create(&*self.shared.fs, &self.dir).map_err(|e| self.sentence(e))?);
        }
        let series_id = (self.manifest.id << SERIES_BITS | self.manifest.series) as i64;
        let Some(files) = self.files.as_mut() else { return Ok(()) };
        let added = files.samples.add(series_id, &input.samples).map_err(text).and_then(|rows| {
            let row = SeriesRow {
                series_id,
                labels: input.labels.clone(),
                metric_type: input.attrs.metric_type,
                source: input.attrs.source.clone(),
                target_id: input.attrs.target_id.clone(),
                rows,
                min_ts_ms: *first,
                max_ts_ms: *last,
            };
            files.postings.add(&row).map_err(text)?;
            files.series.add(row).map_err(text)
        });
        added.map_err(|e| self.sentence(e))?;
        let manifest = &mut self.manifest;
        manifest.series += 1;
        manifest.samples += input.samples.len() as u64;
        manifest.min_ms = manifest.min_ms.min(*first);
        manifest.max_ms = manifest.max_ms.max(*last);
        manifest.digest = manifest.digest.wrapping_add(digest(&input.labels, &input.samples));
        Ok(())
    }

    fn sentence(&self, error: impl std::fmt::Display) -> String {
        format!("cannot write {}: {error}", self.dir.display())
    }

    /// Writes the ends of all files and makes them durable; gives the block under its temporary name.
    pub fn finish(&mut self) -> Result<Block, String> {
        let Some(files) = self.files.take() else { return Err(self.sentence("it is empty")) };
        let done = self.finish_files(files).and_then(|()| {
            self.manifest.store(&*self.shared.fs, &self.dir).map_err(text)?;
            self.shared.fs.sync_dir(&self.dir).map_err(text)
        });
        done.map_err(|e| self.sentence(e))?;
        Ok(Block::new(self.shared.clone(), self.dir.clone(), self.manifest.clone()))
    }

    fn finish_files(&mut self, files: Files) -> Result<(), String> {
        let samples = files.samples.finish().map_err(text)?.finish().map_err(text)?;
        let series = files.series.finish().map_err(text)?.finish().map_err(text)?;
        let (start, tail) = self.tail(&samples)?;
        let postings = files.postings.finish((start, &tail)).map_err(text)?.finish().map_err(text)?;
        self.manifest.files = [(SAMPLES, samples), (SERIES, series), (POSTINGS, postings)]
            .into_iter()
            .map(|(name, sums)| (name.to_owned(), sums))
            .collect();
        Ok(())
    }

    /// Reads back what a reader of samples needs first, for the copy.
    fn tail(&self, sums: &FileSums) -> Result<(u64, Vec<u8>), String> {
        let file = VerifiedFile::open(&*self.shared.fs, &self.dir.join(SAMPLES), sums)?;
        let start = SamplesFile::open(&file).map_err(text)?.pages_end();
        let len = usize::try_from(file.len().saturating_sub(start)).map_err(text)?;
        Ok((start, file.read_at(start, len)?.to_vec()))
    }

    /// Gives a finished block its name and makes that durable.
    pub fn publish(mut self) -> Result<Block, String> {
        let fs = self.shared.fs.clone();
        let name = folder_name(self.manifest.window_start_ms, self.manifest.id);
        let path = self.blocks_dir.join(name);
        fs.rename(&self.dir, &path).map_err(|e| self.sentence(e))?;
        let block = Block::new(self.shared.clone(), path, self.manifest.clone());
        if let Err(error) = fs.sync_dir(&self.blocks_dir) {
            // Whoever asked will write the same samples again: this copy must not stay.
            self.dir = block.path;
            return Err(self.sentence(error));
        }
        self.dir = PathBuf::new();
        Ok(block)
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        self.files = None;
        let fs = &*self.shared.fs;
        if !self.dir.as_os_str().is_empty() && fs.exists(&self.dir) {
            let gone = self.blocks_dir.join(format!("{UNFINISHED}gone-{}", self.manifest.id));
            let removed = fs.rename(&self.dir, &gone).and_then(|()| fs.remove_dir_all(&gone));
            if let Err(error) = removed {
                tracing::warn!("{} stays until the next start: {error}", self.dir.display());
            }
        }
        // A number that was tried may be in the cache.
        if !self.dir.as_os_str().is_empty() {
            self.shared.cache.forget(self.manifest.id);
        }
    }
}

fn create(fs: &dyn Fs, dir: &Path) -> io::Result<Files> {
    fs.create_dir_all(dir)?;
    let samples = SamplesWriter::new(SummedFile::create(fs, &dir.join(SAMPLES))?, ZSTD_LEVEL);
    let series = SeriesWriter::new(SummedFile::create(fs, &dir.join(SERIES))?, ZSTD_LEVEL);
    let postings = PostingsWriter::new(SummedFile::create(fs, &dir.join(POSTINGS))?)?;
    Ok(Files { samples: samples.map_err(io::Error::other)?, series: series.map_err(io::Error::other)?, postings })
}

/// Gives the name of a block's folder.
pub fn folder_name(window_start_ms: i64, id: u64) -> String {
    format!("{window_start_ms}-{id:08}")
}

/// Reads a block's number from the name of its folder.
pub fn parse_folder_name(name: &str) -> Option<u64> {
    let (start, id) = name.rsplit_once('-')?;
    start.parse::<i64>().ok()?;
    id.parse().ok()
}

/// Gives the sum of a hash of every sample.
pub fn digest(labels: &Labels, samples: &Samples) -> u64 {
    let seed = labels.fingerprint().0;
    samples.ts_ms.iter().zip(&samples.values).fold(0, |sum, (ts_ms, value)| {
        let mut bytes = [0; 16];
        let (head, tail) = bytes.split_at_mut(8);
        head.copy_from_slice(&ts_ms.to_le_bytes());
        tail.copy_from_slice(&value.to_bits().to_le_bytes());
        u64::wrapping_add(sum, xxh3_64_with_seed(&bytes, seed))
    })
}
