//! What one scrape saw, until the store has taken it.

use model::SeriesIndex;

/// The part of a mark that holds the series.
pub(crate) const INDEX_BITS: u32 = 0x7fff_ffff;
/// The bit of a mark that says "written with the scrape's own time".
pub(crate) const TRACKED: u32 = 0x8000_0000;

/// What one scrape saw, not yet part of the cache.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    /// Per entry: nothing, or the batch's series plus one, and a bit for "written with the scrape's own time".
    pub(crate) marks: Vec<u32>,
    pub(crate) order: Vec<u32>,
    pub(crate) entries_before: usize,
    pub(crate) keys_before: usize,
    /// Entries that got a stale marker, and where their series begin in the batch.
    pub(crate) stale: Vec<u32>,
    pub(crate) stale_at: u32,
    pub(crate) orphans_marked: Vec<u32>,
    pub(crate) failed: bool,
}

impl Draft {
    /// Gives the batch's series of an entry, if this scrape has one.
    #[inline]
    pub(crate) fn series(&self, entry: u32) -> Option<SeriesIndex> {
        match self.marks.get(entry as usize).copied().unwrap_or(0) & INDEX_BITS {
            0 => None,
            index => Some(SeriesIndex(index - 1)),
        }
    }

    /// Notes a sample of an entry.
    #[inline]
    pub(crate) fn see(&mut self, entry: u32, series: SeriesIndex, tracked: bool) {
        self.order.push(entry);
        if let Some(mark) = self.marks.get_mut(entry as usize) {
            *mark |= (series.0 + 1) & INDEX_BITS | if tracked { TRACKED } else { 0 };
        }
    }

    /// Forgets that an entry was seen; its places in `order` are the caller's business.
    pub(crate) fn unsee(&mut self, entry: u32) {
        if let Some(mark) = self.marks.get_mut(entry as usize) {
            *mark = 0;
        }
    }

    /// Forgets everything but the memory.
    pub(crate) fn emptied(mut self) -> Draft {
        let (mut marks, mut order) = (std::mem::take(&mut self.marks), std::mem::take(&mut self.order));
        marks.clear();
        order.clear();
        Draft { marks, order, ..Draft::default() }
    }

    /// Gives how many stale markers were written.
    pub(crate) fn stale_markers(&self) -> usize {
        self.stale.len() + self.orphans_marked.len()
    }
}
