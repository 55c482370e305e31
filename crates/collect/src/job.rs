//! A scrape job of the configuration, and how it turns discovered labels into targets.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::filter::FilterSet;
use model::relabel::{self, Rule};
use model::{Labels, LabelsBuf, TargetGroup, format_duration_ms, parse_duration_ms};
use url::Url;
use wire::Escaping;

use crate::address::AddressPolicy;
use crate::http::HttpSettings;
use crate::target::{Protocol, ScrapeLimits, TargetOrigin, TargetSpec};

const ADDRESS: &str = "__address__";
const SCHEME: &str = "__scheme__";
const METRICS_PATH: &str = "__metrics_path__";
const INTERVAL: &str = "__scrape_interval__";
const TIMEOUT: &str = "__scrape_timeout__";
const PARAM_PREFIX: &str = "__param_";

/// One entry of `scrape_configs`, checked.
#[derive(Clone, Debug)]
pub struct ScrapeJob {
    /// `job_name`.
    pub job_name: String,
    /// `scrape_interval`.
    pub interval_ms: u64,
    /// `scrape_timeout`.
    pub timeout_ms: u64,
    /// `metrics_path`.
    pub metrics_path: String,
    /// `scheme`.
    pub scheme: String,
    /// `params`.
    pub params: BTreeMap<String, Vec<String>>,
    /// `honor_labels`.
    pub honor_labels: bool,
    /// `honor_timestamps`.
    pub honor_timestamps: bool,
    /// `track_timestamps_staleness`.
    pub track_timestamps_staleness: bool,
    /// `relabel_configs`.
    pub relabel: Vec<Rule>,
    /// `metric_relabel_configs`.
    pub metric_relabel: Arc<[Rule]>,
    /// Filters of the job, from `quiver.filters`.
    pub filters: Arc<FilterSet>,
    /// The limits.
    pub limits: ScrapeLimits,
    /// `scrape_protocols`.
    pub protocols: Vec<Protocol>,
    /// `metric_name_escaping_scheme`.
    pub escaping: Escaping,
    /// `metric_name_validation_scheme: legacy`.
    pub legacy_names: bool,
    /// `fallback_scrape_protocol`.
    pub fallback_protocol: Option<Protocol>,
    /// `scrape_native_histograms`. Whoever sets it puts [`Protocol::Proto`] first, unless the protocols are given.
    pub native_histograms: bool,
    /// `always_scrape_classic_histograms`.
    pub always_classic_histograms: bool,
    /// TLS, authentication, headers.
    pub http: Arc<HttpSettings>,
    /// Which addresses may be connected to.
    pub address_policy: AddressPolicy,
}

impl ScrapeJob {
    /// Builds a job with Prometheus' defaults.
    pub fn new(job_name: impl Into<String>) -> ScrapeJob {
        ScrapeJob {
            job_name: job_name.into(),
            interval_ms: 60_000,
            timeout_ms: 10_000,
            metrics_path: "/metrics".to_owned(),
            scheme: "http".to_owned(),
            params: BTreeMap::new(),
            honor_labels: false,
            honor_timestamps: true,
            track_timestamps_staleness: false,
            relabel: Vec::new(),
            metric_relabel: Arc::from([]),
            filters: Arc::default(),
            limits: ScrapeLimits { body_bytes: 0, ..ScrapeLimits::default() },
            protocols: Protocol::DEFAULT.to_vec(),
            escaping: Escaping::AllowUtf8,
            legacy_names: false,
            fallback_protocol: None,
            native_histograms: false,
            always_classic_histograms: false,
            http: Arc::new(HttpSettings::default()),
            address_policy: AddressPolicy::allow_all(),
        }
    }
}

/// Why a discovered target is not scraped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DropReason {
    /// A relabel rule dropped it.
    #[error("dropped by relabeling")]
    Relabeled,
    /// It cannot be scraped as it is.
    #[error("{0}")]
    Invalid(String),
}

/// A discovered target that is not scraped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DroppedTarget {
    /// Its labels before relabeling.
    pub discovered_labels: Labels,
    /// Why it is not scraped.
    pub reason: DropReason,
}

/// Builds the targets of a group, in order (Prometheus' `PopulateLabels`).
///
/// **Gives** one entry per target of the group. Two entries with the same `target_id` are the same target.
pub fn build_targets(job: &ScrapeJob, group: &TargetGroup) -> Vec<Result<TargetSpec, DroppedTarget>> {
    group
        .targets
        .iter()
        .map(|target| {
            let mut buf = discovered_labels(job, &group.labels, target);
            let discovered_labels = buf.to_labels();
            build_target(job, &mut buf, &discovered_labels)
                .map_err(|reason| DroppedTarget { discovered_labels, reason })
        })
        .collect()
}

