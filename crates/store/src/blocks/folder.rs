//! The blocks of a data directory.
//!
//! Owns: the folder `blocks`, and which of its blocks are in use.
//! Invariants: 1. of the readable blocks no two hold the same series and time: what was written before is left out of
//! what is written later; 2. whoever reads holds no lock; 3. a block is on the list only when it is durable.
//! Limits: what is decoded and open stays below `cache_bytes_max`; see `compact.rs` for merging, `removal.rs` for removal.
//! Fails how: a damaged block is told and left out or, in part, answered with errors; the others are not touched.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use columns::SeriesRow;
use hashbrown::{HashMap, HashSet};
use model::{Matcher, SelectError, SeriesReader, TimeRange};
use parking_lot::{Mutex, RwLock};
use sys::{Clock, Fs, RealClock};

use super::block::{Block, GONE, Shared};
use super::cache::Cache;
use super::compact::{Checked, Failed};
use super::cursor::{Cursor, LeftOut, leave_out};
use super::deletions::{self, DELETIONS_MAX, Deletion};
use super::manifest::{Balance, Manifest};
use super::masks::{Masks, RetentionRules, RowMask};
use super::merge::verify;
use super::pace::Pace;
use super::reader::BlockReader;
use super::removal::Leaving;
use super::view::write_view;
use super::writer::{BlockWriter, UNFINISHED, parse_folder_name, span};
use super::{BlockInfo, BlockInput, BlockSet, BlockTables, BlockTotals, Stop, TablesOf};
use crate::admin::Doomed;

const DAMAGED: &str = "damaged";

/// How a folder of blocks is kept.
#[derive(Clone)]
pub struct BlockSettings {
    /// What may be kept open and decoded for queries.
    pub cache_bytes_max: usize,
    /// Lengths of the larger windows that windows are merged into, rising, each a multiple of the one before.
    pub compaction_ranges_ms: Vec<i64>,
    /// What a merge may keep open and decoded of its sources.
    pub compaction_memory_bytes_max: usize,
    /// Blocks are not merged into larger ones than this.
    pub compaction_block_bytes_max: u64,
    /// Tells what is past its retention.
    pub clock: Arc<dyn Clock>,
    /// How long samples are kept.
    pub rules: RetentionRules,
}

impl BlockSettings {
    /// Keeps everything, and merges only within a window.
    pub fn new(cache_bytes_max: usize) -> BlockSettings {
        BlockSettings {
            cache_bytes_max,
            compaction_ranges_ms: Vec::new(),
            compaction_memory_bytes_max: 64 << 20,
            compaction_block_bytes_max: u64::MAX,
            clock: Arc::new(RealClock::default()),
            rules: RetentionRules::uniform(i64::MAX),
        }
    }
}

/// All blocks.
pub struct BlockFolder {
    pub(super) shared: Arc<Shared>,
    pub(super) dir: PathBuf,
    pub(super) settings: BlockSettings,
    /// In use, sorted by window and number.
    blocks: RwLock<Arc<Vec<Arc<Block>>>>,
    /// Held while the list changes on disk.
    pub(super) writing: Mutex<Writing>,
    /// Held during a merge; comes before `writing`.
    pub(super) compacting: Mutex<()>,
    /// What all merges since the start took in and left out.
    pub(super) merged: Mutex<Balance>,
    pub(super) failed_merges: AtomicU64,
    repeated: AtomicU64,
    superseded: AtomicU64,
    /// The view does not show the present list.
    view_is_old: AtomicBool,
}

/// What changes with the list on disk.
pub struct Writing {
    pub next_id: u64,
    /// Blocks that are on the disk but not on the list.
    pub leaving: Vec<Leaving>,
    /// Sources of the merge that runs.
    pub busy: HashSet<u64>,
    /// Sources of merges that failed.
    pub failed: HashMap<Vec<u64>, Failed>,
    /// Blocks that were looked at for hidden samples.
    pub checked: HashMap<u64, Checked>,
    pub deletions_revision: u64,
    /// Blocks without a series that is rolled up to a resolution, under a version of the masks.
    pub nothing_to_roll: HashSet<(u64, i64, u64)>,
}

