//! One entry of Prometheus' `remote_write`.

use std::path::Path;
use std::time::Duration;

use sinks::{MetadataSettings, Protocol, RemoteWriteSettings};

use super::fields::{Fields, Problems};
use super::relabel;
use super::sinks::{SAMPLES_MAX, SinkConfig, SinkKind, address, read_http, read_name, read_url, sink};
use super::yaml::Node;

/// Requests at once that can be asked for.
const SHARDS_MAX: u64 = 1_000;

/// Headers that say who sends, and what; others that belong to us are so of every client.
const RESERVED: [&str; 2] = ["user-agent", "x-prometheus-remote-write-version"];

/// Reads one entry.
pub fn read(fields: &mut Fields<'_>, dir: &Path, problems: &mut Problems) -> Option<SinkConfig> {
    let url = read_url(fields, problems);
    let name = read_name(fields, problems);
    let headers = fields.string_map("headers", problems).unwrap_or_default();
    for (name, _) in &headers {
        if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            problems.error(fields.place_of("headers"), format!("{name} is a reserved header. It must not be changed"));
        }
    }
    let protocol = match fields.string("protobuf_message", problems).as_deref() {
        None | Some("" | "prometheus.WriteRequest") => Protocol::V1,
        Some("io.prometheus.write.v2.Request") => Protocol::V2,
        Some(other) => {
            let text = format!(
                "unknown remote write protobuf message {other}, supported: prometheus.WriteRequest, \
                 io.prometheus.write.v2.Request"
            );
            problems.error(fields.place_of("protobuf_message"), text);
            Protocol::V1
        }
    };
    let relabel = match fields.list("write_relabel_configs", problems) {
        Some(nodes) => relabel::read(nodes, "write_relabel_configs of remote_write", problems),
        None => Vec::new(),
    };
    let exemplars = fields.bool("send_exemplars", problems).unwrap_or(false);
    let histograms = fields.bool("send_native_histograms", problems).unwrap_or(false);
    // One connection for each request at once, resolved anew when it is made.
    fields.ignore(&["round_robin_dns"]);
    let (queue, age_max_ms) = match fields.get("queue_config") {
        Some(node) => read_queue(node, problems),
        None => Default::default(),
    };
    let metadata = read_metadata(fields.get("metadata_config").map(|node| &**node), problems);
    let http = read_http(fields, dir, url, headers, problems)?;
    let address = address(&http.url);
    let mut settings =
        RemoteWriteSettings { http: queue, protocol, relabel, exemplars, histograms, metadata, age_max_ms };
    settings.http.name = name.clone().unwrap_or_default();
    let mut sink = sink(name, &address, SinkKind::RemoteWrite(http, Box::new(settings)));
    if let SinkKind::RemoteWrite(_, settings) = &mut sink.kind {
        settings.http.name.clone_from(&sink.name);
    }
    Some(sink)
}

/// Reads `queue_config`; gives `sample_age_limit` beside it.
fn read_queue(node: &Node, problems: &mut Problems) -> (sinks::HttpSettings, i64) {
    let mut fields = Fields::open(node, "queue_config of remote_write", problems);
    let mut queue = sinks::HttpSettings::default();
    // The queue is on disk: what waits in memory is one window.
    fields.uint("capacity", problems);
    if let Some(n) = fields.uint("min_shards", problems) {
        queue.shards.0 = n.clamp(1, SHARDS_MAX) as usize;
    }
    if let Some(n) = fields.uint("max_shards", problems) {
        queue.shards.1 = n.clamp(1, SHARDS_MAX) as usize;
    }
    if queue.shards.0 > queue.shards.1 {
        problems.error(fields.place_of("min_shards"), "min_shards is larger than max_shards");
    }
    if let Some(n) = fields.uint("max_samples_per_send", problems) {
        queue.samples_max = n.clamp(1, SAMPLES_MAX) as usize;
    }
    let mut duration = |key, slot: &mut Duration| {
        if let Some(ms) = fields.duration_ms(key, problems) {
            *slot = Duration::from_millis(ms.unsigned_abs());
        }
    };
    duration("batch_send_deadline", &mut queue.gather);
    duration("min_backoff", &mut queue.backoff.0);
    duration("max_backoff", &mut queue.backoff.1);
    queue.backoff.0 = queue.backoff.0.max(Duration::from_millis(1));
    queue.backoff.1 = queue.backoff.1.max(queue.backoff.0);
    queue.retry_on_429 = fields.bool("retry_on_http_429", problems).unwrap_or(true);
    let age_max_ms = fields.duration_ms("sample_age_limit", problems).unwrap_or(0);
    fields.finish(problems);
    (queue, age_max_ms)
}

fn read_metadata(node: Option<&Node>, problems: &mut Problems) -> MetadataSettings {
    let mut metadata = MetadataSettings { send: true, every: Duration::from_secs(60), families_max: 2_000 };
    let Some(node) = node else { return metadata };
    let mut fields = Fields::open(node, "metadata_config of remote_write", problems);
    metadata.send = fields.bool("send", problems).unwrap_or(true);
    if let Some(ms) = fields.duration_ms("send_interval", problems).filter(|ms| *ms > 0) {
        metadata.every = Duration::from_millis(ms.unsigned_abs());
    }
    if let Some(n) = fields.uint("max_samples_per_send", problems) {
        metadata.families_max = n.clamp(1, SAMPLES_MAX) as usize;
    }
    fields.finish(problems);
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;

    #[test]
    fn a_prometheus_remote_write_section_works_unchanged() {
        let text = "remote_write:
- url: https://u@example.org/api/prom/push
  name: cloud
  remote_timeout: 10s
  headers: {X-Scope-OrgID: acme}
  basic_auth: {username: u, password: p}
  tls_config: {insecure_skip_verify: true}
  send_exemplars: true
  send_native_histograms: true
  follow_redirects: false
  write_relabel_configs: [{source_labels: [a], regex: b, action: drop}]
  queue_config: {capacity: 9, max_shards: 3, min_shards: 2, max_samples_per_send: 7, batch_send_deadline: 1s,
    min_backoff: 10ms, max_backoff: 1s, retry_on_http_429: true, sample_age_limit: 1h}
  metadata_config: {send: false, send_interval: 2m, max_samples_per_send: 11}
- {url: 'http://other', protobuf_message: io.prometheus.write.v2.Request}
";
        let sinks = load_text(text, Path::new("c.yml"), false).unwrap().sinks.all;
        let SinkKind::RemoteWrite(http, settings) = &sinks[0].kind else { panic!("{sinks:?}") };
        assert_eq!((sinks[0].name.as_str(), http.timeout), ("cloud", Duration::from_secs(10)));
        assert_eq!((settings.http.shards, settings.http.samples_max, settings.age_max_ms), ((2, 3), 7, 3_600_000));
        assert_eq!(settings.http.backoff, (Duration::from_millis(10), Duration::from_secs(1)));
        assert!(settings.exemplars && settings.histograms && settings.relabel.len() == 1 && !settings.metadata.send);
        let SinkKind::RemoteWrite(_, settings) = &sinks[1].kind else { panic!("{sinks:?}") };
        assert_eq!((settings.protocol, settings.http.shards), (Protocol::V2, (1, 50)));
        assert!(sinks[1].name.starts_with("remote_write-") && sinks[1].id != sinks[0].id);
    }
}
