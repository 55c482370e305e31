//! The blocks of a data directory.
//!
//! Owns: the folder `blocks`, and which of its blocks are in use.
//! Invariants: 1. of the readable blocks no two hold the same series and time: what was written before is left out of
//! what is written later; 2. whoever reads holds no lock; 3. a block is on the list only when it is durable.
//! Limits: what is decoded and open stays below `cache_bytes_max`; a merge is tried for one window with more than
//! [`BLOCKS_OF_WINDOW_MAX`] blocks at a time.
//! Fails how: a damaged block is told and left out or, in part, answered with errors; the others are not touched.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::{HashMap, HashSet};
use model::{Matcher, SelectError, SeriesReader, TimeRange};
use parking_lot::{Mutex, RwLock};
use sys::Fs;

use super::block::{Block, GONE, Shared};
use super::cache::Cache;
use super::cursor::{Cursor, LeftOut, leave_out};
use super::manifest::Manifest;
use super::merge::merge;
use super::reader::BlockReader;
use super::view::write_view;
use super::writer::{BlockWriter, UNFINISHED, parse_folder_name, span};
use super::{BlockInput, BlockSet, BlockTotals};

/// More blocks of one window than this are merged into one.
pub const BLOCKS_OF_WINDOW_MAX: usize = 4;
/// How long replaced blocks live on for readers that have an older list.
const REPLACED_LIVE_MS: i64 = 600_000;
const DAMAGED: &str = "damaged";

/// All blocks.
pub struct BlockFolder {
    shared: Arc<Shared>,
    dir: PathBuf,
    /// In use, sorted by window and number.
    blocks: RwLock<Arc<Vec<Arc<Block>>>>,
    /// Held while the list changes on disk.
    writing: Mutex<Writing>,
    repeated: AtomicU64,
    superseded: AtomicU64,
    /// The view does not show the present list.
    view_is_old: AtomicBool,
}

struct Writing {
    next_id: u64,
    /// Blocks whose samples are in another one, and when they go; `None` until the next tidying.
    replaced: Vec<(Arc<Block>, Option<i64>)>,
    /// Windows that did not merge; tried again after a restart.
    stuck: HashSet<i64>,
}

