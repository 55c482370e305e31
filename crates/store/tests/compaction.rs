//! Blocks become larger ones, lose what is deleted or past its retention, and nothing else; a crash at any moment
//! changes nothing of that.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Contents, START_MS, WINDOW_MS};
use model::{Labels, Matcher, MetricType, Samples, TimeRange};
use proptest::prelude::*;
use store::{
    Balance, BlockFolder, BlockInput, BlockSet, BlockSettings, Doomed, Pace, RetentionRules, SelectorRule, SeriesAttrs,
    TargetRule,
};
use sys::{Fault, Fs, SimClock, SimFs};

/// The first midnight (UTC) after the tests' start.
const DAY_MS: i64 = START_MS + 2 * WINDOW_MS;
/// Late enough for every window of the tests to be over.
const NOW_MS: i64 = DAY_MS + 100 * WINDOW_MS;

fn blocks_dir() -> PathBuf {
    PathBuf::from("/data/blocks")
}

fn disk(seed: u64) -> SimFs {
    let fs = SimFs::seeded(seed);
    fs.create_dir_all(Path::new("/data")).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    fs
}

fn open_with(fs: &SimFs, rules: RetentionRules) -> BlockFolder {
    let settings = BlockSettings {
        compaction_ranges_ms: vec![6 * WINDOW_MS, 24 * WINDOW_MS],
        clock: Arc::new(SimClock::at(NOW_MS)),
        rules,
        ..BlockSettings::new(16 << 20)
    };
    let (folder, damaged) = BlockFolder::open_with(Arc::new(fs.clone()), &blocks_dir(), settings).unwrap();
    assert_eq!(damaged, Vec::<String>::new());
    folder
}

fn open(fs: &SimFs) -> BlockFolder {
    open_with(fs, RetentionRules::uniform(i64::MAX))
}

fn target_of(labels: &Labels) -> &'static str {
    if labels.get("n").is_some_and(|n| n.ends_with('0')) { "zero" } else { "other" }
}

fn write(folder: &BlockFolder, hour: i64, rows: &Contents) -> Result<(), String> {
    let start_ms = DAY_MS + hour * WINDOW_MS;
    let inputs = rows.iter().map(|(labels, samples)| BlockInput {
        labels: labels.clone(),
        attrs: Arc::new(SeriesAttrs {
            metric_type: MetricType::Gauge,
            source: "s".into(),
            target_id: target_of(labels).into(),
        }),
        samples: common::samples_of(samples),
    });
    folder.write(TimeRange { start_ms, end_ms: start_ms + WINDOW_MS - 1 }, &mut inputs.into_iter())
}

fn read(folder: &BlockFolder, matchers: &[Matcher], range: TimeRange) -> Contents {
    let mut out = Contents::new();
    for reader in folder.select(matchers, range).unwrap() {
        let mut samples = Samples::default();
        reader.read(range, &mut samples).unwrap();
        let rows = out.entry(reader.labels().clone()).or_default();
        for (ts, bits) in common::rows_of(&samples) {
            assert!(rows.insert(ts, bits).is_none(), "{} at {ts} is in two blocks", reader.labels());
        }
    }
    out.retain(|_, rows| !rows.is_empty());
    out
}

fn read_all(folder: &BlockFolder) -> Contents {
    read(folder, &[], TimeRange::ALL)
}

/// Merges all there is to merge; gives how often.
fn compact(folder: &BlockFolder) -> Result<u64, String> {
    let mut rounds = 0;
    while folder.compact(NOW_MS, NOW_MS, &Arc::new(Pace::new(0)))? > 0 {
        rounds += 1;
        assert!(rounds < 200, "compaction comes to an end");
    }
    Ok(rounds)
}

/// Removes what was replaced, then looks once more, so that deletions are forgotten.
fn settle(folder: &BlockFolder) -> Result<(), String> {
    compact(folder)?;
    folder.clean(NOW_MS)?;
    folder.clean(NOW_MS + 600_000)?;
    compact(folder).map(|_| ())
}

