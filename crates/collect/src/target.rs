//! A target: where to scrape, how often, under which rules.

use std::sync::Arc;

use model::Labels;
use model::filter::FilterSet;
use model::relabel::Rule;
use url::Url;
use wire::Escaping;

use crate::address::AddressPolicy;
use crate::gather::Gather;
use crate::http::HttpSettings;

/// Who brought a target.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum TargetOrigin {
    /// Registered over the API.
    Rest,
    /// Found by a scrape job of the configuration.
    Discovery {
        /// The job's name.
        job: String,
    },
    /// A custom collector of the configuration.
    Collector {
        /// Its name.
        name: String,
    },
}

/// An exposition format we ask for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// OpenMetrics text 2.0.0, a release candidate: asked for only where a configuration names it.
    OpenMetrics200,
    /// OpenMetrics text 1.0.0.
    OpenMetrics100,
    /// OpenMetrics text 0.0.1.
    OpenMetrics001,
    /// Prometheus text 1.0.0.
    Text100,
    /// Prometheus text 0.0.4.
    Text004,
    /// Delimited protobuf: the only one with native histograms.
    Proto,
}

impl Protocol {
    /// Prometheus' order of preference where native histograms are not wanted.
    pub const DEFAULT: [Protocol; 4] =
        [Protocol::OpenMetrics100, Protocol::OpenMetrics001, Protocol::Text100, Protocol::Text004];
    /// Prometheus' order of preference where they are: every protocol there is.
    pub const PROTO_FIRST: [Protocol; 5] =
        [Protocol::Proto, Protocol::OpenMetrics100, Protocol::OpenMetrics001, Protocol::Text100, Protocol::Text004];

    /// Gives the word of the configuration (`scrape_protocols`).
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::OpenMetrics200 => "OpenMetricsText2.0.0",
            Protocol::OpenMetrics100 => "OpenMetricsText1.0.0",
            Protocol::OpenMetrics001 => "OpenMetricsText0.0.1",
            Protocol::Text100 => "PrometheusText1.0.0",
            Protocol::Text004 => "PrometheusText0.0.4",
            Protocol::Proto => "PrometheusProto",
        }
    }

    /// Reads the word of the configuration.
    pub fn parse(word: &str) -> Option<Protocol> {
        Protocol::PROTO_FIRST.into_iter().chain([Protocol::OpenMetrics200]).find(|p| p.as_str() == word)
    }
}

/// What happens when a scrape holds more than a limit allows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OnExceed {
    /// The scrape fails, `up` is 0: Prometheus' way.
    #[default]
    Fail,
    /// Series that are in stay in, new ones are refused and counted.
    KeepExisting,
}

/// Limits of one scrape. Zero means no limit, as in Prometheus.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ScrapeLimits {
    /// Bytes of the body after inflating. Zero means the largest we can hold, 1 GiB.
    pub body_bytes: u64,
    /// Samples left after relabeling.
    pub sample: u64,
    /// Labels of one series, the name included.
    pub label: u64,
    /// Bytes of a label name.
    pub label_name_len: u64,
    /// Bytes of a label value.
    pub label_value_len: u64,
    /// What happens beyond `sample` and the label limits; a body too large always fails.
    pub on_exceed: OnExceed,
}

impl Default for ScrapeLimits {
    fn default() -> ScrapeLimits {
        ScrapeLimits {
            body_bytes: 32 << 20,
            sample: 0,
            label: 0,
            label_name_len: 0,
            label_value_len: 0,
            on_exceed: OnExceed::Fail,
        }
    }
}

/// Everything that is to know about one target.
#[derive(Clone, Debug)]
pub struct TargetSpec {
    /// Names the target, unique on this node.
    pub target_id: String,
    /// The source that its samples are attributed to.
    pub source_id: String,
    /// Who brought it.
    pub origin: TargetOrigin,
    /// Where to scrape.
    pub url: Url,
    /// Labels before relabeling, for people who look for a mistake.
    pub discovered_labels: Labels,
    /// Labels that every sample gets: `job`, `instance` and more; none starts with `__`.
    pub labels: Labels,
    /// From one scrape to the next. At least 1.
    pub interval_ms: u64,
    /// Longest time for one scrape, body included. At most the interval.
    pub timeout_ms: u64,
    /// On a conflict the scraped label wins; otherwise it is renamed to `exported_*`.
    pub honor_labels: bool,
    /// Timestamps in the body are used; otherwise the scrape's time.
    pub honor_timestamps: bool,
    /// Series with timestamps of their own get stale markers too.
    pub track_timestamps_staleness: bool,
    /// Applied to every series.
    pub metric_relabel: Arc<[Rule]>,
    /// Applied to every series after `metric_relabel`.
    pub filters: Arc<FilterSet>,
    /// Limits of one scrape.
    pub limits: ScrapeLimits,
    /// Formats to ask for, best first.
    pub protocols: Vec<Protocol>,
    /// How names are asked for.
    pub escaping: Escaping,
    /// Names that the formats of old cannot write fail the scrape.
    pub legacy_names: bool,
    /// The format of answers without a usable content type; `None` fails them.
    pub fallback_protocol: Option<Protocol>,
    /// Native histograms are taken; otherwise the classic buckets of every histogram.
    pub native_histograms: bool,
    /// The classic buckets of a native histogram are taken, too.
    pub always_classic_histograms: bool,
    /// TLS, authentication, headers.
    pub http: Arc<HttpSettings>,
    /// What makes the body, where no exporter does.
    pub gather: Option<Arc<dyn Gather>>,
    /// Whether it is scraped at all.
    pub enabled: bool,
    /// Which addresses may be connected to.
    pub address_policy: AddressPolicy,
}

impl TargetSpec {
    /// Builds a target with Prometheus' defaults: 15 s interval, 10 s timeout, timestamps honored, labels not.
    pub fn new(target_id: impl Into<String>, url: Url, labels: Labels) -> TargetSpec {
        let target_id = target_id.into();
        TargetSpec {
            source_id: target_id.clone(),
            target_id,
            origin: TargetOrigin::Rest,
            url,
            discovered_labels: Labels::empty(),
            labels,
            interval_ms: 15_000,
            timeout_ms: 10_000,
            honor_labels: false,
            honor_timestamps: true,
            track_timestamps_staleness: false,
            metric_relabel: Arc::from([]),
            filters: Arc::default(),
            limits: ScrapeLimits::default(),
            protocols: Protocol::DEFAULT.to_vec(),
            escaping: Escaping::AllowUtf8,
            legacy_names: false,
            fallback_protocol: None,
            native_histograms: false,
            always_classic_histograms: false,
            http: Arc::new(HttpSettings::default()),
            gather: None,
            enabled: true,
            address_policy: AddressPolicy::allow_all(),
        }
    }

    /// Tells whether another spec turns the same key into the same series.
    pub(crate) fn maps_like(&self, other: &TargetSpec) -> bool {
        self.labels == other.labels
            && self.honor_labels == other.honor_labels
            && self.limits == other.limits
            && self.legacy_names == other.legacy_names
            && self.metric_relabel == other.metric_relabel
            && (Arc::ptr_eq(&self.filters, &other.filters) || self.filters == other.filters)
    }

    /// Gives the hash that spreads targets over their interval and names them.
    pub(crate) fn phase_hash(&self) -> u64 {
        let mut bytes = self.labels.as_bytes().to_vec();
        bytes.extend_from_slice(self.url.as_str().as_bytes());
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }
}
