//! Remote write 2.0 against prost, and against requests of senders that do it wrong.

use std::collections::BTreeMap;

use model::{Batch, MetricType, NO_FAMILY, Refusal, SeriesIndex, Verdict};
use proptest::prelude::*;
use prost::Message as _;

use super::messages::{Exemplar, Histogram, Metadata, Request, Sample, Series, any_histogram, message_of};
use super::*;

fn limits() -> Limits {
    Limits { native_histograms: true, ..Limits::default() }
}

fn decode(request: &Request) -> (Batch, DecodeStats) {
    let mut batch = Batch::default();
    let stats = decode_v2(&request.encode_to_vec(), &mut batch, &limits()).unwrap();
    (batch, stats)
}

fn sample(timestamp: i64, value: f64) -> Sample {
    Sample { value, timestamp, start_timestamp: 0 }
}

/// Builds requests as a sender does: each text once.
#[derive(Default)]
struct Sender {
    request: Request,
    known: BTreeMap<String, u32>,
}

impl Sender {
    fn new() -> Sender {
        let mut sender = Sender::default();
        sender.symbol("");
        sender
    }

    fn symbol(&mut self, text: &str) -> u32 {
        let next = self.request.symbols.len() as u32;
        let number = *self.known.entry(text.to_owned()).or_insert(next);
        if number == next {
            self.request.symbols.push(text.to_owned());
        }
        number
    }

    fn refs<'l>(&mut self, labels: impl IntoIterator<Item = (&'l str, &'l str)>) -> Vec<u32> {
        labels.into_iter().flat_map(|(n, v)| [self.symbol(n), self.symbol(v)]).collect()
    }

    fn series(&mut self, labels: &[(&str, &str)], samples: &[Sample]) -> &mut Series {
        let labels_refs = self.refs(labels.iter().copied());
        self.request.timeseries.push(Series { labels_refs, samples: samples.to_vec(), ..Series::default() });
        self.request.timeseries.last_mut().unwrap()
    }
}

fn labels_of(batch: &Batch, series: u32) -> String {
    batch.labels(SeriesIndex(series)).unwrap().to_string()
}

#[test]
fn a_request_becomes_a_batch() {
    let mut sender = Sender::new();
    let (help, unit) = (sender.symbol("How long."), sender.symbol("seconds"));
    let trace = sender.refs([("trace_id", "x")]);
    let histogram = Metadata { metric_type: 3, help_ref: help, unit_ref: unit };
    for name in ["h_seconds_bucket", "h_seconds_sum", "h_seconds_count"] {
        sender.series(&[("__name__", name), ("a", "b")], &[sample(1, 1.5), sample(2, f64::NEG_INFINITY)]).metadata =
            Some(histogram);
    }
    let last = sender.series(&[("__name__", "c_total")], &[sample(3, 7.0)]);
    last.metadata = Some(Metadata { metric_type: 1, ..Metadata::default() });
    last.exemplars = vec![Exemplar { labels_refs: trace, value: 1.0, timestamp: 5 }];
    sender.series(&[("__name__", "only_metadata")], &[]).metadata = Some(Metadata { metric_type: 2, ..histogram });
    let (batch, stats) = decode(&sender.request);
    assert_eq!((stats.series, stats.samples, stats.exemplars, stats.families), (4, 7, 1, 3));
    assert_eq!((stats.first_refused, stats.families_dropped), (None, 0));
    assert_eq!(labels_of(&batch, 0), "h_seconds_bucket{a=\"b\"}");
    assert_eq!(batch.samples[1].value, f64::NEG_INFINITY);
    let families: Vec<_> = batch.families.iter().map(|f| (f.name.as_str(), f.metric_type, f.unit.as_str())).collect();
    assert_eq!(families[0], ("h_seconds", MetricType::Histogram, "seconds"));
    assert_eq!(families[1], ("c_total", MetricType::Counter, ""));
    assert_eq!(families[2], ("only_metadata", MetricType::Gauge, "seconds"));
    assert_eq!(batch.families[0].help, "How long.");
    assert_eq!(batch.series.iter().map(|s| s.family).collect::<Vec<_>>(), [0, 0, 0, 1]);
    assert_eq!(batch.exemplars[0].labels.to_string(), "{trace_id=\"x\"}");
}

#[test]
fn start_times_are_read_where_either_candidate_has_them() {
    let mut sender = Sender::new();
    sender.series(&[("__name__", "rc3")], &[sample(10, 1.0)]).created_timestamp = 4;
    let started = |timestamp, start_timestamp| Sample { value: 1.0, timestamp, start_timestamp };
    sender.series(&[("__name__", "rc4")], &[started(10, 5), started(11, 5), started(12, 6)]);
    let histogram = Histogram { timestamp: 10, start_timestamp: 7, ..Histogram::default() };
    sender.series(&[("__name__", "h")], &[]).histograms = vec![histogram];
    let (batch, _) = decode(&sender.request);
    let starts: Vec<_> = batch.start_timestamps.iter().map(|(s, ms)| (s.0, *ms)).collect();
    assert_eq!(starts, [(0, 4), (1, 5), (1, 6), (2, 7)]);
}

