//! Pushes as a client sees them, over a store on disk.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use collect::report::BatchIds;
use http::Request;
use model::{
    Append, AppendDone, AppendError, CollectionMethod, CollectionReport, Matcher, Samples, Select, TimeRange, is_stale,
};
use parking_lot::Mutex;
use store::{Store, StoreConfig};
use sys::{Clock, RealFs, SimClock};
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;

const START: i64 = 1_750_500_000_000;

/// The store, but for what a test lets fail.
struct Door {
    store: Arc<Store>,
    fail: Mutex<Option<AppendError>>,
}

impl Append for Door {
    fn submit(&self, batch: model::Batch, done: AppendDone) {
        match self.fail.lock().clone() {
            Some(error) => done(batch, Err(error)),
            None => self.store.submit(batch, done),
        }
    }

    fn generation(&self) -> u64 {
        self.store.generation()
    }
}

struct World {
    clock: Arc<SimClock>,
    store: Arc<Store>,
    door: Arc<Door>,
    gateway: Gateway,
    app: Router,
    reports: Arc<Mutex<Vec<CollectionReport>>>,
}

impl World {
    fn open(dir: &Path, now_ms: i64, limits: PushLimits) -> World {
        let clock = Arc::new(SimClock::at(now_ms));
        let config = StoreConfig { dir: dir.to_owned(), maintain_every_ms: 0, ..StoreConfig::default() };
        let (store, _) = Store::open(Arc::new(RealFs), Arc::clone(&clock) as Arc<dyn Clock>, config).unwrap();
        let door = Arc::new(Door { store: Arc::clone(&store), fail: Mutex::default() });
        let (folder, groups, damaged) = Folder::open(Arc::new(RealFs), &dir.join("push")).unwrap();
        assert!(damaged.is_empty());
        let reports = Arc::new(Mutex::new(Vec::new()));
        let (pushed, time) = (Arc::clone(&reports), Arc::clone(&clock));
        let gateway = Gateway::new(GatewayParts {
            append: Arc::clone(&door) as Arc<dyn Append>,
            batch_ids: Arc::new(BatchIds::new("n1")),
            pushed: Arc::new(move |report| pushed.lock().push(report)),
            now: Arc::new(move || time.now_ms()),
            folder,
            groups,
            limits,
            ttl_ms: Arc::new(|source| if source == "registered" { 60_000 } else { 0 }),
        });
        let app = router::<Gateway>().with_state(gateway.clone());
        World { clock, store, door, gateway, app, reports }
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.send_as("text/plain", method, path, body.as_bytes()).await
    }

    async fn send_as(&self, content_type: &str, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[track_caller]
    fn expect(&self, got: (u16, String), status: u16, text: &str) {
        assert!(got.0 == status && got.1.contains(text), "{got:?}");
    }

    /// Gives the samples of all series of a metric, by their labels; a stale marker is `None`.
    fn samples(&self, metric: &str) -> BTreeMap<String, Vec<(i64, Option<f64>)>> {
        let matcher = Matcher::new("__name__", model::MatchOp::Equal, metric).unwrap();
        let mut found = BTreeMap::new();
        for reader in self.store.select(&[matcher], TimeRange::ALL).unwrap() {
            let mut samples = Samples::default();
            reader.read(TimeRange::ALL, &mut samples).unwrap();
            let value = |v: f64| (!is_stale(v)).then_some(v);
            let pairs = samples.ts_ms.iter().zip(&samples.values).map(|(ts, v)| (ts - START, value(*v)));
            found.insert(reader.labels().to_string(), pairs.collect());
        }
        found
    }

    #[track_caller]
    fn only(&self, metric: &str) -> Vec<(i64, Option<f64>)> {
        let mut found = self.samples(metric);
        assert_eq!(found.len(), 1, "{found:?}");
        found.pop_first().unwrap().1
    }
}

fn world(limits: PushLimits) -> (TempDir, World) {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), START, limits);
    (dir, world)
}

