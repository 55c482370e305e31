//! The parser against prost, the short way against the long way, and bodies that are not what they should be.

use model::histogram::ResetHint;
use model::{LabelsBuf, MetricType};
use proptest::prelude::*;
use prost::Message as _;

use super::messages::{Bucket, Exemplar, Family, Histogram, Metric, Number, Pair, Quantile, Span, Summary, Timestamp};
use super::*;
use crate::points::Role;
use crate::scrape::{self, BodyParser, Item, Reading, Value};
use crate::{Format, ParseError};

fn pair(name: &str, value: &str) -> Pair {
    Pair { name: name.to_owned(), value: value.to_owned() }
}

fn family(name: &str, metric_type: i32, metric: Vec<Metric>) -> Family {
    Family { name: name.to_owned(), metric_type, metric, ..Family::default() }
}

fn body(families: &[Family]) -> Vec<u8> {
    families.iter().flat_map(|f| f.encode_length_delimited_to_vec()).collect()
}

fn number(value: f64) -> Option<Number> {
    Some(Number { value, ..Number::default() })
}

fn exemplar(label: &str, value: f64, timestamp: Option<Timestamp>) -> Exemplar {
    Exemplar { label: vec![pair("trace_id", label)], value, timestamp }
}

/// Everything that a body says about its samples.
#[derive(Clone, PartialEq, Debug)]
struct Seen {
    key: Vec<u8>,
    labels: String,
    reading: Reading,
    exemplars: Vec<(String, f64, Option<i64>)>,
    histogram: Option<Result<model::histogram::Histogram, String>>,
}

fn see(parser: &BodyParser<'_>, key: &[u8], reading: Reading) -> Result<Seen, ParseError> {
    let mut labels = LabelsBuf::default();
    parser.labels(&mut labels)?;
    let mut again = LabelsBuf::default();
    scrape::key_labels(Format::Protobuf, key, parser.metric_type(), &mut again)?;
    assert_eq!(labels.to_labels(), again.to_labels());
    assert_eq!(scrape::key_name(Format::Protobuf, key), labels.get("__name__").unwrap());
    let mut exemplars = Vec::new();
    parser.exemplars(|labels, value, ts_ms| exemplars.push((labels.to_labels().to_string(), value, ts_ms)));
    let histogram = (reading.value == Value::Histogram).then(|| parser.histogram());
    Ok(Seen { key: key.to_vec(), labels: labels.to_labels().to_string(), reading, exemplars, histogram })
}

fn read(body: &[u8], classic_too: bool) -> Result<Vec<Seen>, ParseError> {
    let mut parser = BodyParser::new(Format::Protobuf, body, classic_too);
    let mut all = Vec::new();
    while let Some(item) = parser.next() {
        if let Item::Sample { key, reading } = item? {
            let key = key.to_vec();
            all.push(see(&parser, &key, reading)?);
        }
    }
    Ok(all)
}

type Line = (String, Value, Option<i64>, Option<i64>, Option<Role>);

fn lines(body: &[u8]) -> Vec<Line> {
    let seen = read(body, false).unwrap();
    seen.into_iter().map(|s| (s.labels, s.reading.value, s.reading.ts_ms, s.reading.start_ms, s.reading.role)).collect()
}

fn classic() -> Histogram {
    Histogram {
        count: 5,
        sum: 7.5,
        bucket: vec![
            Bucket { count: 2, bound: 1.0, ..Bucket::default() },
            Bucket { count: 4, bound: 2.5, exemplar: Some(exemplar("x", 2.0, None)), ..Bucket::default() },
        ],
        created: Some(Timestamp { seconds: 12, nanos: 345_678_901 }),
        ..Histogram::default()
    }
}

fn native() -> Histogram {
    Histogram {
        schema: 2,
        zero_threshold: 0.001,
        zero_count: 1,
        positive_span: vec![Span { offset: -1, length: 1 }, Span { offset: 2, length: 1 }],
        positive_delta: vec![1, 2],
        ..classic()
    }
}

