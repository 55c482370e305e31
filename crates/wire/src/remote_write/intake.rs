//! What both versions do with series, samples, histograms and exemplars once they have found them.
//!
//! Invariants: 1. every sample and histogram of a request is in the batch, undecided or refused; 2. a refused histogram
//! stands there empty: nothing that has not passed the check reaches the store.

use std::borrow::Cow;
use std::sync::Arc;

use model::histogram::Histogram;
use model::{
    Batch, BatchExemplar, Family, LABEL_NAME, Labels, LabelsBuf, MetricType, NO_FAMILY, Refusal, SeriesIndex, Verdict,
    stale_nan,
};

use super::histogram::{self, Value};
use super::limits::{DecodeStats, Limits, RefusedHistogram, RefusedSeries};
use super::plain;
use crate::native::memory_of;
use crate::proto::{Message, WireError};

/// Label of the stand-in for a series that has no readable label at all, so that its samples can be counted as refused.
const UNREADABLE: &str = "__unreadable__";
const NOT_TAKEN: &str = "native histograms cannot be stored here";

/// A request on its way into a batch.
pub(crate) struct Intake<'b> {
    pub(crate) batch: &'b mut Batch,
    pub(crate) limits: &'b Limits,
    pub(crate) stats: DecodeStats,
    /// The labels of the series being read.
    pub(crate) labels: LabelsBuf,
    /// The place of the series being read.
    pub(crate) index: usize,
    /// Samples and histograms so far.
    values: usize,
    histogram_bytes: usize,
    /// Bytes that symbols were put in for so far.
    text_bytes: usize,
    /// Stands for every refused histogram.
    nothing: Arc<Histogram>,
}

/// Why a series is refused.
pub(crate) struct Fault {
    reason: Refusal,
    text: Cow<'static, str>,
}

impl Fault {
    pub(crate) fn name(text: impl Into<Cow<'static, str>>) -> Fault {
        Fault { reason: Refusal::InvalidName, text: text.into() }
    }

    fn limit(text: impl Into<Cow<'static, str>>) -> Fault {
        Fault { reason: Refusal::LabelLimit, text: text.into() }
    }
}

