//! What the store promises while the disk is well.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use model::{
    Append, AppendError, Batch, BatchExemplar, CollectionReport, Family, MatchOp, Matcher, MetricType, NO_FAMILY,
    Origin, Refusal, Samples, Select, SeriesId, TimeRange, Verdict,
};
use store::{OpenError, StoreConfig};
use sys::SimFs;

#[test]
fn acknowledged_samples_are_readable_at_once_and_bit_exact() {
    let (store, _) = open(&SimFs::seeded(1), &clock(), config()).unwrap();
    let odd = [0x7ff0_0000_0000_0002, 0x7ff8_dead_beef_0001, 1 << 63, 1, u64::MAX, 0.1f64.to_bits()];
    for (n, bits) in odd.iter().enumerate() {
        let (batch, result) = append(&store, &[(7, START_MS + n as i64 * 1000, f64::from_bits(*bits))]);
        let appended = result.unwrap();
        assert!(appended.counts.balances() && appended.counts.stored == 1);
        assert_eq!((batch.verdicts, appended.new_series), (vec![Verdict::Stored], u64::from(n == 0)));
    }
    let rows: Vec<u64> = contents(&store)[&labels(7)].values().copied().collect();
    assert_eq!(rows, odd);
}

#[test]
fn duplicates_conflicts_late_early_and_old_samples_get_their_verdicts() {
    let clock = clock();
    let (store, _) = open(&SimFs::seeded(1), &clock, config()).unwrap();
    let (now, day) = (START_MS, 86_400_000);
    let samples = [
        (1, now, 1.0),
        (1, now, 1.0),
        (1, now, 2.0),
        (1, now - day, 3.0),
        (1, now - day, 3.0),
        (1, now - 16 * day, 4.0),
        (1, now + 600_000, 5.0),
        (1, now + 600_001, 6.0),
    ];
    let (batch, result) = append(&store, &samples);
    use Verdict::*;
    let want = [
        Stored,
        Duplicate,
        Refused(Refusal::DuplicateConflict),
        Stored,
        Duplicate,
        Refused(Refusal::TooOld),
        Stored,
        Refused(Refusal::TooNew),
    ];
    assert_eq!(batch.verdicts, want);
    assert!(result.unwrap().counts.balances());
    let rows: Vec<i64> = contents(&store)[&labels(1)].keys().copied().collect();
    assert_eq!(rows, [now - day, now, now + 600_000]);
    assert_eq!(store.stats().totals.received, 8);
}

#[test]
fn known_ids_are_taken_until_the_generation_changes() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let (first, result) = append(&store, &[(1, START_MS, 1.0)]);
    result.unwrap();
    let by_id = |generation, ts_ms| {
        let mut batch = Batch::new(Origin::default());
        batch.generation = generation;
        let series = batch.push_known(first.series[0].id, NO_FAMILY);
        batch.push_sample(series, ts_ms, 2.0);
        store.append(batch).1
    };
    assert_eq!(by_id(first.generation, START_MS + 1).unwrap().counts.stored, 1);
    assert_eq!(by_id(first.generation + 1, START_MS + 2), Err(AppendError::StaleIds));
    clock.advance(4 * WINDOW_MS as u64);
    append(&store, &[(2, START_MS + 4 * WINDOW_MS, 1.0)]).1.unwrap();
    let report = store.maintain().unwrap();
    assert_eq!((report.blocks_written, report.series_forgotten), (1, 1));
    assert_eq!(by_id(first.generation, START_MS + 3), Err(AppendError::StaleIds));
    assert_eq!(contents(&store)[&labels(1)].len(), 2, "what was forgotten is read from the block");
    let (again, result) = append(&store, &[(1, START_MS + 4 * WINDOW_MS, 3.0)]);
    assert_eq!(result.unwrap().new_series, 1);
    assert_ne!(again.series[0].id, first.series[0].id);
    assert_eq!(contents(&store)[&labels(1)].len(), 3);
}

