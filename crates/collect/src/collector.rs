//! All targets of this node: who they are, when they are scraped, how they stand.
//!
//! Owns: the table of targets, the timer, the running scrapes.
//! Invariants: 1. a target's scrapes never overlap; 2. its observers hear of them in order; 3. a removed target writes nothing
//! after its stale markers; 4. a shutdown writes no stale markers.
//! Not here: where targets come from, where they are kept.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;
use model::{Append, Health};
use parking_lot::RwLock;
use sys::{Clock, RealClock};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gates::Gates;
use crate::outcome::{Observe, ScrapeOutcome, TargetStatus};
use crate::report::BatchIds;
use crate::retire::retire;
use crate::schedule::{Schedule, Tick};
use crate::scrape::{self, Occasion, Shop};
use crate::slot::{Scraper, Slot};
use crate::spare::Spare;
use crate::sums::Sums;
use crate::table::{COLLECTORS, Table};
use crate::target::TargetSpec;

/// Running scrapes get this long at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// What is with the store by then gets this long.
const SHUTDOWN_LAST: Duration = Duration::from_secs(2);
/// Targets whose ends are marked at the same time.
const RETIRE_AT_ONCE: usize = 32;

/// Scrapes targets.
pub struct Collector(Arc<Inner>);

struct Inner {
    shop: Arc<Shop>,
    targets: RwLock<Table>,
    schedule: Schedule,
    stopping: CancellationToken,
    tasks: TaskTracker,
    runtime: Handle,
}

impl Collector {
    /// Starts with no targets.
    ///
    /// **Takes** the store's door, who hears of every collection, and the node's batch ids. Call it within a tokio runtime: the
    /// scrapes run there.
    pub fn new(append: Arc<dyn Append>, observer: Arc<impl Observe + 'static>, ids: Arc<BatchIds>) -> Collector {
        Collector::with_clock(append, observer, ids, Arc::new(RealClock::default()))
    }

    /// Like [`Collector::new`], with another wall clock. Scrapes are due by the runtime's monotonic clock all the same.
    pub fn with_clock(
        append: Arc<dyn Append>,
        observer: Arc<impl Observe + 'static>,
        ids: Arc<BatchIds>,
        clock: Arc<dyn Clock>,
    ) -> Collector {
        Collector::with_sums(append, observer, ids, clock, Arc::default())
    }

    /// Like [`Collector::with_clock`], with what filters added up before.
    pub fn with_sums(
        append: Arc<dyn Append>,
        observer: Arc<impl Observe + 'static>,
        ids: Arc<BatchIds>,
        clock: Arc<dyn Clock>,
        sums: Arc<Sums>,
    ) -> Collector {
        let abort = CancellationToken::new();
        let shop = Arc::new(Shop {
            append,
            observer,
            ids,
            clock,
            gates: Gates::default(),
            spare: Spare::default(),
            sums,
            abort,
        });
        let inner = Arc::new(Inner {
            shop,
            targets: RwLock::default(),
            schedule: Schedule::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        });
        inner.runtime.spawn(keep_time(inner.clone()));
        Collector(inner)
    }

    /// Adds a target, or changes one: the next scrape follows the new settings, and one that runs is ended if URL or labels
    /// are others now. A target that is switched off by this gets
    /// its stale markers, without waiting for them.
    pub fn upsert(&self, spec: TargetSpec) {
        self.0.put(spec);
    }

    /// Takes a target out. Its running scrape is ended.
    ///
    /// **Gives** how many stale markers were written: one for each series of the last scrape, report series included; 0 when
    /// there is no such target, nothing to mark, or the store did not take them.
    pub async fn remove(&self, target_id: &str) -> u64 {
        let Some(slot) = self.0.take_out(target_id) else { return 0 };
        let now_ms = self.0.shop.clock.now_ms();
        // Spawned: a caller that goes away must not leave series without their end.
        let task = self.0.spawn(retire(self.0.shop.clone(), slot, now_ms));
        task.await.unwrap_or(0)
    }

    /// Switches a target on or off. One that is switched off gets its stale markers, without waiting for them.
    ///
    /// **Gives** whether there is such a target.
    pub fn set_enabled(&self, target_id: &str, enabled: bool) -> bool {
        let Some(slot) = self.0.slot(target_id) else { return false };
        let spec = slot.shared.lock().spec.clone();
        if spec.enabled != enabled {
            self.0.apply(&slot, TargetSpec { enabled, ..TargetSpec::clone(&spec) });
        }
        true
    }

