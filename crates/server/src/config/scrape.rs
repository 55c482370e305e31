//! One entry of `scrape_configs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use collect::{HttpSettings, OnExceed, Protocol, ScrapeJob, ScrapeLimits};
use discover::Mechanism;
use wire::Escaping;

use super::fields::{Fields, Problems};
use super::global::{self, Global, Limits};
use super::yaml::{Kind, Node};
use super::{http_client, relabel, sd};

/// A scrape job and where its targets come from.
#[derive(Clone, Debug)]
pub struct Job {
    /// How targets are scraped.
    pub scrape: ScrapeJob,
    /// Where they come from.
    pub mechanisms: Vec<Mechanism>,
    /// More targets than this fail all scrapes of the job; 0 means no limit.
    pub target_limit: u64,
    /// How many dropped targets are remembered for people; 0 means all.
    pub keep_dropped: u64,
}

/// Reads a list of entries and adds them to the jobs that are there.
pub fn read_list(nodes: &[Arc<Node>], dir: &Path, global: &Global, jobs: &mut Vec<Job>, problems: &mut Problems) {
    for node in nodes {
        if matches!(node.kind, Kind::Null) {
            problems.error(node.at, "empty or null scrape config section");
            continue;
        }
        let job = read(node, dir, global, problems);
        let name = &job.scrape.job_name;
        if !name.is_empty() && jobs.iter().any(|j| j.scrape.job_name == *name) {
            problems.error(node.at, format!("found multiple scrape configs with job name {name:?}"));
            continue;
        }
        jobs.push(job);
    }
}

fn read(node: &Node, dir: &Path, global: &Global, problems: &mut Problems) -> Job {
    let mut fields = Fields::open(node, "scrape config", problems);
    let name = fields.string("job_name", problems).unwrap_or_default();
    if name.is_empty() {
        problems.error(fields.at(), "job_name is empty");
    } else {
        fields.rename(format!("scrape config with job name {name:?}"));
    }
    let mut job = ScrapeJob::new(name);
    read_times(&mut fields, &mut job, global, problems);
    read_protocols(&mut fields, &mut job, global, problems);
    read_request(&mut fields, &mut job, problems);
    let limits = global::read_limits(&mut fields, global.limits, problems);
    job.limits = scrape_limits(limits);
    let relabeled = read_relabeling(&mut fields, &mut job, problems);
    let options = http_client::read(&mut fields, dir, problems);
    match HttpSettings::new(options) {
        Ok(settings) => job.http = Arc::new(settings),
        Err(e) => problems.error(fields.at(), format!("{e} for {}", fields.what())),
    }
    let mechanisms = sd::read(&mut fields, dir, relabeled, problems);
    fields.not_yet(&["scrape_failure_log_file"], problems);
    read_native_limits(&mut fields, job.native_histograms, problems);
    fields.finish(problems);
    Job { scrape: job, mechanisms, target_limit: limits.target, keep_dropped: limits.keep_dropped }
}

/// Reads limits of native histograms: where none are taken, any will do.
fn read_native_limits(fields: &mut Fields<'_>, native: bool, problems: &mut Problems) {
    let limit = fields.uint("native_histogram_bucket_limit", problems);
    let factor = fields.parsed("native_histogram_min_bucket_factor", problems, |t| {
        t.parse::<f64>().map_err(|_| format!("{t:?} is not a number"))
    });
    let given = [
        ("native_histogram_bucket_limit", limit.is_some_and(|n| n > 0)),
        ("native_histogram_min_bucket_factor", factor.is_some_and(|f| f > 0.0)),
    ];
    for (key, _) in given.into_iter().filter(|(_, given)| native && *given) {
        problems.not_yet(fields.place_of(key), key, fields.what());
    }
}

fn read_times(fields: &mut Fields<'_>, job: &mut ScrapeJob, global: &Global, problems: &mut Problems) {
    let nonzero = |ms: Option<i64>| ms.filter(|ms| *ms != 0);
    let interval = nonzero(fields.duration_ms("scrape_interval", problems)).unwrap_or(global.scrape_interval_ms);
    let timeout = nonzero(fields.duration_ms("scrape_timeout", problems));
    if timeout.is_some_and(|t| t > interval) {
        let text = format!("scrape timeout greater than scrape interval for {}", fields.what());
        problems.error(fields.place_of("scrape_timeout"), text);
    }
    job.interval_ms = interval.unsigned_abs();
    job.timeout_ms = timeout.unwrap_or(global.scrape_timeout_ms.min(interval)).unsigned_abs();
}

