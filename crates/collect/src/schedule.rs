//! When each target is due: one timer for all, in monotonic time.
//!
//! Owns: the heap of what is due. Invariants: 1. a target has at most one entry that means something, the one with its
//! present epoch; 2. a target's scrapes are a whole number of intervals apart, however late one was; 3. targets with the
//! same interval are spread over it by the hash of their labels and URL, and keep their place over restarts; 4. places
//! lie on a grid (at most [`GRID_MS`] apart), so that targets due at about the same time share wake-ups and one sync of
//! the log.
//! Limits: entries that mean nothing are swept out when they are the larger part.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::slot::{Shared, Slot};

/// Scrapes that begin this close to their planned time get the planned time (Prometheus' tolerance).
const TOLERANCE_MS: i64 = 2;
/// Places within an interval are this far apart; of short intervals a 150th.
const GRID_MS: u64 = 100;
/// What is due this soon begins with what is due now; within the tolerance, so it gets the planned time all the same.
const AHEAD: Duration = Duration::from_millis(1);
/// Targets started in one go before other tasks get their turn.
const BURST_MAX: usize = 256;
/// A sweep is not worth its while below this.
const SWEEP_MIN: usize = 1024;

/// The timer.
#[derive(Default)]
pub(crate) struct Schedule {
    heap: Mutex<Heap>,
    wake: Notify,
}

#[derive(Default)]
struct Heap {
    entries: BinaryHeap<Reverse<Due>>,
    numbers: u64,
    sweep_at: usize,
}

struct Due {
    at: Instant,
    /// Makes the order total.
    number: u64,
    epoch: u64,
    slot: Weak<Slot>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A scrape that is due now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    /// When it should have begun.
    pub(crate) due: Instant,
    /// The time that belongs to `due`.
    pub(crate) planned_ms: i64,
    /// The schedule it belongs to.
    pub(crate) epoch: u64,
}

impl Schedule {
    /// Puts a target on the timer, at its place within its interval.
    pub(crate) fn start(&self, slot: &Arc<Slot>, shared: &mut Shared, now_ms: i64) {
        shared.epoch += 1;
        let wait_ms = wait_ms(now_ms, shared.spec.interval_ms, shared.spec.phase_hash());
        let due = Instant::now() + Duration::from_millis(wait_ms);
        self.set(slot, shared, due, now_ms.saturating_add(wait_ms as i64));
        self.wake.notify_one();
    }

    fn set(&self, slot: &Arc<Slot>, shared: &mut Shared, due: Instant, planned_ms: i64) {
        shared.due = Some((due, planned_ms));
        shared.status.next_scrape_ms = Some(planned_ms);
        let mut heap = self.heap.lock();
        heap.numbers += 1;
        let entry = Due { at: due, number: heap.numbers, epoch: shared.epoch, slot: Arc::downgrade(slot) };
        heap.entries.push(Reverse(entry));
    }

    /// Waits until something may be due.
    pub(crate) async fn wait(&self) {
        let next = self.heap.lock().entries.peek().map(|Reverse(due)| due.at);
        let Some(next) = next else { return self.wake.notified().await };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = self.wake.notified() => {}
        }
    }

    /// Takes targets that are due off the heap and puts their next scrape on it.
    ///
    /// **Gives** them with their ticks; an empty list when nothing more is due.
    pub(crate) fn take_due(&self, now: Instant) -> Vec<(Arc<Slot>, Tick)> {
        let mut ready = Vec::new();
        while ready.len() < BURST_MAX {
            let entry = {
                let mut heap = self.heap.lock();
                match heap.entries.peek() {
                    Some(Reverse(due)) if due.at <= now + AHEAD => heap.entries.pop(),
                    _ => break,
                }
            };
            if let Some(Reverse(due)) = entry
                && let Some(slot) = due.slot.upgrade()
                && let Some(tick) = self.advance(&slot, due.epoch, now)
            {
                ready.push((slot, tick));
            }
        }
        ready
    }

    /// Moves a target's schedule behind `now`. Whole intervals that are over are missed.
    fn advance(&self, slot: &Arc<Slot>, epoch: u64, now: Instant) -> Option<Tick> {
        let mut shared = slot.shared.lock();
        if shared.epoch != epoch || !shared.is_active() {
            return None;
        }
        let (mut due, mut planned_ms) = shared.due?;
        let interval_ms = shared.spec.interval_ms.max(1);
        let missed = now.duration_since(due).as_millis() as u64 / interval_ms;
        if missed > 0 {
            shared.status.missed_ticks += missed;
            due += Duration::from_millis(missed.saturating_mul(interval_ms));
            planned_ms = planned_ms.saturating_add(missed.saturating_mul(interval_ms) as i64);
        }
        let next = due + Duration::from_millis(interval_ms);
        self.set(slot, &mut shared, next, planned_ms.saturating_add(interval_ms as i64));
        Some(Tick { due, planned_ms, epoch })
    }

    /// Throws out entries that mean nothing, when they have become many.
    pub(crate) fn sweep(&self, targets: usize) {
        let mut heap = self.heap.lock();
        if heap.entries.len() < heap.sweep_at.max(2 * targets + SWEEP_MIN) {
            return;
        }
        let entries = std::mem::take(&mut heap.entries);
        drop(heap);
        let live: BinaryHeap<Reverse<Due>> = entries
            .into_iter()
            .filter(|Reverse(due)| due.slot.upgrade().is_some_and(|slot| slot.shared.lock().epoch == due.epoch))
            .collect();
        let mut heap = self.heap.lock();
        heap.entries.extend(live);
        heap.sweep_at = 2 * heap.entries.len();
    }
}

