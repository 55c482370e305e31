//! One block: a folder of files that never change.
//!
//! Owns: its manifest. Files are opened when first needed; what is open or decoded lives in the shared cache and goes
//! when others need the room.
//! Invariants: 1. no value is given that was not verified; 2. a damaged stretch costs the series in it an error, and
//! no other; 3. the postings and the ends of `samples.parquet` and `histograms.parquet` are there twice.
//! Fails how: sentences that name file and bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use columns::{
    Column, ColumnPage, ColumnsError, HistogramsFile, ReadAt, RollupsFile, SamplesFile, SeriesRow, StoredHistogram,
    read_series,
};
use model::{Matcher, TimeRange};
use parking_lot::{Mutex, RwLock};
use sys::{Clock, Fs};

use super::cache::{Cache, Part};
use super::checksums::VerifiedFile;
use super::lookup::Lookup;
use super::manifest::{HISTOGRAMS, Manifest, POSTINGS, ROLLUPS, SAMPLES, SERIES};
use super::masks::Masks;
use super::postings::PostingsWriter;

/// What an open file counts for in the cache, so that few are open at a time.
const OPEN_FILE_COST_BYTES: usize = 256 << 10;

/// What a decoded histogram counts for beside its buckets.
const HISTOGRAM_COST_BYTES: usize = 256;

/// What all blocks of a directory share.
pub struct Shared {
    pub fs: Arc<dyn Fs>,
    pub cache: Arc<Cache>,
    pub clock: Arc<dyn Clock>,
    /// Files and stretches found damaged since the start.
    pub damaged: Arc<AtomicU64>,
    /// What is hidden of the blocks.
    pub masks: Arc<RwLock<Arc<Masks>>>,
}

impl Shared {
    /// Gives the same with another file system and a cache of its own: work on whole blocks must not push out what
    /// queries use.
    pub fn apart(&self, fs: Arc<dyn Fs>, cache_bytes_max: usize) -> Arc<Shared> {
        Arc::new(Shared {
            fs,
            cache: Arc::new(Cache::new(cache_bytes_max)),
            clock: self.clock.clone(),
            damaged: self.damaged.clone(),
            masks: self.masks.clone(),
        })
    }

    /// Gives the masks as they are now.
    pub fn masks(&self) -> Arc<Masks> {
        self.masks.read().clone()
    }

    /// Tells of damage, in the log and in the count.
    pub fn report(&self, sentence: &str) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::error!("{sentence}");
    }
}

/// One block.
pub struct Block {
    pub manifest: Manifest,
    pub path: PathBuf,
    pub shared: Arc<Shared>,
    /// It is past the retention, and its files may be gone.
    pub removed: AtomicBool,
    /// All bytes of the file of series had their checksums; see `tables.rs`.
    pub sound_series: Mutex<bool>,
    /// The same of the samples, or of a roll-up's stretches.
    pub sound_rows: Mutex<bool>,
}

/// The samples file, open.
pub struct OpenSamples {
    source: VerifiedFile,
    file: SamplesFile,
}

/// The histograms file, open.
pub struct OpenHistograms {
    source: VerifiedFile,
    pub file: HistogramsFile,
}

impl Block {
    /// Takes a block whose manifest was read.
    pub fn new(shared: Arc<Shared>, path: PathBuf, manifest: Manifest) -> Block {
        let unknown = || Mutex::new(false);
        let removed = AtomicBool::new(false);
        Block { manifest, path, shared, removed, sound_series: unknown(), sound_rows: unknown() }
    }

    /// Gives its number.
    pub fn id(&self) -> u64 {
        self.manifest.id
    }

    fn open(&self, name: &str) -> Result<VerifiedFile, String> {
        let sums = self.manifest.files.get(name).ok_or_else(|| format!("the manifest does not list {name}"))?;
        VerifiedFile::open(&*self.shared.fs, &self.path.join(name), sums)
    }

