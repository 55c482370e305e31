//! Accounts: what each target and source delivered, sample by sample and scrape by scrape, over all restarts.
//!
//! Owns: the table of accounts, and the counts of damage. `file.rs` keeps them on disk, written with every cut of the
//! log; what came behind is counted again from the records.
//! Invariants: 1. every record up to `seq` is counted, none behind it; 2. the accounts together are the totals;
//! 3. received = stored + duplicates + filtered + refused, expected = stored + missing, in each account.
//! Limits: [`ACCOUNTS_MAX`] accounts, who comes later shares one; [`HOLES_MAX`] holes an account are listed one by one,
//! all are counted.

pub mod buckets;
pub mod file;
pub mod slots;

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use model::{CollectionMethod, Counts, Origin, ScrapeSlot, SlotOutcome, TimeRange};

use buckets::Buckets;
use slots::SlotTrack;
pub use slots::{Hole, HoleCause, SlotCounts};

/// Accounts at one time; some kilobytes each.
pub const ACCOUNTS_MAX: usize = 32_768;
/// Holes that are listed one by one.
pub const HOLES_MAX: usize = 64;
/// The source id of the account that all share who found no room.
pub const OTHERS: &str = "(others)";

/// What one target or source delivered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Account {
    /// The target's id, or that of the source.
    pub target_id: String,
    /// The source.
    pub source_id: String,
    /// How it delivers.
    pub method: CollectionMethod,
    /// All samples since the data directory was made.
    pub totals: Counts,
    /// Batches, likewise.
    pub batches: u64,
    /// All planned scrapes, likewise.
    pub slots: SlotCounts,
    /// Counts over time.
    pub buckets: Buckets,
    /// Where the schedule stands.
    pub track: SlotTrack,
    /// The latest missing scrapes, oldest first.
    pub holes: VecDeque<Hole>,
}

impl Account {
    fn of(origin: &Origin) -> Account {
        Account {
            target_id: origin.target_id.clone(),
            source_id: origin.source_id.clone(),
            method: origin.method,
            ..Account::default()
        }
    }

    fn is_of(&self, origin: &Origin) -> bool {
        self.target_id == origin.target_id && self.source_id == origin.source_id && self.method == origin.method
    }

    fn add(&mut self, origin: &Origin, slot: Option<&ScrapeSlot>, counts: &Counts, epoch: u64) {
        self.totals.merge(counts);
        self.batches += 1;
        self.buckets.add(origin.received_at_ms, counts, &SlotCounts::default());
        if let Some(slot) = slot {
            self.add_slot(slot, epoch);
        }
    }

    fn add_slot(&mut self, slot: &ScrapeSlot, epoch: u64) {
        let step = self.track.step(slot, epoch);
        step.holes.into_iter().for_each(|hole| self.add_hole(hole));
        let at_ms = slot.planned_ms;
        let cause = match slot.outcome {
            SlotOutcome::Ended => return,
            SlotOutcome::Stored => {
                let doubled = u64::from(step.doubled);
                let one = SlotCounts { expected: 1, stored: 1, doubled, ..SlotCounts::default() };
                self.slots.merge(&one);
                return self.buckets.add(at_ms, &Counts::default(), &one);
            }
            SlotOutcome::TargetDown => HoleCause::TargetDown,
            SlotOutcome::Limit => HoleCause::Limit,
        };
        self.add_hole(Hole { from_ms: at_ms, to_ms: at_ms, slots: 1, cause });
    }

    fn add_hole(&mut self, hole: Hole) {
        self.slots.miss(hole.cause, hole.slots);
        self.buckets.add_hole(&hole);
        let interval_ms = self.track.last.map_or(1, |l| l.1).clamp(1, i64::MAX as u64) as i64;
        if let Some(last) = self.holes.back_mut()
            && last.cause == hole.cause
            && last.to_ms < hole.from_ms
            && hole.from_ms.saturating_sub(last.to_ms) < interval_ms.saturating_mul(2).saturating_sub(interval_ms / 2)
        {
            last.to_ms = hole.to_ms;
            last.slots += hole.slots;
            return;
        }
        if self.holes.len() >= HOLES_MAX {
            self.holes.pop_front();
        }
        self.holes.push_back(hole);
    }
}

