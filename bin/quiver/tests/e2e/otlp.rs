//! Exports of OpenTelemetry's Python SDK, unchanged, with kill -9 between and under them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{self, Client, Program};

/// A program that counts and exports; killed when it goes out of scope.
struct Sdk {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Sdk {
    /// Takes how it sends: `http` or `grpc`, `none` or `gzip`, `cumulative` or `delta`.
    fn start(endpoint: &str, how: [&str; 3]) -> Sdk {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients/otlp_client.py");
        let mut child = Command::new(support::python())
            .arg(script)
            .arg(endpoint)
            .args(how)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the Python environment is there: run scripts/setup test");
        let orders = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Sdk { child, orders, answers }
    }

    /// Begins an export.
    fn begin(&mut self, step: &Value) {
        writeln!(self.orders, "{step}").expect("the SDK listens");
    }

    /// Waits for the end of an export.
    #[track_caller]
    fn expect_ok(&mut self) {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the SDK answers");
        assert_eq!(line, "ok\n");
    }

    #[track_caller]
    fn export(&mut self, step: &Value) {
        self.begin(step);
        self.expect_ok();
    }
}

impl Drop for Sdk {
    fn drop(&mut self) {
        // Already ended is fine here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the binary on a port that outlives it.
fn start(dir: &Path, port: u16) -> Program {
    support::quiver_on(dir, port, &[])
}

/// Starts it with a port for gRPC, too.
fn start_grpc(dir: &Path, port: u16, grpc: u16) -> Program {
    support::quiver_on(dir, port, &["--otlp-grpc-listen", &format!("127.0.0.1:{grpc}")])
}

const WHO: &str = "job=\"shop/checkout\",instance=\"checkout-1\"";

/// Checks all series of the SDK: what was counted, how often it was exported, and who sent it.
#[track_caller]
fn check(client: &Client, orders: f64, celsius: f64, buckets: [f64; 4], sum: f64, exports: f64) {
    let counter = format!("orders_total{{{WHO},payment_method=\"card\"}}");
    assert_eq!(client.number(&counter), orders);
    assert_eq!(client.number(&format!("room_temperature_celsius{{{WHO},room=\"café \\\"1\\\"\"}}")), celsius);
    let histogram = |suffix: &str| format!("request_duration_seconds_{suffix}");
    for (le, count) in ["0.5", "1", "2", "+Inf"].iter().zip(buckets) {
        let bucket = histogram(&format!("bucket{{{WHO},http_route=\"/pay\",le=~\"{}(\\\\.0)?\"}}", escaped(le)));
        assert_eq!(client.number(&bucket), count, "{le}");
    }
    assert_eq!(client.number(&histogram(&format!("sum{{{WHO}}}"))), sum);
    assert_eq!(client.number(&histogram(&format!("count{{{WHO}}}"))), buckets[3]);
    let info = format!("target_info{{{WHO},deployment_environment_name=\"test\",telemetry_sdk_language=\"python\"}}");
    assert_eq!(client.number(&info), 1.0);
    assert_eq!(client.number(&format!("count_over_time({counter}[1h])")), exports);
    assert_eq!(client.number(&format!("count_over_time({info}[1h])")), exports);
    let joined = format!("{counter} * on (job, instance) group_left (deployment_environment_name) target_info");
    assert_eq!(client.query(&joined)[0]["metric"]["deployment_environment_name"], "test");
}

fn escaped(le: &str) -> String {
    le.replace('.', "\\\\.").replace('+', "\\\\+")
}

/// Reads the server's own figure.
#[track_caller]
fn figure(client: &Client, series: &str) -> f64 {
    let page = client.get("/metrics").expect(200).body;
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series} in {page}"))
}

/// What came in since the start is stored, known already or refused, and nothing was refused.
#[track_caller]
fn check_ledger(client: &Client, exports: f64) {
    let samples = |verdict: &str| {
        figure(client, &format!("quiver_samples_total{{method=\"streaming\",verdict=\"{verdict}\",reason=\"\"}}"))
    };
    // Counter, gauge, four buckets, sum, count and target_info.
    let received = figure(client, "quiver_samples_received_total{method=\"streaming\"}");
    assert_eq!(received, samples("stored") + samples("duplicate"));
    assert_eq!(samples("stored"), 9.0 * exports);
    assert_eq!(figure(client, "quiver_otlp_requests_total{outcome=\"refused_in_part\"}"), 0.0);
}

#[test]
fn exports_of_the_python_sdk_outlive_kills_between_and_under_them() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = support::free_port();
    let server = start(dir.path(), port);
    let mut sdk =
        Sdk::start(&format!("http://127.0.0.1:{port}/api/v1/otlp/v1/metrics"), ["http", "gzip", "cumulative"]);

