//! Brings the targets' retention into the store, and deletes the samples of targets that went with them.
//!
//! Owns: the file `retention` in the data directory: the policies of all targets that ever had one and may still have
//! samples, and which deleted targets' samples are to go when the deletion can no longer be undone.
//! Invariants: 1. a target's policy outlives its deletion until its samples are past it; 2. a purge that was answered is
//! done, also after a crash, and on all servers that share the catalog, unless they are away for a week; doing it twice
//! changes nothing; 3. restoring the target cancels it.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use catalog::Catalog;
use model::TimeRange;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Doomed, RetentionRules, Store};
use sys::Fs;

use crate::rest::retention::Policy;
use crate::rest::targets_remove::purges;

/// One target.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Entry {
    policy: Value,
    /// Since when it is deleted.
    gone_ms: Option<i64>,
    /// When its samples go.
    purge_ms: Option<i64>,
    /// The purge that was done last, by the time at which it was due.
    #[serde(default)]
    purged_ms: Option<i64>,
}

impl Entry {
    fn of(policy: Value) -> Entry {
        Entry { policy, gone_ms: None, purge_ms: None, purged_ms: None }
    }
}

/// Keeps the store's rules in step with the catalog.
pub struct Keeper {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    store: Arc<Store>,
    catalog: Arc<Catalog>,
    default_ms: i64,
    entries: BTreeMap<String, Entry>,
}

impl Keeper {
    /// Reads the file; one that cannot be read is reported and made anew from the catalog.
    pub fn open(fs: Arc<dyn Fs>, path: PathBuf, store: Arc<Store>, catalog: Arc<Catalog>, default_ms: i64) -> Keeper {
        let entries = match fs.exists(&path).then(|| fs.read(&path)) {
            None => BTreeMap::new(),
            Some(read) => {
                let read = read.map_err(|e| e.to_string());
                read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string())).unwrap_or_else(|why| {
                    tracing::error!("{}: {why}; the retention of deleted targets is lost", path.display());
                    BTreeMap::new()
                })
            }
        };
        let keeper = Keeper { fs, path, store, catalog, default_ms, entries };
        keeper.store.set_retention(keeper.rules());
        keeper
    }

    fn rules(&self) -> RetentionRules {
        let rule = |(id, entry): (&String, &Entry)| Some((id.clone(), Policy::from_value(&entry.policy)?.rule()?));
        RetentionRules { default_ms: self.default_ms, targets: self.entries.iter().filter_map(rule).collect() }
    }

    /// Follows the catalog; carries out what is due. It may write the head to blocks.
    pub fn tick(&mut self, now_ms: i64) -> Result<(), String> {
        let next = self.next(now_ms);
        self.take(next)?;
        self.purge(now_ms)
    }

    fn next(&self, now_ms: i64) -> BTreeMap<String, Entry> {
        let mut next = self.entries.clone();
        let mut live = HashSet::new();
        for target in self.catalog.all() {
            let id = target.spec.target_id.clone();
            match &target.spec.retention_policy {
                Value::Null => drop(next.remove(&id)),
                policy => drop(next.insert(id.clone(), Entry::of(policy.clone()))),
            }
            live.insert(id);
        }
        let deleted = self.catalog.all_deleted();
        // The one who deleted it may be another server.
        for target in deleted.iter().filter(|t| t.deletion.as_ref().is_some_and(purges)) {
            let entry = next.entry(target.spec.target_id.clone()).or_insert_with(|| Entry::of(no_policy()));
            if entry.purged_ms != target.undo_until_ms() {
                entry.purge_ms = entry.purge_ms.or(target.undo_until_ms());
            }
        }
        let deleted: HashSet<&str> = deleted.iter().map(|t| t.spec.target_id.as_str()).collect();
        next.retain(|id, entry| {
            if live.contains(id) || (entry.purged_ms.is_some() && deleted.contains(id.as_str())) {
                return true;
            }
            let gone_ms = *entry.gone_ms.get_or_insert(now_ms);
            let longest_ms = Policy::from_value(&entry.policy).map_or(0, |p| p.longest_ms(self.default_ms));
            entry.purge_ms.is_some() || gone_ms.saturating_add(longest_ms) >= now_ms
        });
        next
    }

    /// Takes a new state; what is durable comes first.
    fn take(&mut self, next: BTreeMap<String, Entry>) -> Result<(), String> {
        if next == self.entries {
            return Ok(());
        }
        self.write(&next).map_err(|e| format!("cannot write {}: {e}", self.path.display()))?;
        let policies = |all: &BTreeMap<String, Entry>| -> Vec<(String, Value)> {
            all.iter().map(|(id, entry)| (id.clone(), entry.policy.clone())).collect()
        };
        let changed = policies(&next) != policies(&self.entries);
        self.entries = next;
        if changed {
            self.store.set_retention(self.rules());
        }
        Ok(())
    }

    /// Notes that the samples of a deleted target go at a time, unless it is restored before.
    pub fn schedule_purge(&mut self, target_id: &str, at_ms: i64) -> Result<(), String> {
        let mut next = self.entries.clone();
        let entry = next.entry(target_id.to_owned()).or_insert_with(|| Entry::of(no_policy()));
        entry.purge_ms.get_or_insert(at_ms);
        self.take(next)
    }

    /// Deletes the samples whose time has come.
    fn purge(&mut self, now_ms: i64) -> Result<(), String> {
        let due = |(id, entry): (&String, &Entry)| Some((id.clone(), entry.purge_ms.filter(|at| *at <= now_ms)?));
        let due: Vec<(String, i64)> = self.entries.iter().filter_map(due).collect();
        if self.catalog.stats().trouble.is_some() {
            // Whether it was restored meanwhile is not known.
            return Ok(());
        }
        for (id, due_ms) in due {
            // What came later is of somebody new with its name.
            let range = TimeRange { end_ms: due_ms, ..TimeRange::ALL };
            self.store.delete_series(&[Doomed::OfTarget(id.clone())], range).map_err(|e| e.to_string())?;
            tracing::info!(target_id = id, "the samples of a deleted target were deleted");
            let mut next = self.entries.clone();
            let mut done = Entry::of(no_policy());
            (done.gone_ms, done.purged_ms) = (Some(due_ms), Some(due_ms));
            next.insert(id, done);
            self.take(next)?;
        }
        Ok(())
    }

    fn write(&self, entries: &BTreeMap<String, Entry>) -> io::Result<()> {
        let temporary = self.path.with_extension("tmp");
        let file = self.fs.create(&temporary)?;
        file.append(&serde_json::to_vec(entries).map_err(io::Error::other)?)?;
        file.sync_data()?;
        self.fs.rename(&temporary, &self.path)?;
        self.path.parent().map_or(Ok(()), |dir| self.fs.sync_dir(dir))
    }
}