impl BlockFolder {
    /// Opens the folder as [`BlockFolder::open_with`] does, with plain settings.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, cache_bytes_max: usize) -> Result<(BlockFolder, Vec<String>), String> {
        BlockFolder::open_with(fs, dir, BlockSettings::new(cache_bytes_max))
    }

    /// Opens the folder, making it if needed; removes what is unfinished, sets aside what cannot be read.
    ///
    /// **Gives** also the sentences about damage.
    pub fn open_with(
        fs: Arc<dyn Fs>,
        dir: &Path,
        settings: BlockSettings,
    ) -> Result<(BlockFolder, Vec<String>), String> {
        let text = |error: io::Error| format!("{}: {error}", dir.display());
        if !fs.exists(dir) {
            fs.create_dir_all(dir).map_err(text)?;
        }
        // It may be there and yet not be durable, after a crash in an earlier first start.
        fs.sync_dir(dir.parent().unwrap_or(Path::new("."))).map_err(text)?;
        let (deletions_revision, deletions, told) = deletions::load(&*fs, dir).map_err(text)?;
        // Numbers below that of a deletion would be taken for older than it.
        let id_max = deletions.iter().map(|d| d.before_block.saturating_sub(1)).max().unwrap_or(0);
        let masks = Masks { version: 0, deletions, rules: settings.rules.clone() };
        let shared = Arc::new(Shared {
            fs,
            cache: Arc::new(Cache::new(settings.cache_bytes_max)),
            clock: settings.clock.clone(),
            damaged: Arc::new(AtomicU64::new(told.len() as u64)),
            masks: Arc::new(RwLock::new(Arc::new(masks))),
        });
        let mut opening = Opening { shared: &shared, dir, found: Vec::new(), id_max, damaged: told };
        opening.folder().map_err(text)?;
        let Opening { found, id_max, damaged, .. } = opening;
        let gone: HashSet<u64> = found.iter().flat_map(|b| b.manifest.replaces.iter().copied()).collect();
        let (replaced, mut blocks): (Vec<_>, Vec<_>) = found.into_iter().partition(|b| gone.contains(&b.id()));
        sort(&mut blocks);
        let writing = Writing {
            next_id: id_max + 1,
            leaving: replaced.into_iter().map(Leaving::replaced).collect(),
            busy: HashSet::new(),
            failed: HashMap::new(),
            checked: HashMap::new(),
            deletions_revision,
            nothing_to_roll: HashSet::new(),
        };
        let folder = BlockFolder {
            shared,
            dir: dir.to_path_buf(),
            settings,
            blocks: RwLock::new(Arc::new(blocks)),
            writing: Mutex::new(writing),
            compacting: Mutex::new(()),
            merged: Mutex::default(),
            failed_merges: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            superseded: AtomicU64::new(0),
            view_is_old: AtomicBool::new(false),
        };
        folder.refresh_view();
        Ok((folder, damaged))
    }

    pub(super) fn list(&self) -> Arc<Vec<Arc<Block>>> {
        self.blocks.read().clone()
    }

    /// Puts a new list in place, for readers here and elsewhere.
    pub(super) fn replace_list(&self, mut blocks: Vec<Arc<Block>>) {
        sort(&mut blocks);
        *self.blocks.write() = Arc::new(blocks);
        self.refresh_view();
    }

    /// Writes the view. That fails when the disk is full: the samples are safe all the same, and it is tried again.
    fn refresh_view(&self) {
        let list = self.list();
        let written = write_view(&*self.shared.fs, &self.dir, list.iter().map(|b| (&*b.path, &b.manifest)));
        self.view_is_old.store(written.is_err(), Ordering::Release);
        if let Err(error) = written {
            tracing::warn!("cannot write metrics_ts.sql beside {}: {error}", self.dir.display());
        }
    }

    /// Opens cursors over the blocks that a new block of a window must not repeat.
    pub(super) fn rivals(&self, window: TimeRange) -> Vec<Cursor> {
        let list = self.list();
        let inside = list.iter().filter(|b| b.manifest.resolution_ms.is_none() && b.manifest.span().overlaps(&window));
        inside.filter_map(|block| self.readable(Cursor::new(block.clone()))).collect()
    }

    /// Tells of damage in an older block: what is written now must not fail for it.
    fn readable<T>(&self, result: Result<T, String>) -> Option<T> {
        result.inspect_err(|why| self.shared.report(why)).ok()
    }

    pub(super) fn leave_out_known(&self, input: &mut BlockInput, rivals: &mut [Cursor]) -> LeftOut {
        let mut left_out = LeftOut::default();
        for rival in rivals {
            let Some(range) = span(&input.samples) else { break };
            if let Some(Some(known)) = self.readable(rival.samples_of(&input.labels, range)) {
                left_out.merge(leave_out(&mut input.samples, &known));
            }
        }
        left_out
    }

    pub(super) fn note(&self, left_out: LeftOut) {
        self.repeated.fetch_add(left_out.repeated, Ordering::Relaxed);
        self.superseded.fetch_add(left_out.superseded, Ordering::Relaxed);
    }

    /// Visits the blocks with samples in a range.
    fn in_range(&self, range: TimeRange) -> Vec<Arc<Block>> {
        self.list().iter().filter(|b| b.manifest.span().overlaps(&range)).cloned().collect()
    }

    /// Finds the series of a block that may be read in a range.
    fn visible(
        &self,
        block: &Block,
        matchers: &[Matcher],
        range: TimeRange,
    ) -> Result<Vec<(SeriesRow, RowMask)>, String> {
        let (masks, now_ms) = (self.shared.masks(), self.shared.clock.now_ms());
        let with_mask = |row: SeriesRow| {
            let mask = masks.of(&block.manifest, &row.labels, &row.target_id, now_ms);
            let start_ms = row.min_ts_ms.max(range.start_ms);
            let inside = TimeRange { start_ms, end_ms: row.max_ts_ms.min(range.end_ms) };
            (!mask.hides_all(inside)).then_some((row, mask))
        };
        Ok(block.select(matchers, range)?.into_iter().filter_map(with_mask).collect())
    }

    /// Tells whether all that lies in a block may be read.
    fn is_all_visible(&self, block: &Block) -> bool {
        let masks = self.shared.masks();
        let deleted = masks.deletions.iter().any(|d| block.id() < d.before_block);
        !deleted && masks.rules.is_uniform() && block.manifest.resolution_ms.is_none()
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
        let (mut manifest, mut sentences) = Manifest::load(&*self.shared.fs, &path);
        if manifest.is_none() {
            // A disk that does not answer is no damage: nothing is set aside for it, and the next start may fare better.
            Manifest::readable(&*self.shared.fs, &path)?;
            (manifest, sentences) = Manifest::load(&*self.shared.fs, &path);
        }
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
            // Read back from the disk, every sample of it, before the head may forget them.
            let checked = writer.finish().and_then(|block| verify(&block));
            self.shared.cache.forget(id);
            checked.inspect_err(|why| self.shared.report(why))?;
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
            let rows = match self.visible(&block, matchers, range) {
                Err(_) if block.removed.load(Ordering::Acquire) => continue,
                other => other.map_err(SelectError::Storage)?,
            };
            out.reserve(rows.len());
            out.extend(rows.into_iter().map(|(row, mask)| {
                let block = block.clone();
                Box::new(BlockReader { block, row, mask }) as Box<dyn SeriesReader>
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
            if matchers.is_empty() && block.is_within(range) && self.is_all_visible(&block) {
                block.lookup().map_err(SelectError::Storage)?.names().for_each(&mut add);
                continue;
            }
            for (row, _) in self.visible(&block, matchers, range).map_err(SelectError::Storage)? {
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
            if matchers.is_empty() && block.is_within(range) && self.is_all_visible(&block) {
                let table = block.lookup().and_then(|l| l.table(name)).map_err(SelectError::Storage)?;
                table.iter().for_each(|t| t.values().for_each(&mut add));
                continue;
            }
            for (row, _) in self.visible(&block, matchers, range).map_err(SelectError::Storage)? {
                row.labels.get(name).into_iter().for_each(&mut add);
            }
        }
        Ok(values.into_iter().collect())
    }

    fn drop_before(&self, ts_ms: i64) -> Result<u64, String> {
        self.drop_older(ts_ms)
    }

    fn shrink_to(&self, bytes_max: u64) -> Result<u64, String> {
        self.drop_beyond(bytes_max)
    }

    fn tidy(&self, now_ms: i64) -> Result<u64, String> {
        let merged = self.compact(i64::MIN, now_ms, &Arc::new(Pace::new(0)))?;
        self.clean(now_ms).map(|()| merged)
    }

    fn clean(&self, now_ms: i64) -> Result<(), String> {
        let mut writing = self.writing.lock();
        if self.view_is_old.load(Ordering::Acquire) {
            self.refresh_view();
        }
        self.remove_due(&mut writing, now_ms)
    }

    fn compact(&self, closed_ms: i64, now_ms: i64, pace: &Arc<Pace>) -> Result<u64, String> {
        self.compact_once(closed_ms, now_ms, pace)
    }

    fn retain(&self, rules: RetentionRules) {
        self.change_masks(|masks| masks.rules = rules);
    }

    fn delete(&self, doomed: Vec<Doomed>, range: TimeRange, now_ms: i64) -> Result<(), String> {
        let mut writing = self.writing.lock();
        let before_block = writing.next_id;
        let one = |doomed| Deletion { before_block, doomed, range, made_ms: now_ms };
        let mut list = self.shared.masks().deletions.clone();
        list.extend(doomed.into_iter().map(one));
        if list.len() > DELETIONS_MAX {
            return Err(format!("{DELETIONS_MAX} deletions wait already for their samples to go from the disk"));
        }
        self.put_deletions(&mut writing, list)
    }

    fn copy_to(&self, dir: &Path) -> Result<(), String> {
        // Held, so that nothing is removed meanwhile.
        let writing = self.writing.lock();
        self.copy_blocks(&writing, dir).map_err(|e| e.to_string())
    }

    fn infos(&self) -> Vec<BlockInfo> {
        self.list().iter().map(|b| BlockInfo { path: b.path.clone(), manifest: b.manifest.clone() }).collect()
    }

    fn notes(&self, matchers: &[Matcher], range: TimeRange) -> Vec<String> {
        let mut resolutions = BTreeSet::new();
        for block in self.in_range(range) {
            let Some(resolution_ms) = block.manifest.resolution_ms.filter(|r| !resolutions.contains(r)) else {
                continue;
            };
            if self.visible(&block, matchers, range).is_ok_and(|rows| !rows.is_empty()) {
                resolutions.insert(resolution_ms);
            }
        }
        let note = |ms: &i64| {
            let text = model::format_duration_ms(*ms);
            format!("older samples are answered from roll-ups: first, last, least and greatest of each {text}")
        };
        resolutions.iter().map(note).collect()
    }

    fn tables(&self, range: TimeRange, of: TablesOf, stop: Stop<'_>) -> Result<BlockTables, SelectError> {
        self.files_in(range, of, stop)
    }

    fn totals(&self) -> BlockTotals {
        let list = self.list();
        let mut totals = BlockTotals {
            blocks: list.len() as u64,
            superseded: self.superseded.load(Ordering::Relaxed),
            merged: *self.merged.lock(),
            failed_merges: self.failed_merges.load(Ordering::Relaxed),
            deletions: self.shared.masks().deletions.len() as u64,
            damaged: self.shared.damaged.load(Ordering::Relaxed),
            min_ms: list.iter().map(|b| b.manifest.min_ms).min(),
            max_ms: list.iter().map(|b| b.manifest.max_ms).max(),
            ..BlockTotals::default()
        };
        for block in list.iter() {
            totals.bytes += block.manifest.bytes();
            if block.manifest.resolution_ms.is_some() {
                totals.rollups += 1;
                continue;
            }
            totals.samples += block.manifest.samples;
            totals.histograms += block.manifest.histograms;
        }
        totals
    }
}
