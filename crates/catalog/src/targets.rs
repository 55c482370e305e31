//! The targets: changes go to the database first and then to the mirror; reads come from the mirror.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use model::Health;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use crate::database::Database;
use crate::journal::Journal;
use crate::target::Columns;
use crate::{Catalog, CatalogError, NewTarget, Target, TargetPatch};

/// Which targets to list; an empty filter means all.
#[derive(Clone, Debug, Default)]
pub struct TargetFilter {
    /// Exactly this state.
    pub health: Option<Health>,
    /// Exactly this source.
    pub source_id: Option<String>,
    /// All these labels with these values.
    pub labels: Vec<(String, String)>,
    /// Switched on or off.
    pub enabled: Option<bool>,
}

impl TargetFilter {
    /// Tells whether a target passes.
    pub fn accepts(&self, target: &Target) -> bool {
        self.health.is_none_or(|h| h == target.health)
            && self.source_id.as_ref().is_none_or(|s| *s == target.spec.source_id)
            && self.enabled.is_none_or(|e| e == target.spec.enabled)
            && self.labels.iter().all(|(name, value)| target.spec.labels.get(name) == Some(value))
    }
}

/// One page of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In order of their ids.
    pub targets: Vec<Arc<Target>>,
    /// Where the next page starts; `None` at the end.
    pub next_after: Option<String>,
}

/// All rows of `metric_targets`, by id.
pub(crate) struct Mirror {
    rows: RwLock<BTreeMap<String, Arc<Target>>>,
    health_changed: Mutex<HashSet<String>>,
}

impl Mirror {
    /// Reads all rows, and brings back those that only the journal knows.
    pub async fn load(database: &Database, journal: &mut Journal) -> Result<Mirror, CatalogError> {
        let rows = sqlx::query("SELECT * FROM metric_targets").fetch_all(&mut *database.read().await).await?;
        let mut columns: BTreeMap<String, Columns> =
            rows.iter().map(Columns::read).map(|c| (c.target_id.clone(), c)).collect();
        let copies = journal.read()?;
        for (target_id, copy) in &copies {
            if copy.deleted_at.is_none() && !columns.contains_key(target_id) {
                tracing::error!(
                    target_id,
                    "the catalog's database has lost a target; it is restored from catalog.targets"
                );
                write_row(&mut *database.write().await, copy).await?;
                columns.insert(target_id.clone(), copy.clone());
            }
        }
        let same = columns.len() == copies.len()
            && columns
                .iter()
                .all(|(id, c)| copies.get(id).is_some_and(|copy| copy.same_but_health(c) || !c.is_sound()));
        if !same {
            // A damaged row must not push its sound copy out.
            let best = |c: &'_ Columns| if c.is_sound() { None } else { copies.get(&c.target_id).cloned() };
            let lines: Vec<Columns> = columns.values().map(|c| best(c).unwrap_or_else(|| c.clone())).collect();
            journal.rewrite(lines.iter())?;
        }
        let targets = columns.into_iter().map(|(id, c)| (id, Arc::new(c.into_target()))).collect::<BTreeMap<_, _>>();
        for damage in targets.values().filter_map(|t| t.damage.as_ref()) {
            tracing::error!("{damage}; the target is disabled");
        }
        Ok(Mirror { rows: RwLock::new(targets), health_changed: Mutex::default() })
    }

    fn get(&self, target_id: &str) -> Option<Arc<Target>> {
        self.rows.read().get(target_id).cloned()
    }

    /// Puts what was just committed; a state that changed meanwhile is kept and written later.
    fn put(&self, committed: Target) -> Arc<Target> {
        let mut committed = committed;
        let mut rows = self.rows.write();
        let id = committed.spec.target_id.clone();
        if let Some(now) = rows.get(&id)
            && now.version + 1 == committed.version
            && now.spec.enabled
            && committed.spec.enabled
            && now.damage.is_none()
            && now.health != committed.health
        {
            committed.health = now.health;
            self.health_changed.lock().insert(id.clone());
        }
        let target = Arc::new(committed);
        rows.insert(id, Arc::clone(&target));
        target
    }
}

impl Catalog {
    /// Gives a live target.
    pub fn get(&self, target_id: &str) -> Option<Arc<Target>> {
        self.mirror.get(target_id).filter(|t| t.is_live())
    }

    /// Gives a target that is deleted but not forgotten.
    pub fn get_deleted(&self, target_id: &str) -> Option<Arc<Target>> {
        self.mirror.get(target_id).filter(|t| !t.is_live())
    }

    /// Gives all live targets, in order of their ids.
    pub fn all(&self) -> Vec<Arc<Target>> {
        self.mirror.rows.read().values().filter(|t| t.is_live()).cloned().collect()
    }