fn histogram(histogram: Histogram) -> Metric {
    Metric { histogram: Some(histogram), ..Metric::default() }
}

#[test]
fn every_type_becomes_its_series() {
    let created = Some(Timestamp { seconds: 5, nanos: 0 });
    let counter = Number { value: 3.0, created, ..Number::default() };
    let summary = Summary {
        count: 4,
        sum: 2.0,
        quantile: vec![Quantile { quantile: 0.5, value: 1.5 }, Quantile { quantile: 1.0, value: 9.0 }],
        created,
    };
    let labels = vec![pair("z", "\"\n"), pair("a", "b")];
    let families = [
        family("c_total", 0, vec![Metric { label: labels, counter: Some(counter), ..Metric::default() }]),
        family("g", 1, vec![Metric { gauge: number(-0.5), timestamp_ms: Some(77), ..Metric::default() }]),
        family("empty", 1, Vec::new()),
        family("u", 3, vec![Metric { untyped: number(f64::INFINITY), timestamp_ms: Some(0), ..Metric::default() }]),
        family("s", 2, vec![Metric { summary: Some(summary), ..Metric::default() }]),
        family("h", 4, vec![histogram(classic())]),
    ];
    let (point, part) = (Some(Role::Point), Some(Role::Part));
    let float = |text: &str, value, start_ms, role| (text.to_owned(), Value::Float(value), None, start_ms, role);
    let wanted = [
        float("c_total{a=\"b\", z=\"\\\"\\n\"}", 3.0, Some(5000), point),
        ("g".to_owned(), Value::Float(-0.5), Some(77), None, point),
        float("u", f64::INFINITY, None, point),
        float("s_count", 4.0, Some(5000), point),
        float("s_sum", 2.0, None, part),
        float("s{quantile=\"0.5\"}", 1.5, None, part),
        float("s{quantile=\"1.0\"}", 9.0, None, part),
        float("h_count", 5.0, Some(12_345), point),
        float("h_sum", 7.5, None, part),
        float("h_bucket{le=\"1.0\"}", 2.0, None, part),
        float("h_bucket{le=\"2.5\"}", 4.0, None, part),
        float("h_bucket{le=\"+Inf\"}", 5.0, None, part),
    ];
    assert_eq!(lines(&body(&families)), wanted);
}

#[test]
fn metadata_comes_first_wherever_it_stands() {
    let metric = vec![Metric { gauge: number(1.0), ..Metric::default() }];
    let family = Family { help: "Some help.".into(), unit: "seconds".into(), ..family("g_seconds", 1, metric) };
    let body = body(&[family]);
    let mut parser = BodyParser::new(Format::Protobuf, &body, false);
    let mut items = Vec::new();
    while let Some(item) = parser.next() {
        items.push(format!("{:?}", item.unwrap()));
    }
    assert_eq!(items[0], "Type { name: \"g_seconds\", metric_type: Gauge }");
    assert_eq!(items[1], "Help { name: \"g_seconds\", help: \"Some help.\" }");
    assert_eq!(items[2], "Unit { name: \"g_seconds\", unit: \"seconds\" }");
    assert!(items[3].starts_with("Sample") && items.len() == 4);
}

