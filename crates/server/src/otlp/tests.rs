//! OTLP as a sender sees it, over a store in memory.

#![allow(clippy::unwrap_used)]

mod calls;
mod deltas;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use collect::report::BatchIds;
use http::{HeaderMap, Request};
use model::histogram::Histogram;
use model::{
    Append, AppendDone, AppendError, Appended, Batch, CollectionMethod, CollectionReport, Family, Health, Labels,
    LedgerPosition, Matcher, Refusal, Samples, Select, SelectError, SeriesId, SeriesReader, TimeRange, Verdict,
};
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::{Value, json};
use tower::ServiceExt;
use wire::otlp::Options;

use super::{Otlp, PATHS, router};
use crate::prom::WriteLimits;
use crate::prom::write::{Writer, WriterParts};
use crate::telemetry::Exposition;

/// The time of the server under test.
const NOW: i64 = 1_750_500_000_000;
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";
const CUMULATIVE: u8 = 2;

/// Keeps samples in memory.
#[derive(Default)]
struct Memory {
    samples: Mutex<BTreeMap<(Labels, i64), f64>>,
    histograms: Mutex<BTreeMap<(Labels, i64), Arc<Histogram>>>,
    families: Mutex<Vec<Family>>,
    fail: Mutex<Option<AppendError>>,
}

impl Append for Memory {
    fn submit(&self, mut batch: Batch, done: AppendDone) {
        if let Some(error) = self.fail.lock().clone() {
            return done(batch, Err(error));
        }
        let mut kept = self.samples.lock();
        for i in (0..batch.samples.len()).filter(|i| batch.verdicts[*i] == Verdict::Pending).collect::<Vec<_>>() {
            let sample = batch.samples[i];
            let at = (batch.labels(sample.series).unwrap(), sample.ts_ms);
            batch.verdicts[i] = match kept.get(&at) {
                None => Verdict::Stored,
                Some(known) if known.to_bits() == sample.value.to_bits() => Verdict::Duplicate,
                Some(_) => Verdict::Refused(Refusal::DuplicateConflict),
            };
            kept.entry(at).or_insert(sample.value);
        }
        let mut kept = self.histograms.lock();
        for i in
            (0..batch.histograms.len()).filter(|i| batch.histograms[*i].verdict == Verdict::Pending).collect::<Vec<_>>()
        {
            let at = (batch.labels(batch.histograms[i].series).unwrap(), batch.histograms[i].ts_ms);
            let one = &mut batch.histograms[i];
            one.verdict = match kept.get(&at) {
                None => Verdict::Stored,
                Some(known) if known.same_bits(&one.histogram) => Verdict::Duplicate,
                Some(_) => Verdict::Refused(Refusal::DuplicateConflict),
            };
            kept.entry(at).or_insert_with(|| one.histogram.clone());
        }
        for (i, series) in batch.series.iter_mut().enumerate() {
            series.id = SeriesId(i as u64 + 1);
        }
        self.families.lock().extend(batch.families.iter().cloned());
        let counts = batch.counts();
        done(batch, Ok(Appended { counts, new_series: 0, ledger: LedgerPosition { epoch: 1, seq: 1 } }));
    }

    fn generation(&self) -> u64 {
        0
    }
}

/// A series as it is kept.
struct Kept {
    labels: Labels,
    samples: Samples,
}

impl SeriesReader for Kept {
    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn read(&self, range: TimeRange, out: &mut Samples) -> Result<(), SelectError> {
        let doubles = self.samples.ts_ms.iter().zip(&self.samples.values).filter(|(ts_ms, _)| range.contains(**ts_ms));
        doubles.for_each(|(ts_ms, value)| out.push(*ts_ms, *value));
        out.histograms.extend(self.samples.histograms.iter().filter(|h| range.contains(h.0)).cloned());
        Ok(())
    }
}

