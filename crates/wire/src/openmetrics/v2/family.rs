//! A family on its way into a message.

use model::MetricType;
use model::coding::put_varint;

use super::composite::{Composite, Native, Side};
use super::message::{put_bytes, put_double, put_int, put_signed, put_text, put_whole};
use crate::error::Fault;

/// An exemplar.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Exemplar {
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: f64,
    pub(super) ts_ms: i64,
}

/// A value.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    Number(f64),
    Composite(Composite),
}

/// A sample.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Sample {
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: Value,
    pub(super) ts_ms: Option<i64>,
    pub(super) start_ms: Option<i64>,
    pub(super) exemplars: Vec<Exemplar>,
}

impl Default for Sample {
    fn default() -> Sample {
        let value = Value::Number(0.0);
        Sample { labels: Vec::new(), value, ts_ms: None, start_ms: None, exemplars: Vec::new() }
    }
}

/// A family and its samples so far, written.
pub(super) struct Family {
    pub(super) name: String,
    pub(super) metric_type: Option<MetricType>,
    pub(super) unit: Option<String>,
    pub(super) help: Option<String>,
    metrics: Vec<u8>,
    scratch: Vec<u8>,
}

impl Family {
    pub(super) fn new(name: &str) -> Family {
        let (metrics, scratch) = (Vec::new(), Vec::new());
        Family { name: name.to_owned(), metric_type: None, unit: None, help: None, metrics, scratch }
    }

    pub(super) fn has_samples(&self) -> bool {
        !self.metrics.is_empty()
    }

    /// Adds a sample.
    ///
    /// **Errors** when its value is none of the family's type.
    pub(super) fn push(&mut self, sample: &Sample) -> Result<(), Fault> {
        let metric_type = self.type_for(&sample.value)?;
        let mut metric = Vec::new();
        for (name, value) in &sample.labels {
            self.scratch.clear();
            put_text(&mut self.scratch, 1, name);
            put_text(&mut self.scratch, 2, value);
            put_bytes(&mut metric, 1, &self.scratch);
        }
        if let Some(ts_ms) = sample.ts_ms {
            put_int(&mut metric, 6, ts_ms);
        }
        let mut value = Vec::new();
        match &sample.value {
            Value::Number(number) => {
                put_double(&mut value, 1, *number);
                if metric_type == MetricType::Counter {
                    if let Some(exemplar) = sample.exemplars.first() {
                        put_exemplar(&mut value, 2, exemplar);
                    }
                    put_time(&mut value, 3, sample.start_ms);
                }
                let field = match metric_type {
                    MetricType::Counter => 3,
                    MetricType::Unknown => 5,
                    _ => 2,
                };
                put_bytes(&mut metric, field, &value);
            }
            Value::Composite(summary) if metric_type == MetricType::Summary => {
                put_summary(&mut value, summary, sample.start_ms);
                put_bytes(&mut metric, 4, &value);
            }
            Value::Composite(histogram) => {
                put_histogram(&mut value, histogram, sample);
                put_bytes(&mut metric, 7, &value);
            }
        }
        put_bytes(&mut self.metrics, 4, &metric);
        Ok(())
    }

    /// Tells the type by the value when the family does not say it, and whether both go together.
    fn type_for(&mut self, value: &Value) -> Result<MetricType, Fault> {
        let natural = match value {
            Value::Number(_) => MetricType::Unknown,
            Value::Composite(Composite { quantiles: Some(_), .. }) => MetricType::Summary,
            Value::Composite(Composite { is_gauge: true, .. }) => MetricType::GaugeHistogram,
            Value::Composite(_) => MetricType::Histogram,
        };
        let given = self.metric_type.unwrap_or_default();
        if given == MetricType::Unknown && (natural == MetricType::Unknown || !self.has_samples()) {
            self.metric_type = Some(natural);
            return Ok(natural);
        }
        let wants_number = !matches!(given, MetricType::Histogram | MetricType::GaugeHistogram | MetricType::Summary);
        match natural == given || (wants_number && natural == MetricType::Unknown) {
            true => Ok(given),
            false => Err(Fault::new(1, format!("this is no value of a family of type {}", given.as_str()))),
        }
    }

    /// Writes the family behind its length.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut head = Vec::new();
        put_text(&mut head, 1, &self.name);
        put_text(&mut head, 2, self.help.as_deref().unwrap_or_default());
        let number = match self.metric_type.unwrap_or_default() {
            MetricType::Counter => 0,
            MetricType::Gauge | MetricType::Info | MetricType::StateSet => 1,
            MetricType::Summary => 2,
            MetricType::Unknown => 3,
            MetricType::Histogram => 4,
            MetricType::GaugeHistogram => 5,
        };
        put_whole(&mut head, 3, number);
        put_text(&mut head, 5, self.unit.as_deref().unwrap_or_default());
        put_varint(out, (head.len() + self.metrics.len()) as u64);
        out.extend_from_slice(&head);
        out.extend_from_slice(&self.metrics);
    }
}

