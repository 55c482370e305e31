//! What a query may use, and how it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::budget::QueryMemory;
use super::error::EvalError;

/// The limits and settings of one query.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// How far back an instant selector looks for a sample.
    pub lookback_ms: i64,
    /// How many samples may be held in memory at once.
    pub samples_max: u64,
    /// Memory that this query shares with others; `None` counts samples only.
    pub memory: Option<Arc<QueryMemory>>,
    /// How many steps a range query may have; the caller checks it too, with better words.
    pub points_max: u64,
    /// The step of subqueries that name none.
    pub default_step_ms: i64,
    /// Whether experimental functions are evaluated.
    pub experimental: bool,
    /// When the query must be done.
    pub deadline: Option<Instant>,
    /// Set by whoever lost interest in the answer.
    pub cancel: Arc<AtomicBool>,
}

impl Default for QueryOptions {
    /// Prometheus' defaults; no deadline, nothing experimental.
    fn default() -> Self {
        QueryOptions {
            lookback_ms: 300_000,
            samples_max: 50_000_000,
            memory: None,
            points_max: 11_000,
            default_step_ms: 60_000,
            experimental: false,
            deadline: None,
            cancel: Arc::new(AtomicBool::new(false)),
        }
    }
}

impl QueryOptions {
    /// Tells whether the query may go on.
    pub(crate) fn check(&self) -> Result<(), EvalError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(EvalError::Canceled);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(EvalError::Timeout),
            _ => Ok(()),
        }
    }
}
