//! Filters: an ordered list that decides which series of a target are kept and which labels they keep.
//!
//! The first KEEP or DROP that accepts a series decides; transforms all run, in order, and each sees the labels as those before
//! left them. Where there is a KEEP, what none of them accepts is dropped.
//! Invariants: 1. what a filter does follows from labels and type alone, so that the result can be kept per series; 2. a filter
//! never fails: what it does not apply to it leaves alone.
//! Not here: JSON, and the adding up of what [`Action::AggregateAway`] brings together ([`crate::aggregate`]).

mod export;
#[cfg(test)]
mod tests;

use crate::family::MetricType;
use crate::labels::{LABEL_NAME, Labels, LabelsBuf};
use crate::matcher::Matcher;
use crate::relabel::{self, Rule};

pub use export::{Export, to_rules};

/// A modulus that leaves hashes as they are, or nearly so.
pub const MODULUS_DEFAULT: u64 = u64::MAX;

/// What a filter does to the series that it accepts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Lets it in, whatever later KEEP and DROP say.
    Keep,
    /// Takes it out.
    Drop,
    /// Removes labels.
    DropLabel,
    /// Gives a label another name.
    RenameLabel,
    /// Puts a hash in the place of a value.
    HashLabel,
    /// Removes labels and adds up what becomes one series by that.
    AggregateAway,
    /// Runs relabel rules.
    Relabel,
}

impl Action {
    /// All actions that have a word.
    pub const WORDS: [(&'static str, Action); 6] = [
        ("KEEP", Action::Keep),
        ("DROP", Action::Drop),
        ("DROP_LABEL", Action::DropLabel),
        ("RENAME_LABEL", Action::RenameLabel),
        ("HASH_LABEL", Action::HashLabel),
        ("AGGREGATE_AWAY", Action::AggregateAway),
    ];

    /// Gives the word of the API.
    pub fn as_str(self) -> &'static str {
        Action::WORDS.iter().find(|(_, a)| *a == self).map_or("relabel", |(word, _)| word)
    }
}

/// What becomes of gauges that [`Action::AggregateAway`] brings together; counters and histograms are always added.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Function {
    /// Their sum.
    #[default]
    Sum,
    /// Their mean.
    Avg,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

impl Function {
    /// All functions with their words.
    pub const WORDS: [(&'static str, Function); 4] =
        [("SUM", Function::Sum), ("AVG", Function::Avg), ("MAX", Function::Max), ("MIN", Function::Min)];

    /// Gives the word of the API.
    pub fn as_str(self) -> &'static str {
        Function::WORDS.iter().find(|(_, f)| *f == self).map_or("SUM", |(word, _)| word)
    }
}

/// A set of metric types.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TypeSet(u8);

impl TypeSet {
    /// Every type.
    pub const ALL: TypeSet = TypeSet(u8::MAX);

    /// Builds a set; an empty list means every type.
    pub fn of(types: &[MetricType]) -> TypeSet {
        match types.iter().fold(0, |set, t| set | 1 << (*t as u8)) {
            0 => TypeSet::ALL,
            set => TypeSet(set),
        }
    }

    /// Tells whether a type is in it.
    pub fn has(self, metric_type: MetricType) -> bool {
        self.0 & 1 << (metric_type as u8) != 0
    }
}

/// One filter, ready to be applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// What it does.
    pub action: Action,
    /// Which series it accepts: all of these must hold; none means every series.
    pub matchers: Vec<Matcher>,
    /// Which types it accepts.
    pub types: TypeSet,
    /// The labels it works on.
    pub labels: Vec<String>,
    /// The new name of a label.
    pub to: String,
    /// Values of [`Action::HashLabel`] are below this.
    pub modulus: u64,
    /// For gauges under [`Action::AggregateAway`].
    pub function: Function,
    /// For [`Action::Relabel`]; each has passed [`Rule::validate`].
    pub rules: Vec<Rule>,
    /// Why it is there, for people.
    pub note: String,
}

impl Filter {
    /// Builds a filter that accepts everything.
    pub fn new(action: Action) -> Filter {
        Filter {
            action,
            matchers: Vec::new(),
            types: TypeSet::ALL,
            labels: Vec::new(),
            to: String::new(),
            modulus: MODULUS_DEFAULT,
            function: Function::Sum,
            rules: Vec::new(),
            note: String::new(),
        }
    }