#[derive(serde::Deserialize)]
struct Manifest {
    samples: u64,
    digest: u64,
    window_start_ms: i64,
    window_end_ms: i64,
    balance: Option<Balance>,
}

fn manifests(fs: &SimFs) -> Vec<Manifest> {
    let is_block =
        |name: &String| name.split('-').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    let folders = fs.list(&blocks_dir()).unwrap().into_iter().filter(is_block);
    let read = |name: String| {
        let bytes = fs.read(&blocks_dir().join(name).join("manifest.1")).unwrap();
        serde_json::from_slice(bytes.split(|b| *b == b'\n').next().unwrap()).unwrap()
    };
    folders.map(read).collect()
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0i64..100_000).prop_map(|n| (n as f64 / 100.0).to_bits()),
        (0..common::HISTOGRAMS).prop_map(|n| common::stand_in(n).to_bits()),
        prop::sample::select(vec![0, 1 << 63, 1, model::STALE_NAN_BITS, f64::NAN.to_bits()]),
    ]
}

/// A block's hour and rows.
fn part() -> impl Strategy<Value = (i64, Contents)> {
    let samples = prop::collection::btree_map(0..WINDOW_MS, value(), 1..12);
    (0i64..50, prop::collection::btree_map(0u64..12, samples, 1..6)).prop_map(|(hour, rows)| {
        let shifted =
            |rows: BTreeMap<i64, u64>| rows.into_iter().map(|(t, v)| (DAY_MS + hour * WINDOW_MS + t, v)).collect();
        (hour, rows.into_iter().map(|(n, rows)| (common::labels(n), shifted(rows))).collect())
    })
}

fn write_all(folder: &BlockFolder, parts: &[(i64, Contents)]) -> Contents {
    let mut want = Contents::new();
    for (hour, rows) in parts {
        write(folder, *hour, rows).unwrap();
        for (labels, rows) in rows {
            let all = want.entry(labels.clone()).or_default();
            for (ts, bits) in rows {
                all.entry(*ts).or_insert(*bits);
            }
        }
    }
    want
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn queries_before_and_after_compaction_are_equal(
        parts in prop::collection::vec(part(), 1..40), more in prop::collection::vec(part(), 0..10),
        start in 0i64..50, hours in 0i64..30, n in 0u64..12,
    ) {
        let fs = disk(1);
        let folder = open(&fs);
        let mut want = write_all(&folder, &parts);
        let range = TimeRange { start_ms: DAY_MS + start * WINDOW_MS + 7, end_ms: DAY_MS + (start + hours) * WINDOW_MS };
        let matcher = [Matcher::equal("n", n.to_string())];
        let chosen = read(&folder, &matcher, range);
        prop_assert_eq!(&read_all(&folder), &want);
        let blocks = folder.totals().blocks;
        let sum = |list: Vec<Manifest>| list.iter().fold((0, 0u64), |s, m| (s.0 + m.samples, s.1.wrapping_add(m.digest)));
        let before = sum(manifests(&fs));
        compact(&folder).unwrap();
        prop_assert_eq!(&read(&folder, &matcher, range), &chosen);
        prop_assert_eq!(&read_all(&folder), &want);
        folder.clean(NOW_MS).unwrap();
        folder.clean(NOW_MS + 600_000).unwrap();
        prop_assert_eq!(sum(manifests(&fs)), before, "same samples, same digest");
        prop_assert!(folder.totals().blocks <= blocks.min(3), "{} blocks", folder.totals().blocks);
        // Late samples, after it.
        for (labels, rows) in write_all(&folder, &more) {
            let all = want.entry(labels).or_default();
            for (ts, bits) in rows {
                all.entry(ts).or_insert(bits);
            }
        }
        prop_assert_eq!(&read_all(&folder), &want);
        compact(&folder).unwrap();
        prop_assert_eq!(&read_all(&folder), &want);
        drop(folder);
        prop_assert_eq!(&read_all(&open(&fs)), &want);
        for manifest in manifests(&fs) {
            prop_assert!((manifest.window_end_ms + 1 - manifest.window_start_ms) % WINDOW_MS == 0);
            let Some(balance) = manifest.balance else { continue };
            prop_assert_eq!(balance.samples_in, manifest.samples + balance.left_out());
            prop_assert_eq!(balance.digest_in, manifest.digest.wrapping_add(balance.digest_left_out));
        }
    }
}

