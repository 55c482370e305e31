//! The series of a batch that nobody knows yet: let in by families, or refused by families.
//!
//! Invariants: 1. the new series of a family come in together or not at all: half a histogram is worse than none; 2. a
//! series whose samples are all decided already does not come to be.
//! Cost: nothing for a batch without new series.

use hashbrown::HashMap;
use model::{Batch, LABEL_NAME, Labels, MetricType, NO_FAMILY, Refusal, SeriesId, SeriesIndex, Verdict};

use crate::attrs::AttrsId;
use crate::registry::Registry;
use crate::wal::record::Definition;

/// Series without an id, by their place in the batch, and why; sorted.
pub type RefusedSeries = Vec<(usize, Refusal)>;

/// A series of a batch that has no id yet.
pub struct NewSeries {
    pub index: u32,
    pub metric_type: MetricType,
    pub attrs: AttrsId,
}

/// What comes in together.
#[derive(PartialEq, Eq, Hash)]
enum Together {
    /// What a target says of itself.
    Essential,
    /// By its place in the batch.
    Family(u32),
    /// By its name, where the batch knows no families.
    Named(Box<str>),
}

struct Group {
    essential: bool,
    attrs: AttrsId,
    members: Vec<NewSeries>,
    labels: Vec<Labels>,
}

/// Gives new series their ids, as far as there is room.
///
/// **Gives** the refused ones; their ids are [`SeriesId::NONE`].
pub fn admit(
    registry: &Registry,
    batch: &mut Batch,
    new: Vec<NewSeries>,
    definitions: &mut Vec<Definition>,
) -> RefusedSeries {
    let mut refused = RefusedSeries::new();
    if new.is_empty() {
        return refused;
    }
    let decided = all_decided(batch);
    // In the order of the batch: who comes first has the room.
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<(Together, u32), usize> = HashMap::new();
    for series in new {
        let at = series.index as usize;
        batch.series[at].id = SeriesId::NONE;
        if decided.get(at).copied().unwrap_or(false) {
            continue;
        }
        match registry.check(batch.label_bytes(SeriesIndex(series.index))) {
            Ok(labels) => {
                let together = together(batch, &series, &labels);
                let (essential, attrs) = (together == Together::Essential, series.attrs);
                let place = *places.entry((together, attrs.0)).or_insert(groups.len());
                if place == groups.len() {
                    groups.push(Group { essential, attrs, members: Vec::new(), labels: Vec::new() });
                }
                if let Some(group) = groups.get_mut(place) {
                    group.members.push(series);
                    group.labels.push(labels);
                }
            }
            Err(reason) => refused.push((at, reason)),
        }
    }
    for Group { essential, attrs, members, labels } in groups {
        match registry.admit(&labels, attrs, essential) {
            Ok(given) => {
                for (series, resolved) in members.into_iter().zip(given) {
                    batch.series[series.index as usize].id = SeriesId(u64::from(resolved.id));
                    if let Some(labels) = resolved.define {
                        definitions.push(Definition { id: resolved.id, metric_type: series.metric_type, labels });
                    }
                }
            }
            Err(_) => refused.extend(members.iter().map(|s| (s.index as usize, Refusal::SeriesLimit))),
        }
    }
    refused.sort_unstable_by_key(|r| r.0);
    refused
}

/// Tells for each series whether it has samples and all of them are decided.
fn all_decided(batch: &Batch) -> Vec<bool> {
    let (mut decided, mut pending) = (vec![false; batch.series.len()], vec![false; batch.series.len()]);
    let samples = batch.samples.iter().map(|s| s.series).zip(batch.verdicts.iter().copied());
    let histograms = batch.histograms.iter().map(|h| (h.series, h.verdict));
    for (series, verdict) in samples.chain(histograms) {
        let list = if verdict == Verdict::Pending { &mut pending } else { &mut decided };
        if let Some(place) = list.get_mut(series.0 as usize) {
            *place = true;
        }
    }
    decided.iter().zip(&pending).map(|(decided, pending)| *decided && !*pending).collect()
}

fn together(batch: &Batch, new: &NewSeries, labels: &Labels) -> Together {
    let family = batch.series[new.index as usize].family;
    if new.index < batch.essential {
        Together::Essential
    } else if family != NO_FAMILY {
        Together::Family(family)
    } else {
        Together::Named(Box::from(base_name(labels.get(LABEL_NAME).unwrap_or_default())))
    }
}

/// Gives the name that the parts of a histogram or summary share.
fn base_name(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name)
}
