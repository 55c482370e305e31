//! Latencies of the promised queries, cold and warm, on the same data in each server.

use std::time::{Duration, Instant};

use crate::Options;
use crate::http::{Client, escaped};
use crate::measure::{self, now_ms, p50_p99};
use crate::payload::{HOST_SERIES, labels};
use crate::probe::WRITE_HEADERS;
use crate::progress::Progress;
use crate::remote_body::RemoteBody;
use crate::remote_write::NO_SCRAPES;
use crate::report::Row;
use crate::server::{Kind, Server};

const STEP_MS: i64 = 15_000;
const HOUR_MS: i64 = 3_600_000;
/// Between the windows of the data and now, so that every server has closed them.
const AGE_MS: i64 = 15 * 60_000;
/// Buckets of the histogram's series, and instances that have it.
const BOUNDS: [&str; 10] = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "+Inf"];
const INSTANCES: usize = 100;

/// A promised query.
struct Query {
    name: &'static str,
    text: String,
    /// Length and step of a range query in seconds; `None` for an instant one.
    range_s: Option<(i64, i64)>,
}

fn queries() -> Vec<Query> {
    let one = labels(3).into_iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect::<Vec<_>>().join(",");
    let query = |name, text: &str, range_s| Query { name, text: text.to_owned(), range_s };
    let by_le = "sum by (le) (rate(http_request_duration_seconds_bucket[5m]))";
    vec![
        query("instant sum by", "sum by (mode) (node_cpu_seconds_total)", None),
        query(
            "1 h range of rate over 1,000 series",
            "rate(node_cpu_seconds_total{instance=~\"host-0000[0-9][.].*\"}[5m])",
            Some((3_600, 15)),
        ),
        query("histogram_quantile, 1 h", &format!("histogram_quantile(0.99, {by_le})"), Some((3_600, 60))),
        query("topk", "topk(10, node_network_receive_bytes_total)", None),
        query("24 h range over one series", &format!("{{{one}}}"), Some((86_400, 60))),
        query("regex over 100k series", "count({__name__=~\"node_.*\",device=~\"nvme[12]n1\"})", None),
    ]
}

/// The number of samples of the backfilled data: a day of one host, an hour of all and of the histogram.
struct Data {
    end_ms: i64,
    series: usize,
}

pub fn run(options: &Options, kind: Kind) -> Result<Vec<Row>, String> {
    let folder = options.folder()?;
    let mut server = Server::start(kind, options, folder.path(), NO_SCRAPES)?;
    let end_ms = (now_ms() - AGE_MS) / HOUR_MS * HOUR_MS;
    let data = Data { end_ms, series: options.query_series };
    let samples = backfill(&server, &data)?;
    let disk = settle(&mut server)?;
    let mut rows = vec![disk_row(options, &server, samples, disk)];
    for query in queries() {
        rows.push(measure_query(options, &mut server, &query, end_ms)?);
    }
    Ok(rows)
}

/// Lets a server do its slow work on old data: a stop and a start, then what it offers, then rest. Gives its bytes.
pub fn settle(server: &mut Server) -> Result<u64, String> {
    eprintln!("{}: waiting until it has merged its files ...", server.kind.name());
    server.stop()?;
    server.spawn()?;
    server.wait_until_ready()?;
    if server.kind == Kind::VictoriaMetrics {
        server.flushed_bytes()?;
    }
    // Our own server and Prometheus look for old windows every few seconds and every minute.
    std::thread::sleep(Duration::from_secs(if server.kind == Kind::Prometheus { 70 } else { 10 }));
    server.wait_until_quiet();
    Ok(server.disk_bytes())
}

fn disk_row(options: &Options, server: &Server, samples: u64, bytes: u64) -> Row {
    let mut row = Row::new("disk, backfilled data of the queries", server.kind.name(), server.kind.version(options));
    row.set("samples", samples as f64);
    row.set("mib", bytes as f64 / 1_048_576.0);
    row.set("bytes_per_sample", bytes as f64 / samples as f64);
    row
}

