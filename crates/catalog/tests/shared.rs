//! Several servers on one PostgreSQL, and a PostgreSQL that goes away.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catalog::{Catalog, CatalogError, Claim, NewTarget, PostgresPlace, TargetPatch};
use model::{CollectionMethod, CollectionReport, Counts, Health, Origin};
use postgres::Postgres;
use serde_json::json;
use sqlx::Connection;
use tempfile::TempDir;
use tokio::sync::watch;
use toxic::{Mood, Toxic};

#[path = "../../../tests/support/child.rs"]
mod child;
#[path = "../../../tests/support/postgres.rs"]
mod postgres;
#[path = "../../../bin/quiver/tests/e2e/toxic.rs"]
mod toxic;

const NOW: i64 = 1_750_500_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn new_target(id: &str) -> NewTarget {
    NewTarget {
        target_id: id.into(),
        target_url: format!("http://{id}:9100/metrics"),
        source_type: "APPLICATION".into(),
        scrape_config: json!({"scrape_interval": "15s"}),
        enabled: true,
        source_id: "payments".into(),
        origin: "api".into(),
        request: json!({"source_id": "payments"}),
        ..NewTarget::default()
    }
}

fn failed(n: u16) -> CollectionReport {
    let mut event_id = [0; 16];
    event_id[..2].copy_from_slice(&n.to_be_bytes());
    CollectionReport {
        event_id,
        finished_at_ms: NOW + i64::from(n),
        origin: Origin {
            target_id: "a".into(),
            source_id: "payments".into(),
            method: CollectionMethod::PullScraping,
            received_at_ms: NOW,
        },
        health: Health::Unhealthy,
        counts: Counts::default(),
        error: Some(format!("refused {n} \0")),
        ..CollectionReport::default()
    }
}

async fn connect(url: &str, dir: &Path) -> Result<Arc<Catalog>, CatalogError> {
    let place = PostgresPlace::parse(url, None).unwrap();
    Catalog::connect(place, dir, |_| {}).await.map(Arc::new)
}

/// One of several servers, following the others.
struct Node {
    catalog: Arc<Catalog>,
    _stop: watch::Sender<bool>,
    _dir: TempDir,
}

impl Node {
    async fn on(url: &str) -> Node {
        let dir = TempDir::new().unwrap();
        let catalog = connect(url, dir.path()).await.unwrap();
        Node { _stop: follow(&catalog), catalog, _dir: dir }
    }
}

