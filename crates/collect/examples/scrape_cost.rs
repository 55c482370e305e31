//! Prints what a sample of a repeated scrape costs from body to batch: parse, cache, batch; and of a first one.
//!
//! `cargo run --release -p collect --example scrape_cost [STEP [ROUNDS]]`
//!
//! With a step only that one runs, and so many times: for counting its instructions, see `scripts/bench-instructions`.

use std::fmt::Write as _;
use std::time::Instant;

use collect::{BodyReader, TargetSpec};
use model::{Batch, Labels, SeriesId};
use url::Url;
use wire::Format;

const SERIES: usize = 2_000;
const ROUNDS: u64 = 1_000;
const BODIES: u64 = 8;

/// Which rows are wanted, and how often each runs.
struct Rows {
    only: Option<String>,
    rounds: u64,
}

impl Rows {
    fn from_arguments() -> Rows {
        let mut arguments = std::env::args().skip(1);
        let only = arguments.next();
        Rows { only, rounds: arguments.next().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS) }
    }

    fn wants(&self, what: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == what)
    }
}

fn main() {
    let rows = Rows::from_arguments();
    for format in [Format::Text, Format::OpenMetrics, Format::Protobuf] {
        let bodies: Vec<Vec<u8>> = (0..BODIES).map(|round| body(format, round)).collect();
        let line = bodies[0].len() / SERIES;
        println!("{format:?}: {SERIES} series, {line} bytes a series, values change with every scrape");
        let name = format!("{format:?}").to_ascii_lowercase();
        rows.known(&format!("{name}-known"), format, &bodies);
        let mut moved = bodies.clone();
        for body in moved.iter_mut().skip(1).step_by(2) {
            body.splice(0..0, one_more(format));
        }
        rows.known(&format!("{name}-one-comes-and-goes"), format, &moved);
        rows.first(&format!("{name}-first"), format, &bodies[0]);
    }
    let bodies: Vec<Vec<u8>> = (0..BODIES).map(native_body).collect();
    let each = bodies[0].len() / SERIES;
    println!("Protobuf: {SERIES} native histograms of 40 buckets, {each} bytes each");
    rows.known("native-known", Format::Protobuf, &bodies);
    rows.first("native-first", Format::Protobuf, &bodies[0]);
}

impl Rows {
    /// Measures scrapes whose series are known.
    fn known(&self, what: &str, format: Format, bodies: &[Vec<u8>]) {
        if !self.wants(what) {
            return;
        }
        let mut reader = reader();
        let (mut best, mut sum, mut counted) = (f64::INFINITY, 0.0, 0u32);
        for round in 0..self.rounds {
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
                counted += 1;
            }
        }
        println!("  {what:28} best {best:6.1} ns/sample, mean {:6.1}", sum / f64::from(counted.max(1)));
    }

    /// Measures scrapes that nothing is known of.
    fn first(&self, what: &str, format: Format, body: &[u8]) {
        if !self.wants(what) {
            return;
        }
        let rounds = if self.only.is_some() { self.rounds } else { self.rounds / 20 };
        let mut best = f64::INFINITY;
        for round in 0..rounds {
            let mut reader = reader();
            let start = Instant::now();
            let mut batch = read(&mut reader, format, body, round);
            reader.stored(&mut batch);
            best = best.min(start.elapsed().as_nanos() as f64 / SERIES as f64);
        }
        println!("  {what:28} best {best:6.1} ns/sample");
    }
}

fn read(reader: &mut BodyReader, format: Format, body: &[u8], round: u64) -> Batch {
    let (batch, result) = reader.read(format, body, 1_750_000_000_000 + round as i64 * 15_000, 1);
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
    let mut spec = TargetSpec::new("node", url, Labels::from_pairs([("job", "node"), ("instance", "node:9100")]));
    spec.native_histograms = true;
    BodyReader::new(spec)
}

/// A body like a node exporter's: five labels a series, about 150 bytes a line of text.
fn body(format: Format, round: u64) -> Vec<u8> {
    if format == Format::Protobuf { protobuf_body(round) } else { text_body(format, round) }
}

