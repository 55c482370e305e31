//! `quiver.collectors`: programs, pages of JSON and queries that are made into scrapes.
//!
//! ```yaml
//! quiver:
//!   collectors:
//!     - name: backups
//!       interval: 5m
//!       exec: {command: [/usr/local/bin/backup-status], format: json}
//!     - name: queues
//!       http_json:
//!         url: http://127.0.0.1:15672/api/queues
//!         basic_auth: {username: u, password_file: /run/secrets/p}
//!         metrics:
//!           - {name: queue_messages, type: gauge, items: '/*', value: /messages, labels: {queue: /name}}
//! ```
//!
//! Limits: [`COLLECTORS_MAX`] collectors, [`METRICS_MAX`] metrics each.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use collect::{Gather, HttpSettings, TargetOrigin, TargetSpec};
use model::{Labels, MetricType, is_legacy_label_name, is_legacy_metric_name};
use sqlx::postgres::PgConnectOptions;
use url::Url;

use super::fields::{Fields, Problems};
use super::http_client;
use super::yaml::{Kind, Node};
use crate::collectors::{Database, Exec, HttpJson, Mapping, Output, Pick, Sql};
use crate::rest::registration::is_target_id;
use model::secret_url::without_password;

const COLLECTORS_MAX: usize = 1_000;
const METRICS_MAX: usize = 1_000;
const INTERVAL_MS: i64 = 60_000;
const TIMEOUT_MS: i64 = 10_000;
const OUTPUT_BYTES: u64 = 4 << 20;
/// A page of JSON takes several times its bytes while it is read.
const PAGE_BYTES: u64 = 32 << 20;
const OUTPUT_BYTES_MAX: u64 = 256 << 20;

/// Reads the collectors below `quiver:`.
pub fn read(root: &Node, dir: &Path, problems: &mut Problems) -> Vec<TargetSpec> {
    let find = |node: &Node, key: &str| match &node.kind {
        Kind::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| e.value.clone()),
        _ => None,
    };
    let Some(list) = find(root, "quiver").and_then(|quiver| find(&quiver, "collectors")) else { return Vec::new() };
    let Kind::List(entries) = &list.kind else {
        if list.holds_something() {
            problems.error(list.at, "quiver.collectors must be a list");
        }
        return Vec::new();
    };
    if entries.len() > COLLECTORS_MAX {
        problems.error(list.at, format!("more than {COLLECTORS_MAX} collectors"));
        return Vec::new();
    }
    let mut specs: Vec<TargetSpec> = Vec::new();
    for node in entries {
        let Some(spec) = read_one(node, dir, problems) else { continue };
        if specs.iter().any(|other| other.target_id == spec.target_id) {
            problems.error(node.at, format!("there are two collectors named {:?}", spec.source_id));
        }
        specs.push(spec);
    }
    specs
}

fn read_one(node: &Node, dir: &Path, problems: &mut Problems) -> Option<TargetSpec> {
    let mut fields = Fields::open(node, "a collector", problems);
    let name = fields.string("name", problems).unwrap_or_default();
    if !is_target_id(&name) || name.len() > 80 {
        problems.error(node.at, format!("a collector's name is [A-Za-z0-9._:-]{{1,80}}, not {name:?}"));
    }
    fields.rename(format!("collector {name:?}"));
    let interval_ms = fields.duration_ms("interval", problems).unwrap_or(INTERVAL_MS);
    let timeout_ms = fields.duration_ms("timeout", problems).unwrap_or(TIMEOUT_MS.min(interval_ms));
    if interval_ms < 1 || timeout_ms < 1 || timeout_ms > interval_ms {
        problems.error(node.at, "interval and timeout are more than 0, and timeout is at most the interval");
    }
    let mut labels = fields.string_map("labels", problems).unwrap_or_default();
    if let Some((bad, _)) = labels.iter().find(|(n, _)| !is_legacy_label_name(n) || n.starts_with("__")) {
        problems.error(fields.place_of("labels"), format!("{bad:?} is no label name"));
    }
    for (label, value) in [("job", &name), ("instance", &name)] {
        if !labels.iter().any(|(n, _)| n == label) {
            labels.push((label.to_owned(), value.clone()));
        }
    }
    let nowhere = Url::parse("exec://localhost/").ok()?;
    let mut spec = TargetSpec::new(format!("collector:{name}"), nowhere, Labels::from_pairs(labels));
    spec.limits.body_bytes = OUTPUT_BYTES_MAX;
    let timeout = Duration::from_millis(timeout_ms.unsigned_abs().max(1));
    let made = match (fields.get("exec"), fields.get("http_json"), fields.get("sql")) {
        (Some(exec), None, None) => read_exec(exec, &mut spec, problems),
        (None, Some(page), None) => read_http_json(page, dir, &mut spec, problems),
        (None, None, Some(sql)) => read_sql(sql, dir, timeout, &mut spec, problems),
        _ => {
            problems.error(node.at, "a collector has one of exec, http_json and sql");
            None
        }
    };
    fields.finish(problems);
    spec.origin = TargetOrigin::Collector { name: name.clone() };
    spec.source_id = name;
    spec.interval_ms = interval_ms.unsigned_abs().max(1);
    spec.timeout_ms = timeout_ms.unsigned_abs().max(1);
    spec.gather = Some(made?);
    Some(spec)
}