#[tokio::test]
async fn put_replaces_the_group_and_post_the_families_of_the_same_name() {
    let (_dir, world) = world(PushLimits::default());
    let path = "/metrics/job/batch/instance/a";
    world.expect(world.send("PUT", path, "# TYPE one gauge\none 1\ntwo{x=\"1\"} 1\ntwo{x=\"2\"} 2\n").await, 200, "");
    world.clock.advance(1_000);
    world.expect(world.send("POST", path, "two{x=\"2\"} 3\nthree 3\n").await, 200, "");
    assert_eq!(world.only("one"), [(0, Some(1.0))]);
    let two = world.samples("two");
    assert_eq!(two["two{instance=\"a\", job=\"batch\", x=\"1\"}"], [(0, Some(1.0)), (1_000, None)]);
    assert_eq!(two["two{instance=\"a\", job=\"batch\", x=\"2\"}"], [(0, Some(2.0)), (1_000, Some(3.0))]);
    world.clock.advance(1_000);
    world.expect(world.send("PUT", path, "one 5\n").await, 200, "");
    assert_eq!(world.only("one"), [(0, Some(1.0)), (2_000, Some(5.0))]);
    assert_eq!(world.only("three"), [(1_000, Some(3.0)), (2_000, None)]);
    assert_eq!(world.only("push_time_seconds").last(), Some(&(2_000, Some((START + 2_000) as f64 / 1000.0))));
    assert_eq!(world.only("push_failure_time_seconds").last(), Some(&(2_000, Some(0.0))));
    let reports = world.reports.lock();
    assert_eq!(reports.len(), 3);
    let first = &reports[0];
    assert_eq!((first.origin.source_id.as_str(), first.origin.method), ("batch", CollectionMethod::PushGateway));
    // Three samples and the group's two times.
    assert_eq!((first.samples_count, first.summary.total(), first.counts.stored), (3, 3, 5));
    assert!(reports.iter().all(|report| report.counts.balances()));
}

#[tokio::test]
async fn groups_are_restated_until_they_are_deleted() {
    let (_dir, world) = world(PushLimits::default());
    for job in ["a", "b"] {
        world.expect(world.send("PUT", &format!("/metrics/job/{job}"), "m 1\n").await, 200, "");
    }
    for _ in 0..2 {
        world.clock.advance(15_000);
        world.gateway.restate().await;
    }
    // A clock that stands still, or goes back, costs nothing.
    world.gateway.restate().await;
    let expected = [(0, Some(1.0)), (15_000, Some(1.0)), (30_000, Some(1.0)), (30_001, Some(1.0))];
    assert_eq!(world.samples("m")["m{job=\"a\"}"], expected);
    world.clock.advance(5_000);
    for _ in 0..2 {
        world.expect(world.send("DELETE", "/metrics/job/a", "").await, 202, "");
    }
    world.clock.advance(10_000);
    world.gateway.restate().await;
    for metric in ["m", "push_time_seconds", "push_failure_time_seconds"] {
        let found = world.samples(metric);
        assert_eq!(found[&format!("{metric}{{job=\"a\"}}")].last(), Some(&(35_000, None)), "{metric}");
        assert_eq!(found[&format!("{metric}{{job=\"b\"}}")].last().map(|s| s.0), Some(45_000), "{metric}");
    }
}

#[tokio::test]
async fn groups_outlive_a_restart_and_their_lives_end() {
    let (dir, world) = world(PushLimits::default());
    world.expect(world.send("PUT", "/metrics/job/long?ttl=10m", "m 1\n").await, 200, "");
    world.expect(world.send("PUT", "/metrics/job/short?ttl=30", "m 2\n").await, 200, "");
    world.expect(world.send("PUT", "/metrics/job/ever", "m 3\n").await, 200, "");
    world.store.close();
    drop(world);
    let world = World::open(dir.path(), START + 60_000, PushLimits::default());
    world.gateway.end_what_is_over().await;
    world.gateway.restate().await;
    let m = world.samples("m");
    assert_eq!(m["m{job=\"short\"}"], [(0, Some(2.0)), (60_000, None)]);
    assert_eq!(m["m{job=\"long\"}"], [(0, Some(1.0)), (60_000, Some(1.0))]);
    // Another push gives another life.
    world.expect(world.send("POST", "/metrics/job/long?ttl=20m", "").await, 200, "");
    world.clock.advance(11 * 60_000);
    world.gateway.end_what_is_over().await;
    world.gateway.restate().await;
    assert_eq!(world.samples("m")["m{job=\"long\"}"].last(), Some(&(12 * 60_000, Some(1.0))));
    world.clock.advance(10 * 60_000);
    world.gateway.end_what_is_over().await;
    world.gateway.restate().await;
    assert_eq!(world.samples("m")["m{job=\"long\"}"].last(), Some(&(22 * 60_000, None)));
    assert_eq!(world.samples("m")["m{job=\"ever\"}"].last(), Some(&(22 * 60_000, Some(3.0))));
    world.store.close();
    drop(world);
    let world = World::open(dir.path(), START + 23 * 60_000, PushLimits::default());
    world.gateway.restate().await;
    assert_eq!(world.samples("m")["m{job=\"long\"}"].last(), Some(&(22 * 60_000, None)));
}

