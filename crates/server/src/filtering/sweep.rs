//! Sums that nobody makes any more go.

use std::sync::Arc;

use collect::{Collector, Sums};
use parking_lot::Mutex;

use super::SourceFilters;

/// It costs a look at every child of every sum.
const EVERY_MS: i64 = 600_000;

/// Knows who still adds up.
pub struct Sweeper {
    sums: Arc<Sums>,
    filters: Arc<SourceFilters>,
    collector: Arc<Collector>,
    last_ms: Mutex<Option<i64>>,
}

impl Sweeper {
    /// Takes those who know.
    pub fn new(sums: Arc<Sums>, filters: Arc<SourceFilters>, collector: Arc<Collector>) -> Sweeper {
        Sweeper { sums, filters, collector, last_ms: Mutex::default() }
    }

    /// Lets go what nobody adds to, if it is time.
    pub fn tick(&self, now_ms: i64) {
        let mut last_ms = self.last_ms.lock();
        if last_ms.is_some_and(|at_ms| now_ms.abs_diff(at_ms) < EVERY_MS.unsigned_abs()) {
            return;
        }
        *last_ms = Some(now_ms);
        let scraped = |name: &str| self.collector.spec(name).is_some_and(|spec| spec.filters.aggregates());
        self.sums.sweep(|name| scraped(name) || self.filters.wants_sums(name), now_ms);
    }
}
