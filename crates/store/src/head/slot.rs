//! The recent samples of one series.
//!
//! Owns: the open chunk, sealed chunks, the out-of-order lane, and native histograms if there are any.
//! Invariants: 1. of the samples that are not frozen no time stands twice, be they doubles or histograms; 2. a chunk never spans two windows; 3. the
//! verdict on a sample depends only on the set of samples that are not frozen, so that replay comes to the same.
//! Limits: 120 samples or some 400 bytes in the open chunk, 1,024 samples in the lane before it is sealed.

use model::{Labels, Refusal, TimeRange, Verdict, is_stale};

use super::lane::Lane;
use super::sealed::Sealed;
use super::snapshot::Snapshot;
use crate::attrs::AttrsId;
use crate::chunk::{Appender, ChunkIter};
use crate::chunk_file::{Kind, Stored};
use crate::memory::MemoryParts;

/// Half an hour of a 15 s scrape: long enough to compress, short enough to decode for one sample.
const CHUNK_SAMPLES_MAX: u16 = 120;
/// Values that do not pack: what is open of a series stays small all the same.
const CHUNK_BYTES_MAX: usize = 400;
/// Keeps an insertion into the sorted lane within a few cache lines' worth of copying.
const LATE_SAMPLES_MAX: usize = 1024;

/// One series of the head.
#[derive(Debug)]
pub struct Slot {
    pub labels: Labels,
    pub attrs: AttrsId,
    /// Latest time of any sample ever appended; tells when the series may be forgotten.
    pub latest_ms: i64,
    /// Latest time of what is not frozen; `i64::MIN` when there is nothing.
    newest_ms: i64,
    open: Appender,
    open_min_ms: i64,
    sealed: Vec<Sealed>,
    /// Samples that came after a later one, sorted by time.
    #[allow(clippy::box_collection, reason = "nearly always absent: eight bytes instead of twenty-four")]
    late: Option<Box<Vec<(i64, f64)>>>,
    /// Absent until the first native histogram comes.
    histograms: Option<Box<Lane>>,
}

impl Slot {
    /// Starts without samples.
    pub fn new(labels: Labels, attrs: AttrsId) -> Slot {
        Slot {
            labels,
            attrs,
            latest_ms: i64::MIN,
            newest_ms: i64::MIN,
            open: Appender::default(),
            open_min_ms: 0,
            sealed: Vec::new(),
            late: None,
            histograms: None,
        }
    }

    /// Stores a sample, or says why not.
    pub fn append(&mut self, ts_ms: i64, value: f64, window_ms: i64) -> Verdict {
        if self.histograms.as_ref().is_some_and(|lane| lane.contains(ts_ms)) {
            return Verdict::Refused(Refusal::DuplicateConflict);
        }
        if ts_ms > self.newest_ms {
            self.append_in_order(ts_ms, value, window_ms);
            return Verdict::Stored;
        }
        match self.bits_at(ts_ms) {
            Some(bits) if bits == value.to_bits() => Verdict::Duplicate,
            Some(_) => Verdict::Refused(Refusal::DuplicateConflict),
            None => {
                self.insert_late(ts_ms, value, window_ms);
                Verdict::Stored
            }
        }
    }

    /// Stores a native histogram, given as `Histogram::encode` writes it, or says why not.
    pub fn append_histogram(&mut self, ts_ms: i64, bytes: &[u8], window_ms: i64) -> Verdict {
        if ts_ms <= self.newest_ms && self.bits_at(ts_ms).is_some() {
            return Verdict::Refused(Refusal::DuplicateConflict);
        }
        let verdict = self.histograms.get_or_insert_default().append(ts_ms, bytes, window_ms);
        if verdict == Verdict::Stored {
            self.latest_ms = self.latest_ms.max(ts_ms);
        }
        verdict
    }

    /// Counts the chunks, the open one and those of histograms included.
    pub fn chunks(&self) -> u64 {
        let histograms = self.histograms.as_ref().map_or(0, |lane| lane.runs());
        self.sealed.len() as u64 + u64::from(self.open.count() > 0) + histograms
    }

