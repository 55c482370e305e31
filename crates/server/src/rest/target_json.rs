//! `MetricTarget`, the report of a scrape, and `DeletionResult`: the JSON twins of what the rooms below know.

use std::collections::BTreeMap;

use catalog::Target;
use collect::{ScrapeOutcome, TargetOrigin, TargetSpec, TargetStatus};
use model::filter::FilterSet;
use model::{Counts, Health, MetricType, Refusal};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::auth_config::redacted;
use super::explain::FilterReport;
use super::time;
use model::secret_url::without_password;

/// Series that collide which are shown.
const COLLISIONS_MAX: usize = 20;
const DAY_MS: u64 = 86_400_000;
/// What samples of a real node exporter take once blocks are merged, see `docs/bench`.
const BYTES_PER_100_SAMPLES: u64 = 80;

/// The specification's MetricTarget, with what users of Prometheus miss without.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MetricTarget {
    /// Names the target.
    pub target_id: String,
    /// As it was registered; where to send to, for a source that pushes.
    pub target_url: String,
    /// Where a source that pushes sends to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push_url: Option<String>,
    /// How often it is expected to push, and how long a push counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub push_config: Option<Value>,
    /// Labels of all its series, without `job` and `instance` unless they were given.
    pub labels: BTreeMap<String, String>,
    /// `unknown`, `healthy`, `degraded`, `unhealthy` or `disabled`.
    pub health_status: String,
    /// RFC 3339; null before the first scrape since the start.
    pub last_scrape: Option<String>,
    /// Of the last scrape.
    pub scrape_duration_ms: f64,
    /// In the last scrape.
    pub samples_scraped: u64,
    /// Label `job` of its series.
    pub source_id: String,
    /// CollectionMethod.
    pub collection_method: String,
    /// MetricSource.
    pub source_type: String,
    /// Whether it is collected.
    pub enabled: bool,
    /// Why the last scrape failed.
    pub last_error: Option<String>,
    /// When the next scrape is due.
    pub next_scrape: Option<String>,
    /// Failed scrapes since the last good one.
    pub consecutive_failures: u64,
    /// Series of the last good scrape.
    pub series_current: u64,
    /// How many it may have; null is no limit.
    pub series_limit: Option<u64>,
    /// The node that collects it.
    pub owner_node: String,
    /// `api` or `discovery:<job>`.
    pub origin: String,
    /// What is asked for, path and parameters included; where to send to, for a source that pushes.
    pub scrape_url: String,
    /// When it was registered.
    pub created_at: Option<String>,
    /// When it was changed last.
    pub updated_at: Option<String>,
    /// Rises with every change; the ETag.
    pub version: i64,
    /// In its normal form.
    #[schema(value_type = Object)]
    pub scrape_config: Value,
    /// As accepted.
    #[schema(value_type = Object)]
    pub limits: Value,
    /// In their normal form.
    #[schema(value_type = Vec<Object>)]
    pub filters: Value,
    /// As accepted.
    #[schema(value_type = Object)]
    pub retention_policy: Value,
    /// Why its row in the catalog cannot be trusted; such a target is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// What the first scrape came to; in the answer to a registration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_scrape: Option<ScrapeReport>,
    /// Nothing was registered or stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl MetricTarget {
    /// Shows a registered target.
    pub fn registered(target: &Target, status: Option<&TargetStatus>, scrape_url: String, node: &str) -> MetricTarget {
        let spec = &target.spec;
        let limit = |name: &str| spec.limits.get(name).and_then(Value::as_u64).filter(|n| *n > 0);
        let series_limit = [limit("max_series"), limit("max_samples_per_scrape")].into_iter().flatten().min();
        let pushes = spec.collection_method != model::CollectionMethod::PullScraping;
        let mut shown = MetricTarget {
            target_id: spec.target_id.clone(),
            target_url: if pushes { scrape_url.clone() } else { spec.target_url.clone() },
            push_url: pushes.then(|| scrape_url.clone()),
            push_config: spec.request.get("push_config").cloned(),
            labels: spec.labels.clone(),
            health_status: target.health.as_str().to_owned(),
            last_scrape: None,
            scrape_duration_ms: 0.0,
            samples_scraped: 0,
            source_id: spec.source_id.clone(),
            collection_method: spec.collection_method.as_str().to_owned(),
            source_type: spec.source_type.clone(),
            enabled: spec.enabled,
            last_error: target.damage.clone(),
            next_scrape: None,
            consecutive_failures: 0,
            series_current: 0,
            series_limit,
            owner_node: node.to_owned(),
            origin: spec.origin.clone(),
            scrape_url,
            created_at: Some(time::to_text(target.created_at_ms)),
            updated_at: Some(time::to_text(target.updated_at_ms)),
            version: target.version,
            scrape_config: redacted(&spec.scrape_config),
            limits: spec.limits.clone(),
            filters: spec.filters.clone(),
            retention_policy: spec.retention_policy.clone(),
            damage: target.damage.clone(),
            first_scrape: None,
            dry_run: false,
        };
        if let Some(status) = status.filter(|_| target.damage.is_none()) {
            shown.live(status);
        }
        shown
    }

    /// Shows a target that discovery found.
    pub fn discovered(spec: &TargetSpec, status: &TargetStatus, node: &str) -> MetricTarget {
        let mut shown = MetricTarget {
            target_id: spec.target_id.clone(),
            target_url: without_password(spec.url.as_str()),
            push_url: None,
            push_config: None,
            labels: spec.labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            health_status: String::new(),
            last_scrape: None,
            scrape_duration_ms: 0.0,
            samples_scraped: 0,
            source_id: spec.source_id.clone(),
            collection_method: "PULL_SCRAPING".to_owned(),
            source_type: "APPLICATION".to_owned(),
            enabled: spec.enabled,
            last_error: None,
            next_scrape: None,
            consecutive_failures: 0,
            series_current: 0,
            series_limit: Some(spec.limits.sample).filter(|n| *n > 0),
            owner_node: node.to_owned(),
            origin: origin_text(&spec.origin),
            scrape_url: without_password(spec.url.as_str()),
            created_at: None,
            updated_at: None,
            version: 1,
            scrape_config: discovered_config(spec),
            limits: Value::Null,
            filters: super::filters::to_value(&spec.filters),
            retention_policy: Value::Null,
            damage: None,
            first_scrape: None,
            dry_run: false,
        };
        shown.live(status);
        shown
    }

    fn live(&mut self, status: &TargetStatus) {
        self.health_status = status.health.as_str().to_owned();
        self.enabled = status.health != Health::Disabled;
        self.last_scrape = status.last_scrape_ms.map(time::to_text);
        self.scrape_duration_ms = status.scrape_duration_ms as f64;
        self.samples_scraped = status.samples_scraped;
        self.last_error = status.last_error.as_ref().map(|e| e.message.clone());
        self.next_scrape = status.next_scrape_ms.map(time::to_text);
        self.consecutive_failures = status.consecutive_failures;
        self.series_current = status.series_current;
    }
}

