//! Resources, scopes and metrics: what stands above the data points.

use std::borrow::Cow;
use std::collections::HashMap;

use model::{Batch, MetricType, NO_FAMILY};

use super::attributes::{read_key_value, text_of};
use super::labels::{Added, PointLabels};
use super::names::{NameKind, label_name, metric_name, unit_name};
use super::{Options, Stats};
use crate::proto::{Message, WireError};
use crate::remote_write::Limits;
use crate::remote_write::intake::Intake;

/// Resource attributes that become `job` and `instance`.
const NAMESPACE: &str = "service.namespace";
const SERVICE: &str = "service.name";
const INSTANCE: &str = "service.instance.id";
const TARGET_INFO: &str = "target_info";
/// Half of how far back queries look by default, as Prometheus has it.
const TARGET_INFO_EVERY_MS: i64 = 150_000;
/// So many samples of `target_info` for one resource, which is 17 hours.
const TARGET_INFO_MAX: i64 = 400;

/// Reads an `ExportMetricsServiceRequest` and appends all of it to the batch.
///
/// Points without a time get that of the batch's origin. Start times stand in [`Batch::start_timestamps`]. A point that cannot be
/// taken becomes one refused sample, so that the counts add up.
///
/// **Takes** limits as those of remote write; `text_bytes_max` bounds the labels that resources and buckets multiply.
/// **Errors** when the bytes are no such message or hold too much; then the batch holds a part: clear it.
pub fn decode(body: &[u8], batch: &mut Batch, options: &Options, limits: &Limits) -> Result<Stats, WireError> {
    let mut decoder = Decoder {
        received_ms: batch.origin.received_at_ms,
        intake: Intake::new(batch, limits),
        options,
        stats: Stats::default(),
        labels: PointLabels::new(options.label_style()),
        resource: Vec::new(),
        scope: Vec::new(),
        families: HashMap::new(),
        times: None,
    };
    let mut request = Message::new(body);
    while let Some(field) = request.next_field()? {
        if field.number == 1 {
            decoder.read_resource_metrics(field.message()?)?;
        }
    }
    decoder.stats.decoded = decoder.intake.stats;
    Ok(decoder.stats)
}

pub(super) struct Decoder<'a, 'b> {
    pub(super) received_ms: i64,
    pub(super) intake: Intake<'b>,
    pub(super) options: &'b Options,
    pub(super) stats: Stats,
    pub(super) labels: PointLabels<'a>,
    /// What the resource and the scope add to every series.
    pub(super) resource: Vec<Added>,
    pub(super) scope: Vec<Added>,
    families: HashMap<String, u32>,
    /// The earliest and the latest time of a point of the resource.
    pub(super) times: Option<(i64, i64)>,
}

/// A metric whose points are being read.
pub(super) struct Metric<'a> {
    /// As it was sent.
    pub(super) sent_name: Cow<'a, str>,
    /// Translated; `None` when nothing usable is left.
    pub(super) name: Option<String>,
    pub(super) family: u32,
    pub(super) shape: Shape,
    pub(super) is_delta: bool,
    /// Its start times mean something: it only rises.
    pub(super) has_start: bool,
}

/// The kinds of data points.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Number,
    Histogram,
    Exponential,
    Summary,
}

