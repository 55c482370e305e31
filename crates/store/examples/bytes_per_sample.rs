//! Scrapes a node exporter of this machine and prints what its samples take on disk, file by file, as JSON.
//!
//! Use: `bytes_per_sample [DIRECTORY [SCRAPES]]`. The exporter (`prometheus-node-exporter`) is started on a free loopback
//! port and scraped as fast as it answers; the scrapes are stored 15 s apart, from a midnight on. Five blocks are written
//! for every hour, then merged: the first figures are those of many small blocks, the second those of one block an hour, the
//! third those of blocks of 6 and 24 hours (1440 scrapes make 6 hours, 5760 a day). As the scrapes are closer together than
//! their times say, counters rise less than in an hour's service: take the figures as a lower bound.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use model::{Append, Batch, LabelsBuf, NO_FAMILY, Origin};
use serde_json::{Value, json};
use store::{Store, StoreConfig};
use sys::{Clock, RealFs, SimClock};

/// 2023-11-15 00:00:00 UTC.
const START_MS: i64 = 1_700_006_400_000;
const DAY_MS: u64 = 86_400_000;
const STEP_MS: u64 = 15_000;
/// A fifth of an hour.
const SCRAPES_OF_BLOCK: usize = 48;

/// The exporter; ends with the example.
struct Exporter {
    child: Child,
    address: SocketAddr,
}

impl Exporter {
    fn start() -> Result<Exporter, Box<dyn Error>> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new("prometheus-node-exporter");
        command.arg(format!("--web.listen-address={address}")).stdout(Stdio::null()).stderr(Stdio::null());
        let exporter = Exporter { child: command.spawn()?, address };
        for _ in 0..200 {
            if exporter.scrape().is_ok_and(|body| !body.is_empty()) {
                return Ok(exporter);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("the exporter does not answer".into())
    }

    fn scrape(&self) -> Result<String, Box<dyn Error>> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(64 << 20).read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Adds a line of the text format; the exporter's lines have no time and no escapes but in label values.
fn add_line(batch: &mut Batch, line: &str, ts_ms: i64) -> Option<()> {
    let (series, value) = line.rsplit_once(' ')?;
    let mut labels = LabelsBuf::default();
    let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
    labels.push("__name__", name);
    labels.push("instance", "localhost:9100");
    labels.push("job", "node");
    let mut rest = rest.strip_suffix('}')?;
    while let Some((name, after)) = rest.split_once("=\"") {
        let bytes = after.as_bytes();
        let end = (0..bytes.len()).find(|at| bytes[*at] == b'"' && (*at == 0 || bytes[at - 1] != b'\\'))?;
        labels.push(name, &after[..end]);
        rest = after[end + 1..].trim_start_matches(',');
    }
    labels.sort().ok()?;
    let index = batch.push_series(&labels, NO_FAMILY);
    batch.push_sample(index, ts_ms, value.parse().ok()?);
    Some(())
}

/// Adds up the files of all blocks by name.
fn sizes(blocks: &Path) -> Result<BTreeMap<String, u64>, Box<dyn Error>> {
    let mut out = BTreeMap::new();
    for block in std::fs::read_dir(blocks)? {
        for file in std::fs::read_dir(block?.path())? {
            let file = file?;
            *out.entry(file.file_name().to_string_lossy().into_owned()).or_default() += file.metadata()?.len();
        }
    }
    Ok(out)
}

fn figures(store: &Store, blocks: &Path) -> Result<Value, Box<dyn Error>> {
    let (totals, series) = (store.stats().blocks, store.stats().series);
    let per = |bytes: u64| (bytes as f64 / totals.samples as f64 * 1000.0).round() / 1000.0;
    let files = sizes(blocks)?;
    let bytes = files.values().sum();
    let per_file: BTreeMap<&String, Value> =
        files.iter().map(|(name, bytes)| (name, json!({"bytes": bytes, "per_sample": per(*bytes)}))).collect();
    Ok(json!({
        "blocks": totals.blocks, "samples": totals.samples, "series": series, "bytes": bytes,
        "bytes_per_sample": per(bytes), "files": per_file,
    }))
}

/// Merges all there is to merge and removes what was replaced.
fn settle(store: &Store, clock: &SimClock) -> Result<(), Box<dyn Error>> {
    while store.maintain()?.blocks_merged > 0 {}
    // What was replaced lives on for a while.
    clock.advance(1_000_000);
    store.maintain()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(|| std::env::temp_dir().join("quiver-bytes-per-sample"), PathBuf::from);
    let scrapes: usize = args.next().map_or(Ok(720), |n| n.parse())?;
    let exporter = Exporter::start()?;
    let clock = Arc::new(SimClock::at(START_MS));
    let config = StoreConfig {
        dir: dir.clone(),
        maintain_every_ms: 0,
        compaction_bytes_per_second: 0,
        ..StoreConfig::default()
    };
    let hours = StoreConfig { compaction_ranges_ms: Vec::new(), ..config.clone() };
    let (store, _) = Store::open(Arc::new(RealFs), clock.clone(), hours)?;
    for scrape in 1..=scrapes {
        let mut batch = Batch::new(Origin { target_id: "node".into(), source_id: "node".into(), ..Origin::default() });
        for line in exporter.scrape()?.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            add_line(&mut batch, line, clock.now_ms()).ok_or_else(|| format!("not understood: {line}"))?;
        }
        store.append(batch).1?;
        clock.advance(STEP_MS);
        if scrape % SCRAPES_OF_BLOCK == 0 || scrape == scrapes {
            store.flush_to_blocks()?;
        }
    }
    let blocks = dir.join("blocks");
    let small = figures(&store, &blocks)?;
    settle(&store, &clock)?;
    let merged = figures(&store, &blocks)?;
    drop(store);
    let (store, _) = Store::open(Arc::new(RealFs), clock.clone(), config)?;
    clock.advance(DAY_MS);
    let begin = std::time::Instant::now();
    settle(&store, &clock)?;
    let mut larger = figures(&store, &blocks)?;
    larger["seconds_to_merge"] = json!(begin.elapsed().as_secs_f64());
    let all = json!({"small blocks": small, "hours": merged, "6 and 24 hours": larger});
    println!("{}", serde_json::to_string_pretty(&all)?);
    Ok(())
}