    sdk.export(&json!({"add": 3, "set": 21.5, "record": [0.25, 0.75]}));
    server.kill();
    let server = start(dir.path(), port);
    check(&server.client, 3.0, 21.5, [1.0, 2.0, 2.0, 2.0], 1.0, 1.0);
    let metadata = server.client.get("/api/v1/metadata?metric=orders_total").expect(200).json();
    assert_eq!(metadata["data"]["orders_total"][0]["help"], "Orders taken.", "{metadata}");

    sdk.export(&json!({"add": 4, "set": -1e-300, "record": [1.5, 100.0]}));
    check(&server.client, 7.0, -1e-300, [1.0, 2.0, 3.0, 4.0], 102.5, 2.0);
    check_ledger(&server.client, 1.0);
    server.kill();

    // Nobody listens when this export begins: the SDK tries again by itself.
    sdk.begin(&json!({"add": 5, "set": 19.0, "record": []}));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let server = start(dir.path(), port);
    sdk.expect_ok();
    check(&server.client, 12.0, 19.0, [1.0, 2.0, 3.0, 4.0], 102.5, 3.0);
    check_ledger(&server.client, 1.0);
    assert_eq!(server.terminate(), Some(0));
    let server = start(dir.path(), port);
    check(&server.client, 12.0, 19.0, [1.0, 2.0, 3.0, 4.0], 102.5, 3.0);
}

#[test]
fn the_specification_s_own_path_takes_the_sdk_and_json() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = support::free_port();
    let server = start(dir.path(), port);
    let mut sdk = Sdk::start(&format!("http://127.0.0.1:{port}/v1/metrics"), ["http", "none", "cumulative"]);
    sdk.export(&json!({"add": 1, "set": 0.1, "record": [0.5]}));
    check(&server.client, 1.0, 0.1, [1.0, 1.0, 1.0, 1.0], 0.5, 1.0);

    let now = format!("{}000000", support::now_ms());
    let sum = |name: &str, temporality: i32| {
        json!({"name": name, "sum": {"aggregationTemporality": temporality, "isMonotonic": true,
               "dataPoints": [{"timeUnixNano": now, "asInt": "41"}]}})
    };
    let service = json!({"key": "service.name", "value": {"stringValue": "desk"}});
    let request = json!({"resourceMetrics": [{
        "resource": {"attributes": [service]}, "scopeMetrics": [{"metrics": [sum("cumulative", 2), sum("delta", 1)]}],
    }]});
    for _ in 0..2 {
        assert_eq!(server.client.post_json("/v1/metrics", &request).expect(200).json(), json!({}));
    }
    for name in ["cumulative", "delta"] {
        assert_eq!(server.client.number(&format!("{name}_total{{job=\"desk\"}}")), 41.0);
    }
    let answer = server.client.post_json("/v1/metrics", &json!({"resourceMetrics": 1})).expect(400).json();
    assert_eq!(answer["code"], 3, "{answer}");
}

#[test]
fn cumulative_exports_over_grpc_outlive_kills() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (port, grpc) = (support::free_port(), support::free_port());
    let server = start_grpc(dir.path(), port, grpc);
    let mut sdk = Sdk::start(&format!("http://127.0.0.1:{grpc}"), ["grpc", "gzip", "cumulative"]);
    sdk.export(&json!({"add": 3, "set": 21.5, "record": [0.25, 0.75]}));
    server.kill();
    let server = start_grpc(dir.path(), port, grpc);
    check(&server.client, 3.0, 21.5, [1.0, 2.0, 2.0, 2.0], 1.0, 1.0);
    sdk.export(&json!({"add": 4, "set": 22.5, "record": [1.5, 100.0]}));
    check(&server.client, 7.0, 22.5, [1.0, 2.0, 3.0, 4.0], 102.5, 2.0);
    check_ledger(&server.client, 1.0);
    server.kill();
    // Nobody listens when this export begins: the SDK tries again by itself.
    sdk.begin(&json!({"add": 5, "set": 19.0, "record": []}));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let server = start_grpc(dir.path(), port, grpc);
    sdk.expect_ok();
    check(&server.client, 12.0, 19.0, [1.0, 2.0, 3.0, 4.0], 102.5, 3.0);
    assert_eq!(server.terminate(), Some(0));
}