impl<'a> Decoder<'a, '_> {
    fn read_resource_metrics(&mut self, message: Message<'a>) -> Result<(), WireError> {
        let mut attributes = Vec::new();
        let mut fields = message;
        while let Some(field) = fields.next_field()? {
            if field.number == 1 {
                attributes.extend(read_attributes(field.message()?, 1, self.intake.limits.labels_max)?);
            }
        }
        self.resource = self.resource_labels(&attributes);
        self.times = None;
        let mut fields = message;
        while let Some(field) = fields.next_field()? {
            if field.number == 2 {
                self.read_scope_metrics(field.message()?)?;
            }
        }
        if let (true, Some(times)) = (self.options.target_info, self.times) {
            self.push_target_info(attributes, times)?;
        }
        Ok(())
    }

    fn resource_labels(&self, attributes: &[(&'a str, Cow<'a, str>)]) -> Vec<Added> {
        let options = self.options;
        let get = |key: &str| attributes.iter().find(|(k, v)| *k == key && !v.is_empty()).map(|(_, v)| v);
        let mut added = Vec::new();
        if let Some(service) = get(SERVICE) {
            let value = get(NAMESPACE).map_or(service.to_string(), |namespace| format!("{namespace}/{service}"));
            added.push(Added { name: "job".to_owned(), value, replaces: true });
        }
        if let Some(instance) = get(INSTANCE) {
            added.push(Added { name: "instance".to_owned(), value: instance.to_string(), replaces: true });
        }
        for (key, value) in attributes {
            let is_in = |list: &[String]| list.iter().any(|k| k == key);
            let promoted = match options.promote_all_resource_attributes {
                true => !is_in(&options.ignore_resource_attributes),
                false => is_in(&options.promote_resource_attributes),
            };
            if promoted {
                added.push(Added {
                    name: label_name(options.label_style(), key),
                    value: value.to_string(),
                    replaces: false,
                });
            }
        }
        added
    }

    /// Adds samples that tell what is known of the resource, if it is one that can be told from others: from its earliest point
    /// on as often as queries need it, and at its latest.
    fn push_target_info(
        &mut self,
        attributes: Vec<(&'a str, Cow<'a, str>)>,
        (earliest_ms, latest_ms): (i64, i64),
    ) -> Result<(), WireError> {
        let is_identifying = |key: &str| matches!(key, NAMESPACE | SERVICE | INSTANCE);
        let identified = self.resource.iter().any(|a| a.replaces);
        if !identified || attributes.iter().all(|(key, _)| is_identifying(key)) {
            return Ok(());
        }
        self.labels.clear();
        for (key, value) in attributes {
            if !is_identifying(key) || self.options.keep_identifying_resource_attributes {
                self.labels.push(key, value);
            }
        }
        self.labels.finish(&[&self.resource]);
        let series = self.push_series(TARGET_INFO, None, NO_FAMILY)?;
        // Points with times of all ages must not make more samples than points.
        let first_ms = earliest_ms.max(latest_ms.saturating_sub(TARGET_INFO_EVERY_MS * TARGET_INFO_MAX));
        // Points of one export differ by some milliseconds: that is one time.
        if latest_ms - first_ms >= TARGET_INFO_EVERY_MS {
            for ts_ms in (first_ms..latest_ms).step_by(TARGET_INFO_EVERY_MS as usize) {
                self.push_sample(series, ts_ms, 1.0)?;
            }
        }
        self.push_sample(series, latest_ms, 1.0)
    }

    fn read_scope_metrics(&mut self, message: Message<'a>) -> Result<(), WireError> {
        self.scope.clear();
        if self.options.promote_scope_metadata {
            self.read_scope(message)?;
        }
        let mut fields = message;
        while let Some(field) = fields.next_field()? {
            if field.number == 2 {
                self.read_metric(field.message()?)?;
            }
        }
        Ok(())
    }

    fn read_scope(&mut self, mut message: Message<'a>) -> Result<(), WireError> {
        let mut add = |name: &str, value: &str| {
            self.scope.push(Added { name: format!("otel_scope_{name}"), value: value.to_owned(), replaces: true });
        };
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => {
                    let mut scope = field.message()?;
                    while let Some(field) = scope.next_field()? {
                        match field.number {
                            1 => add("name", &String::from_utf8_lossy(field.bytes()?)),
                            2 => add("version", &String::from_utf8_lossy(field.bytes()?)),
                            _ => {}
                        }
                    }
                    for (key, value) in read_attributes(field.message()?, 3, self.intake.limits.labels_max)? {
                        add(&label_name(self.options.label_style(), key), &value);
                    }
                }
                3 => add("schema_url", &String::from_utf8_lossy(field.bytes()?)),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_metric(&mut self, message: Message<'a>) -> Result<(), WireError> {
        let (mut name, mut help, mut unit, mut data) = (&[][..], &[][..], &[][..], None);
        let mut fields = message;
        while let Some(field) = fields.next_field()? {
            match field.number {
                1 => name = field.bytes()?,
                2 => help = field.bytes()?,
                3 => unit = field.bytes()?,
                5 | 7 | 9 | 10 | 11 => data = Some((field.number, field.message()?)),
                _ => {}
            }
        }
        let Some((number, data)) = data else { return Ok(()) };
        let (mut is_delta, mut is_monotonic) = (false, false);
        let mut fields = data;
        while let Some(field) = fields.next_field()? {
            match field.number {
                2 if matches!(number, 7 | 9 | 10) => is_delta = field.varint()? == 1,
                3 if number == 7 => is_monotonic = field.varint()? != 0,
                _ => {}
            }
        }
        let (shape, metric_type, kind) = match number {
            5 => (Shape::Number, MetricType::Gauge, NameKind::Gauge),
            7 if is_monotonic => (Shape::Number, MetricType::Counter, NameKind::MonotonicSum),
            7 => (Shape::Number, MetricType::Gauge, NameKind::Other),
            9 => (Shape::Histogram, MetricType::Histogram, NameKind::Other),
            10 => (Shape::Exponential, MetricType::Histogram, NameKind::Other),
            _ => (Shape::Summary, MetricType::Summary, NameKind::Other),
        };
        let unit = String::from_utf8_lossy(unit);
        let sent_name = String::from_utf8_lossy(name);
        let strategy = self.options.strategy;
        let name =
            if matches!(sent_name, Cow::Borrowed(_)) { metric_name(strategy, &sent_name, &unit, kind) } else { None };
        let family = match &name {
            Some(name) => self.family(name, metric_type, help, &unit_name(strategy, &unit))?,
            None => NO_FAMILY,
        };
        let has_start = metric_type != MetricType::Gauge;
        let metric = Metric { sent_name, name, family, shape, is_delta, has_start };
        let mut fields = data;
        while let Some(field) = fields.next_field()? {
            if field.number == 1 {
                self.read_point(&metric, field.message()?)?;
            }
        }
        Ok(())
    }

    fn family(&mut self, name: &str, metric_type: MetricType, help: &[u8], unit: &str) -> Result<u32, WireError> {
        if let Some(family) = self.families.get(name) {
            return Ok(*family);
        }
        let pushed = self.intake.push_family(metric_type, name.as_bytes(), help, unit.as_bytes());
        if let Some(family) = pushed {
            self.families.insert(name.to_owned(), family);
        }
        Ok(pushed.unwrap_or(NO_FAMILY))
    }
}

/// Reads the attributes in a field, at most `max`; those whose key is empty or not UTF-8 are left out.
fn read_attributes<'a>(
    mut message: Message<'a>,
    number: u32,
    max: usize,
) -> Result<Vec<(&'a str, Cow<'a, str>)>, WireError> {
    let mut attributes = Vec::new();
    while let Some(field) = message.next_field()? {
        if field.number == number && attributes.len() < max {
            let pair = read_key_value(field.message()?)?;
            match std::str::from_utf8(pair.key) {
                Ok(key) if !key.is_empty() => attributes.push((key, text_of(pair.value)?)),
                _ => {}
            }
        }
    }
    Ok(attributes)
}