#[tokio::test]
async fn what_contradicts_another_group_is_refused_and_the_failure_has_a_time() {
    let (_dir, world) = world(PushLimits::default());
    world.expect(world.send("PUT", "/metrics/job/a", "# TYPE m counter\nm 1\n").await, 200, "");
    world.clock.advance(1_000);
    let refused = world.send("PUT", "/metrics/job/b", "# TYPE m gauge\nm 1\nn 1\n").await;
    world.expect(refused, 400, "inconsistent with existing metrics: m is a counter in another group");
    let twice = world.send("PUT", "/metrics/job/a", "m 2\nm 3\n").await;
    world.expect(twice, 400, "stands twice");
    assert!(world.samples("n").is_empty());
    let failed = (START + 1_000) as f64 / 1000.0;
    let failures = world.samples("push_failure_time_seconds");
    let last = |job: &str| failures[&format!("push_failure_time_seconds{{job=\"{job}\"}}")].last().unwrap().1;
    assert_eq!((last("a"), last("b")), (Some(failed), Some(failed)));
    let times = world.samples("push_time_seconds");
    assert_eq!(times["push_time_seconds{job=\"b\"}"], [(1_000, Some(0.0))]);
    // What was there before goes on.
    world.clock.advance(1_000);
    world.gateway.restate().await;
    assert_eq!(world.only("m"), [(0, Some(1.0)), (2_000, Some(1.0))]);
}

#[tokio::test]
async fn malformed_requests_change_nothing() {
    let limits = PushLimits { body_bytes_max: 1_000, groups_max: 1, ..PushLimits::default() };
    let (_dir, world) = world(limits);
    world.expect(world.send("PUT", "/metrics/job/a", "m 1\n").await, 200, "");
    let large = "m 1\n".repeat(1_000);
    let cases = [
        ("PUT", "/metrics/job/a/odd", "m 2\n", 400, "odd number of components"),
        ("DELETE", "/metrics/job@base64/=", "", 400, "job name is required"),
        ("PUT", "/metrics/job/a", "m 2 1000\n", 400, "must not have timestamps"),
        ("POST", "/metrics/job/a", "m two\n", 400, "line 1, column 3"),
        ("POST", "/metrics/job/a?ttl=soon", "m 2\n", 400, "invalid ttl"),
        ("POST", "/metrics/job/a", large.as_str(), 413, "larger than 1000 bytes"),
        ("PUT", "/metrics/job/b", "n 1\n", 507, "1 groups already"),
        ("GET", "/metrics/job/a", "", 405, "Method Not Allowed\n"),
    ];
    for (method, path, body, status, text) in cases {
        world.expect(world.send(method, path, body).await, status, text);
    }
    assert_eq!(world.only("m"), [(0, Some(1.0))]);
    let mut page = crate::telemetry::Exposition::default();
    world.gateway.render(&mut page);
    let page = page.finish();
    for line in ["requests_total{outcome=\"stored\"} 1\n", "{outcome=\"refused\"} 6\n", "quiver_push_groups 1\n"] {
        assert!(page.contains(line), "{line}: {page}");
    }
}

#[tokio::test]
async fn a_push_that_the_store_does_not_take_changes_nothing() {
    let (_dir, world) = world(PushLimits::default());
    world.expect(world.send("PUT", "/metrics/job/a", "m 1\n").await, 200, "");
    *world.door.fail.lock() = Some(AppendError::Busy { retry_after_ms: 1 });
    for method in ["PUT", "POST"] {
        world.expect(world.send(method, "/metrics/job/a", "m 2\nn 1\n").await, 503, "busy");
    }
    world.expect(world.send("DELETE", "/metrics/job/a", "").await, 503, "busy");
    *world.door.fail.lock() = None;
    world.clock.advance(1_000);
    world.gateway.restate().await;
    assert_eq!(world.only("m"), [(0, Some(1.0)), (1_000, Some(1.0))]);
    assert!(world.samples("n").is_empty());
    assert_eq!(world.reports.lock().iter().filter(|report| report.error.is_some()).count(), 2);

    // Samples that the store refuses refuse the push; what of it was stored ends.
    let long = "x".repeat(5_000);
    let body = format!("m 3\nn 1\nl{{a=\"{long}\"}} 1\n");
    world.expect(world.send("PUT", "/metrics/job/a", &body).await, 400, "label_limit: 1");
    assert_eq!(world.only("n"), [(1_001, Some(1.0)), (1_002, None)]);
    world.clock.advance(1_000);
    world.gateway.restate().await;
    assert_eq!(world.only("m").last(), Some(&(2_000, Some(1.0))));
    assert_eq!(world.only("push_time_seconds").last(), Some(&(2_000, Some(START as f64 / 1000.0))));
}

