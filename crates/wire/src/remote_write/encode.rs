//! A write request from label sets and samples.

use model::coding::put_varint;
use model::histogram::Histogram;
use model::{Batch, Family, Sample};

use super::METRIC_TYPES;
use super::encode_histogram::put_histogram;

/// Builds an uncompressed `prometheus.WriteRequest`, series by series.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
    series: Vec<u8>,
    field: Vec<u8>,
}

impl Encoder {
    /// Adds a series with its samples.
    ///
    /// **Takes** labels as they shall stand; the protocol wants them sorted by name, with `__name__`.
    pub fn add_series<'l>(
        &mut self,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        samples: impl IntoIterator<Item = Sample>,
    ) {
        self.start_series(labels);
        for sample in samples {
            self.add_sample(sample);
        }
        put_bytes(&mut self.out, 1, &self.series);
    }

    /// Adds the metadata of a family.
    pub fn add_family(&mut self, family: &Family) {
        self.field.clear();
        let number = METRIC_TYPES.iter().position(|t| *t == family.metric_type).unwrap_or(0);
        if number > 0 {
            put_varint(&mut self.field, 1 << 3);
            put_varint(&mut self.field, number as u64);
        }
        for (number, text) in [(2, &family.name), (4, &family.help), (5, &family.unit)] {
            put_text(&mut self.field, number, text);
        }
        put_bytes(&mut self.out, 3, &self.field);
    }

    /// Gives the request and starts the next one.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    fn start_series<'l>(&mut self, labels: impl IntoIterator<Item = (&'l str, &'l str)>) {
        self.series.clear();
        for (name, value) in labels {
            self.field.clear();
            put_text(&mut self.field, 1, name);
            put_text(&mut self.field, 2, value);
            put_bytes(&mut self.series, 1, &self.field);
        }
    }

    fn add_sample(&mut self, sample: Sample) {
        self.field.clear();
        put_double(&mut self.field, 1, sample.value);
        put_int(&mut self.field, 2, sample.ts_ms);
        put_bytes(&mut self.series, 2, &self.field);
    }

    fn add_exemplar<'l>(
        &mut self,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        sample: Sample,
        scratch: &mut Vec<u8>,
    ) {
        self.field.clear();
        for (name, value) in labels {
            scratch.clear();
            put_text(scratch, 1, name);
            put_text(scratch, 2, value);
            put_bytes(&mut self.field, 1, scratch);
        }
        put_double(&mut self.field, 2, sample.value);
        put_int(&mut self.field, 3, sample.ts_ms);
        put_bytes(&mut self.series, 3, &self.field);
    }
}

impl Encoder {
    fn add_histogram(&mut self, ts_ms: i64, histogram: &Histogram, scratch: &mut Vec<u8>) {
        self.field.clear();
        put_histogram(&mut self.field, scratch, histogram);
        put_int(&mut self.field, 15, ts_ms);
        put_bytes(&mut self.series, 4, &self.field);
    }
}

/// Writes a batch as a write request: series with their samples, exemplars and native histograms, then families, whatever their verdicts.
///
/// Series that the batch knows by id only have no labels to write and are left out; so are those without any value.
pub fn encode_v1(batch: &Batch) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut scratch = Vec::new();
    let mut samples: Vec<_> = batch.samples.iter().collect();
    samples.sort_by_key(|sample| sample.series);
    let mut exemplars: Vec<_> = batch.exemplars.iter().collect();
    exemplars.sort_by_key(|exemplar| exemplar.series);
    let mut histograms: Vec<_> = batch.histograms.iter().collect();
    histograms.sort_by_key(|histogram| histogram.series);
    let (mut samples, mut exemplars) = (samples.into_iter().peekable(), exemplars.into_iter().peekable());
    let mut histograms = histograms.into_iter().peekable();
    for index in 0..batch.series.len() {
        let index = model::SeriesIndex(index as u32);
        let labels = batch.labels(index);
        encoder.start_series(labels.iter().flat_map(|l| l.iter()));
        let labels_len = encoder.series.len();
        while let Some(sample) = samples.next_if(|s| s.series == index) {
            encoder.add_sample(Sample { ts_ms: sample.ts_ms, value: sample.value });
        }
        while let Some(exemplar) = exemplars.next_if(|e| e.series == index) {
            let sample = Sample { ts_ms: exemplar.ts_ms, value: exemplar.value };
            encoder.add_exemplar(exemplar.labels.iter(), sample, &mut scratch);
        }
        while let Some(histogram) = histograms.next_if(|h| h.series == index) {
            encoder.add_histogram(histogram.ts_ms, &histogram.histogram, &mut scratch);
        }
        if labels.is_some() && encoder.series.len() > labels_len {
            put_bytes(&mut encoder.out, 1, &encoder.series);
        }
    }
    batch.families.iter().for_each(|family| encoder.add_family(family));
    encoder.take()
}

pub(super) fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// As proto3 has it, what equals the default is not written.
fn put_text(out: &mut Vec<u8>, number: u64, text: &str) {
    if !text.is_empty() {
        put_bytes(out, number, text.as_bytes());
    }
}

pub(super) fn put_double(out: &mut Vec<u8>, number: u64, value: f64) {
    if value.to_bits() != 0 {
        put_varint(out, number << 3 | 1);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

pub(super) fn put_int(out: &mut Vec<u8>, number: u64, value: i64) {
    if value != 0 {
        put_varint(out, number << 3);
        put_varint(out, value as u64);
    }
}
