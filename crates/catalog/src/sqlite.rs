//! The embedded database: two connections to one file, one writes, one reads collections.

use std::io;
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::lines::sync_parent;
use crate::rows::{Asked, KnownClaim, bind_columns, newer_collection, read_collection, read_columns, target_columns};
use crate::target::Columns;
use crate::{CatalogError, Claim, CollectionRow, StoredResponse, time};

/// An open database.
pub struct Sqlite {
    writer: Mutex<SqliteConnection>,
    reader: Mutex<SqliteConnection>,
}

/// Tells whether SQLite found the file damaged: SQLITE_CORRUPT, SQLITE_NOTADB, or a schema that is not ours any more.
pub fn is_corruption(error: &sqlx::Error) -> bool {
    let code = match error {
        sqlx::Error::Database(e) => e.code().and_then(|c| c.parse::<u32>().ok()),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_) => return true,
        _ => None,
    };
    // The low byte is the primary code: 1 is an SQL error, which only a damaged schema can cause here.
    matches!(code.map(|c| c & 0xff), Some(1 | 11 | 26))
}

/// Renames the database and its companions, so that a new one can take the name.
pub fn keep_aside(path: &Path) -> io::Result<()> {
    let named = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let number = (1..10_000).find(|n| !named(&format!(".damaged-{n}")).exists()).unwrap_or(10_000);
    for suffix in ["", "-wal", "-shm"] {
        match std::fs::rename(named(suffix), named(&format!(".damaged-{number}{suffix}"))) {
            // SQLite removes the companions itself when it closes a file.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
            renamed => renamed?,
        }
    }
    sync_parent(path)
}