/// As where native histograms are not wanted: what was native is classic, if need be with the infinite bucket alone.
#[test]
fn without_native_histograms_all_are_classic() {
    let no_buckets = Histogram { bucket: Vec::new(), ..native() };
    let body = body(&[family("h", 4, vec![histogram(native()), histogram(no_buckets)])]);
    let mut parser = ProtobufParser::new(&body).with_native(false);
    let mut seen = Vec::new();
    while let Some(item) = parser.next() {
        if let Item::Sample { reading, .. } = item.unwrap() {
            let mut labels = LabelsBuf::default();
            parser.labels(&mut labels).unwrap();
            let name = labels.iter().map(|(_, value)| value).collect::<Vec<_>>().join(" ");
            seen.push((name, reading.value, reading.role == Some(Role::Point)));
        }
    }
    let want = |name: &str, value, is_point| (name.to_owned(), Value::Float(value), is_point);
    assert_eq!(
        seen,
        [
            want("h_count", 5.0, true),
            want("h_sum", 7.5, false),
            want("h_bucket 1.0", 2.0, false),
            want("h_bucket 2.5", 4.0, false),
            want("h_bucket +Inf", 5.0, false),
            want("h_count", 5.0, true),
            want("h_sum", 7.5, false),
            want("h_bucket +Inf", 5.0, false),
        ]
    );
}

#[test]
fn native_histograms_stand_for_their_classic_buckets_unless_both_are_wanted() {
    let float = Histogram {
        count: 0,
        count_float: 4.5,
        zero_count: 0,
        zero_count_float: 0.5,
        positive_delta: Vec::new(),
        positive_count: vec![1.5, 2.5],
        ..native()
    };
    let body = body(&[
        family("h", 4, vec![histogram(native()), histogram(classic())]),
        family("f", 5, vec![histogram(float)]),
    ]);
    let seen = read(&body, false).unwrap();
    let labels: Vec<_> = seen.iter().map(|s| s.labels.as_str()).collect();
    assert_eq!(
        labels,
        ["h", "h_count", "h_sum", "h_bucket{le=\"1.0\"}", "h_bucket{le=\"2.5\"}", "h_bucket{le=\"+Inf\"}", "f"]
    );
    let whole = seen[0].histogram.clone().unwrap().unwrap();
    assert_eq!((whole.schema, whole.count, whole.zero_count, whole.sum), (2, 5.0, 1.0, 7.5));
    assert_eq!((whole.positive, whole.reset_hint), (vec![1.0, 3.0], ResetHint::Unknown));
    assert_eq!(seen[0].reading.start_ms, Some(12_345));
    let float = seen[6].histogram.clone().unwrap().unwrap();
    assert_eq!((float.count, float.zero_count, float.reset_hint), (4.5, 0.5, ResetHint::Gauge));
    assert_eq!(float.positive, [1.5, 2.5]);
    let both = read(&body, true).unwrap();
    assert_eq!(both.len(), 7 + 5 + 5);
    assert_eq!((both[1].labels.as_str(), both[1].reading.role), ("h_count", Some(Role::Part)));
}

#[test]
fn a_bad_histogram_says_why_and_costs_only_itself() {
    let bad = Histogram { positive_delta: vec![1, -2], ..native() };
    let wrong_sum = Histogram { count: 6, ..native() };
    let body = body(&[family("h", 4, vec![histogram(bad), histogram(wrong_sum), histogram(native())])]);
    let seen = read(&body, false).unwrap();
    let texts: Vec<_> =
        seen.iter().map(|s| s.histogram.clone().unwrap().map(|_| ()).err().unwrap_or_default()).collect();
    assert!(texts[0].contains("negative count") && texts[1].contains("the count says 6"), "{texts:?}");
    assert_eq!(texts[2], "");
}

#[test]
fn exemplars_come_with_their_series() {
    let at = Some(Timestamp { seconds: 1, nanos: 500_000_000 });
    let counter = Number { value: 3.0, exemplar: Some(exemplar("c", 1.0, at)), ..Number::default() };
    let own = Histogram { exemplars: vec![exemplar("n1", 1.0, at), exemplar("n2", 2.0, at)], ..native() };
    let body = body(&[
        family("c", 0, vec![Metric { counter: Some(counter), ..Metric::default() }]),
        family("h", 4, vec![histogram(classic())]),
        family("n", 4, vec![histogram(own), histogram(native())]),
    ]);
    let seen = read(&body, false).unwrap();
    let found: Vec<_> =
        seen.iter().filter(|s| !s.exemplars.is_empty()).map(|s| (s.labels.as_str(), s.exemplars.clone())).collect();
    let wanted = |label: &str, value, ts_ms| (format!("{{trace_id=\"{label}\"}}"), value, ts_ms);
    assert_eq!(
        found,
        [
            ("c", vec![wanted("c", 1.0, Some(1500))]),
            ("h_bucket{le=\"2.5\"}", vec![wanted("x", 2.0, None)]),
            ("n", vec![wanted("n1", 1.0, Some(1500)), wanted("n2", 2.0, Some(1500))]),
            ("n", vec![wanted("x", 2.0, None)]),
        ]
    );
}