    /// Gives number and bytes of the native histograms.
    pub fn histograms(&self) -> (u64, u64) {
        self.histograms.as_ref().map_or((0, 0), |lane| (lane.count(), lane.bytes()))
    }

    fn append_in_order(&mut self, ts_ms: i64, value: f64, window_ms: i64) {
        let full = self.open.count() >= CHUNK_SAMPLES_MAX || self.open.bytes().len() >= CHUNK_BYTES_MAX;
        if full || (self.open.count() > 0 && window(self.open.last_ts(), window_ms) != window(ts_ms, window_ms)) {
            self.seal_open();
        }
        if self.open.count() == 0 {
            self.open_min_ms = ts_ms;
        }
        self.open.push(ts_ms, value);
        self.newest_ms = ts_ms;
        self.latest_ms = self.latest_ms.max(ts_ms);
    }

    fn seal_open(&mut self) {
        self.push_sealed(self.open_chunk());
        self.open = Appender::default();
    }

    /// Finds the value at a time among what is not frozen.
    fn bits_at(&self, ts_ms: i64) -> Option<u64> {
        if self.open.count() > 0 && self.open_min_ms <= ts_ms && ts_ms <= self.open.last_ts() {
            if ts_ms == self.open.last_ts() {
                return Some(self.open.last_bits());
            }
            if let Some(bits) = bits_in(self.open.bytes(), self.open.count(), ts_ms) {
                return Some(bits);
            }
        }
        if let Some(late) = &self.late
            && let Ok(at) = late.binary_search_by_key(&ts_ms, |s| s.0)
        {
            return late.get(at).map(|s| s.1.to_bits());
        }
        let asked = self.sealed.iter().rev().filter(|c| c.answers_for(ts_ms));
        asked.filter_map(|c| Some((c.look_up()?, c.count))).find_map(|(bytes, count)| bits_in(&bytes, count, ts_ms))
    }

    fn insert_late(&mut self, ts_ms: i64, value: f64, window_ms: i64) {
        let late = self.late.get_or_insert_default();
        let at = late.partition_point(|s| s.0 < ts_ms);
        late.insert(at, (ts_ms, value));
        self.latest_ms = self.latest_ms.max(ts_ms);
        if late.len() >= LATE_SAMPLES_MAX
            && let Some(late) = self.late.take()
        {
            self.seal_run(&late, window_ms, 0);
        }
    }

    /// Seals sorted samples, chunks of each window: short ones, because each late sample that follows looks into all that it lies in.
    fn seal_run(&mut self, run: &[(i64, f64)], window_ms: i64, frozen: u32) {
        for part in run.chunk_by(|a, b| window(a.0, window_ms) == window(b.0, window_ms)) {
            part.chunks(usize::from(CHUNK_SAMPLES_MAX)).for_each(|run| self.push_sealed(packed(run).aged(frozen)));
        }
    }

    /// Sealing is rare: no room is kept for the next one.
    fn push_sealed(&mut self, chunk: Sealed) {
        self.sealed.reserve_exact(1);
        self.sealed.push(chunk);
    }

    /// Gives the open chunk as it is now.
    fn open_chunk(&self) -> Sealed {
        Sealed::in_memory(self.open.bytes(), self.open_min_ms, self.open.last_ts(), self.open.count())
    }

    /// Marks all samples before a window's edge as on their way into blocks.
    pub fn freeze(&mut self, before_ms: i64, window_ms: i64) {
        if self.open.count() > 0 && self.open.last_ts() < before_ms {
            self.seal_open();
        }
        self.sealed.iter_mut().for_each(|chunk| chunk.freeze(before_ms));
        if let Some(lane) = &mut self.histograms {
            lane.freeze(before_ms, window_ms);
        }
        if let Some(mut late) = self.late.take() {
            let rest = late.split_off(late.partition_point(|s| s.0 < before_ms));
            self.seal_run(&late, window_ms, 1);
            self.late = (!rest.is_empty()).then(|| Box::new(rest));
        }
        let mut newest = if self.open.count() > 0 { self.open.last_ts() } else { i64::MIN };
        newest = self.sealed.iter().filter(|c| !c.is_frozen()).map(|c| c.max_ms).fold(newest, i64::max);
        self.newest_ms = self.late.iter().flat_map(|l| l.last()).map(|s| s.0).fold(newest, i64::max);
    }

