//! The page `/metrics` as points of OpenTelemetry.
//!
//! Names stay as they are: who translates them back, as Prometheus and we do, finds the same series.

use std::collections::BTreeMap;

use model::{LABEL_NAME, LabelsBuf, MetricType};
use wire::otlp::send::{Buckets, Metric, Number, Points};
use wire::{Entry, Format, Parser, parse_go_float, series_labels};

type Attributes = Vec<(String, String)>;

/// A family under way.
struct Family {
    name: String,
    metric_type: MetricType,
    numbers: Vec<Number>,
    histograms: BTreeMap<Attributes, Cumulative>,
}

#[derive(Default)]
struct Cumulative {
    sum: f64,
    /// Upper bounds with all observations up to them.
    buckets: Vec<(f64, f64)>,
}

/// Reads a page of ours.
pub fn points_of(page: &str) -> Vec<Metric> {
    let mut metrics = Vec::new();
    let mut help = String::new();
    let mut family: Option<Family> = None;
    for entry in Parser::new(Format::Text, page.as_bytes()).flatten() {
        match entry {
            Entry::Help { help: text, .. } => {
                metrics.extend(family.take().and_then(|family| family.finish(&help)));
                help = text.into_owned();
            }
            Entry::Type { name, metric_type } => {
                metrics.extend(family.take().and_then(|family| family.finish(&help)));
                let (numbers, histograms) = Default::default();
                family = Some(Family { name: name.to_owned(), metric_type, numbers, histograms });
            }
            Entry::Sample { series, value, .. } => {
                if let Some(family) = &mut family {
                    family.add(series, value);
                }
            }
            _ => {}
        }
    }
    metrics.extend(family.and_then(|family| family.finish(&help)));
    metrics
}

impl Family {
    fn add(&mut self, series: &str, value: f64) {
        let mut labels = LabelsBuf::default();
        if series_labels(Format::Text, series, &mut labels).is_err() {
            return;
        }
        let mut name = String::new();
        let mut attributes = Attributes::new();
        for (label, text) in labels.iter() {
            if label == LABEL_NAME {
                name = text.to_owned()
            } else {
                attributes.push((label.to_owned(), text.to_owned()))
            }
        }
        if self.metric_type != MetricType::Histogram {
            return self.numbers.push(Number { attributes, value });
        }
        let bound = attributes.iter().position(|(label, _)| label == "le").map(|at| attributes.remove(at).1);
        let one = self.histograms.entry(attributes).or_default();
        match (name.strip_prefix(&self.name), bound.and_then(|text| parse_go_float(&text))) {
            (Some("_bucket"), Some(bound)) => one.buckets.push((bound, value)),
            (Some("_sum"), _) => one.sum = value,
            _ => {}
        }
    }

    fn finish(self, help: &str) -> Option<Metric> {
        let points = match self.metric_type {
            MetricType::Counter => Points::Sum(self.numbers),
            MetricType::Histogram => {
                Points::Histogram(self.histograms.into_iter().map(|(attributes, one)| one.point(attributes)).collect())
            }
            _ => Points::Gauge(self.numbers),
        };
        let is_empty = match &points {
            Points::Gauge(points) | Points::Sum(points) => points.is_empty(),
            Points::Histogram(points) => points.is_empty(),
        };
        (!is_empty).then(|| Metric { name: self.name, description: help.to_owned(), points })
    }
}

impl Cumulative {
    fn point(self, attributes: Attributes) -> Buckets {
        let mut before = 0.0;
        let mut point = Buckets { attributes, sum: self.sum, ..Buckets::default() };
        for (bound, total) in self.buckets {
            // Observations under way may have left a bucket behind another.
            point.counts.push((total - before).max(0.0) as u64);
            before = f64::max(before, total);
            if bound.is_finite() {
                point.bounds.push(bound);
            }
        }
        point
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Exposition, Histogram};

    #[test]
    fn a_page_becomes_points() {
        let mut page = Exposition::default();
        page.counter("a_total", "Things.", 3);
        page.family("b", "gauge", "More.").sample(&[("x", "a\"b"), ("y", "1")], 0.5).sample(&[("x", "c")], 1.0);
        page.family("empty", "gauge", "Nothing.");
        let histogram = Histogram::default();
        [0.0, 0.003, 0.003, 99.0].iter().for_each(|seconds| histogram.observe(*seconds));
        page.family("h", "histogram", "H.").histogram(&[("q", "1")], &histogram).histogram(&[("q", "2")], &histogram);
        let metrics = points_of(&page.finish());
        let [a, b, h] = &metrics[..] else { panic!("{metrics:?}") };
        assert_eq!((a.name.as_str(), a.description.as_str()), ("a_total", "Things."));
        assert_eq!(a.points, Points::Sum(vec![Number { attributes: vec![], value: 3.0 }]));
        let Points::Gauge(numbers) = &b.points else { panic!("{b:?}") };
        assert_eq!((numbers.len(), &numbers[0].attributes[0]), (2, &("x".to_owned(), "a\"b".to_owned())));
        let Points::Histogram(points) = &h.points else { panic!("{h:?}") };
        assert_eq!((points.len(), points[1].attributes.clone()), (2, vec![("q".to_owned(), "2".to_owned())]));
        assert_eq!(
            (points[0].counts.iter().sum::<u64>(), points[0].counts[0], points[0].counts.last()),
            (4, 1, Some(&1))
        );
        assert_eq!((points[0].counts.len(), points[0].bounds.len(), points[0].sum), (15, 14, 99.006));
    }
}
