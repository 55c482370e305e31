//! The REST API of the specification, `/api/v1/metrics/*`.
//!
//! Owns: nothing that outlives a request but the number of event listeners. Targets are the catalog's and the
//! collector's, samples the store's, events the event log's.
//! Invariants: 1. every error is an RFC 9457 problem; 2. a 2xx to a change means that it is durable; 3. the catalog
//! changes first, the collector follows, and at the start the collector is filled from the catalog.
//! Limits: bodies of `body_bytes_max` bytes after inflating; see the files for the others.

pub mod address;
pub mod auth_config;
pub mod body;
pub mod changing;
pub mod cloud_auth;
pub mod completeness;
pub mod custom;
pub mod events_api;
pub mod explain;
pub mod fields;
pub mod filters;
mod first_scrape;
pub mod following;
pub mod integrity;
pub mod metric;
pub mod openapi;
mod openapi_exact;
pub mod problem;
pub mod protocols;
pub mod push_targets;
pub mod query;
pub mod registration;
pub mod rejections;
pub mod retention;
pub mod sd;
pub mod stats;
pub mod target_json;
pub mod targets;
pub mod targets_change;
pub mod targets_patch;
pub mod targets_remove;
#[cfg(test)]
mod tests;
pub mod time;

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::FromRef;
use axum::routing::{get, post};
use catalog::Catalog;
use collect::report::BatchIds;
use collect::{AddressPolicy, Collector, TargetSpec, TargetStatus};
use events::EventLog;
use http::{Method, StatusCode, Uri};
use model::filter::FilterSet;
use model::{Append, AppendError, Appended, Batch, Counts, Health};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::access::vault::Vault;
use crate::observe::Observer;
use crate::rejections::Rejections;
use crate::sql::Sql;
use problem::Problem;
use push_targets::PushTarget;
use query::Ask;
use registration::Registration;

/// Default limit of a body after inflating.
pub const BODY_BYTES_MAX: usize = 32 << 20;

/// Takes a target and a time, in milliseconds since 1970; may block. The error is a sentence.
pub type Purge = Arc<dyn Fn(&str, i64) -> Result<(), String> + Send + Sync>;

/// Takes the name of a source that pushes.
pub type FiltersOf = Arc<dyn Fn(&str) -> Option<Arc<FilterSet>> + Send + Sync>;

/// What the REST API works with.
pub struct RestParts {
    /// Name of this node.
    pub node: String,
    /// Targets and collections.
    pub catalog: Arc<Catalog>,
    /// The event log.
    pub events: EventLog,
    /// Scrapes the targets.
    pub collector: Arc<Collector>,
    /// The way into the store.
    pub append: Arc<dyn Append>,
    /// Numbers batches.
    pub batch_ids: Arc<BatchIds>,
    /// Hears of every collection.
    pub observer: Arc<Observer>,
    /// Knows who was refused what.
    pub rejections: Arc<Rejections>,
    /// Gives the type that is known of a metric.
    pub type_of_metric: Arc<dyn Fn(&str) -> model::MetricType + Send + Sync>,
    /// Gives the filters that the configuration has for a source that pushes.
    pub configured_filters: FiltersOf,
    /// Gives the ledger since the data directory was made.
    pub totals: Arc<dyn Fn() -> Counts + Send + Sync>,
    /// The ledger by target and over time.
    pub ledger: Arc<dyn integrity::Ledger>,
    /// Gives the time, in milliseconds since 1970.
    pub now: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Answers PromQL.
    pub ask: Arc<dyn Ask>,
    /// Notes durably that the samples of a deleted target go at a time.
    pub purge: Purge,
    /// What URLs of this server begin with, such as `http://host:9740`.
    pub base_url: String,
    /// Which addresses targets given over REST may lead to.
    pub address_policy: AddressPolicy,
    /// Seals and opens the secrets of targets.
    pub vault: Arc<Vault>,
    /// Limit of a body after inflating; see [`BODY_BYTES_MAX`].
    pub body_bytes_max: usize,
    /// Turns true when the server stops.
    pub stop: watch::Receiver<bool>,
}

/// The state of the REST API. Cheap to clone.
#[derive(Clone)]
pub struct Rest(Arc<Inner>);