fn hours(series: u64, range: std::ops::Range<i64>) -> Vec<(i64, Contents)> {
    let rows = |hour: i64, n: u64| {
        let at = |i: i64| DAY_MS + hour * WINDOW_MS + i * 600_000;
        (0..6)
            .map(|i| {
                (at(i), if n == 3 { common::stand_in(i as usize).to_bits() } else { (n as f64 + i as f64).to_bits() })
            })
            .collect()
    };
    range.map(|hour| (hour, (0..series).map(|n| (common::labels(n), rows(hour, n))).collect())).collect()
}

/// Everything that compaction does: hours into a day, a deletion, a shorter retention for one target.
fn rules() -> RetentionRules {
    let mut rules = RetentionRules::uniform(i64::MAX);
    rules.targets.insert(
        "zero".to_owned(),
        TargetRule { keep_ms: Some(NOW_MS - DAY_MS - 2 * WINDOW_MS), ..TargetRule::default() },
    );
    rules
}

const DELETED: TimeRange =
    TimeRange { start_ms: DAY_MS + WINDOW_MS / 2, end_ms: DAY_MS + 2 * WINDOW_MS + WINDOW_MS / 2 };

fn doomed(n: &str) -> Doomed {
    Doomed::Matching(vec![Matcher::equal("n", n)])
}

fn prepared(seed: u64) -> (SimFs, BlockFolder, Contents) {
    let fs = disk(seed);
    let folder = open_with(&fs, rules());
    let mut want = write_all(&folder, &hours(5, 0..6));
    folder.delete(vec![doomed("1"), doomed("3")], DELETED, NOW_MS).unwrap();
    for (labels, rows) in &mut want {
        let deleted = ["1", "3"].contains(&labels.get("n").unwrap());
        let floor_ms = if target_of(labels) == "zero" { DAY_MS + 2 * WINDOW_MS } else { i64::MIN };
        rows.retain(|ts, _| *ts >= floor_ms && !(deleted && DELETED.contains(*ts)));
    }
    want.retain(|_, rows| !rows.is_empty());
    (fs, folder, want)
}

#[test]
fn what_is_hidden_is_not_read_at_once_and_goes_from_the_disk_with_the_merge() {
    let (fs, folder, want) = prepared(1);
    assert_eq!(read_all(&folder), want);
    let written: u64 = manifests(&fs).iter().map(|m| m.samples).sum();
    settle(&folder).unwrap();
    assert_eq!(read_all(&folder), want);
    let left: u64 = want.values().map(|rows| rows.len() as u64).sum();
    let totals = folder.totals();
    assert_eq!((totals.samples, totals.blocks, totals.deletions), (left, 1, 0));
    assert_eq!(totals.merged.left_out(), written - left);
    assert!(totals.merged.expired > 0 && totals.merged.deleted > 0);
    // What comes in after a deletion is not concerned by it.
    let again = (DELETED.start_ms, 9f64.to_bits());
    write(&folder, 0, &Contents::from([(common::labels(1), BTreeMap::from([again]))])).unwrap();
    assert_eq!(read_all(&folder)[&common::labels(1)].get(&again.0), Some(&again.1));
}

