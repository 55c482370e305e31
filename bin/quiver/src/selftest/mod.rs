//! `quiver selftest`: a bounded run of load, faults and checks on the user's own machine, in a folder of its own.
//!
//! Owns: a temporary folder and the servers in it, all gone at the end.
//! Invariants: 1. nothing but that folder is written, nothing but loopback is spoken to; 2. a promise about loss fails
//! the run wherever it is tried; a figure never does, for machines differ.
//! Limits: some ten million samples, about a gigabyte on disk, about the given seconds of load and some for the faults.

mod child;
mod exporter;
mod faults;
mod judge;
mod load;
mod progress;
mod rows;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Failure;
use crate::args::{Output, SelftestArgs};
use child::{Child, failed};
use exporter::Exporter;
use judge::Book;
use load::{STEP_MS, WRITERS, Writer};
use progress::Progress;
use rows::Rows;

/// The load's samples begin so long ago: their windows are over, and none lies ahead of the clock.
const BACK_MS: i64 = 26 * 3_600_000;
/// Samples of one round, whatever the machine: keeps the temporary folder near a gigabyte.
const SAMPLES_MAX: u64 = 20_000_000;
/// Parts of the given time that the rounds of load get.
const ROUNDS: u64 = 3;
/// A server that shall be stopped under load gets no more load than that.
const FAULT_ROUND_MAX: Duration = Duration::from_secs(3);

/// What all steps work with.
struct Run {
    folder: TempDir,
    base_ms: i64,
    writers: Vec<Writer>,
    rows: Rows,
    progress: Progress,
    round: Duration,
}

/// What one round of load came to.
struct Round {
    samples: u64,
    seconds: f64,
}

