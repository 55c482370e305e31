//! The keys of service discovery in a scrape config.

use std::path::Path;

use discover::{FileSd, Mechanism};
use model::{Labels, TargetGroup};

use super::fields::{Fields, Problems};
use super::yaml::{Kind, Node};

/// Mechanisms of Prometheus that are not served yet.
const NOT_YET: [&str; 32] = [
    "aws_sd_configs",
    "azure_sd_configs",
    "consul_sd_configs",
    "digitalocean_sd_configs",
    "dns_sd_configs",
    "docker_sd_configs",
    "dockerswarm_sd_configs",
    "ec2_sd_configs",
    "ecs_sd_configs",
    "eureka_sd_configs",
    "gce_sd_configs",
    "hetzner_sd_configs",
    "http_sd_configs",
    "ionos_sd_configs",
    "kubernetes_sd_configs",
    "kuma_sd_configs",
    "lightsail_sd_configs",
    "linode_sd_configs",
    "marathon_sd_configs",
    "msk_sd_configs",
    "nerve_sd_configs",
    "nomad_sd_configs",
    "openstack_sd_configs",
    "outscale_sd_configs",
    "ovhcloud_sd_configs",
    "puppetdb_sd_configs",
    "scaleway_sd_configs",
    "serverset_sd_configs",
    "stackit_sd_configs",
    "triton_sd_configs",
    "uyuni_sd_configs",
    "vultr_sd_configs",
];

/// Reads all mechanisms of a job.
///
/// **Takes** `relabeled`: addresses need not be addresses yet, since rules follow.
pub fn read(fields: &mut Fields<'_>, dir: &Path, relabeled: bool, problems: &mut Problems) -> Vec<Mechanism> {
    let mut mechanisms = Vec::new();
    let mut groups = Vec::new();
    for (i, node) in fields.list("static_configs", problems).unwrap_or_default().iter().enumerate() {
        if matches!(node.kind, Kind::Null) {
            problems.error(node.at, "empty or null section in static_configs");
            continue;
        }
        groups.push(read_group(node, i, relabeled, problems));
    }
    if !groups.is_empty() {
        mechanisms.push(Mechanism::Static(groups));
    }
    for node in fields.list("file_sd_configs", problems).unwrap_or_default() {
        if matches!(node.kind, Kind::Null) {
            problems.error(node.at, "empty or null section in file_sd_configs");
        } else if let Some(files) = read_files(node, dir, problems) {
            mechanisms.push(Mechanism::Files(files));
        }
    }
    fields.not_yet(&NOT_YET, problems);
    mechanisms
}

fn read_group(node: &Node, index: usize, relabeled: bool, problems: &mut Problems) -> TargetGroup {
    let mut fields = Fields::open(node, "static_configs", problems);
    let mut targets = Vec::new();
    for item in fields.list("targets", problems).unwrap_or_default() {
        match &item.kind {
            Kind::Scalar(address) => {
                if !relabeled && address.contains('/') {
                    problems.error(item.at, format!("{address:?} is not a valid hostname"));
                }
                targets.push(Labels::from_pairs([("__address__", address)]));
            }
            _ => problems.error(item.at, format!("targets must hold plain values, not {}", item.kind_name())),
        }
    }
    let labels = fields.string_map("labels", problems).unwrap_or_default();
    if labels.iter().any(|(name, _)| name.is_empty()) {
        problems.error(fields.place_of("labels"), "\"\" is not a valid label name");
    }
    fields.finish(problems);
    TargetGroup { source: index.to_string(), labels: Labels::from_pairs(labels), targets }
}

fn read_files(node: &Node, dir: &Path, problems: &mut Problems) -> Option<FileSd> {
    let mut fields = Fields::open(node, "file_sd_configs", problems);
    let mut files = Vec::new();
    for item in fields.list("files", problems).unwrap_or_default() {
        let Kind::Scalar(name) = &item.kind else {
            problems.error(item.at, format!("files must hold plain values, not {}", item.kind_name()));
            continue;
        };
        match FileSd::check_name(name) {
            Ok(()) => files.push(dir.join(name).display().to_string()),
            Err(text) => problems.error(item.at, text),
        }
    }
    if fields.list("files", problems).unwrap_or_default().is_empty() {
        problems.error(fields.at(), "file service discovery config must contain at least one path name");
    }
    let refresh = fields.duration_ms("refresh_interval", problems);
    fields.finish(problems);
    let mut settings = FileSd::new(files);
    if let Some(ms) = refresh.filter(|ms| *ms > 0) {
        settings.refresh_ms = ms.unsigned_abs();
    }
    (!settings.files.is_empty()).then_some(settings)
}
