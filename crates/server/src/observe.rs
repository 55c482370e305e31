//! Hears of every collection and tells the others: the event log, the catalog, and the figures of `/stats`.
//!
//! Owns: the figures of the last minutes.
//! Invariants: 1. nothing here waits; 2. figures older than their window have no weight.
//! Limits: [`SLOTS`] slots of ten seconds with [`BUCKETS`] counters each; durations are told apart to 5 %.

use std::collections::VecDeque;
use std::sync::Arc;

use catalog::Catalog;
use collect::{Observe, TargetStatus};
use events::EventLog;
use model::{CollectionMethod, CollectionReport, LedgerPosition};
use parking_lot::Mutex;

use crate::rest::push_targets::PushTargets;
use crate::run::Unpublished;

const SLOT_MS: i64 = 10_000;
/// Slots in five minutes.
pub const SLOTS: usize = 30;
/// Buckets of durations: 1.05^370 is beyond any timeout in milliseconds.
pub const BUCKETS: usize = 370;
const BUCKET_GROWTH: f64 = 1.05;
const RATE_WINDOW_MS: i64 = 60_000;

/// The observer of one node.
pub struct Observer {
    catalog: Arc<Catalog>,
    events: EventLog,
    unpublished: Arc<Unpublished>,
    recent: Mutex<Recent>,
    push_targets: Arc<PushTargets>,
}

/// What `/stats` says about the last minutes.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct RecentFigures {
    /// Stored samples per second over the last 60 s.
    pub samples_per_second: f64,
    /// Mean duration of completed scrapes in the last 5 min.
    pub duration_mean_ms: f64,
    /// Half of them were faster.
    pub duration_p50_ms: f64,
    /// 95 % of them were faster.
    pub duration_p95_ms: f64,
    /// 99 % of them were faster.
    pub duration_p99_ms: f64,
    /// Collections tried in the last 5 min.
    pub collections: u64,
    /// How many of them failed.
    pub failed: u64,
}

impl RecentFigures {
    /// Gives failed by tried; 0 when nothing was tried.
    pub fn error_rate(&self) -> f64 {
        if self.collections == 0 { 0.0 } else { self.failed as f64 / self.collections as f64 }
    }
}

impl Observer {
    /// Starts with empty figures.
    pub fn new(catalog: Arc<Catalog>, events: EventLog) -> Observer {
        Observer {
            catalog,
            events,
            unpublished: Arc::default(),
            recent: Mutex::default(),
            push_targets: Arc::default(),
        }
    }

    /// Gives the reports whose events have not come here yet.
    pub fn unpublished(&self) -> &Arc<Unpublished> {
        &self.unpublished
    }

    /// Hears of a finished push (custom, remote write, upload).
    pub fn pushed(&self, mut report: CollectionReport) {
        if report.origin.method != CollectionMethod::PullScraping {
            self.push_targets.attribute(&mut report.origin);
            self.push_targets.note(&report);
        }
        self.recent.lock().note(&report);
        self.catalog.record(&report);
        let id = report.event_id;
        self.events.publish(report);
        self.unpublished.done(&id);
    }

    /// Gives the registered sources that push.
    pub fn push_targets(&self) -> &Arc<PushTargets> {
        &self.push_targets
    }

    /// Notes how many samples are stored in total; call it each second or so.
    pub fn note_total(&self, now_ms: i64, stored_total: u64) {
        self.recent.lock().note_total(now_ms, stored_total);
    }

    /// Gives the figures of the last minutes.
    pub fn recent(&self, now_ms: i64, stored_total: u64) -> RecentFigures {
        let mut recent = self.recent.lock();
        recent.note_total(now_ms, stored_total);
        recent.figures(now_ms)
    }
}

impl Observe for Observer {
    fn collected(&self, report: CollectionReport, status: TargetStatus, _: LedgerPosition) {
        self.catalog.set_health(&status.target_id, status.health);
        self.pushed(report);
    }
}

#[derive(Default)]
struct Recent {
    slots: VecDeque<Slot>,
    /// Times and stored totals, oldest first, at least a second apart.
    totals: VecDeque<(i64, u64)>,
}

struct Slot {
    start_ms: i64,
    collections: u64,
    failed: u64,
    scrapes: u64,
    duration_ms: u64,
    durations: Box<[u32; BUCKETS]>,
}

impl Recent {
    fn note(&mut self, report: &CollectionReport) {
        let slot = self.slot(report.finished_at_ms);
        slot.collections += 1;
        if report.error.is_some() {
            slot.failed += 1;
        } else if report.origin.method == CollectionMethod::PullScraping {
            slot.scrapes += 1;
            slot.duration_ms = slot.duration_ms.saturating_add(report.duration_ms);
            slot.durations[bucket(report.duration_ms)] += 1;
        }
    }

