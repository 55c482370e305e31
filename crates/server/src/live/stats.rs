//! What live queries gave and cost.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::Exposition;

/// The figures of all live queries.
#[derive(Default, Debug)]
pub struct LiveStats {
    pub opened: AtomicU64,
    pub refused: AtomicU64,
    pub steps: AtomicU64,
    pub corrections: AtomicU64,
    pub failed_steps: AtomicU64,
    pub evaluated: AtomicU64,
    pub slow: AtomicU64,
    pub broken: AtomicU64,
}

impl LiveStats {
    /// Adds to one of them.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition, open: usize) {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        page.gauge("quiver_live_queries", "Live queries now.", open as f64);
        page.counter("quiver_live_queries_total", "Live queries begun.", load(&self.opened));
        page.counter("quiver_live_queries_refused_total", "Live queries over the limit.", load(&self.refused));
        page.counter("quiver_live_steps_sent_total", "Steps of live queries sent.", load(&self.steps));
        let help = "Steps of live queries sent again because they had changed.";
        page.counter("quiver_live_corrections_sent_total", help, load(&self.corrections));
        page.counter("quiver_live_steps_failed_total", "Steps that cannot be answered.", load(&self.failed_steps));
        page.counter("quiver_live_steps_evaluated_total", "Steps computed.", load(&self.evaluated));
        page.counter("quiver_live_slow_readers_total", "Readers left for taking nothing.", load(&self.slow));
        let help = "Live queries ended because the store could not be read, or not in time.";
        page.counter("quiver_live_broken_total", help, load(&self.broken));
    }
}
