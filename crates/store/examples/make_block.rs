//! Writes a small data directory with blocks and prints, as JSON, what a reader of it must find.
//!
//! Use: `make_block DIRECTORY [merged]`; `merged` has the windows merged into larger blocks, and rolled up. The contents are the same in every run: three hours of forty series, odd doubles, stale
//! markers, label values that need escaping, late samples.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use model::histogram::{BucketSpan, Histogram};
use model::{Append, Batch, Family, Labels, MetricType, Origin, stale_nan};
use serde_json::json;
use store::{RetentionRules, RollupRule, Store, StoreConfig, TargetRule};
use sys::{RealFs, SimClock};

/// 2023-11-14 22:00:00 UTC.
const START_MS: i64 = 1_699_999_200_000;
const STEP_MS: i64 = 15_000;
const STEPS: i64 = 720;
const SERIES: i64 = 40;

/// Doubles that a careless reader or writer changes.
const ODD: [u64; 12] = [
    0x8000_0000_0000_0000, // -0.0
    0x0000_0000_0000_0001, // the smallest denormal
    0x800f_ffff_ffff_ffff, // the largest denormal, negative
    0x7ff0_0000_0000_0000, // infinity
    0xfff0_0000_0000_0000, // minus infinity
    0x7ff8_0000_0000_0000, // NaN
    0xfff8_dead_beef_0001, // NaN with a payload
    0x7fef_ffff_ffff_ffff, // the largest double
    0x3fd5_5555_5555_5555, // 1/3
    0x3fd3_3333_3333_3334, // 0.1 + 0.2
    0x4340_0000_0000_0000, // 2^53
    0x4340_0000_0000_0001, // 2^53 + 2
];

fn value(series: i64, step: i64) -> f64 {
    match series {
        0 => f64::from_bits(ODD[step as usize % ODD.len()]),
        1 if step % 100 == 99 => stale_nan(),
        n if n % 4 == 0 => (step * n) as f64,
        n if n % 4 == 1 => (step * n) as f64 / 1000.0,
        n if n % 4 == 2 => 0.1 * step as f64,
        n => ((step + n) as f64).sin(),
    }
}

fn labels(series: i64) -> Labels {
    let host = format!("host \"{series}\" \\ ü\n");
    Labels::from_pairs([("__name__", "example_total"), ("host", &host), ("job", "compat")])
}

fn batch(rows: impl Iterator<Item = (i64, i64)>) -> Batch {
    let mut batch = Batch::new(Origin { target_id: "t-1".into(), source_id: "compat".into(), ..Origin::default() });
    let family = Family { name: "example".into(), metric_type: MetricType::Counter, ..Family::default() };
    batch.families.push(family);
    for (series, step) in rows {
        let index = batch.push_labels(&labels(series), 0);
        batch.push_sample(index, START_MS + step * STEP_MS, value(series, step));
    }
    batch
}

/// Native histograms of series 3, between its doubles; the last is a stale marker.
const HISTOGRAMS: i64 = 60;

fn histograms() -> Batch {
    let mut batch = batch(std::iter::empty());
    let index = batch.push_labels(&labels(3), 0);
    for n in 0..HISTOGRAMS {
        let sum = if n == HISTOGRAMS - 1 { stale_nan() } else { n as f64 / 4.0 };
        let positive = vec![n as f64, 1.0];
        let span = BucketSpan { offset: -1, length: 2 };
        let count = n as f64 + 1.0;
        let histogram = Histogram { count, sum, positive_spans: vec![span], positive, ..Histogram::default() };
        batch.push_histogram(index, START_MS + n * STEP_MS + 7, Arc::new(histogram));
    }
    batch
}

/// Rolls up, merges, and removes what was replaced.
fn merge(store: &Store, clock: &SimClock) -> Result<(), Box<dyn Error>> {
    let rollup = RollupRule { after_ms: 3_600_000, resolution_ms: 300_000, keep_ms: 90 * 86_400_000 };
    let mut rules = RetentionRules::uniform(15 * 86_400_000);
    rules.targets.insert("t-1".to_owned(), TargetRule { rollups: vec![rollup], ..TargetRule::default() });
    store.set_retention(rules);
    clock.advance(86_400_000);
    for _ in 0..2 {
        while store.maintain()?.blocks_merged > 0 {}
        clock.advance(1_000_000);
        store.maintain()?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("use: make_block DIRECTORY")?);
    let clock = Arc::new(SimClock::at(START_MS + STEPS * STEP_MS));
    let config = StoreConfig { dir, maintain_every_ms: 0, ..StoreConfig::default() };
    let (store, _) = Store::open(Arc::new(RealFs), clock.clone(), config)?;
    // Series 2 comes late: its samples go to small blocks beside those of the same windows.
    for step in 0..STEPS {
        store.append(batch((0..SERIES).filter(|s| *s != 2).map(|s| (s, step)))).1?;
    }
    store.append(histograms()).1?;
    store.flush_to_blocks()?;
    store.append(batch((0..STEPS).map(|step| (2, step)))).1?;
    store.flush_to_blocks()?;

    let merged = std::env::args().nth(2).is_some_and(|word| word == "merged");
    if merged {
        merge(&store, &clock)?;
    }
    let blocks = store.stats().blocks;
    let (mut rows, mut stale, mut exact, mut finite_sum) = (0u64, 0u64, Vec::new(), 0.0);
    for series in 0..SERIES {
        for step in 0..STEPS {
            let value = value(series, step);
            if model::is_stale(value) {
                stale += 1;
                continue;
            }
            rows += 1;
            if series > 0 {
                finite_sum += value;
            }
            if series < 8 {
                exact.push((
                    labels(series).get("host").unwrap_or("").to_owned(),
                    START_MS + step * STEP_MS,
                    value.to_bits(),
                ));
            }
        }
    }
    let expected = json!({
        "rows": rows, "stale": stale, "series": SERIES, "blocks": blocks.blocks - blocks.rollups, "finite_sum": finite_sum,
        "first_ms": START_MS, "last_ms": START_MS + (STEPS - 1) * STEP_MS, "metric_name": "example_total",
        "metric_type": "COUNTER", "source": "compat", "target_id": "t-1",
        // Bits as text: JSON readers round large numbers.
        "exact": exact.into_iter().map(|(h, t, b)| json!([h, t, format!("{b:016x}")])).collect::<Vec<_>>(),
        "bytes": blocks.bytes,
        // What histograms_ts has: all but the stale marker.
        "histograms": HISTOGRAMS - 1,
        "rollups": blocks.rollups,
        "histograms_sum": (0..HISTOGRAMS - 1).map(|n| n as f64 / 4.0).sum::<f64>(),
    });
    println!("{expected}");
    Ok(())
}
