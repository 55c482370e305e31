//! The children of groups: how they are found, taken in and forgotten.

use std::sync::Arc;

use super::{Aggregator, FORGET_AFTER_MS, How, ROOM_EVERY_MS, joined};
use crate::histogram::Histogram;

/// When something was last used, by the clock and not by the times of samples, which may be of any age.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    /// It was since the last sweep.
    pub(super) used: bool,
    /// The last sweep before which it was.
    pub(super) at_ms: i64,
}

impl Default for Use {
    fn default() -> Use {
        Use { used: true, at_ms: i64::MIN }
    }
}

/// A series that is added to others.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) key: u64,
    pub(super) group: u32,
    /// Where it stands among the members of its group.
    pub(super) place: u32,
    pub(super) last: Option<f64>,
    pub(super) histogram: Option<Arc<Histogram>>,
    pub(super) last_ms: i64,
    pub(super) staged: Option<f64>,
    pub(super) staged_histogram: Option<Arc<Histogram>>,
    pub(super) staged_ms: i64,
    pub(super) is_staged: bool,
    /// The step that it was added in.
    pub(super) step: u64,
    pub(super) forgotten: bool,
    pub(super) usage: Use,
}

impl Member {
    /// Makes one that nothing is known of.
    pub(super) fn new(key: u64, group: u32, now_ms: i64) -> Member {
        Member {
            key,
            group,
            place: 0,
            last: None,
            histogram: None,
            last_ms: now_ms,
            staged: None,
            staged_histogram: None,
            staged_ms: 0,
            is_staged: false,
            step: 0,
            forgotten: false,
            usage: Use { used: true, at_ms: now_ms },
        }
    }

    /// Gives the time of its last sample.
    pub(super) fn seen_ms(&self) -> i64 {
        if self.is_staged { self.staged_ms } else { self.last_ms }
    }

    /// Gives its last histogram.
    pub(super) fn histogram(&self) -> Option<Arc<Histogram>> {
        self.staged_histogram.clone().or_else(|| self.histogram.clone())
    }
}

impl Aggregator {
    /// Takes a member in; gives its number.
    pub(super) fn add_member(&mut self, member: Member) -> u32 {
        let (key, group) = (member.key, &mut self.groups[member.group as usize]);
        let member = Member { place: group.members.len() as u32, ..member };
        let at = match self.free.pop() {
            Some(at) => {
                self.members[at as usize] = member;
                at
            }
            None => {
                self.members.push(member);
                (self.members.len() - 1) as u32
            }
        };
        group.members.push(at);
        self.by_key.insert(key, at);
        at
    }

    /// Forgets children that were not seen for long; tells whether there is room now.
    pub(super) fn make_room(&mut self, now_ms: i64) -> bool {
        if self.full_ms.is_some_and(|at_ms| now_ms.abs_diff(at_ms) < ROOM_EVERY_MS.unsigned_abs()) {
            return false;
        }
        let old = self.resting(|m| now_ms.saturating_sub(m.last_ms.max(m.usage.at_ms)) > FORGET_AFTER_MS);
        for at in &old {
            self.forget(*at);
        }
        self.full_ms = old.is_empty().then_some(now_ms);
        !old.is_empty()
    }

    /// Finds children that are not in the collection under way.
    pub(super) fn resting(&self, is_old: impl Fn(&Member) -> bool) -> Vec<u32> {
        let is_old = |m: &Member| !m.forgotten && !m.is_staged && is_old(m);
        (0u32..).zip(&self.members).filter(|(_, m)| is_old(m)).map(|(at, _)| at).collect()
    }

    /// Forgets a child; what it gave stays.
    pub(super) fn forget(&mut self, at: u32) {
        let member = &mut self.members[at as usize];
        member.forgotten = true;
        let (key, group, place, histogram) = (member.key, member.group, member.place, member.histogram.take());
        self.by_key.remove(&key);
        self.free.push(at);
        let group = &mut self.groups[group as usize];
        group.members.swap_remove(place as usize);
        if let Some(moved) = group.members.get(place as usize) {
            self.members[*moved as usize].place = place;
        }
        if let (How::Histogram, Some(histogram)) = (group.how, histogram) {
            group.base = Some(joined(group.base.take(), histogram));
        }
        self.epoch += 1;
    }
}
