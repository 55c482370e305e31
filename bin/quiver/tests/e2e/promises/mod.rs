//! The table "Nothing lost" of the promises, row by row, on the real binary.
//!
//! Rows that need a disk which can be cut from its power, torn, flipped bit by bit or made to fail stand under the same
//! numbers in `crates/store/tests`: 2 and 3 and 6 in `crash.rs`, 4 in `damage.rs`, all of them at once in `disk.rs`.

mod full_disk;
mod odd_values;
mod ways_in;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::kill;
use crate::support::{self, Program, now_ms};

#[test]
fn row_01_kill_9_under_load_loses_doubles_and_alters_nothing() {
    kill::rounds(10, |server| server.kill());
}

#[test]
fn row_05_a_full_disk_is_told_and_loses_nothing_before_and_after() {
    full_disk::cycles(5);
}

#[test]
fn row_07_sigterm_under_load_loses_nothing() {
    kill::rounds(3, |server| assert_eq!(server.terminate(), Some(0), "a stop in order"));
}

#[test]
fn row_08_odd_values_come_back_bit_for_bit_by_every_way_out() {
    odd_values::come_back();
}

#[test]
fn row_08_one_sample_of_the_future_affects_no_other_and_is_named() {
    odd_values::one_of_the_future();
}

#[test]
fn row_09_every_way_in_keeps_bits_and_counts_a_retry_once() {
    ways_in::all();
}

/// Sums a family of the server's own page over all its lines that hold a text.
fn page_sum(server: &Program, family: &str, with: &str) -> f64 {
    let page = server.client.get("/metrics").expect(200).body;
    let lines = page.lines().filter(|l| l.starts_with(family) && l.contains(with));
    lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn row_12_received_is_the_sum_of_what_became_of_it_across_restarts() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let now = now_ms();
    let sample = |n: i64, at_ms: i64, value: f64| {
        json!({"name": "ledger_row", "metric_type": "GAUGE", "value": value, "labels": {"n": n.to_string()},
               "timestamp": at_ms as f64 / 1000.0})
    };
    let year_ms = 365 * 86_400_000;
    let metrics: Value = (0..10)
        .map(|n| sample(n, now - n, n as f64))
        // Twice the same, once with another value, once from the future.
        .chain([sample(0, now, 0.0), sample(1, now - 1, 99.0), sample(2, now + year_ms, 1.0)])
        .collect();
    let result = server.client.post_json("/api/v1/metrics/custom", &metrics).expect(200).json();
    let field = |name: &str| result[name].as_u64().unwrap_or_else(|| panic!("{name}: {result}"));
    assert_eq!(field("received"), field("accepted") + field("duplicates") + field("filtered") + field("rejected"));
    assert_eq!((field("received"), field("accepted"), field("duplicates"), field("rejected")), (13, 10, 1, 2));
    let reasons: BTreeMap<&str, u64> = result["rejections"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|r| Some((r["reason"].as_str()?, r["first_index"].as_u64()?)))
        .collect();
    assert_eq!(reasons, BTreeMap::from([("duplicate_conflict", 11), ("too_new", 12)]), "{result}");

    let received = page_sum(&server, "quiver_samples_received_total{", "");
    assert_eq!(received, page_sum(&server, "quiver_samples_total{", ""));
    assert_eq!(page_sum(&server, "quiver_samples_total{", "batch_upload"), 13.0);
    let collected = |server: &Program| {
        let stats = server.client.get("/api/v1/metrics/stats").expect(200).json();
        stats["total_metrics_collected"].as_u64().unwrap_or_else(|| panic!("{stats}"))
    };
    let before = collected(&server);
    assert!(before >= 10, "{before}");
    server.kill();
    let server = support::quiver(dir.path(), &[]);
    assert_eq!(collected(&server), before, "the total goes on across a kill");
    server.client.post_json("/api/v1/metrics/custom", &json!([sample(0, now, 0.0)])).expect(200);
    assert_eq!(collected(&server), before, "a duplicate is no sample");
    assert_eq!(server.terminate(), Some(0));
}
