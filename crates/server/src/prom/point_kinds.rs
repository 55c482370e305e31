//! Tells what each sample of a remote write batch counts for: a counter, a gauge, a part of a histogram, ...
//!
//! Remote write sends types apart from samples, so that they are looked up by name, and kept by series id.
//! Invariant: the figures of one batch count each sample at most once.
//! Limits: [`NAMES_MAX`] names, [`IDS_MAX`] series; what is beyond counts as "others" or is looked up each time.

use std::collections::HashMap;
use std::sync::Arc;

use model::{Batch, LABEL_NAME, MetricType, Select, SeriesIndex, TypeCounts};
use wire::points::{Role, role_of};

/// Names whose type is kept.
const NAMES_MAX: usize = 200_000;
/// Series whose kind is kept, a byte each.
const IDS_MAX: u64 = 64 << 20;
/// What series of a family add to its name.
const SUFFIXES: [&str; 8] = ["_total", "_bucket", "_count", "_sum", "_created", "_info", "_gcount", "_gsum"];

/// What a sample of a series counts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
enum Kind {
    /// Not looked up yet.
    #[default]
    New,
    Counter,
    Gauge,
    Histogram,
    Summary,
    Other,
    /// Part of a point that another series stands for.
    Part,
}

const KINDS: usize = Kind::Part as usize + 1;

/// The kinds of the series seen.
pub struct PointKinds {
    select: Arc<dyn Select>,
    generation: u64,
    by_id: Vec<Kind>,
    types: HashMap<String, MetricType>,
    /// Kinds of the batch at hand.
    present: Vec<Kind>,
}

impl PointKinds {
    /// Starts without knowledge.
    pub fn new(select: Arc<dyn Select>) -> PointKinds {
        PointKinds { select, generation: 0, by_id: Vec::new(), types: HashMap::new(), present: Vec::new() }
    }

    /// Forgets all, so that types that became known meanwhile are found.
    pub fn forget(&mut self) {
        self.by_id.clear();
        self.types.clear();
    }

    /// Counts the points of a batch that the store has taken.
    ///
    /// **Cost** a few nanoseconds per series and sample, once the series are known.
    pub fn count(&mut self, batch: &Batch) -> TypeCounts {
        self.learn(batch);
        let mut present = std::mem::take(&mut self.present);
        present.clear();
        present.extend((0..batch.series.len()).map(|i| self.kind_of(batch, i)));
        let mut counts = [0u64; KINDS];
        for sample in &batch.samples {
            let kind = present.get(sample.series.0 as usize).copied().unwrap_or_default();
            counts[kind as usize] += 1;
        }
        self.present = present;
        TypeCounts {
            counters: counts[Kind::Counter as usize],
            gauges: counts[Kind::Gauge as usize],
            histograms: counts[Kind::Histogram as usize] + batch.histograms.len() as u64,
            summaries: counts[Kind::Summary as usize],
            others: counts[Kind::Other as usize] + counts[Kind::New as usize],
        }
    }

    /// Types that changed make what was concluded from them void.
    fn learn(&mut self, batch: &Batch) {
        let mut changed = batch.generation != self.generation;
        self.generation = batch.generation;
        for family in &batch.families {
            if let Some(known) = self.types.get_mut(&family.name)
                && *known != family.metric_type
            {
                *known = family.metric_type;
                changed = true;
            }
        }
        if changed {
            self.by_id.clear();
        }
    }

    fn kind_of(&mut self, batch: &Batch, index: usize) -> Kind {
        let id = batch.series[index].id;
        let at = usize::try_from(id.0).unwrap_or(usize::MAX);
        match self.by_id.get(at) {
            Some(kind) if *kind != Kind::New && id.is_some() => return *kind,
            _ => {}
        }
        let labels = batch.labels(SeriesIndex(index as u32)).unwrap_or_default();
        let kind = self.resolve(labels.get(LABEL_NAME).unwrap_or(""));
        if id.is_some() && id.0 < IDS_MAX {
            if self.by_id.len() <= at {
                self.by_id.resize(at + 1, Kind::New);
            }
            self.by_id[at] = kind;
        }
        kind
    }

    fn resolve(&mut self, name: &str) -> Kind {
        let stems = SUFFIXES.iter().filter_map(|suffix| name.strip_suffix(suffix));
        for family in std::iter::once(name).chain(stems) {
            let metric_type = self.type_of(family);
            if metric_type == MetricType::Unknown {
                continue;
            }
            match role_of(metric_type, family, "", name) {
                Role::Point => return kind_of_type(metric_type),
                Role::InfBucket | Role::Part => return Kind::Part,
                Role::Stranger => {}
            }
        }
        Kind::Other
    }

    fn type_of(&mut self, family: &str) -> MetricType {
        if let Some(known) = self.types.get(family) {
            return *known;
        }
        if self.types.len() >= NAMES_MAX {
            return MetricType::Unknown;
        }
        let found = self.select.metadata(Some(family)).first().map_or(MetricType::Unknown, |f| f.metric_type);
        self.types.insert(family.to_owned(), found);
        found
    }
}

fn kind_of_type(metric_type: MetricType) -> Kind {
    match metric_type {
        MetricType::Counter => Kind::Counter,
        MetricType::Gauge => Kind::Gauge,
        MetricType::Histogram | MetricType::GaugeHistogram => Kind::Histogram,
        MetricType::Summary => Kind::Summary,
        _ => Kind::Other,
    }
}
