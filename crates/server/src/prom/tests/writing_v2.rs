//! Remote write 2.0, with requests that prost builds.

use prost::Message as _;

use super::*;

const V2: [(&str, &str); 3] = [
    ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
    ("content-encoding", "snappy"),
    ("x-prometheus-remote-write-version", "2.0.0"),
];

#[derive(Clone, PartialEq, prost::Message)]
struct Request2 {
    #[prost(string, repeated, tag = "4")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    timeseries: Vec<Series>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Series {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    histograms: Vec<Histogram>,
    #[prost(message, repeated, tag = "4")]
    exemplars: Vec<OneExemplar>,
    #[prost(message, optional, tag = "5")]
    metadata: Option<Metadata>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
    #[prost(int64, tag = "3")]
    start_timestamp: i64,
}

/// Whole counts: two observations between 1 and 2.
#[derive(Clone, PartialEq, prost::Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    count: Option<u64>,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(int64, tag = "15")]
    timestamp: i64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OneExemplar {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(int64, tag = "3")]
    timestamp: i64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Metadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint32, tag = "3")]
    help_ref: u32,
    #[prost(uint32, tag = "4")]
    unit_ref: u32,
}

/// Gathers symbols as a sender does; the first one is the empty text.
struct Builder(Request2);

impl Builder {
    fn new() -> Builder {
        Builder(Request2 { symbols: vec![String::new()], timeseries: Vec::new() })
    }

    fn symbol(&mut self, text: &str) -> u32 {
        let known = self.0.symbols.iter().position(|s| s == text);
        let at = known.unwrap_or_else(|| {
            self.0.symbols.push(text.to_owned());
            self.0.symbols.len() - 1
        });
        at as u32
    }

    fn refs(&mut self, labels: &[(&str, &str)]) -> Vec<u32> {
        labels.iter().flat_map(|(n, v)| [self.symbol(n), self.symbol(v)]).collect()
    }

    fn series(&mut self, labels: &[(&str, &str)], samples: &[(i64, f64)]) -> &mut Series {
        let labels_refs = self.refs(labels);
        let sample =
            |(timestamp, value): &(i64, f64)| Sample { value: *value, timestamp: *timestamp, start_timestamp: 7 };
        let samples = samples.iter().map(sample).collect();
        self.0.timeseries.push(Series { labels_refs, samples, ..Series::default() });
        self.0.timeseries.last_mut().unwrap()
    }

    fn body(&self) -> Vec<u8> {
        wire::snappy::encode_block(&self.0.encode_to_vec()).unwrap()
    }
}

fn histogram(timestamp: i64) -> Histogram {
    Histogram {
        count: Some(2),
        sum: 3.0,
        schema: 0,
        positive_spans: vec![Span { offset: 1, length: 1 }],
        positive_deltas: vec![2],
        timestamp,
    }
}

impl Answered {
    /// Gives the three counts of what is stored.
    fn all_written(&self) -> [&str; 3] {
        ["samples", "histograms", "exemplars"]
            .map(|what| self.headers[&format!("x-prometheus-remote-write-{what}-written")].to_str().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_metadata_and_exemplars_of_2_0_are_stored_and_counted() {
    let world = World::new();
    let mut builder = Builder::new();
    let (help, unit) = (builder.symbol("Requests served."), builder.symbol("requests"));
    let trace = builder.refs(&[("trace_id", "abc")]);
    let series = builder.series(&[("__name__", "req_total"), ("job", "x")], &[(NOW - 1000, 1.0), (NOW, 2.0)]);
    series.metadata = Some(Metadata { kind: 1, help_ref: help, unit_ref: unit });
    series.exemplars.push(OneExemplar { labels_refs: trace, value: 1.0, timestamp: NOW });
    builder.series(&[("__name__", "temp")], &[(NOW, -1.5e-300)]);
    for _ in 0..2 {
        let answer = world.send("POST", "/api/v1/write", &V2, builder.body()).await.expect(204, "");
        assert_eq!(answer.all_written(), ["3", "0", "1"]);
    }
    let kept = world.memory.series.lock();
    assert_eq!(kept[&Labels::from_pairs([("__name__", "req_total"), ("job", "x")])].len(), 2);
    assert_eq!(kept[&Labels::from_pairs([("__name__", "temp")])][&NOW], -1.5e-300);
    let family = &world.memory.families.lock()[0];
    assert_eq!((family.name.as_str(), family.metric_type), ("req_total", MetricType::Counter));
    assert_eq!((family.help.as_str(), family.unit.as_str()), ("Requests served.", "requests"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_good_in_a_request_of_2_0_is_stored_and_the_rest_is_named() {
    let world = World::new();
    let mut builder = Builder::new();
    builder.series(&[("__name__", "a")], &[(NOW, 1.0), (NOW + 3_600_000, 1.0)]);
    builder.series(&[("job", "nameless")], &[(NOW, 1.0)]);
    builder.series(&[("__name__", "dangling")], &[(NOW, 1.0)]).labels_refs[1] = 4_000;
    builder.series(&[("__name__", "odd")], &[(NOW, 1.0)]).labels_refs.pop();
    let answer = world.send("POST", "/api/v1/write", &V2, builder.body()).await;
    let answer = answer.expect(400, "4 of 5 samples were refused, the others are stored");
    assert_eq!(answer.all_written(), ["1", "0", "0"]);
    for text in ["too_new: 1", "invalid_name: 3", "series 1: the series has no metric name"] {
        assert!(answer.text.contains(text), "{text}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn native_histograms_are_stored_and_counted_apart() {
    let world = World::new();
    let mut builder = Builder::new();
    let series = builder.series(&[("__name__", "lat")], &[]);
    let odd = Histogram { positive_deltas: vec![2, 2], ..histogram(NOW + 1) };
    series.histograms.extend([histogram(NOW), odd]);
    builder.series(&[("__name__", "a")], &[(NOW, 1.0)]);
    let answer = world.send("POST", "/api/v1/write", &V2, builder.body()).await.expect(400, "invalid_value: 1");
    assert_eq!(answer.all_written(), ["1", "1", "0"]);
    let text = format!("histogram of series 0 at {}: ", NOW + 1);
    assert!(answer.text.contains(&text), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_which_nothing_is_stored_says_so_in_its_headers() {
    let world = World::new();
    let body = Builder::new().body();
    world.send("POST", "/api/v1/write", &V2, body.clone()).await.expect(204, "");
    let bad = [
        (V2.to_vec(), vec![0xff; 9], 400),
        (vec![("content-type", "text/plain")], body.clone(), 415),
        (vec![V2[0], ("content-encoding", "zstd")], body.clone(), 415),
    ];
    for (headers, body, status) in bad {
        let answer = world.send("POST", "/api/v1/write", &headers, body).await.expect(status, "");
        assert_eq!(answer.all_written(), ["0", "0", "0"]);
    }
    *world.memory.fail.lock() = Some(AppendError::Busy { retry_after_ms: 1 });
    let answer = world.send("POST", "/api/v1/write", &V2, body).await.expect(503, "");
    assert_eq!(answer.all_written(), ["0", "0", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_1_0_under_the_name_of_2_0_stores_nothing() {
    let world = World::new();
    let mut builder = Builder::new();
    builder.series(&[("__name__", "a")], &[(NOW, 1.0)]);
    // Unknown fields are jumped over in either direction, as protobuf has it.
    let answer = world.send("POST", "/api/v1/write", &V2[1..], builder.body()).await.expect(204, "");
    assert_eq!(answer.all_written(), ["0", "0", "0"]);
    assert!(world.memory.series.lock().is_empty());
}
