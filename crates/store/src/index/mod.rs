//! The inverted index: from label values to series.
//!
//! Owns: for each label name its values in order, for each value the sorted ids of the series that carry it.
//! Invariants: 1. postings are sorted and without doubles; 2. a value without series is not there.
//! Cost: a selection looks at values of the labels it names, never at all series, unless its matchers accept all.

mod cell;
mod matching;
mod postings;
mod shape;

pub use cell::IndexCell;
pub use matching::matching;
pub use postings::{intersect, subtract, union};
pub use shape::{Shape, shape};

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use model::Labels;
use smallvec::SmallVec;

/// Most values of a label such as `instance` and `le` pairs belong to few series: those need no allocation.
type Ids = SmallVec<[u32; 4]>;
type Values = BTreeMap<Arc<str>, Ids>;

/// Label values to series ids.
#[derive(Default)]
pub struct Index {
    names: HashMap<Arc<str>, Values>,
    all: Vec<u32>,
}

impl Index {
    /// Adds a series.
    pub fn add(&mut self, id: u32, labels: &Labels) {
        if !insert_sorted(&mut self.all, id) {
            return;
        }
        for (name, value) in labels.iter() {
            let values = match self.names.get_mut(name) {
                Some(values) => values,
                None => self.names.entry(Arc::from(name)).or_default(),
            };
            match values.get_mut(value) {
                Some(ids) => {
                    if let Err(at) = search(ids, id) {
                        ids.insert(at, id);
                    }
                }
                None => {
                    values.insert(Arc::from(value), SmallVec::from_slice(&[id]));
                }
            }
        }
    }

    /// Removes series.
    pub fn remove(&mut self, gone: &[(u32, Labels)]) {
        let ids: hashbrown::HashSet<u32> = gone.iter().map(|g| g.0).collect();
        self.all.retain(|id| !ids.contains(id));
        // Each list is walked over once: all series that are alive may stand in it, and all that are gone, too.
        let touched: hashbrown::HashSet<(&str, &str)> = gone.iter().flat_map(|(_, labels)| labels.iter()).collect();
        for (name, value) in touched {
            self.remove_from(&ids, name, value);
        }
    }

    fn remove_from(&mut self, gone: &hashbrown::HashSet<u32>, name: &str, value: &str) {
        let Some(values) = self.names.get_mut(name) else { return };
        if let Some(ids) = values.get_mut(value) {
            ids.retain(|id| !gone.contains(id));
            if ids.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.names.remove(name);
        }
    }

    /// Gives all ids, sorted.
    pub fn all(&self) -> &[u32] {
        &self.all
    }

    /// Gives the memory that it takes; the inner nodes of the ordered values count as a third of them.
    pub fn bytes(&self) -> u64 {
        let of_value = |(value, ids): (&Arc<str>, &Ids)| {
            let spilled = if ids.spilled() { ids.capacity() * size_of::<u32>() } else { 0 };
            (value.len() + 16 + (size_of::<Arc<str>>() + size_of::<Ids>()) * 4 / 3 + spilled) as u64
        };
        let values: u64 = self.names.values().flatten().map(of_value).sum();
        values + (self.all.capacity() * size_of::<u32>()) as u64
    }

    /// Gives the label names, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|n| &**n)
    }

    /// Gives the values of a label in order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.names.get(name).into_iter().flat_map(|v| v.keys().map(|v| &**v))
    }

    /// Gives for each value of a label, in order, the sorted ids of the series that carry it.
    pub fn postings(&self, name: &str) -> impl Iterator<Item = (&str, &[u32])> {
        self.names.get(name).into_iter().flatten().map(|(value, ids)| (&**value, &ids[..]))
    }

    /// Gives for each name how many values it has.
    pub fn cardinalities(&self) -> Vec<(String, u64)> {
        self.names.iter().map(|(n, v)| (n.to_string(), v.len() as u64)).collect()
    }
}

/// New ids are nearly always the highest.
fn search(ids: &[u32], id: u32) -> Result<usize, usize> {
    match ids.last() {
        Some(last) if *last < id => Err(ids.len()),
        _ => ids.binary_search(&id),
    }
}

fn insert_sorted(ids: &mut Vec<u32>, id: u32) -> bool {
    match search(ids, id) {
        Ok(_) => false,
        Err(at) => {
            ids.insert(at, id);
            true
        }
    }
}
