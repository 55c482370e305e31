//! The event log on a real directory.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use events::{Delivery, EventLog, EventLogConfig, SubscribeError, Subscription};
use model::{CollectionReport, Origin};
use tempfile::TempDir;

const T0: u64 = 1_750_500_000_000;

fn id(n: u64) -> [u8; 16] {
    let mut id = [0u8; 16];
    id[..6].copy_from_slice(&(T0 + n).to_be_bytes()[2..]);
    id[6] = 0x70;
    id[8..].copy_from_slice(&n.to_be_bytes());
    id
}

fn report(n: u64) -> CollectionReport {
    let source_id = if n.is_multiple_of(3) { "billing" } else { "payments" }.to_owned();
    CollectionReport {
        event_id: id(n),
        batch_id: format!("batch_20250621_n1_{n:06}"),
        origin: Origin { target_id: format!("t{n}"), source_id, ..Origin::default() },
        duration_ms: n,
        ..CollectionReport::default()
    }
}

async fn take(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut out = Vec::new();
    while out.len() < count {
        if let Delivery::Event(event) = subscription.next().await.unwrap() {
            out.push(event.report.duration_ms);
        }
    }
    out
}

fn small() -> EventLogConfig {
    EventLogConfig { segment_bytes_max: 2_000, ..EventLogConfig::default() }
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn history_goes_over_into_live_without_a_seam() {
    let dir = TempDir::new().unwrap();
    let log = EventLog::open_with(dir.path(), small()).unwrap();
    (1..=2_000).for_each(|n| log.publish(report(n)));
    let mut from_10 = log.subscribe(None, Some(id(10))).unwrap();
    let mut now = log.subscribe(None, None).unwrap();
    assert_eq!(take(&mut from_10, 700).await, (11..=710).collect::<Vec<_>>());
    (2_001..=2_100).for_each(|n| log.publish(report(n)));
    assert_eq!(take(&mut from_10, 1_390).await, (711..=2_100).collect::<Vec<_>>());
    assert_eq!(take(&mut now, 100).await, (2_001..=2_100).collect::<Vec<_>>());
    log.publish(report(2_101));
    assert_eq!((take(&mut from_10, 1).await, take(&mut now, 1).await), (vec![2_101], vec![2_101]));
}

#[tokio::test]
async fn a_listener_gets_only_its_source() {
    let dir = TempDir::new().unwrap();
    let log = EventLog::open(dir.path()).unwrap();
    (1..=5).for_each(|n| log.publish(report(n)));
    let mut billing = log.subscribe(Some("billing".into()), Some(id(1))).unwrap();
    (6..=9).for_each(|n| log.publish(report(n)));
    assert_eq!(take(&mut billing, 3).await, [3, 6, 9]);
}

#[tokio::test]
async fn a_slow_listener_is_told_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let log = EventLog::open_with(dir.path(), small()).unwrap();
    let mut slow = log.subscribe(None, None).unwrap();
    (1..=10_000).for_each(|n| log.publish(report(n)));
    let mut lagged = false;
    let mut seen = Vec::new();
    while seen.len() < 10_000 {
        match slow.next().await.unwrap() {
            Delivery::Event(event) => seen.push(event.report.duration_ms),
            Delivery::Lagged { behind } => lagged = behind > 0,
        }
    }
    assert!(lagged);
    assert_eq!(seen, (1..=10_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn restart_keeps_events_and_restores_the_missing_ones_once() {
    let dir = TempDir::new().unwrap();
    let log = EventLog::open(dir.path()).unwrap();
    (1..=50).for_each(|n| log.publish(report(n)));
    log.publish(report(50));
    assert_eq!(log.stats().duplicates, 1);
    log.sync().unwrap();
    drop(log);
    let log = EventLog::open(dir.path()).unwrap();
    assert_eq!(log.restore((40..=60).map(report)).unwrap(), 10);
    assert_eq!(log.restore((40..=60).map(report)).unwrap(), 0);
    let mut all = log.subscribe(None, Some(id(1))).unwrap();
    assert_eq!(take(&mut all, 59).await, (2..=60).collect::<Vec<_>>());
    assert_eq!(log.stats().last_seq, 60);
}

#[tokio::test]
async fn a_torn_tail_costs_only_itself() {
    let dir = TempDir::new().unwrap();
    let log = EventLog::open(dir.path()).unwrap();
    (1..=20).for_each(|n| log.publish(report(n)));
    drop(log);
    let path = segments(dir.path()).pop().unwrap();
    let len = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 7).unwrap();
    let log = EventLog::open(dir.path()).unwrap();
    assert!(log.stats().damaged_bytes > 0);
    (21..=22).for_each(|n| log.publish(report(n)));
    let mut all = log.subscribe(None, Some(id(1))).unwrap();
    assert_eq!(take(&mut all, 20).await, (2..=19).chain(21..=22).collect::<Vec<_>>());
}

#[test]
fn one_flipped_bit_anywhere_costs_one_event_at_most() {
    let dir = TempDir::new().unwrap();
    let log = EventLog::open(dir.path()).unwrap();
    (1..=12).for_each(|n| log.publish(report(n)));
    drop(log);
    let path = segments(dir.path()).pop().unwrap();
    let sound = fs::read(&path).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for bit in (0..sound.len() * 8).step_by(5) {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        let log = EventLog::open(dir.path()).unwrap();
        let known: Vec<u64> = (1..=12).filter(|n| log.subscribe(None, Some(id(*n))).is_ok()).collect();
        assert!(known.len() >= 11, "bit {bit}: {known:?}");
        let mut rest = log.subscribe(None, Some(id(known[0]))).unwrap();
        let seen = runtime.block_on(take(&mut rest, known.len() - 1));
        assert_eq!(seen, known[1..], "bit {bit}");
    }
}

#[tokio::test]
async fn old_and_many_segments_go_and_a_late_listener_is_told() {
    let dir = TempDir::new().unwrap();
    let config = EventLogConfig { segment_bytes_max: 2_000, bytes_max: 10_000, ..EventLogConfig::default() };
    let log = EventLog::open_with(dir.path(), config).unwrap();
    (1..=500).for_each(|n| log.publish(report(n)));
    let mut late = log.subscribe(None, Some(id(1))).unwrap();
    log.retain(T0 as i64).unwrap();
    assert!(log.stats().bytes <= 12_000, "{:?}", log.stats());
    let Err(SubscribeError::Gone { oldest: Some(oldest) }) = log.subscribe(None, Some(id(1))) else {
        panic!("expected a gap");
    };
    assert!(matches!(late.next().await, Err(SubscribeError::Gone { .. })));
    let first = u64::from_be_bytes(oldest[8..].try_into().unwrap());
    let mut rest = log.subscribe(None, Some(oldest)).unwrap();
    assert_eq!(take(&mut rest, (500 - first) as usize).await, (first + 1..=500).collect::<Vec<_>>());
    log.retain(T0 as i64 + 2 * 86_400_000).unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
}

#[tokio::test]
async fn an_unknown_id_is_a_gap() {
    let dir = TempDir::new().unwrap();
    let log = EventLog::open(dir.path()).unwrap();
    assert!(matches!(log.subscribe(None, Some(id(9))), Err(SubscribeError::Gone { oldest: None })));
}