    fn accepts(&self, labels: &LabelsBuf, metric_type: MetricType) -> bool {
        self.types.has(metric_type) && self.matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or("")))
    }

    /// Removes its labels; tells whether one was there.
    fn remove(&self, labels: &mut LabelsBuf) -> bool {
        let before = labels.len();
        labels.retain(|name, _| !self.labels.iter().any(|l| l == name));
        labels.len() != before
    }

    fn rename(&self, labels: &mut LabelsBuf) -> bool {
        let Some(name) = self.labels.first() else { return false };
        let Some(value) = labels.get(name).filter(|v| !v.is_empty()).map(str::to_owned) else { return false };
        labels.remove(name);
        labels.set(&self.to, &value);
        true
    }

    /// One `hashmod` rule for each label: those who take the filters elsewhere get the same values.
    fn hash_rules(&self) -> Vec<Rule> {
        let rule = |name: &String| Rule {
            source_labels: vec![name.clone()],
            target_label: name.clone(),
            modulus: self.modulus.max(1),
            action: relabel::Action::HashMod,
            ..Rule::default()
        };
        self.labels.iter().map(rule).collect()
    }

    fn hash(&self, labels: &mut LabelsBuf) -> bool {
        let mut changed = false;
        for (name, rule) in self.labels.iter().zip(&self.rules) {
            if labels.get(name).is_some_and(|v| !v.is_empty()) {
                changed |= relabel::apply(std::slice::from_ref(rule), labels);
            }
        }
        changed
    }

    /// Changes the labels; tells whether anything is another now, `None` when a relabel rule drops the series.
    fn transform(&self, labels: &mut LabelsBuf) -> Option<bool> {
        match self.action {
            Action::Keep | Action::Drop => Some(false),
            Action::DropLabel | Action::AggregateAway => Some(self.remove(labels)),
            Action::RenameLabel => Some(self.rename(labels)),
            Action::HashLabel => Some(self.hash(labels)),
            Action::Relabel => {
                let before = labels.to_labels();
                relabel::apply(&self.rules, labels).then(|| labels.to_labels() != before)
            }
        }
    }
}

/// Why a series was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum DroppedBy {
    /// The filter at this place.
    Filter(usize),
    /// There is a KEEP, and none accepts it.
    NoKeep,
    /// A quantile of a summary: the filter at this place would have to add it to others, which means nothing.
    Quantile(usize),
}

/// What filters say about a series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is stored under the labels that are left.
    Kept {
        /// Whether they are others than before.
        changed: bool,
        /// The filter by which its samples are added to those of others.
        aggregate: Option<usize>,
    },
    /// It is not stored.
    Dropped(DroppedBy),
}

/// What one filter did to a series.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Its place.
    pub filter: usize,
    /// What it did.
    pub effect: Effect,
}

/// What a filter does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// KEEP: later KEEP and DROP are not asked.
    Kept,
    /// The series is taken out.
    Dropped,
    /// The labels it left.
    Changed(Labels),
    /// The labels of the series that its samples are added to.
    Aggregated(Labels),
}

/// Which filters acted on a series.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Acts {
    /// By their places: one bit each, as far as there are bits.
    acted: u128,
    /// Why it was dropped, if it was.
    dropped: Option<DroppedBy>,
}

/// What a filter does to samples, in a word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ActKind {
    /// It lets them in.
    Kept,
    /// It takes them out.
    Dropped,
    /// It changes their labels, or adds them to others.
    Changed,
}

impl ActKind {
    /// All kinds.
    pub const ALL: [ActKind; 3] = [ActKind::Kept, ActKind::Dropped, ActKind::Changed];

    /// Gives the word.
    pub fn as_str(self) -> &'static str {
        match self {
            ActKind::Kept => "kept",
            ActKind::Dropped => "dropped",
            ActKind::Changed => "changed",
        }
    }
}

impl Acts {
    fn note(&mut self, filter: usize) {
        self.acted |= u32::try_from(filter).ok().and_then(|at| 1u128.checked_shl(at)).unwrap_or(0);
    }

    /// Gives each filter that acted with what it did; `None` is what no KEEP accepts.
    pub fn each(self, set: &FilterSet) -> impl Iterator<Item = (Option<usize>, ActKind)> + '_ {
        let by = match self.dropped {
            Some(DroppedBy::Filter(at) | DroppedBy::Quantile(at)) => Some(at),
            Some(DroppedBy::NoKeep) | None => None,
        };
        let acted = set.filters().iter().enumerate().take(128).filter(move |(at, _)| self.acted & 1 << at != 0);
        let acted = acted.map(move |(at, filter)| {
            let kind = match filter.action {
                _ if by == Some(at) => ActKind::Dropped,
                Action::Keep => ActKind::Kept,
                _ => ActKind::Changed,
            };
            (Some(at), kind)
        });
        acted.chain((self.dropped == Some(DroppedBy::NoKeep)).then_some((None, ActKind::Dropped)))
    }
}

/// The filters of one target or source.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FilterSet {
    filters: Vec<Filter>,
    has_keep: bool,
    transforms: bool,
    aggregates: bool,
    asks_types: bool,
}

impl FilterSet {
    /// Puts filters together, in order.
    pub fn new(mut filters: Vec<Filter>) -> FilterSet {
        for filter in filters.iter_mut().filter(|f| f.action == Action::HashLabel) {
            filter.rules = filter.hash_rules();
        }
        let any = |action: Action| filters.iter().any(|f| f.action == action);
        FilterSet {
            has_keep: any(Action::Keep),
            transforms: filters.iter().any(|f| !matches!(f.action, Action::Keep | Action::Drop)),
            aggregates: any(Action::AggregateAway),
            asks_types: filters.iter().any(|f| f.types != TypeSet::ALL) || any(Action::AggregateAway),
            filters,
        }
    }