/// A family `lat` with one histogram, native and classic: two observations between 1 and 2.
fn native_family() -> Vec<u8> {
    let mut histogram = vec![0x08, 2, 0x11];
    histogram.extend(3.0f64.to_le_bytes());
    // A classic bucket up to 2, then the native ones: schema 0, threshold, one span, one delta.
    histogram.extend([0x1a, 11, 0x08, 2, 0x11]);
    histogram.extend(2.0f64.to_le_bytes());
    histogram.extend([0x31]);
    histogram.extend(1e-128f64.to_le_bytes());
    histogram.extend([0x62, 4, 0x08, 2, 0x10, 1, 0x6a, 1, 4]);
    let mut family =
        vec![0x0a, 3, b'l', b'a', b't', 0x18, 4, 0x22, histogram.len() as u8 + 2, 0x3a, histogram.len() as u8];
    family.extend(histogram);
    family.insert(0, family.len() as u8);
    family
}

#[tokio::test]
async fn protobuf_bodies_bring_native_histograms() {
    let (dir, world) = world(PushLimits::default());
    let protobuf = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    let answer = world.send_as(protobuf, "PUT", "/metrics/job/a", &native_family()).await;
    world.expect(answer, 200, "");
    world.store.close();
    drop(world);
    let world = World::open(dir.path(), START + 1_000, PushLimits::default());
    world.gateway.restate().await;
    assert_eq!(world.samples("lat_bucket")["lat_bucket{job=\"a\", le=\"2.0\"}"], [(0, Some(2.0)), (1_000, Some(2.0))]);
    let matcher = Matcher::equal("__name__", "lat");
    let found = world.store.select(&[matcher], TimeRange::ALL).unwrap();
    let mut samples = Samples::default();
    found[0].read(TimeRange::ALL, &mut samples).unwrap();
    let read: Vec<_> = samples.histograms.iter().map(|(ts, h)| (ts - START, h.count, h.positive.clone())).collect();
    assert_eq!(read, [(0, 2.0, vec![2.0]), (1_000, 2.0, vec![2.0])]);
    world.expect(world.send("DELETE", "/metrics/job/a", "").await, 202, "");
    assert_eq!(world.only("lat").last(), Some(&(1_001, None)));
}

#[tokio::test]
async fn the_loop_restates_and_stops() {
    let (_dir, world) = world(PushLimits { restate_every: Duration::from_millis(5), ..PushLimits::default() });
    world.expect(world.send("PUT", "/metrics/job/a", "m 1\n").await, 200, "");
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(world.gateway.clone().run(stopped));
    let wait = async {
        while world.only("m").len() < 4 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
    stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
}

#[test]
fn the_seeds_of_the_fuzz_target_are_read() {
    let text = include_bytes!("../../../../fuzz/corpus/push/text");
    let openmetrics = include_bytes!("../../../../fuzz/corpus/push/openmetrics");
    for (seed, format, labels, points) in [
        (&text[..], wire::Format::Text, vec![("instance", "i/1"), ("job", "a")], 1),
        (&openmetrics[..], wire::Format::OpenMetrics, vec![("job", "a"), ("path", "/tmp")], 1),
    ] {
        let end = seed.iter().position(|byte| *byte == b'\n').unwrap();
        let key = super::GroupKey::from_path(std::str::from_utf8(&seed[..end]).unwrap()).unwrap();
        assert_eq!(key.pairs().collect::<Vec<_>>(), labels);
        let read = super::read_body(format, &seed[end + 1..], &key).unwrap();
        assert_eq!(read.points.counters + read.points.histograms, points);
    }
}
