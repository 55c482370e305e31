//! What goes well: bodies, ids, order, formats, reports.

use std::sync::atomic::Ordering;

use collect::{Auth, HttpOptions, HttpSettings, ScrapeErrorKind, Secret};
use model::{CollectionMethod, Health, MetricType, TypeCounts};

use crate::support::*;

const BODY: &str = "# HELP a What a is.\n# TYPE a counter\na{c=\"1\"} 1\na{c=\"2\"} 2\n# TYPE b gauge\nb 3\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_scrape_brings_labels_and_the_second_ids() {
    let exporter = Exporter::text(BODY);
    let world = World::with(exporter.spec());
    let (outcome, stored) = world.scrape().await;
    assert!(outcome.ok, "{outcome:?}");
    assert_eq!(stored.body(), valued(&[("a{c=\"1\"}", 1.0), ("a{c=\"2\"}", 2.0), ("b", 3.0)]));
    assert_eq!(stored.facts(), (1.0, 3.0, 3.0, 3.0));
    assert_eq!((stored.by_id, stored.by_labels, stored.samples.len()), (0, 8, 8));
    assert_eq!((outcome.samples, outcome.series, outcome.series_added, outcome.new_series), (3, 3, 3, 8));
    assert_eq!(outcome.format, Some("PrometheusText0.0.4"));
    assert_eq!(outcome.series_by_type, [(MetricType::Counter, 2), (MetricType::Gauge, 1)]);
    assert_eq!(outcome.families_by_type, [(MetricType::Counter, 1), (MetricType::Gauge, 1)]);
    assert_eq!(outcome.points, TypeCounts { counters: 2, gauges: 1, ..TypeCounts::default() });
    assert_eq!((outcome.bytes_body, outcome.http_status), (BODY.len() as u64, Some(200)));
    assert_eq!((outcome.top_labels[0].name.as_str(), outcome.top_labels[0].values), ("__name__", 2));
    assert_eq!(stored.families[0].help, "What a is.");
    assert_eq!(stored.types[&labeled("a{c=\"1\"}")], "counter");
    assert!(!outcome.connection_reused);

    exporter.say(&BODY.replace(" 3\n", " 4.5\n"));
    let (outcome, stored) = world.scrape().await;
    assert_eq!(stored.body(), valued(&[("a{c=\"1\"}", 1.0), ("a{c=\"2\"}", 2.0), ("b", 4.5)]));
    assert_eq!(stored.facts(), (1.0, 3.0, 3.0, 0.0));
    assert_eq!((stored.by_id, stored.by_labels), (8, 0));
    assert_eq!(stored.stale(), Vec::<String>::new());
    assert_eq!((outcome.series_added, outcome.new_series), (0, 0));
    assert_eq!(outcome.points.total(), 3);
    assert!(outcome.connection_reused);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_is_in_the_batch_and_reaches_the_observer() {
    let exporter = Exporter::text(BODY);
    let world = World::with(exporter.spec());
    let (outcome, stored) = world.scrape().await;
    let (report, status, ledger) = world.heard.last();
    assert_eq!(world.heard.all().len(), 1);
    let recorded = stored.report.unwrap();
    assert_eq!((recorded.event_id, &recorded.batch_id), (report.event_id, &report.batch_id));
    assert!(report.batch_id.starts_with("batch_20250615_n1_"), "{}", report.batch_id);
    assert_eq!((report.origin.method, report.origin.target_id.as_str()), (CollectionMethod::PullScraping, "t"));
    assert_eq!((report.summary.total(), report.samples_count, report.health), (3, 3, Health::Healthy));
    assert_eq!((report.error.clone(), report.error_count()), (None, 0));
    assert_eq!((report.counts, report.counts.stored), (outcome.counts, 8));
    assert_eq!((ledger.epoch, ledger.seq), (1, 1));
    assert_eq!(
        (status.health, status.scrapes, status.samples_scraped, status.series_current),
        (Health::Healthy, 1, 3, 3)
    );
    assert_eq!(status.last_scrape_ms, Some(outcome.scrape_ms));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_may_move_come_and_go() {
    let exporter = Exporter::text("a 1\nb 2\nc 3\nd 4\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    for (body, added, stale) in [
        ("d 5\nb 6\na 7\nc 8\n", 0.0, vec![]),
        ("d 1\nb 2\nnew 9\na 3\nc 4\n", 1.0, vec![]),
        ("d 1\nnew 2\nc 3\n", 0.0, vec!["a", "b"]),
        ("x 1\nd 1\nnew 2\nc 3\ny 2\n", 2.0, vec![]),
        ("x 2\nd 1\nnew 2\nc 3\ny 2\n", 0.0, vec![]),
        ("a 2\nd 1\n", 1.0, vec!["x", "new", "c", "y"]),
    ] {
        exporter.say(body);
        let (_, stored) = world.scrape().await;
        let want: Vec<(&str, f64)> =
            body.lines().map(|l| l.split_once(' ').unwrap()).map(|(n, v)| (n, v.parse().unwrap())).collect();
        assert_eq!(stored.body(), valued(&want), "{body}");
        assert_eq!(stored.stale(), named(&stale), "{body}");
        assert_eq!((stored.facts().3, stored.by_labels), (added, added as usize), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_may_stand_twice() {
    let exporter = Exporter::text("a 1\nb 2\na 1\na 7\nc 3\n");
    let world = World::with(exporter.spec());
    for _ in 0..3 {
        let (outcome, stored) = world.scrape().await;
        assert_eq!(stored.body(), valued(&[("a", 1.0), ("b", 2.0), ("c", 3.0)]));
        assert_eq!((outcome.samples, outcome.series, outcome.counts.duplicates), (5, 3, 1));
        assert_eq!(outcome.counts.refused_total(), 1);
        assert_eq!(stored.stale(), Vec::<String>::new());
    }
    exporter.say("b 2\nc 3\n");
    let (_, stored) = world.scrape().await;
    assert_eq!(stored.stale(), named(&["a"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_spelling_of_a_series_does_not_end_it() {
    let exporter = Exporter::text("a{b=\"1\",c=\"2\"} 1\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    exporter.say("a{c=\"2\",b=\"1\"} 2\n");
    let (outcome, stored) = world.scrape().await;
    assert_eq!(stored.body(), valued(&[("a{b=\"1\", c=\"2\"}", 2.0)]));
    assert_eq!((stored.stale(), outcome.counts.refused_total()), (vec![], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn openmetrics_brings_exemplars_starts_and_units() {
    let body = "# TYPE c counter\n# UNIT c seconds\n"
        .replace("# TYPE c ", "# TYPE c_seconds ")
        .replace("UNIT c ", "UNIT c_seconds ")
        + "c_seconds_total{a=\"1\"} 5 # {trace_id=\"x\"} 0.5 1700000000.5\nc_seconds_created{a=\"1\"} 1600000000.25\n\
           # TYPE h histogram\nh_bucket{le=\"1\"} 1 # {trace_id=\"y\"} 0.7\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n\
           h_created 1600000001\n# TYPE i info\ni_info{v=\"1\"} 1\n# EOF\n";
    let exporter = Exporter::new(Page::open_metrics(&body));
    let world = World::with(exporter.spec());
    for round in 0..2 {
        let (outcome, stored) = world.scrape().await;
        assert!(outcome.ok, "{outcome:?}");
        assert_eq!(outcome.format, Some("OpenMetricsText1.0.0"));
        let want = TypeCounts { counters: 1, histograms: 1, others: 1, ..TypeCounts::default() };
        assert_eq!((outcome.points, outcome.samples), (want, 8));
        let exemplars: Vec<_> = stored.exemplars.iter().map(|e| (e.labels.to_string(), e.value, e.ts_ms)).collect();
        let scrape_ms = outcome.scrape_ms;
        let trace = |x: &str| format!("{{trace_id=\"{x}\"}}");
        assert_eq!(exemplars, [(trace("x"), 0.5, 1_700_000_000_500), (trace("y"), 0.7, scrape_ms)]);
        let starts =
            [(labeled("c_seconds_total{a=\"1\"}"), 1_600_000_000_250), (labeled("h_count"), 1_600_000_001_000)];
        assert_eq!(stored.starts, starts);
        assert_eq!(stored.families[0].unit, "seconds");
        assert!(stored.body().iter().any(|(n, _)| n == "h_bucket{instance=\"i\", job=\"j\", le=\"1.0\"}"));
        assert_eq!(stored.by_labels, if round == 0 { 13 } else { 0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openmetrics_2_is_read_by_its_content_type() {
    let body = "# TYPE c counter\n# UNIT c seconds\nc{a=\"1\"} 5 st@1600000000.25 # {trace_id=\"x\"} 0.5 1700000000.5\n\
                # TYPE h histogram\nh {count:2,sum:3,bucket:[1:1,+Inf:2]} st@1600000001\n# EOF\n";
    let content_type = "application/openmetrics-text; version=2.0.0; charset=utf-8";
    let exporter = Exporter::new(Page::of(content_type, body.as_bytes()));
    let world = World::with(exporter.spec());
    for round in 0..2 {
        let (outcome, stored) = world.scrape().await;
        assert!(outcome.ok, "{outcome:?}");
        assert_eq!((outcome.format, outcome.bytes_body), (Some("OpenMetricsText2.0.0"), body.len() as u64));
        let mut lines = stored.body();
        lines.sort_by(|a, b| a.0.cmp(&b.0));
        let bucket = |le: &str| format!("h_bucket{{instance=\"i\", job=\"j\", le=\"{le}\"}}");
        let wanted = [
            (labeled("c{a=\"1\"}"), 5.0),
            (bucket("+Inf"), 2.0),
            (bucket("1.0"), 1.0),
            (labeled("h_count"), 2.0),
            (labeled("h_sum"), 3.0),
        ];
        assert_eq!(lines, wanted, "{round}");
        assert_eq!((stored.exemplars.len(), stored.families[0].unit.as_str()), (1, "seconds"));
        assert!(stored.starts.contains(&(labeled("c{a=\"1\"}"), 1_600_000_000_250)), "{:?}", stored.starts);
    }
    exporter.show(Page::of(content_type, b"a 1\n# TYPE a gauge\n# EOF\n"));
    let (outcome, _) = world.scrape().await;
    let error = outcome.parse_error.expect("it is refused");
    assert_eq!((error.line, error.column), (2, 1), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_is_asked_for_and_inflated() {
    let exporter = Exporter::new(Page::of("text/plain", &gzip(b"a 1\nb 2\n")).with("Content-Encoding", "gzip"));
    let world = World::with(exporter.spec());
    let (outcome, stored) = world.scrape().await;
    assert_eq!(stored.body(), valued(&[("a", 1.0), ("b", 2.0)]));
    assert_eq!(outcome.bytes_body, 8);
    assert!(outcome.bytes_wire > 8);
    let head = &exporter.heads()[0];
    assert!(head.contains("accept-encoding: gzip\r\n"), "{head}");
    assert!(head.contains("accept: application/openmetrics-text;version=1.0.0"), "{head}");
    assert!(head.contains("x-prometheus-scrape-timeout-seconds: 10\r\n"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_sent() {
    let exporter = Exporter::text("a 1\n");
    let mut spec = exporter.spec();
    let auth = Auth::Basic { username: "u".into(), password: Secret::Inline("p".into()) };
    spec.http = HttpSettings::new(HttpOptions { auth, ..HttpOptions::default() }).unwrap().into();
    World::with(spec).scrape().await;
    assert!(exporter.heads()[0].contains("authorization: basic dtpw\r\n"));

    // A file is read before each scrape, so that a token can be changed under way.
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "one\n").unwrap();
    let auth = Auth::Bearer { kind: "Bearer".into(), token: Secret::File(path.clone()) };
    let mut spec = exporter.spec();
    spec.http = HttpSettings::new(HttpOptions { auth, ..HttpOptions::default() }).unwrap().into();
    let world = World::with(spec);
    world.scrape().await;
    std::fs::write(&path, "two").unwrap();
    world.scrape().await;
    let heads = exporter.heads();
    assert!(heads[1].contains("authorization: bearer one\r\n") && heads[2].contains("authorization: bearer two\r\n"));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(world.scrape().await.0.error.map(|e| e.kind), Some(ScrapeErrorKind::Credentials));
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_an_older_generation_are_never_used() {
    let exporter = Exporter::text("a 1\nb 2\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    world.store.renumber();
    exporter.say("b 3\n");
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.body(), stored.stale()), (valued(&[("b", 3.0)]), named(&["a"])));
    assert_eq!((stored.by_id, stored.by_labels), (0, 7));
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.by_id, stored.by_labels), (6, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_grow_old_on_the_way_are_resolved_again_once() {
    let exporter = Exporter::text("# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 1\na 1\nb 2\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    exporter.say("# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 2\nnew 1\nb 3\n");
    world.store.renumber_on_submit.store(true, Ordering::SeqCst);
    let (outcome, stored) = world.scrape().await;
    assert!(outcome.ok, "{outcome:?}");
    let bucket = |le: &str| (format!("h_bucket{{instance=\"i\", job=\"j\", le=\"{le}\"}}"), 2.0);
    let mut want = valued(&[("b", 3.0), ("new", 1.0)]);
    want.extend([bucket("+Inf"), bucket("1.0")]);
    want.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!((stored.body(), stored.stale()), (want, named(&["a"])));
    assert_eq!((stored.by_id, stored.by_labels), (0, 10));
    assert_eq!(world.heard.all().len(), 2);
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.by_id, stored.by_labels), (9, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_stores_nothing() {
    let exporter = Exporter::text("a 1\nb 2\na 1\n");
    let world = World::new();
    let outcome = world.collector.dry_run(exporter.spec()).await;
    assert_eq!((outcome.ok, outcome.samples, outcome.series), (true, 3, 2));
    assert_eq!((outcome.counts.received, outcome.counts.balances()), (3, true));
    assert_eq!((world.store.batches(), world.heard.all().len(), world.collector.len()), (0, 0, 0));
    exporter.say("a 1\nb {\n");
    let outcome = world.collector.dry_run(exporter.spec()).await;
    assert_eq!(outcome.parse_error.map(|e| e.line), Some(2));
    assert_eq!(outcome.counts.received, 0);
}
