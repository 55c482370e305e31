//! Series in memory behind the door that evaluation reads through.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::histogram::{BucketSpan, Histogram, ResetHint};
use model::{Family, Labels, Matcher, Samples, Select, SelectError, SeriesReader, TimeRange};

use super::series::Point;

/// All series that were loaded.
#[derive(Default, Debug)]
pub struct Memory {
    series: BTreeMap<Labels, BTreeMap<i64, Point>>,
    starts: BTreeMap<Labels, BTreeMap<i64, i64>>,
}

impl Memory {
    /// Adds a sample.
    pub fn push(&mut self, labels: &Labels, ts_ms: i64, point: Point) {
        self.series.entry(labels.clone()).or_default().insert(ts_ms, point);
    }

    /// Says when the counting began that a sample belongs to.
    pub fn push_start(&mut self, labels: &Labels, ts_ms: i64, start_ms: i64) {
        self.starts.entry(labels.clone()).or_default().insert(ts_ms, start_ms);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.series.clear();
        self.starts.clear();
    }
}

/// One series with its samples.
struct Reader {
    labels: Labels,
    samples: BTreeMap<i64, Point>,
    starts: BTreeMap<i64, i64>,
}

/// A store that keeps histograms in chunks knows that within a chunk there was no reset.
fn hinted(histogram: &Arc<Histogram>, before: Option<&Arc<Histogram>>) -> Arc<Histogram> {
    let follows = before.is_some_and(|before| {
        before.reset_hint != ResetHint::Gauge
            && before.schema == histogram.schema
            && before.zero_threshold == histogram.zero_threshold
            && before.custom_bounds == histogram.custom_bounds
            && before.count <= histogram.count
            && before.zero_count <= histogram.zero_count
            && grew((&before.positive_spans, &before.positive), (&histogram.positive_spans, &histogram.positive))
            && grew((&before.negative_spans, &before.negative), (&histogram.negative_spans, &histogram.negative))
    });
    if histogram.reset_hint != ResetHint::Unknown || !follows || model::is_stale(histogram.sum) {
        return Arc::clone(histogram);
    }
    Arc::new(Histogram { reset_hint: ResetHint::NoReset, ..Histogram::clone(histogram) })
}

type Side<'s> = (&'s [BucketSpan], &'s [f64]);

/// Tells whether no bucket lost anything.
fn grew(before: Side<'_>, after: Side<'_>) -> bool {
    let after: BTreeMap<i32, f64> = Histogram::buckets(after.0, after.1).collect();
    Histogram::buckets(before.0, before.1).all(|(index, count)| after.get(&index).copied().unwrap_or(0.0) >= count)
}

impl SeriesReader for Reader {
    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn read(&self, range: TimeRange, out: &mut Samples) -> Result<(), SelectError> {
        let mut before: Option<&Arc<Histogram>> = None;
        for (ts_ms, point) in &self.samples {
            match point {
                Point::Float(value) => {
                    before = None;
                    if range.contains(*ts_ms) {
                        out.push(*ts_ms, *value);
                    }
                }
                Point::Histogram(histogram) => {
                    if range.contains(*ts_ms) {
                        out.histograms.push((*ts_ms, hinted(histogram, before)));
                    }
                    before = Some(histogram);
                }
            }
        }
        let starts = self.starts.iter().filter(|(ts_ms, _)| range.contains(**ts_ms));
        out.starts.extend(starts.map(|(ts_ms, start_ms)| (*ts_ms, *start_ms)));
        Ok(())
    }
}

impl Select for Memory {
    fn select(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<Box<dyn SeriesReader>>, SelectError> {
        let matches = |labels: &Labels| matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or_default()));
        let found = self
            .series
            .iter()
            .filter(|(labels, samples)| matches(labels) && samples.keys().any(|ts_ms| range.contains(*ts_ms)));
        Ok(found
            .map(|(labels, samples)| {
                let starts = self.starts.get(labels).cloned().unwrap_or_default();
                Box::new(Reader { labels: labels.clone(), samples: samples.clone(), starts }) as Box<dyn SeriesReader>
            })
            .collect())
    }

    fn label_names(&self, _: &[Matcher], _: TimeRange) -> Result<Vec<String>, SelectError> {
        Ok(Vec::new())
    }

    fn label_values(&self, _: &str, _: &[Matcher], _: TimeRange) -> Result<Vec<String>, SelectError> {
        Ok(Vec::new())
    }

    fn metadata(&self, _: Option<&str>) -> Vec<Family> {
        Vec::new()
    }
}