#[test]
fn ids_are_not_given_again_after_all_series_are_gone() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let (first, _) = append(&store, &[(1, START_MS, 1.0), (2, START_MS, 1.0)]);
    clock.advance(4 * WINDOW_MS as u64);
    assert_eq!(store.maintain().unwrap().series_forgotten, 2);
    drop(store);
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let (next, _) = append(&store, &[(3, START_MS + 4 * WINDOW_MS, 1.0)]);
    assert!(next.series[0].id > first.series[1].id);
    assert!(store.generation() > first.generation);
}

#[test]
fn limits_refuse_the_series_alone() {
    let limited = StoreConfig { series_max: 2, ..config() };
    let (store, _) = open(&SimFs::seeded(1), &clock(), limited).unwrap();
    append(&store, &[(1, START_MS - 1, 1.0), (2, START_MS - 1, 1.0)]).1.unwrap();
    let (batch, _) = append(&store, &[(1, START_MS, 1.0), (2, START_MS, 1.0), (3, START_MS, 1.0)]);
    assert_eq!(batch.verdicts, [Verdict::Stored, Verdict::Stored, Verdict::Refused(Refusal::SeriesLimit)]);
    let mut batch = Batch::new(Origin::default());
    for set in [vec![("a", "x".repeat(5000))], vec![], (0..3).map(|_| ("n", "y".repeat(4097))).collect()] {
        let series = batch.push_labels(&model::Labels::from_pairs(set), NO_FAMILY);
        batch.push_sample(series, START_MS, 1.0);
    }
    let (batch, result) = store.append(batch);
    use Refusal::*;
    assert_eq!(batch.verdicts, [LabelLimit, InvalidName, LabelLimit].map(Verdict::Refused));
    assert!(result.unwrap().counts.balances());
    let small = StoreConfig { batch_bytes_max: 100, ..config() };
    let (store, _) = open(&SimFs::seeded(1), &clock(), small).unwrap();
    assert!(matches!(append(&store, &[(1, START_MS, 1.0); 50]).1, Err(AppendError::TooLarge { limit: 100, .. })));
}

#[test]
fn a_restart_brings_back_samples_reports_metadata_exemplars_and_totals() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let mut with_all = batch(&[(1, START_MS, 1.0), (1, START_MS, 1.0)]);
    let family = Family { name: "m".into(), metric_type: MetricType::Counter, help: "h".into(), unit: String::new() };
    with_all.families.push(family.clone());
    with_all.report = Some(CollectionReport { batch_id: "b1".into(), ..CollectionReport::default() });
    let exemplar_labels = model::Labels::from_pairs([("trace_id", "x")]);
    with_all.exemplars.push(BatchExemplar {
        series: model::SeriesIndex(0),
        labels: exemplar_labels,
        ts_ms: START_MS,
        value: 0.5,
    });
    let (done, result) = store.append(with_all);
    let ledger = result.unwrap().ledger;
    let (before, stats) = (contents(&store), store.stats());
    assert_eq!(done.report.as_ref().unwrap().counts.duplicates, 1);
    let exemplars = store.exemplars(&[], TimeRange::ALL);
    assert_eq!(exemplars.len(), 1);
    drop(store);

    let (store, recovery) = open(&fs, &clock, config()).unwrap();
    assert!(recovery.damaged.is_empty(), "{:?}", recovery.damaged);
    assert_eq!((recovery.records, recovery.samples), (1, 2));
    assert_eq!(recovery.reports, [(ledger.seq, done.report.unwrap())]);
    assert_eq!(contents(&store), before);
    assert_eq!(store.metadata(Some("m")), [family]);
    assert_eq!(store.exemplars(&[], TimeRange::ALL), exemplars);
    assert_eq!(store.stats().totals, stats.totals);
    let next = append(&store, &[(1, START_MS + 1, 1.0)]).1.unwrap();
    assert!(next.ledger > ledger && next.ledger.seq > ledger.seq && next.new_series == 0);
}

