//! Appends as fast as the store takes it on the real disk and prints samples a second and CPU-seconds per million.
//!
//! Use: `ingest_speed [DIRECTORY [SERIES [ROUNDS [BATCH_SAMPLES]]]]`. A round is one sample of every series; one round
//! by labels, then the rest by known ids, then again all by labels. Four submitters wait for their answers in turn.
//! At the end everything goes into blocks and is read: bytes per sample, seconds for writing and reading. These depend on
//! how many samples a series has in a block, and so on whether the run straddles an hour: every block pays for its
//! series table and postings again. Compare runs with the same number of blocks only.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use model::{Append, Batch, Labels, Matcher, NO_FAMILY, Origin, Samples, Select, SeriesId, TimeRange};
use store::{Store, StoreConfig};
use sys::{Clock, RealClock, RealFs};

const SUBMITTERS: usize = 4;

struct Load {
    store: Arc<Store>,
    labels: Vec<Labels>,
    batch_samples: usize,
}

/// What a node exporter sends: counters that rise by whole numbers, gauges of few decimals, things that hardly change.
fn value(series: usize, round: usize) -> f64 {
    let (n, r) = (series as f64, round as f64);
    match series % 5 {
        0 => r * ((series % 97) as f64) + n,
        1 => (n * 1000.0 + r * 13.37).round() / 100.0,
        2 => 0.0,
        3 => n * 4096.0,
        _ => ((n + r).sin() * 1000.0).round() * 4096.0,
    }
}

impl Load {
    /// Sends rounds; with `ids` by known ids, else by labels. Gives the ids.
    fn send(&self, rounds: std::ops::Range<usize>, start_ms: i64, ids: Option<&(u64, Vec<SeriesId>)>) -> Vec<SeriesId> {
        let share = self.labels.len().div_ceil(SUBMITTERS);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..SUBMITTERS)
                .map(|t| {
                    let mine = (t * share).min(self.labels.len())..((t + 1) * share).min(self.labels.len());
                    let rounds = rounds.clone();
                    scope.spawn(move || self.submit(mine, rounds, start_ms, ids))
                })
                .collect();
            threads.into_iter().flat_map(|t| t.join().unwrap_or_default()).collect()
        })
    }

    fn submit(
        &self,
        mine: std::ops::Range<usize>,
        rounds: std::ops::Range<usize>,
        start_ms: i64,
        ids: Option<&(u64, Vec<SeriesId>)>,
    ) -> Vec<SeriesId> {
        let mut found = Vec::new();
        let mut batch = Batch::new(Origin { target_id: "t".into(), source_id: "bench".into(), ..Origin::default() });
        for round in rounds {
            found.clear();
            for first in mine.clone().step_by(self.batch_samples) {
                batch.clear();
                for series in first..(first + self.batch_samples).min(mine.end) {
                    let index = match ids {
                        Some((_, ids)) => batch.push_known(ids[series], NO_FAMILY),
                        None => batch.push_labels(&self.labels[series], NO_FAMILY),
                    };
                    batch.push_sample(index, start_ms + round as i64 * 15_000, value(series, round));
                }
                batch.generation = ids.map_or(0, |i| i.0);
                let (back, result) = self.store.append(batch);
                batch = back;
                match result {
                    Ok(appended) if appended.counts.stored == batch.samples.len() as u64 => {}
                    other => eprintln!("not all stored: {other:?}"),
                }
                found.extend(batch.series.iter().map(|s| s.id));
            }
        }
        found
    }
}

/// CPU-seconds of this process, from /proc; 0 elsewhere.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or("");
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn measure<T>(what: &str, samples: usize, act: impl FnOnce() -> T) -> T {
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let out = act();
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let millions = samples as f64 / 1e6;
    println!(
        "{what}: {samples} samples in {wall:.2} s = {:.0}/s, {:.3} CPU-s per million",
        samples as f64 / wall,
        cpu / millions
    );
    out
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize, or: usize| args.get(at).and_then(|a| a.parse().ok()).unwrap_or(or);
    let temporary = std::env::temp_dir().join(format!("ingest_speed-{}", std::process::id()));
    let dir = args.get(1).map_or(temporary.clone(), PathBuf::from);
    let (series, rounds, batch_samples) = (number(2, 100_000), number(3, 100), number(4, 5_000));
    let clock = Arc::new(RealClock::default());
    let config = StoreConfig { dir, maintain_every_ms: 0, ..StoreConfig::default() };
    let (store, _) = Store::open(Arc::new(RealFs), clock.clone(), config)?;
    let labels = (0..series).map(|n| {
        Labels::from_pairs([
            ("__name__", format!("node_metric_{}", n % 500)),
            ("instance", format!("host-{:05}.example.net:9100", n / 500)),
            ("job", "node".to_owned()),
            ("device", format!("dev{}", n % 7)),
            ("mode", ["idle", "user", "system"][n % 3].to_owned()),
            ("n", n.to_string()),
        ])
    });
    let load = Load { store: store.clone(), labels: labels.collect(), batch_samples };
    let start_ms = clock.now_ms() - 3 * rounds as i64 * 15_000;
    let ids = measure("new series by labels", series, || load.send(0..1, start_ms, None));
    let known = (store.generation(), ids);
    measure("by known ids", series * rounds, || load.send(1..rounds + 1, start_ms, Some(&known)));
    let by_labels = rounds.div_ceil(4);
    measure("by labels", series * by_labels, || load.send(rounds + 1..rounds + 1 + by_labels, start_ms, None));
    let total = series * (1 + rounds + by_labels);
    println!("records {}, fsyncs {}", store.stats().records, store.stats().fsyncs);
    measure("into blocks", total, || store.flush_to_blocks())?;
    let blocks = store.stats().blocks;
    println!(
        "{} blocks: {} bytes, {:.3} bytes per sample",
        blocks.blocks,
        blocks.bytes,
        blocks.bytes as f64 / blocks.samples as f64
    );
    for what in ["read all from blocks, cold", "read all from blocks, warm"] {
        let found = measure(what, total, || read(&store, &[]))?;
        if found != total {
            return Err(format!("{found} samples were read, {total} were sent").into());
        }
    }
    let one = Matcher::equal("n", "77");
    let started = Instant::now();
    for _ in 0..1000 {
        read(&store, std::slice::from_ref(&one))?;
    }
    println!("one series by an equal matcher, warm: {:.1} µs", started.elapsed().as_secs_f64() * 1e3);
    drop(load);
    drop(store);
    if args.len() < 2 {
        std::fs::remove_dir_all(&temporary)?;
    }
    Ok(())
}

fn read(store: &Store, matchers: &[Matcher]) -> Result<usize, model::SelectError> {
    let (mut samples, mut count) = (Samples::default(), 0);
    for reader in store.select(matchers, TimeRange::ALL)? {
        samples.clear();
        reader.read(TimeRange::ALL, &mut samples)?;
        count += samples.len();
    }
    Ok(count)
}
