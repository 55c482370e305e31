//! The messages of `io.prometheus.client` as prost writes them, and short ways to make some.

use prost::Message as _;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Family {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub help: String,
    #[prost(int32, tag = "3")]
    pub metric_type: i32,
    #[prost(message, repeated, tag = "4")]
    pub metric: Vec<Metric>,
    #[prost(string, tag = "5")]
    pub unit: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub label: Vec<Pair>,
    #[prost(message, optional, tag = "2")]
    pub gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub counter: Option<Number>,
    #[prost(message, optional, tag = "4")]
    pub summary: Option<Summary>,
    #[prost(message, optional, tag = "5")]
    pub untyped: Option<Number>,
    #[prost(int64, optional, tag = "6")]
    pub timestamp_ms: Option<i64>,
    #[prost(message, optional, tag = "7")]
    pub histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Pair {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Number {
    #[prost(double, tag = "1")]
    pub value: f64,
    #[prost(message, optional, tag = "2")]
    pub exemplar: Option<Exemplar>,
    #[prost(message, optional, tag = "3")]
    pub created: Option<Timestamp>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Summary {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(double, tag = "2")]
    pub sum: f64,
    #[prost(message, repeated, tag = "3")]
    pub quantile: Vec<Quantile>,
    #[prost(message, optional, tag = "4")]
    pub created: Option<Timestamp>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Quantile {
    #[prost(double, tag = "1")]
    pub quantile: f64,
    #[prost(double, tag = "2")]
    pub value: f64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Histogram {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(double, tag = "2")]
    pub sum: f64,
    #[prost(message, repeated, tag = "3")]
    pub bucket: Vec<Bucket>,
    #[prost(double, tag = "4")]
    pub count_float: f64,
    #[prost(sint32, tag = "5")]
    pub schema: i32,
    #[prost(double, tag = "6")]
    pub zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    pub zero_count: u64,
    #[prost(double, tag = "8")]
    pub zero_count_float: f64,
    #[prost(message, repeated, tag = "9")]
    pub negative_span: Vec<Span>,
    #[prost(sint64, repeated, tag = "10")]
    pub negative_delta: Vec<i64>,
    #[prost(double, repeated, tag = "11")]
    pub negative_count: Vec<f64>,
    #[prost(message, repeated, tag = "12")]
    pub positive_span: Vec<Span>,
    // Go's client writes proto2, where repeated numbers are not packed.
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub positive_delta: Vec<i64>,
    #[prost(double, repeated, packed = "false", tag = "14")]
    pub positive_count: Vec<f64>,
    #[prost(message, optional, tag = "15")]
    pub created: Option<Timestamp>,
    #[prost(message, repeated, tag = "16")]
    pub exemplars: Vec<Exemplar>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Bucket {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(double, tag = "2")]
    pub bound: f64,
    #[prost(message, optional, tag = "3")]
    pub exemplar: Option<Exemplar>,
    #[prost(double, tag = "4")]
    pub count_float: f64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Span {
    #[prost(sint32, tag = "1")]
    pub offset: i32,
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    pub label: Vec<Pair>,
    #[prost(double, tag = "2")]
    pub value: f64,
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<Timestamp>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// Puts families one behind the other, each with its length before it.
pub fn body(families: &[Family]) -> Vec<u8> {
    families.iter().flat_map(Family::encode_length_delimited_to_vec).collect()
}

pub const COUNTER: i32 = 0;
pub const GAUGE: i32 = 1;
pub const SUMMARY: i32 = 2;
pub const UNTYPED: i32 = 3;
pub const HISTOGRAM: i32 = 4;
pub const GAUGE_HISTOGRAM: i32 = 5;

pub fn family(name: &str, metric_type: i32, metric: Vec<Metric>) -> Family {
    Family { name: name.into(), help: format!("About {name}."), metric_type, metric, unit: String::new() }
}

fn labeled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| Pair { name: (*name).into(), value: (*value).into() };
    Metric { label: labels.iter().map(pair).collect(), ..Metric::default() }
}

pub fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    Metric { gauge: Some(Number { value, ..Number::default() }), ..labeled(labels) }
}

pub fn counter(labels: &[(&str, &str)], value: f64) -> Metric {
    Metric { counter: Some(Number { value, ..Number::default() }), ..labeled(labels) }
}

pub fn untyped(labels: &[(&str, &str)], value: f64) -> Metric {
    Metric { untyped: Some(Number { value, ..Number::default() }), ..labeled(labels) }
}

pub fn summary(labels: &[(&str, &str)], summary: Summary) -> Metric {
    Metric { summary: Some(summary), ..labeled(labels) }
}

pub fn histogram(labels: &[(&str, &str)], histogram: Histogram) -> Metric {
    Metric { histogram: Some(histogram), ..labeled(labels) }
}

/// A classic histogram of three observations, without its infinite bucket.
pub fn classic() -> Histogram {
    let bucket = |bound, count| Bucket { bound, count, ..Bucket::default() };
    Histogram { count: 3, sum: 4.5, bucket: vec![bucket(1.0, 1), bucket(2.5, 2)], ..Histogram::default() }
}

/// A native histogram of five observations that has no classic buckets.
pub fn native() -> Histogram {
    Histogram {
        count: 5,
        sum: 7.5,
        schema: 2,
        zero_threshold: 0.5,
        zero_count: 1,
        positive_span: vec![Span { offset: -1, length: 2 }],
        positive_delta: vec![1, 2],
        ..Histogram::default()
    }
}
