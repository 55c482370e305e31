//! Planned scrapes of one target: which were stored, which are missing, and why.
//!
//! Invariants: 1. everything here follows from the slots of the records, so that replay comes to the same; 2. a planned
//! scrape is stored or missing, with one cause; those missed while the target was switched off are not expected.

use model::{ScrapeSlot, SlotOutcome};

/// Why a planned scrape has no samples.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum HoleCause {
    /// The target did not answer, or not with metrics.
    TargetDown = 0,
    /// A limit refused the whole body.
    Limit = 1,
    /// This server was down or starting.
    Restart = 2,
    /// There was no time: the scrape before was not done, or the machine was busy.
    Overloaded = 3,
    /// The store did not take it: its queue or the disk was full.
    StoreRefused = 4,
    /// The target was switched off or removed.
    Disabled = 5,
    /// Nothing tells.
    Unknown = 6,
}

impl HoleCause {
    /// How many causes there are.
    pub const COUNT: usize = 7;

    /// All causes, in order of their numbers.
    pub const ALL: [HoleCause; HoleCause::COUNT] = [
        HoleCause::TargetDown,
        HoleCause::Limit,
        HoleCause::Restart,
        HoleCause::Overloaded,
        HoleCause::StoreRefused,
        HoleCause::Disabled,
        HoleCause::Unknown,
    ];

    /// Gives the word that the outside sees.
    pub fn as_str(self) -> &'static str {
        match self {
            HoleCause::TargetDown => "target_down",
            HoleCause::Limit => "limit",
            HoleCause::Restart => "restart",
            HoleCause::Overloaded => "overloaded",
            HoleCause::StoreRefused => "store_refused",
            HoleCause::Disabled => "disabled",
            HoleCause::Unknown => "unknown",
        }
    }

    /// Tells whether the scrape was ours to make: then its loss counts against our integrity.
    pub fn is_ours(self) -> bool {
        !matches!(self, HoleCause::TargetDown | HoleCause::Limit | HoleCause::Disabled)
    }
}

/// Counts of planned scrapes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotCounts {
    /// Scrapes that had to be made: stored ones and missing ones, those of a switched-off target left out.
    pub expected: u64,
    /// Scrapes whose body was stored.
    pub stored: u64,
    /// Scrapes stored although one of the same place was there.
    pub doubled: u64,
    /// Missing scrapes by cause; those of [`HoleCause::Disabled`] are not expected.
    pub missing: [u64; HoleCause::COUNT],
}

impl SlotCounts {
    /// Adds others.
    pub fn merge(&mut self, other: &SlotCounts) {
        self.expected += other.expected;
        self.stored += other.stored;
        self.doubled += other.doubled;
        for (mine, theirs) in self.missing.iter_mut().zip(other.missing) {
            *mine += theirs;
        }
    }

    /// Counts missing scrapes.
    pub fn miss(&mut self, cause: HoleCause, slots: u64) {
        self.missing[cause as usize] += slots;
        if cause != HoleCause::Disabled {
            self.expected += slots;
        }
    }

    /// Gives the missing scrapes that were expected.
    pub fn lost(&self) -> u64 {
        HoleCause::ALL.iter().filter(|c| **c != HoleCause::Disabled).map(|c| self.missing[*c as usize]).sum()
    }

    /// Gives the missing scrapes that were ours to make.
    pub fn lost_by_us(&self) -> u64 {
        HoleCause::ALL.iter().filter(|c| c.is_ours()).map(|c| self.missing[*c as usize]).sum()
    }

    /// Tells whether nothing is unaccounted for.
    pub fn balances(&self) -> bool {
        self.expected == self.stored + self.lost()
    }
}

/// A run of missing scrapes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hole {
    /// When the first was due.
    pub from_ms: i64,
    /// When the last was due.
    pub to_ms: i64,
    /// How many.
    pub slots: u64,
    /// Why.
    pub cause: HoleCause,
}

/// Where a target's schedule stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotTrack {
    /// The latest stored place and its interval.
    pub last: Option<(i64, u64)>,
    /// The start of this server that stored it.
    pub epoch: u64,
    /// The target was switched off or removed since.
    pub ended: bool,
}

/// What one more slot means.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// Runs of missing scrapes before it, oldest first.
    pub holes: Vec<Hole>,
    /// The place was taken already.
    pub doubled: bool,
}

