//! Takes pushes, keeps their groups, and writes their samples again and again.
//!
//! Owns: the groups in memory and on disk, and whose turn it is.
//! Invariants: 1. a push is answered 200 when its samples and its group are fsynced; 2. a group is changed by one at a time;
//! 3. what cannot be made durable changes nothing that is restated; 4. a series that ends gets a stale marker.
//! Limits: [`PushLimits`]; [`TURNS`] groups change at a time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use collect::report::{self, BatchIds, PushFacts};
use model::{
    Append, AppendError, Appended, Batch, BatchExemplar, CollectionMethod, CollectionReport, Counts, Health, Origin,
    Refusal as SampleRefusal, SeriesIndex, TypeCounts,
};
use tokio::sync::{Mutex, oneshot, watch};

use super::body::{Body, PushedExemplar};
use super::content::Content;
use super::folder::Folder;
use super::group::{Group, push_stale};
use super::key::GroupKey;
use super::registry::{PushLimits, Refusal, Registry};
use super::stats::PushStats;
use crate::prom::api::{Pushed, Source};
use crate::telemetry::Exposition;

/// Groups are spread over so many turns.
const TURNS: usize = 64;
/// How exactly lives end.
const TICK: Duration = Duration::from_secs(1);
/// Longest source id: the specification's tables have room for no more.
const SOURCE_CHARS_MAX: usize = 100;
/// Source of a job that cannot be one.
const DEFAULT_SOURCE: &str = "pushgateway";

/// What a gateway works with.
pub struct GatewayParts {
    /// The way into the store.
    pub append: Arc<dyn Append>,
    /// Numbers batches.
    pub batch_ids: Arc<BatchIds>,
    /// Hears of each push.
    pub pushed: Pushed,
    /// Gives the time, in milliseconds since 1970.
    pub now: Source<i64>,
    /// Where groups are kept.
    pub folder: Folder,
    /// The groups that lie there.
    pub groups: Vec<Group>,
    /// Limits.
    pub limits: PushLimits,
    /// How long groups of a registered source live; 0 is for ever.
    pub ttl_ms: TtlOf,
}

/// Gives how long the groups of a source live, in milliseconds.
pub type TtlOf = Arc<dyn Fn(&str) -> i64 + Send + Sync>;

/// What a push does to its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Replaces all of it.
    Put,
    /// Replaces the families of the same names.
    Post,
}

/// One push.
pub struct Push {
    /// What it does.
    pub verb: Verb,
    /// To which group.
    pub key: GroupKey,
    /// With what.
    pub body: Body,
    /// How long the group lives then; 0 means for ever.
    pub ttl_ms: i64,
    /// When the request began.
    pub started: Instant,
    /// When its last byte was there; milliseconds since 1970.
    pub received_at_ms: i64,
}

/// Why a push is not taken.
#[derive(Debug)]
pub enum PushError {
    /// It does not fit to the others, or the store refused samples of it.
    Refused(String),
    /// There is no room for more groups.
    Full(String),
    /// The store did not take it.
    Store(AppendError),
    /// The group could not be written.
    Disk(io::Error),
}

/// The gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    append: Arc<dyn Append>,
    batch_ids: Arc<BatchIds>,
    pushed: Pushed,
    now: Source<i64>,
    folder: Arc<Folder>,
    limits: PushLimits,
    ttl_ms: TtlOf,
    registry: Registry,
    turns: Vec<Mutex<()>>,
    stats: PushStats,
}

type Answer = (Batch, Result<Appended, AppendError>);

impl Gateway {
    /// Starts with the groups of an earlier life; [`Gateway::run`] restates them.
    pub fn new(parts: GatewayParts) -> Gateway {
        Gateway(Arc::new(Inner {
            registry: Registry::new(parts.limits, parts.groups),
            append: parts.append,
            batch_ids: parts.batch_ids,
            pushed: parts.pushed,
            now: parts.now,
            folder: Arc::new(parts.folder),
            limits: parts.limits,
            ttl_ms: parts.ttl_ms,
            turns: (0..TURNS).map(|_| Mutex::default()).collect(),
            stats: PushStats::default(),
        }))
    }

    /// Gives the limits.
    pub fn limits(&self) -> &PushLimits {
        &self.0.limits
    }