    /// Forgets the frozen chunks; gives how many samples that were.
    pub fn drop_frozen(&mut self) -> u64 {
        let before = self.count();
        self.sealed.retain(|c| !c.is_frozen());
        self.sealed.shrink_to_fit();
        if let Some(lane) = &mut self.histograms {
            lane.drop_frozen();
        }
        self.histograms.take_if(|lane| lane.count() == 0);
        before - self.count()
    }

    /// Gives the frozen runs of native histograms.
    pub fn frozen_histograms(&self) -> impl Iterator<Item = &Sealed> {
        self.histograms.iter().flat_map(|lane| lane.frozen())
    }

    /// Gives the frozen chunks.
    pub fn frozen(&self) -> impl Iterator<Item = &Sealed> {
        self.sealed.iter().filter(|c| c.is_frozen())
    }

    /// Gives what no chunk file has yet: sealed chunks with their place among those of their kind, and as chunks without
    /// a place what still grows.
    pub fn unwritten(&self, window_ms: i64, act: &mut dyn FnMut(Kind, Option<usize>, &Sealed)) {
        for (place, chunk) in self.sealed.iter().enumerate().filter(|c| c.1.in_memory_bytes().is_some()) {
            act(Kind::Doubles, Some(place), chunk);
        }
        if self.open.count() > 0 {
            act(Kind::Doubles, None, &self.open_chunk());
        }
        let late = self.late.as_deref().map_or(&[][..], |late| late);
        for part in late.chunk_by(|a, b| window(a.0, window_ms) == window(b.0, window_ms)) {
            act(Kind::Doubles, None, &packed(part));
        }
        if let Some(lane) = &self.histograms {
            lane.unwritten(window_ms, &mut |place, run| act(Kind::Histograms, place, run));
        }
    }

    /// Notes that a sealed chunk is durable in a file.
    pub fn move_to(&mut self, kind: Kind, place: usize, stored: Stored) {
        let chunk = match kind {
            Kind::Doubles => self.sealed.get_mut(place),
            Kind::Histograms => self.histograms.as_mut().and_then(|lane| lane.sealed_mut(place)),
        };
        if let Some(chunk) = chunk {
            chunk.move_to(stored);
        }
    }

    /// Takes a chunk of an earlier life; they come in the order in which they were written.
    pub fn restore(&mut self, kind: Kind, chunk: Sealed) {
        self.latest_ms = self.latest_ms.max(chunk.max_ms);
        match kind {
            Kind::Doubles => {
                self.newest_ms = self.newest_ms.max(chunk.max_ms);
                self.push_sealed(chunk);
            }
            Kind::Histograms => self.histograms.get_or_insert_default().restore(chunk),
        }
    }

    /// Adds the memory that it takes.
    pub fn add_memory(&self, parts: &mut MemoryParts) {
        parts.series += 1;
        parts.labels += self.labels.as_bytes().len() as u64 + 16;
        parts.slots += size_of::<Option<Slot>>() as u64;
        parts.open_chunks += self.open.capacity() as u64;
        parts.chunk_places += (self.sealed.capacity() * size_of::<Sealed>()) as u64;
        let bytes = self.sealed.iter().filter_map(Sealed::in_memory_bytes).map(|b| b.len() as u64 + 16);
        parts.sealed_chunks += bytes.sum::<u64>();
        parts.late += self.late.as_ref().map_or(0, |l| l.capacity() * 16 + 24) as u64;
        parts.histograms += self.histograms().1;
    }