    /// Gives them in order.
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Tells whether labels may change, so that two series may become one.
    pub fn transforms(&self) -> bool {
        self.transforms
    }

    /// Tells whether the filters may make another series the same as one of this name that they leave as it is.
    ///
    /// **Promises** `false` only where they cannot; types are not looked at.
    pub fn may_collide(&self, name: &str) -> bool {
        let takes_name = |f: &Filter| f.matchers.iter().filter(|m| m.name() == LABEL_NAME).all(|m| m.matches(name));
        // Relabel rules alone give a series another name.
        self.filters.iter().any(|f| match f.action {
            Action::Keep | Action::Drop => false,
            Action::Relabel => true,
            Action::DropLabel | Action::RenameLabel | Action::HashLabel | Action::AggregateAway => takes_name(f),
        })
    }

    /// Tells whether samples of several series may be added up.
    pub fn aggregates(&self) -> bool {
        self.aggregates
    }

    /// Tells whether the type of a series makes a difference.
    pub fn asks_types(&self) -> bool {
        self.asks_types
    }

    /// Applies all filters to one series.
    ///
    /// **Takes** labels whose names are unique, and the type of the family.
    /// **Gives** what becomes of it; the labels have no meaning when it is dropped.
    pub fn apply(&self, labels: &mut LabelsBuf, metric_type: MetricType) -> Outcome {
        self.run(labels, metric_type, &mut |_, _| {})
    }

    /// The same, with which filters acted.
    pub fn apply_noting(&self, labels: &mut LabelsBuf, metric_type: MetricType) -> (Outcome, Acts) {
        let mut acts = Acts::default();
        let outcome = self.run(labels, metric_type, &mut |filter, _| acts.note(filter));
        acts.dropped = match outcome {
            Outcome::Dropped(by) => Some(by),
            Outcome::Kept { .. } => None,
        };
        (outcome, acts)
    }

    /// The same, with what every filter that acted did.
    pub fn explain(&self, labels: &mut LabelsBuf, metric_type: MetricType) -> (Outcome, Vec<Step>) {
        let mut steps = Vec::new();
        let outcome = self.run(labels, metric_type, &mut |filter, effect| steps.push(Step { filter, effect }));
        (outcome, steps)
    }

    fn run(&self, labels: &mut LabelsBuf, metric_type: MetricType, tell: &mut dyn FnMut(usize, Effect)) -> Outcome {
        let (mut kept, mut any_change, mut aggregate) = (false, false, None);
        for (at, filter) in self.filters.iter().enumerate() {
            if kept && matches!(filter.action, Action::Keep | Action::Drop) || !filter.accepts(labels, metric_type) {
                continue;
            }
            if filter.action == Action::AggregateAway && is_quantile(labels, metric_type, filter) {
                tell(at, Effect::Dropped);
                return Outcome::Dropped(DroppedBy::Quantile(at));
            }
            let changed = match (filter.action, filter.transform(labels)) {
                (Action::Drop, _) | (_, None) => {
                    tell(at, Effect::Dropped);
                    return Outcome::Dropped(DroppedBy::Filter(at));
                }
                (_, Some(changed)) => changed,
            };
            any_change |= changed;
            match filter.action {
                Action::Keep => {
                    kept = true;
                    tell(at, Effect::Kept);
                }
                // A series without the label is one more of those that are added up.
                Action::AggregateAway => {
                    aggregate = aggregate.or(Some(at));
                    tell(at, Effect::Aggregated(labels.to_labels()));
                }
                _ if changed => tell(at, Effect::Changed(labels.to_labels())),
                _ => {}
            }
        }
        match self.has_keep && !kept {
            true => Outcome::Dropped(DroppedBy::NoKeep),
            false => Outcome::Kept { changed: any_change, aggregate },
        }
    }

    /// Gives what is done with the gauges that a filter adds up.
    pub fn function(&self, filter: usize) -> Function {
        self.filters.get(filter).map_or(Function::Sum, |f| f.function)
    }
}

fn is_quantile(labels: &LabelsBuf, metric_type: MetricType, filter: &Filter) -> bool {
    metric_type == MetricType::Summary
        && labels.get("quantile").is_some_and(|q| !q.is_empty())
        && !filter.labels.iter().any(|l| l == "quantile")
}

/// What becomes of the times since when series count: a sum counts since the first of them.
pub const CREATED: Function = Function::Min;

/// Tells whether a series only rises, or starts again from zero. Whether it is the `_created` of another one, its family says.
pub fn is_cumulative(labels: &LabelsBuf, metric_type: MetricType) -> bool {
    let name = labels.get(LABEL_NAME).unwrap_or_default();
    let ends_in = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    match metric_type {
        MetricType::Counter | MetricType::Histogram => true,
        MetricType::Summary => ends_in(&["_sum", "_count"]),
        MetricType::Unknown => ends_in(&["_total", "_sum", "_count", "_bucket"]),
        MetricType::Gauge | MetricType::Info | MetricType::StateSet | MetricType::GaugeHistogram => false,
    }
}
