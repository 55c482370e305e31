//! Scrapes of prometheus_client, unchanged: every sample that it says it holds is there under its labels, bit for bit, after kill -9.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{self, Client, Program, encode, now_ms};

/// A label set with its name.
type Labels = BTreeMap<String, String>;

/// A program that is scraped; it ends when it goes out of scope.
struct Exporter {
    child: Child,
    port: u64,
    samples: Vec<Value>,
}

impl Exporter {
    fn start(args: [&str; 2]) -> Exporter {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compat/exporter.py");
        let mut child = Command::new(support::python())
            .arg(script)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the Python environment is there: run scripts/setup test");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("the exporter speaks");
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let samples = told["samples"].as_array().expect("a list").clone();
        Exporter { child, port: told["port"].as_u64().expect("a port"), samples }
    }

    /// Gives what it holds, under the names of a format that knows no others than `[a-zA-Z0-9_:]`, or of one that does.
    fn held(&self, only_legacy: bool) -> BTreeMap<Labels, u64> {
        let name_of = |text: &str| if only_legacy { text.replace('.', "_") } else { text.to_owned() };
        let held: BTreeMap<Labels, u64> = self
            .samples
            .iter()
            .map(|sample| {
                let mut labels: Labels = labels_of(&sample[1]).into_iter().map(|(n, v)| (name_of(&n), v)).collect();
                labels.insert("__name__".to_owned(), name_of(sample[0].as_str().expect("a name")));
                (labels, bits(&sample[2]))
            })
            .collect();
        assert_eq!(held.len(), self.samples.len(), "no series twice");
        held
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // Already ended is fine here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn labels_of(object: &Value) -> Labels {
    let text = |v: &Value| v.as_str().expect("a text").to_owned();
    object.as_object().expect("an object").iter().map(|(n, v)| (n.clone(), text(v))).collect()
}

fn bits(text: &Value) -> u64 {
    let text = text.as_str().expect("a number as text");
    text.parse::<f64>().unwrap_or_else(|_| panic!("no number: {text}")).to_bits()
}

/// Registers a target, which is scraped at once; gives its answer.
fn register(server: &Program, id: &str, port: u64, protocol: &str) -> Value {
    let request = json!({
        "source_id": id, "target_id": id, "collection_method": "PULL_SCRAPING",
        "scrape_config": {
            "target_url": format!("http://127.0.0.1:{port}"), "scrape_interval": "1h", "scrape_timeout": "30s",
            "protocols": [protocol]
        }
    });
    server.client.post_json("/api/v1/metrics/targets", &request).expect(201).json()
}

/// Gives what the target's series show now, without its labels and the series about the scrape itself.
fn shown(client: &Client, id: &str) -> BTreeMap<Labels, u64> {
    let of_the_scrape = |name: &str| name == "up" || name.starts_with("scrape_");
    let result = client.query(&format!("{{job=\"{id}\"}}"));
    let series = result.as_array().expect("a vector").iter().map(|series| {
        let mut labels = labels_of(&series["metric"]);
        labels.retain(|name, _| name != "job" && name != "instance");
        (labels, bits(&series["value"][1]))
    });
    series.filter(|(labels, _)| !labels.get("__name__").is_some_and(|n| of_the_scrape(n))).collect()
}

fn check_exemplars(client: &Client, id: &str, exporter: &Exporter) {
    let now = now_ms() / 1000;
    let (start, end) = (now - 600, now + 600);
    let mut found = 0;
    for sample in exporter.samples.iter().filter(|s| !s[3].is_null()) {
        let labels = labels_of(&sample[1]);
        let matchers: String = labels.iter().map(|(n, v)| format!("{n}={v:?},")).collect();
        let name = sample[0].as_str().expect("a name");
        let expr = encode(&format!("{name}{{{matchers}job=\"{id}\"}}"));
        let answer =
            client.get(&format!("/api/v1/query_exemplars?query={expr}&start={start}&end={end}")).expect(200).json();
        let exemplars = &answer["data"][0]["exemplars"];
        assert_eq!(exemplars.as_array().map(Vec::len), Some(1), "{name}: {answer}");
        assert_eq!(exemplars[0]["labels"], sample[3]["labels"], "{name}");
        let value: f64 = exemplars[0]["value"].as_str().and_then(|v| v.parse().ok()).expect("a number");
        assert_eq!(Some(value), sample[3]["value"].as_f64(), "{name}");
        found += 1;
    }
    assert_eq!(found, 4, "of the counter and of each bucket");
}

#[test]
fn prometheus_client_is_scraped_whole_in_each_of_its_formats() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let seconds = now_ms() / 1000 - 5;
    let exporter = Exporter::start(["plain", &seconds.to_string()]);
    let server = support::quiver(dir.path(), &[]);
    let formats = [
        ("open", "OpenMetricsText1.0.0", false),
        ("text1", "PrometheusText1.0.0", false),
        ("text0", "PrometheusText0.0.4", true),
    ];
    for (id, protocol, _) in formats {
        let target = register(&server, id, exporter.port, protocol);
        assert_eq!(target["health_status"], "healthy", "{target}");
        assert_eq!(target["first_scrape"]["format"], protocol, "{target}");
        assert_eq!(target["samples_scraped"].as_u64(), Some(exporter.samples.len() as u64), "{target}");
    }
    server.kill();

    let server = support::quiver(dir.path(), &[]);
    let client = &server.client;
    for (id, _, only_legacy) in formats {
        assert_eq!(shown(client, id), exporter.held(only_legacy), "{id}");
    }
    check_exemplars(client, "open", &exporter);
    let starts = client.number("shop_calls_created{job=\"open\"}");
    assert_eq!(starts, 1_600_000_001.5);
    let at = client.number("timestamp(shop_timed{job=\"open\"})");
    assert_eq!(at, seconds as f64 + 0.25);
    let metadata = client.get("/api/v1/metadata").expect(200).json();
    for (name, kind) in [
        ("shop_orders_total", "counter"),
        ("shop_seconds", "histogram"),
        ("shop_queue", "gaugehistogram"),
        ("shop_state", "stateset"),
        ("shop_build", "info"),
        ("shop.temperature", "gauge"),
    ] {
        let kinds = metadata["data"][name].as_array().cloned().unwrap_or_default();
        assert!(kinds.iter().any(|k| k["type"] == kind), "{name}: {kinds:?}");
    }
}

#[test]
fn what_many_processes_of_prometheus_client_counted_is_scraped_whole() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared).expect("a folder for the workers");
    let exporter = Exporter::start(["multi", &shared.display().to_string()]);
    let server = support::quiver(dir.path(), &[]);
    let formats = [("open", "OpenMetricsText1.0.0"), ("text", "PrometheusText0.0.4")];
    for (id, protocol) in formats {
        let target = register(&server, id, exporter.port, protocol);
        assert_eq!(target["first_scrape"]["format"], protocol, "{target}");
        assert_eq!(shown(&server.client, id), exporter.held(true), "{id}");
    }
    assert_eq!(server.client.number("many_items_total{job=\"open\",kind=\"good\"}"), 6.0);
    assert_eq!(server.client.number("sum(many_all{job=\"text\"})"), 6.0);
    assert_eq!(server.client.number("count(many_all{job=\"text\"})"), 3.0);
}
