//! Several servers on one PostgreSQL: what another one changes comes into the mirror at once.
//!
//! Invariants: 1. first a connection listens, then all rows are read: nothing falls between; 2. a connection that broke is
//! followed by a new one and by reading all rows; 3. the mirror never goes back behind a change of this node, because rows
//! are read under the lock of changes.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use crate::database::Database;
use crate::postgres::{Heard, Postgres};
use crate::{Catalog, CatalogError};

/// A database that is away is tried so often.
const RETRY_EVERY: Duration = Duration::from_secs(1);

impl Catalog {
    /// Follows what other servers change, until the server stops; returns at once for an embedded database.
    pub async fn follow(&self, mut stop: watch::Receiver<bool>) {
        let Database::Postgres(postgres) = &self.database else { return };
        loop {
            let error = tokio::select! {
                error = self.follow_once(postgres) => error,
                _ = stop.wait_for(|stopped| *stopped) => return,
            };
            postgres.listener_broke(&error);
            tokio::select! {
                () = tokio::time::sleep(RETRY_EVERY) => {}
                _ = stop.wait_for(|stopped| *stopped) => return,
            }
        }
    }

    /// Waits until other servers have changed targets; gives their ids.
    pub async fn changed(&self) -> Vec<String> {
        loop {
            let notified = self.changed_wake.notified();
            let changed = std::mem::take(&mut *self.changed.lock());
            if !changed.is_empty() {
                return changed.into_iter().collect();
            }
            notified.await;
        }
    }

    /// Follows over one connection; gives why it ended.
    async fn follow_once(&self, postgres: &Postgres) -> CatalogError {
        let result: Result<(), CatalogError> = async {
            postgres.migrate().await?;
            let mut listener = postgres.listen().await?;
            self.read_all_again().await?;
            loop {
                match listener.next().await? {
                    Heard::Nothing => {}
                    Heard::All => self.read_all_again().await?,
                    Heard::Targets(target_ids) => {
                        let _one = self.changing.lock().await;
                        self.read_again(&target_ids).await?;
                    }
                }
            }
        }
        .await;
        match result {
            Err(error) => error,
            Ok(()) => CatalogError::Away("no more news".to_owned()),
        }
    }

    async fn read_all_again(&self) -> Result<(), CatalogError> {
        let _one = self.changing.lock().await;
        let rows = self.database.rows().await?;
        let there: HashSet<&str> = rows.iter().map(|c| c.target_id.as_str()).collect();
        let gone: Vec<String> = self.mirror.ids().into_iter().filter(|id| !there.contains(id.as_str())).collect();
        drop(there);
        self.take_rows(rows, gone);
        Ok(())
    }

    /// Reads rows again; the caller holds `changing`.
    pub(crate) async fn read_again(&self, target_ids: &[String]) -> Result<(), CatalogError> {
        let Database::Postgres(postgres) = &self.database else { return Ok(()) };
        let rows = postgres.rows_of(target_ids).await?;
        let there: HashSet<&str> = rows.iter().map(|c| c.target_id.as_str()).collect();
        let gone: Vec<String> = target_ids.iter().filter(|id| !there.contains(id.as_str())).cloned().collect();
        drop(there);
        self.take_rows(rows, gone);
        Ok(())
    }

    fn take_rows(&self, rows: Vec<crate::target::Columns>, gone: Vec<String>) {
        let mut changed = Vec::new();
        let mut copies = Vec::new();
        for columns in rows {
            let copy = columns.clone();
            if self.mirror.follow(columns) {
                changed.push(copy.target_id.clone());
                copies.extend(copy.is_sound().then_some(copy));
            }
        }
        let gone: Vec<String> = gone.into_iter().filter(|id| self.mirror.forget(id)).collect();
        let mut journal = self.journal.lock();
        let written = match (gone.is_empty(), copies.is_empty()) {
            (false, _) => journal.rewrite(self.mirror.sound_columns().iter()),
            (true, false) => journal.append(copies.iter()),
            (true, true) => Ok(()),
        };
        drop(journal);
        if let Err(error) = written {
            // The mirror has it, and so must those who put it in force; the copy is mended with a flush.
            tracing::warn!("catalog.targets: {error}; it is tried again");
        }
        changed.extend(gone);
        if !changed.is_empty() {
            self.followed.fetch_add(changed.len() as u64, Ordering::Relaxed);
            self.changed.lock().extend(changed);
            self.changed_wake.notify_waiters();
        }
    }
}
