//! One target inside the collector: what others may look at, and what only the running scrape may touch.

use std::sync::Arc;

use model::Health;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cache::SeriesCache;
use crate::http::Connection;
use crate::outcome::TargetStatus;
use crate::report_series::ReportSeries;
use crate::target::TargetSpec;

/// A target and its state. Lock order: `scraper` first, then `shared`.
pub(crate) struct Slot {
    pub(crate) shared: Mutex<Shared>,
    /// Held while a scrape runs: no two scrapes of a target overlap, and observers hear of them in order.
    pub(crate) scraper: Arc<tokio::sync::Mutex<Scraper>>,
}

/// What may be read and set at any time; held for moments only.
pub(crate) struct Shared {
    pub(crate) spec: Arc<TargetSpec>,
    pub(crate) status: TargetStatus,
    /// The target was taken out of the collector.
    pub(crate) removed: bool,
    /// When the next scrape is due, on the monotonic clock and as the time its samples get.
    pub(crate) due: Option<(Instant, i64)>,
    /// Rises whenever the schedule is made anew; older entries of the timer mean nothing.
    pub(crate) epoch: u64,
    /// Ends the running scrape when the target is switched off or removed.
    pub(crate) cancel: CancellationToken,
}

/// What the running scrape owns.
#[derive(Default)]
pub(crate) struct Scraper {
    pub(crate) connection: Option<Connection>,
    /// The settings that the connection was opened under.
    connection_spec: Option<Arc<TargetSpec>>,
    pub(crate) cache: SeriesCache,
    pub(crate) report: ReportSeries,
    /// The time that the last stored scrape had.
    pub(crate) last_ms: Option<i64>,
    /// The target's missed ticks as of the last stored scrape, and as of the one that runs.
    pub(crate) missed_told: u64,
    pub(crate) missed_now: u64,
    /// Scheduled scrapes that the store did not take since the last one that it took.
    pub(crate) refused: u32,
    /// Size of the last body, as a guess for the next.
    pub(crate) body_bytes: u64,
}

impl Slot {
    pub(crate) fn new(spec: Arc<TargetSpec>, now_ms: i64) -> Slot {
        let status = TargetStatus::new(&spec, now_ms);
        let shared = Shared { spec, status, removed: false, due: None, epoch: 0, cancel: CancellationToken::new() };
        Slot { shared: Mutex::new(shared), scraper: Arc::default() }
    }
}

impl Scraper {
    /// Takes up a target's settings: a connection made under other ones is closed.
    pub(crate) fn follow(&mut self, spec: &Arc<TargetSpec>) {
        let same = self.connection_spec.as_ref().is_some_and(|old| {
            Arc::ptr_eq(old, spec) || (old.http == spec.http && old.address_policy == spec.address_policy)
        });
        if !same {
            self.connection = None;
        }
        self.connection_spec = Some(spec.clone());
    }

    /// Forgets what the last scrape saw: its series are marked as ended.
    pub(crate) fn forget_series(&mut self) {
        self.cache.clear();
        self.report = ReportSeries::default();
    }
}

impl Shared {
    /// Tells whether the target is to be scraped.
    pub(crate) fn is_active(&self) -> bool {
        self.spec.enabled && !self.removed
    }

    /// Takes the target off the timer and ends the running scrape.
    pub(crate) fn stop(&mut self) {
        self.epoch += 1;
        self.due = None;
        self.status.next_scrape_ms = None;
        self.end_running();
    }

    /// Ends the scrape that runs, if one does.
    pub(crate) fn end_running(&mut self) {
        self.cancel.cancel();
        self.cancel = CancellationToken::new();
    }

    pub(crate) fn set_health(&mut self, health: Health, now_ms: i64) {
        if self.status.health != health {
            self.status.health = health;
            self.status.since_ms = now_ms;
        }
    }
}