impl BlockFolder {
    /// Opens the folder, making it if needed; removes what is unfinished, sets aside what cannot be read.
    ///
    /// **Gives** also the sentences about damage.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, cache_bytes_max: usize) -> Result<(BlockFolder, Vec<String>), String> {
        let text = |error: io::Error| format!("{}: {error}", dir.display());
        if !fs.exists(dir) {
            fs.create_dir_all(dir).map_err(text)?;
        }
        // It may be there and yet not be durable, after a crash in an earlier first start.
        fs.sync_dir(dir.parent().unwrap_or(Path::new("."))).map_err(text)?;
        let cache = Arc::new(Cache::new(cache_bytes_max));
        let shared = Arc::new(Shared { fs, cache, damaged: AtomicU64::new(0) });
        let mut opening = Opening { shared: &shared, dir, found: Vec::new(), id_max: 0, damaged: Vec::new() };
        opening.folder().map_err(text)?;
        let Opening { found, id_max, damaged, .. } = opening;
        let gone: HashSet<u64> = found.iter().flat_map(|b| b.manifest.replaces.iter().copied()).collect();
        let (replaced, mut blocks): (Vec<_>, Vec<_>) = found.into_iter().partition(|b| gone.contains(&b.id()));
        sort(&mut blocks);
        let replaced = replaced.into_iter().map(|b| (b, None)).collect();
        let folder = BlockFolder {
            shared,
            dir: dir.to_path_buf(),
            blocks: RwLock::new(Arc::new(blocks)),
            writing: Mutex::new(Writing { next_id: id_max + 1, replaced, stuck: HashSet::new() }),
            repeated: AtomicU64::new(0),
            superseded: AtomicU64::new(0),
            view_is_old: AtomicBool::new(false),
        };
        folder.refresh_view();
        Ok((folder, damaged))
    }

    fn list(&self) -> Arc<Vec<Arc<Block>>> {
        self.blocks.read().clone()
    }

    /// Puts a new list in place, for readers here and elsewhere.
    fn replace_list(&self, mut blocks: Vec<Arc<Block>>) {
        sort(&mut blocks);
        *self.blocks.write() = Arc::new(blocks);
        self.refresh_view();
    }

    /// Writes the view. That fails when the disk is full: the samples are safe all the same, and it is tried again.
    fn refresh_view(&self) {
        let list = self.list();
        let written =
            write_view(&*self.shared.fs, &self.dir, list.iter().map(|b| (&*b.path, b.manifest.histograms > 0)));
        self.view_is_old.store(written.is_err(), Ordering::Release);
        if let Err(error) = written {
            tracing::warn!("cannot write metrics_ts.sql beside {}: {error}", self.dir.display());
        }
    }

    /// Opens cursors over the blocks that a new block of a window must not repeat.
    fn rivals(&self, window: TimeRange) -> Vec<Cursor> {
        let list = self.list();
        let inside = list.iter().filter(|b| b.manifest.span().overlaps(&window));
        inside.filter_map(|block| self.readable(Cursor::new(block.clone()))).collect()
    }

    /// Tells of damage in an older block: what is written now must not fail for it.
    fn readable<T>(&self, result: Result<T, String>) -> Option<T> {
        result.inspect_err(|why| self.shared.report(why)).ok()
    }

    fn leave_out_known(&self, input: &mut BlockInput, rivals: &mut [Cursor]) -> LeftOut {
        let mut left_out = LeftOut::default();
        for rival in rivals {
            let Some(range) = span(&input.samples) else { break };
            if let Some(Some(known)) = self.readable(rival.samples_of(&input.labels, range)) {
                left_out.merge(leave_out(&mut input.samples, &known));
            }
        }
        left_out
    }

    fn note(&self, left_out: LeftOut) {
        self.repeated.fetch_add(left_out.repeated, Ordering::Relaxed);
        self.superseded.fetch_add(left_out.superseded, Ordering::Relaxed);
    }

    /// Visits the blocks with samples in a range.
    fn in_range(&self, range: TimeRange) -> Vec<Arc<Block>> {
        self.list().iter().filter(|b| b.manifest.span().overlaps(&range)).cloned().collect()
    }

    /// Merges the blocks of one window that has too many; gives how many went into the new one.
    fn merge_one(&self, writing: &mut Writing) -> Result<u64, String> {
        let list = self.list();
        let mut windows: HashMap<i64, Vec<Arc<Block>>> = HashMap::new();
        for block in list.iter() {
            windows.entry(block.manifest.window_start_ms).or_default().push(block.clone());
        }
        let crowded = |(start, blocks): &(&i64, &Vec<Arc<Block>>)| {
            blocks.len() > BLOCKS_OF_WINDOW_MAX && !writing.stuck.contains(*start)
        };
        let Some((start, sources)) = windows.iter().filter(crowded).min_by_key(|w| w.0) else { return Ok(0) };
        let id = writing.next_id;
        writing.next_id += 1;
        let merged = merge(&self.shared, &self.dir, id, sources);
        let (block, left_out) = merged.inspect_err(|_| {
            writing.stuck.insert(*start);
        })?;
        self.note(left_out);
        let gone: HashSet<u64> = sources.iter().map(|b| b.id()).collect();
        let mut blocks: Vec<Arc<Block>> = list.iter().filter(|b| !gone.contains(&b.id())).cloned().collect();
        blocks.push(Arc::new(block));
        self.replace_list(blocks);
        writing.replaced.extend(sources.iter().map(|b| (b.clone(), None)));
        Ok(sources.len() as u64)
    }

    fn remove_replaced(&self, writing: &mut Writing, now_ms: i64) -> io::Result<()> {
        for entry in &mut writing.replaced {
            entry.1.get_or_insert(now_ms.saturating_add(REPLACED_LIVE_MS));
        }
        let over = |entry: &(Arc<Block>, Option<i64>)| entry.1.is_some_and(|at| at <= now_ms);
        while let Some(at) = writing.replaced.iter().position(over) {
            let (block, _) = writing.replaced.remove(at);
            block.retire(&self.dir)?;
        }
        Ok(())
    }
}

fn sort(blocks: &mut [Arc<Block>]) {
    blocks.sort_by_key(|b| (b.manifest.window_start_ms, b.id()));
}

struct Opening<'a> {
    shared: &'a Arc<Shared>,
    dir: &'a Path,
    found: Vec<Arc<Block>>,
    id_max: u64,
    damaged: Vec<String>,
}

