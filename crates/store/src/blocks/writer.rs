//! Writes a block into a temporary folder and publishes it in one step.
//!
//! Invariants: 1. until the rename the folder has a name that a start removes; 2. every file and the folder are synced
//! before the rename, the folder above after it: a crash leaves a whole block or none.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use columns::{
    Bucket, HistogramRows, HistogramsFile, HistogramsWriter, ReadAt, RollupsWriter, SamplesFile, SamplesWriter,
    SeriesRow, SeriesWriter,
};
use model::{Labels, Samples, TimeRange};
use sys::Fs;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::BlockInput;
use super::block::{Block, Shared};
use super::checksums::{FileSums, SummedFile, VerifiedFile};
use super::manifest::{Balance, HISTOGRAMS, Manifest, POSTINGS, ROLLUPS, SAMPLES, SERIES};
use super::postings::PostingsWriter;

/// How the names of folders begin that are not finished.
pub const UNFINISHED: &str = "tmp-";
/// Measured on node exporter data: higher levels gain little and cost much.
pub const ZSTD_LEVEL: i32 = 3;
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
    /// Made when the first histogram comes.
    histograms: Option<HistogramsWriter<SummedFile>>,
    /// Only in roll-ups.
    rollups: Option<RollupsWriter<SummedFile>>,
}

impl Files {
    fn histograms(&mut self, fs: &dyn Fs, dir: &Path) -> Result<&mut HistogramsWriter<SummedFile>, String> {
        if self.histograms.is_none() {
            let file = SummedFile::create(fs, &dir.join(HISTOGRAMS)).map_err(text)?;
            self.histograms = Some(HistogramsWriter::new(file, ZSTD_LEVEL).map_err(text)?);
        }
        self.histograms.as_mut().ok_or_else(String::new)
    }
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

    /// Notes how it balances with them.
    pub fn balance(&mut self, balance: Balance) {
        self.manifest.balance = Some(balance);
    }

    /// Makes it a roll-up, before the first series comes.
    pub fn rolls_up(&mut self, resolution_ms: i64, from: Vec<u64>) {
        (self.manifest.resolution_ms, self.manifest.rolled_from) = (Some(resolution_ms), from);
    }

    /// Notes the resolutions to which all that went into it was rolled up.
    pub fn rolled(&mut self, resolutions_ms: Vec<i64>) {
        self.manifest.rolled = resolutions_ms;
    }

    /// Adds what a series was rolled up to, as [`BlockWriter::add`]; a series without kept samples is left out.
    pub fn add_rolled(&mut self, input: &BlockInput, buckets: &[Bucket]) -> Result<(), String> {
        if span(&input.samples).is_none() {
            return Ok(());
        }
        let series_id = (self.manifest.id << SERIES_BITS | self.manifest.series) as i64;
        self.add(input)?;
        let added = match self.files.as_mut().and_then(|files| files.rollups.as_mut()) {
            Some(rollups) => rollups.add(series_id, buckets).map_err(text),
            None => Err("it is no roll-up".to_owned()),
        };
        added.map_err(|e| self.sentence(e))
    }

