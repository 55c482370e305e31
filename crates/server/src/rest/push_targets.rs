//! Registered targets that are not scraped: a source that pushes, streams or uploads.
//!
//! Owns: what is known of each since the start. The registration itself is the catalog's.
//! Invariants: 1. a push of a registered source carries the target's id, in the log and in its event; 2. health comes
//! from the last push and its age alone; 3. nothing here waits.
//! Limits: as many as the catalog has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use collect::{ScrapeError, ScrapeErrorKind, TargetOrigin, TargetStatus};
use model::filter::FilterSet;
use model::{Append, AppendDone, Batch, CollectionMethod, CollectionReport, Health, Origin, Recall, SeriesId};
use parking_lot::RwLock;
use serde_json::{Value, json};

use super::fields::{Fields, Severity};

/// A push is stale after so many of its intervals, unless its time to live says otherwise.
const INTERVALS_UNTIL_STALE: u64 = 5;
/// Longest interval and time to live.
const TIME_MS_MAX: u64 = 366 * 86_400_000;

/// How often a source pushes, and how long that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PushSettings {
    /// How often it is expected to push; 0 when nothing is expected.
    pub expected_interval_ms: u64,
    /// How long a pushed group lives; 0 is for ever.
    pub ttl_ms: u64,
}

impl PushSettings {
    /// Reads `push_config` of a registration.
    pub fn read(f: &mut Fields) -> PushSettings {
        let pointer = f.at("push_config");
        let Some(value) = f.value("push_config") else { return PushSettings::default() };
        let Some(mut f) = Fields::open(value, pointer, f.issues) else { return PushSettings::default() };
        let expected_interval_ms = f.duration_ms("expected_interval", "expected_interval_ms").unwrap_or(0);
        let ttl_ms = f.duration_ms("ttl", "ttl_ms");
        for (name, ms) in [("expected_interval", expected_interval_ms), ("ttl", ttl_ms.unwrap_or(0))] {
            if ms > TIME_MS_MAX {
                f.issue(Severity::Refused, name, "out_of_range", format!("{name} is at most 366d"));
            }
        }
        f.finish();
        let ttl_ms = ttl_ms.unwrap_or_else(|| expected_interval_ms.saturating_mul(INTERVALS_UNTIL_STALE));
        PushSettings { expected_interval_ms, ttl_ms }
    }

    /// Gives the normal form.
    pub fn normal(&self) -> Value {
        let text = |ms: u64| model::format_duration_ms(i64::try_from(ms).unwrap_or(i64::MAX));
        json!({"expected_interval": text(self.expected_interval_ms), "ttl": text(self.ttl_ms)})
    }

    /// Gives the age at which a push is stale; `None` when it never is.
    fn stale_after_ms(&self) -> Option<i64> {
        let ms = match (self.ttl_ms, self.expected_interval_ms) {
            (0, 0) => return None,
            (0, interval) => interval.saturating_mul(INTERVALS_UNTIL_STALE),
            (ttl, _) => ttl,
        };
        i64::try_from(ms).ok()
    }
}

/// Gives the path that a source sends to.
pub fn path_of(method: CollectionMethod, source_id: &str, labels: &BTreeMap<String, String>) -> String {
    let escaped = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    match method {
        CollectionMethod::PushGateway => {
            let mut path = format!("/metrics/{}", segment("job", source_id));
            for (name, value) in labels.iter().filter(|(name, _)| *name != "job") {
                path.push('/');
                path.push_str(&segment(name, value));
            }
            path
        }
        CollectionMethod::BatchUpload => format!("/api/v1/metrics/uploads?source_id={}", escaped(source_id)),
        _ => format!("/api/v1/metrics/stream?source_id={}", escaped(source_id)),
    }
}

/// Writes `name/value`, or `name@base64/...` for a value that a path cannot hold.
fn segment(name: &str, value: &str) -> String {
    if value.is_empty() || value.contains('/') {
        return format!("{name}@base64/{}", base64_url(value.as_bytes()));
    }
    let mut out = format!("{name}/");
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Writes base64 with the alphabet of URLs; `=` stands for an empty value, as in the Pushgateway.
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    if bytes.is_empty() {
        return "=".to_owned();
    }
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0u32, |sum, (i, b)| sum | u32::from(*b) << (16 - 8 * i));
        for place in 0..=chunk.len() {
            let sextet = (bits >> (18 - 6 * place)) & 63;
            out.push(char::from(ALPHABET[sextet as usize]));
        }
    }
    out
}

