//! A book of what was sent and what was answered, to hold against what a store gives.

use std::collections::{BTreeMap, BTreeSet};

use model::{Labels, Verdict};
use store::Store;
use sys::Random;

use super::{Contents, HISTOGRAMS, WINDOW_MS, append, labels, stand_in, verdicts};

type Key = (Labels, i64);

/// What was acknowledged; what may be there besides; all else must not be.
#[derive(Default)]
pub struct Book {
    pub acknowledged: BTreeMap<Key, u64>,
    /// Sent in an earlier life without an answer of success: a start may bring it back.
    doubtful: BTreeMap<Key, BTreeSet<u64>>,
    /// The same of this life: it comes back after a start, or never.
    unanswered: Vec<(Key, u64)>,
    /// Samples that were answered as refused.
    pub refused: u64,
}

impl Book {
    /// Sends rows and notes the answer; `true` when it was one of success.
    pub fn append(&mut self, store: &Store, rows: &[(u64, i64, f64)]) -> bool {
        let (batch, result) = append(store, rows);
        let keys = rows.iter().map(|(series, ts, value)| ((labels(*series), *ts), value.to_bits()));
        let Ok(appended) = result else {
            self.unanswered.extend(keys);
            return false;
        };
        assert!(appended.counts.balances());
        assert_eq!(appended.counts.received, rows.len() as u64);
        for ((key, bits), verdict) in keys.zip(verdicts(&batch, rows)) {
            match verdict {
                Verdict::Stored => drop(self.acknowledged.entry(key).or_insert(bits)),
                Verdict::Refused(_) => self.refused += 1,
                _ => {}
            }
        }
        true
    }

    /// Notes what was sent past this book, without an answer of success.
    pub fn doubt(&mut self, rows: &[(u64, i64, f64)]) {
        for (series, ts, value) in rows {
            self.doubtful.entry((labels(*series), *ts)).or_default().insert(value.to_bits());
        }
    }

    /// Checks what a start found, and takes on what was never answered but is there: from now on it has to stay.
    pub fn start_again(&mut self, contents: &Contents, what: &str) {
        for (key, bits) in std::mem::take(&mut self.unanswered) {
            self.doubtful.entry(key).or_default().insert(bits);
        }
        self.check(contents, what);
        for (labels, rows) in contents {
            for (ts, bits) in rows {
                self.acknowledged.entry((labels.clone(), *ts)).or_insert(*bits);
            }
        }
        self.doubtful.clear();
    }

    /// Every acknowledged sample is there with its bits, and nothing that was refused or never sent.
    pub fn check(&self, contents: &Contents, what: &str) {
        for ((labels, ts), bits) in &self.acknowledged {
            let found = contents.get(labels).and_then(|rows| rows.get(ts));
            assert_eq!(found, Some(bits), "{what}: {labels} at {ts}");
        }
        self.check_no_other(contents, what);
    }

    /// Nothing is there that was refused or never sent; gives how much is missing.
    pub fn check_no_other(&self, contents: &Contents, what: &str) -> usize {
        let mut found = 0;
        for (labels, rows) in contents {
            for (ts, bits) in rows {
                let key = (labels.clone(), *ts);
                let known = self.acknowledged.get(&key) == Some(bits);
                let possible = known || self.doubtful.get(&key).is_some_and(|all| all.contains(bits));
                assert!(possible, "{what}: {labels} at {ts} was made up");
                found += usize::from(known);
            }
        }
        self.acknowledged.len() - found
    }
}

/// Rows with new and old series, in and out of order, repeated and conflicting, over several windows.
pub fn rows(random: &mut Random, now_ms: i64) -> Vec<(u64, i64, f64)> {
    let count = 1 + random.below(6);
    (0..count)
        .map(|_| {
            let back =
                if random.below(4) == 0 { random.below(3 * WINDOW_MS as u64) as i64 } else { random.below(30) as i64 };
            let value = match random.below(6) {
                0 => stand_in(random.below(HISTOGRAMS as u64) as usize),
                n => [1.0, -0.0, f64::from_bits(0x7ff8_0000_0000_0042), 0.1][n as usize % 4],
            };
            (random.below(9), now_ms - back / 20_000 * 20_000 - back % 3, value)
        })
        .collect()
}

/// How many seeds: `QUIVER_SEEDS`, or few.
pub fn seeds(few: u64) -> std::ops::Range<u64> {
    0..std::env::var("QUIVER_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}
