//! Requests of both versions for who sends the same series again and again: what is said of a series once is kept ready.

use std::collections::HashMap;

use model::coding::put_varint;
use model::histogram::Histogram;
use model::{MetricType, Sample};

use super::METRIC_TYPES;
use super::encode::{put_bytes, put_double, put_int};
use super::encode_histogram::put_histogram;

/// Writes the labels of a series as version 1 has them; see [`SeriesEncoder::begin`].
pub fn render_labels<'l>(labels: impl IntoIterator<Item = (&'l str, &'l str)>) -> Vec<u8> {
    let (mut out, mut pair) = (Vec::new(), Vec::new());
    for (name, value) in labels {
        pair.clear();
        put_bytes(&mut pair, 1, name.as_bytes());
        put_bytes(&mut pair, 2, value.as_bytes());
        put_bytes(&mut out, 1, &pair);
    }
    out
}

/// Builds an uncompressed `prometheus.WriteRequest` from labels that are ready.
#[derive(Debug, Default)]
pub struct SeriesEncoder {
    out: Vec<u8>,
    series: Vec<u8>,
    field: Vec<u8>,
    scratch: Vec<u8>,
}

impl SeriesEncoder {
    /// Begins a series.
    ///
    /// **Takes** what [`render_labels`] gave.
    pub fn begin(&mut self, labels: &[u8]) {
        self.series.clear();
        self.series.extend_from_slice(labels);
    }

    /// Adds a sample to the series.
    pub fn sample(&mut self, sample: Sample) {
        put_sample(&mut self.series, &mut self.field, sample);
    }

    /// Adds an exemplar to the series.
    ///
    /// **Takes** its labels as [`render_labels`] gives them.
    pub fn exemplar(&mut self, labels: &[u8], sample: Sample) {
        self.field.clear();
        self.field.extend_from_slice(labels);
        put_double(&mut self.field, 2, sample.value);
        put_int(&mut self.field, 3, sample.ts_ms);
        put_bytes(&mut self.series, 3, &self.field);
    }

    /// Adds a native histogram to the series.
    pub fn histogram(&mut self, ts_ms: i64, histogram: &Histogram) {
        self.field.clear();
        put_histogram(&mut self.field, &mut self.scratch, histogram);
        put_int(&mut self.field, 15, ts_ms);
        put_bytes(&mut self.series, 4, &self.field);
    }

    /// Ends the series.
    pub fn end(&mut self) {
        put_bytes(&mut self.out, 1, &self.series);
    }

    /// Gives the request; the next one begins empty.
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }

    /// Begins the next request.
    pub fn clear(&mut self) {
        self.out.clear();
    }
}

fn put_sample(out: &mut Vec<u8>, field: &mut Vec<u8>, sample: Sample) {
    field.clear();
    put_double(field, 1, sample.value);
    put_int(field, 2, sample.ts_ms);
    put_bytes(out, 2, field);
}

/// Texts by number, over all requests of one sender of version 2.
#[derive(Debug)]
pub struct SymbolTable {
    numbers: HashMap<Box<str>, u32>,
    texts: Vec<Box<str>>,
}

impl Default for SymbolTable {
    fn default() -> SymbolTable {
        let mut table = SymbolTable { numbers: HashMap::new(), texts: Vec::new() };
        // The protocol wants the empty text to be number 0 of each request; here it is number 0 of all.
        table.number("");
        table
    }
}

impl SymbolTable {
    /// Gives the number of a text.
    pub fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }

    /// Gives the number of a text that has one.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.numbers.get(text).copied()
    }

    /// Counts the texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Tells whether there is nothing but the empty text.
    pub fn is_empty(&self) -> bool {
        self.texts.len() <= 1
    }
}

/// Type, help and unit of a series, the texts as numbers of a [`SymbolTable`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SeriesMetadata {
    /// The type.
    pub metric_type: MetricType,
    /// The help text.
    pub help: u32,
    /// The unit.
    pub unit: u32,
}

/// Builds an uncompressed `io.prometheus.write.v2.Request`; texts are numbers of one [`SymbolTable`].
#[derive(Debug, Default)]
pub struct SeriesEncoderV2 {
    /// Each number of the table that this request uses, with its number in the request and the request's own number.
    local: Vec<(u32, u32)>,
    used: Vec<u32>,
    request: u32,
    out: Vec<u8>,
    series: Vec<u8>,
    field: Vec<u8>,
    scratch: Vec<u8>,
}

impl SeriesEncoderV2 {
    /// Begins the next request.
    pub fn clear(&mut self) {
        self.request = self.request.wrapping_add(1);
        if self.request == 0 {
            self.local.clear();
            self.request = 1;
        }
        self.used.clear();
        self.out.clear();
        self.local_number(0);
    }

    fn local_number(&mut self, number: u32) -> u32 {
        let at = number as usize;
        if self.local.len() <= at {
            self.local.resize(at + 1, (0, 0));
        }
        if self.local[at].0 != self.request {
            self.local[at] = (self.request, self.used.len() as u32);
            self.used.push(number);
        }
        self.local[at].1
    }

    fn put_refs(&mut self, labels: &[u32]) {
        self.scratch.clear();
        for number in labels {
            let local = self.local_number(*number);
            put_varint(&mut self.scratch, u64::from(local));
        }
    }