    /// Gives how long a group lives that is pushed without a word of it: what the registration of its job says.
    pub fn ttl_ms(&self, job: &str) -> i64 {
        (self.0.ttl_ms)(job)
    }

    /// Gives the time, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        (self.0.now)()
    }

    /// Gives the figures.
    pub fn stats(&self) -> &PushStats {
        &self.0.stats
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let (groups, bytes) = self.0.registry.size();
        self.0.stats.render(page, groups, bytes);
    }

    /// Takes a push. Spawn it: what has begun must be done to the end.
    pub async fn push(&self, push: Push) -> Result<(), PushError> {
        let inner = &*self.0;
        let _turn = inner.turn(&push.key).lock().await;
        let before = inner.registry.get(&push.key);
        let (group, at_ms) = changed(before.as_deref(), &push, self.now_ms());
        match inner.registry.put(&group) {
            Ok(()) => {}
            Err(Refusal::Full(text)) => return Err(PushError::Full(text)),
            Err(Refusal::Inconsistent(text)) => {
                inner.note_failure(before, &push.key, self.now_ms()).await;
                let text = format!("pushed metrics are invalid or inconsistent with existing metrics: {text}");
                return Err(PushError::Refused(text));
            }
        }
        let stored = inner.store(&push, before.as_deref(), &group, at_ms).await;
        if stored.is_err() {
            inner.registry.restore(&push.key, before.clone());
        }
        if let Err(PushError::Refused(_)) = &stored {
            inner.end_new_series(before.as_deref(), &group).await;
            inner.note_failure(before, &push.key, self.now_ms()).await;
        }
        stored
    }

    /// Ends a group; one that is not there is no error.
    pub async fn delete(&self, key: &GroupKey) -> Result<(), PushError> {
        let inner = &*self.0;
        let _turn = inner.turn(key).lock().await;
        match inner.registry.get(key) {
            Some(group) => inner.end(&group, (inner.now)()).await,
            None => Ok(()),
        }
    }

    /// Restates all groups and ends those whose time is over, until the server stops.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let restate_every = self.0.limits.restate_every.max(Duration::from_millis(1));
        let mut tick = tokio::time::interval(TICK.min(restate_every));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.wait_for(|stopped| *stopped) => return,
            }
            self.end_what_is_over().await;
            if Instant::now() >= next {
                next = Instant::now() + restate_every;
                self.restate().await;
            }
        }
    }

    /// Ends the groups whose time to live is over.
    pub async fn end_what_is_over(&self) {
        let inner = &*self.0;
        let now_ms = (inner.now)();
        for group in inner.registry.all().into_iter().filter(|group| group.is_over(now_ms)) {
            let _turn = inner.turn(&group.key).lock().await;
            // It may have been pushed again meanwhile.
            let Some(group) = inner.registry.get(&group.key).filter(|group| group.is_over(now_ms)) else { continue };
            match inner.end(&group, now_ms).await {
                Ok(()) => drop(inner.stats.expired.fetch_add(1, Ordering::Relaxed)),
                Err(error) => tracing::warn!(job = group.key.job(), ?error, "a group whose time is over did not end"),
            }
        }
    }

    /// Writes the samples of all groups at the present time.
    pub async fn restate(&self) {
        let inner = &*self.0;
        let mut by_turn: Vec<Vec<GroupKey>> = vec![Vec::new(); TURNS];
        for group in inner.registry.all() {
            by_turn[turn_of(&group.key)].push(group.key.clone());
        }
        for (turn, keys) in inner.turns.iter().zip(by_turn) {
            if keys.is_empty() {
                continue;
            }
            let _turn = turn.lock().await;
            let groups: Vec<_> = keys.iter().filter_map(|key| inner.registry.get(key)).collect();
            let now_ms = (inner.now)();
            let batches = groups.iter().map(|group| {
                let at_ms = group.next_ms(now_ms);
                let mut batch = Batch::new(origin(&group.key, at_ms));
                group.content.push_to(&mut batch, at_ms);
                group.push_times(&mut batch, at_ms);
                batch
            });
            for (batch, result) in inner.submit(batches.collect()).await {
                inner.note_restated(&batch, &result);
            }
        }
    }
}

impl Inner {
    fn turn(&self, key: &GroupKey) -> &Mutex<()> {
        &self.turns[turn_of(key)]
    }

