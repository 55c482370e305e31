//! What one scrape came to, and how a target stands.

use std::net::SocketAddr;

use model::{CollectionReport, Counts, Health, Labels, LedgerPosition, MetricType, TypeCounts};

use crate::filtering::FilterEffects;
use crate::http::TlsPeer;
use crate::target::{TargetOrigin, TargetSpec};

/// What kind of failure ended a scrape.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ScrapeErrorKind {
    /// The host's name could not be resolved.
    Resolve,
    /// No connection.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The address, or one that a redirect led to, may not be connected to.
    ForbiddenAddress,
    /// The connection broke, or what came was not HTTP.
    Http,
    /// A status other than 200.
    Status,
    /// Too many redirects, or one that leads nowhere.
    Redirect,
    /// The time was up.
    Timeout,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The body cannot be inflated.
    Encoding,
    /// A content type that is not known.
    ContentType,
    /// The body is not what its content type says.
    Parse,
    /// More samples than allowed.
    SampleLimit,
    /// Labels longer or more than allowed.
    LabelLimit,
    /// The store did not take the batch.
    Store,
    /// A credential could not be read.
    Credentials,
    /// A custom collector failed.
    Collector,
    /// The target was removed or the collector shut down meanwhile.
    Cancelled,
}

impl ScrapeErrorKind {
    /// Gives the word that the outside sees.
    pub fn as_str(self) -> &'static str {
        match self {
            ScrapeErrorKind::Resolve => "resolve",
            ScrapeErrorKind::Connect => "connect",
            ScrapeErrorKind::Tls => "tls",
            ScrapeErrorKind::ForbiddenAddress => "forbidden_address",
            ScrapeErrorKind::Http => "http",
            ScrapeErrorKind::Status => "status",
            ScrapeErrorKind::Redirect => "redirect",
            ScrapeErrorKind::Timeout => "timeout",
            ScrapeErrorKind::BodyTooLarge => "body_too_large",
            ScrapeErrorKind::Encoding => "encoding",
            ScrapeErrorKind::ContentType => "content_type",
            ScrapeErrorKind::Parse => "parse",
            ScrapeErrorKind::SampleLimit => "sample_limit",
            ScrapeErrorKind::LabelLimit => "label_limit",
            ScrapeErrorKind::Store => "store",
            ScrapeErrorKind::Credentials => "credentials",
            ScrapeErrorKind::Collector => "collector",
            ScrapeErrorKind::Cancelled => "cancelled",
        }
    }
}

/// Why a scrape failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ScrapeError {
    /// What kind of failure.
    pub kind: ScrapeErrorKind,
    /// A sentence for people, in Prometheus' words where it has some.
    pub message: String,
}

impl ScrapeError {
    pub(crate) fn new(kind: ScrapeErrorKind, message: impl Into<String>) -> ScrapeError {
        ScrapeError { kind, message: message.into() }
    }
}

/// How many different values a label has in one scrape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabelCardinality {
    /// The label's name.
    pub name: String,
    /// How many values.
    pub values: u64,
}

/// What one scrape came to.
#[derive(Clone, Debug, Default)]
pub struct ScrapeOutcome {
    /// Whether `up` is 1.
    pub ok: bool,
    /// Why not.
    pub error: Option<ScrapeError>,
    /// The time that samples without a time of their own got; milliseconds since 1970.
    pub scrape_ms: i64,
    /// The status of the last answer.
    pub http_status: Option<u16>,
    /// The content type as it came.
    pub content_type: Option<String>,
    /// The format that was agreed on, such as `OpenMetricsText1.0.0`.
    pub format: Option<&'static str>,
    /// Bytes of the body on the wire.
    pub bytes_wire: u64,
    /// Bytes of the body after inflating.
    pub bytes_body: u64,
    /// From start to the batch handed to the store.
    pub duration_ms: u64,
    /// Until the last byte of the body was there.
    pub scrape_wait_ms: u64,
    /// From there until the samples were durable.
    pub scrape_ingest_ms: u64,
    /// Samples in the body.
    pub samples: u64,
    /// Samples left after relabeling and limits.
    pub samples_post_relabeling: u64,
    /// Different series among them.
    pub series: u64,
    /// Series that the scrape before did not have.
    pub series_added: u64,
    /// Series that the store had never seen.
    pub new_series: u64,
    /// Families by type.
    pub families_by_type: Vec<(MetricType, u64)>,
    /// Series by type.
    pub series_by_type: Vec<(MetricType, u64)>,
    /// Points by type: the event's summary.
    pub points: TypeCounts,
    /// The labels with the most values; only filled on demand (`scrape_now`, `dry_run`).
    pub top_labels: Vec<LabelCardinality>,
    /// What each filter did to the series; only filled on demand.
    pub filters: Vec<FilterEffects>,
    /// Series that filters made the same as others, with why they are refused; only filled on demand.
    pub collisions: Vec<Labels>,
    /// What the sender should know about refused series.
    pub advice: Option<String>,
    /// Position and text of a syntax error.
    pub parse_error: Option<wire::ParseError>,
    /// The balance of the batch.
    pub counts: Counts,
    /// The address that was connected to last.
    pub address: Option<SocketAddr>,
    /// Who answered over TLS.
    pub peer: Option<TlsPeer>,
    /// Redirects followed.
    pub redirects: u32,
    /// Whether an open connection was used again.
    pub connection_reused: bool,
}

/// How a target stands.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    /// The target.
    pub target_id: String,
    /// Its source.
    pub source_id: String,
    /// Who brought it.
    pub origin: TargetOrigin,
    /// Its state.
    pub health: Health,
    /// Why the last scrape failed; `None` when it went well.
    pub last_error: Option<ScrapeError>,
    /// When the last scrape began; milliseconds since 1970.
    pub last_scrape_ms: Option<i64>,
    /// How long it took.
    pub scrape_duration_ms: u64,
    /// Samples it held.
    pub samples_scraped: u64,
    /// When the next one is due; milliseconds since 1970.
    pub next_scrape_ms: Option<i64>,
    /// Failed scrapes since the last good one.
    pub consecutive_failures: u64,
    /// Scrapes since start.
    pub scrapes: u64,
    /// Ticks at which the scrape before was not done yet, or we were late.
    pub missed_ticks: u64,
    /// Series of the last good scrape.
    pub series_current: u64,
    /// Since when `health` is what it is; milliseconds since 1970.
    pub since_ms: i64,
}

impl TargetStatus {
    pub(crate) fn new(spec: &TargetSpec, now_ms: i64) -> TargetStatus {
        TargetStatus {
            target_id: spec.target_id.clone(),
            source_id: spec.source_id.clone(),
            origin: spec.origin.clone(),
            health: if spec.enabled { Health::Unknown } else { Health::Disabled },
            last_error: None,
            last_scrape_ms: None,
            scrape_duration_ms: 0,
            samples_scraped: 0,
            next_scrape_ms: None,
            consecutive_failures: 0,
            scrapes: 0,
            missed_ticks: 0,
            series_current: 0,
            since_ms: now_ms,
        }
    }
}

/// Hears of every finished scrape.
pub trait Observe: Send + Sync {
    /// Called once per scrape after the store has answered, in order per target. It must be short and must not wait.
    /// The position is zero when the store took nothing; the report then says why.
    fn collected(&self, report: CollectionReport, status: TargetStatus, ledger: LedgerPosition);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct IgnoreReports;

impl Observe for IgnoreReports {
    fn collected(&self, _: CollectionReport, _: TargetStatus, _: LedgerPosition) {}
}