#[test]
fn symbols_may_come_last_and_long_texts_are_read() {
    let long = "x".repeat(3000);
    let mut sender = Sender::new();
    sender.series(&[("__name__", "a"), ("b", &long)], &[sample(1, 1.0)]);
    let series_only = Request { symbols: Vec::new(), ..sender.request.clone() }.encode_to_vec();
    let symbols_only = Request { timeseries: Vec::new(), ..sender.request }.encode_to_vec();
    let mut batch = Batch::default();
    let stats = decode_v2(&[series_only, symbols_only].concat(), &mut batch, &limits()).unwrap();
    assert_eq!((stats.samples, stats.first_refused), (1, None));
    assert_eq!(labels_of(&batch, 0), format!("a{{b=\"{long}\"}}"));
}

#[test]
fn labels_of_any_order_are_sorted_and_empty_values_vanish() {
    let mut sender = Sender::new();
    sender.series(&[("z", "1"), ("empty", ""), ("__name__", "a")], &[sample(1, 1.0)]);
    let (batch, stats) = decode(&sender.request);
    assert_eq!((labels_of(&batch, 0).as_str(), stats.first_refused), ("a{z=\"1\"}", None));
}

#[test]
fn a_bad_series_costs_only_itself() {
    let long = "x".repeat(2000);
    type Case<'c> = (&'c [(&'c str, &'c str)], &'c [u32], Refusal, &'c str);
    let bad: [Case<'_>; 7] = [
        (&[], &[], Refusal::InvalidName, "no metric name"),
        (&[("a", "b")], &[], Refusal::InvalidName, "no metric name"),
        (&[("__name__", "a")], &[1], Refusal::InvalidName, "odd"),
        (&[("__name__", "a")], &[1, 4000], Refusal::InvalidName, "not there"),
        (&[("__name__", "a")], &[0, 1], Refusal::InvalidName, "empty"),
        (&[("__name__", "a"), ("b", "1"), ("b", "2")], &[], Refusal::InvalidName, "not unique"),
        (&[("__name__", "a"), (&long, "1")], &[], Refusal::LabelLimit, "too long"),
    ];
    for (labels, more_refs, reason, text) in bad {
        let mut sender = Sender::new();
        sender.series(&[("__name__", "good")], &[sample(1, 1.0)]);
        let series = sender.series(labels, &[sample(1, 1.0), sample(2, 2.0)]);
        series.labels_refs.extend(more_refs);
        series.histograms = vec![Histogram { timestamp: 3, ..Histogram::default() }];
        series.metadata = Some(Metadata { metric_type: 1, ..Metadata::default() });
        series.created_timestamp = 9;
        let (batch, stats) = decode(&sender.request);
        let refused = Verdict::Refused(reason);
        assert_eq!(batch.verdicts, [Verdict::Pending, refused, refused], "{text}");
        assert_eq!(batch.histograms[0].verdict, refused);
        assert_eq!((batch.families.len(), batch.start_timestamps.len()), (0, 0));
        let first = stats.first_refused.unwrap();
        assert_eq!((first.index, first.reason), (1, reason));
        assert!(first.text.contains(text), "{} / {text}", first.text);
    }
}

#[test]
fn few_bytes_cannot_ask_for_much_memory() {
    let long = "x".repeat(60_000);
    let mut sender = Sender::new();
    let names: Vec<String> = (0..150).map(|i| format!("n{i:03}")).collect();
    let mut labels = vec![("__name__", "a")];
    labels.extend(names.iter().map(|n| (n.as_str(), long.as_str())));
    for _ in 0..100 {
        sender.series(&labels, &[sample(1, 1.0)]);
    }
    let body = sender.request.encode_to_vec();
    assert!(body.len() < 200_000);
    let result = decode_v2(&body, &mut Batch::default(), &limits());
    assert_eq!(result, Err(WireError::TextTooLarge { max: 256 << 20 }));
    let few = Limits { symbols_max: 10, ..limits() };
    assert_eq!(decode_v2(&body, &mut Batch::default(), &few), Err(WireError::TooManySymbols { max: 10 }));
    let few = Limits { samples_max: 10, text_bytes_max: usize::MAX, ..limits() };
    assert_eq!(decode_v2(&body, &mut Batch::default(), &few), Err(WireError::TooManySamples { max: 10 }));
}

#[test]
fn a_request_of_the_other_version_is_empty() {
    let mut encoder = Encoder::default();
    encoder.add_series([("__name__", "a")], [model::Sample { ts_ms: 1, value: 1.0 }]);
    let mut batch = Batch::default();
    let stats = decode_v2(&encoder.take(), &mut batch, &limits()).unwrap();
    assert_eq!((stats, batch.samples.len()), (DecodeStats::default(), 0));
}

