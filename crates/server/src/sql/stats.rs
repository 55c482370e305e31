//! What SQL did and cost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::telemetry::{Exposition, Histogram};

/// How queries end; the last is for all other codes.
const OUTCOMES: [&str; 8] =
    ["success", "sql_syntax", "sql_refused", "sql_failed", "sql_memory", "sql_timeout", "sql_limit", "other"];

/// Counts.
#[derive(Default, Debug)]
pub struct SqlStats {
    /// Processes started.
    pub started: AtomicU64,
    /// Processes that ended without an answer.
    pub died: AtomicU64,
    active: AtomicU64,
    outcomes: [AtomicU64; OUTCOMES.len()],
    seconds: Histogram,
}

/// A query that runs.
pub struct Active<'a>(&'a AtomicU64);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SqlStats {
    /// Counts a query until what it gives is dropped.
    pub fn begin(&self) -> Active<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(&self.active)
    }

    /// Counts a query that is over.
    ///
    /// **Takes** the code of its error.
    pub fn count(&self, took: Duration, failed: Option<&str>) {
        let word = failed.unwrap_or("success");
        let place = OUTCOMES.iter().position(|o| *o == word).unwrap_or(OUTCOMES.len() - 1);
        if let Some(outcome) = self.outcomes.get(place) {
            outcome.fetch_add(1, Ordering::Relaxed);
        }
        self.seconds.observe(took.as_secs_f64());
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        page.gauge("quiver_sql_active", "SQL queries that are running.", load(&self.active) as f64);
        page.family("quiver_sql_queries_total", "counter", "SQL queries, by how they ended.");
        for (word, n) in OUTCOMES.iter().zip(&self.outcomes) {
            page.sample(&[("outcome", word)], load(n) as f64);
        }
        page.counter("quiver_analytics_starts_total", "Analytics processes started.", load(&self.started));
        let died = load(&self.died);
        page.counter("quiver_analytics_deaths_total", "Analytics processes that ended without an answer.", died);
        page.family("quiver_sql_duration_seconds", "histogram", "Time to answer SQL.");
        page.histogram(&[], &self.seconds);
    }
}
