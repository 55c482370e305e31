//! Remote write, with requests that prost builds.

use axum::body::Bytes;
use prost::Message as _;

use super::*;

#[derive(Clone, PartialEq, prost::Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<Metadata>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Metadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    family: String,
}

fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> TimeSeries {
    let labels = labels.iter().map(|(n, v)| Label { name: (*n).into(), value: (*v).into() }).collect();
    let samples = samples.iter().map(|(timestamp, value)| Sample { value: *value, timestamp: *timestamp }).collect();
    TimeSeries { labels, samples }
}

fn named(name: &str, samples: &[(i64, f64)]) -> TimeSeries {
    series(&[("__name__", name)], samples)
}

fn request(timeseries: Vec<TimeSeries>) -> Vec<u8> {
    compressed(&WriteRequest { timeseries, metadata: Vec::new() })
}

fn compressed(request: &WriteRequest) -> Vec<u8> {
    wire::snappy::encode_block(&request.encode_to_vec()).unwrap()
}

const USUAL: [(&str, &str); 3] = [
    ("content-type", "application/x-protobuf"),
    ("content-encoding", "snappy"),
    ("x-prometheus-remote-write-version", "0.1.0"),
];

impl World {
    async fn write(&self, body: Vec<u8>) -> Answered {
        self.send("POST", "/api/v1/write", &USUAL, body).await
    }

    /// Reports what came, as each second, and gives the reports.
    fn reported(&self) -> Vec<CollectionReport> {
        self.api.writer.report();
        std::mem::take(&mut self.reports.lock())
    }
}

impl Answered {
    #[track_caller]
    pub(super) fn expect(self, status: u16, text: &str) -> Answered {
        assert_eq!(self.status, status, "{}", self.text);
        assert!(self.text.contains(text), "{}", self.text);
        self
    }

