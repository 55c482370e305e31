//! `collection_jobs`: collections roll up in memory per target and five minutes, and are written by [`Catalog::flush`].
//!
//! Invariants: 1. every collection is counted in exactly one row; 2. uploads, failures and changes of state have rows of
//! their own; 3. recording never waits for the database.
//! Limits: [`ROLLUPS_MAX`] running roll-ups and [`ROWS_MAX`] waiting rows; what is beyond is counted in
//! [`Catalog::collections_dropped`] and not recorded.

use std::collections::{HashMap, VecDeque};
use std::mem;

use model::{CollectionMethod, CollectionReport, Health};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};
use uuid::Uuid;

use crate::{COLLECTION_RETENTION_MS, Catalog, CatalogError, time};

/// Length of a roll-up's window.
pub const WINDOW_MS: i64 = 5 * 60 * 1000;
/// How many roll-ups may run at a time; one is about 300 bytes.
pub const ROLLUPS_MAX: usize = 200_000;
/// How many rows may wait for the next flush.
pub const ROWS_MAX: usize = 20_000;
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

    fn read(row: &SqliteRow) -> Result<CollectionRow, sqlx::Error> {
        let method: String = row.try_get("collection_method")?;
        let health: String = row.try_get("health_status")?;
        let created_at: String = row.try_get("created_at")?;
        let window_start: Option<String> = row.try_get("window_start")?;
        Ok(CollectionRow {
            job_id: row.try_get("job_id")?,
            target_id: row.try_get("target_id")?,
            source_id: row.try_get("source_id")?,
            method: CollectionMethod::ALL.into_iter().find(|m| m.as_str() == method).unwrap_or_default(),
            status: row.try_get("status")?,
            metrics_collected: row.try_get("metrics_collected")?,
            collection_duration_ms: row.try_get::<Option<f64>, _>("collection_duration_ms")?.unwrap_or_default(),
            error_details: row.try_get("error_details")?,
            created_at_ms: time::from_text(&created_at).unwrap_or_default(),
            health: Health::ALL.into_iter().find(|h| h.as_str() == health).unwrap_or_default(),
            collections: row.try_get("collections")?,
            samples_stored: row.try_get("samples_stored")?,
            samples_refused: row.try_get("samples_refused")?,
            window_start_ms: window_start.as_deref().and_then(time::from_text),
        })
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
        let rows = sqlx::query(
            "SELECT * FROM collection_jobs WHERE ($1 IS NULL OR target_id = $1) ORDER BY created_at DESC, id LIMIT $2",
        )
        .bind(target_id)
        .bind(i64::from(limit))
        .fetch_all(&mut *self.database.read().await)
        .await?;
        Ok(rows.iter().map(CollectionRow::read).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn flush_collections(&self, now_ms: i64, open_windows: bool) -> Result<(), CatalogError> {
        let mut writer = self.database.write().await;
        let rows = self.recorder.lock().take(now_ms, open_windows);
        if rows.is_empty() {
            return Ok(());
        }
        if let Err(error) = write_rows(&mut writer, &rows, now_ms).await {
            self.recorder.lock().give_back(rows);
            return Err(error.into());
        }
        Ok(())
    }

    pub(crate) async fn prune_collections(&self, now_ms: i64) -> Result<(), CatalogError> {
        sqlx::query("DELETE FROM collection_jobs WHERE created_at < $1")
            .bind(time::to_text(now_ms.saturating_sub(COLLECTION_RETENTION_MS)))
            .execute(&mut *self.database.write().await)
            .await?;
        Ok(())
    }
}

async fn write_rows(writer: &mut SqliteConnection, rows: &[CollectionRow], now_ms: i64) -> Result<(), sqlx::Error> {
    const SQL: &str = "INSERT INTO collection_jobs (id, job_id, target_id, collection_method, status, \
        metrics_collected, collection_duration_ms, error_details, created_at, source_id, health_status, collections, \
        samples_stored, samples_refused, window_start, updated_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
        ON CONFLICT (job_id) DO UPDATE SET metrics_collected = excluded.metrics_collected, \
        collection_duration_ms = excluded.collection_duration_ms, health_status = excluded.health_status, \
        collections = excluded.collections, samples_stored = excluded.samples_stored, \
        samples_refused = excluded.samples_refused, updated_at = excluded.updated_at";
    let updated_at = time::to_text(now_ms);
    let mut transaction = writer.begin().await?;
    for row in rows {
        sqlx::query(SQL)
            .bind(Uuid::new_v4().to_string())
            .bind(&row.job_id)
            .bind(&row.target_id)
            .bind(row.method.as_str())
            .bind(&row.status)
            .bind(row.metrics_collected)
            .bind(row.collection_duration_ms)
            .bind(&row.error_details)
            .bind(time::to_text(row.created_at_ms))
            .bind(&row.source_id)
            .bind(row.health.as_str())
            .bind(row.collections)
            .bind(row.samples_stored)
            .bind(row.samples_refused)
            .bind(row.window_start_ms.map(time::to_text))
            .bind(&updated_at)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}