    /// Opens the postings; when they are damaged they are made anew from the series table, in memory.
    pub fn lookup(&self) -> Result<Arc<Lookup>, String> {
        self.shared.cache.get((self.id(), Part::Postings, 0), || {
            let cache = self.shared.cache.clone();
            let found = self.open(POSTINGS).and_then(|file| check_all(&file).map(|()| file));
            let opened = found.and_then(|file| Lookup::open(Box::new(file), self.id(), cache.clone()));
            match opened {
                Ok(lookup) => {
                    let bytes = lookup.bytes() + OPEN_FILE_COST_BYTES;
                    Ok((lookup, bytes))
                }
                Err(why) => {
                    let image = self.rebuilt_postings().map_err(|also| format!("{why}; {also}"))?;
                    self.shared.report(&format!("{why}: made anew from {SERIES}"));
                    let bytes = image.len();
                    Ok((Lookup::open(Box::new(image), self.id(), cache)?, bytes))
                }
            }
        })
    }

    fn rebuilt_postings(&self) -> Result<Bytes, String> {
        let file = self.open(SERIES)?;
        let whole = usize::try_from(file.len()).map_err(|e| e.to_string())?;
        let mut writer = PostingsWriter::new(Vec::new()).map_err(|e| e.to_string())?;
        let mut failed = Ok(());
        read_series(file.read_at(0, whole)?, |row| {
            if failed.is_ok() {
                failed = writer.add(&row);
            }
        })
        .map_err(|e| e.to_string())?;
        let image = failed.and_then(|()| writer.finish((0, &[]), None));
        image.map(Bytes::from).map_err(|e| e.to_string())
    }

    /// Opens what samples were rolled up to.
    pub fn open_rollups(&self) -> Result<(RollupsFile, VerifiedFile), String> {
        let source = self.open(ROLLUPS)?;
        Ok((RollupsFile::open(&source).map_err(|e| e.to_string())?, source))
    }

    fn samples(&self) -> Result<Arc<OpenSamples>, String> {
        self.shared.cache.get((self.id(), Part::Samples, 0), || {
            let source = self.open(SAMPLES)?;
            let file = self.open_or_copy(&source, |s| SamplesFile::open(s), Lookup::tail)?;
            let bytes = file.bytes() + OPEN_FILE_COST_BYTES;
            Ok((OpenSamples { source, file }, bytes))
        })
    }

    /// Opens the native histograms.
    pub fn open_histograms(&self) -> Result<Arc<OpenHistograms>, String> {
        self.shared.cache.get((self.id(), Part::Histograms, 0), || {
            let source = self.open(HISTOGRAMS)?;
            let file = self.open_or_copy(&source, |s| HistogramsFile::open(s), Lookup::histograms_tail)?;
            let bytes = file.bytes() + OPEN_FILE_COST_BYTES;
            Ok((OpenHistograms { source, file }, bytes))
        })
    }

    /// Opens a file by its end; when that is damaged, by the end's copy in the postings.
    fn open_or_copy<T>(
        &self,
        source: &VerifiedFile,
        open: impl Fn(&dyn ReadAt) -> Result<T, ColumnsError>,
        copy: impl FnOnce(&Lookup) -> Result<(u64, Vec<u8>), String>,
    ) -> Result<T, String> {
        open(source).or_else(|why| {
            let copied = self.lookup().and_then(|lookup| copy(&lookup));
            let opened = copied.and_then(|(start, tail)| {
                open(&Tail { start, len: source.len(), bytes: Bytes::from(tail) }).map_err(|e| e.to_string())
            });
            let file = opened.map_err(|also| format!("{why}; {also}"))?;
            self.shared.report(&format!("{why}: its end is read from the copy in {POSTINGS}"));
            Ok(file)
        })
    }