#[test]
fn labels_that_stand_in_very_many_series_end_the_body() {
    let many = |labels: usize, buckets: u32| {
        let bucket = (0..buckets).map(|i| Bucket { bound: f64::from(i), ..Bucket::default() }).collect();
        let mut metric = histogram(Histogram { bucket, ..Histogram::default() });
        metric.label = vec![pair("l", &"v".repeat(labels))];
        read(&body(&[family("h", 4, vec![metric])]), false).map(|seen| seen.len())
    };
    assert_eq!(many(1_000, 10_000).map(|n| n > 10_000), Ok(true));
    assert!(many(100_000, 1_000).is_err_and(|e| e.message.contains("too many bytes")));
}

#[test]
fn labels_that_other_fields_stand_between_are_gathered() {
    let labels = |names: &[&str]| Metric { label: names.iter().map(|n| pair(n, "v")).collect(), ..Metric::default() };
    let gauge = Metric { gauge: number(1.0), ..Metric::default() };
    let parts = [labels(&["a"]), gauge.clone(), labels(&["b", "c"])];
    let metric: Vec<u8> = parts.iter().flat_map(|m| m.encode_to_vec()).collect();
    let mut message = Family { metric: Vec::new(), ..family("g", 1, Vec::new()) }.encode_to_vec();
    message.extend([0x22, metric.len() as u8]);
    message.extend(&metric);
    let mut apart = vec![message.len() as u8];
    apart.extend(&message);
    let together = body(&[family("g", 1, vec![Metric { gauge: number(1.0), ..labels(&["a", "b", "c"]) }])]);
    assert_eq!(read(&apart, false), read(&together, false));
}

#[test]
fn faults_say_where_and_in_which_family() {
    let good = family("good", 1, vec![Metric { gauge: number(1.0), ..Metric::default() }]);
    let metric = || vec![Metric { gauge: number(1.0), ..Metric::default() }];
    let twice = Metric { label: vec![pair("", "v")], ..metric().remove(0) };
    let cases = [
        (family("", 1, metric()), "a family has no name"),
        (family("odd", 9, metric()), "unknown type 9 in \"odd\""),
        (family("c", 0, metric()), "a metric has no value of type counter in \"c\""),
        (family("g", 1, vec![twice]), "a label name is empty in \"g\""),
    ];
    for (bad, text) in cases {
        let body = body(&[good.clone(), bad]);
        let error = read(&body, false).unwrap_err();
        assert!(error.to_string().contains(text), "{error} / {text}");
        assert!(error.to_string().starts_with(&format!("byte {}: ", error.offset)), "{error}");
        assert!(error.offset >= good.encoded_len());
    }
    let error = read(b"\x05\x0a\x09ab", false).unwrap_err();
    assert_eq!(error.to_string(), "byte 1: malformed protobuf: a length goes beyond the end of the message in \"\"");
}

#[test]
fn every_cut_but_between_families_is_a_fault() {
    let families = [
        family("h", 4, vec![histogram(native()), histogram(classic())]),
        family("g", 1, vec![Metric { gauge: number(1.0), ..Metric::default() }]),
    ];
    let whole = body(&families);
    let between = body(&families[..1]).len();
    for cut in 1..whole.len() {
        assert_eq!(read(&whole[..cut], true).is_ok(), cut == between, "{cut}");
    }
    assert_eq!(read(b"", false), Ok(Vec::new()));
}

