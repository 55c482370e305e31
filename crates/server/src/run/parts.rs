//! Everything behind the gate: opened in order, closed in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use catalog::Catalog;
use collect::report::BatchIds;
use collect::{AddressPolicy, Collector};
use events::EventLog;
use model::{Append, Counts, SeriesId, StreamMark};
use parking_lot::Mutex;
use store::{Recovery, Store, StoreConfig, StoreStats};
use sys::{Clock, RealClock, RealFs};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, timeout};

use super::gate::Gate;
use super::jobs::Jobs;
use super::reload::{InForce, Reloader};
use super::retention::Keeper;
use super::routes::{self, App};
use super::unpublished::{Noting, Unpublished};
use super::{Options, RunError};
use crate::alerting::{Groups, HostParts, Notifier, StoreHost};
use crate::config::{Config, Settings};
use crate::lines::{Influx, Lines, LinesParts};
use crate::memory::{Memory, MemoryPlan};
use crate::net::NetStats;
use crate::observe::Observer;
use crate::otlp::Otlp;
use crate::prom::admin::Admin;
use crate::prom::api::Pushed;
use crate::prom::{PromApi, PromParts, QueryLimits, QueryService, RuntimeInfo, WriteLimits};
use crate::push::{Folder, Gateway, GatewayParts, Group, PushLimits};
use crate::rejections::{Noted, Rejections};
use crate::rest::push_targets::Attributed;
use crate::rest::{Rest, RestParts};
use crate::stream::{Positions, StreamParts, Streams, Tap, Tapped};
use crate::telemetry::own::{Own, OwnParts};
use crate::telemetry::{HttpMetrics, Intake, Metered};
use crate::upload::{MARK_PREFIX, Uploads, UploadsParts};

/// Scrapes under way get this long when the server stops.
pub const SCRAPES_GRACE: Duration = Duration::from_secs(3);
/// Scrapes come evenly spread; gathered for so long they share an fdatasync. Nobody waits for their answer.
const SCRAPE_PATIENCE_MS: u64 = 10;
/// How often the head is written out early for the sake of room; each time costs a small block.
const RELIEVE_EVERY: Duration = Duration::from_secs(30);
/// Whoever made a batch durable gets this long to publish its event before the event is published for him.
const PUBLISH_WAIT: Duration = Duration::from_secs(1);
/// How often windows that are over are looked for.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// How often blocks to merge are looked for.
const MERGE_EVERY: Duration = Duration::from_secs(5);

/// What opening needs.
pub struct Opening {
    pub options: Options,
    pub settings: Settings,
    pub address: SocketAddr,
    pub gate: Arc<Gate>,
    pub net: Arc<NetStats>,
    pub stop: watch::Receiver<bool>,
}

/// The parts that have to be closed.
pub struct Parts {
    pub reloader: Arc<Reloader>,
    pub otlp: Otlp,
    collector: Arc<Collector>,
    catalog: Arc<Catalog>,
    events: EventLog,
    store: Arc<Store>,
    prom: PromApi,
    rule_groups: Arc<Groups>,
    lines: Lines,
    positions: Arc<Positions>,
    clock: Arc<dyn Clock>,
}

