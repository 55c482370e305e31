//! Chunk files beside the head: nobody outside notices them, whatever happens between.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod common;

use std::sync::Arc;

use common::*;
use model::{Batch, Labels};
use store::{Store, StoreConfig};
use sys::{Clock, Fault, Fs, Random, SimClock, SimFs};

/// Two stores that are told the same: one with chunk files and restarts, one that only ever holds everything in memory.
struct Twins {
    clock: Arc<SimClock>,
    fs: SimFs,
    config: StoreConfig,
    subject: Option<Arc<Store>>,
    plain: Arc<Store>,
}

impl Twins {
    fn new(seed: u64) -> Twins {
        let (clock, fs, plain_fs) = (clock(), SimFs::seeded(seed), SimFs::seeded(seed));
        // Late samples go to blocks in each round, whether or not a start has forgotten when they last did.
        let never = StoreConfig { checkpoint_bytes: u64::MAX, late_flush_ms: 0, ..config() };
        let config = StoreConfig { checkpoint_bytes: 1, late_flush_ms: 0, ..config() };
        let (subject, _) = open_plain(&fs, &clock, config.clone()).unwrap();
        let (plain, _) = open_plain(&plain_fs, &clock, never).unwrap();
        Twins { clock, fs, config, subject: Some(subject), plain }
    }

    fn subject(&self) -> &Store {
        self.subject.as_ref().unwrap()
    }

    fn append(&self, rows: &[(u64, i64, f64)], what: &str) {
        let ((batch, result), (plain_batch, plain_result)) = (append(self.subject(), rows), append(&self.plain, rows));
        let decided = |b: &Batch| verdicts(b, rows);
        assert_eq!(decided(&batch), decided(&plain_batch), "{what}: {rows:?}");
        assert_eq!(result.unwrap().counts, plain_result.unwrap().counts, "{what}");
    }

    fn both(&self, act: impl Fn(&Store)) {
        act(self.subject());
        act(&self.plain);
    }

    fn restart(&mut self, what: &str) {
        self.fs.kill();
        self.subject = None;
        let (store, recovery) = open_plain(&self.fs, &self.clock, self.config.clone()).unwrap();
        assert!(recovery.damaged.is_empty(), "{what}: {:?}", recovery.damaged);
        self.subject = Some(store);
    }

    fn compare(&self, what: &str) {
        assert_eq!(contents(self.subject()), contents(&self.plain), "{what}");
        let (subject, plain) = (self.subject().stats(), self.plain.stats());
        assert_eq!(subject.totals, plain.totals, "{what}");
        assert_eq!(subject.head_samples, plain.head_samples, "{what}");
        assert_eq!(subject.head_histograms, plain.head_histograms, "{what}");
        assert_eq!((subject.head_min_ms, subject.head_max_ms), (plain.head_min_ms, plain.head_max_ms), "{what}");
    }
}

/// Few series and few times, so that most things come twice.
fn rows(random: &mut Random, now_ms: i64) -> Vec<(u64, i64, f64)> {
    (0..1 + random.below(40))
        .map(|_| {
            let back = match random.below(5) {
                0 => random.below(2 * WINDOW_MS as u64) as i64 / 60_000 * 60_000,
                _ => random.below(20) as i64 * 1000,
            };
            let value = match random.below(6) {
                0 => stand_in(random.below(2) as usize),
                n => [1.0, 2.0][n as usize % 2],
            };
            (random.below(5), now_ms - back, value)
        })
        .collect()
}

#[test]
fn a_head_with_chunk_files_answers_and_decides_like_one_without() {
    for seed in 0..12 {
        let (mut twins, mut random) = (Twins::new(seed), Random::seeded(seed));
        for step in 0..120 {
            let what = format!("seed {seed} step {step}");
            twins.clock.advance(random.below(120_000) / 1000 * 1000);
            twins.append(&rows(&mut random, twins.clock.now_ms()), &what);
            match random.below(12) {
                0 | 1 => {
                    twins.subject().checkpoint().unwrap();
                }
                2 => twins.restart(&what),
                3 if random.below(3) == 0 => twins.both(|store| store.maintain().map(|_| ()).unwrap()),
                4 if random.below(6) == 0 => twins.both(|store| store.flush_to_blocks().map(|_| ()).unwrap()),
                5 => twins.compare(&what),
                _ => {}
            }
        }
        twins.restart("the end");
        twins.compare(&format!("seed {seed}, the end"));
    }
}

#[test]
fn a_checkpoint_leaves_next_to_no_log_and_a_start_finds_all_without_it() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    for step in 0..300 {
        let rows: Vec<(u64, i64, f64)> = (0..5).map(|n| (n, START_MS + step * 1000, step as f64)).collect();
        append(&store, &rows).1.unwrap();
    }
    let before = store.stats();
    assert!(store.checkpoint().unwrap() > 0);
    append(&store, &[(0, START_MS + 300_000, 1.0)]).1.unwrap();
    store.checkpoint().unwrap();
    let wal = fs.list(std::path::Path::new("/data/wal")).unwrap();
    assert!(wal.len() <= 1, "{wal:?}");
    let found = contents(&store);
    assert_eq!(store.stats().head_samples, before.head_samples + 1);
    assert!(store.stats().head_chunks >= before.head_chunks);
    assert!(store.stats().chunk_file_bytes > 0 && store.memory().sealed_chunks == 0, "{}", store.memory());
    fs.kill();
    drop(store);
    let (store, recovery) = open(&fs, &clock, config()).unwrap();
    assert!(recovery.damaged.is_empty() && recovery.records <= 1, "{recovery:?}");
    assert_eq!(contents(&store), found);
    assert_eq!(store.checkpoint().unwrap(), 0, "nothing has come since");
    store.flush_to_blocks().unwrap();
    assert_eq!(contents(&store), found);
    assert_eq!((store.stats().chunk_file_bytes, store.stats().chunks_damaged), (0, 0));
    let left = fs.list(std::path::Path::new("/data/chunks")).unwrap();
    assert!(left.iter().all(|n| n.starts_with("manifest")), "what is in blocks needs no chunk file: {left:?}");
}

