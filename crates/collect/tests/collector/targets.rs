//! Targets that come, change and go, and the timer.

use collect::{AddressPolicy, ScrapeErrorKind, TargetOrigin, TargetSpec};
use model::{Health, Labels};

use crate::support::*;

fn job_target(exporter: &Exporter, id: &str) -> TargetSpec {
    let mut spec = exporter.spec();
    spec.target_id = id.to_owned();
    spec.labels = Labels::from_pairs([("job", "j"), ("instance", id)]);
    spec.origin = TargetOrigin::Discovery { job: "j".into() };
    spec
}

fn ids(world: &World) -> Vec<String> {
    let mut ids: Vec<String> = world.collector.statuses().into_iter().map(|s| s.target_id).collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_removed_while_it_is_asked_writes_nothing() {
    let exporter = Exporter::text("a 1\n");
    let world = World::with(exporter.spec());
    world.scrape().await;
    let held = exporter.hold_next();
    let collector = world.collector.clone();
    let running = tokio::spawn(async move { collector.scrape_now("t").await });
    let held = tokio::task::spawn_blocking(move || {
        held.wait();
        held
    })
    .await
    .unwrap();
    assert_eq!(world.collector.remove("t").await, 6);
    drop(held);
    let outcome = running.await.unwrap().unwrap();
    assert_eq!(outcome.error.map(|e| e.kind), Some(ScrapeErrorKind::Cancelled));
    assert_eq!((world.store.batches(), world.heard.all().len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_removed_while_the_store_has_its_batch_ends_after_it() {
    let exporter = Exporter::text("a 1\n");
    let world = World::with(exporter.spec());
    let answers = world.store.hold();
    let collector = world.collector.clone();
    let running = tokio::spawn(async move { collector.scrape_now("t").await });
    tokio::task::spawn_blocking(move || answers.recv().unwrap()).await.unwrap();
    let collector = world.collector.clone();
    let removing = tokio::spawn(async move { collector.remove("t").await });
    while world.collector.status("t").is_some() {
        tokio::task::yield_now().await;
    }
    world.store.release();
    assert!(running.await.unwrap().unwrap().ok);
    assert_eq!(removing.await.unwrap(), 6);
    let all = world.store.all();
    assert_eq!((all.len(), all[0].stale().len(), all[1].stale().len()), (2, 0, 6));
    assert_eq!(world.heard.all().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_targets_of_a_job_are_replaced() {
    let exporter = Exporter::text("a 1\n");
    let world = World::new();
    let mut rest = exporter.spec();
    rest.target_id = "rest".into();
    world.collector.upsert(rest);
    world.collector.set_job_targets("j", vec![job_target(&exporter, "x"), job_target(&exporter, "y")]);
    let mut other = job_target(&exporter, "z");
    other.origin = TargetOrigin::Discovery { job: "k".into() };
    world.collector.set_job_targets("k", vec![other]);
    assert_eq!(ids(&world), ["rest", "x", "y", "z"]);
    for id in ["x", "y", "z", "rest"] {
        assert!(world.collector.scrape_now(id).await.unwrap().ok);
    }
    let answers = world.store.hold();
    // What another owner holds is left alone.
    let taken = job_target(&exporter, "rest");
    world.collector.set_job_targets("j", vec![job_target(&exporter, "y"), job_target(&exporter, "w"), taken]);
    assert_eq!(ids(&world), ["rest", "w", "y", "z"]);
    assert_eq!(world.collector.spec("rest").unwrap().origin, TargetOrigin::Rest);
    tokio::task::spawn_blocking(move || answers.recv().unwrap()).await.unwrap();
    world.store.release();
    let stale = world.store.last().stale();
    assert!(stale.len() == 6 && stale.iter().all(|n| n.contains("instance=\"x\"")), "{stale:?}");
    world.collector.scrape_now("y").await.unwrap();
    assert_eq!(world.store.last().by_labels, 0);
    world.collector.set_job_targets("j", Vec::new());
    assert_eq!(ids(&world), ["rest", "z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_jobs_each_know_their_own() {
    const JOBS: usize = 3_000;
    let exporter = Exporter::text("a 1\n");
    let world = World::new();
    let of = |job: usize, id: String| {
        let mut spec = job_target(&exporter, &id);
        spec.interval_ms = 3_600_000;
        spec.origin = TargetOrigin::Discovery { job: format!("j{job}") };
        spec
    };
    for job in 0..JOBS {
        world.collector.set_job_targets(&format!("j{job}"), vec![of(job, format!("t{job}")), of(job, "shared".into())]);
    }
    assert_eq!(world.collector.len(), JOBS + 1);
    // Whoever takes a target over keeps it when its first job goes.
    world.collector.upsert(TargetSpec { origin: TargetOrigin::Rest, ..of(0, "shared".into()) });
    world.collector.upsert(of(2, "t1".into()));
    for job in (0..JOBS).filter(|job| *job != 2) {
        world.collector.set_job_targets(&format!("j{job}"), Vec::new());
    }
    assert_eq!(ids(&world), ["shared", "t1", "t2"]);
    world.collector.set_job_targets("j2", Vec::new());
    assert_eq!(ids(&world), ["shared"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn due_targets_are_scraped_in_time_and_order() {
    let exporter = Exporter::text("a 1\n");
    let mut spec = exporter.spec();
    spec.interval_ms = 10;
    spec.timeout_ms = 10_000;
    let world = World::with(spec.clone());
    for _ in 0..5 {
        world.hear().await;
    }
    assert!(world.collector.status("t").unwrap().next_scrape_ms.is_some());
    spec.enabled = false;
    world.collector.upsert(spec);
    let heard = world.heard.all();
    assert!(heard.windows(2).all(|w| w[0].1.last_scrape_ms < w[1].1.last_scrape_ms && w[0].2 < w[1].2));
    assert!(heard.windows(2).all(|w| w[0].1.scrapes + 1 == w[1].1.scrapes));
    assert_eq!(heard[0].1.health, Health::Healthy);
    assert_eq!(world.collector.status("t").unwrap().health, Health::Disabled);
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_of_a_target_never_overlap_and_missed_ticks_are_counted() {
    let exporter = Exporter::text("a 1\n");
    let held = exporter.hold_next();
    let mut spec = exporter.spec();
    spec.interval_ms = 5;
    spec.timeout_ms = 60_000;
    let world = World::with(spec);
    let held = tokio::task::spawn_blocking(move || {
        held.wait();
        held
    })
    .await
    .unwrap();
    while world.collector.status("t").unwrap().missed_ticks < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(exporter.heads().len(), 1);
    drop(held);
    world.hear().await;
    assert!(world.heard.last().1.missed_ticks >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_moved_is_not_waited_for() {
    let (old, new) = (Exporter::text("a 1\n"), Exporter::text("a 2\n"));
    let world = World::with(old.spec());
    let held = old.hold_next();
    let collector = world.collector.clone();
    let running = tokio::spawn(async move { collector.scrape_now("t").await });
    let held = tokio::task::spawn_blocking(move || {
        held.wait();
        held
    })
    .await
    .unwrap();
    world.collector.upsert(new.spec());
    assert_eq!(world.scrape().await.1.body(), valued(&[("a", 2.0)]));
    assert_eq!(running.await.unwrap().unwrap().error.map(|e| e.kind), Some(ScrapeErrorKind::Cancelled));
    drop(held);
    assert_eq!(world.store.batches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_only_under_the_same_settings() {
    let exporter = Exporter::text("a 1\n");
    let world = World::with(exporter.spec());
    assert!(!world.scrape().await.0.connection_reused);
    world.collector.upsert(exporter.spec());
    assert!(world.scrape().await.0.connection_reused);
    let mut spec = exporter.spec();
    spec.address_policy = AddressPolicy::strict(false);
    world.collector.upsert(spec);
    let (outcome, _) = world.scrape().await;
    assert_eq!(outcome.error.map(|e| e.kind), Some(ScrapeErrorKind::ForbiddenAddress));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_targets_are_no_trouble() {
    let world = World::new();
    assert!(world.collector.is_empty());
    assert!(world.collector.status("t").is_none());
    assert!(world.collector.spec("t").is_none());
    assert!(world.collector.scrape_now("t").await.is_none());
    assert_eq!(world.collector.remove("t").await, 0);
    world.collector.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tens_of_thousands_of_targets_are_set_at_once() {
    let exporter = Exporter::text("a 1\n");
    let world = World::new();
    let specs: Vec<TargetSpec> = (0..20_000).map(|i| job_target(&exporter, &format!("t{i}"))).collect();
    world.collector.set_job_targets("j", specs.clone());
    assert_eq!(world.collector.len(), 20_000);
    world.collector.set_job_targets("j", specs[10_000..].to_vec());
    assert_eq!(world.collector.len(), 10_000);
    assert_eq!(world.store.batches(), 0);
}
