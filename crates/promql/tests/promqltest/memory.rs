//! Series in memory behind the door that evaluation reads through.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Family, Labels, Matcher, Samples, Select, SelectError, SeriesReader, TimeRange};

use crate::series::Point;

/// All series that a script loaded.
#[derive(Default)]
pub struct Memory {
    series: BTreeMap<Labels, BTreeMap<i64, Point>>,
}

impl Memory {
    /// Adds a sample.
    pub fn push(&mut self, labels: &Labels, ts_ms: i64, point: Point) {
        self.series.entry(labels.clone()).or_default().insert(ts_ms, point);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.series.clear();
    }
}

/// One series with its samples.
struct Reader {
    labels: Labels,
    samples: BTreeMap<i64, Point>,
}

impl SeriesReader for Reader {
    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn read(&self, range: TimeRange, out: &mut Samples) -> Result<(), SelectError> {
        for (ts_ms, point) in &self.samples {
            match point {
                _ if !range.contains(*ts_ms) => {}
                Point::Float(value) => out.push(*ts_ms, *value),
                Point::Histogram(histogram) => out.histograms.push((*ts_ms, Arc::clone(histogram))),
            }
        }
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
                Box::new(Reader { labels: labels.clone(), samples: samples.clone() }) as Box<dyn SeriesReader>
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
