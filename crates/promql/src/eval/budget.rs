//! How many samples a query holds in memory.

use std::cell::Cell;

use super::error::EvalError;

/// The account of one query.
#[derive(Debug)]
pub(super) struct Budget {
    current: Cell<u64>,
    peak: Cell<u64>,
    limit: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget { current: Cell::new(0), peak: Cell::new(0), limit }
    }

    /// Gives the limit.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Gives the most that was held at once.
    pub(super) fn peak(&self) -> u64 {
        self.peak.get()
    }

    /// Takes `samples` until the hold is dropped.
    pub(super) fn hold(&self, samples: usize) -> Result<Hold<'_>, EvalError> {
        let mut hold = Hold { budget: self, samples: 0 };
        hold.grow(samples as u64)?;
        Ok(hold)
    }
}

/// A part of the budget; dropping it gives the part back.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    budget: &'a Budget,
    samples: u64,
}

impl Hold<'_> {
    /// Takes more.
    pub(super) fn grow(&mut self, samples: u64) -> Result<(), EvalError> {
        let budget = self.budget;
        let current = budget.current.get().saturating_add(samples);
        if current > budget.limit {
            return Err(EvalError::TooManySamples(budget.limit));
        }
        self.samples += samples;
        budget.current.set(current);
        budget.peak.set(budget.peak.get().max(current));
        Ok(())
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.budget.current.set(self.budget.current.get().saturating_sub(self.samples));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_gives_back_what_it_took() {
        let budget = Budget::new(10);
        let mut first = budget.hold(6).unwrap();
        assert_eq!(budget.hold(5).map(|_| ()), Err(EvalError::TooManySamples(10)));
        first.grow(4).unwrap();
        assert_eq!(first.grow(1), Err(EvalError::TooManySamples(10)));
        drop(first);
        assert!(budget.hold(10).is_ok());
        assert_eq!(budget.peak(), 10);
    }
}