#[test]
fn closed_windows_become_blocks_the_log_is_cut_and_nothing_changes_for_the_reader() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    for step in 0..300 {
        let rows: Vec<(u64, i64, f64)> = (0..5).map(|n| (n, START_MS + step * 30_000, step as f64)).collect();
        append(&store, &rows).1.unwrap();
        clock.advance(30_000);
    }
    let (before, stats) = (contents(&store), store.stats());
    let report = store.maintain().unwrap();
    assert_eq!(report.blocks_written, 2);
    assert!(report.segments_cut > 0);
    assert_eq!(contents(&store), before);
    assert!(store.stats().wal_bytes < stats.wal_bytes && store.stats().head_samples < stats.head_samples);
    assert_eq!(store.maintain().unwrap(), store::MaintenanceReport::default(), "nothing is due any more");
    let in_head = store.stats().head_samples;
    drop(store);
    let (store, recovery) = open(&fs, &clock, config()).unwrap();
    assert!(recovery.damaged.is_empty(), "{:?}", recovery.damaged);
    assert_eq!(contents(&store), before);
    assert_eq!(store.stats().totals, stats.totals, "totals survive the cut and count nothing twice");
    assert_eq!(store.stats().head_samples, in_head, "what a block holds does not come back into the head");
    // A late sample of a closed window, one that a block has already with another value, and one with the same.
    let late = [(0, START_MS + 15_000, 9.0), (0, START_MS, 77.0), (1, START_MS, 0.0)];
    append(&store, &late).1.unwrap();
    let mut want = before.clone();
    want.get_mut(&labels(0)).unwrap().insert(START_MS + 15_000, 9.0f64.to_bits());
    assert_eq!(contents(&store), want, "against blocks the first written wins");
    store.flush_to_blocks().unwrap();
    assert_eq!(store.stats().head_samples, 0);
    assert_eq!(contents(&store), want);
    drop(store);
    assert_eq!(contents(&open(&fs, &clock, config()).unwrap().0), want);
}

#[test]
fn what_is_past_the_retention_is_masked_and_then_removed() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let short = StoreConfig { retention_ms: 2 * WINDOW_MS, ..config() };
    let (store, _) = open(&fs, &clock, short).unwrap();
    clock.advance(WINDOW_MS as u64 / 2);
    append(&store, &[(1, START_MS, 1.0), (1, START_MS + WINDOW_MS / 2, 2.0)]).1.unwrap();
    clock.set(START_MS + 2 * WINDOW_MS + 1);
    assert_eq!(contents(&store)[&labels(1)].len(), 1);
    store.maintain().unwrap();
    assert_eq!(contents(&store)[&labels(1)].len(), 1);
    clock.advance(WINDOW_MS as u64);
    assert!(contents(&store).is_empty());
    assert_eq!(store.maintain().unwrap().blocks_dropped, 1);
    assert_eq!(store.stats().blocks.blocks, 0);
}

#[test]
fn selection_and_label_lookups_join_head_and_blocks() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    append(&store, &[(1, START_MS, 1.0), (2, START_MS, 1.0)]).1.unwrap();
    clock.advance(2 * WINDOW_MS as u64);
    store.maintain().unwrap();
    append(&store, &[(2, START_MS + 2 * WINDOW_MS, 2.0), (3, START_MS + 2 * WINDOW_MS, 2.0)]).1.unwrap();
    assert_eq!(store.label_names(&[], TimeRange::ALL).unwrap(), ["__name__", "n"]);
    assert_eq!(store.label_values("n", &[], TimeRange::ALL).unwrap(), ["1", "2", "3"]);
    let not_two = Matcher::new("n", MatchOp::NotRegex, "2|4").unwrap();
    assert_eq!(store.label_values("n", std::slice::from_ref(&not_two), TimeRange::ALL).unwrap(), ["1", "3"]);
    let past = TimeRange { start_ms: START_MS, end_ms: START_MS + 10 };
    assert_eq!(store.label_values("n", &[], past).unwrap(), ["1", "2"]);
    let readers = store.select(&[Matcher::equal("n", "2")], TimeRange::ALL).unwrap();
    let mut samples = Samples::default();
    readers[0].read(TimeRange::ALL, &mut samples).unwrap();
    assert_eq!((readers.len(), samples.values), (1, vec![1.0, 2.0]));
    assert!(store.select(&[Matcher::equal("n", "9")], TimeRange::ALL).unwrap().is_empty());
}

