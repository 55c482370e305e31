//! Scrapes of protobuf bodies: the same as of text, and native histograms.

use collect::{OnExceed, Protocol, ScrapeErrorKind, ScrapeOutcome, TargetSpec};
use model::relabel::{Action, Pattern, Rule};
use model::{Health, Refusal};

use crate::messages::*;
use crate::support::*;

fn native_spec(exporter: &Exporter) -> TargetSpec {
    let mut spec = exporter.spec();
    (spec.native_histograms, spec.protocols) = (true, Protocol::PROTO_FIRST.to_vec());
    spec
}

/// Gives the names, counts and sums of the native histograms.
fn natives(stored: &Stored) -> Vec<(String, f64, f64)> {
    stored.histograms.iter().map(|(name, _, h)| (name.clone(), h.count, h.sum)).collect()
}

fn points(outcome: &ScrapeOutcome) -> [u64; 5] {
    let p = outcome.points;
    [p.counters, p.gauges, p.histograms, p.summaries, p.others]
}

/// A family of each type that has no native part.
fn plain_families(round: f64) -> Vec<Family> {
    let quantiles = vec![Quantile { quantile: 0.5, value: 1.0 }, Quantile { quantile: 0.99, value: round }];
    vec![
        family("c_total", COUNTER, vec![counter(&[("a", "1")], round), counter(&[("a", "2")], 2.0)]),
        family("g", GAUGE, vec![gauge(&[], -0.5)]),
        family("s", SUMMARY, vec![summary(&[], Summary { count: 2, sum: 3.0, quantile: quantiles, created: None })]),
        family("u", UNTYPED, vec![untyped(&[], 7.0)]),
        family("h", HISTOGRAM, vec![histogram(&[("a", "1")], classic())]),
        family("gh", GAUGE_HISTOGRAM, vec![histogram(&[], classic())]),
    ]
}

fn plain_samples(round: f64) -> Vec<(String, f64)> {
    valued(&[
        ("c_total{a=\"1\"}", round),
        ("c_total{a=\"2\"}", 2.0),
        ("g", -0.5),
        ("s{quantile=\"0.5\"}", 1.0),
        ("s{quantile=\"0.99\"}", round),
        ("s_sum", 3.0),
        ("s_count", 2.0),
        ("u", 7.0),
        ("h_count{a=\"1\"}", 3.0),
        ("h_sum{a=\"1\"}", 4.5),
        ("gh_count", 3.0),
        ("gh_sum", 4.5),
    ])
}

/// Buckets, whose labels do not sort as those of [`labeled`] do.
fn buckets() -> Vec<(String, f64)> {
    let bounds = [("1.0", 1.0), ("2.5", 2.0), ("+Inf", 3.0)];
    let of = |name: &str, a: &str| {
        let name = format!("{name}_bucket{{{a}instance=\"i\", job=\"j\", le=");
        bounds.map(|(le, value)| (format!("{name}\"{le}\"}}"), value))
    };
    [of("h", "a=\"1\", "), of("gh", "")].concat()
}

