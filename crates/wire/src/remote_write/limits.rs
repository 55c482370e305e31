//! What a request may hold, and what it held.

use model::{Batch, Refusal, Verdict};

/// How much one request may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Samples and native histograms of the request. Each costs memory far beyond its two bytes on the wire.
    pub samples_max: usize,
    /// Whether native histograms are taken. When not, each is refused as `invalid_value`: for stores that have no room for them.
    pub native_histograms: bool,
    /// Bytes of memory that the native histograms of the request may take.
    pub histogram_bytes_max: usize,
    /// Bytes of labels and metadata of a request of 2.0 once symbols are put in for their numbers: two bytes on the wire may
    /// stand for a label of 64 KiB.
    pub text_bytes_max: usize,
    /// Symbols of a request of remote write 2.0.
    pub symbols_max: usize,
    /// Exemplars of the request; further ones are dropped and counted.
    pub exemplars_max: usize,
    /// Families of the request; further ones are dropped and counted.
    pub families_max: usize,
    /// Labels of a series, the name included; a series with more is refused.
    pub labels_max: usize,
    /// Bytes of a label name; a series with a longer one is refused.
    pub name_bytes_max: usize,
    /// Bytes of a label value; a series with a longer one is refused.
    pub value_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            samples_max: 2_000_000,
            native_histograms: false,
            histogram_bytes_max: 128 << 20,
            text_bytes_max: 256 << 20,
            symbols_max: 4_000_000,
            exemplars_max: 100_000,
            families_max: 20_000,
            labels_max: 200,
            name_bytes_max: 1024,
            value_bytes_max: 64 << 10,
        }
    }
}

/// What a request held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DecodeStats {
    /// Series with at least one sample, histogram or exemplar.
    pub series: usize,
    /// Float samples, refused ones included; not those that stand for a histogram.
    pub samples: usize,
    /// Native histograms, refused ones and stale markers included.
    pub histograms: usize,
    /// Native histograms that are refused for themselves, whatever their series.
    pub histograms_refused: usize,
    /// Places in [`Batch::samples`] of the samples that stand for a histogram: the marker of a stale one, and a refused one
    /// where [`Limits::native_histograms`] says no.
    pub histogram_samples: Vec<u32>,
    /// Exemplars taken.
    pub exemplars: usize,
    /// Exemplars dropped: too many, or of a series or with labels that are refused.
    pub exemplars_dropped: usize,
    /// Families taken.
    pub families: usize,
    /// Families dropped: too many, or not UTF-8.
    pub families_dropped: usize,
    /// The first series that is refused.
    pub first_refused: Option<RefusedSeries>,
    /// The first native histogram that is refused though its series is good.
    pub first_refused_histogram: Option<RefusedHistogram>,
}

/// A series whose samples are all refused, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedSeries {
    /// Its place among the `timeseries` of the request, counted from 0.
    pub index: usize,
    /// The reason counted.
    pub reason: Refusal,
    /// The reason in words.
    pub text: String,
}

/// A native histogram that is refused alone, as `invalid_value`, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedHistogram {
    /// The place of its series among the `timeseries` of the request, counted from 0.
    pub series: usize,
    /// Its time, in milliseconds since 1970.
    pub ts_ms: i64,
    /// The reason in words.
    pub text: String,
}

/// What of a request is stored: the numbers of the `X-Prometheus-Remote-Write-*-Written` headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Float samples.
    pub samples: usize,
    /// Native histograms.
    pub histograms: usize,
    /// Exemplars.
    pub exemplars: usize,
}

impl DecodeStats {
    /// Counts what was written, once the batch has its verdicts. What was there already counts as written.
    ///
    /// **Takes** the batch that the request was decoded into, empty before.
    pub fn written(&self, batch: &Batch) -> Written {
        let is_written = |verdict: &Verdict| matches!(verdict, Verdict::Stored | Verdict::Duplicate);
        let samples = batch.verdicts.iter().filter(|v| is_written(v)).count();
        let verdict_at = |place: &&u32| batch.verdicts.get(**place as usize).is_some_and(is_written);
        let markers = self.histogram_samples.iter().filter(verdict_at).count();
        Written {
            samples: samples - markers,
            histograms: batch.histograms.iter().filter(|h| is_written(&h.verdict)).count() + markers,
            exemplars: self.exemplars,
        }
    }
}