#[test]
fn every_cut_is_an_error_or_a_shorter_request() {
    let mut sender = Sender::new();
    let series = sender.series(&[("__name__", "a"), ("b", "c")], &[sample(1, 1.5)]);
    series.created_timestamp = 4;
    series.metadata = Some(Metadata { metric_type: 1, ..Metadata::default() });
    sender.series(&[("__name__", "h")], &[]).histograms = vec![Histogram::default()];
    let body = sender.request.encode_to_vec();
    for cut in 0..body.len() {
        let mut batch = Batch::default();
        let ours = decode_v2(&body[..cut], &mut batch, &limits());
        assert_eq!(ours.is_ok(), Request::decode(&body[..cut]).is_ok(), "{cut}");
    }
}

type Labels = BTreeMap<String, String>;
type Values = (Vec<Sample>, Vec<((model::histogram::Histogram, bool), i64)>, Vec<(Labels, i64)>);

fn labels_strategy() -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map("[a-z\u{e0}-\u{ff}.]{1,6}", "[a-c\u{e0}]{1,200}", 0..5)
}

fn values_strategy() -> impl Strategy<Value = Values> {
    let sample = (any::<i64>(), -1e9..1e9f64).prop_map(|(timestamp, value)| sample(timestamp, value));
    let histograms = proptest::collection::vec((any_histogram(), any::<i64>()), 0..3);
    (
        proptest::collection::vec(sample, 1..4),
        histograms,
        proptest::collection::vec((labels_strategy(), any::<i64>()), 0..3),
    )
}

proptest! {
    #[test]
    fn what_prost_writes_is_read_alike(
        all in proptest::collection::vec((labels_strategy(), "[a-zA-Z_:.]{1,10}", values_strategy()), 0..8)
    ) {
        let mut sender = Sender::new();
        for (labels, name, (samples, histograms, exemplars)) in &all {
            let mut labels = labels.clone();
            labels.insert("__name__".to_owned(), name.clone());
            let labels_refs = sender.refs(labels.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let exemplars = exemplars.iter().map(|(labels, timestamp)| Exemplar {
                labels_refs: sender.refs(labels.iter().map(|(n, v)| (n.as_str(), v.as_str()))),
                value: 1.0,
                timestamp: *timestamp,
            }).collect();
            let histograms = histograms.iter().map(|((h, whole), ts_ms)| message_of(h, *ts_ms, *whole)).collect();
            sender.request.timeseries.push(Series {
                labels_refs, samples: samples.clone(), histograms, exemplars, ..Series::default()
            });
        }
        let (batch, stats) = decode(&sender.request);
        prop_assert_eq!(stats.first_refused, None);
        prop_assert_eq!(stats.first_refused_histogram, None);
        let (mut samples, mut histograms, mut exemplars) =
            (batch.samples.iter(), batch.histograms.iter(), batch.exemplars.iter());
        for (at, (labels, name, values)) in all.iter().enumerate() {
            let mut labels = labels.clone();
            labels.insert("__name__".to_owned(), name.clone());
            prop_assert_eq!(batch.series[at].family, NO_FAMILY);
            prop_assert_eq!(batch.labels(SeriesIndex(at as u32)), Some(model::Labels::from_pairs(&labels)));
            for want in &values.0 {
                let got = samples.next().unwrap();
                prop_assert_eq!((got.series.0, got.ts_ms, got.value), (at as u32, want.timestamp, want.value));
            }
            for ((want, _), ts_ms) in &values.1 {
                let got = histograms.next().unwrap();
                prop_assert_eq!((got.series.0, got.ts_ms), (at as u32, *ts_ms));
                prop_assert!(got.histogram.same_bits(want));
            }
            for (want, ts_ms) in &values.2 {
                let got = exemplars.next().unwrap();
                prop_assert_eq!((got.series.0, got.ts_ms), (at as u32, *ts_ms));
                prop_assert_eq!(&got.labels, &model::Labels::from_pairs(want));
            }
        }
        prop_assert!(samples.next().is_none() && histograms.next().is_none() && exemplars.next().is_none());
    }

    #[test]
    fn hostile_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_v2(&body, &mut Batch::default(), &limits());
    }

    #[test]
    fn damaged_requests_never_panic(
        values in values_strategy(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut sender = Sender::new();
        let histograms: Vec<_> = values.1.iter().map(|((h, whole), ts_ms)| message_of(h, *ts_ms, *whole)).collect();
        sender.series(&[("__name__", "a"), ("b", "c")], &values.0).histograms = histograms;
        let mut body = sender.request.encode_to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        let mut batch = Batch::default();
        if decode_v2(&body, &mut batch, &limits()).is_ok() {
            prop_assert_eq!(batch.samples.len(), batch.verdicts.len());
            prop_assert!(batch.histograms.iter().all(|h| h.histogram.check().is_ok()));
        }
    }
}
