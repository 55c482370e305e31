//! The cache of the specification: target health, latest metrics, statistics and schedule, as JSON under its four keys.
//!
//! Owns: what is in this process, or the way to a Redis that others read. It is a cache and never the truth.
//! Invariants: 1. whoever puts never waits; 2. whoever gets waits [`GET_TIMEOUT`] at most, and an answer that does not come
//! is a miss; 3. a value lives as long as its time says, in either place; 4. what was dropped is counted.
//! Limits: see [`memory`] and [`redis`].

mod api;
mod feeder;
mod latest;
mod memory;
mod redis;

use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::get;
use tokio::sync::watch;

use crate::telemetry::Exposition;

pub use api::latest_metrics;
pub(crate) use api::{__path_latest_metrics, LatestMetric};
pub use feeder::Feeder;
pub use latest::Latest;
pub use memory::MemoryCache;
pub use redis::RedisCache;

/// How long a look into the cache may take.
pub const GET_TIMEOUT: Duration = Duration::from_millis(250);

/// The specification's lifetimes.
const HEALTH_TTL_MS: u64 = 5 * 60_000;
const LATEST_TTL_MS: u64 = 2 * 60_000;
const STATS_TTL_MS: u64 = 60_000;
const SCHEDULE_TTL_MS: u64 = 10 * 60_000;
/// The key of the statistics.
pub const STATS_KEY: &str = "collection_stats";

/// Names the health of a target.
pub fn health_key(target_id: &str) -> String {
    format!("target_health:{target_id}")
}

/// Names the latest metrics of a target.
pub fn latest_key(target_id: &str) -> String {
    format!("latest_metrics:{target_id}")
}

/// Names the next scrape of a target.
pub fn schedule_key(target_id: &str) -> String {
    format!("scrape_schedule:{target_id}")
}

/// A lifetime that outlasts two intervals: a key must not end before its next value can come.
fn lasting(specified_ms: u64, interval_ms: u64) -> u64 {
    specified_ms.max(interval_ms.saturating_mul(2))
}

/// Makes the routes; the state must give a [`Latest`].
pub fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Latest: FromRef<S>,
{
    Router::new().route("/api/v1/metrics/targets/{target_id}/latest", get(latest_metrics))
}

/// What can be said about a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Whether it answered last time.
    pub up: bool,
    /// Found.
    pub hits: u64,
    /// Not found.
    pub misses: u64,
    /// Written.
    pub written: u64,
    /// Values that were never written, because newer ones found no room otherwise.
    pub dropped: u64,
    /// Values that the cache refused, for want of memory as a rule.
    pub refused: u64,
    /// Calls that it did not answer in time or in order.
    pub failed: u64,
    /// Values that wait to be written.
    pub waiting: u64,
    /// Bytes held in this process.
    pub bytes: u64,
}

/// The cache.
pub enum Cache {
    /// In this process.
    Memory(MemoryCache),
    /// In a Redis.
    Redis(Box<RedisCache>),
}

impl Cache {
    /// Puts a value for a time, in place of the one before; never waits.
    pub fn put(&self, key: String, ttl_ms: u64, value: String) {
        match self {
            Cache::Memory(memory) => memory.put(key, ttl_ms, value),
            Cache::Redis(redis) => redis.put(key, ttl_ms, value),
        }
    }

    /// Takes a value out; never waits.
    pub fn remove(&self, key: String) {
        match self {
            Cache::Memory(memory) => memory.remove(&key),
            Cache::Redis(redis) => redis.remove(key),
        }
    }

    /// Gives a value that is there and whose time is not over.
    pub async fn get(&self, key: &str) -> Option<String> {
        match self {
            Cache::Memory(memory) => memory.get(key),
            Cache::Redis(redis) => redis.get(key).await,
        }
    }

    /// Tells whether others can read it, so that it is worth to be filled before anybody asks.
    pub fn is_shared(&self) -> bool {
        matches!(self, Cache::Redis(_))
    }

    /// Writes what was put, until the server stops.
    pub async fn run(&self, stop: watch::Receiver<bool>) {
        if let Cache::Redis(redis) = self {
            redis.run(stop).await;
        }
    }

    /// Gives the figures.
    pub fn stats(&self) -> CacheStats {
        match self {
            Cache::Memory(memory) => memory.stats(),
            Cache::Redis(redis) => redis.stats(),
        }
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let stats = self.stats();
        let kind = if self.is_shared() { "redis" } else { "memory" };
        page.family("quiver_cache_up", "gauge", "Whether the cache answered last time.");
        page.sample(&[("kind", kind)], f64::from(u8::from(stats.up)));
        page.family("quiver_cache_gets_total", "counter", "Looks into the cache, by what came of them.");
        page.sample(&[("outcome", "hit")], stats.hits as f64);
        page.sample(&[("outcome", "miss")], stats.misses as f64);
        page.family("quiver_cache_values_total", "counter", "Values for the cache, by what became of them.");
        page.sample(&[("outcome", "written")], stats.written as f64);
        page.sample(&[("outcome", "dropped")], stats.dropped as f64);
        page.sample(&[("outcome", "refused")], stats.refused as f64);
        page.counter(
            "quiver_cache_failures_total",
            "Calls that the cache did not answer in time or in order.",
            stats.failed,
        );
        page.gauge("quiver_cache_waiting", "Values that wait to be written.", stats.waiting as f64);
        page.gauge("quiver_cache_bytes", "Bytes of values held in this process.", stats.bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_outlast_two_intervals_and_keys_are_those_of_the_specification() {
        assert_eq!((lasting(LATEST_TTL_MS, 15_000), lasting(LATEST_TTL_MS, 600_000)), (120_000, 1_200_000));
        assert_eq!(
            [health_key("t"), latest_key("t"), schedule_key("t")],
            ["target_health:t", "latest_metrics:t", "scrape_schedule:t"]
        );
    }
}