    /// Hands batches to the store and waits for all of them.
    async fn submit(&self, batches: Vec<Batch>) -> Vec<Answer> {
        let append = Arc::clone(&self.append);
        // A full queue makes `submit` wait for room.
        let handed = tokio::task::spawn_blocking(move || {
            let submit = |batch: Batch| {
                let (tx, rx) = oneshot::channel();
                append.submit(batch, Box::new(move |batch, result| drop(tx.send((batch, result)))));
                rx
            };
            batches.into_iter().map(submit).collect::<Vec<_>>()
        });
        let mut answers = Vec::new();
        for answer in handed.await.unwrap_or_default() {
            answers.push(answer.await.unwrap_or_else(|_| closed()));
        }
        answers
    }

    async fn submit_one(&self, batch: Batch) -> Answer {
        self.submit(vec![batch]).await.pop().unwrap_or_else(closed)
    }

    /// Makes the samples and the group of a push durable.
    async fn store(
        &self,
        push: &Push,
        before: Option<&Group>,
        group: &Arc<Group>,
        at_ms: i64,
    ) -> Result<(), PushError> {
        let mut batch = Batch::new(origin(&push.key, push.received_at_ms));
        push.body.content.push_to(&mut batch, at_ms);
        push_exemplars(&mut batch, &push.body.exemplars, at_ms);
        group.push_times(&mut batch, at_ms);
        let gone = before.map(|before| before.content.gone_in(&group.content)).unwrap_or_default();
        push_stale(&mut batch, &gone, at_ms);
        let report = report::for_push(&self.batch_ids, facts(push, None));
        batch.report = Some(report.clone());
        let (_, result) = self.submit_one(batch).await;
        let appended = match result {
            Ok(appended) => appended,
            Err(error) => {
                (self.pushed)(report::for_push(&self.batch_ids, facts(push, Some(error.to_string()))));
                return Err(PushError::Store(error));
            }
        };
        let refused = appended.counts.refused_total();
        let health = if refused > 0 { Health::Degraded } else { report.health };
        (self.pushed)(CollectionReport { counts: appended.counts, health, ..report });
        if refused > 0 {
            return Err(PushError::Refused(refusal_text(&appended.counts)));
        }
        self.write(group).await
    }

    async fn write(&self, group: &Arc<Group>) -> Result<(), PushError> {
        let group = Arc::clone(group);
        self.on_disk(move |folder| folder.write(&group)).await
    }

    /// Works on the folder where disks may block.
    async fn on_disk(&self, work: impl FnOnce(&Folder) -> io::Result<()> + Send + 'static) -> Result<(), PushError> {
        let folder = Arc::clone(&self.folder);
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        done.unwrap_or_else(|_| Err(io::Error::other("the write broke off"))).map_err(PushError::Disk)
    }

    /// Writes the end of all series of a group, then forgets it.
    async fn end(&self, group: &Arc<Group>, now_ms: i64) -> Result<(), PushError> {
        let at_ms = group.next_ms(now_ms);
        let mut batch = Batch::new(origin(&group.key, at_ms));
        group.push_end(&mut batch, at_ms);
        self.submit_one(batch).await.1.map_err(PushError::Store)?;
        let key = group.key.clone();
        self.on_disk(move |folder| folder.remove(&key)).await?;
        self.registry.restore(&group.key, None);
        Ok(())
    }

    /// Ends what a push brought into the store that was then refused in part.
    async fn end_new_series(&self, before: Option<&Group>, group: &Group) {
        let nothing = Content::default();
        let old = before.map_or(&nothing, |before| &before.content);
        let at_ms = group.next_ms((self.now)());
        if let Some(before) = before {
            before.next_ms(at_ms);
        }
        let mut batch = Batch::new(origin(&group.key, at_ms));
        push_stale(&mut batch, &group.content.gone_in(old), at_ms);
        if let (_, Err(error)) = self.submit_one(batch).await {
            tracing::warn!(job = group.key.job(), %error, "series of a refused push did not end");
        }
    }

