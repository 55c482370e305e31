//! The groups of rules in force, each on its timer.
//!
//! Invariants: 1. a group is evaluated by one thread at a time, at its slots; 2. a slot that is missed is counted;
//! 3. what a reload does not change goes on undisturbed; series of rules that are gone get a stale marker.
//! Limits: [`AT_A_TIME`] groups are evaluated at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use model::Labels;
use parking_lot::Mutex;
use rules::{AlertTimes, Group, GroupDefinition, Host, ends};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::notifier::Notifier;
use crate::prom::api::Source;
use crate::telemetry::{Exposition, Histogram};

/// Groups evaluated at a time.
const AT_A_TIME: usize = 4;

/// A group as it stood after its last evaluation.
pub type GroupView = Arc<Group>;

/// What evaluations cost and were.
#[derive(Default, Debug)]
pub struct RulesStats {
    rounds: AtomicU64,
    missed: AtomicU64,
    evaluated: AtomicU64,
    failed: AtomicU64,
    samples: AtomicU64,
    seconds: Histogram,
}

/// The groups.
pub struct Groups {
    host: Arc<dyn Host>,
    notifier: Arc<Notifier>,
    now: Source<i64>,
    times: AlertTimes,
    seats: Arc<Semaphore>,
    stats: Arc<RulesStats>,
    running: Mutex<BTreeMap<(String, String), Running>>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    /// Whether groups take up alerts of an earlier run: only those of the first configuration.
    first: AtomicBool,
}

/// A group with its task.
struct Running {
    definition: GroupDefinition,
    view: Arc<ArcSwapOption<Group>>,
    stop: Arc<AtomicBool>,
    wake: Arc<tokio::sync::Notify>,
    task: JoinHandle<Option<Group>>,
}

impl Groups {
    /// Starts without groups.
    pub fn new(host: Arc<dyn Host>, notifier: Arc<Notifier>, now: Source<i64>) -> Groups {
        Groups {
            host,
            notifier,
            now,
            times: AlertTimes::default(),
            seats: Arc::new(Semaphore::new(AT_A_TIME)),
            stats: Arc::default(),
            running: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            first: AtomicBool::new(true),
        }
    }

    /// Puts the groups of a configuration in force.
    pub async fn apply(&self, definitions: Vec<GroupDefinition>) {
        let _one = self.changing.lock().await;
        let restores = self.first.swap(false, Ordering::Relaxed);
        let mut gone: BTreeSet<Labels> = BTreeSet::new();
        let mut before = std::mem::take(&mut *self.running.lock());
        for definition in definitions {
            let key = (definition.file.clone(), definition.name.clone());
            let running = match before.remove(&key) {
                // One that broke off starts anew.
                Some(old) if old.definition == definition && !old.task.is_finished() => old,
                Some(old) => {
                    let mut group = Group::new(definition, false);
                    if let Some(old) = old.end().await {
                        gone.extend(group.take_over(old));
                    }
                    self.start(group)
                }
                None => self.start(Group::new(definition, restores)),
            };
            self.running.lock().insert(key, running);
        }
        for old in before.into_values() {
            gone.extend(old.end().await.into_iter().flat_map(Group::into_series));
        }
        self.end_series(gone).await;
    }

    /// Stops all groups; nothing is written for it, since a restart is no end of a series.
    pub async fn stop(&self) {
        let _one = self.changing.lock().await;
        let all = std::mem::take(&mut *self.running.lock());
        for running in all.values() {
            running.tell_to_stop();
        }
        for running in all.into_values() {
            running.end().await;
        }
    }

    /// Writes stale markers.
    async fn end_series(&self, gone: BTreeSet<Labels>) {
        if gone.is_empty() {
            return;
        }
        let (host, now_ms) = (self.host.clone(), (self.now)());
        let written = tokio::task::spawn_blocking(move || host.store(ends(gone, now_ms))());
        if let Ok(Err(error)) = written.await {
            tracing::warn!(error, "series of rules that are gone did not get their end");
        }
    }

    fn start(&self, group: Group) -> Running {
        let view = Arc::new(ArcSwapOption::from_pointee(group.clone()));
        let (stop, wake) = (Arc::new(AtomicBool::new(false)), Arc::new(tokio::sync::Notify::new()));
        let definition = group.definition.clone();
        let timer = Timer {
            host: self.host.clone(),
            notifier: self.notifier.clone(),
            now: self.now.clone(),
            times: self.times,
            seats: self.seats.clone(),
            stats: self.stats.clone(),
            view: view.clone(),
            stop: stop.clone(),
            wake: wake.clone(),
        };
        Running { definition, view, stop, wake, task: tokio::spawn(timer.run(group)) }
    }

