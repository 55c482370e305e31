//! Requests written by prost, as SDKs and the collector send them, and their JSON form.

use model::{Batch, LabelsBuf, MetricType, Origin, SeriesIndex};
use proptest::prelude::{Strategy as _, any, prop, prop_assert, prop_assert_eq, proptest};
use prost::Message as _;

use super::messages::{
    AnyValue, Attributes, Buckets, Exemplar, ExponentialPoint, Exponentials, HistogramPoint, Histograms, KeyValue,
    Metric, Number, Numbers, Quantile, Request, ResourceMetrics, Scope, ScopeMetrics, Summaries, SummaryPoint,
};
use super::*;
use crate::proto::WireError;
use crate::remote_write::Limits;

const MS: u64 = 1_000_000;

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { string: Some(value.into()), int: None }) }
}

fn number(value: f64) -> Number {
    Number {
        time: 7 * MS,
        start: 3 * MS,
        as_double: Some(value),
        attributes: vec![pair("http.method", "GET")],
        ..Number::default()
    }
}

fn gauge(name: &str, points: Vec<Number>) -> Metric {
    Metric { name: name.into(), gauge: Some(Numbers { points, ..Numbers::default() }), ..Metric::default() }
}

fn sum(name: &str, points: Vec<Number>, temporality: i32) -> Metric {
    Metric { name: name.into(), sum: Some(Numbers { points, temporality, monotonic: true }), ..Metric::default() }
}

fn histogram_point() -> HistogramPoint {
    let exemplar = Exemplar {
        time: 6 * MS,
        as_double: Some(0.7),
        span_id: vec![1; 8],
        trace_id: vec![0xab; 16],
        attributes: vec![pair("user.id", "x")],
    };
    HistogramPoint {
        time: 7 * MS,
        start: 3 * MS,
        count: 6,
        sum: Some(4.5),
        counts: vec![1, 2, 3],
        bounds: vec![0.5, 2.0],
        exemplars: vec![exemplar],
        ..HistogramPoint::default()
    }
}

fn histogram(points: Vec<HistogramPoint>) -> Metric {
    Metric {
        name: "h".into(),
        unit: "s".into(),
        histogram: Some(Histograms { points, temporality: 2 }),
        ..Metric::default()
    }
}

fn exponential(point: ExponentialPoint) -> Metric {
    Metric {
        name: "e".into(),
        exponential: Some(Exponentials { points: vec![point], temporality: 2 }),
        ..Metric::default()
    }
}

fn exponential_point() -> ExponentialPoint {
    ExponentialPoint {
        time: 7 * MS,
        start: 3 * MS,
        count: 8,
        sum: Some(9.0),
        scale: 9,
        zero_count: 1,
        positive: Some(Buckets { offset: -2, counts: vec![1, 2, 4] }),
        ..ExponentialPoint::default()
    }
}

fn request(resource: &[(&str, &str)], metrics: Vec<Metric>) -> Request {
    let attributes = resource.iter().map(|(k, v)| pair(k, v)).collect();
    let scope = Scope { name: "lib".into(), version: "1.2".into(), attributes: vec![pair("a.b", "c")] };
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, schema_url: "url".into() }];
    Request { resource_metrics: vec![ResourceMetrics { resource: Some(Attributes { attributes }), scope_metrics }] }
}

fn limits() -> Limits {
    Limits { native_histograms: true, ..Limits::default() }
}

fn read(request: &Request, options: &Options) -> (Batch, Stats) {
    let mut batch = Batch::new(Origin { received_at_ms: 99, ..Origin::default() });
    let stats = decode(&request.encode_to_vec(), &mut batch, options, &limits()).unwrap();
    assert_eq!(stats.points, stats.point_ends.len());
    (batch, stats)
}

fn labels(batch: &Batch, series: SeriesIndex) -> String {
    batch.labels(series).unwrap().to_string()
}

fn samples(batch: &Batch) -> Vec<(String, i64, f64)> {
    batch.samples.iter().map(|s| (labels(batch, s.series), s.ts_ms, s.value)).collect()
}

fn plain() -> Options {
    Options { target_info: false, ..Options::default() }
}