/// Gives how long to wait for a target's place: times that leave the same rest modulo the interval, whenever we start.
fn wait_ms(now_ms: i64, interval_ms: u64, hash: u64) -> u64 {
    let interval = interval_ms.max(1);
    let grid = (interval / 150).clamp(1, GRID_MS);
    let place = hash % interval / grid * grid;
    let now = now_ms.rem_euclid(interval.min(i64::MAX as u64) as i64) as u64;
    (place + interval - now) % interval
}

/// Gives the time for the samples of a scrape, and how far the wall clock went from the plan if it did.
///
/// **Takes** the wall clock now, how late the scrape begins on the monotonic clock, and the tick's planned time.
/// **Gives** the planned time if the wall clock is within 2 ms of it (or a hundredth of a short interval), else the wall clock.
pub(crate) fn snap(now_ms: i64, late_ms: i64, planned_ms: i64, interval_ms: u64) -> (i64, i64) {
    let tolerance = TOLERANCE_MS.min(interval_ms as i64 / 100);
    let drift = now_ms.saturating_sub(late_ms).saturating_sub(planned_ms);
    let at_ms = if (now_ms - planned_ms).abs() <= tolerance { planned_ms } else { now_ms };
    (at_ms, if drift.abs() > TOLERANCE_MS { drift } else { 0 })
}

/// Moves the plan of a target after its wall clock went another way, so that later scrapes snap again.
pub(crate) fn follow_drift(shared: &mut Shared, epoch: u64, drift_ms: i64) {
    if shared.epoch == epoch
        && let Some((_, planned_ms)) = &mut shared.due
    {
        *planned_ms = planned_ms.saturating_add(drift_ms);
        shared.status.next_scrape_ms = Some(*planned_ms);
    }
}

#[cfg(test)]
mod tests {
    use model::Labels;
    use url::Url;

    use super::*;
    use crate::target::TargetSpec;

    fn slot(name: &str, interval_ms: u64) -> Arc<Slot> {
        let url = Url::parse(&format!("http://{name}/")).unwrap_or_else(|e| panic!("{e}"));
        let mut spec = TargetSpec::new(name, url, Labels::empty());
        spec.interval_ms = interval_ms;
        Arc::new(Slot::new(Arc::new(spec), 0))
    }

    #[test]
    fn places_are_kept_over_restarts() {
        for (now, interval, hash) in [(0, 1000, 1234), (999, 1000, 1234), (123_456, 15_000, u64::MAX), (-5, 10, 3)] {
            let due = now + wait_ms(now, interval, hash) as i64;
            assert!(due >= now && due < now + interval as i64);
            let (place, grid) = (due.rem_euclid(interval as i64) as u64, (interval / 150).clamp(1, GRID_MS));
            assert!(place.is_multiple_of(grid) && hash % interval - place < grid, "{place}");
        }
    }

    #[test]
    fn times_snap_within_two_milliseconds() {
        assert_eq!(snap(10_002, 2, 10_000, 15_000), (10_000, 0));
        assert_eq!(snap(9_999, 0, 10_000, 15_000), (10_000, 0));
        assert_eq!(snap(10_003, 3, 10_000, 15_000), (10_003, 0));
        assert_eq!(snap(10_002, 2, 10_000, 100), (10_002, 0));
        // The wall clock was set ahead by an hour: the plan follows it.
        assert_eq!(snap(3_610_001, 1, 10_000, 15_000), (3_610_001, 3_600_000));
    }

    #[test]
    fn a_late_timer_counts_what_it_missed_and_keeps_the_grid() {
        let schedule = Schedule::default();
        let slot = slot("a", 1_000);
        schedule.start(&slot, &mut slot.shared.lock(), 0);
        let first = slot.shared.lock().due.unwrap_or_else(|| panic!("not scheduled"));
        assert!(schedule.take_due(first.0 - Duration::from_millis(2)).is_empty());
        let ticks = schedule.take_due(first.0);
        assert_eq!((ticks.len(), ticks[0].1.planned_ms), (1, first.1));
        // Three intervals later: two are missed, the third is scraped.
        let late = schedule.take_due(first.0 + Duration::from_millis(3_400));
        assert_eq!((late.len(), late[0].1.planned_ms), (1, first.1 + 3_000));
        let shared = slot.shared.lock();
        assert_eq!(shared.status.missed_ticks, 2);
        assert_eq!(shared.status.next_scrape_ms, Some(first.1 + 4_000));
    }

    #[test]
    fn entries_of_old_schedules_mean_nothing_and_are_swept() {
        let schedule = Schedule::default();
        let slot = slot("a", 1_000);
        for _ in 0..2 * SWEEP_MIN {
            schedule.start(&slot, &mut slot.shared.lock(), 0);
        }
        schedule.sweep(1);
        assert_eq!(schedule.heap.lock().entries.len(), 1);
        assert_eq!(schedule.take_due(Instant::now() + Duration::from_millis(1_000)).len(), 1);
        slot.shared.lock().stop();
        assert!(schedule.take_due(Instant::now() + Duration::from_secs(60)).is_empty());
        assert!(schedule.heap.lock().entries.is_empty());
    }

    #[test]
    fn many_targets_are_spread_over_the_interval() {
        let schedule = Schedule::default();
        let slots: Vec<_> = (0..10_000).map(|i| slot(&format!("t{i}"), 10_000)).collect();
        let mut tenths = [0u32; 10];
        for slot in &slots {
            let mut shared = slot.shared.lock();
            schedule.start(slot, &mut shared, 0);
            tenths[shared.due.map_or(0, |d| d.1 as usize / 1_000)] += 1;
        }
        assert!(tenths.iter().all(|n| (800..1_200).contains(n)), "{tenths:?}");
    }
}
