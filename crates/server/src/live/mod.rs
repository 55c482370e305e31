//! Live queries: a PromQL expression kept up to date, step by step.
//!
//! A query's way: `http.rs` reads what is asked → `session.rs` evaluates the steps that are due, those of the past first, and looks
//! whether steps that were sent are still what they were → `steps.rs` writes each → SSE, or a WebSocket of the `stream` room.
//! `kept.rs` knows what was sent and makes the token with which somebody comes back.
//!
//! Invariants: 1. steps are sent in order of their times, each once, whether they are of the past or of the present: both come
//! out of one loop; 2. when nothing is on its way any more, what was sent last of each step is what a range query over the same
//! times gives; 3. a slow reader gets its steps later and none but he waits; one that takes nothing is told and left.
//! Limits: [`LiveLimits`].

mod http;
mod kept;
mod session;
mod stats;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use model::Select;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::http::{__path_live, live, router};
use self::stats::LiveStats;
use crate::prom::QueryService;
use crate::telemetry::Exposition;

/// Steps that are kept up to date, or caught up with: as many as a range query has.
pub const STEPS_MAX: i64 = 11_000;

/// How much live queries may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveLimits {
    /// At a time.
    pub all: usize,
    /// At a time for one that shows who it is.
    pub of_one: usize,
    /// Bytes of one step's answer.
    pub step_bytes: usize,
    /// A reader that takes nothing for so long is left.
    pub reader: Duration,
    /// How often it is looked whether steps that were sent have changed.
    pub look: Duration,
    /// Longest silence.
    pub heartbeat: Duration,
}

impl Default for LiveLimits {
    fn default() -> LiveLimits {
        LiveLimits {
            all: 100,
            of_one: 25,
            step_bytes: 1 << 20,
            reader: Duration::from_secs(25),
            look: Duration::from_secs(5),
            heartbeat: Duration::from_secs(10),
        }
    }
}

/// What live queries work with.
pub struct LiveParts {
    /// Evaluates.
    pub queries: QueryService,
    /// Tells what changed.
    pub select: Arc<dyn Select>,
    /// Gives the time, in milliseconds since 1970.
    pub now: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// True when the server stops.
    pub stop: watch::Receiver<bool>,
    /// How much they may use.
    pub limits: LiveLimits,
}

/// The live queries of a server. Cheap to clone.
#[derive(Clone)]
pub struct Live(Arc<Inner>);

struct Inner {
    parts: LiveParts,
    stats: LiveStats,
    /// How many each has.
    readers: Mutex<HashMap<String, usize>>,
}

impl Live {
    /// Puts the parts together.
    pub fn new(parts: LiveParts) -> Live {
        Live(Arc::new(Inner { parts, stats: LiveStats::default(), readers: Mutex::default() }))
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        self.0.stats.render(page, self.0.readers.lock().values().sum());
    }

    /// Takes a place.
    ///
    /// **Takes** the name of who asks, if he has one.
    fn seat(&self, name: Option<&str>) -> Option<Seat> {
        let mut readers = self.0.readers.lock();
        let taken: usize = readers.values().sum();
        let own = readers.get(name.unwrap_or_default()).copied().unwrap_or(0);
        if taken >= self.0.parts.limits.all || (name.is_some() && own >= self.0.parts.limits.of_one) {
            return None;
        }
        let name = name.unwrap_or_default().to_owned();
        *readers.entry(name.clone()).or_insert(0) += 1;
        Some(Seat { live: self.clone(), name })
    }
}

/// A place among the live queries; given back on drop.
struct Seat {
    live: Live,
    name: String,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut readers = self.live.0.readers.lock();
        if let Some(own) = readers.get_mut(&self.name) {
            *own -= 1;
            if *own == 0 {
                readers.remove(&self.name);
            }
        }
    }
}
