//! What the last scrape of one target looked like, so that the next one is cheap.
//!
//! Owns: the key of each series (its text, or what a binary format makes of it) and what it led to; the order in which the
//! series stood; what must be marked stale.
//! Invariants: 1. entries hold the series of the last scrape that was stored, and of no other; a series that one such
//! scrape does not hold is forgotten with it. 2. Ids belong to `generation`. 3. Between [`SeriesCache::begin`] and
//! [`SeriesCache::commit`] or [`SeriesCache::roll_back`] entries are only added, so that a failed answer of the store costs
//! nothing. 4. An entry's labels follow from its key, its type and the rules in `mapping`.
//! Limits: keys and entries of one body; who reads the body bounds it.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet, HashTable};
use model::aggregate::{Child, Coming};
use model::filter::Acts;
use model::{Batch, Family, Labels, LabelsBuf, MetricType, NO_FAMILY, SeriesId, SeriesIndex, stale_nan};
use wire::Format;
use wire::points::Role;
use wire::scrape::key_labels;

use crate::draft::{Draft, INDEX_BITS, TRACKED};
use crate::rules::{Mapped, map_before_filters, map_labels};
use crate::sums::OwnSums;
use crate::target::TargetSpec;

/// Lines ahead that are compared before the table is asked: enough for a few series that vanished.
const LOOK_AHEAD: usize = 4;
/// A guess for the length of a line, comments included.
const LINE_BYTES: usize = 128;
/// Combinations of filters that are told apart; each is looked for among all for a new series.
const ACTS_MAX: usize = 256;
/// Series that are looked at when label values are counted.
const COUNTED_MAX: usize = 100_000;

/// What the rules made of a series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It is stored.
    Kept,
    /// A relabel rule or a filter took it out.
    Dropped,
    /// It is added to others; in the place of a fingerprint stands which child of the sums it is.
    Aggregated,
    /// A label limit keeps it out.
    Refused,
}

/// One series of a body.
#[derive(Clone, Debug)]
pub(crate) struct CachedSeries {
    start: u32,
    len: u32,
    /// The store's id; none as long as the store has not said it.
    pub(crate) id: SeriesId,
    /// Of the stored labels; two keys may lead to the same.
    pub(crate) fingerprint: u64,
    /// The family that `role` belongs to, by its place in [`SeriesCache::families`].
    pub(crate) family: u32,
    pub(crate) role: Role,
    /// Whether its value is the start time of the point before.
    pub(crate) created: bool,
    pub(crate) kind: Kind,
    /// The type that stood above it when its labels were read.
    pub(crate) metric_type: MetricType,
    /// The type that the filters took it for.
    pub(crate) judged: MetricType,
    /// Which filters acted on it, see [`SeriesCache::acts_number`].
    pub(crate) acts: u16,
    /// A sum of others, which stands in no body: its key holds its labels.
    is_sum: bool,
    /// The last scrape wrote it with the scrape's own time, so that its end must be marked.
    live: bool,
}

/// A series whose key means nothing any more, but whose end is still to be marked.
#[derive(Clone, Debug)]
struct Orphan {
    labels: Labels,
    fingerprint: u64,
}

/// The cache of one target.
#[derive(Debug, Default)]
pub(crate) struct SeriesCache {
    keys: Vec<u8>,
    entries: Vec<CachedSeries>,
    /// The lines of the last scrape, as places in `entries`.
    order: Vec<u32>,
    /// Found by key; built when a line is not where it was.
    index: Option<HashTable<u32>>,
    hasher: foldhash::quality::RandomState,
    /// The families of the last scrape, in order.
    pub(crate) families: Vec<Family>,
    orphans: Vec<Orphan>,
    /// What the filters add up; `None` where they add up nothing.
    pub(crate) sums: Option<OwnSums>,
    /// The numbers of children are of this epoch.
    sums_epoch: u64,
    /// The entries of the sums.
    sum_entries: HashMap<Labels, u32>,
    /// Combinations of filters that acted on series, by number less one.
    acts: Vec<Acts>,
    /// How many samples of the last stored scrape each combination acted on.
    acted: Vec<(Acts, u64)>,
    /// A series has another type than the filters took it for.
    pub(crate) judged_wrong: bool,
    generation: u64,
    mapping: Option<(Arc<TargetSpec>, Format)>,
    /// A draft is open; if one is still open at the next start, its owner died.
    drafting: bool,
}