impl Select for Memory {
    fn select(&self, matchers: &[Matcher], _: TimeRange) -> Result<Vec<Box<dyn SeriesReader>>, SelectError> {
        let mut found: BTreeMap<Labels, Samples> = BTreeMap::new();
        for ((labels, ts_ms), value) in self.samples.lock().iter() {
            found.entry(labels.clone()).or_default().push(*ts_ms, *value);
        }
        for ((labels, ts_ms), histogram) in self.histograms.lock().iter() {
            found.entry(labels.clone()).or_default().histograms.push((*ts_ms, histogram.clone()));
        }
        let matching = found
            .into_iter()
            .filter(|(labels, _)| matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or_default())));
        Ok(matching.map(|(labels, samples)| Box::new(Kept { labels, samples }) as Box<dyn SeriesReader>).collect())
    }

    fn label_names(&self, _: &[Matcher], _: TimeRange) -> Result<Vec<String>, SelectError> {
        Ok(Vec::new())
    }

    fn label_values(&self, _: &str, _: &[Matcher], _: TimeRange) -> Result<Vec<String>, SelectError> {
        Ok(Vec::new())
    }

    fn metadata(&self, family: Option<&str>) -> Vec<Family> {
        self.families.lock().iter().filter(|f| family.is_none_or(|name| f.name == name)).cloned().collect()
    }
}

struct World {
    memory: Arc<Memory>,
    writer: Writer,
    otlp: Otlp,
    app: Router,
    reports: Arc<Mutex<Vec<CollectionReport>>>,
}

impl World {
    fn new() -> World {
        World::with(WriteLimits::default())
    }

    fn with(limits: WriteLimits) -> World {
        World::with_options(limits, Options::default())
    }

    fn with_options(limits: WriteLimits, options: Options) -> World {
        World::over(Arc::default(), limits, options)
    }

    fn over(memory: Arc<Memory>, limits: WriteLimits, options: Options) -> World {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let pushed = reports.clone();
        let writer = Writer::new(WriterParts {
            append: memory.clone(),
            select: memory.clone(),
            batch_ids: Arc::new(BatchIds::new("n1")),
            pushed: Arc::new(move |report| pushed.lock().push(report)),
            now: Arc::new(|| NOW),
            limits,
        });
        let otlp = Otlp::new(writer.clone(), Arc::new(ArcSwap::from_pointee(options)));
        World { memory, writer, otlp: otlp.clone(), app: router::<Otlp>().with_state(otlp), reports }
    }

