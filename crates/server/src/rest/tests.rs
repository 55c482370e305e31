//! The router as a client sees it: a real catalog and event log, a real exporter, a store in memory.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::body::Body;
use collect::TargetSpec;
use http::{Request, header};
use http_body_util::BodyExt;
use model::{Counts, LedgerPosition, Refusal, Verdict};
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;
use url::Url;

use super::query::Answer;
use super::*;
use crate::prom::error::{ApiError, json_response};
use crate::prom::params::Params;

const NOW: i64 = 1_750_500_000_000;

/// An answer that waits.
type Held = Box<dyn FnOnce() + Send>;

/// Keeps samples in memory, with the store's verdicts.
#[derive(Default)]
struct MemoryStore {
    samples: Mutex<HashMap<(Vec<u8>, i64), u64>>,
    totals: Mutex<(Counts, u64)>,
    fail: Mutex<Option<AppendError>>,
    /// The scrubber is at work.
    scrubbing: Mutex<bool>,
    /// Answers wait here while it is set.
    held: Mutex<Option<Vec<Held>>>,
}

impl Append for MemoryStore {
    fn submit(&self, mut batch: Batch, done: model::AppendDone) {
        if let Some(error) = self.fail.lock().clone() {
            return done(batch, Err(error));
        }
        let mut samples = self.samples.lock();
        for i in 0..batch.samples.len() {
            if batch.verdicts[i] != Verdict::Pending {
                continue;
            }
            let sample = batch.samples[i];
            let key = (batch.label_bytes(sample.series).to_vec(), sample.ts_ms);
            batch.verdicts[i] = match samples.get(&key) {
                None => Verdict::Stored,
                Some(bits) if *bits == sample.value.to_bits() => Verdict::Duplicate,
                Some(_) => Verdict::Refused(Refusal::DuplicateConflict),
            };
            samples.entry(key).or_insert(sample.value.to_bits());
        }
        let counts = batch.counts();
        let mut totals = self.totals.lock();
        totals.0.merge(&counts);
        totals.1 += 1;
        let ledger = LedgerPosition { epoch: 1, seq: totals.1 };
        drop(totals);
        let answer = move || done(batch, Ok(Appended { counts, new_series: 0, ledger }));
        match self.held.lock().as_mut() {
            Some(held) => held.push(Box::new(answer)),
            None => answer(),
        }
    }

    fn generation(&self) -> u64 {
        1
    }
}

impl integrity::Ledger for MemoryStore {
    fn integrity(&self, range: model::TimeRange, wanted: &dyn Fn(&str, &str) -> bool) -> store::Integrity {
        let totals = self.totals.lock().0;
        let account = store::AccountReport {
            target_id: "web".to_owned(),
            source_id: "shop".to_owned(),
            method: model::CollectionMethod::PullScraping,
            totals,
            counts: totals,
            slots: store::SlotCounts { expected: 10, stored: 10, ..Default::default() },
            last_slot: Some((NOW - 90_000, 15_000)),
            holes: Vec::new(),
            span: range,
        };
        let accounts = if wanted("web", "shop") { vec![account] } else { Vec::new() };
        store::Integrity { totals, balanced: true, accounts, ..Default::default() }
    }

    fn scrub(&self) -> std::io::Result<Option<store::ScrubState>> {
        Ok(Some(self.scrub_state()))
    }

    fn scrub_state(&self) -> store::ScrubState {
        store::ScrubState { running: *self.scrubbing.lock(), bytes: 7, ..Default::default() }
    }
}

/// Answers with its own parameters.
struct Echo;

impl Ask for Echo {
    fn instant(&self, params: Params) -> Answer {
        let body = format!("{{\"status\":\"success\",\"instant\":{:?}}}", params.get("query"));
        Box::pin(async move { Ok(json_response(StatusCode::OK, body.into_bytes())) })
    }

    fn range(&self, _: Params) -> Answer {
        Box::pin(async { Err(ApiError::invalid_parameter("step", "zero")) })
    }
}

