//! The cache in a Redis: values gather here and are written in batches by one task.
//!
//! Invariants: 1. a value waits once per key, the newest counts; 2. after a failure nothing is tried for [`REST`], neither
//! writes nor reads, so that a Redis that is down or slow costs nobody time; 3. no call takes longer than its timeout, and
//! nobody waits for somebody else's; 4. no value holds the others up: a large one goes alone, and is tried once.
//! Limits: [`WAITING_MAX`] values of [`WAITING_BYTES_MAX`] bytes wait; the oldest go first and are counted. A value of more
//! than [`VALUE_BYTES_MAX`] is not put, and the one before it goes.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisResult, TlsCertificates, Value};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::{CacheStats, GET_TIMEOUT};
use crate::config::CacheSettings;

/// Values that wait.
pub const WAITING_MAX: usize = 100_000;
/// Their bytes.
pub const WAITING_BYTES_MAX: usize = 64 << 20;
/// Values in one batch.
const BATCH_MAX: usize = 500;
/// Their bytes.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Bytes of one value.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// For connecting, and for one batch.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// For a batch, on top, for each of its MiB.
const MIB_TIMEOUT: Duration = Duration::from_secs(1);
/// After a failure.
const REST: Duration = Duration::from_secs(1);
/// What waits is gathered for so long.
const GATHER: Duration = Duration::from_millis(50);
/// How often a refusal is told.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The cache in a Redis.
pub struct RedisCache {
    settings: CacheSettings,
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// Never held over a wait.
    connection: Mutex<Option<MultiplexedConnection>>,
    /// Held by the one who connects.
    connecting: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    counts: Counts,
}

#[derive(Default)]
struct Waiting {
    order: VecDeque<String>,
    /// The value and its time, or that it goes.
    updates: HashMap<String, Option<(u64, String)>>,
    bytes: usize,
    /// What is being written now.
    in_flight: Arc<Vec<Update>>,
}

