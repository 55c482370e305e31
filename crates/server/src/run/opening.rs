//! Opens the parts one by one: what lies on disk is read on threads that may block, and damage is told.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catalog::Catalog;
use collect::Sums;
use events::EventLog;
use model::{Counts, StreamMark};
use parking_lot::Mutex;
use store::{Recovery, Store, StoreConfig};
use sys::{Clock, RealFs};

use super::RunError;
use super::parts::Opening;
use super::reload::Reloader;
use super::retention::Keeper;
use crate::access::vault::Vault;
use crate::filtering::{self, SumsFile};
use crate::memory::MemoryPlan;
use crate::prom::{QueryLimits, QueryService, RuntimeInfo, WriteLimits};
use crate::push::{Folder, Group, PushLimits};
use crate::rest::Rest;
use crate::sinking::Sinking;
use crate::sql::{Sql, SqlParts};
use crate::stream::Positions;
use crate::upload::{Uploads, UploadsParts};

/// Scrapes come evenly spread; gathered for so long they share an fdatasync. Nobody waits for their answer.
const SCRAPE_PATIENCE_MS: u64 = 10;

impl Opening {
    /// Replays the log on a thread that may block.
    pub(super) async fn open_store(
        &self,
        clock: Arc<dyn Clock>,
        memory: &MemoryPlan,
        sinking: &Sinking,
    ) -> Result<(Arc<Store>, Recovery), RunError> {
        let dir = &self.settings.data_dir;
        let config = StoreConfig {
            dir: dir.clone(),
            retention_ms: self.settings.retention_ms,
            retention_bytes: self.settings.retention_bytes,
            compaction_bytes_per_second: self.settings.compaction_bytes_per_second,
            series_max: limited(self.settings.limits.series_max),
            series_bytes_max: memory.series,
            source_series_max: limited(self.settings.limits.source_series_max),
            exemplars_max: self.settings.exemplars_max,
            // See `upkeep`.
            maintain_every_ms: 0,
            scrape_patience_ms: SCRAPE_PATIENCE_MS,
            scrub_bytes_per_second: self.settings.scrub_bytes_per_second,
            follower: sinking.follower(),
            ..StoreConfig::default()
        };
        let wal_bytes = folder_bytes(&dir.join("wal"));
        self.gate.replaying(segments(&dir.join("wal")));
        self.gate.progress(format!("replaying {:.1} MiB of write-ahead log", wal_bytes as f64 / f64::from(1 << 20)));
        let opened = tokio::task::spawn_blocking(move || Store::open(Arc::new(RealFs), clock, config)).await;
        let (store, recovery) = opened.map_err(|_| RunError::Bug)??;
        tracing::info!(
            dir = %dir.display(),
            records = recovery.records,
            samples = recovery.samples,
            duration_ms = recovery.duration_ms,
            "store open"
        );
        for damage in &recovery.damaged {
            tracing::error!("damage found: {damage}");
        }
        Ok((store, recovery))
    }

    /// Reads what filters added up in earlier lives.
    pub(super) async fn open_sums(
        &self,
        dir: &Path,
        store: &Arc<Store>,
        now: &Arc<dyn Fn() -> i64 + Send + Sync>,
    ) -> Result<(Arc<Sums>, Arc<SumsFile>), RunError> {
        let sums = filtering::sums(store.clone(), now.clone());
        let (dir, read_into) = (dir.to_owned(), sums.clone());
        let opened = tokio::task::spawn_blocking(move || SumsFile::open(Arc::new(RealFs), &dir, read_into));
        let (file, trouble) = opened.await.map_err(|_| RunError::Bug)?;
        if let Some(trouble) = trouble {
            tracing::error!("damage found: {trouble}");
        }
        Ok((sums, Arc::new(file)))
    }

