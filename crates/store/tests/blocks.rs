//! Blocks: what is written comes back; what is damaged is told and never a wrong value.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Contents, START_MS, WINDOW_MS};
use model::{Labels, MatchOp, Matcher, MetricType, Samples, SelectError, SeriesReader, TimeRange};
use proptest::prelude::*;
use store::{BlockFolder, BlockInput, BlockSet, SeriesAttrs};
use sys::{Fault, Fs, SimFs};

const WINDOW: TimeRange = TimeRange { start_ms: START_MS, end_ms: START_MS + WINDOW_MS - 1 };
const ENOSPC: i32 = 28;

fn blocks_dir() -> PathBuf {
    PathBuf::from("/data/blocks")
}

fn open(fs: &SimFs) -> (BlockFolder, Vec<String>) {
    BlockFolder::open(Arc::new(fs.clone()), &blocks_dir(), 64 << 20).unwrap()
}

fn inputs(rows: &Contents) -> Vec<BlockInput> {
    let input = |(labels, samples): (&Labels, &BTreeMap<i64, u64>)| BlockInput {
        labels: labels.clone(),
        attrs: Arc::new(SeriesAttrs { metric_type: MetricType::Gauge, source: "s".into(), target_id: "t".into() }),
        samples: common::samples_of(samples),
    };
    rows.iter().map(input).collect()
}

fn write(folder: &BlockFolder, rows: &Contents) -> Result<(), String> {
    folder.write(WINDOW, &mut inputs(rows).into_iter())
}

/// Reads what can be read; counts the series that answered with an error. Panics when a time comes twice.
fn read(folder: &BlockFolder, matchers: &[Matcher], range: TimeRange) -> Result<(Contents, usize), SelectError> {
    let (mut out, mut failed) = (Contents::new(), 0);
    for reader in folder.select(matchers, range)? {
        let mut samples = Samples::default();
        if reader.read(range, &mut samples).is_err() {
            assert!(samples.is_empty(), "an error leaves nothing behind");
            failed += 1;
            continue;
        }
        let rows = out.entry(reader.labels().clone()).or_default();
        for (ts, bits) in common::rows_of(&samples) {
            assert!(rows.insert(ts, bits).is_none(), "{} at {ts} is in two blocks", reader.labels());
        }
    }
    out.retain(|_, rows| !rows.is_empty());
    Ok((out, failed))
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0i64..100_000).prop_map(|n| (n as f64 / 100.0).to_bits()),
        (0..common::HISTOGRAMS).prop_map(|n| common::stand_in(n).to_bits()),
        prop::sample::select(vec![0, 1 << 63, 1, model::STALE_NAN_BITS, f64::NAN.to_bits(), f64::INFINITY.to_bits()]),
    ]
}

fn contents() -> impl Strategy<Value = Contents> {
    let labels = prop::collection::vec(("[abc]", "[xyz]{0,2}"), 0..4)
        .prop_map(|pairs| Labels::from_pairs(pairs.into_iter().chain([("__name__".to_owned(), "m".to_owned())])));
    let samples = prop::collection::btree_map((0..60i64).prop_map(|n| START_MS + n * 60_000 - n % 2), value(), 1..30)
        .prop_map(|rows| rows.into_iter().filter(|r| WINDOW.contains(r.0)).collect::<BTreeMap<_, _>>());
    prop::collection::btree_map(labels, samples, 1..12)
        .prop_map(|rows| rows.into_iter().filter(|r| !r.1.is_empty()).collect())
}