#[derive(Default)]
struct State {
    down_since: Option<Instant>,
    tried_at: Option<Instant>,
    told_refusal_at: Option<Instant>,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

type Update = (String, Option<(u64, String)>);

impl RedisCache {
    /// Connects to nobody yet.
    pub fn new(settings: CacheSettings) -> RedisCache {
        RedisCache {
            settings,
            waiting: Mutex::default(),
            wake: Notify::new(),
            connection: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// Puts a value for a time; it is written soon.
    pub fn put(&self, key: String, ttl_ms: u64, value: String) {
        self.update(key, Some((ttl_ms.max(1), value)));
    }

    /// Takes a value out soon.
    pub fn remove(&self, key: String) {
        self.update(key, None);
    }

    fn update(&self, key: String, update: Option<(u64, String)>) {
        let key = format!("{}{key}", self.settings.key_prefix);
        // Without it, what was there before would stay, and be wrong.
        let is_too_large = update.as_ref().is_some_and(|(_, text)| text.len() > VALUE_BYTES_MAX);
        let update = update.filter(|_| !is_too_large);
        let dropped = u64::from(is_too_large) + self.waiting.lock().push(key, update);
        self.counts.dropped.fetch_add(dropped, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Gives a value; anything that goes wrong is a miss.
    pub async fn get(&self, key: &str) -> Option<String> {
        let key = format!("{}{key}", self.settings.key_prefix);
        // What is on its way is newer than what is there.
        if let Some(found) = self.waiting.lock().find(&key) {
            let counter = if found.is_some() { &self.counts.hits } else { &self.counts.misses };
            counter.fetch_add(1, Ordering::Relaxed);
            return found;
        }
        let work = async {
            let mut connection = self.connect().await?;
            redis::cmd("GET").arg(&key).query_async::<Option<String>>(&mut connection).await.map_err(|e| e.to_string())
        };
        let found = if self.rests() { None } else { self.within(GET_TIMEOUT, work).await.flatten() };
        let counter = if found.is_some() { &self.counts.hits } else { &self.counts.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Writes what waits, until the server stops.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(REST) => {}
                _ = stop.wait_for(|stopped| *stopped) => return,
            }
            tokio::time::sleep(GATHER).await;
            while !self.rests() && self.write_batch().await {}
        }
    }

    /// Writes one batch; tells whether more may be written.
    async fn write_batch(&self) -> bool {
        let batch = self.waiting.lock().take();
        if batch.is_empty() {
            return false;
        }
        let work = async {
            let mut connection = self.connect().await?;
            let mut pipe = redis::pipe();
            pipe.ignore_errors();
            for (key, update) in batch.iter() {
                match update {
                    Some((ttl_ms, value)) => pipe.cmd("SET").arg(key).arg(value).arg("PX").arg(*ttl_ms),
                    None => pipe.cmd("DEL").arg(key),
                };
            }
            let answers: Vec<RedisResult<Value>> =
                pipe.query_async(&mut connection).await.map_err(|e| e.to_string())?;
            Ok(answers)
        };
        let bytes: usize = batch.iter().map(|(key, update)| size(key, update.as_ref())).sum();
        let limit = CALL_TIMEOUT + MIB_TIMEOUT * u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let answers = self.within(limit, work).await;
        self.waiting.lock().in_flight = Arc::default();
        let Some(answers) = answers else {
            let mut batch = Arc::unwrap_or_clone(batch);
            let mut dropped = 0;
            for (_, update) in batch.iter_mut().filter(|(key, update)| size(key, update.as_ref()) > BATCH_BYTES_MAX) {
                // It may be what the connection stumbles over; what was there before is not true any more.
                (*update, dropped) = (None, dropped + 1);
            }
            dropped += self.waiting.lock().give_back(batch);
            self.counts.dropped.fetch_add(dropped, Ordering::Relaxed);
            return false;
        };
        let count = batch.len();
        let refused: Vec<(&Update, String)> = batch
            .iter()
            .zip(answers)
            .filter_map(|(update, answer)| Some((update, answer.err()?.to_string())))
            .collect();
        let written = count - refused.len();
        self.counts.written.fetch_add(written as u64, Ordering::Relaxed);
        self.counts.refused.fetch_add(refused.len() as u64, Ordering::Relaxed);
        if let Some((_, reason)) = refused.first() {
            self.tell_refusal(reason);
            // What was there before is not true any more, and goes next, unless something newer has come.
            let gone =
                refused.iter().filter(|((_, update), _)| update.is_some()).map(|((key, _), _)| (key.clone(), None));
            let dropped = self.waiting.lock().give_back(gone.collect());
            self.counts.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        true
    }

    /// Gives the connection, a new one if there is none.
    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let there = || self.connection.lock().clone();
        if let Some(connection) = there() {
            return Ok(connection);
        }
        let _one = self.connecting.lock().await;
        if let Some(connection) = there() {
            return Ok(connection);
        }
        let mut info = self.settings.url.0.as_str().into_connection_info().map_err(|e| e.to_string())?;
        if let Some(password) = &self.settings.password {
            let settings = info.redis_settings().clone().set_password(password.get()?);
            info = info.set_redis_settings(settings);
        }
        let client = match &self.settings.ca_file {
            None => Client::open(info),
            Some(path) => {
                let pem = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(pem) })
            }
        };
        let client = client.map_err(|e| e.to_string())?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL_TIMEOUT))
            .set_response_timeout(Some(CALL_TIMEOUT));
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connection = connecting.await.map_err(|e| e.to_string())?;
        Ok(self.connection.lock().insert(connection).clone())
    }

