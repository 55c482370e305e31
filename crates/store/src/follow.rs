//! Showing the follower what reaches the head.
//!
//! Invariants: 1. each record once per life, in the order of the log, only what was stored; 2. no file that stands in for
//! the log is put in force before the follower has secured its records.
//! Cost: nothing without a follower; else a copy of the stored rows, on the apply thread.

use std::io;

use model::{Batch, Follow, Followed, Labels, MetricType, Origin, Sample, SeriesId, SeriesLookUp, Verdict};

use crate::core::Core;
use crate::wal::record::Record;

/// What the verdicts of a record were, in the order in which its samples and then its histograms were decided.
#[derive(Default)]
pub struct Verdicts(pub Vec<bool>);

impl Verdicts {
    /// Notes the next one.
    pub fn push(&mut self, verdict: Option<Verdict>) {
        self.0.push(verdict == Some(Verdict::Stored));
    }
}

struct Known<'a>(&'a Core);

impl SeriesLookUp for Known<'_> {
    fn visit(&self, ids: &[SeriesId], act: &mut dyn FnMut(SeriesId, &Labels, MetricType)) {
        let ids: Vec<u32> = ids.iter().filter_map(|id| u32::try_from(id.0).ok()).collect();
        self.0.head.visit(&ids, |id, slot| {
            let metric_type = self.0.attrs.get(slot.attrs).map_or(MetricType::Unknown, |a| a.metric_type);
            act(SeriesId(u64::from(id)), &slot.labels, metric_type);
        });
    }
}

#[derive(Default)]
struct Rows {
    samples: Vec<(SeriesId, Sample)>,
    histograms: Vec<(SeriesId, i64, Vec<u8>)>,
    exemplars: Vec<(SeriesId, Labels, Sample)>,
}

impl Core {
    /// Gives the follower, when it wants records.
    pub fn follower(&self) -> Option<&dyn Follow> {
        self.config.follower.0.as_deref().filter(|follower| follower.wants())
    }

    /// Shows a batch that was applied.
    pub fn show_batch(&self, batch: &Batch, seq: u64) {
        let Some(follower) = self.config.follower.0.as_deref() else { return };
        if !follower.wants() {
            return follower.passed(seq);
        }
        let id = |series: model::SeriesIndex| batch.series.get(series.0 as usize).map_or(SeriesId::NONE, |s| s.id);
        let stored = batch.samples.iter().zip(&batch.verdicts).filter(|(_, v)| **v == Verdict::Stored);
        let histograms = batch.histograms.iter().filter(|h| h.verdict == Verdict::Stored).map(|h| {
            let mut bytes = Vec::new();
            h.histogram.encode(&mut bytes);
            (id(h.series), h.ts_ms, bytes)
        });
        let exemplars = batch.exemplars.iter();
        let rows = Rows {
            samples: stored.map(|(s, _)| (id(s.series), Sample { ts_ms: s.ts_ms, value: s.value })).collect(),
            histograms: histograms.collect(),
            exemplars: exemplars
                .map(|e| (id(e.series), e.labels.clone(), Sample { ts_ms: e.ts_ms, value: e.value }))
                .collect(),
        };
        self.show(follower, &batch.origin, seq, &rows);
    }

    /// Shows a record that was replayed.
    ///
    /// **Takes** the verdicts of those samples and histograms that `wanted` accepts, in order.
    pub fn show_record(&self, record: &Record, seq: u64, verdicts: &Verdicts, wanted: impl Fn(i64) -> bool) {
        let Some(follower) = self.follower() else { return };
        let id = |id: u32| SeriesId(u64::from(id));
        let mut stored = verdicts.0.iter();
        let mut next = |ts_ms: i64| wanted(ts_ms) && stored.next() == Some(&true);
        let samples = record.samples.iter().filter(|s| next(s.ts_ms));
        let samples = samples.map(|s| (id(s.id), Sample { ts_ms: s.ts_ms, value: s.value })).collect();
        let histograms = record.histograms.iter().filter(|h| next(h.ts_ms));
        let histograms = histograms.map(|h| (id(h.id), h.ts_ms, h.bytes.clone())).collect();
        let exemplars = record.exemplars.iter();
        let exemplars = exemplars.map(|e| (id(e.id), e.labels.clone(), Sample { ts_ms: e.ts_ms, value: e.value }));
        let rows = Rows { samples, histograms, exemplars: exemplars.collect() };
        self.show(follower, &record.origin, seq, &rows);
    }

    fn show(&self, follower: &dyn Follow, origin: &Origin, seq: u64, rows: &Rows) {
        let Rows { samples, histograms, exemplars } = rows;
        follower.record(&Followed { seq, origin, samples, histograms, exemplars, series: &Known(self) });
    }

    /// Lets the follower make everything up to a record durable.
    pub fn secure_follower(&self, seq: u64) -> io::Result<()> {
        self.follower().map_or(Ok(()), |follower| follower.secure(seq).map_err(io::Error::other))
    }
}
