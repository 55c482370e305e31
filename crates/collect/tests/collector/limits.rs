//! Limits in both modes.

use collect::{OnExceed, ScrapeErrorKind, ScrapeLimits};
use model::{Health, Refusal};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn too_many_samples_fail_the_scrape_as_in_prometheus() {
    let exporter = Exporter::text("a 1\nb 2\n");
    let mut spec = exporter.spec();
    spec.limits.sample = 2;
    let world = World::with(spec);
    assert!(world.scrape().await.0.ok);
    exporter.say("a 1\nb 2\nc 3\nd 4\n");
    let (outcome, stored) = world.scrape().await;
    let error = outcome.error.unwrap();
    assert_eq!((error.kind, error.message.as_str()), (ScrapeErrorKind::SampleLimit, "sample limit exceeded"));
    assert_eq!((stored.body(), stored.stale()), (vec![], named(&["a", "b"])));
    assert_eq!(stored.facts(), (0.0, 4.0, 4.0, 2.0));
    assert_eq!(world.heard.last().1.health, Health::Unhealthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_samples_leave_those_that_are_in() {
    let exporter = Exporter::text("b 1\nc 2\n");
    let mut spec = exporter.spec();
    spec.limits = ScrapeLimits { sample: 3, on_exceed: OnExceed::KeepExisting, ..ScrapeLimits::default() };
    let world = World::with(spec);
    world.scrape().await;
    exporter.say("a 0\nb 1\nc 2\nc 2\nd 3\n");
    for _ in 0..2 {
        let (outcome, stored) = world.scrape().await;
        assert!(outcome.ok);
        assert_eq!(stored.body(), valued(&[("a", 0.0), ("b", 1.0), ("c", 2.0)]));
        assert_eq!(outcome.counts.refused[Refusal::SampleLimit as usize], 2);
        assert_eq!((stored.facts().0, stored.facts().1, stored.facts().2), (1.0, 5.0, 3.0));
        let (report, status, _) = world.heard.last();
        assert_eq!((report.health, status.health, report.error), (Health::Degraded, Health::Degraded, None));
    }
    // The room of a series that went is free one scrape later.
    exporter.say("b 1\nc 2\nd 3\n");
    assert_eq!(world.scrape().await.1.stale(), named(&["a"]));
    assert_eq!(world.scrape().await.1.body(), valued(&[("b", 1.0), ("c", 2.0), ("d", 3.0)]));
    assert_eq!(world.heard.last().0.health, Health::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_series_come_in_by_families_and_no_histogram_by_half() {
    let exporter = Exporter::text("b 1\n");
    let mut spec = exporter.spec();
    spec.limits = ScrapeLimits { sample: 6, on_exceed: OnExceed::KeepExisting, ..ScrapeLimits::default() };
    let world = World::with(spec);
    world.scrape().await;
    // The histogram of six would not fit; what comes behind it does. A line that stands twice changes nothing.
    let histogram = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"2\"} 1\nh_bucket{le=\"3\"} 1\n\
                     h_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\nh_bucket{le=\"1\"} 1\n# TYPE c counter\nc 1\n";
    exporter.say(&format!("b 1\n{histogram}"));
    for _ in 0..3 {
        let (outcome, stored) = world.scrape().await;
        assert!(outcome.ok);
        assert_eq!(stored.body(), valued(&[("b", 1.0), ("c", 1.0)]));
        assert_eq!((outcome.counts.refused[Refusal::SampleLimit as usize], outcome.samples), (7, 9));
        assert_eq!((outcome.series, outcome.samples_post_relabeling), (2, 2));
        assert_eq!(stored.stale(), named(&[]));
        assert_eq!(world.heard.last().1.health, Health::Degraded);
    }
    // With room for all of it, all of it comes in.
    exporter.say("# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\nb 1\nc 1\n");
    let (outcome, _) = world.scrape().await;
    assert_eq!((outcome.counts.refused_total(), outcome.series), (0, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_beyond_the_limit_fail_or_are_refused() {
    let exporter = Exporter::text("a{x=\"12345\"} 1\nb 2\n");
    let mut spec = exporter.spec();
    spec.limits.label_value_len = 4;
    let world = World::with(spec.clone());
    let (outcome, stored) = world.scrape().await;
    let error = outcome.error.unwrap();
    assert_eq!(error.kind, ScrapeErrorKind::LabelLimit);
    assert!(error.message.starts_with("label_value_length_limit exceeded (metric: a, label name: x"), "{error}");
    assert_eq!(stored.body(), vec![]);
    spec.limits.on_exceed = OnExceed::KeepExisting;
    world.collector.upsert(spec);
    for _ in 0..2 {
        let (outcome, stored) = world.scrape().await;
        assert_eq!((outcome.ok, stored.body()), (true, valued(&[("b", 2.0)])));
        assert_eq!(outcome.counts.refused[Refusal::LabelLimit as usize], 1);
        assert_eq!((outcome.series, outcome.samples), (1, 2));
        assert_eq!(world.heard.last().1.health, Health::Degraded);
    }
}
