//! `collection_jobs`: collections roll up in memory per target and five minutes, and are written by [`Catalog::flush`].
//!
//! Invariants: 1. every collection is counted in exactly one row; 2. uploads, failures and changes of state have rows of
//! their own; 3. recording never waits for the database.
//! Limits: [`ROLLUPS_MAX`] running roll-ups and [`ROWS_MAX`] waiting rows; what is beyond is counted in
//! [`Catalog::collections_dropped`] and not recorded.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::atomic::Ordering;

use model::{CollectionMethod, CollectionReport, Health};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::waiting::Waiting;
use crate::{COLLECTION_RETENTION_MS, Catalog, CatalogError, time};

/// Length of a roll-up's window.
pub const WINDOW_MS: i64 = 5 * 60 * 1000;
/// How many roll-ups may run at a time; one is about 300 bytes.
pub const ROLLUPS_MAX: usize = 200_000;
/// How many rows may wait for the next flush.
pub const ROWS_MAX: usize = 20_000;
/// How many pieces of waiting rows one flush brings to a database that came back.
const PIECES_PER_FLUSH: usize = 40;
/// How many characters of an error are kept.
const ERROR_CHARS_MAX: usize = 2_000;

/// The specification's `status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CollectionStatus {
    /// All went well.
    Completed,
    /// Some samples were refused.
    Partial,
    /// The collection failed.
    Failed,
}

impl CollectionStatus {
    /// Gives the word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            CollectionStatus::Completed => "completed",
            CollectionStatus::Partial => "partial",
            CollectionStatus::Failed => "failed",
        }
    }

    fn of(report: &CollectionReport) -> CollectionStatus {
        if report.error.is_some() {
            CollectionStatus::Failed
        } else if report.counts.refused_total() > 0 {
            CollectionStatus::Partial
        } else {
            CollectionStatus::Completed
        }
    }
}

/// One row of `collection_jobs`.
#[derive(Clone, PartialEq, Debug)]
pub struct CollectionRow {
    /// Unique name.
    pub job_id: String,
    /// Which target, or the source id of a push nobody registered.
    pub target_id: String,
    /// Which source.
    pub source_id: String,
    /// How the samples came.
    pub method: CollectionMethod,
    /// `completed`, `partial` or `failed`.
    pub status: String,
    /// Metric points, summed over the row's collections.
    pub metrics_collected: i64,
    /// Milliseconds: of the one collection, or the mean of a roll-up.
    pub collection_duration_ms: f64,
    /// What went wrong.
    pub error_details: Option<String>,
    /// When the (first) collection was done; milliseconds since 1970.
    pub created_at_ms: i64,
    /// State of the target after the (last) collection.
    pub health: Health,
    /// How many collections this row stands for.
    pub collections: i64,
    /// Samples stored.
    pub samples_stored: i64,
    /// Samples refused.
    pub samples_refused: i64,
    /// Start of the five minutes of a roll-up.
    pub window_start_ms: Option<i64>,
}

impl CollectionRow {
    fn of(report: &CollectionReport) -> CollectionRow {
        CollectionRow {
            job_id: format!("job_{}", Uuid::from_bytes(report.event_id)),
            target_id: report.origin.target_id.clone(),
            source_id: report.origin.source_id.clone(),
            method: report.origin.method,
            status: CollectionStatus::of(report).as_str().to_owned(),
            metrics_collected: clamped(report.summary.total()),
            collection_duration_ms: report.duration_ms as f64,
            error_details: report.error.as_ref().map(|e| e.chars().take(ERROR_CHARS_MAX).collect()),
            created_at_ms: report.finished_at_ms,
            health: report.health,
            collections: 1,
            samples_stored: clamped(report.counts.stored),
            samples_refused: clamped(report.counts.refused_total()),
            window_start_ms: None,
        }
    }
}

/// A row as the databases and the file of waiting rows hold it.
#[derive(Serialize, Deserialize)]
pub(crate) struct RowText {
    pub job_id: String,
    pub target_id: String,
    pub source_id: String,
    pub collection_method: String,
    pub status: String,
    pub metrics_collected: i64,
    pub collection_duration_ms: Option<f64>,
    pub error_details: Option<String>,
    pub created_at: String,
    pub health_status: String,
    pub collections: i64,
    pub samples_stored: i64,
    pub samples_refused: i64,
    pub window_start: Option<String>,
}