impl SeriesCache {
    /// Prepares for a scrape under a target's rules.
    ///
    /// **Gives** the draft to fill; hand it back to `commit` or `roll_back`.
    pub(crate) fn begin(&mut self, spec: &Arc<TargetSpec>, format: Option<Format>, generation: u64) -> Draft {
        self.begin_in(Draft::default(), spec, format, generation)
    }

    /// [`SeriesCache::begin`] in the memory of an empty draft.
    pub(crate) fn begin_in(
        &mut self,
        mut memory: Draft,
        spec: &Arc<TargetSpec>,
        format: Option<Format>,
        generation: u64,
    ) -> Draft {
        if std::mem::replace(&mut self.drafting, true) {
            *self = SeriesCache { drafting: true, sums: self.sums.take(), ..SeriesCache::default() };
        }
        let epoch = self.sums.as_ref().map_or(0, |sums| {
            let mut sums = sums.lock();
            sums.begin(Coming::WHOLE);
            sums.epoch()
        });
        let same_children = epoch == self.sums_epoch || !self.entries.iter().any(|e| e.kind == Kind::Aggregated);
        self.sums_epoch = epoch;
        let judged_right = !std::mem::take(&mut self.judged_wrong);
        let fits = same_children
            && judged_right
            && self.mapping.as_ref().is_some_and(|(old, old_format)| {
                old.maps_like(spec) && format.is_none_or(|format| format == *old_format)
            });
        if !fits {
            self.orphan_all();
            let format = format.or(self.mapping.as_ref().map(|m| m.1)).unwrap_or_default();
            self.mapping = Some((spec.clone(), format));
        }
        if self.generation != generation {
            self.forget_ids();
            self.generation = generation;
        }
        memory.marks.resize(self.entries.len(), 0);
        memory.order.reserve(self.order.len());
        Draft { entries_before: self.entries.len(), keys_before: self.keys.len(), ..memory }
    }

    /// Makes room for a body that nothing is known of.
    pub(crate) fn expect(&mut self, body_bytes: usize) {
        if self.entries.is_empty() {
            let series = body_bytes / LINE_BYTES;
            self.entries.reserve(series);
            self.keys.reserve(body_bytes / 2);
            self.index = Some(HashTable::with_capacity(series));
        }
    }

    /// Gives how many series are known.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Counts the known series that are stored.
    pub(crate) fn kept(&self) -> u64 {
        self.entries.iter().filter(|e| e.kind == Kind::Kept).count() as u64
    }

    /// Gives the entry of the line at a place of the last scrape.
    #[inline]
    pub(crate) fn at_line(&self, line: usize) -> Option<(u32, &[u8])> {
        let entry = *self.order.get(line)?;
        Some((entry, self.key(entry)))
    }

    #[inline]
    pub(crate) fn entry(&self, entry: u32) -> &CachedSeries {
        &self.entries[entry as usize]
    }

    #[inline]
    pub(crate) fn entry_mut(&mut self, entry: u32) -> &mut CachedSeries {
        &mut self.entries[entry as usize]
    }

    #[inline]
    pub(crate) fn key(&self, entry: u32) -> &[u8] {
        let e = &self.entries[entry as usize];
        &self.keys[e.start as usize..(e.start + e.len) as usize]
    }

    /// Looks for a series near the line where it is expected, then everywhere; moves the line behind it.
    pub(crate) fn find(&mut self, key: &[u8], line: &mut usize) -> Option<u32> {
        for ahead in 0..LOOK_AHEAD {
            match self.at_line(*line + ahead) {
                Some((entry, at_line)) if at_line == key => {
                    *line += ahead + 1;
                    return Some(entry);
                }
                Some(_) => {}
                None => break,
            }
        }
        let hash = self.hasher.hash_one(key);
        let index = self.index.take().unwrap_or_else(|| self.build_index());
        let found = index.find(hash, |entry| self.key(*entry) == key).copied();
        self.index = Some(index);
        if let Some(entry) = found
            && self.order.get(entry as usize) == Some(&entry)
        {
            *line = entry as usize + 1;
        }
        found
    }