/// A registered source as it stands.
#[derive(Clone, Debug)]
struct Known {
    source_id: String,
    method: CollectionMethod,
    settings: PushSettings,
    filters: Arc<FilterSet>,
    enabled: bool,
    /// What the catalog was told last.
    told: Health,
    pushed: Option<Pushed>,
    failures: u64,
    since_ms: i64,
}

#[derive(Clone, Debug)]
struct Pushed {
    at_ms: i64,
    duration_ms: u64,
    samples: u64,
    error: Option<String>,
}

impl Known {
    fn health(&self, now_ms: i64) -> Health {
        if !self.enabled {
            return Health::Disabled;
        }
        let last_ms = match &self.pushed {
            Some(pushed) if pushed.error.is_some() => return Health::Unhealthy,
            Some(pushed) => pushed.at_ms,
            // It never pushed, or before the start: then what is known of it stands until its time is over.
            None if matches!(self.told, Health::Unknown | Health::Disabled) => return Health::Unknown,
            None => self.since_ms,
        };
        match self.settings.stale_after_ms() {
            Some(limit) if now_ms.saturating_sub(last_ms) > limit => Health::Degraded,
            _ if self.pushed.is_some() => Health::Healthy,
            _ => self.told,
        }
    }
}

/// What is needed of a registration.
pub struct PushTarget<'a> {
    /// Names it.
    pub target_id: &'a str,
    /// The source that pushes.
    pub source_id: &'a str,
    /// How.
    pub method: CollectionMethod,
    /// How often.
    pub settings: PushSettings,
    /// Which series are kept, with which labels.
    pub filters: Arc<FilterSet>,
    /// Whether pushes count.
    pub enabled: bool,
    /// What the catalog knows of its health.
    pub health: Health,
}

/// All registered sources.
#[derive(Default)]
pub struct PushTargets(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    targets: BTreeMap<String, Known>,
    /// The targets of a source, in order of their ids.
    by_source: HashMap<(CollectionMethod, String), Vec<String>>,
}

impl Inner {
    fn unlink(&mut self, target_id: &str) -> Option<Known> {
        let known = self.targets.remove(target_id)?;
        let key = (known.method, known.source_id.clone());
        if let Some(ids) = self.by_source.get_mut(&key) {
            ids.retain(|id| id != target_id);
            if ids.is_empty() {
                self.by_source.remove(&key);
            }
        }
        Some(known)
    }
}

impl PushTargets {
    /// Puts a registration in force; what was known of an earlier one of the same id stays.
    pub fn upsert(&self, target: PushTarget<'_>, now_ms: i64) {
        let mut inner = self.0.write();
        let before = inner.unlink(target.target_id);
        let key = (target.method, target.source_id.to_owned());
        let ids = inner.by_source.entry(key).or_default();
        ids.push(target.target_id.to_owned());
        ids.sort();
        let known = Known {
            source_id: target.source_id.to_owned(),
            method: target.method,
            settings: target.settings,
            filters: target.filters,
            enabled: target.enabled,
            told: target.health,
            pushed: before.as_ref().and_then(|b| b.pushed.clone()),
            failures: before.as_ref().map_or(0, |b| b.failures),
            since_ms: before.as_ref().map_or(now_ms, |b| b.since_ms),
        };
        inner.targets.insert(target.target_id.to_owned(), known);
    }

    /// Forgets a target; tells whether it was known.
    pub fn remove(&self, target_id: &str) -> bool {
        self.0.write().unlink(target_id).is_some()
    }

    /// Puts the target's id into the origin of a push whose source is registered.
    pub fn attribute(&self, origin: &mut Origin) {
        if origin.method == CollectionMethod::PullScraping || origin.target_id != origin.source_id {
            return;
        }
        let inner = self.0.read();
        if inner.targets.is_empty() {
            return;
        }
        if let Some(id) = inner.by_source.get(&(origin.method, origin.source_id.clone())).and_then(|ids| ids.first()) {
            origin.target_id.clone_from(id);
        }
    }

