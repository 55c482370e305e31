//! Head and blocks as tables: together they are what a selection gives, each sample once.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod common;

use common::*;
use model::{Matcher, SelectError, TimeRange};
use store::{Doomed, Stop, Store, Tabular};
use sys::{Random, SimFs};

/// Counts the doubles of the files; nothing of them may be hidden.
fn in_files(store: &Store, tabular: &Tabular) -> u64 {
    assert!(tabular.hidden.is_empty());
    let blocks = store.blocks();
    let of = |path: &std::path::Path| {
        let block = blocks.iter().find(|b| path.starts_with(&b.path)).unwrap();
        block.manifest.samples - block.manifest.histograms
    };
    tabular.files.iter().filter(|f| f.resolution_ms.is_none()).map(|f| of(&f.rows)).sum()
}

/// Holds files and rows against a selection.
fn check(store: &Store) {
    let contents = contents(store);
    let tabular = store.tabular(None, TimeRange::ALL, u64::MAX, Stop::NEVER).unwrap();
    let doubles = contents.values().flatten().filter(|(_, bits)| histogram_of(**bits).is_none()).count() as u64;
    assert_eq!(in_files(store, &tabular) + tabular.ts_ms.len() as u64, doubles);
    assert!(tabular.owners.len() == tabular.ts_ms.len() && tabular.ts_ms.len() == tabular.values.len());
    for ((owner, ts_ms), value) in tabular.owners.iter().zip(&tabular.ts_ms).zip(&tabular.values) {
        let labels = &tabular.series[*owner as usize].labels;
        assert_eq!(contents[labels].get(ts_ms), Some(&value.to_bits()), "{labels} at {ts_ms}");
    }
}

#[test]
fn files_and_rows_hold_each_sample_once() {
    for seed in book::seeds(12) {
        let (fs, clock, mut random) = (SimFs::seeded(seed), clock(), Random::seeded(seed));
        let (store, _) = open(&fs, &clock, config()).unwrap();
        let mut now_ms = START_MS;
        for _ in 0..60 {
            // Late rows reach into windows that are in blocks already, with the values there and with others.
            let _ = append(&store, &book::rows(&mut random, now_ms));
            match random.below(10) {
                0 => drop(store.maintain().unwrap()),
                1 => {
                    clock.advance(WINDOW_MS as u64 / 2);
                    now_ms += WINDOW_MS / 2;
                }
                _ => {}
            }
            check(&store);
        }
        assert!(!store.blocks().is_empty(), "seed {seed} made no block");
    }
}

#[test]
fn names_times_and_bytes_bound_the_rows() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let rows: Vec<(u64, i64, f64)> = (0..100).map(|i| (i % 4, START_MS + i as i64 * 1_000, 1.0)).collect();
    append(&store, &rows).1.unwrap();
    let rows_of = |names: Option<&[String]>, start_ms, end_ms| {
        store.tabular(names, TimeRange { start_ms, end_ms }, 1 << 20, Stop::NEVER).unwrap().ts_ms.len()
    };
    assert_eq!(rows_of(None, START_MS, START_MS + 9_000), 10);
    assert_eq!(rows_of(Some(&["m".to_owned(), "m".to_owned()]), i64::MIN, i64::MAX), 100);
    assert_eq!(rows_of(Some(&["other".to_owned()]), i64::MIN, i64::MAX), 0);
    let refused = store.tabular(None, TimeRange::ALL, 1_000, Stop::NEVER).unwrap_err();
    assert!(matches!(refused, SelectError::Limit(text) if text.contains("INTERVAL")));
    assert_eq!(store.head_series(1 << 20).unwrap().len(), 4);
    assert!(store.head_series(10).is_err());
}

#[test]
fn nothing_is_gathered_for_those_who_have_gone() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    append(&store, &[(1, START_MS, 1.0)]).1.unwrap();
    assert!(store.tabular(None, TimeRange::ALL, u64::MAX, Stop(&|| true)).is_err(), "of the head");
    clock.advance(4 * WINDOW_MS as u64);
    store.maintain().unwrap();
    assert!(!store.blocks().is_empty());
    assert!(store.tabular(None, TimeRange::ALL, u64::MAX, Stop(&|| true)).is_err(), "of blocks");
    assert!(store.series_files(Stop(&|| true)).is_err());
    assert_eq!(store.tabular(None, TimeRange::ALL, u64::MAX, Stop::NEVER).unwrap().files.len(), 1);
}

#[test]
fn what_is_deleted_is_told_as_hidden_rows() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    append(&store, &[(1, START_MS, 1.0), (1, START_MS + 60_000, 2.0), (2, START_MS, 3.0)]).1.unwrap();
    let range = TimeRange { start_ms: START_MS + 1_000, end_ms: START_MS + 90_000 };
    store.delete_series(&[Doomed::Matching(vec![Matcher::equal("n", "1")])], range).unwrap();
    let tabular = store.tabular(None, TimeRange::ALL, u64::MAX, Stop::NEVER).unwrap();
    assert_eq!((tabular.files.len(), tabular.ts_ms.len(), tabular.hidden.len()), (1, 0, 1));
    assert_eq!((tabular.hidden[0].start_ms, tabular.hidden[0].end_ms), (range.start_ms, range.end_ms));
    // What comes in at the same time afterwards is a sample of the head, seen although the file has one there.
    append(&store, &[(1, START_MS + 60_000, 7.0)]).1.unwrap();
    let tabular = store.tabular(None, TimeRange::ALL, u64::MAX, Stop::NEVER).unwrap();
    assert_eq!((tabular.ts_ms, tabular.values), (vec![START_MS + 60_000], vec![7.0]));
}