    /// Brings the targets' retention into the store before anybody can ask.
    pub(super) async fn open_keeper(
        &self,
        store: &Arc<Store>,
        catalog: &Arc<Catalog>,
    ) -> Result<Arc<Mutex<Keeper>>, RunError> {
        let path = self.settings.data_dir.join("retention");
        let (store, catalog, default_ms) = (store.clone(), catalog.clone(), self.settings.retention_ms);
        let opened =
            tokio::task::spawn_blocking(move || Keeper::open(Arc::new(RealFs), path, store, catalog, default_ms));
        Ok(Arc::new(Mutex::new(opened.await.map_err(|_| RunError::Bug)?)))
    }

    /// Reads the key of secrets.
    pub(super) async fn open_vault(&self, dir: &Path) -> Result<Arc<Vault>, RunError> {
        let (dir, settings) = (dir.to_owned(), self.settings.secrets.clone());
        let opened = tokio::task::spawn_blocking(move || Vault::open(&dir, settings)).await;
        Ok(Arc::new(opened.map_err(|_| RunError::Bug)?.map_err(RunError::Access)?))
    }

    /// Reads the pushed groups of earlier lives.
    pub(super) async fn open_push(&self, dir: &Path) -> Result<(Folder, Vec<Group>), RunError> {
        self.gate.progress("reading pushed groups");
        let dir = dir.join("push");
        let opened = tokio::task::spawn_blocking(move || {
            Folder::open(Arc::new(RealFs), &dir).map_err(|error| RunError::Push { dir, error })
        });
        let (folder, groups, damaged) = opened.await.map_err(|_| RunError::Bug)??;
        for damage in &damaged {
            tracing::error!("damage found: {damage}");
        }
        Ok((folder, groups))
    }

    /// Reads the uploads of earlier lives.
    pub(super) async fn open_uploads(
        &self,
        dir: &Path,
        rest: Rest,
        marks: Vec<(StreamMark, Counts)>,
    ) -> Result<Uploads, RunError> {
        let dir = dir.join("uploads");
        let analytics = self.options.sql.program.clone();
        let parts = UploadsParts { rest, fs: Arc::new(RealFs), dir: dir.clone(), analytics, marks };
        let opened = tokio::task::spawn_blocking(move || Uploads::open(parts)).await.map_err(|_| RunError::Bug)?;
        let (uploads, damaged) = opened.map_err(|error| RunError::Uploads { dir, error })?;
        for damage in &damaged {
            tracing::error!("damage found: {damage}");
        }
        Ok(uploads)
    }

