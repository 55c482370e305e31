//! The benchmark: the same load on Quiver, Prometheus and VictoriaMetrics, one after the other, on this machine.
//!
//! It counts CPU-seconds of the server process per million samples, because wall-clock rates on shared machines
//! say little; rates, memory and disk stand beside it. Every run checks what the server can answer afterwards,
//! so that a server which dropped its load cannot look fast.

mod measure;
mod message;
mod payload;
mod remote_write;
mod report;
mod scrape;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::report::Row;
use crate::server::Kind;

/// Runs the same load on Quiver and its rivals and prints a table.
#[derive(Parser, Debug, Clone)]
#[command(version)]
struct Options {
    /// The quiver binary.
    #[arg(long)]
    quiver: PathBuf,
    /// Seconds of load for each server and kind of load.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Active series of the remote-write load.
    #[arg(long, default_value_t = 100_000)]
    series: usize,
    /// Samples in one remote-write request.
    #[arg(long, default_value_t = 2_000)]
    request_samples: usize,
    /// Connections that write at the same time.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Targets of the scrape load.
    #[arg(long, default_value_t = 100)]
    targets: usize,
    /// Series on each target.
    #[arg(long, default_value_t = 1_000)]
    target_series: usize,
    /// Scrape interval in seconds.
    #[arg(long, default_value_t = 1)]
    interval: u64,
    /// Which servers to run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Quiver, Kind::Prometheus, Kind::VictoriaMetrics])]
    servers: Vec<Kind>,
    /// Which loads to run.
    #[arg(long, value_delimiter = ',', default_values_t = ["remote-write".to_owned(), "scrape".to_owned()])]
    loads: Vec<String>,
    /// Where to write the table as Markdown; standard output gets it in any case.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(rows) => {
            let text = report::markdown(&options.describe(), &rows);
            println!("{}", report::table(&rows));
            if let Some(path) = &options.markdown
                && let Err(e) = std::fs::write(path, text)
            {
                eprintln!("cannot write {}: {e}", path.display());
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn describe(&self) -> String {
        format!(
            "remote write: {} series, {} samples a request, {} connections, {} s; scrape: {} targets x {} series every {} s, {} s",
            self.series,
            self.request_samples,
            self.connections,
            self.seconds,
            self.targets,
            self.target_series,
            self.interval,
            self.seconds
        )
    }
}

fn run(options: &Options) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for load in &options.loads {
        for kind in &options.servers {
            eprintln!("{load}: {} for {} s ...", kind.name(), options.seconds);
            rows.push(match load.as_str() {
                "remote-write" => remote_write::run(options, *kind)?,
                "scrape" => scrape::run(options, *kind)?,
                other => return Err(format!("no load named {other}: remote-write, scrape")),
            });
        }
    }
    Ok(rows)
}