/// Checks what an SDK that sends differences has counted in all.
#[track_caller]
fn check_sums(client: &Client, orders: f64, buckets: [f64; 4], sum: f64, waits: f64, waited: f64) {
    let counter = format!("orders_total{{{WHO},payment_method=\"card\"}}");
    assert_eq!(client.number(&counter), orders);
    assert_eq!(client.number(&format!("resets({counter}[1h])")), 0.0);
    for (le, count) in ["0.5", "1", "2", "+Inf"].iter().zip(buckets) {
        let le = escaped(le);
        let bucket = format!("request_duration_seconds_bucket{{{WHO},le=~\"{le}(\\\\.0)?\"}}");
        assert_eq!(client.number(&bucket), count, "{le}");
    }
    assert_eq!(client.number(&format!("request_duration_seconds_sum{{{WHO}}}")), sum);
    let exponential = format!("wait_seconds{{{WHO}}}");
    assert_eq!(client.number(&format!("histogram_count({exponential})")), waits);
    assert_eq!(client.number(&format!("histogram_sum({exponential})")), waited);
}

/// Differences are added up: counts go on through kill -9 between exports and under one.
fn differences_go_on_through_kills(protocol: &str) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (port, grpc) = (support::free_port(), support::free_port());
    let endpoint = match protocol {
        "grpc" => format!("http://127.0.0.1:{grpc}"),
        _ => format!("http://127.0.0.1:{port}/v1/metrics"),
    };
    let server = start_grpc(dir.path(), port, grpc);
    let mut sdk = Sdk::start(&endpoint, [protocol, "gzip", "delta"]);
    sdk.export(&json!({"add": 3, "set": 1.0, "record": [0.25, 0.75], "wait": [1.0, 3.0]}));
    check_sums(&server.client, 3.0, [1.0, 2.0, 2.0, 2.0], 1.0, 2.0, 4.0);
    server.kill();
    let server = start_grpc(dir.path(), port, grpc);
    sdk.export(&json!({"add": 4, "set": 1.0, "record": [1.5, 100.0], "wait": [1000.0]}));
    check_sums(&server.client, 7.0, [1.0, 2.0, 3.0, 4.0], 102.5, 3.0, 1004.0);
    server.kill();
    sdk.begin(&json!({"add": 5, "set": 1.0, "record": [0.5], "wait": [0.001953125]}));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let server = start_grpc(dir.path(), port, grpc);
    sdk.expect_ok();
    let all = |client: &Client| check_sums(client, 12.0, [2.0, 3.0, 4.0, 5.0], 103.0, 4.0, 1_004.001953125);
    all(&server.client);
    assert_eq!(server.terminate(), Some(0));
    let server = start_grpc(dir.path(), port, grpc);
    all(&server.client);
    sdk.export(&json!({"add": 1, "set": 1.0, "record": [0.5], "wait": [1.0]}));
    check_sums(&server.client, 13.0, [3.0, 4.0, 5.0, 6.0], 103.5, 5.0, 1_005.001953125);
    assert_eq!(figure(&server.client, "quiver_otlp_requests_total{outcome=\"refused_in_part\"}"), 0.0);
}

#[test]
fn differences_over_grpc_go_on_through_kills() {
    differences_go_on_through_kills("grpc");
}

#[test]
fn differences_over_http_go_on_through_kills() {
    differences_go_on_through_kills("http");
}

#[test]
fn the_otlp_block_of_a_prometheus_yml_is_in_force_and_reloaded() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = dir.path().join("prometheus.yml");
    let write = |text: &str| std::fs::write(&config, text).expect("the configuration is written");
    write("otlp: {promote_resource_attributes: [zone], translation_strategy: NoTranslation}\n");
    let server = support::quiver(dir.path(), &["--config", &config.display().to_string()]);
    let attribute = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let send = || {
        let now = format!("{}000000", support::now_ms());
        let attributes = [attribute("service.name", "desk"), attribute("zone", "eu"), attribute("host.name", "h")];
        let metric =
            json!({"name": "pages.read", "unit": "By", "gauge": {"dataPoints": [{"timeUnixNano": now, "asInt": "4"}]}});
        let request = json!({"resourceMetrics": [{
            "resource": {"attributes": attributes}, "scopeMetrics": [{"metrics": [metric]}],
        }]});
        assert_eq!(server.client.post_json("/v1/metrics", &request).expect(200).json(), json!({}));
    };
    send();
    assert_eq!(server.client.number("{\"pages.read\",job=\"desk\",zone=\"eu\"}"), 4.0);
    write("otlp: {promote_all_resource_attributes: true, ignore_resource_attributes: [zone]}\n");
    server.client.send("POST", "/-/reload", &[], b"").expect(200);
    send();
    assert_eq!(server.client.number("pages_read_bytes{job=\"desk\",host_name=\"h\",zone=\"\"}"), 4.0);
    write("otlp: {translation_strategy: Mystery}\n");
    let refused = server.client.send("POST", "/-/reload", &[], b"").expect(500).body;
    assert!(refused.contains("unsupported OTLP translation strategy"), "{refused}");
}
