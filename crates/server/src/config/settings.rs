//! Our own settings: the top-level key `quiver:`, with defaults that need no file.

use std::path::{Path, PathBuf};

use super::access;
use super::announce::{self, EventSettings};
use super::backing::{self, CacheSettings, CatalogSettings};
use super::fields::{Fields, Problems};
use super::telemetry::{self, TelemetrySettings};
use super::yaml::{Kind, Node};
use crate::access::settings::{AccessSettings, TargetAddresses};
use crate::access::vault::SecretSettings;

/// Where the server listens unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:9740";
/// Most exemplars that can be asked for; each holds a label set.
const EXEMPLARS_MAX: usize = 10_000_000;
const DAY_MS: i64 = 86_400_000;
/// Less holds the server and nothing else.
pub const MEMORY_BYTES_MIN: u64 = 256 << 20;
/// Reads a terabyte in three days, and hardly shows beside a server's other reading.
const SCRUB_BYTES_PER_SECOND: u64 = 4 << 20;

/// The settings of this server.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Address for HTTP.
    pub listen: String,
    /// Address for OTLP over gRPC; by convention port 4317. Without one it is off.
    pub otlp_grpc_listen: Option<String>,
    /// Directory of all data.
    pub data_dir: PathBuf,
    /// Name of this node; part of every batch id.
    pub node: String,
    /// How long samples are kept, in milliseconds.
    pub retention_ms: i64,
    /// The oldest samples go when all take more bytes than this; `None` for no limit.
    pub retention_bytes: Option<u64>,
    /// What merging blocks may read and write in a second, together; 0 for no limit.
    pub compaction_bytes_per_second: u64,
    /// Whether samples can be deleted and copied over `/api/v1/admin/tsdb`.
    pub admin_api: bool,
    /// What the scrubber reads of blocks in a second at most; 0 is no scrubber.
    pub scrub_bytes_per_second: u64,
    /// Exemplars kept, over all series.
    pub exemplars_max: usize,
    /// How often the samples of pushed groups are written again, in milliseconds.
    pub push_restate_ms: i64,
    /// The database of targets, if not the embedded one.
    pub catalog: Option<CatalogSettings>,
    /// The cache for others to read, if not the one in this process.
    pub cache: Option<CacheSettings>,
    /// Where events are sent.
    pub events: EventSettings,
    /// Where line protocols are listened for.
    pub lines: LineSettings,
    /// Limits of queries.
    pub query: QuerySettings,
    /// Limits of everything that comes in.
    pub limits: LimitSettings,
    /// Which references to secrets are followed.
    pub secrets: SecretSettings,
    /// Where targets given over REST may lead.
    pub targets: TargetAddresses,
    /// Where own traces and metrics go.
    pub telemetry: TelemetrySettings,
}

/// Where line protocols are listened for; nowhere unless told.
#[derive(Clone, PartialEq, Debug)]
pub struct LineSettings {
    /// StatsD and DogStatsD: `host:port` for UDP, `unix:/path` for datagrams of a Unix socket.
    pub statsd: Vec<String>,
    /// Graphite's plaintext: `host:port` for TCP and UDP.
    pub graphite: Vec<String>,
    /// How often StatsD's state is written, in milliseconds.
    pub statsd_flush_ms: i64,
}

impl Default for LineSettings {
    fn default() -> LineSettings {
        LineSettings { statsd: Vec::new(), graphite: Vec::new(), statsd_flush_ms: 10_000 }
    }
}

/// Limits of queries.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct QuerySettings {
    /// How long a query may take, in milliseconds.
    pub timeout_ms: i64,
    /// How many queries run at once; more of them wait.
    pub concurrency: usize,
    /// How many samples a query may hold in memory.
    pub samples_max: u64,
    /// How old the sample of an instant vector may be, in milliseconds.
    pub lookback_ms: i64,
    /// Bytes of answers to range queries that are kept; 0 keeps none.
    pub cache_bytes_max: usize,
}