    /// Notes a push that is done.
    pub fn note(&self, report: &CollectionReport) {
        if self.0.read().targets.is_empty() {
            return;
        }
        let mut inner = self.0.write();
        let inner = &mut *inner;
        let Some(ids) = inner.by_source.get(&(report.origin.method, report.origin.source_id.clone())) else { return };
        for id in ids {
            let Some(known) = inner.targets.get_mut(id) else { continue };
            known.failures = if report.error.is_some() { known.failures + 1 } else { 0 };
            known.pushed = Some(Pushed {
                at_ms: report.finished_at_ms,
                duration_ms: report.duration_ms,
                samples: report.samples_count,
                error: report.error.clone(),
            });
        }
    }

    /// Gives how a target stands.
    pub fn status(&self, target_id: &str, now_ms: i64) -> Option<TargetStatus> {
        self.0.read().targets.get(target_id).map(|known| status(target_id, known, now_ms))
    }

    /// Gives how all targets stand.
    pub fn statuses(&self, now_ms: i64) -> Vec<TargetStatus> {
        self.0.read().targets.iter().map(|(id, known)| status(id, known, now_ms)).collect()
    }

    /// Gives the targets whose health is another one than at the last call.
    pub fn changed(&self, now_ms: i64) -> Vec<(String, Health)> {
        if self.0.read().targets.is_empty() {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for (id, known) in &mut self.0.write().targets {
            let health = known.health(now_ms);
            if health != known.told {
                known.told = health;
                known.since_ms = now_ms;
                changed.push((id.clone(), health));
            }
        }
        changed
    }

    /// Gives the filters of what a source sends: those of its first target that is switched on.
    pub fn filters(&self, method: CollectionMethod, source_id: &str) -> Option<Arc<FilterSet>> {
        let inner = self.0.read();
        if inner.targets.is_empty() {
            return None;
        }
        let ids = inner.by_source.get(&(method, source_id.to_owned()))?;
        let known = ids.iter().filter_map(|id| inner.targets.get(id)).find(|known| known.enabled)?;
        Some(known.filters.clone()).filter(|set| !set.is_empty())
    }

    /// Gives how long the groups of a source live that does not say so itself; 0 is for ever.
    pub fn ttl_ms(&self, source_id: &str) -> i64 {
        let inner = self.0.read();
        let ids = inner.by_source.get(&(CollectionMethod::PushGateway, source_id.to_owned()));
        let known = ids.and_then(|ids| inner.targets.get(ids.first()?));
        known.map_or(0, |known| i64::try_from(known.settings.ttl_ms).unwrap_or(0))
    }
}

fn status(target_id: &str, known: &Known, now_ms: i64) -> TargetStatus {
    let health = known.health(now_ms);
    let pushed = known.pushed.as_ref();
    let age_ms = now_ms.saturating_sub(pushed.map_or(known.since_ms, |p| p.at_ms));
    let message = match (health, pushed.and_then(|p| p.error.clone())) {
        (Health::Degraded, _) => {
            Some(format!("no push for {}", model::format_duration_ms(age_ms.max(0) / 1000 * 1000)))
        }
        (_, error) => error,
    };
    TargetStatus {
        target_id: target_id.to_owned(),
        source_id: known.source_id.clone(),
        origin: TargetOrigin::Rest,
        health,
        last_error: message.map(|message| ScrapeError { kind: ScrapeErrorKind::Store, message }),
        last_scrape_ms: pushed.map(|p| p.at_ms),
        scrape_duration_ms: pushed.map_or(0, |p| p.duration_ms),
        samples_scraped: pushed.map_or(0, |p| p.samples),
        next_scrape_ms: None,
        consecutive_failures: known.failures,
        scrapes: 0,
        missed_ticks: 0,
        series_current: 0,
        since_ms: known.since_ms,
    }
}

/// The store's door; what registered sources send gets the id of their target.
pub struct Attributed {
    inner: Arc<dyn Append>,
    targets: Arc<PushTargets>,
}

impl Attributed {
    /// Stands in front of a door.
    pub fn new(inner: Arc<dyn Append>, targets: Arc<PushTargets>) -> Attributed {
        Attributed { inner, targets }
    }
}

impl Append for Attributed {
    fn submit(&self, mut batch: Batch, done: AppendDone) {
        self.attribute(&mut batch);
        self.inner.submit(batch, done);
    }

    fn submit_now(&self, mut batch: Batch, done: AppendDone) {
        self.attribute(&mut batch);
        self.inner.submit_now(batch, done);
    }

    fn behind(&self) -> Option<&dyn Append> {
        Some(&*self.inner)
    }

