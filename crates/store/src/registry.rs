//! Label sets to series ids.
//!
//! Owns: a striped hash table over the canonical encodings, and the next id.
//! Invariants: 1. one label set has one id until it is forgotten; 2. ids are never given twice on one data directory;
//! 3. as long as an entry is not `defined` every record that uses it carries its definition.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;
use model::{LABEL_NAME, Labels, Refusal};
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64;

use crate::attrs::AttrsId;
use crate::config::LabelLimits;

const STRIPES: usize = 64;

struct Entry {
    labels: Labels,
    id: u32,
    attrs: AttrsId,
    /// A durable record defines it.
    defined: bool,
}

/// A series as a batch needs it.
pub struct Resolved {
    pub id: u32,
    /// The labels, when the batch's record has to define the series.
    pub define: Option<Labels>,
}

/// All label sets that have an id.
pub struct Registry {
    stripes: Vec<RwLock<HashTable<Entry>>>,
    next_id: AtomicU32,
    live: AtomicU64,
    series_max: u64,
    limits: LabelLimits,
}

fn hash_of(labels: &[u8]) -> u64 {
    xxh3_64(labels)
}

impl Registry {
    /// Starts empty; ids start at 1.
    pub fn new(series_max: u64, limits: LabelLimits) -> Registry {
        let stripes = (0..STRIPES).map(|_| RwLock::default()).collect();
        Registry { stripes, next_id: AtomicU32::new(1), live: AtomicU64::new(0), series_max, limits }
    }

    fn stripe(&self, hash: u64) -> &RwLock<HashTable<Entry>> {
        // The table uses the top and the lowest bits itself.
        &self.stripes[(hash >> 32) as usize % STRIPES]
    }

    /// Finds the id of a label set, or gives it one.
    pub fn resolve(&self, labels: &[u8], attrs: AttrsId) -> Result<Resolved, Refusal> {
        let hash = hash_of(labels);
        let stripe = self.stripe(hash);
        if let Some(found) = stripe.read().find(hash, |e| e.labels.as_bytes() == labels) {
            return Ok(found.resolved(attrs));
        }
        let owned = Labels::from_bytes(labels).ok_or(Refusal::InvalidName)?;
        self.limits.check(&owned)?;
        let mut table = stripe.write();
        match table.entry(hash, |e| e.labels.as_bytes() == labels, |e| hash_of(e.labels.as_bytes())) {
            TableEntry::Occupied(found) => Ok(found.get().resolved(attrs)),
            TableEntry::Vacant(place) => {
                let id = self.admit()?;
                place.insert(Entry { labels: owned.clone(), id, attrs, defined: false });
                Ok(Resolved { id, define: Some(owned) })
            }
        }
    }

    fn admit(&self) -> Result<u32, Refusal> {
        let admit = |live| (live < self.series_max).then_some(live + 1);
        self.live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit).map_err(|_| Refusal::SeriesLimit)?;
        let next = |id: u32| id.checked_add(1);
        self.next_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map_err(|_| Refusal::SeriesLimit)
    }

    /// Notes that a durable record defines the series.
    pub fn mark_defined(&self, labels: &Labels, id: u32, attrs: AttrsId) {
        let hash = hash_of(labels.as_bytes());
        let mut table = self.stripe(hash).write();
        match table.entry(hash, |e| e.labels == *labels, |e| hash_of(e.labels.as_bytes())) {
            TableEntry::Occupied(mut found) => {
                let entry = found.get_mut();
                (entry.id, entry.defined, entry.attrs) = (id, true, attrs);
            }
            TableEntry::Vacant(place) => {
                place.insert(Entry { labels: labels.clone(), id, attrs, defined: true });
                self.live.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.never_again(id);
    }

    /// Keeps an id from being given to another series.
    pub fn never_again(&self, id: u32) {
        self.next_id.fetch_max(id.saturating_add(1), Ordering::Relaxed);
    }

    /// Gives the id that the next new series gets.
    pub fn next_id(&self) -> u32 {
        self.next_id.load(Ordering::Relaxed)
    }

    /// Counts the label sets.
    pub fn len(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Forgets label sets, and all that no durable record defines. Nothing may be on its way into the log.
    pub fn forget(&self, gone: &[(u32, Labels)]) {
        let mut removed = 0;
        for (id, labels) in gone {
            let hash = hash_of(labels.as_bytes());
            if let Ok(found) = self.stripe(hash).write().find_entry(hash, |e| e.id == *id) {
                found.remove();
                removed += 1;
            }
        }
        for stripe in &self.stripes {
            let mut table = stripe.write();
            let before = table.len();
            table.retain(|e| e.defined);
            removed += (before - table.len()) as u64;
        }
        self.live.fetch_sub(removed, Ordering::Relaxed);
    }
}

impl Entry {
    fn resolved(&self, attrs: AttrsId) -> Resolved {
        let settled = self.defined && self.attrs == attrs;
        Resolved { id: self.id, define: (!settled).then(|| self.labels.clone()) }
    }
}

impl LabelLimits {
    fn check(&self, labels: &Labels) -> Result<(), Refusal> {
        if labels.is_empty() {
            return Err(Refusal::InvalidName);
        }
        let mut count = 0;
        for (name, value) in labels.iter() {
            count += 1;
            if name.is_empty() {
                return Err(Refusal::InvalidName);
            }
            let value_max = if name == LABEL_NAME { self.metric_name_bytes_max } else { self.value_bytes_max };
            if name.len() > self.name_bytes_max || value.len() > value_max {
                return Err(Refusal::LabelLimit);
            }
        }
        if count > self.names_max { Err(Refusal::LabelLimit) } else { Ok(()) }
    }
}