#[test]
fn a_deleted_sample_can_be_written_again_before_it_has_gone_from_the_disk() {
    let fs = disk(1);
    let folder = open(&fs);
    let mut want = write_all(&folder, &hours(2, 0..1));
    let all = TimeRange { start_ms: i64::MIN, end_ms: NOW_MS };
    folder.delete(vec![doomed("1")], all, NOW_MS).unwrap();
    want.remove(&common::labels(1));
    assert_eq!(read_all(&folder), want);
    assert_eq!(folder.label_values("n", &[], TimeRange::ALL).unwrap(), ["0"]);
    let (_, rows) = hours(2, 0..1).remove(0);
    write(&folder, 0, &rows).unwrap();
    assert_eq!(read_all(&folder), rows);
    drop(folder);
    let folder = open(&fs);
    assert_eq!(read_all(&folder), rows, "also after a start");
    settle(&folder).unwrap();
    assert_eq!(read_all(&folder), rows);
    assert_eq!(folder.totals().deletions, 0);
}

#[test]
fn a_block_of_which_all_is_deleted_goes() {
    let fs = disk(1);
    let folder = open(&fs);
    write_all(&folder, &hours(3, 0..3));
    folder.delete(vec![Doomed::Matching(vec![])], TimeRange { start_ms: i64::MIN, end_ms: NOW_MS }, NOW_MS).unwrap();
    assert_eq!(read_all(&folder), Contents::new());
    settle(&folder).unwrap();
    assert_eq!((folder.totals().blocks, folder.totals().deletions), (0, 0));
    drop(folder);
    let folder = open(&fs);
    assert_eq!(read_all(&folder), Contents::new());
    let want = write_all(&folder, &hours(1, 0..1));
    assert_eq!(read_all(&folder), want, "numbers are not used twice, or this would be deleted too");
}

#[test]
fn a_crash_at_any_change_of_compaction_retention_and_deletion_loses_nothing_and_brings_nothing_back() {
    let (fs, folder, _) = prepared(0);
    let before = fs.changes();
    settle(&folder).unwrap();
    let total = fs.changes() - before;
    assert!(total > 30 && folder.totals().blocks == 1, "{total} changes");
    for after in 0..total {
        let (fs, folder, want) = prepared(after);
        fs.inject(Fault::PowerCut { after });
        let _ = settle(&folder);
        drop(folder);
        fs.crash();
        let folder = open_with(&fs, rules());
        assert_eq!(read_all(&folder), want, "cut after {after}");
        settle(&folder).unwrap();
        assert_eq!(read_all(&folder), want, "cut after {after}");
        let left: u64 = want.values().map(|rows| rows.len() as u64).sum();
        let totals = folder.totals();
        assert_eq!((totals.samples, totals.blocks, totals.deletions), (left, 1, 0), "cut after {after}");
        assert_eq!(manifests(&fs).len(), 1, "cut after {after}");
    }
}

#[test]
fn a_crash_while_a_deletion_is_made_leaves_it_made_or_not() {
    let make = |folder: &BlockFolder| folder.delete(vec![doomed("1")], TimeRange::ALL, NOW_MS);
    let fs = disk(0);
    let folder = open(&fs);
    let want = write_all(&folder, &hours(2, 0..2));
    let before = fs.changes();
    make(&folder).unwrap();
    let total = fs.changes() - before;
    let mut without = want.clone();
    without.remove(&common::labels(1));
    for after in 0..=total {
        let fs = disk(after);
        let folder = open(&fs);
        write_all(&folder, &hours(2, 0..2));
        fs.inject(Fault::PowerCut { after });
        let made = make(&folder).is_ok();
        drop(folder);
        fs.crash();
        let found = read_all(&open(&fs));
        assert!(found == without || (!made && found == want), "cut after {after}, answered {made}");
    }
}

