//! Walks over a block's series in the order of their labels, beside others that do the same.

use std::sync::Arc;

use columns::SeriesRow;
use hashbrown::HashMap;
use model::histogram::Histogram;
use model::{Labels, Samples, TimeRange};

use super::block::Block;
use super::lookup::Lookup;
use super::postings::SET_ROWS;
use super::reader::read_visible;
use super::writer::span;

/// A place in a block's list of series.
pub struct Cursor {
    pub block: Arc<Block>,
    lookup: Arc<Lookup>,
    next: u32,
    set: Arc<Vec<SeriesRow>>,
}

impl Cursor {
    /// Starts before the first series.
    pub fn new(block: Arc<Block>) -> Result<Cursor, String> {
        let lookup = block.lookup()?;
        Ok(Cursor { block, lookup, next: 0, set: Arc::default() })
    }

    /// Gives the series at hand; `None` at the end.
    pub fn row(&mut self) -> Result<Option<&SeriesRow>, String> {
        if self.next >= self.lookup.series() {
            return Ok(None);
        }
        let within = self.next as usize % SET_ROWS;
        if within == 0 || self.set.is_empty() {
            self.set = self.lookup.set(self.next as usize / SET_ROWS)?;
        }
        Ok(self.set.get(within))
    }

    /// Goes to the next series.
    pub fn step(&mut self) {
        self.next += 1;
    }

    /// Goes on to a label set; gives its samples in a range when it is there.
    pub fn samples_of(&mut self, labels: &Labels, range: TimeRange) -> Result<Option<Samples>, String> {
        while self.row()?.is_some_and(|row| row.labels < *labels) {
            self.step();
        }
        let block = self.block.clone();
        let Some(row) = self.row()?.filter(|row| row.labels == *labels) else { return Ok(None) };
        let mut samples = Samples::default();
        read_visible(&block, row, range, &mut samples)?;
        Ok(Some(samples))
    }
}

/// What was left out because a sample of that series and time was written before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// With the same bits.
    pub repeated: u64,
    /// With another value: the first written stays.
    pub superseded: u64,
}

impl LeftOut {
    /// Adds up.
    pub fn merge(&mut self, other: LeftOut) {
        self.repeated += other.repeated;
        self.superseded += other.superseded;
    }
}

/// A sample that is known.
enum Known<'a> {
    Bits(u64),
    Histogram(&'a Histogram),
}

impl LeftOut {
    /// Counts a sample that was left out; `same` tells whether it is the known one, bit for bit.
    fn count(&mut self, same: bool) {
        self.repeated += u64::from(same);
        self.superseded += u64::from(!same);
    }
}

/// Takes out of `samples` what stands in `known` already.
pub fn leave_out(samples: &mut Samples, known: &Samples) -> LeftOut {
    let mut left_out = LeftOut::default();
    // Most often one goes on where the other ends.
    let apart = span(samples).zip(span(known)).is_none_or(|(one, other)| !one.overlaps(&other));
    if apart {
        return left_out;
    }
    let doubles = known.ts_ms.iter().zip(&known.values).map(|(ts_ms, value)| (*ts_ms, Known::Bits(value.to_bits())));
    let histograms = known.histograms.iter().map(|(ts_ms, histogram)| (*ts_ms, Known::Histogram(histogram)));
    let known: HashMap<i64, Known<'_>> = doubles.chain(histograms).collect();
    if known.is_empty() {
        return left_out;
    }
    let mut kept = Samples::default();
    for (ts_ms, value) in samples.ts_ms.iter().zip(&samples.values) {
        match known.get(ts_ms) {
            None => kept.push(*ts_ms, *value),
            Some(old) => left_out.count(matches!(old, Known::Bits(bits) if *bits == value.to_bits())),
        }
    }
    for (ts_ms, histogram) in std::mem::take(&mut samples.histograms) {
        match known.get(&ts_ms) {
            None => kept.histograms.push((ts_ms, histogram)),
            Some(old) => left_out.count(matches!(old, Known::Histogram(old) if old.same_bits(&histogram))),
        }
    }
    *samples = kept;
    left_out
}
