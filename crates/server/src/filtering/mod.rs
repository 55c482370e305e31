//! Filters on what is pushed, and what all filters added up, on disk.
//!
//! What is scraped is filtered by the collector, which knows its series; what is pushed passes [`Filtered`] on its way to the store.

mod door;
mod file;
mod source;
mod sweep;
#[cfg(test)]
mod tests;

pub use door::{Filtered, SourceFilters};
pub use file::SumsFile;
pub use sweep::Sweeper;

use std::sync::Arc;

use collect::Sums;
use model::{Labels, Matcher, MetricType, Samples, Select, TimeRange, is_stale};
use wire::openmetrics;

use crate::telemetry::Exposition;

/// How far back a sum is looked for: what rested longer begins anew.
const LOOKBACK_MS: i64 = model::aggregate::REST_MAX_MS;

/// What series of a family add to its name.
const SUFFIXES: [&str; 6] = ["_total", "_bucket", "_count", "_sum", "_created", "_info"];

/// What is known of a metric by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KnownType {
    /// Its type, or that of its family.
    pub metric_type: MetricType,
    /// It says since when the others of its family count.
    pub created: bool,
}

/// Gives the type that is known of a metric, by its name or that of its family.
pub fn type_of(select: &dyn Select, name: &str) -> KnownType {
    let family = std::iter::once(name).chain(SUFFIXES.iter().filter_map(|s| name.strip_suffix(s)));
    let known = |family: &str| {
        let metric_type = select.metadata(Some(family)).first().map(|f| f.metric_type)?;
        Some(KnownType { metric_type, created: openmetrics::is_created_of(name, family, metric_type) })
    };
    family.filter_map(known).find(|known| known.metric_type != MetricType::Unknown).unwrap_or_default()
}

/// Writes what filters add up on the page of our own metrics.
pub fn render(page: &mut Exposition, sums: &Sums, file: &SumsFile) {
    let (bytes, left_out) = file.figures();
    page.family(
        "quiver_filter_samples_total",
        "counter",
        "Samples that filters acted on, by source, the filter's place and action, and what it did.",
    );
    for (source, counts) in sums.counts().all() {
        for ((filter, action, kind), samples) in counts {
            let filter = filter.map(|at| at.to_string()).unwrap_or_default();
            let labels =
                [("source", source.as_str()), ("filter", &filter), ("action", action), ("effect", kind.as_str())];
            page.sample(&labels, samples as f64);
        }
    }
    page.gauge("quiver_filter_sums", "Series that filters make by adding others up.", sums.groups() as f64);
    page.gauge("quiver_filter_sum_children", "Series that are added up.", sums.children() as f64);
    page.gauge("quiver_filter_sums_file_bytes", "Bytes of the file of sums, as it was last written.", bytes as f64);
    page.gauge(
        "quiver_filter_sums_left_out",
        "Targets and sources whose sums found no room in the file: a start goes on from what is stored.",
        left_out as f64,
    );
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
