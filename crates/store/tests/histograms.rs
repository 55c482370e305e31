//! Native histograms through the log, the head and the blocks: bit for bit, and never beside a double.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod common;

use std::sync::Arc;

use common::*;
use model::histogram::{BUCKETS_MAX, BucketSpan, Histogram};
use model::{Append, AppendError, Batch, Labels, NO_FAMILY, Origin, Refusal, Samples, Select, TimeRange, Verdict};
use store::StoreConfig;
use sys::SimFs;

#[test]
fn every_histogram_comes_back_from_head_replay_block_and_merge() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let rows: Vec<_> = (0..400)
        .map(|n| {
            (
                n as u64 % 3,
                START_MS - WINDOW_MS + n * 20_000,
                if n % 4 == 3 { n as f64 } else { stand_in(n as usize % HISTOGRAMS) },
            )
        })
        .collect();
    let mut want = Contents::new();
    for (series, ts_ms, value) in &rows {
        want.entry(labels(*series)).or_default().insert(*ts_ms, value.to_bits());
    }
    for (n, part) in rows.chunks(40).enumerate() {
        clock.set(part[part.len() - 1].1);
        let (batch, result) = append(&store, part);
        assert!(verdicts(&batch, part).iter().all(|v| *v == Verdict::Stored));
        assert_eq!(result.unwrap().counts.stored, 40);
        if n == 4 {
            assert_eq!(store.stats().head_histograms, 150);
            assert!(store.stats().head_histogram_bytes > 150 * 20);
        }
    }
    assert_eq!(contents(&store), want);
    let stats = store.stats();
    drop(store);
    let (store, recovery) = open(&fs, &clock, config()).unwrap();
    assert!(recovery.damaged.is_empty() && recovery.samples == 400, "{recovery:?}");
    assert_eq!((contents(&store), store.stats().totals), (want.clone(), stats.totals));
    assert_eq!((store.stats().head_samples, store.stats().head_histograms), (400, 300));
    store.flush_to_blocks().unwrap();
    assert_eq!(contents(&store), want);
    let stats = store.stats();
    assert_eq!((stats.head_samples, stats.head_histograms, stats.head_histogram_bytes), (0, 0, 0));
    assert_eq!((stats.blocks.samples, stats.blocks.histograms), (400, 300));
    // Five late blocks more, so that the window is merged.
    for n in 0..5 {
        let late = [(n, START_MS + 1 + n as i64, stand_in(n as usize))];
        append(&store, &late).1.unwrap();
        want.entry(labels(n)).or_default().insert(late[0].1, late[0].2.to_bits());
        store.flush_to_blocks().unwrap();
    }
    assert!(store.maintain().unwrap().blocks_merged > 4);
    assert_eq!(contents(&store), want);
    assert_eq!(store.stats().blocks.histograms, 305);
    drop(store);
    let (store, recovery) = open(&fs, &clock, config()).unwrap();
    assert!(recovery.damaged.is_empty(), "{recovery:?}");
    assert_eq!(contents(&store), want);
}

#[test]
fn duplicates_conflicts_and_bad_times_get_their_verdicts() {
    use Refusal::*;
    use Verdict::*;
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let (now, day) = (START_MS, 86_400_000);
    let rows = [
        (1, now, stand_in(0), Stored),
        (1, now, stand_in(0), Duplicate),
        (1, now, stand_in(1), Refused(DuplicateConflict)),
        (1, now + 1, 5.0, Stored),
        (1, now + 1, stand_in(0), Refused(DuplicateConflict)),
        (1, now - day, stand_in(2), Stored),
        (1, now - day, stand_in(2), Duplicate),
        (1, now - day + 1, 7.0, Stored),
        (1, now - day + 1, stand_in(3), Refused(DuplicateConflict)),
        (1, now - 16 * day, stand_in(0), Refused(TooOld)),
        (1, now + 600_000, stand_in(0), Stored),
        (1, now + 600_001, stand_in(0), Refused(TooNew)),
    ];
    for (series, ts_ms, value, want) in rows {
        let row = [(series, ts_ms, value)];
        let (batch, result) = append(&store, &row);
        assert_eq!(verdicts(&batch, &row), [want], "at {ts_ms}");
        assert!(result.unwrap().counts.balances());
    }
    for ts_ms in [now, now - day, now + 600_000] {
        let (batch, _) = append(&store, &[(1, ts_ms, 1.0)]);
        assert_eq!(batch.verdicts, [Refused(DuplicateConflict)], "a double where a histogram is, at {ts_ms}");
    }
    let (before, totals) = (contents(&store), store.stats().totals);
    assert_eq!((totals.received, totals.stored, totals.duplicates), (15, 5, 2));
    drop(store);
    let (store, _) = open(&fs, &clock, config()).unwrap();
    assert_eq!((contents(&store), store.stats().totals), (before, totals), "replay decides the same");
}

