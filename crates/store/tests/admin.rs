//! Deleting, snapshots, export, import and restore, through the store.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use model::{Matcher, TimeRange};
use store::{Doomed, StoreConfig, export_blocks, import_block, list_blocks, restore, verify_block};
use sys::{Fault, Fs, RealFs, SimFs};

fn matching(n: u64) -> Vec<Doomed> {
    vec![Doomed::Matching(vec![Matcher::equal("n", n.to_string())])]
}

fn rows(series: u64, from_ms: i64) -> Vec<(u64, i64, f64)> {
    (0..series).flat_map(|n| (0..5).map(move |i| (n, from_ms + i * 15_000, n as f64 + i as f64))).collect()
}

#[test]
fn deleted_samples_are_gone_from_head_and_blocks_at_once_and_for_good() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    append(&store, &rows(3, START_MS)).1.unwrap();
    clock.advance(2 * WINDOW_MS as u64);
    store.maintain().unwrap();
    let now_ms = START_MS + 2 * WINDOW_MS;
    append(&store, &rows(3, now_ms)).1.unwrap();
    let (from_ms, to_ms) = (START_MS + 30_000, now_ms + 15_000);
    let mut want = contents(&store);
    store.delete_series(&matching(1), TimeRange { start_ms: from_ms, end_ms: to_ms }).unwrap();
    want.get_mut(&labels(1)).unwrap().retain(|ts, _| *ts < from_ms || to_ms < *ts);
    assert_eq!(contents(&store), want);
    // What is sent again after the deletion counts again.
    assert_eq!(append(&store, &[(1, from_ms, 7.5)]).1.unwrap().counts.stored, 1);
    want.get_mut(&labels(1)).unwrap().insert(from_ms, 7.5f64.to_bits());
    assert_eq!(contents(&store), want);
    // The list is settled once what was rewritten has gone, ten minutes later.
    for _ in 0..4 {
        clock.advance(WINDOW_MS as u64);
        store.maintain().unwrap();
        store.clean_tombstones().unwrap();
        assert_eq!(contents(&store), want);
    }
    assert_eq!(store.stats().blocks.deletions, 0);
    assert!(store.stats().blocks.merged.deleted > 0);
    fs.crash();
    drop(store);
    let (store, recovery) = open(&fs, &clock, config()).unwrap();
    assert_eq!((contents(&store), recovery.damaged), (want, vec![]));
}

#[test]
fn a_crash_at_any_change_of_a_deletion_keeps_what_was_answered() {
    let prepare = |seed| {
        let (fs, clock) = (SimFs::seeded(seed), clock());
        let (store, _) = open(&fs, &clock, config()).unwrap();
        append(&store, &rows(2, START_MS)).1.unwrap();
        (fs, clock, store)
    };
    let delete = |store: &store::Store| store.delete_series(&matching(0), TimeRange::ALL);
    let (fs, _, store) = prepare(0);
    let before = fs.changes();
    let want = contents(&store);
    delete(&store).unwrap();
    let total = fs.changes() - before;
    let mut without = want.clone();
    without.remove(&labels(0));
    assert_eq!(contents(&store), without);
    for after in (0..=total).step_by(3) {
        let (fs, clock, store) = prepare(after);
        fs.inject(Fault::PowerCut { after });
        let answered = delete(&store).is_ok();
        drop(store);
        fs.crash();
        let (store, _) = open(&fs, &clock, config()).unwrap();
        let found = contents(&store);
        assert!(found == without || (!answered && found == want), "cut after {after}, answered: {answered}");
    }
}

