//! The soak: a server under load that is killed, stopped and starved of room again and again, and asked each time for all
//! that it acknowledged.
//!
//! `make soak` runs it; what it prints is for `docs/bench`. It ends with 1 when anything acknowledged was lost, doubled or
//! altered, when a stop or a start failed, or when the server stayed full after room was made.

mod book;
mod full;
mod load;
#[path = "../message.rs"]
mod message;
mod report;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;

use crate::book::Book;
use crate::load::{Exporter, Figures};
use crate::report::Summary;
use crate::server::Server;

/// Kills and starves a server under load and checks what it acknowledged.
#[derive(Parser, Debug, Clone)]
#[command(version)]
struct Options {
    /// The quiver binary.
    #[arg(long)]
    quiver: PathBuf,
    /// How long to run.
    #[arg(long, env = "QUIVER_SOAK_MINUTES", default_value_t = 30.0)]
    minutes: f64,
    /// How often to end the server in that time.
    #[arg(long, default_value_t = 100)]
    ends: u64,
    /// Cycles on a full disk; they need root, for a small file system of their own.
    #[arg(long, default_value_t = 100)]
    full: u64,
    /// Decides how long each life is and how it ends.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write the summary as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let summary = match run(&options) {
        Ok(summary) => summary,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    };
    let text = summary.markdown(&options);
    println!("{text}");
    if let Some(path) = &options.markdown
        && let Err(error) = std::fs::write(path, &text)
    {
        eprintln!("{}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    /// Gives a number below `limit`; 0 when the limit is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).checked_rem(limit).unwrap_or(0)
    }
}

fn run(options: &Options) -> Result<Summary, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut dice = Dice(options.seed);
    let mut summary = Summary::default();
    let exporter = Exporter::start()?;
    let config = folder.path().join("quiver.yml");
    std::fs::write(&config, exporter.config()).map_err(|e| format!("{}: {e}", config.display()))?;
    let data = folder.path().join("data");
    let mut book = Book::new(server::now_ms() - 2 * 3_600_000);
    let begin = Instant::now();
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    // Two thirds of the time under load, the rest for the full disk and the last check.
    let loaded = length.mul_f64(0.67);
    let mean_ms = (loaded.as_millis() as u64 / options.ends.max(1)).max(400);
    while begin.elapsed() < loaded {
        let server = Server::start(&options.quiver, &data, Some(&config))?;
        summary.starts_ms.push(server.start_ms);
        book.check_new(&server, &mut summary)?;
        let life = Duration::from_millis(mean_ms / 4 + dice.below(mean_ms));
        let (stop, figures) = (AtomicBool::new(false), Figures::default());
        book = std::thread::scope(|scope| {
            let load = scope.spawn(|| load::run(&server, book, &stop, &figures));
            std::thread::sleep(life);
            summary.resident_mib.push(server.resident_bytes() as f64 / 1_048_576.0);
            summary.note_balance(&server);
            let by_term = dice.below(4) == 0;
            let ended = server.end(by_term);
            stop.store(true, Ordering::Relaxed);
            summary.note_end(by_term, &ended);
            load.join().unwrap_or_else(|_| Err("the load panicked".to_owned()))
        })?;
        summary.note_figures(&figures);
        eprintln!("{:.0} s: {}", begin.elapsed().as_secs_f64(), summary.line());
    }
    let server = Server::start(&options.quiver, &data, Some(&config))?;
    book.check_all(&server, &mut summary)?;
    summary.scrapes = exporter.served();
    summary.scrapes_found = server.number("sum(count_over_time(up{job=\"soak\"}[1d]))").unwrap_or(0.0) as u64;
    summary.note_end(true, &server.end(true));
    if options.full > 0 {
        let until = begin + length;
        full::run(options, until, &mut dice, &mut summary)?;
    }
    Ok(summary)
}