/// What was found damaged or failed, since the data directory was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Durability {
    /// Torn ends of the log: what was being written when the machine stopped, never acknowledged.
    pub records_torn: u64,
    /// Damaged stretches of the log; each holds at least a record.
    pub records_damaged: u64,
    /// Samples whose series' definition was lost.
    pub samples_orphaned: u64,
    /// Other files found damaged at a start: small files, blocks.
    pub files_damaged: u64,
    /// Writes or syncs of the log that failed.
    pub fsync_failures: u64,
    /// Damaged stretches that the scrubber found in blocks.
    pub stretches_damaged: u64,
    /// Files that the scrubber made whole again from their second copy.
    pub files_repaired: u64,
    /// Windows that did not get whole from the head into a block: not written, not read back as written, or with a
    /// damaged chunk. What is not in a block stays in head and log.
    pub transfers_failed: u64,
}

/// All accounts of one store. Cheap to clone: accounts are copied when they change.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    table: HashTable<Arc<Account>>,
    /// Last record that is counted.
    pub seq: u64,
    /// What was counted before the accounts began, or is in an account that is gone.
    pub elsewhere: Counts,
    /// Damage and failures.
    pub durability: Durability,
}

impl Accounts {
    /// Begins accounts behind a record, with what was counted up to there.
    pub fn since(seq: u64, elsewhere: Counts) -> Accounts {
        Accounts { seq, elsewhere, ..Accounts::default() }
    }

    /// Copies them; they count up to the given record.
    pub fn as_of(&self, seq: u64) -> Accounts {
        Accounts { seq, ..self.clone() }
    }

    /// Counts a record.
    pub fn add(&mut self, origin: &Origin, slot: Option<&ScrapeSlot>, counts: &Counts, epoch: u64) {
        let hash = hash_of(origin);
        let full = self.table.len() >= ACCOUNTS_MAX;
        if let Some(account) = self.table.find_mut(hash, |a| a.is_of(origin)) {
            return Arc::make_mut(account).add(origin, slot, counts, epoch);
        }
        if full && origin.source_id != OTHERS {
            // Schedules of different targets in one account would make no sense.
            let shared = Origin { target_id: OTHERS.to_owned(), source_id: OTHERS.to_owned(), ..origin.clone() };
            return self.add(&shared, None, counts, epoch);
        }
        let mut account = Account::of(origin);
        account.add(origin, slot, counts, epoch);
        self.insert(account);
    }

    fn insert(&mut self, account: Account) {
        let hash = hash_of_parts(&account.target_id, &account.source_id, account.method);
        self.table.insert_unique(hash, Arc::new(account), |a| hash_of_parts(&a.target_id, &a.source_id, a.method));
    }

    /// Forgets what lies before a time, and accounts that have nothing behind it.
    pub fn forget(&mut self, before_ms: i64) {
        let elsewhere = &mut self.elsewhere;
        self.table.retain(|account| {
            let old = |a: &Account| a.buckets.levels.iter().flatten().next().is_none_or(|b| b.start_ms < before_ms);
            if !old(account) {
                return true;
            }
            let account = Arc::make_mut(account);
            account.holes.retain(|h| h.to_ms >= before_ms);
            let empty = account.buckets.forget(before_ms);
            if empty {
                elsewhere.merge(&account.totals);
            }
            !empty
        });
    }

    /// Gives all accounts, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.table.iter()
    }

    /// Adds up everything that ever came in.
    pub fn totals(&self) -> Counts {
        let mut totals = self.elsewhere;
        self.iter().for_each(|a| totals.merge(&a.totals));
        totals
    }
}

