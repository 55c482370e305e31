//! What filters do, told: to one series, and to all of a body.

use model::filter::{DroppedBy, Effect, Outcome, Step};
use model::{Labels, LabelsBuf, MetricType};

use crate::cache::SeriesCache;
use crate::rules::{Mapped, judge, map_before_filters};
use crate::target::TargetSpec;

/// Series that are looked at.
const LOOKED_AT_MAX: usize = 200_000;
/// Label sets shown of one filter.
const EXAMPLES_MAX: usize = 5;

/// What became of a series, step by step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explained {
    /// The labels with the target's own; `None` when `metric_relabel_configs` dropped it.
    pub attached: Option<Labels>,
    /// What the filters did, in order.
    pub steps: Vec<Step>,
    /// Why the filters dropped it, if they did.
    pub dropped: Option<DroppedBy>,
    /// The filter by which it is added to others.
    pub aggregate: Option<usize>,
    /// Which label limit it breaks.
    pub refused: Option<String>,
    /// The labels that it is stored under, or added to.
    pub stored_as: Option<Labels>,
}

/// Says what a target's rules do to a series of its exposition.
///
/// **Errors** when a label name stands twice.
pub fn explain(spec: &TargetSpec, series: &Labels, metric_type: MetricType) -> Result<Explained, String> {
    let mut labels = LabelsBuf::from_labels(series);
    let mut told =
        Explained { attached: None, steps: Vec::new(), dropped: None, aggregate: None, refused: None, stored_as: None };
    if !map_before_filters(spec, &mut labels).map_err(|e| e.to_string())? {
        return Ok(told);
    }
    told.attached = Some(labels.to_labels());
    let (outcome, steps) = spec.filters.explain(&mut labels, metric_type);
    told.steps = steps;
    match outcome {
        Outcome::Dropped(by) => told.dropped = Some(by),
        Outcome::Kept { aggregate, .. } => {
            told.aggregate = aggregate;
            labels.sort().map_err(|e| e.to_string())?;
            match judge(spec, &labels) {
                Mapped::OverLimit(text) | Mapped::Invalid(text) => told.refused = Some(text),
                _ => told.stored_as = Some(labels.to_labels()),
            }
        }
    }
    Ok(told)
}

/// What one filter did to the series of a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterEffects {
    /// Its place; `None` for what no KEEP accepted.
    pub filter: Option<usize>,
    /// Series that it acted on.
    pub series: u64,
    /// Some of them, with what it made of them; `None` for what it took out.
    pub examples: Vec<(Labels, Option<Labels>)>,
}

impl SeriesCache {
    /// Tells what each filter did to the series of the last body.
    pub(crate) fn filter_effects(&self, spec: &TargetSpec) -> Vec<FilterEffects> {
        let count = spec.filters.filters().len();
        let places = (0..count).map(Some).chain([None]);
        let mut all: Vec<FilterEffects> =
            places.map(|filter| FilterEffects { filter, series: 0, examples: Vec::new() }).collect();
        let mut buf = LabelsBuf::default();
        for entry in 0..self.len().min(LOOKED_AT_MAX) as u32 {
            if !self.read_unfiltered(entry, &mut buf) {
                continue;
            }
            let before = buf.to_labels();
            let (outcome, steps) = spec.filters.explain(&mut buf, self.entry(entry).judged);
            let mut note = |at: usize, after: Option<Labels>| {
                if let Some(effects) = all.get_mut(at) {
                    effects.series += 1;
                    if effects.examples.len() < EXAMPLES_MAX {
                        effects.examples.push((before.clone(), after));
                    }
                }
            };
            for step in steps {
                match step.effect {
                    Effect::Dropped => note(step.filter, None),
                    Effect::Kept => note(step.filter, Some(before.clone())),
                    Effect::Changed(after) | Effect::Aggregated(after) => note(step.filter, Some(after)),
                }
            }
            if outcome == Outcome::Dropped(DroppedBy::NoKeep) {
                note(count, None);
            }
        }
        all.retain(|effects| effects.filter.is_some() || effects.series > 0);
        all
    }
}
