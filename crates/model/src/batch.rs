//! Everything that one collection delivered, in columns.
//!
//! Owns: an arena of label encodings, the series that point into it, the samples that point to the series.
//! Invariants: 1. the `series` of every sample and histogram is an index into `series`; 2. a series has an id or an encoding in the arena,
//! or both; 3. verdicts run parallel to the samples.
//! Limits: 2^32 - 1 bytes of label text, series and samples each; who fills a batch bounds its body long before.

use std::sync::Arc;

use crate::family::Family;
use crate::histogram::Histogram;
use crate::labels::{Labels, LabelsBuf, SeriesId};
use crate::mark::StreamMark;
use crate::refusal::{Counts, Refusal, Verdict};
use crate::report::{CollectionReport, Origin};
use crate::slot::ScrapeSlot;

/// A series without metadata.
pub const NO_FAMILY: u32 = u32::MAX;

/// Index of a series within its batch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SeriesIndex(pub u32);

/// One series of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchSeries {
    start: u32,
    len: u32,
    /// Index into [`Batch::families`], or [`NO_FAMILY`].
    pub family: u32,
    /// The store's id if known; the store fills it in on append.
    pub id: SeriesId,
}

/// One sample of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchSample {
    /// Which series.
    pub series: SeriesIndex,
    /// Milliseconds since 1970.
    pub ts_ms: i64,
    /// The value, bit for bit.
    pub value: f64,
}

/// One native histogram of a batch.
#[derive(Clone, Debug)]
pub struct BatchHistogram {
    /// Which series.
    pub series: SeriesIndex,
    /// Milliseconds since 1970.
    pub ts_ms: i64,
    /// The histogram.
    pub histogram: Arc<Histogram>,
    /// What became of it.
    pub verdict: Verdict,
}

/// An exemplar of a batch.
#[derive(Clone, Debug)]
pub struct BatchExemplar {
    /// Which series.
    pub series: SeriesIndex,
    /// Its own labels, such as `trace_id`.
    pub labels: Labels,
    /// Milliseconds since 1970.
    pub ts_ms: i64,
    /// The value.
    pub value: f64,
}

/// What one collection delivered.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Where it comes from.
    pub origin: Origin,
    /// Becomes part of the WAL record; `None` where the event is made apart (remote write, OTLP).
    pub report: Option<CollectionReport>,
    /// The first so many series are let in whether there is room for series or not: what a target says of itself.
    pub essential: u32,
    /// Label sets of some samples that were refused before they became rows with labels, for whoever asks.
    pub examples: Vec<(Refusal, Labels)>,
    /// What the sender should know when new series were refused: by which limit, who holds the room, which label explodes.
    pub advice: Option<String>,
    /// Where the batch brings its stream to; `None` for whatever is no stream.
    pub mark: Option<StreamMark>,
    /// The scrape's place in its target's schedule; `None` for pushes and for scrapes that somebody asked for.
    pub slot: Option<ScrapeSlot>,
    /// The store generation that the given series ids belong to; see [`crate::Append::generation`].
    pub generation: u64,
    /// Metadata that came along.
    pub families: Vec<Family>,
    /// The series, in order of arrival.
    pub series: Vec<BatchSeries>,
    /// The samples, in order of arrival.
    pub samples: Vec<BatchSample>,
    /// What became of each sample. Parallel to `samples`; who marks a row refused or filtered does it here, the store decides the rest.
    pub verdicts: Vec<Verdict>,
    /// The native histograms, in order of arrival.
    pub histograms: Vec<BatchHistogram>,
    /// Start ("created") timestamps: series and milliseconds since 1970.
    pub start_timestamps: Vec<(SeriesIndex, i64)>,
    /// Exemplars.
    pub exemplars: Vec<BatchExemplar>,
    arena: Vec<u8>,
}

