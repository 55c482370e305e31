//! What the store promises its follower: every sample that can be read was shown to it, in order, and is with it or shown
//! again after any crash.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::book::{Book, rows, seeds};
use common::*;
use model::{Follow, Followed, Follower, Labels, MetricType, SeriesId};
use parking_lot::Mutex;
use store::StoreConfig;
use sys::{Fault, Random, SimFs};

type Seen = (u64, Labels, i64, u64);

/// Keeps what it was shown in memory; only what was secured outlives a crash.
#[derive(Default)]
struct Diary {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    durable: Vec<Seen>,
    secured: u64,
    shown: Vec<Seen>,
    taken: u64,
}

impl Follow for Diary {
    fn wants(&self) -> bool {
        true
    }

    fn open(&self, secured: u64) -> std::io::Result<u64> {
        let mut inner = self.inner.lock();
        assert!(inner.secured >= secured, "the store let go of records up to {secured}");
        inner.shown = inner.durable.clone();
        inner.taken = inner.secured;
        Ok(inner.secured)
    }

    fn passed(&self, seq: u64) {
        let mut inner = self.inner.lock();
        inner.taken = inner.taken.max(seq);
    }

    fn record(&self, record: &Followed<'_>) {
        let mut inner = self.inner.lock();
        assert!(record.seq > inner.taken, "record {} after {}", record.seq, inner.taken);
        inner.taken = record.seq;
        let mut names: BTreeMap<SeriesId, Labels> = BTreeMap::new();
        let samples = record.samples.iter().map(|(id, s)| (*id, s.ts_ms, s.value.to_bits()));
        let histograms = record.histograms.iter().map(|(id, ts_ms, bytes)| {
            (*id, *ts_ms, histogram_bits(&model::histogram::Histogram::decode(bytes).expect("what was encoded").0))
        });
        let all: Vec<_> = samples.chain(histograms).collect();
        let ids: Vec<SeriesId> = all.iter().map(|a| a.0).collect();
        record.series.visit(&ids, &mut |id, labels, _: MetricType| drop(names.insert(id, labels.clone())));
        assert_eq!((record.origin.source_id.as_str(), record.origin.target_id.as_str()), ("s", "t"));
        for (id, ts_ms, bits) in all {
            inner.shown.push((record.seq, names[&id].clone(), ts_ms, bits));
        }
    }

    fn secure(&self, seq: u64) -> Result<(), String> {
        let mut inner = self.inner.lock();
        // The store waits for the record that is just being applied; it is shown right after.
        if inner.taken < seq {
            return Err("not shown yet".to_owned());
        }
        inner.durable = inner.shown.clone();
        inner.secured = inner.taken;
        Ok(())
    }
}

fn following(diary: &Arc<Diary>) -> StoreConfig {
    StoreConfig { follower: Follower(Some(diary.clone())), ..config() }
}

/// The diary has what is read, each sample with the bits that were stored first.
fn check(diary: &Diary, contents: &Contents, what: &str) {
    let inner = diary.inner.lock();
    let mut first: BTreeMap<(&Labels, i64), u64> = BTreeMap::new();
    for (_, labels, ts_ms, bits) in &inner.shown {
        first.entry((labels, *ts_ms)).or_insert(*bits);
    }
    let read = contents.iter().flat_map(|(labels, rows)| rows.iter().map(move |(ts, bits)| ((labels, *ts), *bits)));
    let read: BTreeMap<(&Labels, i64), u64> = read.collect();
    assert_eq!(first.len(), read.len(), "{what}");
    assert!(first == read, "{what}");
}

#[test]
fn a_follower_has_or_is_shown_everything_after_power_cuts() {
    for seed in seeds(60) {
        let (fs, clock, mut random) = (SimFs::seeded(seed), clock(), Random::seeded(seed));
        let (diary, mut book) = (Arc::new(Diary::default()), Book::default());
        for life in 0..4 {
            fs.inject(Fault::PowerCut { after: random.below(if life == 0 { 600 } else { 250 }) });
            if let Ok((store, _)) = open(&fs, &clock, following(&diary)) {
                book.start_again(&contents(&store), "after a start");
                check(&diary, &contents(&store), &format!("seed {seed}, life {life}, start"));
                for _ in 0..40 {
                    clock.advance(random.below(600_000));
                    book.append(&store, &rows(&mut random, sys::Clock::now_ms(&*clock)));
                    match random.below(25) {
                        0 => drop(store.flush_to_blocks()),
                        1..4 => drop(store.maintain()),
                        _ => {}
                    }
                    if fs.power_is_gone() {
                        break;
                    }
                }
            }
            fs.crash();
        }
        let (store, _) = open(&fs, &clock, following(&diary)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        check(&diary, &contents(&store), &format!("seed {seed}"));
        assert!(!book.acknowledged.is_empty(), "seed {seed}");
    }
}
