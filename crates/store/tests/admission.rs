//! Whoever is in goes on, whoever is new waits for room.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use common::*;
use model::{Append, Batch, Family, Labels, MetricType, NO_FAMILY, Origin, Refusal, Verdict, stale_nan};
use store::{Full, Store, StoreConfig};
use sys::SimFs;

/// Room for some three hundred series.
const ROOM: u64 = 256 << 10;
const TOO_MANY: Verdict = Verdict::Refused(Refusal::SeriesLimit);

fn origin(target: &str) -> Origin {
    Origin { target_id: target.into(), source_id: format!("of-{target}"), ..Origin::default() }
}

fn user(family: &str, user: u64) -> Labels {
    Labels::from_pairs([("__name__", family.to_owned()), ("user_id", user.to_string())])
}

fn push(
    store: &Store,
    target: &str,
    family: &str,
    users: std::ops::Range<u64>,
    ts_ms: i64,
    value: f64,
) -> Vec<Verdict> {
    let mut batch = Batch::new(origin(target));
    for n in users {
        let series = batch.push_labels(&user(family, n), NO_FAMILY);
        batch.push_sample(series, ts_ms, value);
    }
    let (batch, result) = store.append(batch);
    assert!(result.unwrap().counts.balances());
    batch.verdicts
}

fn all(verdicts: &[Verdict], wanted: Verdict) -> bool {
    verdicts.iter().all(|v| *v == wanted)
}

#[test]
fn an_exploding_target_keeps_nobody_from_writing_and_its_room_comes_back() {
    let clock = clock();
    let limited = StoreConfig { series_bytes_max: ROOM, ..config() };
    let (store, _) = open(&SimFs::seeded(1), &clock, limited).unwrap();
    assert!(all(&push(&store, "good", "g", 0..50, START_MS, 1.0), Verdict::Stored));
    assert!(all(&push(&store, "bad", "b", 0..50, START_MS, 1.0), Verdict::Stored));
    let (mut refused, mut bad_in) = (0, 50);
    for round in 1..=40u64 {
        let at = START_MS + round as i64 * 1_000;
        // Fifty new users each round, ten times what there is room for in all.
        let verdicts = push(&store, "bad", "b", 0..50 + 50 * round, at, round as f64);
        let stored = verdicts.iter().take_while(|v| **v == Verdict::Stored).count();
        assert!(stored >= bad_in, "round {round}: a series that was in lost its sample");
        assert!(all(&verdicts[stored..], TOO_MANY), "round {round}");
        (bad_in, refused) = (stored, refused + verdicts.len() - stored);
        assert!(all(&push(&store, "good", "g", 0..50, at, round as f64), Verdict::Stored), "round {round}");
        let room = store.admission();
        assert!(room.bytes <= ROOM && room.series <= 400, "round {round}: {room:?}");
    }
    assert!(refused > 30_000 && bad_in > 100, "{refused} refused, {bad_in} in");
    // What is kept for the small: another target may still come.
    assert!(all(&push(&store, "late", "l", 0..10, START_MS + 41_000, 1.0), Verdict::Stored));
    let owners = store.owners();
    let bad = owners.iter().find(|o| &*o.target_id == "bad").unwrap();
    assert_eq!(bad.series, bad_in as u64);
    assert!(matches!(bad.full, Some(Full::Share | Full::Memory)), "{:?}", bad.full);
    let before: usize = contents(&store).values().map(|samples| samples.len()).sum();

    // Too few have ended to be worth a block; then the target is repaired, and its series end.
    assert_eq!(store.relieve().unwrap(), 0);
    assert!(all(&push(&store, "bad", "b", 0..bad_in as u64, START_MS + 42_000, stale_nan()), Verdict::Stored));
    assert!(all(&push(&store, "next", "n", 0..60, START_MS + 43_000, 1.0), TOO_MANY));
    assert_eq!(store.relieve().unwrap(), bad_in as u64);
    assert!(all(&push(&store, "next", "n", 0..60, START_MS + 43_000, 1.0), Verdict::Stored));
    assert!(all(&push(&store, "good", "g", 0..50, START_MS + 43_000, 1.0), Verdict::Stored));
    let owners = store.owners();
    assert_eq!(owners.iter().map(|o| o.series).sum::<u64>(), store.admission().series);
    assert_eq!(store.admission().series, 50 + 10 + 60);
    let after: usize = contents(&store).values().map(|samples| samples.len()).sum();
    assert_eq!(after, before + bad_in + 60 + 50, "nothing of what was written is gone");
}

