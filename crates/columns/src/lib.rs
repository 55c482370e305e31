//! The Arrow and Parquet shape of samples, both ways. The only room that names arrow and parquet.
//!
//! Pure functions over bytes: files, checksums and caches belong to the store. `docs/format/block.md` draws the layout.

mod error;
mod histograms;
mod ipc;
mod labels_json;
mod pages;
mod rollups;
mod samples_reader;
mod samples_writer;
pub mod scale;
mod series;
mod source;
mod table;

pub use error::ColumnsError;
pub use histograms::{HISTOGRAM_COLUMNS, HistogramRows, HistogramsFile, HistogramsWriter, StoredHistogram};
pub use ipc::{IpcColumn, ipc_to_parquet, read_table, write_ipc, write_table};
pub use labels_json::labels_to_json;
pub use rollups::{Bucket, ROLLUP_COLUMNS, RollupsFile, RollupsWriter};
pub use samples_reader::{Column, ColumnPage, NO_SCALED, SamplesFile};
pub use samples_writer::{COLUMNS, PAGE_ROWS, ROW_GROUP_ROWS, RowRange, SamplesWriter};
pub use series::{SeriesRow, SeriesWriter, read_series};
pub use source::ReadAt;
pub use table::{TableColumn, TableReader, TableRows};
