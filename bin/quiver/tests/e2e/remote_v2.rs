//! Remote write 2.0 from the sender's side: messages written down from the text of the specification, sharing nothing with the
//! server's reader; what was answered as written is there after kill -9.

use prost::Message;
use serde_json::json;

use crate::support::{self, Answer, Client};

/// `io.prometheus.write.v2.Request`
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, repeated, tag = "4")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    histograms: Vec<Histogram>,
    #[prost(message, repeated, tag = "4")]
    exemplars: Vec<Exemplar>,
    #[prost(message, optional, tag = "5")]
    metadata: Option<Metadata>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
    #[prost(int64, tag = "3")]
    start_timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    count_int: u64,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(double, tag = "5")]
    zero_threshold: f64,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(int64, tag = "15")]
    timestamp: i64,
    #[prost(int64, tag = "17")]
    start_timestamp: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Exemplar {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(int64, tag = "3")]
    timestamp: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Metadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint32, tag = "3")]
    help_ref: u32,
    #[prost(uint32, tag = "4")]
    unit_ref: u32,
}

/// Builds requests; symbol 0 is the empty text.
struct Sender {
    request: Request,
}

impl Sender {
    fn new() -> Sender {
        Sender { request: Request { symbols: vec![String::new()], timeseries: Vec::new() } }
    }

    fn symbol(&mut self, text: &str) -> u32 {
        let at = self.request.symbols.iter().position(|known| known == text).unwrap_or_else(|| {
            self.request.symbols.push(text.to_owned());
            self.request.symbols.len() - 1
        });
        u32::try_from(at).expect("few symbols")
    }

    /// Takes labels sorted by name.
    fn refs(&mut self, labels: &[(&str, &str)]) -> Vec<u32> {
        labels.iter().flat_map(|(name, value)| [self.symbol(name), self.symbol(value)]).collect()
    }

    fn push(&mut self, labels: &[(&str, &str)], series: TimeSeries) {
        let labels_refs = self.refs(labels);
        self.request.timeseries.push(TimeSeries { labels_refs, ..series });
    }

    fn send(&self, client: &Client) -> Answer {
        let headers = [
            ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
            ("content-encoding", "snappy"),
            ("x-prometheus-remote-write-version", "2.0.0"),
            ("user-agent", "quiver-test"),
        ];
        let body = snap::raw::Encoder::new().compress_vec(&self.request.encode_to_vec()).expect("it fits into a block");
        client.send("POST", "/api/v1/write", &headers, &body)
    }
}

/// Gives samples, histograms and exemplars written, as the headers say.
#[track_caller]
fn written(answer: &Answer) -> [u64; 3] {
    ["samples", "histograms", "exemplars"].map(|what| {
        let name = format!("X-Prometheus-Remote-Write-{what}-Written");
        let text = answer.header(&name).unwrap_or_else(|| panic!("no {name}: {answer:?}"));
        text.parse().unwrap_or_else(|_| panic!("{name}: {text}"))
    })
}

const COUNTER: i32 = 1;
const HISTOGRAM: i32 = 3;

/// Two samples with an exemplar and metadata, and a histogram of a schema that becomes coarser.
fn usual(now: i64) -> Sender {
    let mut sender = Sender::new();
    let trace = sender.refs(&[("trace_id", "abc")]);
    let (help, unit) = (sender.symbol("Pages read."), sender.symbol("pages"));
    let sample = |value: f64, timestamp: i64| Sample { value, timestamp, start_timestamp: now - 60_000 };
    sender.push(
        &[("__name__", "read_total"), ("job", "desk")],
        TimeSeries {
            samples: vec![sample(3.0, now - 1_000), sample(5.5, now)],
            exemplars: vec![Exemplar { labels_refs: trace, value: 5.0, timestamp: now }],
            metadata: Some(Metadata { kind: COUNTER, help_ref: help, unit_ref: unit }),
            ..TimeSeries::default()
        },
    );
    let histogram = Histogram {
        count_int: 7,
        sum: 9.5,
        schema: 9,
        zero_threshold: 1e-128,
        positive_spans: vec![Span { offset: 1, length: 3 }],
        positive_deltas: vec![1, 1, 2],
        timestamp: now,
        start_timestamp: now - 60_000,
    };
    sender.push(
        &[("__name__", "wait_seconds"), ("job", "desk")],
        TimeSeries {
            histograms: vec![histogram],
            metadata: Some(Metadata { kind: HISTOGRAM, ..Metadata::default() }),
            ..TimeSeries::default()
        },
    );
    sender
}

