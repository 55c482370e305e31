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

use crate::rows::{Asked, KnownClaim, bind_columns, newer_collection, read_collection, read_columns, target_columns};
use crate::target::Columns;
use crate::{CatalogError, Claim, CollectionRow, StoredResponse, time};
use connections::{Connections, Lease};

pub use connections::{ConnectionStats, Password, PostgresPlace};
pub use listening::{Heard, Listener};

/// For one statement or a few.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// For removing what is over, and for migrations, which may wait for those of another server.
const LONG_TIMEOUT: Duration = Duration::from_secs(60);
/// Targets read at a time.
const PAGE_ROWS: usize = 2_000;
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
    pub fn listener_broke(&self, error: &CatalogError) {
        self.connections.listener_broke(error);
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
            let migrator = crate::migrations::postgres();
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
        self.connections.lease().await
    }

    /// Does a piece of work within a time, see [`Connections::within`]; nothing before the schema is known to be there.
    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, CatalogError>>,
    ) -> Result<T, CatalogError> {
        if !self.migrated.load(Ordering::Relaxed) {
            let reason = self.connections.trouble();
            return Err(match reason {
                Some(reason) => CatalogError::Away(reason),
                None => self.connections.place.away("the schema has not been looked at yet"),
            });
        }
        self.connections.within(limit, work).await
    }

    /// Reads all rows of `metric_targets`, a page at a time, so that a network that swallows everything is noticed soon.
    ///
    /// What changes meanwhile may be there or not; who listens hears of it.
    pub async fn rows(&self) -> Result<Vec<Columns>, CatalogError> {
        let mut all: Vec<Columns> = Vec::new();
        loop {
            let page = self.page_after(all.last().map(|c| c.id.clone())).await?;
            let is_last = page.len() < PAGE_ROWS;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    async fn page_after(&self, id: Option<String>) -> Result<Vec<Columns>, CatalogError> {
        let work = async {
            let mut lease = self.lease().await?;
            let sql = sqlx::AssertSqlSafe(format!(
                "SELECT {COLUMNS} FROM metric_targets AS t WHERE $1::uuid IS NULL OR t.id > $1::uuid \
                 ORDER BY t.id LIMIT {PAGE_ROWS}"
            ));
            let query = sqlx::query(sql).bind(id);
            let rows = query.fetch_all(lease.connection()).await.map_err(|e| self.explain(e))?;
            lease.give_back();
            Ok(rows.iter().map(read_columns).collect())
        };
        self.within(CALL_TIMEOUT, work).await
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
        self.within(CALL_TIMEOUT, work).await
    }

    /// Writes a row in place of the one that is known, or a new one; tells whether the database still had what is known.
    pub async fn put(&self, c: &Columns, known: Option<&Columns>) -> Result<bool, CatalogError> {
        const INSERT: &str = concat!(
            "INSERT INTO metric_targets (",
            target_columns!(),
            ") VALUES ($1::uuid, $2, $3, $4, $5::json, $6::json, $7, $8, $9::timestamptz, $10, $11, $12, $13::json, \
             $14::json, $15::json, $16::json, $17, $18::timestamptz, $19::timestamptz, $20::json, $21) \
             ON CONFLICT (target_id) DO NOTHING"
        );
        const UPDATE: &str = "UPDATE metric_targets SET id = $1::uuid, target_url = $3, source_type = $4, \
            scrape_config = $5::json, labels = $6::json, health_status = $7, enabled = $8, \
            created_at = $9::timestamptz, source_id = $10, collection_method = $11, origin = $12, \
            request = $13::json, filters = $14::json, retention_policy = $15::json, limits = $16::json, \
            version = $17, updated_at = $18::timestamptz, deleted_at = $19::timestamptz, deletion = $20::json, \
            checksum = $21 WHERE target_id = $2 AND version = $22 AND (deletion IS NULL) = $23";
        let work = async {
            let mut lease = self.lease().await?;
            let query = bind_columns!(sqlx::query(if known.is_some() { UPDATE } else { INSERT }), c);
            let query = match known {
                Some(known) => query.bind(known.version).bind(known.deletion.is_none()),
                None => query,
            };
            let done = query.execute(lease.connection()).await.map_err(|e| self.explain(e))?;
            lease.give_back();
            Ok(done.rows_affected() == 1)
        };
        self.within(CALL_TIMEOUT, work).await
    }

    /// Writes the states of targets whose version is still the known one.
    pub async fn put_health(&self, targets: &[Columns]) -> Result<(), CatalogError> {
        // All servers lock the rows in the same order, so that none waits for another that waits for it.
        const SQL: &str = "WITH locked AS MATERIALIZED (SELECT t.id, v.health, v.checksum FROM metric_targets AS t \
            JOIN UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS v(target_id, health, checksum, version) \
            ON t.target_id = v.target_id AND t.version = v.version WHERE t.deleted_at IS NULL \
            ORDER BY t.target_id FOR UPDATE OF t) \
            UPDATE metric_targets AS t SET health_status = locked.health, checksum = locked.checksum \
            FROM locked WHERE t.id = locked.id";
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
            self.within(CALL_TIMEOUT, work).await?;
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
        self.within(LONG_TIMEOUT, work).await
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
        self.within(CALL_TIMEOUT, work).await
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
                Err(error) if is_about_rows(&error) => {
                    for row in piece {
                        refused += self.put_one(row, now_ms).await?;
                    }
                }
                written => written?,
            }
        }
        Ok(refused)
    }

    async fn put_one(&self, row: &CollectionRow, now_ms: i64) -> Result<u64, CatalogError> {
        match self.put_piece(&[row], now_ms).await {
            Err(error) if is_about_rows(&error) => {
                tracing::error!(job_id = row.job_id, "the catalog's database refuses a collection: {error}");
                Ok(1)
            }
            written => written.map(|()| 0),
        }
    }

    async fn put_piece(&self, rows: &[&CollectionRow], now_ms: i64) -> Result<(), CatalogError> {
        const SQL: &str = concat!(
            "INSERT INTO collection_jobs (job_id, target_id, collection_method, status, metrics_collected, \
             collection_duration_ms, error_details, created_at, source_id, health_status, collections, samples_stored, \
             samples_refused, window_start, updated_at) \
             SELECT j, t, m, s, n, d, e, c::timestamptz, o, h, k, a, r, w::timestamptz, $15::timestamptz \
             FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::float8[], $7::text[], \
             $8::text[], $9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[]) \
             AS v(j, t, m, s, n, d, e, c, o, h, k, a, r, w)",
            newer_collection!()
        );
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
        self.within(CALL_TIMEOUT, work).await
    }

    /// Claims a key durably, or says what is known of it.
    pub async fn claim(&self, asked: &Asked<'_>) -> Result<Claim, CatalogError> {
        let work = async {
            let mut lease = self.lease().await?;
            let claimed = self.claim_on(&mut lease, asked).await.map_err(|e| self.explain(e))?;
            lease.give_back();
            Ok(claimed)
        };
        self.within(CALL_TIMEOUT, work).await
    }

    async fn claim_on(&self, lease: &mut Lease<'_>, asked: &Asked<'_>) -> Result<Claim, sqlx::Error> {
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
            .bind(asked.key)
            .bind(asked.request_hash)
            .bind(time::to_text(asked.now_ms))
            .bind(&self.owner)
            .bind(time::to_text(asked.valid_from_ms))
            .execute(&mut *transaction)
            .await?;
        if fresh.rows_affected() == 1 {
            transaction.commit().await?;
            return Ok(Claim::Fresh { claimed_at_ms: asked.now_ms });
        }
        let query = sqlx::query(SELECT).bind(asked.key).bind(&self.owner).bind(CLAIM_SECONDS);
        let row = query.fetch_one(&mut *transaction).await?;
        let mut claim = KnownClaim::read(&row)?.answer(asked);
        if matches!(claim, Claim::Fresh { .. }) {
            if row.try_get("taken")? {
                claim = Claim::InProgress;
            } else {
                sqlx::query(TAKE).bind(asked.key).bind(&self.owner).execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await?;
        Ok(claim)
    }

    /// Gives a key up that this server claimed, so that another one may take it at once.
    pub async fn release(&self, key: &str) -> Result<(), CatalogError> {
        const SQL: &str = "UPDATE idempotency_keys SET touched_at = '-infinity' \
            WHERE idempotency_key = $1 AND claimed_by = $2 AND response_status IS NULL";
        let work = async {
            let mut lease = self.lease().await?;
            let query = sqlx::query(SQL).bind(key).bind(&self.owner);
            query.execute(lease.connection()).await.map_err(|e| self.explain(e))?;
            lease.give_back();
            Ok(())
        };
        self.within(CALL_TIMEOUT, work).await
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
        self.within(CALL_TIMEOUT, work).await
    }

    /// Listens for changes of targets.
    pub async fn listen(&self) -> Result<Listener, CatalogError> {
        Listener::open(&self.connections).await
    }
}

/// Tells whether an error is about what rows say: classes 22, data that do not fit, and 23, constraints. All others may be
/// over some day, and the rows wait for it.
fn is_about_rows(error: &CatalogError) -> bool {
    match error {
        CatalogError::Database(sqlx::Error::Database(e)) => {
            e.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
        }
        _ => false,
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
