//! The benchmark: the same load on Quiver and its rivals, one after the other, on this machine.
//!
//! It counts CPU-seconds of the server process per million samples, because wall-clock rates on shared machines
//! say little; rates, memory and disk stand beside it. Every run checks what the server can answer afterwards,
//! so that a server which dropped its load cannot look fast.

mod attack;
#[path = "../../tests/support/child.rs"]
mod child;
mod disk;
mod http;
mod measure;
#[cfg(test)]
mod message;
mod own_histogram;
mod payload;
#[path = "../../tests/support/postgres.rs"]
mod postgres;
mod probe;
mod progress;
mod proto_body;
mod queries;
mod remote_body;
mod remote_write;
mod report;
mod restart;
mod scrape;
mod server;
mod sinks;
mod way_bodies;
mod ways;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::report::Row;
use crate::scrape::Shape;
use crate::server::Kind;

/// Runs the same load on Quiver and its rivals and prints tables.
#[derive(Parser, Debug, Clone)]
#[command(version)]
struct Options {
    /// The quiver binary.
    #[arg(long)]
    quiver: PathBuf,
    /// The program quiver-analytics, for the attack in SQL; without it that part is left out.
    #[arg(long)]
    analytics: Option<PathBuf>,
    /// Series of the load that is collected while hostile SQL runs.
    #[arg(long, default_value_t = 100_000)]
    attack_series: usize,
    /// Seconds of load for each server and kind of load.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Active series of the remote-write and scrape loads.
    #[arg(long, default_value_t = 1_000_000)]
    series: usize,
    /// How many of a hundred series are replaced by new ones in an hour.
    #[arg(long, default_value_t = 60.0)]
    churn: f64,
    /// Samples in one remote-write request.
    #[arg(long, default_value_t = 2_000)]
    request_samples: usize,
    /// Connections that write at the same time.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Series on each scraped target; there are as many targets as that makes.
    #[arg(long, default_value_t = 2_500)]
    target_series: usize,
    /// Scrape interval of the full load in seconds.
    #[arg(long, default_value_t = 1)]
    interval: u64,
    /// Series of the data that the queries run over.
    #[arg(long, default_value_t = 100_000)]
    query_series: usize,
    /// Starts from which a cold query is asked, for each query.
    #[arg(long, default_value_t = 3)]
    cold_runs: usize,
    /// Most repetitions of a warm query.
    #[arg(long, default_value_t = 200)]
    warm_runs: usize,
    /// Series of the load of each way in.
    #[arg(long, default_value_t = 100_000)]
    way_series: usize,
    /// Samples that go to each kind of other store.
    #[arg(long, default_value_t = 5_000_000)]
    sink_samples: usize,
    /// Numbers of series of the growth table.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000, 2_000_000])]
    growth_series: Vec<usize>,
    /// Scrapes of a real node exporter that the disk table is made from.
    #[arg(long, default_value_t = 720)]
    disk_scrapes: usize,
    /// Which servers to run; those that are not installed are left out.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Quiver, Kind::Prometheus, Kind::VictoriaMetrics, Kind::Vmagent, Kind::Influxdb])]
    servers: Vec<Kind>,
    /// Which parts to run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    only: Vec<Part>,
    /// Folder for the servers' data; the system's temporary folder if not given.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Where to write the tables as Markdown; standard output gets them in any case.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Where to write all figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// Remote write from several connections, then kill -9 and a start.
    RemoteWrite,
    /// Scraping all series every interval.
    Scrape,
    /// Scraping all series at 100,000 samples a second.
    ScrapeSlow,
    /// Latencies of the promised queries, and bytes per sample of their data.
    Queries,
    /// Bytes per sample of a real node exporter.
    Disk,
    /// Cost per sample from few series to many; Quiver alone.
    Growth,
    /// Cost per sample by each way in, beside the servers that have the same one.
    Ways,
    /// Cost and rate per sample on the way to each kind of other store.
    Sinks,
    /// Latency of collection while hostile SQL runs; Quiver alone.
    Attack,
}

impl Part {
    const ALL: [Part; 9] = [
        Part::RemoteWrite,
        Part::Scrape,
        Part::ScrapeSlow,
        Part::Queries,
        Part::Disk,
        Part::Growth,
        Part::Ways,
        Part::Sinks,
        Part::Attack,
    ];
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |v| v.get_name()))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut rows = Vec::new();
    let failed = run(&options, &mut rows);
    // What was measured before a failure is worth its table.
    println!("{}", report::tables(&rows));
    let written = write_results(&options, &rows);
    match failed.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn write_results(options: &Options, rows: &[Row]) -> Result<(), String> {
    let write =
        |path: &PathBuf, text: String| std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
    if let Some(path) = &options.markdown {
        write(path, report::markdown(&options.describe(), rows))?;
    }
    if let Some(path) = &options.json {
        write(path, format!("{:#}\n", report::json(&options.describe(), rows)))?;
    }
    Ok(())
}

