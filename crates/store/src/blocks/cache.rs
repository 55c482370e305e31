//! What was decoded from blocks and may be asked for again.
//!
//! Owns: values by key, and the order in which they were last used.
//! Invariants: the costs of all values are at most the limit, or there is only one value.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

/// What a value is part of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Part {
    /// The open samples file with the places of its pages.
    Samples,
    /// The open postings with their directory.
    Postings,
    /// Rows of the series table, by number of the set.
    Rows,
    /// Values of a label, by number of the name.
    Table,
    /// A page, by number and column.
    Page,
    /// The open file of histograms with the places of its pages.
    Histograms,
    /// A page of histograms, by number.
    HistogramPage,
}

/// Block, part, number within the part.
pub type Key = (u64, Part, u64);

type Value = Arc<dyn Any + Send + Sync>;

/// Values that were used lately.
pub struct Cache {
    inner: Mutex<Inner>,
    bytes_max: usize,
}

#[derive(Default)]
struct Inner {
    values: HashMap<Key, Entry>,
    /// Keys by the tick of their last use.
    order: BTreeMap<u64, Key>,
    tick: u64,
    bytes: usize,
}

struct Entry {
    value: Value,
    bytes: usize,
    tick: u64,
}

impl Cache {
    /// Starts empty.
    pub fn new(bytes_max: usize) -> Cache {
        Cache { inner: Mutex::default(), bytes_max }
    }

    /// Gives a value, made by `make` (with its cost in bytes) when it is not there. Nothing is locked meanwhile.
    pub fn get<T: Any + Send + Sync, E>(
        &self,
        key: Key,
        make: impl FnOnce() -> Result<(T, usize), E>,
    ) -> Result<Arc<T>, E> {
        if let Some(Ok(found)) = self.inner.lock().find(&key).map(Arc::downcast::<T>) {
            return Ok(found);
        }
        let (value, bytes) = make()?;
        let value = Arc::new(value);
        self.inner.lock().put(key, value.clone(), bytes, self.bytes_max);
        Ok(value)
    }

    /// Forgets all of a block.
    pub fn forget(&self, block: u64) {
        let mut inner = self.inner.lock();
        let gone: Vec<Key> = inner.values.keys().filter(|key| key.0 == block).copied().collect();
        gone.iter().for_each(|key| inner.remove(key));
    }
}

impl Inner {
    fn find(&mut self, key: &Key) -> Option<Value> {
        self.tick += 1;
        let entry = self.values.get_mut(key)?;
        self.order.remove(&entry.tick);
        entry.tick = self.tick;
        self.order.insert(entry.tick, *key);
        Some(entry.value.clone())
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.values.remove(key) {
            self.order.remove(&entry.tick);
            self.bytes -= entry.bytes;
        }
    }

    fn put(&mut self, key: Key, value: Value, bytes: usize, bytes_max: usize) {
        self.remove(&key);
        while self.bytes + bytes > bytes_max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some(entry) = self.values.remove(&oldest) {
                self.bytes -= entry.bytes;
            }
        }
        self.tick += 1;
        self.order.insert(self.tick, key);
        self.bytes += bytes;
        self.values.insert(key, Entry { value, bytes, tick: self.tick });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = Cache::new(30);
        let get = |n: u64| {
            let mut made = false;
            let value = cache.get((n, Part::Page, 0), || {
                made = true;
                Ok::<_, ()>((n * 2, 10))
            });
            assert_eq!(value, Ok(Arc::new(n * 2)));
            made
        };
        assert!(get(1) && get(2) && get(3) && !get(1));
        assert!(get(4), "2 had to go for it");
        assert!(!get(1) && !get(3) && get(2));
        cache.forget(1);
        assert!(get(1));
        assert_eq!(cache.get((9, Part::Page, 0), || Err::<(u64, usize), _>("no")), Err("no"));
        let inner = cache.inner.lock();
        assert_eq!((inner.values.len(), inner.order.len(), inner.bytes), (3, 3, 30));
    }
}