    /// Makes these the targets of a job: adds and changes them, and takes out those of the job that are not among them, with
    /// stale markers. Does not wait for network or store.
    ///
    /// **Takes** targets whose origin is this job. Ids that another job, or the API, holds already are left as they are.
    /// **Cost** some microseconds for each target of the job, present and new.
    pub fn set_job_targets(&self, job: &str, specs: Vec<TargetSpec>) {
        let wanted: HashSet<String> = specs.iter().map(|s| s.target_id.clone()).collect();
        let (gone, foreign): (Vec<String>, HashSet<String>) = {
            let targets = self.0.targets.read();
            let gone = targets.of_job(job).filter(|id| !wanted.contains(*id)).map(str::to_owned);
            let foreign = wanted.iter().filter(|id| targets.is_foreign(id, job)).cloned();
            (gone.collect(), foreign.collect())
        };
        let gone: Vec<Arc<Slot>> = gone.iter().filter_map(|id| self.0.take_out(id)).collect();
        for spec in specs {
            if foreign.contains(&spec.target_id) {
                tracing::warn!(target_id = spec.target_id, job, "target id is taken by another owner");
            } else {
                self.0.put(spec);
            }
        }
        self.0.retire_all(gone);
    }

    /// Makes these the custom collectors, as [`Collector::set_job_targets`] does for a job.
    pub fn set_collectors(&self, specs: Vec<TargetSpec>) {
        self.set_job_targets(COLLECTORS, specs);
    }

    /// Scrapes a target now: a normal collection, stored and reported, with the labels of most values listed. Waits for a
    /// scrape that runs.
    ///
    /// **Gives** `None` when there is no such target, it is switched off, or the collector was shut down.
    pub async fn scrape_now(&self, target_id: &str) -> Option<ScrapeOutcome> {
        if self.0.stopping.is_cancelled() {
            return None;
        }
        let slot = self.0.slot(target_id)?;
        let shop = self.0.shop.clone();
        // Spawned: a caller that goes away must not cut a collection in two.
        let task = self.0.spawn(async move {
            let scraping = slot.scraper.clone().lock_owned().await;
            scrape::collect(shop, slot, scraping, Occasion::Asked).await
        });
        task.await.ok().flatten()
    }

    /// Scrapes without storing, counting or reporting. The balance says what would have become of the samples, and counts
    /// as stored what would have been handed to the store.
    pub async fn dry_run(&self, spec: TargetSpec) -> ScrapeOutcome {
        scrape::dry_run(self.0.shop.clone(), spec).await
    }

    /// Gives how a target stands.
    pub fn status(&self, target_id: &str) -> Option<TargetStatus> {
        Some(self.0.slot(target_id)?.shared.lock().status.clone())
    }

    /// Gives how all targets stand, in no particular order.
    pub fn statuses(&self) -> Vec<TargetStatus> {
        self.0.targets.read().slots().map(|slot| slot.shared.lock().status.clone()).collect()
    }

    /// Gives the settings of a target.
    pub fn spec(&self, target_id: &str) -> Option<TargetSpec> {
        let spec = self.0.slot(target_id)?.shared.lock().spec.clone();
        Some(TargetSpec::clone(&spec))
    }

    /// Gives the ids of targets whose settings are such; nothing is copied.
    pub fn find(&self, is_such: impl Fn(&TargetSpec) -> bool) -> Vec<String> {
        let specs: Vec<Arc<TargetSpec>> =
            self.0.targets.read().slots().map(|slot| slot.shared.lock().spec.clone()).collect();
        specs.iter().filter(|spec| is_such(spec)).map(|spec| spec.target_id.clone()).collect()
    }

    /// Counts the targets.
    pub fn len(&self) -> usize {
        self.0.targets.read().len()
    }

    /// Tells whether there are no targets.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stops: no scrape begins any more. Those that run get five seconds, then they are ended without a trace; what is with
    /// the store by then gets two more. No stale markers are written: after a restart the series go on.
    pub async fn shutdown(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, self.0.tasks.wait()).await.is_err() {
            self.0.shop.abort.cancel();
            if tokio::time::timeout(SHUTDOWN_LAST, self.0.tasks.wait()).await.is_err() {
                tracing::warn!(running = self.0.tasks.len(), "scrapes were still with the store at shutdown");
            }
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.0.stopping.cancel();
        self.0.shop.abort.cancel();
    }
}