/// Gives what differs between the list and what is wanted.
fn same(mut got: Vec<(String, f64)>, mut want: Vec<(String, f64)>) {
    // The target's labels sort between others.
    for (name, _) in got.iter_mut().chain(&mut want) {
        let mut parts: Vec<&str> = name.split(['{', ',', '}', ' ']).filter(|p| !p.is_empty()).collect();
        parts[1..].sort();
        *name = parts.join(",");
    }
    got.sort_by(|a, b| a.0.cmp(&b.0));
    want.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(got, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_every_type_is_stored_and_known_the_second_time() {
    let exporter = Exporter::new(Page::protobuf(&body(&plain_families(1.0))));
    let mut spec = exporter.spec();
    spec.protocols = Protocol::PROTO_FIRST.to_vec();
    let world = World::with(spec);
    for round in [1.0, 2.0, 3.0] {
        exporter.show(Page::protobuf(&body(&plain_families(round))));
        let (outcome, stored) = world.scrape().await;
        assert!(outcome.ok, "{outcome:?}");
        assert_eq!(outcome.format, Some("PrometheusProto"));
        same(stored.body(), [plain_samples(round), buckets()].concat());
        let first = round == 1.0;
        assert_eq!(stored.by_labels, if first { 23 } else { 0 });
        assert_eq!(stored.facts(), (1.0, 18.0, 18.0, if first { 18.0 } else { 0.0 }));
        assert_eq!((outcome.samples, outcome.series, points(&outcome)), (18, 18, [2, 1, 2, 1, 1]));
        assert_eq!(stored.stale(), Vec::<String>::new());
        assert_eq!(stored.types[&labeled("gh_sum")], "gaugehistogram");
        assert_eq!(stored.families[0].help, "About c_total.");
    }
    let accept =
        "accept: application/vnd.google.protobuf;proto=io.prometheus.client.metricfamily;encoding=delimited;q=0.6,";
    assert!(exporter.heads()[0].contains(accept), "{}", exporter.heads()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exemplars_starts_and_times_are_those_of_the_body() {
    let exemplar = |id: &str, value, seconds| Exemplar {
        label: vec![Pair { name: "trace_id".into(), value: id.into() }],
        value,
        timestamp: Some(Timestamp { seconds, nanos: 500_000_000 }),
    };
    let mut counted = counter(&[], 1.0);
    counted.counter.as_mut().unwrap().exemplar = Some(exemplar("x", 0.25, 1_700_000_000));
    counted.counter.as_mut().unwrap().created = Some(Timestamp { seconds: 1_600_000_000, nanos: 0 });
    let timed = Metric { timestamp_ms: Some(1_700_000_000_123), ..gauge(&[], 5.0) };
    let mut distribution = native();
    distribution.exemplars = vec![exemplar("y", 2.0, 1_700_000_001), exemplar("z", 3.0, 1_700_000_002)];
    distribution.created = Some(Timestamp { seconds: 1_600_000_001, nanos: 0 });
    let page = body(&[
        family("c_total", COUNTER, vec![counted]),
        family("timed", GAUGE, vec![timed]),
        family("h", HISTOGRAM, vec![histogram(&[], distribution)]),
    ]);
    let exporter = Exporter::new(Page::protobuf(&page));
    let world = World::with(native_spec(&exporter));
    for _ in 0..2 {
        let (outcome, stored) = world.scrape().await;
        let exemplars: Vec<_> = stored.exemplars.iter().map(|e| (e.labels.to_string(), e.value, e.ts_ms)).collect();
        let want = |id: &str, value, ts_ms| (format!("{{trace_id=\"{id}\"}}"), value, ts_ms);
        assert_eq!(
            exemplars,
            [want("x", 0.25, 1_700_000_000_500), want("y", 2.0, 1_700_000_001_500), want("z", 3.0, 1_700_000_002_500)]
        );
        let starts = [(labeled("c_total"), 1_600_000_000_000), (labeled("h"), 1_600_000_001_000)];
        assert_eq!(stored.starts, starts);
        let ts = |name: &str| stored.samples.iter().find(|s| s.0 == labeled(name)).map(|s| s.1);
        assert_eq!(ts("c_total"), Some(outcome.scrape_ms));
        assert_eq!(stored.histograms[0].1, outcome.scrape_ms);
        assert_eq!(outcome.samples, 3);
    }
    // A series with times of its own ends without a mark.
    exporter.show(Page::protobuf(&[]));
    assert_eq!(world.scrape().await.1.stale(), named(&["c_total", "h"]));
    exporter.show(Page::protobuf(&page));
    let mut spec = native_spec(&exporter);
    spec.honor_timestamps = false;
    world.collector.upsert(spec);
    let (outcome, stored) = world.scrape().await;
    assert!(stored.samples.contains(&(labeled("timed"), outcome.scrape_ms, 5.0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn native_histograms_are_stored_where_they_are_wanted() {
    let mut both = classic();
    (both.count, both.schema, both.zero_threshold) = (3, 3, 0.001);
    (both.positive_span, both.positive_delta) = (vec![Span { offset: 4, length: 3 }], vec![1, 0, 0]);
    let gauge = Histogram { count: 0, count_float: 2.5, zero_count: 0, zero_count_float: 2.5, ..Histogram::default() };
    let page = |sum| {
        body(&[
            family("h", HISTOGRAM, vec![histogram(&[("a", "1")], Histogram { sum, ..both.clone() })]),
            family("gh", GAUGE_HISTOGRAM, vec![histogram(&[], gauge.clone())]),
        ])
    };
    let exporter = Exporter::new(Page::protobuf(&page(4.5)));
    let world = World::with(native_spec(&exporter));
    for (round, sum) in [4.5, 5.5].into_iter().enumerate() {
        exporter.show(Page::protobuf(&page(sum)));
        let (outcome, stored) = world.scrape().await;
        assert!(outcome.ok, "{outcome:?}");
        assert_eq!(natives(&stored), [(labeled("h{a=\"1\"}"), 3.0, sum), (labeled("gh"), 2.5, 0.0)]);
        assert_eq!(stored.histograms[0].2.positive, [1.0, 1.0, 1.0]);
        assert_eq!((stored.body(), stored.by_labels), (vec![], if round == 0 { 7 } else { 0 }));
        assert_eq!((stored.facts().1, stored.facts().2), (2.0, 2.0));
        assert_eq!((outcome.samples, outcome.series, points(&outcome)), (2, 2, [0, 0, 2, 0, 0]));
        assert_eq!(outcome.counts.stored, 7);
        let report = stored.report.unwrap();
        assert_eq!((report.samples_count, report.summary.histograms, report.health), (2, 2, Health::Healthy));
    }
    // Both forms.
    let mut spec = native_spec(&exporter);
    spec.always_classic_histograms = true;
    world.collector.upsert(spec.clone());
    let (outcome, stored) = world.scrape().await;
    assert_eq!((natives(&stored).len(), stored.body().len(), outcome.samples), (2, 5, 7));
    assert_eq!((points(&outcome), stored.stale()), ([0, 0, 2, 0, 0], vec![]));
    // Only the classic form: one without classic buckets has the infinite one; the native series have ended.
    spec.native_histograms = false;
    world.collector.upsert(spec);
    let (outcome, stored) = world.scrape().await;
    assert_eq!((natives(&stored).len(), stored.body().len(), outcome.samples), (0, 8, 8));
    assert_eq!(stored.stale(), named(&["gh", "h{a=\"1\"}"]));
    assert_eq!(points(&outcome), [0, 0, 2, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_may_change_between_classic_native_and_plain() {
    let page = |metric_type, metric| Page::protobuf(&body(&[family("h", metric_type, vec![metric])]));
    let is_classic = page(HISTOGRAM, histogram(&[], classic()));
    let is_native = page(HISTOGRAM, histogram(&[], native()));
    let is_gauge = page(GAUGE, gauge(&[], 1.0));
    let exporter = Exporter::new(is_classic.clone());
    let world = World::with(native_spec(&exporter));
    assert_eq!(world.scrape().await.1.body().len(), 5);
    exporter.show(is_native.clone());
    let (_, stored) = world.scrape().await;
    assert_eq!((natives(&stored), stored.stale().len()), (vec![(labeled("h"), 5.0, 7.5)], 5));
    exporter.show(is_gauge);
    // The same series goes on with numbers: nothing has ended.
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.body(), stored.stale()), (valued(&[("h", 1.0)]), vec![]));
    exporter.show(is_native.clone());
    let (_, stored) = world.scrape().await;
    assert_eq!((natives(&stored).len(), stored.stale()), (1, vec![]));
    exporter.show(is_classic);
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.body().len(), stored.stale()), (5, named(&["h"])));
    // From protobuf to text and back: the same series, whatever the keys.
    exporter
        .say("# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"2.5\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.5\n");
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.body().len(), stored.stale()), (4, named(&["h_count"])));
    exporter.show(is_native);
    let (_, stored) = world.scrape().await;
    assert_eq!((natives(&stored).len(), stored.stale().len()), (1, 4));
    // A failed scrape ends a native series with the mark of a number.
    exporter.show(Page::text("").status(500));
    assert_eq!(world.scrape().await.1.stale(), named(&["h"]));
    assert_eq!(world.scrape().await.1.stale(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_histogram_that_does_not_fit_together_is_refused_alone() {
    let page = |buckets: Vec<i64>| {
        let broken = Histogram { positive_delta: buckets, ..native() };
        Page::protobuf(&body(&[
            family("bad", HISTOGRAM, vec![histogram(&[], broken)]),
            family("h", HISTOGRAM, vec![histogram(&[], native())]),
            family("g", GAUGE, vec![gauge(&[], 1.0)]),
        ]))
    };
    let exporter = Exporter::new(page(vec![1]));
    let world = World::with(native_spec(&exporter));
    for _ in 0..2 {
        let (outcome, stored) = world.scrape().await;
        assert!(outcome.ok, "{outcome:?}");
        assert_eq!((natives(&stored).len(), stored.body()), (1, valued(&[("g", 1.0)])));
        assert_eq!(outcome.counts.refused[Refusal::InvalidValue as usize], 1);
        assert_eq!((outcome.samples, outcome.samples_post_relabeling, outcome.series), (3, 2, 2));
        assert_eq!(points(&outcome), [0, 1, 2, 0, 0]);
        assert_eq!(world.heard.last().0.health, Health::Degraded);
    }
    exporter.show(page(vec![1, 2]));
    assert_eq!(natives(&world.scrape().await.1).len(), 2);
    assert_eq!(world.heard.last().0.health, Health::Healthy);
    // While it says nothing that can be kept, it has ended.
    exporter.show(page(vec![1, 2, 3]));
    let (outcome, stored) = world.scrape().await;
    assert_eq!((stored.stale(), outcome.counts.refused[Refusal::InvalidValue as usize]), (named(&["bad"]), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn relabeling_labels_and_limits_apply_as_to_text() {
    let page = body(&[
        family("h", HISTOGRAM, vec![histogram(&[("job", "x")], native()), histogram(&[("drop", "1")], native())]),
        family("g", GAUGE, vec![gauge(&[("job", "x")], 1.0), gauge(&[("drop", "1")], 2.0)]),
    ]);
    let exporter = Exporter::new(Page::protobuf(&page));
    let mut spec = native_spec(&exporter);
    let regex = Pattern::new("1").unwrap_or_else(|e| panic!("{e}"));
    let drop = Rule { source_labels: vec!["drop".into()], regex, action: Action::Drop, ..Rule::default() };
    spec.metric_relabel = std::sync::Arc::from([drop]);
    let world = World::with(spec.clone());
    for _ in 0..2 {
        let (outcome, stored) = world.scrape().await;
        let h = "h{exported_job=\"x\", instance=\"i\", job=\"j\"}".to_owned();
        assert_eq!(natives(&stored), [(h, 5.0, 7.5)]);
        assert_eq!(stored.facts().1, 4.0);
        assert_eq!(stored.facts().2, 2.0);
        assert_eq!((outcome.counts.filtered, outcome.counts.stored), (2, 7));
    }
    let dry = world.collector.dry_run(spec.clone()).await;
    assert_eq!((dry.counts.stored, dry.counts.filtered, dry.counts.received), (2, 2, 4));
    spec.honor_labels = true;
    world.collector.upsert(spec.clone());
    let (_, stored) = world.scrape().await;
    assert_eq!(natives(&stored)[0].0, "h{instance=\"i\", job=\"x\"}");
    // A histogram is one sample to the limits.
    (spec.limits.sample, spec.limits.on_exceed) = (1, OnExceed::KeepExisting);
    world.collector.remove("t").await;
    world.collector.upsert(spec.clone());
    for _ in 0..2 {
        let (outcome, stored) = world.scrape().await;
        assert_eq!((natives(&stored).len(), stored.body().len()), (1, 0));
        assert_eq!(outcome.counts.refused[Refusal::SampleLimit as usize], 1);
    }
    spec.limits.on_exceed = OnExceed::Fail;
    world.collector.upsert(spec);
    let error = world.scrape().await.0.error.unwrap();
    assert_eq!(error.kind, ScrapeErrorKind::SampleLimit);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_became_worthless_are_restated() {
    let exporter = Exporter::new(Page::protobuf(&body(&plain_families(1.0))));
    let world = World::with(native_spec(&exporter));
    world.scrape().await;
    world.store.renumber_on_submit.store(true, std::sync::atomic::Ordering::SeqCst);
    let (outcome, stored) = world.scrape().await;
    assert!(outcome.ok, "{outcome:?}");
    assert_eq!((stored.by_labels, stored.body().len()), (23, 18));
    assert_eq!(world.scrape().await.1.by_labels, 0);
}
