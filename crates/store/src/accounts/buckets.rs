//! Counts over time, finer for what is recent: five minutes for two hours, an hour for two days, then days.
//!
//! Invariants: 1. what was added stays, in ever larger buckets, until [`Buckets::forget`]; 2. the lists are sorted.
//! Limits: what [`LEVELS`] says.

use std::collections::VecDeque;

use model::{Counts, TimeRange};

use super::slots::{Hole, SlotCounts};

/// Length of a bucket, and how far behind the newest time the level reaches.
pub const LEVELS: [(i64, i64); 3] =
    [(300_000, 2 * 3_600_000), (3_600_000, 48 * 3_600_000), (86_400_000, 3_660 * 86_400_000)];

/// Counts of one stretch of time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    /// Where it begins.
    pub start_ms: i64,
    received: u64,
    stored: u64,
    expected: u32,
    scraped: u32,
    /// Absent in a stretch in which all went well.
    rest: Option<Box<Rest>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Rest {
    counts: Counts,
    slots: SlotCounts,
}

impl Bucket {
    /// Starts an empty one.
    pub fn starting(start_ms: i64) -> Bucket {
        Bucket { start_ms, ..Bucket::default() }
    }

    /// Gives the samples.
    pub fn counts(&self) -> Counts {
        let rest = self.rest.as_ref().map_or_else(Counts::default, |r| r.counts);
        Counts { received: self.received, stored: self.stored, ..rest }
    }

    /// Gives the planned scrapes.
    pub fn slots(&self) -> SlotCounts {
        let rest = self.rest.as_ref().map_or_else(SlotCounts::default, |r| r.slots);
        SlotCounts { expected: u64::from(self.expected), stored: u64::from(self.scraped), ..rest }
    }

    /// Adds to it.
    pub fn add(&mut self, counts: &Counts, slots: &SlotCounts) {
        let (mut all, mut places) = (self.counts(), self.slots());
        all.merge(counts);
        places.merge(slots);
        (self.received, self.stored) = (all.received, all.stored);
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        (self.expected, self.scraped) = (small(places.expected), small(places.stored));
        let rest = Rest {
            counts: Counts { received: 0, stored: 0, ..all },
            slots: SlotCounts { expected: 0, stored: 0, ..places },
        };
        match &mut self.rest {
            Some(mine) => **mine = rest,
            None if rest == Rest::default() => {}
            none => *none = Some(Box::new(rest)),
        }
    }
}

/// Counts over time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Buckets {
    /// One list for each of [`LEVELS`].
    pub levels: [VecDeque<Bucket>; LEVELS.len()],
    /// The latest time that anything was added for.
    pub newest_ms: i64,
}

impl Buckets {
    /// Adds to the bucket of a time.
    pub fn add(&mut self, at_ms: i64, counts: &Counts, slots: &SlotCounts) {
        if at_ms > self.newest_ms || self.levels.iter().all(VecDeque::is_empty) {
            self.newest_ms = at_ms;
            self.age();
        }
        let level = self.level_of(at_ms);
        self.bucket(level, at_ms).add(counts, slots);
    }

    /// Adds missing scrapes to the buckets that they fall into.
    pub fn add_hole(&mut self, hole: &Hole) {
        let step_ms = match hole.slots {
            0 | 1 => 1,
            n => (hole.to_ms.saturating_sub(hole.from_ms) / (n - 1).min(i64::MAX as u64) as i64).max(1),
        };
        let (mut at_ms, mut left) = (hole.from_ms, hole.slots);
        // A clock that stood wrong by centuries must not be walked through day by day.
        let edge_ms = hole.to_ms.saturating_sub(LEVELS[LEVELS.len() - 1].1);
        if at_ms < edge_ms {
            let skipped = ((edge_ms.saturating_sub(at_ms) / step_ms) as u64).min(left - 1);
            let mut slots = SlotCounts::default();
            slots.miss(hole.cause, skipped);
            self.add(edge_ms, &Counts::default(), &slots);
            (at_ms, left) = (edge_ms, left - skipped);
        }
        while left > 0 {
            let (length_ms, _) = LEVELS[self.level_of(at_ms)];
            let end_ms = floor(at_ms, length_ms).saturating_add(length_ms);
            let fit = (end_ms.saturating_sub(at_ms) as u64).div_ceil(step_ms as u64).clamp(1, left);
            let mut slots = SlotCounts::default();
            slots.miss(hole.cause, fit);
            self.add(at_ms, &Counts::default(), &slots);
            left -= fit;
            at_ms = at_ms.saturating_add(step_ms.saturating_mul(fit as i64));
        }
    }

    /// Sums what touches a range, and says which stretch of time the sum is about; `None` when nothing does.
    pub fn sum(&self, range: TimeRange) -> Option<(Counts, SlotCounts, TimeRange)> {
        let mut found: Option<(Counts, SlotCounts, TimeRange)> = None;
        for (level, (length_ms, _)) in self.levels.iter().zip(LEVELS) {
            for bucket in level {
                let span =
                    TimeRange { start_ms: bucket.start_ms, end_ms: bucket.start_ms.saturating_add(length_ms - 1) };
                if !span.overlaps(&range) {
                    continue;
                }
                let (counts, slots, all) =
                    found.get_or_insert_with(|| (Counts::default(), SlotCounts::default(), span));
                counts.merge(&bucket.counts());
                slots.merge(&bucket.slots());
                all.start_ms = all.start_ms.min(span.start_ms);
                all.end_ms = all.end_ms.max(span.end_ms);
            }
        }
        found
    }

