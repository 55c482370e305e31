//! Label sets to series ids.
//!
//! Owns: a striped hash table over the canonical encodings, the defined series in the order in which they came, and the
//! next id.
//! Invariants: 1. one label set has one id until it is forgotten; 2. ids are never given twice on one data directory;
//! 3. as long as an entry is not `defined` every record that uses it carries its definition; 4. nobody holds a stripe
//! while it waits for the order.
//!
//! Senders name their series in much the same order again and again. So each defined series remembers which one came
//! after it last time; comparing with that one costs no hash and hardly a cache miss. The table is asked when the guess
//! is wrong. It also remembers a hash of 128 bits of the bytes that the sender wrote its labels in, so that these need
//! not even be read: `docs/decisions/0012-a-series-is-known-by-the-hash-of-its-written-form.md`.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;
use model::{LABEL_NAME, Labels, Refusal};
use parking_lot::{RwLock, RwLockReadGuard};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use crate::admission::{Admission, AdmissionLimits, Full, cost_of};
use crate::attrs::{AttrsId, AttrsTable};
use crate::config::LabelLimits;

const STRIPES: usize = 64;

struct Entry {
    labels: Labels,
    id: u32,
    attrs: AttrsId,
    /// Where it stands in the order; [`NOWHERE`] until a durable record defines it.
    place: u32,
}

const NOWHERE: u32 = u32::MAX;

/// A defined series in the order.
struct Known {
    labels: Labels,
    id: u32,
    attrs: AttrsId,
    /// The place of the series that came after this one last time.
    next: AtomicU32,
    /// Hash of the bytes that its labels were written in last time, low and high; 0 when not known. The two may be of
    /// different times, and then fit nothing.
    written: [AtomicU64; 2],
}

impl Known {
    fn is_written(&self, key: u128) -> bool {
        let [low, high] = &self.written;
        low.load(Ordering::Relaxed) == key as u64 && high.load(Ordering::Relaxed) == (key >> 64) as u64
    }

    fn set_written(&self, key: u128) {
        self.written[0].store(key as u64, Ordering::Relaxed);
        self.written[1].store((key >> 64) as u64, Ordering::Relaxed);
    }
}

/// The defined series, in the order in which they came; places of forgotten ones are used again.
#[derive(Default)]
struct Order {
    known: Vec<Option<Known>>,
    free: Vec<u32>,
}

impl Order {
    /// Gives a series its place; [`NOWHERE`] when all places are taken, which only costs speed.
    fn add(&mut self, labels: &Labels, id: u32, attrs: AttrsId) -> u32 {
        let place = self.free.pop().or_else(|| u32::try_from(self.known.len()).ok()).unwrap_or(NOWHERE);
        let next = AtomicU32::new(place.saturating_add(1));
        let known = Known { labels: labels.clone(), id, attrs, next, written: Default::default() };
        match self.known.get_mut(place as usize) {
            Some(free) => *free = Some(known),
            None if place < NOWHERE => self.known.push(Some(known)),
            None => {}
        }
        place
    }

    fn at(&self, place: u32) -> Option<&Known> {
        self.known.get(place as usize)?.as_ref()
    }
}

/// A series as a batch needs it.
pub struct Resolved {
    pub id: u32,
    /// The labels, when the batch's record has to define the series.
    pub define: Option<Labels>,
    place: u32,
}

/// All label sets that have an id.
pub struct Registry {
    stripes: Vec<RwLock<HashTable<Entry>>>,
    order: RwLock<Order>,
    next_id: AtomicU32,
    admission: Admission,
    attrs: Arc<AttrsTable>,
    limits: LabelLimits,
    /// Makes the hashes of written forms this process' own.
    seed: u64,
}

fn hash_of(labels: &[u8]) -> u64 {
    xxh3_64(labels)
}

impl Registry {
    /// Starts empty; ids start at 1.
    pub fn new(room: AdmissionLimits, limits: LabelLimits, attrs: Arc<AttrsTable>) -> Registry {
        let stripes = (0..STRIPES).map(|_| RwLock::default()).collect();
        Registry {
            stripes,
            order: RwLock::default(),
            next_id: AtomicU32::new(1),
            admission: Admission::new(room),
            attrs,
            limits,
            seed: RandomState::new().hash_one(0),
        }
    }

