//! The ways in: what a million samples costs the server by each of them, and the rivals that have the same way.
//!
//! Of Debian's servers none takes remote write 2.0 or OTLP (Prometheus 2.42 and VictoriaMetrics 1.79 are older than both). Prometheus reads
//! protobuf of a target that answers in it, VictoriaMetrics does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::measure::{now_ms, p50_p99};
use crate::payload::{HOST_SERIES, TextBody};
use crate::probe::WRITE_HEADERS;
use crate::progress::Progress;
use crate::remote_body::RemoteBody;
use crate::remote_write::NO_SCRAPES;
use crate::report::Row;
use crate::scrape::{self, Shape};
use crate::server::{Kind, Server};
use crate::way_bodies::{Body, JsonBody, OtlpBody, SecondBody};
use crate::{Options, measure};

const SECTION: &str = "ways in, CPU of the server";
const V2_HEADERS: &str = "Content-Type: application/x-protobuf;proto=io.prometheus.write.v2.Request\r\n\
                          Content-Encoding: snappy\r\nX-Prometheus-Remote-Write-Version: 2.0.0\r\n";

/// A way in that a client pushes by.
pub struct Way {
    name: &'static str,
    method: &'static str,
    headers: &'static str,
    path: fn(Kind, usize) -> String,
    body: fn(std::ops::Range<usize>) -> Box<dyn Body>,
    /// Who else has it.
    rivals: &'static [Kind],
}

pub const PUSHED: [Way; 5] = [
    Way {
        name: "remote write 1.0",
        method: "POST",
        headers: WRITE_HEADERS,
        path: |kind, _| kind.write_path().to_owned(),
        body: |series| Box::new(RemoteBody::new(series, now_ms())),
        rivals: &[Kind::Prometheus, Kind::VictoriaMetrics, Kind::Influxdb],
    },
    Way {
        name: "remote write 2.0",
        method: "POST",
        headers: V2_HEADERS,
        path: |_, _| "/api/v1/write".to_owned(),
        body: |series| Box::new(SecondBody::new(series)),
        rivals: &[],
    },
    Way {
        name: "OTLP/HTTP protobuf",
        method: "POST",
        headers: "Content-Type: application/x-protobuf\r\n",
        path: |_, _| "/api/v1/otlp/v1/metrics".to_owned(),
        body: |series| Box::new(OtlpBody::new(series)),
        rivals: &[],
    },
    Way {
        name: "custom JSON",
        method: "POST",
        headers: "Content-Type: application/json\r\n",
        path: |_, _| "/api/v1/metrics/custom?source_id=node".to_owned(),
        body: |series| Box::new(JsonBody::new(series)),
        rivals: &[],
    },
    Way {
        name: "Pushgateway",
        method: "PUT",
        headers: "Content-Type: text/plain; version=0.0.4\r\n",
        path: |_, group| format!("/metrics/job/node/instance/host-{group:05}.example.net"),
        // A group is a host.
        body: |series| Box::new(TextBody::new(series.start / HOST_SERIES, HOST_SERIES)),
        rivals: &[],
    },
];

/// A way in by which the server comes for the samples.
const SCRAPED: [(&str, Shape, &[Kind]); 3] = [
    ("scraped text", Shape::Text, &[Kind::Prometheus, Kind::VictoriaMetrics]),
    ("scraped OpenMetrics", Shape::OpenMetrics, &[Kind::Prometheus]),
    ("scraped protobuf", Shape::Protobuf, &[Kind::Prometheus]),
];

/// Puts each way's load on a fresh Quiver, then on each of the installed rivals that have it.
pub fn run(options: &Options, installed: &[Kind]) -> Vec<Row> {
    let mut rows = Vec::new();
    let with = |rivals: &'static [Kind]| {
        let is_there = |kind: &&Kind| **kind == Kind::Quiver || installed.contains(kind);
        [&[Kind::Quiver], rivals].concat().iter().filter(is_there).copied().collect::<Vec<_>>()
    };
    for way in &PUSHED {
        for kind in with(way.rivals) {
            let row = push(options, kind, way);
            rows.push(row.unwrap_or_else(|error| failed(&title(way.name, kind), &error)));
        }
    }
    for (name, shape, rivals) in SCRAPED {
        for kind in with(rivals) {
            let load = scrape::Load {
                name: name.to_owned(),
                targets: options.way_series.div_ceil(1_000),
                target_series: 1_000,
                interval_s: 1,
                seconds: options.way_seconds(),
                shape,
                says_protocol: kind == Kind::Quiver,
            };
            let title = title(name, kind);
            rows.push(match scrape::run(options, kind, &load) {
                Ok(row) => renamed(&row, &title),
                Err(error) => failed(&title, &error),
            });
        }
    }
    rows
}

