//! The catalog against real databases: a file of SQLite, and Debian's PostgreSQL.
//!
//! Each case runs on both; what only one of them has stands below.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use catalog::{
    Catalog, CatalogError, Claim, NewTarget, PostgresPlace, StoredResponse, TargetFilter, TargetPatch, UNDO_WINDOW_MS,
};
use model::{CollectionMethod, CollectionReport, Counts, Health, Origin, TypeCounts};
use postgres::Postgres;
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Executor};
use tempfile::TempDir;

#[path = "../../../tests/support/child.rs"]
mod child;
#[path = "../../../tests/support/postgres.rs"]
mod postgres;

const NOW: i64 = 1_750_500_000_000;

/// A place for one catalog.
struct Bed {
    dir: TempDir,
    /// The URL of a database of its own; without one it is SQLite.
    url: Option<String>,
}

impl Bed {
    fn sqlite() -> Bed {
        Bed { dir: TempDir::new().unwrap(), url: None }
    }

    fn postgres(server: &Postgres, database: &str) -> Bed {
        server.create(database);
        Bed { dir: TempDir::new().unwrap(), url: Some(server.url(database)) }
    }

    /// Opens the catalog; a second time after dropping or closing it is a restart.
    async fn open(&self) -> Catalog {
        match &self.url {
            None => Catalog::open(&file(&self.dir)).await.unwrap(),
            Some(url) => {
                let place = PostgresPlace::parse(url, None).unwrap();
                Catalog::connect(place, self.dir.path(), |text| panic!("it has to wait: {text}")).await.unwrap()
            }
        }
    }

    async fn execute(&self, sql: &'static str) {
        match &self.url {
            None => execute(&self.dir, sql).await,
            Some(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                connection.execute(sql).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }
}

/// Runs each case on SQLite, and all of them on one PostgreSQL.
macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        $(
            mod $case {
                #[tokio::test]
                async fn on_sqlite() {
                    super::$case(super::Bed::sqlite()).await;
                }
            }
        )*

        #[tokio::test]
        async fn the_same_on_postgres() {
            let server = Postgres::start();
            $(
                println!("{}", stringify!($case));
                $case(Bed::postgres(&server, stringify!($case))).await;
            )*
        }
    };
}

on_both!(
    targets_survive_a_restart_with_every_field,
    patch_replace_delete_restore,
    a_deleted_id_can_be_registered_again_and_is_forgotten_in_the_end,
    lists_filter_and_page_in_order,
    a_damaged_row_is_disabled_and_says_so_and_harms_no_other,
    health_is_written_when_it_changed,
    scrapes_roll_up_and_failures_stand_alone,
    idempotency_keys_give_the_first_answer,
    lengths_are_refused_before_the_database,
);

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("catalog.db")
}

fn new_target(id: &str) -> NewTarget {
    NewTarget {
        target_id: id.into(),
        target_url: format!("http://{id}:9100/metrics"),
        source_type: "APPLICATION".into(),
        scrape_config: json!({"scrape_interval": "15s"}),
        labels: BTreeMap::from([("env".into(), "prod".into())]),
        enabled: true,
        source_id: "payments".into(),
        origin: "api".into(),
        request: json!({"source_id": "payments"}),
        ..NewTarget::default()
    }
}

fn report(target: &str, method: CollectionMethod, at_ms: i64, health: Health, n: u8) -> CollectionReport {
    CollectionReport {
        event_id: [n; 16],
        finished_at_ms: at_ms,
        origin: Origin { target_id: target.into(), source_id: "payments".into(), method, received_at_ms: at_ms },
        duration_ms: 10 * u64::from(n),
        health,
        summary: TypeCounts { gauges: 5, ..TypeCounts::default() },
        counts: Counts { received: 7, stored: 7, ..Counts::default() },
        ..CollectionReport::default()
    }
}

