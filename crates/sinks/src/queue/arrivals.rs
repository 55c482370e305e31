//! When records came in, about: how long a sink has been behind.
//!
//! Limits: [`MARKS_MAX`] marks, whatever the time they span: when there are more, every second one goes.

use std::collections::VecDeque;

const MARKS_MAX: usize = 4_096;
/// Marks are at least so far apart, at first.
const STEP_MS: i64 = 1_000;

/// Some records with the times at which they came in; both rise.
#[derive(Debug)]
pub struct Arrivals {
    marks: VecDeque<(u64, i64)>,
    step_ms: i64,
}

impl Default for Arrivals {
    fn default() -> Arrivals {
        Arrivals { marks: VecDeque::new(), step_ms: STEP_MS }
    }
}

impl Arrivals {
    /// Notes that a record came in.
    pub fn note(&mut self, seq: u64, at_ms: i64) {
        let last = self.marks.back().copied();
        if last.is_some_and(|(last_seq, last_ms)| seq <= last_seq || at_ms < last_ms.saturating_add(self.step_ms)) {
            return;
        }
        self.marks.push_back((seq, at_ms));
        if self.marks.len() > MARKS_MAX {
            let mut even = false;
            self.marks.retain(|_| {
                even = !even;
                even
            });
            self.step_ms = self.step_ms.saturating_mul(2);
        }
    }

    /// Forgets what every sink has passed.
    pub fn forget(&mut self, passed: u64) {
        while self.marks.get(1).is_some_and(|(seq, _)| *seq <= passed) {
            self.marks.pop_front();
        }
        if self.marks.len() < MARKS_MAX / 4 {
            self.step_ms = (self.step_ms / 2).max(STEP_MS);
        }
    }

    /// Gives when the first record behind a place came in, to within the distance of two marks.
    pub fn behind(&self, seq: u64) -> Option<i64> {
        let at = self.marks.partition_point(|(mark, _)| *mark <= seq);
        let mark = self.marks.get(at).or(self.marks.back())?;
        Some(mark.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_what_waits_is_known_about_however_long_it_waits() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.behind(0), None);
        // A record each second, for a day and more.
        for seq in 1..=100_000u64 {
            arrivals.note(seq, seq as i64 * 1_000);
        }
        assert!(arrivals.marks.len() <= MARKS_MAX);
        for seq in [0, 1, 50_000, 99_000] {
            let found = arrivals.behind(seq).unwrap();
            let wanted = (seq as i64 + 1) * 1_000;
            assert!((found - wanted).abs() <= 64_000, "{seq}: {found} for {wanted}");
        }
        arrivals.forget(99_990);
        assert!(arrivals.marks.len() < 10 && arrivals.behind(99_995).is_some());
    }

    #[test]
    fn a_clock_that_goes_back_makes_no_mark() {
        let mut arrivals = Arrivals::default();
        arrivals.note(5, 10_000);
        arrivals.note(6, 2_000);
        arrivals.note(6, 20_000);
        arrivals.note(6, 90_000);
        assert_eq!((arrivals.behind(4), arrivals.behind(5)), (Some(10_000), Some(20_000)));
    }
}