fn discovered_labels(job: &ScrapeJob, group: &Labels, target: &Labels) -> LabelsBuf {
    let mut buf = LabelsBuf::from_labels(target);
    let set_default = |buf: &mut LabelsBuf, name: &str, value: &str| {
        if buf.get(name).unwrap_or("").is_empty() {
            buf.set(name, value);
        }
    };
    for (name, value) in group.iter() {
        set_default(&mut buf, name, value);
    }
    set_default(&mut buf, "job", &job.job_name);
    set_default(&mut buf, INTERVAL, &format_duration_ms(job.interval_ms as i64));
    set_default(&mut buf, TIMEOUT, &format_duration_ms(job.timeout_ms as i64));
    set_default(&mut buf, METRICS_PATH, &job.metrics_path);
    set_default(&mut buf, SCHEME, &job.scheme);
    for (name, values) in &job.params {
        if let Some(first) = values.first() {
            set_default(&mut buf, &format!("{PARAM_PREFIX}{name}"), first);
        }
    }
    buf
}

fn build_target(job: &ScrapeJob, buf: &mut LabelsBuf, discovered: &Labels) -> Result<TargetSpec, DropReason> {
    if !relabel::apply(&job.relabel, buf) {
        return Err(DropReason::Relabeled);
    }
    let invalid = |text: String| Err(DropReason::Invalid(text));
    let address = buf.get(ADDRESS).unwrap_or("").to_owned();
    if address.is_empty() {
        return invalid("no address".to_owned());
    }
    if address.contains('/') {
        return invalid(format!("{address:?} is not a valid hostname"));
    }
    let interval_ms = duration(buf, INTERVAL, "interval")?;
    let timeout_ms = duration(buf, TIMEOUT, "timeout")?;
    if timeout_ms > interval_ms {
        return invalid(format!(
            "scrape timeout cannot be greater than scrape interval ({:?} > {:?})",
            buf.get(TIMEOUT).unwrap_or(""),
            buf.get(INTERVAL).unwrap_or("")
        ));
    }
    let url = url_of(job, buf, &address)?;
    if buf.get("instance").unwrap_or("").is_empty() {
        buf.set("instance", &address);
    }
    buf.retain(|name, _| !name.starts_with("__"));
    let labels = buf.to_labels();
    let mut spec = TargetSpec {
        target_id: String::new(),
        source_id: cut(&job.job_name, 100).to_owned(),
        origin: TargetOrigin::Discovery { job: job.job_name.clone() },
        url,
        discovered_labels: discovered.clone(),
        labels,
        interval_ms,
        timeout_ms,
        honor_labels: job.honor_labels,
        honor_timestamps: job.honor_timestamps,
        track_timestamps_staleness: job.track_timestamps_staleness,
        metric_relabel: job.metric_relabel.clone(),
        filters: job.filters.clone(),
        limits: job.limits,
        protocols: job.protocols.clone(),
        escaping: job.escaping,
        legacy_names: job.legacy_names,
        fallback_protocol: job.fallback_protocol,
        native_histograms: job.native_histograms,
        always_classic_histograms: job.always_classic_histograms,
        http: job.http.clone(),
        gather: None,
        enabled: true,
        address_policy: job.address_policy.clone(),
    };
    spec.target_id = target_id(&job.job_name, spec.phase_hash());
    Ok(spec)
}

/// Reads `__scrape_interval__` or `__scrape_timeout__`.
fn duration(buf: &LabelsBuf, label: &str, what: &str) -> Result<u64, DropReason> {
    let text = buf.get(label).unwrap_or("");
    match parse_duration_ms(text) {
        Err(e) => Err(DropReason::Invalid(format!("error parsing scrape {what}: {e}"))),
        Ok(ms) if ms <= 0 => Err(DropReason::Invalid(format!("scrape {what} cannot be 0"))),
        Ok(ms) => Ok(ms as u64),
    }
}

/// Builds scheme, address, path and parameters; a `__param_x` label replaces the first value of `x`.
fn url_of(job: &ScrapeJob, buf: &LabelsBuf, address: &str) -> Result<Url, DropReason> {
    let scheme = buf.get(SCHEME).unwrap_or("");
    if scheme != "http" && scheme != "https" {
        return Err(DropReason::Invalid(format!("invalid scheme: {scheme:?}")));
    }
    let mut url = Url::parse(&format!("{scheme}://{address}/"))
        .map_err(|e| DropReason::Invalid(format!("{address:?} is not a valid address: {e}")))?;
    url.set_path(buf.get(METRICS_PATH).unwrap_or(""));
    let mut params = job.params.clone();
    for (name, value) in buf.iter() {
        if let Some(param) = name.strip_prefix(PARAM_PREFIX) {
            let values = params.entry(param.to_owned()).or_default();
            match values.first_mut() {
                Some(first) => *first = value.to_owned(),
                None => values.push(value.to_owned()),
            }
        }
    }
    if params.values().any(|values| !values.is_empty()) {
        let mut pairs = url.query_pairs_mut();
        for (name, values) in &params {
            for value in values {
                pairs.append_pair(name, value);
            }
        }
    }
    Ok(url)
}

