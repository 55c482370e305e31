//! The remote-write load: each connection sends request after request, as fast as the server answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::payload::RemoteBody;
use crate::report::Row;
use crate::server::{Kind, Server};
use crate::{Options, measure};

/// What one connection did.
#[derive(Default)]
struct Sent {
    samples: u64,
    refused: u64,
    latencies_ms: Vec<f64>,
}

pub fn run(options: &Options, kind: Kind) -> Result<Row, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let server = Server::start(kind, options, folder.path(), "global:\n  scrape_interval: 1h\n")?;
    let cpu_before = server.cpu_seconds()?;
    let begin = Instant::now();
    let sent = send_from_all_connections(options, server.port)?;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = server.cpu_seconds()? - cpu_before;
    let samples: u64 = sent.iter().map(|s| s.samples).sum();
    let refused: u64 = sent.iter().map(|s| s.refused).sum();
    let mut latencies: Vec<f64> = sent.into_iter().flat_map(|s| s.latencies_ms).collect();
    latencies.sort_by(f64::total_cmp);
    // What was acknowledged must be there; some servers show it only after their own delay.
    std::thread::sleep(Duration::from_secs(3));
    let resident = server.resident_bytes();
    let found = server.number("sum(count_over_time(%7Bjob%3D%22node%22%7D%5B1d%5D))")?;
    Ok(Row {
        load: "remote write".to_owned(),
        server: kind.name().to_owned(),
        version: kind.version(options),
        samples_per_second: samples as f64 / seconds,
        cpu_seconds_per_million: cpu / (samples as f64 / 1e6),
        p50_ms: measure::quantile(&latencies, 0.5),
        p99_ms: measure::quantile(&latencies, 0.99),
        resident_bytes: resident,
        disk_bytes: measure::disk_bytes(&folder.path().join("data")),
        sent: samples,
        refused,
        found: found as u64,
    })
}

fn send_from_all_connections(options: &Options, port: u16) -> Result<Vec<Sent>, String> {
    let share = options.series.div_ceil(options.connections);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.connections)
            .map(|c| {
                let series = c * share..((c + 1) * share).min(options.series);
                scope.spawn(move || send(options, port, series))
            })
            .collect();
        threads.into_iter().map(|t| t.join().map_err(|_| "a sender panicked".to_owned())?).collect()
    })
}

/// Sends one sample of each series per round until the time is over.
fn send(options: &Options, port: u16, series: std::ops::Range<usize>) -> Result<Sent, String> {
    let now_ms = now_ms();
    let mut bodies: Vec<RemoteBody> = series
        .clone()
        .step_by(options.request_samples)
        .map(|start| RemoteBody::new(start..(start + options.request_samples).min(series.end), now_ms))
        .collect();
    let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let mut reader = BufReader::new(stream.try_clone().map_err(|e| e.to_string())?);
    let mut writer = stream;
    let mut sent = Sent::default();
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    let (mut step, mut last_ts) = (0u64, 0i64);
    while Instant::now() < deadline {
        // Times of a series must rise, and a fast server gets through a round in less than a millisecond.
        let ts_ms = self::now_ms().max(last_ts + 1);
        last_ts = ts_ms;
        for body in &mut bodies {
            let samples = body.samples() as u64;
            let bytes = body.render(ts_ms, step);
            let begin = Instant::now();
            let status = post(&mut writer, &mut reader, port, bytes).map_err(|e| format!("sending: {e}"))?;
            sent.latencies_ms.push(begin.elapsed().as_secs_f64() * 1000.0);
            if (200..300).contains(&status) {
                sent.samples += samples
            } else {
                sent.refused += samples
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        step += 1;
    }
    Ok(sent)
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// One HTTP/1.1 request on a connection that stays open; gives the status.
fn post(writer: &mut TcpStream, reader: &mut BufReader<TcpStream>, port: u16, body: &[u8]) -> std::io::Result<u16> {
    let head = format!(
        "POST /api/v1/write HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/x-protobuf\r\n\
         Content-Encoding: snappy\r\nX-Prometheus-Remote-Write-Version: 0.1.0\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    writer.write_all(head.as_bytes())?;
    writer.write_all(body)?;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut length = 0usize;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut rest = vec![0; length];
    reader.read_exact(&mut rest)?;
    Ok(status)
}