    /// Reads a page of histograms.
    pub fn histogram_page(&self, open: &OpenHistograms, page: usize) -> Result<Arc<Vec<StoredHistogram>>, String> {
        self.shared.cache.get((self.id(), Part::HistogramPage, page as u64), || {
            let (rows, bytes) = open.file.read_page(&open.source, page).map_err(|e| e.to_string())?;
            // Decoded counts are doubles where the bytes have a few bits.
            let cost = bytes * 8 + rows.len() * HISTOGRAM_COST_BYTES;
            Ok((rows, cost))
        })
    }

    /// Reads a page of a column.
    pub fn page(&self, samples: &OpenSamples, column: Column, page: usize) -> Result<Arc<ColumnPage>, String> {
        let number = page as u64 * 4 + column as u64;
        self.shared.cache.get((self.id(), Part::Page, number), || {
            let decoded = samples.file.read_page(&samples.source, column, page).map_err(|e| e.to_string())?;
            let bytes = decoded.bytes();
            Ok((decoded, bytes))
        })
    }

    /// Opens the samples file and gives the places of its pages.
    pub fn open_samples(&self) -> Result<(Arc<OpenSamples>, u64), String> {
        let samples = self.samples()?;
        let rows = samples.file.rows();
        Ok((samples, rows))
    }

    /// Finds the series that all matchers accept and that have samples in a range, in the order of their labels.
    pub fn select(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<SeriesRow>, String> {
        let lookup = self.lookup()?;
        let ids = lookup.matching(matchers)?;
        let mut out = Vec::with_capacity(ids.len());
        lookup.visit(&ids, |_, row| {
            if range.overlaps(&TimeRange { start_ms: row.min_ts_ms, end_ms: row.max_ts_ms }) {
                out.push(row.clone());
            }
        })?;
        Ok(out)
    }

    /// Tells whether all of it lies in a range.
    pub fn is_within(&self, range: TimeRange) -> bool {
        range.contains(self.manifest.min_ms) && range.contains(self.manifest.max_ms)
    }

    /// Renames it to a name that a start removes; what follows may be lost in a crash.
    pub fn retire(&self, blocks_dir: &Path) -> std::io::Result<()> {
        let fs = &*self.shared.fs;
        self.shared.cache.forget(self.id());
        let gone = blocks_dir.join(format!("{GONE}{}", self.id()));
        // After a failure half-way it is called again.
        if fs.exists(&self.path) {
            fs.rename(&self.path, &gone)?;
        }
        fs.sync_dir(blocks_dir)?;
        if fs.exists(&gone) { fs.remove_dir_all(&gone) } else { Ok(()) }
    }
}

/// How the names of folders begin that are on their way out.
pub const GONE: &str = "gone-";

impl OpenSamples {
    /// Gives the page of a row with its first row and the next page's.
    pub fn page_at(&self, row: u64) -> Result<(usize, u64, u64), String> {
        let place = self.file.page_of(row).and_then(|page| {
            let (first, next) = self.file.page_span(page)?;
            Some((page, first, next))
        });
        place.ok_or_else(|| format!("{SAMPLES} has no row {row}"))
    }
}

/// Verifies a whole file, stretch by stretch: postings are small, and a lookup must not fail half-way.
fn check_all(file: &VerifiedFile) -> Result<(), String> {
    const STEP_BYTES: u64 = 64 << 10;
    let mut at = 0;
    while at < file.len() {
        let len = (file.len() - at).min(STEP_BYTES);
        file.read_at(at, len as usize)?;
        at += len;
    }
    Ok(())
}

/// The end of a file, standing for the whole where only the end is asked for.
struct Tail {
    start: u64,
    len: u64,
    bytes: Bytes,
}

impl ReadAt for Tail {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, String> {
        let within = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let range = within.and_then(|at| Some(at..at.checked_add(len)?));
        let inside = range.filter(|r| r.end <= self.bytes.len());
        inside.map(|r| self.bytes.slice(r)).ok_or_else(|| "the copy of the end does not reach that far".to_owned())
    }
}
