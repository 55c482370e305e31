//! What is known of one upload.

use std::collections::BTreeMap;

use model::{Counts, Refusal};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use xxhash_rust::xxh3::xxh3_64;

use crate::rest::custom::{IngestionResult, Ledger};

/// Mistakes that are repeated to the sender.
pub const ERRORS_MAX: usize = 20;

/// Where an upload stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Bytes are missing.
    Receiving,
    /// All bytes are durable; its turn comes.
    Queued,
    /// Its samples are being stored.
    Processing,
    /// All rows were looked at.
    Done,
    /// It ended early; what was stored before stays.
    Failed,
    /// The sender took it back; what was stored before stays.
    Cancelled,
}

impl State {
    /// Tells whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, State::Done | State::Failed | State::Cancelled)
    }
}

/// The formats of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A Metric, or a list of them, on each line.
    Ndjson,
    /// Columns of text.
    Csv,
    /// Parquet.
    Parquet,
    /// OpenMetrics or Prometheus text, with timestamps.
    OpenMetrics,
}

/// A mistake and where it stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RowError {
    /// The line, or the row of a Parquet file; counted from 1.
    pub line: u64,
    /// What is wrong.
    pub detail: String,
}

/// One upload; its file says the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Meta {
    pub upload_id: String,
    pub source_id: String,
    pub format: Format,
    pub columns: String,
    /// The steps of a clean-up; empty for none.
    #[serde(default)]
    pub clean: String,
    /// Which way of cleaning up its first batch was made with.
    #[serde(default)]
    pub cleaned_by: Option<String>,
    /// Rows that the clean-up left out, by the step's text.
    #[serde(default)]
    pub left_out: BTreeMap<String, u64>,
    pub gzip: bool,
    /// How many bytes are to come, if the sender has said so.
    pub length: Option<u64>,
    pub key: Option<String>,
    /// Whoever sent it writes as its source and as no other.
    #[serde(default)]
    pub bound: bool,
    pub created_ms: i64,
    pub finished_ms: Option<i64>,
    pub state: State,
    /// Bytes of the file that were read.
    pub processed_bytes: u64,
    /// The last batch that is counted.
    pub seq: u64,
    received: u64,
    stored: u64,
    duplicates: u64,
    filtered: u64,
    refused: BTreeMap<String, u64>,
    /// Rows that were not understood.
    pub bad_rows: u64,
    pub new_series: u64,
    pub errors: Vec<RowError>,
    pub error: Option<String>,
}

impl Meta {
    /// Starts an upload.
    pub fn new(upload_id: String, source_id: String, format: Format, created_ms: i64) -> Meta {
        Meta {
            upload_id,
            source_id,
            format,
            columns: String::new(),
            clean: String::new(),
            cleaned_by: None,
            left_out: BTreeMap::new(),
            gzip: false,
            length: None,
            key: None,
            bound: false,
            created_ms,
            finished_ms: None,
            state: State::Receiving,
            processed_bytes: 0,
            seq: 0,
            received: 0,
            stored: 0,
            duplicates: 0,
            filtered: 0,
            refused: BTreeMap::new(),
            bad_rows: 0,
            new_series: 0,
            errors: Vec::new(),
            error: None,
        }
    }

    /// Tells whether two requests mean the same upload.
    pub fn same_request(&self, other: &Meta) -> bool {
        let of = |m: &Meta| (m.source_id.clone(), m.format, m.columns.clone(), m.clean.clone(), m.gzip, m.length);
        of(self) == of(other)
    }

    /// Adds the counts of a batch.
    pub fn count(&mut self, seq: u64, counts: &Counts, new_series: u64) {
        self.seq = seq;
        self.received += counts.received;
        self.stored += counts.stored;
        self.duplicates += counts.duplicates;
        self.filtered += counts.filtered;
        self.new_series += new_series;
        for reason in Refusal::ALL {
            let n = counts.refused[reason as usize];
            if n > 0 {
                *self.refused.entry(reason.as_str().to_owned()).or_default() += n;
            }
        }
    }

    /// Counts rows that were not understood.
    pub fn bad(&mut self, line: u64, detail: String) {
        self.bad_rows += 1;
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(RowError { line, detail: detail.chars().take(300).collect() });
        }
    }

    /// Gives the file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{:016x}\n{json}", xxh3_64(json.as_bytes())).into_bytes()
    }

    /// Reads the file's bytes; `None` when they are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Meta> {
        let (hash, json) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
        let hash = u64::from_str_radix(hash, 16).ok()?;
        if hash != xxh3_64(json.as_bytes()) {
            return None;
        }
        serde_json::from_str(json).ok()
    }

    /// Gives what became of the samples; rows that were not understood count as rejected.
    pub fn result(&self, node: &str) -> IngestionResult {
        let refused: u64 = self.refused.values().sum::<u64>() + self.bad_rows;
        let received = self.received + self.bad_rows;
        let mut rejections: Vec<_> = self.refused.iter().map(|(reason, count)| rejection(reason, *count, 0)).collect();
        if self.bad_rows > 0 {
            let first = self.errors.first().map_or(0, |e| e.line.saturating_sub(1));
            rejections.push(rejection("malformed", self.bad_rows, first));
        }
        IngestionResult {
            request_id: self.upload_id.clone(),
            status: match (refused, received - refused.min(received)) {
                (0, _) => "ACCEPTED",
                (_, 0) => "REJECTED",
                _ => "PARTIAL",
            }
            .to_owned(),
            received,
            accepted: self.stored,
            duplicates: self.duplicates,
            rejected: refused,
            filtered: self.filtered,
            new_series: self.new_series,
            rejections,
            durability: "WAL_SYNCED".to_owned(),
            ledger: Ledger { node: node.to_owned(), epoch: 0, seq: 0 },
            processing_ms: self.finished_ms.map_or(0.0, |at| (at - self.created_ms) as f64),
        }
    }
}

fn rejection(reason: &str, count: u64, first_index: u64) -> crate::rest::custom::Rejection {
    let example = crate::rest::custom::RejectionExample { name: String::new(), labels: BTreeMap::new() };
    crate::rest::custom::Rejection { reason: reason.to_owned(), count, first_index, example, detail: None }
}

/// What the sender is told.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UploadStatus {
    /// Names the upload.
    pub upload_id: String,
    /// RECEIVING, QUEUED, PROCESSING, DONE, FAILED or CANCELLED.
    pub status: String,
    /// ndjson, csv, parquet or openmetrics.
    pub format: String,
    /// Label job of the samples that have none.
    pub source_id: String,
    /// Bytes that are durable; where to go on.
    pub offset: u64,
    /// Bytes that are to come in all, if that was said.
    pub length: Option<u64>,
    /// Bytes whose rows are stored.
    pub processed_bytes: u64,
    /// What became of the samples so far.
    pub result: IngestionResult,
    /// The first rows that were not understood.
    pub errors: Vec<RowError>,
    /// Rows that the clean-up left out, by its steps; they are not among those received.
    pub left_out: BTreeMap<String, u64>,
    /// Why it ended early.
    pub error: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub finished_at: Option<String>,
}
