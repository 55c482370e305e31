//! What a series is beside its labels: type, source and target of its latest owner, shared by many series.

use std::sync::Arc;

use hashbrown::HashMap;
use model::{MetricType, Origin};
use parking_lot::RwLock;

use crate::admission::{Held, Owner, OwnerStats};

/// Sets that are told apart. Senders choose their names, so that there must be an end: later ones share one owner, [`OTHERS`].
const SETS_MAX: usize = 1 << 18;
/// Source and target of all that come after [`SETS_MAX`] sets.
pub const OTHERS: &str = "others";

/// Attributes of a series; no part of its identity.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SeriesAttrs {
    /// Type of its family.
    pub metric_type: MetricType,
    /// Source id of the latest owner.
    pub source: Arc<str>,
    /// Target id of the latest owner.
    pub target_id: Arc<str>,
}

/// Number of an interned attribute set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttrsId(pub u32);

/// All attribute sets in use; at most one per source, target and type.
#[derive(Default)]
pub struct AttrsTable {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    ids: HashMap<Arc<SeriesAttrs>, u32>,
    all: Vec<(Arc<SeriesAttrs>, Arc<Owner>)>,
    /// By source and target.
    owners: HashMap<(Arc<str>, Arc<str>), Arc<Owner>>,
    sources: HashMap<Arc<str>, Arc<Held>>,
}

impl AttrsTable {
    /// Finds or adds a set; when there are too many, gives the one of [`OTHERS`].
    pub fn intern(&self, attrs: SeriesAttrs) -> AttrsId {
        self.intern_within(attrs, SETS_MAX)
    }

    fn intern_within(&self, mut attrs: SeriesAttrs, sets_max: usize) -> AttrsId {
        if let Some(id) = self.inner.read().ids.get(&attrs) {
            return AttrsId(*id);
        }
        let mut inner = self.inner.write();
        if !inner.ids.contains_key(&attrs) && inner.all.len() >= sets_max {
            // One for each type: no more than there are types.
            attrs = SeriesAttrs { source: Arc::from(OTHERS), target_id: Arc::from(OTHERS), ..attrs };
        }
        if let Some(id) = inner.ids.get(&attrs) {
            return AttrsId(*id);
        }
        let id = inner.all.len() as u32;
        let owner = inner.owner(&attrs);
        let attrs = Arc::new(attrs);
        inner.all.push((attrs.clone(), owner));
        inner.ids.insert(attrs, id);
        AttrsId(id)
    }

    /// Finds or adds the set of an origin and a type.
    pub fn of(&self, origin: &Origin, metric_type: MetricType) -> AttrsId {
        self.intern(SeriesAttrs {
            metric_type,
            source: Arc::from(origin.source_id.as_str()),
            target_id: Arc::from(origin.target_id.as_str()),
        })
    }

    /// Gives a set back.
    pub fn get(&self, id: AttrsId) -> Option<Arc<SeriesAttrs>> {
        self.inner.read().all.get(id.0 as usize).map(|(attrs, _)| attrs.clone())
    }

    /// Gives who holds the series of a set.
    pub fn owner(&self, id: AttrsId) -> Option<Arc<Owner>> {
        self.inner.read().all.get(id.0 as usize).map(|(_, owner)| owner.clone())
    }

    /// Tells what all owners hold, in no particular order.
    pub fn owners(&self) -> Vec<OwnerStats> {
        self.inner.read().owners.values().map(|owner| OwnerStats::of(owner)).collect()
    }
}

impl Inner {
    fn owner(&mut self, attrs: &SeriesAttrs) -> Arc<Owner> {
        let (source, target_id) = (attrs.source.clone(), attrs.target_id.clone());
        let of_source = self.sources.entry(source.clone()).or_default().clone();
        let make = || Arc::new(Owner::new(target_id.clone(), source.clone(), of_source));
        self.owners.entry((source.clone(), target_id.clone())).or_insert_with(make).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_all_owners_are_one() {
        let table = AttrsTable::default();
        let set = |n: u32| SeriesAttrs {
            metric_type: MetricType::Gauge,
            source: Arc::from(format!("s{n}")),
            target_id: Arc::from("t"),
        };
        let first = table.intern_within(set(0), 2);
        table.intern_within(set(1), 2);
        let ids: Vec<u32> = (2..100).map(|n| table.intern_within(set(n), 2).0).collect();
        assert!(ids.iter().all(|id| *id == 2), "{ids:?}");
        assert_eq!(table.get(AttrsId(2)).map(|a| a.source.to_string()), Some(OTHERS.to_owned()));
        // Who is known stays known.
        assert_eq!(table.intern_within(set(0), 2), first);
        assert_eq!(table.owners().len(), 3);
    }
}
