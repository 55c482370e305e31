//! The page `/metrics`: everything that this server counts of itself.
//!
//! Invariant: the page reads without an error under our own parser.
//! Cost: counting the store takes at most a [`STORE_SHARE`]th of the time; the rest is loads of atomics and a walk over the targets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catalog::Catalog;
use collect::{Collector, Sums, TargetOrigin};
use events::EventLog;
use model::{Health, Refusal};
use parking_lot::Mutex;
use store::{Full, Store, StoreStats};

use super::export::Exporter;
use super::exposition::Exposition;
use super::http::HttpMetrics;
use super::intake::Intake;
use super::process;
use crate::access::Access;
use crate::alerting::{Groups, Notifier};
use crate::announce::Announcer;
use crate::cache::Cache;
use crate::filtering::SumsFile;
use crate::lines::{Influx, Lines};
use crate::live::Live;
use crate::memory::Memory;
use crate::net::NetStats;
use crate::otlp::Otlp;
use crate::prom::PromApi;
use crate::push::Gateway;
use crate::rejections::Rejections;
use crate::run::{Jobs, Reloader};
use crate::sinking::Sinking;
use crate::sql::Sql;
use crate::stream::Streams;
use crate::upload::Uploads;

/// The figures of the store may be this many times as old as counting them took.
const STORE_SHARE: u32 = 50;

/// What the page is made from.
pub struct OwnParts {
    /// Samples and batches.
    pub intake: Arc<Intake>,
    /// Requests.
    pub http: Arc<HttpMetrics>,
    /// Connections.
    pub net: Arc<NetStats>,
    /// Who comes in.
    pub access: Arc<Access>,
    /// The store.
    pub store: Arc<Store>,
    /// Targets and scrapes.
    pub collector: Arc<Collector>,
    /// Events.
    pub events: EventLog,
    /// Targets and collections.
    pub catalog: Arc<Catalog>,
    /// The cache.
    pub cache: Arc<Cache>,
    /// Events on their way out.
    pub announcer: Arc<Announcer>,
    /// Scrape jobs and discovery.
    pub jobs: Arc<Jobs>,
    /// The configuration.
    pub reloader: Arc<Reloader>,
    /// Rules.
    pub groups: Arc<Groups>,
    /// Alerts on their way.
    pub notifier: Arc<Notifier>,
    /// Where samples go to as well.
    pub sinking: Arc<Sinking>,
    /// Queries and remote write.
    pub prom: PromApi,
    /// Pushed groups.
    pub gateway: Gateway,
    /// OTLP.
    pub otlp: Otlp,
    /// The memory of the process.
    pub memory: Memory,
    /// Who was refused what.
    pub rejections: Arc<Rejections>,
    /// InfluxDB's line protocol.
    pub influx: Influx,
    /// StatsD and Graphite.
    pub lines: Lines,
    /// Streams.
    pub streams: Streams,
    /// Live queries.
    pub live: Live,
    /// Uploads.
    pub uploads: Uploads,
    /// SQL.
    pub sql: Sql,
    /// What filters add up.
    pub sums: Arc<Sums>,
    /// And its file.
    pub sums_file: Arc<SumsFile>,
    /// What goes out over OTLP.
    pub exporter: Arc<Exporter>,
    /// Damaged records and files found.
    pub corruptions: Arc<AtomicU64>,
    /// When the process started; milliseconds since 1970.
    pub started_at_ms: i64,
}

/// The server's view of itself.
pub struct Own {
    parts: OwnParts,
    panics: AtomicU64,
    store: Mutex<Option<Counted>>,
}

struct Counted {
    at: Instant,
    took: Duration,
    stats: StoreStats,
}

impl Own {
    /// Takes the parts.
    pub fn new(parts: OwnParts) -> Own {
        Own { parts, panics: AtomicU64::new(0), store: Mutex::default() }
    }

    /// Counts a request that broke off.
    pub fn count_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the whole page. May take a while: never on a thread of the runtime.
    pub fn page(&self) -> String {
        let mut page = Exposition::default();
        let parts = &self.parts;
        build(&mut page);
        parts.intake.render(&mut page);
        self.store(&mut page);
        self.room(&mut page);
        self.integrity(&mut page);
        self.targets(&mut page);
        self.discovery(&mut page);
        self.events(&mut page);
        super::backing::catalog(&mut page, &parts.catalog.stats());
        parts.access.render(&mut page);
        crate::filtering::render(&mut page, &parts.sums, &parts.sums_file);
        parts.cache.render(&mut page);
        parts.announcer.render(&mut page);
        parts.prom.render(&mut page);
        parts.groups.render(&mut page);
        parts.notifier.render(&mut page);
        parts.sinking.render(&mut page);
        parts.gateway.render(&mut page);
        parts.otlp.render(&mut page);
        parts.influx.render(&mut page);
        parts.lines.render(&mut page);
        parts.streams.render(&mut page);
        parts.live.render(&mut page);
        parts.uploads.render(&mut page);
        parts.sql.render(&mut page);
        let [statsd, graphite] = parts.lines.stats();
        crate::lines::render_lines(&mut page, &[("influx", parts.influx.lines()), statsd, graphite]);
        parts.http.render(&mut page);
        self.connections(&mut page);
        parts.exporter.stats().render(&mut page);
        self.configuration(&mut page);
        process::render(&mut page, parts.started_at_ms);
        page.finish()
    }