fn text_body(format: Format, round: u64) -> Vec<u8> {
    let mut out = String::new();
    for i in 0..SERIES {
        let family = i / 50;
        if i % 50 == 0 {
            let _ = writeln!(out, "# HELP node_network_transmit_family{family} What family {family} is about.");
            let _ = writeln!(out, "# TYPE node_network_transmit_family{family} gauge");
        }
        let _ = write!(out, "node_network_transmit_family{family}{{");
        for (at, (name, value)) in labels(i).into_iter().enumerate() {
            let _ = write!(out, "{}{name}=\"{value}\"", if at > 0 { "," } else { "" });
        }
        let _ = writeln!(out, "}} {}", value(i, round));
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out.into_bytes()
}

fn labels(i: usize) -> [(&'static str, String); 5] {
    [
        ("device", format!("enp{i}s0")),
        ("cpu", format!("{}", i % 64)),
        ("mode", "user".to_owned()),
        ("address", format!("0000:00:1f.{i}")),
        ("operstate", "up".to_owned()),
    ]
}

fn value(i: usize, round: u64) -> f64 {
    (i as u64 * 7919 + round * 131) as f64 * 0.125
}

fn one_more(format: Format) -> Vec<u8> {
    if format != Format::Protobuf {
        return b"one_more_series 1\n".to_vec();
    }
    let metric = gauge_metric(&[], 1.0);
    delimited(&family_message("one_more_series", "", 1, &[metric]))
}

fn protobuf_body(round: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for family in 0..SERIES / 50 {
        let series = family * 50..(family + 1) * 50;
        let metrics: Vec<Vec<u8>> = series.map(|i| gauge_metric(&labels(i), value(i, round))).collect();
        let (name, help) = (format!("node_network_transmit_family{family}"), format!("What family {family} is about."));
        out.extend(delimited(&family_message(&name, &help, 1, &metrics)));
    }
    out
}

/// Native histograms of forty buckets in two runs.
fn native_body(round: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for family in 0..SERIES / 50 {
        let series = family * 50..(family + 1) * 50;
        let metrics: Vec<Vec<u8>> = series
            .map(|i| {
                let base = 1 + (i as u64 + round) % 60;
                let mut value = Vec::new();
                put_number(&mut value, 1, base * 40);
                put_double(&mut value, 2, base as f64 * 12.5);
                put_number(&mut value, 5, 2 * 3);
                put_double(&mut value, 6, 1e-128);
                for offset in [0, 4] {
                    let mut span = Vec::new();
                    put_number(&mut span, 1, offset);
                    put_number(&mut span, 2, 20);
                    put_bytes(&mut value, 12, &span);
                }
                // The first count, then differences: signs take the lowest bit.
                put_number(&mut value, 13, base * 2);
                for _ in 1..40 {
                    put_number(&mut value, 13, 0);
                }
                let mut metric = label_fields(&labels(i));
                put_bytes(&mut metric, 7, &value);
                metric
            })
            .collect();
        out.extend(delimited(&family_message(&format!("request_seconds{family}"), "How long.", 4, &metrics)));
    }
    out
}

fn family_message(name: &str, help: &str, family_type: u64, metrics: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, name.as_bytes());
    put_bytes(&mut out, 2, help.as_bytes());
    put_number(&mut out, 3, family_type);
    metrics.iter().for_each(|metric| put_bytes(&mut out, 4, metric));
    out
}

fn gauge_metric(labels: &[(&'static str, String)], value: f64) -> Vec<u8> {
    let mut out = label_fields(labels);
    let mut gauge = Vec::new();
    put_double(&mut gauge, 1, value);
    put_bytes(&mut out, 2, &gauge);
    out
}

fn label_fields(labels: &[(&'static str, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in labels {
        let mut pair = Vec::new();
        put_bytes(&mut pair, 1, name.as_bytes());
        put_bytes(&mut pair, 2, value.as_bytes());
        put_bytes(&mut out, 1, &pair);
    }
    out
}

fn delimited(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, message.len() as u64);
    out.extend_from_slice(message);
    out
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, field: u64, number: u64) {
    put_varint(out, field << 3);
    put_varint(out, number);
}

fn put_double(out: &mut Vec<u8>, field: u64, value: f64) {
    put_varint(out, field << 3 | 1);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
