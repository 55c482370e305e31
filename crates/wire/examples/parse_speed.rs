//! Prints what a sample costs to parse: the long way, the known way of a repeated scrape, with all labels read; and to
//! read from a remote write request of either version, a protobuf body or an OTLP request.
//!
//! `cargo run --release -p wire --example parse_speed [STEP [ROUNDS]]`
//!
//! With a step only that one runs, and so many times: for counting its instructions, see `scripts/bench-instructions`.

use std::fmt::Write as _;
use std::time::Instant;

use model::{Batch, LabelsBuf, Origin, Recall, Sample, SeriesId};
use wire::scrape::{Item, Value};
use wire::{BodyParser, Entry, Format, Parser, openmetrics, otlp, remote_write, snappy};

#[path = "parse_speed/messages.rs"]
mod messages;

const SERIES: usize = 2_000;
const ROUNDS: usize = 500;

/// Which rows are wanted, and how often each runs.
struct Rows {
    only: Option<String>,
    rounds: usize,
}

impl Rows {
    fn from_arguments() -> Rows {
        let mut arguments = std::env::args().skip(1);
        let only = arguments.next();
        Rows { only, rounds: arguments.next().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS) }
    }

    fn print(&self, what: &str, mut round: impl FnMut() -> f64) {
        if self.only.as_ref().is_some_and(|only| only != what) {
            return;
        }
        let mut best = f64::INFINITY;
        let mut sum = 0.0;
        for _ in 0..self.rounds {
            let start = Instant::now();
            sum += round();
            best = best.min(start.elapsed().as_nanos() as f64 / SERIES as f64);
        }
        println!("  {what:24} {best:6.1} ns/sample (checksum {sum})");
    }
}

fn main() {
    let rows = Rows::from_arguments();
    for (format, body) in [(Format::Text, body("")), (Format::OpenMetrics, body("# EOF\n"))] {
        println!("{format:?}: {} bytes, {} bytes a line", body.len(), body.len() / SERIES);
        let name = if format == Format::Text { "text" } else { "openmetrics" };
        rows.print(&format!("{name}-new"), || parse(format, body.as_bytes()));
        let known = series_of(format, body.as_bytes());
        rows.print(&format!("{name}-known"), || parse_known(format, body.as_bytes(), &known));
        rows.print(&format!("{name}-labels"), || parse_with_labels(format, body.as_bytes()));
    }
    let body = body("# EOF\n");
    rows.print("openmetrics-validate", || {
        openmetrics::validate(body.as_bytes()).map_or_else(|e| panic!("{e}"), |()| SERIES as f64)
    });
    let request = encoder_request(body.as_bytes());
    println!("remote write: {} bytes a series of one sample", request.len() / SERIES);
    let mut batch = Batch::default();
    rows.print("remote-write-1", || {
        batch.clear();
        let stats = remote_write::decode_v1(&request, &mut batch, &remote_write::Limits::default());
        stats.unwrap_or_else(|e| panic!("{e}")).samples as f64
    });
    rows.print("remote-write-1-known", || {
        batch.clear();
        let limits = remote_write::Limits::default();
        let stats = remote_write::decode_v1_recalling(&request, &mut batch, &limits, &mut KnowsAll::default());
        stats.unwrap_or_else(|e| panic!("{e}")).samples as f64
    });
    let series = label_sets(body.as_bytes());
    let request = messages::write_request_v2(&series);
    println!("remote write 2.0: {} bytes a series of one sample", request.len() / SERIES);
    rows.print("remote-write-2", || {
        batch.clear();
        let stats = remote_write::decode_v2(&request, &mut batch, &remote_write::Limits::default());
        stats.unwrap_or_else(|e| panic!("{e}")).samples as f64
    });
    let families = messages::families(&series);
    println!("protobuf: {} bytes a sample", families.len() / SERIES);
    rows.print("protobuf-new", || protobuf(&families, &[]));
    let known = protobuf_keys(&families);
    rows.print("protobuf-known", || protobuf(&families, &known));
    rows.print("protobuf-labels", || protobuf_with_labels(&families));
    let request = messages::otlp_request(&series);
    println!("OTLP: {} bytes a point", request.len() / SERIES);
    rows.print("otlp", || {
        batch.clear();
        let stats = otlp::decode(&request, &mut batch, &otlp::Options::default(), &remote_write::Limits::default());
        stats.unwrap_or_else(|e| panic!("{e}")).points as f64
    });
    let request = encoder_request(body.as_bytes());
    let block = snappy::encode_block(&request).unwrap_or_else(|e| panic!("{e}"));
    rows.print("snappy", || snappy::decode_block(&block, request.len()).unwrap_or_else(|e| panic!("{e}")).len() as f64);
}

/// Stands for a store that knows every series by its written form; what its look costs is not part of the row.
#[derive(Default)]
struct KnowsAll {
    last: u64,
    bytes: usize,
}

impl Recall for KnowsAll {
    fn begin(&mut self, _: &Origin) -> u64 {
        0
    }

    fn by_written(&mut self, written: &[u8]) -> Option<SeriesId> {
        self.last += 1;
        self.bytes += written.len();
        Some(SeriesId(self.last))
    }

    fn by_labels(&mut self, _: &[u8]) -> Option<SeriesId> {
        None
    }

