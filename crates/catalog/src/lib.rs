//! Targets and collections, kept in an embedded SQLite database or in a PostgreSQL that several servers may share.
//!
//! Owns: the tables `metric_targets`, `collection_jobs` and `idempotency_keys`, and the mirror of all targets in memory,
//! from which every read of targets is answered; and a second copy of the targets in the data directory.
//! Invariants: 1. a change of a target is answered after its commit, and is in the mirror then; 2. changes go one after
//! another, and in a shared database only in place of the version that was known; 3. a row whose checksum does not fit its
//! columns is disabled and says so, never served as if it were sound; 4. [`Catalog::record`] and [`Catalog::set_health`]
//! touch memory only, [`Catalog::flush`] writes.
//! Not here: HTTP, JSON shapes of the API, anything about scraping.
//! Limits: see [`collection`] for the bounds of the roll-up in memory, and `waiting` for rows that wait for PostgreSQL.
//! Fails how: a failure of the database is [`CatalogError::Database`], one that is out of reach [`CatalogError::Away`];
//! reads of targets go on from the mirror, and rows of collections wait on disk.

pub mod collection;
mod database;
mod following;
mod idempotency;
mod journal;
mod lines;
mod migrations;
mod postgres;
mod rows;
mod sqlite;
mod target;
mod targets;
mod time;
mod waiting;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

pub use collection::{CollectionRow, CollectionStatus};
pub use idempotency::{Claim, StoredResponse};
pub use postgres::{ConnectionStats, Password, PostgresPlace};
pub use target::{NewTarget, Target, TargetPatch};
pub use targets::{Page, TargetFilter};

use collection::Recorder;
use database::Database;
use journal::Journal;
use postgres::Postgres;
use sqlite::Sqlite;
use targets::Mirror;
use waiting::Waiting;

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
    /// The database cannot be reached at the moment. Whether a change that was under way came through is not known.
    #[error("the catalog's database is away: {0}")]
    Away(String),
    /// The database does not let us in: password, database or rights.
    #[error("the catalog's database refuses us: {0}")]
    Refused(String),
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
    /// Tells whether the database is out of reach, which is said once when it begins and once when it ends.
    pub fn is_away(&self) -> bool {
        matches!(self, CatalogError::Away(_) | CatalogError::Refused(_))
    }

    /// Tells whether the database file is damaged, rather than out of reach.
    fn is_corruption(&self) -> bool {
        use sqlx::migrate::MigrateError;
        match self {
            CatalogError::Database(e) => sqlite::is_corruption(e),
            CatalogError::Migration(MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _)) => {
                sqlite::is_corruption(e)
            }
            // The record of migrations itself says nonsense.
            CatalogError::Migration(MigrateError::VersionMismatch(_) | MigrateError::Dirty(_)) => true,
            _ => false,
        }
    }
}

/// What can be said about the catalog.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CatalogStats {
    /// `sqlite`, or the place of the PostgreSQL without its password.
    pub place: String,
    /// Why the database is out of reach; `None` while it answers.
    pub trouble: Option<String>,
    /// Figures of the connections to PostgreSQL.
    pub connections: ConnectionStats,
    /// Bytes of collections that wait for the database.
    pub waiting_bytes: u64,
    /// Collections that found no room to be recorded or to wait, or that the database refused.
    pub collections_dropped: u64,
    /// Targets that other servers changed.
    pub followed: u64,
}

/// The catalog of one node.
pub struct Catalog {
    database: Database,
    mirror: Mirror,
    /// Held while a target is changed or read again, so that the mirror goes the way of the database.
    changing: tokio::sync::Mutex<()>,
    journal: Mutex<Journal>,
    recorder: Mutex<Recorder>,
    flushing: tokio::sync::Mutex<()>,
    /// With PostgreSQL: collections that wait for it.
    waiting: Option<tokio::sync::Mutex<Waiting>>,
    claims_in_flight: Mutex<std::collections::HashSet<String>>,
    changed: Mutex<BTreeSet<String>>,
    changed_wake: tokio::sync::Notify,
    followed: AtomicU64,
    /// What the last flush found in `waiting`.
    waiting_bytes: AtomicU64,
    waiting_dropped: AtomicU64,
}