    /// Forgets what ended before a time; tells whether nothing is left.
    pub fn forget(&mut self, before_ms: i64) -> bool {
        for (level, (length_ms, _)) in self.levels.iter_mut().zip(LEVELS) {
            while level.front().is_some_and(|b| b.start_ms.saturating_add(length_ms) <= before_ms) {
                level.pop_front();
            }
        }
        self.levels.iter().all(VecDeque::is_empty)
    }

    fn level_of(&self, at_ms: i64) -> usize {
        let age_ms = self.newest_ms.saturating_sub(at_ms);
        LEVELS.iter().position(|(_, reach_ms)| age_ms < *reach_ms).unwrap_or(LEVELS.len() - 1)
    }

    fn bucket(&mut self, level: usize, at_ms: i64) -> &mut Bucket {
        let start_ms = floor(at_ms, LEVELS[level].0);
        let list = &mut self.levels[level];
        let at = match list.back() {
            Some(last) if last.start_ms == start_ms => list.len() - 1,
            _ => list.partition_point(|b| b.start_ms < start_ms),
        };
        if list.get(at).is_none_or(|b| b.start_ms != start_ms) {
            list.insert(at, Bucket::starting(start_ms));
        }
        &mut list[at]
    }

    /// Moves what has grown old into larger buckets; the last level forgets what is out of reach.
    fn age(&mut self) {
        for (level, (_, reach_ms)) in LEVELS.into_iter().enumerate() {
            let edge_ms = self.newest_ms.saturating_sub(reach_ms);
            while self.levels[level].front().is_some_and(|b| b.start_ms < edge_ms) {
                let Some(old) = self.levels[level].pop_front() else { break };
                if level + 1 < LEVELS.len() {
                    self.bucket(level + 1, old.start_ms).add(&old.counts(), &old.slots());
                }
            }
        }
    }
}

fn floor(at_ms: i64, length_ms: i64) -> i64 {
    at_ms.saturating_sub(at_ms.rem_euclid(length_ms))
}

#[cfg(test)]
mod tests {
    use super::super::slots::HoleCause;
    use super::*;
    use proptest::prelude::*;

    fn some(n: u64) -> Counts {
        Counts { received: n, stored: n, ..Counts::default() }
    }

    proptest! {
        #[test]
        fn nothing_that_was_added_goes_missing(
            adds in prop::collection::vec((0i64..40 * 86_400_000, 1u64..9, any::<bool>()), 1..300),
        ) {
            let (mut buckets, mut want, mut missing) = (Buckets::default(), 0, 0);
            for (at, n, hole) in adds {
                if hole {
                    let hole = Hole { from_ms: at, to_ms: at + 15_000 * (n as i64 - 1), slots: n, cause: HoleCause::Restart };
                    buckets.add_hole(&hole);
                    missing += n;
                } else {
                    buckets.add(at, &some(n), &SlotCounts { expected: 1, stored: 1, ..SlotCounts::default() });
                    want += n;
                }
                let sorted = |l: &VecDeque<Bucket>| l.iter().zip(l.iter().skip(1)).all(|(a, b)| a.start_ms < b.start_ms);
                prop_assert!(buckets.levels.iter().all(sorted));
            }
            let (counts, slots, _) = buckets.sum(TimeRange::ALL).unwrap();
            prop_assert_eq!((counts.received, slots.missing[HoleCause::Restart as usize]), (want, missing));
            prop_assert!(counts.balances() && slots.balances());
            prop_assert!(buckets.levels[0].len() <= 26 && buckets.levels[1].len() <= 50);
        }
    }

    #[test]
    fn a_sum_says_what_it_is_about() {
        let mut buckets = Buckets::default();
        buckets.add(1_000_000, &some(1), &SlotCounts::default());
        buckets.add(1_400_000, &some(2), &SlotCounts::default());
        let (counts, _, span) = buckets.sum(TimeRange { start_ms: 1_450_000, end_ms: 1_450_001 }).unwrap();
        assert_eq!((counts.received, span), (2, TimeRange { start_ms: 1_200_000, end_ms: 1_499_999 }));
        assert!(buckets.sum(TimeRange { start_ms: 1_500_000, end_ms: i64::MAX }).is_none());
        assert!(!buckets.forget(1_200_000) && buckets.forget(1_500_000));
    }

    #[test]
    fn a_hole_of_years_ends_quickly() {
        let mut buckets = Buckets::default();
        let cause = HoleCause::Unknown;
        buckets.add(i64::MAX - 10, &some(1), &SlotCounts::default());
        buckets.add_hole(&Hole { from_ms: 0, to_ms: 3_000 * 86_400_000, slots: 3_000 * 86_400, cause });
        assert!(buckets.levels.iter().map(VecDeque::len).sum::<usize>() < 4_000);
    }

    #[test]
    fn a_bucket_without_trouble_is_small() {
        assert!(size_of::<Bucket>() <= 40, "{}", size_of::<Bucket>());
        let mut bucket = Bucket::default();
        bucket.add(&some(5), &SlotCounts { expected: 1, stored: 1, ..SlotCounts::default() });
        assert!(bucket.rest.is_none());
    }
}