struct World {
    purges: Arc<parking_lot::Mutex<Vec<(String, i64)>>>,
    dir: TempDir,
    rest: Rest,
    app: Router,
    store: Arc<MemoryStore>,
    clock: Arc<AtomicI64>,
    _stop: watch::Sender<bool>,
}

impl World {
    async fn new() -> World {
        World::on(TempDir::new().unwrap(), Arc::default()).await
    }

    async fn on(dir: TempDir, store: Arc<MemoryStore>) -> World {
        let catalog = Arc::new(Catalog::open(&dir.path().join("catalog.db")).await.unwrap());
        let events = EventLog::open(&dir.path().join("events")).unwrap();
        let observer = Arc::new(Observer::new(Arc::clone(&catalog), events.clone()));
        let batch_ids = Arc::new(BatchIds::new("n1"));
        let append: Arc<dyn Append> = Arc::clone(&store) as Arc<dyn Append>;
        let collector = collector(Arc::clone(&append), Arc::clone(&observer), Arc::clone(&batch_ids));
        let (stop_tx, stop) = watch::channel(false);
        let clock = Arc::new(AtomicI64::new(NOW));
        let now = Arc::clone(&clock);
        let counted = Arc::clone(&store);
        let purges = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let rest = Rest::new(RestParts {
            type_of_metric: Arc::new(|_| model::MetricType::Unknown),
            configured_filters: Arc::new(|_| None),
            node: "n1".into(),
            catalog,
            events,
            collector,
            append,
            batch_ids,
            observer,
            rejections: Arc::new(crate::rejections::Rejections::new(None)),
            totals: Arc::new(move || counted.totals.lock().0),
            ledger: Arc::clone(&store) as Arc<dyn integrity::Ledger>,
            now: Arc::new(move || now.load(Ordering::Relaxed)),
            ask: Arc::new(Echo),
            purge: {
                let purges = Arc::clone(&purges);
                Arc::new(move |id: &str, at_ms| {
                    purges.lock().push((id.to_owned(), at_ms));
                    Ok(())
                })
            },
            base_url: "http://q:1".into(),
            vault: Arc::new(crate::access::vault::Vault::of(&[7; 32], Default::default()).expect("a key")),
            address_policy: AddressPolicy::strict(true),
            body_bytes_max: 100_000,
            stop,
        });
        rest.load_targets();
        World { dir, app: router::<Rest>().with_state(rest.clone()), rest, store, clock, _stop: stop_tx, purges }
    }