fn follow(catalog: &Arc<Catalog>) -> watch::Sender<bool> {
    let (stop, stopped) = watch::channel(false);
    let following = catalog.clone();
    tokio::spawn(async move { following.follow(stopped).await });
    stop
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Changes what is known until nobody else was faster.
async fn add_label(node: Arc<Catalog>, name: String) {
    loop {
        let known = node.get("t").unwrap();
        let mut labels = known.spec.labels.clone();
        labels.insert(name.clone(), "x".to_owned());
        let patch = TargetPatch { labels: Some(labels), ..TargetPatch::default() };
        match node.patch("t", &patch, Some(known.version), NOW).await {
            Ok(_) => return,
            Err(CatalogError::VersionMismatch { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_see_each_others_changes_and_never_undo_them() {
    let server = Postgres::start();
    server.create("shared");
    let url = server.url("shared");
    // All at once: migrations go one after another.
    let (a, b, c) = tokio::join!(Node::on(&url), Node::on(&url), Node::on(&url));
    let nodes = [&a.catalog, &b.catalog, &c.catalog];
    nodes[0].insert(new_target("t"), NOW).await.unwrap();
    until("both others know it", || nodes[1..].iter().all(|n| n.get("t").is_some())).await;
    assert_eq!(nodes[1].changed().await, ["t"]);

    let off = TargetPatch { enabled: Some(false), ..TargetPatch::default() };
    nodes[1].patch("t", &off, Some(1), NOW).await.unwrap();
    until("it is off everywhere", || nodes.iter().all(|n| n.get("t").is_some_and(|t| !t.spec.enabled))).await;

    // All change the same thing at the same time: none is lost, and who named a version wins once.
    let before = nodes[0].get("t").unwrap().version;
    let label =
        |n: usize| TargetPatch { labels: Some([(format!("by{n}"), "x".to_owned())].into()), ..TargetPatch::default() };
    let patches = [label(0), label(1), label(2)];
    let (r0, r1, r2) = tokio::join!(
        nodes[0].patch("t", &patches[0], Some(before), NOW),
        nodes[1].patch("t", &patches[1], Some(before), NOW),
        nodes[2].patch("t", &patches[2], Some(before), NOW),
    );
    let won = [&r0, &r1, &r2].iter().filter(|r| r.is_ok()).count();
    assert_eq!(won, 1, "{r0:?} {r1:?} {r2:?}");
    assert!([r0, r1, r2].iter().all(|r| matches!(r, Ok(_) | Err(CatalogError::VersionMismatch { .. }))));
    // Each adds a label of his own to what he knows, again and again: nobody undoes what another did meanwhile.
    let adding: Vec<_> = (0..12).map(|i| tokio::spawn(add_label(nodes[i % 3].clone(), format!("own{i}")))).collect();
    for added in adding {
        added.await.unwrap();
    }
    let has_all = |node: &Arc<Catalog>| {
        node.get("t").is_some_and(|t| (0..12).all(|i| t.spec.labels.contains_key(&format!("own{i}"))))
    };
    until("all have all labels", || nodes.iter().all(|n| has_all(n))).await;
    let version = before + 13;
    assert!(nodes.iter().all(|n| n.get("t").is_some_and(|t| t.version == version)), "each change is one version");
    let (r0, r1) = tokio::join!(nodes[0].insert(new_target("u"), NOW), nodes[1].insert(new_target("u"), NOW));
    assert!(r0.is_ok() != r1.is_ok(), "one of them registers: {r0:?} {r1:?}");

    // A state of health is nobody's news, and does not spoil the row for others.
    let on = TargetPatch { enabled: Some(true), ..TargetPatch::default() };
    nodes[0].patch("t", &on, None, NOW).await.unwrap();
    until("it is on everywhere", || nodes.iter().all(|n| n.get("t").is_some_and(|t| t.spec.enabled))).await;
    for (node, health) in nodes.iter().zip([Health::Healthy, Health::Unhealthy, Health::Degraded]) {
        node.set_health("t", health);
        node.flush(NOW, false).await.unwrap();
    }
    let fresh = Node::on(&url).await;
    assert_eq!((&fresh.catalog.get("t").unwrap().damage, nodes[0].get("t").unwrap().health), (&None, Health::Healthy));

    assert_eq!(nodes[0].claim_key("k", 1, NOW).await.unwrap(), Claim::Fresh { claimed_at_ms: NOW });
    assert_eq!(nodes[1].claim_key("k", 1, NOW).await.unwrap(), Claim::InProgress, "another server works on it");

    nodes[0].release_key("k").await;
    let claim = nodes[1].claim_key("k", 1, NOW + 5).await.unwrap();
    assert_eq!(
        claim,
        Claim::Fresh { claimed_at_ms: NOW },
        "another server may try at once, with the time of the first"
    );

    let known = nodes[2].get("t").unwrap().version;
    nodes[0].patch("t", &label(0), None, NOW).await.unwrap();
    let late = nodes[2].delete("t", Some(known), None, NOW).await;
    assert!(matches!(late, Err(CatalogError::VersionMismatch { .. })), "it is not what was to be deleted: {late:?}");
    nodes[2].delete("t", None, None, NOW).await.unwrap();
    until("it is gone everywhere", || nodes.iter().all(|n| n.get("t").is_none() && n.get_deleted("t").is_some())).await;
    nodes[0].restore("t", NOW).await.unwrap();
    server.ask("shared", "DELETE FROM metric_targets WHERE target_id = 'u'");
    until("it was deleted by hand", || nodes.iter().all(|n| n.get("u").is_none() && n.get("t").is_some())).await;
    server.ask("shared", "TRUNCATE metric_targets");
    until("nothing is left", || nodes.iter().all(|n| n.is_empty())).await;
}

#[tokio::test]
async fn the_schema_is_that_of_the_specification_and_refusals_say_what_to_do() {
    let server = Postgres::start();
    server.create("fresh");
    let node = Node::on(&server.url("fresh")).await;
    let columns = server.ask(
        "fresh",
        "SELECT string_agg(concat_ws(' ', column_name, data_type, character_maximum_length), ', ' ORDER BY ordinal_position) \
         FROM information_schema.columns WHERE table_name IN ('metric_targets', 'collection_jobs') AND ordinal_position <= 9 \
         GROUP BY table_name ORDER BY table_name",
    );
    assert_eq!(
        columns,
        "id uuid, job_id character varying 100, target_id character varying 100, collection_method character varying 50, \
         status character varying 20, metrics_collected bigint, collection_duration_ms double precision, \
         error_details text, created_at timestamp with time zone\n\
         id uuid, target_id character varying 100, target_url character varying 500, source_type character varying 50, \
         scrape_config json, labels json, health_status character varying 20, enabled boolean, \
         created_at timestamp with time zone"
    );
    drop(node);
    let dir = TempDir::new().unwrap();
    let refusal = async |url: String| match connect(&url, dir.path()).await {
        Err(CatalogError::Refused(text)) => text,
        Err(other) => panic!("{url}: {other}"),
        Ok(_) => panic!("{url}: it let us in"),
    };
    let text = refusal(server.url("fresh").replace(postgres::PASSWORD, "wrong")).await;
    assert!(text.contains("password authentication failed") && !text.contains("wrong"), "{text}");
    let text = refusal(server.url("nowhere")).await;
    assert!(text.contains("\"nowhere\" does not exist") && text.contains("CREATE DATABASE"), "{text}");
    server.ask("fresh", "CREATE USER guest PASSWORD 'guest'");
    let guest = format!("postgres://guest:guest@127.0.0.1:{}/fresh", server.port);
    let text = refusal(guest).await;
    assert!(text.contains("permission denied") && text.contains("GRANT CREATE"), "{text}");
    let text = refusal(server.url("fresh") + "?sslmode=require").await;
    assert!(text.contains("TLS"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_costs_nothing_but_changes() {
    let mut server = Postgres::start();
    server.create("away");
    let toxic = Toxic::before(server.port);
    let url = server.url_by(toxic.port(), "away");
    let dir = TempDir::new().unwrap();
    let catalog = connect(&url, dir.path()).await.unwrap();
    let stop = follow(&catalog);
    catalog.insert(new_target("a"), NOW).await.unwrap();

    // The other side seems to be there, and does not answer.
    toxic.set(Mood::HalfOpen);
    let begin = Instant::now();
    let change = catalog.insert(new_target("b"), NOW).await;
    assert!(matches!(change, Err(CatalogError::Away(_))), "{change:?}");
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    assert!(catalog.get("a").is_some() && catalog.stats().trouble.is_some());
    toxic.set(Mood::Cut);
    toxic.set(Mood::Good);
    let begin = Instant::now();
    while catalog.insert(new_target("b"), NOW).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    server.kill();
    let patch = TargetPatch { enabled: Some(false), ..TargetPatch::default() };
    assert!(matches!(catalog.patch("a", &patch, None, NOW).await, Err(CatalogError::Away(_))));
    assert!(matches!(catalog.claim_key("k", 1, NOW).await, Err(CatalogError::Away(_))));
    for n in 0..700 {
        catalog.record(&failed(n));
        if n % 200 == 0 {
            assert!(catalog.flush(NOW, true).await.is_err());
        }
    }
    assert!(catalog.flush(NOW, true).await.is_err());
    assert!(catalog.stats().waiting_bytes > 100_000, "{:?}", catalog.stats());
    drop((catalog, stop));

    // A start while the database is away goes by the copy.
    let catalog = connect(&url, dir.path()).await.unwrap();
    assert!(catalog.get("a").is_some() && catalog.get("b").is_some() && catalog.stats().waiting_bytes > 100_000);
    let stop = follow(&catalog);
    // Without a copy it waits.
    let (other_dir, asked) = (TempDir::new().unwrap(), AtomicU64::new(0));
    let place = PostgresPlace::parse(&url, None).unwrap();
    let first_start = Catalog::connect(place, other_dir.path(), |text| {
        assert!(text.contains("waiting for the catalog's database"), "{text}");
        asked.fetch_add(1, Ordering::Relaxed);
    });
    let mut first_start = std::pin::pin!(first_start);
    tokio::select! {
        _ = first_start.as_mut() => panic!("there is no database"),
        () = until("it says that it waits", || asked.load(Ordering::Relaxed) > 0) => {}
    }
    server.resume();
    assert_eq!(first_start.await.unwrap().len(), 2);
    server.ask("away", "UPDATE metric_targets SET health_status = health_status WHERE target_id = 'a'");
    let begin = Instant::now();
    while catalog.flush(NOW, true).await.is_err() || catalog.stats().waiting_bytes > 0 {
        assert!(begin.elapsed() < PATIENCE, "{:?}", catalog.stats());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rows =
        server.ask("away", "SELECT count(*), count(DISTINCT job_id), min(length(error_details)) FROM collection_jobs");
    assert_eq!((rows.as_str(), catalog.stats().collections_dropped), ("700|700|11", 0));
    catalog.patch("a", &patch, None, NOW).await.unwrap();
    drop(stop);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_between_servers_no_change_is_missed() {
    let server = Postgres::start();
    server.create("missed");
    let url = server.url("missed");
    let a = Node::on(&url).await;
    a.catalog.insert(new_target("first"), NOW).await.unwrap();
    let b = Node::on(&url).await;

    // The second copy cannot be written: the change is in force all the same, and in the copy as soon as that is possible.
    let copy = copy_of(&b);
    std::fs::remove_file(&copy).unwrap();
    std::fs::create_dir(&copy).unwrap();
    a.catalog.insert(new_target("second"), NOW).await.unwrap();
    a.catalog.delete("first", None, None, NOW).await.unwrap();
    until("it is known", || b.catalog.get("second").is_some() && b.catalog.get("first").is_none()).await;
    let changed = b.catalog.changed().await;
    assert!(changed.contains(&"second".to_owned()), "{changed:?}");
    assert!(b.catalog.flush(NOW, false).await.is_err(), "the folder is in the way");
    std::fs::remove_dir(&copy).unwrap();
    b.catalog.flush(NOW, false).await.unwrap();
    let text = std::fs::read_to_string(&copy).unwrap();
    assert!(text.contains("\"second\"") && text.lines().count() == 2, "{text}");

    // The connection that listens is ended again and again, right behind and right before a change.
    let mut by_hand = sqlx::PgConnection::connect(&url).await.unwrap();
    let (mut name, mut ended) = (String::new(), 0);
    for round in 0..24 {
        for part in ["x", "y"] {
            name = format!("{part}{round}");
            let insert = "INSERT INTO metric_targets (target_id, target_url, source_type, scrape_config) \
                VALUES ($1, 'http://h/', 'APPLICATION', '{}')";
            sqlx::query(insert).bind(&name).execute(&mut by_hand).await.unwrap();
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
            ended += sqlx::query(end).execute(&mut by_hand).await.unwrap().rows_affected();
        }
        if round % 8 == 0 {
            tokio::time::sleep(Duration::from_millis(1_100)).await;
        }
    }
    assert!(ended >= 4, "listeners that were ended: {ended}");
    until("the last one came", || [&a, &b].iter().all(|n| n.catalog.get(&name).is_some())).await;
    for round in 0..24 {
        let known =
            |n: &Node| n.catalog.get(&format!("x{round}")).is_some() && n.catalog.get(&format!("y{round}")).is_some();
        assert!(known(&a) && known(&b), "round {round}");
    }
}

/// Gives the second copy of a node's targets.
fn copy_of(node: &Node) -> std::path::PathBuf {
    let files = std::fs::read_dir(node._dir.path()).unwrap().map(|f| f.unwrap().path());
    files.into_iter().find(|f| f.extension().is_some_and(|e| e == "targets")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_a_row_says_costs_the_row() {
    let server = Postgres::start();
    server.create("rows");
    let (a, b) = (Node::on(&server.url("rows")).await, Node::on(&server.url("rows")).await);
    for n in 0..5 {
        a.catalog.record(&failed(n));
    }
    server.ask("rows", "ALTER TABLE collection_jobs RENAME TO elsewhere");
    for _ in 0..3 {
        assert!(a.catalog.flush(NOW, true).await.is_err());
    }
    assert!(a.catalog.stats().waiting_bytes > 0 && a.catalog.stats().collections_dropped == 0);
    server.ask("rows", "ALTER TABLE elsewhere RENAME TO collection_jobs");
    server.ask("rows", "ALTER TABLE collection_jobs ADD CHECK (error_details NOT LIKE 'refused 3%')");
    a.catalog.flush(NOW, true).await.unwrap();
    let count = server.ask("rows", "SELECT count(*) FROM collection_jobs");
    assert_eq!((count.as_str(), a.catalog.stats().collections_dropped, a.catalog.stats().waiting_bytes), ("4", 1, 0));

    // Both write the states of the same targets, each in an order of its own.
    for n in 0..150 {
        a.catalog.insert(new_target(&format!("t{n}")), NOW).await.unwrap();
    }
    until("both have them", || b.catalog.len() == 150).await;
    for round in 0..12 {
        for node in [&a, &b] {
            let health = if round % 2 == 0 { Health::Healthy } else { Health::Unhealthy };
            (0..150).for_each(|n| node.catalog.set_health(&format!("t{n}"), health));
        }
        let (one, other) = tokio::join!(a.catalog.flush(NOW, false), b.catalog.flush(NOW, false));
        one.and(other).unwrap();
    }
}