/// What stands behind [`Rest`].
pub struct Inner {
    parts: RestParts,
    seats: Arc<AtomicUsize>,
    /// Held while a target is registered, changed or removed, so that catalog and collector change in the same order.
    changing: tokio::sync::Mutex<()>,
    /// Places of those who wait for it.
    changes: tokio::sync::Semaphore,
    /// URLs of registered targets, by id, with the version they belong to.
    urls: Mutex<HashMap<String, (i64, String)>>,
    /// Answers SQL; it asks this API for the targets, so that it comes later.
    sql: OnceLock<Sql>,
}

impl Deref for Inner {
    type Target = RestParts;

    fn deref(&self) -> &RestParts {
        &self.parts
    }
}

impl Deref for Rest {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Rest {
    /// Puts the parts together.
    pub fn new(parts: RestParts) -> Rest {
        Rest(Arc::new(Inner {
            parts,
            seats: Arc::default(),
            changing: tokio::sync::Mutex::default(),
            changes: tokio::sync::Semaphore::new(changing::CHANGES_MAX),
            urls: Mutex::default(),
            sql: OnceLock::new(),
        }))
    }

    /// Says who answers SQL; once.
    pub fn answer_sql_by(&self, sql: Sql) {
        let _ = self.sql.set(sql);
    }

    pub(crate) fn now_ms(&self) -> i64 {
        (self.now)()
    }

    /// Hands all registered targets to the collector; once, at the start.
    ///
    /// **Gives** how many there are. A target that cannot be scraped any more is said and left out.
    pub fn load_targets(&self) -> usize {
        let mut loaded = 0;
        for target in self.catalog.all().iter().filter(|t| t.spec.origin == "api" && t.damage.is_none()) {
            match self.read_registered(&target.spec.request) {
                Ok((registration, spec)) => {
                    self.put_in_force(&registration, spec, target.health);
                    loaded += 1;
                }
                Err(problem) => {
                    let target_id = &target.spec.target_id;
                    tracing::error!(target_id, "registered target cannot be scraped: {}", problem.detail);
                }
            }
        }
        loaded
    }

    /// Hands a target to who collects it: the collector, or those who wait for its pushes.
    fn put_in_force(&self, registration: &Registration, spec: Option<TargetSpec>, health: Health) {
        let pushes = self.observer.push_targets();
        let Some(spec) = spec else {
            if self.collector.spec(&registration.target_id).is_some() {
                // It was scraped until now; its end is written by the way.
                let (collector, target_id) = (self.collector.clone(), registration.target_id.clone());
                tokio::spawn(async move { collector.remove(&target_id).await });
            }
            let target = PushTarget {
                target_id: &registration.target_id,
                source_id: &registration.source_id,
                method: registration.method,
                settings: registration.push,
                filters: registration.filters.set(),
                enabled: registration.enabled,
                health,
            };
            return pushes.upsert(target, self.now_ms());
        };
        // A registration that was replaced may have been one that pushes.
        pushes.remove(&registration.target_id);
        self.collector.upsert(spec);
    }

    /// Gives how a target stands, whoever collects it.
    pub(crate) fn status_of(&self, target_id: &str) -> Option<TargetStatus> {
        let pushing = || self.observer.push_targets().status(target_id, self.now_ms());
        self.collector.status(target_id).or_else(pushing)
    }

    /// Gives how all targets stand.
    pub(crate) fn statuses(&self) -> Vec<TargetStatus> {
        let mut all = self.collector.statuses();
        all.extend(self.observer.push_targets().statuses(self.now_ms()));
        all
    }

    /// Tells whether a discovered target was muted over the API.
    pub fn is_muted(&self, target_id: &str) -> bool {
        self.catalog.get(target_id).is_some_and(|t| !t.spec.enabled && t.spec.origin != "api")
    }

    /// Writes what gathers in memory; ends when the server stops.
    pub async fn housekeeping(self, stop: watch::Receiver<bool>) {
        // Apart from each other: a database that is slow must not hold the event log up.
        tokio::join!(self.tidy_each_second(stop.clone()), self.tidy_catalog(stop));
    }

