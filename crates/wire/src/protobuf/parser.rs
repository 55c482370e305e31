//! A pull parser over a body of delimited `MetricFamily` messages.
//!
//! Owns: the place in the body and one key buffer. Invariants: 1. nothing is allocated per sample; 2. after an error or the
//! end nothing more comes; 3. the metadata of a family comes before its samples, wherever it stands in the message.

use model::histogram::Histogram;
use model::{LabelsBuf, MetricType};

use super::key::{self, Kind, read_pair};
use super::metric::{self, Metric, Part, Point};
use super::plain;
use crate::error::ParseError;
use crate::native::read_timestamp;
use crate::points::Role;
use crate::proto::{Message, WireError};
use crate::scrape::{Item, Reading, Value};

/// The most characters of a family's name that an error repeats.
const TEXT_CHARS_MAX: usize = 100;
/// The labels of a metric stand in the keys of all its buckets: what the keys of a body take is bounded by this much, and as much again
/// for each byte of it as [`KEYS_GROWTH`] says. In text they would be the body.
const KEYS_BYTES: usize = 16 << 20;
/// See [`KEYS_BYTES`].
const KEYS_GROWTH: usize = 8;

/// Walks a body sample by sample; [`crate::BodyParser`] has the same face for all formats.
pub struct ProtobufParser<'a> {
    families: Message<'a>,
    /// Classic buckets of a native histogram are given, too.
    classic_too: bool,
    /// Native histograms are given.
    native: bool,
    family: Family<'a>,
    /// What remains of the family's message.
    metrics: Message<'a>,
    metric: Metric<'a>,
    point: Point<'a>,
    stage: Stage<'a>,
    /// The sample given last, or found and not given yet.
    sample: Option<Sample<'a>>,
    /// The sample is found and not given yet.
    peeked: bool,
    key: Vec<u8>,
    /// Bytes that keys may still take.
    keys_left: usize,
    fault: Option<ParseError>,
    done: bool,
}

#[derive(Clone, Copy, Default)]
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    unit: &'a str,
    metric_type: MetricType,
    offset: usize,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Stage<'a> {
    Family,
    Type,
    Help,
    Unit,
    Metric,
    Number,
    Native,
    Count,
    Sum,
    Parts {
        rest: Message<'a>,
        /// The bound of the part given last was infinite.
        closed: bool,
    },
}

#[derive(Clone, Copy)]
struct Sample<'a> {
    kind: Kind,
    reading: Reading,
    exemplar: Option<Message<'a>>,
}

impl<'a> ProtobufParser<'a> {
    /// Starts at the beginning of a body.
    pub fn new(body: &'a [u8]) -> ProtobufParser<'a> {
        ProtobufParser {
            families: Message::new(body),
            classic_too: false,
            native: true,
            family: Family::default(),
            metrics: Message::new(&[]),
            metric: Metric::default(),
            point: Point::default(),
            stage: Stage::Family,
            sample: None,
            peeked: false,
            key: Vec::new(),
            keys_left: body.len().saturating_mul(KEYS_GROWTH).saturating_add(KEYS_BYTES),
            fault: None,
            done: false,
        }
    }

    /// Says whether a metric that is a native histogram and a classic one is given as both; as a rule it is given as native
    /// only, as Prometheus does without `always_scrape_classic_histograms`.
    pub fn with_classic(mut self, classic_too: bool) -> ProtobufParser<'a> {
        self.classic_too = classic_too;
        self
    }