    fn build_index(&self) -> HashTable<u32> {
        let mut index = HashTable::with_capacity(self.entries.len());
        for entry in 0..self.entries.len() as u32 {
            index.insert_unique(self.hash_of(entry), entry, |e| self.hash_of(*e));
        }
        index
    }

    fn hash_of(&self, entry: u32) -> u64 {
        self.hasher.hash_one(self.key(entry))
    }

    /// Adds a series that [`SeriesCache::find`] did not find.
    pub(crate) fn add(
        &mut self,
        draft: &mut Draft,
        key: &[u8],
        kind: Kind,
        fingerprint: u64,
        metric_type: MetricType,
    ) -> u32 {
        let entry = self.entries.len() as u32;
        self.entries.push(CachedSeries {
            start: self.keys.len() as u32,
            len: key.len() as u32,
            id: SeriesId::NONE,
            fingerprint,
            family: NO_FAMILY - 1,
            role: Role::Stranger,
            created: false,
            kind,
            metric_type,
            judged: metric_type,
            acts: 0,
            is_sum: false,
            live: false,
        });
        self.keys.extend_from_slice(key);
        draft.marks.push(0);
        if let Some(mut index) = self.index.take() {
            index.insert_unique(self.hash_of(entry), entry, |e| self.hash_of(*e));
            self.index = Some(index);
        }
        entry
    }

    /// Reads the labels of an entry anew from its key.
    ///
    /// **Gives** `false` if the rules do not keep it.
    pub(crate) fn read_labels(&self, entry: u32, out: &mut LabelsBuf) -> bool {
        out.clear();
        let cached = self.entry(entry);
        if cached.is_sum {
            let labels = self.key(entry).get(1..).and_then(Labels::from_bytes);
            labels.iter().flat_map(Labels::iter).for_each(|(name, value)| out.push(name, value));
            return labels.is_some();
        }
        let Some((spec, format)) = &self.mapping else { return false };
        key_labels(*format, self.key(entry), cached.metric_type, out).is_ok()
            && map_labels(spec, cached.judged, out) == Ok(Mapped::Kept)
    }

    /// Reads the labels that the filters got of an entry; `false` if it did not come to them.
    pub(crate) fn read_unfiltered(&self, entry: u32, out: &mut LabelsBuf) -> bool {
        out.clear();
        let cached = self.entry(entry);
        let Some((spec, format)) = self.mapping.as_ref().filter(|_| !cached.is_sum) else { return false };
        key_labels(*format, self.key(entry), cached.metric_type, out).is_ok()
            && map_before_filters(spec, out) == Ok(true)
    }

    /// Gives the number of a combination of filters; 0 is none, and all for which there is no number.
    pub(crate) fn acts_number(&mut self, acts: Acts) -> u16 {
        if acts == Acts::default() {
            return 0;
        }
        let known = self.acts.iter().position(|a| *a == acts);
        let at = known.unwrap_or(self.acts.len());
        if at >= ACTS_MAX {
            return 0;
        }
        if known.is_none() {
            self.acts.push(acts);
        }
        at as u16 + 1
    }

    /// Gives how many samples of the last stored scrape each combination of filters acted on, once.
    pub(crate) fn take_acted(&mut self) -> Vec<(Acts, u64)> {
        std::mem::take(&mut self.acted)
    }

    fn count_acts(&mut self, draft: &Draft) {
        self.acted.clear();
        if self.acts.is_empty() {
            return;
        }
        let mut counts = vec![0u64; self.acts.len() + 1];
        for entry in &draft.order {
            let number = self.entries.get(*entry as usize).map_or(0, |e| e.acts);
            if let Some(count) = counts.get_mut(usize::from(number)) {
                *count += 1;
            }
        }
        self.acted = self.acts.iter().copied().zip(counts.into_iter().skip(1)).filter(|(_, n)| *n > 0).collect();
    }

