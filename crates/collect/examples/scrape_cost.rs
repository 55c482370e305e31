//! Prints what a sample of a repeated scrape costs from body to batch: parse, cache, batch; and of a first one.
//!
//! `cargo run --release -p collect --example scrape_cost`

use std::fmt::Write as _;
use std::time::Instant;

use collect::{BodyReader, TargetSpec};
use model::{Batch, Labels, SeriesId};
use url::Url;
use wire::Format;

const SERIES: usize = 2_000;
const ROUNDS: u64 = 1_000;
const BODIES: u64 = 8;

fn main() {
    for format in [Format::Text, Format::OpenMetrics] {
        let end = if format == Format::OpenMetrics { "# EOF\n" } else { "" };
        let bodies: Vec<String> = (0..BODIES).map(|round| body(round, end)).collect();
        let line = bodies[0].len() / SERIES;
        println!("{format:?}: {SERIES} series, {line} bytes a line, values change with every scrape");
        row("known, same order", format, &bodies);
        let mut moved = bodies.clone();
        for body in moved.iter_mut().skip(1).step_by(2) {
            body.insert_str(0, "one_more_series 1\n");
        }
        row("one line comes and goes", format, &moved);
        first(format, &bodies[0]);
    }
}

/// Measures scrapes whose series are known.
fn row(what: &str, format: Format, bodies: &[String]) {
    let mut reader = reader();
    let (mut best, mut sum) = (f64::INFINITY, 0.0);
    for round in 0..ROUNDS {
        let body = &bodies[(round % BODIES) as usize];
        let start = Instant::now();
        let mut batch = read(&mut reader, format, body, round);
        let read_ns = start.elapsed().as_nanos() as f64;
        give_ids(&mut batch);
        let start = Instant::now();
        reader.stored(&mut batch);
        let nanos = (read_ns + start.elapsed().as_nanos() as f64) / SERIES as f64;
        if round > 2 * BODIES {
            best = best.min(nanos);
            sum += nanos;
        }
    }
    let mean = sum / (ROUNDS - 2 * BODIES - 1) as f64;
    println!("  {what:26} best {best:6.1} ns/sample, mean {mean:6.1}");
}

/// Measures scrapes that nothing is known of.
fn first(format: Format, body: &str) {
    let mut best = f64::INFINITY;
    for round in 0..ROUNDS / 20 {
        let mut reader = reader();
        let start = Instant::now();
        let mut batch = read(&mut reader, format, body, round);
        reader.stored(&mut batch);
        best = best.min(start.elapsed().as_nanos() as f64 / SERIES as f64);
    }
    println!("  {:26} best {best:6.1} ns/sample", "first scrape");
}

fn read(reader: &mut BodyReader, format: Format, body: &str, round: u64) -> Batch {
    let (batch, result) = reader.read(format, body.as_bytes(), 1_750_000_000_000 + round as i64 * 15_000, 1);
    assert!(result.is_ok_and(|samples| samples >= SERIES as u64));
    batch
}

/// Stands in for the store: what has no id yet gets one.
fn give_ids(batch: &mut Batch) {
    for (at, series) in (1..).zip(&mut batch.series) {
        if !series.id.is_some() {
            series.id = SeriesId(at);
        }
    }
}

fn reader() -> BodyReader {
    let url = Url::parse("http://node:9100/metrics").unwrap_or_else(|e| panic!("{e}"));
    BodyReader::new(TargetSpec::new("node", url, Labels::from_pairs([("job", "node"), ("instance", "node:9100")])))
}

/// A body like a node exporter's: five labels a series, about 150 bytes a line.
fn body(round: u64, end: &str) -> String {
    let mut out = String::new();
    for i in 0..SERIES {
        let family = i / 50;
        if i % 50 == 0 {
            let _ = writeln!(out, "# HELP node_network_transmit_family{family} What family {family} is about.");
            let _ = writeln!(out, "# TYPE node_network_transmit_family{family} gauge");
        }
        let (cpu, value) = (i % 64, (i as u64 * 7919 + round * 131) as f64 * 0.125);
        let _ = writeln!(
            out,
            "node_network_transmit_family{family}{{device=\"enp{i}s0\",cpu=\"{cpu}\",mode=\"user\",address=\"0000:00:1f.{i}\",operstate=\"up\"}} {value}"
        );
    }
    out + end
}
