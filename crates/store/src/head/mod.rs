//! The recent samples of all series.
//!
//! Owns: pages of 1,024 slots, a lock each.
//! Invariants: 1. only the apply thread (or recovery) appends; 2. a reader holds a page's lock only while it copies
//! references to chunks.
//! Limits: 2^32 - 1 series over the life of a data directory.

mod capture;
mod lane;
mod sealed;
mod slot;
mod snapshot;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{Labels, Refusal, TimeRange, Verdict};
use parking_lot::{RwLock, RwLockWriteGuard};

pub use capture::{Capture, Out};
pub use sealed::Sealed;
pub use slot::Slot;
pub use snapshot::Snapshot;

use crate::attrs::AttrsId;
use crate::chunk_file::{Kind, Stored, Tag};

const PAGE_SLOTS: usize = 1024;

struct Slots {
    slots: Vec<Option<Slot>>,
    /// The last capture that has it.
    captured: u64,
}

struct Page {
    slots: RwLock<Slots>,
}

/// What a definition came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defined {
    New,
    /// The series was there with other attributes.
    Changed,
    Known,
}

/// What one series has to offer for a range.
pub struct HeadSeries {
    pub labels: Labels,
    pub snapshot: Snapshot,
}

/// Frozen chunks of one series.
pub struct FrozenSeries {
    pub labels: Labels,
    pub attrs: AttrsId,
    pub chunks: Vec<Sealed>,
    /// Runs of native histograms.
    pub histograms: Vec<Sealed>,
}

/// All series of the head.
pub struct Head {
    pages: RwLock<Vec<Option<Arc<Page>>>>,
    window_ms: i64,
    samples: AtomicU64,
    capture: RwLock<Option<Arc<Capture>>>,
}

impl Head {
    /// Starts empty.
    pub fn new(window_ms: i64) -> Head {
        Head {
            pages: RwLock::new(Vec::new()),
            window_ms: window_ms.max(1),
            samples: AtomicU64::new(0),
            capture: RwLock::new(None),
        }
    }

    /// Makes a slot, or changes the attributes of the one that is there.
    pub fn define(&self, id: u32, labels: &Labels, attrs: AttrsId) -> Defined {
        let (page, slot) = place(id);
        let page = self.page_for_write(page);
        let mut slots = page.slots.write();
        let Some(place) = slots.slots.get_mut(slot) else { return Defined::Known };
        match place {
            Some(slot) if slot.attrs == attrs => Defined::Known,
            Some(slot) => {
                slot.attrs = attrs;
                Defined::Changed
            }
            None => {
                *place = Some(Slot::new(labels.clone(), attrs));
                Defined::New
            }
        }
    }

    fn page_for_write(&self, number: usize) -> Arc<Page> {
        if let Some(Some(page)) = self.pages.read().get(number) {
            return page.clone();
        }
        let mut pages = self.pages.write();
        if pages.len() <= number {
            pages.resize(number + 1, None);
        }
        let mut slots = Vec::new();
        slots.resize_with(PAGE_SLOTS, || None);
        let page = Arc::new(Page { slots: RwLock::new(Slots { slots, captured: 0 }) });
        pages[number] = Some(page.clone());
        page
    }

    /// Appends samples in order. `decided` gets a verdict for each; `None` when the series is unknown.
    pub fn apply(&self, samples: impl Iterator<Item = (u32, i64, f64)>, decided: impl FnMut(Option<Verdict>)) {
        let samples = samples.map(|(id, ts_ms, value)| (id, (ts_ms, value)));
        self.apply_each(samples, |slot, (ts_ms, value)| slot.append(ts_ms, value, self.window_ms), decided);
    }

    /// Appends native histograms in order, each as `Histogram::encode` writes it; otherwise as [`Head::apply`].
    pub fn apply_histograms<B: AsRef<[u8]>>(
        &self,
        histograms: impl Iterator<Item = (u32, i64, B)>,
        decided: impl FnMut(Option<Verdict>),
    ) {
        let histograms = histograms.map(|(id, ts_ms, bytes)| (id, (ts_ms, bytes)));
        let append =
            |slot: &mut Slot, (ts_ms, bytes): (i64, B)| slot.append_histogram(ts_ms, bytes.as_ref(), self.window_ms);
        self.apply_each(histograms, append, decided);
    }