impl Sqlite {
    /// Opens or creates the file and runs the migrations.
    pub async fn open(path: &Path) -> Result<Sqlite, CatalogError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(std::time::Duration::from_secs(5))
            .disable_statement_logging();
        let mut writer = options.connect().await?;
        // A connection that is only dropped is closed later, on its own thread, and may still hold and remove files.
        if let Err(error) = crate::migrations::sqlite().run(&mut writer).await {
            let _ = writer.close().await;
            return Err(error.into());
        }
        let reader = match options.connect().await {
            Ok(reader) => reader,
            Err(error) => {
                let _ = writer.close().await;
                return Err(error.into());
            }
        };
        Ok(Sqlite { writer: Mutex::new(writer), reader: Mutex::new(reader) })
    }

    /// Closes both connections; the last one folds the journal into the file.
    pub async fn close(self) -> Result<(), CatalogError> {
        let reader = self.reader.into_inner().close().await;
        let writer = self.writer.into_inner().close().await;
        Ok(reader.and(writer)?)
    }

    /// Reads all rows of `metric_targets`.
    pub async fn rows(&self) -> Result<Vec<Columns>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM metric_targets").fetch_all(&mut *self.reader.lock().await).await?;
        Ok(rows.iter().map(read_columns).collect())
    }

    /// Writes a row, new or in place of the one with its target id.
    pub async fn put(&self, c: &Columns) -> Result<(), CatalogError> {
        const SQL: &str = concat!(
            "INSERT INTO metric_targets (",
            target_columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21) \
             ON CONFLICT (target_id) DO UPDATE SET id = excluded.id, target_url = excluded.target_url, \
             source_type = excluded.source_type, scrape_config = excluded.scrape_config, labels = excluded.labels, \
             health_status = excluded.health_status, enabled = excluded.enabled, created_at = excluded.created_at, \
             source_id = excluded.source_id, collection_method = excluded.collection_method, \
             origin = excluded.origin, request = excluded.request, filters = excluded.filters, \
             retention_policy = excluded.retention_policy, limits = excluded.limits, version = excluded.version, \
             updated_at = excluded.updated_at, deleted_at = excluded.deleted_at, deletion = excluded.deletion, \
             checksum = excluded.checksum"
        );
        bind_columns!(sqlx::query(SQL), c).execute(&mut *self.writer.lock().await).await?;
        Ok(())
    }

    /// Writes the states of targets, in one transaction.
    pub async fn put_health(&self, targets: &[Columns]) -> Result<(), CatalogError> {
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin().await?;
        for columns in targets {
            sqlx::query(
                "UPDATE metric_targets SET health_status = $1, checksum = $2 WHERE target_id = $3 AND version = $4",
            )
            .bind(&columns.health_status)
            .bind(columns.checksum)
            .bind(&columns.target_id)
            .bind(columns.version)
            .execute(&mut *transaction)
            .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Removes the rows of targets that were deleted before a time.
    pub async fn forget(&self, before_ms: i64) -> Result<(), CatalogError> {
        self.prune("DELETE FROM metric_targets WHERE deleted_at < $1", before_ms).await
    }

    /// Removes collections from before a time.
    pub async fn prune_collections(&self, before_ms: i64) -> Result<(), CatalogError> {
        self.prune("DELETE FROM collection_jobs WHERE created_at < $1", before_ms).await
    }

    /// Removes keys claimed before a time.
    pub async fn prune_claims(&self, before_ms: i64) -> Result<(), CatalogError> {
        self.prune("DELETE FROM idempotency_keys WHERE claimed_at < $1", before_ms).await
    }

    async fn prune(&self, sql: &'static str, before_ms: i64) -> Result<(), CatalogError> {
        sqlx::query(sql).bind(time::to_text(before_ms)).execute(&mut *self.writer.lock().await).await?;
        Ok(())
    }

    /// Reads collections, newest first.
    pub async fn collections(&self, target_id: Option<&str>, limit: u32) -> Result<Vec<CollectionRow>, CatalogError> {
        let rows = sqlx::query(
            "SELECT * FROM collection_jobs WHERE ($1 IS NULL OR target_id = $1) ORDER BY created_at DESC, id LIMIT $2",
        )
        .bind(target_id)
        .bind(i64::from(limit))
        .fetch_all(&mut *self.reader.lock().await)
        .await?;
        Ok(rows.iter().map(read_collection).collect::<Result<_, _>>()?)
    }

    /// Writes collections, in one transaction; a row that is there already takes the new figures.
    pub async fn put_collections(&self, rows: &[CollectionRow], now_ms: i64) -> Result<(), CatalogError> {
        const SQL: &str = concat!(
            "INSERT INTO collection_jobs (id, job_id, target_id, collection_method, status, metrics_collected, \
             collection_duration_ms, error_details, created_at, source_id, health_status, collections, \
             samples_stored, samples_refused, window_start, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
            newer_collection!()
        );
        let updated_at = time::to_text(now_ms);
        let mut writer = self.writer.lock().await;
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
        Ok(transaction.commit().await?)
    }

    /// Claims a key durably, or says what is known of it.
    pub async fn claim(&self, asked: &Asked<'_>) -> Result<Claim, CatalogError> {
        let mut writer = self.writer.lock().await;
        sqlx::query("DELETE FROM idempotency_keys WHERE idempotency_key = $1 AND claimed_at < $2")
            .bind(asked.key)
            .bind(time::to_text(asked.valid_from_ms))
            .execute(&mut *writer)
            .await?;
        let fresh = sqlx::query(
            "INSERT INTO idempotency_keys (idempotency_key, request_hash, claimed_at) VALUES ($1, $2, $3) \
             ON CONFLICT (idempotency_key) DO NOTHING",
        )
        .bind(asked.key)
        .bind(asked.request_hash)
        .bind(time::to_text(asked.now_ms))
        .execute(&mut *writer)
        .await?;
        if fresh.rows_affected() == 1 {
            return Ok(Claim::Fresh { claimed_at_ms: asked.now_ms });
        }
        let row = sqlx::query(
            "SELECT request_hash, claimed_at, response_status, response_head, response_body \
             FROM idempotency_keys WHERE idempotency_key = $1",
        )
        .bind(asked.key)
        .fetch_one(&mut *writer)
        .await?;
        Ok(KnownClaim::read(&row)?.answer(asked))
    }

    /// Keeps the answer to a claimed key.
    pub async fn finish(&self, key: &str, response: &StoredResponse) -> Result<(), CatalogError> {
        sqlx::query(
            "UPDATE idempotency_keys SET response_status = $1, response_head = $2, response_body = $3 \
             WHERE idempotency_key = $4",
        )
        .bind(i64::from(response.status))
        .bind(&response.head)
        .bind(&response.body)
        .bind(key)
        .execute(&mut *self.writer.lock().await)
        .await?;
        Ok(())
    }
}
