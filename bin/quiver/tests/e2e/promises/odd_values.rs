//! Row 8: values with all bits used, written by remote write, read by every way out, from head and blocks.

use std::collections::BTreeMap;

use prost::Message;

use crate::remote;
use crate::support::{self, Client, Program, now_ms, wait_until};

/// Negative zero, NaNs with payloads (no stale marker, which PromQL leaves out), denormals, the largest and the
/// smallest, doubles that need all 17 digits, integers at the edge of what scales.
const ODD: [u64; 16] = [
    0x8000_0000_0000_0000,
    0x7ff8_0000_0000_0001,
    0x7ff8_dead_beef_0042,
    0xfff8_0000_0000_0007,
    0x0000_0000_0000_0001,
    0x800f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x3fd3_3333_3333_3334,
    0x3fb9_9999_9999_999a,
    0x4340_0000_0000_0000,
    0x4340_0000_0000_0001,
    0x4341_c379_37e0_8001,
    0x3ff0_0000_0000_0001,
];

#[derive(Clone, PartialEq, Message)]
struct ReadRequest {
    #[prost(message, repeated, tag = "1")]
    queries: Vec<Query>,
}

#[derive(Clone, PartialEq, Message)]
struct Query {
    #[prost(int64, tag = "1")]
    start_ms: i64,
    #[prost(int64, tag = "2")]
    end_ms: i64,
    #[prost(message, repeated, tag = "3")]
    matchers: Vec<Matcher>,
}

#[derive(Clone, PartialEq, Message)]
struct Matcher {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    value: String,
}

/// One per query, each with the series it found.
#[derive(Clone, PartialEq, Message)]
struct ReadResponse {
    #[prost(message, repeated, tag = "1")]
    results: Vec<remote::WriteRequest>,
}

/// Reads a metric by remote read: time and bits.
fn remote_read(client: &Client, name: &str, from_ms: i64) -> BTreeMap<i64, u64> {
    let matcher = Matcher { kind: 0, name: "__name__".into(), value: name.into() };
    let query = Query { start_ms: from_ms, end_ms: from_ms + 3_600_000, matchers: vec![matcher] };
    let bytes = ReadRequest { queries: vec![query] }.encode_to_vec();
    let body = snap::raw::Encoder::new().compress_vec(&bytes).expect("it fits");
    let answer = client.bytes("POST", "/api/v1/read", &remote::HEADERS, &body);
    let mut plain = Vec::new();
    let plain = wire::snappy::decode_block_into(&answer, 1 << 20, &mut plain).expect("snappy");
    let response = ReadResponse::decode(plain).expect("a read response");
    let series = response.results.into_iter().flat_map(|r| r.timeseries);
    series.flat_map(|s| s.samples).map(|s| (s.timestamp, s.value.unwrap_or_default().to_bits())).collect()
}

fn promql(server: &Program, name: &str) -> Vec<(i64, f64)> {
    let rows = server.client.query(&format!("{name}[1d]"));
    let rows = rows[0]["values"].as_array().cloned().unwrap_or_default();
    let number = |v: &serde_json::Value| v.as_str().and_then(|v| v.parse().ok()).expect("a value");
    rows.iter().map(|r| ((r[0].as_f64().expect("a time") * 1000.0).round() as i64, number(&r[1]))).collect()
}

fn check(server: &Program, base_ms: i64, what: &str) {
    let wanted: BTreeMap<i64, u64> = (0..).zip(ODD).map(|(n, bits)| (base_ms + n * 1000, bits)).collect();
    assert_eq!(remote_read(&server.client, "odd", base_ms), wanted, "remote read, {what}");
    let shown = promql(server, "odd");
    assert_eq!(shown.len(), ODD.len(), "{what}");
    for (ts_ms, value) in shown {
        let bits = f64::from_bits(wanted[&ts_ms]);
        // JSON writes NaN as a word: its payload does not fit.
        assert!(
            value.to_bits() == bits.to_bits() || (value.is_nan() && bits.is_nan()),
            "PromQL, {what}: {value} for {bits}"
        );
    }
}

pub fn come_back() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    // Hours ago: the next start writes the window into a block.
    let base_ms = now_ms() - 5 * 3_600_000;
    let samples = (0..).zip(ODD).map(|(n, bits)| (base_ms + n * 1000, f64::from_bits(bits)));
    let answer = remote::write(&server.client, vec![remote::series(&[("__name__", "odd")], samples)]);
    assert_eq!(answer.status, 204, "{}", answer.body);
    check(&server, base_ms, "from the head");
    server.kill();
    let server = support::quiver(dir.path(), &[]);
    check(&server, base_ms, "after kill -9");
    let blocks = dir.path().join("data/blocks");
    let block_is_there = || {
        let names = std::fs::read_dir(&blocks).into_iter().flatten().flatten();
        names.map(|e| e.file_name().to_string_lossy().into_owned()).any(|n| n.starts_with(|c: char| c.is_ascii_digit()))
    };
    wait_until("the window is in a block", block_is_there);
    check(&server, base_ms, "with a block");
    assert_eq!(server.terminate(), Some(0));
    let server = support::quiver(dir.path(), &[]);
    check(&server, base_ms, "from the block, after a restart");
    assert_eq!(server.terminate(), Some(0));
}

pub fn one_of_the_future() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let (now, year_ms) = (now_ms(), 365 * 86_400_000);
    let row = |name: &'static str, at_ms: i64| remote::series(&[("__name__", name)], [(at_ms, 1.5)]);
    let answer = remote::write(&server.client, vec![row("a", now - 3), row("b", now + year_ms), row("c", now - 2)]);
    assert_eq!(answer.status, 400);
    for part in ["1 of 3 samples were refused", "too_new: 1", "sample 1 "] {
        assert!(answer.body.contains(part), "{part}: {}", answer.body);
    }
    assert_eq!(server.client.number("count({__name__=~\"a|c\"})"), 2.0, "the others are stored");
    // The series that it came in takes the present all the same, and so do all others, and after a restart too.
    for at_ms in [now - 1, now] {
        let answer = remote::write(&server.client, vec![row("a", at_ms), row("b", at_ms)]);
        assert_eq!(answer.status, 204, "{}", answer.body);
    }
    server.kill();
    let server = support::quiver(dir.path(), &[]);
    assert_eq!(server.client.number("count_over_time(b[1h])"), 2.0);
    assert_eq!(remote::write(&server.client, vec![row("b", now + 1)]).status, 204);
    assert_eq!(server.terminate(), Some(0));
}
