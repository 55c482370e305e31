//! Tells what each sample of a remote write batch counts for: a counter, a gauge, a part of a histogram, ...
//!
//! Remote write sends types apart from samples, so that they are looked up by name, and names are kept by series id: a series
//! that is known has no labels in its batch.
//! Invariants: 1. the figures of one batch count each sample at most once; 2. an id has one name for ever.
//! Limits: [`NAMES_MAX`] names, [`IDS_MAX`] series; what is beyond counts as "others" or is looked up each time.

use std::collections::HashMap;
use std::sync::Arc;

use model::{Batch, LABEL_NAME, MetricType, Select, SeriesIndex, TypeCounts};
use wire::points::{Role, role_of};

/// Names whose type is kept.
const NAMES_MAX: usize = 200_000;
/// Series whose name is kept, four bytes each.
const IDS_MAX: u64 = 32 << 20;
/// The name of a series that none is known of.
const NAMELESS: u32 = 0;
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
    /// The name of each series, by its place in `names`.
    name_of: Vec<u32>,
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<(Arc<str>, Kind)>,
    types: HashMap<String, MetricType>,
    /// Kinds of the batch at hand.
    present: Vec<Kind>,
}

impl PointKinds {
    /// Starts without knowledge.
    pub fn new(select: Arc<dyn Select>) -> PointKinds {
        PointKinds {
            select,
            name_of: Vec::new(),
            numbers: HashMap::new(),
            names: vec![(Arc::from(""), Kind::Other)],
            types: HashMap::new(),
            present: Vec::new(),
        }
    }

    /// Forgets all, so that types that became known meanwhile are found.
    pub fn forget(&mut self) {
        self.forget_kinds();
        self.types.clear();
    }

    fn forget_kinds(&mut self) {
        self.names.iter_mut().skip(1).for_each(|name| name.1 = Kind::New);
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
        let mut changed = false;
        for family in &batch.families {
            if let Some(known) = self.types.get_mut(&family.name)
                && *known != family.metric_type
            {
                *known = family.metric_type;
                changed = true;
            }
        }
        if changed {
            self.forget_kinds();
        }
    }

    fn kind_of(&mut self, batch: &Batch, index: usize) -> Kind {
        let id = batch.series[index].id;
        let at = usize::try_from(id.0).unwrap_or(usize::MAX);
        let name = match self.name_of.get(at) {
            Some(name) if *name != NAMELESS && id.is_some() => *name,
            _ => self.name_series(batch, index),
        };
        match self.names.get(name as usize) {
            Some((_, kind)) if *kind != Kind::New => *kind,
            Some((text, _)) => {
                let text = Arc::clone(text);
                let kind = self.resolve(&text);
                self.names[name as usize].1 = kind;
                kind
            }
            None => Kind::Other,
        }
    }

    /// Notes the name of a series that came with its labels.
    fn name_series(&mut self, batch: &Batch, index: usize) -> u32 {
        let Some(labels) = batch.labels(SeriesIndex(index as u32)) else { return NAMELESS };
        let Some(text) = labels.get(LABEL_NAME) else { return NAMELESS };
        let next = self.names.len();
        let name = match self.numbers.get(text) {
            Some(name) => *name,
            None if next >= NAMES_MAX => return NAMELESS,
            None => {
                let text: Arc<str> = Arc::from(text);
                self.numbers.insert(Arc::clone(&text), next as u32);
                self.names.push((text, Kind::New));
                next as u32
            }
        };
        let id = batch.series[index].id;
        let at = usize::try_from(id.0).unwrap_or(usize::MAX);
        if id.is_some() && id.0 < IDS_MAX {
            if self.name_of.len() <= at {
                self.name_of.resize(at + 1, NAMELESS);
            }
            self.name_of[at] = name;
        }
        name
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