    /// Gives which child of the sums an entry is.
    pub(crate) fn child(&self, entry: u32) -> Child {
        Child(self.entry(entry).fingerprint as u32)
    }

    /// Finds the entry of a sum, or adds it; tells whether it is a new one.
    pub(crate) fn sum_entry(&mut self, draft: &mut Draft, labels: &Labels, metric_type: MetricType) -> (u32, bool) {
        if let Some(entry) = self.sum_entries.get(labels) {
            return (*entry, false);
        }
        // No line of a body begins so.
        let mut key = vec![u8::MAX];
        key.extend_from_slice(labels.as_bytes());
        let entry = self.add(draft, &key, Kind::Kept, labels.fingerprint().0, metric_type);
        self.entry_mut(entry).is_sum = true;
        self.sum_entries.insert(labels.clone(), entry);
        (entry, true)
    }

    /// Finds series by what they are stored as.
    pub(crate) fn by_fingerprint(&self) -> HashMap<u64, u32> {
        let kept = self.entries.iter().zip(0u32..).filter(|(e, _)| e.kind == Kind::Kept);
        kept.map(|(e, entry)| (e.fingerprint, entry)).collect()
    }

    /// Tells whether there is an entry of a sum.
    pub(crate) fn has_sum(&self, labels: &Labels) -> bool {
        self.sum_entries.contains_key(labels)
    }

    /// Tells whether an entry is a sum.
    pub(crate) fn is_sum(&self, entry: u32) -> bool {
        self.entry(entry).is_sum
    }

    /// Adds an entry to a batch: by its id, or by its labels if it has none.
    #[inline]
    pub(crate) fn push_series(
        &self,
        entry: u32,
        family: u32,
        batch: &mut Batch,
        buf: &mut LabelsBuf,
    ) -> Option<SeriesIndex> {
        let id = self.entry(entry).id;
        if id.is_some() {
            return Some(batch.push_known(id, family));
        }
        self.read_labels(entry, buf).then(|| batch.push_series(buf, family))
    }

    /// Marks the end of every series that the last scrape had and the draft has not.
    pub(crate) fn push_stale(&self, draft: &mut Draft, batch: &mut Batch, at_ms: i64) {
        let is_gone =
            |entry: usize| self.entries[entry].live && draft.marks.get(entry).is_none_or(|mark| mark & TRACKED == 0);
        let gone: Vec<u32> = (0..self.entries.len()).filter(|e| is_gone(*e)).map(|e| e as u32).collect();
        draft.stale_at = batch.series.len() as u32;
        if gone.is_empty() && self.orphans.is_empty() {
            return;
        }
        // Another key may lead to the same series, which then has not ended.
        let mut taken: HashSet<u64> = self
            .entries
            .iter()
            .zip(&draft.marks)
            .filter(|(e, mark)| **mark & TRACKED != 0 && e.kind == Kind::Kept)
            .map(|(e, _)| e.fingerprint)
            .collect();
        let mut buf = LabelsBuf::default();
        for entry in gone {
            if taken.insert(self.entry(entry).fingerprint)
                && let Some(series) = self.push_series(entry, NO_FAMILY, batch, &mut buf)
            {
                batch.push_sample(series, at_ms, stale_nan());
                draft.stale.push(entry);
            }
        }
        for (at, orphan) in self.orphans.iter().enumerate() {
            if taken.insert(orphan.fingerprint) {
                let series = batch.push_labels(&orphan.labels, NO_FAMILY);
                batch.push_sample(series, at_ms, stale_nan());
                draft.orphans_marked.push(at as u32);
            }
        }
    }

    /// Makes the draft one of a failed scrape: nothing was seen, so that everything ends.
    pub(crate) fn fail(&mut self, draft: &mut Draft) {
        self.drop_fresh(draft);
        if let Some(sums) = &self.sums {
            sums.lock().abandon();
        }
        draft.marks.clear();
        draft.marks.resize(self.entries.len(), 0);
        draft.order.clear();
        draft.failed = true;
    }