    /// Counts the live targets.
    pub fn len(&self) -> usize {
        self.mirror.rows.read().values().filter(|t| t.is_live()).count()
    }

    /// Tells whether there is no live target.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lists live targets that pass the filter, from after `after` on, at most `limit` of them.
    pub fn list(&self, filter: &TargetFilter, limit: Option<usize>, after: Option<&str>) -> Page {
        let rows = self.mirror.rows.read();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let passing = rows
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(_, target)| target)
            .filter(|t| t.is_live() && filter.accepts(t));
        let Some(limit) = limit else {
            return Page { targets: passing.cloned().collect(), next_after: None };
        };
        let mut targets: Vec<Arc<Target>> = passing.take(limit.saturating_add(1)).cloned().collect();
        let more = targets.len() > limit;
        targets.truncate(limit);
        let next_after = if more { targets.last().map(|t| t.spec.target_id.clone()) } else { None };
        Page { targets, next_after }
    }

    /// Registers a target.
    ///
    /// **Errors** with [`CatalogError::Exists`] when a live target has the id; a deleted one gives its id away.
    pub async fn insert(&self, new: NewTarget, now_ms: i64) -> Result<Arc<Target>, CatalogError> {
        let mut writer = self.database.write().await;
        let mut target = Target::new(new, now_ms);
        if let Some(old) = self.mirror.get(&target.spec.target_id) {
            if old.is_live() {
                return Err(CatalogError::Exists(target.spec.target_id));
            }
            target.version = old.version + 1;
        }
        self.commit(&mut writer, target).await
    }

    /// Puts a new registration in a live target's place; its age stays.
    pub async fn replace(
        &self,
        new: NewTarget,
        expected_version: Option<i64>,
        now_ms: i64,
    ) -> Result<Arc<Target>, CatalogError> {
        let mut writer = self.database.write().await;
        let old = self.live(&new.target_id, expected_version)?;
        let mut target = Target::new(new, now_ms);
        target.id = old.id;
        target.created_at_ms = old.created_at_ms;
        target.version = old.version + 1;
        self.commit(&mut writer, target).await
    }

    /// Changes parts of a live target.
    pub async fn patch(
        &self,
        target_id: &str,
        patch: &TargetPatch,
        expected_version: Option<i64>,
        now_ms: i64,
    ) -> Result<Arc<Target>, CatalogError> {
        let mut writer = self.database.write().await;
        let old = self.live(target_id, expected_version)?;
        self.commit(&mut writer, old.patched(patch, now_ms)).await
    }

    /// Deletes a live target; the row stays so that the deletion can be undone.
    pub async fn delete(&self, target_id: &str, now_ms: i64) -> Result<Arc<Target>, CatalogError> {
        let mut writer = self.database.write().await;
        let old = self.live(target_id, None)?;
        let mut target = (*old).clone();
        target.deleted_at_ms = Some(now_ms);
        target.updated_at_ms = now_ms;
        target.version += 1;
        self.commit(&mut writer, target).await
    }

    /// Notes what a deletion was answered with, for a request that comes twice.
    pub async fn set_deletion(&self, target_id: &str, deletion: Value) -> Result<(), CatalogError> {
        let mut writer = self.database.write().await;
        let Some(old) = self.get_deleted(target_id) else {
            return Err(CatalogError::NotFound(target_id.to_owned()));
        };
        let mut target = (*old).clone();
        target.deletion = Some(deletion);
        self.commit(&mut writer, target).await.map(drop)
    }

    /// Undoes a deletion.
    ///
    /// **Errors** with [`CatalogError::UndoExpired`] after [`crate::UNDO_WINDOW_MS`].
    pub async fn restore(&self, target_id: &str, now_ms: i64) -> Result<Arc<Target>, CatalogError> {
        let mut writer = self.database.write().await;
        if self.get(target_id).is_some() {
            return Err(CatalogError::Exists(target_id.to_owned()));
        }
        let Some(old) = self.get_deleted(target_id) else {
            return Err(CatalogError::NotFound(target_id.to_owned()));
        };
        if old.undo_until_ms().is_some_and(|until| now_ms > until) {
            return Err(CatalogError::UndoExpired(target_id.to_owned()));
        }
        let mut target = (*old).clone();
        target.deleted_at_ms = None;
        target.deletion = None;
        target.updated_at_ms = now_ms;
        target.version += 1;
        self.commit(&mut writer, target).await
    }

    /// Notes the state of a target; memory only, and only when it changed.
    pub fn set_health(&self, target_id: &str, health: Health) {
        let unchanged = |t: &Target| t.health == health || !t.spec.enabled || !t.is_live() || t.damage.is_some();
        if self.mirror.rows.read().get(target_id).is_none_or(|t| unchanged(t)) {
            return;
        }
        let mut rows = self.mirror.rows.write();
        if let Some(target) = rows.get_mut(target_id).filter(|t| !unchanged(t)) {
            Arc::make_mut(target).health = health;
            self.mirror.health_changed.lock().insert(target_id.to_owned());
        }
    }

    /// Writes the states that changed since the last time, in one transaction.
    pub(crate) async fn flush_health(&self) -> Result<(), CatalogError> {
        let mut writer = self.database.write().await;
        let changed: Vec<String> = self.mirror.health_changed.lock().iter().cloned().collect();
        if changed.is_empty() {
            return Ok(());
        }
        let mut written = Vec::with_capacity(changed.len());
        let mut transaction = writer.begin().await?;
        for target_id in changed {
            let Some(target) = self.mirror.get(&target_id) else { continue };
            let columns = target.columns();
            sqlx::query("UPDATE metric_targets SET health_status = $1, checksum = $2 WHERE target_id = $3")
                .bind(&columns.health_status)
                .bind(columns.checksum)
                .bind(&columns.target_id)
                .execute(&mut *transaction)
                .await?;
            written.push((target_id, target.health));
        }
        transaction.commit().await?;
        let mut pending = self.mirror.health_changed.lock();
        for (target_id, health) in written {
            if self.mirror.get(&target_id).is_none_or(|t| t.health == health) {
                pending.remove(&target_id);
            }
        }
        Ok(())
    }

    pub(crate) async fn prune_targets(&self, now_ms: i64) -> Result<(), CatalogError> {
        let mut writer = self.database.write().await;
        let limit = now_ms.saturating_sub(crate::DELETED_RETENTION_MS);
        let forgotten: Vec<String> = {
            let rows = self.mirror.rows.read();
            let old = rows.values().filter(|t| t.deleted_at_ms.is_some_and(|d| d < limit));
            old.map(|t| t.spec.target_id.clone()).collect()
        };
        for target_id in forgotten {
            sqlx::query("DELETE FROM metric_targets WHERE target_id = $1")
                .bind(&target_id)
                .execute(&mut *writer)
                .await?;
            self.mirror.rows.write().remove(&target_id);
        }
        self.tidy_journal()
    }

    /// Writes the second copy anew when most of it is history. The caller holds the writing connection.
    fn tidy_journal(&self) -> Result<(), CatalogError> {
        let mut journal = self.journal.lock();
        let targets: Vec<Arc<Target>> = self.mirror.rows.read().values().cloned().collect();
        if journal.is_mostly_history(targets.len()) && targets.iter().all(|t| t.damage.is_none()) {
            let columns: Vec<Columns> = targets.iter().map(|t| t.columns()).collect();
            journal.rewrite(columns.iter())?;
        }
        Ok(())
    }

    fn live(&self, target_id: &str, expected_version: Option<i64>) -> Result<Arc<Target>, CatalogError> {
        let target = self.get(target_id).ok_or_else(|| CatalogError::NotFound(target_id.to_owned()))?;
        match expected_version {
            Some(expected) if expected != target.version => {
                Err(CatalogError::VersionMismatch { target_id: target_id.to_owned(), expected, actual: target.version })
            }
            _ => Ok(target),
        }
    }

    async fn commit(&self, writer: &mut SqliteConnection, target: Target) -> Result<Arc<Target>, CatalogError> {
        target.check_lengths()?;
        let columns = target.columns();
        write_row(writer, &columns).await?;
        let target = self.mirror.put(target);
        if let Err(error) = self.journal.lock().append(&columns) {
            // The change is committed; only its second copy is missing, until the next start or hour.
            tracing::warn!("catalog.targets: {error}");
        }
        Ok(target)
    }
}

async fn write_row(writer: &mut SqliteConnection, c: &Columns) -> Result<(), sqlx::Error> {
    const SQL: &str = "INSERT INTO metric_targets (id, target_id, target_url, source_type, scrape_config, labels, \
        health_status, enabled, created_at, source_id, collection_method, origin, request, filters, retention_policy, \
        limits, version, updated_at, deleted_at, deletion, checksum) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21) \
        ON CONFLICT (target_id) DO UPDATE SET id = excluded.id, target_url = excluded.target_url, \
        source_type = excluded.source_type, scrape_config = excluded.scrape_config, labels = excluded.labels, \
        health_status = excluded.health_status, enabled = excluded.enabled, created_at = excluded.created_at, \
        source_id = excluded.source_id, collection_method = excluded.collection_method, origin = excluded.origin, \
        request = excluded.request, filters = excluded.filters, retention_policy = excluded.retention_policy, \
        limits = excluded.limits, version = excluded.version, updated_at = excluded.updated_at, \
        deleted_at = excluded.deleted_at, deletion = excluded.deletion, checksum = excluded.checksum";
    sqlx::query(SQL)
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
        .bind(c.checksum)
        .execute(writer)
        .await
        .map(drop)
}