impl Batch {
    /// Starts an empty batch.
    pub fn new(origin: Origin) -> Batch {
        Batch { origin, ..Batch::default() }
    }

    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.report = None;
        self.essential = 0;
        self.examples.clear();
        self.advice = None;
        self.mark = None;
        self.slot = None;
        self.families.clear();
        self.series.clear();
        self.samples.clear();
        self.verdicts.clear();
        self.histograms.clear();
        self.start_timestamps.clear();
        self.exemplars.clear();
        self.arena.clear();
    }

    /// Adds a series by its sorted labels (see [`LabelsBuf::sort`]).
    pub fn push_series(&mut self, labels: &LabelsBuf, family: u32) -> SeriesIndex {
        let start = self.arena.len();
        labels.encode_into(&mut self.arena);
        self.push_entry(start, family, SeriesId::NONE)
    }

    /// Adds a series by a finished label set.
    pub fn push_labels(&mut self, labels: &Labels, family: u32) -> SeriesIndex {
        let start = self.arena.len();
        self.arena.extend_from_slice(labels.as_bytes());
        self.push_entry(start, family, SeriesId::NONE)
    }

    /// Adds a series whose canonical encoding `encode` appends to what it is given; when it gives `false`, nothing is added.
    ///
    /// **Takes** what [`LabelsBuf::encode_into`] would write: names sorted and unique, no empty value, UTF-8.
    pub fn push_encoded(&mut self, family: u32, encode: impl FnOnce(&mut Vec<u8>) -> bool) -> Option<SeriesIndex> {
        let start = self.arena.len();
        if !encode(&mut self.arena) {
            self.arena.truncate(start);
            return None;
        }
        debug_assert!(Labels::from_bytes(&self.arena[start..]).is_some());
        Some(self.push_entry(start, family, SeriesId::NONE))
    }

    /// Adds a series by the id an earlier append gave; no labels are copied.
    pub fn push_known(&mut self, id: SeriesId, family: u32) -> SeriesIndex {
        self.push_entry(self.arena.len(), family, id)
    }

    /// Gives a series other labels; what it had as an id means nothing any more.
    pub fn set_labels(&mut self, series: SeriesIndex, labels: &Labels) {
        let start = self.arena.len();
        if let Some(entry) = self.series.get_mut(series.0 as usize) {
            self.arena.extend_from_slice(labels.as_bytes());
            (entry.start, entry.len, entry.id) = (start as u32, labels.as_bytes().len() as u32, SeriesId::NONE);
        }
    }

    /// Notes the id of a series that was added by its labels, in the batch's generation.
    pub fn set_id(&mut self, series: SeriesIndex, id: SeriesId) {
        if let Some(series) = self.series.get_mut(series.0 as usize) {
            series.id = id;
        }
    }

    /// Forgets the ids of series whose labels are here: nothing of the batch was stored, and what would have defined new ones
    /// is gone.
    pub fn forget_ids(&mut self) {
        for series in self.series.iter_mut().filter(|series| series.len > 0) {
            series.id = SeriesId::NONE;
        }
    }

    fn push_entry(&mut self, start: usize, family: u32, id: SeriesId) -> SeriesIndex {
        let index = SeriesIndex(self.series.len() as u32);
        self.series.push(BatchSeries { start: start as u32, len: (self.arena.len() - start) as u32, family, id });
        index
    }

    /// Adds a sample.
    pub fn push_sample(&mut self, series: SeriesIndex, ts_ms: i64, value: f64) {
        self.samples.push(BatchSample { series, ts_ms, value });
        self.verdicts.push(Verdict::Pending);
    }

    /// Adds a sample that is already decided: it is counted, not stored.
    pub fn push_decided(&mut self, series: SeriesIndex, ts_ms: i64, value: f64, verdict: Verdict) {
        self.samples.push(BatchSample { series, ts_ms, value });
        self.verdicts.push(verdict);
    }

    /// Adds a native histogram that has passed [`Histogram::check`].
    pub fn push_histogram(&mut self, series: SeriesIndex, ts_ms: i64, histogram: Arc<Histogram>) {
        self.histograms.push(BatchHistogram { series, ts_ms, histogram, verdict: Verdict::Pending });
    }

    /// Gives the label encoding of a series; empty when it was added by id.
    pub fn label_bytes(&self, series: SeriesIndex) -> &[u8] {
        let s = &self.series[series.0 as usize];
        &self.arena[s.start as usize..(s.start + s.len) as usize]
    }

    /// Gives the labels of a series; `None` when it was added by id only.
    pub fn labels(&self, series: SeriesIndex) -> Option<Labels> {
        let bytes = self.label_bytes(series);
        if bytes.is_empty() { None } else { Labels::from_bytes(bytes) }
    }

    /// Gives about how many bytes the rows and their labels take.
    pub fn bytes(&self) -> usize {
        let rows = self.samples.len() * (size_of::<BatchSample>() + size_of::<Verdict>())
            + self.series.len() * size_of::<BatchSeries>()
            + self.histograms.len() * size_of::<BatchHistogram>()
            + self.exemplars.len() * size_of::<BatchExemplar>();
        rows + self.arena.len()
    }

    /// Counts the verdicts.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for verdict in self.verdicts.iter().copied().chain(self.histograms.iter().map(|h| h.verdict)) {
            counts.add(verdict);
        }
        counts
    }
}
