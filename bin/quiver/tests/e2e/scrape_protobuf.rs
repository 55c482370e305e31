//! Scrapes of delimited protobuf as Go's client library writes it: Debian's Prometheus and node exporter, native histograms included.
//!
//! prometheus_client of Python has no protobuf to offer; Prometheus' federation gives native histograms in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message;
use serde_json::{Value, json};

use crate::remote;
use crate::support::{self, Client, Program, encode, free_port, now_ms, wait_until};

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<remote::Label>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    count_int: Option<u64>,
    #[prost(double, optional, tag = "2")]
    count_float: Option<f64>,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(double, tag = "5")]
    zero_threshold: f64,
    #[prost(uint64, optional, tag = "6")]
    zero_count_int: Option<u64>,
    #[prost(double, optional, tag = "7")]
    zero_count_float: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    negative_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "9")]
    negative_deltas: Vec<i64>,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "13")]
    positive_counts: Vec<f64>,
    #[prost(int64, tag = "15")]
    timestamp: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

fn spans(of: &[(i32, u32)]) -> Vec<Span> {
    of.iter().map(|&(offset, length)| Span { offset, length }).collect()
}

/// Histograms with gaps, with both sides, with fractions, and an empty one.
fn histograms(timestamp: i64) -> [(&'static str, Histogram); 4] {
    let whole = Histogram { count_int: Some(0), zero_count_int: Some(0), timestamp, ..Histogram::default() };
    [
        (
            "both",
            Histogram {
                count_int: Some(12),
                sum: 18.4,
                schema: 1,
                zero_threshold: 0.001,
                zero_count_int: Some(2),
                negative_spans: spans(&[(0, 2)]),
                negative_deltas: vec![2, 1],
                positive_spans: spans(&[(0, 2), (1, 2)]),
                positive_deltas: vec![1, 1, -1, 0],
                ..whole.clone()
            },
        ),
        (
            "fine",
            Histogram {
                count_int: Some(1_000_007),
                sum: -0.0,
                schema: 8,
                zero_threshold: 2.938_735_877_055_719e-39,
                positive_spans: spans(&[(-1000, 1), (4, 3), (1500, 1)]),
                positive_deltas: vec![1, 0, 1, 0, 999_999],
                ..whole.clone()
            },
        ),
        (
            "fractions",
            Histogram {
                count_int: None,
                count_float: Some(4.75),
                zero_count_int: None,
                zero_count_float: Some(0.5),
                sum: 1e300,
                schema: -2,
                zero_threshold: 1e-128,
                positive_spans: spans(&[(2, 2)]),
                positive_counts: vec![0.25, 4.0],
                ..whole.clone()
            },
        ),
        ("empty", Histogram { schema: 3, zero_threshold: 1e-128, ..whole }),
    ]
}

fn send_histograms(to: &Client) {
    let now = now_ms();
    let timeseries = histograms(now).map(|(kind, histogram)| {
        let labels = remote::series(&[("__name__", "waited_seconds"), ("job", "remote"), ("kind", kind)], []).labels;
        TimeSeries { labels, histograms: vec![histogram] }
    });
    let bytes = WriteRequest { timeseries: timeseries.to_vec() }.encode_to_vec();
    let body = snap::raw::Encoder::new().compress_vec(&bytes).expect("it fits into a block");
    to.send("POST", "/api/v1/write", &remote::HEADERS, &body).expect(204);
}

/// Starts Debian's Prometheus with native histograms; it scrapes itself, in protobuf.
fn prometheus(dir: &Path) -> Program {
    let port = free_port();
    let config = dir.join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: self, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    );
    std::fs::write(&config, text).expect("the configuration is written");
    let args = [
        format!("--config.file={}", config.display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--storage.tsdb.path={}", dir.join("prometheus").display()),
        "--web.enable-remote-write-receiver".to_owned(),
        "--enable-feature=native-histograms".to_owned(),
        "--log.level=warn".to_owned(),
    ];
    Program::start(Path::new("/usr/bin/prometheus"), &args, port, "/-/ready", &dir.join("prometheus.log"))
}

/// Registers a target that is scraped once; its `scrape_config` is the given one with a protocol.
#[track_caller]
fn register(server: &Program, id: &str, protocol: &str, port: u16, more: &Value) -> Value {
    let mut scrape = json!({
        "target_url": format!("http://127.0.0.1:{port}"), "scrape_interval": "1h", "scrape_timeout": "30s",
        "protocols": [protocol]
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        scrape[name] = value.clone();
    }
    let request =
        json!({"source_id": id, "target_id": id, "collection_method": "PULL_SCRAPING", "scrape_config": scrape});
    let target = server.client.post_json("/api/v1/metrics/targets", &request).expect(201).json();
    assert_eq!(target["health_status"], "healthy", "{target}");
    assert_eq!(target["first_scrape"]["format"], protocol, "{target}");
    target
}

/// Gives, by labels as text, the samples and histograms of a range.
fn range(client: &Client, expr: &str) -> BTreeMap<String, Vec<Value>> {
    let result = client.query(expr);
    let series = result.as_array().expect("a matrix").iter().map(|series| {
        let points = ["values", "histograms"].map(|kind| series[kind].as_array().cloned().unwrap_or_default());
        (series["metric"].to_string(), points.concat())
    });
    series.collect()
}

/// Gives the label sets of a target without its own labels and the series about the scrape.
fn label_sets(client: &Client, matcher: &str) -> BTreeSet<String> {
    let path = format!("/api/v1/series?match[]={}", encode(matcher));
    let answer = client.get(&path).expect(200).json();
    let sets = answer["data"].as_array().expect("a list").iter().filter_map(|labels| {
        let mut labels = labels.as_object().expect("labels").clone();
        let name = labels["__name__"].as_str().unwrap_or_default();
        let of_the_scrape = name == "up" || name.starts_with("scrape_");
        labels.retain(|label, _| label != "job" && label != "instance");
        (!of_the_scrape).then(|| Value::from(labels).to_string())
    });
    sets.collect()
}

#[track_caller]
fn check_federated(ours: &Client, theirs: &Client, series: &BTreeSet<String>) {
    let (got, held) = (range(ours, "{job=\"self\"}[1h]"), range(theirs, "{job=\"self\"}[1h]"));
    assert!(got.len() >= series.len(), "{} of {}", got.len(), series.len());
    for (labels, samples) in &got {
        assert_eq!(samples.len(), 1, "{labels}");
        assert!(held.get(labels).is_some_and(|of| of.contains(&samples[0])), "{labels}: {samples:?}");
    }
    let [got, want] = [ours, theirs].map(|client| range(client, "waited_seconds[1h]"));
    assert_eq!((got.len(), got.keys().collect::<Vec<_>>()), (4, want.keys().collect::<Vec<_>>()));
    for (labels, samples) in &got {
        assert!(alike(&json!(samples), &json!(want[labels])), "{labels}: {samples:?} for {:?}", want[labels]);
    }
}

/// Tells whether two answers are equal but for the last digit of numbers: the bounds of buckets stand in a table in Prometheus, with
/// errors of rounding; counts and sums are short here, and so equal.
fn alike(a: &Value, b: &Value) -> bool {
    let number = |v: &Value| v.as_str().and_then(|text| text.parse::<f64>().ok());
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| alike(a, b)))
        }
        _ => match (number(a), number(b)) {
            (Some(a), Some(b)) => a == b || (a - b).abs() <= 4e-16 * a.abs(),
            _ => a == b,
        },
    }
}