    fn slot(&mut self, now_ms: i64) -> &mut Slot {
        let start_ms = now_ms - now_ms.rem_euclid(SLOT_MS);
        // A clock that is set back adds to the newest slot.
        if self.slots.back().is_none_or(|s| s.start_ms < start_ms) {
            if self.slots.len() >= SLOTS {
                self.slots.pop_front();
            }
            let durations = Box::new([0; BUCKETS]);
            self.slots.push_back(Slot { start_ms, collections: 0, failed: 0, scrapes: 0, duration_ms: 0, durations });
        }
        let newest = self.slots.len() - 1;
        &mut self.slots[newest]
    }

    fn note_total(&mut self, now_ms: i64, total: u64) {
        if self.totals.back().is_none_or(|(at, _)| now_ms - at >= 1_000) {
            self.totals.push_back((now_ms, total));
        }
        while self.totals.get(1).is_some_and(|(at, _)| now_ms - at >= RATE_WINDOW_MS) {
            self.totals.pop_front();
        }
        if self.totals.back().is_some_and(|(at, _)| *at > now_ms) {
            self.totals.clear();
        }
    }

    fn figures(&self, now_ms: i64) -> RecentFigures {
        let oldest = now_ms - SLOT_MS * SLOTS as i64;
        let mut figures = RecentFigures { samples_per_second: self.rate(), ..RecentFigures::default() };
        let mut durations = vec![0u64; BUCKETS];
        let (mut scrapes, mut duration_ms) = (0u64, 0u64);
        for slot in self.slots.iter().filter(|s| s.start_ms > oldest) {
            figures.collections += slot.collections;
            figures.failed += slot.failed;
            scrapes += slot.scrapes;
            duration_ms = duration_ms.saturating_add(slot.duration_ms);
            for (sum, n) in durations.iter_mut().zip(slot.durations.iter()) {
                *sum += u64::from(*n);
            }
        }
        if scrapes > 0 {
            figures.duration_mean_ms = duration_ms as f64 / scrapes as f64;
            figures.duration_p50_ms = quantile(&durations, scrapes, 0.50);
            figures.duration_p95_ms = quantile(&durations, scrapes, 0.95);
            figures.duration_p99_ms = quantile(&durations, scrapes, 0.99);
        }
        figures
    }

    fn rate(&self) -> f64 {
        match (self.totals.front(), self.totals.back()) {
            (Some((from, before)), Some((to, after))) if to > from => {
                after.saturating_sub(*before) as f64 * 1000.0 / (to - from) as f64
            }
            _ => 0.0,
        }
    }
}

fn bucket(duration_ms: u64) -> usize {
    let index = (duration_ms as f64 + 1.0).ln() / BUCKET_GROWTH.ln();
    (index.round() as usize).min(BUCKETS - 1)
}

/// Gives the duration that the share `q` does not exceed, to 5 %.
fn quantile(durations: &[u64], total: u64, q: f64) -> f64 {
    let rank = (total as f64 * q).ceil() as u64;
    let mut seen = 0;
    for (i, n) in durations.iter().enumerate() {
        seen += n;
        if seen >= rank {
            return (BUCKET_GROWTH.powi(i as i32) - 1.0).round();
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(at_ms: i64, duration_ms: u64, error: Option<&str>) -> CollectionReport {
        CollectionReport {
            finished_at_ms: at_ms,
            duration_ms,
            error: error.map(str::to_owned),
            ..CollectionReport::default()
        }
    }

    #[test]
    fn figures_know_the_last_five_minutes_only() {
        let mut recent = Recent::default();
        for i in 0..100u64 {
            recent.note(&scrape(1_000_000 + i as i64, i + 1, None));
        }
        recent.note(&scrape(1_000_200, 9, Some("refused")));
        let now = recent.figures(1_001_000);
        assert_eq!((now.collections, now.failed), (101, 1));
        assert!((now.error_rate() - 1.0 / 101.0).abs() < 1e-12);
        assert_eq!(now.duration_mean_ms, 50.5);
        for (got, wanted) in [(now.duration_p50_ms, 50.0), (now.duration_p95_ms, 95.0), (now.duration_p99_ms, 99.0)] {
            assert!((got - wanted).abs() <= wanted * 0.05 + 1.0, "{got} for {wanted}");
        }
        assert_eq!(recent.figures(1_400_000), RecentFigures::default());
    }

    #[test]
    fn slots_are_bounded_and_any_duration_has_a_bucket() {
        let mut recent = Recent::default();
        for i in 0..1_000 {
            recent.note(&scrape(i * SLOT_MS, u64::MAX, None));
        }
        assert_eq!(recent.slots.len(), SLOTS);
    }

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let mut recent = Recent::default();
        for second in 0..200i64 {
            recent.note_total(second * 1_000, second as u64 * 50);
        }
        assert_eq!(recent.rate(), 50.0);
        assert!(recent.totals.len() <= 62);
    }
}
