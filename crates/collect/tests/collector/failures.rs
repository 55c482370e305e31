//! What goes wrong, and what is said about it.

use collect::{AddressPolicy, ScrapeErrorKind, ScrapeOutcome};
use model::Health;

use crate::support::*;

async fn failed(world: &World, kind: ScrapeErrorKind) -> (ScrapeOutcome, String) {
    let (outcome, stored) = world.scrape().await;
    let error = outcome.error.clone().unwrap();
    assert_eq!((outcome.ok, error.kind), (false, kind), "{error}");
    assert_eq!(stored.facts().0, 0.0);
    assert_eq!(stored.body(), vec![]);
    let (report, status, _) = world.heard.last();
    assert_eq!((report.health, status.health, report.summary.total()), (Health::Unhealthy, Health::Unhealthy, 0));
    assert_eq!((report.error.as_deref(), report.error_count()), (Some(error.message.as_str()), 1));
    assert_eq!(status.last_error.as_ref(), Some(&error));
    (outcome, error.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_status_is_named() {
    let exporter = Exporter::new(Page::text("a 1\n").status(500));
    let world = World::with(exporter.spec());
    let (outcome, message) = failed(&world, ScrapeErrorKind::Status).await;
    assert_eq!(
        (message.as_str(), outcome.http_status),
        ("server returned HTTP status 500 Internal Server Error", Some(500))
    );
    failed(&world, ScrapeErrorKind::Status).await;
    assert_eq!(world.collector.status("t").unwrap().consecutive_failures, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_target_times_out() {
    let exporter = Exporter::text("a 1\n");
    let _held = exporter.hold_next();
    let mut spec = exporter.spec();
    spec.timeout_ms = 50;
    let world = World::with(spec);
    let (_, message) = failed(&world, ScrapeErrorKind::Timeout).await;
    assert!(message.ends_with("context deadline exceeded"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens() {
    let exporter = Exporter::text("a 1\n");
    let mut spec = exporter.spec();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    spec.url.set_port(Some(free)).unwrap();
    let (_, message) = failed(&World::with(spec), ScrapeErrorKind::Connect).await;
    assert!(message.contains("connection refused"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_a_forbidden_address_is_not_followed() {
    let page = Page::text("").status(302).with("Location", "http://169.254.169.254/latest/meta-data");
    let exporter = Exporter::new(page);
    let mut spec = exporter.spec();
    spec.address_policy = AddressPolicy::strict(true);
    let world = World::with(spec);
    let (outcome, message) = failed(&world, ScrapeErrorKind::ForbiddenAddress).await;
    assert!(message.contains("169.254.169.254 is forbidden"), "{message}");
    assert_eq!(outcome.redirects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_within_bounds_is_followed() {
    let there = Exporter::text("a 1\n");
    let here =
        Exporter::new(Page::text("").status(301).with("Location", &format!("http://127.0.0.1:{}/x", there.port)));
    let world = World::with(here.spec());
    let (outcome, stored) = world.scrape().await;
    assert_eq!((stored.body(), outcome.redirects), (valued(&[("a", 1.0)]), 1));
    assert!(there.heads()[0].starts_with("get /x "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_page_is_no_exposition() {
    let page = Page::of("text/html; charset=utf-8", b"<html><body>Please log in</body></html>");
    let exporter = Exporter::new(page);
    let world = World::with(exporter.spec());
    let (outcome, message) = failed(&world, ScrapeErrorKind::ContentType).await;
    assert!(message.contains("unsupported Content-Type \"text/html; charset=utf-8\""), "{message}");
    assert_eq!(outcome.samples, 0);
    let mut spec = exporter.spec();
    spec.fallback_protocol = Some(collect::Protocol::Text004);
    world.collector.upsert(spec);
    let (outcome, _) = failed(&world, ScrapeErrorKind::Parse).await;
    assert_eq!(outcome.parse_error.map(|e| (e.line, e.column)), Some((1, 20)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_syntax_error_refuses_the_whole_scrape_with_its_place() {
    let exporter = Exporter::text("a 1\nb 2\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    exporter.say("a 2\nnew 1\nb{x=\"1} 3\n");
    let (outcome, message) = failed(&world, ScrapeErrorKind::Parse).await;
    let error = outcome.parse_error.unwrap();
    assert_eq!((error.line, error.text.as_str()), (3, "b{x=\"1} 3"));
    assert!(message.starts_with("line 3, column "), "{message}");
    assert_eq!(world.store.last().stale(), named(&["a", "b"]));
    // What stood before the fault is not known by now.
    exporter.say("a 3\nnew 1\nb 3\n");
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.body().len(), stored.facts().3, stored.by_labels), (3, 1.0, 1));
    exporter.say("a{x=\"1\",x=\"2\"} 1\n");
    let (outcome, _) = failed(&world, ScrapeErrorKind::Parse).await;
    assert!(outcome.parse_error.unwrap().message.contains("\"x\" is not unique"));
    exporter.show(Page::open_metrics("a 1\n"));
    let (outcome, _) = failed(&world, ScrapeErrorKind::Parse).await;
    assert!(outcome.parse_error.unwrap().message.contains("without # EOF"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_capped_while_they_inflate() {
    let bomb = gzip("a 1\n".repeat(5 << 20).as_bytes());
    assert!(bomb.len() < 100_000);
    let exporter = Exporter::new(Page::of("text/plain", &bomb).with("Content-Encoding", "gzip"));
    let mut spec = exporter.spec();
    spec.limits.body_bytes = 1 << 20;
    let world = World::with(spec);
    let (_, message) = failed(&world, ScrapeErrorKind::BodyTooLarge).await;
    assert_eq!(message, "body size limit exceeded");
    exporter.show(Page::text(&"a 1\n".repeat(1 << 19)));
    failed(&world, ScrapeErrorKind::BodyTooLarge).await;
    exporter.show(Page::text("a 1\n").with("Content-Encoding", "gzip"));
    failed(&world, ScrapeErrorKind::Encoding).await;
    exporter.show(Page::text("a 1\n").with("Content-Encoding", "br"));
    failed(&world, ScrapeErrorKind::Encoding).await;
}