fn target_id(job: &str, hash: u64) -> String {
    let mut id: String =
        job.chars().map(|c| if c.is_ascii_alphanumeric() || "._:-".contains(c) { c } else { '_' }).take(80).collect();
    id.push_str(&format!("-{hash:016x}"));
    id
}

fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::relabel::{Action, Pattern};

    fn group(targets: &[&[(&str, &str)]], labels: &[(&str, &str)]) -> TargetGroup {
        TargetGroup {
            source: "0".into(),
            labels: Labels::from_pairs(labels.iter().copied()),
            targets: targets.iter().map(|t| Labels::from_pairs(t.iter().copied())).collect(),
        }
    }

    fn one(job: &ScrapeJob, target: &[(&str, &str)]) -> Result<TargetSpec, DropReason> {
        let mut built = build_targets(job, &group(&[target], &[("env", "prod")]));
        assert_eq!(built.len(), 1);
        built.remove(0).map_err(|dropped| dropped.reason)
    }

    fn rule(source: &str, regex: &str, target: &str, replacement: &str) -> Rule {
        Rule {
            source_labels: vec![source.into()],
            regex: Pattern::new(regex).unwrap_or_else(|e| panic!("{e}")),
            target_label: target.into(),
            replacement: replacement.into(),
            ..Rule::default()
        }
    }

    #[test]
    fn defaults_become_labels_and_url() {
        let job = ScrapeJob::new("node");
        let spec = one(&job, &[("__address__", "host:9100"), ("__meta_x", "y")]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(spec.url.as_str(), "http://host:9100/metrics");
        assert_eq!(spec.labels.to_string(), r#"{env="prod", instance="host:9100", job="node"}"#);
        assert_eq!((spec.interval_ms, spec.timeout_ms), (60_000, 10_000));
        assert_eq!(
            spec.discovered_labels.to_string(),
            r#"{__address__="host:9100", __meta_x="y", __metrics_path__="/metrics", __scheme__="http", __scrape_interval__="1m", __scrape_timeout__="10s", env="prod", job="node"}"#
        );
        assert!(spec.target_id.starts_with("node-"), "{}", spec.target_id);
    }

    #[test]
    fn relabeling_reaches_address_path_scheme_params_and_times() {
        let mut job = ScrapeJob::new("blackbox");
        job.metrics_path = "/probe".into();
        job.params.insert("module".into(), vec!["http_2xx".into(), "second".into()]);
        job.relabel = vec![
            rule("__address__", "(.*)", "__param_target", "$1"),
            rule("__param_target", "(.*)", "instance", "$1"),
            rule("", "(.*)", "__address__", "127.0.0.1:9115"),
            rule("", "(.*)", "__scheme__", "https"),
            rule("", "(.*)", "__scrape_interval__", "30s"),
            rule("", "(.*)", "__scrape_timeout__", "5s"),
            rule("", "(.*)", "__tmp_x", "gone"),
        ];
        let spec = one(&job, &[("__address__", "example.com")]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(spec.url.as_str(), "https://127.0.0.1:9115/probe?module=http_2xx&module=second&target=example.com");
        assert_eq!(spec.labels.to_string(), r#"{env="prod", instance="example.com", job="blackbox"}"#);
        assert_eq!((spec.interval_ms, spec.timeout_ms), (30_000, 5_000));
    }

    #[test]
    fn no_port_is_added() {
        let spec = one(&ScrapeJob::new("j"), &[("__address__", "[::1]")]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(spec.url.as_str(), "http://[::1]/metrics");
        assert_eq!(spec.labels.get("instance"), Some("[::1]"));
    }

    #[test]
    fn bad_targets_are_dropped_with_the_reason() {
        let mut job = ScrapeJob::new("j");
        let reason = |job: &ScrapeJob, target: &[(&str, &str)]| match one(job, target) {
            Ok(spec) => panic!("{spec:?}"),
            Err(reason) => reason.to_string(),
        };
        assert_eq!(reason(&job, &[("x", "y")]), "no address");
        assert_eq!(reason(&job, &[("__address__", "http://h/x")]), "\"http://h/x\" is not a valid hostname");
        assert_eq!(
            reason(&job, &[("__address__", "h:1"), ("__scrape_timeout__", "2m")]),
            "scrape timeout cannot be greater than scrape interval (\"2m\" > \"1m\")"
        );
        assert_eq!(
            reason(&job, &[("__address__", "h:1"), ("__scrape_interval__", "0s")]),
            "scrape interval cannot be 0"
        );
        assert_eq!(
            reason(&job, &[("__address__", "h:1"), ("__scrape_interval__", "often")]),
            "error parsing scrape interval: not a valid duration string: \"often\""
        );
        assert_eq!(reason(&job, &[("__address__", "h:1"), ("__scheme__", "file")]), "invalid scheme: \"file\"");
        job.relabel = vec![Rule { action: Action::Drop, ..rule("__address__", "h:1", "", "$1") }];
        assert_eq!(reason(&job, &[("__address__", "h:1")]), "dropped by relabeling");
    }
}