#[test]
fn a_damaged_source_keeps_the_merge_from_happening_and_its_neighbours_as_they_are() {
    let fs = disk(1);
    let want = write_all(&open(&fs), &hours(3, 0..6));
    let name = fs.list(&blocks_dir()).unwrap().into_iter().nth(2).unwrap();
    let path = blocks_dir().join(name).join("samples.parquet");
    for at in (0..fs.read(&path).unwrap().len()).step_by(97) {
        let copy = fs.fork(at as u64);
        copy.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8)).unwrap();
        let folder = open(&copy);
        let why = compact(&folder).unwrap_err();
        assert!(why.contains("samples.parquet is damaged"), "{why}");
        assert_eq!(folder.totals().blocks, 6);
        assert_eq!(compact(&folder), Ok(0), "not tried again at once");
        let range = TimeRange { start_ms: DAY_MS + 3 * WINDOW_MS, end_ms: i64::MAX };
        let mut rest = want.clone();
        rest.values_mut().for_each(|rows| rows.retain(|ts, _| range.contains(*ts)));
        assert_eq!(read(&folder, &[], range), rest, "byte {at}");
        assert_eq!(copy.list(&blocks_dir()).unwrap().iter().filter(|n| n.starts_with("tmp")).count(), 0);
    }
}

#[test]
fn a_full_disk_keeps_the_sources_and_the_next_try_succeeds() {
    for after in 0..40 {
        let fs = disk(after);
        let folder = open(&fs);
        let want = write_all(&folder, &hours(4, 0..6));
        fs.inject(Fault::Append { after, errno: 28 });
        let _ = compact(&folder);
        assert_eq!(read_all(&folder), want);
        // Not before its time, then it is.
        let later = NOW_MS + 600_000;
        while folder.compact(later, later, &Arc::new(Pace::new(0))).unwrap() > 0 {}
        assert_eq!((read_all(&folder), folder.totals().blocks), (want, 1));
    }
}

#[test]
fn the_oldest_blocks_go_when_there_are_too_many_bytes() {
    let fs = disk(1);
    let folder = open(&fs);
    let mut want = write_all(&folder, &hours(3, 0..5));
    let bytes = folder.totals().bytes;
    assert_eq!(folder.shrink_to(bytes), Ok(0));
    assert_eq!(folder.shrink_to(bytes * 7 / 10), Ok(2));
    want.values_mut().for_each(|rows| rows.retain(|ts, _| *ts >= DAY_MS + 2 * WINDOW_MS));
    assert_eq!(read_all(&folder), want);
    assert_eq!(manifests(&fs).len(), 3);
    assert_eq!(folder.shrink_to(0), Ok(3));
    assert_eq!((read_all(&folder), manifests(&fs).len()), (Contents::new(), 0));
}

#[test]
fn each_target_has_its_retention_and_the_first_selector_decides() {
    let fs = disk(1);
    let keep = |hours: i64| NOW_MS - DAY_MS - hours * WINDOW_MS;
    let mut rules = RetentionRules::uniform(keep(1));
    let selectors = vec![SelectorRule { matchers: vec![Matcher::equal("n", "10")], keep_ms: keep(0) }];
    rules.targets.insert("zero".to_owned(), TargetRule { keep_ms: Some(keep(4)), selectors, ..TargetRule::default() });
    let folder = open(&fs);
    let all = write_all(&folder, &hours(11, 0..6));
    folder.retain(rules);
    let mut want = all;
    for (labels, rows) in &mut want {
        let from = match labels.get("n") {
            Some("0") => 4,
            Some("10") => 0,
            _ => 1,
        };
        rows.retain(|ts, _| *ts >= DAY_MS + from * WINDOW_MS);
    }
    assert_eq!(read_all(&folder), want);
    settle(&folder).unwrap();
    assert_eq!(read_all(&folder), want);
    let left: u64 = want.values().map(|rows| rows.len() as u64).sum();
    assert_eq!(folder.totals().samples, left);
}

#[test]
fn merging_ends_when_it_is_told_to() {
    let fs = disk(1);
    let folder = open(&fs);
    let want = write_all(&folder, &hours(2, 0..6));
    let pace = Arc::new(Pace::new(0));
    pace.stop();
    assert_eq!(folder.compact(NOW_MS, NOW_MS, &pace), Ok(0));
    assert_eq!((read_all(&folder), folder.totals().blocks), (want, 6));
    assert_eq!(compact(&folder), Ok(1), "that was no failure");
}