fn no_policy() -> Value {
    Value::Object(serde_json::Map::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalog::NewTarget;
    use model::{Append, Batch, Matcher, NO_FAMILY, Origin, Samples, Select};
    use serde_json::json;
    use store::StoreConfig;
    use sys::{RealFs, SimClock};

    const NOW_MS: i64 = 1_700_000_000_000;

    struct World {
        dir: tempfile::TempDir,
        clock: Arc<SimClock>,
        store: Arc<Store>,
        catalog: Arc<Catalog>,
    }

    impl World {
        async fn new() -> World {
            let dir = tempfile::tempdir().unwrap();
            let clock = Arc::new(SimClock::at(NOW_MS));
            let config = StoreConfig { dir: dir.path().join("data"), maintain_every_ms: 0, ..StoreConfig::default() };
            let (store, _) = Store::open(Arc::new(RealFs), clock.clone(), config).unwrap();
            let catalog = Arc::new(Catalog::open(&dir.path().join("catalog.db")).await.unwrap());
            World { dir, clock, store, catalog }
        }

        fn keeper(&self) -> Keeper {
            let path = self.dir.path().join("data/retention");
            Keeper::open(Arc::new(RealFs), path, self.store.clone(), self.catalog.clone(), 86_400_000)
        }

        async fn register(&self, id: &str, policy: Value) {
            let new = NewTarget {
                target_id: id.into(),
                retention_policy: policy,
                origin: "api".into(),
                ..NewTarget::default()
            };
            self.catalog.insert(new, NOW_MS).await.unwrap();
        }

        fn put(&self, target: &str, name: &str, age_ms: i64) -> bool {
            let origin = Origin { target_id: target.into(), source_id: "s".into(), ..Origin::default() };
            let mut batch = Batch::new(origin);
            let labels = model::Labels::from_pairs([("__name__", name), ("t", target)]);
            let series = batch.push_labels(&labels, NO_FAMILY);
            batch.push_sample(series, sys::Clock::now_ms(&*self.clock) - age_ms, 1.0);
            self.store.append(batch).1.unwrap().counts.stored == 1
        }

        fn count(&self, target: &str) -> usize {
            let found = self.store.select(&[Matcher::equal("t", target)], TimeRange::ALL).unwrap();
            let mut samples = Samples::default();
            found.iter().for_each(|r| r.read(TimeRange::ALL, &mut samples).unwrap());
            samples.len()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn policies_reach_the_store_and_outlive_their_target() {
        let world = World::new().await;
        world.register("short", json!({"raw": "1h"})).await;
        world.register("long", json!({"raw": "2h", "match": [{"selector": "slo", "raw": "400d"}]})).await;
        let mut keeper = world.keeper();
        keeper.tick(NOW_MS).unwrap();
        assert!(!world.put("short", "m", 2 * 3_600_000), "too old for its target");
        assert!(world.put("short", "m", 30 * 60_000) && world.put("long", "slo", 300 * 86_400_000));
        assert!(world.put("long", "m", 60_000) && world.put("none", "m", 60_000));
        world.catalog.delete("long", None, None, NOW_MS).await.unwrap();
        world.clock.advance(3 * 3_600_000);
        let now_ms = NOW_MS + 3 * 3_600_000;
        for _ in 0..2 {
            keeper.tick(now_ms).unwrap();
            let counts = ["short", "long", "none"].map(|t| world.count(t));
            assert_eq!(counts, [0, 1, 1], "the selector's sample alone is kept of the deleted one");
            keeper = world.keeper();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_purge_comes_when_the_deletion_is_final_and_survives_a_start() {
        let world = World::new().await;
        world.register("a", Value::Null).await;
        world.register("b", Value::Null).await;
        assert!(world.put("a", "m", 0) && world.put("b", "m", 0) && world.put("c", "m", 0));
        let mut keeper = world.keeper();
        for id in ["a", "b"] {
            world.catalog.delete(id, None, None, NOW_MS).await.unwrap();
            keeper.schedule_purge(id, NOW_MS + 600_000).unwrap();
        }
        keeper.tick(NOW_MS + 1000).unwrap();
        world.catalog.restore("b", NOW_MS + 2000).await.unwrap();
        let mut keeper = world.keeper();
        keeper.tick(NOW_MS + 599_999).unwrap();
        assert_eq!(["a", "b", "c"].map(|t| world.count(t)), [1, 1, 1]);
        keeper.tick(NOW_MS + 600_000).unwrap();
        assert_eq!(["a", "b", "c"].map(|t| world.count(t)), [0, 1, 1]);
        assert!(world.put("a", "m", -1), "what comes later is not concerned");
        keeper.tick(NOW_MS + 700_000).unwrap();
        assert_eq!(world.count("a"), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_purge_that_another_server_answered_is_done_here_once() {
        let world = World::new().await;
        for id in ["a", "b"] {
            world.register(id, Value::Null).await;
            assert!(world.put(id, "m", 0));
        }
        let mut keeper = world.keeper();
        // As the catalog has it when somebody else deleted them.
        let answer = |data: &str| Some(json!({"data": data}));
        world.catalog.delete("a", None, answer("PURGE_SCHEDULED"), NOW_MS).await.unwrap();
        world.catalog.delete("b", None, answer("KEPT"), NOW_MS).await.unwrap();
        keeper.tick(NOW_MS + 599_999).unwrap();
        assert_eq!(["a", "b"].map(|t| world.count(t)), [1, 1], "it can still be undone");
        keeper.tick(NOW_MS + 600_000).unwrap();
        assert_eq!(["a", "b"].map(|t| world.count(t)), [0, 1]);
        // A source of that name sends again: its samples are not concerned, neither now nor after a start.
        assert!(world.put("a", "m", -1));
        for _ in 0..2 {
            keeper.tick(NOW_MS + 700_000).unwrap();
            assert_eq!(world.count("a"), 1);
            keeper = world.keeper();
        }
    }
}
