//! Data points: each becomes one or several samples, or is refused.
//!
//! Invariant: whatever a point is, the batch holds at least one sample or histogram of it, undecided or refused.

use std::borrow::Cow;
use std::sync::Arc;

use model::histogram::Histogram;
use model::{LabelsBuf, Refusal, SeriesIndex, Verdict, stale_nan};

use super::attributes::{read_key_value, text_of};
use super::classic::Classic;
use super::decode::{Decoder, Metric, Shape};
use super::exponential::Exponential;
use super::labels::encode;
use super::names::label_name;
use super::{DeltaPoint, Deltas, PointEnd, RejectedPoint};
use crate::native::Refused;
use crate::proto::{Message, WireError};

const NANOS_PER_MILLI: u64 = 1_000_000;
/// The flag of a point that says: there was no value here.
const NO_VALUE: u64 = 1;
/// Attributes of an exemplar are left out if its labels would have more characters than this; traces never are.
const EXEMPLAR_CHARS_MAX: usize = 128;
const UNNAMED: &str = "unnamed";

/// What all kinds of points have.
#[derive(Default)]
struct Head {
    start_ms: i64,
    ts_ms: i64,
    no_value: bool,
    has_exemplars: bool,
}

/// An exemplar, read.
struct Exemplar {
    labels: LabelsBuf,
    value: f64,
    ts_ms: i64,
}

/// Why a point is refused.
type Fault = (Refusal, Refused);

/// Gives the numbers of the fields for attributes, flags and exemplars; start and time are 2 and 3 in all.
fn fields_of(shape: Shape) -> (u32, u32, u32) {
    match shape {
        Shape::Number => (7, 8, 5),
        Shape::Histogram => (9, 10, 8),
        Shape::Exponential => (1, 10, 11),
        Shape::Summary => (7, 8, 0),
    }
}

