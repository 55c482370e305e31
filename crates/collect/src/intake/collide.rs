//! Series that filters make the same: the one that is in goes on, the others are refused and named.
//!
//! Invariant: a series that took the place of one that this body does not have stays, unless that one comes after all.

use hashbrown::{HashMap, HashSet};
use model::{LabelsBuf, Refusal};

use super::Intake;
use crate::cache::Kind;

/// Label sets of refused series that are kept for whoever asks.
const EXAMPLES_MAX: usize = 200;

/// Stands for a sum that has no entry yet.
const SUM: u32 = u32::MAX;

/// What is known of series that filters made the same.
#[derive(Default)]
pub(super) struct Collisions {
    /// Series by what they are stored as; made when the first new series comes.
    stored_as: Option<HashMap<u64, u32>>,
    /// The series that had the place before, for the next new series.
    before: Option<u32>,
    /// New series with those whose place they took, which were not seen so far.
    suspects: Vec<(u32, u32)>,
    /// The filter by which the series read last is added to others.
    pub(super) aggregate: usize,
}

impl Intake<'_> {
    /// Tells whether a new series, whose labels stand in `buf` and whose key in `key`, would be written into another one.
    pub(super) fn collides(&mut self, fingerprint: u64) -> bool {
        self.collisions.before = None;
        if !self.spec.filters.transforms() {
            return false;
        }
        let stored_as = self.collisions.stored_as.get_or_insert_with(|| self.cache.by_fingerprint());
        let Some(other) = stored_as.get(&fingerprint).copied() else { return false };
        let is_sum = other == SUM || self.cache.is_sum(other);
        if !is_sum && self.is_the_same(other) {
            return false;
        }
        let is_seen = is_sum || self.draft.series(other).is_some();
        if !is_seen {
            self.collisions.before = Some(other);
            return false;
        }
        self.name(other);
        true
    }

    /// Tells whether a sum that has no entry yet would be written into another series; if not, it has its place from now on.
    pub(super) fn sum_collides(&mut self, fingerprint: u64) -> bool {
        let stored_as = self.collisions.stored_as.get_or_insert_with(|| self.cache.by_fingerprint());
        if stored_as.get(&fingerprint) == Some(&SUM) {
            return false;
        }
        let collides = self.collides(fingerprint);
        self.collisions.before = None;
        if let Some(stored_as) = self.collisions.stored_as.as_mut().filter(|_| !collides) {
            stored_as.insert(fingerprint, SUM);
        }
        collides
    }

    /// Tells whether another series only has another spelling of the same labels: the parser gave this one last.
    fn is_the_same(&self, other: u32) -> bool {
        let mut theirs = LabelsBuf::default();
        self.cache.read_unfiltered(other, &mut theirs) && theirs.to_labels() == self.unfiltered.to_labels()
    }

    /// Remembers what a new series is stored as.
    pub(super) fn note_stored_as(&mut self, entry: u32, fingerprint: u64, kind: Kind) {
        if kind != Kind::Kept {
            return;
        }
        if let Some(before) = self.collisions.before.take() {
            self.collisions.suspects.push((entry, before));
        }
        if let Some(stored_as) = &mut self.collisions.stored_as {
            stored_as.insert(fingerprint, entry);
        }
    }

    /// Refuses what took the place of a series that came after all.
    pub(super) fn settle_collisions(&mut self) {
        let suspects = std::mem::take(&mut self.collisions.suspects);
        let came: Vec<(u32, u32)> =
            suspects.into_iter().filter(|(_, before)| self.draft.series(*before).is_some()).collect();
        if came.is_empty() {
            return;
        }
        let mut unfiltered = LabelsBuf::default();
        for (entry, before) in &came {
            if self.cache.read_unfiltered(*entry, &mut unfiltered) {
                std::mem::swap(&mut self.unfiltered, &mut unfiltered);
                self.name(*before);
            }
        }
        let entries: HashSet<u32> = came.into_iter().map(|(entry, _)| entry).collect();
        self.take_out(entries, Refusal::LabelCollision);
    }

    /// Names the series that is refused, and the one that it would have been written into.
    fn name(&mut self, other: u32) {
        let labels = self.unfiltered.to_labels();
        if self.batch.advice.is_none() {
            let mut theirs = LabelsBuf::default();
            let theirs = match other != SUM && self.cache.read_unfiltered(other, &mut theirs) {
                true => theirs.to_labels().to_string(),
                false => "a sum of others".to_owned(),
            };
            self.batch.advice = Some(format!(
                "filters make {labels} the same series as {theirs}, which goes on; AGGREGATE_AWAY in the place of \
                 DROP_LABEL adds them up"
            ));
        }
        if self.batch.examples.len() < EXAMPLES_MAX {
            self.batch.examples.push((Refusal::LabelCollision, labels));
        }
    }
}
