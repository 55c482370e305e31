//! Everything behind the gate: opened in order, closed in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use catalog::Catalog;
use collect::report::BatchIds;
use collect::{AddressPolicy, Collector};
use events::EventLog;
use model::SeriesId;
use store::{Store, StoreStats};
use sys::{Clock, RealClock};
use tokio::sync::watch;
use tokio::time::timeout;

use super::doors::Doors;
use super::gate::Gate;
use super::jobs::Jobs;
use super::opening::source;
use super::reload::{InForce, Reloader};
use super::routes::{self, App};
use super::upkeep::{Tables, Written, merging, secure_events, upkeep};
use super::{Options, RunError};
use crate::access::Access;
use crate::alerting::{Groups, HostParts, Notifier, StoreHost};
use crate::announce::Announcer;
use crate::config::{Config, Settings};
use crate::filtering::{self, SourceFilters, SumsFile, Sweeper};
use crate::lines::{Influx, Lines, LinesParts};
use crate::live::{Live, LiveLimits, LiveParts};
use crate::memory::{Memory, MemoryPlan};
use crate::net::NetStats;
use crate::observe::Observer;
use crate::otlp::Otlp;
use crate::prom::admin::Admin;
use crate::prom::api::Pushed;
use crate::prom::elsewhere::Elsewhere;
use crate::prom::{PromApi, PromParts, QueryService};
use crate::push::{Gateway, GatewayParts};
use crate::rest::{Rest, RestParts};
use crate::sinking::{Around, Sinking};
use crate::stream::{Positions, StreamParts, Streams};
use crate::telemetry::own::{Own, OwnParts};
use crate::telemetry::{Exporter, HttpMetrics, Intake};
use crate::upload::MARK_PREFIX;

/// Scrapes under way get this long when the server stops.
pub const SCRAPES_GRACE: Duration = Duration::from_secs(3);

/// What opening needs.
pub struct Opening {
    pub options: Options,
    pub settings: Settings,
    pub address: SocketAddr,
    pub gate: Arc<Gate>,
    pub net: Arc<NetStats>,
    pub access: Arc<Access>,
    pub stop: watch::Receiver<bool>,
}

/// The parts that have to be closed.
pub struct Parts {
    pub reloader: Arc<Reloader>,
    pub otlp: Otlp,
    collector: Arc<Collector>,
    catalog: Arc<Catalog>,
    events: EventLog,
    pub store: Arc<Store>,
    sinking: Arc<Sinking>,
    prom: PromApi,
    rule_groups: Arc<Groups>,
    lines: Lines,
    positions: Arc<Positions>,
    announcer: Arc<Announcer>,
    sums_file: Arc<SumsFile>,
    exporter: Arc<Exporter>,
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
        let sinking = Sinking::new(&dir, &config.sinks, started_at_ms);
        let (store, mut recovery) = self.open_store(clock.clone(), memory.plan(), &sinking).await?;
        let corruptions = Arc::new(AtomicU64::new(recovery.damaged.len() as u64));
        // The store's lock is held: nobody else writes in the directory from here on.
        self.access.start_audit(&dir).map_err(RunError::Audit)?;
        let marks = std::mem::take(&mut recovery.marks);
        let (upload_marks, marks) = marks.into_iter().partition(|(mark, _)| mark.stream_id.starts_with(MARK_PREFIX));
        let events = self.open_events(&dir, recovery).await?;
        let positions = self.open_positions(&dir, marks, started_at_ms).await?;
        let (folder, groups) = self.open_push(&dir).await?;
        let catalog = self.open_catalog(&dir).await?;