impl Opening {
    /// Opens all parts and the gate.
    pub async fn open(self, config: Config) -> Result<Parts, RunError> {
        let clock: Arc<dyn Clock> = Arc::new(RealClock::default());
        let now = {
            let clock = clock.clone();
            Arc::new(move || clock.now_ms()) as Arc<dyn Fn() -> i64 + Send + Sync>
        };
        let started_at_ms = now();
        let memory = Memory::new(MemoryPlan::of(&self.settings.limits));
        let dir = self.settings.data_dir.clone();
        let (store, mut recovery) = self.open_store(clock.clone(), memory.plan()).await?;
        let corruptions = Arc::new(AtomicU64::new(recovery.damaged.len() as u64));
        // The store's lock is held: nobody else writes in the directory from here on.
        let marks = std::mem::take(&mut recovery.marks);
        let (upload_marks, marks) = marks.into_iter().partition(|(mark, _)| mark.stream_id.starts_with(MARK_PREFIX));
        let events = self.open_events(&dir, recovery).await?;
        let positions = self.open_positions(&dir, marks, started_at_ms).await?;
        let (folder, groups) = self.open_push(&dir).await?;
        self.gate.progress("opening the catalog of targets");
        let catalog = Arc::new(Catalog::open(&dir.join("catalog.db")).await?);

        let keeper = self.open_keeper(&store, &catalog).await?;
        let intake = Arc::new(Intake::default());
        let observer = Arc::new(Observer::new(catalog.clone(), events.clone()));
        let noting = Arc::new(Noting::new(store.clone(), observer.unpublished().clone()));
        let tap = Arc::new(Tap::default());
        let tapped: Arc<dyn Append> = Arc::new(Tapped::new(noting, tap.clone()));
        let metered: Arc<dyn Append> = Arc::new(Metered::new(tapped, intake.clone()));
        let rejections = Arc::new(Rejections::new(Some(store.clone())));
        let append: Arc<dyn Append> = Arc::new(Noted::new(metered, rejections.clone(), clock.clone()));
        let append: Arc<dyn Append> = Arc::new(Attributed::new(append, observer.push_targets().clone()));
        let batch_ids = Arc::new(BatchIds::new(self.settings.node.clone()));
        let pushed: Pushed = {
            let observer = observer.clone();
            Arc::new(move |report| observer.pushed(report))
        };
        let collector = Arc::new(Collector::new(append.clone(), observer.clone(), batch_ids.clone()));
        let queries = QueryService::new(store.clone(), self.query_limits(), now.clone());
        let queries = queries.with_memory(memory.queries.clone());
        let rest = Rest::new(RestParts {
            node: self.settings.node.clone(),
            catalog: catalog.clone(),
            events: events.clone(),
            collector: collector.clone(),
            append: append.clone(),
            batch_ids: batch_ids.clone(),
            observer: observer.clone(),
            rejections: rejections.clone(),
            totals: source(&store, |store| store.totals().0),
            ledger: store.clone(),
            now: now.clone(),
            ask: Arc::new(queries.clone()),
            purge: {
                let keeper = keeper.clone();
                Arc::new(move |target_id: &str, at_ms| keeper.lock().schedule_purge(target_id, at_ms))
            },
            base_url: format!("http://{}", self.external_host()),
            address_policy: AddressPolicy::strict(self.address.ip().is_loopback()),
            body_bytes_max: self.settings.limits.body_bytes_max,
            stop: self.stop.clone(),
        });
        let jobs = {
            let rest = rest.clone();
            Arc::new(Jobs::new(collector.clone(), Box::new(move |target_id| rest.is_muted(target_id))))
        };
        let (options, settings) = (self.options.clone(), self.settings.clone());
        let otlp_options: Arc<ArcSwap<wire::otlp::Options>> = Arc::default();
        let external_labels: Arc<ArcSwap<Vec<(String, String)>>> = Arc::default();
        let notifier = {
            let labels = source(&external_labels, |labels| Vec::clone(&labels.load()));
            Arc::new(Notifier::new(labels, self.external_url()))
        };
        let rule_groups = {
            let host = StoreHost(HostParts {
                select: store.clone(),
                append: append.clone(),
                limits: self.query_limits(),
                memory: Some(memory.queries.clone()),
                external_labels: source(&external_labels, |labels| Vec::clone(&labels.load())),
                external_url: self.external_url(),
                now: now.clone(),
            });
            Arc::new(Groups::new(Arc::new(host), notifier.clone(), now.clone()))
        };
        let in_force = InForce {
            jobs: jobs.clone(),
            groups: rule_groups.clone(),
            notifier: notifier.clone(),
            otlp: Arc::clone(&otlp_options),
            external_labels: external_labels.clone(),
        };
        let reloader = Arc::new(Reloader::new(options, settings, in_force, now.clone()));
        let gateway = Gateway::new(GatewayParts {
            append: append.clone(),
            batch_ids: batch_ids.clone(),
            pushed: pushed.clone(),
            now: now.clone(),
            folder,
            groups,
            limits: self.push_limits(),
            ttl_ms: {
                let targets = observer.push_targets().clone();
                Arc::new(move |source_id: &str| targets.ttl_ms(source_id))
            },
        });
        let (line_append, line_ids, line_pushed) = (append.clone(), batch_ids.clone(), pushed.clone());
        let prom = PromApi::new(PromParts {
            append,
            select: store.clone(),
            queries,
            targets: source(&collector, |collector| {
                let with_spec = |status: collect::TargetStatus| Some((collector.spec(&status.target_id)?, status));
                collector.statuses().into_iter().filter_map(with_spec).collect()
            }),
            dropped: source(&jobs, |jobs| jobs.dropped()),
            exemplars: {
                let store = store.clone();
                Arc::new(move |matchers, range| store.exemplars(matchers, range))
            },
            store_stats: {
                let memory = memory.clone();
                source(&store, move |store| StoreStats {
                    new_series_per_second: memory.new_series_per_second(),
                    ..store.stats()
                })
            },
            config_text: source(&reloader, |reloader| reloader.printed()),
            external_labels: source(&reloader, |reloader| reloader.external_labels()),
            flags: source(&Arc::new(self.options.flags.clone()), |flags| flags.to_vec()),
            admin: self.settings.admin_api.then(|| {
                let events = events.clone();
                let before_flush = Arc::new(move || events.sync().map_err(|e| e.to_string()));
                Arc::new(Admin { store: store.clone(), before_flush })
            }),
            runtime: self.runtime_source(&reloader, corruptions.clone(), started_at_ms),
            build: super::routes::build_info(),
            external_host: self.external_host(),
            now: now.clone(),
            write_limits: self.write_limits(),
            batch_ids,
            pushed,
            room: Some(memory.requests.clone()),
            rules: source(&rule_groups, |groups| groups.views()),
            alertmanagers: source(&notifier, |notifier| notifier.alertmanagers()),
        });
        let influx = Influx::new(prom.writer.clone(), store.clone());
        let lines = Lines::new(LinesParts {
            append: line_append,
            select: store.clone(),
            batch_ids: line_ids,
            pushed: line_pushed,
            now: now.clone(),
            stop: self.stop.clone(),
        });
        lines.listen(&self.settings.lines).await?;
        let uploads = self.open_uploads(&dir, rest.clone(), upload_marks).await?;
        let streams = Streams::new(StreamParts {
            rest: rest.clone(),
            select: store.clone(),
            positions: positions.clone(),
            tap,
            labels: {
                let store = store.clone();
                Arc::new(move |ids: &[SeriesId]| store.labels_of(ids))
            },
        });
        let otlp = Otlp::new(prom.writer.clone(), otlp_options);

        self.gate.progress("loading targets");
        let loaded = rest.load_targets();
        reloader.apply(config).await;
        tracing::info!(registered = loaded, targets = collector.len(), "targets loaded");
        let http = Arc::new(HttpMetrics::default());
        let own = Arc::new(Own::new(OwnParts {
            intake,
            http: http.clone(),
            net: self.net.clone(),
            store: store.clone(),
            collector: collector.clone(),
            events: events.clone(),
            jobs: jobs.clone(),
            reloader: reloader.clone(),
            groups: rule_groups.clone(),
            notifier: notifier.clone(),
            prom: prom.clone(),
            gateway: gateway.clone(),
            otlp: otlp.clone(),
            memory: memory.clone(),
            rejections,
            influx: influx.clone(),
            lines: lines.clone(),
            streams: streams.clone(),
            uploads: uploads.clone(),
            corruptions,
            started_at_ms,
        }));
        tokio::spawn(rest.clone().housekeeping(self.stop.clone()));
        tokio::spawn(prom.clone().report_writes(self.stop.clone()));
        tokio::spawn(gateway.clone().run(self.stop.clone()));
        tokio::spawn(jobs.follow(self.stop.clone()));
        tokio::spawn(notifier.run(self.stop.clone()));
        let unpublished = observer.unpublished().clone();
        tokio::spawn(uploads.clone().work(self.stop.clone()));
        let tables = Tables { positions: positions.clone(), uploads: uploads.clone() };
        {
            let (events, unpublished, tables) = (events.clone(), unpublished.clone(), tables.clone());
            store.before_cut(move || secure_events(&events, &unpublished).and_then(|()| tables.save()));
        }
        let written = Written { events: events.clone(), unpublished, tables };
        tokio::spawn(upkeep(store.clone(), written, keeper, clock.clone(), self.stop.clone()));
        tokio::spawn(merging(store.clone(), self.stop.clone()));
        let (reloading, collecting) = (reloader.clone(), collector.clone());
        tokio::spawn(memory.clone().watch(store.clone(), self.stop.clone()));
        let app = App {
            rest,
            prom: prom.clone(),
            gateway,
            otlp: otlp.clone(),
            influx,
            streams,
            uploads,
            reloader: reloading,
            own,
            collector: collecting,
            memory,
            store: store.clone(),
        };
        self.gate.open(routes::router(app, http, &self.settings.limits));
        Ok(Parts { reloader, otlp, collector, catalog, events, store, prom, rule_groups, lines, positions, clock })
    }

