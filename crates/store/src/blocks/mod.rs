//! What the store asks of its blocks, and the folder of Parquet files that answers.
//!
//! A block holds the samples of one window: [`BlockFolder`] lists them, `writer.rs` makes one, `block.rs` reads it,
//! `postings.rs` and `lookup.rs` find series in it. `docs/format/block.md` draws the files.

mod block;
mod cache;
mod checksums;
mod compact;
mod copy;
mod cursor;
mod deletions;
mod folder;
pub(crate) mod id_list;
mod lookup;
mod manifest;
mod masks;
mod merge;
mod offline;
mod pace;
mod plan;
pub(crate) mod postings;
mod reader;
mod removal;
mod rolling;
mod rollup;
mod tables;
mod verify;
mod view;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Labels, Matcher, Samples, SelectError, SeriesReader, TimeRange};

pub use folder::{BlockFolder, BlockSettings};
pub use manifest::{Balance, Manifest};
pub use masks::{RetentionRules, RollupRule, SelectorRule, TargetRule};
pub use offline::{Imported, export_blocks, import_block, list_blocks, restore, verify_block};
pub use pace::Pace;
pub use tables::{BlockFiles, BlockTables, HiddenRows, Stop, TablesOf};
pub use verify::{Verified, scrub_block};
pub use writer::parse_folder_name;

use crate::admin::Doomed;
use crate::attrs::SeriesAttrs;

/// A series on its way into a block.
pub struct BlockInput {
    /// Its labels.
    pub labels: Labels,
    /// Type, source and target of its latest owner.
    pub attrs: Arc<SeriesAttrs>,
    /// Samples of one window, times strictly rising; no time is that of a double and of a histogram.
    pub samples: Samples,
}

/// One block, as it is listed.
#[derive(Clone, PartialEq, Debug)]
pub struct BlockInfo {
    /// Its folder.
    pub path: PathBuf,
    /// What it is.
    pub manifest: Manifest,
}

/// What the blocks amount to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockTotals {
    /// Blocks in use.
    pub blocks: u64,
    /// Bytes of all their files.
    pub bytes: u64,
    /// Samples in them, native histograms among them.
    pub samples: u64,
    /// Native histograms in them.
    pub histograms: u64,
    /// First sample time; `None` without blocks.
    pub min_ms: Option<i64>,
    /// Last sample time; `None` without blocks.
    pub max_ms: Option<i64>,
    /// Samples left out since the start, because one of that series and time with another value was in a block already.
    pub superseded: u64,
    /// Damage met since the start: copies, files, reads.
    pub damaged: u64,
    /// Roll-ups among the blocks; their samples are not counted here.
    pub rollups: u64,
    /// What merges since the start took in and left out, by reason.
    pub merged: Balance,
    /// Merges since the start that failed.
    pub failed_merges: u64,
    /// Deletions of which some block may still hold samples.
    pub deletions: u64,
}

/// Immutable samples on disk.
pub trait BlockSet: Send + Sync {
    /// Tells whether blocks can be written at all; otherwise head and log keep everything.
    fn takes_windows(&self) -> bool {
        true
    }

    /// Writes one window's series, sorted by labels.
    ///
    /// **Promises** when it returns `Ok` they are durable and are found by `select`.
    fn write(&self, window: TimeRange, series: &mut dyn Iterator<Item = BlockInput>) -> Result<(), String>;

    /// As [`model::Select::select`], but a label set may come several times: in order of windows and of writing, so that
    /// of equal times the first one's sample counts.
    fn select(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<Box<dyn SeriesReader>>, SelectError>;

    /// As [`model::Select::label_names`].
    fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError>;

    /// As [`model::Select::label_values`].
    fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError>;

    /// Removes blocks that end before a time; gives how many.
    fn drop_before(&self, ts_ms: i64) -> Result<u64, String>;

    /// Does what can wait: merges small blocks, removes what was replaced long enough ago; gives how many were merged.
    fn tidy(&self, _now_ms: i64) -> Result<u64, String> {
        Ok(0)
    }

    /// Does what can wait and is quick: removes what was replaced long enough ago.
    fn clean(&self, _now_ms: i64) -> Result<(), String> {
        Ok(())
    }

    /// Merges or rewrites blocks once, if that is due; gives how many went into the new one.
    ///
    /// **Takes** `closed_ms`: windows that end before it are complete but for late samples. `pace` bounds what is read and
    /// written in a second, and ends the work when it is stopped.
    fn compact(&self, _closed_ms: i64, _now_ms: i64, _pace: &Arc<Pace>) -> Result<u64, String> {
        Ok(0)
    }

    /// Removes the oldest blocks until all take at most so many bytes; gives how many.
    fn shrink_to(&self, _bytes_max: u64) -> Result<u64, String> {
        Ok(0)
    }

    /// Says how long samples are kept from now on; what is past that is not read any more.
    fn retain(&self, _rules: RetentionRules) {}

    /// Hides the samples, in a range, of the given series, of all blocks there are.
    ///
    /// **Promises** when it returns `Ok` that survives any crash, and the samples go from the disk with a later merge.
    fn delete(&self, _doomed: Vec<Doomed>, _range: TimeRange, _now_ms: i64) -> Result<(), String> {
        Err("these blocks know no deletion".to_owned())
    }

    /// Copies all blocks into a new folder, durably.
    fn copy_to(&self, _dir: &Path) -> Result<(), String> {
        Err("these blocks cannot be copied".to_owned())
    }

    /// Gives what blocks there are, in order of their windows.
    fn infos(&self) -> Vec<BlockInfo> {
        Vec::new()
    }

    /// Gives the blocks with samples in a range as files, and what to leave out of them.
    fn tables(&self, _range: TimeRange, _of: TablesOf, _stop: Stop<'_>) -> Result<BlockTables, SelectError> {
        Ok(BlockTables::none())
    }

    /// Says what a reader of the answer should know of where it comes from.
    fn notes(&self, _matchers: &[Matcher], _range: TimeRange) -> Vec<String> {
        Vec::new()
    }

    /// Counts.
    fn totals(&self) -> BlockTotals;
}

/// No blocks: samples stay in the head and in the log.
pub struct HeadOnly;

impl BlockSet for HeadOnly {
    fn takes_windows(&self) -> bool {
        false
    }

    fn write(&self, _: TimeRange, _: &mut dyn Iterator<Item = BlockInput>) -> Result<(), String> {
        Err("this store keeps no blocks".to_owned())
    }

    fn select(&self, _: &[Matcher], _: TimeRange) -> Result<Vec<Box<dyn SeriesReader>>, SelectError> {
        Ok(Vec::new())
    }

    fn label_names(&self, _: &[Matcher], _: TimeRange) -> Result<Vec<String>, SelectError> {
        Ok(Vec::new())
    }

    fn label_values(&self, _: &str, _: &[Matcher], _: TimeRange) -> Result<Vec<String>, SelectError> {
        Ok(Vec::new())
    }

    fn drop_before(&self, _: i64) -> Result<u64, String> {
        Ok(0)
    }

    fn totals(&self) -> BlockTotals {
        BlockTotals::default()
    }
}
