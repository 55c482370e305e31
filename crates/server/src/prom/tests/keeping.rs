//! Kept answers: with them or without, an answer is the same to the last digit, whatever is written meanwhile.

use model::NO_FAMILY;
use store::{Doomed, Store, StoreConfig};
use sys::{RealClock, RealFs};

use super::*;

const STEP_MS: i64 = 15_000;
const QUERIES: [&str; 12] = [
    "sum by (job) (rate(a_total[2m]))",
    "a_total",
    "max_over_time(g[1m:20s]) - g offset 1m",
    "topk(2, g)",
    "limitk(2, g)",
    "avg(g) / count(a_total)",
    "histogram_quantile(0.9, sum by (le) (rate(h_bucket[3m])))",
    "absent(g{job=\"none\"}) or g",
    "quantile_over_time(0.5, g[2m])",
    "count_values(\"v\", g)",
    "stddev(g) + time()",
    "label_replace(g, \"x\", \"$1\", \"job\", \"(.)\")",
];

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn batch(samples: &[(String, i64, f64)]) -> Batch {
    let mut batch = Batch::default();
    for (text, ts_ms, value) in samples {
        let (name, rest) = text.split_once('/').unwrap_or((text, "x"));
        let label = if name == "h_bucket" { "le" } else { "job" };
        let series = batch.push_labels(&Labels::from_pairs([("__name__", name), (label, rest)]), NO_FAMILY);
        batch.push_sample(series, *ts_ms, *value);
    }
    batch
}

/// Some samples near a time, of series that come and go; now and then one out of order.
fn some(dice: &mut Dice, at_ms: i64) -> Batch {
    let mut samples = Vec::new();
    for (name, of) in [("a_total", 3), ("g", 4), ("h_bucket", 3)] {
        for n in 0..of {
            if dice.below(5) > 0 {
                let part =
                    if name == "h_bucket" { ["0.1", "1", "+Inf"][n as usize].to_owned() } else { format!("{n}") };
                let value = match name {
                    "g" if dice.below(20) == 0 => f64::from_bits(model::STALE_NAN_BITS),
                    "g" => dice.below(1000) as f64 / 7.0,
                    _ => (at_ms / 1000 % 100_000 * (n + 1)) as f64 + dice.below(3) as f64,
                };
                samples.push((format!("{name}/{part}"), at_ms + dice.below(900) as i64, value));
            }
        }
    }
    batch(&samples)
}

async fn ask(queries: &QueryService, query: &str, start_ms: i64, end_ms: i64, step_ms: i64, more: &str) -> String {
    let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let at = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let text =
        format!("query={query}&start={}&end={}&step={}{more}", at(start_ms), at(end_ms), step_ms as f64 / 1000.0);
    let response = queries.range(&params::Params::parse(&text)).await.unwrap();
    String::from_utf8(axum::body::to_bytes(response.into_body(), 10 << 20).await.unwrap().to_vec()).unwrap()
}

fn figure(queries: &QueryService, word: &str) -> u64 {
    let mut page = crate::telemetry::Exposition::default();
    queries.cache().render(&mut page);
    let text = page.finish();
    let line = text.lines().find(|line| line.starts_with(&format!("quiver_query_cache_total{{kept=\"{word}\"}}")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_answers_are_those_that_would_be_computed() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { dir: dir.path().to_owned(), maintain_every_ms: 0, ..StoreConfig::default() };
    let (store, _) = Store::open(Arc::new(RealFs), Arc::new(RealClock::default()), config).unwrap();
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let base_ms = (now_ms - 3 * 3_600_000) / 60_000 * 60_000;
    let limits = QueryLimits { experimental: true, ..QueryLimits::default() };
    let queries = QueryService::new(store.clone(), limits, Arc::new(move || now_ms));
    let mut dice = Dice(7);
    for round in 0..400 {
        let edge_ms = base_ms + round * STEP_MS;
        // In order mostly; every tenth time somewhere in the past, as a sender does that was away.
        let at_ms = if dice.below(10) == 0 { edge_ms - dice.below(3_000) as i64 * 1_000 } else { edge_ms };
        assert!(store.append(some(&mut dice, at_ms)).1.is_ok());
        match round % 97 {
            50 => {
                let matcher = Matcher::equal("__name__", "g");
                let range = TimeRange { start_ms: edge_ms - 600_000, end_ms: edge_ms - 300_000 };
                store.delete_series(&[Doomed::Matching(vec![matcher])], range).unwrap();
            }
            70 => drop(store.flush_to_blocks().unwrap()),
            90 => drop(store.checkpoint().unwrap()),
            _ => {}
        }
        let query = QUERIES[dice.below(QUERIES.len() as u64) as usize];
        let step_ms = [STEP_MS, 30_000][dice.below(2) as usize];
        let end_ms = edge_ms - dice.below(8) as i64 * step_ms + dice.below(3) as i64 * 1_000;
        let start_ms = end_ms - (20 + dice.below(100) as i64) * step_ms;
        let kept = ask(&queries, query, start_ms, end_ms, step_ms, "").await;
        let computed = ask(&queries, query, start_ms, end_ms, step_ms, "&nocache=1").await;
        assert_eq!(kept, computed, "round {round}: {query}");
        assert_eq!(
            ask(&queries, query, start_ms, end_ms, step_ms, "").await,
            computed,
            "again, round {round}: {query}"
        );
    }
    // It would pass as well if nothing were ever kept.
    assert!(figure(&queries, "all") >= 100, "{}", figure(&queries, "all"));
    assert!(figure(&queries, "part") >= 20, "{}", figure(&queries, "part"));
}
