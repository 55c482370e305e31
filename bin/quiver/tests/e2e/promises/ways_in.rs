//! Row 9: the same values by every way in, through a kill, and the same batch twice.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use prost::Message;
use serde_json::{Value, json};

use crate::remote;
use crate::support::{self, Program, now_ms, wait_until};

/// Values that a careless way changes: all digits, a denormal, negative zero, large and whole.
const VALUES: [f64; 5] = [0.1 + 0.2, 5e-324, -0.0, 1.797_693_134_862_315_7e308, 9_007_199_254_740_993.0];

/// Sends all values with one time.
type Way = fn(&Program, i64);

#[derive(Clone, PartialEq, Message)]
struct RequestV2 {
    #[prost(string, repeated, tag = "4")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    timeseries: Vec<SeriesV2>,
}

#[derive(Clone, PartialEq, Message)]
struct SeriesV2 {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<remote::Sample>,
}

fn remote_write_1(server: &Program, base_ms: i64) {
    let series = |n: usize| remote::series(&[("__name__", "rw1"), ("n", &n.to_string())], [(base_ms, VALUES[n])]);
    let answer = remote::write(&server.client, (0..VALUES.len()).map(series).collect());
    assert_eq!(answer.status, 204, "{}", answer.body);
}

fn remote_write_2(server: &Program, base_ms: i64) {
    let mut symbols: Vec<String> = ["", "__name__", "rw2", "n"].map(str::to_owned).to_vec();
    symbols.extend((0..VALUES.len()).map(|n| n.to_string()));
    let series = |n: usize| SeriesV2 {
        labels_refs: vec![1, 2, 3, 4 + n as u32],
        samples: vec![remote::Sample { value: Some(VALUES[n]), timestamp: base_ms }],
    };
    let bytes = RequestV2 { symbols, timeseries: (0..VALUES.len()).map(series).collect() }.encode_to_vec();
    let body = snap::raw::Encoder::new().compress_vec(&bytes).expect("it fits");
    let headers = [
        ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
        ("content-encoding", "snappy"),
        ("x-prometheus-remote-write-version", "2.0.0"),
    ];
    let answer = server.client.send("POST", "/api/v1/write", &headers, &body);
    assert_eq!(answer.status, 204, "{}", answer.body);
    let written = answer.header("x-prometheus-remote-write-samples-written");
    assert_eq!(written, Some(VALUES.len().to_string().as_str()));
}

fn json_custom(server: &Program, base_ms: i64) {
    let metric = |(n, value): (usize, &f64)| {
        json!({"name": "custom", "metric_type": "GAUGE", "value": value, "labels": {"n": n.to_string()},
               "timestamp": base_ms as f64 / 1000.0})
    };
    let metrics: Value = VALUES.iter().enumerate().map(metric).collect();
    let result = server.client.post_json("/api/v1/metrics/custom", &metrics).expect(200).json();
    assert_eq!(result["rejected"], 0, "{result}");
}

fn otlp(server: &Program, base_ms: i64) {
    let point = |(n, value): (usize, &f64)| {
        json!({"timeUnixNano": format!("{base_ms}000000"), "asDouble": value,
               "attributes": [{"key": "n", "value": {"stringValue": n.to_string()}}]})
    };
    let points: Value = VALUES.iter().enumerate().map(point).collect();
    let metric = json!({"name": "otlp", "gauge": {"dataPoints": points}});
    let body = json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]});
    let answer = server.client.post_json("/api/v1/otlp/v1/metrics", &body).expect(200).json();
    assert!(answer["partialSuccess"]["rejectedDataPoints"].as_str().is_none_or(|n| n == "0"), "{answer}");
}

fn text(name: &str) -> String {
    let lines: Vec<String> = (0..).zip(VALUES).map(|(n, value)| format!("{name}{{n=\"{n}\"}} {value:e}\n")).collect();
    format!("# TYPE {name} gauge\n{}", lines.concat())
}

fn pushgateway(server: &Program) {
    let answer = server.client.send("PUT", "/metrics/job/ways", &[], text("pushed").as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Registers a target that shows the values; the first scrape is stored when the answer comes.
fn scrape(server: &Program) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().expect("a clone")).lines();
            while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
            let body = text("scraped");
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close";
            let mut stream = stream;
            // A scraper that went away has what it wanted.
            let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    let target = json!({
        "source_id": "ways", "target_id": "ways-1", "collection_method": "PULL_SCRAPING", "source_type": "APPLICATION",
        "scrape_config": {"target_url": format!("http://127.0.0.1:{port}"), "scrape_interval": "1h",
                          "scrape_timeout": "10s", "metrics_path": "/metrics", "scheme": "http"}
    });
    let made = server.client.post_json("/api/v1/metrics/targets", &target).expect(201).json();
    assert_eq!(made["health_status"], "healthy", "{made}");
}

/// Every value of a metric is there once and bit for bit.
#[track_caller]
fn check(server: &Program, name: &str, samples: f64, what: &str) {
    for (n, value) in VALUES.iter().enumerate() {
        let selector = format!("{name}{{n=\"{n}\"}}");
        let found = server.client.number(&format!("last_over_time({selector}[1h])"));
        assert_eq!(found.to_bits(), value.to_bits(), "{selector}, {what}: {found} for {value}");
        let count = server.client.number(&format!("count_over_time({selector}[1h])"));
        assert!(count == samples || samples == 0.0, "{selector}, {what}: {count} samples");
    }
}

pub fn all() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let base_ms = now_ms() - 60_000;
    let with_times: [(&str, Way); 4] =
        [("rw1", remote_write_1), ("rw2", remote_write_2), ("custom", json_custom), ("otlp", otlp)];
    with_times.iter().for_each(|(_, send)| send(&server, base_ms));
    pushgateway(&server);
    scrape(&server);
    let check_all = |server: &Program, what: &str| {
        with_times.iter().for_each(|(name, _)| check(server, name, 1.0, what));
        // A push is stated again from time to time, a scrape comes when it comes.
        check(server, "pushed", 0.0, what);
        check(server, "scraped", 0.0, what);
    };
    check_all(&server, "at once");
    with_times.iter().for_each(|(_, send)| send(&server, base_ms));
    check_all(&server, "sent twice");
    server.kill();
    let server = support::quiver(dir.path(), &[]);
    check_all(&server, "after kill -9");
    // A sender whose answer got lost in the kill tries again.
    with_times.iter().for_each(|(_, send)| send(&server, base_ms));
    check_all(&server, "sent again after kill -9");
    // The same with a key and without times: the first answer is given again.
    let key = [("idempotency-key", "ways-1"), ("content-type", "application/json")];
    let body = json!([{"name": "keyed", "metric_type": "GAUGE", "value": 1, "labels": {}}]).to_string();
    let first = server.client.send("POST", "/api/v1/metrics/custom", &key, body.as_bytes()).expect(200);
    server.kill();
    let server = support::quiver(dir.path(), &[]);
    let second = server.client.send("POST", "/api/v1/metrics/custom", &key, body.as_bytes()).expect(200);
    assert_eq!(first.body, second.body);
    assert_eq!(server.client.number("count_over_time(keyed[1h])"), 1.0);
    wait_until("the target is scraped after the restart", || server.client.number("count(up)") >= 1.0);
    assert_eq!(server.terminate(), Some(0));
}