    /// Reads how far streams have come.
    pub(super) async fn open_positions(
        &self,
        dir: &Path,
        marks: Vec<(StreamMark, Counts)>,
        now_ms: i64,
    ) -> Result<Arc<Positions>, RunError> {
        let dir = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || Positions::open(Arc::new(RealFs), &dir, marks, now_ms));
        let (positions, trouble) = opened.await.map_err(|_| RunError::Bug)?;
        if let Some(trouble) = trouble {
            tracing::error!("damage found: {trouble}");
        }
        Ok(Arc::new(positions))
    }

    /// Opens the event log; collections that the store knows and the log does not are published now.
    pub(super) async fn open_events(&self, dir: &Path, recovery: Recovery) -> Result<EventLog, RunError> {
        self.gate.progress("completing the event log");
        let dir = dir.join("events");
        let opened = tokio::task::spawn_blocking(move || {
            let log = EventLog::open(&dir)?;
            let restored = log.restore(recovery.reports.into_iter().map(|(_, report)| report))?;
            Ok::<_, events::EventError>((log, restored))
        });
        let (log, restored) = opened.await.map_err(|_| RunError::Bug)??;
        if restored > 0 {
            tracing::info!(restored, "events published that an earlier run did not get to");
        }
        Ok(log)
    }

    /// Lets SQL be answered over the same samples as PromQL.
    pub(super) fn open_sql(
        &self,
        store: Arc<Store>,
        queries: QueryService,
        rest: Rest,
        now: Arc<dyn Fn() -> i64 + Send + Sync>,
    ) -> Sql {
        let dir = &self.settings.data_dir;
        // The process that answers stands in another folder.
        let blocks = std::path::absolute(dir).unwrap_or_else(|_| dir.clone()).join("blocks");
        let options = self.options.sql.clone();
        let sql = Sql::new(SqlParts { store, queries, rest: rest.clone(), blocks, options, now });
        rest.answer_sql_by(sql.clone());
        sql
    }

    pub(super) fn query_limits(&self) -> QueryLimits {
        let query = self.settings.query;
        QueryLimits {
            concurrency: query.concurrency,
            timeout: Duration::from_millis(query.timeout_ms.max(1).unsigned_abs()),
            samples_max: query.samples_max,
            lookback_ms: query.lookback_ms,
            cache_bytes_max: query.cache_bytes_max,
            ..QueryLimits::default()
        }
    }

    pub(super) fn write_limits(&self) -> WriteLimits {
        let limits = self.settings.limits;
        WriteLimits {
            body_bytes_max: limits.body_bytes_max,
            inflated_bytes_max: limits.body_bytes_max,
            inflight_bytes_max: limits.inflight_bytes_max.max(2 * limits.body_bytes_max),
            ..WriteLimits::default()
        }
    }

    pub(super) fn push_limits(&self) -> PushLimits {
        PushLimits {
            restate_every: Duration::from_millis(self.settings.push_restate_ms.max(1).unsigned_abs()),
            body_bytes_max: self.settings.limits.body_bytes_max,
            ..PushLimits::default()
        }
    }

    /// Says where people reach this server.
    pub(super) fn external_url(&self) -> String {
        if let Some(url) = self.options.outside.url() {
            return url;
        }
        let scheme = if self.access.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.external_host(), self.options.outside.prefix())
    }

    /// Says under which name others reach this server.
    pub(super) fn external_host(&self) -> String {
        if let Some(host) = self.options.outside.host() {
            return host;
        }
        let (ip, port) = (self.address.ip(), self.address.port());
        if ip.is_unspecified() { format!("{}:{port}", hostname()) } else { self.address.to_string() }
    }

    pub(super) fn runtime_source(
        &self,
        reloader: &Arc<Reloader>,
        corruptions: Arc<AtomicU64>,
        started_at_ms: i64,
    ) -> Arc<dyn Fn() -> RuntimeInfo + Send + Sync> {
        let retention = model::format_duration_ms(self.settings.retention_ms);
        source(reloader, move |reloader| {
            let last = reloader.last();
            RuntimeInfo {
                started_at_ms,
                cwd: std::env::current_dir().map(|p| p.display().to_string()).unwrap_or_default(),
                hostname: hostname(),
                reload_ok: last.ok,
                reloaded_at_ms: last.taken_at_ms,
                reload_tried_at_ms: last.tried_at_ms,
                corruptions: corruptions.load(Ordering::Relaxed),
                threads: std::fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count() as u64),
                retention: retention.clone(),
            }
        })
    }
}

/// Gives the numbers of the first and the last segment of the log; zeros when there are none.
fn segments(wal: &Path) -> (u64, u64) {
    let names = std::fs::read_dir(wal).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let digits = |name: &std::ffi::OsString| -> Option<u64> {
        name.to_str()?.split('.').next()?.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()
    };
    let numbers: Vec<u64> = names.filter_map(|name| digits(&name)).collect();
    (numbers.iter().min().copied().unwrap_or(0), numbers.iter().max().copied().unwrap_or(0))
}

/// Zero means no limit but the memory's.
fn limited(n: u64) -> u64 {
    if n == 0 { u64::MAX } else { n }
}

/// Makes a source that asks one part.
pub(super) fn source<P, T>(
    part: &Arc<P>,
    ask: impl Fn(&P) -> T + Send + Sync + 'static,
) -> Arc<dyn Fn() -> T + Send + Sync>
where
    P: Send + Sync + 'static,
{
    let part = part.clone();
    Arc::new(move || ask(&part))
}

fn folder_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}
