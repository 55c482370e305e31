//! The messages of both versions as prost reads and writes them, and histograms to fill them with.

use model::histogram::{BucketSpan, CUSTOM_SCHEMA, ResetHint};
use proptest::prelude::*;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub(super) count_int: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) count_float: Option<f64>,
    #[prost(double, tag = "3")]
    pub(super) sum: f64,
    #[prost(sint32, tag = "4")]
    pub(super) schema: i32,
    #[prost(double, tag = "5")]
    pub(super) zero_threshold: f64,
    #[prost(uint64, optional, tag = "6")]
    pub(super) zero_count_int: Option<u64>,
    #[prost(double, optional, tag = "7")]
    pub(super) zero_count_float: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    pub(super) negative_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "9")]
    pub(super) negative_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "10")]
    pub(super) negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "11")]
    pub(super) positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    pub(super) positive_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "13")]
    pub(super) positive_counts: Vec<f64>,
    #[prost(int32, tag = "14")]
    pub(super) reset_hint: i32,
    #[prost(int64, tag = "15")]
    pub(super) timestamp: i64,
    #[prost(double, repeated, tag = "16")]
    pub(super) custom_values: Vec<f64>,
    #[prost(int64, tag = "17")]
    pub(super) start_timestamp: i64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Span {
    #[prost(sint32, tag = "1")]
    pub(super) offset: i32,
    #[prost(uint32, tag = "2")]
    pub(super) length: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(string, repeated, tag = "4")]
    pub(super) symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    pub(super) timeseries: Vec<Series>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Series {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    pub(super) samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub(super) histograms: Vec<Histogram>,
    #[prost(message, repeated, tag = "4")]
    pub(super) exemplars: Vec<Exemplar>,
    #[prost(message, optional, tag = "5")]
    pub(super) metadata: Option<Metadata>,
    #[prost(int64, tag = "6")]
    pub(super) created_timestamp: i64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Sample {
    #[prost(double, tag = "1")]
    pub(super) value: f64,
    #[prost(int64, tag = "2")]
    pub(super) timestamp: i64,
    #[prost(int64, tag = "3")]
    pub(super) start_timestamp: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Exemplar {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) labels_refs: Vec<u32>,
    #[prost(double, tag = "2")]
    pub(super) value: f64,
    #[prost(int64, tag = "3")]
    pub(super) timestamp: i64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Metadata {
    #[prost(int32, tag = "1")]
    pub(super) metric_type: i32,
    #[prost(uint32, tag = "3")]
    pub(super) help_ref: u32,
    #[prost(uint32, tag = "4")]
    pub(super) unit_ref: u32,
}

/// Writes a histogram with whole counts as deltas, else as doubles.
pub(super) fn message_of(histogram: &model::histogram::Histogram, timestamp: i64, whole: bool) -> Histogram {
    let spans = |spans: &[BucketSpan]| spans.iter().map(|s| Span { offset: s.offset, length: s.length }).collect();
    let deltas = |counts: &[f64]| {
        let before = std::iter::once(0).chain(counts.iter().map(|c| *c as i64));
        if whole { counts.iter().zip(before).map(|(c, b)| *c as i64 - b).collect() } else { Vec::new() }
    };
    let counts = |counts: &[f64]| if whole { Vec::new() } else { counts.to_vec() };
    Histogram {
        count_int: whole.then_some(histogram.count as u64),
        count_float: (!whole).then_some(histogram.count),
        sum: histogram.sum,
        schema: histogram.schema,
        zero_threshold: histogram.zero_threshold,
        zero_count_int: whole.then_some(histogram.zero_count as u64),
        zero_count_float: (!whole).then_some(histogram.zero_count),
        negative_spans: spans(&histogram.negative_spans),
        negative_deltas: deltas(&histogram.negative),
        negative_counts: counts(&histogram.negative),
        positive_spans: spans(&histogram.positive_spans),
        positive_deltas: deltas(&histogram.positive),
        positive_counts: counts(&histogram.positive),
        reset_hint: histogram.reset_hint as i32,
        timestamp,
        custom_values: histogram.custom_bounds.clone(),
        start_timestamp: 0,
    }
}

fn side() -> impl Strategy<Value = (Vec<BucketSpan>, Vec<f64>)> {
    let count = (0u64..1 << 40).prop_map(|n| n as f64);
    prop::collection::vec((0..50i32, prop::collection::vec(count, 0..6)), 0..4).prop_map(|runs| {
        let span = |(offset, counts): &(i32, Vec<f64>)| BucketSpan { offset: *offset, length: counts.len() as u32 };
        (runs.iter().map(span).collect(), runs.iter().flat_map(|r| r.1.clone()).collect())
    })
}

/// Gives good histograms, and whether their counts are whole.
pub(super) fn any_histogram() -> impl Strategy<Value = (model::histogram::Histogram, bool)> {
    let sum = prop_oneof![(-1e9..1e9f64), Just(0.0)];
    (any::<bool>(), prop_oneof![-4..=8i32, Just(CUSTOM_SCHEMA)], sum, 0..4u8, side(), side()).prop_map(
        |(whole, schema, sum, hint, positive, negative)| {
            let mut histogram = model::histogram::Histogram {
                schema,
                sum,
                positive_spans: positive.0,
                positive: positive.1,
                reset_hint: ResetHint::from_u8(hint),
                ..Default::default()
            };
            if schema == CUSTOM_SCHEMA {
                let end: i64 = histogram.positive_spans.iter().map(|s| i64::from(s.offset) + i64::from(s.length)).sum();
                histogram.custom_bounds = (0..end).map(|i| i as f64 * 0.5).collect();
            } else {
                (histogram.zero_threshold, histogram.zero_count) = (1e-128, 3.0);
                (histogram.negative_spans, histogram.negative) = negative;
            }
            let buckets = histogram.positive.iter().chain(&histogram.negative).sum::<f64>();
            histogram.count = buckets + histogram.zero_count + if whole { 0.0 } else { 0.5 };
            (histogram, whole)
        },
    )
}
