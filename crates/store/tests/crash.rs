//! What the store promises when the disk, the power or the process fails. The numbers are those of the table "Nothing
//! lost" of the promises; `bin/quiver/tests/e2e/promises` has the rows that need the whole server.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::book::{Book, rows, seeds};
use common::*;
use model::{Append, AppendError};
use store::{Store, StoreConfig};
use sys::{Fault, Fs, Random, SimFs};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// How a store is opened: with its own blocks or with the stand-in.
type Open = fn(&SimFs, &Arc<sys::SimClock>, StoreConfig) -> Result<(Arc<Store>, store::Recovery), store::OpenError>;

/// Works until the power goes or the work is done; gives whether the power went.
fn work(open: Open, fs: &SimFs, clock: &Arc<sys::SimClock>, random: &mut Random, book: &mut Book, steps: u64) -> bool {
    let Ok((store, recovery)) = open(fs, clock, config()) else { return true };
    for sentence in &recovery.damaged {
        assert!(sentence.contains("torn") || sentence.contains("twin"), "{sentence}");
    }
    book.start_again(&contents(&store), "after a start");
    for _ in 0..steps {
        clock.advance(random.below(600_000));
        let now_ms = sys::Clock::now_ms(&**clock);
        book.append(&store, &rows(random, now_ms));
        if random.below(6) == 0 {
            let _ = store.maintain();
        }
        if random.below(25) == 0 {
            let _ = store.flush_to_blocks();
        }
        if fs.power_is_gone() {
            return true;
        }
        if random.below(10) == 0 {
            book.check(&contents(&store), "while running");
        }
    }
    false
}

