//! Fills a cache that others read: health and schedule when they change, statistics each ten seconds, latest metrics as
//! fast as a quarter of a core gets through.
//!
//! Invariants: 1. nothing here is on the way of a sample; 2. a key is put again before half of its time is over; 3. the
//! keys of a target that is gone go with it.
//! Limits: one entry per target; a target waits once for its latest metrics to be read.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use collect::TargetStatus;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, watch};

use super::{
    Cache, HEALTH_TTL_MS, Latest, SCHEDULE_TTL_MS, STATS_KEY, STATS_TTL_MS, health_key, lasting, schedule_key,
};
use crate::rest::time;

/// How often targets are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a cache that nobody else reads is tidied up.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often statistics are put.
const STATS_EVERY: Duration = Duration::from_secs(10);
/// Reading latest metrics rests this many times as long as it worked.
const REST_SHARE: u32 = 3;

/// Fills a cache.
pub struct Feeder {
    latest: Latest,
    queue: Mutex<Queue>,
    wake: Notify,
}

/// Targets whose latest metrics are to be read, each once.
#[derive(Default)]
struct Queue {
    order: VecDeque<String>,
    statuses: HashMap<String, TargetStatus>,
}

/// What was put for a target, and when.
struct Seen {
    health: String,
    next_scrape_ms: Option<i64>,
    last_scrape_ms: Option<i64>,
    at: Instant,
}

impl Feeder {
    /// Takes the parts.
    pub fn new(latest: Latest) -> Feeder {
        Feeder { latest, queue: Mutex::default(), wake: Notify::new() }
    }

    /// Fills the cache until the server stops; one that nobody else reads is left to those who ask.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let cache = self.latest.cache().clone();
        let stopped = async {
            let mut stop = stop.clone();
            let _ = stop.wait_for(|stopped| *stopped).await;
        };
        if !cache.is_shared() {
            return tokio::select! {
                () = self.tidy() => {}
                () = stopped => {}
            };
        }
        tokio::select! {
            () = self.look(&cache) => {}
            () = self.read_latest() => {}
            () = cache.run(stop.clone()) => {}
            () = stopped => {}
        }
    }

    /// Lets go of targets that are gone.
    async fn tidy(&self) {
        let mut tick = tokio::time::interval(TIDY_EVERY);
        loop {
            tick.tick().await;
            let statuses = self.latest.rest().statuses();
            self.latest.forget_others(&statuses.iter().map(|s| s.target_id.as_str()).collect());
        }
    }

    async fn look(&self, cache: &Arc<Cache>) {
        let mut seen: HashMap<String, Seen> = HashMap::new();
        let mut stats_at: Option<Instant> = None;
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            let statuses = self.latest.rest().statuses();
            let known: HashSet<&str> = statuses.iter().map(|s| s.target_id.as_str()).collect();
            seen.retain(|target_id, _| {
                let stays = known.contains(target_id.as_str());
                if !stays {
                    cache.remove(health_key(target_id));
                    cache.remove(schedule_key(target_id));
                }
                stays
            });
            self.latest.forget_others(&known);
            for status in &statuses {
                self.feed(cache, &mut seen, status);
            }
            if stats_at.is_none_or(|at| at.elapsed() >= STATS_EVERY) {
                stats_at = Some(Instant::now());
                let stats = self.latest.rest().collection_stats();
                cache.put(STATS_KEY.to_owned(), STATS_TTL_MS, serde_json::to_string(&stats).unwrap_or_default());
            }
        }
    }

    /// Puts what has changed of one target.
    fn feed(&self, cache: &Cache, seen: &mut HashMap<String, Seen>, status: &TargetStatus) {
        let target_id = &status.target_id;
        let interval_ms = self.latest.rest().collector.spec(target_id).map_or(0, |spec| spec.interval_ms);
        let health = health_json(status);
        let before = seen.get(target_id);
        // The shortest of the lifetimes rules.
        let old = before.is_none_or(|s| s.at.elapsed().as_millis() as u64 >= lasting(HEALTH_TTL_MS, interval_ms) / 2);
        if old || before.is_none_or(|s| s.health != health) {
            cache.put(health_key(target_id), lasting(HEALTH_TTL_MS, interval_ms), health.clone());
        }
        if let Some(next_ms) = status.next_scrape_ms
            && (old || before.is_none_or(|s| s.next_scrape_ms != status.next_scrape_ms))
        {
            let text = json!(time::to_text(next_ms)).to_string();
            cache.put(schedule_key(target_id), lasting(SCHEDULE_TTL_MS, interval_ms), text);
        }
        if status.last_scrape_ms.is_some() && before.is_none_or(|s| s.last_scrape_ms != status.last_scrape_ms) {
            self.ask_for_latest(status);
        }
        let at = before.filter(|_| !old).map_or_else(Instant::now, |s| s.at);
        let (next_scrape_ms, last_scrape_ms) = (status.next_scrape_ms, status.last_scrape_ms);
        seen.insert(target_id.clone(), Seen { health, next_scrape_ms, last_scrape_ms, at });
    }

    fn ask_for_latest(&self, status: &TargetStatus) {
        let mut queue = self.queue.lock();
        if queue.statuses.insert(status.target_id.clone(), status.clone()).is_none() {
            queue.order.push_back(status.target_id.clone());
        }
        drop(queue);
        self.wake.notify_one();
    }

    async fn read_latest(&self) {
        loop {
            let next = {
                let mut queue = self.queue.lock();
                let target_id = queue.order.pop_front();
                target_id.and_then(|target_id| queue.statuses.remove(&target_id))
            };
            let Some(status) = next else {
                self.wake.notified().await;
                continue;
            };
            let begin = Instant::now();
            if let Err(reason) = self.latest.refresh(&status).await {
                tracing::warn!(target_id = status.target_id, "latest metrics are not cached: {reason}");
            }
            tokio::time::sleep(begin.elapsed() * REST_SHARE).await;
        }
    }
}

/// The HealthStatus of the contract.
fn health_json(status: &TargetStatus) -> String {
    json!({
        "status": status.health.as_str(),
        "since": time::to_text(status.since_ms),
        "last_error": status.last_error.as_ref().map(|e| e.to_string()),
        "consecutive_failures": status.consecutive_failures,
        "last_scrape": status.last_scrape_ms.map(time::to_text),
    })
    .to_string()
}
