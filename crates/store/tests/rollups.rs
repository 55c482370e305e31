//! Roll-ups: what stays when samples are past their retention, and that nothing brings back what is gone.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Contents, START_MS, WINDOW_MS};
use model::{Matcher, MetricType, Samples, TimeRange};
use store::{
    BlockFolder, BlockInput, BlockSet, BlockSettings, Doomed, Pace, RetentionRules, RollupRule, SeriesAttrs, Stop,
    TablesOf, TargetRule,
};
use sys::{Fault, Fs, SimClock, SimFs};

const DAY_MS: i64 = START_MS + 2 * WINDOW_MS;
const NOW_MS: i64 = DAY_MS + 100 * WINDOW_MS;
/// Raw samples are kept from here on.
const RAW_MS: i64 = DAY_MS + 3 * WINDOW_MS;
const STEP_MS: i64 = 30_000;
const RESOLUTION_MS: i64 = 300_000;

fn rules() -> RetentionRules {
    let keep = |from_ms: i64| NOW_MS - from_ms;
    let rollup = RollupRule { after_ms: WINDOW_MS, resolution_ms: RESOLUTION_MS, keep_ms: keep(DAY_MS - WINDOW_MS) };
    let rule = TargetRule { keep_ms: Some(keep(RAW_MS)), rollups: vec![rollup], ..TargetRule::default() };
    let mut rules = RetentionRules::uniform(keep(RAW_MS));
    rules.targets.insert("rolled".to_owned(), rule);
    rules
}

fn open(fs: &SimFs) -> BlockFolder {
    let settings = BlockSettings {
        compaction_ranges_ms: vec![6 * WINDOW_MS],
        clock: Arc::new(SimClock::at(NOW_MS)),
        rules: rules(),
        ..BlockSettings::new(16 << 20)
    };
    let (folder, damaged) =
        BlockFolder::open_with(Arc::new(fs.clone()), &PathBuf::from("/data/blocks"), settings).unwrap();
    assert_eq!(damaged, Vec::<String>::new());
    folder
}

/// Series 0 is nobody's who asks for roll-ups; 1 is a gauge; 2 a counter with resets; 3 has histograms.
fn value(n: u64, step: i64) -> u64 {
    match n {
        2 => ((step % 37) as f64).to_bits(),
        3 if step % 2 == 0 => common::stand_in(0).to_bits(),
        _ => ((step * 7919 % 101) as f64 / 10.0).to_bits(),
    }
}

fn write(folder: &BlockFolder, hour: i64) -> Contents {
    let start_ms = DAY_MS + hour * WINDOW_MS;
    let rows = |n: u64| -> BTreeMap<i64, u64> {
        (0..WINDOW_MS / STEP_MS).map(|i| (start_ms + i * STEP_MS, value(n, hour * 120 + i))).collect()
    };
    let all: Contents = (0..4).map(|n| (common::labels(n), rows(n))).collect();
    let inputs = all.iter().enumerate().map(|(n, (labels, rows))| BlockInput {
        labels: labels.clone(),
        attrs: Arc::new(SeriesAttrs {
            metric_type: if n == 2 { MetricType::Counter } else { MetricType::Gauge },
            source: "s".into(),
            target_id: if n == 0 { "plain" } else { "rolled" }.into(),
        }),
        samples: common::samples_of(rows),
    });
    let window = TimeRange { start_ms, end_ms: start_ms + WINDOW_MS - 1 };
    folder.write(window, &mut inputs.collect::<Vec<_>>().into_iter()).unwrap();
    all
}

fn prepared(seed: u64) -> (SimFs, BlockFolder, Contents) {
    let fs = SimFs::seeded(seed);
    fs.create_dir_all(Path::new("/data")).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    let folder = open(&fs);
    let mut want = Contents::new();
    for hour in 0..6 {
        write(&folder, hour).into_iter().for_each(|(labels, rows)| want.entry(labels).or_default().extend(rows));
    }
    (fs, folder, want)
}

fn settle(folder: &BlockFolder) -> Result<(), String> {
    for now_ms in [NOW_MS, NOW_MS + 600_000] {
        while folder.compact(NOW_MS, NOW_MS, &Arc::new(Pace::new(0)))? > 0 {}
        folder.clean(now_ms)?;
    }
    while folder.compact(NOW_MS, NOW_MS, &Arc::new(Pace::new(0)))? > 0 {}
    Ok(())
}

fn read(folder: &BlockFolder) -> Contents {
    let mut out = Contents::new();
    for reader in folder.select(&[], TimeRange::ALL).unwrap() {
        let mut samples = Samples::default();
        reader.read(TimeRange::ALL, &mut samples).unwrap();
        out.entry(reader.labels().clone()).or_default().extend(common::rows_of(&samples));
    }
    out.retain(|_, rows| !rows.is_empty());
    out
}