/// Writes `api` or `discovery:<job>`.
pub fn origin_text(origin: &TargetOrigin) -> String {
    match origin {
        TargetOrigin::Rest => "api".to_owned(),
        TargetOrigin::Discovery { job } => format!("discovery:{job}"),
        TargetOrigin::Collector { name } => format!("collector:{name}"),
    }
}

fn discovered_config(spec: &TargetSpec) -> Value {
    serde_json::json!({
        "target_url": without_password(spec.url.as_str()),
        "scheme": spec.url.scheme(),
        "metrics_path": spec.url.path(),
        "scrape_interval": model::format_duration_ms(i64::try_from(spec.interval_ms).unwrap_or(i64::MAX)),
        "scrape_timeout": model::format_duration_ms(i64::try_from(spec.timeout_ms).unwrap_or(i64::MAX)),
        "honor_labels": spec.honor_labels,
        "honor_timestamps": spec.honor_timestamps,
    })
}

/// What one scrape came to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ScrapeReport {
    /// Whether `up` is 1.
    pub ok: bool,
    /// Why not.
    pub error: Option<String>,
    /// Stable word of the kind of failure.
    pub error_kind: Option<String>,
    /// The time that samples without a time of their own got.
    pub scraped_at: String,
    /// The status of the last answer.
    pub http_status: Option<u16>,
    /// The content type as it came.
    pub content_type: Option<String>,
    /// The format that was agreed on.
    pub format: Option<String>,
    /// Bytes of the body on the wire.
    pub bytes_wire: u64,
    /// Bytes of the body after inflating.
    pub bytes: u64,
    /// From start to the batch handed to the store.
    pub duration_ms: u64,
    /// Until the last byte of the body was there.
    pub scrape_wait_ms: u64,
    /// From there until the samples were durable.
    pub scrape_ingest_ms: u64,
    /// Samples in the body.
    pub samples: u64,
    /// Samples left after relabeling and limits.
    pub samples_post_metric_relabeling: u64,
    /// Different series among them.
    pub series: u64,
    /// Series that the scrape before did not have.
    pub series_added: u64,
    /// Series that the store had never seen.
    pub new_series: u64,
    /// Families by type.
    pub families_by_type: BTreeMap<String, u64>,
    /// Series by type.
    pub series_by_type: BTreeMap<String, u64>,
    /// Labels with the most values.
    pub top_labels: Vec<TopLabel>,
    /// What each filter did to the series of the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterReport>,
    /// Series that filters make the same as others; they are refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub collisions: Vec<String>,
    /// What there is to know about series that are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// Where the body is not what its content type says.
    pub parse_errors: Vec<ParseErrorJson>,
    /// What became of the samples.
    pub balance: Balance,
    /// The address that was connected to.
    pub address: Option<String>,
    /// Who answered over TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsPeerJson>,
    /// What the target will make in a day, at its interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projected: Option<Projection>,
    /// Targets whose series have the same labels: what both expose is one series, written by both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// Redirects followed.
    pub redirects: u32,
    /// Whether an open connection was used again.
    pub connection_reused: bool,
}