    /// Replays the log on a thread that may block.
    async fn open_store(&self, clock: Arc<dyn Clock>, memory: &MemoryPlan) -> Result<(Arc<Store>, Recovery), RunError> {
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
            ..StoreConfig::default()
        };
        let wal_bytes = folder_bytes(&dir.join("wal"));
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

    /// Brings the targets' retention into the store before anybody can ask.
    async fn open_keeper(&self, store: &Arc<Store>, catalog: &Arc<Catalog>) -> Result<Arc<Mutex<Keeper>>, RunError> {
        let path = self.settings.data_dir.join("retention");
        let (store, catalog, default_ms) = (store.clone(), catalog.clone(), self.settings.retention_ms);
        let opened =
            tokio::task::spawn_blocking(move || Keeper::open(Arc::new(RealFs), path, store, catalog, default_ms));
        Ok(Arc::new(Mutex::new(opened.await.map_err(|_| RunError::Bug)?)))
    }

    /// Reads the pushed groups of earlier lives.
    async fn open_push(&self, dir: &Path) -> Result<(Folder, Vec<Group>), RunError> {
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
    async fn open_uploads(
        &self,
        dir: &Path,
        rest: Rest,
        marks: Vec<(StreamMark, Counts)>,
    ) -> Result<Uploads, RunError> {
        let dir = dir.join("uploads");
        let parts = UploadsParts { rest, fs: Arc::new(RealFs), dir: dir.clone(), marks };
        let opened = tokio::task::spawn_blocking(move || Uploads::open(parts)).await.map_err(|_| RunError::Bug)?;
        let (uploads, damaged) = opened.map_err(|error| RunError::Uploads { dir, error })?;
        for damage in &damaged {
            tracing::error!("damage found: {damage}");
        }
        Ok(uploads)
    }

    /// Reads how far streams have come.
    async fn open_positions(
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
    async fn open_events(&self, dir: &Path, recovery: Recovery) -> Result<EventLog, RunError> {
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

    fn query_limits(&self) -> QueryLimits {
        let query = self.settings.query;
        QueryLimits {
            concurrency: query.concurrency,
            timeout: Duration::from_millis(query.timeout_ms.max(1).unsigned_abs()),
            samples_max: query.samples_max,
            lookback_ms: query.lookback_ms,
            ..QueryLimits::default()
        }
    }

    fn write_limits(&self) -> WriteLimits {
        let limits = self.settings.limits;
        WriteLimits {
            body_bytes_max: limits.body_bytes_max,
            inflated_bytes_max: limits.body_bytes_max,
            inflight_bytes_max: limits.inflight_bytes_max.max(2 * limits.body_bytes_max),
            ..WriteLimits::default()
        }
    }

    fn push_limits(&self) -> PushLimits {
        PushLimits {
            restate_every: Duration::from_millis(self.settings.push_restate_ms.max(1).unsigned_abs()),
            body_bytes_max: self.settings.limits.body_bytes_max,
            ..PushLimits::default()
        }
    }

    /// Says where people reach this server.
    fn external_url(&self) -> String {
        format!("http://{}", self.external_host())
    }

    /// Says under which name others reach this server.
    fn external_host(&self) -> String {
        let (ip, port) = (self.address.ip(), self.address.port());
        if ip.is_unspecified() { format!("{}:{port}", hostname()) } else { self.address.to_string() }
    }

    fn runtime_source(
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
                corruptions: corruptions.load(Ordering::Relaxed),
                threads: std::fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count() as u64),
                retention: retention.clone(),
            }
        })
    }
}