impl<'b> Intake<'b> {
    pub(crate) fn new(batch: &'b mut Batch, limits: &'b Limits) -> Intake<'b> {
        Intake {
            batch,
            limits,
            stats: DecodeStats::default(),
            labels: LabelsBuf::default(),
            index: 0,
            values: 0,
            histogram_bytes: 0,
            text_bytes: 0,
            nothing: Arc::default(),
        }
    }

    /// Adds the series whose labels stand in `labels`, refused if there is a fault.
    pub(crate) fn push_series(&mut self, fault: Option<Fault>) -> (SeriesIndex, Verdict) {
        let verdict = fault.as_ref().map_or(Verdict::Pending, |fault| Verdict::Refused(fault.reason));
        if let Some(fault) = fault {
            self.make_readable();
            let (index, text) = (self.index, fault.text.into_owned());
            self.stats.first_refused.get_or_insert(RefusedSeries { index, reason: fault.reason, text });
        }
        self.stats.series += 1;
        (self.batch.push_series(&self.labels, NO_FAMILY), verdict)
    }

    /// Checks a label and appends it to `labels`.
    #[inline]
    pub(crate) fn push_label(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        if self.labels.len() >= self.limits.labels_max {
            return Err(Fault::limit(format!("the series has more than {} labels", self.limits.labels_max)));
        }
        if name.len() > self.limits.name_bytes_max || value.len() > self.limits.value_bytes_max {
            return Err(Fault::limit("a label name or value is too long"));
        }
        match (std::str::from_utf8(name), std::str::from_utf8(value)) {
            (Ok(""), _) => Err(Fault::name("a label name is empty")),
            (Ok(name), Ok(value)) => {
                self.labels.push(name, value);
                Ok(())
            }
            _ => {
                self.labels.push(&String::from_utf8_lossy(name), &String::from_utf8_lossy(value));
                Err(Fault::name("a label is not UTF-8"))
            }
        }
    }

    /// Checks `labels` as a whole, and sorts them if they are not sorted.
    pub(crate) fn check_labels(&mut self, sorted: bool) -> Result<(), Fault> {
        if !sorted {
            self.labels.sort().map_err(|e| Fault::name(e.to_string()))?;
        }
        match self.labels.get(LABEL_NAME) {
            Some(_) => Ok(()),
            None => Err(Fault::name("the series has no metric name")),
        }
    }

    /// Makes a label set of what can be read of a refused series: the batch needs one, and so does whoever reports it.
    fn make_readable(&mut self) {
        let readable = self.labels.to_labels();
        self.labels = LabelsBuf::from_labels(&readable);
        if self.labels.is_empty() {
            self.labels.push(UNREADABLE, "true");
        }
    }

    /// Reads a `Sample`; gives its start time, 0 when it has none. Only 2.0 has field 3.
    #[inline]
    pub(crate) fn read_sample(
        &mut self,
        mut message: Message<'_>,
        series: SeriesIndex,
        verdict: Verdict,
    ) -> Result<i64, WireError> {
        if let Some((ts_ms, value)) = plain::usual_sample(message.rest()) {
            self.push_sample(series, ts_ms, value, verdict)?;
            return Ok(0);
        }
        let (mut value, mut ts_ms, mut start_ms) = (0.0, 0, 0);
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => value = field.double()?,
                2 => ts_ms = field.varint()? as i64,
                3 => start_ms = field.varint()? as i64,
                _ => {}
            }
        }
        self.push_sample(series, ts_ms, value, verdict)?;
        Ok(start_ms)
    }

    /// Adds a sample that was read.
    #[inline]
    pub(crate) fn push_sample(
        &mut self,
        series: SeriesIndex,
        ts_ms: i64,
        value: f64,
        verdict: Verdict,
    ) -> Result<(), WireError> {
        self.count_value()?;
        self.stats.samples += 1;
        self.batch.push_decided(series, ts_ms, value, verdict);
        Ok(())
    }

    /// Reads a `Histogram`; gives its start time, 0 when it has none.
    pub(crate) fn read_histogram(
        &mut self,
        message: Message<'_>,
        series: SeriesIndex,
        verdict: Verdict,
    ) -> Result<i64, WireError> {
        let histogram::Read { ts_ms, start_ms, value } = histogram::read(message)?;
        self.count_value()?;
        self.stats.histograms += 1;
        match value {
            Value::Stale => self.push_histogram_sample(series, ts_ms, stale_nan(), verdict),
            _ if !self.limits.native_histograms => {
                self.note_refused_histogram(ts_ms, NOT_TAKEN.into());
                self.push_histogram_sample(series, ts_ms, f64::NAN, Verdict::Refused(Refusal::InvalidValue));
            }
            Value::Good(histogram) if verdict == Verdict::Pending => {
                self.reserve_histogram(&histogram)?;
                self.batch.push_histogram(series, ts_ms, Arc::new(histogram));
            }
            Value::Good(_) => self.push_refused_histogram(series, ts_ms, verdict),
            Value::Refused(text) => {
                self.note_refused_histogram(ts_ms, text);
                let refused =
                    if verdict == Verdict::Pending { Verdict::Refused(Refusal::InvalidValue) } else { verdict };
                self.push_refused_histogram(series, ts_ms, refused);
            }
        }
        Ok(start_ms)
    }

    fn push_histogram_sample(&mut self, series: SeriesIndex, ts_ms: i64, value: f64, verdict: Verdict) {
        self.stats.histogram_samples.push(self.batch.samples.len() as u32);
        self.batch.push_decided(series, ts_ms, value, verdict);
    }

    fn push_refused_histogram(&mut self, series: SeriesIndex, ts_ms: i64, verdict: Verdict) {
        let nothing = Arc::clone(&self.nothing);
        self.batch.push_histogram(series, ts_ms, nothing);
        if let Some(pushed) = self.batch.histograms.last_mut() {
            pushed.verdict = verdict;
        }
    }

    fn note_refused_histogram(&mut self, ts_ms: i64, text: Cow<'static, str>) {
        self.stats.histograms_refused += 1;
        let series = self.index;
        let refused = || RefusedHistogram { series, ts_ms, text: text.into_owned() };
        self.stats.first_refused_histogram.get_or_insert_with(refused);
    }

    pub(crate) fn reserve_histogram(&mut self, histogram: &Histogram) -> Result<(), WireError> {
        self.histogram_bytes += memory_of(histogram);
        let max = self.limits.histogram_bytes_max;
        if self.histogram_bytes > max { Err(WireError::HistogramsTooLarge { max }) } else { Ok(()) }
    }

    /// Gives how many more bytes of text the request may have.
    pub(crate) fn text_room(&self) -> usize {
        self.limits.text_bytes_max - self.text_bytes
    }

    /// Counts bytes of text that symbols were put in for.
    #[inline]
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), WireError> {
        let max = self.limits.text_bytes_max;
        if bytes > self.text_room() {
            return Err(WireError::TextTooLarge { max });
        }
        self.text_bytes += bytes;
        Ok(())
    }

    pub(crate) fn count_value(&mut self) -> Result<(), WireError> {
        self.values += 1;
        let max = self.limits.samples_max;
        if self.values > max { Err(WireError::TooManySamples { max }) } else { Ok(()) }
    }

    /// Gives room for the labels of an exemplar, or `None` when it would be dropped anyway.
    pub(crate) fn exemplar_labels(&self, verdict: Verdict) -> Option<LabelsBuf> {
        let wanted = verdict == Verdict::Pending && self.stats.exemplars < self.limits.exemplars_max;
        wanted.then(LabelsBuf::default)
    }

    /// Takes an exemplar; without labels it is dropped and counted.
    pub(crate) fn push_exemplar(&mut self, series: SeriesIndex, labels: Option<LabelsBuf>, ts_ms: i64, value: f64) {
        match labels.and_then(sorted_labels) {
            Some(labels) => {
                self.stats.exemplars += 1;
                self.batch.exemplars.push(BatchExemplar { series, labels, ts_ms, value });
            }
            None => self.stats.exemplars_dropped += 1,
        }
    }

    /// Takes a family; gives its place in the batch, or `None` when it is dropped and counted.
    pub(crate) fn push_family(
        &mut self,
        metric_type: MetricType,
        name: &[u8],
        help: &[u8],
        unit: &[u8],
    ) -> Option<u32> {
        match [name, help, unit].map(std::str::from_utf8) {
            [Ok(name), Ok(help), Ok(unit)] if !name.is_empty() && self.stats.families < self.limits.families_max => {
                self.stats.families += 1;
                let (name, help, unit) = (name.to_owned(), help.to_owned(), unit.to_owned());
                self.batch.families.push(Family { name, metric_type, help, unit });
                Some(self.batch.families.len() as u32 - 1)
            }
            _ => {
                self.stats.families_dropped += 1;
                None
            }
        }
    }
}

/// Appends a label of an exemplar; `None` when it is not valid.
pub(crate) fn push_exemplar_label(mut labels: LabelsBuf, name: &[u8], value: &[u8]) -> Option<LabelsBuf> {
    let (name, value) = (std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?);
    if name.is_empty() {
        return None;
    }
    labels.push(name, value);
    Some(labels)
}

fn sorted_labels(mut labels: LabelsBuf) -> Option<Labels> {
    labels.sort().ok()?;
    Some(labels.to_labels())
}
