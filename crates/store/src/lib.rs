//! Durable samples: write-ahead log, head, index, blocks, retention, recovery. Plain threads, no async.
//!
//! A batch's way: [`Store`] (`store.rs`) finds ids and makes the record → `pipeline.rs` writes and syncs it with all that
//! waits → `core.rs` brings it into the head → `maintain.rs` turns windows that are over into blocks and cuts the log.
//! `recover.rs` goes the same way at a start. `docs/format/` draws the bytes.

mod accounts;
mod admin;
mod admission;
mod attrs;
mod blocks;
mod changes;
mod checkpoint;
mod chunk;
mod chunk_file;
mod coding;
mod config;
mod core;
mod exemplars;
mod follow;
mod head;
mod index;
mod integrity;
mod ledger;
mod maintain;
mod maintainer;
mod memory;
mod metadata;
mod newcomers;
mod pipeline;
mod preload;
mod recover;
mod registry;
mod relief;
mod restore;
mod scrub;
mod select;
mod series_log;
mod stats;
mod store;
mod tabular;
#[doc(hidden)]
pub mod testing;
mod wal;

pub use accounts::{AccountReport, Durability, HOLES_MAX, Hole, HoleCause, SlotCounts};
pub use admin::Doomed;
pub use admission::{AdmissionLimits, AdmissionStats, Full, OwnerStats};
pub use attrs::SeriesAttrs;
pub use blocks::{
    Balance, BlockFiles, BlockFolder, BlockInfo, BlockInput, BlockSet, BlockSettings, BlockTotals, HeadOnly,
    HiddenRows, Imported, Manifest, Pace, RetentionRules, RollupRule, SelectorRule, Stop, TablesOf, TargetRule,
    export_blocks, import_block, list_blocks, restore, verify_block,
};
pub use config::{LabelLimits, OpenError, StoreConfig};
pub use exemplars::Exemplar;
pub use integrity::Integrity;
pub use maintain::{MaintenanceError, MaintenanceReport};
pub use memory::MemoryParts;
pub use recover::Recovery;
pub use scrub::ScrubState;
pub use stats::StoreStats;
pub use store::Store;
pub use tabular::{HeadRow, Tabular};
