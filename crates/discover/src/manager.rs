//! Runs the mechanisms of all jobs and keeps what they found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::TargetGroup;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::mechanism::{Mechanism, TARGETS_MAX, Update};

/// Updates of one mechanism that wait to be taken.
const UPDATES_MAX: usize = 16;
/// How long a start or reload waits for the first answers of new mechanisms.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);

/// Something that is wrong with a mechanism now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// The job.
    pub job: String,
    /// `static`, `file_sd`, ...
    pub mechanism: &'static str,
    /// A sentence.
    pub text: String,
}

/// The mechanisms of all jobs.
#[derive(Default)]
pub struct Manager {
    jobs: Mutex<BTreeMap<String, Vec<Running>>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    changed: Mutex<BTreeSet<String>>,
    wake: Notify,
}

/// One mechanism at work; dropping it ends it.
struct Running {
    mechanism: Mechanism,
    found: Arc<Mutex<Found>>,
    answered: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Found {
    groups: BTreeMap<String, TargetGroup>,
    troubles: Vec<String>,
    targets: usize,
}

impl Manager {
    /// Starts without jobs.
    pub fn new() -> Manager {
        Manager::default()
    }

    /// Brings the mechanisms in line with a configuration: unchanged ones go on, others end, new ones start. Must be
    /// called inside a Tokio runtime.
    ///
    /// **Gives** back when the new ones have answered once, or after five seconds. All jobs of the configuration, and
    /// those that are gone, count as changed afterwards.
    pub async fn apply(&self, jobs: Vec<(String, Vec<Mechanism>)>) {
        let waiting = self.replace(jobs);
        let all = async {
            for mut answered in waiting {
                // An error means that the mechanism ended: nothing to wait for.
                let _ = answered.wait_for(|yes| *yes).await;
            }
        };
        if timeout(FIRST_ANSWERS, all).await.is_err() {
            tracing::warn!("discovery: some mechanisms have not answered yet; their targets come later");
        }
        self.shared.wake.notify_one();
    }

    fn replace(&self, wanted: Vec<(String, Vec<Mechanism>)>) -> Vec<watch::Receiver<bool>> {
        let mut jobs = self.jobs.lock();
        let mut before = std::mem::take(&mut *jobs);
        self.shared.changed.lock().extend(before.keys().cloned().chain(wanted.iter().map(|(job, _)| job.clone())));
        for (job, mechanisms) in wanted {
            let mut old = before.remove(&job).unwrap_or_default();
            let running = mechanisms.into_iter().map(|mechanism| {
                match old.iter().position(|r| r.mechanism == mechanism && !r.task.is_finished()) {
                    Some(at) => old.swap_remove(at),
                    None => self.start(&job, mechanism),
                }
            });
            let running = running.collect();
            jobs.insert(job, running);
        }
        jobs.values().flatten().map(|r| r.answered.clone()).filter(|a| !*a.borrow()).collect()
    }

    fn start(&self, job: &str, mechanism: Mechanism) -> Running {
        let found = Arc::new(Mutex::new(Found::default()));
        let (answered_tx, answered) = watch::channel(false);
        let (tx, mut updates) = mpsc::channel(UPDATES_MAX);
        let (shared, kept, name) = (self.shared.clone(), found.clone(), job.to_owned());
        let run = mechanism.clone().run(tx);
        let keep = async move {
            while let Some(update) = updates.recv().await {
                kept.lock().take(update);
                shared.changed.lock().insert(name.clone());
                shared.wake.notify_one();
                answered_tx.send_replace(true);
            }
        };
        let task = tokio::spawn(async { tokio::join!(run, keep) }).abort_handle();
        Running { mechanism, found, answered, task }
    }

    /// Waits until targets of jobs have changed; gives the names of these jobs. For one listener.
    pub async fn changed(&self) -> BTreeSet<String> {
        loop {
            let changed = std::mem::take(&mut *self.shared.changed.lock());
            if !changed.is_empty() {
                return changed;
            }
            self.shared.wake.notified().await;
        }
    }

    /// Gives the groups of a job as they are now; sources are unique within it.
    pub fn groups(&self, job: &str) -> Vec<TargetGroup> {
        let jobs = self.jobs.lock();
        let mut out = Vec::new();
        for (place, running) in jobs.get(job).into_iter().flatten().enumerate() {
            let prefix = format!("{}/{place}/", running.mechanism.name());
            let found = running.found.lock();
            let named = |g: &TargetGroup| TargetGroup { source: format!("{prefix}{}", g.source), ..g.clone() };
            out.extend(found.groups.values().map(named));
        }
        out
    }