    async fn restart(self) -> World {
        let World { dir, rest, app, store, .. } = self;
        drop((app, rest));
        World::on(dir, store).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answered {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.app.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        #[allow(clippy::disallowed_methods, reason = "the body is our own")]
        let bytes = body.collect().await.unwrap().to_bytes();
        Answered {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
        }
    }

    async fn get(&self, path: &str) -> Answered {
        self.send("GET", path, &[], Body::empty()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answered {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }
}

fn collector(append: Arc<dyn Append>, observer: Arc<Observer>, ids: Arc<BatchIds>) -> Arc<Collector> {
    Arc::new(Collector::new(append, observer, ids))
}

#[derive(Debug)]
struct Answered {
    status: u16,
    headers: http::HeaderMap,
    body: Value,
}

impl Answered {
    #[track_caller]
    fn expect(self, status: u16) -> Answered {
        assert_eq!(self.status, status, "{:?}", self.body);
        if status >= 400 {
            assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
            assert_eq!(self.body["status"], status);
            for field in ["type", "title", "detail", "code"] {
                assert!(self.body[field].is_string(), "{field}: {:?}", self.body);
            }
        }
        self
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// Serves three samples to whoever connects; gives the port.
fn exporter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            // The whole head is read before the answer: closing on unread bytes resets the connection.
            let mut head = Vec::new();
            let mut byte = [0; 1];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let body = "# TYPE a gauge\na 1\nb{x=\"1\"} 2\nb{x=\"2\"} 3\n";
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\nContent-Length:";
            let _ = write!(stream, "{head} {}\r\n\r\n{body}", body.len());
        }
    });
    port
}

fn request(port: u16) -> Value {
    json!({
        "source_id": "node", "target_id": "node-1", "collection_method": "PULL_SCRAPING", "labels": {"env": "test"},
        "scrape_config": {"target_url": format!("127.0.0.1:{port}"), "scrape_interval": "1h"}
    })
}

const TARGETS: &str = "/api/v1/metrics/targets";
const NODE_1: &str = "/api/v1/metrics/targets/node-1";

#[tokio::test(flavor = "multi_thread")]
async fn a_target_lives_from_registration_to_undo() {
    let world = World::new().await;
    let request = request(exporter());
    let made = world.post(TARGETS, &request).await.expect(201);
    assert_eq!((made.header("location"), made.header("etag")), (NODE_1, "\"1\""));
    assert_eq!(made.body["health_status"], "healthy");
    assert_eq!(made.body["samples_scraped"], 3);
    assert_eq!(made.body["first_scrape"]["ok"], true);
    assert_eq!(made.body["labels"], json!({"env": "test"}));
    let again = world.post(TARGETS, &request).await.expect(200);
    assert_eq!(again.body["version"], 1);

    let mut other = request.clone();
    other["labels"] = json!({"env": "prod"});
    let conflict = world.post(TARGETS, &other).await.expect(409);
    assert_eq!(conflict.body["errors"][0]["pointer"], "/labels");
    let stale = [("content-type", "application/json"), ("if-match", "\"9\"")];
    world.send("POST", TARGETS, &stale, other.to_string()).await.expect(412);
    let replaced = world.post(&format!("{TARGETS}?replace=true&wait=0"), &other).await.expect(200);
    assert_eq!((replaced.header("etag"), &replaced.body["labels"]["env"]), ("\"2\"", &json!("prod")));

    let world = world.restart().await;
    let kept = world.get(NODE_1).await.expect(200);
    assert_eq!(kept.body["labels"], json!({"env": "prod"}));
    let deleted = world.send("DELETE", NODE_1, &[], Body::empty()).await.expect(200);
    assert_eq!(deleted.body["deleted"], true);
    assert_eq!(deleted.body["undo_until"], "2025-06-21T10:10:00.000Z");
    world.get(NODE_1).await.expect(404);
    assert_eq!(world.get(TARGETS).await.body, json!([]));
    world.clock.fetch_add(1_000, Ordering::Relaxed);
    let twice = world.send("DELETE", NODE_1, &[], Body::empty()).await.expect(200);
    assert_eq!(twice.body, deleted.body);
    world.post(&format!("{NODE_1}/restore"), &Value::Null).await.expect(200);
    world.post(&format!("{NODE_1}:restore"), &Value::Null).await.expect(409);
    world.get(NODE_1).await.expect(200);
    world.send("DELETE", NODE_1, &[], Body::empty()).await.expect(200);
    world.clock.fetch_add(601_000, Ordering::Relaxed);
    world.send("DELETE", NODE_1, &[], Body::empty()).await.expect(404);
    world.post(&format!("{NODE_1}/restore"), &Value::Null).await.expect(409);
    world.send("DELETE", &format!("{TARGETS}/nobody"), &[], Body::empty()).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_merge_and_switch_off() {
    let world = World::new().await;
    world.post(&format!("{TARGETS}?wait=0"), &request(exporter())).await.expect(201);
    let patch = async |body: Value, etag: &str| {
        let headers = [("content-type", "application/merge-patch+json"), ("if-match", etag)];
        world.send("PATCH", NODE_1, &headers, body.to_string()).await
    };
    let patched = patch(json!({"labels": {"env": null, "team": "core"}}), "\"1\"").await.expect(200);
    assert_eq!(patched.body["labels"], json!({"team": "core"}));
    patch(json!({"enabled": false}), "\"1\"").await.expect(412);
    let off = patch(json!({"enabled": false}), "*").await.expect(200);
    assert_eq!((&off.body["enabled"], &off.body["health_status"]), (&json!(false), &json!("disabled")));
    world.post(&format!("{NODE_1}/scrape"), &Value::Null).await.expect(409);
    patch(json!({"enabled": true}), "*").await.expect(200);
    let scraped = world.post(&format!("{NODE_1}/scrape"), &Value::Null).await.expect(200);
    assert_eq!(scraped.body["samples"], 3);
    let bad = patch(json!({"scrape_config": {"scrape_timeout": "2h"}}), "*").await.expect(422);
    assert_eq!(bad.body["errors"][0]["pointer"], "/scrape_config/scrape_timeout");
    let fixed = patch(json!({"source_id": "other"}), "*").await.expect(422);
    assert_eq!(fixed.body["code"], "immutable");
    patch(json!({"colour": 1}), "*").await.expect(400);
    patch(json!([]), "*").await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_leaves_nothing_behind() {
    let world = World::new().await;
    for path in [format!("{TARGETS}?dry_run=true"), format!("{TARGETS}:dry-run")] {
        let dry = world.post(&path, &request(exporter())).await.expect(200);
        assert_eq!((&dry.body["dry_run"], &dry.body["first_scrape"]["samples"]), (&json!(true), &json!(3)));
    }
    assert_eq!(world.get(TARGETS).await.body, json!([]));
    assert_eq!(world.store.totals.lock().0, Counts::default());
    assert_eq!(world.rest.events.stats().published, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_go_with_their_target_when_that_is_asked_for() {
    let world = World::new().await;
    let register = async |policy: Value| {
        let mut body = request(1);
        (body["target_id"], body["retention_policy"]) = (json!("p"), policy);
        world.post(&format!("{TARGETS}?wait=0&replace=true"), &body).await
    };
    let remove = async |query: &str| world.send("DELETE", &format!("{TARGETS}/p{query}"), &[], Body::empty()).await;
    let until = NOW + catalog::UNDO_WINDOW_MS;
    for (policy, query, data) in [
        (json!("30d"), "", "KEPT"),
        (json!("30d"), "?purge=true", "PURGE_SCHEDULED"),
        (json!({"on_delete": "PURGE"}), "", "PURGE_SCHEDULED"),
        (json!({"on_delete": "PURGE"}), "?purge=false", "KEPT"),
    ] {
        register(policy).await;
        world.purges.lock().clear();
        let first = remove(query).await.expect(200);
        assert_eq!(first.body["data"], data, "{query}");
        assert_eq!(remove(query).await.expect(200).body, first.body);
        let purged = world.purges.lock().clone();
        assert!(purged.iter().all(|p| *p == ("p".to_owned(), until)));
        assert_eq!(purged.is_empty(), data == "KEPT", "{query}: {purged:?}");
    }
    let late = remove("?purge=true").await.expect(200);
    assert_eq!(late.body["data"], "PURGE_SCHEDULED", "also when it is asked for later");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged() {
    let world = World::new().await;
    for (id, env) in [("c", "x"), ("a", "x"), ("b", "y"), ("d", "x")] {
        let mut body = request(1);
        body["target_id"] = json!(id);
        body["labels"] = json!({"env": env});
        body["enabled"] = json!(id != "d");
        world.post(&format!("{TARGETS}?wait=0"), &body).await.expect(201);
    }
    let ids = |a: &Answered| {
        let list = a.body.as_array().unwrap();
        list.iter().map(|t| t["target_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&world.get(TARGETS).await), ["a", "b", "c", "d"]);
    let page = world.get(&format!("{TARGETS}?label=env%3Dx&limit=2")).await.expect(200);
    assert_eq!((ids(&page), page.header("x-next-cursor")), (vec!["a".to_owned(), "c".to_owned()], "c"));
    let link = page.header("link").split(['<', '>']).nth(1).unwrap();
    let rest = world.get(link).await.expect(200);
    assert_eq!((ids(&rest), rest.header("link")), (vec!["d".to_owned()], ""));
    assert_eq!(ids(&world.get(&format!("{TARGETS}?enabled=false")).await), ["d"]);
    assert_eq!(ids(&world.get(&format!("{TARGETS}?health=disabled")).await), ["d"]);
    assert_eq!(ids(&world.get(&format!("{TARGETS}?source_id=nobody")).await), Vec::<String>::new());
    for bad in ["health=sick", "limit=0", "limit=x", "label=x", "enabled=maybe"] {
        world.get(&format!("{TARGETS}?{bad}")).await.expect(400);
    }
    let sd = world.get("/api/v1/metrics/sd").await.expect(200);
    assert_eq!(sd.body.as_array().map(Vec::len), Some(3));
    assert_eq!(sd.body[0]["labels"]["__metrics_path__"], "/metrics");
}

#[tokio::test(flavor = "multi_thread")]
async fn discovered_targets_can_only_be_muted() {
    let world = World::new().await;
    let url = Url::parse("http://127.0.0.1:1/metrics").unwrap();
    let mut spec = TargetSpec::new("job-1", url, model::Labels::from_pairs([("job", "j")]));
    spec.origin = collect::TargetOrigin::Discovery { job: "j".into() };
    world.rest.collector.upsert(spec);
    let path = format!("{TARGETS}/job-1");
    assert_eq!(world.get(&path).await.expect(200).body["origin"], "discovery:j");
    assert_eq!(world.get(TARGETS).await.body[0]["target_id"], "job-1");
    let refused = world.send("DELETE", &path, &[], Body::empty()).await.expect(409);
    assert_eq!(refused.body["code"], "managed_by_discovery");
    let mut same = request(1);
    same["target_id"] = json!("job-1");
    world.post(TARGETS, &same).await.expect(409);
    world.send("PATCH", &path, &[], json!({"labels": {}}).to_string()).await.expect(409);
    let muted = world.send("PATCH", &path, &[], json!({"enabled": false}).to_string()).await.expect(200);
    assert_eq!(muted.body["health_status"], "disabled");
    assert!(world.rest.is_muted("job-1"));
    let world = world.restart().await;
    assert!(world.rest.is_muted("job-1"));
    assert_eq!(world.get("/api/v1/metrics/stats").await.body["total_targets"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn idempotency_keys_give_the_first_answer_again() {
    let world = World::new().await;
    let headers = [("content-type", "application/json"), ("idempotency-key", "k1")];
    let body = request(exporter()).to_string();
    let first = world.send("POST", TARGETS, &headers, body.clone()).await.expect(201);
    let again = world.send("POST", TARGETS, &headers, body).await.expect(201);
    assert_eq!((again.header("location"), again.header("idempotency-replayed")), (NODE_1, "true"));
    assert_eq!(again.body, first.body);
    world.send("POST", TARGETS, &headers, request(2).to_string()).await.expect(422);

    let metric = json!([{"name": "a", "metric_type": "GAUGE", "value": 1}]).to_string();
    let custom = "/api/v1/metrics/custom";
    let one = world.send("POST", custom, &headers, metric.clone()).await.expect(200);
    // The first scrape is in the store too.
    let stored = world.store.samples.lock().len();
    world.clock.fetch_add(5_000, Ordering::Relaxed);
    let two = world.send("POST", custom, &headers, metric.clone()).await.expect(200);
    assert_eq!((&one.body, world.store.samples.lock().len()), (&two.body, stored));
    *world.store.fail.lock() = Some(AppendError::Busy { retry_after_ms: 1_500 });
    let k2 = [("idempotency-key", "k2")];
    let busy = world.send("POST", custom, &k2, metric.clone()).await.expect(429);
    assert_eq!(busy.header("retry-after"), "2");
    *world.store.fail.lock() = None;
    world.send("POST", custom, &k2, metric).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_metrics_balance_and_speak_of_what_was_refused() {
    let world = World::new().await;
    let path = "/api/v1/metrics/custom?source_id=desk";
    let gauge = |name: &str, value: Value| json!({"name": name, "metric_type": "GAUGE", "value": value, "timestamp": 1_750_500_000});
    let body = json!([gauge("a", json!(1)), gauge("a", json!(1)), gauge("a", json!(2)), gauge("bad name", json!(3))]);
    let result = world.post(path, &body).await.expect(200).body;
    assert_eq!(result["status"], "PARTIAL");
    assert_eq!([&result["received"], &result["accepted"], &result["duplicates"], &result["rejected"]], [4, 1, 1, 2]);
    let reasons: Vec<_> =
        result["rejections"].as_array().unwrap().iter().map(|r| (&r["reason"], &r["first_index"])).collect();
    assert_eq!(reasons, [(&json!("duplicate_conflict"), &json!(2)), (&json!("invalid_name"), &json!(3))]);
    assert_eq!(result["durability"], "WAL_SYNCED");
    let refused = world.post(path, &json!([gauge("bad name", json!(1))])).await.expect(422);
    assert_eq!(
        (&refused.body["result"]["status"], &refused.body["code"]),
        (&json!("REJECTED"), &json!("nothing_accepted"))
    );
    assert_eq!(world.post(path, &json!([])).await.expect(200).body["status"], "ACCEPTED");
    for (body, status) in [("{", 400), ("{}", 400), ("[{}]", 400), ("[1]", 400), ("", 400), ("[{\"name\":1}]", 400)] {
        world.send("POST", path, &[], body).await.expect(status);
    }
    world.send("POST", path, &[], "[".repeat(50_000)).await.expect(400);
    world.send("POST", path, &[], format!("[{}1{}]", "[".repeat(40_000), "]".repeat(40_000))).await.expect(400);
    world.send("POST", path, &[], " ".repeat(100_001)).await.expect(413);
    world.send("POST", path, &[("content-type", "text/csv")], "[]").await.expect(415);
    world.send("POST", &format!("/api/v1/metrics/custom?source_id={}", "x".repeat(101)), &[], "[]").await.expect(422);
    for (error, status) in [
        (AppendError::NoSpace("full".into()), 507),
        (AppendError::Failed("fsync".into()), 503),
        (AppendError::TooLarge { bytes: 2, limit: 1 }, 413),
    ] {
        *world.store.fail.lock() = Some(error);
        world.post(path, &body).await.expect(status);
    }
    let stats = world.get("/api/v1/metrics/stats").await.expect(200).body;
    assert_eq!((&stats["total_metrics_collected"], &stats["error_rate"]), (&json!(1), &json!(0.6)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_does_not_take_the_event_along() {
    let world = World::new().await;
    let mut events = world.rest.events.subscribe(None, None).unwrap();
    *world.store.held.lock() = Some(Vec::new());
    let body = json!([{"name": "a", "metric_type": "GAUGE", "value": 1}]).to_string();
    let request = Request::builder().method("POST").uri("/api/v1/metrics/custom").body(Body::from(body)).unwrap();
    let call = tokio::spawn(world.app.clone().oneshot(request));
    while world.store.held.lock().as_ref().is_none_or(Vec::is_empty) {
        tokio::task::yield_now().await;
    }
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    world.store.held.lock().take().unwrap().into_iter().for_each(|answer| answer());
    let delivered = tokio::time::timeout(Duration::from_secs(20), events.next()).await.unwrap().unwrap();
    let events::Delivery::Event(event) = delivered else { panic!("an event") };
    assert_eq!((event.report.counts.stored, event.report.error.clone()), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_stream_resume_and_say_when_they_are_gone() {
    let world = World::new().await;
    let path = "/api/v1/metrics/custom?source_id=desk";
    for i in 0..3 {
        world
            .post(path, &json!([{"name": "a", "metric_type": "COUNTER", "value": i, "timestamp": 1_750_500_000 + i}]))
            .await
            .expect(200);
    }
    let mut all = world.rest.events.subscribe(None, None).unwrap();
    world.post(path, &json!([{"name": "b", "metric_type": "CUSTOM", "value": 0}])).await.expect(200);
    let events::Delivery::Event(last) = all.next().await.unwrap() else { panic!("an event") };
    let id = uuid::Uuid::from_bytes(last.id());
    world.post(path, &json!([{"name": "c", "metric_type": "GAUGE", "value": "NaN"}])).await.expect(200);

    let request = Request::builder().uri(format!("/api/v1/metrics/events?resume_after={id}&source_id=desk"));
    let response = world.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body();
    let mut text = String::new();
    while !text.contains("data:") || !text.ends_with("\n\n") {
        let frame = tokio::time::timeout(Duration::from_secs(20), body.frame()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(text.contains("event: metrics_collected\n"), "{text}");
    let data = text.lines().find_map(|l| l.strip_prefix("data: ")).unwrap();
    let event: Value = serde_json::from_str(data).unwrap();
    assert_eq!(event["metrics_collected"]["collection_method"], "BATCH_UPLOAD");
    assert_eq!(event["metrics_collected"]["metrics_summary"]["gauges"], 1);
    assert!(text.contains(&format!("id: {}\n", event["event_id"].as_str().unwrap())));

    let gone = world.get("/api/v1/metrics/events?resume_after=0197901e-6f3b-7000-8000-000000000000").await.expect(410);
    assert!(gone.body["oldest_event_id"].is_string(), "{:?}", gone.body);
    world.get("/api/v1/metrics/events?resume_after=yesterday").await.expect(400);
    let header = [("last-event-id", "yesterday")];
    world.send("GET", "/api/v1/metrics/events", &header, Body::empty()).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_pass_through_and_errors_become_problems() {
    let world = World::new().await;
    let path = "/api/v1/metrics/query";
    assert_eq!(world.get(&format!("{path}?query=up")).await.expect(200).body["instant"], "up");
    let bad = world.get(&format!("{path}?query=up&start=1&end=2&step=0")).await.expect(400);
    assert_eq!(bad.body["errors"][0]["pointer"], "?step");
    let missing = world.get(&format!("{path}?query=up&start=1&step=1")).await.expect(400);
    assert_eq!(missing.body["errors"][0]["pointer"], "?end");
    world.get(path).await.expect(400);
    world.get(&format!("{path}?query=up&time=1&start=1")).await.expect(400);
    world.get(&format!("{path}?query=up&lang=sql")).await.expect(501);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_paths_and_methods_are_problems_too() {
    let world = World::new().await;
    world.get("/api/v1/metrics/nothing").await.expect(404);
    world.get("/api/v1/metrics").await.expect(404);
    world.get("/api/v1/metrics/integrity").await.expect(200);
    world.send("PUT", "/api/v1/metrics/stats", &[], Body::empty()).await.expect(405);
    world.send("DELETE", TARGETS, &[], Body::empty()).await.expect(405);
    world.post(NODE_1, &Value::Null).await.expect(405);
    assert_eq!(world.get("/openapi.json").await.expect(200).body["info"]["title"], "Quiver");
    world.get("/openapi").await.expect(200);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn an_ingestion_always_balances(
        metrics in prop::collection::vec((0..3u8, 0..4u8, prop::sample::select(vec!["a", "b", "bad name", "__x"])), 0..30)
    ) {
        let list: Vec<Value> = metrics.iter().map(|(kind, at, name)| match kind {
            0 => json!({"name": name, "metric_type": "GAUGE", "value": at, "timestamp": 1_750_500_000 + i64::from(*at) * 300}),
            1 => json!({"name": "h", "metric_type": "HISTOGRAM", "histogram": {"count": at, "buckets": [[1, at]]}}),
            _ => json!({"name": "g", "metric_type": "GAUGE", "value": 1, "labels": {*name: "x"}}),
        }).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let answer = runtime.block_on(async { World::new().await.post("/api/v1/metrics/custom", &json!(list)).await });
        let result = if answer.status == 200 { answer.body } else { answer.body["result"].clone() };
        let number = |name: &str| result[name].as_u64().unwrap();
        let sum = number("accepted") + number("duplicates") + number("rejected") + number("filtered");
        prop_assert_eq!(number("received"), sum);
        let by_reason: u64 = result["rejections"].as_array().unwrap().iter().map(|r| r["count"].as_u64().unwrap()).sum();
        prop_assert_eq!(by_reason, number("rejected"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_pushes_is_a_target_and_its_health_is_that_of_its_pushes() {
    let world = World::new().await;
    let push = json!({"source_id": "nightly", "target_id": "nightly-1", "collection_method": "BATCH_UPLOAD",
                      "push_config": {"expected_interval": "1m"}});
    let made = world.post(TARGETS, &push).await.expect(201);
    assert_eq!(made.body["push_url"], "http://q:1/api/v1/metrics/uploads?source_id=nightly");
    assert_eq!((&made.body["health_status"], &made.body["first_scrape"]), (&json!("unknown"), &Value::Null));
    assert_eq!(made.body["push_config"]["ttl"], "5m");
    world.post(TARGETS, &push).await.expect(200);
    let one = format!("{TARGETS}/nightly-1");
    world.post(&format!("{one}/scrape"), &Value::Null).await.expect(409);

    let metrics = json!([{"name": "done", "metric_type": "GAUGE", "value": 1}]);
    world.post("/api/v1/metrics/custom?source_id=nightly", &metrics).await.expect(200);
    let health = async |world: &World| world.get(&one).await.expect(200).body["health_status"].clone();
    assert_eq!(health(&world).await, "healthy");
    let reports = world.rest.events.stats().published;
    assert_eq!(reports, 1, "the push is an event like any other");
    world.clock.fetch_add(300_001, Ordering::Relaxed);
    assert_eq!(health(&world).await, "degraded");
    world.rest.tidy(5).await;
    world.rest.catalog.flush(world.rest.now_ms(), false).await.unwrap();
    assert_eq!(world.get("/api/v1/metrics/sd").await.body, json!([]), "there is nothing to scrape");

    let world = world.restart().await;
    assert_eq!(health(&world).await, "degraded");
    let listed = world.get(&format!("{TARGETS}?health=degraded")).await.expect(200);
    assert_eq!(listed.body[0]["target_id"], "nightly-1");
    let patch = [("content-type", "application/merge-patch+json")];
    world.send("PATCH", &one, &patch, r#"{"enabled": false}"#).await.expect(200);
    assert_eq!(health(&world).await, "disabled");
    world.send("DELETE", &one, &[], Body::empty()).await.expect(200);
    world.get(&one).await.expect(404);
    world.post(&format!("{one}/restore"), &Value::Null).await.expect(200);
    let dry = world.post(&format!("{TARGETS}?dry_run=true"), &push).await.expect(200);
    assert_eq!(dry.body["dry_run"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_integrity_report_counts_samples_scrapes_and_holes() {
    const INTEGRITY: &str = "/api/v1/metrics/integrity";
    let world = World::new().await;
    let metric = json!([{"name": "a", "metric_type": "GAUGE", "value": 1, "source": "APPLICATION"}]);
    world.post("/api/v1/metrics/custom", &metric).await.expect(200);
    let body = world.get(INTEGRITY).await.expect(200).body;
    assert_eq!((&body["balanced"], &body["samples"]["accepted"]), (&json!(true), &json!(1)), "{body}");
    assert_eq!(body["targets"][0]["scrapes"]["expected"], 10, "no target runs: nothing more is expected");
    assert_eq!((&body["integrity_percent"], &body["promised_percent"]), (&json!(100.0), &json!(99.99)));
    let one = world.get(&format!("{INTEGRITY}?target_id=web&from=1&to=2")).await.expect(200).body;
    assert_eq!((&one["from"], &one["targets"][0]["source_id"]), (&json!("1970-01-01T00:00:01.000Z"), &json!("shop")));
    for (query, status) in [("?from=soon", 400), ("?from=3&to=2", 400), ("?target_id=nobody", 404)] {
        world.get(&format!("{INTEGRITY}{query}")).await.expect(status);
    }
    let scrub = format!("{INTEGRITY}/scrub");
    world.post(&scrub, &json!(null)).await.expect(202);
    *world.store.scrubbing.lock() = true;
    world.post(&scrub, &json!(null)).await.expect(409);
}