    fn written(&self) -> &str {
        self.headers["x-prometheus-remote-write-samples-written"].to_str().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_answered_204_also_a_second_time() {
    let world = World::new();
    let stale = f64::from_bits(model::STALE_NAN_BITS);
    let body = request(vec![
        named("a", &[(NOW - 1000, 1.0), (NOW, stale)]),
        series(&[("job", "x"), ("__name__", "b")], &[(NOW, -1.5e-300)]),
    ]);
    for _ in 0..2 {
        let answer = world.write(body.clone()).await.expect(204, "");
        assert_eq!((answer.text.as_str(), answer.written()), ("", "3"));
        assert_eq!(answer.headers["x-prometheus-remote-write-exemplars-written"], "0");
        assert_eq!(answer.headers["x-prometheus-remote-write-histograms-written"], "0");
    }
    let kept = world.memory.series.lock();
    let a = &kept[&Labels::from_pairs([("__name__", "a")])];
    assert_eq!(a[&NOW].to_bits(), model::STALE_NAN_BITS);
    let b = &kept[&Labels::from_pairs([("__name__", "b"), ("job", "x")])];
    assert_eq!(b[&NOW], -1.5e-300);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_may_be_absent_but_not_wrong() {
    let world = World::new();
    let body = request(vec![named("a", &[(NOW, 1.0)])]);
    world.send("POST", "/api/v1/write", &[], body.clone()).await.expect(204, "");
    let v3 = "application/x-protobuf;proto=io.prometheus.write.v3.Request";
    let wrong = [
        ("content-type", "application/json", "expected application/x-protobuf as the first (media) part"),
        ("content-type", v3, "unknown remote write protobuf message io.prometheus.write.v3.Request"),
        ("content-encoding", "gzip", "gzip encoding (compression) is not accepted by this server"),
    ];
    for (name, value, text) in wrong {
        world.send("POST", "/api/v1/write", &[(name, value)], body.clone()).await.expect(415, text);
    }
    let long = "x".repeat(101);
    world.send("POST", "/api/v1/write", &[("x-source-id", &long)], body.clone()).await.expect(400, "source id");
    assert_eq!(world.send("GET", "/api/v1/write", &[], Body::empty()).await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bodies_store_nothing() {
    let world = World::new();
    let whole = request(vec![named("a", &[(NOW, 1.0)]), named("b", &[(NOW, 1.0)])]);
    for cut in 0..whole.len() {
        let answer = world.write(whole[..cut].to_vec()).await;
        assert!(answer.status == 400, "{cut}: {} {}", answer.status, answer.text);
    }
    world.write(vec![0xff; 100]).await.expect(400, "snappy");
    // Four gigabytes, declared by six bytes.
    world.write(vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0]).await.expect(413, "declares 4294967295 bytes");
    world.write(vec![0xff, 0xff, 0xff, 0x07, 0, 0]).await.expect(400, "cannot hold");
    let odd = wire::snappy::encode_block(&[0x0a, 0xff, 0x01, 0x00]).unwrap();
    world.write(odd).await.expect(400, "malformed protobuf");
    assert!(world.memory.series.lock().is_empty());
    assert!(world.reported().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_request_refused_in_part_the_rest_is_stored() {
    let world = World::new();
    let mut wide: Vec<(String, String)> = (0..10_000).map(|i| (format!("l{i:05}"), "v".into())).collect();
    wide.insert(0, ("__name__".into(), "wide".into()));
    let wide: Vec<_> = wide.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let body = request(vec![
        named("a", &[(NOW, 1.0)]),
        series(&wide, &[(NOW, 1.0)]),
        named("b", &[(NOW + 3_600_000, 1.0), (NOW, 2.0)]),
        series(&[("job", "nameless")], &[(NOW, 1.0)]),
    ]);
    let answer = world.write(body).await.expect(400, "3 of 5 samples were refused, the others are stored");
    assert_eq!(answer.written(), "2");
    for text in ["label_limit: 1", "too_new: 1", "invalid_name: 1", "the first is sample 1 (", "series 1: "] {
        assert!(answer.text.contains(text), "{text}: {}", answer.text);
    }
    assert!(answer.text.len() < 2_000, "{}", answer.text.len());
    assert_eq!(world.memory.series.lock().values().map(BTreeMap::len).sum::<usize>(), 2);
    let other = request(vec![named("a", &[(NOW, 7.0)])]);
    world.write(other).await.expect(400, "duplicate_conflict: 1");
    let reports = world.reported();
    assert_eq!((reports.len(), reports[0].counts.received, reports[0].counts.refused_total()), (1, 6, 4));
    assert!(reports[0].counts.balances());
    let figures = world.figures();
    assert!(figures.contains("quiver_remote_write_requests_total{outcome=\"refused_in_part\"} 2\n"), "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_s_troubles_have_their_statuses() {
    let world = World::new();
    let body = request(vec![named("a", &[(NOW, 1.0)])]);
    let cases = [
        (AppendError::Busy { retry_after_ms: 1_500 }, 503, Some("2")),
        (AppendError::Closed, 503, Some("1")),
        (AppendError::NoSpace("full".into()), 507, Some("30")),
        (AppendError::Failed("fsync".into()), 500, None),
        (AppendError::TooLarge { bytes: 2, limit: 1 }, 413, None),
    ];
    for (error, status, retry_after) in cases {
        *world.memory.fail.lock() = Some(error.clone());
        let answer = world.write(body.clone()).await.expect(status, &error.to_string());
        assert_eq!(answer.headers.get("retry-after").map(|v| v.to_str().unwrap()), retry_after);
    }
    let report = world.reported().remove(0);
    assert_eq!((report.summary.total(), report.health, report.error_count()), (0, Health::Unhealthy, 1));
    assert!(report.error.unwrap().starts_with("5 requests were not stored: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_bytes_in_flight_have_limits() {
    let limits = WriteLimits { body_bytes_max: 4_000, inflight_bytes_max: 8_000, ..WriteLimits::default() };
    let world = World::with(QueryLimits::default(), limits);
    let body = request(vec![named("a", &[(NOW, 1.0)])]);
    let declared = [("content-length", "4001")];
    world.send("POST", "/api/v1/write", &declared, Body::empty()).await.expect(413, "larger than 4000 bytes");
    let chunks = futures_util::stream::iter((0..5).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&[0; 1_000]))));
    world.send("POST", "/api/v1/write", &USUAL, Body::from_stream(chunks)).await.expect(413, "larger than 4000");
    let torn = futures_util::stream::iter([Ok(Bytes::from_static(&[0])), Err(std::io::Error::other("torn"))]);
    world.send("POST", "/api/v1/write", &USUAL, Body::from_stream(torn)).await.expect(400, "torn");

    // A body that is only announced keeps nobody out; what has come of others does, until their clients go away.
    let silent = stalled(&world, 0).await;
    world.write(body.clone()).await.expect(204, "");
    silent.abort();
    // 8,000 bytes are seven pieces of 1,024: four and three.
    let half = stalled(&world, 3_900).await;
    let other_half = stalled(&world, 2_900).await;
    let answer = world.write(body.clone()).await.expect(503, "in flight");
    assert_eq!(answer.headers["retry-after"], "1");
    for slow in [half, other_half] {
        slow.abort();
        assert!(slow.await.unwrap_err().is_cancelled());
    }
    world.write(body).await.expect(204, "");
}

/// Sends so many bytes of a body, waits until they are taken, and sends no more.
async fn stalled(world: &World, bytes: usize) -> tokio::task::JoinHandle<impl std::fmt::Debug> {
    let waiting = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&waiting);
    let mut first = (bytes > 0).then(|| Bytes::from(vec![0; bytes]));
    let body = futures_util::stream::poll_fn(move |_| match first.take() {
        Some(bytes) => std::task::Poll::Ready(Some(Ok::<_, std::io::Error>(bytes))),
        None => {
            flag.store(true, Ordering::SeqCst);
            std::task::Poll::Pending
        }
    });
    let request = Request::builder().method("POST").uri("/api/v1/write").body(Body::from_stream(body)).unwrap();
    let call = tokio::spawn(world.app.clone().oneshot(request));
    until(|| waiting.load(Ordering::SeqCst)).await;
    call
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_its_samples_and_their_event() {
    let world = World::new();
    *world.memory.held.lock() = Some(Vec::new());
    let body = request(vec![named("a", &[(NOW, 1.0)])]);
    let request = Request::builder().method("POST").uri("/api/v1/write?source_id=gone").body(Body::from(body));
    let call = tokio::spawn(world.app.clone().oneshot(request.unwrap()));
    until(|| world.memory.held.lock().as_ref().is_some_and(|held| !held.is_empty())).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    world.memory.held.lock().take().unwrap().into_iter().for_each(|answer| answer());
    let report = Mutex::new(None);
    until(|| {
        *report.lock() = world.reported().pop();
        report.lock().is_some()
    })
    .await;
    let report = report.into_inner().unwrap();
    assert_eq!((report.origin.source_id.as_str(), report.counts.stored), ("gone", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_add_up_per_source() {
    let world = World::new();
    // Numbers of prometheus.MetricMetadata: 1 counter, 2 gauge, 3 histogram, 5 summary.
    let metadata = [(1, "req_total"), (2, "temp"), (3, "lat"), (5, "size")]
        .map(|(kind, family)| Metadata { kind, family: family.into() })
        .to_vec();
    let at = [(NOW, 1.0)];
    let bucket = |le: &str| series(&[("__name__", "lat_bucket"), ("le", le)], &at);
    let timeseries = vec![
        named("req_total", &[(NOW - 1, 1.0), (NOW, 2.0)]),
        named("temp", &at),
        bucket("1"),
        bucket("+Inf"),
        named("lat_sum", &at),
        named("lat_count", &at),
        series(&[("__name__", "size"), ("quantile", "0.5")], &at),
        named("size_count", &at),
        named("unheard_of", &at),
    ];
    let body = compressed(&WriteRequest { timeseries, metadata });
    let to_desk = [("x-source-id", "desk")];
    world.send("POST", "/api/v1/write", &to_desk, body.clone()).await.expect(204, "");
    world.send("POST", "/api/v1/write?source_id=desk", &[("x-source-id", "other")], body.clone()).await.expect(204, "");
    world.write(body).await.expect(204, "");
    let reports = world.reported();
    let ids: Vec<_> = reports.iter().map(|r| (r.origin.source_id.as_str(), r.origin.target_id.as_str())).collect();
    assert_eq!(ids, [("desk", "desk"), ("remote_write", "remote_write")]);
    let desk = &reports[0];
    let summary = desk.summary;
    assert_eq!((summary.counters, summary.gauges, summary.histograms), (4, 2, 2));
    assert_eq!((summary.summaries, summary.others, summary.total()), (2, 2, 12));
    assert_eq!((desk.samples_count, desk.counts.stored, desk.counts.duplicates), (20, 10, 10));
    assert_eq!((desk.origin.method, desk.health), (model::CollectionMethod::Streaming, Health::Healthy));
    assert_eq!(desk.samples_per_second(), 12 * 1000 / desk.duration_ms.max(1));
    assert!(desk.batch_id.starts_with("batch_20250621_n1_"), "{}", desk.batch_id);
    assert_ne!(desk.event_id, reports[1].event_id);
    assert!(world.reported().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_beyond_the_limit_share_a_window() {
    let world = World::new();
    for i in 0..write_events::SOURCES_MAX + 5 {
        let body = request(vec![named("a", &[(NOW - i as i64, 1.0)])]);
        world.send("POST", &format!("/api/v1/write?source_id=s{i}"), &[], body).await.expect(204, "");
    }
    let reports = world.reported();
    assert_eq!(reports.len(), write_events::SOURCES_MAX + 1);
    assert_eq!(reports.iter().map(|r| r.counts.stored).sum::<u64>(), write_events::SOURCES_MAX as u64 + 5);
}
