//! What is pushed: families with their series, one value each.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use model::histogram::Histogram;
use model::{Batch, Family, Labels};

/// The value of a series.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// A number.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

/// One series.
#[derive(Clone, PartialEq, Debug)]
pub struct PushedSeries {
    /// All its labels, those of the grouping key included.
    pub labels: Labels,
    /// Its value.
    pub value: Value,
}

/// A family with its series.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PushedFamily {
    /// Name, type, help and unit.
    pub family: Family,
    /// Its series, in order of arrival.
    pub series: Vec<PushedSeries>,
}

/// The families of a group by name.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Content(pub BTreeMap<String, Arc<PushedFamily>>);

impl Content {
    /// Walks all series.
    pub fn series(&self) -> impl Iterator<Item = &PushedSeries> {
        self.0.values().flat_map(|family| &family.series)
    }

    /// Counts the series.
    pub fn len(&self) -> usize {
        self.0.values().map(|family| family.series.len()).sum()
    }

    /// Gives this content with the families of another one in the place of those of the same name.
    pub fn with(&self, newer: &Content) -> Content {
        let mut all = self.0.clone();
        all.extend(newer.0.iter().map(|(name, family)| (name.clone(), Arc::clone(family))));
        Content(all)
    }

    /// Gives the label sets that the other content does not have.
    pub fn gone_in(&self, newer: &Content) -> Vec<Labels> {
        let kept: HashSet<&Labels> = newer.series().map(|s| &s.labels).collect();
        self.series().map(|s| &s.labels).filter(|labels| !kept.contains(labels)).cloned().collect()
    }

    /// Adds families and samples to a batch.
    pub fn push_to(&self, batch: &mut Batch, at_ms: i64) {
        for family in self.0.values() {
            let index = batch.families.len() as u32;
            batch.families.push(family.family.clone());
            for series in &family.series {
                let place = batch.push_labels(&series.labels, index);
                match &series.value {
                    Value::Float(value) => batch.push_sample(place, at_ms, *value),
                    Value::Histogram(histogram) => batch.push_histogram(place, at_ms, Arc::clone(histogram)),
                }
            }
        }
    }
}