#[test]
fn two_servers_on_one_directory_are_told_so() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let error = open(&fs, &clock, config()).err().unwrap();
    assert!(matches!(&error, OpenError::Locked { dir } if dir == "/data"), "{error}");
    store.close();
    store.close();
    assert_eq!(append(&store, &[(1, START_MS, 1.0)]).1, Err(AppendError::Closed));
    assert!(open(&fs, &clock, config()).is_ok());
}

#[test]
fn many_submitters_share_syncs_and_lose_nothing() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let stored = Arc::new(AtomicU64::new(0));
    const THREADS: u64 = 4;
    const BATCHES: u64 = 200;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, stored) = (store.clone(), stored.clone());
            scope.spawn(move || {
                for n in 0..BATCHES {
                    let stored = stored.clone();
                    // Half of the series are everybody's, so that threads race to define them.
                    let rows = [
                        (n % 7, START_MS + (n * THREADS + thread) as i64, 1.0),
                        (100 + thread, START_MS + n as i64, n as f64),
                    ];
                    store.submit(
                        batch(&rows),
                        Box::new(move |_, result| {
                            stored.fetch_add(result.unwrap().counts.stored, Ordering::SeqCst);
                        }),
                    );
                }
            });
        }
    });
    store.close();
    assert_eq!(stored.load(Ordering::SeqCst), THREADS * BATCHES * 2);
    assert!(store.stats().fsyncs < THREADS * BATCHES, "{} syncs", store.stats().fsyncs);
    let before = contents(&store);
    assert_eq!(before.values().map(|r| r.len() as u64).sum::<u64>(), THREADS * BATCHES * 2);
    let (store, _) = open(&fs, &clock, config()).unwrap();
    assert_eq!(contents(&store), before);
    assert_eq!(store.stats().series, 7 + THREADS);
}

#[test]
fn ids_that_nobody_gave_are_refused() {
    let (store, _) = open(&SimFs::seeded(1), &clock(), config()).unwrap();
    let mut batch = Batch::new(Origin::default());
    batch.generation = store.generation();
    for id in [SeriesId(99), SeriesId(u64::from(u32::MAX))] {
        let series = batch.push_known(id, NO_FAMILY);
        batch.push_sample(series, START_MS, 1.0);
    }
    let (batch, result) = store.append(batch);
    assert_eq!(batch.verdicts, [Verdict::Refused(Refusal::InvalidName); 2]);
    assert!(result.unwrap().counts.balances());
}

#[test]
fn the_stores_own_thread_turns_windows_into_blocks_and_ends_with_the_store() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let own = StoreConfig { maintain_every_ms: 1, ..config() };
    let (store, _) = open(&fs, &clock, own.clone()).unwrap();
    append(&store, &[(1, START_MS, 1.0)]).1.unwrap();
    clock.advance(2 * WINDOW_MS as u64);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while store.stats().blocks.blocks == 0 {
        assert!(std::time::Instant::now() < deadline, "the thread does nothing");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    store.close();
    let changes = fs.changes();
    clock.advance(40 * 86_400_000);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(fs.changes(), changes, "a closed store does nothing more");
    drop(store);
    assert!(open(&fs, &clock, own).is_ok(), "the directory is free");
}
