//! From files to batches: what all formats have in common.
//!
//! Invariant: the same bytes make the same batches, so that a batch is known by its number after a restart. A row without a time gets
//! that of the upload.

use std::collections::BTreeMap;
use std::io;

use model::{Batch, TypeCounts};

use super::meta::Meta;

/// Samples of one batch; the last row may go beyond.
pub const BATCH_SAMPLES: usize = 20_000;

/// Bytes of one batch, about; the last row may go beyond.
const BATCH_BYTES: usize = 16 << 20;

/// What a reader puts rows into.
pub struct Sink<'a> {
    /// The batch.
    pub batch: &'a mut Batch,
    /// Points by type.
    pub points: &'a mut TypeCounts,
    /// Rows that are not understood: where, and why.
    pub bad: &'a mut Vec<(u64, String)>,
    /// Rows that a clean-up left out, by the step's text.
    pub left_out: &'a mut BTreeMap<String, u64>,
    /// Label `job` of series that have none.
    pub source_id: &'a str,
    /// The time of rows without one; milliseconds since 1970.
    pub now_ms: i64,
}

impl Sink<'_> {
    /// Tells whether the batch is full, rows that are not understood included.
    pub fn is_full(&self) -> bool {
        self.batch.samples.len() + self.batch.histograms.len() + self.bad.len() >= BATCH_SAMPLES
            || self.batch.bytes() > BATCH_BYTES
    }

    /// Notes a row that is not understood.
    pub fn bad(&mut self, line: u64, detail: impl Into<String>) {
        self.bad.push((line, detail.into()));
    }
}

/// Why a file cannot be read to its end.
#[derive(Debug)]
pub enum Failure {
    /// It is not what it says it is.
    Content(String),
    /// The disk.
    Disk(io::Error),
}

/// A reader of one format.
pub trait Rows: Send {
    /// Adds rows until the batch is full or the file is at its end; `false` at the end.
    fn fill(&mut self, sink: &mut Sink<'_>) -> Result<bool, Failure>;
}

/// Makes the reader of an upload's format.
pub fn reader(meta: &Meta, body: super::work::BodyFile) -> Result<Box<dyn Rows>, Failure> {
    use super::meta::Format;
    Ok(match meta.format {
        Format::Parquet => Box::new(super::table::Table::open(body, &meta.columns)?),
        Format::Ndjson => Box::new(super::lines::Ndjson::new(body.read(meta.gzip))),
        Format::Csv => Box::new(super::lines::Csv::new(body.read(meta.gzip), &meta.columns)),
        Format::OpenMetrics => Box::new(super::lines::Exposition::new(body.read(meta.gzip))),
    })
}