/// The certificate of a target.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TlsPeerJson {
    /// Common name of its subject.
    pub subject: String,
    /// Common name of its issuer.
    pub issuer: String,
    /// When it ends.
    pub not_after: String,
    /// Whole days until then; negative afterwards.
    pub days_to_expiry: i64,
    /// Such as `TLSv1_3`.
    pub version: String,
}

/// What a target will make.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Projection {
    /// Samples stored in a day.
    pub samples_per_day: u64,
    /// What they take on disk, roughly: it depends on the values.
    pub bytes_per_day: u64,
}

impl Projection {
    /// Reckons with the samples of one scrape.
    pub fn of(samples: u64, interval_ms: u64) -> Projection {
        let scrapes = DAY_MS / interval_ms.max(1);
        let samples_per_day = samples.saturating_mul(scrapes);
        Projection { samples_per_day, bytes_per_day: samples_per_day.saturating_mul(BYTES_PER_100_SAMPLES) / 100 }
    }
}

/// A label and how many values it has.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TopLabel {
    /// The label's name.
    pub name: String,
    /// How many values.
    pub values: u64,
}

/// A syntax error in an exposition.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ParseErrorJson {
    /// Counted from 1.
    pub line: u64,
    /// Counted from 1, in bytes.
    pub column: u64,
    /// The offending text.
    pub text: String,
    /// What is wrong with it.
    pub message: String,
}

/// received = accepted + duplicates + filtered + rejected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Balance {
    /// Samples that came in.
    pub received: u64,
    /// Samples stored.
    pub accepted: u64,
    /// Samples that were there already.
    pub duplicates: u64,
    /// Samples taken out by a rule.
    pub filtered: u64,
    /// Samples refused.
    pub rejected: u64,
    /// Samples refused, by reason.
    pub rejected_by_reason: BTreeMap<String, u64>,
}