    fn store_stats(&self) -> StoreStats {
        let mut cached = self.store.lock();
        match &*cached {
            Some(counted) if counted.at.elapsed() < counted.took * STORE_SHARE => counted.stats.clone(),
            _ => {
                let begin = Instant::now();
                let stats = self.parts.store.stats();
                *cached = Some(Counted { at: Instant::now(), took: begin.elapsed(), stats: stats.clone() });
                stats
            }
        }
    }

    fn store(&self, page: &mut Exposition) {
        let stats = self.store_stats();
        // Totals are cheap and must not lag.
        let (totals, series) = self.parts.store.totals();
        page.gauge("quiver_head_series", "Series in the head.", series as f64);
        page.gauge("quiver_head_samples", "Samples in the head.", stats.head_samples as f64);
        page.gauge("quiver_wal_bytes", "Bytes of the write-ahead log.", stats.wal_bytes as f64);
        page.gauge("quiver_wal_segments", "Files of the write-ahead log.", stats.wal_segments as f64);
        page.counter("quiver_wal_fsyncs_total", "Calls of fdatasync on the write-ahead log.", stats.fsyncs);
        page.counter("quiver_wal_records_total", "Records applied, replayed ones included.", stats.records);
        page.gauge("quiver_chunk_file_bytes", "Bytes of the chunk files.", stats.chunk_file_bytes as f64);
        page.counter("quiver_chunks_damaged_total", "Reads of chunk files that met damage.", stats.chunks_damaged);
        page.gauge("quiver_blocks", "Blocks on disk.", stats.blocks.blocks as f64);
        page.gauge("quiver_block_bytes", "Bytes of the blocks.", stats.blocks.bytes as f64);
        page.gauge("quiver_block_samples", "Samples in the blocks.", stats.blocks.samples as f64);
        let merged = stats.blocks.merged;
        page.counter("quiver_compaction_failures_total", "Merges of blocks that failed.", stats.blocks.failed_merges);
        page.counter("quiver_compaction_samples_total", "Samples that went into merges.", merged.samples_in);
        page.family("quiver_compaction_left_out_total", "counter", "Samples that merges left out, by reason.");
        for (reason, n) in [
            ("repeated", merged.repeated),
            ("superseded", merged.superseded),
            ("expired", merged.expired),
            ("deleted", merged.deleted),
        ] {
            page.sample(&[("reason", reason)], n as f64);
        }
        page.gauge(
            "quiver_deletions",
            "Deletions whose samples have not all gone from the disk.",
            stats.blocks.deletions as f64,
        );
        let corruptions = self.parts.corruptions.load(Ordering::Relaxed);
        page.counter("quiver_store_damage_total", "Damaged records and files found at the start.", corruptions);
        page.family(
            "quiver_ledger_samples_total",
            "counter",
            "Samples since the data directory was made, over all restarts, by what became of them.",
        );
        for (verdict, n) in [
            ("received", totals.received),
            ("stored", totals.stored),
            ("duplicate", totals.duplicates),
            ("filtered", totals.filtered),
        ] {
            page.sample(&[("verdict", verdict), ("reason", "")], n as f64);
        }
        for reason in Refusal::ALL {
            let n = totals.refused[reason as usize];
            page.sample(&[("verdict", "refused"), ("reason", reason.as_str())], n as f64);
        }
    }

    /// What there is room for, and who was refused.
    fn room(&self, page: &mut Exposition) {
        let room = self.parts.store.admission();
        self.parts.memory.render(page, room.bytes);
        page.counter("quiver_series_admitted_total", "Series let in since the start.", room.admitted);
        page.family(
            "quiver_series_refused_total",
            "counter",
            "New series refused since the start, by the limit; one that is tried again counts again.",
        );
        for (full, n) in Full::ALL.iter().zip(room.refused) {
            page.sample(&[("limit", full.as_str())], n as f64);
        }
        let refused = self.parts.rejections.targets() as f64;
        page.gauge("quiver_rejections_targets", "Targets and sources of which samples were refused.", refused);
    }