fn read_exec(node: &Node, spec: &mut TargetSpec, problems: &mut Problems) -> Option<Arc<dyn Gather>> {
    let mut fields = Fields::open(node, "exec", problems);
    let command = fields.strings("command", problems).unwrap_or_default();
    if command.first().is_none_or(|program| !program.starts_with('/')) {
        problems.error(node.at, "command is a list that begins with the path of a program; there is no shell");
    }
    let env = fields.string_map("env", problems).unwrap_or_default();
    let output = fields.parsed("format", problems, |text| {
        let known = Output::WORDS.iter().find(|(word, _)| *word == text).map(|(_, output)| *output);
        known.ok_or_else(|| format!("{text:?} is none of text, openmetrics, json, influx"))
    });
    let output_max = fields.size_bytes("output_max", problems).unwrap_or(OUTPUT_BYTES).clamp(1, OUTPUT_BYTES_MAX);
    fields.finish(problems);
    if let Ok(url) = Url::parse(&format!("exec://localhost{}", command.first().map(String::as_str).unwrap_or("/"))) {
        spec.url = url;
    }
    let output = output.unwrap_or(Output::Text);
    Some(Arc::new(Exec { command, env, output, output_max: usize::try_from(output_max).ok()? }))
}

fn read_http_json(node: &Node, dir: &Path, spec: &mut TargetSpec, problems: &mut Problems) -> Option<Arc<dyn Gather>> {
    let mut fields = Fields::open(node, "http_json", problems);
    let url = fields.string("url", problems).unwrap_or_default();
    match Url::parse(&url) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            problems.error(fields.place_of("url"), "name and password do not stand in the URL: see basic_auth");
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => spec.url = url,
        _ => problems.error(node.at, format!("{:?} is no URL of HTTP", without_password(&url))),
    }
    let options = http_client::read(&mut fields, dir, problems);
    match HttpSettings::new(options) {
        Ok(settings) => spec.http = Arc::new(settings),
        Err(e) => problems.error(node.at, e.to_string()),
    }
    let limit = fields.size_bytes("body_size_limit", problems).unwrap_or(PAGE_BYTES);
    if !(1..=OUTPUT_BYTES_MAX).contains(&limit) {
        problems.error(fields.place_of("body_size_limit"), format!("body_size_limit is 1 to {OUTPUT_BYTES_MAX} bytes"));
    }
    spec.limits.body_bytes = limit.clamp(1, OUTPUT_BYTES_MAX);
    let list = fields.list("metrics", problems).unwrap_or_default();
    if list.is_empty() || list.len() > METRICS_MAX {
        problems.error(node.at, format!("http_json has 1 to {METRICS_MAX} metrics"));
    }
    let metrics = list.iter().map(|metric| read_metric(metric, problems)).collect();
    fields.finish(problems);
    Some(Arc::new(HttpJson { metrics }))
}

