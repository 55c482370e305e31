//! The catalog in PostgreSQL, shared by as many servers as point to it.
//!
//! Invariants: 1. a row is written only in place of the version that the writer knew, so that two servers cannot undo each
//! other's change; 2. every call has a time in which it is answered; 3. migrations run under PostgreSQL's advisory lock,
//! whoever comes first.
//! Timestamps and identifiers travel as the text of [`crate::time`], in which the checksum is taken.

mod connections;
mod listening;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{Connection, Row};

use crate::rows::{read_collection, read_columns};
use crate::target::Columns;
use crate::{CatalogError, Claim, CollectionRow, StoredResponse, time};
use connections::{Connections, Lease};

pub use connections::{ConnectionStats, Password, PostgresPlace};
pub use listening::{Heard, Listener};

/// For one statement or a few.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// For reading all targets, and for migrations, which may wait for those of another server.
const LONG_TIMEOUT: Duration = Duration::from_secs(60);
/// Rows of collections in one statement.
const ROWS_PER_STATEMENT: usize = 500;
/// A key that another server claimed and did not finish may be taken over after so many seconds.
const CLAIM_SECONDS: f64 = 60.0;
/// Letters in `VARCHAR(100)`.
const ID_CHARS_MAX: usize = 100;

const COLUMNS: &str = "id::text AS id, target_id, target_url, source_type, scrape_config::text AS scrape_config, \
    labels::text AS labels, health_status, enabled, \
    to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS created_at, \
    source_id, collection_method, origin, request::text AS request, filters::text AS filters, \
    retention_policy::text AS retention_policy, limits::text AS limits, version, \
    to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS updated_at, \
    to_char(deleted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS deleted_at, \
    deletion::text AS deletion, checksum";

/// The database.
pub struct Postgres {
    connections: Connections,
    migrated: AtomicBool,
    /// Names this data directory among those that share the database.
    owner: String,
}

impl Postgres {
    /// Connects to nobody yet.
    pub fn new(place: PostgresPlace, owner: String) -> Postgres {
        Postgres { connections: Connections::new(place), migrated: AtomicBool::new(false), owner }
    }

    /// Gives the connections.
    pub fn connections(&self) -> (&PostgresPlace, Option<String>, ConnectionStats) {
        (&self.connections.place, self.connections.trouble(), self.connections.stats())
    }

    /// Notes that the connection that listens broke.
    pub fn note(&self, error: &CatalogError) {
        self.connections.note(Some(error));
    }

    fn explain(&self, error: sqlx::Error) -> CatalogError {
        self.connections.place.explain(error)
    }

    /// Brings the schema up to date, once per process.
    pub async fn migrate(&self) -> Result<(), CatalogError> {
        if self.migrated.load(Ordering::Relaxed) {
            return Ok(());
        }
        let work = async {
            let mut lease = self.connections.lease().await?;
            // `run` cannot be awaited in a task: rust-lang/rust#100013.
            let migrator = sqlx::migrate!("./migrations_postgres");
            migrator.run_direct(None, lease.connection(), false).await.map_err(|e| self.migration(e))?;
            lease.give_back();
            self.migrated.store(true, Ordering::Relaxed);
            Ok(())
        };
        self.connections.within(LONG_TIMEOUT, work).await
    }

    fn migration(&self, error: sqlx::migrate::MigrateError) -> CatalogError {
        use sqlx::migrate::MigrateError;
        match error {
            MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => self.explain(e),
            other => other.into(),
        }
    }

