//! What pushes were, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::Exposition;

/// Counters of pushes.
#[derive(Default, Debug)]
pub struct PushStats {
    stored: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    /// Groups that ended because their time was over.
    pub expired: AtomicU64,
    /// Samples written again.
    pub restated: AtomicU64,
    /// Samples that the store did not take when they were written again.
    pub not_restated: AtomicU64,
}

impl PushStats {
    /// Counts an answer.
    pub fn count(&self, status: u16) {
        let counter = match status {
            200..300 => &self.stored,
            500.. => &self.failed,
            _ => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition, groups: usize, bytes: usize) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        page.family("quiver_push_requests_total", "counter", "Pushes and deletions, by what became of them.");
        for (word, counter) in [("stored", &self.stored), ("refused", &self.refused), ("failed", &self.failed)] {
            page.sample(&[("outcome", word)], load(counter) as f64);
        }
        page.gauge("quiver_push_groups", "Pushed groups.", groups as f64);
        page.gauge("quiver_push_group_bytes", "Bytes of memory that pushed groups take, about.", bytes as f64);
        page.counter("quiver_push_groups_expired_total", "Groups whose time was over.", load(&self.expired));
        page.counter("quiver_push_restated_samples_total", "Samples of groups written again.", load(&self.restated));
        let help = "Samples of groups that the store did not take when they were written again.";
        page.counter("quiver_push_not_restated_samples_total", help, load(&self.not_restated));
    }
}