impl From<RowText> for CollectionRow {
    fn from(text: RowText) -> CollectionRow {
        let method = CollectionMethod::ALL.into_iter().find(|m| m.as_str() == text.collection_method);
        let health = Health::ALL.into_iter().find(|h| h.as_str() == text.health_status);
        CollectionRow {
            job_id: text.job_id,
            target_id: text.target_id,
            source_id: text.source_id,
            method: method.unwrap_or_default(),
            status: text.status,
            metrics_collected: text.metrics_collected,
            collection_duration_ms: text.collection_duration_ms.unwrap_or_default(),
            error_details: text.error_details,
            created_at_ms: time::from_text(&text.created_at).unwrap_or_default(),
            health: health.unwrap_or_default(),
            collections: text.collections,
            samples_stored: text.samples_stored,
            samples_refused: text.samples_refused,
            window_start_ms: text.window_start.as_deref().and_then(time::from_text),
        }
    }
}

impl From<&CollectionRow> for RowText {
    fn from(row: &CollectionRow) -> RowText {
        RowText {
            job_id: row.job_id.clone(),
            target_id: row.target_id.clone(),
            source_id: row.source_id.clone(),
            collection_method: row.method.as_str().to_owned(),
            status: row.status.clone(),
            metrics_collected: row.metrics_collected,
            collection_duration_ms: Some(row.collection_duration_ms),
            error_details: row.error_details.clone(),
            created_at: time::to_text(row.created_at_ms),
            health_status: row.health.as_str().to_owned(),
            collections: row.collections,
            samples_stored: row.samples_stored,
            samples_refused: row.samples_refused,
            window_start: row.window_start_ms.map(time::to_text),
        }
    }
}

