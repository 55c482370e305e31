//! Scrape jobs at work: what discovery finds becomes the collector's targets.
//!
//! Owns: the jobs that are in force and the targets that they dropped.
//! Invariants: 1. the collector has the targets that the present jobs make of the present groups, whichever changed last;
//! 2. a target that was muted over the API stays muted.
//! Limits: [`DROPPED_MAX`] dropped targets of a job are remembered.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use collect::{AddressPolicy, Collector, DroppedTarget, TargetSpec, build_targets};
use discover::{Manager, Trouble};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::Job;

/// Dropped targets that are remembered for people.
const DROPPED_MAX: usize = 10_000;

/// Tells whether a discovered target was switched off over the API.
pub type IsMuted = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// The jobs in force.
pub struct Jobs {
    manager: Manager,
    collector: Arc<Collector>,
    is_muted: IsMuted,
    /// Held while a job's targets are made, so that they reach the collector in order.
    present: Mutex<BTreeMap<String, Present>>,
}

struct Present {
    job: Job,
    dropped: Vec<DroppedTarget>,
    dropped_total: u64,
}

/// Figures of one job.
pub struct JobFigures {
    /// Its name.
    pub job: String,
    /// Targets dropped by relabeling or invalid.
    pub dropped: u64,
    /// More targets than this fail; 0 means no limit.
    pub target_limit: u64,
}

impl Jobs {
    /// Starts without jobs.
    pub fn new(collector: Arc<Collector>, is_muted: IsMuted) -> Jobs {
        Jobs { manager: Manager::new(), collector, is_muted, present: Mutex::default() }
    }

    /// Puts the jobs of a configuration in force; the targets of all of them are with the collector afterwards.
    pub async fn apply(self: &Arc<Jobs>, jobs: Vec<Job>) {
        let mechanisms = jobs.iter().map(|j| (j.scrape.job_name.clone(), j.mechanisms.clone())).collect();
        let names: Vec<String> = {
            let mut present = self.present.lock();
            let before = std::mem::take(&mut *present);
            let fresh = |job: Job| Present { job, dropped: Vec::new(), dropped_total: 0 };
            present.extend(jobs.into_iter().map(|job| (job.scrape.job_name.clone(), fresh(job))));
            let gone = before.into_keys().filter(|name| !present.contains_key(name)).collect::<Vec<_>>();
            present.keys().cloned().chain(gone).collect()
        };
        self.manager.apply(mechanisms).await;
        self.refresh(names).await;
    }

    /// Puts the custom collectors of a configuration in force.
    pub fn set_collectors(&self, mut specs: Vec<TargetSpec>) {
        for spec in &mut specs {
            spec.enabled = !(self.is_muted)(&spec.target_id);
        }
        self.collector.set_collectors(specs);
    }

    /// Follows discovery until the server stops.
    pub async fn follow(self: Arc<Jobs>, mut stop: watch::Receiver<bool>) {
        loop {
            let changed = tokio::select! {
                changed = self.manager.changed() => changed,
                _ = stop.wait_for(|stopped| *stopped) => break,
            };
            self.refresh(changed.into_iter().collect()).await;
        }
        self.manager.stop();
    }

    async fn refresh(self: &Arc<Jobs>, names: Vec<String>) {
        let jobs = self.clone();
        // Relabeling tens of thousands of targets takes a while.
        let done = tokio::task::spawn_blocking(move || names.iter().for_each(|name| jobs.refresh_one(name))).await;
        if let Err(error) = done {
            tracing::error!(%error, "discovered targets were not taken over");
        }
    }

    fn refresh_one(&self, name: &str) {
        let mut present = self.present.lock();
        let Some(job) = present.get_mut(name) else {
            return self.collector.set_job_targets(name, Vec::new());
        };
        let mut specs: Vec<TargetSpec> = Vec::new();
        let mut seen = HashSet::new();
        job.dropped.clear();
        job.dropped_total = 0;
        let keep = usize::try_from(job.job.keep_dropped).unwrap_or(DROPPED_MAX);
        let keep = if keep == 0 { DROPPED_MAX } else { keep.min(DROPPED_MAX) };
        for group in self.manager.groups(name) {
            for built in build_targets(&job.job.scrape, &group) {
                match built {
                    Ok(spec) if seen.insert(spec.target_id.clone()) => specs.push(spec),
                    // The same target from two places is one target.
                    Ok(_) => {}
                    Err(dropped) => {
                        job.dropped_total += 1;
                        if job.dropped.len() < keep {
                            job.dropped.push(dropped);
                        }
                    }
                }
            }
        }
        for spec in &mut specs {
            spec.enabled = !(self.is_muted)(&spec.target_id);
        }
        fail_beyond_limit(name, job.job.target_limit, &mut specs);
        self.collector.set_job_targets(name, specs);
    }

    /// Gives the dropped targets that are remembered, with their job.
    pub fn dropped(&self) -> Vec<(String, DroppedTarget)> {
        let present = self.present.lock();
        present.iter().flat_map(|(name, p)| p.dropped.iter().map(move |d| (name.clone(), d.clone()))).collect()
    }

    /// Gives the rules that make targets of what is discovered for a job.
    pub fn relabel_rules(&self, name: &str) -> Option<Vec<model::relabel::Rule>> {
        Some(self.present.lock().get(name)?.job.scrape.relabel.clone())
    }

    /// Gives the figures of all jobs.
    pub fn figures(&self) -> Vec<JobFigures> {
        let present = self.present.lock();
        let figures = |(name, p): (&String, &Present)| JobFigures {
            job: name.clone(),
            dropped: p.dropped_total,
            target_limit: p.job.target_limit,
        };
        present.iter().map(figures).collect()
    }

    /// Gives what is wrong with discovery now.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.manager.troubles()
    }
}

/// With more targets than `target_limit`, all scrapes of the job fail, as in Prometheus: no address may be connected to.
fn fail_beyond_limit(job: &str, limit: u64, specs: &mut [TargetSpec]) {
    if limit == 0 || specs.len() as u64 <= limit {
        return;
    }
    tracing::error!(job, targets = specs.len(), limit, "target_limit exceeded: all scrapes of the job fail");
    let nowhere = AddressPolicy::nowhere("target_limit exceeded");
    for spec in specs {
        spec.address_policy = nowhere.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Labels;
    use std::net::SocketAddr;

    #[test]
    fn beyond_the_target_limit_no_target_is_reached() {
        let spec = |i: u16| {
            let url = format!("http://127.0.0.1:{i}/metrics").parse().unwrap();
            TargetSpec::new(format!("t{i}"), url, Labels::empty())
        };
        let reached = |specs: &[TargetSpec], ip: &str| {
            let address = SocketAddr::new(ip.parse().unwrap(), 1);
            specs.iter().filter(|s| s.address_policy.check(address).is_ok()).count()
        };
        let mut specs: Vec<TargetSpec> = (1..=3).map(spec).collect();
        fail_beyond_limit("j", 3, &mut specs);
        fail_beyond_limit("j", 0, &mut specs);
        assert_eq!(reached(&specs, "127.0.0.1"), 3);
        fail_beyond_limit("j", 2, &mut specs);
        assert_eq!((reached(&specs, "127.0.0.1"), reached(&specs, "::1")), (0, 0));
    }
}
