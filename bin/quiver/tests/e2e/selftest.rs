//! `quiver selftest` and `quiver integrity` as a user runs them.

use std::process::Command;

use serde_json::{Value, json};

use crate::support;

fn quiver() -> Command {
    Command::new(env!("CARGO_BIN_EXE_quiver"))
}

#[test]
fn a_selftest_of_some_seconds_passes_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = quiver()
        .args(["selftest", "--seconds", "2", "--output", "json", "--dir"])
        .arg(dir.path())
        .output()
        .expect("the selftest runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let rows = report["rows"].as_array().expect("rows");
    let passed: Vec<&str> = rows.iter().filter(|r| r["result"] == "pass").filter_map(|r| r["what"].as_str()).collect();
    for row in
        ["1 kill -9", "3 torn tail", "4 one flipped bit", "7 SIGTERM", "9 a repeated request", "12 integrity ledger"]
    {
        assert!(passed.iter().any(|p| p.starts_with(row)), "{row}: {text}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("the folder is there").count(), 0, "it cleans up");
}

#[test]
fn a_selftest_without_a_place_says_so() {
    let output = quiver().args(["selftest", "--dir", "/nowhere/at/all"]).output().expect("the selftest runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("temporary folder"));
}

#[test]
fn row_12_the_ledger_is_published_and_survives_kill_9() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let metric = |value: f64, ts: i64| json!([{"name": "orders", "metric_type": "GAUGE", "value": value, "source": "APPLICATION", "timestamp": ts}]);
    let now = support::now_ms() / 1000;
    let custom = "/api/v1/metrics/custom?source_id=desk";
    server.client.post_json(custom, &metric(1.0, now - 5)).expect(200);
    server.client.post_json(custom, &metric(1.0, now - 5)).expect(200);
    server.client.post_json(custom, &metric(2.0, now - 5)).expect(422);
    let integrity = "/api/v1/metrics/integrity?source_id=desk";
    let check = |report: &Value| {
        let desk = &report["targets"][0];
        assert_eq!(desk["received"], 3, "{report}");
        assert_eq!((&desk["accepted"], &desk["duplicates"], &desk["rejected"]), (&json!(1), &json!(1), &json!(1)));
        assert_eq!(desk["rejected_by_reason"], json!({"duplicate_conflict": 1}));
        assert_eq!(report["balanced"], true);
    };
    check(&server.client.get(integrity).expect(200).json());
    server.kill();
    let server = support::quiver(dir.path(), &[]);
    check(&server.client.get(integrity).expect(200).json());
    let shown = quiver()
        .args(["integrity", "--source-id", "desk", "--server", &format!("http://127.0.0.1:{}", server.port)])
        .output()
        .expect("the command runs");
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success() && text.contains("The ledger balances: 3 received = 1 accepted"), "{text}");
    server.client.get("/api/v1/metrics/integrity?target_id=nobody").expect(404);
}