    async fn tidy_each_second(&self, mut stop: watch::Receiver<bool>) {
        let mut tick = ticks(1);
        let mut second = 0u64;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.wait_for(|stopped| *stopped) => return,
            }
            self.tidy(second).await;
            second += 1;
        }
    }

    async fn tidy(&self, second: u64) {
        let now_ms = self.now_ms();
        self.observer.note_total(now_ms, (self.totals)().stored);
        for (target_id, health) in self.observer.push_targets().changed(now_ms) {
            self.catalog.set_health(&target_id, health);
        }
        let log = self.events.clone();
        let hourly = second.is_multiple_of(3_600);
        let written = tokio::task::spawn_blocking(move || {
            log.write()?;
            if hourly { log.retain(now_ms) } else { Ok(()) }
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!("{error}");
        }
    }

    async fn tidy_catalog(&self, mut stop: watch::Receiver<bool>) {
        let mut tick = ticks(5);
        let (mut minutely, mut hourly) = (Periodic::each(60), Periodic::each(3_600));
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.wait_for(|stopped| *stopped) => return,
            }
            let now_ms = self.now_ms();
            let flushed = self.catalog.flush(now_ms, minutely.is_due()).await;
            let pruned = if hourly.is_due() { self.catalog.prune(now_ms).await } else { Ok(()) };
            for error in [flushed, pruned].into_iter().filter_map(Result::err).filter(|e| !e.is_away()) {
                tracing::warn!("{error}");
            }
        }
    }

    /// Hands a batch to the store and waits without holding a thread.
    pub(crate) async fn submit(&self, batch: Batch) -> (Batch, Result<Appended, AppendError>) {
        let (tx, rx) = oneshot::channel();
        let append = Arc::clone(&self.append);
        let done = Box::new(move |batch, result| drop(tx.send((batch, result))));
        // A full queue makes `submit` wait for room.
        let handed = tokio::task::spawn_blocking(move || append.submit(batch, done)).await;
        match (handed, rx.await) {
            (Ok(()), Ok(answer)) => answer,
            _ => (Batch::default(), Err(AppendError::Closed)),
        }
    }

    /// Gives the states of all targets, registered and discovered.
    fn all_health(&self) -> Vec<Health> {
        let statuses = self.statuses();
        let known: HashSet<&str> = statuses.iter().map(|s| s.target_id.as_str()).collect();
        let registered = self.catalog.all();
        let unknown_to_collector =
            registered.iter().filter(|t| t.spec.origin == "api" && !known.contains(t.spec.target_id.as_str())).count();
        let mut all: Vec<Health> = statuses.iter().map(|s| s.health).collect();
        // Damaged rows and what cannot be scraped any more.
        all.resize(all.len() + unknown_to_collector, Health::Disabled);
        all
    }
}

/// Ticks that wait for who was slow.
fn ticks(seconds: u64) -> tokio::time::Interval {
    let mut tick = tokio::time::interval(Duration::from_secs(seconds));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick
}

/// Something that is due at once and then again after each period, however long the rounds between take.
struct Periodic {
    period: Duration,
    last: Option<Instant>,
}

impl Periodic {
    fn each(seconds: u64) -> Periodic {
        Periodic { period: Duration::from_secs(seconds), last: None }
    }

    fn is_due(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() >= self.period);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

/// Makes the routes; the state must give a [`Rest`].
pub fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Rest: FromRef<S>,
{
    const BASE: &str = "/api/v1/metrics";
    let path = |rest: &str| format!("{BASE}{rest}");
    Router::new()
        .route(&path("/targets"), get(targets::list).post(targets_change::register))
        .route(&path("/targets:dry-run"), post(targets_change::dry_run))
        .route(
            &path("/targets/{target_id}"),
            get(targets::get_one).patch(targets_patch::patch).delete(targets_remove::remove).post(targets_change::verb),
        )
        .route(&path("/targets/{target_id}/scrape"), post(targets_change::scrape))
        .route(&path("/targets/{target_id}/restore"), post(targets_remove::restore))
        .route(&path("/targets/{target_id}/rejections"), get(rejections::rejections))
        .route(&path("/targets/{target_id}/explain"), get(explain::explain))
        .route(&path("/targets/{target_id}/filters"), get(explain::filters))
        .route(&path("/custom"), post(custom::custom))
        .route(&path("/query"), get(query::query).post(query::query))
        .route(&path("/stats"), get(stats::stats))
        .route(&path("/integrity"), get(integrity::integrity))
        .route(&path("/integrity/scrub"), post(integrity::scrub))
        .route(&path("/events"), get(events_api::stream))
        .route(&path("/sd"), get(sd::sd))
        .route(BASE, axum::routing::any(no_such_path))
        .route(&path("/"), axum::routing::any(no_such_path))
        .route(&path("/{*rest}"), axum::routing::any(no_such_path))
        .method_not_allowed_fallback(wrong_method)
        .route("/openapi.json", get(openapi::document))
        .route("/openapi", get(openapi::page))
}

async fn no_such_path(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::not_found(format!("there is nothing at {path}; see /openapi"))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("{path} does not answer {method}"))
}