fn read_sql(
    node: &Node,
    dir: &Path,
    timeout: Duration,
    spec: &mut TargetSpec,
    problems: &mut Problems,
) -> Option<Arc<dyn Gather>> {
    let mut fields = Fields::open(node, "sql", problems);
    let query = fields.string("query", problems).unwrap_or_default();
    if query.trim().is_empty() {
        problems.error(node.at, "sql has a query");
    }
    let password_file = fields.string("password_file", problems).map(|file| dir.join(file));
    let password_env = fields.string("password_env", problems);
    let database = match (fields.string("postgres", problems), fields.string("sqlite", problems)) {
        (Some(url), None) => match url.parse::<PgConnectOptions>() {
            Ok(mut options) => {
                if let Ok(url) = Url::parse(&format!("postgres://{}:{}/", options.get_host(), options.get_port())) {
                    spec.url = url;
                }
                match password_env.as_deref().map(|name| (name, std::env::var(name))) {
                    Some((_, Ok(password))) => options = options.password(&password),
                    Some((name, Err(_))) => problems.error(node.at, format!("the environment has no {name}")),
                    None => {}
                }
                Some(Database::Postgres { options: Box::new(options), password_file })
            }
            // What a driver says of a URL may repeat its password.
            Err(_) => {
                problems.error(node.at, "postgres is no URL such as postgres://user@host/database");
                None
            }
        },
        (None, Some(file)) => {
            let file = dir.join(file);
            if let Ok(url) = Url::parse(&format!("sqlite://localhost{}", file.display())) {
                spec.url = url;
            }
            Some(Database::Sqlite(file))
        }
        _ => {
            problems.error(node.at, "sql has either postgres: URL or sqlite: FILE");
            None
        }
    };
    let list = fields.list("metrics", problems).unwrap_or_default();
    if list.is_empty() || list.len() > METRICS_MAX {
        problems.error(node.at, format!("sql has 1 to {METRICS_MAX} metrics"));
    }
    let metrics = list.iter().map(|metric| read_columns(metric, problems)).collect();
    fields.finish(problems);
    Some(Arc::new(Sql { database: database?, query, rows: HttpJson { metrics }, timeout }))
}

/// Reads a metric whose value and labels are columns.
fn read_columns(node: &Node, problems: &mut Problems) -> Mapping {
    let mut fields = Fields::open(node, "a metric of sql", problems);
    let (name, metric_type, help) = read_name(&mut fields, node, problems);
    let pointer = |column: &str| format!("/{}", column.replace('~', "~0").replace('/', "~1"));
    let value = pointer(&fields.string("value", problems).unwrap_or_default());
    let columns = fields.strings("labels", problems).unwrap_or_default();
    if let Some(bad) = columns.iter().find(|n| !is_legacy_label_name(n) || n.starts_with("__")) {
        problems.error(fields.place_of("labels"), format!("{bad:?} is no label name: give the column another one"));
    }
    fields.finish(problems);
    let labels = columns.into_iter().map(|column| (column.clone(), Pick::At(pointer(&column)))).collect();
    Mapping { name, metric_type, help, items: "/*".to_owned(), value, labels }
}

/// Reads `name`, `type` and `help`.
fn read_name(fields: &mut Fields<'_>, node: &Node, problems: &mut Problems) -> (String, MetricType, String) {
    let name = fields.string("name", problems).unwrap_or_default();
    if !is_legacy_metric_name(&name) {
        problems.error(node.at, format!("{name:?} is no metric name"));
    }
    let metric_type = fields.parsed("type", problems, |text| match text {
        "counter" => Ok(MetricType::Counter),
        "gauge" => Ok(MetricType::Gauge),
        "unknown" => Ok(MetricType::Unknown),
        other => Err(format!("{other:?} is none of counter, gauge, unknown")),
    });
    (name, metric_type.unwrap_or(MetricType::Gauge), fields.string("help", problems).unwrap_or_default())
}

fn read_metric(node: &Node, problems: &mut Problems) -> Mapping {
    let mut fields = Fields::open(node, "a metric of http_json", problems);
    let (name, metric_type, help) = read_name(&mut fields, node, problems);
    let mut pointer = |key: &'static str, problems: &mut Problems| {
        let text = fields.string(key, problems).unwrap_or_default();
        if !text.is_empty() && !text.starts_with('/') {
            problems.error(fields.place_of(key), format!("{key}: a JSON pointer begins with /, not {text:?}"));
        }
        text
    };
    let (items, value) = (pointer("items", problems), pointer("value", problems));
    let labels = fields.string_map("labels", problems).unwrap_or_default();
    if let Some((bad, _)) = labels.iter().find(|(n, _)| !is_legacy_label_name(n) || n.starts_with("__")) {
        problems.error(fields.place_of("labels"), format!("{bad:?} is no label name"));
    }
    fields.finish(problems);
    let labels = labels.into_iter().map(|(label, text)| (label, Pick::parse(&text))).collect();
    Mapping { name, metric_type, help, items, value, labels }
}
