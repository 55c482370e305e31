//! How many samples each filter acted on, by source.
//!
//! Limits: [`SOURCES_MAX`] sources; what further ones send is counted under an empty name.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use model::filter::{ActKind, Acts, FilterSet};
use parking_lot::Mutex;

const SOURCES_MAX: usize = 1_000;

/// Samples by the filter's place and action, and by what it did; the place is `None` for what no KEEP accepts.
pub type OfSource = BTreeMap<(Option<usize>, &'static str, ActKind), u64>;

/// The counts of all sources.
#[derive(Default)]
pub struct FilterCounts(Mutex<HashMap<String, OfSource>>);

impl FilterCounts {
    /// Adds what filters did to a collection.
    ///
    /// **Takes** how many samples there were of each combination of filters.
    pub fn add(&self, source_id: &str, set: &FilterSet, acted: &[(Acts, u64)]) {
        let mut counts = self.0.lock();
        let name = if counts.len() < SOURCES_MAX || counts.contains_key(source_id) { source_id } else { "" };
        let of_source = counts.entry_ref(name).or_default();
        for (acts, samples) in acted {
            for (filter, kind) in acts.each(set) {
                let action = filter.and_then(|at| set.filters().get(at)).map_or("NO_KEEP", |f| f.action.as_str());
                *of_source.entry((filter, action, kind)).or_default() += samples;
            }
        }
    }

    /// Gives all counts, by source.
    pub fn all(&self) -> Vec<(String, OfSource)> {
        let counts = self.0.lock();
        let mut all: Vec<(String, OfSource)> = counts.iter().map(|(name, of)| (name.clone(), of.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}