#[test]
fn prometheus_is_scraped_and_federated_in_protobuf_with_its_native_histograms() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let theirs = prometheus(dir.path());
    send_histograms(&theirs.client);
    wait_until("Prometheus scraped itself", || {
        theirs.client.query("up == 1").as_array().is_some_and(|up| up.len() == 1)
    });
    let of_prometheus = label_sets(&theirs.client, "{job=\"self\"}");
    assert!(of_prometheus.len() > 200, "{}", of_prometheus.len());

    let server = support::quiver(dir.path(), &[]);
    register(&server, "direct", "PrometheusProto", theirs.port, &json!({}));
    let federation = json!({
        "metrics_path": "/federate", "honor_labels": true, "scrape_native_histograms": true,
        "params": {"match[]": ["{job=\"self\"}", "waited_seconds"]}
    });
    register(&server, "federate", "PrometheusProto", theirs.port, &federation);
    server.kill();

    let server = support::quiver(dir.path(), &[]);
    check_federated(&server.client, &theirs.client, &of_prometheus);
    // What Prometheus read of its own page, we read of it.
    let direct = label_sets(&server.client, "{job=\"direct\"}");
    let missing: Vec<_> = of_prometheus.difference(&direct).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(server.client.number("histogram_count(waited_seconds{kind=\"fractions\"})"), 4.75);
}

#[test]
fn the_node_exporter_gives_the_same_series_in_protobuf_and_as_text() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let exporter = support::node_exporter(dir.path());
    let server = support::quiver(dir.path(), &[]);
    let text = register(&server, "text", "PrometheusText0.0.4", exporter.port, &json!({}));
    let protobuf = register(&server, "protobuf", "PrometheusProto", exporter.port, &json!({}));
    assert!(text["samples_scraped"].as_u64().is_some_and(|n| n > 100), "{text}");
    let [as_text, as_protobuf] = ["text", "protobuf"].map(|id| label_sets(&server.client, &format!("{{job={id:?}}}")));
    assert_eq!(as_text, as_protobuf);
    let by_type = |target: &Value| target["first_scrape"]["series_by_type"].clone();
    assert_eq!(by_type(&text), by_type(&protobuf));
}