impl Inner {
    fn slot(&self, target_id: &str) -> Option<Arc<Slot>> {
        self.targets.read().get(target_id).cloned()
    }

    fn put(self: &Arc<Inner>, spec: TargetSpec) {
        let mut targets = self.targets.write();
        if let Some(slot) = targets.get(&spec.target_id).cloned() {
            targets.note_origin(&spec.target_id, &spec.origin);
            drop(targets);
            return self.apply(&slot, spec);
        }
        let now_ms = self.shop.clock.now_ms();
        let spec = Arc::new(spec);
        let slot = Arc::new(Slot::new(spec.clone(), now_ms));
        targets.insert(&spec.target_id, slot.clone(), &spec.origin);
        drop(targets);
        let mut shared = slot.shared.lock();
        // Somebody may have changed it in between, and then it is on the timer already.
        if shared.is_active() && shared.due.is_none() {
            self.schedule.start(&slot, &mut shared, now_ms);
        }
    }

    /// Changes a target in place.
    fn apply(self: &Arc<Inner>, slot: &Arc<Slot>, spec: TargetSpec) {
        let now_ms = self.shop.clock.now_ms();
        let mut shared = slot.shared.lock();
        let was_active = shared.is_active();
        let same_rhythm = shared.spec.interval_ms == spec.interval_ms && shared.spec.phase_hash() == spec.phase_hash();
        let elsewhere = shared.spec.url != spec.url || shared.spec.labels != spec.labels;
        shared.spec = Arc::new(spec);
        if elsewhere {
            // What the old place says is of no use any more, and who waits for the new one need not wait for the old.
            shared.end_running();
        }
        shared.status.source_id = shared.spec.source_id.clone();
        shared.status.origin = shared.spec.origin.clone();
        match (was_active, shared.is_active()) {
            (true, true) if same_rhythm => {}
            (_, true) => {
                if !was_active {
                    shared.set_health(Health::Unknown, now_ms);
                }
                self.schedule.start(slot, &mut shared, now_ms);
            }
            (was, false) => {
                shared.stop();
                shared.set_health(Health::Disabled, now_ms);
                if was {
                    drop(shared);
                    self.retire_all(vec![slot.clone()]);
                }
            }
        }
    }

    fn take_out(&self, target_id: &str) -> Option<Arc<Slot>> {
        let slot = self.targets.write().remove(target_id)?;
        let mut shared = slot.shared.lock();
        shared.removed = true;
        shared.stop();
        drop(shared);
        Some(slot)
    }

    fn retire_all(self: &Arc<Inner>, slots: Vec<Arc<Slot>>) {
        use futures_util::StreamExt;
        if slots.is_empty() {
            return;
        }
        let now_ms = self.shop.clock.now_ms();
        let shop = self.shop.clone();
        self.spawn(async move {
            futures_util::stream::iter(slots)
                .for_each_concurrent(RETIRE_AT_ONCE, |slot| {
                    let shop = shop.clone();
                    async move {
                        retire(shop, slot, now_ms).await;
                    }
                })
                .await;
        });
    }

    fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime.spawn(self.tasks.track_future(future))
    }

    fn tick(&self, slot: Arc<Slot>, tick: Tick) {
        match slot.scraper.clone().try_lock_owned() {
            Err(_) => slot.shared.lock().status.missed_ticks += 1,
            Ok(scraping) => self.start(slot, scraping, tick),
        }
    }

    fn start(&self, slot: Arc<Slot>, scraping: tokio::sync::OwnedMutexGuard<Scraper>, tick: Tick) {
        let shop = self.shop.clone();
        self.spawn(async move { drop(scrape::collect(shop, slot, scraping, Occasion::Tick(tick)).await) });
    }
}

/// Starts what is due, until the collector stops.
async fn keep_time(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            biased;
            () = inner.stopping.cancelled() => return,
            () = inner.schedule.wait() => {}
        }
        loop {
            let ready = inner.schedule.take_due(Instant::now());
            if ready.is_empty() || inner.stopping.is_cancelled() {
                break;
            }
            for (slot, tick) in ready {
                inner.tick(slot, tick);
            }
            tokio::task::yield_now().await;
        }
        inner.schedule.sweep(inner.targets.read().len());
    }
}