#[test]
fn a_snapshot_is_a_directory_to_start_on_and_does_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let real: Arc<dyn Fs> = Arc::new(RealFs);
    let on = |path: &Path| StoreConfig { dir: path.to_path_buf(), ..config() };
    let (store, _) = store::Store::open(real.clone(), clock.clone(), on(&dir.path().join("data"))).unwrap();
    append(&store, &rows(4, START_MS)).1.unwrap();
    clock.advance(2 * WINDOW_MS as u64);
    store.maintain().unwrap();
    append(&store, &rows(4, START_MS + 2 * WINDOW_MS)).1.unwrap();
    store.delete_series(&matching(3), TimeRange::ALL).unwrap();
    let want = contents(&store);
    let path = store.snapshot("one", true).unwrap();
    assert!(store.snapshot("one", true).is_err(), "there is one already");
    // The original goes on, and loses its blocks.
    store.delete_series(&[Doomed::Matching(vec![])], TimeRange::ALL).unwrap();
    store.clean_tombstones().unwrap();
    assert!(contents(&store).is_empty());
    drop(store);
    let restored = dir.path().join("restored");
    let mut bytes = 0;
    assert!(restore(&*real, &path, &restored, &mut |n| bytes += n).unwrap() > 0);
    assert!(bytes > 0);
    assert!(restore(&*real, &path, &restored, &mut |_| {}).unwrap_err().contains("holds data already"));
    for place in [path, restored.clone()] {
        let (store, recovery) = store::Store::open(real.clone(), clock.clone(), on(&place)).unwrap();
        assert_eq!((contents(&store), recovery.damaged), (want.clone(), vec![]));
        append(&store, &[(9, START_MS, 1.0)]).1.unwrap();
    }
    let view = std::fs::read_to_string(restored.join("metrics_ts.sql")).unwrap();
    assert!(view.contains("'blocks/"), "{view}");
}

#[test]
fn blocks_are_verified_exported_and_imported_once() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    append(&store, &rows(3, START_MS)).1.unwrap();
    store.flush_to_blocks().unwrap();
    append(&store, &[(0, START_MS + 1, stand_in(2)), (8, START_MS, 8.0)]).1.unwrap();
    store.flush_to_blocks().unwrap();
    let want = contents(&store);
    drop(store);
    let fs: Arc<dyn Fs> = Arc::new(fs);
    let (blocks, damaged) = list_blocks(&*fs, Path::new("/data")).unwrap();
    assert_eq!((blocks.len(), damaged), (2, vec![]));
    for block in &blocks {
        let mut bytes = 0;
        assert_eq!(verify_block(&fs, block, &mut |n| bytes += n), Ok(block.manifest.samples));
        assert_eq!(bytes, block.manifest.bytes());
    }
    export_blocks(&*fs, &blocks, Path::new("/out"), &mut |_| {}).unwrap();
    assert!(export_blocks(&*fs, &blocks, Path::new("/out"), &mut |_| {}).is_err());
    let (exported, _) = list_blocks(&*fs, Path::new("/out")).unwrap();
    let samples: u64 = blocks.iter().map(|b| b.manifest.samples).sum();
    for (times, new) in [(1, samples), (2, 0)] {
        let mut imported = 0;
        let mut repeated = 0;
        for block in &exported {
            let done = import_block(&fs, block, Path::new("/new"), &mut |_| {}).unwrap();
            imported += done.samples;
            repeated += done.repeated;
        }
        assert_eq!((imported, repeated), (new, samples - new), "time {times}");
    }
    let (store, _) = store::Store::open(fs.clone(), clock, StoreConfig { dir: "/new".into(), ..config() }).unwrap();
    assert_eq!(contents(&store), want);
    let in_use = import_block(&fs, &exported[0], Path::new("/new"), &mut |_| {}).unwrap_err();
    assert!(in_use.contains("in use"), "{in_use}");
}

#[test]
fn verifying_finds_any_flipped_byte_of_the_data() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    append(&store, &rows(3, START_MS)).1.unwrap();
    store.flush_to_blocks().unwrap();
    drop(store);
    let (blocks, _) = list_blocks(&fs, Path::new("/data")).unwrap();
    for name in blocks[0].manifest.files.keys() {
        let path = blocks[0].path.join(name);
        for at in (0..fs.read(&path).unwrap().len()).step_by(41) {
            let copy = fs.fork(at as u64);
            copy.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8)).unwrap();
            let copy: Arc<dyn Fs> = Arc::new(copy);
            let why = verify_block(&copy, &blocks[0], &mut |_| {}).unwrap_err();
            assert!(why.contains(&*path.to_string_lossy()), "{why}");
        }
    }
}