fn power_cuts_at_random(open: Open, seed: u64) {
    let (fs, clock, mut random) = (SimFs::seeded(seed), clock(), Random::seeded(seed));
    let mut book = Book::default();
    for life in 0..5 {
        fs.inject(Fault::PowerCut { after: random.below(if life == 0 { 600 } else { 250 }) });
        work(open, &fs, &clock, &mut random, &mut book, 40);
        fs.crash();
    }
    let (store, _) = open(&fs, &clock, config()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    book.start_again(&contents(&store), &format!("seed {seed}"));
    assert!(store.stats().totals.balances());
    let totals = store.stats().blocks;
    assert_eq!(totals.damaged, 0, "seed {seed}: a crash damages no block");
    // Everything once: what is in blocks and what is in the head add up to what is read.
    store.flush_to_blocks().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let read: usize = contents(&store).values().map(|rows| rows.len()).sum();
    assert_eq!(store.stats().blocks.samples, read as u64, "seed {seed}: no sample is in two blocks");
}

#[test]
fn row_02_a_power_cut_at_any_change_loses_nothing_that_was_acknowledged() {
    seeds(100).for_each(|seed| power_cuts_at_random(open, seed));
}

#[test]
fn row_02_a_power_cut_at_each_change_of_one_workload() {
    for (open, seed) in [(open as Open, 5), (open_plain as Open, 5)] {
        let total = {
            let (fs, clock) = (SimFs::seeded(seed), clock());
            work(open, &fs, &clock, &mut Random::seeded(seed), &mut Book::default(), 25);
            fs.changes()
        };
        for after in 0..total {
            let (fs, clock, mut book) = (SimFs::seeded(after), clock(), Book::default());
            fs.inject(Fault::PowerCut { after });
            work(open, &fs, &clock, &mut Random::seeded(seed), &mut book, 25);
            fs.crash();
            let (store, _) = open(&fs, &clock, config()).unwrap_or_else(|e| panic!("cut after {after}: {e}"));
            book.start_again(&contents(&store), &format!("cut after {after}"));
            assert_eq!(store.stats().blocks.damaged, 0, "cut after {after}");
        }
    }
}

#[test]
fn replay_gives_the_same_head_and_the_same_totals() {
    for seed in 0..20 {
        let (fs, clock, mut random) = (SimFs::seeded(seed), clock(), Random::seeded(seed));
        let (store, _) = open(&fs, &clock, config()).unwrap();
        for _ in 0..60 {
            clock.advance(random.below(300_000));
            append(&store, &rows(&mut random, sys::Clock::now_ms(&*clock))).1.unwrap();
            if random.below(10) == 0 {
                store.maintain().unwrap();
            }
        }
        let (before, totals) = (contents(&store), store.stats().totals);
        fs.kill();
        drop(store);
        let (store, recovery) = open(&fs, &clock, config()).unwrap();
        assert!(recovery.damaged.is_empty(), "{:?}", recovery.damaged);
        assert_eq!(contents(&store), before, "seed {seed}");
        assert_eq!(store.stats().totals, totals, "seed {seed}");
    }
}

#[test]
fn row_06_after_a_failed_sync_nothing_is_acknowledged_any_more_and_a_restart_heals() {
    let (fs, clock, mut book) = (SimFs::seeded(3), clock(), Book::default());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    assert!(book.append(&store, &[(1, START_MS, 1.0)]));
    fs.inject(Fault::Sync { after: 0 });
    let (_, result) = append(&store, &[(1, START_MS + 1, 2.0)]);
    assert!(matches!(result, Err(AppendError::Failed(_))), "{result:?}");
    assert!(matches!(append(&store, &[(1, START_MS + 2, 2.0)]).1, Err(AppendError::Failed(_))));
    assert_eq!(contents(&store).values().map(|r| r.len()).sum::<usize>(), 1, "reading goes on");
    drop(store);
    fs.crash();
    let (store, _) = open(&fs, &clock, config()).unwrap();
    book.doubt(&[(1, START_MS + 1, 2.0)]);
    book.start_again(&contents(&store), "after the restart");
    assert!(book.append(&store, &[(1, START_MS + 5, 2.0)]));
}

#[test]
fn row_05_a_sync_that_finds_no_room_gives_its_file_up_and_goes_on_in_another() {
    let (fs, clock, mut book) = (SimFs::seeded(3), clock(), Book::default());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    assert!(book.append(&store, &[(1, START_MS, 1.0)]));
    let before = fs.files();
    fs.inject(Fault::SyncNoSpace { after: 0 });
    let (_, result) = append(&store, &[(1, START_MS + 1, 2.0)]);
    assert!(matches!(result, Err(AppendError::NoSpace(_))), "{result:?}");
    assert!(book.append(&store, &[(1, START_MS + 2, 3.0)]), "accepts again");
    assert_ne!(fs.files(), before, "in a file of its own");
    drop(store);
    // The process ends first, and the power goes later: what the system only believed to be written is gone then.
    fs.kill();
    let (store, _) = open(&fs, &clock, config()).unwrap();
    book.start_again(&contents(&store), "after a kill");
    drop(store);
    fs.crash();
    let (store, _) = open(&fs, &clock, config()).unwrap();
    book.start_again(&contents(&store), "after a power cut");
}

#[test]
fn row_01_what_a_killed_process_had_not_synced_is_synced_before_it_counts_as_there() {
    for seed in 0..20 {
        let (fs, clock, mut book) = (SimFs::seeded(seed), clock(), Book::default());
        let (store, _) = open(&fs, &clock, config()).unwrap();
        assert!(book.append(&store, &[(1, START_MS, 1.0)]));
        // The process ends between the write and the sync of this batch.
        fs.inject(Fault::PowerCut { after: 1 });
        assert!(!book.append(&store, &[(2, START_MS, 2.0)]));
        drop(store);
        fs.kill();
        let (store, _) = open(&fs, &clock, config()).unwrap();
        book.start_again(&contents(&store), "after a kill");
        assert!(book.append(&store, &[(2, START_MS, 2.0)]), "the sender tries again and is told that it is there");
        drop(store);
        fs.crash();
        let (store, _) = open(&fs, &clock, config()).unwrap();
        assert_eq!(contents(&store)[&labels(2)].len(), 1, "seed {seed}");
        book.start_again(&contents(&store), &format!("seed {seed}"));
    }
}

#[test]
fn a_write_error_other_than_a_full_disk_is_final() {
    let (fs, clock) = (SimFs::seeded(3), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    append(&store, &[(1, START_MS, 1.0)]).1.unwrap();
    fs.inject(Fault::Append { after: 0, errno: EIO });
    assert!(matches!(append(&store, &[(1, START_MS + 1, 1.0)]).1, Err(AppendError::Failed(_))));
    assert!(matches!(append(&store, &[(1, START_MS + 2, 1.0)]).1, Err(AppendError::Failed(_))));
}

#[test]
fn row_05_a_full_disk_is_told_and_taken_back_when_there_is_space() {
    for seed in 0..20 {
        let (fs, clock, mut book) = (SimFs::seeded(seed), clock(), Book::default());
        let (store, _) = open(&fs, &clock, config()).unwrap();
        let mut ts = START_MS;
        let mut next = |book: &mut Book| {
            ts += 1;
            book.append(&store, &[(ts as u64 % 5, ts, 1.0)])
        };
        for round in 0..3 {
            (0..10).for_each(|_| assert!(next(&mut book)));
            fs.set_capacity_bytes(Some(fs.used_bytes() + seed * 7));
            while next(&mut book) {}
            let (_, result) = append(&store, &[(1, START_MS + 500_000 + round, 1.0)]);
            assert!(matches!(result, Err(AppendError::NoSpace(_))), "{result:?}");
            fs.set_capacity_bytes(None);
            assert!(next(&mut book), "accepts as soon as there is space");
        }
        fs.inject(Fault::Append { after: 0, errno: ENOSPC });
        assert!(!next(&mut book) && next(&mut book));
        book.check(&contents(&store), "before the crash");
        fs.kill();
        drop(store);
        let (store, recovery) = open(&fs, &clock, config()).unwrap();
        assert!(recovery.damaged.is_empty(), "what did not fit leaves nothing behind: {:?}", recovery.damaged);
        drop(store);
        fs.crash();
        for round in 0..3 {
            book.doubt(&[(1, START_MS + 500_000 + round, 1.0)]);
        }
        let (store, _) = open(&fs, &clock, config()).unwrap();
        book.start_again(&contents(&store), "after the crash");
    }
}

#[test]
fn a_batch_that_did_not_fit_defines_its_series_when_it_comes_again() {
    let (fs, clock, mut book) = (SimFs::seeded(2), clock(), Book::default());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    assert!(book.append(&store, &[(1, START_MS, 1.0)]));
    fs.set_capacity_bytes(Some(fs.used_bytes()));
    let (batch, result) = append(&store, &[(2, START_MS, 1.0)]);
    assert!(matches!(result, Err(AppendError::NoSpace(_))));
    fs.set_capacity_bytes(None);
    let (batch, result) = store.append(batch);
    assert_eq!(result.unwrap().counts.stored, 1, "{:?}", batch.verdicts);
    drop(store);
    let (store, _) = open(&fs, &clock, config()).unwrap();
    assert_eq!(contents(&store).values().map(|samples| samples.len()).sum::<usize>(), 2);
}

#[test]
fn a_log_that_cannot_open_a_file_goes_on_when_it_can_again() {
    const EMFILE: i32 = 24;
    let (fs, clock, mut book) = (SimFs::seeded(4), clock(), Book::default());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    fs.inject(Fault::Create { after: 0, errno: EMFILE });
    let (_, result) = append(&store, &[(1, START_MS, 1.0)]);
    assert!(matches!(result, Err(AppendError::Busy { .. })), "{result:?}");
    assert!(book.append(&store, &[(1, START_MS + 1, 2.0)]), "nothing was promised on a file that is not there");
}

#[test]
fn a_series_whose_first_record_did_not_fit_is_defined_by_its_next() {
    let (fs, clock, mut book) = (SimFs::seeded(2), clock(), Book::default());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    assert!(book.append(&store, &[(1, START_MS, 1.0)]));
    fs.set_capacity_bytes(Some(fs.used_bytes()));
    let (_, result) = append(&store, &[(2, START_MS, 1.0)]);
    assert!(matches!(result, Err(AppendError::NoSpace(_))));
    fs.set_capacity_bytes(None);
    assert!(book.append(&store, &[(2, START_MS + 1, 2.0)]));
    book.check(&contents(&store), "before the restart");
    fs.kill();
    drop(store);
    let (store, recovery) = open(&fs, &clock, config()).unwrap();
    assert!(recovery.damaged.is_empty(), "{:?}", recovery.damaged);
    book.start_again(&contents(&store), "after the restart");
}

#[test]
fn row_03_a_torn_tail_is_cut_off_and_told() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let big = StoreConfig { segment_bytes_max: 1 << 20, checkpoint_bytes: 1 << 20, ..config() };
    let (store, _) = open(&fs, &clock, big.clone()).unwrap();
    (0..3).for_each(|n| assert!(append(&store, &[(n, START_MS, 1.0)]).1.is_ok()));
    drop(store);
    let segment = Path::new("/data/wal/00000001.wal");
    let len = fs.read(segment).unwrap().len();
    for cut in 1..40 {
        let copy = fs.fork(cut);
        copy.damage(segment, |bytes| bytes.truncate(len - cut as usize)).unwrap();
        let (store, recovery) = open(&copy, &clock, big.clone()).unwrap();
        assert_eq!(contents(&store).len(), 2);
        assert_eq!(recovery.damaged.len(), 1, "{:?}", recovery.damaged);
        assert!(recovery.damaged[0].contains("00000001.wal") && recovery.damaged[0].contains("torn tail"));
        append(&store, &[(9, START_MS, 1.0)]).1.unwrap();
        drop(store);
        let (store, recovery) = open(&copy, &clock, big.clone()).unwrap();
        assert!(recovery.damaged.is_empty(), "told once: {:?}", recovery.damaged);
        assert_eq!(contents(&store).len(), 3);
    }
}

#[test]
fn row_04_any_flipped_byte_of_any_file_costs_at_most_one_record_and_never_a_wrong_value() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let big = StoreConfig { segment_bytes_max: 1 << 20, checkpoint_bytes: 1 << 20, ..config() };
    let mut book = Book::default();
    let (store, _) = open(&fs, &clock, big.clone()).unwrap();
    for n in 0..4 {
        let value = if n == 2 { stand_in(0) } else { n as f64 };
        assert!(book.append(&store, &[(n % 3, START_MS + n as i64, value), (7, START_MS + n as i64, 0.5)]));
    }
    drop(store);
    for name in ["wal/00000001.wal", "series.1.log", "series.2.log", "ledger.1", "ledger.2"] {
        let path = Path::new("/data").join(name);
        for at in 0..fs.read(&path).unwrap().len() {
            let copy = fs.fork(at as u64);
            copy.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8)).unwrap();
            let (store, _) = open(&copy, &clock, big.clone()).unwrap_or_else(|e| panic!("{name} byte {at}: {e}"));
            let found = contents(&store);
            for (labels, rows) in &found {
                for (ts, bits) in rows {
                    assert_eq!(book.acknowledged.get(&(labels.clone(), *ts)), Some(bits), "{name} byte {at}");
                }
            }
            let lost = book.acknowledged.len() - found.values().map(|r| r.len()).sum::<usize>();
            let allowed = if name.starts_with("wal") { 2 } else { 0 };
            assert!(lost <= allowed, "{name} byte {at}: {lost} samples lost");
        }
    }
}