fn metric_strategy(metric_type: i32) -> impl Strategy<Value = Metric> {
    let labels = prop::collection::vec(("[a-c]{1,2}", "[a-z\u{e0}]{0,150}").prop_map(|(n, v)| pair(&n, &v)), 0..4);
    let exemplar = prop::option::weighted(0.2, Just(exemplar("x", 1.0, None)));
    (labels, 0..5u64, exemplar, prop::option::of(1..9i64), any::<bool>()).prop_map(
        move |(label, value, exemplar, timestamp_ms, is_native)| {
            let number = (metric_type != 2 && metric_type != 4).then(|| Number {
                value: value as f64,
                exemplar: exemplar.clone().filter(|_| metric_type == 0),
                created: None,
            });
            let quantile = vec![Quantile { quantile: 0.5, value: value as f64 }];
            let mut metric = Metric { label, timestamp_ms, ..Metric::default() };
            match metric_type {
                0 => metric.counter = number,
                1 => metric.gauge = number,
                2 => metric.summary = Some(Summary { count: value, sum: 1.0, quantile, created: None }),
                4 => metric.histogram = Some(if is_native { native() } else { classic() }),
                _ => metric.untyped = number,
            }
            metric
        },
    )
}

fn families_strategy() -> impl Strategy<Value = Vec<Family>> {
    let family = (0..5i32).prop_flat_map(|metric_type| {
        let metrics = prop::collection::vec(metric_strategy(metric_type), 0..4);
        ("[a-z]{1,3}", metrics).prop_map(move |(name, metrics)| family(&name, metric_type, metrics))
    });
    prop::collection::vec(family, 0..5)
}

/// Reads a body with a guess for each next key: right, wrong, or none.
fn short_way(body: &[u8], guesses: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, Reading)>, ParseError> {
    let mut parser = BodyParser::new(Format::Protobuf, body, true);
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        if let Some((guess, reading)) = guesses.get(at).and_then(|g| Some((g, parser.next_known(g)?))) {
            all.push((guess.clone(), reading));
            at += 1;
            continue;
        }
        match parser.next() {
            None => return Ok(all),
            Some(Err(e)) => return Err(e),
            Some(Ok(Item::Sample { key, reading })) => {
                all.push((key.to_vec(), reading));
                at += 1;
            }
            Some(Ok(_)) => {}
        }
    }
}

proptest! {
    #[test]
    fn the_short_way_finds_what_the_long_way_finds(families in families_strategy(), wrong in any::<prop::sample::Index>(), swap in any::<bool>()) {
        let body = body(&families);
        let seen: Vec<_> = read(&body, true).unwrap().into_iter().map(|s| (s.key, s.reading)).collect();
        let mut guesses: Vec<_> = seen.iter().map(|s| s.0.clone()).collect();
        prop_assert_eq!(short_way(&body, &guesses), Ok(seen.clone()));
        if guesses.len() > 1 {
            let at = wrong.index(guesses.len());
            if swap { guesses.swap(0, at) } else { guesses[at].push(0) }
            prop_assert_eq!(short_way(&body, &guesses), Ok(seen));
        }
    }

    #[test]
    fn damaged_bodies_never_panic(families in families_strategy(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = body(&families);
        prop_assume!(!body.is_empty());
        let at = at.index(body.len());
        body[at] = byte;
        if let Err(e) = read(&body, true) {
            prop_assert!(e.offset <= body.len() && !e.to_string().is_empty());
        }
    }

    #[test]
    fn hostile_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200), key in prop::collection::vec(any::<u8>(), 0..30)) {
        let _ = read(&body, true);
        let _ = scrape::key_labels(Format::Protobuf, &key, MetricType::Unknown, &mut LabelsBuf::default());
        prop_assert!(key_name(&key).len() <= key.len() + 7);
    }
}
