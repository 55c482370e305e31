//! Where the rows are: in a file of our own, or in PostgreSQL.

use crate::postgres::Postgres;
use crate::rows::Asked;
use crate::sqlite::Sqlite;
use crate::target::Columns;
use crate::{CatalogError, Claim, CollectionRow, StoredResponse};

/// An open database.
pub enum Database {
    /// The embedded one; nobody else writes to it.
    Sqlite(Sqlite),
    /// One that may be shared and may be away.
    Postgres(Box<Postgres>),
}

impl Database {
    /// Reads all rows of `metric_targets`.
    pub async fn rows(&self) -> Result<Vec<Columns>, CatalogError> {
        match self {
            Database::Sqlite(sqlite) => sqlite.rows().await,
            Database::Postgres(postgres) => postgres.rows().await,
        }
    }

    /// Writes a row in place of the known one; `false` when somebody else has changed it.
    pub async fn put(&self, new: &Columns, known: Option<&Columns>) -> Result<bool, CatalogError> {
        match self {
            Database::Sqlite(sqlite) => sqlite.put(new).await.map(|()| true),
            Database::Postgres(postgres) => postgres.put(new, known).await,
        }
    }

    /// Writes states of live targets.
    pub async fn put_health(&self, targets: &[Columns]) -> Result<(), CatalogError> {
        match self {
            Database::Sqlite(sqlite) => sqlite.put_health(targets).await,
            Database::Postgres(postgres) => postgres.put_health(targets).await,
        }
    }

    /// Removes the rows of targets that were deleted before a time.
    pub async fn forget(&self, before_ms: i64) -> Result<(), CatalogError> {
        match self {
            Database::Sqlite(sqlite) => sqlite.forget(before_ms).await,
            Database::Postgres(postgres) => postgres.forget(before_ms).await,
        }
    }

    /// Reads collections, newest first.
    pub async fn collections(&self, target_id: Option<&str>, limit: u32) -> Result<Vec<CollectionRow>, CatalogError> {
        match self {
            Database::Sqlite(sqlite) => sqlite.collections(target_id, limit).await,
            Database::Postgres(postgres) => postgres.collections(target_id, limit).await,
        }
    }

    /// Writes collections; gives how many of them the database refused for what they say.
    pub async fn put_collections(&self, rows: &[CollectionRow], now_ms: i64) -> Result<u64, CatalogError> {
        match self {
            Database::Sqlite(sqlite) => sqlite.put_collections(rows, now_ms).await.map(|()| 0),
            Database::Postgres(postgres) => postgres.put_collections(rows, now_ms).await,
        }
    }

    /// Removes collections from before a time.
    pub async fn prune_collections(&self, before_ms: i64) -> Result<(), CatalogError> {
        match self {
            Database::Sqlite(sqlite) => sqlite.prune_collections(before_ms).await,
            Database::Postgres(postgres) => postgres.prune_collections(before_ms).await,
        }
    }

    /// Removes keys claimed before a time.
    pub async fn prune_claims(&self, before_ms: i64) -> Result<(), CatalogError> {
        match self {
            Database::Sqlite(sqlite) => sqlite.prune_claims(before_ms).await,
            Database::Postgres(postgres) => postgres.prune_claims(before_ms).await,
        }
    }

    /// Claims a key durably, or says what is known of it.
    pub async fn claim(&self, asked: &Asked<'_>) -> Result<Claim, CatalogError> {
        match self {
            Database::Sqlite(sqlite) => sqlite.claim(asked).await,
            Database::Postgres(postgres) => postgres.claim(asked).await,
        }
    }

    /// Gives a claimed key up, so that others need not wait for an answer; the time of the claim stays.
    pub async fn release(&self, key: &str) -> Result<(), CatalogError> {
        match self {
            // Nobody else has this database.
            Database::Sqlite(_) => Ok(()),
            Database::Postgres(postgres) => postgres.release(key).await,
        }
    }

    /// Keeps the answer to a claimed key.
    pub async fn finish(&self, key: &str, response: &StoredResponse) -> Result<(), CatalogError> {
        match self {
            Database::Sqlite(sqlite) => sqlite.finish(key, response).await,
            Database::Postgres(postgres) => postgres.finish(key, response).await,
        }
    }

    /// Closes the database.
    pub async fn close(self) -> Result<(), CatalogError> {
        match self {
            Database::Sqlite(sqlite) => sqlite.close().await,
            Database::Postgres(_) => Ok(()),
        }
    }
}
