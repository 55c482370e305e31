//! What the store can tell about itself.

use hashbrown::HashMap;
use model::{Append, Counts, LABEL_NAME};

use crate::blocks::BlockTotals;
use crate::store::Store;

/// How many entries the lists of the status page have at most.
const TOP: usize = 1_000;

/// The store in numbers.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StoreStats {
    /// Series in the head.
    pub series: u64,
    /// Samples in the head.
    pub head_samples: u64,
    /// Chunks in the head, open ones included.
    pub head_chunks: u64,
    /// Native histograms in the head; `head_samples` and `head_chunks` include them.
    pub head_histograms: u64,
    /// Memory that the head's native histograms take.
    pub head_histogram_bytes: u64,
    /// First sample time, head and blocks; `None` when there is none.
    pub min_ms: Option<i64>,
    /// Last sample time, head and blocks; `None` when there is none.
    pub max_ms: Option<i64>,
    /// First sample time in the head.
    pub head_min_ms: Option<i64>,
    /// Last sample time in the head.
    pub head_max_ms: Option<i64>,
    /// Bytes of the chunk files, which hold the head's chunks until they are in blocks.
    pub chunk_file_bytes: u64,
    /// Reads of chunk files that met damage, since the start.
    pub chunks_damaged: u64,
    /// Bytes of the write-ahead log.
    pub wal_bytes: u64,
    /// Its segments.
    pub wal_segments: u64,
    /// Records applied since the start, replayed ones included.
    pub records: u64,
    /// Place of the last record.
    pub seq: u64,
    /// Rises with every start.
    pub epoch: u64,
    /// Calls of fdatasync on the log since the start.
    pub fsyncs: u64,
    /// See [`model::Append::generation`].
    pub generation: u64,
    /// The blocks.
    pub blocks: BlockTotals,
    /// Everything that ever came in, over all restarts.
    pub totals: Counts,
    /// Label names in the head.
    pub label_names: u64,
    /// Label pairs in the head.
    pub label_pairs: u64,
    /// Metric names with the most series.
    pub top_metric_names: Vec<(String, u64)>,
    /// Label names with the most values.
    pub top_label_names: Vec<(String, u64)>,
    /// Label names with the most bytes of values, counted once per series.
    pub top_label_bytes: Vec<(String, u64)>,
    /// Label pairs with the most series, as `name=value`.
    pub top_label_pairs: Vec<(String, u64)>,
    /// Targets, and sources of pushes, with the most series.
    pub top_targets: Vec<(String, u64)>,
    /// Sources with the most series.
    pub top_sources: Vec<(String, u64)>,
    /// Memory that series take, as it is counted for their limit.
    pub series_bytes: u64,
    /// Series let in since the start.
    pub series_admitted: u64,
    /// New series refused since the start; one that is tried again counts again.
    pub series_refused: u64,
    /// New series per second of late; filled in by whoever has a clock.
    pub new_series_per_second: f64,
}

impl Store {
    /// Counts everything, labels and owners included.
    ///
    /// **Cost** a walk over all series and all label values: for people's pages, not for every request.
    pub fn stats_with_labels(&self) -> StoreStats {
        let mut stats = self.stats();
        self.count_labels(&mut stats);
        self.count_owners(&mut stats);
        stats
    }

