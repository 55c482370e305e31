//! The latest metrics of a target, from the store, and by way of the cache when that has them.
//!
//! Invariant: what the cache says counts only if it is what this server put there for the very scrape that was the last one, so
//! that the cache makes an answer faster, and never older or another server's.
//! Limits: [`METRICS_MAX`] metrics of one target.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use collect::TargetStatus;
use model::{Matcher, MetricType, Samples, Select, TimeRange, is_stale};
use parking_lot::Mutex;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::{Cache, LATEST_TTL_MS, lasting, latest_key};
use crate::rest::{Rest, time};

/// Metrics of one target; one that has more is not shown whole.
pub const METRICS_MAX: usize = 50_000;
/// How far back a target's samples are looked for, if not two intervals.
const LOOK_BACK_MS: i64 = 5 * 60_000;

/// Knows the latest metrics. Cheap to clone.
#[derive(Clone)]
pub struct Latest(Arc<Inner>);

struct Inner {
    rest: Rest,
    select: Arc<dyn Select>,
    cache: Arc<Cache>,
    /// What was put into the cache of a target.
    put: Mutex<HashMap<String, Put>>,
}

/// A value in the cache, which others may have replaced by theirs.
#[derive(Clone, Copy, PartialEq)]
struct Put {
    scrape_ms: i64,
    hash: u64,
}

impl Latest {
    /// Takes the parts.
    pub fn new(rest: Rest, select: Arc<dyn Select>, cache: Arc<Cache>) -> Latest {
        Latest(Arc::new(Inner { rest, select, cache, put: Mutex::default() }))
    }

    /// Gives the cache.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.0.cache
    }

    /// Gives the state of the API.
    pub fn rest(&self) -> &Rest {
        &self.0.rest
    }

    /// Gives a target's metrics as a JSON list; `None` when there is no such target, the error is a sentence.
    pub async fn get(&self, target_id: &str) -> Option<Result<String, String>> {
        let status = self.0.rest.status_of(target_id)?;
        let put = self.0.put.lock().get(target_id).copied();
        if let Some(put) = put.filter(|put| Some(put.scrape_ms) == status.last_scrape_ms)
            && let Some(text) = self.0.cache.get(&latest_key(target_id)).await
            && xxh3_64(text.as_bytes()) == put.hash
        {
            return Some(Ok(text));
        }
        Some(self.refresh(&status).await)
    }

    /// Reads a target's metrics from the store and puts them into the cache.
    pub async fn refresh(&self, status: &TargetStatus) -> Result<String, String> {
        let (latest, status) = (self.clone(), status.clone());
        let read = tokio::task::spawn_blocking(move || {
            let text = latest.read(&status)?;
            latest.put(&status, &text);
            Ok(text)
        });
        read.await.map_err(|_| "reading broke off".to_owned())?
    }

    fn put(&self, status: &TargetStatus, text: &str) {
        let Some(scrape_ms) = status.last_scrape_ms else { return };
        let interval_ms = self.0.rest.collector.spec(&status.target_id).map_or(0, |spec| spec.interval_ms);
        let ttl_ms = lasting(LATEST_TTL_MS, interval_ms);
        self.0.cache.put(latest_key(&status.target_id), ttl_ms, text.to_owned());
        let put = Put { scrape_ms, hash: xxh3_64(text.as_bytes()) };
        self.0.put.lock().insert(status.target_id.clone(), put);
    }

    /// Takes a target out that is gone.
    pub fn forget(&self, target_id: &str) {
        if self.0.put.lock().remove(target_id).is_some() {
            self.0.cache.remove(latest_key(target_id));
        }
    }

    /// Takes all targets out that are gone.
    pub fn forget_others(&self, known: &HashSet<&str>) {
        let gone: Vec<String> = self.0.put.lock().keys().filter(|id| !known.contains(id.as_str())).cloned().collect();
        gone.iter().for_each(|target_id| self.forget(target_id));
    }

    fn read(&self, status: &TargetStatus) -> Result<String, String> {
        let spec = self.0.rest.collector.spec(&status.target_id);
        let matchers: Vec<Matcher> = match &spec {
            // Relabeling may drop all labels but these.
            Some(spec) => spec
                .labels
                .iter()
                .filter(|(name, _)| spec.metric_relabel.is_empty() || ["job", "instance"].contains(name))
                .map(|(name, value)| Matcher::equal(name, value))
                .collect(),
            None => vec![Matcher::equal("job", status.source_id.clone())],
        };
        let now_ms = self.0.rest.now_ms();
        let two_intervals = spec.map_or(0, |spec| i64::try_from(spec.interval_ms).unwrap_or(i64::MAX / 4) * 2);
        let range = TimeRange { start_ms: now_ms - LOOK_BACK_MS.max(two_intervals), end_ms: now_ms };
        let select = |matchers: &[Matcher]| self.0.select.select(matchers, range).map_err(|e| e.to_string());
        let mut series = select(&matchers)?;
        if series.is_empty() {
            // Its labels were changed since it was scraped: these two stay.
            let stay: Vec<Matcher> = matchers.into_iter().filter(|m| ["job", "instance"].contains(&m.name())).collect();
            series = if stay.is_empty() { Vec::new() } else { select(&stay)? };
        }
        series.truncate(METRICS_MAX);
        let mut kinds = Kinds { select: &*self.0.select, known: HashMap::new() };
        let (mut metrics, mut samples) = (Vec::with_capacity(series.len()), Samples::default());
        for reader in &series {
            samples.clear();
            reader.read(range, &mut samples).map_err(|e| e.to_string())?;
            let last = samples.ts_ms.last().zip(samples.values.last());
            if let Some((ts_ms, value)) = last.filter(|(_, value)| !is_stale(**value)) {
                metrics.push(metric(reader.labels(), *ts_ms, *value, &mut kinds));
            }
        }
        Ok(Value::Array(metrics).to_string())
    }
}

/// Types and help texts, each looked up once.
struct Kinds<'a> {
    select: &'a dyn Select,
    known: HashMap<String, (MetricType, String)>,
}

impl Kinds<'_> {
    fn of(&mut self, name: &str) -> &(MetricType, String) {
        if !self.known.contains_key(name) {
            let base = ["_bucket", "_sum", "_count", "_total"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let found = [Some(name), base].into_iter().flatten().find_map(|family| {
                let family = self.select.metadata(Some(family)).into_iter().next()?;
                Some((family.metric_type, family.help))
            });
            self.known.insert(name.to_owned(), found.unwrap_or_default());
        }
        &self.known[name]
    }
}

fn metric(labels: &model::Labels, ts_ms: i64, value: f64, kinds: &mut Kinds<'_>) -> Value {
    let name = labels.get("__name__").unwrap_or_default();
    let (metric_type, help) = kinds.of(name);
    let others: serde_json::Map<String, Value> = labels
        .iter()
        .filter(|(label, _)| *label != "__name__")
        .map(|(label, value)| (label.to_owned(), Value::from(value)))
        .collect();
    let value = match value {
        v if v.is_finite() => json!(v),
        v if v.is_nan() => json!("NaN"),
        v => json!(if v > 0.0 { "+Inf" } else { "-Inf" }),
    };
    let source = labels.get("source_type");
    json!({
        "name": name,
        "metric_type": metric_type.as_spec_str(),
        "value": value,
        "labels": others,
        "timestamp": time::to_text(ts_ms),
        "source": source,
        "help_text": (!help.is_empty()).then_some(help),
    })
}