    /// Says whether native histograms are given, as they are as a rule; without them every histogram is given as a classic one,
    /// one that has no classic buckets with its infinite bucket alone.
    pub fn with_native(mut self, native: bool) -> ProtobufParser<'a> {
        self.native = native;
        self
    }

    /// Gives the next sample if it is one of this key without exemplars. `None` leaves the parser where it is.
    #[inline]
    pub fn next_known(&mut self, key: &[u8]) -> Option<Reading> {
        if !self.peeked
            && matches!(self.stage, Stage::Metric)
            && let Some((reading, len)) =
                plain::read(self.metrics.rest(), key, self.family.name, self.family.metric_type)
        {
            self.metrics = self.metrics.after(len);
            self.sample = None;
            return Some(reading);
        }
        if !self.peeked && (self.done || self.is_at_metadata() || !self.find()) {
            return None;
        }
        let sample = self.sample.as_ref()?;
        let known = key::is(key, sample.kind, self.family.name, &self.metric.labels);
        if !known || sample.exemplar.is_some() {
            return None;
        }
        self.peeked = false;
        Some(sample.reading)
    }

    /// Gives what comes next; `None` at the end.
    #[expect(clippy::should_implement_trait, reason = "it lends the key, which an iterator cannot")]
    pub fn next(&mut self) -> Option<Result<Item<'_>, ParseError>> {
        while !self.peeked {
            if let Some(fault) = self.fault.take() {
                self.done = true;
                return Some(Err(fault));
            }
            if self.done {
                return None;
            }
            let Family { name, help, unit, metric_type, .. } = self.family;
            match self.stage {
                Stage::Family => {
                    if let Err(e) = self.next_family() {
                        self.fault = Some(e);
                    }
                }
                Stage::Type => {
                    self.stage = self.after_type(!help.is_empty());
                    return Some(Ok(Item::Type { name, metric_type }));
                }
                Stage::Help => {
                    self.stage = self.after_type(false);
                    return Some(Ok(Item::Help { name, help: help.into() }));
                }
                Stage::Unit => {
                    self.stage = Stage::Metric;
                    return Some(Ok(Item::Unit { name, unit }));
                }
                _ => drop(self.find()),
            }
        }
        self.peeked = false;
        let sample = self.sample?;
        self.key.clear();
        key::write(sample.kind, self.family.name, &self.metric.labels, &mut self.key);
        match self.keys_left.checked_sub(self.key.len()) {
            Some(left) => self.keys_left = left,
            None => {
                self.done = true;
                return Some(Err(
                    self.fault("the labels of the body, once for each of its series, take too many bytes")
                ));
            }
        }
        Some(Ok(Item::Sample { key: &self.key, reading: sample.reading }))
    }

    /// Appends the labels of the sample that [`ProtobufParser::next`] gave last.
    ///
    /// **Errors** when a label is not valid. That a name stands twice is found by [`LabelsBuf::sort`].
    pub fn labels(&self, out: &mut LabelsBuf) -> Result<(), ParseError> {
        key::labels(&self.key, out).map_err(|message| self.fault(message))
    }

    /// Gives the native histogram of the sample given last.
    ///
    /// **Errors** with the reason when it does not fit together, or the sample is none.
    pub fn histogram(&self) -> Result<Histogram, String> {
        match (self.metric.value, self.sample) {
            (Some(value), Some(Sample { kind: Kind::Native, .. })) => {
                metric::read_native(value, self.family.metric_type).map_err(|text| text.into_owned())
            }
            _ => Err("the sample is no native histogram".to_owned()),
        }
    }

    /// Hands the labels, value and time of each exemplar of the sample given last to `sink`; bad ones are left out.
    ///
    /// Of a native histogram these are its own, or those of its classic buckets if it has none.
    pub fn exemplars(&self, mut sink: impl FnMut(&LabelsBuf, f64, Option<i64>)) {
        let mut labels = LabelsBuf::default();
        let Some(sample) = self.sample else { return };
        if let Some(message) = sample.exemplar {
            let mut hand = |labels: &LabelsBuf, value, ts_ms| sink(labels, value, ts_ms);
            if sample.kind != Kind::Native {
                read_exemplar(message, &mut labels, &mut hand);
            } else if !each_field(message, 16, |m| read_exemplar(m, &mut labels, &mut hand)) {
                each_field(message, 3, |bucket| {
                    each_field(bucket, 3, |m| read_exemplar(m, &mut labels, &mut hand));
                });
            }
        }
    }

    /// Makes an error about the family being read, for a fault that only the caller can see.
    pub fn fault(&self, message: impl Into<String>) -> ParseError {
        self.error(self.family.offset, message.into())
    }

    /// Gives the type of the family being read.
    pub fn metric_type(&self) -> MetricType {
        self.family.metric_type
    }

    fn after_type(&self, has_help: bool) -> Stage<'a> {
        match (has_help, self.family.unit) {
            (true, _) => Stage::Help,
            (false, "") => Stage::Metric,
            (false, _) => Stage::Unit,
        }
    }

    fn is_at_metadata(&self) -> bool {
        matches!(self.stage, Stage::Family | Stage::Type | Stage::Help | Stage::Unit)
    }

    /// Looks for the next sample of the family; `false` at its end and at a fault.
    fn find(&mut self) -> bool {
        match self.step() {
            Ok(sample) => {
                self.peeked = sample.is_some();
                if self.peeked {
                    self.sample = sample;
                }
            }
            Err(fault) => self.fault = Some(fault),
        }
        self.peeked
    }

    fn step(&mut self) -> Result<Option<Sample<'a>>, ParseError> {
        loop {
            let sample = match self.stage {
                Stage::Metric => {
                    if !self.next_metric()? {
                        self.stage = Stage::Family;
                        return Ok(None);
                    }
                    continue;
                }
                Stage::Number => {
                    self.stage = Stage::Metric;
                    let start_ms = self.point.start_ms;
                    let exemplar = self.point.exemplar.filter(|_| self.family.metric_type == MetricType::Counter);
                    Sample {
                        exemplar,
                        ..self.sample(Kind::Plain, Value::Float(self.point.value), start_ms, Role::Point)
                    }
                }
                Stage::Native => {
                    let classic = self.classic_too && self.point.has_buckets;
                    self.stage = if classic { Stage::Count } else { Stage::Metric };
                    let sample = self.sample(Kind::Native, Value::Histogram, self.point.start_ms, Role::Point);
                    Sample { exemplar: self.native_exemplars()?, ..sample }
                }
                Stage::Count => {
                    self.stage = Stage::Sum;
                    let role = if self.point.is_native { Role::Part } else { Role::Point };
                    self.sample(Kind::Count, Value::Float(self.point.value), self.point.start_ms, role)
                }
                Stage::Sum => {
                    let rest = self.metric.value.unwrap_or(Message::new(&[]));
                    self.stage = Stage::Parts { rest, closed: false };
                    self.sample(Kind::Sum, Value::Float(self.point.sum), None, Role::Part)
                }
                Stage::Parts { rest, closed } => match self.next_part(rest, closed)? {
                    Some(sample) => sample,
                    None => continue,
                },
                _ => return Ok(None),
            };
            return Ok(Some(sample));
        }
    }

    fn sample(&self, kind: Kind, value: Value, start_ms: Option<i64>, role: Role) -> Sample<'a> {
        let reading = Reading { value, ts_ms: self.metric.ts_ms, start_ms, role: Some(role) };
        Sample { kind, reading, exemplar: None }
    }

    fn next_part(&mut self, mut rest: Message<'a>, closed: bool) -> Result<Option<Sample<'a>>, ParseError> {
        let is_summary = self.family.metric_type == MetricType::Summary;
        let part = metric::next_part(&mut rest, is_summary).map_err(|e| self.wire_error(&e))?;
        let Part { bound, value, exemplar } = match part {
            Some(part) => part,
            // The infinite bucket may be left out: it holds the count.
            None if !is_summary && !closed => Part { bound: f64::INFINITY, value: self.point.value, exemplar: None },
            None => {
                self.stage = Stage::Metric;
                return Ok(None);
            }
        };
        self.stage = Stage::Parts { rest, closed: closed || bound == f64::INFINITY };
        let kind = if is_summary { Kind::Quantile(bound) } else { Kind::Bucket(bound) };
        Ok(Some(Sample { exemplar, ..self.sample(kind, Value::Float(value), None, Role::Part) }))
    }

    /// Gives the histogram itself if it has any exemplars.
    fn native_exemplars(&self) -> Result<Option<Message<'a>>, ParseError> {
        let Some(mut message) = self.metric.value else { return Ok(None) };
        let whole = message;
        while let Some(field) = message.next_field().map_err(|e| self.wire_error(&e))? {
            if field.number == 16 {
                return Ok(Some(whole));
            }
            if field.number == 3 {
                let mut bucket = field.message().map_err(|e| self.wire_error(&e))?;
                while let Some(field) = bucket.next_field().map_err(|e| self.wire_error(&e))? {
                    if field.number == 3 {
                        return Ok(Some(whole));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Starts the next family that has metrics; at the end, marks it.
    fn next_family(&mut self) -> Result<(), ParseError> {
        let offset = self.families.offset();
        self.family = Family { offset, ..Family::default() };
        let Some(message) = self.families.next_delimited().map_err(|e| self.wire_error(&e))? else {
            self.done = true;
            return Ok(());
        };
        let mut has_metrics = false;
        let mut fields = message;
        let mut number = 0;
        while let Some(field) = fields.next_field().map_err(|e| self.wire_error(&e))? {
            let read = match field.number {
                1 => field.bytes().map(|bytes| self.family.name = text(bytes)),
                2 => field.bytes().map(|bytes| self.family.help = text(bytes)),
                5 => field.bytes().map(|bytes| self.family.unit = text(bytes)),
                3 => field.varint().map(|value| number = value),
                4 => field.bytes().map(|_| has_metrics = true),
                _ => Ok(()),
            };
            read.map_err(|e| self.wire_error(&e))?;
        }
        if !has_metrics {
            return Ok(());
        }
        self.family.metric_type = read_type(number).ok_or_else(|| self.fault(format!("unknown type {number}")))?;
        if self.family.name.is_empty() {
            return Err(self.fault("a family has no name, or one that is not UTF-8"));
        }
        self.metrics = message;
        self.stage = Stage::Type;
        Ok(())
    }

    /// Reads the next metric of the family; `false` after the last.
    fn next_metric(&mut self) -> Result<bool, ParseError> {
        let metric_type = self.family.metric_type;
        loop {
            let Some(field) = self.metrics.next_field().map_err(|e| self.wire_error(&e))? else { return Ok(false) };
            if field.number != 4 {
                continue;
            }
            let read = field.message().and_then(|message| metric::read_metric(message, metric_type));
            self.metric = read.map_err(|e| self.wire_error(&e))?;
            let Some(value) = self.metric.value else {
                return Err(self.fault(format!("a metric has no value of type {}", metric_type.as_str())));
            };
            let (point, stage) = match metric_type {
                MetricType::Summary => (metric::read_summary(value), Stage::Count),
                MetricType::Histogram | MetricType::GaugeHistogram => (metric::read_histogram(value), Stage::Native),
                _ => (metric::read_number(value), Stage::Number),
            };
            self.point = point.map_err(|e| self.wire_error(&e))?;
            self.point.is_native &= self.native;
            let is_classic = matches!(stage, Stage::Native) && !self.point.is_native;
            self.stage = if is_classic { Stage::Count } else { stage };
            return Ok(true);
        }
    }

    fn wire_error(&self, error: &WireError) -> ParseError {
        match error {
            WireError::Malformed { offset, reason } => self.error(*offset, format!("malformed protobuf: {reason}")),
            other => self.fault(other.to_string()),
        }
    }

    fn error(&self, offset: usize, message: String) -> ParseError {
        let text = self.family.name.chars().take(TEXT_CHARS_MAX).collect::<String>().escape_debug().to_string();
        ParseError { line: 0, column: 0, offset, text, message }
    }
}

/// What is not UTF-8 counts as absent: a name is then missed, a help or unit is not worth a scrape.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn read_type(number: u64) -> Option<MetricType> {
    match number {
        0 => Some(MetricType::Counter),
        1 => Some(MetricType::Gauge),
        2 => Some(MetricType::Summary),
        3 => Some(MetricType::Unknown),
        4 => Some(MetricType::Histogram),
        5 => Some(MetricType::GaugeHistogram),
        _ => None,
    }
}

/// Hands each message of a field to `sink`; tells whether there was one. Damage ends the walk.
fn each_field<'a>(mut message: Message<'a>, number: u32, mut sink: impl FnMut(Message<'a>)) -> bool {
    let mut any = false;
    while let Ok(Some(field)) = message.next_field() {
        if field.number == number
            && let Ok(inner) = field.message()
        {
            any = true;
            sink(inner);
        }
    }
    any
}

/// Reads an `Exemplar` and hands it on; a bad one is left out.
fn read_exemplar(
    mut message: Message<'_>,
    labels: &mut LabelsBuf,
    sink: &mut impl FnMut(&LabelsBuf, f64, Option<i64>),
) {
    labels.clear();
    let (mut value, mut ts_ms) = (0.0, None);
    let mut read = || -> Option<()> {
        while let Some(field) = message.next_field().ok()? {
            match field.number {
                1 => {
                    let (name, value) = read_pair(&mut field.message().ok()?)?;
                    labels.push(name, value);
                }
                2 => value = field.double().ok()?,
                3 => ts_ms = Some(read_timestamp(field.message().ok()?).ok()?),
                _ => {}
            }
        }
        Some(())
    };
    if read().is_some() {
        sink(labels, value, ts_ms);
    }
}
