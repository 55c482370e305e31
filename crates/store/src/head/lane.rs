//! The recent native histograms of one series.
//!
//! Owns: an open, sorted run of encoded histograms, and sealed runs. Late ones are sorted into the open run.
//! Invariants: 1. of what is not frozen no time stands twice; 2. a sealed run never spans two windows; 3. all bytes are
//! what `Histogram::encode` gave for a histogram that decodes again.
//! Limits: [`OPEN_MAX`] histograms in the open run before it is sealed.

use std::sync::Arc;

use model::{Refusal, TimeRange, Verdict};

use super::sealed::Sealed;
use super::slot::window;
use crate::coding::{Cursor, Malformed, put_bytes, put_signed};

/// As long as a chunk of doubles.
const OPEN_MAX: usize = 120;

/// The histograms of one series.
#[derive(Debug)]
pub struct Lane {
    /// Sorted by time; the bytes are shared with readers.
    open: Vec<(i64, Arc<[u8]>)>,
    sealed: Vec<Sealed>,
    /// Latest time of what is not frozen; `i64::MIN` when there is nothing.
    newest_ms: i64,
}

impl Default for Lane {
    fn default() -> Lane {
        Lane { open: Vec::new(), sealed: Vec::new(), newest_ms: i64::MIN }
    }
}

impl Lane {
    /// Stores an encoded histogram, or says why not. The caller has asked the doubles.
    pub fn append(&mut self, ts_ms: i64, bytes: &[u8], window_ms: i64) -> Verdict {
        match self.same_at(ts_ms, bytes) {
            Some(true) => return Verdict::Duplicate,
            Some(false) => return Verdict::Refused(Refusal::DuplicateConflict),
            None => {}
        }
        if self.open.len() >= OPEN_MAX {
            let full = std::mem::take(&mut self.open);
            self.seal(&full, window_ms, 0);
        }
        let at = self.open.partition_point(|h| h.0 < ts_ms);
        self.open.insert(at, (ts_ms, Arc::from(bytes)));
        self.newest_ms = self.newest_ms.max(ts_ms);
        Verdict::Stored
    }

    /// Tells whether a histogram that is not frozen has this time.
    pub fn contains(&self, ts_ms: i64) -> bool {
        self.same_at(ts_ms, &[]).is_some()
    }

    /// Tells whether the histogram of that time has these bytes; `None` without one.
    fn same_at(&self, ts_ms: i64, bytes: &[u8]) -> Option<bool> {
        if ts_ms > self.newest_ms {
            return None;
        }
        if let Ok(at) = self.open.binary_search_by_key(&ts_ms, |h| h.0) {
            return self.open.get(at).map(|h| *h.1 == *bytes);
        }
        let asked = self.sealed.iter().filter(|s| s.answers_for(ts_ms));
        asked.filter_map(|s| Some((s.look_up()?, s.count))).find_map(|(run, count)| {
            entries(&run, count).take_while(|e| e.0 <= ts_ms).find(|e| e.0 == ts_ms).map(|e| e.1 == bytes)
        })
    }

    /// Seals sorted histograms, a run for each window.
    fn seal(&mut self, run: &[(i64, Arc<[u8]>)], window_ms: i64, frozen: u32) {
        for part in run.chunk_by(|a, b| window(a.0, window_ms) == window(b.0, window_ms)) {
            self.sealed.extend(sealed(part).map(|run| run.aged(frozen)));
        }
    }

    /// As [`super::slot::Slot::unwritten`].
    pub fn unwritten(&self, window_ms: i64, act: &mut dyn FnMut(Option<usize>, &Sealed)) {
        for (place, run) in self.sealed.iter().enumerate().filter(|r| r.1.in_memory_bytes().is_some()) {
            act(Some(place), run);
        }
        for part in self.open.chunk_by(|a, b| window(a.0, window_ms) == window(b.0, window_ms)) {
            sealed(part).iter().for_each(|run| act(None, run));
        }
    }

    /// Gives a sealed run to change where its bytes are.
    pub fn sealed_mut(&mut self, place: usize) -> Option<&mut Sealed> {
        self.sealed.get_mut(place)
    }

    /// Takes a run of an earlier life.
    pub fn restore(&mut self, run: Sealed) {
        self.newest_ms = self.newest_ms.max(run.max_ms);
        self.sealed.push(run);
    }

    /// Marks all histograms before a window's edge as on their way into blocks.
    pub fn freeze(&mut self, before_ms: i64, window_ms: i64) {
        self.sealed.iter_mut().for_each(|run| run.freeze(before_ms));
        let rest = self.open.split_off(self.open.partition_point(|h| h.0 < before_ms));
        let over = std::mem::replace(&mut self.open, rest);
        self.seal(&over, window_ms, 1);
        let newest = self.open.last().map_or(i64::MIN, |h| h.0);
        self.newest_ms = self.sealed.iter().filter(|s| !s.is_frozen()).map(|s| s.max_ms).fold(newest, i64::max);
    }

