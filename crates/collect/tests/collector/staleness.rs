//! Ends of series.

use model::is_stale;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_scrape_ends_all_series_but_its_own() {
    let exporter = Exporter::text("a 1\nb 2\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    exporter.show(Page::text("a 1\nb 2\n").status(500));
    let (outcome, stored) = world.scrape().await;
    assert!(!outcome.ok);
    assert_eq!((stored.body(), stored.stale()), (vec![], named(&["a", "b"])));
    assert_eq!(stored.facts(), (0.0, 0.0, 0.0, 0.0));
    assert_eq!(stored.by_labels, 0);
    let (_, stored) = world.scrape().await;
    assert_eq!(stored.stale(), Vec::<String>::new());
    exporter.say("a 1\nb 2\n");
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.body(), stored.by_labels), (valued(&[("a", 1.0), ("b", 2.0)]), 0));
    exporter.say("a 1\n");
    let (_, stored) = world.scrape().await;
    assert_eq!(stored.stale(), named(&["b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_target_ends_everything() {
    let exporter = Exporter::text("a 1\nb 2\n");
    let world = World::with(exporter.spec());
    let (outcome, _) = world.scrape().await;
    assert_eq!(world.collector.remove("t").await, 7);
    let stored = world.store.last();
    let names = [
        "up",
        "scrape_duration_seconds",
        "scrape_samples_scraped",
        "scrape_samples_post_metric_relabeling",
        "scrape_series_added",
    ];
    assert_eq!(stored.stale(), named(&[&names[..], &["a", "b"]].concat()));
    assert_eq!((stored.body(), stored.report), (vec![], None));
    assert!(stored.samples.iter().all(|(_, ts, _)| *ts > outcome.scrape_ms));
    assert_eq!(world.collector.remove("t").await, 0);
    assert!(world.collector.scrape_now("t").await.is_none());
    assert_eq!((world.store.batches(), world.heard.all().len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_target_ends_its_series_after_a_renumbering_too() {
    let exporter = Exporter::text("a 1\nb 2\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    world.store.renumber_on_submit.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(world.collector.remove("t").await, 7);
    assert_eq!(world.store.last().stale().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_switched_off_ends_and_begins_again() {
    let exporter = Exporter::text("a 1\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    let answers = world.store.hold();
    assert!(world.collector.set_enabled("t", false));
    tokio::task::spawn_blocking(move || answers.recv().unwrap()).await.unwrap();
    world.store.release();
    assert_eq!(world.store.last().stale().len(), 6);
    let status = world.collector.status("t").unwrap();
    assert_eq!((status.health, status.next_scrape_ms), (model::Health::Disabled, None));
    assert!(world.collector.scrape_now("t").await.is_none());
    assert!(world.collector.set_enabled("t", true));
    assert_eq!(world.collector.status("t").unwrap().health, model::Health::Unknown);
    let (_, stored) = world.scrape().await;
    assert_eq!(stored.body(), valued(&[("a", 1.0)]));
    assert!(!world.collector.set_enabled("nobody", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_labels_end_the_old_series() {
    let exporter = Exporter::text("a 1\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    let mut spec = exporter.spec();
    spec.labels = model::Labels::from_pairs([("job", "other")]);
    world.collector.upsert(spec.clone());
    let (_, stored) = world.scrape().await;
    assert_eq!(stored.body(), [("a{job=\"other\"}".to_owned(), 1.0)]);
    assert_eq!(stored.stale().len(), 6);
    assert!(stored.stale().contains(&labeled("a")) && stored.stale().contains(&labeled("up")));
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.stale().len(), stored.by_labels), (0, 0));
    // Other limits read the body anew, but nothing ends by that.
    spec.limits.sample = 100;
    world.collector.upsert(spec);
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.body().len(), stored.stale().len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn series_with_their_own_times_have_no_end_unless_asked_for() {
    let exporter = Exporter::text("a 1 1700000000000\nb 2\n");
    let world = World::with(exporter.spec());
    let (_, stored) = world.scrape().await;
    assert!(stored.samples.contains(&(labeled("a"), 1_700_000_000_000, 1.0)));
    exporter.say("b 2\n");
    let (_, stored) = world.scrape().await;
    assert_eq!(stored.stale(), Vec::<String>::new());

    exporter.say("a 1 1700000000001\nb 2\n");
    let mut spec = exporter.spec();
    spec.track_timestamps_staleness = true;
    world.collector.upsert(spec.clone());
    world.scrape().await;
    exporter.say("b 2\n");
    let (_, stored) = world.scrape().await;
    assert_eq!(stored.stale(), named(&["a"]));

    exporter.say("a 5 1700000000002\nb 2\n");
    spec.honor_timestamps = false;
    spec.track_timestamps_staleness = false;
    world.collector.upsert(spec);
    let (outcome, stored) = world.scrape().await;
    assert!(stored.samples.contains(&(labeled("a"), outcome.scrape_ms, 5.0)));
    exporter.say("b 2\n");
    let (_, stored) = world.scrape().await;
    assert_eq!(stored.stale(), named(&["a"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_store_changes_nothing() {
    let exporter = Exporter::text("a 1\nb 2\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    // A known target's batch is offered in passing first, and then from a thread that may wait.
    world.store.fail.lock().extend([4, 5].map(|ms| model::AppendError::Busy { retry_after_ms: ms }));
    exporter.say("a 1\nc 2\n");
    let (outcome, _) = world.scrape().await;
    assert_eq!(outcome.error.map(|e| e.kind), Some(collect::ScrapeErrorKind::Store));
    let (report, status, ledger) = world.heard.last();
    assert_eq!((report.health, status.health), (model::Health::Unhealthy, model::Health::Unhealthy));
    assert_eq!((ledger, status.consecutive_failures, report.summary.total()), (Default::default(), 1, 0));
    assert!(report.error.unwrap().contains("busy"));
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.body(), stored.stale()), (valued(&[("a", 1.0), ("c", 2.0)]), named(&["b"])));
    assert_eq!(stored.facts().3, 1.0);
    assert_eq!(world.heard.last().1.consecutive_failures, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_room_at_once_is_asked_again_to_take_a_scrape() {
    let exporter = Exporter::text("a 1\nb 2\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    world.store.fail.lock().push_back(model::AppendError::Busy { retry_after_ms: 5 });
    exporter.say("a 1\nc 2\n");
    let (outcome, stored) = world.scrape().await;
    assert_eq!((outcome.error.map(|e| e.kind), outcome.counts.refused_total()), (None, 0));
    assert_eq!((stored.body(), stored.stale()), (valued(&[("a", 1.0), ("c", 2.0)]), named(&["b"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_too_large_for_the_store_shows_in_up() {
    let exporter = Exporter::text("a 1\nb 2\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    world.store.fail.lock().push_back(model::AppendError::TooLarge { bytes: 9, limit: 8 });
    let (outcome, stored) = world.scrape().await;
    assert_eq!(outcome.error.map(|e| e.kind), Some(collect::ScrapeErrorKind::Store));
    assert_eq!((stored.facts().0, stored.stale()), (0.0, named(&["a", "b"])));
    let (report, _, ledger) = world.heard.last();
    assert_eq!((report.health, report.summary.total(), ledger.seq), (model::Health::Unhealthy, 0, 2));
    assert_eq!(world.heard.all().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_store_is_asked_again_to_take_the_ends() {
    let exporter = Exporter::text("a 1\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    world.store.fail.lock().extend([1, 2].map(|ms| model::AppendError::Busy { retry_after_ms: ms }));
    assert_eq!(world.collector.remove("t").await, 6);
    assert_eq!(world.store.last().stale().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_writes_no_ends() {
    let exporter = Exporter::text("a 1\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    let held = exporter.hold_next();
    let collector = world.collector.clone();
    let running = tokio::spawn(async move { collector.scrape_now("t").await });
    tokio::task::spawn_blocking(move || {
        held.wait();
        held
    })
    .await
    .map(drop)
    .unwrap();
    world.collector.shutdown().await;
    assert!(running.await.unwrap().unwrap().ok);
    assert_eq!(world.store.batches(), 2);
    assert!(world.store.all().iter().flat_map(|b| &b.samples).all(|(_, _, value)| !is_stale(*value)));
    assert!(world.collector.scrape_now("t").await.is_none());
}