    /// What would be bad news.
    fn integrity(&self, page: &mut Exposition) {
        let nothing = model::TimeRange { start_ms: 0, end_ms: 0 };
        let integrity = self.parts.store.integrity(nothing, |_, _| false);
        let (found, scrub) = (integrity.durability, self.parts.store.scrub_state());
        page.family(
            "quiver_integrity_troubles_total",
            "counter",
            "Damage and failures since the data directory was made, by kind; any growth deserves a look.",
        );
        for (kind, n) in [
            ("wal_record_torn", found.records_torn),
            ("wal_record_damaged", found.records_damaged),
            ("sample_orphaned", found.samples_orphaned),
            ("file_damaged", found.files_damaged),
            ("fsync_failure", found.fsync_failures),
            ("transfer_failed", found.transfers_failed),
            ("stretch_damaged", found.stretches_damaged),
        ] {
            page.sample(&[("kind", kind)], n as f64);
        }
        page.gauge(
            "quiver_integrity_balanced",
            "Whether the ledger adds up, by target and in total.",
            if integrity.balanced { 1.0 } else { 0.0 },
        );
        page.gauge("quiver_integrity_kept_aside", "Damaged pieces that are kept aside.", integrity.kept_aside as f64);
        page.counter("quiver_scrub_bytes_total", "Bytes of blocks read again and compared.", scrub.bytes);
        let repaired = scrub.files_repaired;
        page.counter("quiver_scrub_files_repaired_total", "Files made whole from their second copy.", repaired);
    }

    fn targets(&self, page: &mut Exposition) {
        let statuses = self.parts.collector.statuses();
        page.family("quiver_targets", "gauge", "Targets by origin and state.");
        for (origin, from_api) in [("api", true), ("discovery", false)] {
            for health in Health::ALL {
                let n = statuses
                    .iter()
                    .filter(|s| s.health == health && matches!(s.origin, TargetOrigin::Rest) == from_api)
                    .count();
                page.sample(&[("origin", origin), ("health", health.as_str())], n as f64);
            }
        }
        let sum = |of: fn(&collect::TargetStatus) -> u64| statuses.iter().map(of).sum::<u64>() as f64;
        // Not counters: a target that goes takes its share along.
        page.gauge("quiver_target_scrapes", "Scrapes of the present targets.", sum(|s| s.scrapes));
        page.gauge(
            "quiver_target_missed_ticks",
            "Scrapes of the present targets that came too late to be made.",
            sum(|s| s.missed_ticks),
        );
        page.gauge("quiver_target_series", "Series that the present targets show.", sum(|s| s.series_current));
    }

    fn discovery(&self, page: &mut Exposition) {
        let figures = self.parts.jobs.figures();
        page.gauge("quiver_scrape_jobs", "Scrape jobs of the configuration.", figures.len() as f64);
        page.family("quiver_discovery_dropped_targets", "gauge", "Discovered targets that are not scraped, by job.");
        for job in &figures {
            page.sample(&[("job_name", &job.job)], job.dropped as f64);
        }
        let troubles = self.parts.jobs.troubles().len();
        page.gauge("quiver_discovery_troubles", "Files and sources of discovery that are wrong now.", troubles as f64);
    }

    fn events(&self, page: &mut Exposition) {
        let stats = self.parts.events.stats();
        page.counter("quiver_events_published_total", "Events published, restored ones included.", stats.published);
        page.counter("quiver_events_duplicate_total", "Events left out because they were there.", stats.duplicates);
        page.counter("quiver_events_lost_total", "Events that found no room while the disk refused.", stats.lost);
        page.gauge("quiver_events_bytes", "Bytes of the event log.", stats.bytes as f64);
        page.counter("quiver_events_damaged_bytes_total", "Damaged bytes of the event log.", stats.damaged_bytes);
    }

    fn connections(&self, page: &mut Exposition) {
        let net = &self.parts.net;
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        page.gauge("quiver_http_connections", "Connections that are open.", load(&net.open) as f64);
        page.counter("quiver_http_connections_total", "Connections taken.", load(&net.accepted));
        page.counter("quiver_http_connections_refused_total", "Connections over the limit.", load(&net.refused));
        let given_up = load(&net.heads_given_up);
        page.counter("quiver_http_heads_given_up_total", "Heads that did not end while too many had begun.", given_up);
        page.counter("quiver_http_panics_total", "Requests that broke off.", load(&self.panics));
    }

    fn configuration(&self, page: &mut Exposition) {
        let last = self.parts.reloader.last();
        let ok = if last.ok { 1.0 } else { 0.0 };
        page.gauge("quiver_config_last_reload_successful", "Whether the last reading was taken.", ok);
        page.gauge(
            "quiver_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read.",
            last.taken_at_ms as f64 / 1000.0,
        );
    }
}

fn build(page: &mut Exposition) {
    let build = crate::run::build_info();
    page.family("quiver_build_info", "gauge", "What this binary is; always 1.").sample(
        &[("version", build.version.as_str()), ("revision", &build.revision), ("rustversion", &build.rust_version)],
        1.0,
    );
}