    async fn send(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answered {
        let mut request = Request::builder().method("POST").uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.app.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 10 << 20).await.unwrap().to_vec();
        Answered { status: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    async fn json(&self, request: &Value) -> Answered {
        self.send(PATHS[0], &[("content-type", JSON)], request.to_string()).await
    }

    async fn protobuf(&self, body: Vec<u8>) -> Answered {
        self.send(PATHS[0], &[("content-type", PROTOBUF)], body).await
    }

    /// Gives what is kept, as `labels at value`.
    fn kept(&self) -> Vec<String> {
        let kept = self.memory.samples.lock();
        kept.iter().map(|((labels, ts_ms), value)| format!("{labels} {value} @{}", ts_ms - NOW)).collect()
    }

    fn reported(&self) -> Vec<CollectionReport> {
        self.writer.report();
        std::mem::take(&mut self.reports.lock())
    }
}

struct Answered {
    status: u16,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<Partial>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Partial {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

impl Answered {
    /// Checks a 200 and gives how many points were refused and why.
    #[track_caller]
    fn success(&self) -> Option<(i64, String)> {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.bytes));
        if self.headers["content-type"] == PROTOBUF {
            return ExportResponse::decode(&*self.bytes).unwrap().partial_success.map(|p| (p.rejected, p.text));
        }
        assert_eq!(self.headers["content-type"], JSON);
        let body: Value = serde_json::from_slice(&self.bytes).unwrap();
        let partial = body.get("partialSuccess")?;
        let text = |name: &str| partial[name].as_str().unwrap().to_owned();
        Some((text("rejectedDataPoints").parse().unwrap(), text("errorMessage")))
    }

    /// Checks an error of either encoding.
    #[track_caller]
    fn error(&self, status: u16, code: i32, text: &str) {
        let found = if self.headers["content-type"] == PROTOBUF {
            Status::decode(&*self.bytes).unwrap()
        } else {
            assert_eq!(self.headers["content-type"], JSON);
            let body: Value = serde_json::from_slice(&self.bytes).unwrap();
            let code = i32::try_from(body["code"].as_i64().unwrap()).unwrap();
            Status { code, message: body["message"].as_str().unwrap().to_owned() }
        };
        assert_eq!((self.status, found.code), (status, code), "{}", found.message);
        assert!(found.message.contains(text), "{}", found.message);
    }
}

fn nanos(ts_ms: i64) -> String {
    format!("{ts_ms}000000")
}

fn attributes(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(key, text)| json!({"key": key, "value": {"stringValue": text}})).collect()
}

fn point(ts_ms: i64, value: f64) -> Value {
    json!({"timeUnixNano": nanos(ts_ms), "asDouble": value})
}

fn gauge(name: &str, points: &[Value]) -> Value {
    json!({"name": name, "gauge": {"dataPoints": points}})
}

fn sum(name: &str, temporality: u8, points: &[Value]) -> Value {
    json!({"name": name, "sum": {"aggregationTemporality": temporality, "isMonotonic": true, "dataPoints": points}})
}

/// A request of one resource.
fn request(resource: &[(&str, &str)], metrics: &[Value]) -> Value {
    json!({"resourceMetrics": [{
        "resource": {"attributes": attributes(resource)},
        "scopeMetrics": [{"scope": {"name": "tests"}, "metrics": metrics}],
    }]})
}

fn binary(request: &Value) -> Vec<u8> {
    wire::otlp::json_to_protobuf(request.to_string().as_bytes()).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// With the length of the whole in the frame's head.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::bulk::compress(bytes, 3).unwrap()
}

/// Without it, as a stream is written.
fn zstd_stream(bytes: &[u8]) -> Vec<u8> {
    ::zstd::stream::encode_all(bytes, 3).unwrap()
}

fn usual() -> Value {
    let resource = [("service.name", "shop"), ("service.instance.id", "i1"), ("zone", "eu")];
    let temperature = gauge("temp", &[point(NOW, 21.5)]);
    request(&resource, &[sum("requests", CUMULATIVE, &[point(NOW - 1, 7.0)]), temperature])
}

const USUAL: [&str; 3] = [
    "requests_total{instance=\"i1\", job=\"shop\"} 7 @-1",
    "target_info{instance=\"i1\", job=\"shop\", zone=\"eu\"} 1 @0",
    "temp{instance=\"i1\", job=\"shop\"} 21.5 @0",
];

#[tokio::test(flavor = "multi_thread")]
async fn both_encodings_on_both_paths_plain_and_compressed_store_the_same() {
    let bodies = [(PROTOBUF, binary(&usual())), (JSON, usual().to_string().into_bytes())];
    for path in PATHS {
        for (content_type, body) in &bodies {
            for (encoding, body) in [
                ("identity", body.clone()),
                ("gzip", gzip(body)),
                ("GZIP", gzip(body)),
                ("deflate", deflate(body)),
                ("zstd", zstd(body)),
            ] {
                let world = World::new();
                let headers = [("content-type", *content_type), ("content-encoding", encoding)];
                for _ in 0..2 {
                    let answer = world.send(path, &headers, body.clone()).await;
                    assert_eq!(answer.success(), None, "{path} {headers:?}");
                    assert_eq!(answer.headers["content-type"], *content_type);
                    let empty: &[u8] = if *content_type == JSON { b"{}" } else { b"" };
                    assert_eq!(answer.bytes, empty);
                }
                assert_eq!(world.kept(), USUAL, "{path} {headers:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_counted_in_a_partial_success() {
    let world = World::new();
    let delta = sum("steps", 1, &[point(NOW, 1.0), point(NOW + 1, 2.0)]);
    let mixed = request(&[("service.name", "shop")], &[gauge("temp", &[point(NOW, 1.0)]), delta.clone()]);
    let (count, text) = world.json(&mixed).await.success().unwrap();
    assert_eq!(count, 2);
    assert!(text.contains("metric \"steps\""), "{text}");
    assert_eq!(world.kept(), ["temp{job=\"shop\"} 1 @0"]);

    let all = binary(&request(&[("service.name", "shop")], &[delta]));
    let (count, text) = world.protobuf(all).await.success().unwrap();
    assert_eq!(count, 2);
    assert!(text.contains("metric \"steps\""), "{text}");

    let other = request(&[("service.name", "shop")], &[gauge("temp", &[point(NOW, 2.0), point(NOW + 5, 3.0)])]);
    let partial = world.protobuf(binary(&other)).await.success();
    assert_eq!(partial, Some((1, "the first reason is duplicate_conflict".to_owned())));

    let report = world.reported().remove(0);
    assert_eq!((report.counts.received, report.counts.stored, report.counts.refused_total()), (7, 2, 5));
    assert!(report.counts.balances());
    let mut page = Exposition::default();
    world.otlp.render(&mut page);
    let page = page.finish();
    for line in ["{outcome=\"stored\"} 3\n", "{outcome=\"refused_in_part\"} 3\n", "{outcome=\"bad\"} 0\n"] {
        assert!(page.contains(&format!("quiver_otlp_requests_total{line}")), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_stores_nothing() {
    let world = World::new();
    let whole = binary(&usual());
    let send = |headers: Vec<(&'static str, &'static str)>, body: Vec<u8>| {
        let world = &world;
        async move { world.send(PATHS[0], &headers, body).await }
    };
    send(vec![], whole.clone()).await.error(415, 3, "content type \"\" is not known");
    send(vec![("content-type", "text/plain")], whole.clone()).await.error(415, 3, "application/x-protobuf and");
    for encoding in ["br", "snappy", "gzip, gzip"] {
        let headers = vec![("content-type", PROTOBUF), ("content-encoding", encoding)];
        send(headers, whole.clone()).await.error(415, 3, "gzip,deflate,zstd are");
    }
    world.protobuf(vec![0x0a, 0x7f, 1]).await.error(400, 3, "malformed protobuf");
    for bad in ["", "[]", "{", "{\"resourceMetrics\": 1}", "{}{}"] {
        send(vec![("content-type", JSON)], bad.into()).await.error(400, 3, "");
    }
    for content_type in [PROTOBUF, JSON] {
        let headers = || vec![("content-type", content_type), ("content-encoding", "gzip")];
        let compressed = gzip(&whole);
        for cut in [0, 1, 5, compressed.len() / 2, compressed.len() - 1] {
            send(headers(), compressed[..cut].to_vec()).await.error(400, 3, "gzip");
        }
        send(headers(), whole.clone()).await.error(400, 3, "gzip");
    }
    let long = format!("{}?source_id={}", PATHS[0], "x".repeat(101));
    world.send(&long, &[("content-type", PROTOBUF)], whole).await.error(400, 3, "source id");
    assert!(world.kept().is_empty());
    assert!(world.reported().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_bytes_in_flight_have_limits() {
    let limits = WriteLimits {
        body_bytes_max: 4_000,
        inflated_bytes_max: 100_000,
        inflight_bytes_max: 40_000,
        ..WriteLimits::default()
    };
    let world = World::with(limits);
    let gzipped = [("content-type", PROTOBUF), ("content-encoding", "gzip")];
    world.protobuf(vec![0; 4_001]).await.error(413, 8, "larger than 4000 bytes");
    let declared = [("content-type", JSON), ("content-length", "4001")];
    world.send(PATHS[0], &declared, Body::empty()).await.error(413, 8, "larger than 4000 bytes");
    // A bomb that says what it is, and one that says it is small.
    let bomb = gzip(&vec![0; 1 << 20]);
    assert!(bomb.len() < 4_000);
    world.send(PATHS[0], &gzipped, bomb.clone()).await.error(413, 8, "inflates to more than the 100000 bytes");
    let liar: Vec<u8> = [bomb, gzip(b"")].concat();
    world.send(PATHS[0], &gzipped, liar.clone()).await.error(413, 8, "inflates to more than the 100000 bytes");
    // Two members are one body, though the last one's length is not that of the whole.
    let whole = binary(&usual());
    let (first, rest) = whole.split_at(whole.len() - 1);
    let members = [gzip(first), gzip(rest)].concat();
    assert_eq!(world.send(PATHS[0], &gzipped, members).await.success(), None);
    assert_eq!(world.kept(), USUAL);

    let zstded = [("content-type", PROTOBUF), ("content-encoding", "zstd")];
    for bomb in [zstd(&vec![0; 1 << 20]), zstd_stream(&vec![0; 1 << 20])] {
        world.send(PATHS[0], &zstded, bomb).await.error(413, 8, "inflates to more than the 100000 bytes");
    }
    assert_eq!(world.send(PATHS[0], &zstded, zstd_stream(&whole)).await.success(), None);

    // A body that never ends holds its room: the liar finds none when it turns out larger than it said.
    let (taken, waiting) = tokio::sync::oneshot::channel();
    let mut taken = Some(taken);
    let never = futures_util::stream::poll_fn(move |_| {
        if let Some(taken) = taken.take() {
            let _ = taken.send(());
        }
        std::task::Poll::<Option<Result<axum::body::Bytes, std::io::Error>>>::Pending
    });
    let slow = Request::builder().method("POST").uri(PATHS[1]).header("content-type", JSON);
    let slow = tokio::spawn(world.app.clone().oneshot(slow.body(Body::from_stream(never)).unwrap()));
    waiting.await.unwrap();
    let answer = world.send(PATHS[0], &gzipped, liar).await;
    answer.error(503, 14, "in flight");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(world.protobuf(whole).await.success(), None);
    slow.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_answered_so_that_senders_try_again() {
    let world = World::new();
    let cases = [
        (AppendError::Busy { retry_after_ms: 1_500 }, 503, 14, Some("2")),
        (AppendError::Closed, 503, 14, Some("1")),
        (AppendError::NoSpace("full".into()), 503, 14, Some("30")),
        (AppendError::Failed("fsync".into()), 503, 14, Some("5")),
        (AppendError::TooLarge { bytes: 2, limit: 1 }, 413, 8, None),
    ];
    for (error, status, code, retry_after) in cases {
        *world.memory.fail.lock() = Some(error.clone());
        for answer in [world.json(&usual()).await, world.protobuf(binary(&usual())).await] {
            answer.error(status, code, &error.to_string());
            assert_eq!(answer.headers.get("retry-after").map(|v| v.to_str().unwrap()), retry_after);
        }
    }
    let report = world.reported().remove(0);
    assert_eq!((report.summary.total(), report.health), (0, Health::Unhealthy));
    assert!(report.error.unwrap().starts_with("10 requests were not stored: "));
    *world.memory.fail.lock() = None;
    assert_eq!(world.json(&usual()).await.success(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_those_of_the_service_or_the_source_named() {
    let world = World::new();
    let buckets = json!({"name": "lat", "unit": "s", "histogram": {"aggregationTemporality": CUMULATIVE, "dataPoints": [
        {"timeUnixNano": nanos(NOW), "count": "3", "sum": 1.5, "bucketCounts": ["1", "2"], "explicitBounds": [0.5]},
    ]}});
    let metrics = [sum("requests", CUMULATIVE, &[point(NOW, 7.0)]), gauge("temp", &[point(NOW, 1.0)]), buckets];
    let shop = request(&[("service.name", "shop")], &metrics);
    world.json(&shop).await.success();
    world.protobuf(binary(&shop)).await.success();
    let typed = [("content-type", PROTOBUF)];
    world.send(&format!("{}?source_id=desk", PATHS[1]), &typed, binary(&shop)).await.success();
    world.json(&request(&[], &metrics[..1])).await.success();
    let reports = world.reported();
    let ids: Vec<_> = reports.iter().map(|r| (r.origin.source_id.as_str(), r.origin.target_id.as_str())).collect();
    assert_eq!(ids, [("desk", "desk"), ("otlp", "otlp"), ("shop", "shop")]);
    let shop = &reports[2];
    assert_eq!((shop.summary.counters, shop.summary.gauges, shop.summary.histograms), (2, 2, 2));
    // Counter, gauge, two buckets, sum and count, twice.
    assert_eq!((shop.counts.received, shop.counts.stored, shop.counts.duplicates), (12, 6, 6));
    for report in &reports {
        assert_eq!((report.origin.method, report.health), (CollectionMethod::Streaming, Health::Healthy));
        assert!(report.counts.balances());
    }
    assert!(world.reported().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn exponential_histograms_follow_the_switch_of_remote_write() {
    let exponential = json!({"name": "lat", "exponentialHistogram": {
        "aggregationTemporality": CUMULATIVE,
        "dataPoints": [{"timeUnixNano": nanos(NOW), "count": "3", "sum": 1.5, "scale": 0, "zeroCount": "0",
                        "positive": {"offset": 0, "bucketCounts": ["1", "2"]}}],
    }});
    for (native_histograms, refused) in [(false, Some(1)), (true, None)] {
        let mut limits = WriteLimits::default();
        limits.request.native_histograms = native_histograms;
        let world = World::with(limits);
        let partial = world.json(&request(&[("service.name", "shop")], std::slice::from_ref(&exponential))).await;
        assert_eq!(partial.success().map(|(count, _)| count), refused);
        let counts = world.reported().remove(0).counts;
        assert_eq!((counts.received, counts.refused_total()), (1, refused.map_or(0, |n| n.unsigned_abs())));
    }
}