fn matcher() -> impl Strategy<Value = Matcher> {
    let op = prop::sample::select(vec![MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]);
    let value =
        prop::sample::select(vec!["", "x", "xy", "x|y", "x.*", ".*", ".+", "(x|y)z?", "z|", "[xy]", "^x$", "(?i)X"]);
    ("[abcd]", op, value).prop_map(|(name, op, value)| Matcher::new(name, op, value).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn several_blocks_of_a_window_are_one_map_in_which_the_first_written_stays(
        parts in prop::collection::vec(contents(), 1..8),
        matchers in prop::collection::vec(matcher(), 0..3),
        start in 0i64..60, len in 0i64..60,
    ) {
        let fs = SimFs::seeded(1);
        let (folder, _) = open(&fs);
        let mut want = Contents::new();
        let mut superseded = 0;
        for part in &parts {
            write(&folder, part).unwrap();
            for (labels, rows) in part {
                let all = want.entry(labels.clone()).or_default();
                for (ts, bits) in rows {
                    superseded += u64::from(all.get(ts).is_some_and(|old| old != bits));
                    all.entry(*ts).or_insert(*bits);
                }
            }
        }
        let range = TimeRange { start_ms: START_MS + start * 60_000, end_ms: START_MS + (start + len) * 60_000 };
        let mut chosen = want.clone();
        chosen.retain(|labels, _| matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or(""))));
        chosen.values_mut().for_each(|rows| rows.retain(|ts, _| range.contains(*ts)));
        chosen.retain(|_, rows| !rows.is_empty());
        let (values, names): (BTreeSet<String>, BTreeSet<String>) = (
            want.keys().filter_map(|l| l.get("a").map(str::to_owned)).collect(),
            want.keys().flat_map(|l| l.iter().map(|p| p.0.to_owned()).collect::<Vec<_>>()).collect(),
        );
        let samples: u64 = want.values().map(|r| r.len() as u64).sum();
        let check = |folder: &BlockFolder| {
            prop_assert_eq!(read(folder, &matchers, range).unwrap(), (chosen.clone(), 0));
            prop_assert_eq!(read(folder, &[], TimeRange::ALL).unwrap(), (want.clone(), 0));
            prop_assert_eq!(folder.totals().samples, samples);
            prop_assert_eq!(folder.label_values("a", &[], TimeRange::ALL).unwrap().into_iter().collect::<BTreeSet<_>>(), values.clone());
            prop_assert_eq!(folder.label_names(&[], TimeRange::ALL).unwrap().into_iter().collect::<BTreeSet<_>>(), names.clone());
            Ok(())
        };
        check(&folder)?;
        prop_assert_eq!(folder.totals().superseded, superseded);
        let before = folder.totals().blocks;
        let merged = folder.tidy(0).unwrap();
        prop_assert_eq!(merged, if before > 4 { before } else { 0 });
        prop_assert_eq!(folder.totals().blocks, if before > 4 { 1 } else { before });
        check(&folder)?;
        drop(folder);
        let (folder, damaged) = open(&fs);
        prop_assert_eq!(damaged, Vec::<String>::new());
        check(&folder)?;
        // What was replaced goes later, and nothing else with it.
        folder.tidy(0).unwrap();
        folder.tidy(600_000).unwrap();
        check(&folder)?;
        let folders = fs.list(&blocks_dir()).unwrap().len() as u64;
        prop_assert_eq!(folders, folder.totals().blocks);
    }
}

fn some(series: u64, samples: i64, step: i64) -> Contents {
    let row = |n: u64| (0..samples).map(|i| (START_MS + i * step, (n as f64 + i as f64 / 7.0).to_bits())).collect();
    (0..series).map(|n| (common::labels(n), row(n))).collect()
}

fn files(fs: &SimFs) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for block in fs.list(&blocks_dir()).unwrap() {
        let dir = blocks_dir().join(block);
        out.extend(fs.list(&dir).unwrap().into_iter().map(|name| dir.join(name)));
    }
    out
}

/// Damages a byte and checks that the folder opens and nothing wrong comes out; gives how many series failed.
fn after_damage(fs: &SimFs, path: &Path, change: impl FnOnce(&mut Vec<u8>), want: &Contents) -> (usize, u64) {
    let copy = fs.fork(1);
    copy.damage(path, change).unwrap();
    let (folder, damaged) = open(&copy);
    let (found, failed) = read(&folder, &[], TimeRange::ALL).unwrap();
    for (labels, rows) in &found {
        for (ts, bits) in rows {
            assert_eq!(want.get(labels).and_then(|r| r.get(ts)), Some(bits), "{}: {labels} at {ts}", path.display());
        }
    }
    assert_eq!(found.len() + failed, want.len(), "{}: every series is there or answers with an error", path.display());
    (failed, damaged.len() as u64 + folder.totals().damaged)
}

