//! The store on a disk that does what disks do wrong: full, failing, slow, forgetful, misdirecting, rotting; by seed.
//!
//! `QUIVER_SEEDS` sets how many seeds; one alone is run with `QUIVER_SEED`, and then tells what it does. A seed fixes what is
//! written and what the disk does to the n-th change; the store's own threads decide which change is the n-th, so a run that
//! failed may have to be tried several times.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod common;

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use common::book::{Book, rows, seeds};
use common::*;
use model::{Append, AppendError, Samples, Select, TimeRange};
use store::{Store, StoreConfig};
use sys::{Clock, Fault, Random, SimClock, SimFs, Weather};

const THREADS: u64 = 2;

fn one_seed() -> Option<u64> {
    std::env::var("QUIVER_SEED").ok().and_then(|n| n.parse().ok())
}

/// Prints what happens, when one seed is looked into.
fn tell(what: impl FnOnce() -> String) {
    if one_seed().is_some() {
        println!("{}", what());
    }
}

/// Runs many seeds on all cores, or the one that is asked for.
fn for_each_seed(few: u64, run: impl Fn(u64) + Sync) {
    if let Some(seed) = one_seed() {
        return run(seed);
    }
    let (all, run) = (seeds(few), &run);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let mine = all.clone().filter(move |seed| seed % THREADS == thread);
            scope.spawn(move || mine.for_each(run));
        }
    });
}

fn opens(seed: u64, fs: &SimFs, clock: &Arc<SimClock>) -> Result<(Arc<Store>, store::Recovery), store::OpenError> {
    // The real blocks are slower to write: every eighth seed has them.
    if seed.is_multiple_of(8) { open(fs, clock, config()) } else { open_plain(fs, clock, config()) }
}

/// Weather with some kinds of faults, often or seldom.
fn weather(random: &mut Random) -> Weather {
    let mut often = || if random.coin() { 0 } else { 15 + random.below(300) };
    Weather { no_space: often(), append_eio: often() * 4, sync_eio: often() * 4, read_eio: often(), misdirected: 0 }
}

/// Holds what can be read against the book, in fine weather.
fn check(book: &Book, fs: &SimFs, store: &Store, rough: Weather, what: &str) {
    fs.set_weather(Weather::default());
    if !fs.power_is_gone() {
        book.check(&contents(store), what);
    }
    fs.set_weather(rough);
}

/// One life: opens, sends, maintains, until the steps are done or nothing is taken any more.
fn life(seed: u64, fs: &SimFs, clock: &Arc<SimClock>, random: &mut Random, book: &mut Book) {
    let rough = weather(random);
    fs.set_weather(rough);
    if random.coin() {
        fs.inject(Fault::PowerCut { after: random.below(300) });
    }
    let opened = opens(seed, fs, clock);
    tell(|| format!("{rough:?}, opened: {:?}", opened.as_ref().map(|o| &o.1.damaged)));
    let Ok((store, _)) = opened else { return };
    fs.set_weather(Weather::default());
    if fs.power_is_gone() {
        return;
    }
    book.start_again(&contents(&store), &format!("seed {seed}, after a start"));
    fs.set_weather(rough);
    let mut failed = false;
    for _ in 0..25 {
        clock.advance(random.below(600_000));
        if random.below(12) == 0 {
            fs.set_capacity_bytes(random.coin().then(|| fs.used_bytes() + random.below(4_000)));
        }
        let now = rows(random, clock.now_ms());
        let taken = book.append(&store, &now);
        tell(|| format!("{} {now:?}: {taken}", fs.changes()));
        assert!(!(failed && taken), "seed {seed}: a log that failed once has taken something");
        failed |= !taken && matches!(append(&store, &[]).1, Err(AppendError::Failed(_)));
        if random.below(6) == 0 {
            let done = store.maintain();
            tell(|| format!("{} maintain: {done:?}", fs.changes()));
        }
        if random.below(20) == 0 {
            let done = store.flush_to_blocks();
            tell(|| format!("{} flush: {done:?}", fs.changes()));
        }
        if random.below(8) == 0 || one_seed().is_some() {
            check(book, fs, &store, rough, &format!("seed {seed}, while running"));
        }
    }
}

