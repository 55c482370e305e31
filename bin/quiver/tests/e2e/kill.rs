//! A server that ends under load, again and again: nothing acknowledged is lost, doubled or altered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::remote;
use crate::support::{self, Client, Program, encode, now_ms};

const WRITERS: u64 = 3;
const SERIES: u64 = 40;
const SAMPLES_PER_BATCH: u64 = 10;
const STEP_MS: i64 = 10;

/// The value that writer, series and position stand for: any finite double, all bits used.
fn value_of(writer: u64, series: u64, position: u64) -> f64 {
    let mut x = (writer << 40) ^ (series << 32) ^ position.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = f64::from_bits(x ^ (x >> 29));
    if value.is_finite() { value } else { position as f64 }
}

/// What one writer knows: positions below `acked` were answered 2xx, those below `sent` left us.
#[derive(Clone, Copy, Default)]
pub struct Progress {
    pub acked: u64,
    pub sent: u64,
}

/// Writes until the server goes away; retries the unanswered batch first, as a real sender does.
fn write_until_gone(client: &Client, writer: u64, base_ms: i64, stop: &AtomicBool, mut at: Progress) -> Progress {
    while !stop.load(Ordering::Relaxed) {
        match write_once(client, writer, base_ms, &mut at) {
            Ok((200 | 204, _)) => {}
            Ok((429 | 503, _)) => std::thread::sleep(Duration::from_millis(5)),
            Ok((status, body)) => panic!("refused: {status} {body}"),
            Err(_) => return at,
        }
    }
    at
}

/// Sends the next batch, or the last one again when it was not acknowledged; gives status and text.
pub fn write_once(client: &Client, writer: u64, base_ms: i64, at: &mut Progress) -> Result<(u16, String), ureq::Error> {
    let positions = at.acked..at.acked + SAMPLES_PER_BATCH;
    at.sent = at.sent.max(positions.end);
    let request = (0..SERIES).map(|s| {
        let labels = [("__name__", "load"), ("writer", &writer.to_string()), ("series", &s.to_string())];
        let samples = positions.clone().map(|p| (base_ms + p as i64 * STEP_MS, value_of(writer, s, p)));
        remote::series(&labels, samples)
    });
    let body = remote::body(request.collect());
    let answer = client.try_send("POST", "/api/v1/write", &remote::HEADERS, &body)?;
    if matches!(answer.status, 200 | 204) {
        at.acked = positions.end;
    }
    Ok((answer.status, answer.body))
}

/// Every acknowledged sample is there once and bit for bit; nothing is there that was not sent.
pub fn check(server: &Program, base_ms: i64, progress: &[Progress]) {
    for (writer, at) in progress.iter().enumerate() {
        let query = format!("load{{writer=\"{writer}\"}}[1d]");
        let result = server.client.query(&query);
        let found: BTreeMap<u64, &Value> = result
            .as_array()
            .expect("a matrix")
            .iter()
            .map(|s| (s["metric"]["series"].as_str().and_then(|n| n.parse().ok()).expect("a number"), &s["values"]))
            .collect();
        for series in 0..SERIES {
            check_series(writer as u64, series, *at, base_ms, found.get(&series).and_then(|v| v.as_array()));
        }
    }
}

fn check_series(writer: u64, series: u64, at: Progress, base_ms: i64, values: Option<&Vec<Value>>) {
    let place = format!("writer {writer} series {series}");
    let values = values.map(Vec::as_slice).unwrap_or_default();
    let found = values.len() as u64;
    assert!(found >= at.acked, "{place}: {} acknowledged, {found} found", at.acked);
    assert!(found <= at.sent, "{place}: {} sent, {found} found", at.sent);
    for (position, pair) in values.iter().enumerate() {
        let ts_ms = (pair[0].as_f64().expect("a time") * 1000.0).round() as i64;
        let value: f64 = pair[1].as_str().and_then(|v| v.parse().ok()).expect("a value");
        assert_eq!(ts_ms, base_ms + position as i64 * STEP_MS, "{place}: a hole or a double at {position}");
        let expected = value_of(writer, series, position as u64);
        assert_eq!(value.to_bits(), expected.to_bits(), "{place}: altered at {position}: {value} for {expected}");
    }
}

/// Runs lives under load that end as told, and checks after each.
pub fn rounds(count: u64, end: impl Fn(Program)) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let base_ms = now_ms() - 3_600_000;
    let mut progress = vec![Progress::default(); WRITERS as usize];
    for round in 0..count {
        let server = support::quiver(dir.path(), &[]);
        check(&server, base_ms, &progress);
        let stop = AtomicBool::new(false);
        progress = std::thread::scope(|scope| {
            let writers: Vec<_> = progress
                .iter()
                .enumerate()
                .map(|(w, at)| {
                    let (client, stop) = (server.client.clone(), &stop);
                    scope.spawn(move || write_until_gone(&client, w as u64, base_ms, stop, *at))
                })
                .collect();
            // A different moment each round; the writers are busy all the time, so any moment will do.
            std::thread::sleep(Duration::from_millis(300 + 97 * (round % 5)));
            end(server);
            stop.store(true, Ordering::Relaxed);
            writers.into_iter().map(|w| w.join().expect("the writer ends")).collect()
        });
        assert!(progress.iter().all(|p| p.acked > 0), "round {round}: nothing was acknowledged");
    }
    let server = support::quiver(dir.path(), &[]);
    check(&server, base_ms, &progress);
    let acked: u64 = progress.iter().map(|p| p.acked * SERIES).sum();
    println!("{acked} samples acknowledged in {count} rounds, all found once and bit-exact");
    let total = server.client.get(&format!("/api/v1/query?query={}", encode("count(load)"))).expect(200).json();
    assert_eq!(total["status"], "success");
    assert_eq!(server.terminate(), Some(0));
}