        let keeper = self.open_keeper(&store, &catalog).await?;
        let intake = Arc::new(Intake::default());
        let observer = Arc::new(Observer::new(catalog.clone(), events.clone()));
        let filters = Arc::new(SourceFilters::new(observer.push_targets().clone()));
        let (sums, sums_file) = self.open_sums(&dir, &store, &now).await?;
        let doors = Doors {
            store: &store,
            observer: &observer,
            intake: &intake,
            clock: &clock,
            filters: &filters,
            sums: &sums,
        };
        let (append, tap, rejections) = doors.open();
        let batch_ids = Arc::new(BatchIds::new(self.settings.node.clone()));
        let pushed: Pushed = {
            let observer = observer.clone();
            Arc::new(move |report| observer.pushed(report))
        };
        let collector = {
            let (append, observer, ids) = (append.clone(), observer.clone(), batch_ids.clone());
            Arc::new(Collector::with_sums(append, observer, ids, clock.clone(), sums.clone()))
        };
        let queries = QueryService::new(store.clone(), self.query_limits(), now.clone());
        let elsewhere = Elsewhere::default();
        let queries = queries.with_memory(memory.queries.clone()).with_elsewhere(elsewhere.clone());
        let rest = Rest::new(RestParts {
            node: self.settings.node.clone(),
            catalog: catalog.clone(),
            events: events.clone(),
            collector: collector.clone(),
            append: append.clone(),
            batch_ids: batch_ids.clone(),
            observer: observer.clone(),
            rejections: rejections.clone(),
            type_of_metric: {
                let store = store.clone();
                Arc::new(move |name: &str| filtering::type_of(&*store, name).metric_type)
            },
            configured_filters: {
                let filters = filters.clone();
                Arc::new(move |source: &str| filters.configured(source))
            },
            totals: source(&store, |store| store.totals().0),
            ledger: store.clone(),
            now: now.clone(),
            ask: Arc::new(queries.clone()),
            purge: {
                let keeper = keeper.clone();
                Arc::new(move |target_id: &str, at_ms| keeper.lock().schedule_purge(target_id, at_ms))
            },
            base_url: self.external_url(),
            address_policy: AddressPolicy::strict(self.address.ip().is_loopback())
                .with_lists(self.settings.targets.allow.clone(), self.settings.targets.deny.clone()),
            vault: self.open_vault(&dir).await?,
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
        sinking.surround(Around {
            external_labels: source(&external_labels, |labels| Vec::clone(&labels.load())),
            families: source(&store, |store| model::Select::metadata(store, None)),
            now_ms: now.clone(),
        });
        let in_force = InForce {
            access: self.access.clone(),
            sinking: sinking.clone(),
            elsewhere,
            jobs: jobs.clone(),
            groups: rule_groups.clone(),
            notifier: notifier.clone(),
            otlp: Arc::clone(&otlp_options),
            external_labels: external_labels.clone(),
            filters: filters.clone(),
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
        let sql = self.open_sql(store.clone(), queries.clone(), rest.clone(), now.clone());
        let live_queries = queries.clone();
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
                    ..store.stats_with_labels()
                })
            },
            blocks: source(&store, |store| store.blocks()),
            relabel_rules: {
                let reloader = reloader.clone();
                Arc::new(move |job: &str| reloader.relabel_rules(job))
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
            stop: self.stop.clone(),
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
        let live = Live::new(LiveParts {
            queries: live_queries,
            select: store.clone(),
            now: now.clone(),
            stop: self.stop.clone(),
            limits: LiveLimits::default(),
        });
        let otlp = Otlp::new(prom.writer.clone(), otlp_options);

        self.gate.progress("loading targets");
        let loaded = rest.load_targets();
        reloader.apply(config).await;
        tracing::info!(registered = loaded, targets = collector.len(), "targets loaded");
        let latest = self.open_cache(&rest, &store);
        let announcer = self.start_announcer(&dir, &events, &now)?;
        let http = Arc::new(HttpMetrics::default());
        let exporter = Exporter::start(&self.settings.telemetry, &self.settings.node);
        let own = Arc::new(Own::new(OwnParts {
            exporter: exporter.clone(),
            intake,
            http: http.clone(),
            net: self.net.clone(),
            access: self.access.clone(),
            store: store.clone(),
            collector: collector.clone(),
            events: events.clone(),
            catalog: catalog.clone(),
            cache: latest.cache().clone(),
            announcer: announcer.clone(),
            jobs: jobs.clone(),
            reloader: reloader.clone(),
            groups: rule_groups.clone(),
            notifier: notifier.clone(),
            sinking: sinking.clone(),
            prom: prom.clone(),
            gateway: gateway.clone(),
            otlp: otlp.clone(),
            memory: memory.clone(),
            rejections,
            sums: sums.clone(),
            sums_file: sums_file.clone(),
            influx: influx.clone(),
            lines: lines.clone(),
            streams: streams.clone(),
            live: live.clone(),
            uploads: uploads.clone(),
            sql: sql.clone(),
            corruptions,
            started_at_ms,
        }));
        exporter.follow(&self.settings.telemetry, own.clone(), started_at_ms, self.stop.clone());
        tokio::spawn(rest.clone().housekeeping(self.stop.clone()));
        tokio::spawn(rest.clone().follow_catalog(self.stop.clone()));
        {
            let (catalog, stop) = (catalog.clone(), self.stop.clone());
            tokio::spawn(async move { catalog.follow(stop).await });
        }
        tokio::spawn(prom.clone().report_writes(self.stop.clone()));
        tokio::spawn(gateway.clone().run(self.stop.clone()));
        tokio::spawn(jobs.follow(self.stop.clone()));
        tokio::spawn(notifier.run(self.stop.clone()));
        let unpublished = observer.unpublished().clone();
        tokio::spawn(uploads.clone().work(self.stop.clone()));
        let tables = Tables { positions: positions.clone(), uploads: uploads.clone(), sums: sums_file.clone() };
        {
            let (events, unpublished, tables) = (events.clone(), unpublished.clone(), tables.clone());
            store.before_cut(move || secure_events(&events, &unpublished).and_then(|()| tables.save()));
        }
        let sweeper = Sweeper::new(sums, filters, collector.clone());
        let written = Written { events: events.clone(), unpublished, tables, sweeper: Arc::new(sweeper) };
        tokio::spawn(upkeep(store.clone(), written, keeper, clock.clone(), self.stop.clone()));
        tokio::spawn(merging(store.clone(), self.stop.clone()));
        let (reloading, collecting) = (reloader.clone(), collector.clone());
        tokio::spawn(memory.clone().watch(store.clone(), self.stop.clone()));
        let app = App {
            rest,
            latest,
            prom: prom.clone(),
            gateway,
            otlp: otlp.clone(),
            influx,
            streams,
            live,
            uploads,
            sql,
            reloader: reloading,
            own,
            collector: collecting,
            memory,
            store: store.clone(),
            access: self.access.clone(),
        };
        self.gate.open(routes::router(app, http, &self.settings.limits));
        Ok(Parts {
            reloader,
            otlp,
            collector,
            catalog,
            events,
            store,
            sinking,
            prom,
            rule_groups,
            lines,
            positions,
            announcer,
            sums_file,
            exporter,
            clock,
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
        self.announcer.finish().await;
        self.prom.writer.report();
        let positions = self.positions.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || positions.save()).await {
            tracing::error!("how far streams have come: {error}; the store's log has it");
        }
        let sums_file = self.sums_file.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || sums_file.save_now()).await {
            tracing::error!("what filters added up: {error}; it goes on from what is stored");
        }
        let events = self.events.clone();
        let synced = tokio::task::spawn_blocking(move || events.sync()).await;
        if let Ok(Err(error)) = synced {
            tracing::error!("{error}");
        }
        if let Err(error) = self.catalog.flush(self.clock.now_ms(), true).await {
            tracing::error!("{error}");
        }
        self.sinking.stop().await;
        self.exporter.finish().await;
        let (store, sinking) = (self.store.clone(), self.sinking.clone());
        let close = move || {
            store.close();
            sinking.close();
        };
        if tokio::task::spawn_blocking(close).await.is_err() {
            tracing::error!("the store did not close in order; its log has everything that was acknowledged");
        }
    }
}
