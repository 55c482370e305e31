//! What the store asks of its blocks, and the folder of Parquet files that answers.
//!
//! A block holds the samples of one window: [`BlockFolder`] lists them, `writer.rs` makes one, `block.rs` reads it,
//! `postings.rs` and `lookup.rs` find series in it. `docs/format/block.md` draws the files.

mod block;
mod cache;
mod checksums;
mod cursor;
mod folder;
mod id_list;
mod lookup;
mod manifest;
mod merge;
mod postings;
mod reader;
mod view;
mod writer;

use std::sync::Arc;

use model::{Labels, Matcher, Samples, SelectError, SeriesReader, TimeRange};

pub use folder::BlockFolder;

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