fn many_lives(seed: u64) {
    let (fs, clock, mut random) = (SimFs::seeded(seed), clock(), Random::seeded(seed));
    let mut book = Book::default();
    for _ in 0..4 {
        life(seed, &fs, &clock, &mut random, &mut book);
        fs.set_capacity_bytes(None);
        let (files, crash) = (fs.files(), random.coin());
        if crash {
            fs.crash()
        } else {
            fs.kill()
        }
        let word = if crash { "power cut" } else { "kill" };
        tell(|| format!("{word} before: {files:?}\n{word} after: {:?}", fs.files()));
    }
    let (store, recovery) = opens(seed, &fs, &clock).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    tell(|| format!("at the end: {recovery:?}"));
    book.start_again(&contents(&store), &format!("seed {seed}, at the end"));
    let stats = store.stats();
    assert!(stats.totals.balances(), "seed {seed}: {:?}", stats.totals);
    assert_eq!(stats.blocks.damaged, 0, "seed {seed}: what failed is no damage");
    let now = [(1, clock.now_ms() + 1, 7.5)];
    assert!(book.append(&store, &now), "seed {seed}: accepts again");
    store.flush_to_blocks().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    drop(store);
    fs.crash();
    let (store, recovery) = opens(seed, &fs, &clock).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    assert!(recovery.damaged.is_empty(), "seed {seed}: told once: {:?}", recovery.damaged);
    book.start_again(&contents(&store), &format!("seed {seed}, after the end"));
    let (read, totals) = (contents(&store), store.stats().totals);
    let read = read.values().map(|rows| rows.len() as u64).sum::<u64>();
    assert!(totals.balances() && totals.stored >= read, "seed {seed}: {read} read of {totals:?}");
}

#[test]
fn whatever_the_disk_does_what_was_acknowledged_is_there_once_and_nothing_else() {
    for_each_seed(1_500, many_lives);
}

/// What can be read without an error, and whether something could not.
fn readable(store: &Store) -> (Contents, bool) {
    let Ok(readers) = store.select(&[], TimeRange::ALL) else { return (Contents::new(), true) };
    let (mut out, mut failed) = (Contents::new(), false);
    for reader in readers {
        let mut samples = Samples::default();
        match reader.read(TimeRange::ALL, &mut samples) {
            Ok(()) => drop(out.insert(reader.labels().clone(), rows_of(&samples))),
            Err(_) => failed = true,
        }
    }
    (out, failed)
}

/// One sector that lands elsewhere, or one bit that turns: told or harmless, and never a wrong value.
fn one_silent_fault(seed: u64) {
    let (fs, clock, mut random) = (SimFs::seeded(seed), clock(), Random::seeded(seed));
    let mut book = Book::default();
    let big = StoreConfig { segment_bytes_max: 2_048 + random.below(30_000), ..config() };
    let (store, _) = open(&fs, &clock, big.clone()).unwrap();
    if seed.is_multiple_of(2) {
        fs.inject(Fault::Misdirect { after: random.below(90) });
    }
    for _ in 0..40 {
        clock.advance(random.below(600_000));
        let now = rows(&mut random, clock.now_ms());
        assert!(book.append(&store, &now), "seed {seed}");
        if random.below(10) == 0 {
            store.maintain().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
    }
    drop(store);
    fs.crash();
    let rotten = if seed.is_multiple_of(2) { None } else { fs.rot() };
    let what = format!("seed {seed}, {rotten:?}");
    let (store, recovery) = open(&fs, &clock, big).unwrap_or_else(|e| panic!("{what}: {e}"));
    let (found, unreadable) = readable(&store);
    let missing = book.check_no_other(&found, &what);
    let told = unreadable || !recovery.damaged.is_empty() || store.stats().blocks.damaged > 0;
    assert!(told || missing == 0, "{what}: {missing} samples are gone in silence");
    let (_, result) = append(&store, &[(1, clock.now_ms() + 1, 7.5)]);
    assert_eq!(result.map(|a| a.counts.stored), Ok(1), "{what}: accepts again");
}

#[test]
fn a_misdirected_sector_or_a_rotten_bit_is_told_and_makes_no_value_up() {
    for_each_seed(150, one_silent_fault);
}

#[test]
fn a_slow_disk_lets_givers_wait_and_takes_no_more_than_its_queue() {
    let (fs, clock) = (SimFs::seeded(1), clock());
    let narrow = StoreConfig { queue_bytes_max: 4_000, queue_wait_ms: 0, ..config() };
    let (store, _) = open(&fs, &clock, narrow).unwrap();
    append(&store, &[(1, START_MS, 1.0)]).1.unwrap();
    fs.hold_syncs(true);
    let (tx, answers) = sync_channel(200);
    for n in 1..=200 {
        let tx = tx.clone();
        let done = move |_, result| drop(tx.send((n, result)));
        store.submit(batch(&[(1, START_MS + n, 1.0)]), Box::new(done));
    }
    let refused: Vec<i64> = answers
        .try_iter()
        .map(|(n, result)| match result {
            Err(AppendError::Busy { .. }) => n,
            other => panic!("{n} is not on the disk, yet: {other:?}"),
        })
        .collect();
    assert!(refused.len() > 100, "{} refused", refused.len());
    assert_eq!(contents(&store)[&labels(1)].len(), 1, "what is not on the disk is not shown");
    fs.hold_syncs(false);
    drop(tx);
    let taken: Vec<i64> = answers.iter().map(|(n, result)| result.map(|_| n).unwrap()).collect();
    assert_eq!(taken.len() + refused.len(), 200);
    let read = contents(&store);
    assert!(taken.iter().all(|n| read[&labels(1)].contains_key(&(START_MS + n))));
    assert_eq!(read[&labels(1)].len(), taken.len() + 1);
}