impl Parts {
    /// Ends scrapes and rules; no new ones begin.
    pub async fn stop_collecting(&self) {
        let stop = async { tokio::join!(self.collector.shutdown(), self.rule_groups.stop()) };
        if timeout(SCRAPES_GRACE, stop).await.is_err() {
            tracing::warn!("scrapes or rules were still under way at shutdown");
        }
    }

    /// Writes the last reports, then closes event log, catalog and store.
    pub async fn close(self) {
        self.lines.finish().await;
        self.prom.writer.report();
        let positions = self.positions.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || positions.save()).await {
            tracing::error!("how far streams have come: {error}; the store's log has it");
        }
        let events = self.events.clone();
        let synced = tokio::task::spawn_blocking(move || events.sync()).await;
        if let Ok(Err(error)) = synced {
            tracing::error!("{error}");
        }
        if let Err(error) = self.catalog.flush(self.clock.now_ms(), true).await {
            tracing::error!("{error}");
        }
        let store = self.store.clone();
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            tracing::error!("the store did not close in order; its log has everything that was acknowledged");
        }
    }
}

/// Tables that have what the log may lose to a cut.
#[derive(Clone)]
struct Tables {
    positions: Arc<Positions>,
    uploads: Uploads,
}

impl Tables {
    fn save(&self) -> Result<(), String> {
        self.positions.save().and_then(|()| self.uploads.save_all()).map_err(|e| e.to_string())
    }
}

