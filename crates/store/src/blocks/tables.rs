//! The blocks as files for a reader that is not ours, such as the SQL of the analytics process, at one moment.
//!
//! Invariants: 1. the files given are those of one list of blocks, and what is looked up beside them is looked up in the
//! same list; 2. a file is given only when every byte of it had its checksum once since the start.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use columns::ReadAt;
use model::{Labels, SelectError, SeriesReader, TimeRange};
use parking_lot::Mutex;

use super::block::Block;
use super::checksums::VerifiedFile;
use super::folder::BlockFolder;
use super::manifest::{ROLLUPS, SAMPLES, SERIES};
use super::reader::BlockReader;

/// Stretches of hidden rows that are told to a reader.
const HIDDEN_MAX: usize = 2_000_000;
/// Bytes that are verified at a time.
const STEP_BYTES: u64 = 1 << 20;
/// How often one who waits for a file to be verified looks whether he still has to.
const LOOK: Duration = Duration::from_millis(50);

/// What of the blocks is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TablesOf {
    /// Samples and their series; roll-ups are left out.
    Samples,
    /// Series, and roll-ups with theirs; files of samples are named, but not verified.
    SeriesAndRollups,
}

/// Asked whether nobody waits for an answer any more.
#[derive(Clone, Copy)]
pub struct Stop<'a>(pub &'a (dyn Fn() -> bool + Sync));

impl Stop<'_> {
    /// For those who wait to the end.
    pub const NEVER: Stop<'static> = Stop(&|| false);

    /// Gives an error when it is so.
    pub fn check(self) -> Result<(), SelectError> {
        if (self.0)() { Err(SelectError::Limit("nobody waits for the answer any more".to_owned())) } else { Ok(()) }
    }
}

/// One block's files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockFiles {
    /// Its series.
    pub series: PathBuf,
    /// Its samples; of a roll-up, its stretches.
    pub rows: PathBuf,
    /// The length of the stretches of a roll-up.
    pub resolution_ms: Option<i64>,
}

/// Rows that a reader must leave out: deleted, or past their retention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HiddenRows {
    /// Of this series of a block.
    pub series_id: i64,
    /// From here.
    pub start_ms: i64,
    /// To here, included.
    pub end_ms: i64,
}

/// The blocks with samples in a range, at one moment.
pub struct BlockTables {
    blocks: Vec<Arc<Block>>,
    /// What to read.
    pub files: Vec<BlockFiles>,
    /// What to leave out of it.
    pub hidden: Vec<HiddenRows>,
}

impl BlockTables {
    /// Gives none.
    pub fn none() -> BlockTables {
        BlockTables { blocks: Vec::new(), files: Vec::new(), hidden: Vec::new() }
    }

    /// Gives the series of these blocks with samples in a range, those that are wanted; a label set may come several times.
    /// Roll-ups are left out.
    pub fn readers(
        &self,
        range: TimeRange,
        wanted: impl Fn(&Labels) -> bool,
    ) -> Result<Vec<Box<dyn SeriesReader>>, SelectError> {
        let mut out: Vec<Box<dyn SeriesReader>> = Vec::new();
        for block in self.raw().filter(|b| b.manifest.span().overlaps(&range)) {
            let (masks, now_ms) = (block.shared.masks(), block.shared.clock.now_ms());
            let rows = block.select(&[], range).map_err(SelectError::Storage)?;
            for row in rows.into_iter().filter(|row| wanted(&row.labels)) {
                let mask = masks.of(&block.manifest, &row.labels, &row.target_id, now_ms);
                out.push(Box::new(BlockReader { block: block.clone(), row, mask }));
            }
        }
        Ok(out)
    }

    fn raw(&self) -> impl Iterator<Item = &Arc<Block>> {
        self.blocks.iter().filter(|b| b.manifest.resolution_ms.is_none())
    }
}

