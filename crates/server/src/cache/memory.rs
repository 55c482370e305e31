//! The cache in this process.
//!
//! Limits: [`BYTES_MAX`]; the values that were put first go first.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::CacheStats;

/// Bytes of keys and values.
pub const BYTES_MAX: usize = 32 << 20;

/// The cache in this process.
pub struct MemoryCache {
    held: Mutex<Held>,
    bytes_max: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Default)]
struct Held {
    values: HashMap<String, Value>,
    /// Keys in the order in which they were put; older mentions of a key are skipped.
    order: VecDeque<(String, u64)>,
    bytes: usize,
    puts: u64,
    dropped: u64,
}

struct Value {
    text: String,
    until: Instant,
    number: u64,
}

impl Default for MemoryCache {
    fn default() -> MemoryCache {
        MemoryCache::with_room(BYTES_MAX)
    }
}

impl MemoryCache {
    /// Starts empty, with a limit of one's own.
    pub fn with_room(bytes_max: usize) -> MemoryCache {
        MemoryCache { held: Mutex::default(), bytes_max, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// Puts a value for a time.
    pub fn put(&self, key: String, ttl_ms: u64, value: String) {
        let now = Instant::now();
        let mut held = self.held.lock();
        held.take(&key);
        held.puts += 1;
        let number = held.puts;
        held.bytes += key.len() + value.len();
        held.order.push_back((key.clone(), number));
        held.values.insert(key, Value { text: value, until: now + Duration::from_millis(ttl_ms), number });
        held.make_room(self.bytes_max, now);
    }

    /// Takes a value out.
    pub fn remove(&self, key: &str) {
        self.held.lock().take(key);
    }

    /// Gives a value whose time is not over.
    pub fn get(&self, key: &str) -> Option<String> {
        let held = self.held.lock();
        let found = held.values.get(key).filter(|v| v.until > Instant::now()).map(|v| v.text.clone());
        drop(held);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Gives the figures.
    pub fn stats(&self) -> CacheStats {
        let held = self.held.lock();
        CacheStats {
            up: true,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            written: held.puts,
            dropped: held.dropped,
            bytes: held.bytes as u64,
            ..CacheStats::default()
        }
    }
}

impl Held {
    fn take(&mut self, key: &str) -> Option<Value> {
        let value = self.values.remove(key)?;
        self.bytes -= key.len() + value.text.len();
        Some(value)
    }

    /// Lets go of what is over or superseded at the front, and of what there is no room for.
    fn make_room(&mut self, bytes_max: usize, now: Instant) {
        if self.order.len() > 2 * self.values.len() + 64 {
            let values = &self.values;
            self.order.retain(|(key, number)| values.get(key).is_some_and(|v| v.number == *number));
        }
        while let Some((key, number)) = self.order.front() {
            let current = self.values.get(key).filter(|v| v.number == *number);
            let alive = current.is_some_and(|v| v.until > now);
            if alive && self.bytes <= bytes_max {
                return;
            }
            let superseded = current.is_none();
            let Some((key, _)) = self.order.pop_front() else { return };
            // The value of a superseded mention was put again, further back in the order, or taken out.
            if !superseded && self.take(&key).is_some() && alive {
                self.dropped += 1;
            }
        }
    }
}
