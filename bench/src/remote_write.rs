//! The remote-write load: each connection sends request after request, as fast as the server answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::measure::{now_ms, p50_p99};
use crate::payload::Churn;
use crate::probe::{self, WRITE_HEADERS};
use crate::progress::Progress;
use crate::remote_body::RemoteBody;
use crate::report::Row;
use crate::restart;
use crate::server::{Kind, Server};
use crate::{Options, measure};

/// InfluxDB 1.6 keeps every series in memory at a cost that a million would not fit here.
const INFLUX_SERIES_MAX: usize = 100_000;
/// Where nothing is scraped.
pub const NO_SCRAPES: &str = "global:\n  scrape_interval: 1h\n";

/// What all connections did.
#[derive(Default)]
struct Sent {
    samples: u64,
    refused: u64,
    waited_ms: Vec<f64>,
}

/// What the load is.
#[derive(Clone, Copy)]
pub struct Load {
    pub series: usize,
    pub seconds: u64,
    /// Whether the server is killed and started again at the end.
    pub restarts: bool,
}

/// Puts the load on a fresh server; gives the row, and the row of the start after a kill if that was asked for.
pub fn run(options: &Options, kind: Kind, load: Load) -> Result<Vec<Row>, String> {
    let series = if kind == Kind::Influxdb { load.series.min(INFLUX_SERIES_MAX) } else { load.series };
    let folder = options.folder()?;
    let mut server = Server::start(kind, options, folder.path(), NO_SCRAPES)?;
    let mut bodies = bodies(options, series);
    let progress = Progress::start(format!("remote write, {}, {series} series", kind.name()));
    // The first round makes the series; what is measured is the steady state behind it.
    send(options, &server, &mut bodies, series, Duration::ZERO, &progress)?;
    let (stop, started) = (AtomicBool::new(false), Instant::now());
    let (cpu_before, own_before) = (server.cpu_seconds()?, measure::own_cpu_seconds());
    let (sent, delays) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| probe::by_remote_write(&server, &stop));
        let sent = send(options, &server, &mut bodies, series, Duration::from_secs(load.seconds), &progress);
        stop.store(true, Ordering::Relaxed);
        (sent, watching.join().unwrap_or_else(|_| Err("the probe panicked".to_owned())))
    });
    let (sent, delays) = (sent?, delays?);
    let seconds = started.elapsed().as_secs_f64();
    let (cpu, own) = (server.cpu_seconds()? - cpu_before, measure::own_cpu_seconds() - own_before);
    drop(progress);
    let mut row = Row::new("remote write", kind.name(), kind.version(options));
    let millions = sent.samples as f64 / 1e6;
    row.set("series", series as f64);
    row.set("samples_per_second", sent.samples as f64 / seconds);
    row.set("cpu_s_per_million", cpu / millions);
    row.set("generator_cpu_s_per_million", own / millions);
    let (p50, p99) = p50_p99(sent.waited_ms);
    row.set("answer_p50_ms", p50);
    row.set("answer_p99_ms", p99);
    let seen = !delays.is_empty();
    let (p50, p99) = p50_p99(delays);
    if seen {
        row.set("visible_p50_ms", p50);
        row.set("visible_p99_ms", p99);
    }
    // What was acknowledged must be there; some servers show it only after their own delay.
    std::thread::sleep(Duration::from_secs(3));
    let resident = server.resident_bytes();
    row.set("rss_mib", resident as f64 / 1_048_576.0);
    row.set("rss_bytes_per_series", resident as f64 / series as f64);
    let acknowledged = sent.samples + series as u64;
    row.set("acknowledged", acknowledged as f64);
    row.set("refused", sent.refused as f64);
    row.set("found", server.found("job=\"node\"")? as f64);
    row.set("disk_bytes_per_sample_now", server.disk_bytes() as f64 / acknowledged as f64);
    let mut rows = Vec::new();
    if load.restarts {
        rows.push(restart::run(options, &mut server, resident, acknowledged)?);
    }
    if let Some(bytes) = server.flushed_bytes()? {
        row.set("disk_bytes_per_sample_flushed", bytes as f64 / acknowledged as f64);
    }
    rows.insert(0, row);
    Ok(rows)
}

/// The requests of each connection.
fn bodies(options: &Options, series: usize) -> Vec<Vec<RemoteBody>> {
    let share = series.div_ceil(options.connections.max(1));
    let now_ms = now_ms();
    (0..options.connections.max(1))
        .map(|c| (c * share).min(series)..((c + 1) * share).min(series))
        .map(|mine| {
            let starts = mine.clone().step_by(options.request_samples.max(1));
            starts.map(|at| RemoteBody::new(at..(at + options.request_samples.max(1)).min(mine.end), now_ms)).collect()
        })
        .collect()
}

/// Sends from all connections at once: for a time, or without one each body once.
fn send(
    options: &Options,
    server: &Server,
    bodies: &mut [Vec<RemoteBody>],
    series: usize,
    time: Duration,
    progress: &Progress,
) -> Result<Sent, String> {
    let connections = bodies.len().max(1);
    let round = AtomicU64::new(0);
    let all: Result<Vec<Sent>, String> = std::thread::scope(|scope| {
        let threads: Vec<_> = bodies
            .iter_mut()
            .map(|mine| {
                let churn = Churn::new(series / connections, options.churn);
                let round = &round;
                scope.spawn(move || send_on_one(server, mine, churn, time, round, progress))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a sender panicked".to_owned()))).collect()
    });
    Ok(all?.into_iter().fold(Sent::default(), |mut sum, one| {
        sum.samples += one.samples;
        sum.refused += one.refused;
        sum.waited_ms.extend(one.waited_ms);
        sum
    }))
}

/// Sends one sample of each series per round until the time is over.
fn send_on_one(
    server: &Server,
    bodies: &mut [RemoteBody],
    mut churn: Churn,
    time: Duration,
    round: &AtomicU64,
    progress: &Progress,
) -> Result<Sent, String> {
    let mut client = server.client()?;
    let mut sent = Sent::default();
    let begin = Instant::now();
    let (mut last_ts, mut next_replaced) = (0i64, 0usize);
    loop {
        // Times of a series must rise, and a fast server gets through a round in less than a millisecond.
        let ts_ms = now_ms().max(last_ts + 1);
        last_ts = ts_ms;
        let step = round.fetch_add(1, Ordering::Relaxed);
        for at in 0..bodies.len() {
            if !time.is_zero() && begin.elapsed() >= time {
                return Ok(sent);
            }
            let body = &mut bodies[at];
            let bytes = body.render(ts_ms, step);
            let answer = client.request("POST", server.kind.write_path(), WRITE_HEADERS, bytes);
            let answer = answer.map_err(|e| format!("sending: {e}"))?;
            sent.waited_ms.push(answer.waited.as_secs_f64() * 1000.0);
            let samples = body.samples() as u64;
            if answer.is_good() {
                sent.samples += samples;
                progress.add(samples);
            } else {
                sent.refused += samples;
            }
            let due = churn.due(if time.is_zero() { 0.0 } else { begin.elapsed().as_secs_f64() });
            if due > 0 {
                // One request's series are replaced together, as when a host restarts.
                bodies[next_replaced].replace(due);
                next_replaced = (next_replaced + 1) % bodies.len();
            }
        }
        if time.is_zero() || bodies.is_empty() {
            return Ok(sent);
        }
    }
}