    fn stripe(&self, hash: u64) -> &RwLock<HashTable<Entry>> {
        // The table uses the top and the lowest bits itself.
        &self.stripes[(hash >> 32) as usize % STRIPES]
    }

    /// Starts to find the ids of a batch. New series are not defined while it lasts: be short.
    pub fn resolver(&self) -> Resolver<'_> {
        Resolver { registry: self, order: self.order.read(), before: NOWHERE, expected: 0, written: 0, looks: 0 }
    }

    /// Gives the room for series.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Finds the id of a label set.
    fn find(&self, labels: &[u8], attrs: AttrsId) -> Option<Resolved> {
        let hash = hash_of(labels);
        let table = self.stripe(hash).read();
        table.find(hash, |e| e.labels.as_bytes() == labels).map(|found| found.resolved(attrs))
    }

    /// Looks at a label set that has no id yet, before there is asked for room.
    pub fn check(&self, labels: &[u8]) -> Result<Labels, Refusal> {
        let owned = Labels::from_bytes(labels).ok_or(Refusal::InvalidName)?;
        self.limits.check(&owned)?;
        Ok(owned)
    }

    /// Gives new label sets of one owner their ids: all of them or, when there is no room for all, none.
    ///
    /// **Takes** label sets that passed [`Registry::check`]; `essential` ones are let in whether there is room or not.
    pub fn admit(&self, new: &[Labels], attrs: AttrsId, essential: bool) -> Result<Vec<Resolved>, Full> {
        let Some(owner) = self.attrs.owner(attrs) else { return Err(Full::Series) };
        let bytes = new.iter().map(|labels| cost_of(labels.as_bytes().len())).sum();
        self.admission.reserve(&owner, new.len() as u64, bytes, essential)?;
        let mut given = Vec::with_capacity(new.len());
        for labels in new {
            match self.insert(labels, attrs) {
                Some((resolved, true)) => given.push(resolved),
                other => {
                    // Somebody was faster, or the label set stands twice in the batch: the room was taken once.
                    self.admission.release(&owner, 1, cost_of(labels.as_bytes().len()));
                    given.extend(other.map(|(resolved, _)| resolved));
                }
            }
        }
        if given.len() == new.len() { Ok(given) } else { Err(Full::Series) }
    }

    /// Gives a label set its id, and whether it is a new one; `None` when all ids are used up.
    fn insert(&self, labels: &Labels, attrs: AttrsId) -> Option<(Resolved, bool)> {
        let hash = hash_of(labels.as_bytes());
        let mut table = self.stripe(hash).write();
        match table.entry(hash, |e| e.labels == *labels, |e| hash_of(e.labels.as_bytes())) {
            TableEntry::Occupied(found) => Some((found.get().resolved(attrs), false)),
            TableEntry::Vacant(place) => {
                let next = |id: u32| id.checked_add(1);
                let id = self.next_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
                place.insert(Entry { labels: labels.clone(), id, attrs, place: NOWHERE });
                Some((Resolved { id, define: Some(labels.clone()), place: NOWHERE }, true))
            }
        }
    }

    fn count_in(&self, labels: &Labels, attrs: AttrsId) {
        if let Some(owner) = self.attrs.owner(attrs) {
            self.admission.add(&owner, 1, cost_of(labels.as_bytes().len()));
        }
    }

    fn count_out(&self, labels: &Labels, attrs: AttrsId) {
        if let Some(owner) = self.attrs.owner(attrs) {
            self.admission.release(&owner, 1, cost_of(labels.as_bytes().len()));
        }
    }

    /// Notes that a durable record defines these series. One thread at a time.
    pub fn mark_defined<'a>(&self, series: impl IntoIterator<Item = (&'a Labels, u32, AttrsId)>) {
        // The order first, in one go: who resolves holds it for a whole batch.
        let placed: Vec<_> = {
            let mut order = self.order.write();
            let place =
                |(labels, id, attrs): (&'a Labels, u32, AttrsId)| (labels, id, attrs, order.add(labels, id, attrs));
            series.into_iter().map(place).collect()
        };
        let mut replaced = Vec::new();
        for (labels, id, attrs, place) in placed {
            let hash = hash_of(labels.as_bytes());
            let mut table = self.stripe(hash).write();
            match table.entry(hash, |e| e.labels == *labels, |e| hash_of(e.labels.as_bytes())) {
                TableEntry::Occupied(mut found) => {
                    let entry = found.get_mut();
                    replaced.push(entry.place);
                    if entry.attrs != attrs {
                        self.count_out(labels, entry.attrs);
                        self.count_in(labels, attrs);
                    }
                    (entry.id, entry.attrs, entry.place) = (id, attrs, place);
                }
                TableEntry::Vacant(vacant) => {
                    vacant.insert(Entry { labels: labels.clone(), id, attrs, place });
                    self.count_in(labels, attrs);
                }
            }
            self.never_again(id);
        }
        self.clear_places(replaced);
    }

    fn clear_places(&self, mut places: Vec<u32>) {
        places.retain(|place| *place != NOWHERE);
        if places.is_empty() {
            return;
        }
        let mut order = self.order.write();
        let Order { known, free } = &mut *order;
        for place in places {
            if let Some(slot) = known.get_mut(place as usize)
                && slot.take().is_some()
            {
                free.push(place);
            }
        }
    }

    /// Keeps an id from being given to another series.
    pub fn never_again(&self, id: u32) {
        self.next_id.fetch_max(id.saturating_add(1), Ordering::Relaxed);
    }

    /// Gives the id that the next new series gets.
    pub fn next_id(&self) -> u32 {
        self.next_id.load(Ordering::Relaxed)
    }

    /// Gives the memory that it takes beside the labels.
    pub fn bytes(&self) -> u64 {
        let stripes: usize = self.stripes.iter().map(|s| s.read().capacity() * (size_of::<Entry>() + 1) * 8 / 7).sum();
        let order = self.order.read().known.capacity() * size_of::<Option<Known>>();
        (stripes + order) as u64
    }

    /// Counts the label sets.
    pub fn len(&self) -> u64 {
        self.admission.series()
    }

    /// Forgets label sets, and all that no durable record defines. Nothing may be on its way into the log.
    pub fn forget(&self, gone: &[(u32, Labels)]) {
        let mut places = Vec::new();
        for (id, labels) in gone {
            let hash = hash_of(labels.as_bytes());
            if let Ok(found) = self.stripe(hash).write().find_entry(hash, |e| e.id == *id) {
                let entry = found.remove().0;
                self.count_out(&entry.labels, entry.attrs);
                places.push(entry.place);
            }
        }
        for stripe in &self.stripes {
            stripe.write().retain(|e| {
                let stays = e.place != NOWHERE;
                if !stays {
                    self.count_out(&e.labels, e.attrs);
                }
                stays
            });
        }
        self.clear_places(places);
    }
}

