//! What can be set, with defaults, and why a store does not open.

use std::path::PathBuf;

use model::Follower;

/// How large a label set may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LabelLimits {
    /// Labels of one series, the metric name included.
    pub names_max: usize,
    /// Bytes of a label name.
    pub name_bytes_max: usize,
    /// Bytes of a label value.
    pub value_bytes_max: usize,
    /// Bytes of a metric name.
    pub metric_name_bytes_max: usize,
}

impl Default for LabelLimits {
    fn default() -> LabelLimits {
        LabelLimits { names_max: 64, name_bytes_max: 200, value_bytes_max: 4096, metric_name_bytes_max: 500 }
    }
}

/// Settings of a store.
#[derive(Clone, PartialEq, Debug)]
pub struct StoreConfig {
    /// The data directory.
    pub dir: PathBuf,
    /// How long samples are kept.
    pub retention_ms: i64,
    /// The oldest blocks go when all of them and the log take more than this; `None` for no limit.
    pub retention_bytes: Option<u64>,
    /// Lengths of the larger windows that windows are merged into, rising, each a multiple of the one before. Those
    /// longer than a tenth of the retention are not used.
    pub compaction_ranges_ms: Vec<i64>,
    /// What merging may read and write in a second, together; 0 for no limit.
    pub compaction_bytes_per_second: u64,
    /// What a merge may keep open and decoded of its sources.
    pub compaction_memory_bytes_max: usize,
    /// Blocks are not merged into larger ones than this.
    pub compaction_block_bytes_max: u64,
    /// Length of a window; one block holds one.
    pub window_ms: i64,
    /// How long a window stays in the head after its end, for samples that are a little late.
    pub window_grace_ms: i64,
    /// How often samples that came after their window was closed are written to blocks.
    pub late_flush_ms: i64,
    /// A segment of the log that has grown to this is followed by a new one.
    pub segment_bytes_max: u64,
    /// When so much of the log has come since the last checkpoint, the next one is due: a start replays about so much.
    pub checkpoint_bytes: u64,
    /// Largest record.
    pub batch_bytes_max: u64,
    /// Records that wait for the disk and for the head, together.
    pub queue_bytes_max: u64,
    /// How long a submit waits for room before it answers `Busy`.
    pub queue_wait_ms: u64,
    /// How long a scrape's batch, for whose answer nobody waits, may wait for others to share its fdatasync. Any other
    /// batch takes those that wait along at once.
    pub scrape_patience_ms: u64,
    /// How far ahead of our clock a sample may be.
    pub future_limit_ms: i64,
    /// Series at one time.
    pub series_max: u64,
    /// Memory that series may take, as [`crate::AdmissionStats`] counts it.
    pub series_bytes_max: u64,
    /// Series of one source at one time.
    pub source_series_max: u64,
    /// How large a label set may be.
    pub label_limits: LabelLimits,
    /// Exemplars kept, over all series.
    pub exemplars_max: usize,
    /// What may be kept open and decoded of blocks.
    pub block_cache_bytes_max: usize,
    /// How often a thread of the store does its slow work; 0 leaves it to whoever calls [`crate::Store::maintain`].
    pub maintain_every_ms: u64,
    /// What the scrubber reads of blocks in a second at most; 0 is no scrubber. [`crate::Store::scrub`] works all the same.
    pub scrub_bytes_per_second: u64,
    /// Is shown everything that is stored.
    pub follower: Follower,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            dir: PathBuf::from("data"),
            retention_ms: 15 * 86_400_000,
            retention_bytes: None,
            compaction_ranges_ms: vec![6 * 3_600_000, 24 * 3_600_000],
            compaction_bytes_per_second: 32 << 20,
            compaction_memory_bytes_max: 64 << 20,
            compaction_block_bytes_max: 32 << 30,
            window_ms: 3_600_000,
            window_grace_ms: 600_000,
            late_flush_ms: 900_000,
            segment_bytes_max: 32 << 20,
            checkpoint_bytes: 64 << 20,
            batch_bytes_max: 64 << 20,
            queue_bytes_max: 128 << 20,
            queue_wait_ms: 5_000,
            scrape_patience_ms: 0,
            future_limit_ms: 600_000,
            series_max: 10_000_000,
            series_bytes_max: u64::MAX,
            source_series_max: u64::MAX,
            label_limits: LabelLimits::default(),
            exemplars_max: 100_000,
            block_cache_bytes_max: 256 << 20,
            maintain_every_ms: 5_000,
            scrub_bytes_per_second: 0,
            follower: Follower::default(),
        }
    }
}

impl StoreConfig {
    /// Gives the ranges that fit the windows and the retention: a block goes as a whole, so that a longer one would keep
    /// samples for too long.
    pub(crate) fn ranges_in_use_ms(&self) -> Vec<i64> {
        let mut below_ms = self.window_ms.max(1);
        let mut fits = |range: &&i64| {
            let fit = **range > below_ms && **range % below_ms == 0 && **range <= self.retention_ms / 10;
            below_ms = if fit { **range } else { below_ms };
            fit
        };
        self.compaction_ranges_ms.iter().filter(|r| fits(r)).copied().collect()
    }
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory.
    #[error(
        "{dir} is in use by another server (it holds {dir}/lock): stop that one, or give this one its own data directory"
    )]
    Locked {
        /// The data directory.
        dir: String,
    },
    /// A file or directory could not be used.
    #[error("cannot {verb} {path}: {error}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The blocks cannot be used.
    #[error("cannot open the blocks: {0}")]
    Blocks(String),
}