/// How often a database that is away is tried at the start, when there is no copy to go by.
const START_RETRY: Duration = Duration::from_secs(1);

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
                sqlite::keep_aside(path)?;
                Catalog::load(path, &mut journal).await?
            }
            loaded => loaded?,
        };
        Ok(Catalog::of(database, mirror, journal, None))
    }

    /// Connects to PostgreSQL, brings its schema up to date and reads all targets; call [`Catalog::follow`] then.
    ///
    /// While the database is out of reach, the targets come from the copy that an earlier run left in the directory; the
    /// first start with a database has none, and waits.
    ///
    /// **Takes** `progress`: told what it waits for.
    /// **Errors** when the database does not let us in, or a file cannot be read or written.
    pub async fn connect(place: PostgresPlace, dir: &Path, progress: impl Fn(String)) -> Result<Catalog, CatalogError> {
        // Another database is another catalog: its copy must not be taken for this one's.
        let number = xxhash_rust::xxh3::xxh3_64(place.shown().as_bytes());
        let base = dir.join(format!("catalog-{number:016x}"));
        let mut journal = Journal::beside(&base);
        let waiting = Waiting::open(base.with_extension("jobs"))?;
        let owner = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(host_and(dir).as_bytes()));
        let database = Database::Postgres(Box::new(Postgres::new(place, owner)));
        let mirror = loop {
            let error = match Catalog::load_shared(&database, &mut journal).await {
                Ok(mirror) => break mirror,
                Err(CatalogError::Away(reason)) => reason,
                Err(error) => return Err(error),
            };
            if let Some(mirror) = Mirror::from_copy(&journal)? {
                tracing::warn!("the targets are those that this server knew last: {error}");
                break mirror;
            }
            progress(format!("waiting for the catalog's database: {error}"));
            tokio::time::sleep(START_RETRY).await;
        };
        Ok(Catalog::of(database, mirror, journal, Some(waiting)))
    }

    async fn load_shared(database: &Database, journal: &mut Journal) -> Result<Mirror, CatalogError> {
        if let Database::Postgres(postgres) = database {
            postgres.migrate().await?;
        }
        Mirror::load_shared(database, journal).await
    }

    fn of(database: Database, mirror: Mirror, journal: Journal, waiting: Option<Waiting>) -> Catalog {
        let waiting_bytes = waiting.as_ref().map_or(0, Waiting::bytes);
        Catalog {
            database,
            mirror,
            changing: tokio::sync::Mutex::default(),
            journal: Mutex::new(journal),
            recorder: Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
            waiting: waiting.map(tokio::sync::Mutex::new),
            claims_in_flight: Mutex::default(),
            changed: Mutex::default(),
            changed_wake: tokio::sync::Notify::new(),
            followed: AtomicU64::new(0),
            waiting_bytes: AtomicU64::new(waiting_bytes),
            waiting_dropped: AtomicU64::new(0),
        }
    }

    /// Says how the catalog is doing.
    pub fn stats(&self) -> CatalogStats {
        let mut stats = CatalogStats {
            place: "sqlite".to_owned(),
            collections_dropped: self.collections_dropped(),
            followed: self.followed.load(Ordering::Relaxed),
            ..CatalogStats::default()
        };
        if let Database::Postgres(postgres) = &self.database {
            let (place, trouble, connections) = postgres.connections();
            (stats.place, stats.trouble, stats.connections) = (place.shown().to_owned(), trouble, connections);
        }
        stats.waiting_bytes = self.waiting_bytes.load(Ordering::Relaxed);
        stats.collections_dropped += self.waiting_dropped.load(Ordering::Relaxed);
        stats
    }

    async fn load(path: &Path, journal: &mut Journal) -> Result<(Database, Mirror), CatalogError> {
        let database = Database::Sqlite(Sqlite::open(path).await?);
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
        // Each on its own: what is not written stays where it is.
        let copy = self.mend_copy().await;
        let health = self.flush_health().await;
        self.flush_collections(now_ms, open_windows).await.and(health).and(copy)
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

/// Tells this data directory from those of other hosts.
fn host_and(dir: &Path) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    format!("{}:{}", host.trim(), dir.display())
}
