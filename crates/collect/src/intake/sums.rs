//! Samples that filters add up: the first of a sum gives its place to it, the others are filtered.

use std::sync::Arc;

use model::aggregate::{Added, Child, How, Total};
use model::filter::{CREATED, is_cumulative};
use model::histogram::Histogram;
use model::{LABEL_NAME, Labels, MetricType, Refusal, Verdict};
use wire::openmetrics;

use super::{Intake, TYPES};

impl Intake<'_> {
    /// Finds which child of the sums a new series is; the labels of its sum stand in `buf`.
    pub(super) fn child(&mut self, metric_type: MetricType, native: bool) -> Result<Child, Refusal> {
        let labels = self.buf.to_labels();
        let fingerprint = labels.fingerprint().0;
        if !self.cache.has_sum(&labels) && self.sum_collides(fingerprint) {
            return Err(Refusal::LabelCollision);
        }
        let function = self.spec.filters.function(self.collisions.aggregate);
        let how = match (native, metric_type) {
            (true, MetricType::GaugeHistogram) => How::GaugeHistogram,
            (true, _) => How::Histogram,
            (false, _) if self.is_created(metric_type) => How::Gauge(CREATED),
            (false, _) if is_cumulative(&self.unfiltered, metric_type) => How::Cumulative,
            (false, _) => How::Gauge(function),
        };
        let key = self.unfiltered.to_labels().fingerprint().0;
        let Some(sums) = &self.cache.sums else { return Err(Refusal::SeriesLimit) };
        let child = sums.child(key, &labels, how, self.scrape_ms);
        child.ok_or(Refusal::SeriesLimit)
    }

    /// Tells whether a new series says since when another one counts.
    fn is_created(&self, metric_type: MetricType) -> bool {
        let name = self.unfiltered.get(LABEL_NAME).unwrap_or_default();
        let open = self.batch.families.get(self.family as usize);
        open.is_some_and(|open| openmetrics::is_created_of(name, &open.name, metric_type))
    }

    /// Adds a sample to its sum.
    pub(super) fn add_up(&mut self, entry: u32, ts_ms: i64, value: f64) {
        let child = self.cache.child(entry);
        let added = self.cache.sums.as_ref().map_or(Added::Nothing, |sums| sums.lock().add(child, value));
        self.note_added(added, ts_ms, value);
    }

    /// Adds a native histogram to its sum.
    pub(super) fn add_up_histogram(&mut self, entry: u32, ts_ms: i64, histogram: Histogram) {
        let child = self.cache.child(entry);
        let sums = self.cache.sums.as_ref();
        let added = sums.map_or(Added::Nothing, |sums| sums.lock().add_histogram(child, Arc::new(histogram)));
        self.note_added(added, ts_ms, f64::NAN);
    }

    fn note_added(&mut self, added: Added, ts_ms: i64, value: f64) {
        match added {
            Added::First => self.sum_families.push(self.family),
            Added::More | Added::Nothing => self.decide(ts_ms, value, Verdict::Filtered),
            Added::Again(true) => self.decide(ts_ms, value, Verdict::Duplicate),
            Added::Again(false) => self.decide(ts_ms, value, Verdict::Refused(Refusal::DuplicateConflict)),
            Added::Late => self.decide(ts_ms, value, Verdict::Refused(Refusal::TooOld)),
        }
    }

    /// Writes the sums; each has the place of the sample that was the first of it.
    pub(super) fn finish_sums(&mut self) {
        let Some(sums) = self.cache.sums.clone() else { return };
        let totals = sums.lock().totals();
        for (at, sum) in totals.into_iter().enumerate() {
            let family = self.sum_families.get(at).copied().unwrap_or(model::NO_FAMILY);
            if let Err(reason) = self.write_sum(&sum.labels, sum.total, family) {
                self.decide(self.scrape_ms, f64::NAN, Verdict::Refused(reason));
            }
        }
    }

    fn write_sum(&mut self, labels: &Labels, total: Total, family: u32) -> Result<(), Refusal> {
        if total == Total::Incompatible {
            return Err(Refusal::InvalidValue);
        }
        if !self.cache.has_sum(labels) && !self.has_room() {
            return Err(Refusal::SampleLimit);
        }
        let metric_type = self.batch.families.get(family as usize).map_or(MetricType::Unknown, |f| f.metric_type);
        let (entry, is_new) = self.cache.sum_entry(self.draft, labels, metric_type);
        let pushed = self.cache.push_series(entry, family, self.batch, &mut self.buf);
        let series = pushed.ok_or(Refusal::InvalidName)?;
        self.draft.see(entry, series, true);
        self.taken.kept += 1;
        self.taken.series += 1;
        self.taken.added += u64::from(is_new);
        self.taken.series_by_type[metric_type as usize % TYPES] += 1;
        match total {
            Total::Float(value) => self.batch.push_sample(series, self.scrape_ms, value),
            Total::Histogram(histogram) => self.batch.push_histogram(series, self.scrape_ms, histogram),
            Total::Incompatible => {}
        }
        Ok(())
    }
}