    /// Tells whether the last sample says that the series has ended.
    pub fn has_ended(&self) -> bool {
        let open = &self.open;
        open.count() > 0 && open.last_ts() == self.latest_ms && is_stale(f64::from_bits(open.last_bits()))
    }

    /// Counts the samples, frozen ones included.
    pub fn count(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|c| u64::from(c.count)).sum();
        let late = self.late.as_ref().map_or(0, |l| l.len() as u64);
        sealed + u64::from(self.open.count()) + late + self.histograms().0
    }

    /// Gives first and last time; `None` without samples.
    pub fn span(&self) -> Option<(i64, i64)> {
        let open = (self.open.count() > 0).then(|| (self.open_min_ms, self.open.last_ts()));
        let late = self.late.as_ref().and_then(|l| Some((l.first()?.0, l.last()?.0)));
        let sealed = self.sealed.iter().map(|c| (c.min_ms, c.max_ms));
        let histograms = self.histograms.as_ref().and_then(|lane| lane.span());
        sealed.chain(open).chain(late).chain(histograms).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Copies what may hold samples in a range; `None` when nothing does.
    pub fn snapshot(&self, range: TimeRange) -> Option<Snapshot> {
        let inside = |min_ms, max_ms| min_ms <= range.end_ms && range.start_ms <= max_ms;
        let mut chunks: Vec<Sealed> = self.sealed.iter().filter(|c| inside(c.min_ms, c.max_ms)).cloned().collect();
        if self.open.count() > 0 && inside(self.open_min_ms, self.open.last_ts()) {
            chunks.push(self.open_chunk());
        }
        let late: Vec<(i64, f64)> =
            self.late.iter().flat_map(|l| l.iter()).filter(|s| range.contains(s.0)).copied().collect();
        let histograms = self.histograms.as_ref().map(|lane| lane.snapshot(range)).filter(|h| !h.is_empty());
        let found = !chunks.is_empty() || !late.is_empty() || histograms.is_some();
        found.then_some(Snapshot { chunks, late, histograms })
    }
}

/// Packs sorted samples of one window.
fn packed(part: &[(i64, f64)]) -> Sealed {
    let mut chunk = Appender::default();
    part.iter().for_each(|(ts_ms, value)| chunk.push(*ts_ms, *value));
    Sealed::in_memory(chunk.bytes(), part.first().map_or(0, |s| s.0), chunk.last_ts(), chunk.count())
}

/// Gives the number of a time's window.
pub fn window(ts_ms: i64, window_ms: i64) -> i64 {
    ts_ms.div_euclid(window_ms)
}

