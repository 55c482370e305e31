//! The targets of a collector by id, and which of them belong to which job.
//!
//! Invariant: a target stands with the job of the settings that were put in last, and with no other.
//! Cost: what a job's targets are asked for depends on the targets of that job alone.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::slot::Slot;
use crate::target::TargetOrigin;

/// Stands for a job to which all custom collectors belong; no job can be called so.
pub(crate) const COLLECTORS: &str = "\u{0}collectors";

/// All targets of a collector.
#[derive(Default)]
pub(crate) struct Table {
    by_id: HashMap<String, Entry>,
    by_job: HashMap<String, HashSet<String>>,
}

struct Entry {
    slot: Arc<Slot>,
    /// The job that found it; `None` when it was registered.
    job: Option<String>,
}

impl Table {
    pub(crate) fn get(&self, target_id: &str) -> Option<&Arc<Slot>> {
        self.by_id.get(target_id).map(|e| &e.slot)
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.by_id.values().map(|e| &e.slot)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Adds a target that is not there yet.
    pub(crate) fn insert(&mut self, target_id: &str, slot: Arc<Slot>, origin: &TargetOrigin) {
        self.by_id.insert(target_id.to_owned(), Entry { slot, job: None });
        self.note_origin(target_id, origin);
    }

    /// Notes whose a target is now.
    pub(crate) fn note_origin(&mut self, target_id: &str, origin: &TargetOrigin) {
        let Some(entry) = self.by_id.get_mut(target_id) else { return };
        let job = job_of(origin);
        if entry.job.as_deref() == job {
            return;
        }
        let before = std::mem::replace(&mut entry.job, job.map(str::to_owned));
        self.forget_in(before, target_id);
        if let Some(job) = job {
            self.by_job.entry(job.to_owned()).or_default().insert(target_id.to_owned());
        }
    }

    pub(crate) fn remove(&mut self, target_id: &str) -> Option<Arc<Slot>> {
        let entry = self.by_id.remove(target_id)?;
        self.forget_in(entry.job, target_id);
        Some(entry.slot)
    }

    fn forget_in(&mut self, job: Option<String>, target_id: &str) {
        let Some(job) = job else { return };
        if let Some(ids) = self.by_job.get_mut(&job) {
            ids.remove(target_id);
            if ids.is_empty() {
                self.by_job.remove(&job);
            }
        }
    }

    /// Gives the ids of a job's targets.
    pub(crate) fn of_job(&self, job: &str) -> impl Iterator<Item = &str> {
        self.by_job.get(job).into_iter().flatten().map(String::as_str)
    }

    /// Tells whether a target belongs to somebody else than this job.
    pub(crate) fn is_foreign(&self, target_id: &str, job: &str) -> bool {
        self.by_id.get(target_id).is_some_and(|e| e.job.as_deref() != Some(job))
    }
}

fn job_of(origin: &TargetOrigin) -> Option<&str> {
    match origin {
        TargetOrigin::Rest => None,
        TargetOrigin::Discovery { job } => Some(job),
        TargetOrigin::Collector { .. } => Some(COLLECTORS),
    }
}
