//! The section `alerting`: where alerts are sent.

use std::path::Path;
use std::sync::Arc;

use collect::HttpSettings;
use discover::Mechanism;
use model::relabel::Rule;

use super::fields::{Fields, Problems};
use super::yaml::Node;
use super::{http_client, relabel, sd};

/// The section.
#[derive(Clone, Debug, Default)]
pub struct Alerting {
    /// `alert_relabel_configs`: what each alert goes through first.
    pub relabel: Vec<Rule>,
    /// `alertmanagers`
    pub alertmanagers: Vec<Alertmanagers>,
}

/// Alertmanagers that are reached in the same way.
#[derive(Clone, Debug)]
pub struct Alertmanagers {
    /// `http` or `https`.
    pub scheme: String,
    /// In front of `/api/v2/alerts`.
    pub path_prefix: String,
    /// For one request.
    pub timeout_ms: i64,
    /// TLS, authentication, headers.
    pub http: Arc<HttpSettings>,
    /// Chooses among what discovery finds.
    pub relabel: Vec<Rule>,
    /// Alerts to these go through these rules too.
    pub alert_relabel: Vec<Rule>,
    /// Where they come from.
    pub mechanisms: Vec<Mechanism>,
}

/// Reads the section.
pub fn read(node: &Node, dir: &Path, problems: &mut Problems) -> Alerting {
    let mut fields = Fields::open(node, "alerting", problems);
    let mut alerting = Alerting::default();
    if let Some(nodes) = fields.list("alert_relabel_configs", problems) {
        alerting.relabel = relabel::read(nodes, "alert_relabel_configs of alerting", problems);
    }
    for node in fields.list("alertmanagers", problems).unwrap_or_default() {
        alerting.alertmanagers.extend(read_one(node, dir, problems));
    }
    fields.finish(problems);
    alerting
}

fn read_one(node: &Node, dir: &Path, problems: &mut Problems) -> Option<Alertmanagers> {
    let mut fields = Fields::open(node, "alertmanagers", problems);
    let scheme = fields.string("scheme", problems).unwrap_or_else(|| "http".to_owned());
    if !matches!(scheme.as_str(), "http" | "https") {
        problems.error(fields.place_of("scheme"), format!("scheme must be http or https, not {scheme:?}"));
    }
    let path_prefix = fields.string("path_prefix", problems).unwrap_or_default();
    let timeout_ms = fields.duration_ms("timeout", problems).filter(|ms| *ms > 0).unwrap_or(10_000);
    match fields.string("api_version", problems).as_deref() {
        None | Some("" | "v2") => {}
        Some(other) => {
            let text = format!("expected Alertmanager api version to be one of [v2] but got {other}");
            problems.error(fields.place_of("api_version"), text);
        }
    }
    let mut lists = [Vec::new(), Vec::new()];
    for (key, list) in ["relabel_configs", "alert_relabel_configs"].into_iter().zip(&mut lists) {
        if let Some(nodes) = fields.list(key, problems) {
            *list = relabel::read(nodes, &format!("{key} of alertmanagers"), problems);
        }
    }
    let [relabel, alert_relabel] = lists;
    let options = http_client::read(&mut fields, dir, problems);
    let mechanisms = sd::read(&mut fields, dir, !relabel.is_empty(), problems);
    let http = HttpSettings::new(options).map_err(|e| problems.error(fields.at(), format!("{e} for alertmanagers")));
    fields.finish(problems);
    Some(Alertmanagers {
        scheme,
        path_prefix,
        timeout_ms,
        http: Arc::new(http.ok()?),
        relabel,
        alert_relabel,
        mechanisms,
    })
}