    fn recall(&self) -> Box<dyn Recall + '_> {
        Box::new(AttributedRecall { inner: self.inner.recall(), targets: &self.targets })
    }
}

impl Attributed {
    fn attribute(&self, batch: &mut Batch) {
        self.targets.attribute(&mut batch.origin);
        if let Some(report) = &mut batch.report {
            self.targets.attribute(&mut report.origin);
        }
    }
}

/// Series are owned by the target: what is recalled must be its own.
struct AttributedRecall<'a> {
    inner: Box<dyn Recall + 'a>,
    targets: &'a PushTargets,
}

impl Recall for AttributedRecall<'_> {
    fn begin(&mut self, origin: &Origin) -> u64 {
        let mut origin = origin.clone();
        self.targets.attribute(&mut origin);
        self.inner.begin(&origin)
    }

    fn by_written(&mut self, written: &[u8]) -> Option<SeriesId> {
        self.inner.by_written(written)
    }

    fn by_labels(&mut self, labels: &[u8]) -> Option<SeriesId> {
        self.inner.by_labels(labels)
    }

    fn end(&mut self) {
        self.inner.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(id: &str, enabled: bool) -> PushTarget<'_> {
        PushTarget {
            target_id: id,
            source_id: "batch",
            method: CollectionMethod::PushGateway,
            settings: PushSettings { expected_interval_ms: 1_000, ttl_ms: 5_000 },
            filters: Arc::default(),
            enabled,
            health: Health::Unknown,
        }
    }

    fn push(at_ms: i64, error: Option<&str>) -> CollectionReport {
        CollectionReport {
            finished_at_ms: at_ms,
            origin: Origin {
                source_id: "batch".into(),
                target_id: "batch".into(),
                method: CollectionMethod::PushGateway,
                received_at_ms: at_ms,
            },
            error: error.map(str::to_owned),
            ..CollectionReport::default()
        }
    }

    #[test]
    fn health_follows_the_pushes_and_their_age() {
        let targets = PushTargets::default();
        targets.upsert(target("t", true), 0);
        let health = |now| targets.status("t", now).map(|s| s.health);
        assert_eq!(health(1_000_000), Some(Health::Unknown), "nothing is stale that never came");
        targets.note(&push(1_000, None));
        assert_eq!((health(6_000), health(6_001)), (Some(Health::Healthy), Some(Health::Degraded)));
        targets.note(&push(7_000, Some("disk full")));
        assert_eq!(health(7_001), Some(Health::Unhealthy));
        assert_eq!(targets.changed(7_001), vec![("t".to_owned(), Health::Unhealthy)]);
        assert!(targets.changed(7_002).is_empty());
        targets.upsert(target("t", false), 8_000);
        assert_eq!(health(8_000), Some(Health::Disabled));
        assert_eq!((targets.ttl_ms("batch"), targets.ttl_ms("other")), (5_000, 0));
        assert!(targets.remove("t") && targets.status("t", 0).is_none());
        assert_eq!(targets.ttl_ms("batch"), 0);
    }

    #[test]
    fn pushes_of_a_registered_source_carry_its_target() {
        let targets = PushTargets::default();
        targets.upsert(target("b-1", true), 0);
        targets.upsert(target("a-1", true), 0);
        let mut origin = push(0, None).origin;
        targets.attribute(&mut origin);
        assert_eq!(origin.target_id, "a-1", "the first one by its id");
        let mut other = Origin { method: CollectionMethod::Streaming, ..push(0, None).origin };
        targets.attribute(&mut other);
        assert_eq!(other.target_id, "batch", "another way in is another target");
    }

    #[test]
    fn paths_hold_every_value() {
        let labels: BTreeMap<String, String> =
            [("dir", "/a"), ("empty", ""), ("x", "a b")].iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let path = path_of(CollectionMethod::PushGateway, "back/up", &labels);
        assert_eq!(path, "/metrics/job@base64/YmFjay91cA/dir@base64/L2E/empty@base64/=/x/a%20b");
        let key = crate::push::GroupKey::from_path(&path).unwrap();
        assert_eq!(key.pairs().collect::<Vec<_>>(), [("dir", "/a"), ("empty", ""), ("job", "back/up"), ("x", "a b")]);
        assert!(path_of(CollectionMethod::Streaming, "a b", &labels).ends_with("/stream?source_id=a+b"));
    }
}