    /// Gives everything that is wrong now.
    pub fn troubles(&self) -> Vec<Trouble> {
        let jobs = self.jobs.lock();
        let mut out = Vec::new();
        for (job, running) in jobs.iter().flat_map(|(job, all)| all.iter().map(move |r| (job, r))) {
            let mechanism = running.mechanism.name();
            let texts = running.found.lock().troubles.clone();
            out.extend(texts.into_iter().map(|text| Trouble { job: job.clone(), mechanism, text }));
        }
        out
    }

    /// Ends all mechanisms.
    pub fn stop(&self) {
        self.jobs.lock().clear();
    }
}

impl Found {
    fn take(&mut self, update: Update) {
        self.troubles = update.troubles;
        for group in update.groups {
            if let Some(old) = self.groups.remove(&group.source) {
                self.targets -= old.targets.len();
            }
            if self.targets + group.targets.len() > TARGETS_MAX {
                let text = format!("more than {TARGETS_MAX} targets; group {} is left out", group.source);
                tracing::warn!("discovery: {text}");
                self.troubles.push(text);
            } else if !group.targets.is_empty() {
                self.targets += group.targets.len();
                self.groups.insert(group.source.clone(), group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileSd;
    use model::Labels;

    fn group(source: &str, addresses: &[&str]) -> TargetGroup {
        let target = |a: &&str| Labels::from_pairs([("__address__", *a)]);
        TargetGroup { source: source.into(), labels: Labels::empty(), targets: addresses.iter().map(target).collect() }
    }

    fn addresses(manager: &Manager, job: &str) -> Vec<String> {
        let all = manager.groups(job);
        all.iter().flat_map(|g| &g.targets).filter_map(|t| t.get("__address__").map(str::to_owned)).collect()
    }

    fn names(set: BTreeSet<String>) -> Vec<String> {
        set.into_iter().collect()
    }

    #[tokio::test]
    async fn a_reload_starts_keeps_and_ends() {
        let manager = Manager::new();
        let one = Mechanism::Static(vec![group("0", &["a:1", "a:2"])]);
        let two = Mechanism::Static(vec![group("0", &["b:1"])]);
        manager.apply(vec![("j".into(), vec![one.clone(), two.clone()]), ("k".into(), vec![two.clone()])]).await;
        assert_eq!(names(manager.changed().await), ["j", "k"]);
        assert_eq!(addresses(&manager, "j"), ["a:1", "a:2", "b:1"]);
        assert_eq!(addresses(&manager, "k"), ["b:1"]);
        let sources: BTreeSet<String> = manager.groups("j").into_iter().map(|g| g.source).collect();
        assert_eq!(sources.len(), 2);

        manager.apply(vec![("j".into(), vec![two])]).await;
        assert_eq!(names(manager.changed().await), ["j", "k"]);
        assert_eq!(addresses(&manager, "j"), ["b:1"]);
        assert!(addresses(&manager, "k").is_empty());
    }

    #[tokio::test]
    async fn a_file_that_breaks_keeps_its_targets_over_a_reload() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.json");
        std::fs::write(&path, r#"[{"targets":["a:1"]}]"#).unwrap();
        let files = Mechanism::Files(FileSd::new(vec![path.display().to_string()]));
        let manager = Manager::new();
        manager.apply(vec![("j".into(), vec![files.clone()])]).await;
        assert_eq!(names(manager.changed().await), ["j"]);
        assert_eq!(addresses(&manager, "j"), ["a:1"]);

        std::fs::write(&path, "[{").unwrap();
        assert_eq!(names(timeout(Duration::from_secs(20), manager.changed()).await.unwrap()), ["j"]);
        assert_eq!(addresses(&manager, "j"), ["a:1"]);
        let troubles = manager.troubles();
        assert_eq!((troubles.len(), troubles[0].job.as_str(), troubles[0].mechanism), (1, "j", "file_sd"));

        manager.apply(vec![("j".into(), vec![files])]).await;
        assert_eq!(addresses(&manager, "j"), ["a:1"]);
        manager.stop();
        assert!(addresses(&manager, "j").is_empty());
    }

    #[test]
    fn groups_beyond_the_limit_are_told() {
        let mut found = Found { targets: TARGETS_MAX - 1, ..Found::default() };
        found.take(Update { groups: vec![group("a", &["a:1", "a:2"]), group("b", &["b:1"])], ..Update::default() });
        assert_eq!(found.groups.keys().collect::<Vec<_>>(), ["b"]);
        assert!(found.troubles[0].contains("group a is left out"));
    }
}
