//! How fast remote write is, from the compressed body to the answer, into a real store on a real disk.

use std::time::Instant;

use sys::{RealClock, RealFs};

use super::*;

const REQUESTS: usize = 400;
const SERIES: usize = 2_000;
const SENDERS: usize = 8;

fn body(shard: usize, step: i64, each: i64, now_ms: i64) -> Vec<u8> {
    let mut encoder = wire::remote_write::Encoder::default();
    for i in 0..SERIES {
        let instance = format!("host-{:03}.example.net:9100", i % 100);
        let (shard, number) = (shard.to_string(), (i / 100).to_string());
        let labels = [
            ("__name__", "node_cpu_seconds_total"),
            ("cpu", number.as_str()),
            ("instance", instance.as_str()),
            ("job", "node"),
            ("mode", "idle"),
            ("shard", shard.as_str()),
        ];
        let samples = (0..each).map(|k| model::Sample {
            ts_ms: now_ms - 3_600_000 + (step * each + k) * 1_000,
            value: (step * each + k) as f64 * 0.25 + i as f64,
        });
        encoder.add_series(labels, samples);
    }
    wire::snappy::encode_block(&encoder.take()).unwrap()
}

/// `cargo test --release -p server --lib speed -- --ignored --nocapture`
#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_write_into_a_real_store() {
    for each in [1, 5] {
        measure(each).await;
    }
}

/// Writes requests of so many samples per series: one is what a Prometheus sends, more come after a pause.
async fn measure(each: i64) {
    let dir = tempfile::TempDir::new().unwrap();
    let config = store::StoreConfig { dir: dir.path().to_owned(), ..Default::default() };
    let (store, _) = store::Store::open(Arc::new(RealFs), Arc::new(RealClock::default()), config).unwrap();
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let limits = WriteLimits::default();
    let writer = write::Writer::new(write::WriterParts {
        append: Arc::clone(&store) as Arc<dyn Append>,
        select: Arc::clone(&store) as Arc<dyn Select>,
        batch_ids: Arc::new(BatchIds::new("n1")),
        pushed: Arc::new(drop),
        now: Arc::new(move || now_ms),
        limits,
    });
    let bodies: Vec<Vec<Vec<u8>>> = (0..SENDERS)
        .map(|shard| (0..REQUESTS / SENDERS).map(|step| body(shard, step as i64, each, now_ms)).collect())
        .collect();
    let started = Instant::now();
    let senders = bodies.into_iter().map(|bodies| {
        let writer = writer.clone();
        tokio::spawn(async move {
            for body in bodies {
                let uri = http::Uri::from_static("/api/v1/write");
                let answer = writer.take(&HeaderMap::new(), &uri, Body::from(body)).await.unwrap();
                assert_eq!(answer.status(), 204);
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    let seconds = started.elapsed().as_secs_f64();
    let samples = (REQUESTS * SERIES) as f64 * each as f64;
    println!("{each} a series: {samples} samples in {seconds:.2} s: {:.2} million/s", samples / seconds / 1e6);
    assert_eq!(store.totals().0.stored, samples as u64);
}
