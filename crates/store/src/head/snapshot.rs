//! The samples of a series at one moment, and how they are read.

use std::sync::Arc;

use model::histogram::Histogram;
use model::{Samples, TimeRange};

use super::lane::LaneSnapshot;
use super::sealed::Sealed;
use crate::chunk::{ChunkIter, decode_into};

/// The samples of a series at one moment; shares the sealed chunks.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(super) chunks: Vec<Sealed>,
    pub(super) late: Vec<(i64, f64)>,
    pub(super) histograms: Option<LaneSnapshot>,
}

/// A double with how often it was frozen.
type Aged = (i64, u32, f64);

impl Snapshot {
    /// Takes given chunks of doubles and runs of histograms only.
    pub fn of_chunks(chunks: Vec<Sealed>, histograms: Vec<Sealed>) -> Snapshot {
        let histograms = Some(LaneSnapshot::of_runs(histograms)).filter(|h| !h.is_empty());
        Snapshot { chunks, late: Vec::new(), histograms }
    }

    /// Appends the samples in a range, times strictly rising; of equal times the first written.
    ///
    /// **Errors** name the file that is damaged or cannot be read; `out` may hold a part then.
    pub fn read(&self, range: TimeRange, out: &mut Samples) -> Result<(), String> {
        if let Some(histograms) = &self.histograms {
            return self.read_both(histograms, range, out);
        }
        let ordered = self.late.is_empty() && self.chunks.windows(2).all(|w| w[0].max_ms < w[1].min_ms);
        if !ordered {
            self.sorted(range)?.into_iter().for_each(|(ts_ms, _, value)| out.push(ts_ms, value));
            return Ok(());
        }
        for chunk in self.chunks_in(range) {
            let bytes = chunk.load()?;
            if range.start_ms <= chunk.min_ms && chunk.max_ms <= range.end_ms {
                decode_into(&bytes, chunk.count, out);
            } else {
                let samples = ChunkIter::new(&bytes, chunk.count);
                samples.filter(|s| range.contains(s.0)).for_each(|(ts_ms, value)| out.push(ts_ms, value));
            }
        }
        Ok(())
    }

    fn chunks_in(&self, range: TimeRange) -> impl Iterator<Item = &Sealed> {
        self.chunks.iter().filter(move |c| c.min_ms <= range.end_ms && range.start_ms <= c.max_ms)
    }

    fn sorted(&self, range: TimeRange) -> Result<Vec<Aged>, String> {
        let mut all: Vec<Aged> = Vec::new();
        for chunk in self.chunks_in(range) {
            let bytes = chunk.load()?;
            let inside = ChunkIter::new(&bytes, chunk.count).filter(|s| range.contains(s.0));
            all.extend(inside.map(|(ts_ms, value)| (ts_ms, chunk.frozen, value)));
        }
        all.extend(self.late.iter().filter(|s| range.contains(s.0)).map(|(ts_ms, value)| (*ts_ms, 0, *value)));
        // Stable: what was written first stays in front of its equals.
        all.sort_by_key(|s| s.0);
        all.dedup_by_key(|s| s.0);
        Ok(all)
    }

    /// Where a double and a histogram have the same time, one of them was frozen before the other came: it stays.
    fn read_both(&self, histograms: &LaneSnapshot, range: TimeRange, out: &mut Samples) -> Result<(), String> {
        let loaded = histograms.load()?;
        let (doubles, histograms) = (self.sorted(range)?, loaded.in_range(range));
        for (ts_ms, age, value) in &doubles {
            let rival = histograms.binary_search_by_key(ts_ms, |h| h.0).ok().and_then(|at| histograms.get(at));
            if rival.is_none_or(|h| h.1 <= *age) {
                out.push(*ts_ms, *value);
            }
        }
        for (ts_ms, age, bytes) in &histograms {
            let rival = doubles.binary_search_by_key(ts_ms, |d| d.0).ok().and_then(|at| doubles.get(at));
            let decoded = rival.is_none_or(|d| d.1 < *age).then(|| Histogram::decode(bytes)).flatten();
            out.histograms.extend(decoded.map(|(histogram, _)| (*ts_ms, Arc::new(histogram))));
        }
        Ok(())
    }
}