fn clamped(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[derive(PartialEq, Eq, Hash)]
struct RollupKey {
    target_id: String,
    source_id: String,
    method: CollectionMethod,
    window_start_ms: i64,
}

struct Rollup {
    row: CollectionRow,
    duration_ms_total: u64,
    dirty: bool,
}

/// What waits in memory to be written.
#[derive(Default)]
pub(crate) struct Recorder {
    rollups: HashMap<RollupKey, Rollup>,
    rows: VecDeque<CollectionRow>,
    last_health: HashMap<String, Health>,
    dropped: u64,
}

impl Recorder {
    fn record(&mut self, report: &CollectionReport) {
        let origin = &report.origin;
        let known = self.last_health.get(&origin.target_id).copied();
        let changed = known.is_some_and(|h| h != report.health);
        if known != Some(report.health) && (known.is_some() || self.last_health.len() < ROLLUPS_MAX) {
            self.last_health.insert(origin.target_id.clone(), report.health);
        }
        if changed || report.error.is_some() || origin.method == CollectionMethod::BatchUpload {
            self.push_row(CollectionRow::of(report));
        } else {
            self.roll_up(report);
        }
    }

    fn push_row(&mut self, row: CollectionRow) {
        if self.rows.len() >= ROWS_MAX {
            self.dropped += 1;
        } else {
            self.rows.push_back(row);
        }
    }

    fn roll_up(&mut self, report: &CollectionReport) {
        let window_start_ms = report.finished_at_ms - report.finished_at_ms.rem_euclid(WINDOW_MS);
        let key = RollupKey {
            target_id: report.origin.target_id.clone(),
            source_id: report.origin.source_id.clone(),
            method: report.origin.method,
            window_start_ms,
        };
        let full = self.rollups.len() >= ROLLUPS_MAX;
        let one = CollectionRow::of(report);
        match self.rollups.get_mut(&key) {
            Some(rollup) => rollup.add(&one, report.duration_ms),
            None if full => self.dropped += 1,
            None => {
                let row = CollectionRow { window_start_ms: Some(window_start_ms), status: "completed".into(), ..one };
                self.rollups.insert(key, Rollup { row, duration_ms_total: report.duration_ms, dirty: true });
            }
        }
    }

    /// Takes the waiting rows, and the roll-ups whose window is over or, if wanted, all that changed.
    fn take(&mut self, now_ms: i64, open_windows: bool) -> Vec<CollectionRow> {
        let mut out: Vec<CollectionRow> = mem::take(&mut self.rows).into();
        self.rollups.retain(|key, rollup| {
            let over = key.window_start_ms.saturating_add(WINDOW_MS) <= now_ms;
            if rollup.dirty && (over || open_windows) {
                rollup.dirty = false;
                out.push(rollup.row.clone());
            }
            !over
        });
        out
    }

    /// Takes rows back that could not be written; all of them are written again by the next flush.
    fn give_back(&mut self, rows: Vec<CollectionRow>) {
        for row in rows {
            self.push_row(row);
        }
    }
}

impl Rollup {
    fn add(&mut self, one: &CollectionRow, duration_ms: u64) {
        let row = &mut self.row;
        row.collections += 1;
        row.metrics_collected = row.metrics_collected.saturating_add(one.metrics_collected);
        row.samples_stored = row.samples_stored.saturating_add(one.samples_stored);
        row.samples_refused = row.samples_refused.saturating_add(one.samples_refused);
        row.health = one.health;
        self.duration_ms_total = self.duration_ms_total.saturating_add(duration_ms);
        row.collection_duration_ms = self.duration_ms_total as f64 / row.collections as f64;
        self.dirty = true;
    }
}

impl Catalog {
    /// Records a finished collection; memory only.
    pub fn record(&self, report: &CollectionReport) {
        self.recorder.lock().record(report);
    }

    /// Forgets the last state of a target that is gone.
    pub fn forget(&self, target_id: &str) {
        self.recorder.lock().last_health.remove(target_id);
    }

    /// Counts the collections that found no room to be recorded.
    pub fn collections_dropped(&self) -> u64 {
        self.recorder.lock().dropped
    }

    /// Gives rows of `collection_jobs`, newest first, at most `limit` of them; written ones only.
    pub async fn collections(&self, target_id: Option<&str>, limit: u32) -> Result<Vec<CollectionRow>, CatalogError> {
        self.database.collections(target_id, limit).await
    }

    pub(crate) async fn flush_collections(&self, now_ms: i64, open_windows: bool) -> Result<(), CatalogError> {
        let _one = self.flushing.lock().await;
        let rows = self.recorder.lock().take(now_ms, open_windows);
        let Some(waiting) = &self.waiting else { return self.write_rows(rows, now_ms).await };
        let mut waiting = waiting.lock().await;
        let written = self.write_past_or_from(&mut waiting, rows, now_ms).await;
        self.waiting_bytes.store(waiting.bytes(), Ordering::Relaxed);
        self.waiting_dropped.store(waiting.dropped(), Ordering::Relaxed);
        written
    }

    /// Writes new rows, after those that wait; keeps what the database does not take now.
    async fn write_past_or_from(
        &self,
        waiting: &mut Waiting,
        rows: Vec<CollectionRow>,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        if waiting.is_empty() {
            // The usual way, past the file.
            let written = self.database.put_collections(&rows, now_ms).await;
            if written.is_err() {
                self.keep(waiting, rows);
            }
            return written.map(|refused| self.note_dropped(refused));
        }
        self.keep(waiting, rows);
        for _ in 0..PIECES_PER_FLUSH {
            let piece = waiting.piece()?;
            let refused = self.database.put_collections(&piece.rows, now_ms).await?;
            self.note_dropped(refused);
            waiting.done(&piece)?;
            if waiting.is_empty() {
                break;
            }
        }
        Ok(())
    }

    async fn write_rows(&self, rows: Vec<CollectionRow>, now_ms: i64) -> Result<(), CatalogError> {
        if rows.is_empty() {
            return Ok(());
        }
        let written = self.database.put_collections(&rows, now_ms).await;
        if written.is_err() {
            self.recorder.lock().give_back(rows);
        }
        written.map(drop)
    }

    fn note_dropped(&self, count: u64) {
        self.recorder.lock().dropped += count;
    }

    /// Puts rows into the file of those that wait; where the disk does not take them they wait in memory.
    fn keep(&self, waiting: &mut Waiting, rows: Vec<CollectionRow>) {
        if let Err(error) = waiting.append(&rows) {
            tracing::error!("rows of collections that wait for the database: {error}");
            self.recorder.lock().give_back(rows);
        }
    }

    pub(crate) async fn prune_collections(&self, now_ms: i64) -> Result<(), CatalogError> {
        self.database.prune_collections(now_ms.saturating_sub(COLLECTION_RETENTION_MS)).await
    }
}
