//! The five series that every scrape writes about itself, also when it fails.

use model::{Batch, LABEL_NAME, Labels, LabelsBuf, NO_FAMILY, SeriesId, SeriesIndex, stale_nan};

use crate::target::TargetSpec;

const COUNT: usize = 5;

/// Their names, in the order in which they stand in a batch: `up` first.
const NAMES: [&str; COUNT] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
];

/// What they say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) up: bool,
    pub(crate) duration_s: f64,
    pub(crate) samples: u64,
    pub(crate) kept: u64,
    pub(crate) added: u64,
}

/// The report series of one target.
#[derive(Debug, Default)]
pub(crate) struct ReportSeries {
    ids: [SeriesId; COUNT],
    generation: u64,
    /// The target labels that the ids and the last written series belong to; `None` when nothing was written.
    written: Option<Labels>,
}

impl ReportSeries {
    /// Adds the series to an empty batch.
    pub(crate) fn push_series(&self, spec: &TargetSpec, batch: &mut Batch) {
        let known = self.generation == batch.generation
            && self.written.as_ref() == Some(&spec.labels)
            && self.ids.iter().all(|id| id.is_some());
        if known {
            for id in self.ids {
                batch.push_known(id, NO_FAMILY);
            }
        } else {
            for labels in ReportSeries::labels(&spec.labels) {
                batch.push_labels(&labels, NO_FAMILY);
            }
        }
    }

    /// Adds the samples.
    pub(crate) fn push_samples(batch: &mut Batch, at_ms: i64, facts: &Facts) {
        let up = if facts.up { 1.0 } else { 0.0 };
        let values = [up, facts.duration_s, facts.samples as f64, facts.kept as f64, facts.added as f64];
        for (at, value) in (0..).zip(values) {
            batch.push_sample(SeriesIndex(at), at_ms, value);
        }
    }

    /// Adds the end of the series that were written last.
    pub(crate) fn push_stale(&self, batch: &mut Batch, at_ms: i64) -> u64 {
        let Some(labels) = &self.written else { return 0 };
        for labels in ReportSeries::labels(labels) {
            let series = batch.push_labels(&labels, NO_FAMILY);
            batch.push_sample(series, at_ms, stale_nan());
        }
        COUNT as u64
    }

    /// Learns the ids of a stored batch.
    pub(crate) fn commit(&mut self, spec: &TargetSpec, batch: &Batch) {
        for (id, series) in self.ids.iter_mut().zip(&batch.series) {
            *id = series.id;
        }
        self.generation = batch.generation;
        self.written = Some(spec.labels.clone());
    }

    /// Gives the labels of the series written last if the target has others now.
    pub(crate) fn outdated(&self, spec: &TargetSpec) -> Vec<Labels> {
        match &self.written {
            Some(labels) if *labels != spec.labels => ReportSeries::labels(labels),
            _ => Vec::new(),
        }
    }

    /// Gives the labels of all of them, in order.
    pub(crate) fn labels(target: &Labels) -> Vec<Labels> {
        let mut buf = LabelsBuf::from_labels(target);
        let mut named = |name: &&str| {
            buf.set(LABEL_NAME, name);
            buf.to_labels()
        };
        NAMES.iter().map(&mut named).collect()
    }
}
