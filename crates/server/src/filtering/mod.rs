//! Filters on what is pushed, and what all filters added up, on disk.
//!
//! What is scraped is filtered by the collector, which knows its series; what is pushed passes [`Filtered`] on its way to the store.

mod door;
mod file;
mod source;

pub use door::{Filtered, SourceFilters};
pub use file::SumsFile;

use std::sync::Arc;

use collect::Sums;
use model::{Labels, Matcher, MetricType, Samples, Select, TimeRange, is_stale};

/// How far back a sum is looked for: what rested longer begins anew.
const LOOKBACK_MS: i64 = 7 * 86_400_000;

/// What series of a family add to its name.
const SUFFIXES: [&str; 6] = ["_total", "_bucket", "_count", "_sum", "_created", "_info"];

/// Gives the type that is known of a metric, by its name or that of its family.
pub fn type_of(select: &dyn Select, name: &str) -> MetricType {
    let family = std::iter::once(name).chain(SUFFIXES.iter().filter_map(|s| name.strip_suffix(s)));
    let known = |family: &str| select.metadata(Some(family)).first().map(|f| f.metric_type);
    family.filter_map(known).find(|t| *t != MetricType::Unknown).unwrap_or_default()
}

/// Makes the sums of a server, which go on from what is stored.
pub fn sums(select: Arc<dyn Select>, now: Arc<dyn Fn() -> i64 + Send + Sync>) -> Arc<Sums> {
    Arc::new(Sums::new(Arc::new(move |labels: &Labels| last_stored(&*select, labels, now()))))
}

fn last_stored(select: &dyn Select, labels: &Labels, now_ms: i64) -> Option<(i64, f64)> {
    let range = TimeRange { start_ms: now_ms.saturating_sub(LOOKBACK_MS), end_ms: i64::MAX };
    let matchers: Vec<Matcher> = labels.iter().map(|(name, value)| Matcher::equal(name, value)).collect();
    let readers = match select.select(&matchers, range) {
        Ok(readers) => readers,
        Err(error) => {
            tracing::error!("what a sum was cannot be read: {error}");
            return None;
        }
    };
    let reader = readers.into_iter().find(|reader| reader.labels() == labels)?;
    let mut samples = Samples::default();
    if let Err(error) = reader.read(range, &mut samples) {
        tracing::error!("what a sum was cannot be read: {error}");
    }
    samples.ts_ms.iter().zip(&samples.values).rev().find(|(_, v)| !is_stale(**v)).map(|(at, v)| (*at, *v))
}
