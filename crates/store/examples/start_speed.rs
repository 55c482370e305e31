//! How long a store takes to start after its process was killed, and what memory it takes before and after.
//!
//! `cargo run --release -p store --example start_speed -- [DIR] [SERIES] [SAMPLES OF EACH]`: fills a store in a process
//! of its own, which dies without closing it, then opens it in another. Nothing goes into blocks. Without a directory
//! a temporary one is used and removed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Append, Batch, Labels, Matcher, NO_FAMILY, Origin, Samples, Select, SeriesId, TimeRange};
use store::{Store, StoreConfig};
use sys::{Clock, RealClock, RealFs};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH_SAMPLES: usize = 10_000;
const SUBMITTERS: usize = 4;
/// So short that a hundred of them lie in a window that is not over yet.
const STEP_MS: i64 = 4_000;

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

fn labels(n: usize) -> Labels {
    Labels::from_pairs([
        ("__name__", format!("node_metric_{}", n % 500)),
        ("instance", format!("host-{:05}.example.net:9100", n / 500)),
        ("job", "node".to_owned()),
        ("device", format!("dev{}", n % 7)),
        ("mode", ["idle", "user", "system"][n % 3].to_owned()),
    ])
}

/// Resident memory of this process, and the most it ever was, in MiB; 0 where there is no /proc.
fn memory_mib() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or("");
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn report(what: &str, since: Instant, series: usize) {
    let (now, most) = memory_mib();
    let per_series = now * 1048576.0 / series.max(1) as f64;
    let seconds = since.elapsed().as_secs_f64();
    let cpu = cpu_seconds();
    println!(
        "{what}: {seconds:.2} s, {cpu:.2} CPU-s, RSS {now:.0} MiB = {per_series:.0} bytes per series, most {most:.0} MiB"
    );
}

fn open(dir: &Path) -> Result<(Arc<Store>, store::Recovery), Box<dyn Error>> {
    let config = StoreConfig { dir: dir.to_path_buf(), ..StoreConfig::default() };
    Ok(Store::open(Arc::new(RealFs), Arc::new(RealClock::default()), config)?)
}

/// Sends one round of all series from several threads; by known ids if there are any. Gives the ids.
fn send(store: &Store, series: usize, round: usize, ts_ms: i64, ids: &[SeriesId]) -> Result<Vec<SeriesId>, String> {
    let share = series.div_ceil(SUBMITTERS);
    let submit = |part: std::ops::Range<usize>| -> Result<Vec<SeriesId>, String> {
        let mut batch = Batch::new(Origin { target_id: "t".into(), source_id: "bench".into(), ..Origin::default() });
        let mut found = Vec::new();
        for first in part.clone().step_by(BATCH_SAMPLES) {
            batch.clear();
            let part = first..(first + BATCH_SAMPLES).min(part.end);
            for n in part.clone() {
                let index = match ids.get(n) {
                    Some(id) => batch.push_known(*id, NO_FAMILY),
                    None => batch.push_labels(&labels(n), NO_FAMILY),
                };
                batch.push_sample(index, ts_ms, value(n, round));
            }
            batch.generation = store.generation();
            let (back, result) = store.append(batch);
            batch = back;
            match result {
                Ok(appended) if appended.counts.stored == part.len() as u64 => {}
                other => return Err(format!("not all was stored: {other:?}")),
            }
            found.extend(batch.series.iter().map(|s| s.id));
        }
        Ok(found)
    };
    std::thread::scope(|scope| {
        let parts = (0..SUBMITTERS).map(|t| (t * share).min(series)..((t + 1) * share).min(series));
        let threads: Vec<_> = parts.map(|part| scope.spawn(|| submit(part))).collect();
        let mut all = Vec::with_capacity(series);
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a submitter panicked".to_owned())??);
        }
        Ok(all)
    })
}

fn fill(dir: &Path, series: usize, rounds: usize) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let (store, _) = open(dir)?;
    let start_ms = RealClock::default().now_ms() - rounds as i64 * STEP_MS;
    let ids = send(&store, series, 0, start_ms, &[])?;
    report("new series", started, series);
    let (cpu, since) = (cpu_seconds(), Instant::now());
    for round in 1..rounds {
        send(&store, series, round, start_ms + round as i64 * STEP_MS, &ids)?;
    }
    let samples = series * rounds.saturating_sub(1);
    println!(
        "filled: {:.0} samples/s, {:.3} CPU-s per million",
        samples as f64 / since.elapsed().as_secs_f64(),
        (cpu_seconds() - cpu) * 1e6 / samples.max(1) as f64
    );
    std::thread::sleep(Duration::from_secs(8));
    report("running", started, series);
    println!("{}", store.memory());
    let stats = store.stats();
    println!("in the head {} samples, log {} MiB; killed now", stats.head_samples, stats.wal_bytes >> 20);
    std::process::abort()
}

fn start(dir: &Path, series: usize, rounds: usize) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let (store, recovery) = open(dir)?;
    report("open", started, series);
    println!("replayed {} records with {} samples; damage: {:?}", recovery.records, recovery.samples, recovery.damaged);
    let mut batch = Batch::new(Origin { target_id: "t".into(), source_id: "bench".into(), ..Origin::default() });
    for n in [0, series + 1] {
        let index = batch.push_labels(&labels(n), NO_FAMILY);
        batch.push_sample(index, RealClock::default().now_ms(), 1.0);
    }
    store.append(batch).1?;
    report("first write answered", started, series);
    let one = [Matcher::equal("instance", "host-00000.example.net:9100"), Matcher::equal("__name__", "node_metric_7")];
    let found = read(&store, &one)?;
    report("first query answered", started, series);
    println!("it found {found} samples");
    let found = read(&store, &[])?;
    report("everything was read", started, series);
    std::thread::sleep(Duration::from_secs(3));
    report("at rest", started, series);
    println!("{}", store.memory());
    if found < series * rounds {
        return Err(format!("{found} samples were read, {} were sent", series * rounds).into());
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

fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |e: std::fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => bytes_in(&e.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize, or: usize| args.get(at).and_then(|a| a.parse().ok()).unwrap_or(or);
    let temporary = std::env::temp_dir().join(format!("start_speed-{}", std::process::id()));
    let dir = args.get(1).map_or(temporary.clone(), PathBuf::from);
    let (series, rounds) = (number(2, 1_000_000), number(3, 100));
    match args.get(4).map(String::as_str) {
        Some("fill") => return fill(&dir, series, rounds),
        Some("start") => return start(&dir, series, rounds),
        _ => {}
    }
    for part in ["fill", "start"] {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(&dir).args([series.to_string(), rounds.to_string(), part.to_owned()]).status()?;
        for name in ["wal", "chunks", "blocks", "."] {
            println!("after {part}: {name}: {} MiB", bytes_in(&dir.join(name)) >> 20);
        }
    }
    if args.len() < 2 {
        std::fs::remove_dir_all(&temporary)?;
    }
    Ok(())
}