impl<'a> Decoder<'a, '_> {
    pub(super) fn read_point(&mut self, metric: &Metric<'_>, message: Message<'a>) -> Result<(), WireError> {
        self.stats.points += 1;
        let (head, fault) = self.read_head(metric, message)?;
        self.labels.finish(&[&self.resource, &self.scope]);
        let times = self.times.get_or_insert((head.ts_ms, head.ts_ms));
        *times = (times.0.min(head.ts_ms), times.1.max(head.ts_ms));
        let before = (self.intake.batch.samples.len(), self.intake.batch.histograms.len());
        let taken = match (fault, &metric.name) {
            (Some(fault), _) => Err(fault),
            (None, None) => Err((Refusal::InvalidName, "nothing usable is left of the metric's name".into())),
            (None, Some(_)) if metric.is_delta && self.options.deltas == Deltas::Refuse => {
                Err((Refusal::InvalidValue, "delta temporality is not taken; send cumulative".into()))
            }
            (None, Some(name)) => match metric.shape {
                Shape::Number => self.read_number(metric, name, &head, message)?,
                Shape::Histogram => self.read_histogram(metric, name, &head, message)?,
                Shape::Exponential => self.read_exponential(metric, name, &head, message)?,
                Shape::Summary => self.read_summary(metric, name, &head, message)?,
            },
        };
        if let Err(fault) = taken {
            self.reject(metric, &head, fault)?;
        } else if metric.is_delta {
            let after = (self.intake.batch.samples.len(), self.intake.batch.histograms.len());
            self.stats.deltas.push(DeltaPoint {
                samples: before.0 as u32..after.0 as u32,
                histograms: before.1 as u32..after.1 as u32,
                start_ms: head.start_ms,
            });
        }
        let batch = &self.intake.batch;
        self.stats
            .point_ends
            .push(PointEnd { samples: batch.samples.len() as u32, histograms: batch.histograms.len() as u32 });
        Ok(())
    }

    /// Reads times, flags and attributes; gives what is wrong with the labels.
    fn read_head(&mut self, metric: &Metric<'_>, mut message: Message<'a>) -> Result<(Head, Option<Fault>), WireError> {
        let (attributes, flags, exemplars) = fields_of(metric.shape);
        let mut head = Head { ts_ms: self.received_ms, ..Head::default() };
        let mut fault = None;
        self.labels.clear();
        while let Some(field) = message.next_field()? {
            match field.number {
                2 => head.start_ms = millis(field.fixed64()?),
                3 => head.ts_ms = Some(millis(field.fixed64()?)).filter(|ms| *ms > 0).unwrap_or(head.ts_ms),
                number if number == flags => head.no_value = field.varint()? & NO_VALUE != 0,
                number if number == exemplars => head.has_exemplars = true,
                number if number == attributes => {
                    let pushed = self.push_attribute(field.message()?)?;
                    fault = fault.or(pushed.err());
                }
                _ => {}
            }
        }
        Ok((head, fault))
    }

    fn push_attribute(&mut self, message: Message<'a>) -> Result<Result<(), Fault>, WireError> {
        let limits = self.intake.limits;
        if self.labels.len() >= limits.labels_max {
            return Ok(Err((Refusal::LabelLimit, "the point has too many attributes".into())));
        }
        let pair = read_key_value(message)?;
        let value = text_of(pair.value)?;
        if pair.key.len() > limits.name_bytes_max || value.len() > limits.value_bytes_max {
            return Ok(Err((Refusal::LabelLimit, "the key or value of an attribute is too long".into())));
        }
        match std::str::from_utf8(pair.key) {
            Ok("") => Ok(Err((Refusal::InvalidName, "the key of an attribute is empty".into()))),
            Ok(key) => {
                self.labels.push(key, value);
                Ok(Ok(()))
            }
            Err(_) => Ok(Err((Refusal::InvalidName, "the key of an attribute is not UTF-8".into()))),
        }
    }

    /// Counts a point as refused; one sample stands for it.
    fn reject(&mut self, metric: &Metric<'_>, head: &Head, (reason, text): Fault) -> Result<(), WireError> {
        let name = metric.name.as_deref().unwrap_or(UNNAMED);
        let series = self.push_series(name, None, metric.family)?;
        self.intake.count_value()?;
        self.intake.stats.samples += 1;
        self.intake.batch.push_decided(series, head.ts_ms, f64::NAN, Verdict::Refused(reason));
        self.stats.rejected += 1;
        self.stats.first_rejected.get_or_insert_with(|| RejectedPoint {
            metric: metric.sent_name.chars().take(200).collect(),
            reason,
            text: text.into_owned(),
        });
        Ok(())
    }

    /// Adds the series of the point's labels, a metric name and possibly one more label.
    pub(super) fn push_series(
        &mut self,
        name: &str,
        more: Option<(&str, &str)>,
        family: u32,
    ) -> Result<SeriesIndex, WireError> {
        let base = &self.labels.base;
        let pushed = self.intake.batch.push_encoded(family, |out| {
            encode(base, name, more, out);
            true
        });
        let series = pushed.unwrap_or(SeriesIndex(0));
        self.intake.stats.series += 1;
        self.intake.spend(self.intake.batch.label_bytes(series).len())?;
        Ok(series)
    }

    pub(super) fn push_sample(&mut self, series: SeriesIndex, ts_ms: i64, value: f64) -> Result<(), WireError> {
        self.intake.count_value()?;
        self.intake.stats.samples += 1;
        self.intake.batch.push_sample(series, ts_ms, value);
        Ok(())
    }

    fn push(
        &mut self,
        metric: &Metric<'_>,
        head: &Head,
        name: &str,
        more: Option<(&str, &str)>,
        value: f64,
    ) -> Result<SeriesIndex, WireError> {
        let series = self.push_series(name, more, metric.family)?;
        self.push_sample(series, head.ts_ms, if head.no_value { stale_nan() } else { value })?;
        Ok(series)
    }

    fn note_start(&mut self, metric: &Metric<'_>, head: &Head, series: SeriesIndex) {
        if metric.has_start && head.start_ms > 0 {
            self.intake.batch.start_timestamps.push((series, head.start_ms));
        }
    }

    fn read_number(
        &mut self,
        metric: &Metric<'_>,
        name: &str,
        head: &Head,
        message: Message<'a>,
    ) -> Result<Result<(), Fault>, WireError> {
        let mut value = None;
        let mut fields = message;
        while let Some(field) = fields.next_field()? {
            match field.number {
                4 => value = Some(field.double()?),
                6 => value = Some(field.fixed64()? as i64 as f64),
                _ => {}
            }
        }
        if value.is_none() && !head.no_value {
            return Ok(Err((Refusal::InvalidValue, "the point has no value".into())));
        }
        let series = self.push(metric, head, name, None, value.unwrap_or_default())?;
        self.note_start(metric, head, series);
        self.push_exemplars(metric, head, message, |_| series)?;
        Ok(Ok(()))
    }

    fn read_summary(
        &mut self,
        metric: &Metric<'_>,
        name: &str,
        head: &Head,
        message: Message<'a>,
    ) -> Result<Result<(), Fault>, WireError> {
        let (mut count, mut sum) = (0, 0.0);
        let mut fields = message;
        while let Some(field) = fields.next_field()? {
            match field.number {
                4 => count = field.fixed64()?,
                5 => sum = field.double()?,
                _ => {}
            }
        }
        self.push(metric, head, &format!("{name}_sum"), None, sum)?;
        let series = self.push(metric, head, &format!("{name}_count"), None, count as f64)?;
        self.note_start(metric, head, series);
        let mut fields = message;
        while let Some(field) = fields.next_field()? {
            if field.number == 6 {
                let (mut quantile, mut value) = (0.0, 0.0);
                let mut message = field.message()?;
                while let Some(field) = message.next_field()? {
                    match field.number {
                        1 => quantile = field.double()?,
                        2 => value = field.double()?,
                        _ => {}
                    }
                }
                self.push(metric, head, name, Some(("quantile", &quantile.to_string())), value)?;
            }
        }
        Ok(Ok(()))
    }

    fn read_histogram(
        &mut self,
        metric: &Metric<'_>,
        name: &str,
        head: &Head,
        message: Message<'a>,
    ) -> Result<Result<(), Fault>, WireError> {
        let mut point = Classic::default();
        let mut fields = message;
        while let Some(field) = fields.next_field()? {
            match field.number {
                4 => point.count = field.fixed64()?,
                5 => point.sum = Some(field.double()?),
                6 => field.fixed64s(|count| point.push_count(count))?,
                7 => field.fixed64s(|bits| point.push_bound(f64::from_bits(bits)))?,
                _ => {}
            }
        }
        if let Err(text) = point.check() {
            return Ok(Err((Refusal::InvalidValue, text)));
        }
        if self.options.convert_histograms_to_nhcb {
            let histogram = point.to_native();
            return self.push_native(metric, name, head, message, histogram);
        }
        if let Some(sum) = point.sum {
            self.push(metric, head, &format!("{name}_sum"), None, sum)?;
        }
        let series = self.push(metric, head, &format!("{name}_count"), None, point.count as f64)?;
        self.note_start(metric, head, series);
        let bucket = format!("{name}_bucket");
        let mut below = 0u64;
        let first = self.intake.batch.series.len() as u32;
        for (bound, count) in point.bounds.iter().zip(&point.counts) {
            below = below.saturating_add(*count);
            self.push(metric, head, &bucket, Some(("le", &bound.to_string())), below as f64)?;
        }
        self.push(metric, head, &bucket, Some(("le", "+Inf")), point.count as f64)?;
        let buckets = point.bounds.len().min(point.counts.len());
        self.push_exemplars(metric, head, message, |value| {
            let at = point.bounds[..buckets].partition_point(|bound| *bound < value);
            SeriesIndex(first + at as u32)
        })?;
        Ok(Ok(()))
    }

    fn read_exponential(
        &mut self,
        metric: &Metric<'_>,
        name: &str,
        head: &Head,
        message: Message<'a>,
    ) -> Result<Result<(), Fault>, WireError> {
        let mut point = Exponential::default();
        let mut fields = message;
        while let Some(field) = fields.next_field()? {
            match field.number {
                4 => point.count = field.fixed64()?,
                5 => point.sum = Some(field.double()?),
                6 => point.scale = field.sint32()?,
                7 => point.zero_count = field.fixed64()?,
                8 => point.positive = Some(field.message()?),
                9 => point.negative = Some(field.message()?),
                14 => point.zero_threshold = field.double()?,
                _ => {}
            }
        }
        let histogram = point.to_native()?;
        self.push_native(metric, name, head, message, histogram)
    }

    fn push_native(
        &mut self,
        metric: &Metric<'_>,
        name: &str,
        head: &Head,
        message: Message<'a>,
        histogram: Result<Histogram, Refused>,
    ) -> Result<Result<(), Fault>, WireError> {
        if head.no_value {
            self.push(metric, head, name, None, 0.0)?;
            return Ok(Ok(()));
        }
        let histogram = match histogram {
            Ok(_) if !self.intake.limits.native_histograms => Err("native histograms cannot be stored here".into()),
            other => other,
        };
        let histogram = match histogram {
            Ok(histogram) => histogram,
            Err(text) => return Ok(Err((Refusal::InvalidValue, text))),
        };
        self.intake.reserve_histogram(&histogram)?;
        self.intake.count_value()?;
        self.intake.stats.histograms += 1;
        let series = self.push_series(name, None, metric.family)?;
        self.intake.batch.push_histogram(series, head.ts_ms, Arc::new(histogram));
        self.note_start(metric, head, series);
        self.push_exemplars(metric, head, message, |_| series)?;
        Ok(Ok(()))
    }

    /// Takes the exemplars of a point; `series_of` says to which series one of a value belongs.
    fn push_exemplars(
        &mut self,
        metric: &Metric<'_>,
        head: &Head,
        mut message: Message<'a>,
        series_of: impl Fn(f64) -> SeriesIndex,
    ) -> Result<(), WireError> {
        if !head.has_exemplars {
            return Ok(());
        }
        let (_, _, number) = fields_of(metric.shape);
        while let Some(field) = message.next_field()? {
            if field.number == number {
                let exemplar = self.read_exemplar(field.message()?)?;
                let room = self.intake.exemplar_labels(Verdict::Pending).is_some();
                let Exemplar { labels, value, ts_ms } = exemplar;
                self.intake.push_exemplar(series_of(value), room.then_some(labels), ts_ms, value);
            }
        }
        Ok(())
    }

    fn read_exemplar(&self, mut message: Message<'a>) -> Result<Exemplar, WireError> {
        let mut exemplar = Exemplar { labels: LabelsBuf::default(), value: 0.0, ts_ms: 0 };
        let mut chars = 0;
        let mut attributes: Vec<(String, Cow<'a, str>)> = Vec::new();
        while let Some(field) = message.next_field()? {
            match field.number {
                2 => exemplar.ts_ms = millis(field.fixed64()?),
                3 => exemplar.value = field.double()?,
                6 => exemplar.value = field.fixed64()? as i64 as f64,
                4 | 5 => {
                    let name = if field.number == 4 { "span_id" } else { "trace_id" };
                    let hex = hex(field.bytes()?);
                    chars += name.len() + hex.len();
                    exemplar.labels.set(name, &hex);
                }
                7 if chars <= EXEMPLAR_CHARS_MAX => {
                    let pair = read_key_value(field.message()?)?;
                    let (key, value) = (String::from_utf8_lossy(pair.key), text_of(pair.value)?);
                    chars += key.chars().count() + value.chars().count();
                    attributes.push((label_name(self.options.label_style(), &key), value));
                }
                _ => {}
            }
        }
        if chars <= EXEMPLAR_CHARS_MAX {
            attributes.iter().for_each(|(name, value)| exemplar.labels.set(name, value));
        }
        Ok(exemplar)
    }
}

fn millis(nanos: u64) -> i64 {
    (nanos / NANOS_PER_MILLI) as i64
}

/// Prints an id; empty when it is none, which is all zeros.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // Ids have 8 or 16 bytes; what is longer is none.
    if bytes.len() > 16 || bytes.iter().all(|b| *b == 0) {
        return String::new();
    }
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}