/// Checks what is read against what was written, and gives how many samples of the old hours are left.
fn check(found: &Contents, all: &Contents, what: &str) -> usize {
    let mut old = 0;
    for (labels, rows) in all {
        let mine = found.get(labels).cloned().unwrap_or_default();
        let recent = |rows: &BTreeMap<i64, u64>| rows.range(RAW_MS..).map(|r| (*r.0, *r.1)).collect::<Vec<_>>();
        assert_eq!(recent(&mine), recent(rows), "{what}: {labels}: what is kept is whole");
        assert!(mine.iter().all(|(ts, bits)| rows.get(ts) == Some(bits)), "{what}: {labels}: only real samples");
        old += mine.range(..RAW_MS).count();
        if labels == &common::labels(0) {
            assert_eq!(mine.range(..RAW_MS).count(), 0, "{what}: nobody asked for it");
            continue;
        }
        for start_ms in (DAY_MS..RAW_MS).step_by(RESOLUTION_MS as usize) {
            let range = start_ms..start_ms + RESOLUTION_MS;
            let edges = |rows: &BTreeMap<i64, u64>| {
                let mut inside = rows.range(range.clone());
                (inside.next().map(|r| (*r.0, *r.1)), inside.next_back().map(|r| (*r.0, *r.1)))
            };
            assert_eq!(edges(&mine), edges(rows), "{what}: {labels} at {start_ms}: first and last");
        }
    }
    old
}

fn increase(rows: &BTreeMap<i64, u64>) -> f64 {
    let values: Vec<f64> = rows.values().map(|bits| f64::from_bits(*bits)).collect();
    values.windows(2).map(|w| if w[1] < w[0] { w[1] } else { w[1] - w[0] }).sum()
}

#[test]
fn old_samples_are_answered_from_roll_ups_and_a_note_says_so() {
    let (fs, folder, all) = prepared(1);
    settle(&folder).unwrap();
    let found = read(&folder);
    let old = check(&found, &all, "after it");
    assert!(old > 0 && old < 3 * 3 * 120 * 7 / 10, "{old} samples are left of {}", 3 * 3 * 120);
    let counter = common::labels(2);
    assert_eq!(increase(&found[&counter]), increase(&all[&counter]), "no reset is lost");
    let totals = folder.totals();
    assert!(totals.rollups > 0 && totals.rollups < totals.blocks, "{totals:?}");
    let notes = |start_ms: i64, end_ms: i64| folder.notes(&[], TimeRange { start_ms, end_ms });
    assert!(notes(DAY_MS, RAW_MS).concat().contains("each 5m"), "{:?}", notes(DAY_MS, RAW_MS));
    assert_eq!(notes(RAW_MS, NOW_MS), Vec::<String>::new());
    assert_eq!(folder.notes(&[Matcher::equal("n", "0")], TimeRange::ALL), Vec::<String>::new());
    let view = String::from_utf8(fs.read(Path::new("/data/metrics_ts.sql")).unwrap()).unwrap();
    assert!(view.contains("rollups_5m_ts") && view.contains("rollups.parquet"), "{view}");
    drop(folder);
    assert_eq!(read(&open(&fs)), found, "after a start");
}

#[test]
fn roll_ups_past_their_retention_are_told_as_hidden() {
    let (_, folder, _) = prepared(1);
    settle(&folder).unwrap();
    let tables = || folder.files_in(TimeRange::ALL, TablesOf::SeriesAndRollups, Stop::NEVER).unwrap();
    let rolled = || tables().files.iter().filter(|f| f.resolution_ms.is_some()).count();
    let hidden = || tables().hidden.iter().map(|h| h.end_ms).collect::<Vec<_>>();
    assert!(rolled() > 0 && hidden().iter().all(|end_ms| *end_ms < RAW_MS), "only raw samples: {:?}", hidden());
    // Roll-ups are kept for a shorter time now, then by nobody any more.
    let floor_ms = DAY_MS + WINDOW_MS;
    let mut shorter = rules();
    shorter.targets.get_mut("rolled").unwrap().rollups[0].keep_ms = NOW_MS - floor_ms;
    folder.retain(shorter);
    assert!(hidden().contains(&(floor_ms - 1)), "{:?}", hidden());
    folder.retain(RetentionRules::uniform(NOW_MS));
    let all = hidden();
    assert!(rolled() > 0 && !all.is_empty() && all.iter().all(|end_ms| *end_ms == i64::MAX - 1), "{all:?}");
}

#[test]
fn what_is_deleted_goes_from_the_roll_ups_too() {
    let (_, folder, mut all) = prepared(1);
    settle(&folder).unwrap();
    folder.delete(vec![Doomed::Matching(vec![Matcher::equal("n", "2")])], TimeRange::ALL, NOW_MS).unwrap();
    all.remove(&common::labels(2));
    let at_once = read(&folder);
    assert!(!at_once.contains_key(&common::labels(2)));
    settle(&folder).unwrap();
    let found = read(&folder);
    assert_eq!((&found, folder.totals().deletions), (&at_once, 0));
    check(&found, &all, "after the rewriting");
    assert!(folder.totals().rollups > 0);
}

#[test]
fn a_crash_at_any_change_of_rolling_up_loses_nothing_of_either() {
    let (fs, folder, all) = prepared(0);
    let before = fs.changes();
    settle(&folder).unwrap();
    let total = fs.changes() - before;
    let want = read(&folder);
    check(&want, &all, "without a crash");
    for after in (0..total).step_by(5) {
        let (fs, folder, all) = prepared(after);
        fs.inject(Fault::PowerCut { after });
        let _ = settle(&folder);
        drop(folder);
        fs.crash();
        let folder = open(&fs);
        let found = read(&folder);
        for labels in all.keys() {
            let recent = |c: &Contents| c.get(labels).map(|r| r.range(RAW_MS..).count());
            assert_eq!(recent(&found), recent(&want), "cut after {after}");
        }
        settle(&folder).unwrap();
        assert_eq!(read(&folder), want, "cut after {after}");
    }
}