/// Limits of everything that comes in.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LimitSettings {
    /// Connections at once.
    pub connections_max: usize,
    /// Bytes of one request body, after inflating.
    pub body_bytes_max: usize,
    /// Bytes of all request bodies that are being worked on, after inflating.
    pub inflight_bytes_max: usize,
    /// Active series; 0 means as many as memory holds.
    pub series_max: u64,
    /// Active series of one source; 0 means as many as memory holds.
    pub source_series_max: u64,
    /// Memory for series, requests and queries together; 0 means a share of the machine, see [`crate::memory`].
    pub memory_bytes: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listen: DEFAULT_LISTEN.to_owned(),
            otlp_grpc_listen: None,
            data_dir: PathBuf::from("./data"),
            node: "n1".to_owned(),
            retention_ms: 15 * DAY_MS,
            retention_bytes: None,
            compaction_bytes_per_second: 32 << 20,
            admin_api: false,
            scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND,
            exemplars_max: 100_000,
            push_restate_ms: 15_000,
            catalog: None,
            cache: None,
            events: EventSettings::default(),
            lines: LineSettings::default(),
            query: QuerySettings::default(),
            limits: LimitSettings::default(),
            secrets: SecretSettings::default(),
            targets: TargetAddresses::default(),
            telemetry: TelemetrySettings::default(),
        }
    }
}

impl Default for QuerySettings {
    fn default() -> QuerySettings {
        // Prometheus' defaults.
        QuerySettings {
            timeout_ms: 120_000,
            concurrency: 20,
            samples_max: 50_000_000,
            lookback_ms: 300_000,
            cache_bytes_max: 64 << 20,
        }
    }
}

impl Default for LimitSettings {
    fn default() -> LimitSettings {
        LimitSettings {
            connections_max: 20_000,
            body_bytes_max: 32 << 20,
            inflight_bytes_max: 256 << 20,
            series_max: 0,
            source_series_max: 0,
            memory_bytes: 0,
        }
    }
}

/// What the key `quiver:` says; the rest keeps its default.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SettingsText {
    /// `listen`
    pub listen: Option<String>,
    /// `otlp_grpc_listen`
    pub otlp_grpc_listen: Option<String>,
    /// `data_dir`
    pub data_dir: Option<PathBuf>,
    /// `node`
    pub node: Option<String>,
    /// `retention`, or Prometheus' `storage.tsdb.retention.time`
    pub retention_ms: Option<i64>,
    /// `retention_size`, or Prometheus' `storage.tsdb.retention.size`
    pub retention_bytes: Option<u64>,
    /// `compaction_rate`
    pub compaction_bytes_per_second: Option<u64>,
    /// `admin_api`
    pub admin_api: Option<bool>,
    /// `storage.scrub_bytes_per_second`
    pub scrub_bytes_per_second: Option<u64>,
    /// Prometheus' `storage.exemplars.max_exemplars`
    pub exemplars_max: Option<u64>,
    /// `push_restate_interval`
    pub push_restate_ms: Option<i64>,
    /// `catalog`
    pub catalog: Option<CatalogSettings>,
    /// `cache`
    pub cache: Option<CacheSettings>,
    /// `events`
    pub events: EventSettings,
    /// `listen` as a mapping, without `http`.
    pub lines: LineSettings,
    /// `query`
    pub query: QuerySettings,
    /// `limits`
    pub limits: LimitSettings,
    /// `secrets`
    pub secrets: SecretSettings,
    /// `targets`
    pub targets: TargetAddresses,
    /// `telemetry`
    pub telemetry: TelemetrySettings,
    /// `auth` and `tls`; these follow a reload.
    pub access: AccessSettings,
}