/// Writes a time in milliseconds as `google.protobuf.Timestamp`.
fn put_time(out: &mut Vec<u8>, number: u32, ms: Option<i64>) {
    if let Some(ms) = ms {
        let mut time = Vec::new();
        put_int(&mut time, 1, ms.div_euclid(1_000));
        put_int(&mut time, 2, ms.rem_euclid(1_000) * 1_000_000);
        put_bytes(out, number, &time);
    }
}

fn put_exemplar(out: &mut Vec<u8>, number: u32, exemplar: &Exemplar) {
    let mut written = Vec::new();
    for (name, value) in &exemplar.labels {
        let mut pair = Vec::new();
        put_text(&mut pair, 1, name);
        put_text(&mut pair, 2, value);
        put_bytes(&mut written, 1, &pair);
    }
    put_double(&mut written, 2, exemplar.value);
    put_time(&mut written, 3, Some(exemplar.ts_ms));
    put_bytes(out, number, &written);
}

fn put_summary(out: &mut Vec<u8>, summary: &Composite, start_ms: Option<i64>) {
    put_whole(out, 1, summary.count as u64);
    put_double(out, 2, summary.sum);
    for (quantile, value) in summary.quantiles.iter().flatten() {
        let mut one = Vec::new();
        put_double(&mut one, 1, *quantile);
        put_double(&mut one, 2, *value);
        put_bytes(out, 3, &one);
    }
    put_time(out, 4, start_ms);
}

fn is_whole(count: f64) -> bool {
    (0.0..=9_007_199_254_740_992.0).contains(&count) && count.fract() == 0.0
}

fn put_histogram(out: &mut Vec<u8>, histogram: &Composite, sample: &Sample) {
    let native = histogram.native.iter();
    let all = native
        .flat_map(|n| [n.zero_count].into_iter().chain(n.negative.counts.clone()).chain(n.positive.counts.clone()));
    let whole = is_whole(histogram.count) && all.chain(histogram.buckets.iter().flatten().map(|b| b.1)).all(is_whole);
    put_count(out, whole, 1, 4, histogram.count);
    put_double(out, 2, histogram.sum);
    // An exemplar belongs to the first bucket that its value fits into.
    let mut exemplars: Vec<&Exemplar> = sample.exemplars.iter().collect();
    for (bound, count) in histogram.buckets.iter().flatten() {
        let mut bucket = Vec::new();
        put_count(&mut bucket, whole, 1, 4, *count);
        put_double(&mut bucket, 2, *bound);
        if histogram.native.is_none()
            && let Some(at) = exemplars.iter().position(|exemplar| exemplar.value <= *bound)
        {
            put_exemplar(&mut bucket, 3, exemplars.swap_remove(at));
            exemplars.retain(|exemplar| exemplar.value > *bound);
        }
        put_bytes(out, 3, &bucket);
    }
    if let Some(native) = &histogram.native {
        put_native(out, native, whole);
        exemplars.iter().for_each(|exemplar| put_exemplar(out, 16, exemplar));
    }
    put_time(out, 15, sample.start_ms);
}

fn put_count(out: &mut Vec<u8>, whole: bool, whole_number: u32, float_number: u32, count: f64) {
    match whole {
        true => put_whole(out, whole_number, count as u64),
        false => put_double(out, float_number, count),
    }
}

fn put_native(out: &mut Vec<u8>, native: &Native, whole: bool) {
    put_signed(out, 5, i64::from(native.schema));
    put_double(out, 6, native.zero_threshold);
    put_count(out, whole, 7, 8, native.zero_count);
    put_side(out, &native.negative, [9, 10, 11], whole);
    put_side(out, &native.positive, [12, 13, 14], whole);
    if native.negative.spans.is_empty() && native.positive.spans.is_empty() {
        // An empty span tells a native histogram without observations from a classic one.
        put_bytes(out, 12, &[]);
    }
}

fn put_side(out: &mut Vec<u8>, side: &Side, [spans, deltas, counts]: [u32; 3], whole: bool) {
    for (offset, length) in &side.spans {
        let mut span = Vec::new();
        put_signed(&mut span, 1, i64::from(*offset));
        put_whole(&mut span, 2, u64::from(*length));
        put_bytes(out, spans, &span);
    }
    let mut last = 0;
    for count in &side.counts {
        if whole {
            put_signed(out, deltas, *count as i64 - last);
            last = *count as i64;
        } else {
            put_double(out, counts, *count);
        }
    }
}