async fn execute(dir: &TempDir, sql: &'static str) {
    let url = format!("sqlite://{}", file(dir).display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn targets_survive_a_restart_with_every_field(bed: Bed) {
    let catalog = bed.open().await;
    let made = catalog.insert(new_target("a"), NOW).await.unwrap();
    assert_eq!((made.version, made.health), (1, Health::Unknown));
    assert!(matches!(catalog.insert(new_target("a"), NOW).await, Err(CatalogError::Exists(_))));
    drop(catalog);
    let catalog = bed.open().await;
    assert_eq!(catalog.get("a"), Some(made));
}

async fn patch_replace_delete_restore(bed: Bed) {
    let catalog = bed.open().await;
    catalog.insert(new_target("a"), NOW).await.unwrap();
    let off = TargetPatch { enabled: Some(false), ..TargetPatch::default() };
    let patched = catalog.patch("a", &off, Some(1), NOW + 1).await.unwrap();
    assert_eq!((patched.version, patched.health, patched.updated_at_ms), (2, Health::Disabled, NOW + 1));
    let stale = catalog.patch("a", &off, Some(1), NOW + 2).await;
    assert!(matches!(stale, Err(CatalogError::VersionMismatch { expected: 1, actual: 2, .. })));
    let replaced = catalog.replace(new_target("a"), None, NOW + 3).await.unwrap();
    assert_eq!((replaced.version, replaced.created_at_ms, replaced.id), (3, NOW, patched.id));

    let deleted = catalog.delete("a", None, None, NOW + 4).await.unwrap();
    assert_eq!(deleted.undo_until_ms(), Some(NOW + 4 + UNDO_WINDOW_MS));
    catalog.set_deletion("a", json!({"deleted": true})).await.unwrap();
    assert!(catalog.get("a").is_none() && catalog.is_empty());
    assert!(matches!(catalog.delete("a", None, None, NOW + 5).await, Err(CatalogError::NotFound(_))));
    drop(catalog);
    let catalog = bed.open().await;
    assert_eq!(catalog.get_deleted("a").unwrap().deletion, Some(json!({"deleted": true})));
    let late = catalog.restore("a", NOW + 5 + UNDO_WINDOW_MS).await;
    assert!(matches!(late, Err(CatalogError::UndoExpired(_))));
    let restored = catalog.restore("a", NOW + 5).await.unwrap();
    assert!(restored.is_live() && restored.deletion.is_none());
}

async fn a_deleted_id_can_be_registered_again_and_is_forgotten_in_the_end(bed: Bed) {
    let catalog = bed.open().await;
    catalog.insert(new_target("a"), NOW).await.unwrap();
    catalog.delete("a", None, None, NOW).await.unwrap();
    let again = catalog.insert(new_target("a"), NOW + 1).await.unwrap();
    assert_eq!((again.version, again.is_live()), (3, true));
    catalog.delete("a", None, None, NOW).await.unwrap();
    catalog.prune(NOW + catalog::DELETED_RETENTION_MS + 1).await.unwrap();
    assert!(catalog.get_deleted("a").is_none());
}

async fn lists_filter_and_page_in_order(bed: Bed) {
    let catalog = bed.open().await;
    for id in ["c", "a", "e", "b", "d"] {
        catalog.insert(new_target(id), NOW).await.unwrap();
    }
    let mut other = new_target("z");
    other.source_id = "billing".into();
    other.labels.clear();
    catalog.insert(other, NOW).await.unwrap();
    let filter = TargetFilter { labels: vec![("env".into(), "prod".into())], ..TargetFilter::default() };
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = catalog.list(&filter, Some(2), after.as_deref());
        assert!(page.targets.len() <= 2);
        seen.extend(page.targets.iter().map(|t| t.spec.target_id.clone()));
        after = page.next_after;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    let billing = TargetFilter { source_id: Some("billing".into()), ..TargetFilter::default() };
    assert_eq!(catalog.list(&billing, None, None).targets.len(), 1);
    let page = catalog.list(&TargetFilter::default(), Some(6), None);
    assert_eq!((page.targets.len(), page.next_after), (6, None));
}

async fn a_damaged_row_is_disabled_and_says_so_and_harms_no_other(bed: Bed) {
    let catalog = bed.open().await;
    catalog.insert(new_target("a"), NOW).await.unwrap();
    catalog.insert(new_target("b"), NOW).await.unwrap();
    catalog.close(NOW).await.unwrap();
    bed.execute("UPDATE metric_targets SET target_url = 'http://evil:9100/metrics' WHERE target_id = 'a'").await;
    let catalog = bed.open().await;
    let a = catalog.get("a").unwrap();
    assert!(!a.spec.enabled && a.health == Health::Disabled);
    assert!(a.damage.as_ref().unwrap().contains("checksum"), "{:?}", a.damage);
    assert!(catalog.get("b").unwrap().damage.is_none());
    catalog.replace(new_target("a"), None, NOW).await.unwrap();
    drop(catalog);
    let catalog = bed.open().await;
    assert!(catalog.get("a").unwrap().damage.is_none());
}

#[tokio::test]
async fn a_row_of_wrong_types_is_damage_too() {
    let dir = TempDir::new().unwrap();
    drop(Catalog::open(&file(&dir)).await.unwrap());
    let sql = "INSERT INTO metric_targets (target_id, target_url, source_type, scrape_config, labels) \
               VALUES ('x', 'http://x', 'CUSTOM', '{not json', '[1,2]')";
    execute(&dir, sql).await;
    let catalog = Catalog::open(&file(&dir)).await.unwrap();
    let x = catalog.get("x").unwrap();
    assert!(x.damage.is_some() && !x.spec.enabled && x.spec.labels.is_empty());
}

async fn health_is_written_when_it_changed(bed: Bed) {
    let catalog = bed.open().await;
    catalog.insert(new_target("a"), NOW).await.unwrap();
    catalog.set_health("a", Health::Healthy);
    catalog.set_health("nobody", Health::Healthy);
    assert_eq!(catalog.get("a").unwrap().health, Health::Healthy);
    catalog.flush(NOW, false).await.unwrap();
    drop(catalog);
    let catalog = bed.open().await;
    let a = catalog.get("a").unwrap();
    assert_eq!((a.health, a.version, &a.damage), (Health::Healthy, 1, &None));
    let labels = TargetPatch { labels: Some(BTreeMap::new()), ..TargetPatch::default() };
    assert_eq!(catalog.patch("a", &labels, None, NOW).await.unwrap().health, Health::Healthy);
}

async fn scrapes_roll_up_and_failures_stand_alone(bed: Bed) {
    let catalog = bed.open().await;
    let start = NOW - NOW % 300_000;
    for n in 1..=4u8 {
        let at = start + i64::from(n) * 15_000;
        catalog.record(&report("a", CollectionMethod::PullScraping, at, Health::Healthy, n));
    }
    let mut failed = report("a", CollectionMethod::PullScraping, start + 75_000, Health::Unhealthy, 9);
    failed.error = Some("connection refused".into());
    failed.summary = TypeCounts::default();
    catalog.record(&failed);
    catalog.record(&report("custom", CollectionMethod::BatchUpload, start + 1, Health::Healthy, 10));

    catalog.flush(start + 76_000, false).await.unwrap();
    let rows = catalog.collections(None, 100).await.unwrap();
    assert_eq!(rows.len(), 2, "the window is still running: {rows:?}");
    catalog.flush(start + 76_000, true).await.unwrap();
    catalog.record(&report("a", CollectionMethod::PullScraping, start + 90_000, Health::Healthy, 11));
    catalog.record(&report("a", CollectionMethod::PullScraping, start + 105_000, Health::Healthy, 12));
    catalog.flush(start + 300_000, false).await.unwrap();

    let rows = catalog.collections(Some("a"), 100).await.unwrap();
    let statuses: Vec<_> = rows.iter().map(|r| (r.status.as_str(), r.collections, r.metrics_collected)).collect();
    assert_eq!(statuses, [("completed", 1, 5), ("failed", 1, 0), ("completed", 5, 25)]);
    assert_eq!(rows[1].error_details.as_deref(), Some("connection refused"));
    assert_eq!((rows[2].window_start_ms, rows[2].samples_stored), (Some(start), 35));
    assert_eq!(rows.iter().map(|r| r.collections).sum::<i64>(), 7);

    catalog.prune(start + catalog::COLLECTION_RETENTION_MS + 80_000).await.unwrap();
    assert_eq!(catalog.collections(Some("a"), 100).await.unwrap().len(), 1);
}

async fn idempotency_keys_give_the_first_answer(bed: Bed) {
    let catalog = bed.open().await;
    let fresh = Claim::Fresh { claimed_at_ms: NOW };
    assert_eq!(catalog.claim_key("k", 1, NOW).await.unwrap(), fresh);
    assert_eq!(catalog.claim_key("k", 1, NOW).await.unwrap(), Claim::InProgress);
    drop(catalog);
    let catalog = bed.open().await;
    assert_eq!(catalog.claim_key("k", 1, NOW + 5_000).await.unwrap(), fresh, "the crashed attempt's time");
    let answer = StoredResponse { status: 201, head: "/x".into(), body: "{}".into() };
    catalog.finish_key("k", &answer).await.unwrap();
    assert_eq!(catalog.claim_key("k", 1, NOW + 6_000).await.unwrap(), Claim::Done(answer));
    assert_eq!(catalog.claim_key("k", 2, NOW + 6_000).await.unwrap(), Claim::OtherRequest);
    let later = NOW + catalog::IDEMPOTENCY_MS + 1;
    assert_eq!(catalog.claim_key("k", 2, later).await.unwrap(), Claim::Fresh { claimed_at_ms: later });
    catalog.release_key("k").await;
    catalog.prune(later + catalog::IDEMPOTENCY_MS + 1).await.unwrap();
}

async fn lengths_are_refused_before_the_database(bed: Bed) {
    let catalog = bed.open().await;
    let long = new_target(&"a".repeat(101));
    assert!(matches!(catalog.insert(long, NOW).await, Err(CatalogError::TooLong { field: "target_id", .. })));
}

#[tokio::test]
async fn any_flipped_bit_in_the_database_loses_no_target() {
    let dir = TempDir::new().unwrap();
    let catalog = Catalog::open(&file(&dir)).await.unwrap();
    for id in ["a", "b", "c"] {
        catalog.insert(new_target(id), NOW).await.unwrap();
    }
    catalog.delete("c", None, None, NOW).await.unwrap();
    catalog.close(NOW).await.unwrap();
    let database = std::fs::read(file(&dir)).unwrap();
    let copy = std::fs::read(dir.path().join("catalog.targets")).unwrap();
    // Every bit of the header, then one here and there, denser where the rows are.
    let bits = (0..800).step_by(7).chain((800..database.len() * 8).step_by(1_999));
    for bit in bits {
        let dir = TempDir::new().unwrap();
        let mut bytes = database.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(file(&dir), bytes).unwrap();
        std::fs::write(dir.path().join("catalog.targets"), &copy).unwrap();
        let catalog = Catalog::open(&file(&dir)).await.unwrap_or_else(|e| panic!("bit {bit}: {e}"));
        for id in ["a", "b"] {
            let target = catalog.get(id).unwrap_or_else(|| panic!("bit {bit}: {id} is lost"));
            assert!(target.damage.is_some() || target.spec == new_target(id), "bit {bit}: {target:?}");
        }
        assert!(catalog.get("c").is_none_or(|c| c.damage.is_some()), "bit {bit}");
    }
}

#[tokio::test]
async fn a_lost_database_comes_back_from_the_second_copy() {
    let dir = TempDir::new().unwrap();
    let catalog = Catalog::open(&file(&dir)).await.unwrap();
    catalog.insert(new_target("a"), NOW).await.unwrap();
    catalog.close(NOW).await.unwrap();
    std::fs::write(file(&dir), b"this is no database, it only has the name of one").unwrap();
    let catalog = Catalog::open(&file(&dir)).await.unwrap();
    assert_eq!(catalog.get("a").unwrap().spec, new_target("a"));
    assert!(dir.path().join("catalog.db.damaged-1").exists());
    catalog.insert(new_target("b"), NOW).await.unwrap();
    drop(catalog);
    let catalog = Catalog::open(&file(&dir)).await.unwrap();
    assert_eq!(catalog.len(), 2);
}

#[tokio::test]
async fn a_damaged_second_copy_does_no_harm() {
    let dir = TempDir::new().unwrap();
    let catalog = Catalog::open(&file(&dir)).await.unwrap();
    catalog.insert(new_target("a"), NOW).await.unwrap();
    catalog.close(NOW).await.unwrap();
    let copy = dir.path().join("catalog.targets");
    let sound = std::fs::read(&copy).unwrap();
    for bit in (0..17 * 8).chain((17 * 8..sound.len() * 8).step_by(101)) {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&copy, bytes).unwrap();
        let catalog = Catalog::open(&file(&dir)).await.unwrap();
        assert_eq!((catalog.len(), catalog.get("a").unwrap().spec.clone()), (1, new_target("a")), "bit {bit}");
        catalog.close(NOW).await.unwrap();
        assert_eq!(std::fs::read(&copy).unwrap(), sound, "bit {bit}: the copy is made anew");
    }
}
