//! What a series is beside its labels: type, source and target of its latest owner, shared by many series.

use std::sync::Arc;

use hashbrown::HashMap;
use model::{MetricType, Origin};
use parking_lot::RwLock;

use crate::admission::{Held, Owner, OwnerStats};

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
    /// Finds or adds a set.
    pub fn intern(&self, attrs: SeriesAttrs) -> AttrsId {
        if let Some(id) = self.inner.read().ids.get(&attrs) {
            return AttrsId(*id);
        }
        let mut inner = self.inner.write();
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