impl Options {
    fn describe(&self) -> String {
        format!(
            "{} s a load; {} active series, of which {} % an hour are replaced; remote write: {} samples a request, {} connections; scrape: \
             {} series a target, every {} s; queries over {} series",
            self.seconds,
            self.series,
            self.churn,
            self.request_samples,
            self.connections,
            self.target_series,
            self.interval,
            self.query_series
        )
    }

    /// A fresh folder that goes when it is dropped.
    fn folder(&self) -> Result<tempfile::TempDir, String> {
        let made = match &self.data {
            Some(folder) => tempfile::tempdir_in(folder),
            None => tempfile::tempdir(),
        };
        made.map_err(|e| e.to_string())
    }

    fn way_seconds(&self) -> u64 {
        self.seconds.div_ceil(4).max(1)
    }

    fn scrape_load(&self, name: &str, interval_s: u64) -> scrape::Load {
        scrape::Load {
            name: name.to_owned(),
            targets: self.series.div_ceil(self.target_series.max(1)).max(1),
            target_series: self.target_series.max(1),
            interval_s,
            seconds: self.seconds,
            shape: Shape::Text,
            says_protocol: false,
        }
    }
}

fn run(options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
    let (installed, missing): (Vec<Kind>, Vec<Kind>) =
        options.servers.iter().partition(|kind| kind.is_installed(options));
    for kind in missing {
        eprintln!("{} is not installed and left out; scripts/setup bench installs it", kind.name());
    }
    let writers: Vec<Kind> = installed.iter().copied().filter(|k| *k != Kind::Vmagent).collect();
    let scrapers: Vec<Kind> = installed.iter().copied().filter(|k| k.scrapes()).collect();
    let answering: Vec<Kind> = writers.iter().copied().filter(|k| k.answers_promql()).collect();
    let ours = installed.contains(&Kind::Quiver);
    for part in &options.only {
        match part {
            Part::RemoteWrite => {
                let load = remote_write::Load { series: options.series, seconds: options.seconds, restarts: true };
                each(&writers, rows, |kind| remote_write::run(options, kind, load));
            }
            Part::Scrape => {
                let load = options.scrape_load("scrape", options.interval);
                each(&scrapers, rows, |kind| Ok(vec![scrape::run(options, kind, &load)?]));
            }
            Part::ScrapeSlow => {
                let interval_s = (options.series as u64).div_ceil(100_000).max(1);
                let load = options.scrape_load("scrape, 100,000 samples a second", interval_s);
                each(&scrapers, rows, |kind| Ok(vec![scrape::run(options, kind, &load)?]));
            }
            Part::Queries => each(&answering, rows, |kind| queries::run(options, kind)),
            Part::Disk => {
                let recording = disk::record(options.disk_scrapes)?;
                each(&writers, rows, |kind| Ok(vec![disk::run(options, kind, &recording)?]));
            }
            Part::Growth if ours => growth(options, rows),
            Part::Ways if ours => rows.extend(ways::run(options, &installed)),
            Part::Sinks if ours => rows.extend(sinks::run(options)),
            Part::Attack if ours => attack::run(options, rows),
            Part::Growth | Part::Ways | Part::Sinks | Part::Attack => {}
        }
    }
    Ok(())
}

/// A server that fails under its load gets a row without figures; the others go on.
fn each(kinds: &[Kind], rows: &mut Vec<Row>, mut part: impl FnMut(Kind) -> Result<Vec<Row>, String>) {
    for kind in kinds {
        match part(*kind) {
            Ok(more) => rows.extend(more),
            Err(error) => {
                eprintln!("{}: {error}", kind.name());
                let error: String = error.chars().take(300).collect();
                rows.push(Row::new("failed", kind.name(), error));
            }
        }
    }
}

/// What a sample costs with few series and with many, and how far the costs lie apart.
fn growth(options: &Options, rows: &mut Vec<Row>) {
    let mut least = f64::INFINITY;
    for series in &options.growth_series {
        let seconds = options.seconds.div_ceil(3).max(1);
        let load = remote_write::Load { series: *series, seconds, restarts: false };
        each(&[Kind::Quiver], rows, |kind| {
            let all = remote_write::run(options, kind, load)?;
            let measured = all.first().ok_or("nothing was measured")?;
            let mut row = Row::new("growth", &format!("Quiver, {series} series"), measured.version.clone());
            for figure in
                ["samples_per_second", "cpu_s_per_million", "answer_p99_ms", "visible_p99_ms", "rss_bytes_per_series"]
            {
                if let Some(value) = measured.get(figure) {
                    row.set(figure, value);
                }
            }
            if let Some(cost) = measured.get("cpu_s_per_million") {
                least = least.min(cost);
                row.set("cost_by_least", cost / least);
            }
            Ok(vec![row])
        });
    }
}