#[test]
fn any_flipped_byte_of_any_file_of_a_block_is_told_or_harmless() {
    let fs = SimFs::seeded(1);
    let mut want = some(6, 20, 1000);
    // One series with both, one with histograms alone.
    for (series, step) in [(2, 3), (5, 1)] {
        let rows = want.get_mut(&common::labels(series)).unwrap();
        rows.values_mut().step_by(step).for_each(|bits| *bits = common::stand_in(*bits as usize % 6).to_bits());
    }
    write(&open(&fs).0, &want).unwrap();
    for path in files(&fs) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let len = fs.read(&path).unwrap().len();
        for at in (0..len).step_by(if len > 2000 { 7 } else { 1 }) {
            let (failed, told) = after_damage(&fs, &path, |bytes| bytes[at] ^= 1 << (at % 8), &want);
            match name.as_str() {
                // All of it is one stretch here.
                "samples.parquet" => assert!(failed == 5 && told > 0, "{name} byte {at}: {failed}"),
                "histograms.parquet" => assert!(failed == 2 && told > 0, "{name} byte {at}: {failed}"),
                // Read only when the postings are damaged.
                "series.parquet" => assert_eq!(failed, 0),
                _ => assert!(failed == 0 && told > 0, "{name} byte {at}: {failed} failed, {told} told"),
            }
        }
    }
}

#[test]
fn damage_in_a_large_file_costs_the_series_in_its_stretch_alone() {
    let fs = SimFs::seeded(1);
    let mut random = sys::Random::seeded(3);
    let mut want = some(400, 100, 1000);
    // Values that do not pack, so that the file has several stretches.
    want.values_mut().flat_map(|rows| rows.values_mut()).for_each(|bits| *bits = random.next_u64() >> 12 | 0x3ff << 52);
    write(&open(&fs).0, &want).unwrap();
    let path = files(&fs).into_iter().find(|p| p.ends_with("samples.parquet")).unwrap();
    let len = fs.read(&path).unwrap().len();
    assert!(len > 4 * 65_536, "{len}");
    for at in (5..len).step_by(len / 23).chain([len - 1, len - 6]) {
        let (failed, told) = after_damage(&fs, &path, |bytes| bytes[at] ^= 0x40, &want);
        assert!(failed > 0 || told > 0, "byte {at}: {failed} failed, {told} told");
        // Regular times pack so well that those of a whole row group lie in its first stretch.
        assert!(at < 65_536 || failed <= 200, "byte {at}: {failed} failed, {told} told");
    }
    for cut in [1, 9, 5000, 100_000] {
        let (failed, told) = after_damage(&fs, &path, |bytes| bytes.truncate(len - cut), &want);
        assert!(failed < want.len() && told > 0, "{cut} bytes cut: {failed} failed");
    }
}

#[test]
fn a_block_without_a_readable_manifest_is_set_aside_and_told() {
    let fs = SimFs::seeded(1);
    write(&open(&fs).0, &some(2, 5, 1000)).unwrap();
    for path in files(&fs).iter().filter(|p| p.to_string_lossy().contains("manifest")) {
        fs.damage(path, |bytes| bytes[3] ^= 1).unwrap();
    }
    let (folder, damaged) = open(&fs);
    assert_eq!(damaged.len(), 1);
    assert!(damaged[0].contains("set aside as blocks/damaged/"), "{damaged:?}");
    assert_eq!(folder.totals().blocks, 0);
    assert_eq!(fs.list(&blocks_dir().join("damaged")).unwrap().len(), 1);
    write(&folder, &some(2, 5, 1000)).unwrap();
    drop(folder);
    let (folder, damaged) = open(&fs);
    assert!(damaged.is_empty() && folder.totals().blocks == 1, "told once: {damaged:?}");
}

