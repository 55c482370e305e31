//! Damage anywhere in a whole store, blocks and head at once: it opens, tells, and gives no value that was not sent.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use model::{Append, Family, Labels, MetricType, Samples, Select, TimeRange};
use store::{Store, StoreConfig};
use sys::{Fs, Random, SimClock, SimFs};

type Sent = BTreeMap<(Labels, i64), BTreeSet<u64>>;

fn big() -> StoreConfig {
    // Windows stay apart, so that there are several blocks to damage.
    let ranges = Vec::new();
    StoreConfig { segment_bytes_max: 1 << 20, checkpoint_bytes: 1 << 20, compaction_ranges_ms: ranges, ..config() }
}

/// A store with everything: three blocks of which one is late, records in blocks, in chunk files and in the head alone.
fn whole_store(fs: &SimFs, clock: &Arc<SimClock>) -> Sent {
    let mut sent = Sent::new();
    let mut send = |store: &Store, rows: &[(u64, i64, f64)]| {
        for (series, ts_ms, value) in rows {
            sent.entry((labels(*series), *ts_ms)).or_default().insert(value.to_bits());
        }
        append(store, rows).1.unwrap();
    };
    let (store, _) = open(fs, clock, big()).unwrap();
    let row = |series: u64, step: i64| {
        let value = if series % 3 == 2 { stand_in(step as usize % HISTOGRAMS) } else { step as f64 / 7.0 };
        (series, START_MS + step * 30_000, value)
    };
    let mut families = batch(&[]);
    families.families.push(Family {
        name: "m".into(),
        metric_type: MetricType::Counter,
        help: "h".into(),
        unit: "s".into(),
    });
    store.append(families).1.unwrap();
    for step in 0..125 {
        send(&store, &(0..4).map(|series| row(series, step)).collect::<Vec<_>>());
        clock.advance(30_000);
    }
    clock.advance(WINDOW_MS as u64 / 2);
    store.maintain().unwrap();
    // Late for the block: a new time, and one with another value than the block has.
    send(&store, &[(0, START_MS + 7, 8.5), (1, START_MS, 99.0), (5, START_MS + 3, stand_in(1))]);
    clock.advance(WINDOW_MS as u64);
    store.maintain().unwrap();
    for step in 241..300 {
        send(&store, &[row(0, step), row(2, step)]);
    }
    store.checkpoint().unwrap();
    send(&store, &[(0, START_MS + 2 * WINDOW_MS, 1.5), (2, START_MS + 2 * WINDOW_MS, stand_in(4)), row(6, 302)]);
    assert_eq!(store.stats().blocks.blocks, 3);
    assert!(store.stats().head_samples > 2 && store.stats().head_histograms > 0);
    sent
}

fn files(fs: &SimFs, dir: &Path, out: &mut Vec<PathBuf>) {
    for name in fs.list(dir).unwrap() {
        let path = dir.join(name);
        match fs.list(&path) {
            Ok(_) => files(fs, &path, out),
            Err(_) => out.push(path),
        }
    }
}

/// Opens and reads all that can be read; gives how many samples are there, and whether anything was told.
fn opened(fs: &SimFs, clock: &Arc<SimClock>, sent: &Sent, what: &str) -> (usize, bool) {
    let (store, recovery) = open(fs, clock, big()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut found = 0;
    let mut failed = false;
    match store.select(&[], TimeRange::ALL) {
        Err(error) => {
            assert!(error.to_string().contains("/data/blocks"), "{what}: an error names the file: {error}");
            failed = true;
        }
        Ok(readers) => {
            for reader in readers {
                let mut samples = Samples::default();
                if let Err(error) = reader.read(TimeRange::ALL, &mut samples) {
                    let text = error.to_string();
                    let named = text.contains("/data/blocks") || text.contains("/data/chunks");
                    assert!(named, "{what}: an error names the file: {error}");
                    failed = true;
                    continue;
                }
                for (ts_ms, bits) in rows_of(&samples) {
                    let known = sent.get(&(reader.labels().clone(), ts_ms));
                    assert!(known.is_some_and(|k| k.contains(&bits)), "{what}: {} at {ts_ms}", reader.labels());
                    found += 1;
                }
            }
        }
    }
    for family in store.metadata(None) {
        assert_eq!((&*family.name, &*family.help, family.metric_type), ("m", "h", MetricType::Counter), "{what}");
    }
    // It goes on: what comes now is kept.
    let now = [(9, sys::Clock::now_ms(&**clock), 3.5)];
    assert_eq!(append(&store, &now).1.unwrap().counts.stored, 1, "{what}");
    (found, failed || !recovery.damaged.is_empty() || store.stats().blocks.damaged > 0)
}

#[test]
fn row_04_any_flipped_byte_of_a_whole_store_is_told_or_harmless_and_never_a_wrong_value() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let sent = whole_store(&fs, &clock);
    let (all, told) = opened(&fs.fork(0), &clock, &sent, "sound");
    assert!(all == sent.len() && !told, "{all} of {}", sent.len());
    let mut paths = Vec::new();
    files(&fs, Path::new("/data"), &mut paths);
    let names: BTreeSet<String> = paths.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
    let wanted = ["series.1.log", "ledger.1", "metadata", "exemplars", "histograms.parquet", "postings", "manifest.2"];
    assert!(names.iter().any(|n| n.ends_with(".wal")) && names.iter().any(|n| n.ends_with(".chunks")), "{names:?}");
    for name in wanted {
        assert!(names.contains(name), "the store has everything: {names:?}");
    }
    let mut at = 0;
    for path in &paths {
        let len = fs.read(path).unwrap().len();
        while at < len {
            let copy = fs.fork(at as u64);
            copy.damage(path, |bytes| bytes[at] ^= 1 << (at % 8)).unwrap();
            let what = format!("{} byte {at}", path.display());
            let (found, told) = opened(&copy, &clock, &sent, &what);
            // What is less than all is told, and only blocks, chunk files and log can lose anything.
            assert!(told || found == all, "{what}: {found} of {all} in silence");
            let kept = ["blocks", "chunks", "wal"].iter().any(|dir| path.starts_with(Path::new("/data").join(dir)));
            assert!(kept || found == all, "{what}: {found} of {all}");
            at += 17;
        }
        at -= len;
    }
}

#[test]
fn many_flipped_bytes_at_once_cost_what_they_hit_and_never_make_a_value_up() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let sent = whole_store(&fs, &clock);
    let mut paths = Vec::new();
    files(&fs, Path::new("/data"), &mut paths);
    for seed in 0..150 {
        let (copy, mut random) = (fs.fork(seed), Random::seeded(seed));
        for _ in 0..1 + seed % 12 {
            let path = &paths[random.below(paths.len() as u64) as usize];
            let change = |bytes: &mut Vec<u8>| {
                let at = random.below(bytes.len().max(1) as u64) as usize;
                match random.below(8) {
                    0 => bytes.truncate(at),
                    _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << random.below(8)),
                }
            };
            copy.damage(path, change).unwrap();
        }
        opened(&copy, &clock, &sent, &format!("seed {seed}"));
        // A second start, after the first has put aside what it found.
        let mut more = sent.clone();
        more.insert((labels(9), sys::Clock::now_ms(&*clock)), [3.5f64.to_bits()].into());
        clock.advance(1);
        opened(&copy, &clock, &more, &format!("seed {seed}, again"));
    }
}