/// What one account says about a range of time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountReport {
    /// The target's id, or that of the source.
    pub target_id: String,
    /// The source.
    pub source_id: String,
    /// How it delivers.
    pub method: CollectionMethod,
    /// Samples since the data directory was made.
    pub totals: Counts,
    /// Samples in the stretch of time.
    pub counts: Counts,
    /// Planned scrapes in the stretch of time.
    pub slots: SlotCounts,
    /// The latest stored place in the schedule and its interval, while the target was not switched off since.
    pub last_slot: Option<(i64, u64)>,
    /// Missing scrapes that touch the range, oldest first; at most [`HOLES_MAX`].
    pub holes: Vec<Hole>,
    /// The stretch of time: the range, rounded to whole buckets.
    pub span: TimeRange,
}

impl Account {
    /// Says what happened in a range; `None` when nothing did.
    pub fn report(&self, range: TimeRange) -> Option<AccountReport> {
        let (counts, slots, span) = self.buckets.sum(range)?;
        let inside = |h: &&Hole| range.overlaps(&TimeRange { start_ms: h.from_ms, end_ms: h.to_ms });
        Some(AccountReport {
            target_id: self.target_id.clone(),
            source_id: self.source_id.clone(),
            method: self.method,
            totals: self.totals,
            counts,
            slots,
            last_slot: self.track.last.filter(|_| !self.track.ended),
            holes: self.holes.iter().filter(inside).copied().collect(),
            span,
        })
    }
}

fn hash_of(origin: &Origin) -> u64 {
    hash_of_parts(&origin.target_id, &origin.source_id, origin.method)
}

fn hash_of_parts(target_id: &str, source_id: &str, method: CollectionMethod) -> u64 {
    FixedState::default().hash_one((target_id, source_id, method as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(n: usize) -> Origin {
        Origin { target_id: format!("t{n}"), source_id: "s".into(), received_at_ms: 1_000, ..Origin::default() }
    }

    fn one() -> Counts {
        Counts { received: 1, stored: 1, ..Counts::default() }
    }

    #[test]
    fn accounts_are_bounded_and_add_up() {
        let mut accounts = Accounts::default();
        for n in 0..ACCOUNTS_MAX + 100 {
            accounts.add(&origin(n), None, &one(), 1);
        }
        assert_eq!(accounts.iter().count(), ACCOUNTS_MAX + 1);
        assert_eq!(accounts.totals().received, ACCOUNTS_MAX as u64 + 100);
        accounts.forget(i64::MAX);
        assert_eq!((accounts.iter().count(), accounts.totals().stored), (0, ACCOUNTS_MAX as u64 + 100));
    }

    #[test]
    fn a_copy_does_not_change_with_the_original() {
        let mut accounts = Accounts::default();
        accounts.add(&origin(1), None, &one(), 1);
        let copy = accounts.clone();
        accounts.add(&origin(1), None, &one(), 1);
        assert_eq!((copy.totals().received, accounts.totals().received), (1, 2));
    }

    #[test]
    fn a_target_that_is_down_has_one_growing_hole() {
        let mut accounts = Accounts::default();
        for n in 0..10i64 {
            let outcome = if n < 3 { SlotOutcome::Stored } else { SlotOutcome::TargetDown };
            let slot = ScrapeSlot { planned_ms: n * 1_000, interval_ms: 1_000, outcome, ..ScrapeSlot::default() };
            accounts.add(&origin(1), Some(&slot), &one(), 1);
        }
        let report = accounts.iter().next().unwrap().report(TimeRange::ALL).unwrap();
        assert_eq!(report.holes, [Hole { from_ms: 3_000, to_ms: 9_000, slots: 7, cause: HoleCause::TargetDown }]);
        assert_eq!((report.slots.expected, report.slots.stored, report.slots.lost_by_us()), (10, 3, 0));
        assert!(report.slots.balances() && report.counts.balances());
    }
}