    /// Says in the group that a push failed; as in the original, a group comes to be if there is none.
    async fn note_failure(&self, before: Option<Arc<Group>>, key: &GroupKey, now_ms: i64) {
        let at_ms = before.as_deref().map_or(now_ms, |before| before.next_ms(now_ms));
        let group = Arc::new(match before.as_deref() {
            Some(Group { key, content, pushed_ms, ttl_ms, .. }) => {
                Group::new(key.clone(), content.clone(), *pushed_ms, now_ms, *ttl_ms, at_ms)
            }
            None => Group::new(key.clone(), Content::default(), 0, now_ms, 0, at_ms),
        });
        if self.registry.put(&group).is_err() {
            return;
        }
        let mut batch = Batch::new(origin(key, at_ms));
        group.push_times(&mut batch, at_ms);
        let stored = self.submit_one(batch).await.1.map_err(PushError::Store);
        let written = match stored {
            Ok(_) => self.write(&group).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(job = key.job(), ?error, "the time of a failed push was not kept");
            self.registry.restore(key, before);
        }
    }

    fn note_restated(&self, batch: &Batch, result: &Result<Appended, AppendError>) {
        let samples = (batch.samples.len() + batch.histograms.len()) as u64;
        let refused = match result {
            Ok(appended) => appended.counts.refused_total(),
            Err(error) => {
                tracing::warn!(source = batch.origin.source_id, %error, "a pushed group was not written again");
                samples
            }
        };
        self.stats.restated.fetch_add(samples - refused.min(samples), Ordering::Relaxed);
        self.stats.not_restated.fetch_add(refused, Ordering::Relaxed);
    }
}

fn turn_of(key: &GroupKey) -> usize {
    (key.spread() % TURNS as u64) as usize
}

fn closed() -> Answer {
    (Batch::default(), Err(AppendError::Closed))
}

/// Gives the group as it is after a push, and the time of its samples.
fn changed(before: Option<&Group>, push: &Push, now_ms: i64) -> (Arc<Group>, i64) {
    let at_ms = before.map_or(now_ms, |before| before.next_ms(now_ms));
    let content = match (before, push.verb) {
        (Some(before), Verb::Post) => before.content.with(&push.body.content),
        _ => push.body.content.clone(),
    };
    let failed_ms = before.map_or(0, |before| before.failed_ms);
    (Arc::new(Group::new(push.key.clone(), content, at_ms, failed_ms, push.ttl_ms, at_ms)), at_ms)
}

/// The job is the source, if it can be one.
fn origin(key: &GroupKey, received_at_ms: i64) -> Origin {
    let job = key.job();
    let fits = job.chars().count() <= SOURCE_CHARS_MAX && !job.chars().any(char::is_control);
    let source_id = if fits { job } else { DEFAULT_SOURCE }.to_owned();
    Origin { target_id: source_id.clone(), source_id, method: CollectionMethod::PushGateway, received_at_ms }
}

fn facts(push: &Push, error: Option<String>) -> PushFacts {
    PushFacts {
        origin: origin(&push.key, push.received_at_ms),
        duration_ms: u64::try_from(push.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        summary: if error.is_some() { TypeCounts::default() } else { push.body.points },
        samples_count: push.body.content.len() as u64,
        error,
    }
}

/// Finds the series of each exemplar among those of the batch.
fn push_exemplars(batch: &mut Batch, exemplars: &[PushedExemplar], at_ms: i64) {
    if exemplars.is_empty() {
        return;
    }
    let places: std::collections::HashMap<Vec<u8>, SeriesIndex> = (0..batch.series.len() as u32)
        .map(SeriesIndex)
        .map(|place| (batch.label_bytes(place).to_vec(), place))
        .collect();
    for exemplar in exemplars {
        if let Some(series) = places.get(exemplar.series.as_bytes()) {
            let (labels, value) = (exemplar.labels.clone(), exemplar.value);
            let ts_ms = exemplar.ts_ms.unwrap_or(at_ms);
            batch.exemplars.push(BatchExemplar { series: *series, labels, ts_ms, value });
        }
    }
}

fn refusal_text(counts: &Counts) -> String {
    let reasons = SampleRefusal::ALL.iter().zip(counts.refused).filter(|(_, count)| *count > 0);
    let reasons: Vec<String> = reasons.map(|(reason, count)| format!("{}: {count}", reason.as_str())).collect();
    let (refused, received) = (counts.refused_total(), counts.received);
    format!("{refused} of {received} samples were refused, so that the push is not taken; {}", reasons.join("; "))
}