impl Opening<'_> {
    fn folder(&mut self) -> io::Result<()> {
        let fs = &*self.shared.fs;
        let aside = self.dir.join(DAMAGED);
        let kept_aside = if fs.exists(&aside) { fs.list(&aside)? } else { Vec::new() };
        for name in kept_aside {
            self.id_max = self.id_max.max(parse_folder_name(&name).unwrap_or(0));
        }
        for name in fs.list(self.dir)? {
            if name.starts_with(UNFINISHED) || name.starts_with(GONE) {
                fs.remove_dir_all(&self.dir.join(&name))?;
            } else if let Some(id) = parse_folder_name(&name) {
                self.id_max = self.id_max.max(id);
                self.block(&name)?;
            }
        }
        Ok(())
    }

    fn block(&mut self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        let (manifest, sentences) = Manifest::load(&*self.shared.fs, &path);
        let told = sentences.join("; ");
        match manifest {
            Some(manifest) => {
                if !sentences.is_empty() {
                    self.damaged.push(format!("{told}: the other copy is used"));
                }
                self.found.push(Arc::new(Block::new(self.shared.clone(), path, manifest)));
            }
            None => {
                self.set_aside(&path, name)?;
                self.damaged.push(format!("{told}: the block is set aside as blocks/{DAMAGED}/{name}"));
            }
        }
        self.shared.damaged.fetch_add(sentences.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn set_aside(&self, path: &Path, name: &str) -> io::Result<()> {
        let fs = &*self.shared.fs;
        let aside = self.dir.join(DAMAGED);
        if !fs.exists(&aside) {
            fs.create_dir_all(&aside)?;
            fs.sync_dir(self.dir)?;
        }
        fs.rename(path, &aside.join(name))?;
        fs.sync_dir(&aside)?;
        fs.sync_dir(self.dir)
    }
}

impl BlockSet for BlockFolder {
    fn write(&self, window: TimeRange, series: &mut dyn Iterator<Item = BlockInput>) -> Result<(), String> {
        let mut writing = self.writing.lock();
        let id = writing.next_id;
        writing.next_id += 1;
        let mut rivals = self.rivals(window);
        let mut left_out = LeftOut::default();
        let mut writer = BlockWriter::new(self.shared.clone(), &self.dir, id, window);
        for mut input in series {
            left_out.merge(self.leave_out_known(&mut input, &mut rivals));
            writer.add(&input)?;
        }
        if !writer.is_empty() {
            writer.finish()?;
            let block = writer.publish()?;
            let mut blocks = self.list().to_vec();
            blocks.push(Arc::new(block));
            self.replace_list(blocks);
        }
        self.note(left_out);
        Ok(())
    }

    fn select(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<Box<dyn SeriesReader>>, SelectError> {
        let mut out: Vec<Box<dyn SeriesReader>> = Vec::new();
        for block in self.in_range(range) {
            let rows = match block.select(matchers, range) {
                Err(_) if block.removed.load(Ordering::Acquire) => continue,
                other => other.map_err(SelectError::Storage)?,
            };
            out.reserve(rows.len());
            out.extend(rows.into_iter().map(|row| {
                let block = block.clone();
                Box::new(BlockReader { block, row }) as Box<dyn SeriesReader>
            }));
        }
        Ok(out)
    }

    fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError> {
        let mut names: HashSet<String> = HashSet::new();
        let mut add = |name: &str| {
            if !names.contains(name) {
                names.insert(name.to_owned());
            }
        };
        for block in self.in_range(range) {
            if matchers.is_empty() && block.is_within(range) {
                block.lookup().map_err(SelectError::Storage)?.names().for_each(&mut add);
                continue;
            }
            for row in block.select(matchers, range).map_err(SelectError::Storage)? {
                row.labels.iter().for_each(|(name, _)| add(name));
            }
        }
        Ok(names.into_iter().collect())
    }

    fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError> {
        let mut values: HashSet<String> = HashSet::new();
        let mut add = |value: &str| {
            if !values.contains(value) {
                values.insert(value.to_owned());
            }
        };
        for block in self.in_range(range) {
            if matchers.is_empty() && block.is_within(range) {
                let table = block.lookup().and_then(|l| l.table(name)).map_err(SelectError::Storage)?;
                table.iter().for_each(|t| t.values().for_each(&mut add));
                continue;
            }
            for row in block.select(matchers, range).map_err(SelectError::Storage)? {
                row.labels.get(name).into_iter().for_each(&mut add);
            }
        }
        Ok(values.into_iter().collect())
    }

    fn drop_before(&self, ts_ms: i64) -> Result<u64, String> {
        let mut writing = self.writing.lock();
        let (gone, kept): (Vec<_>, Vec<_>) = self.list().iter().cloned().partition(|b| b.manifest.max_ms < ts_ms);
        let (old, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut writing.replaced).into_iter().partition(|b| b.0.manifest.max_ms < ts_ms);
        writing.replaced = still;
        if !gone.is_empty() {
            gone.iter().for_each(|b| b.removed.store(true, Ordering::Release));
            self.replace_list(kept);
        }
        // A merged block goes after what it replaced, or that would come back at the next start.
        for block in old.iter().map(|b| &b.0).chain(&gone) {
            block.retire(&self.dir).map_err(|e| format!("cannot remove {}: {e}", block.path.display()))?;
        }
        Ok(gone.len() as u64)
    }

    fn tidy(&self, now_ms: i64) -> Result<u64, String> {
        let mut writing = self.writing.lock();
        if self.view_is_old.load(Ordering::Acquire) {
            self.refresh_view();
        }
        let merged = self.merge_one(&mut writing)?;
        self.remove_replaced(&mut writing, now_ms).map_err(|e| format!("cannot remove replaced blocks: {e}"))?;
        Ok(merged)
    }

    fn totals(&self) -> BlockTotals {
        let list = self.list();
        let mut totals = BlockTotals {
            blocks: list.len() as u64,
            superseded: self.superseded.load(Ordering::Relaxed),
            damaged: self.shared.damaged.load(Ordering::Relaxed),
            min_ms: list.iter().map(|b| b.manifest.min_ms).min(),
            max_ms: list.iter().map(|b| b.manifest.max_ms).max(),
            ..BlockTotals::default()
        };
        for block in list.iter() {
            totals.bytes += block.manifest.bytes();
            totals.samples += block.manifest.samples;
            totals.histograms += block.manifest.histograms;
        }
        totals
    }
}
