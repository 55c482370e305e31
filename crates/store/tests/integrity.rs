//! Promise 12: received = stored + duplicates + filtered + refused, per batch, per target and in total, across restarts.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::*;
use model::{Append, Batch, Counts, NO_FAMILY, Origin, Refusal, ScrapeSlot, SlotOutcome, TimeRange, Verdict};
use store::{HoleCause, Integrity, Store};
use sys::{Clock, Fault, Fs, Random, SimClock, SimFs};

type Books = BTreeMap<String, Counts>;

fn all(store: &Store) -> Integrity {
    store.integrity(TimeRange::ALL, |_, _| true)
}

fn books(integrity: &Integrity) -> Books {
    let mut books = Books::new();
    for account in &integrity.accounts {
        assert!(account.totals.balances() && account.counts.balances() && account.slots.balances());
        books.entry(account.target_id.clone()).or_default().merge(&account.totals);
    }
    books
}

/// The accounts and what is elsewhere are the totals, to the last sample.
#[track_caller]
fn check_sums(integrity: &Integrity) {
    let mut sum = integrity.elsewhere;
    integrity.accounts.iter().for_each(|a| sum.merge(&a.totals));
    assert_eq!(sum, integrity.totals);
    assert!(sum.balances());
}

/// A batch of some target with samples of every fate.
fn some_batch(random: &mut Random, now_ms: i64) -> (String, Batch) {
    let target = format!("t{}", random.below(4));
    let origin =
        Origin { target_id: target.clone(), source_id: "s".into(), received_at_ms: now_ms, ..Origin::default() };
    let mut batch = Batch::new(origin);
    for _ in 0..1 + random.below(8) {
        let series = batch.push_labels(&labels(random.below(5)), NO_FAMILY);
        let at = now_ms - random.below(5) as i64 * 1_000;
        let verdict = match random.below(8) {
            0 => Verdict::Filtered,
            1 => Verdict::Refused(Refusal::SampleLimit),
            _ => Verdict::Pending,
        };
        batch.push_decided(series, at, random.below(2) as f64, verdict);
    }
    (target, batch)
}

/// Works until the power goes; `sure` holds what was answered, `open` what was not.
fn work(store: &Store, clock: &SimClock, fs: &SimFs, random: &mut Random, sure: &mut Books, open: &mut Books) {
    for _ in 0..40 {
        clock.advance(random.below(400_000));
        let (target, batch) = some_batch(random, clock.now_ms());
        let sent = batch.samples.len() as u64;
        match store.append(batch).1 {
            Ok(appended) => {
                assert!(appended.counts.balances() && appended.counts.received == sent);
                sure.entry(target).or_default().merge(&appended.counts);
            }
            Err(_) => open.entry(target).or_default().received += sent,
        }
        if random.below(6) == 0 {
            let _ = store.maintain();
        }
        if fs.power_is_gone() {
            return;
        }
        check_sums(&all(store));
    }
}