fn bits_in(bytes: &[u8], count: u16, ts_ms: i64) -> Option<u64> {
    ChunkIter::new(bytes, count).take_while(|s| s.0 <= ts_ms).find(|s| s.0 == ts_ms).map(|s| s.1.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Samples;
    use model::histogram::Histogram;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const WINDOW: i64 = 1000;

    fn read(slot: &Slot, range: TimeRange) -> Vec<(i64, u64)> {
        let mut out = Samples::default();
        slot.snapshot(range).unwrap_or_default().read(range, &mut out).unwrap();
        out.ts_ms.iter().copied().zip(out.values.iter().map(|v| v.to_bits())).collect()
    }

    proptest! {
        #[test]
        fn a_slot_is_a_sorted_map_whatever_the_order(
            samples in prop::collection::vec((0i64..5000, 0u64..3), 1..2500), freeze_at in 0usize..2500, start in 0i64..5000, len in 0i64..5000,
        ) {
            let mut slot = Slot::new(Labels::empty(), AttrsId(0));
            let (mut all, mut fresh) = (BTreeMap::new(), BTreeMap::new());
            for (n, (ts, bits)) in samples.iter().enumerate() {
                if n == freeze_at {
                    slot.freeze(2000, WINDOW);
                    fresh.retain(|ts, _| *ts >= 2000);
                }
                let want = match fresh.get(ts) {
                    None => Verdict::Stored,
                    Some(old) if old == bits => Verdict::Duplicate,
                    Some(_) => Verdict::Refused(Refusal::DuplicateConflict),
                };
                prop_assert_eq!(slot.append(*ts, f64::from_bits(*bits), WINDOW), want);
                fresh.entry(*ts).or_insert(*bits);
                all.entry(*ts).or_insert(*bits);
            }
            let range = TimeRange { start_ms: start, end_ms: start + len };
            prop_assert_eq!(read(&slot, range), all.range(start..=start + len).map(|(t, b)| (*t, *b)).collect::<Vec<_>>());
            slot.drop_frozen();
            prop_assert_eq!(read(&slot, TimeRange::ALL), fresh.into_iter().collect::<Vec<_>>());
        }
    }

    /// Stands for a histogram in a map of bits: no double has it here.
    const HISTOGRAM: u64 = 1 << 63;

    fn histogram(n: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Histogram { count: n as f64, ..Histogram::default() }.encode(&mut bytes);
        bytes
    }

    fn read_all(slot: &Slot, range: TimeRange) -> BTreeMap<i64, u64> {
        let mut out = Samples::default();
        slot.snapshot(range).unwrap_or_default().read(range, &mut out).unwrap();
        assert!(out.histograms.windows(2).all(|w| w[0].0 < w[1].0));
        let mut rows: BTreeMap<i64, u64> =
            out.ts_ms.iter().copied().zip(out.values.iter().map(|v| v.to_bits())).collect();
        for (ts, histogram) in &out.histograms {
            assert_eq!(rows.insert(*ts, HISTOGRAM | histogram.count as u64), None, "a double and a histogram at {ts}");
        }
        rows
    }

    proptest! {
        #[test]
        fn doubles_and_histograms_share_a_map_in_which_the_first_written_stays(
            samples in prop::collection::vec((0i64..3000, 0u64..3, any::<bool>()), 1..1500),
            freezes in prop::collection::vec((0usize..1500, 0i64..4), 0..4), start in 0i64..3000, len in 0i64..3000,
        ) {
            let mut slot = Slot::new(Labels::empty(), AttrsId(0));
            let (mut all, mut fresh) = (BTreeMap::new(), BTreeMap::new());
            let mut stored = 0;
            for (n, (ts, bits, is_histogram)) in samples.iter().enumerate() {
                for (_, windows) in freezes.iter().filter(|f| f.0 == n) {
                    slot.freeze(windows * WINDOW, WINDOW);
                    fresh.retain(|ts, _| *ts >= windows * WINDOW);
                }
                let value = if *is_histogram { HISTOGRAM | bits } else { *bits };
                let want = match fresh.get(ts) {
                    None => Verdict::Stored,
                    Some(old) if *old == value => Verdict::Duplicate,
                    Some(_) => Verdict::Refused(Refusal::DuplicateConflict),
                };
                let got = match is_histogram {
                    true => slot.append_histogram(*ts, &histogram(*bits), WINDOW),
                    false => slot.append(*ts, f64::from_bits(*bits), WINDOW),
                };
                prop_assert_eq!(got, want);
                stored += u64::from(want == Verdict::Stored);
                fresh.entry(*ts).or_insert(value);
                all.entry(*ts).or_insert(value);
            }
            prop_assert_eq!(slot.count(), stored);
            prop_assert_eq!(slot.span(), all.first_key_value().zip(all.last_key_value()).map(|(a, b)| (*a.0, *b.0)));
            let range = TimeRange { start_ms: start, end_ms: start + len };
            prop_assert_eq!(read_all(&slot, range), all.range(start..=start + len).map(|(t, b)| (*t, *b)).collect());
            slot.drop_frozen();
            prop_assert_eq!(read_all(&slot, TimeRange::ALL), fresh);
        }
    }

    #[test]
    fn a_slot_stays_small() {
        assert!(size_of::<Slot>() <= 144, "{}", size_of::<Slot>());
    }
}