    fn apply_each<T>(
        &self,
        items: impl Iterator<Item = (u32, T)>,
        append: impl Fn(&mut Slot, T) -> Verdict,
        mut decided: impl FnMut(Option<Verdict>),
    ) {
        let pages = self.pages.read();
        let capture = self.capture.read().clone();
        let mut held: Option<(usize, RwLockWriteGuard<'_, Slots>)> = None;
        let mut stored = 0;
        for (id, item) in items {
            let (page, slot) = place(id);
            if held.as_ref().is_none_or(|(number, _)| *number != page) {
                drop(held.take());
                held = pages.get(page).and_then(Option::as_ref).map(|p| (page, p.slots.write()));
                if let (Some(capture), Some((_, slots))) = (&capture, &mut held) {
                    slots.captured_by(capture, page);
                }
            }
            let slot = held.as_mut().and_then(|(_, slots)| slots.slots.get_mut(slot)?.as_mut());
            let verdict = slot.map(|slot| append(slot, item));
            stored += u64::from(verdict == Some(Verdict::Stored));
            decided(verdict);
        }
        self.samples.fetch_add(stored, Ordering::Relaxed);
    }

    /// Counts the samples.
    pub fn samples(&self) -> u64 {
        self.samples.load(Ordering::Relaxed)
    }

    /// Copies references to what the given series (sorted ids) hold in a range.
    pub fn snapshot(&self, ids: &[u32], range: TimeRange) -> Vec<HeadSeries> {
        let mut out = Vec::with_capacity(ids.len());
        self.visit(ids, |_, slot| {
            if let Some(snapshot) = slot.snapshot(range) {
                out.push(HeadSeries { labels: slot.labels.clone(), snapshot });
            }
        });
        out
    }

    /// Visits the given series (sorted ids) that are there.
    pub fn visit(&self, ids: &[u32], mut act: impl FnMut(u32, &Slot)) {
        for run in ids.chunk_by(|a, b| place(*a).0 == place(*b).0) {
            let number = run.first().map_or(0, |id| place(*id).0);
            let Some(page) = self.page(number) else { continue };
            let slots = page.slots.read();
            for id in run {
                if let Some(Some(slot)) = slots.slots.get(place(*id).1) {
                    act(*id, slot);
                }
            }
        }
    }

    /// Visits all series, in order of their ids.
    pub fn visit_all(&self, mut act: impl FnMut(u32, &Slot)) {
        for number in 0..self.page_count() {
            let Some(page) = self.page(number) else { continue };
            for (index, slot) in page.slots.read().slots.iter().enumerate() {
                if let Some(slot) = slot {
                    act((number * PAGE_SLOTS + index) as u32, slot);
                }
            }
        }
    }

    /// Gives all series, sorted by id.
    pub fn labels(&self) -> Vec<(u32, Labels)> {
        let mut out = Vec::new();
        self.visit_all(|id, slot| out.push((id, slot.labels.clone())));
        out
    }

    /// Gives how many pages there are. The lock is free again: who holds it and asks for a page waits for ever, when the apply
    /// thread waits to add one.
    fn page_count(&self) -> usize {
        self.pages.read().len()
    }

    fn page(&self, number: usize) -> Option<Arc<Page>> {
        self.pages.read().get(number).cloned().flatten()
    }

    fn visit_all_mut(&self, mut act: impl FnMut(&mut Slot)) {
        for number in 0..self.page_count() {
            let Some(page) = self.page(number) else { continue };
            page.slots.write().slots.iter_mut().flatten().for_each(&mut act);
        }
    }

    /// Freezes all samples before a window's edge. The caller keeps the apply thread out meanwhile.
    pub fn freeze(&self, before_ms: i64) {
        self.visit_all_mut(|slot| slot.freeze(before_ms, self.window_ms));
    }

    /// Gives the series that have frozen chunks.
    pub fn frozen(&self) -> Vec<FrozenSeries> {
        let mut out = Vec::new();
        self.visit_all(|_, slot| {
            let chunks: Vec<Sealed> = slot.frozen().cloned().collect();
            let histograms: Vec<Sealed> = slot.frozen_histograms().cloned().collect();
            if !chunks.is_empty() || !histograms.is_empty() {
                out.push(FrozenSeries { labels: slot.labels.clone(), attrs: slot.attrs, chunks, histograms });
            }
        });
        out
    }

    /// Forgets the frozen chunks.
    pub fn drop_frozen(&self) {
        let mut dropped = 0;
        self.visit_all_mut(|slot| dropped += slot.drop_frozen());
        self.samples.fetch_sub(dropped, Ordering::Relaxed);
    }

    /// Begins a capture; the caller keeps the apply thread out meanwhile, and no other capture is under way.
    pub fn begin_capture(&self, capture: Arc<Capture>) {
        *self.capture.write() = Some(capture);
    }

    /// Captures the pages that the apply thread has not.
    pub fn capture_rest(&self, capture: &Capture) {
        for number in 0..self.page_count() {
            if let Some(page) = self.page(number) {
                page.slots.write().captured_by(capture, number);
                capture.sync_early();
            }
        }
    }

    /// Ends a capture.
    pub fn end_capture(&self) {
        *self.capture.write() = None;
    }

    /// Gives the length of a window.
    pub fn window_ms(&self) -> i64 {
        self.window_ms
    }

    /// Forgets the bytes of chunks that are durable in files now. Since they were captured none may have been dropped.
    pub fn move_to_files(&self, placed: Vec<(Tag, Stored)>) {
        let mut held: Option<(usize, Arc<Page>)> = None;
        for ((id, kind, index), stored) in placed {
            let (number, slot) = place(id);
            if held.as_ref().is_none_or(|h| h.0 != number) {
                held = self.page(number).map(|page| (number, page));
            }
            if let Some((_, page)) = &held
                && let Some(Some(slot)) = page.slots.write().slots.get_mut(slot)
            {
                slot.move_to(kind, index as usize, stored);
            }
        }
    }

    /// Takes chunks of an earlier life; gives how many belong to no known series.
    pub fn restore(&self, chunks: impl Iterator<Item = (u32, Kind, Sealed)>) -> u64 {
        let pages = self.pages.read();
        let mut held: Option<(usize, RwLockWriteGuard<'_, Slots>)> = None;
        let (mut samples, mut orphans) = (0, 0);
        for (id, kind, chunk) in chunks {
            let (page, slot) = place(id);
            if held.as_ref().is_none_or(|(number, _)| *number != page) {
                drop(held.take());
                held = pages.get(page).and_then(Option::as_ref).map(|p| (page, p.slots.write()));
            }
            match held.as_mut().and_then(|(_, slots)| slots.slots.get_mut(slot)?.as_mut()) {
                Some(slot) => {
                    samples += u64::from(chunk.count);
                    slot.restore(kind, chunk);
                }
                None => orphans += 1,
            }
        }
        self.samples.fetch_add(samples, Ordering::Relaxed);
        orphans
    }

    /// Finds the series without samples whose last one is older than given.
    pub fn idle_since(&self, before_ms: i64) -> Vec<(u32, Labels)> {
        let mut out = Vec::new();
        self.visit_all(|id, slot| {
            if slot.latest_ms < before_ms && slot.count() == 0 {
                out.push((id, slot.labels.clone()));
            }
        });
        out
    }

    /// Forgets series.
    pub fn remove(&self, ids: &[u32]) {
        for id in ids {
            let (number, slot) = place(*id);
            let Some(page) = self.page(number) else { continue };
            if let Some(place) = page.slots.write().slots.get_mut(slot) {
                *place = None;
            }
        }
        let mut pages = self.pages.write();
        for page in pages.iter_mut() {
            if page.as_ref().is_some_and(|p| p.slots.read().slots.iter().all(Option::is_none)) {
                *page = None;
            }
        }
    }
}

impl Slots {
    fn captured_by(&mut self, capture: &Capture, page: usize) {
        if self.captured != capture.round {
            self.captured = capture.round;
            capture.page((page * PAGE_SLOTS) as u32, &self.slots);
        }
    }
}

fn place(id: u32) -> (usize, usize) {
    (id as usize / PAGE_SLOTS, id as usize % PAGE_SLOTS)
}

/// Gives the verdict on a sample whose series is not known.
pub fn unknown_series() -> Verdict {
    Verdict::Refused(Refusal::InvalidName)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_over_all_series_does_not_keep_new_ones_out() {
        let head = Head::new(1_000);
        let labels = Labels::from_pairs([("__name__", "a")]);
        let define = |page: usize| head.define((page * PAGE_SLOTS) as u32, &labels, AttrsId(0));
        define(0);
        define(1);
        let (mut walked, mut made) = (0, 2);
        head.visit_all(|_, _| {
            walked += 1;
            // On another thread, as the apply thread does it, while the walk goes on.
            std::thread::scope(|s| s.spawn(|| define(made)).join()).expect("a thread");
            made += 1;
        });
        assert_eq!((walked, made, head.labels().len()), (2, 4, 4));
        head.visit_all_mut(|_| {
            std::thread::scope(|s| s.spawn(|| define(made)).join()).expect("a thread");
            made += 1;
        });
        assert_eq!(head.labels().len(), 8);
    }
}
