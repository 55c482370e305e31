//! What was sent of each step lately, as hashes, and the token that says it to whoever comes back.
//!
//! Invariant: the digest is the XOR of the hashes, so that a token is as short for thousands of steps as for one, and two
//! are equal only if every step is (but for one chance in 2^64).

use std::collections::VecDeque;
use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::STEPS_MAX;

/// Steps without a gap between them.
#[derive(Debug, Clone)]
pub struct Kept {
    step_ms: i64,
    steps_max: usize,
    first_ms: i64,
    hashes: VecDeque<u64>,
    digest: u64,
}

impl Kept {
    /// Keeps nothing yet.
    ///
    /// **Takes** for how long a step is kept, at most [`STEPS_MAX`] of them.
    pub fn new(step_ms: i64, window_ms: i64) -> Kept {
        let steps_max = (window_ms / step_ms).clamp(0, STEPS_MAX) as usize;
        Kept { step_ms, steps_max, first_ms: 0, hashes: VecDeque::new(), digest: 0 }
    }

    /// Gives the first and the last step; `None` when there is none.
    pub fn span(&self) -> Option<(i64, i64)> {
        let more = i64::try_from(self.hashes.len()).ok()?.checked_sub(1).filter(|more| *more >= 0)?;
        Some((self.first_ms, self.first_ms + more * self.step_ms))
    }

    /// Adds the step behind the last one; the first goes when there are too many.
    pub fn add(&mut self, ts_ms: i64, answer: &[u8]) {
        if self.steps_max == 0 {
            return;
        }
        if self.hashes.is_empty() {
            self.first_ms = ts_ms;
        }
        self.put_last(hash(ts_ms, answer));
        if self.hashes.len() > self.steps_max {
            self.digest ^= self.hashes.pop_front().unwrap_or(0);
            self.first_ms += self.step_ms;
        }
    }

    fn put_last(&mut self, hash: u64) {
        self.hashes.push_back(hash);
        self.digest ^= hash;
    }

    /// Notes what a step is by now; tells whether it was something else. Steps that are not kept never are.
    pub fn change(&mut self, ts_ms: i64, answer: &[u8]) -> bool {
        let place = (ts_ms - self.first_ms).checked_div(self.step_ms).and_then(|place| usize::try_from(place).ok());
        let Some(known) = place.and_then(|place| self.hashes.get_mut(place)) else { return false };
        let (old, new) = (*known, hash(ts_ms, answer));
        *known = new;
        self.digest ^= old ^ new;
        old != new
    }

    /// Gives the token of one who has got everything up to a step.
    pub fn token(&self, question: u32, last_ms: i64) -> Token {
        Token { question, last_ms, steps: self.hashes.len() as u32, digest: self.digest }
    }
}

fn hash(ts_ms: i64, answer: &[u8]) -> u64 {
    xxh3_64_with_seed(answer, ts_ms as u64)
}

/// How far somebody has come, and what he has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    /// What was asked, as a hash.
    pub question: u32,
    /// The last step that was sent.
    pub last_ms: i64,
    /// So many steps up to that are kept.
    pub steps: u32,
    /// What they were.
    pub digest: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "l1.{:08x}.{}.{}.{:016x}", self.question, self.last_ms, self.steps, self.digest)
    }
}

impl Token {
    /// Reads one; `None` when it is none of ours.
    pub fn read(text: &str) -> Option<Token> {
        let mut parts = text.strip_prefix("l1.")?.split('.');
        let token = Token {
            question: u32::from_str_radix(parts.next()?, 16).ok()?,
            last_ms: parts.next()?.parse().ok()?,
            steps: parts.next()?.parse().ok().filter(|steps| i64::from(*steps) <= STEPS_MAX)?,
            digest: u64::from_str_radix(parts.next()?, 16).ok()?,
        };
        parts.next().is_none().then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_equal_when_all_steps_are() {
        let all = |from: i64, to: i64| {
            let mut kept = Kept::new(10, 50);
            (from..=to).for_each(|n| kept.add(n * 10, format!("{n}").as_bytes()));
            kept
        };
        let (mut long, short) = (all(1, 20), all(16, 20));
        assert_eq!(long.span(), Some((160, 200)));
        assert_eq!(long.token(7, 200), short.token(7, 200), "however far back they began");
        assert!(!long.change(190, b"19") && !long.change(150, b"x") && !long.change(210, b"x"));
        assert!(long.change(190, b"x") && !long.change(190, b"x"));
        assert_ne!(long.token(7, 200), short.token(7, 200));
        assert!(long.change(190, b"19"));
        assert_eq!(long.token(7, 200), short.token(7, 200), "it is as it was");
        let mut none = Kept::new(10, 9);
        none.add(10, b"x");
        assert_eq!((none.span(), none.change(10, b"y")), (None, false));
    }

    #[test]
    fn tokens_come_back_and_others_are_none() {
        let token = Token { question: 0xab, last_ms: -5, steps: 240, digest: u64::MAX };
        assert_eq!(Token::read(&token.to_string()), Some(token));
        for text in ["", "l1", "l1.1.1.1", "t_5", "l1.1.1.1.1.1", "l1.x.1.1.1", "l1.1.1.11001.1", "l2.1.1.1.1"] {
            assert_eq!(Token::read(text), None, "{text}");
        }
    }
}