/// What must be on disk before the store's log is cut.
#[derive(Clone)]
struct Written {
    events: EventLog,
    unpublished: Arc<Unpublished>,
    tables: Tables,
}

/// Makes the events of everything that the store has taken durable: the store's log may be cut afterwards.
fn secure_events(events: &EventLog, unpublished: &Unpublished) -> Result<(), String> {
    let settled = unpublished.settle(PUBLISH_WAIT, |report| events.publish(report));
    events.sync().map_err(|e| e.to_string())?;
    if settled { Ok(()) } else { Err("collections are under way whose events are not written yet".to_owned()) }
}

/// Turns windows into blocks and cuts the log, see [`secure_events`] for what comes before the cut; follows the targets'
/// retention.
async fn upkeep(
    store: Arc<Store>,
    written: Written,
    keeper: Arc<Mutex<Keeper>>,
    clock: Arc<dyn Clock>,
    mut stop: watch::Receiver<bool>,
) {
    let mut tick = tokio::time::interval(UPKEEP_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut refused_before, mut relieved_at) = (0, None::<Instant>);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
        let refused = store.admission().refused_total();
        // Ended series hold the room that others wait for.
        let relieve = refused > refused_before && relieved_at.is_none_or(|at| at.elapsed() >= RELIEVE_EVERY);
        let (store, written) = (store.clone(), written.clone());
        let (keeper, clock) = (keeper.clone(), clock.clone());
        let round = tokio::task::spawn_blocking(move || {
            // What is still under way now keeps the store from cutting its log, but from nothing else.
            if let Err(error) = secure_events(&written.events, &written.unpublished) {
                tracing::warn!("events: {error}");
            }
            if let Err(error) = written.tables.save() {
                tracing::warn!("how far streams and uploads are: {error}");
            }
            keeper.lock().tick(clock.now_ms())?;
            let done = store.maintain_windows().map_err(|e| e.to_string())?;
            let forgotten = if relieve { store.relieve().map_err(|e| e.to_string())? } else { 0 };
            Ok::<_, String>((done, forgotten))
        });
        let round = round.await;
        if let Ok(Ok((_, forgotten @ 1..))) = &round {
            tracing::info!(forgotten, "series that have ended made room for new ones");
            (refused_before, relieved_at) = (refused, Some(Instant::now()));
        }
        match round.map(|round| round.map(|(done, _)| done)) {
            Ok(Ok(done)) if done.blocks_written + done.blocks_dropped > 0 => {
                tracing::info!(
                    written = done.blocks_written,
                    dropped = done.blocks_dropped,
                    segments_cut = done.segments_cut,
                    "blocks"
                );
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!("upkeep: {error}; it is tried again"),
            Err(error) => tracing::error!(%error, "upkeep broke off; it is tried again"),
        }
    }
}

/// Merges blocks, apart from the rest of the upkeep: a large merge takes minutes.
async fn merging(store: Arc<Store>, mut stop: watch::Receiver<bool>) {
    let mut pause = MERGE_EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
        let store = store.clone();
        pause = match tokio::task::spawn_blocking(move || store.compact()).await {
            Ok(Ok(0)) => MERGE_EVERY,
            Ok(Ok(blocks)) => {
                tracing::info!(blocks, "blocks became one");
                Duration::ZERO
            }
            Ok(Err(error)) => {
                tracing::error!("{error}; it is tried again");
                MERGE_EVERY
            }
            Err(error) => {
                tracing::error!(%error, "merging blocks broke off; it is tried again");
                MERGE_EVERY
            }
        };
    }
}

/// Zero means no limit but the memory's.
fn limited(n: u64) -> u64 {
    if n == 0 { u64::MAX } else { n }
}

/// Makes a source that asks one part.
fn source<P, T>(part: &Arc<P>, ask: impl Fn(&P) -> T + Send + Sync + 'static) -> Arc<dyn Fn() -> T + Send + Sync>
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