#[test]
fn what_the_headers_say_is_written_outlives_kill_9_and_counts_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let now = support::now_ms();
    let server = support::quiver(dir.path(), &[]);
    let answer = usual(now).send(&server.client).expect(204);
    assert_eq!(written(&answer), [2, 1, 1]);
    server.kill();
    let server = support::quiver(dir.path(), &[]);
    // The answer got lost: the sender tries again.
    let answer = usual(now).send(&server.client).expect(204);
    assert_eq!(written(&answer)[..2], [2, 1]);
    let client = &server.client;
    assert_eq!(client.number("read_total{job=\"desk\"}"), 5.5);
    assert_eq!(client.number("count_over_time(read_total[1h])"), 2.0);
    let waits = "wait_seconds{job=\"desk\"}";
    assert_eq!(client.number(&format!("histogram_count({waits})")), 7.0);
    assert_eq!(client.number(&format!("histogram_sum({waits})")), 9.5);
    assert_eq!(client.number(&format!("count_over_time({waits}[1h])")), 1.0);
    // Indexes 1 to 3 of schema 9 with 1, 2 and 4 are 1 and 2 of schema 8: the third lies above its bound at 1.
    let above = format!("histogram_fraction({}, +Inf, {waits}) * 7", 2f64.powf(1.0 / 256.0));
    assert!((client.number(&above) - 4.0).abs() < 1e-6, "{}", client.number(&above));
    let metadata = client.get("/api/v1/metadata?metric=read_total").expect(200).json();
    let wanted = json!([{"type": "counter", "help": "Pages read.", "unit": "pages"}]);
    assert_eq!(metadata["data"]["read_total"], wanted, "{metadata}");
    let (start, end) = ((now - 60_000) / 1_000, now / 1_000 + 60);
    let path = format!("/api/v1/query_exemplars?query=read_total&start={start}&end={end}");
    let exemplars = client.get(&path).expect(200).json();
    assert_eq!(exemplars["data"][0]["exemplars"][0]["labels"]["trace_id"], "abc", "{exemplars}");
}

#[test]
fn a_part_that_is_refused_is_told_from_the_rest_that_is_written() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let now = support::now_ms();
    let server = support::quiver(dir.path(), &[]);
    usual(now).send(&server.client).expect(204);
    let mut sender = Sender::new();
    let one = |value: f64, timestamp: i64| TimeSeries {
        samples: vec![Sample { value, timestamp, start_timestamp: 0 }],
        ..TimeSeries::default()
    };
    sender.push(&[("__name__", "good"), ("job", "desk")], one(1.0, now));
    sender.push(&[("job", "nameless")], one(2.0, now));
    // Another value at a time that is taken.
    sender.push(&[("__name__", "read_total"), ("job", "desk")], one(6.0, now));
    let answer = sender.send(&server.client).expect(400);
    assert_eq!(written(&answer), [1, 0, 0]);
    for part in ["2 of 3 samples were refused", "invalid_name: 1", "duplicate_conflict: 1", "series 1"] {
        assert!(answer.body.contains(part), "{part}: {}", answer.body);
    }
    server.kill();
    let server = support::quiver(dir.path(), &[]);
    assert_eq!(server.client.number("good"), 1.0);
    assert_eq!(server.client.number("read_total"), 5.5);
    assert_eq!(server.client.query("{job=\"nameless\"}"), json!([]));
}
