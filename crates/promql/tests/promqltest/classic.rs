//! Classic histograms turned into native ones with custom bounds, as `load_with_nhcb` asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::histogram::{BucketSpan, CUSTOM_SCHEMA, Histogram};
use model::{LABEL_NAME, Labels, LabelsBuf};

use promql::testing::{Point, Slot};

/// What is known of one histogram at one step.
#[derive(Default)]
struct Parts {
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

/// Gives a native histogram for each classic one, by labels and step.
pub fn native(series: &[(Labels, Vec<Slot>)]) -> Vec<(Labels, usize, Point)> {
    let mut all: BTreeMap<(Labels, usize), Parts> = BTreeMap::new();
    for (labels, slots) in series {
        let name = labels.metric_name();
        let Some((base, part)) = ["_bucket", "_count", "_sum"]
            .into_iter()
            .find_map(|suffix| name.strip_suffix(suffix).map(|base| (base, suffix)))
        else {
            continue;
        };
        let bound = labels.get("le").and_then(|le| le.parse::<f64>().ok());
        let mut key = LabelsBuf::from_labels(labels);
        key.remove("le");
        key.set(LABEL_NAME, base);
        let key = key.to_labels();
        for (step, slot) in slots.iter().enumerate() {
            let Some(Point::Float(value)) = slot else { continue };
            let parts = all.entry((key.clone(), step)).or_default();
            match (part, bound) {
                ("_bucket", Some(bound)) => parts.buckets.push((bound, *value)),
                ("_count", _) => parts.count = Some(*value),
                ("_sum", _) => parts.sum = *value,
                _ => {}
            }
        }
    }
    all.into_iter()
        .filter_map(|((labels, step), parts)| Some((labels, step, Point::Histogram(Arc::new(parts.native()?)))))
        .collect()
}

impl Parts {
    fn native(mut self) -> Option<Histogram> {
        self.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.buckets.dedup_by(|a, b| a.0 == b.0);
        let count = self.count.or_else(|| self.buckets.last().map(|(_, count)| *count))?;
        self.buckets.retain(|(bound, _)| bound.is_finite());
        let mut before = 0.0;
        let mut positive = Vec::new();
        for upto in self.buckets.iter().map(|(_, count)| *count).chain([count]) {
            positive.push(upto - before);
            before = upto;
        }
        Some(Histogram {
            schema: CUSTOM_SCHEMA,
            count,
            sum: self.sum,
            positive_spans: vec![BucketSpan { offset: 0, length: positive.len() as u32 }],
            positive,
            custom_bounds: self.buckets.iter().map(|(bound, _)| *bound).collect(),
            ..Histogram::default()
        })
    }
}
