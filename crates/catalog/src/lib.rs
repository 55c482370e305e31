//! Targets and collections, kept in an embedded SQLite database.
//!
//! Owns: the file `catalog.db` with the tables `metric_targets`, `collection_jobs` and `idempotency_keys`, and the
//! mirror of all targets in memory, from which every read of targets is answered; and a second copy of the targets.
//! Invariants: 1. a change of a target is answered after its commit with `synchronous=FULL`, and is in the mirror then;
//! 2. one connection writes; 3. a row whose checksum does not fit its columns is disabled and says so, never served as
//! if it were sound; 4. [`Catalog::record`] and [`Catalog::set_health`] touch memory only, [`Catalog::flush`] writes.
//! Not here: HTTP, JSON shapes of the API, anything about scraping.
//! Limits: see [`collection`] for the bounds of the roll-up in memory.
//! Fails how: an operating failure of the database is [`CatalogError::Database`]; nothing has changed then.
//!
//! The SQL is plain enough for PostgreSQL (`$1`, `ON CONFLICT`), so that it can come behind the same door.

pub mod collection;
mod database;
mod idempotency;
mod journal;
mod target;
mod targets;
mod time;

use std::path::Path;

use parking_lot::Mutex;

pub use collection::{CollectionRow, CollectionStatus};
pub use idempotency::{Claim, StoredResponse};
pub use target::{NewTarget, Target, TargetPatch};
pub use targets::{Page, TargetFilter};

use collection::Recorder;
use database::Database;
use journal::Journal;
use targets::Mirror;

/// How long a deleted target can be restored.
pub const UNDO_WINDOW_MS: i64 = 10 * 60 * 1000;
/// How long a row of `collection_jobs` is kept.
pub const COLLECTION_RETENTION_MS: i64 = 7 * 86_400_000;
/// How long a deleted target's row is kept for the record.
pub const DELETED_RETENTION_MS: i64 = 7 * 86_400_000;
/// How long an idempotency key is honoured.
pub const IDEMPOTENCY_MS: i64 = 86_400_000;

/// Why the catalog did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A live target has this id already.
    #[error("target \"{0}\" exists already")]
    Exists(String),
    /// No live target has this id.
    #[error("no target \"{0}\"")]
    NotFound(String),
    /// The target changed since the caller looked.
    #[error("target \"{target_id}\" has version {actual}, not {expected}")]
    VersionMismatch {
        /// Which target.
        target_id: String,
        /// What the caller expected.
        expected: i64,
        /// What it is.
        actual: i64,
    },
    /// The time in which a deletion can be undone is over.
    #[error("the deletion of \"{0}\" can no longer be undone")]
    UndoExpired(String),
    /// A field does not fit its column.
    #[error("{field} is {length} characters long, {limit} are allowed")]
    TooLong {
        /// The column.
        field: &'static str,
        /// What was given.
        length: usize,
        /// What fits.
        limit: usize,
    },
    /// The database refused or failed.
    #[error("catalog database: {0}")]
    Database(#[from] sqlx::Error),
    /// The second copy of the targets could not be read or written.
    #[error("catalog journal: {0}")]
    Journal(#[from] std::io::Error),
    /// The schema could not be brought up to date.
    #[error("catalog migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
}

impl CatalogError {
    /// Tells whether the database file is damaged, rather than out of reach.
    fn is_corruption(&self) -> bool {
        use sqlx::migrate::MigrateError;
        match self {
            CatalogError::Database(e) => database::is_corruption(e),
            CatalogError::Migration(MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _)) => {
                database::is_corruption(e)
            }
            // The record of migrations itself says nonsense.
            CatalogError::Migration(MigrateError::VersionMismatch(_) | MigrateError::Dirty(_)) => true,
            _ => false,
        }
    }
}

/// The catalog of one node.
pub struct Catalog {
    database: Database,
    mirror: Mirror,
    journal: Mutex<Journal>,
    recorder: Mutex<Recorder>,
    claims_in_flight: Mutex<std::collections::HashSet<String>>,
}

impl Catalog {
    /// Opens or creates the database file, brings its schema up to date and reads all targets.
    ///
    /// A database that cannot be read is kept aside as `catalog.db.damaged-<n>`, and a new one is made from
    /// `catalog.targets`; only the history of collections is lost then.
    ///
    /// **Errors** when files cannot be read or written; damaged rows are no error, see [`Target::damage`].
    pub async fn open(path: &Path) -> Result<Catalog, CatalogError> {
        let mut journal = Journal::beside(path);
        let (database, mirror) = match Catalog::load(path, &mut journal).await {
            Err(error) if error.is_corruption() && path.exists() => {
                tracing::error!("{error}; {} is kept aside and made anew", path.display());
                database::keep_aside(path)?;
                Catalog::load(path, &mut journal).await?
            }
            loaded => loaded?,
        };
        Ok(Catalog {
            database,
            mirror,
            journal: Mutex::new(journal),
            recorder: Mutex::default(),
            claims_in_flight: Mutex::default(),
        })
    }

    async fn load(path: &Path, journal: &mut Journal) -> Result<(Database, Mirror), CatalogError> {
        let database = Database::open(path).await?;
        match Mirror::load(&database, journal).await {
            Ok(mirror) => Ok((database, mirror)),
            Err(error) => {
                // Closed and waited for, so that the files can be moved.
                let _ = database.close().await;
                Err(error)
            }
        }
    }

    /// Writes what has gathered in memory: changed health, finished roll-ups, rows of failures.
    ///
    /// **Takes** `open_windows`: write roll-ups of windows that are still running too (each minute, and at shutdown).
    pub async fn flush(&self, now_ms: i64, open_windows: bool) -> Result<(), CatalogError> {
        self.flush_health().await?;
        self.flush_collections(now_ms, open_windows).await
    }

    /// Deletes what is past its time: collections, idempotency keys, rows of targets deleted long ago.
    pub async fn prune(&self, now_ms: i64) -> Result<(), CatalogError> {
        self.prune_collections(now_ms).await?;
        self.prune_claims(now_ms).await?;
        self.prune_targets(now_ms).await
    }

    /// Closes the database after a last flush.
    pub async fn close(self, now_ms: i64) -> Result<(), CatalogError> {
        self.flush(now_ms, true).await?;
        self.database.close().await
    }
}