#[test]
fn a_full_disk_leaves_no_half_block_and_the_next_try_succeeds() {
    let want = some(5, 30, 1000);
    let appends = 40;
    let mut refused = 0;
    for after in 0..appends {
        let fs = SimFs::seeded(after);
        let (folder, _) = open(&fs);
        fs.inject(Fault::Append { after, errno: ENOSPC });
        if let Err(why) = write(&folder, &want) {
            refused += 1;
            assert!(why.contains("/data/blocks/tmp-"), "{why}");
            assert_eq!(fs.list(&blocks_dir()).unwrap(), Vec::<String>::new());
            write(&folder, &want).unwrap();
        }
        assert_eq!(read(&folder, &[], TimeRange::ALL).unwrap(), (want.clone(), 0));
        folder.tidy(0).unwrap();
        let view = String::from_utf8(fs.read(Path::new("/data/metrics_ts.sql")).unwrap()).unwrap();
        assert!(view.contains("samples.parquet"), "the view is written again when it could not be");
    }
    assert!(refused > 3);
}

#[test]
fn a_crash_at_any_change_of_a_merge_loses_nothing_and_doubles_nothing() {
    let prepare = |seed| {
        let fs = SimFs::seeded(seed);
        fs.create_dir_all(Path::new("/data")).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        let (folder, _) = open(&fs);
        let mut want = Contents::new();
        for part in 0..5u64 {
            let mut rows = some(3, 4, 1000);
            rows.values_mut().for_each(|r| *r = r.iter().map(|(ts, v)| (ts + part as i64 * 10_000, *v)).collect());
            write(&folder, &rows).unwrap();
            rows.into_iter().for_each(|(labels, r)| want.entry(labels).or_default().extend(r));
        }
        (fs, folder, want)
    };
    let merge = |folder: &BlockFolder| {
        let _ = folder.tidy(0);
        let _ = folder.tidy(600_000);
    };
    let (fs, folder, _) = prepare(0);
    let before = fs.changes();
    merge(&folder);
    let total = fs.changes() - before;
    assert!(total > 20 && folder.totals().blocks == 1);
    for after in 0..total {
        let (fs, folder, want) = prepare(after);
        fs.inject(Fault::PowerCut { after });
        merge(&folder);
        drop(folder);
        fs.crash();
        let (folder, damaged) = open(&fs);
        assert!(damaged.is_empty(), "cut after {after}: {damaged:?}");
        assert_eq!(read(&folder, &[], TimeRange::ALL).unwrap(), (want.clone(), 0), "cut after {after}");
        merge(&folder);
        assert_eq!(read(&folder, &[], TimeRange::ALL).unwrap(), (want, 0), "cut after {after}");
        assert_eq!((folder.totals().blocks, fs.list(&blocks_dir()).unwrap().len()), (1, 1), "cut after {after}");
    }
}

#[test]
fn what_is_past_the_retention_goes_even_while_it_is_selected() {
    let fs = SimFs::seeded(1);
    let (folder, _) = open(&fs);
    write(&folder, &some(3, 10, 1000)).unwrap();
    let readers: Vec<Box<dyn SeriesReader>> = folder.select(&[], TimeRange::ALL).unwrap();
    assert_eq!(folder.drop_before(START_MS + 9000), Ok(0), "its last sample is kept still");
    assert_eq!(folder.drop_before(START_MS + 9001), Ok(1));
    let mut samples = Samples::default();
    readers.iter().for_each(|r| r.read(TimeRange::ALL, &mut samples).unwrap());
    assert!(samples.is_empty());
    assert_eq!(fs.list(&blocks_dir()).unwrap(), Vec::<String>::new());
    assert_eq!(read(&folder, &[], TimeRange::ALL).unwrap().0, Contents::new());
    let view = String::from_utf8(fs.read(Path::new("/data/metrics_ts.sql")).unwrap()).unwrap();
    assert!(view.contains("WHERE false"), "{view}");
}