    /// Gives every series of a batch its labels, for a store that knows the ids no more. Places stay as they are.
    ///
    /// **Takes** the batch as the store gave it back. Ids before `first` are the caller's business: `own` gives their labels.
    pub(crate) fn restate(&self, draft: &Draft, batch: &mut Batch, own: &[Labels]) {
        let mut entry_of: Vec<Option<u32>> = vec![None; batch.series.len()];
        for entry in 0..self.entries.len() as u32 {
            if let Some(series) = draft.series(entry).filter(|_| self.entry(entry).kind == Kind::Kept)
                && let Some(slot) = entry_of.get_mut(series.0 as usize)
            {
                *slot = Some(entry);
            }
        }
        for (at, entry) in draft.stale.iter().enumerate() {
            if let Some(slot) = entry_of.get_mut(draft.stale_at as usize + at) {
                *slot = Some(*entry);
            }
        }
        let old = std::mem::replace(batch, Batch::new(batch.origin.clone()));
        let mut buf = LabelsBuf::default();
        for (at, series) in old.series.iter().enumerate() {
            let bytes = old.label_bytes(SeriesIndex(at as u32));
            if let Some(labels) = own.get(at) {
                batch.push_labels(labels, series.family);
            } else if !bytes.is_empty() {
                batch.push_encoded(series.family, |arena| {
                    arena.extend_from_slice(bytes);
                    true
                });
            } else if let Some(entry) = entry_of[at]
                && self.read_labels(entry, &mut buf)
            {
                batch.push_series(&buf, series.family);
            } else {
                batch.push_known(series.id, series.family);
            }
        }
        batch.report = old.report;
        (batch.slot, batch.mark, batch.advice) = (old.slot, old.mark, old.advice);
        batch.essential = old.essential;
        batch.examples = old.examples;
        batch.families = old.families;
        batch.samples = old.samples;
        batch.verdicts = old.verdicts;
        batch.histograms = old.histograms;
        batch.start_timestamps = old.start_timestamps;
        batch.exemplars = old.exemplars;
    }

    /// Takes over what a stored scrape saw, with the ids that the store gave.
    pub(crate) fn commit(&mut self, draft: &mut Draft, batch: &mut Batch) {
        self.drafting = false;
        if batch.generation != self.generation {
            self.forget_ids();
            self.generation = batch.generation;
        }
        let id_at = |at: u32| batch.series.get(at as usize).map_or(SeriesId::NONE, |s| s.id);
        self.orphans.clear();
        if draft.failed {
            for (at, entry) in draft.stale.iter().enumerate() {
                self.entries[*entry as usize].id = id_at(draft.stale_at + at as u32);
            }
            for entry in &mut self.entries {
                entry.live = false;
            }
            return;
        }
        if let Some(sums) = &self.sums {
            sums.commit();
        }
        self.count_acts(draft);
        for (entry, mark) in self.entries.iter_mut().zip(&draft.marks) {
            let index = mark & INDEX_BITS;
            if index > 0 && entry.kind == Kind::Kept {
                entry.id = id_at(index - 1);
            }
            // A series for which the store had no room never began: its end must not make it one.
            entry.live = mark & TRACKED != 0 && entry.kind == Kind::Kept && entry.id.is_some();
        }
        // Nor is it remembered: the keys of what explodes would take the memory that it was refused.
        let entries = &self.entries;
        let is_in = |entry: &u32| entries.get(*entry as usize).is_none_or(|e| e.kind != Kind::Kept || e.id.is_some());
        if !draft.order.iter().all(is_in) {
            draft.order.retain(is_in);
        }
        if self.families != batch.families {
            self.families = std::mem::take(&mut batch.families);
        }
        let mut next = 0;
        let first_seen_in_order = draft.order.iter().all(|entry| {
            let ok = *entry <= next;
            next += u32::from(*entry == next);
            ok
        });
        if first_seen_in_order && next as usize == self.entries.len() {
            if self.order != draft.order {
                std::mem::swap(&mut self.order, &mut draft.order);
                self.order.shrink_to_fit();
            }
            if self.entries.len() > draft.entries_before {
                // Where lines keep their places nobody asks the table: it comes back when it is needed.
                self.index = None;
                self.keys.shrink_to_fit();
                self.entries.shrink_to_fit();
            }
        } else {
            self.rebuild(draft);
        }
    }