#[test]
fn the_log_stays_until_its_reports_are_durable_elsewhere() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    let elsewhere = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = elsewhere.clone();
    store.before_cut(move || match seen.load(std::sync::atomic::Ordering::SeqCst) {
        true => Ok(()),
        false => Err("not yet".to_owned()),
    });
    let report = model::CollectionReport { event_id: [7; 16], ..Default::default() };
    let mut late = batch(&[(1, START_MS - 5 * WINDOW_MS, 1.0)]);
    late.report = Some(report);
    model::Append::append(&*store, late).1.unwrap();
    // The part of the log that may still grow is never cut: the second round finds one that may go.
    let again = || {
        let first = store.flush_to_blocks().err();
        append(&store, &[(1, START_MS, 1.0)]).1.unwrap();
        first.or(store.flush_to_blocks().err())
    };
    let refused = again().unwrap();
    assert!(refused.to_string().contains("not yet"), "{refused}");
    // A crash now finds the report in the log.
    let copy = fs.fork(1);
    let (_, recovery) = open(&copy, &clock, config()).unwrap();
    assert_eq!(recovery.reports.iter().map(|r| r.1.event_id).collect::<Vec<_>>(), [[7; 16]]);
    elsewhere.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(again().is_none());
    fs.kill();
    drop(store);
    let (_, recovery) = open(&fs, &clock, config()).unwrap();
    assert!(recovery.reports.is_empty(), "{:?}", recovery.reports);
}

