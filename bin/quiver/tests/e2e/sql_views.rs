//! The views of SQL beside `metrics_ts`: roll-ups and ends of series, with data in them.

use std::fmt::Write as _;

use serde_json::json;

use crate::sql::{self, one, upload};
use crate::support::{now_ms, wait_until};

const HOUR_MS: i64 = 3_600_000;

/// The even hour some five hours ago, where one block ends and another begins.
fn between_blocks_ms() -> i64 {
    (now_ms() - 4 * HOUR_MS) / (2 * HOUR_MS) * 2 * HOUR_MS
}

/// Two hours of a counter with resets and a gauge, an hour in each of two blocks.
fn old_samples() -> String {
    let mut text = "timestamp,metric_name,value,host\n".to_owned();
    let first_ms = between_blocks_ms() - HOUR_MS;
    for slot in 0..480_i64 {
        let at = (first_ms + slot * 15_000) / 1_000;
        let _ = writeln!(text, "{at},jobs_total,{},a", slot % 130);
        let _ = writeln!(text, "{at},depth,{},a", slot * 7919 % 101);
    }
    text
}

#[test]
fn roll_ups_are_what_the_samples_come_to_and_go_when_their_time_is_over() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = sql::server(dir.path(), &["--web.enable-admin-api"]);
    let client = &server.client;
    let policy = |keep: &str| json!({"rollups": [{"after": "1h", "resolution": "5m", "keep": keep}]});
    let target = json!({"source_id": "old", "target_id": "old", "collection_method": "BATCH_UPLOAD",
        "retention_policy": policy("20d")});
    client.post_json("/api/v1/metrics/targets", &target).expect(201);
    upload(client, "old", &old_samples());
    client.send("POST", "/api/v1/admin/tsdb/snapshot", &[], b"").expect(200);
    let rolled = || one(client, "SELECT count(*) FROM rollups_5m_ts");
    wait_until("everything is rolled up", || rolled() == 48.0);
    let equal = "SELECT count(*) FROM rollups_5m_ts r JOIN (
            SELECT time_bucket(INTERVAL '5 minutes', timestamp) AS t, metric_name, labels, count(*) AS n, sum(value) AS s,
                min(value) AS least, max(value) AS most, arg_min(value, timestamp) AS first, arg_max(value, timestamp) AS last,
                min(timestamp) AS since, max(timestamp) AS until
            FROM metrics_ts GROUP BY ALL) m
        ON r.timestamp = m.t AND r.metric_name = m.metric_name AND r.labels = m.labels
        WHERE r.count = m.n AND r.sum = m.s AND r.min = m.least AND r.max = m.most AND r.first = m.first AND r.last = m.last
            AND r.first_timestamp = m.since AND r.last_timestamp = m.until";
    assert_eq!(one(client, equal), 48.0);
    let increase = "SELECT sum(increase) FROM rollups_5m_ts WHERE metric_name = 'jobs_total' AND target_id = 'old'";
    // Three times up to 129, and the rest: what `increase` in PromQL finds without extrapolation.
    assert_eq!(one(client, increase), (129 * 3 + 89) as f64);
    assert_eq!(one(client, "SELECT count(*) FROM rollups WHERE resolution_ms = 300000"), 48.0);
    assert_eq!(one(client, "SELECT count(*) FROM rollups_1h_ts"), 0.0);
    // Kept for a shorter time now: what is past it is not shown, though it may lie on the disk still.
    let minutes = (now_ms() - between_blocks_ms()) / 60_000;
    let patch = json!({"retention_policy": policy(&format!("{minutes}m"))}).to_string();
    client
        .send("PATCH", "/api/v1/metrics/targets/old", &[("content-type", "application/json")], patch.as_bytes())
        .expect(200);
    let past = format!("SELECT count(*) FROM rollups_5m_ts WHERE timestamp < now() - INTERVAL {minutes} MINUTE");
    wait_until("the new time counts", || one(client, &past) == 0.0);
    assert!(rolled() > 0.0, "an hour of them is kept");
    assert_eq!(one(client, "SELECT count(*) FROM metrics_ts"), 960.0);
}

#[test]
fn series_that_ended_are_in_stale_ts() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = sql::server(dir.path(), &[]);
    let client = &server.client;
    let config = json!({"target_url": format!("http://127.0.0.1:{}/metrics", server.port), "scrape_interval": "1h"});
    let target = json!({"source_id": "desk", "target_id": "desk", "collection_method": "PULL_SCRAPING", "scrape_config": config});
    // The answer comes when it was scraped once.
    client.post_json("/api/v1/metrics/targets", &target).expect(201);
    let (ended, there) = ("SELECT count(*) FROM stale_ts", "SELECT count(*) FROM metrics_ts WHERE target_id = 'desk'");
    let samples = one(client, there);
    assert!(samples > 100.0 && one(client, ended) == 0.0, "{samples}");
    let deleted = client.delete("/api/v1/metrics/targets/desk").expect(200).json();
    assert_eq!(deleted["stale_markers_written"].as_f64(), Some(samples), "{deleted}");
    assert_eq!(one(client, ended), samples);
    assert_eq!(one(client, "SELECT count(*) FROM stale_ts WHERE metric_name = 'up' AND target_id = 'desk'"), 1.0);
    assert_eq!(one(client, there), samples, "a marker is no sample");
    assert_eq!(sql::rows(client, "DESCRIBE stale_ts").len(), 6);
}