fn read_protocols(fields: &mut Fields<'_>, job: &mut ScrapeJob, global: &Global, problems: &mut Problems) {
    let of = format!(" for {}", fields.what());
    let histograms = global::read_histogram_and_name_options(fields, global.histograms, problems);
    let plain = if histograms.legacy_names { Escaping::Underscores } else { Escaping::AllowUtf8 };
    (job.legacy_names, job.escaping) = (histograms.legacy_names, histograms.escaping.unwrap_or(plain));
    (job.native_histograms, job.always_classic_histograms) = (histograms.native, histograms.always_classic);
    let own = global::read_protocols(fields, &of, problems);
    match own.or_else(|| global.protocols.clone()).filter(|p| !p.is_empty()) {
        Some(protocols) => job.protocols = protocols,
        None if job.native_histograms => job.protocols = Protocol::PROTO_FIRST.to_vec(),
        None => {}
    }
    let word = fields.string("fallback_scrape_protocol", problems).unwrap_or_default();
    job.fallback_protocol = Protocol::parse(&word);
    if !word.is_empty() && job.fallback_protocol.is_none() {
        let text = format!("invalid fallback_scrape_protocol{of}: {}", global::unknown_protocol(&word));
        problems.error(fields.place_of("fallback_scrape_protocol"), text);
    }
}

fn read_request(fields: &mut Fields<'_>, job: &mut ScrapeJob, problems: &mut Problems) {
    if let Some(text) = fields.string("metrics_path", problems) {
        job.metrics_path = text;
    }
    if let Some(text) = fields.string("scheme", problems) {
        job.scheme = text;
    }
    if let Some(node) = fields.get("params") {
        job.params = read_params(node, problems);
    }
    for (key, slot) in [
        ("honor_labels", &mut job.honor_labels),
        ("honor_timestamps", &mut job.honor_timestamps),
        ("track_timestamps_staleness", &mut job.track_timestamps_staleness),
    ] {
        if let Some(yes) = fields.bool(key, problems) {
            *slot = yes;
        }
    }
}

fn read_params(node: &Node, problems: &mut Problems) -> BTreeMap<String, Vec<String>> {
    let mut params = BTreeMap::new();
    let Kind::Map(entries) = &node.kind else {
        problems.error(node.at, format!("params must be a mapping, not {}", node.kind_name()));
        return params;
    };
    for entry in entries {
        let values: &mut Vec<String> = params.entry(entry.key.clone()).or_default();
        match &entry.value.kind {
            Kind::Null => {}
            Kind::List(items) => {
                for item in items {
                    match &item.kind {
                        Kind::Scalar(text) => values.push(text.clone()),
                        _ => problems.error(item.at, format!("params: {} must hold plain values", entry.key)),
                    }
                }
            }
            _ => problems.error(entry.value.at, format!("params: {} must be a list", entry.key)),
        }
    }
    params
}

/// Reads both lists of rules; tells whether targets are relabeled at all.
fn read_relabeling(fields: &mut Fields<'_>, job: &mut ScrapeJob, problems: &mut Problems) -> bool {
    let mut relabeled = false;
    if let Some(nodes) = fields.list("relabel_configs", problems) {
        relabeled = !nodes.is_empty();
        job.relabel = relabel::read(nodes, &format!("relabel_configs of {}", fields.what()), problems);
    }
    if let Some(nodes) = fields.list("metric_relabel_configs", problems) {
        let what = format!("metric_relabel_configs of {}", fields.what());
        job.metric_relabel = relabel::read(nodes, &what, problems).into();
    }
    relabeled
}

fn scrape_limits(limits: Limits) -> ScrapeLimits {
    ScrapeLimits {
        body_bytes: limits.body_bytes,
        sample: limits.sample,
        label: limits.label,
        label_name_len: limits.label_name_len,
        label_value_len: limits.label_value_len,
        // Limits of a prometheus.yml mean what they mean there.
        on_exceed: OnExceed::Fail,
    }
}
