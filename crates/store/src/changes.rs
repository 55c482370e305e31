//! Which times of the data changed since when, for those who keep answers.
//!
//! Invariants: 1. a change is noted before the first of its samples can be read, and is under way until all of them can;
//! 2. the moment given to a reader is one before every change that is under way, so that what he reads of half a batch
//! counts as changed later.
//! Limits: [`MINUTES_MAX`] minutes are told apart; when there are more, everything counts as changed.

use std::collections::BTreeMap;

use parking_lot::Mutex;

const MINUTE_MS: i64 = 60_000;
const MINUTES_MAX: usize = 8_192;

/// The last change of each minute of data.
#[derive(Default)]
pub struct Changes(Mutex<State>);

#[derive(Default)]
struct State {
    /// Number of the last change.
    last: u64,
    under_way: Vec<u64>,
    /// Number of the last change that concerned all times.
    all: u64,
    minutes: BTreeMap<i64, u64>,
}

/// A change under way; over when dropped.
pub struct UnderWay<'a>(&'a Changes, u64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.0.lock().under_way.retain(|number| *number != self.1);
    }
}

impl Changes {
    /// Notes that samples of these times are about to come.
    ///
    /// **Cost** two comparisons for a time of the same minute as the one before.
    pub fn begin(&self, times_ms: impl Iterator<Item = i64>) -> UnderWay<'_> {
        let mut state = self.0.lock();
        state.last += 1;
        let number = state.last;
        state.under_way.push(number);
        let (mut from_ms, mut to_ms) = (i64::MAX, i64::MIN);
        for ts_ms in times_ms {
            if ts_ms < from_ms || to_ms < ts_ms {
                let minute = ts_ms.div_euclid(MINUTE_MS);
                state.minutes.insert(minute, number);
                from_ms = minute.saturating_mul(MINUTE_MS);
                to_ms = from_ms.saturating_add(MINUTE_MS - 1);
            }
        }
        if state.minutes.len() > MINUTES_MAX {
            state.minutes.clear();
            state.all = number;
        }
        drop(state);
        UnderWay(self, number)
    }

    /// Notes that samples of any time are gone or changed. Comes after that is so, and before anybody is told.
    pub fn note_all(&self) {
        let mut state = self.0.lock();
        state.last += 1;
        state.all = state.last;
        state.minutes.clear();
    }

    /// Gives the moment now, and the first time of data that may have changed since an earlier moment; `i64::MAX` when none has.
    pub fn since(&self, moment: u64) -> (u64, i64) {
        let state = self.0.lock();
        let now = state.under_way.iter().min().map_or(state.last, |first| first - 1);
        if state.all > moment {
            return (now, i64::MIN);
        }
        let first = state.minutes.iter().find(|(_, number)| **number > moment).map(|(minute, _)| *minute);
        (now, first.map_or(i64::MAX, |minute| minute.saturating_mul(MINUTE_MS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_the_minute_and_those_under_way_come_later() {
        let changes = Changes::default();
        let (start, none) = changes.since(0);
        assert_eq!(none, i64::MAX);
        drop(changes.begin([60_000, 61_000, 200_000].into_iter()));
        let (after, first) = changes.since(start);
        assert_eq!(first, 60_000);
        assert_eq!(changes.since(after).1, i64::MAX);
        let under_way = changes.begin([120_001].into_iter());
        let (meanwhile, first) = changes.since(after);
        assert_eq!((meanwhile, first), (after, 120_000));
        drop(under_way);
        // Whoever read while it was under way has to look again.
        assert_eq!(changes.since(meanwhile).1, 120_000);
        let (now, _) = changes.since(meanwhile);
        assert_eq!(changes.since(now), (now, i64::MAX));
        changes.note_all();
        assert_eq!(changes.since(now).1, i64::MIN);
        assert_eq!(changes.since(changes.since(0).0).1, i64::MAX);
    }

    #[test]
    fn too_many_minutes_count_as_everything() {
        let changes = Changes::default();
        let (start, _) = changes.since(0);
        drop(changes.begin((0..=MINUTES_MAX as i64).map(|minute| minute * MINUTE_MS)));
        let (now, first) = changes.since(start);
        assert_eq!((first, changes.since(now).1), (i64::MIN, i64::MAX));
        drop(changes.begin([i64::MIN, i64::MAX].into_iter()));
        assert!(changes.since(now).1 <= i64::MIN + MINUTE_MS);
    }
}