    /// Tells whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.manifest.series == 0
    }

    /// Adds a series; they come sorted by labels, each once.
    pub fn add(&mut self, input: &BlockInput) -> Result<(), String> {
        let Some(span) = span(&input.samples) else { return Ok(()) };
        self.add_rows(input, span).map_err(|e| self.sentence(e))?;
        let manifest = &mut self.manifest;
        manifest.series += 1;
        manifest.samples += count(&input.samples);
        manifest.histograms += input.samples.histograms.len() as u64;
        manifest.min_ms = manifest.min_ms.min(span.start_ms);
        manifest.max_ms = manifest.max_ms.max(span.end_ms);
        manifest.digest = manifest.digest.wrapping_add(digest(&input.labels, &input.samples));
        Ok(())
    }

    fn add_rows(&mut self, input: &BlockInput, span: TimeRange) -> Result<(), String> {
        let fs = &*self.shared.fs;
        if self.files.is_none() {
            self.files = Some(create(fs, &self.dir, self.manifest.resolution_ms.is_some()).map_err(text)?);
        }
        let series_id = (self.manifest.id << SERIES_BITS | self.manifest.series) as i64;
        let Some(files) = self.files.as_mut() else { return Ok(()) };
        let histograms = match &input.samples.histograms[..] {
            [] => HistogramRows::default(),
            some => files.histograms(fs, &self.dir).and_then(|h| h.add(series_id, some).map_err(text))?,
        };
        let row = SeriesRow {
            series_id,
            labels: input.labels.clone(),
            metric_type: input.attrs.metric_type,
            source: input.attrs.source.clone(),
            target_id: input.attrs.target_id.clone(),
            rows: files.samples.add(series_id, &input.samples).map_err(text)?,
            histograms,
            min_ts_ms: span.start_ms,
            max_ts_ms: span.end_ms,
        };
        files.postings.add(&row).map_err(text)?;
        files.series.add(row).map_err(text)
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
        let histograms = match files.histograms {
            Some(histograms) => Some(histograms.finish().map_err(text)?.finish().map_err(text)?),
            None => None,
        };
        let rollups = match files.rollups {
            Some(rollups) => Some(rollups.finish().map_err(text)?.finish().map_err(text)?),
            None => None,
        };
        let (start, tail) = self.tail(SAMPLES, &samples, |f| Ok(SamplesFile::open(f).map_err(text)?.pages_end()))?;
        let second = match &histograms {
            Some(sums) => {
                Some(self.tail(HISTOGRAMS, sums, |f| Ok(HistogramsFile::open(f).map_err(text)?.pages_end()))?)
            }
            None => None,
        };
        let second = second.as_ref().map(|(start, tail)| (*start, &tail[..]));
        let postings = files.postings.finish((start, &tail), second).map_err(text)?.finish().map_err(text)?;
        let all = [
            (SAMPLES, Some(samples)),
            (SERIES, Some(series)),
            (POSTINGS, Some(postings)),
            (HISTOGRAMS, histograms),
            (ROLLUPS, rollups),
        ];
        self.manifest.files = all.into_iter().filter_map(|(name, sums)| Some((name.to_owned(), sums?))).collect();
        Ok(())
    }

    /// Reads back what a reader needs first, for the copy; `pages_end` finds where that begins.
    fn tail(
        &self,
        name: &str,
        sums: &FileSums,
        pages_end: impl FnOnce(&VerifiedFile) -> Result<u64, String>,
    ) -> Result<(u64, Vec<u8>), String> {
        let file = VerifiedFile::open(&*self.shared.fs, &self.dir.join(name), sums)?;
        let start = pages_end(&file)?;
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

fn create(fs: &dyn Fs, dir: &Path, rolls_up: bool) -> io::Result<Files> {
    fs.create_dir_all(dir)?;
    let samples = SamplesWriter::new(SummedFile::create(fs, &dir.join(SAMPLES))?, ZSTD_LEVEL);
    let series = SeriesWriter::new(SummedFile::create(fs, &dir.join(SERIES))?, ZSTD_LEVEL);
    let postings = PostingsWriter::new(SummedFile::create(fs, &dir.join(POSTINGS))?)?;
    let (samples, series) = (samples.map_err(io::Error::other)?, series.map_err(io::Error::other)?);
    let rollups = match rolls_up {
        true => {
            let file = SummedFile::create(fs, &dir.join(ROLLUPS))?;
            Some(RollupsWriter::new(file, ZSTD_LEVEL).map_err(io::Error::other)?)
        }
        false => None,
    };
    Ok(Files { samples, series, postings, histograms: None, rollups })
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

/// Gives first and last time; `None` without samples.
pub fn span(samples: &Samples) -> Option<TimeRange> {
    let histograms = &samples.histograms;
    let first = samples.ts_ms.first().into_iter().chain(histograms.first().map(|h| &h.0)).min()?;
    let last = samples.ts_ms.last().into_iter().chain(histograms.last().map(|h| &h.0)).max()?;
    Some(TimeRange { start_ms: *first, end_ms: *last })
}

/// Counts doubles and histograms.
pub fn count(samples: &Samples) -> u64 {
    samples.len() as u64 + samples.histograms.len() as u64
}

/// Gives the sum of a hash of every sample.
pub fn digest(labels: &Labels, samples: &Samples) -> u64 {
    let seed = labels.fingerprint().0;
    let doubles = samples.ts_ms.iter().zip(&samples.values).fold(0, |sum, (ts_ms, value)| {
        let mut bytes = [0; 16];
        let (head, tail) = bytes.split_at_mut(8);
        head.copy_from_slice(&ts_ms.to_le_bytes());
        tail.copy_from_slice(&value.to_bits().to_le_bytes());
        u64::wrapping_add(sum, xxh3_64_with_seed(&bytes, seed))
    });
    let mut bytes = Vec::new();
    samples.histograms.iter().fold(doubles, |sum, (ts_ms, histogram)| {
        bytes.clear();
        bytes.extend_from_slice(&ts_ms.to_le_bytes());
        histogram.encode(&mut bytes);
        u64::wrapping_add(sum, xxh3_64_with_seed(&bytes, seed))
    })
}
