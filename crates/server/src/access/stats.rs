//! What became of those who asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::telemetry::Exposition;

/// From one line about failures to the next.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Counts. Reasons are words of ours, so the table stays small.
#[derive(Default)]
pub struct AccessStats {
    passed: AtomicU64,
    forbidden: AtomicU64,
    limited: AtomicU64,
    failed: Mutex<BTreeMap<&'static str, u64>>,
    logged: Mutex<Option<(Instant, u64)>>,
}

impl AccessStats {
    /// Counts a request that was let through.
    pub fn pass(&self) {
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts somebody who is known and may not.
    pub fn forbid(&self) {
        self.forbidden.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts somebody who asks too often.
    pub fn limit(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts somebody who is not known, and says so now and then; what he showed is in no log.
    pub fn fail(&self, reason: &'static str, from: &str, path: &str) {
        *self.failed.lock().entry(reason).or_default() += 1;
        let mut logged = self.logged.lock();
        let (at, quiet) = logged.unwrap_or((Instant::now(), 0));
        if logged.is_some() && at.elapsed() < LOG_EVERY {
            *logged = Some((at, quiet + 1));
            return;
        }
        let path: String = path.chars().take(200).collect();
        tracing::warn!(reason, from, path, others = quiet, "somebody who is not known was turned away");
        *logged = Some((Instant::now(), 0));
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        page.counter("quiver_access_passed_total", "Requests let through.", count(&self.passed));
        page.counter("quiver_access_forbidden_total", "Requests of somebody who may not: 403.", count(&self.forbidden));
        page.counter("quiver_access_limited_total", "Requests beyond a rate: 429.", count(&self.limited));
        page.family(
            "quiver_access_failed_total",
            "counter",
            "Requests of somebody who is not known, by what was wrong: 401.",
        );
        for (reason, n) in self.failed.lock().iter() {
            page.sample(&[("reason", reason)], *n as f64);
        }
    }
}
