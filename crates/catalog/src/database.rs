//! The two connections to the database: one writes, one reads collections.

use std::io;
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, MutexGuard};

use crate::CatalogError;
use crate::journal::sync_parent;

/// An open database.
pub struct Database {
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

impl Database {
    /// Opens or creates the file and runs the migrations.
    pub async fn open(path: &Path) -> Result<Database, CatalogError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(std::time::Duration::from_secs(5))
            .disable_statement_logging();
        let mut writer = options.connect().await?;
        // A connection that is only dropped is closed later, on its own thread, and may still hold and remove files.
        if let Err(error) = sqlx::migrate!("./migrations").run(&mut writer).await {
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
        Ok(Database { writer: Mutex::new(writer), reader: Mutex::new(reader) })
    }

    /// Waits for the writing connection.
    pub async fn write(&self) -> MutexGuard<'_, SqliteConnection> {
        self.writer.lock().await
    }

    /// Waits for the reading connection.
    pub async fn read(&self) -> MutexGuard<'_, SqliteConnection> {
        self.reader.lock().await
    }

    /// Closes both connections; the last one folds the journal into the file.
    pub async fn close(self) -> Result<(), CatalogError> {
        let reader = self.reader.into_inner().close().await;
        let writer = self.writer.into_inner().close().await;
        Ok(reader.and(writer)?)
    }
}
