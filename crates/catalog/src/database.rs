//! The two connections to the database: one writes, one reads collections.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, MutexGuard};

use crate::CatalogError;

/// An open database.
pub struct Database {
    writer: Mutex<SqliteConnection>,
    reader: Mutex<SqliteConnection>,
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
        sqlx::migrate!("./migrations").run(&mut writer).await?;
        let reader = options.connect().await?;
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
        self.reader.into_inner().close().await?;
        self.writer.into_inner().close().await?;
        Ok(())
    }
}
