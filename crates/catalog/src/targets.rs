//! The targets: changes go to the database first and then to the mirror; reads come from the mirror.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use model::Health;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use crate::database::Database;
use crate::journal::Journal;
use crate::target::Columns;
use crate::{Catalog, CatalogError, NewTarget, Target, TargetPatch};

/// How often a change is decided anew because another server was faster.
const CHANGE_TRIES_MAX: usize = 50;

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
    /// Reads all rows of the embedded database, and brings back those that only the journal knows.
    pub async fn load(database: &Database, journal: &mut Journal) -> Result<Mirror, CatalogError> {
        let mut columns = by_id(database.rows().await?);
        let copies = journal.read()?;
        for (target_id, copy) in &copies {
            if copy.deleted_at.is_none() && !columns.contains_key(target_id) {
                tracing::error!(
                    target_id,
                    "the catalog's database has lost a target; it is restored from catalog.targets"
                );
                database.put(copy, None).await?;
                columns.insert(target_id.clone(), copy.clone());
            }
        }
        Mirror::of(columns, &copies, journal)
    }

    /// Reads all rows of a shared database, which has the last word; the journal follows.
    pub async fn load_shared(database: &Database, journal: &mut Journal) -> Result<Mirror, CatalogError> {
        let columns = by_id(database.rows().await?);
        let copies = journal.read()?;
        Mirror::of(columns, &copies, journal)
    }

    /// Takes the journal for the database, which is away; `None` when there is no journal yet.
    pub fn from_copy(journal: &Journal) -> Result<Option<Mirror>, CatalogError> {
        if !journal.exists() {
            return Ok(None);
        }
        let rows = journal.read()?.into_iter().map(|(id, c)| (id, Arc::new(c.into_target()))).collect();
        Ok(Some(Mirror { rows: RwLock::new(rows), health_changed: Mutex::default() }))
    }

    fn of(
        columns: BTreeMap<String, Columns>,
        copies: &BTreeMap<String, Columns>,
        journal: &mut Journal,
    ) -> Result<Mirror, CatalogError> {
        let same = journal.exists()
            && columns.len() == copies.len()
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

    /// Takes a row that another server may have changed; tells whether it says something new.
    ///
    /// The state of health is what this node found out, while the target is switched on.
    pub fn follow(&self, columns: Columns) -> bool {
        let mut rows = self.rows.write();
        let known = rows.get(&columns.target_id);
        if known.is_some_and(|t| t.damage.is_none() && t.columns().same_but_health(&columns)) && columns.is_sound() {
            return false;
        }
        let health = known.filter(|t| t.spec.enabled && t.is_live()).map(|t| t.health);
        let mut target = columns.into_target();
        match (&target.damage, health) {
            (Some(damage), _) => tracing::error!("{damage}; the target is disabled"),
            (None, Some(health)) if target.spec.enabled && target.is_live() => target.health = health,
            _ => {}
        }
        rows.insert(target.spec.target_id.clone(), Arc::new(target));
        true
    }

    /// Forgets rows that are in the database no more.
    pub fn forget(&self, target_id: &str) -> bool {
        self.rows.write().remove(target_id).is_some()
    }

    /// Gives the ids of all rows.
    pub fn ids(&self) -> Vec<String> {
        self.rows.read().keys().cloned().collect()
    }

    /// Gives what the journal has to hold of all rows.
    pub fn sound_columns(&self) -> Vec<Columns> {
        self.rows.read().values().filter(|t| t.damage.is_none()).map(|t| t.columns()).collect()
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

fn by_id(rows: Vec<Columns>) -> BTreeMap<String, Columns> {
    rows.into_iter().map(|c| (c.target_id.clone(), c)).collect()
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

    /// Gives all targets that are deleted but not forgotten.
    pub fn all_deleted(&self) -> Vec<Arc<Target>> {
        self.mirror.rows.read().values().filter(|t| !t.is_live()).cloned().collect()
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
        let target_id = new.target_id.clone();
        self.change(&target_id, |old| {
            let mut target = Target::new(new.clone(), now_ms);
            match old {
                Old::Live(_) => return Err(CatalogError::Exists(new.target_id.clone())),
                Old::Deleted(old) => target.version = old.version + 1,
                Old::None => {}
            }
            Ok(target)
        })
        .await
    }

    /// Puts a new registration in a live target's place; its age stays.
    pub async fn replace(
        &self,
        new: NewTarget,
        expected_version: Option<i64>,
        now_ms: i64,
    ) -> Result<Arc<Target>, CatalogError> {
        let target_id = new.target_id.clone();
        self.change(&target_id, |old| {
            let old = old.live(&new.target_id, expected_version)?;
            let mut target = Target::new(new.clone(), now_ms);
            target.id = old.id;
            target.created_at_ms = old.created_at_ms;
            target.version = old.version + 1;
            Ok(target)
        })
        .await
    }

    /// Changes parts of a live target.
    pub async fn patch(
        &self,
        target_id: &str,
        patch: &TargetPatch,
        expected_version: Option<i64>,
        now_ms: i64,
    ) -> Result<Arc<Target>, CatalogError> {
        self.change(target_id, |old| Ok(old.live(target_id, expected_version)?.patched(patch, now_ms))).await
    }

    /// Deletes a live target; the row stays so that the deletion can be undone.
    ///
    /// **Takes** `deletion`: what the deletion is answered with, as far as that is known; see [`Catalog::set_deletion`].
    pub async fn delete(
        &self,
        target_id: &str,
        expected_version: Option<i64>,
        deletion: Option<Value>,
        now_ms: i64,
    ) -> Result<Arc<Target>, CatalogError> {
        self.change(target_id, |old| {
            let mut target = old.live(target_id, expected_version)?.clone();
            target.deleted_at_ms = Some(now_ms);
            target.deletion.clone_from(&deletion);
            target.updated_at_ms = now_ms;
            target.version += 1;
            Ok(target)
        })
        .await
    }

    /// Notes what a deletion was answered with, for a request that comes twice.
    pub async fn set_deletion(&self, target_id: &str, deletion: Value) -> Result<(), CatalogError> {
        let changed = self.change(target_id, |old| match old {
            Old::Deleted(old) => Ok(Target { deletion: Some(deletion.clone()), ..old.clone() }),
            Old::None | Old::Live(_) => Err(CatalogError::NotFound(target_id.to_owned())),
        });
        changed.await.map(drop)
    }

    /// Undoes a deletion.
    ///
    /// **Errors** with [`CatalogError::UndoExpired`] after [`crate::UNDO_WINDOW_MS`].
    pub async fn restore(&self, target_id: &str, now_ms: i64) -> Result<Arc<Target>, CatalogError> {
        self.change(target_id, |old| {
            let old = match old {
                Old::Live(_) => return Err(CatalogError::Exists(target_id.to_owned())),
                Old::Deleted(old) => old,
                Old::None => return Err(CatalogError::NotFound(target_id.to_owned())),
            };
            if old.undo_until_ms().is_some_and(|until| now_ms > until) {
                return Err(CatalogError::UndoExpired(target_id.to_owned()));
            }
            let mut target = old.clone();
            target.deleted_at_ms = None;
            target.deletion = None;
            target.updated_at_ms = now_ms;
            target.version += 1;
            Ok(target)
        })
        .await
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

    /// Writes the states that changed since the last time.
    pub(crate) async fn flush_health(&self) -> Result<(), CatalogError> {
        let _one = self.changing.lock().await;
        let changed: Vec<String> = self.mirror.health_changed.lock().iter().cloned().collect();
        if changed.is_empty() {
            return Ok(());
        }
        let known: Vec<Arc<Target>> = changed.iter().filter_map(|id| self.mirror.get(id)).collect();
        // The row of a deleted target has its last state.
        let columns: Vec<Columns> =
            known.iter().filter(|t| t.is_live() && t.damage.is_none()).map(|t| t.columns()).collect();
        self.database.put_health(&columns).await?;
        let written: BTreeMap<&str, Health> = known.iter().map(|t| (t.spec.target_id.as_str(), t.health)).collect();
        let mut pending = self.mirror.health_changed.lock();
        for target_id in changed {
            let now = self.mirror.get(&target_id).map(|t| t.health);
            if now.is_none() || now == written.get(target_id.as_str()).copied() {
                pending.remove(&target_id);
            }
        }
        Ok(())
    }

    pub(crate) async fn prune_targets(&self, now_ms: i64) -> Result<(), CatalogError> {
        let limit = now_ms.saturating_sub(crate::DELETED_RETENTION_MS);
        // This may take a minute, in which changes go on: a row that comes back meanwhile is written anew.
        self.database.forget(limit).await?;
        let _one = self.changing.lock().await;
        self.mirror.rows.write().retain(|_, t| t.deleted_at_ms.is_none_or(|d| d >= limit));
        self.tidy_journal()
    }

    /// Writes the second copy anew when most of it is history. The caller holds `changing`.
    fn tidy_journal(&self) -> Result<(), CatalogError> {
        let mut journal = self.journal.lock();
        let targets: Vec<Arc<Target>> = self.mirror.rows.read().values().cloned().collect();
        if journal.is_mostly_history(targets.len()) && targets.iter().all(|t| t.damage.is_none()) {
            let columns: Vec<Columns> = targets.iter().map(|t| t.columns()).collect();
            journal.rewrite(columns.iter())?;
        }
        Ok(())
    }

    /// Writes the second copy anew after a change could not be written to it.
    pub(crate) async fn mend_copy(&self) -> Result<(), CatalogError> {
        if !self.journal.lock().is_behind() {
            return Ok(());
        }
        let _one = self.changing.lock().await;
        let mut columns: BTreeMap<String, Columns> =
            self.mirror.sound_columns().into_iter().map(|c| (c.target_id.clone(), c)).collect();
        let mut journal = self.journal.lock();
        for (target_id, copy) in journal.read()? {
            // A damaged row must not push its sound copy out.
            if self.mirror.get(&target_id).is_some_and(|t| t.damage.is_some()) {
                columns.insert(target_id, copy);
            }
        }
        Ok(journal.rewrite(columns.values())?)
    }

    /// Changes one target: in the database, then in the mirror, then in the journal.
    ///
    /// **Takes** `decide`: from what is known of the target to what it shall be; asked again when another server has
    /// changed it meanwhile.
    async fn change(
        &self,
        target_id: &str,
        decide: impl Fn(Old<'_>) -> Result<Target, CatalogError>,
    ) -> Result<Arc<Target>, CatalogError> {
        let _one = self.changing.lock().await;
        for _ in 0..CHANGE_TRIES_MAX {
            let old = self.mirror.get(target_id);
            let target = decide(Old::of(old.as_deref()))?;
            target.check_lengths()?;
            let columns = target.columns();
            let known = old.map(|old| old.columns());
            if !self.database.put(&columns, known.as_ref()).await? {
                self.read_again(&[target_id.to_owned()]).await?;
                continue;
            }
            let target = self.mirror.put(target);
            if let Err(error) = self.journal.lock().append([&columns]) {
                // The change is committed; its second copy comes with a flush.
                tracing::warn!("catalog.targets: {error}; it is tried again");
            }
            return Ok(target);
        }
        Err(CatalogError::Away(format!("target {target_id:?} is being changed by others all the time")))
    }
}

/// What is known of a target that is to be changed.
enum Old<'a> {
    /// Nothing.
    None,
    /// It is there.
    Live(&'a Target),
    /// It was deleted and is not forgotten.
    Deleted(&'a Target),
}

impl<'a> Old<'a> {
    fn of(known: Option<&'a Target>) -> Old<'a> {
        match known {
            None => Old::None,
            Some(target) if target.is_live() => Old::Live(target),
            Some(target) => Old::Deleted(target),
        }
    }

    /// Gives a live target, in the version that is expected.
    fn live(self, target_id: &str, expected_version: Option<i64>) -> Result<&'a Target, CatalogError> {
        let Old::Live(target) = self else { return Err(CatalogError::NotFound(target_id.to_owned())) };
        match expected_version {
            Some(expected) if expected != target.version => {
                Err(CatalogError::VersionMismatch { target_id: target_id.to_owned(), expected, actual: target.version })
            }
            _ => Ok(target),
        }
    }
}