    /// Gives all groups, by file and name.
    pub fn views(&self) -> Vec<GroupView> {
        self.running.lock().values().filter_map(|running| running.view.load_full()).collect()
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let views = self.views();
        let rules: usize = views.iter().map(|g| g.rules.len()).sum();
        page.gauge("quiver_rule_groups", "Groups of rules in force.", views.len() as f64);
        page.gauge("quiver_rules", "Rules in force.", rules as f64);
        let alerts = views.iter().flat_map(|g| &g.rules).flat_map(|r| r.alerts.values());
        let firing = alerts.filter(|alert| alert.state == rules::State::Firing).count();
        page.gauge("quiver_alerts_firing", "Alerts that fire.", firing as f64);
        let stats = &self.stats;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, help, counter) in [
            ("quiver_rule_group_rounds_total", "Rounds of groups evaluated.", &stats.rounds),
            (
                "quiver_rule_group_rounds_missed_total",
                "Rounds of groups that came too late and were left out.",
                &stats.missed,
            ),
            ("quiver_rule_evaluations_total", "Rules evaluated.", &stats.evaluated),
            ("quiver_rule_evaluation_failures_total", "Rules that failed; /api/v1/rules says why.", &stats.failed),
            ("quiver_rule_samples_total", "Samples made by rules.", &stats.samples),
        ] {
            page.counter(name, help, get(counter));
        }
        page.family("quiver_rule_group_duration_seconds", "histogram", "Time of one round of a group.");
        page.histogram(&[], &stats.seconds);
    }
}

impl Running {
    fn tell_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Stops the task and gives what the group remembers.
    async fn end(self) -> Option<Group> {
        self.tell_to_stop();
        self.task.await.ok().flatten()
    }
}

/// The task of one group.
struct Timer {
    host: Arc<dyn Host>,
    notifier: Arc<Notifier>,
    now: Source<i64>,
    times: AlertTimes,
    seats: Arc<Semaphore>,
    stats: Arc<RulesStats>,
    view: Arc<ArcSwapOption<Group>>,
    stop: Arc<AtomicBool>,
    wake: Arc<tokio::sync::Notify>,
}

impl Timer {
    /// Evaluates the group at its slots; gives it back at the end, or nothing when it broke off.
    async fn run(self, mut group: Group) -> Option<Group> {
        let interval = group.definition.interval_ms.max(1);
        let mut next = group.slot((self.now)()) + interval;
        loop {
            let wait = u64::try_from(next - (self.now)()).unwrap_or(0);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
                () = self.wake.notified() => {}
            }
            if self.stop.load(Ordering::Relaxed) {
                return Some(group);
            }
            // Clocks that are set back make the sleep end early.
            if (self.now)() < next {
                continue;
            }
            group = self.round(group, next).await?;
            let late = ((self.now)() - next).max(0) / interval;
            self.stats.missed.fetch_add(late.unsigned_abs(), Ordering::Relaxed);
            next += (late + 1) * interval;
        }
    }

    async fn round(&self, group: Group, at_ms: i64) -> Option<Group> {
        let _seat = self.seats.clone().acquire_owned().await.ok()?;
        let (host, times, stop) = (self.host.clone(), self.times, self.stop.clone());
        let name = group.definition.name.clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut group = group;
            let round = group.evaluate(at_ms, &*host, &times, &|| stop.load(Ordering::Relaxed));
            (group, round)
        });
        let (group, round) = match work.await {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(group = name, %error, "a group of rules broke off; a reload starts it again");
                return None;
            }
        };
        let stats = &self.stats;
        stats.rounds.fetch_add(1, Ordering::Relaxed);
        stats.evaluated.fetch_add(round.evaluated, Ordering::Relaxed);
        stats.failed.fetch_add(round.failed, Ordering::Relaxed);
        stats.samples.fetch_add(round.samples, Ordering::Relaxed);
        stats.seconds.observe(group.seconds);
        self.view.store(Some(Arc::new(group.clone())));
        self.notifier.send(&group.definition, round.alerts);
        Some(group)
    }
}