fn power_cuts(seed: u64) {
    let (fs, clock, mut random) = (SimFs::seeded(seed), clock(), Random::seeded(seed));
    let mut sure = Books::new();
    for life in 0..6 {
        let mut open_batches = Books::new();
        fs.inject(Fault::PowerCut { after: 60 + random.below(if life == 0 { 500 } else { 250 }) });
        if let Ok((store, _)) = open(&fs, &clock, config()) {
            work(&store, &clock, &fs, &mut random, &mut sure, &mut open_batches);
        }
        fs.crash();
        let (store, _) = open(&fs, &clock, config()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let integrity = all(&store);
        check_sums(&integrity);
        let found = books(&integrity);
        for target in found.keys().chain(sure.keys()) {
            let have = found.get(target).copied().unwrap_or_default();
            let least = sure.get(target).copied().unwrap_or_default();
            let unsure = open_batches.get(target).map_or(0, |c| c.received);
            let place = format!("seed {seed} life {life} {target}");
            assert!(have.received >= least.received, "{place}: {have:?} is less than {least:?}");
            assert!(have.received <= least.received + unsure, "{place}: {have:?} is more than {least:?} and {unsure}");
            assert!(have.stored >= least.stored && have.filtered >= least.filtered, "{place}");
            if unsure == 0 {
                assert_eq!(have, least, "{place}");
            }
        }
        sure = found;
    }
}

#[test]
fn row_12_the_ledger_balances_across_power_cuts() {
    let seeds = std::env::var("QUIVER_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    (0..seeds).for_each(power_cuts);
}

fn scrape(store: &Store, planned_ms: i64, outcome: SlotOutcome) {
    let origin =
        Origin { target_id: "t".into(), source_id: "s".into(), received_at_ms: planned_ms, ..Origin::default() };
    let mut batch = Batch::new(origin);
    let series = batch.push_labels(&labels(1), NO_FAMILY);
    batch.push_sample(series, planned_ms, 1.0);
    batch.slot = Some(ScrapeSlot { planned_ms, interval_ms: 15_000, outcome, ..ScrapeSlot::default() });
    store.append(batch).1.unwrap();
}

#[test]
fn row_12_holes_have_their_causes_across_kills_and_cuts_of_the_log() {
    let (fs, clock) = (SimFs::seeded(7), clock());
    let mut at = START_MS;
    let mut step = |store: &Store, n: u64, outcome| {
        for _ in 0..n {
            scrape(store, at, outcome);
            at += 15_000;
            clock.advance(15_000);
        }
    };
    let (store, _) = open(&fs, &clock, config()).unwrap();
    step(&store, 300, SlotOutcome::Stored);
    step(&store, 3, SlotOutcome::TargetDown);
    store.maintain().unwrap();
    step(&store, 2, SlotOutcome::Stored);
    fs.kill();
    drop(store);
    // Four planned scrapes pass while the server is down.
    at += 60_000;
    clock.advance(60_000);
    let mut step = |store: &Store, n: u64, outcome| {
        for _ in 0..n {
            scrape(store, at, outcome);
            at += 15_000;
            clock.advance(15_000);
        }
    };
    let (store, _) = open(&fs, &clock, config()).unwrap();
    step(&store, 5, SlotOutcome::Stored);
    let before = all(&store);
    let slots = before.accounts[0].slots;
    let missing = |cause: HoleCause| slots.missing[cause as usize];
    assert_eq!((missing(HoleCause::TargetDown), missing(HoleCause::Restart)), (3, 4));
    assert_eq!((slots.expected, slots.stored, slots.lost_by_us(), slots.doubled), (314, 307, 4, 0));
    assert!(slots.balances());
    for _ in 0..3 {
        fs.kill();
        let (store, _) = open(&fs, &clock, config()).unwrap();
        assert_eq!(all(&store), before, "a start counts nothing twice");
    }
    let recent = store.integrity(TimeRange { start_ms: at - 75_000, end_ms: at }, |t, _| t == "t");
    assert!(recent.accounts[0].slots.stored < 50, "{:?}", recent.accounts[0].span);
    assert!(store.integrity(TimeRange::ALL, |t, _| t == "other").accounts.is_empty());
}

#[test]
fn damage_is_counted_and_kept_count_of() {
    let (fs, clock) = (SimFs::seeded(9), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    for n in 0..20 {
        append(&store, &[(n, START_MS + n as i64, 1.0)]).1.unwrap();
    }
    drop(store);
    let wal = Path::new("/data/wal/00000001.wal");
    fs.damage(wal, |bytes| bytes[300] ^= 1).unwrap();
    let (store, recovery) = open(&fs, &clock, config()).unwrap();
    assert_eq!((recovery.records_damaged, recovery.records_torn), (1, 0));
    let found = all(&store);
    assert_eq!((found.durability.records_damaged, found.kept_aside, found.totals.received), (1, 1, 19));
    drop(store);
    // Both copies of the accounts gone: the totals stay, the targets begin anew.
    for name in ["/data/accounts.1", "/data/accounts.2"] {
        fs.damage(Path::new(name), |bytes| bytes[9] ^= 1).unwrap();
    }
    let (store, recovery) = open(&fs, &clock, config()).unwrap();
    assert!(recovery.damaged.iter().any(|d| d.contains("both copies of the accounts")), "{:?}", recovery.damaged);
    let found = all(&store);
    check_sums(&found);
    assert_eq!(found.totals.received, 19);
    let clock: Arc<SimClock> = clock;
    fs.inject(Fault::Sync { after: 0 });
    assert!(append(&store, &[(1, clock.now_ms(), 2.0)]).1.is_err());
    assert_eq!(all(&store).durability.fsync_failures, 1);
}

#[test]
fn the_scrubber_finds_every_damaged_file_and_mends_what_has_a_second_copy() {
    let (fs, clock) = (SimFs::seeded(11), clock());
    let (store, _) = open(&fs, &clock, config()).unwrap();
    for n in 0..400u64 {
        let histogram = if n % 7 == 0 { stand_in(n as usize % HISTOGRAMS) } else { n as f64 * 0.37 };
        append(&store, &[(n % 20, START_MS + n as i64 * 1_000, histogram)]).1.unwrap();
    }
    store.flush_to_blocks().unwrap();
    let whole = contents(&store);
    let name = fs.list(Path::new("/data/blocks")).unwrap().into_iter().find(|n| !n.starts_with("tmp")).unwrap();
    let block = Path::new("/data/blocks").join(name);
    let clean = store.scrub().unwrap().unwrap();
    assert_eq!((clean.stretches_damaged, clean.blocks, clean.findings.len()), (0, 1, 0));
    assert!(clean.bytes > 1_000 && clean.oldest_ms.is_some());
    for (file, at) in [("manifest.1", 20), ("manifest.2", 5), ("postings", 100), ("series.parquet", 60)] {
        let path = block.join(file);
        let sound = fs.read(&path).unwrap();
        fs.damage(&path, |bytes| bytes[at] ^= 8).unwrap();
        let before = store.scrub_state();
        let found = store.scrub().unwrap().unwrap();
        assert_eq!(found.stretches_damaged - before.stretches_damaged, 1, "{file}: {:?}", found.findings);
        assert_eq!(found.files_repaired - before.files_repaired, 1, "{file}: {:?}", found.findings);
        assert_eq!(fs.read(&path).unwrap(), sound, "{file} is what it was");
    }
    // The end of the samples has a copy in the postings, the pages have none.
    let path = block.join("samples.parquet");
    let last = fs.read(&path).unwrap().len() - 6;
    fs.damage(&path, |bytes| bytes[last] ^= 8).unwrap();
    let before = store.scrub_state();
    let found = store.scrub().unwrap().unwrap();
    assert_eq!(found.stretches_damaged - before.stretches_damaged, 1);
    assert!(all(&store).durability.stretches_damaged >= 5);
    assert_eq!(found.files_repaired - before.files_repaired, 1, "{:?}", found.findings);
    assert_eq!(contents(&store), whole);
    // A page has none: told, counted, left for readers to refuse.
    fs.damage(&path, |bytes| bytes[10] ^= 8).unwrap();
    let found = store.scrub().unwrap().unwrap();
    assert!(found.findings.back().unwrap().contains("cannot be made whole"), "{:?}", found.findings);
    assert!(all(&store).kept_aside >= 4);
}