    /// Forgets the frozen runs.
    pub fn drop_frozen(&mut self) {
        self.sealed.retain(|s| !s.is_frozen());
        self.sealed.shrink_to_fit();
    }

    /// Gives the frozen runs.
    pub fn frozen(&self) -> impl Iterator<Item = &Sealed> {
        self.sealed.iter().filter(|s| s.is_frozen())
    }

    /// Counts the histograms, frozen ones included.
    pub fn count(&self) -> u64 {
        self.open.len() as u64 + self.sealed.iter().map(|s| u64::from(s.count)).sum::<u64>()
    }

    /// Counts the runs, the open one included.
    pub fn runs(&self) -> u64 {
        self.sealed.len() as u64 + u64::from(!self.open.is_empty())
    }

    /// Gives the memory it takes.
    pub fn bytes(&self) -> u64 {
        let open = self.open.iter().map(|h| h.1.len() + 48).sum::<usize>();
        let held = |s: &Sealed| s.in_memory_bytes().map_or(0, |bytes| bytes.len() + 16) + size_of::<Sealed>();
        let sealed = self.sealed.iter().map(held).sum::<usize>();
        (size_of::<Lane>() + open + sealed) as u64
    }

    /// Gives first and last time; `None` without histograms.
    pub fn span(&self) -> Option<(i64, i64)> {
        let open = self.open.first().zip(self.open.last()).map(|(first, last)| (first.0, last.0));
        let sealed = self.sealed.iter().map(|s| (s.min_ms, s.max_ms));
        sealed.chain(open).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Copies what may lie in a range.
    pub fn snapshot(&self, range: TimeRange) -> LaneSnapshot {
        let inside = |s: &&Sealed| s.min_ms <= range.end_ms && range.start_ms <= s.max_ms;
        LaneSnapshot {
            sealed: self.sealed.iter().filter(inside).cloned().collect(),
            open: self.open.iter().filter(|h| range.contains(h.0)).cloned().collect(),
        }
    }
}

/// The histograms of a series at one moment.
#[derive(Clone, Debug, Default)]
pub struct LaneSnapshot {
    sealed: Vec<Sealed>,
    open: Vec<(i64, Arc<[u8]>)>,
}

impl LaneSnapshot {
    /// Takes given runs only.
    pub fn of_runs(sealed: Vec<Sealed>) -> LaneSnapshot {
        LaneSnapshot { sealed, open: Vec::new() }
    }

    /// Tells whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty()
    }

    /// Reads the runs whose bytes are in files.
    pub fn load(&self) -> Result<LoadedLane<'_>, String> {
        let loaded = |s: &Sealed| Ok((s.load()?, s.count, s.frozen));
        Ok(LoadedLane { sealed: self.sealed.iter().map(loaded).collect::<Result<_, String>>()?, open: &self.open })
    }
}

/// Those histograms with all their bytes.
pub struct LoadedLane<'a> {
    /// Bytes, number, how often frozen.
    sealed: Vec<(Arc<[u8]>, u16, u32)>,
    open: &'a [(i64, Arc<[u8]>)],
}

impl LoadedLane<'_> {
    /// Gives those in a range, times strictly rising, of equal times the first written: time, how often frozen, bytes.
    pub fn in_range(&self, range: TimeRange) -> Vec<(i64, u32, &[u8])> {
        let sealed = self.sealed.iter().flat_map(|s| entries(&s.0, s.1).map(|e| (e.0, s.2, e.1)));
        let open = self.open.iter().map(|h| (h.0, 0, &*h.1));
        let mut all: Vec<_> = sealed.chain(open).filter(|h| range.contains(h.0)).collect();
        // Stable: what was written first stays in front of its equals.
        all.sort_by_key(|h| h.0);
        all.dedup_by_key(|h| h.0);
        all
    }
}

/// Seals histograms of one window.
fn sealed(part: &[(i64, Arc<[u8]>)]) -> Option<Sealed> {
    let (first, last) = (part.first()?.0, part.last()?.0);
    let mut bytes = Vec::new();
    let mut before = 0i64;
    for (ts_ms, histogram) in part {
        put_signed(&mut bytes, ts_ms.wrapping_sub(before));
        put_bytes(&mut bytes, histogram);
        before = *ts_ms;
    }
    Some(Sealed::in_memory(&bytes, first, last, part.len() as u16))
}

fn entries(run: &[u8], count: u16) -> impl Iterator<Item = (i64, &[u8])> {
    let mut cursor = Cursor::new(run);
    let mut ts_ms = 0i64;
    std::iter::from_fn(move || {
        let mut next = || -> Result<(i64, &[u8]), Malformed> {
            ts_ms = ts_ms.wrapping_add(cursor.signed()?);
            Ok((ts_ms, cursor.bytes()?))
        };
        next().ok()
    })
    .take(usize::from(count))
}