fn title(way: &str, kind: Kind) -> String {
    if kind == Kind::Quiver { way.to_owned() } else { format!("{way}, {}", kind.name()) }
}

/// A way that did not go through is shown as such; the others are measured.
fn failed(name: &str, error: &str) -> Row {
    eprintln!("{name}: {error}");
    Row::new(SECTION, name, format!("failed: {}", error.chars().take(200).collect::<String>()))
}

fn renamed(row: &Row, name: &str) -> Row {
    let mut out = Row::new(SECTION, name, row.version.clone());
    for figure in ["series", "samples_per_second", "cpu_s_per_million", "generator_cpu_s_per_million"] {
        if let Some(value) = row.get(figure) {
            out.set(figure, value);
        }
    }
    out
}

/// What one connection sends: bodies with the numbers of their groups.
pub type Share = Vec<(usize, Box<dyn Body>)>;

/// Deals the series out to the connections.
pub fn shares(options: &Options, way: &Way) -> Vec<Share> {
    let request = if way.name == "Pushgateway" { HOST_SERIES } else { options.request_samples.max(1) };
    let connections = options.connections.max(1);
    let mut shares: Vec<Share> = (0..connections).map(|_| Vec::new()).collect();
    for (group, start) in (0..options.way_series).step_by(request).enumerate() {
        let body = (way.body)(start..(start + request).min(options.way_series));
        shares[group % connections].push((group, body));
    }
    shares
}

fn push(options: &Options, kind: Kind, way: &Way) -> Result<Row, String> {
    let folder = options.folder()?;
    let server = Server::start(kind, options, folder.path(), NO_SCRAPES)?;
    let title = title(way.name, kind);
    let progress = Progress::start(format!("{SECTION}: {title}"));
    let mut shares = shares(options, way);
    // The first round makes the series.
    send(&server, way, &mut shares, Duration::ZERO, &progress)?;
    let (begin, cpu_before, own_before) = (Instant::now(), server.cpu_seconds()?, measure::own_cpu_seconds());
    let (samples, waited) = send(&server, way, &mut shares, Duration::from_secs(options.way_seconds()), &progress)?;
    let seconds = begin.elapsed().as_secs_f64();
    let millions = samples as f64 / 1e6;
    let mut row = Row::new(SECTION, &title, kind.version(options));
    row.set("series", options.way_series as f64);
    row.set("samples_per_second", samples as f64 / seconds);
    row.set("cpu_s_per_million", (server.cpu_seconds()? - cpu_before) / millions);
    row.set("generator_cpu_s_per_million", (measure::own_cpu_seconds() - own_before) / millions);
    let (p50, p99) = p50_p99(waited);
    row.set("answer_p50_ms", p50);
    row.set("answer_p99_ms", p99);
    Ok(row)
}

/// Sends from all connections: for a time, or without one each body once. Gives samples and waits.
pub fn send(
    server: &Server,
    way: &Way,
    shares: &mut [Share],
    time: Duration,
    progress: &Progress,
) -> Result<(u64, Vec<f64>), String> {
    let (step, kind) = (AtomicU64::new(1), server.kind);
    let one = |mine: &mut Share| -> Result<(u64, Vec<f64>), String> {
        let mut client = server.client()?;
        let (begin, mut samples, mut waited, mut last_ts) = (Instant::now(), 0u64, Vec::new(), 0i64);
        loop {
            let ts_ms = now_ms().max(last_ts + 1);
            last_ts = ts_ms;
            let step = step.fetch_add(1, Ordering::Relaxed);
            for (group, body) in mine.iter_mut() {
                if !time.is_zero() && begin.elapsed() >= time {
                    return Ok((samples, waited));
                }
                let bytes = body.render(ts_ms, step);
                let answer = client.request(way.method, &(way.path)(kind, *group), way.headers, bytes);
                let answer = answer.map_err(|e| format!("sending: {e}"))?;
                if !answer.is_good() {
                    return Err(format!("{}: {}", answer.status, answer.text()));
                }
                waited.push(answer.waited.as_secs_f64() * 1000.0);
                samples += body.samples() as u64;
                progress.add(body.samples() as u64);
            }
            if time.is_zero() || mine.is_empty() {
                return Ok((samples, waited));
            }
        }
    };
    let all: Vec<Result<(u64, Vec<f64>), String>> = std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = shares.iter_mut().map(|mine| scope.spawn(move || one(mine))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a sender panicked".to_owned()))).collect()
    });
    let (mut samples, mut waited) = (0, Vec::new());
    for one in all {
        let (n, waits) = one?;
        samples += n;
        waited.extend(waits);
    }
    Ok((samples, waited))
}