    fn end(&mut self) {}
}

fn encoder_request(body: &[u8]) -> Vec<u8> {
    let mut parser = Parser::new(Format::OpenMetrics, body);
    let mut encoder = remote_write::Encoder::default();
    let mut labels = LabelsBuf::default();
    while let Some(entry) = parser.next() {
        if let Ok(Entry::Sample { value, .. }) = entry {
            labels.clear();
            parser.labels(&mut labels).unwrap_or_else(|e| panic!("{e}"));
            labels.sort().unwrap_or_else(|e| panic!("{e}"));
            encoder.add_series(labels.iter(), [Sample { ts_ms: 1_700_000_000_000, value }]);
        }
    }
    encoder.take()
}

/// The labels of each series, sorted, with its value.
fn label_sets(body: &[u8]) -> Vec<messages::Series> {
    let mut parser = Parser::new(Format::OpenMetrics, body);
    let mut labels = LabelsBuf::default();
    let mut all = Vec::new();
    while let Some(entry) = parser.next() {
        if let Ok(Entry::Sample { value, .. }) = entry {
            labels.clear();
            parser.labels(&mut labels).unwrap_or_else(|e| panic!("{e}"));
            labels.sort().unwrap_or_else(|e| panic!("{e}"));
            all.push((labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(), value));
        }
    }
    all
}

fn protobuf(body: &[u8], known: &[Vec<u8>]) -> f64 {
    let mut parser = BodyParser::new(Format::Protobuf, body, false);
    let (mut sum, mut at) = (0.0, 0);
    let mut add = |value| {
        if let Value::Float(value) = value {
            sum += value;
        }
    };
    loop {
        if let Some(reading) = known.get(at).and_then(|key| parser.next_known(key)) {
            add(reading.value);
            at += 1;
            continue;
        }
        match parser.next() {
            None => return sum,
            Some(Ok(Item::Sample { reading, .. })) => {
                add(reading.value);
                at += 1;
            }
            Some(Ok(_)) => {}
            Some(Err(e)) => panic!("{e}"),
        }
    }
}

fn protobuf_keys(body: &[u8]) -> Vec<Vec<u8>> {
    let mut parser = BodyParser::new(Format::Protobuf, body, false);
    let mut keys = Vec::new();
    while let Some(item) = parser.next() {
        if let Ok(Item::Sample { key, .. }) = item {
            keys.push(key.to_vec());
        }
    }
    keys
}

fn protobuf_with_labels(body: &[u8]) -> f64 {
    let mut parser = BodyParser::new(Format::Protobuf, body, false);
    let mut labels = LabelsBuf::default();
    let mut sum = 0.0;
    while let Some(item) = parser.next() {
        if matches!(item, Ok(Item::Sample { .. })) {
            labels.clear();
            parser.labels(&mut labels).unwrap_or_else(|e| panic!("{e}"));
            labels.sort().unwrap_or_else(|e| panic!("{e}"));
            sum += labels.len() as f64;
        }
    }
    sum
}

/// A body like a node exporter's: five labels a series, about 150 bytes a line.
fn body(end: &str) -> String {
    let mut out = String::new();
    for i in 0..SERIES {
        if i % 50 == 0 {
            let family = i / 50;
            let _ = writeln!(out, "# HELP node_network_transmit_family{family} What family {family} is about.");
            let _ = writeln!(out, "# TYPE node_network_transmit_family{family} gauge");
        }
        let (family, value) = (i / 50, (i * 7919) as f64 * 0.125);
        let _ = writeln!(
            out,
            "node_network_transmit_family{family}{{device=\"enp{i}s0\",cpu=\"{}\",mode=\"user\",address=\"0000:00:1f.{i}\",operstate=\"up\"}} {value}",
            i % 64
        );
    }
    out + end
}

fn parse(format: Format, body: &[u8]) -> f64 {
    let values = Parser::new(format, body).map(|entry| match entry {
        Ok(Entry::Sample { value, .. }) => value,
        Ok(_) => 0.0,
        Err(e) => panic!("{e}"),
    });
    values.sum()
}

fn series_of(format: Format, body: &[u8]) -> Vec<String> {
    let entries = Parser::new(format, body).filter_map(|entry| match entry {
        Ok(Entry::Sample { series, .. }) => Some(series.to_owned()),
        _ => None,
    });
    entries.collect()
}

fn parse_known(format: Format, body: &[u8], known: &[String]) -> f64 {
    let mut parser = Parser::new(format, body);
    let mut sum = 0.0;
    for series in known {
        loop {
            if let Some((_, value)) = parser.next_known(series) {
                sum += value;
                break;
            }
            assert!(!matches!(parser.next(), None | Some(Err(_) | Ok(Entry::Sample { .. }))));
        }
    }
    sum
}

fn parse_with_labels(format: Format, body: &[u8]) -> f64 {
    let mut parser = Parser::new(format, body);
    let mut labels = LabelsBuf::default();
    let mut sum = 0.0;
    while let Some(entry) = parser.next() {
        if let Ok(Entry::Sample { value, .. }) = entry {
            labels.clear();
            parser.labels(&mut labels).unwrap_or_else(|e| panic!("{e}"));
            labels.sort().unwrap_or_else(|e| panic!("{e}"));
            sum += value + labels.len() as f64;
        }
    }
    sum
}