/// Writes the data in order of time, as every server takes it; gives the number of samples.
fn backfill(server: &Server, data: &Data) -> Result<u64, String> {
    let progress = Progress::start(format!("queries, {}: backfill", server.kind.name()));
    let mut client = server.client()?;
    let mut samples = 0;
    let mut day = [RemoteBody::new(0..HOST_SERIES, now_ms())];
    let mut hour: Vec<RemoteBody> = (0..data.series)
        .step_by(5_000)
        .map(|at| RemoteBody::new(at..(at + 5_000).min(data.series), now_ms()))
        .collect();
    let mut buckets = RemoteBody::of(bucket_series().into_iter().enumerate(), now_ms());
    let hour_start = data.end_ms - HOUR_MS;
    let mut ts_ms = data.end_ms - 24 * HOUR_MS;
    let mut step = 0u64;
    while ts_ms < data.end_ms {
        let bodies = if ts_ms < hour_start { &mut day[..] } else { &mut hour[..] };
        for body in bodies {
            let bytes = body.render(ts_ms, step);
            write(&mut client, server, bytes)?;
            samples += body.samples() as u64;
            progress.add(body.samples() as u64);
        }
        if ts_ms >= hour_start {
            // Cumulative buckets: each bound has more than the one before.
            let rising = |n: usize| (step * (1 + (n % BOUNDS.len()) as u64) * (1 + n as u64 / 10 % 7)) as f64;
            write(&mut client, server, buckets.render_with(ts_ms, rising))?;
            samples += buckets.samples() as u64;
        }
        ts_ms += STEP_MS;
        step += 1;
    }
    Ok(samples)
}

pub fn write(client: &mut Client, server: &Server, bytes: &[u8]) -> Result<(), String> {
    let answer = client.request("POST", server.kind.write_path(), WRITE_HEADERS, bytes);
    let answer = answer.map_err(|e| format!("backfill: {e}"))?;
    if answer.is_good() { Ok(()) } else { Err(format!("backfill: {}: {}", answer.status, answer.text())) }
}

fn bucket_series() -> Vec<Vec<(&'static str, String)>> {
    let series = |instance: usize, le: &str| {
        vec![
            ("__name__", "http_request_duration_seconds_bucket".to_owned()),
            ("instance", format!("host-{instance:05}.example.net:8080")),
            ("job", "api".to_owned()),
            ("le", le.to_owned()),
        ]
    };
    (0..INSTANCES).flat_map(|i| BOUNDS.iter().map(move |le| series(i, le))).collect()
}

/// Cold: the first question after a start, with the kernel's cache of files emptied where that is allowed. Warm: again and
/// again, the range a step earlier each time.
fn measure_query(options: &Options, server: &mut Server, query: &Query, end_ms: i64) -> Result<Row, String> {
    eprintln!("queries, {}: {} ...", server.kind.name(), query.name);
    let mut cold = Vec::new();
    let mut emptied = true;
    for _ in 0..options.cold_runs {
        server.stop()?;
        emptied &= measure::drop_caches();
        server.spawn()?;
        server.wait_until_ready()?;
        let mut client = server.client()?;
        cold.push(ask(&mut client, query, end_ms)?.0);
    }
    let mut client = server.client()?;
    let (mut warm, mut bytes, begin) = (Vec::new(), 0, Instant::now());
    for run in 0..options.warm_runs as i64 {
        let (waited, answer) = ask(&mut client, query, end_ms - run % 20 * STEP_MS)?;
        (bytes, _) = (answer, warm.push(waited));
        if begin.elapsed() > Duration::from_secs(options.seconds.max(5)) {
            break;
        }
    }
    let mut row = Row::new(&format!("query: {}", query.name), server.kind.name(), server.kind.version(options));
    let (p50, p99) = p50_p99(cold);
    row.set("cold_p50_ms", p50);
    row.set("cold_p99_ms", p99);
    row.set("cache_emptied", f64::from(u8::from(emptied)));
    row.set("warm_runs", warm.len() as f64);
    let (p50, p99) = p50_p99(warm);
    row.set("warm_p50_ms", p50);
    row.set("warm_p99_ms", p99);
    row.set("answer_bytes", bytes as f64);
    Ok(row)
}

/// Asks once; gives milliseconds to the last byte of the answer, and its bytes.
fn ask(client: &mut Client, query: &Query, end_ms: i64) -> Result<(f64, usize), String> {
    // The data ends a step before its end.
    let end = (end_ms - STEP_MS) / 1000;
    let text = escaped(&query.text);
    let path = match query.range_s {
        None => format!("/api/v1/query?query={text}&time={end}"),
        Some((length, step)) => {
            format!("/api/v1/query_range?query={text}&start={}&end={end}&step={step}", end - length)
        }
    };
    let begin = Instant::now();
    let answer = client.get(&path).map_err(|e| format!("{}: {e}", query.name))?;
    let waited = begin.elapsed().as_secs_f64() * 1000.0;
    if !answer.is_good() {
        return Err(format!("{}: {}: {}", query.name, answer.status, answer.text()));
    }
    // Nothing found would be fast and worth nothing.
    let body = answer.text();
    if body.contains("\"result\":[]") {
        return Err(format!("{}: found nothing at {end}", query.name));
    }
    Ok((waited, answer.body.len()))
}