#[test]
fn numbers_become_series_with_job_and_instance() {
    let resource =
        [("service.namespace", "ns"), ("service.name", "svc"), ("service.instance.id", "i1"), ("host.name", "h")];
    let mut int = number(0.0);
    (int.as_double, int.as_int, int.time) = (None, Some(-5), 0);
    let mut metrics = vec![sum("http.requests", vec![number(3.0)], 2), gauge("temp", vec![int])];
    (metrics[1].unit, metrics[1].description) = ("Cel".into(), "How warm.".into());
    let (batch, stats) = read(&request(&resource, metrics), &Options::default());
    assert_eq!(
        samples(&batch),
        [
            (r#"http_requests_total{http_method="GET", instance="i1", job="ns/svc"}"#.into(), 7, 3.0),
            (r#"temp_celsius{http_method="GET", instance="i1", job="ns/svc"}"#.into(), 99, -5.0),
            (r#"target_info{host_name="h", instance="i1", job="ns/svc"}"#.into(), 99, 1.0),
        ]
    );
    assert_eq!(batch.start_timestamps, [(SeriesIndex(0), 3)]);
    let families: Vec<_> = batch.families.iter().map(|f| (f.name.as_str(), f.metric_type, f.unit.as_str())).collect();
    assert_eq!(
        families,
        [("http_requests_total", MetricType::Counter, ""), ("temp_celsius", MetricType::Gauge, "celsius")]
    );
    assert_eq!((batch.families[1].help.as_str(), batch.series[1].family), ("How warm.", 1));
    assert_eq!((stats.points, stats.rejected, stats.partial_success(&batch)), (2, 0, None));
}

#[test]
fn resource_and_scope_are_promoted_as_asked() {
    let resource = [("service.name", "svc"), ("host.name", "h"), ("http.method", "never"), ("job", "other")];
    let request = request(&resource, vec![gauge("g", vec![number(1.0)])]);
    let some = Options { promote_resource_attributes: vec!["host.name".into(), "http.method".into()], ..plain() };
    assert_eq!(samples(&read(&request, &some).0)[0].0, r#"g{host_name="h", http_method="GET", job="svc"}"#);
    let all = Options {
        promote_all_resource_attributes: true,
        ignore_resource_attributes: vec!["service.name".into()],
        promote_scope_metadata: true,
        strategy: Strategy::NoTranslation,
        ..plain()
    };
    let wanted = r#"g{"host.name"="h", "http.method"="GET", job="svc", "otel_scope_a.b"="c", otel_scope_name="lib", otel_scope_schema_url="url", otel_scope_version="1.2"}"#;
    assert_eq!(samples(&read(&request, &all).0)[0].0, wanted);
    let identifying = Options { keep_identifying_resource_attributes: true, ..Options::default() };
    let (batch, _) = read(&request, &identifying);
    assert_eq!(
        samples(&batch)[1].0,
        r#"target_info{host_name="h", http_method="never", job="svc", service_name="svc"}"#
    );
}

#[test]
fn a_histogram_becomes_classic_series_or_a_native_one() {
    let request = request(&[], vec![histogram(vec![histogram_point()])]);
    let (batch, _) = read(&request, &plain());
    let wanted = [
        ("h_seconds_sum", 4.5),
        ("h_seconds_count", 6.0),
        (r#"h_seconds_bucket{le="0.5"}"#, 1.0),
        (r#"h_seconds_bucket{le="2"}"#, 3.0),
        (r#"h_seconds_bucket{le="+Inf"}"#, 6.0),
    ];
    assert_eq!(samples(&batch), wanted.map(|(labels, value)| (labels.to_owned(), 7, value)));
    assert_eq!(batch.start_timestamps, [(SeriesIndex(1), 3)]);
    let exemplar = &batch.exemplars[0];
    assert_eq!(
        (labels(&batch, exemplar.series).as_str(), exemplar.ts_ms, exemplar.value),
        (r#"h_seconds_bucket{le="2"}"#, 6, 0.7)
    );
    let ids = format!("{{span_id=\"{}\", trace_id=\"{}\", user_id=\"x\"}}", "01".repeat(8), "ab".repeat(16));
    assert_eq!(exemplar.labels.to_string(), ids);
    let (batch, _) = read(&request, &Options { convert_histograms_to_nhcb: true, ..plain() });
    let native = &batch.histograms[0].histogram;
    assert_eq!((&native.positive, &native.custom_bounds), (&vec![1.0, 2.0, 3.0], &vec![0.5, 2.0]));
    assert_eq!((native.count, native.sum, batch.samples.len(), batch.exemplars.len()), (6.0, 4.5, 0, 1));
}

#[test]
fn an_exponential_histogram_becomes_native_and_coarser_if_it_must() {
    let (batch, stats) = read(&request(&[], vec![exponential(exponential_point())]), &plain());
    let native = &batch.histograms[0].histogram;
    assert_eq!((native.schema, native.count, native.zero_count, native.zero_threshold), (8, 8.0, 1.0, 1e-128));
    // Indexes -2, -1 | 0 by twos: -1, -1, 0; each plus 1.
    assert_eq!((native.positive_spans[0].offset, &native.positive), (0, &vec![3.0, 4.0]));
    assert_eq!((stats.decoded.histograms, batch.histograms[0].ts_ms), (1, 7));
    let no_room = Limits::default();
    let mut batch = Batch::default();
    let body = request(&[], vec![exponential(exponential_point())]).encode_to_vec();
    let stats = decode(&body, &mut batch, &plain(), &no_room).unwrap();
    assert_eq!((stats.rejected, batch.verdicts.len()), (1, 1));
}

#[test]
fn a_summary_becomes_quantiles() {
    let quantiles = vec![Quantile { quantile: 0.5, value: 1.0 }, Quantile { quantile: 0.99, value: 2.0 }];
    let point = SummaryPoint { time: 7 * MS, count: 4, sum: 3.0, quantiles, attributes: vec![pair("a", "b")] };
    let metric = Metric { name: "s".into(), summary: Some(Summaries { points: vec![point] }), ..Metric::default() };
    let (batch, _) = read(&request(&[], vec![metric]), &plain());
    let wanted = [
        (r#"s_sum{a="b"}"#, 3.0),
        (r#"s_count{a="b"}"#, 4.0),
        (r#"s{a="b", quantile="0.5"}"#, 1.0),
        (r#"s{a="b", quantile="0.99"}"#, 2.0),
    ];
    assert_eq!(samples(&batch), wanted.map(|(labels, value)| (labels.to_owned(), 7, value)));
}

#[test]
fn points_without_a_value_are_stale_markers() {
    let mut none = number(0.0);
    (none.as_double, none.flags) = (None, 1);
    let mut stale = histogram_point();
    stale.flags = 1;
    let ended = ExponentialPoint { flags: 1, ..exponential_point() };
    let (batch, stats) =
        read(&request(&[], vec![gauge("g", vec![none]), histogram(vec![stale]), exponential(ended)]), &plain());
    assert_eq!((batch.samples.len(), batch.histograms.len(), stats.rejected), (7, 0, 0));
    assert!(batch.samples.iter().all(|s| model::is_stale(s.value)));
}

#[test]
fn target_info_stands_as_often_as_queries_need_it_and_no_oftener() {
    let info = |times: [u64; 2]| {
        let points = times.map(|seconds| Number { time: seconds * 1_000 * MS, ..number(1.0) }).to_vec();
        let request = request(&[("service.name", "svc"), ("host.name", "h")], vec![gauge("g", points)]);
        let (batch, _) = read(&request, &Options::default());
        let named = |series| batch.labels(series).is_some_and(|labels| labels.metric_name() == "target_info");
        batch.samples.iter().filter(|s| named(s.series)).map(|s| s.ts_ms / 1_000).collect::<Vec<_>>()
    };
    assert_eq!(info([1_000, 1_149]), [1_149]);
    assert_eq!(info([1_000, 1_400]), [1_000, 1_150, 1_300, 1_400]);
    let hostile = info([1, 9_000_000_000]);
    assert_eq!((hostile.len(), hostile.last()), (401, Some(&9_000_000_000)));
}

#[test]
fn deltas_are_refused_or_marked() {
    let mut delta = histogram(vec![histogram_point()]);
    delta.histogram.as_mut().unwrap().temporality = 1;
    let request = request(&[], vec![gauge("g", vec![number(1.0)]), sum("c", vec![number(2.0)], 1), delta]);
    let (mut batch, stats) = read(&request, &plain());
    let refused = Verdict::Refused(Refusal::InvalidValue);
    assert_eq!(batch.verdicts, [Verdict::Pending, refused, refused]);
    batch.verdicts[0] = Verdict::Stored;
    let partial = stats.partial_success(&batch).unwrap();
    assert_eq!(partial.rejected_data_points, 2);
    assert_eq!(partial.error_message, "metric \"c\": invalid_value: delta temporality is not taken; send cumulative");
    let (batch, stats) = read(&request, &Options { deltas: Deltas::Mark, ..plain() });
    let places: Vec<_> = stats.deltas.iter().map(|d| (d.samples.clone(), d.histograms.clone())).collect();
    assert_eq!((stats.rejected, places), (0, vec![(1..2, 0..0), (2..7, 0..0)]));
    assert_eq!(batch.samples.len(), 7);
}

#[test]
fn a_bad_point_costs_only_itself() {
    let bad: [(Metric, &str); 8] = [
        (gauge("@#$", vec![number(1.0)]), "nothing usable"),
        (gauge("g", vec![Number { as_double: None, ..number(1.0) }]), "no value"),
        (gauge("g", vec![Number { attributes: vec![pair("", "x")], ..number(1.0) }]), "empty"),
        (gauge("g", vec![Number { attributes: vec![pair(&"k".repeat(2000), "x")], ..number(1.0) }]), "too long"),
        (histogram(vec![HistogramPoint { counts: vec![1], ..histogram_point() }]), "2 bounds do not go with 1 counts"),
        (histogram(vec![HistogramPoint { bounds: vec![2.0, 1.0], ..histogram_point() }]), "do not rise"),
        (exponential(ExponentialPoint { scale: -5, ..exponential_point() }), "coarser"),
        (exponential(ExponentialPoint { count: 9, ..exponential_point() }), "the count says 9"),
    ];
    for (metric, text) in bad {
        let good = gauge("good", vec![number(1.0)]);
        let (mut batch, stats) = read(&request(&[], vec![good.clone(), metric, good]), &plain());
        assert_eq!((batch.verdicts[0], batch.verdicts[2]), (Verdict::Pending, Verdict::Pending), "{text}");
        assert!(matches!(batch.verdicts[1], Verdict::Refused(_)), "{text}");
        let first = stats.first_rejected.as_ref().unwrap();
        assert!(first.text.contains(text), "{} / {text}", first.text);
        for verdict in batch.verdicts.iter_mut().filter(|v| **v == Verdict::Pending) {
            *verdict = Verdict::Stored;
        }
        assert_eq!(stats.partial_success(&batch).unwrap().rejected_data_points, 1);
    }
}

#[test]
fn few_bytes_cannot_ask_for_much_memory() {
    let long = "x".repeat(60_000);
    let many =
        HistogramPoint { counts: vec![0; 10_001], bounds: (0..10_000).map(f64::from).collect(), ..histogram_point() };
    let body = request(&[("service.name", &long)], vec![histogram(vec![many])]).encode_to_vec();
    assert!(body.len() < 250_000);
    let result = decode(&body, &mut Batch::default(), &plain(), &limits());
    assert_eq!(result, Err(WireError::TextTooLarge { max: 256 << 20 }));
}

#[test]
fn json_is_read_like_the_binary_form() {
    let json = r#"{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"svc"}}],"droppedAttributesCount":0},
      "scopeMetrics":[{"scope":{"name":"lib","version":"1.2","attributes":[{"key":"a.b","value":{"stringValue":"c"}}]},"schemaUrl":"url","metrics":[
       {"name":"h","unit":"s","histogram":{"aggregationTemporality":"AGGREGATION_TEMPORALITY_CUMULATIVE","dataPoints":[
         {"startTimeUnixNano":"3000000","timeUnixNano":7000000,"count":"6","sum":4.5,"bucketCounts":["1",2,"3"],"explicitBounds":[0.5,2],"unknown":[{}],
          "exemplars":[{"timeUnixNano":"6000000","asDouble":0.7,"spanId":"0101010101010101","traceId":"ABabABabABabABabABabABabABabABab",
            "filteredAttributes":[{"key":"user.id","value":{"stringValue":"x"}}]}]}]}},
       {"name":"c","sum":{"aggregationTemporality":1,"isMonotonic":true,"dataPoints":[{"asInt":"-5","timeUnixNano":"7000000","flags":0,"startTimeUnixNano":null}]}},
       {"name":"e","exponentialHistogram":{"aggregationTemporality":2,"dataPoints":[{"startTimeUnixNano":"3000000","timeUnixNano":"7000000","count":8,"sum":9,"scale":9,
          "zeroCount":"1","positive":{"offset":-2,"bucketCounts":["1","2","4"]}}]}}]}]}]}"#;
    let point = Number { start: 0, as_double: None, as_int: Some(-5), attributes: Vec::new(), ..number(0.0) };
    let metrics = vec![histogram(vec![histogram_point()]), sum("c", vec![point], 1), exponential(exponential_point())];
    let wanted = request(&[("service.name", "svc")], metrics);
    assert_eq!(Request::decode(json_to_protobuf(json.as_bytes()).unwrap().as_slice()), Ok(wanted.clone()));
    let mut batch = Batch::default();
    let stats =
        decode_json(json.as_bytes(), &mut batch, &Options { promote_scope_metadata: true, ..plain() }, &limits())
            .unwrap();
    assert_eq!((stats.points, stats.rejected, batch.histograms.len()), (3, 1, 1));
    for bad in [
        "",
        "[]",
        "{\"resourceMetrics\":{}}",
        "{\"resourceMetrics\":[{\"resource\":[]}]}",
        "{} x",
        "{\"resourceMetrics\":[3]}",
    ] {
        assert!(json_to_protobuf(bad.as_bytes()).is_err(), "{bad}");
    }
    let nested = format!("{{\"resourceMetrics\":{}", "[".repeat(100_000));
    assert!(json_to_protobuf(nested.as_bytes()).is_err());
}

fn number_strategy() -> impl proptest::strategy::Strategy<Value = Number> {
    let attributes = prop::collection::btree_map("[a-c]{1,3}", "[a-z\u{e0}]{1,150}", 0..4);
    (attributes, -1e9..1e9f64, 1..1_000_000u64).prop_map(|(attributes, value, ms)| Number {
        attributes: attributes.iter().map(|(k, v)| pair(k, v)).collect(),
        time: ms * MS,
        ..number(value)
    })
}

proptest! {
    #[test]
    fn what_prost_writes_is_read_alike(points in prop::collection::vec(number_strategy(), 0..6)) {
        let request = request(&[("service.name", "svc")], vec![gauge("g", points.clone())]);
        let (batch, stats) = read(&request, &plain());
        prop_assert_eq!((stats.points, stats.rejected, batch.samples.len()), (points.len(), 0, points.len()));
        for (sample, point) in batch.samples.iter().zip(&points) {
            let mut labels = LabelsBuf::default();
            labels.push("__name__", "g");
            labels.push("job", "svc");
            for a in &point.attributes {
                labels.push(&a.key, a.value.as_ref().unwrap().string.as_deref().unwrap());
            }
            prop_assert_eq!(batch.labels(sample.series), Some(labels.to_labels()));
            prop_assert_eq!((sample.ts_ms as u64 * MS, Some(sample.value)), (point.time, point.as_double));
        }
    }

    #[test]
    fn damaged_requests_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let metrics = vec![gauge("g", vec![number(1.0)]), histogram(vec![histogram_point()]), exponential(exponential_point())];
        let mut body = request(&[("service.name", "svc")], metrics).encode_to_vec();
        let at = at.index(body.len());
        if cut { body.truncate(at) } else { body[at] = byte }
        let mut batch = Batch::default();
        let whole = Options { promote_all_resource_attributes: true, promote_scope_metadata: true, deltas: Deltas::Mark, ..Options::default() };
        if decode(&body, &mut batch, &whole, &limits()).is_ok() {
            prop_assert!(batch.histograms.iter().all(|h| h.histogram.check().is_ok()));
            prop_assert!((0..batch.series.len()).all(|i| batch.labels(SeriesIndex(i as u32)).is_some()));
        }
    }

    #[test]
    fn hostile_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&body, &mut Batch::default(), &Options::default(), &limits());
        let _ = json_to_protobuf(&body);
    }
}