impl BlockFolder {
    /// Gives the blocks with samples in a range as files.
    ///
    /// **Takes** `stop`, which is asked all the while whether nobody waits any more; then this is an error.
    /// **Cost** the first time each file is read whole, to verify it.
    pub fn files_in(&self, range: TimeRange, of: TablesOf, stop: Stop<'_>) -> Result<BlockTables, SelectError> {
        let wanted = |b: &&Arc<Block>| {
            b.manifest.span().overlaps(&range) && (of != TablesOf::Samples || b.manifest.resolution_ms.is_none())
        };
        let blocks: Vec<Arc<Block>> = self.list().iter().filter(wanted).cloned().collect();
        let mut tables = BlockTables::none();
        for block in blocks {
            let is_rollup = block.manifest.resolution_ms.is_some();
            let rows = if is_rollup { ROLLUPS } else { SAMPLES };
            let with_rows = is_rollup || of == TablesOf::Samples;
            let verified = verify_once(&block, SERIES, &block.sound_series, stop)
                .and_then(|()| if with_rows { verify_once(&block, rows, &block.sound_rows, stop) } else { Ok(()) });
            stop.check()?;
            if let Err(why) = verified {
                if block.removed.load(Ordering::Acquire) {
                    continue;
                }
                block.shared.report(&why);
                return Err(SelectError::Storage(why));
            }
            self.note_hidden(&block, &mut tables.hidden)?;
            tables.files.push(BlockFiles {
                series: block.path.join(SERIES),
                rows: block.path.join(rows),
                resolution_ms: block.manifest.resolution_ms,
            });
            tables.blocks.push(block);
        }
        Ok(tables)
    }

    fn note_hidden(&self, block: &Block, hidden: &mut Vec<HiddenRows>) -> Result<(), SelectError> {
        let (masks, now_ms) = (self.shared.masks(), self.shared.clock.now_ms());
        let span = block.manifest.span();
        let is_rollup = block.manifest.resolution_ms.is_some();
        let deleted = masks.deletions.iter().any(|d| block.id() < d.before_block && d.range.overlaps(&span));
        let is_kept = masks.rules.is_uniform() && span.start_ms >= now_ms.saturating_sub(masks.rules.default_ms);
        if !deleted && is_kept && !is_rollup {
            return Ok(());
        }
        for row in block.select(&[], TimeRange::ALL).map_err(SelectError::Storage)? {
            let mask = masks.of(&block.manifest, &row.labels, &row.target_id, now_ms);
            let all = TimeRange { start_ms: row.min_ts_ms, end_ms: row.max_ts_ms };
            let mut hide = |start_ms: i64, end_ms: i64| {
                if start_ms <= end_ms && all.overlaps(&TimeRange { start_ms, end_ms }) {
                    hidden.push(HiddenRows { series_id: row.series_id, start_ms, end_ms });
                }
            };
            // Roll-ups are a table of their own here: where something finer is kept as well they are shown all the same.
            hide(i64::MIN, mask.floor_ms.saturating_sub(1));
            mask.deleted.iter().for_each(|d| hide(d.start_ms, d.end_ms));
            if hidden.len() > HIDDEN_MAX {
                let text = "too much is deleted or past its retention and still on the disk: give a shorter time";
                return Err(SelectError::Limit(text.to_owned()));
            }
        }
        Ok(())
    }
}

/// Reads a file whole, once in the life of a block, however many ask for it at a time.
fn verify_once(block: &Block, name: &str, sound: &Mutex<bool>, stop: Stop<'_>) -> Result<(), String> {
    let mut sound = loop {
        if let Some(sound) = sound.try_lock_for(LOOK) {
            break sound;
        }
        stop.check().map_err(|e| e.to_string())?;
    };
    if *sound {
        return Ok(());
    }
    let sums = block.manifest.files.get(name).ok_or_else(|| format!("the manifest does not list {name}"))?;
    let file = VerifiedFile::open(&*block.shared.fs, &block.path.join(name), sums)?;
    let mut at = 0;
    while at < file.len() {
        stop.check().map_err(|e| e.to_string())?;
        let len = (file.len() - at).min(STEP_BYTES);
        file.read_at(at, len as usize)?;
        at += len;
    }
    *sound = true;
    Ok(())
}