/// Runs it; exit code 1 when a promise did not hold.
pub fn run(args: &SelftestArgs) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let seconds = args.seconds.clamp(1, 3_600);
    let mut run = Run::new(args, seconds)?;
    let outcome = run.all();
    run.progress.end();
    let Run { folder, rows, .. } = run;
    folder.close().map_err(|e| failed("remove the temporary folder", e))?;
    outcome?;
    let machine = machine();
    if args.output == Output::Json {
        println!("{}", rows.json(&machine, began.elapsed().as_secs_f64()));
    } else {
        println!("{machine}; figures are those of {seconds} s of load beside the generator on the same cores");
        rows.print();
        match rows.failed() {
            0 => println!("Every promise that was tried held."),
            n => println!("{n} of the promises did not hold."),
        }
    }
    Ok(if rows.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

impl Run {
    fn new(args: &SelftestArgs, seconds: u64) -> Result<Run, Failure> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("quiver-selftest-");
        let made = match &args.dir {
            Some(dir) => builder.tempdir_in(dir),
            None => builder.tempdir(),
        };
        let folder = made.map_err(|e| failed("make a temporary folder", e))?;
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let mut progress = Progress::new(args.output == Output::Table);
        progress.step("rendering the load");
        Ok(Run {
            folder,
            // On a step of its own, so that steps and windows do not drift apart from run to run.
            base_ms: (now_ms - BACK_MS).div_euclid(STEP_MS) * STEP_MS,
            writers: (0..WRITERS).map(Writer::new).collect(),
            rows: Rows::default(),
            progress,
            round: Duration::from_millis(seconds * 1_000 / ROUNDS),
        })
    }

    fn all(&mut self) -> Result<(), Failure> {
        let exporter = Exporter::start()?;
        child::write_config(self.folder.path(), exporter.port)?;
        self.progress.step("load");
        let server = Child::start(self.folder.path())?;
        self.rows.measured("start, empty", "<= 2 s", server.start_time.as_secs_f64(), "s");
        self.first_round(&server)?;
        self.kill_under_load(server)?;
        let server = self.stop_under_load()?;
        self.repeated(&server)?;
        self.at_rest(&server)?;
        let book = self.book();
        self.progress.step("torn tail");
        faults::torn_tail(server, self.folder.path(), &book, &mut self.rows)?;
        self.progress.step("flipped bit");
        faults::flipped_bit(self.folder.path(), &book, &mut self.rows)?;
        self.rows.not_run("5 disk full", "507, 0 lost", "needs a small file system of its own; `make soak` has it");
        self.rows.not_run("2 power cut", "0 lost", "needs a simulated disk; `make test` has thousands of them");
        Ok(())
    }

    fn book(&self) -> Book {
        Book { base_ms: self.base_ms, chunks: self.writers.iter().map(|w| (w.number, w.chunks.clone())).collect() }
    }

    /// Lets all writers work for a round, then does something to the server, then ends the round.
    fn load<T>(&mut self, port: u16, time: Duration, then: impl FnOnce() -> T) -> (Round, T) {
        let (stop, acked) = (AtomicBool::new(false), AtomicU64::new(0));
        let (base_ms, began) = (self.base_ms, Instant::now());
        std::thread::scope(|scope| {
            for writer in &mut self.writers {
                let (stop, acked) = (&stop, &acked);
                scope.spawn(move || writer.run(port, base_ms, stop, acked));
            }
            while began.elapsed() < time && acked.load(Ordering::Relaxed) < SAMPLES_MAX {
                std::thread::sleep(Duration::from_millis(5));
            }
            let round = Round { samples: acked.load(Ordering::Relaxed), seconds: began.elapsed().as_secs_f64() };
            let out = then();
            stop.store(true, Ordering::Relaxed);
            (round, out)
        })
    }

    fn fault_round(&self) -> Duration {
        self.round.min(FAULT_ROUND_MAX)
    }

    fn first_round(&mut self, server: &Child) -> Result<(), Failure> {
        let before = server.cpu_seconds()?;
        let (round, ()) = self.load(server.port, self.round, || ());
        let used = server.cpu_seconds()? - before;
        if round.samples == 0 {
            return Err(Failure::failed("the server took nothing of the load"));
        }
        let mut latencies: Vec<f64> = self.writers.iter().flat_map(|w| w.latencies_ms.iter().copied()).collect();
        latencies.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            let at = (latencies.len() as f64 * q) as usize;
            latencies.get(at.min(latencies.len().saturating_sub(1))).copied().unwrap_or(0.0)
        };
        let millions = round.samples as f64 / 1e6;
        let rows = &mut self.rows;
        rows.measured("remote write", ">= 1,000,000 on 2 cores", round.samples as f64 / round.seconds, "samples/s");
        rows.measured("CPU per million samples", "<= 1/3 of VictoriaMetrics", used / millions, "s");
        rows.measured("durable and readable, P50", "", quantile(0.50), "ms");
        rows.measured("durable and readable, P99", "< 100 ms", quantile(0.99), "ms");
        let series = server.metric("quiver_head_series")?.max(1.0);
        let memory = server.metric("process_resident_memory_bytes")?;
        rows.measured("memory per series, all included", "<= VictoriaMetrics", memory / series, "bytes");
        Ok(())
    }

    fn kill_under_load(&mut self, server: Child) -> Result<(), Failure> {
        self.progress.step("kill -9");
        self.load(server.port, self.fault_round(), || server.kill());
        let server = Child::start(self.folder.path())?;
        self.rows.measured("start after kill -9", "<= 2 s", server.start_time.as_secs_f64(), "s");
        let verdict = self.book().judge(&server)?;
        self.rows.check("1 kill -9 under load", "0 lost, doubled, altered", verdict.is_clean(), verdict.to_string());
        self.adopt(&verdict);
        self.progress.step("SIGTERM");
        let port = server.port;
        let (_, stopped) = self.load(port, self.fault_round(), || server.terminate());
        let (in_order, took) = stopped?;
        let seen = format!("{} in {:.2} s", if in_order { "stopped" } else { "did not stop" }, took.as_secs_f64());
        self.rows.check("7 SIGTERM under load: the end", "in order", in_order, seen);
        Ok(())
    }

    fn stop_under_load(&mut self) -> Result<Child, Failure> {
        let server = Child::start(self.folder.path())?;
        let verdict = self.book().judge(&server)?;
        self.rows.check("7 SIGTERM under load: the data", "0 lost", verdict.is_clean(), verdict.to_string());
        self.rows.check(
            "8 odd values",
            "bit-exact",
            verdict.altered == 0 && verdict.compared > 0,
            format!("{} compared", verdict.compared),
        );
        self.adopt(&verdict);
        Ok(server)
    }

    /// What was never answered but is there has to stay.
    fn adopt(&mut self, verdict: &judge::Verdict) {
        for (writer, found) in self.writers.iter_mut().zip(&verdict.found) {
            for (chunk, steps) in writer.chunks.iter_mut().zip(found) {
                chunk.acked = chunk.acked.max(*steps).min(chunk.sent);
            }
        }
    }

    /// Sends the last requests once more: nothing is counted twice.
    fn repeated(&mut self, server: &Child) -> Result<(), Failure> {
        self.progress.step("repeated requests");
        let (base_ms, mut sent) = (self.base_ms, 0);
        for writer in &mut self.writers {
            sent += writer.repeat(server.port, base_ms).map_err(|e| failed("send requests again", e))?;
        }
        let verdict = self.book().judge(server)?;
        let seen = format!("{sent} sent again, {}", verdict);
        self.rows.check("9 a repeated request", "counts once", verdict.is_clean() && sent > 0, seen);
        Ok(())
    }

    /// The ledger, the blocks, the scrubber.
    fn at_rest(&mut self, server: &Child) -> Result<(), Failure> {
        self.progress.step("blocks");
        let acked: u64 = self.writers.iter().map(Writer::acked).sum();
        let in_blocks = judge::wait_for_blocks(server, acked)?;
        let samples = server.metric("quiver_block_samples")?;
        if samples > 0.0 {
            let bytes = server.metric("quiver_block_bytes")?;
            let promise = "<= 0.8 bytes on node exporter data";
            self.rows.measured("disk per sample, blocks", promise, bytes / samples, "bytes");
        }
        self.progress.step("scrubber");
        let (clean, seen) = judge::scrub(server)?;
        self.rows.check("4 blocks read again", "every checksum agrees", clean, seen);
        let (balanced, seen) = judge::ledger(server, acked)?;
        self.rows.check("12 integrity ledger", "balances across restarts", balanced, seen);
        let verdict = self.book().judge(server)?;
        match in_blocks {
            true => self.rows.check("from the head into blocks", "0 lost", verdict.is_clean(), verdict.to_string()),
            false => self.rows.not_run("from the head into blocks", "0 lost", "the blocks were not ready in time"),
        }
        Ok(())
    }
}

/// Name of the processor and number of cores.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|l| l.strip_prefix("model name")).map(|l| l.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let build = if cfg!(debug_assertions) { ", not a release build" } else { "" };
    format!("{cores} cores of {}{build}", model.unwrap_or("an unnamed processor"))
}