#[test]
fn writers_go_on_while_a_checkpoint_runs() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    const SERIES: u64 = 3000;
    const ROUNDS: i64 = 40;
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let mine = (0..SERIES).filter(|n| n % 2 == thread);
                    let rows: Vec<_> = mine.map(|n| (n, START_MS + round * 1000, round as f64)).collect();
                    assert_eq!(append(store, &rows).1.unwrap().counts.stored, SERIES / 2);
                }
            });
        }
        for _ in 0..10 {
            store.checkpoint().unwrap();
        }
    });
    let before = contents(&store);
    assert_eq!(before.values().map(|rows| rows.len() as i64).sum::<i64>(), SERIES as i64 * ROUNDS);
    let totals = store.stats().totals;
    fs.kill();
    drop(store);
    let (store, recovery) = open(&fs, &clock, config()).unwrap();
    assert!(recovery.damaged.is_empty(), "{:?}", recovery.damaged);
    assert_eq!(store.stats().totals, totals, "every record is counted once");
    assert_eq!(contents(&store), before);
    assert_eq!(store.stats().head_samples, SERIES * ROUNDS as u64);
}

#[test]
fn a_checkpoint_that_fails_changes_nothing_and_the_next_one_goes_well() {
    const ENOSPC: i32 = 28;
    let mut failures = 0;
    for fault in 0..24 {
        let (fs, clock) = (SimFs::seeded(fault), clock());
        let (store, _) = open(&fs, &clock, config()).unwrap();
        let mut step = 0;
        let mut send = |store: &Store| {
            for _ in 0..130 {
                step += 1;
                append(store, &[(1, START_MS + step, 1.0), (2, START_MS - step, 2.0)]).1.unwrap();
            }
        };
        send(&store);
        store.checkpoint().unwrap();
        send(&store);
        match fault % 2 {
            0 => fs.inject(Fault::Append { after: fault / 2, errno: ENOSPC }),
            _ => fs.inject(Fault::Sync { after: fault / 2 }),
        }
        let before = contents(&store);
        // A series log that fails is written anew, which is no failure.
        failures += u32::from(store.checkpoint().is_err());
        assert_eq!(contents(&store), before, "fault {fault}");
        let copy = fs.fork(fault);
        let (started, recovery) = open(&copy, &clock, config()).unwrap();
        assert!(recovery.damaged.is_empty(), "fault {fault}: {:?}", recovery.damaged);
        assert_eq!(contents(&started), before, "fault {fault}: a start then");
        assert_eq!(started.stats().totals, store.stats().totals, "fault {fault}");
        fs.kill();
        drop(store);
        let (store, _) = open(&fs, &clock, config()).unwrap();
        send(&store);
        let before = contents(&store);
        store.checkpoint().unwrap();
        fs.crash();
        drop(store);
        let (store, recovery) = open(&fs, &clock, config()).unwrap();
        assert!(recovery.damaged.is_empty(), "fault {fault}: {:?}", recovery.damaged);
        assert_eq!(contents(&store), before, "fault {fault}: the power went after the next one");
        assert_eq!(store.stats().head_samples, before.values().map(|r| r.len() as u64).sum::<u64>());
    }
    assert!(failures >= 12, "only {failures} of the faults were met");
}

#[test]
fn a_damaged_chunk_is_an_error_that_names_the_file_and_harms_no_other_series() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    for step in 0..5 {
        append(&store, &[(1, START_MS + step, 1.5), (2, START_MS + step, 2.5)]).1.unwrap();
    }
    store.checkpoint().unwrap();
    drop(store);
    let dir = std::path::Path::new("/data/chunks");
    let name = fs.list(dir).unwrap().into_iter().find(|n| n.ends_with(".chunks")).unwrap();
    let len = fs.read(&dir.join(&name)).unwrap().len();
    let mut told = 0;
    for at in 0..len {
        let copy = fs.fork(at as u64);
        copy.damage(&dir.join(&name), |bytes| bytes[at] ^= 0x20).unwrap();
        let (store, recovery) = open(&copy, &clock, config()).unwrap();
        let mut readable: Vec<Labels> = Vec::new();
        for reader in model::Select::select(&*store, &[], model::TimeRange::ALL).unwrap() {
            let mut samples = model::Samples::default();
            match reader.read(model::TimeRange::ALL, &mut samples) {
                Ok(()) => {
                    assert_eq!(samples.values.len(), 5, "byte {at}");
                    readable.push(reader.labels().clone());
                }
                Err(error) => assert!(error.to_string().contains(&name), "byte {at}: {error}"),
            }
        }
        assert!(!readable.is_empty(), "byte {at} cost both series");
        told += usize::from(readable.len() == 1 || !recovery.damaged.is_empty());
        // The damaged chunk knows nothing of its times any more: what comes for them is kept.
        let again = append(&store, &[(1, START_MS, 1.5), (2, START_MS, 2.5)]).1.unwrap().counts;
        assert_eq!(again.duplicates, readable.len() as u64, "byte {at}");
    }
    assert!(told >= len - 80, "{told} of {len} were told; the header has two copies");
}