#[test]
fn families_come_in_whole_and_what_a_target_says_of_itself_always() {
    let limited = StoreConfig { series_max: 6, ..config() };
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, limited.clone()).unwrap();
    let family =
        |name: &str, metric_type| Family { name: name.into(), metric_type, help: String::new(), unit: String::new() };
    let send = |store: &Store, ts_ms: i64, essential: u32| {
        let mut batch = Batch::new(origin("t"));
        batch.families = vec![family("h", MetricType::Histogram), family("c", MetricType::Counter)];
        batch.essential = essential;
        for (name, of) in [
            ("up", NO_FAMILY),
            ("h_bucket", 0),
            ("h_sum", 0),
            ("c", 1),
            ("h_count", 0),
            ("s_sum", NO_FAMILY),
            ("s_count", NO_FAMILY),
        ] {
            let series = batch.push_labels(&Labels::from_pairs([("__name__", name)]), of);
            batch.push_sample(series, ts_ms, 1.0);
        }
        store.append(batch).0.verdicts
    };
    append(&store, &[(1, START_MS, 1.0), (2, START_MS, 1.0), (3, START_MS, 1.0), (4, START_MS, 1.0)]).1.unwrap();
    let verdicts = send(&store, START_MS, 1);
    let stored = |verdicts: &[Verdict]| verdicts.iter().map(|v| *v == Verdict::Stored).collect::<Vec<_>>();
    // With `up` five of six are taken: there is room for the counter, not for a part of the histogram or summary.
    assert_eq!(stored(&verdicts), [true, false, false, true, false, false, false]);
    append(&store, &[(5, START_MS, 1.0), (6, START_MS, 1.0)]).1.unwrap();
    assert!(stored(&send(&store, START_MS + 1, 1))[0]);
    let full = store.admission();
    drop(store);
    // Replay refuses nothing, and counts the same.
    let (store, _) = open(&fs, &clock, StoreConfig { series_max: 1, ..limited }).unwrap();
    assert_eq!((store.admission().series, store.admission().bytes), (full.series, full.bytes));
    assert!(stored(&send(&store, START_MS + 2, 0))[0]);
}

#[test]
fn series_whose_samples_are_decided_do_not_come_to_be() {
    let (store, _) = open(&SimFs::seeded(1), &clock(), config()).unwrap();
    let mut batch = Batch::new(origin("t"));
    let refused = batch.push_labels(&labels(1), NO_FAMILY);
    batch.push_decided(refused, START_MS, 1.0, Verdict::Refused(Refusal::SampleLimit));
    let both = batch.push_labels(&labels(2), NO_FAMILY);
    batch.push_decided(both, START_MS, 1.0, Verdict::Filtered);
    batch.push_sample(both, START_MS, 1.0);
    let (batch, result) = store.append(batch);
    assert_eq!(
        (store.admission().series, batch.series[0].id.is_some(), batch.series[1].id.is_some()),
        (1, false, true)
    );
    let counts = result.unwrap().counts;
    assert!(counts.balances() && counts.stored == 1 && counts.refused_total() == 1);
}

#[test]
fn under_pressure_nobody_new_comes_in() {
    let (store, _) = open(&SimFs::seeded(1), &clock(), config()).unwrap();
    append(&store, &[(1, START_MS, 1.0)]).1.unwrap();
    store.set_pressure(true);
    let (batch, _) = append(&store, &[(1, START_MS + 1, 1.0), (2, START_MS + 1, 1.0)]);
    assert_eq!(batch.verdicts, [Verdict::Stored, TOO_MANY]);
    store.set_pressure(false);
    assert_eq!(append(&store, &[(2, START_MS + 1, 1.0)]).0.verdicts, [Verdict::Stored]);
}

/// Writes so many new series, two thousand at a time, beside some that are in.
fn flood(new: u64, room: u64) {
    const AT_ONCE: u64 = 2_000;
    let limited = StoreConfig { series_bytes_max: room, segment_bytes_max: 64 << 20, ..config() };
    let (store, _) = open_plain(&SimFs::seeded(1), &clock(), limited).unwrap();
    let store: Arc<Store> = store;
    assert!(all(&push(&store, "good", "g", 0..100, START_MS, 1.0), Verdict::Stored));
    let mut stored = 0;
    for round in 0..new / AT_ONCE {
        let users = round * AT_ONCE..(round + 1) * AT_ONCE;
        let verdicts = push(&store, "flood", "f", users, START_MS + 1, 1.0);
        stored += verdicts.iter().filter(|v| **v == Verdict::Stored).count() as u64;
        assert!(store.admission().bytes <= room);
        if round % 16 == 0 {
            let at = START_MS + 1 + round as i64;
            assert!(all(&push(&store, "good", "g", 0..100, at, round as f64), Verdict::Stored), "round {round}");
        }
    }
    let room = store.admission();
    assert!(stored > 0 && stored < new / 2, "{stored} of {new} came in");
    assert_eq!(room.refused_total(), new - stored);
}

#[test]
fn a_flood_of_new_series_stays_below_the_limit() {
    flood(60_000, 8 << 20);
}

#[test]
#[ignore = "minutes; part of `make soak`"]
fn ten_million_new_series_stay_below_the_limit() {
    flood(10_000_000, 512 << 20);
}