    /// Counts all but what labels and owners there are. Walks over all series once.
    pub fn stats(&self) -> StoreStats {
        let core = &self.core;
        let mut span: Option<(i64, i64)> = None;
        let (mut head_chunks, mut head_histograms, mut head_histogram_bytes) = (0, 0, 0);
        core.head.visit_all(|_, slot| {
            head_chunks += slot.chunks();
            let (histograms, bytes) = slot.histograms();
            head_histograms += histograms;
            head_histogram_bytes += bytes;
            span = span.into_iter().chain(slot.span()).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        });
        let blocks = core.blocks.totals();
        let (wal_bytes, wal_segments) =
            self.pipeline.with_segments(|s| (s.iter().map(|s| s.bytes).sum(), s.len() as u64));
        let mut stats = StoreStats {
            series: core.index.read().all().len() as u64,
            head_samples: core.head.samples(),
            head_chunks,
            head_histograms,
            head_histogram_bytes,
            min_ms: span.map(|s| s.0).into_iter().chain(blocks.min_ms).min(),
            max_ms: span.map(|s| s.1).into_iter().chain(blocks.max_ms).max(),
            head_min_ms: span.map(|s| s.0),
            head_max_ms: span.map(|s| s.1),
            chunk_file_bytes: core.look_ups.bytes(),
            chunks_damaged: core.look_ups.damaged(),
            wal_bytes,
            wal_segments,
            epoch: core.epoch,
            fsyncs: self.pipeline.fsyncs(),
            generation: self.generation(),
            blocks,
            ..StoreStats::default()
        };
        {
            let applied = core.applied.lock();
            (stats.records, stats.seq, stats.totals) = (applied.records, applied.seq, applied.totals);
        }
        let room = self.admission();
        (stats.series_bytes, stats.series_admitted) = (room.bytes, room.admitted);
        stats.series_refused = room.refused_total();
        stats
    }

    fn count_owners(&self, stats: &mut StoreStats) {
        let (mut targets, mut sources) = (HashMap::new(), HashMap::new());
        for owner in self.owners().into_iter().filter(|o| o.series > 0) {
            *targets.entry(owner.target_id.to_string()).or_insert(0) += owner.series;
            *sources.entry(owner.source.to_string()).or_insert(0) += owner.series;
        }
        let sorted = |counted: &HashMap<String, u64>| top(counted.iter().map(|(name, n)| (name.as_str(), *n)));
        (stats.top_targets, stats.top_sources) = (sorted(&targets), sorted(&sources));
    }

    /// Gives the totals over all restarts, and how many series there are, at hardly any cost.
    pub fn totals(&self) -> (Counts, u64) {
        (self.core.applied.lock().totals, self.core.registry.len())
    }

    fn count_labels(&self, stats: &mut StoreStats) {
        let index = self.core.index.read();
        let cardinalities = index.cardinalities();
        stats.label_names = cardinalities.len() as u64;
        stats.label_pairs = cardinalities.iter().map(|c| c.1).sum();
        let by_value = |name| index.postings(name).map(|(value, ids)| (value, ids.len() as u64));
        stats.top_metric_names = top(by_value(LABEL_NAME));
        let (mut pairs, mut bytes) = (Vec::new(), Vec::new());
        for (name, _) in &cardinalities {
            bytes.push((name.as_str(), by_value(name).map(|(value, series)| value.len() as u64 * series).sum()));
            let best = top(by_value(name)).into_iter();
            pairs.extend(best.map(|(value, series)| (format!("{name}={value}"), series)));
        }
        stats.top_label_pairs = top(borrowed(&pairs));
        stats.top_label_bytes = top(bytes);
        stats.top_label_names = top(borrowed(&cardinalities));
    }
}

fn borrowed(list: &[(String, u64)]) -> impl Iterator<Item = (&str, u64)> {
    list.iter().map(|(name, n)| (name.as_str(), *n))
}

/// Gives the greatest, the greatest first, in memory for twice as many: there may be millions.
fn top<'a>(list: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<(String, u64)> {
    let order = |a: &(&str, u64), b: &(&str, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0));
    let mut best: Vec<(&str, u64)> = Vec::new();
    for one in list {
        best.push(one);
        if best.len() >= 2 * TOP {
            best.select_nth_unstable_by(TOP, order);
            best.truncate(TOP);
        }
    }
    best.sort_unstable_by(order);
    best.truncate(TOP);
    best.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_of_many_are_found() {
        let names: Vec<String> = (0..5 * TOP).map(|n| format!("n{n:05}")).collect();
        let count = |n: usize| (n * 7919 % 3001) as u64;
        let found = top(names.iter().enumerate().map(|(n, name)| (name.as_str(), count(n))));
        let mut all: Vec<(String, u64)> = names.iter().enumerate().map(|(n, name)| (name.clone(), count(n))).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        assert_eq!(found, all[..TOP]);
    }
}