impl SlotTrack {
    /// Moves on to a slot.
    ///
    /// **Takes** the start of the server under which the record was written.
    pub fn step(&mut self, slot: &ScrapeSlot, epoch: u64) -> Step {
        let mut step = Step::default();
        if slot.outcome == SlotOutcome::Ended {
            self.ended = true;
            return step;
        }
        if let Some((last_ms, interval_ms)) = self.last {
            let interval_ms = interval_ms.max(slot.interval_ms).clamp(1, i64::MAX as u64) as i64;
            let gap_ms = slot.planned_ms.saturating_sub(last_ms);
            step.doubled = !self.ended && gap_ms >= 0 && gap_ms < interval_ms / 2;
            // A clock that was set back leaves no hole.
            let missing = (gap_ms.saturating_add(interval_ms / 2) / interval_ms - 1).max(0) as u64;
            let first_ms = last_ms.saturating_add(interval_ms);
            self.explain(slot, epoch, (first_ms, interval_ms, missing), &mut step.holes);
        }
        *self = SlotTrack { last: Some((slot.planned_ms, slot.interval_ms)), epoch, ended: false };
        step
    }

    /// Divides missing scrapes by cause. What this start of the server counted came last.
    fn explain(&self, slot: &ScrapeSlot, epoch: u64, gap: (i64, i64, u64), holes: &mut Vec<Hole>) {
        let (mut at_ms, interval_ms, missing) = gap;
        if self.ended {
            return push(holes, &mut at_ms, interval_ms, missing, HoleCause::Disabled);
        }
        let refused = u64::from(slot.refused).min(missing);
        let skipped = u64::from(slot.skipped).min(missing - refused);
        let rest = missing - refused - skipped;
        let unexplained = if epoch == self.epoch { HoleCause::Unknown } else { HoleCause::Restart };
        for (slots, cause) in
            [(rest, unexplained), (skipped, HoleCause::Overloaded), (refused, HoleCause::StoreRefused)]
        {
            push(holes, &mut at_ms, interval_ms, slots, cause);
        }
    }
}

fn push(holes: &mut Vec<Hole>, at_ms: &mut i64, interval_ms: i64, slots: u64, cause: HoleCause) {
    if slots == 0 {
        return;
    }
    let length_ms = interval_ms.saturating_mul(slots.min(i64::MAX as u64) as i64);
    let to_ms = at_ms.saturating_add(length_ms.saturating_sub(interval_ms));
    holes.push(Hole { from_ms: *at_ms, to_ms, slots, cause });
    *at_ms = at_ms.saturating_add(length_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(planned_ms: i64) -> ScrapeSlot {
        ScrapeSlot { planned_ms, interval_ms: 1_000, ..ScrapeSlot::default() }
    }

    fn causes(step: &Step) -> Vec<(i64, i64, u64, HoleCause)> {
        step.holes.iter().map(|h| (h.from_ms, h.to_ms, h.slots, h.cause)).collect()
    }

    #[test]
    fn a_schedule_without_gaps_has_no_holes() {
        let mut track = SlotTrack::default();
        for planned in [5_000, 6_000, 7_001, 8_000] {
            assert_eq!(track.step(&slot(planned), 1), Step::default());
        }
        assert!(track.step(&slot(8_002), 1).doubled);
    }

    #[test]
    fn gaps_have_their_causes_in_order() {
        let mut track = SlotTrack::default();
        track.step(&slot(0), 1);
        let step = track.step(&ScrapeSlot { skipped: 2, refused: 1, ..slot(7_000) }, 2);
        assert_eq!(
            causes(&step),
            [
                (1_000, 3_000, 3, HoleCause::Restart),
                (4_000, 5_000, 2, HoleCause::Overloaded),
                (6_000, 6_000, 1, HoleCause::StoreRefused)
            ]
        );
        // More excuses than holes change nothing.
        assert_eq!(causes(&track.step(&ScrapeSlot { skipped: 9, ..slot(8_000) }, 2)), []);
        assert_eq!(causes(&track.step(&slot(10_000), 2)), [(9_000, 9_000, 1, HoleCause::Unknown)]);
    }

    #[test]
    fn a_target_that_was_off_owes_nothing() {
        let mut track = SlotTrack::default();
        track.step(&slot(0), 1);
        track.step(&ScrapeSlot { outcome: SlotOutcome::Ended, ..slot(400) }, 1);
        let step = track.step(&slot(5_000), 2);
        assert_eq!(causes(&step), [(1_000, 4_000, 4, HoleCause::Disabled)]);
        assert_eq!(causes(&track.step(&slot(6_000), 2)), []);
    }

    #[test]
    fn clocks_that_jump_make_no_nonsense() {
        let mut track = SlotTrack::default();
        track.step(&slot(i64::MAX - 5), 1);
        assert_eq!(track.step(&slot(0), 1), Step::default());
        assert_eq!(track.step(&slot(i64::MIN), 1), Step::default());
        let far = track.step(&ScrapeSlot { interval_ms: 0, ..slot(i64::MAX) }, 1);
        assert_eq!(far.holes.len(), 1);
        // Another interval: the larger one counts.
        track.step(&slot(0), 1);
        assert_eq!(track.step(&ScrapeSlot { interval_ms: 60_000, ..slot(50_000) }, 1), Step::default());
    }
}
