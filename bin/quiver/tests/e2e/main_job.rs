//! Register a real exporter, see it collected, ask for it, restart, delete it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{self, Program, encode, wait_until};

fn register(server: &Program, exporter: &Program) -> Value {
    let request = json!({
        "source_id": "node",
        "target_id": "node-1",
        "collection_method": "PULL_SCRAPING",
        "source_type": "INFRASTRUCTURE",
        "labels": {"env": "test"},
        "scrape_config": {
            "target_url": format!("http://127.0.0.1:{}", exporter.port),
            "scrape_interval": "1s", "scrape_timeout": "1s", "metrics_path": "/metrics", "scheme": "http"
        }
    });
    let answer = server.client.post_json("/api/v1/metrics/targets", &request).expect(201);
    assert_eq!(answer.header("location"), Some("/api/v1/metrics/targets/node-1"));
    let again = server.client.post_json("/api/v1/metrics/targets", &request).expect(200).json();
    assert_eq!(again["target_id"], "node-1");
    answer.json()
}

/// Reads Server-Sent Events until one satisfies the predicate.
fn wait_for_event(server: &Program, resume_after: Option<&str>, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout can be set");
    let resume = resume_after.map(|id| format!("?resume_after={id}")).unwrap_or_default();
    write!(stream, "GET /api/v1/metrics/events{resume} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        .expect("the request is sent");
    for line in BufReader::new(stream).lines() {
        let line = line.expect("an event arrives in time");
        if let Some(event) = line.strip_prefix("data:").and_then(|data| serde_json::from_str::<Value>(data).ok())
            && wanted(&event)
        {
            return event;
        }
    }
    panic!("the event stream ended");
}

#[test]
fn register_collect_query_restart_delete() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let exporter = support::node_exporter(dir.path());
    let server = support::quiver(dir.path(), &[]);

    let target = register(&server, &exporter);
    let first = &target["first_scrape"];
    assert_eq!(target["health_status"], "healthy", "{target}");
    assert!(target["samples_scraped"].as_u64().is_some_and(|n| n > 100), "{target}");
    assert!(first.to_string().contains("text"), "the negotiated format is told: {first}");

    let list = server.client.get("/api/v1/metrics/targets").expect(200).json();
    assert_eq!(list[0]["target_id"], "node-1");
    assert_eq!(list[0]["health_status"], "healthy");
    assert_eq!(server.client.number("up{job=\"node\"}"), 1.0);

    let body = exporter.client.get("/metrics").body;
    let theirs = body.lines().filter(|l| l.starts_with("node_cpu_seconds_total{")).count();
    assert_eq!(server.client.number("count(node_cpu_seconds_total)"), theirs as f64);

    custom_values_are_bit_exact(&server);

    let event = wait_for_event(&server, None, |e| e["metrics_collected"]["source_id"] == "node");
    check_event(&event);

    let stats = server.client.get("/api/v1/metrics/stats").expect(200).json();
    assert_eq!(stats["total_targets"], 1);
    assert_eq!(stats["healthy_targets"], 1);
    let collected = stats["total_metrics_collected"].as_u64().expect("a count");
    assert!(collected > 100, "{stats}");
    assert_eq!(stats["error_rate"], 0.0);
    for field in ["collection_rate_per_second", "average_scrape_duration_ms"] {
        assert!(stats[field].is_number(), "{field}: {stats}");
    }

    let before = server.client.query("sum(count_over_time({job=\"node\"}[1h]))");
    assert_eq!(server.terminate(), Some(0));
    let server = support::quiver(dir.path(), &[]);
    let after = server.client.query("sum(count_over_time({job=\"node\"}[1h]))");
    let count = |v: &Value| v[0]["value"][1].as_str().and_then(|s| s.parse::<f64>().ok()).unwrap_or(0.0);
    assert!(count(&after) >= count(&before), "{before} then {after}");
    let stats = server.client.get("/api/v1/metrics/stats").expect(200).json();
    assert!(stats["total_metrics_collected"].as_u64().is_some_and(|n| n >= collected), "{stats}");
    // The stream resumes after an event from before the restart.
    let id = event["event_id"].as_str().expect("an id").to_owned();
    wait_for_event(&server, Some(&id), |e| e["event_id"] != id.as_str());

    wait_until("collected again after the restart", || {
        server.client.get("/api/v1/metrics/targets/node-1").json()["health_status"] == "healthy"
    });
    delete_makes_stale(&server);
}

fn custom_values_are_bit_exact(server: &Program) {
    let value: f64 = 0.1 + 0.2;
    let metrics = json!([
        {"name": "orders_open", "metric_type": "GAUGE", "value": value, "labels": {"desk": "fx"}, "source": "APPLICATION"},
        {"name": "orders_limit", "metric_type": "GAUGE", "value": "+Inf", "labels": {"desk": "fx"}, "source": "APPLICATION"},
        {"name": "orders_odd", "metric_type": "GAUGE", "value": "NaN", "labels": {}, "source": "CUSTOM_EXPORTER"}
    ]);
    let result = server.client.post_json("/api/v1/metrics/custom?source_id=desk", &metrics).expect(200).json();
    assert_eq!(result["status"], "ACCEPTED", "{result}");
    assert_eq!(result["received"], 3);
    assert_eq!(result["accepted"], 3);
    assert_eq!(server.client.number("orders_open{job=\"desk\"}").to_bits(), value.to_bits());
    assert_eq!(server.client.number("orders_limit"), f64::INFINITY);
    assert!(server.client.number("orders_odd").is_nan());
    let path = format!("/api/v1/metrics/query?query={}", encode("orders_open"));
    let answer = server.client.get(&path).expect(200).json();
    assert_eq!(answer["data"]["result"][0]["metric"]["source_type"], "APPLICATION", "{answer}");
}

fn check_event(event: &Value) {
    let data = &event["metrics_collected"];
    for field in ["event_id", "timestamp"] {
        assert!(event[field].is_string(), "{field}: {event}");
    }
    let number = |v: &Value| v.as_u64().unwrap_or_else(|| panic!("not a whole number: {v} in {event}"));
    let summary = &data["metrics_summary"];
    let total: u64 = ["counters", "gauges", "histograms", "summaries"].iter().map(|f| number(&summary[f])).sum::<u64>()
        + summary["others"].as_u64().unwrap_or(0);
    assert_eq!(number(&data["metrics_count"]), total);
    let ms = number(&data["collection_duration_ms"]).max(1);
    assert_eq!(number(&data["samples_per_second"]), total * 1000 / ms);
    assert_eq!(data["collection_method"], "PULL_SCRAPING");
    assert_eq!(data["target_health"], "healthy");
    assert_eq!(number(&data["error_count"]), 0);
    assert!(data["collection_batch_id"].as_str().is_some_and(|id| id.starts_with("batch_")), "{event}");
}

fn delete_makes_stale(server: &Program) {
    let deleted = server.client.send("DELETE", "/api/v1/metrics/targets/node-1", &[], b"").expect(200).json();
    assert_eq!(deleted["deleted"], true);
    assert!(deleted["stale_markers_written"].as_u64().is_some_and(|n| n > 100), "{deleted}");
    assert_eq!(server.client.query("up{job=\"node\"}"), json!([]));
    assert_eq!(server.client.query("node_cpu_seconds_total"), json!([]));
    server.client.get("/api/v1/metrics/targets/node-1").expect(404);
    server.client.send("DELETE", "/api/v1/metrics/targets/nobody", &[], b"").expect(404);
}