#[test]
fn what_cannot_be_read_back_is_refused_and_limits_count_it() {
    let limited = StoreConfig { series_max: 1, batch_bytes_max: 20_000, ..config() };
    let (store, _) = open(&SimFs::seeded(1), &clock(), limited).unwrap();
    append(&store, &[(1, START_MS - 1, 1.0)]).1.unwrap();
    let bad = [
        Histogram { count: -1.0, ..Histogram::default() },
        Histogram { schema: 99, ..Histogram::default() },
        Histogram { positive_spans: vec![BucketSpan::default(); BUCKETS_MAX + 1], ..Histogram::default() },
    ];
    let mut batch = Batch::new(Origin::default());
    let first = batch.push_labels(&labels(1), NO_FAMILY);
    let second = batch.push_labels(&labels(2), NO_FAMILY);
    bad.into_iter().for_each(|h| batch.push_histogram(first, START_MS, Arc::new(h)));
    batch.push_histogram(second, START_MS, histogram(0));
    batch.push_histogram(first, START_MS, histogram(0));
    let (batch, result) = store.append(batch);
    let found: Vec<Verdict> = batch.histograms.iter().map(|h| h.verdict).collect();
    let invalid = Verdict::Refused(Refusal::InvalidValue);
    assert_eq!(found, [invalid, invalid, invalid, Verdict::Refused(Refusal::SeriesLimit), Verdict::Stored]);
    let counts = result.unwrap().counts;
    assert!(counts.balances() && counts.received == 5);
    let rows: Vec<_> = (0..200).map(|n| (1, START_MS + 1 + n, stand_in(5))).collect();
    assert!(matches!(append(&store, &rows).1, Err(AppendError::TooLarge { limit: 20_000, .. })));
}

#[test]
fn against_blocks_the_first_written_wins_whatever_its_kind() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let first = [(1, START_MS, 1.0), (1, START_MS + 1, stand_in(0)), (1, START_MS + 2, stand_in(1))];
    append(&store, &first).1.unwrap();
    let want = contents(&store);
    store.flush_to_blocks().unwrap();
    let again = [(1, START_MS, stand_in(0)), (1, START_MS + 1, 2.0), (1, START_MS + 2, stand_in(1))];
    let (batch, _) = append(&store, &again);
    assert!(verdicts(&batch, &again).iter().all(|v| *v == Verdict::Stored), "the head knows nothing of blocks");
    assert_eq!(contents(&store), want);
    store.flush_to_blocks().unwrap();
    assert_eq!(contents(&store), want);
    assert_eq!((store.stats().blocks.samples, store.stats().blocks.superseded), (3, 2));
}

#[test]
fn a_range_is_a_range_and_a_series_of_histograms_alone_is_forgotten_like_any() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let rows: Vec<_> = (0..300).map(|n| (1, START_MS + n * 1000, stand_in(n as usize % 2))).collect();
    append(&store, &rows).1.unwrap();
    let read = |start: i64, end: i64| {
        let range = TimeRange { start_ms: START_MS + start, end_ms: START_MS + end };
        let mut samples = Samples::default();
        store.select(&[], range).unwrap().iter().for_each(|r| r.read(range, &mut samples).unwrap());
        samples.histograms.iter().map(|h| h.0 - START_MS).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        assert_eq!(read(118_500, 121_000), [119_000, 120_000, 121_000]);
        assert_eq!(read(-5, -1), Vec::<i64>::new());
        assert_eq!(read(0, 999_999).len(), 300);
        store.flush_to_blocks().unwrap();
    }
    clock.advance(4 * WINDOW_MS as u64);
    append(&store, &[(2, START_MS + 4 * WINDOW_MS, 1.0)]).1.unwrap();
    assert_eq!(store.maintain().unwrap().series_forgotten, 1);
    assert_eq!(read(0, 999_999).len(), 300);
}

#[test]
fn histograms_that_stay_in_the_head_keep_their_series() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    append(&store, &[(1, START_MS, stand_in(0)), (2, START_MS, 1.0)]).1.unwrap();
    drop(store);
    let (store, _) = open(&fs, &clock, config()).unwrap();
    assert_eq!(contents(&store).len(), 2);
    let found: Vec<Labels> = contents(&store).into_keys().collect();
    assert_eq!(found, [labels(1), labels(2)]);
    assert_eq!(store.label_values("n", &[], TimeRange { start_ms: START_MS, end_ms: START_MS }).unwrap(), ["1", "2"]);
    assert_eq!(store.stats().head_max_ms, Some(START_MS));
}