/// What flags say; they win over the file.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<String>,
    /// `--otlp-grpc-listen`
    pub otlp_grpc_listen: Option<String>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--retention`
    pub retention_ms: Option<i64>,
    /// `--retention-size`
    pub retention_bytes: Option<u64>,
    /// `--web.enable-admin-api`
    pub admin_api: bool,
    /// `--memory`
    pub memory_bytes: Option<u64>,
    /// `--catalog`
    pub catalog: Option<CatalogSettings>,
    /// `--cache`
    pub cache: Option<CacheSettings>,
    /// `--listen.statsd`
    pub statsd: Vec<String>,
    /// `--listen.graphite`
    pub graphite: Vec<String>,
}

impl Settings {
    /// Puts flags, file and defaults together.
    pub fn of(text: &SettingsText, flags: &Overrides) -> Settings {
        let defaults = Settings::default();
        Settings {
            listen: flags.listen.clone().or(text.listen.clone()).unwrap_or(defaults.listen),
            otlp_grpc_listen: flags.otlp_grpc_listen.clone().or(text.otlp_grpc_listen.clone()),
            data_dir: flags.data_dir.clone().or(text.data_dir.clone()).unwrap_or(defaults.data_dir),
            node: text.node.clone().unwrap_or(defaults.node),
            retention_ms: flags.retention_ms.or(text.retention_ms).unwrap_or(defaults.retention_ms),
            retention_bytes: flags.retention_bytes.or(text.retention_bytes).filter(|bytes| *bytes > 0),
            compaction_bytes_per_second: text
                .compaction_bytes_per_second
                .unwrap_or(defaults.compaction_bytes_per_second),
            admin_api: flags.admin_api || text.admin_api.unwrap_or(defaults.admin_api),
            scrub_bytes_per_second: text.scrub_bytes_per_second.unwrap_or(defaults.scrub_bytes_per_second),
            exemplars_max: text
                .exemplars_max
                .map_or(defaults.exemplars_max, |n| usize::try_from(n).unwrap_or(EXEMPLARS_MAX).min(EXEMPLARS_MAX)),
            push_restate_ms: text.push_restate_ms.unwrap_or(defaults.push_restate_ms),
            catalog: flags.catalog.clone().or(text.catalog.clone()),
            cache: flags.cache.clone().or(text.cache.clone()),
            events: text.events.clone(),
            lines: text.lines.with(flags),
            query: text.query,
            secrets: text.secrets.clone(),
            targets: text.targets.clone(),
            telemetry: text.telemetry.clone(),
            limits: LimitSettings {
                memory_bytes: flags.memory_bytes.unwrap_or(text.limits.memory_bytes),
                ..text.limits
            },
        }
    }
}

impl LineSettings {
    fn with(&self, flags: &Overrides) -> LineSettings {
        let or = |flag: &[String], file: &[String]| if flag.is_empty() { file.to_vec() } else { flag.to_vec() };
        LineSettings {
            statsd: or(&flags.statsd, &self.statsd),
            graphite: or(&flags.graphite, &self.graphite),
            statsd_flush_ms: self.statsd_flush_ms,
        }
    }
}

/// Reads `listen`: the address for HTTP alone, or a mapping of all.
fn read_listen(node: &Node, text: &mut SettingsText, problems: &mut Problems) {
    if let Kind::Scalar(address) = &node.kind {
        text.listen = Some(address.clone());
        return;
    }
    let mut fields = Fields::open(node, "quiver.listen", problems);
    text.listen = fields.string("http", problems);
    for (key, list) in [("statsd", &mut text.lines.statsd), ("graphite", &mut text.lines.graphite)] {
        *list = match fields.get(key).map(|node| &node.kind) {
            Some(Kind::Scalar(address)) => vec![address.clone()],
            _ => fields.strings(key, problems).unwrap_or_default(),
        };
    }
    if let Some(ms) = fields.duration_ms("statsd_flush_interval", problems) {
        text.lines.statsd_flush_ms = ms;
        if ms == 0 {
            problems.error(fields.place_of("statsd_flush_interval"), "statsd_flush_interval must be longer than 0");
        }
    }
    fields.finish(problems);
}

/// Reads the value of `quiver:`.
///
/// **Takes** `dir`: what paths in the file start from.
pub fn read(node: &Node, dir: &Path, problems: &mut Problems) -> SettingsText {
    let mut fields = Fields::open(node, "quiver", problems);
    let mut text = SettingsText {
        otlp_grpc_listen: fields.string("otlp_grpc_listen", problems),
        data_dir: fields.string("data_dir", problems).map(PathBuf::from),
        node: fields.parsed("node", problems, parse_node),
        retention_ms: fields.duration_ms("retention", problems),
        retention_bytes: fields.size_bytes("retention_size", problems),
        compaction_bytes_per_second: fields.size_bytes("compaction_rate", problems),
        admin_api: fields.bool("admin_api", problems),
        push_restate_ms: fields.duration_ms("push_restate_interval", problems),
        ..SettingsText::default()
    };
    if let Some(node) = fields.get("auth") {
        text.access.auth = access::read_auth(node, dir, problems);
    }
    if let Some(node) = fields.get("secrets") {
        text.secrets = access::read_secrets(node, dir, problems);
    }
    if let Some(node) = fields.get("targets") {
        text.targets = access::read_targets(node, problems);
    }
    if let Some(node) = fields.get("tls") {
        text.access.tls = access::read_tls(node, dir, problems);
    }
    if let Some(node) = fields.get("listen") {
        read_listen(node, &mut text, problems);
    }
    if text.retention_ms == Some(0) {
        problems.error(fields.place_of("retention"), "retention must be longer than 0");
    }
    if text.push_restate_ms == Some(0) {
        problems.error(fields.place_of("push_restate_interval"), "push_restate_interval must be longer than 0");
    }
    if let Some(node) = fields.get("storage") {
        let mut storage = Fields::open(node, "quiver.storage", problems);
        text.scrub_bytes_per_second = storage.size_bytes("scrub_bytes_per_second", problems);
        storage.finish(problems);
    }
    text.catalog = fields.get("catalog").and_then(|node| backing::read_catalog(node, dir, problems));
    text.cache = fields.get("cache").and_then(|node| backing::read_cache(node, dir, problems));
    if let Some(node) = fields.get("events") {
        text.events = announce::read(node, dir, problems);
    }
    if let Some(node) = fields.get("telemetry") {
        text.telemetry = telemetry::read(node, dir, problems);
    }
    // Read with the jobs, see `config/filters.rs` and `config/collectors.rs`.
    fields.ignore(&["filters", "collectors"]);
    if let Some(node) = fields.get("query") {
        read_query(node, &mut text.query, problems);
    }
    if let Some(node) = fields.get("limits") {
        read_limits(node, &mut text.limits, problems);
    }
    // Read apart, with the folder of the file.
    fields.ignore(&["sinks"]);
    fields.finish(problems);
    text
}

/// Node names stand in batch ids, which have 100 characters.
fn parse_node(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !text.is_empty() && text.len() <= 40 && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not a node name: 1 to 40 letters, digits or dashes"))
}

fn read_query(node: &Node, query: &mut QuerySettings, problems: &mut Problems) {
    let mut fields = Fields::open(node, "quiver.query", problems);
    if let Some(ms) = fields.duration_ms("timeout", problems) {
        query.timeout_ms = ms;
    }
    if let Some(n) = fields.uint("concurrency", problems) {
        query.concurrency = usize::try_from(n).unwrap_or(usize::MAX).clamp(1, 1024);
    }
    if let Some(n) = fields.uint("samples_max", problems) {
        query.samples_max = n;
    }
    if let Some(ms) = fields.duration_ms("lookback_delta", problems) {
        query.lookback_ms = ms;
    }
    if let Some(n) = fields.size_bytes("cache_size", problems) {
        query.cache_bytes_max = usize::try_from(n).unwrap_or(usize::MAX);
    }
    fields.finish(problems);
}

fn read_limits(node: &Node, limits: &mut LimitSettings, problems: &mut Problems) {
    let mut fields = Fields::open(node, "quiver.limits", problems);
    let small = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    if let Some(n) = fields.uint("connections_max", problems) {
        limits.connections_max = small(n).clamp(1, 1 << 20);
    }
    if let Some(n) = fields.size_bytes("body_size_max", problems) {
        limits.body_bytes_max = small(n).clamp(1 << 10, 1 << 30);
    }
    if let Some(n) = fields.size_bytes("inflight_size_max", problems) {
        limits.inflight_bytes_max = small(n).max(1 << 20);
    }
    if let Some(n) = fields.uint("series_max", problems) {
        limits.series_max = n;
    }
    if let Some(n) = fields.uint("source_series_max", problems) {
        limits.source_series_max = n;
    }
    if let Some(n) = fields.size_bytes("memory_bytes", problems) {
        limits.memory_bytes = n;
        if n > 0 && n < MEMORY_BYTES_MIN {
            problems.error(
                fields.place_of("memory_bytes"),
                "memory_bytes must be at least 256MiB, or 0 for a share of the machine",
            );
        }
    }
    fields.finish(problems);
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let root =
            yaml::parse("{listen: '0.0.0.0:1', retention: 1h, retention_size: 2KB, compaction_rate: 1MB, admin_api: true, node: a-1, limits: {connections_max: 5, memory_bytes: 1GiB}}").unwrap();
        let mut problems = Problems::default();
        let text = read(&root, Path::new(""), &mut problems);
        assert!(problems.0.is_empty(), "{problems:?}");
        let flags = Overrides { listen: Some("127.0.0.1:2".into()), ..Overrides::default() };
        let settings = Settings::of(&text, &flags);
        assert_eq!(
            (settings.listen.as_str(), settings.retention_ms, settings.node.as_str()),
            ("127.0.0.1:2", 3_600_000, "a-1")
        );
        assert_eq!((settings.retention_bytes, settings.compaction_bytes_per_second), (Some(2048), 1 << 20));
        assert!(settings.admin_api && !Settings::default().admin_api);
        assert_eq!(settings.limits.memory_bytes, 1 << 30);
        let flags = Overrides { memory_bytes: Some(2 << 30), ..Overrides::default() };
        assert_eq!(Settings::of(&text, &flags).limits.memory_bytes, 2 << 30);
        assert_eq!((settings.limits.connections_max, settings.data_dir), (5, PathBuf::from("./data")));
    }

    #[test]
    fn listeners_are_off_until_they_are_named() {
        let read_text = |text: &str| {
            let mut problems = Problems::default();
            let text = read(&yaml::parse(text).unwrap(), Path::new(""), &mut problems);
            (Settings::of(&text, &Overrides::default()), problems.0.len())
        };
        let (settings, _) = read_text("{listen: ':1'}");
        assert_eq!((settings.listen.as_str(), settings.lines), (":1", LineSettings::default()));
        let (settings, problems) = read_text(
            "{listen: {http: ':1', statsd: [':8125', 'unix:/s'], graphite: ':2003', statsd_flush_interval: 1s}}",
        );
        assert_eq!((settings.listen.as_str(), settings.lines.statsd.len(), problems), (":1", 2, 0));
        assert_eq!((settings.lines.graphite, settings.lines.statsd_flush_ms), (vec![":2003".to_owned()], 1_000));
        assert_eq!(read_text("{listen: {statsdd: ':1', statsd_flush_interval: 0s}}").1, 2);
    }

    #[test]
    fn wrong_settings_are_said() {
        let root =
            yaml::parse("{node: 'a b', retention: 0s, push_restate_interval: 0s, query: {timeoutt: 1s}, limits: {body_size_max: much, memory_bytes: 1MiB}}").unwrap();
        let mut problems = Problems::default();
        read(&root, Path::new(""), &mut problems);
        let texts: Vec<&str> = problems.0.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(texts.len(), 6, "{texts:?}");
        assert!(texts.iter().any(|t| t.contains("did you mean \"timeout\"?")), "{texts:?}");
    }
}