#[test]
fn a_directory_whose_name_an_earlier_start_did_not_come_to_sync_is_synced_by_the_next() {
    for seed in 0..20 {
        let (fs, clock, mut book) = (SimFs::seeded(seed), clock(), Book::default());
        // Made, and then the process ends.
        fs.create_dir_all(Path::new("/data/wal")).unwrap();
        fs.kill();
        let (store, _) = open(&fs, &clock, config()).unwrap();
        assert!(book.append(&store, &[(1, START_MS, 1.0)]));
        drop(store);
        fs.crash();
        let (store, _) = open(&fs, &clock, config()).unwrap();
        book.start_again(&contents(&store), &format!("seed {seed}"));
    }
}

#[test]
fn a_disk_that_does_not_answer_at_a_start_costs_no_block() {
    let (fs, clock, mut book) = (SimFs::seeded(1), clock(), Book::default());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    assert!(book.append(&store, &[(1, START_MS, 1.0)]));
    store.flush_to_blocks().unwrap();
    drop(store);
    let mut failed = 0;
    for after in 0..12 {
        fs.kill();
        fs.set_weather(sys::Weather { read_eio: 1, ..Default::default() });
        if after > 0 {
            // All reads fail, or one does.
            fs.set_weather(sys::Weather::default());
            fs.inject(Fault::Read { after: after - 1 });
        }
        failed += u64::from(open(&fs, &clock, config()).is_err());
        fs.kill();
        let (store, recovery) = open(&fs, &clock, config()).unwrap();
        assert!(recovery.damaged.is_empty(), "{:?}", recovery.damaged);
        book.start_again(&contents(&store), "when it answers again");
    }
    assert!(failed > 1, "{failed}");
}