    async fn lease(&self) -> Result<Lease<'_>, CatalogError> {
        if !self.migrated.load(Ordering::Relaxed) {
            return Err(self.connections.place.away("the schema has not been looked at yet"));
        }
        self.connections.lease().await
    }

    /// Reads all rows of `metric_targets`.
    pub async fn rows(&self) -> Result<Vec<Columns>, CatalogError> {
        let work = async {
            let mut lease = self.lease().await?;
            let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM metric_targets"));
            let rows = sqlx::query(sql).fetch_all(lease.connection()).await.map_err(|e| self.explain(e))?;
            lease.give_back();
            Ok(rows.iter().map(read_columns).collect())
        };
        self.connections.within(LONG_TIMEOUT, work).await
    }

    /// Reads some rows of `metric_targets`.
    pub async fn rows_of(&self, target_ids: &[String]) -> Result<Vec<Columns>, CatalogError> {
        let work = async {
            let mut lease = self.lease().await?;
            let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM metric_targets WHERE target_id = ANY($1)"));
            let rows =
                sqlx::query(sql).bind(target_ids).fetch_all(lease.connection()).await.map_err(|e| self.explain(e))?;
            lease.give_back();
            Ok(rows.iter().map(read_columns).collect())
        };
        self.connections.within(CALL_TIMEOUT, work).await
    }

    /// Writes a row in place of the one that is known, or a new one; tells whether the database still had what is known.
    pub async fn put(&self, c: &Columns, known: Option<&Columns>) -> Result<bool, CatalogError> {
        const INSERT: &str = "INSERT INTO metric_targets (id, target_id, target_url, source_type, scrape_config, \
            labels, health_status, enabled, created_at, source_id, collection_method, origin, request, filters, \
            retention_policy, limits, version, updated_at, deleted_at, deletion, checksum) \
            VALUES ($1::uuid, $2, $3, $4, $5::json, $6::json, $7, $8, $9::timestamptz, $10, $11, $12, $13::json, \
            $14::json, $15::json, $16::json, $17, $18::timestamptz, $19::timestamptz, $20::json, $21) \
            ON CONFLICT (target_id) DO NOTHING";
        const UPDATE: &str = "UPDATE metric_targets SET id = $1::uuid, target_url = $3, source_type = $4, \
            scrape_config = $5::json, labels = $6::json, health_status = $7, enabled = $8, \
            created_at = $9::timestamptz, source_id = $10, collection_method = $11, origin = $12, \
            request = $13::json, filters = $14::json, retention_policy = $15::json, limits = $16::json, \
            version = $17, updated_at = $18::timestamptz, deleted_at = $19::timestamptz, deletion = $20::json, \
            checksum = $21 WHERE target_id = $2 AND version = $22 AND (deletion IS NULL) = $23";
        let work = async {
            let mut lease = self.lease().await?;
            let query = sqlx::query(if known.is_some() { UPDATE } else { INSERT })
                .bind(&c.id)
                .bind(&c.target_id)
                .bind(&c.target_url)
                .bind(&c.source_type)
                .bind(&c.scrape_config)
                .bind(&c.labels)
                .bind(&c.health_status)
                .bind(c.enabled)
                .bind(&c.created_at)
                .bind(&c.source_id)
                .bind(&c.collection_method)
                .bind(&c.origin)
                .bind(&c.request)
                .bind(&c.filters)
                .bind(&c.retention_policy)
                .bind(&c.limits)
                .bind(c.version)
                .bind(&c.updated_at)
                .bind(&c.deleted_at)
                .bind(&c.deletion)
                .bind(c.checksum);
            let query = match known {
                Some(known) => query.bind(known.version).bind(known.deletion.is_none()),
                None => query,
            };
            let done = query.execute(lease.connection()).await.map_err(|e| self.explain(e))?;
            lease.give_back();
            Ok(done.rows_affected() == 1)
        };
        self.connections.within(CALL_TIMEOUT, work).await
    }

    /// Writes the states of targets whose version is still the known one.
    pub async fn put_health(&self, targets: &[Columns]) -> Result<(), CatalogError> {
        const SQL: &str = "UPDATE metric_targets AS t SET health_status = v.health, checksum = v.checksum \
            FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS v(target_id, health, checksum, version) \
            WHERE t.target_id = v.target_id AND t.version = v.version AND t.deleted_at IS NULL";
        for piece in targets.chunks(ROWS_PER_STATEMENT) {
            let texts = |of: fn(&Columns) -> &String| piece.iter().map(|c| of(c).clone()).collect::<Vec<String>>();
            let numbers = |of: fn(&Columns) -> i64| piece.iter().map(of).collect::<Vec<i64>>();
            let work = async {
                let mut lease = self.lease().await?;
                sqlx::query(SQL)
                    .bind(texts(|c| &c.target_id))
                    .bind(texts(|c| &c.health_status))
                    .bind(numbers(|c| c.checksum))
                    .bind(numbers(|c| c.version))
                    .execute(lease.connection())
                    .await
                    .map_err(|e| self.explain(e))?;
                lease.give_back();
                Ok(())
            };
            self.connections.within(CALL_TIMEOUT, work).await?;
        }
        Ok(())
    }

    /// Removes the rows of targets that were deleted before a time.
    pub async fn forget(&self, before_ms: i64) -> Result<(), CatalogError> {
        self.prune("DELETE FROM metric_targets WHERE deleted_at < $1::timestamptz", before_ms).await
    }

    /// Removes collections from before a time.
    pub async fn prune_collections(&self, before_ms: i64) -> Result<(), CatalogError> {
        self.prune("DELETE FROM collection_jobs WHERE created_at < $1::timestamptz", before_ms).await
    }

    /// Removes keys claimed before a time.
    pub async fn prune_claims(&self, before_ms: i64) -> Result<(), CatalogError> {
        self.prune("DELETE FROM idempotency_keys WHERE claimed_at < $1::timestamptz", before_ms).await
    }

    async fn prune(&self, sql: &'static str, before_ms: i64) -> Result<(), CatalogError> {
        let work = async {
            let mut lease = self.lease().await?;
            let query = sqlx::query(sql).bind(time::to_text(before_ms));
            query.execute(lease.connection()).await.map_err(|e| self.explain(e))?;
            lease.give_back();
            Ok(())
        };
        self.connections.within(LONG_TIMEOUT, work).await
    }

    /// Reads collections, newest first.
    pub async fn collections(&self, target_id: Option<&str>, limit: u32) -> Result<Vec<CollectionRow>, CatalogError> {
        const SQL: &str = "SELECT job_id, target_id, source_id, collection_method, status, metrics_collected, \
            collection_duration_ms, error_details, \
            to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS created_at, \
            health_status, collections, samples_stored, samples_refused, \
            to_char(window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS window_start \
            FROM collection_jobs WHERE ($1::text IS NULL OR target_id = $1) ORDER BY created_at DESC, id LIMIT $2";
        let work = async {
            let mut lease = self.lease().await?;
            let query = sqlx::query(SQL).bind(target_id).bind(i64::from(limit));
            let rows = query.fetch_all(lease.connection()).await.map_err(|e| self.explain(e))?;
            lease.give_back();
            rows.iter().map(read_collection).collect::<Result<_, _>>().map_err(|e| self.explain(e))
        };
        self.connections.within(CALL_TIMEOUT, work).await
    }

    /// Writes collections; a row that is there already takes the new figures.
    ///
    /// **Gives** how many rows the database refused for what they say; they are logged and left out.
    pub async fn put_collections(&self, rows: &[CollectionRow], now_ms: i64) -> Result<u64, CatalogError> {
        // One statement may not change a row twice; the last word on a job counts.
        let last: BTreeMap<&str, &CollectionRow> = rows.iter().map(|row| (row.job_id.as_str(), row)).collect();
        let rows: Vec<&CollectionRow> = last.into_values().collect();
        let mut refused = 0;
        for piece in rows.chunks(ROWS_PER_STATEMENT) {
            match self.put_piece(piece, now_ms).await {
                Err(CatalogError::Database(_)) if piece.len() > 1 => {
                    for row in piece {
                        refused += self.put_one(row, now_ms).await?;
                    }
                }
                Err(CatalogError::Database(_)) => refused += self.put_one(piece[0], now_ms).await?,
                written => written?,
            }
        }
        Ok(refused)
    }

    async fn put_one(&self, row: &CollectionRow, now_ms: i64) -> Result<u64, CatalogError> {
        match self.put_piece(&[row], now_ms).await {
            Err(CatalogError::Database(error)) => {
                tracing::error!(job_id = row.job_id, "the catalog's database refuses a collection: {error}");
                Ok(1)
            }
            written => written.map(|()| 0),
        }
    }

    async fn put_piece(&self, rows: &[&CollectionRow], now_ms: i64) -> Result<(), CatalogError> {
        const SQL: &str = "INSERT INTO collection_jobs (job_id, target_id, collection_method, status, \
            metrics_collected, collection_duration_ms, error_details, created_at, source_id, health_status, \
            collections, samples_stored, samples_refused, window_start, updated_at) \
            SELECT j, t, m, s, n, d, e, c::timestamptz, o, h, k, a, r, w::timestamptz, $15::timestamptz \
            FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::float8[], $7::text[], \
            $8::text[], $9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[]) \
            AS v(j, t, m, s, n, d, e, c, o, h, k, a, r, w) \
            ON CONFLICT (job_id) DO UPDATE SET metrics_collected = excluded.metrics_collected, \
            collection_duration_ms = excluded.collection_duration_ms, health_status = excluded.health_status, \
            collections = excluded.collections, samples_stored = excluded.samples_stored, \
            samples_refused = excluded.samples_refused, updated_at = excluded.updated_at";
        let texts = |of: &dyn Fn(&CollectionRow) -> String| rows.iter().map(|r| of(r)).collect::<Vec<String>>();
        let maybe = |of: &dyn Fn(&CollectionRow) -> Option<String>| rows.iter().map(|r| of(r)).collect::<Vec<_>>();
        let numbers = |of: fn(&CollectionRow) -> i64| rows.iter().map(|r| of(r)).collect::<Vec<i64>>();
        let query = sqlx::query(SQL)
            .bind(texts(&|r| fitting(&r.job_id)))
            .bind(texts(&|r| fitting(&r.target_id)))
            .bind(texts(&|r| r.method.as_str().to_owned()))
            .bind(texts(&|r| r.status.clone()))
            .bind(numbers(|r| r.metrics_collected))
            .bind(rows.iter().map(|r| r.collection_duration_ms).collect::<Vec<f64>>())
            .bind(maybe(&|r| r.error_details.as_deref().map(without_nul)))
            .bind(texts(&|r| time::to_text(r.created_at_ms)))
            .bind(texts(&|r| fitting(&r.source_id)))
            .bind(texts(&|r| r.health.as_str().to_owned()))
            .bind(numbers(|r| r.collections))
            .bind(numbers(|r| r.samples_stored))
            .bind(numbers(|r| r.samples_refused))
            .bind(maybe(&|r| r.window_start_ms.map(time::to_text)))
            .bind(time::to_text(now_ms));
        let work = async {
            let mut lease = self.lease().await?;
            query.execute(lease.connection()).await.map_err(|e| self.explain(e))?;
            lease.give_back();
            Ok(())
        };
        self.connections.within(CALL_TIMEOUT, work).await
    }

    /// Claims a key durably, or says what is known of it; keys from before `valid_from_ms` count as unknown.
    pub async fn claim(
        &self,
        key: &str,
        request_hash: i64,
        now_ms: i64,
        valid_from_ms: i64,
    ) -> Result<Claim, CatalogError> {
        let work = async {
            let mut lease = self.lease().await?;
            let claimed = self.claim_on(&mut lease, key, request_hash, now_ms, valid_from_ms).await;
            let claimed = claimed.map_err(|e| self.explain(e))?;
            lease.give_back();
            Ok(claimed)
        };
        self.connections.within(CALL_TIMEOUT, work).await
    }

    async fn claim_on(
        &self,
        lease: &mut Lease<'_>,
        key: &str,
        request_hash: i64,
        now_ms: i64,
        valid_from_ms: i64,
    ) -> Result<Claim, sqlx::Error> {
        const INSERT: &str = "INSERT INTO idempotency_keys (idempotency_key, request_hash, claimed_at, claimed_by) \
            VALUES ($1, $2, $3::timestamptz, $4) ON CONFLICT (idempotency_key) DO UPDATE \
            SET request_hash = $2, claimed_at = $3::timestamptz, claimed_by = $4, touched_at = now(), \
            response_status = NULL, response_head = NULL, response_body = NULL \
            WHERE idempotency_keys.claimed_at < $5::timestamptz";
        const SELECT: &str = "SELECT request_hash, response_status, response_head, response_body, \
            to_char(claimed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS claimed_at, \
            claimed_by <> $2 AND touched_at > now() - make_interval(secs => $3) AS taken \
            FROM idempotency_keys WHERE idempotency_key = $1 FOR UPDATE";
        const TAKE: &str = "UPDATE idempotency_keys SET claimed_by = $2, touched_at = now() WHERE idempotency_key = $1";
        let mut transaction = lease.connection().begin().await?;
        let fresh = sqlx::query(INSERT)
            .bind(key)
            .bind(request_hash)
            .bind(time::to_text(now_ms))
            .bind(&self.owner)
            .bind(time::to_text(valid_from_ms))
            .execute(&mut *transaction)
            .await?;
        if fresh.rows_affected() == 1 {
            transaction.commit().await?;
            return Ok(Claim::Fresh { claimed_at_ms: now_ms });
        }
        let query = sqlx::query(SELECT).bind(key).bind(&self.owner).bind(CLAIM_SECONDS);
        let row = query.fetch_one(&mut *transaction).await?;
        let claim = if row.try_get::<i64, _>("request_hash")? != request_hash {
            Claim::OtherRequest
        } else if let Some(status) = row.try_get::<Option<i64>, _>("response_status")? {
            Claim::Done(StoredResponse {
                status: u16::try_from(status).unwrap_or(500),
                head: row.try_get::<Option<String>, _>("response_head")?.unwrap_or_default(),
                body: row.try_get::<Option<String>, _>("response_body")?.unwrap_or_default(),
            })
        } else if row.try_get("taken")? {
            Claim::InProgress
        } else {
            sqlx::query(TAKE).bind(key).bind(&self.owner).execute(&mut *transaction).await?;
            let text: String = row.try_get("claimed_at")?;
            Claim::Fresh { claimed_at_ms: time::from_text(&text).unwrap_or(now_ms) }
        };
        transaction.commit().await?;
        Ok(claim)
    }

    /// Keeps the answer to a claimed key.
    pub async fn finish(&self, key: &str, response: &StoredResponse) -> Result<(), CatalogError> {
        const SQL: &str = "UPDATE idempotency_keys SET response_status = $1, response_head = $2, response_body = $3 \
            WHERE idempotency_key = $4";
        let work = async {
            let mut lease = self.lease().await?;
            sqlx::query(SQL)
                .bind(i64::from(response.status))
                .bind(without_nul(&response.head))
                .bind(without_nul(&response.body))
                .bind(key)
                .execute(lease.connection())
                .await
                .map_err(|e| self.explain(e))?;
            lease.give_back();
            Ok(())
        };
        self.connections.within(CALL_TIMEOUT, work).await
    }

    /// Listens for changes of targets.
    pub async fn listen(&self) -> Result<Listener, CatalogError> {
        Listener::open(&self.connections).await
    }
}

/// PostgreSQL's text has no NUL; what a target answers may have one.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Cuts a name to its column; names that are too long were refused at the door, those of discovery may be longer.
fn fitting(text: &str) -> String {
    without_nul(text).chars().take(ID_CHARS_MAX).collect()
}
