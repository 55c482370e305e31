//! How many samples a query holds in memory, and how many bytes all queries together.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::EvalError;

/// A time and a value.
const SAMPLE_BYTES: u64 = 16;

/// The memory of all queries. Who finds none gets an error, and the others go on.
#[derive(Debug)]
pub struct QueryMemory {
    bytes_max: u64,
    used: AtomicU64,
    refused: AtomicU64,
}

impl QueryMemory {
    /// Starts with everything free.
    pub fn new(bytes_max: u64) -> QueryMemory {
        QueryMemory { bytes_max, used: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }

    /// Gives the bytes that are taken.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts the queries that found no memory.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes bytes; give them back with [`QueryMemory::give`].
    pub fn take(&self, bytes: u64) -> Result<(), EvalError> {
        let more = |used: u64| used.checked_add(bytes).filter(|after| *after <= self.bytes_max);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(EvalError::OutOfMemory(self.bytes_max));
        }
        Ok(())
    }

    /// Gives bytes back that were taken.
    pub fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The account of one query.
#[derive(Debug)]
pub(super) struct Budget {
    current: Cell<u64>,
    peak: Cell<u64>,
    limit: u64,
    memory: Option<Arc<QueryMemory>>,
}

impl Budget {
    pub(super) fn new(limit: u64, memory: Option<Arc<QueryMemory>>) -> Budget {
        Budget { current: Cell::new(0), peak: Cell::new(0), limit, memory }
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
        let mut hold = Hold { budget: self, samples: 0, bytes: 0 };
        hold.grow(samples as u64)?;
        Ok(hold)
    }
}

/// A part of the budget; dropping it gives the part back.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    budget: &'a Budget,
    samples: u64,
    bytes: u64,
}

impl Hold<'_> {
    /// Takes more.
    pub(super) fn grow(&mut self, samples: u64) -> Result<(), EvalError> {
        self.grow_with(samples, 0)
    }

    /// Takes more samples, and bytes that are not samples.
    pub(super) fn grow_with(&mut self, samples: u64, other_bytes: u64) -> Result<(), EvalError> {
        let budget = self.budget;
        let current = budget.current.get().saturating_add(samples);
        if current > budget.limit {
            return Err(EvalError::TooManySamples(budget.limit));
        }
        if let Some(memory) = &budget.memory {
            let bytes = samples.saturating_mul(SAMPLE_BYTES).saturating_add(other_bytes);
            memory.take(bytes)?;
            self.bytes += bytes;
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
        if let Some(memory) = &self.budget.memory {
            memory.give(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_gives_back_what_it_took() {
        let budget = Budget::new(10, None);
        let mut first = budget.hold(6).unwrap();
        assert_eq!(budget.hold(5).map(|_| ()), Err(EvalError::TooManySamples(10)));
        first.grow(4).unwrap();
        assert_eq!(first.grow(1), Err(EvalError::TooManySamples(10)));
        drop(first);
        assert!(budget.hold(10).is_ok());
        assert_eq!(budget.peak(), 10);
    }

    #[test]
    fn all_queries_share_the_memory() {
        let memory = Arc::new(QueryMemory::new(1_000));
        let (one, two) = (Budget::new(1_000, Some(memory.clone())), Budget::new(1_000, Some(memory.clone())));
        let mut first = one.hold(30).unwrap();
        assert_eq!((two.hold(40).err(), memory.refused()), (Some(EvalError::OutOfMemory(1_000)), 1));
        first.grow_with(0, 500).unwrap();
        assert_eq!((memory.used(), first.grow_with(1, 10).is_err()), (980, true));
        drop(first);
        assert!(two.hold(62).is_ok());
        assert_eq!(memory.used(), 0);
    }
}