impl Entry {
    fn resolved(&self, attrs: AttrsId) -> Resolved {
        let settled = self.place != NOWHERE && self.attrs == attrs;
        Resolved { id: self.id, define: (!settled).then(|| self.labels.clone()), place: self.place }
    }
}

/// Finds the ids of one batch's known series, one after the other.
pub struct Resolver<'a> {
    registry: &'a Registry,
    order: RwLockReadGuard<'a, Order>,
    /// Where the last series stands.
    before: u32,
    /// Where the next one should stand.
    expected: u32,
    /// Hash of the bytes that were asked for last.
    written: u128,
    looks: u32,
}

/// After so many looks whoever waits to define series gets a turn.
const LOOKS_PER_TURN: u32 = 1024;

impl Resolver<'_> {
    /// Finds the id of a series by the bytes that its labels are written in: where it is expected, or one further on,
    /// because a series may have ended.
    pub fn by_written(&mut self, written: &[u8], attrs: AttrsId) -> Option<u32> {
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LOOKS_PER_TURN) {
            RwLockReadGuard::bump(&mut self.order);
        }
        // Never 0, which stands for "not known".
        self.written = xxh3_128_with_seed(written, self.registry.seed) | 1;
        let mut place = self.expected;
        for _ in 0..2 {
            let known = self.order.at(place)?;
            let next = known.next.load(Ordering::Relaxed);
            if known.is_written(self.written) && known.attrs == attrs {
                let id = known.id;
                (self.before, self.expected) = (place, next);
                return Some(id);
            }
            place = next;
        }
        None
    }

    /// Finds the id of a label set that a durable record defines, and remembers how it was written.
    pub fn by_labels(&mut self, labels: &[u8], attrs: AttrsId) -> Option<u32> {
        let found = match self.guess(labels, attrs) {
            Some(found) => found,
            None => self.registry.find(labels, attrs)?,
        };
        if found.define.is_some() {
            return None;
        }
        self.move_to(found.place);
        self.order.at(found.place)?.set_written(self.written);
        Some(found.id)
    }

    fn guess(&self, labels: &[u8], attrs: AttrsId) -> Option<Resolved> {
        let known = self.order.at(self.expected)?;
        let fits = known.labels.as_bytes() == labels && known.attrs == attrs;
        fits.then_some(Resolved { id: known.id, define: None, place: self.expected })
    }

    /// Notes that the series at a place came after the one before.
    fn move_to(&mut self, place: u32) {
        if place != self.expected
            && place != NOWHERE
            && let Some(before) = self.order.at(self.before)
        {
            before.next.store(place, Ordering::Relaxed);
        }
        self.before = place;
        self.expected = self.order.at(place).map_or(NOWHERE, |known| known.next.load(Ordering::Relaxed));
    }

    /// Finds the id of a label set; `None` when it has none.
    ///
    /// **Cost** one comparison when the series follows the one that it followed last time.
    pub fn find(&mut self, labels: &[u8], attrs: AttrsId) -> Option<Resolved> {
        let found = match self.guess(labels, attrs) {
            Some(found) => found,
            None => self.registry.find(labels, attrs)?,
        };
        self.move_to(found.place);
        Some(found)
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

#[cfg(test)]
mod tests {
    use model::{MetricType, Origin};

    use super::*;

    const ATTRS: AttrsId = AttrsId(0);
    const OTHERS: AttrsId = AttrsId(1);

    fn registry(series_max: u64) -> Registry {
        let attrs = Arc::new(AttrsTable::default());
        for target in ["t", "u"] {
            let origin = Origin { target_id: target.into(), source_id: "s".into(), ..Origin::default() };
            attrs.of(&origin, MetricType::Gauge);
        }
        Registry::new(AdmissionLimits::of_series(series_max), LabelLimits::default(), attrs)
    }

    fn held(registry: &Registry) -> Vec<u64> {
        let mut owners = registry.attrs.owners();
        owners.sort_by(|a, b| a.target_id.cmp(&b.target_id));
        owners.iter().map(|o| o.series).collect()
    }

    fn set(n: u32) -> Labels {
        Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())])
    }

    fn ids(registry: &Registry, sets: &[u32], attrs: AttrsId) -> Vec<(u32, bool)> {
        let mut resolver = registry.resolver();
        let mut id = |n: &u32| {
            let labels = registry.check(set(*n).as_bytes()).unwrap();
            let found = resolver.find(labels.as_bytes(), attrs);
            let found = found.unwrap_or_else(|| registry.admit(&[labels], attrs, false).unwrap().remove(0));
            (found.id, found.define.is_some())
        };
        sets.iter().map(&mut id).collect()
    }

    fn define(registry: &Registry, sets: &[u32]) {
        let ids = ids(registry, sets, ATTRS);
        let labels: Vec<Labels> = sets.iter().map(|n| set(*n)).collect();
        registry.mark_defined(labels.iter().zip(ids).map(|(l, (id, _))| (l, id, ATTRS)));
    }

    #[test]
    fn guesses_never_change_the_answer() {
        let registry = registry(1000);
        define(&registry, &[0, 1, 2, 3, 4, 5, 6, 7]);
        for order in [[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0], [3, 3, 1, 0, 7, 7, 2, 5]] {
            for _ in 0..3 {
                let wanted: Vec<_> = order.iter().map(|n| (n + 1, false)).collect();
                assert_eq!(ids(&registry, &order, ATTRS), wanted);
            }
        }
        // Another owner restates the definition; a new series between known ones gets its own id.
        assert_eq!(ids(&registry, &[0, 1], OTHERS), [(1, true), (2, true)]);
        assert_eq!(ids(&registry, &[0, 99, 1], ATTRS), [(1, false), (9, true), (2, false)]);
    }

    #[test]
    fn written_forms_find_their_series_and_no_other() {
        let registry = registry(1000);
        define(&registry, &[0, 1, 2, 3, 4, 5]);
        let written = |n: u32| format!("written {n}").into_bytes();
        let ask = |sets: &[u32], attrs: AttrsId| -> Vec<(Option<u32>, Option<u32>)> {
            let mut resolver = registry.resolver();
            let mut one = |n: &u32| {
                let by_written = resolver.by_written(&written(*n), attrs);
                let by_labels = by_written.or_else(|| resolver.by_labels(set(*n).as_bytes(), attrs));
                (by_written, by_labels)
            };
            sets.iter().map(&mut one).collect()
        };
        let all = |sets: &[u32]| sets.iter().map(|n| Some(n + 1)).collect::<Vec<_>>();
        for sets in [[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [0, 1, 2, 3, 4, 5]] {
            assert_eq!(ask(&sets, ATTRS).iter().map(|a| a.1).collect::<Vec<_>>(), all(&sets));
        }
        // In the order of the last time nothing is read, but for the first, whose place in a batch may be any.
        let found = ask(&[0, 1, 2, 3, 4, 5], ATTRS);
        assert_eq!(found.iter().map(|a| a.0).collect::<Vec<_>>(), all(&[0, 1, 2, 3, 4, 5]));
        // One that is missing costs nothing; of another owner nothing is known.
        assert_eq!(ask(&[0, 2, 3], ATTRS).iter().map(|a| a.0).collect::<Vec<_>>(), all(&[0, 2, 3]));
        assert_eq!(ask(&[0, 1], OTHERS), [(None, None), (None, None)]);
        // A series that is not there is not made.
        assert_eq!(ask(&[77, 1], ATTRS)[0], (None, None));
        // Forgotten, and its place taken by another, it is not found by its old form.
        registry.forget(&[(2, set(1))]);
        define(&registry, &[9]);
        assert_eq!(ask(&[0, 1, 2], ATTRS)[1], (None, None));
    }

    #[test]
    fn places_of_forgotten_series_are_used_again() {
        let registry = registry(1000);
        define(&registry, &[0, 1, 2, 3]);
        registry.forget(&[(2, set(1)), (4, set(3))]);
        assert_eq!(registry.len(), 2);
        define(&registry, &[10, 11]);
        assert_eq!(registry.order.read().known.len(), 4);
        assert_eq!(ids(&registry, &[0, 1, 2, 3, 10, 11], ATTRS)[..3], [(1, false), (7, true), (3, false)]);
        // Defined again with other attributes, a series keeps one place.
        define(&registry, &[0]);
        assert_eq!(registry.order.read().known.iter().flatten().filter(|k| k.labels == set(0)).count(), 1);
    }

    #[test]
    fn new_series_come_in_together_or_not_at_all() {
        let registry = registry(5);
        let sets = |range: std::ops::Range<u32>| range.map(set).collect::<Vec<_>>();
        assert_eq!(registry.admit(&sets(0..3), ATTRS, false).unwrap().len(), 3);
        assert_eq!(registry.admit(&sets(3..6), ATTRS, false).err(), Some(Full::Series));
        assert_eq!((registry.len(), held(&registry)), (3, vec![3, 0]));
        // What stands twice, or is there already, takes room once.
        let again = registry.admit(&[set(3), set(3)], ATTRS, false).unwrap();
        assert_eq!((again[0].id, again[1].id, registry.len()), (4, 4, 4));
        assert_eq!(registry.admit(&sets(10..14), OTHERS, true).unwrap().len(), 4);
        assert_eq!((registry.len(), held(&registry)), (8, vec![4, 4]));
        // Another owner takes a series over; forgetting gives the room back, of undefined ones, too.
        registry.mark_defined([(&set(0), 1, OTHERS), (&set(1), 2, ATTRS)]);
        assert_eq!(held(&registry), [3, 5]);
        registry.forget(&[(2, set(1))]);
        assert_eq!((registry.len(), held(&registry)), (1, vec![0, 1]));
        assert_eq!(registry.admission().stats().bytes, cost_of(set(0).as_bytes().len()));
    }
}