    /// Does a piece of work within a time; notes whether Redis is there.
    async fn within<T>(&self, limit: Duration, work: impl Future<Output = Result<T, String>>) -> Option<T> {
        let result = match timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {limit:?}")),
        };
        match result {
            Ok(value) => {
                if self.state.lock().down_since.take().is_some() {
                    tracing::info!("the cache answers again");
                }
                Some(value)
            }
            Err(reason) => {
                self.failed(&reason);
                None
            }
        }
    }

    fn failed(&self, reason: &str) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        *self.connection.lock() = None;
        let mut state = self.state.lock();
        state.tried_at = Some(Instant::now());
        if state.down_since.is_none() {
            state.down_since = Some(Instant::now());
            tracing::warn!(
                cache = self.settings.url.shown(),
                "the cache does not answer, all goes on without: {reason}"
            );
        }
    }

    /// Tells whether it failed a moment ago.
    fn rests(&self) -> bool {
        let state = self.state.lock();
        state.down_since.is_some() && state.tried_at.is_some_and(|at| at.elapsed() < REST)
    }

    fn tell_refusal(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.told_refusal_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            state.told_refusal_at = Some(Instant::now());
            tracing::warn!(cache = self.settings.url.shown(), "the cache refuses values: {reason}");
        }
    }

    /// Gives the figures.
    pub fn stats(&self) -> CacheStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let waiting = self.waiting.lock();
        CacheStats {
            up: self.state.lock().down_since.is_none(),
            hits: get(&self.counts.hits),
            misses: get(&self.counts.misses),
            written: get(&self.counts.written),
            dropped: get(&self.counts.dropped),
            refused: get(&self.counts.refused),
            failed: get(&self.counts.failed),
            waiting: (waiting.updates.len() + waiting.in_flight.len()) as u64,
            bytes: waiting.bytes as u64,
        }
    }
}

fn size(key: &str, update: Option<&(u64, String)>) -> usize {
    2 * key.len() + update.map_or(0, |(_, text)| text.len())
}

impl Waiting {
    /// Takes an update in; gives how many older ones had to go.
    fn push(&mut self, key: String, update: Option<(u64, String)>) -> u64 {
        self.bytes += size(&key, update.as_ref());
        match self.updates.insert(key.clone(), update) {
            Some(before) => self.bytes -= size(&key, before.as_ref()),
            None => self.order.push_back(key),
        }
        self.shrink()
    }

    /// Gives what waits or is being written: a value, or that there is none any more.
    fn find(&self, key: &str) -> Option<Option<String>> {
        let in_flight = || self.in_flight.iter().find(|(known, _)| known == key).map(|(_, update)| update);
        let update = self.updates.get(key).or_else(in_flight)?;
        Some(update.as_ref().map(|(_, text)| text.clone()))
    }

    /// Takes a batch out; a value that is larger than a batch goes alone.
    fn take(&mut self) -> Arc<Vec<Update>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_MAX {
            let Some(key) = self.order.front() else { break };
            let next = self.updates.get(key).map_or(0, |update| size(key, update.as_ref()));
            if !batch.is_empty() && bytes + next > BATCH_BYTES_MAX {
                break;
            }
            let Some(key) = self.order.pop_front() else { break };
            if let Some(update) = self.updates.remove(&key) {
                (bytes, self.bytes) = (bytes + next, self.bytes - next);
                batch.push((key, update));
            }
        }
        self.in_flight = Arc::new(batch);
        self.in_flight.clone()
    }

    /// Takes a batch back that could not be written, except for what newer values have come for.
    fn give_back(&mut self, batch: Vec<Update>) -> u64 {
        let newer = mem::take(&mut self.order);
        let mut order = VecDeque::with_capacity(newer.len() + batch.len());
        for (key, update) in batch {
            if !self.updates.contains_key(&key) {
                self.bytes += size(&key, update.as_ref());
                self.updates.insert(key.clone(), update);
                order.push_back(key);
            }
        }
        order.extend(newer);
        self.order = order;
        self.shrink()
    }

    /// Lets the oldest go until the limits are kept; gives how many went.
    fn shrink(&mut self) -> u64 {
        let mut dropped = 0;
        while self.updates.len() > WAITING_MAX || self.bytes > WAITING_BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(update) = self.updates.remove(&oldest) {
                self.bytes -= size(&oldest, update.as_ref());
                dropped += 1;
            }
        }
        dropped
    }
}