impl From<&Counts> for Balance {
    fn from(counts: &Counts) -> Balance {
        let reasons = Refusal::ALL.iter().map(|r| (r.as_str().to_owned(), counts.refused[*r as usize]));
        Balance {
            received: counts.received,
            accepted: counts.stored,
            duplicates: counts.duplicates,
            filtered: counts.filtered,
            rejected: counts.refused_total(),
            rejected_by_reason: reasons.filter(|(_, n)| *n > 0).collect(),
        }
    }
}

fn by_type(list: &[(MetricType, u64)]) -> BTreeMap<String, u64> {
    list.iter().filter(|(_, n)| *n > 0).map(|(t, n)| (t.as_str().to_owned(), *n)).collect()
}

impl ScrapeReport {
    /// Shows what a scrape came to, and what each filter did.
    pub fn with_filters(outcome: &ScrapeOutcome, set: &FilterSet) -> ScrapeReport {
        ScrapeReport {
            filters: super::explain::report(&outcome.filters, set),
            collisions: outcome.collisions.iter().take(COLLISIONS_MAX).map(ToString::to_string).collect(),
            ..ScrapeReport::from(outcome)
        }
    }
}

impl From<&ScrapeOutcome> for ScrapeReport {
    fn from(o: &ScrapeOutcome) -> ScrapeReport {
        let parse_error = |e: &wire::ParseError| ParseErrorJson {
            line: u64::from(e.line),
            column: u64::from(e.column),
            text: e.text.clone(),
            message: e.message.to_string(),
        };
        ScrapeReport {
            ok: o.ok,
            error: o.error.as_ref().map(|e| e.message.clone()),
            error_kind: o.error.as_ref().map(|e| e.kind.as_str().to_owned()),
            scraped_at: time::to_text(o.scrape_ms),
            http_status: o.http_status,
            content_type: o.content_type.clone(),
            format: o.format.map(str::to_owned),
            bytes_wire: o.bytes_wire,
            bytes: o.bytes_body,
            duration_ms: o.duration_ms,
            scrape_wait_ms: o.scrape_wait_ms,
            scrape_ingest_ms: o.scrape_ingest_ms,
            samples: o.samples,
            samples_post_metric_relabeling: o.samples_post_relabeling,
            series: o.series,
            series_added: o.series_added,
            new_series: o.new_series,
            families_by_type: by_type(&o.families_by_type),
            series_by_type: by_type(&o.series_by_type),
            top_labels: o.top_labels.iter().map(|l| TopLabel { name: l.name.clone(), values: l.values }).collect(),
            filters: Vec::new(),
            collisions: Vec::new(),
            advice: o.advice.clone(),
            parse_errors: o.parse_error.iter().map(parse_error).collect(),
            balance: Balance::from(&o.counts),
            address: o.address.map(|a| a.to_string()),
            tls: o.peer.as_ref().map(|peer| TlsPeerJson {
                subject: peer.subject.clone(),
                issuer: peer.issuer.clone(),
                not_after: time::to_text(peer.not_after_ms),
                days_to_expiry: (peer.not_after_ms - o.scrape_ms).div_euclid(DAY_MS as i64),
                version: peer.version.clone(),
            }),
            projected: None,
            conflicts: Vec::new(),
            redirects: o.redirects,
            connection_reused: o.connection_reused,
        }
    }
}

/// The specification's DeletionResult.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeletionResult {
    /// Which target.
    pub target_id: String,
    /// Always true in a 200.
    pub deleted: bool,
    /// DELETED.
    pub status: String,
    /// Series that were marked as ended.
    pub stale_markers_written: u64,
    /// KEPT: samples stay until their retention ends. PURGE_SCHEDULED: they go at `undo_until`.
    pub data: String,
    /// Names the purge; null when nothing is purged.
    pub purge_job_id: Option<String>,
    /// Until when `POST /targets/{id}/restore` undoes it.
    pub undo_until: String,
    /// When it was deleted.
    pub deleted_at: String,
}