    /// Keeps what the draft saw, numbered in the order in which it was seen.
    fn rebuild(&mut self, draft: &Draft) {
        let mut moved: Vec<u32> = vec![u32::MAX; self.entries.len()];
        let mut entries = Vec::with_capacity(self.entries.len());
        let mut keys = Vec::with_capacity(self.keys.len());
        let mut order = Vec::with_capacity(draft.order.len());
        for old in &draft.order {
            if moved[*old as usize] == u32::MAX {
                moved[*old as usize] = entries.len() as u32;
                let entry = CachedSeries { start: keys.len() as u32, ..self.entry(*old).clone() };
                keys.extend_from_slice(self.key(*old));
                entries.push(entry);
            }
            order.push(moved[*old as usize]);
        }
        keys.shrink_to_fit();
        entries.shrink_to_fit();
        (self.entries, self.keys, self.order, self.index) = (entries, keys, order, None);
        self.sum_entries.retain(|_, entry| {
            *entry = moved.get(*entry as usize).copied().unwrap_or(u32::MAX);
            *entry != u32::MAX
        });
    }

    /// Forgets a draft whose batch was not stored.
    pub(crate) fn roll_back(&mut self, draft: &Draft) {
        self.drafting = false;
        self.drop_fresh(draft);
    }

    /// Forgets everything: the target is gone or its series are marked as ended.
    pub(crate) fn clear(&mut self) {
        *self = SeriesCache::default();
    }

    /// Adds a series that is not from a body to those whose end is to be marked.
    pub(crate) fn add_orphan(&mut self, labels: Labels) {
        self.orphans.push(Orphan { fingerprint: labels.fingerprint().0, labels });
    }

    /// Counts different values of each label over the kept series, a hundred thousand at most; the labels with the most
    /// come first.
    pub(crate) fn cardinalities(&self, max: usize) -> Vec<(String, u64)> {
        let mut values: HashMap<String, HashSet<u64>> = HashMap::new();
        let mut buf = LabelsBuf::default();
        for entry in 0..self.entries.len().min(COUNTED_MAX) as u32 {
            if self.entry(entry).kind == Kind::Kept && self.read_labels(entry, &mut buf) {
                for (name, value) in buf.iter() {
                    let hash = self.hasher.hash_one(value);
                    match values.get_mut(name) {
                        Some(set) => drop(set.insert(hash)),
                        None => drop(values.insert(name.to_owned(), HashSet::from([hash]))),
                    }
                }
            }
        }
        let mut list: Vec<(String, u64)> = values.into_iter().map(|(name, set)| (name, set.len() as u64)).collect();
        list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        list.truncate(max);
        list
    }

    fn orphan_all(&mut self) {
        let mut buf = LabelsBuf::default();
        let mut orphans = std::mem::take(&mut self.orphans);
        for entry in 0..self.entries.len() as u32 {
            if self.entry(entry).live && self.read_labels(entry, &mut buf) {
                let fingerprint = self.entry(entry).fingerprint;
                orphans.push(Orphan { labels: buf.to_labels(), fingerprint });
            }
        }
        let (generation, mapping) = (self.generation, self.mapping.take());
        let (sums, sums_epoch) = (self.sums.take(), self.sums_epoch);
        *self =
            SeriesCache { orphans, generation, mapping, sums, sums_epoch, drafting: true, ..SeriesCache::default() };
    }

    fn forget_ids(&mut self) {
        for entry in &mut self.entries {
            entry.id = SeriesId::NONE;
        }
    }

    /// Throws out what a draft added, and roles: they belong to the families of a scrape that did not come to be.
    fn drop_fresh(&mut self, draft: &Draft) {
        self.entries.truncate(draft.entries_before);
        self.sum_entries.retain(|_, entry| (*entry as usize) < draft.entries_before);
        self.keys.truncate(draft.keys_before);
        self.entries.shrink_to_fit();
        self.keys.shrink_to_fit();
        self.index = None;
        self.families.clear();
        for entry in &mut self.entries {
            entry.family = NO_FAMILY - 1;
        }
    }
}