    /// Begins a series with its labels: names and values by turns.
    pub fn begin(&mut self, labels: &[u32]) {
        self.series.clear();
        self.put_refs(labels);
        put_bytes(&mut self.series, 1, &self.scratch);
    }

    /// Adds a sample to the series.
    pub fn sample(&mut self, sample: Sample) {
        put_sample(&mut self.series, &mut self.field, sample);
    }

    /// Adds a native histogram to the series.
    pub fn histogram(&mut self, ts_ms: i64, histogram: &Histogram) {
        self.field.clear();
        put_histogram(&mut self.field, &mut self.scratch, histogram);
        put_int(&mut self.field, 15, ts_ms);
        put_bytes(&mut self.series, 3, &self.field);
    }

    /// Adds an exemplar to the series.
    pub fn exemplar(&mut self, labels: &[u32], sample: Sample) {
        self.field.clear();
        self.put_refs(labels);
        put_bytes(&mut self.field, 1, &self.scratch);
        put_double(&mut self.field, 2, sample.value);
        put_int(&mut self.field, 3, sample.ts_ms);
        put_bytes(&mut self.series, 4, &self.field);
    }

    /// Says what is known of the series.
    pub fn metadata(&mut self, metadata: SeriesMetadata) {
        let (help, unit) = (self.local_number(metadata.help), self.local_number(metadata.unit));
        let number = METRIC_TYPES.iter().position(|t| *t == metadata.metric_type).unwrap_or(0);
        self.field.clear();
        put_int(&mut self.field, 1, number as i64);
        put_int(&mut self.field, 3, i64::from(help));
        put_int(&mut self.field, 4, i64::from(unit));
        put_bytes(&mut self.series, 5, &self.field);
    }

    /// Ends the series.
    pub fn end(&mut self) {
        put_bytes(&mut self.out, 5, &self.series);
    }

    /// Gives the request.
    pub fn finish(&self, table: &SymbolTable) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.out.len() + self.used.len() * 16);
        for number in &self.used {
            put_bytes(&mut all, 4, table.texts.get(*number as usize).map_or(&[][..], |t| t.as_bytes()));
        }
        all.extend_from_slice(&self.out);
        all
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::messages::{self, any_histogram, message_of};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn version_1_says_the_same_as_the_encoder_that_keeps_nothing() {
        let labels = [("__name__", "a"), ("x", "y")];
        let samples = [(1i64, 0.0f64), (2, f64::NAN), (-3, -0.0)].map(|(ts_ms, value)| Sample { ts_ms, value });
        let mut ready = SeriesEncoder::default();
        ready.begin(&render_labels(labels));
        samples.iter().for_each(|sample| ready.sample(*sample));
        ready.end();
        let mut plain = super::super::Encoder::default();
        plain.add_series(labels, samples);
        assert_eq!(ready.bytes(), plain.take());
    }

    proptest! {
        #[test]
        fn version_2_reads_back(
            series in prop::collection::vec((prop::collection::vec(("[a-c]{1,2}", "[x-z]{0,2}"), 1..4),
                prop::collection::vec((any::<i64>(), any::<f64>()), 0..3)), 1..5),
            (histogram, whole) in any_histogram(),
        ) {
            let (mut table, mut encoder) = (SymbolTable::default(), SeriesEncoderV2::default());
            // The second request uses other numbers for the same texts.
            for part in [&series[..], &series[series.len() - 1..]] {
                encoder.clear();
                for (labels, samples) in part {
                    let refs: Vec<u32> = labels.iter().flat_map(|(n, v)| [table.number(n), table.number(v)]).collect();
                    encoder.begin(&refs);
                    samples.iter().for_each(|(ts_ms, value)| encoder.sample(Sample { ts_ms: *ts_ms, value: *value }));
                    encoder.histogram(5, &histogram);
                    encoder.exemplar(&refs, Sample { ts_ms: 9, value: 1.5 });
                    let help = table.number("what it is");
                    encoder.metadata(SeriesMetadata { metric_type: MetricType::Summary, help, unit: 0 });
                    encoder.end();
                }
                let read = messages::Request::decode(&encoder.finish(&table)[..]).unwrap();
                prop_assert_eq!(&read.symbols[0], "");
                let text = |n: u32| read.symbols[n as usize].clone();
                for (found, (labels, samples)) in read.timeseries.iter().zip(part) {
                    let back: Vec<_> = found.labels_refs.chunks(2).map(|p| (text(p[0]), text(p[1]))).collect();
                    prop_assert_eq!(&back, labels);
                    let back: Vec<_> = found.samples.iter().map(|s| (s.timestamp, s.value.to_bits())).collect();
                    let wanted: Vec<_> = samples.iter().map(|(ts, v)| (*ts, v.to_bits())).collect();
                    prop_assert_eq!(back, wanted);
                    prop_assert_eq!(&found.histograms, &vec![message_of(&histogram, 5, whole)]);
                    let e = &found.exemplars[0];
                    prop_assert_eq!((e.labels_refs.len(), e.value, e.timestamp), (labels.len() * 2, 1.5, 9));
                    let metadata = found.metadata.unwrap();
                    prop_assert_eq!((metadata.metric_type, text(metadata.help_ref)), (5, "what it is".to_owned()));
                }
                prop_assert_eq!(read.timeseries.len(), part.len());
            }
        }
    }
}
