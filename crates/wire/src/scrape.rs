//! One face for the bodies of all exposition formats, as a scrape sees them: keys, readings, and labels when asked.
//!
//! A key is the bytes by which a scrape cache knows a series again: the text as it stands, or what [`crate::protobuf`] makes
//! of a metric. Equal keys of one format lead to equal labels.

use std::borrow::Cow;

use model::histogram::Histogram;
use model::{LabelsBuf, MetricType};

use crate::error::{Fault, ParseError};
use crate::format::Format;
use crate::parser::{Entry, Parser, RawExemplar};
use crate::points::Role;
use crate::protobuf::{self, ProtobufParser};
use crate::series::{normalize_float_label, read_series, series_name};

/// The value of a sample.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    /// A number.
    Float(f64),
    /// A native histogram; [`BodyParser::histogram`] reads it.
    Histogram,
}

/// A sample without its series.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Reading {
    /// The value.
    pub value: Value,
    /// Milliseconds since 1970 if the body gives a time.
    pub ts_ms: Option<i64>,
    /// When it started to count, if the format says so beside the value. The text formats have a line of its own for that.
    pub start_ms: Option<i64>,
    /// What it is to its family if the format knows; else [`crate::points::role_of`] tells.
    pub role: Option<Role>,
}

/// One thing that a body says.
#[derive(Clone, PartialEq, Debug)]
pub enum Item<'p> {
    /// A sample. Its labels are not looked at yet; a fault in them shows in [`BodyParser::labels`].
    Sample {
        /// The key of its series.
        key: &'p [u8],
        /// What it says.
        reading: Reading,
    },
    /// The type of a family.
    Type {
        /// The family's name.
        name: &'p str,
        /// Its type.
        metric_type: MetricType,
    },
    /// The help of a family.
    Help {
        /// The family's name.
        name: &'p str,
        /// The text, unescaped.
        help: Cow<'p, str>,
    },
    /// The unit of a family.
    Unit {
        /// The family's name.
        name: &'p str,
        /// The unit.
        unit: &'p str,
    },
    /// Nothing to do: a comment, the end mark.
    Nothing,
}

/// Walks a body of any format.
pub enum BodyParser<'a> {
    /// Of a text format, with the exemplar of the sample given last.
    Text(Parser<'a>, Option<RawExemplar<'a>>),
    /// Of protobuf.
    Protobuf(Box<ProtobufParser<'a>>),
}

impl<'a> BodyParser<'a> {
    /// Starts at the beginning of a body. `classic_too` is [`ProtobufParser::with_classic`].
    pub fn new(format: Format, body: &'a [u8], classic_too: bool) -> BodyParser<'a> {
        match format {
            Format::Text | Format::OpenMetrics => BodyParser::Text(Parser::new(format, body), None),
            Format::Protobuf => BodyParser::Protobuf(Box::new(ProtobufParser::new(body).with_classic(classic_too))),
        }
    }

    /// Gives the next sample if it is one of this key without exemplars. `None` leaves the parser where it is; ask
    /// [`BodyParser::next`] then.
    ///
    /// **Takes** a key whose labels were read without a fault.
    #[inline]
    pub fn next_known(&mut self, key: &[u8]) -> Option<Reading> {
        match self {
            BodyParser::Text(parser, exemplar) => {
                let (ts_ms, value) = parser.next_known_bytes(key)?;
                *exemplar = None;
                Some(Reading { value: Value::Float(value), ts_ms, start_ms: None, role: None })
            }
            BodyParser::Protobuf(parser) => parser.next_known(key),
        }
    }

    /// Gives what comes next; `None` at the end.
    #[expect(clippy::should_implement_trait, reason = "it lends the key, which an iterator cannot")]
    pub fn next(&mut self) -> Option<Result<Item<'_>, ParseError>> {
        match self {
            BodyParser::Text(parser, last) => Some(parser.next()?.map(|entry| {
                *last = None;
                match entry {
                    Entry::Sample { series, ts_ms, value, exemplar, .. } => {
                        *last = exemplar;
                        let reading = Reading { value: Value::Float(value), ts_ms, start_ms: None, role: None };
                        Item::Sample { key: series.as_bytes(), reading }
                    }
                    Entry::Type { name, metric_type } => Item::Type { name, metric_type },
                    Entry::Help { name, help } => Item::Help { name, help },
                    Entry::Unit { name, unit } => Item::Unit { name, unit },
                    Entry::Comment | Entry::Eof => Item::Nothing,
                }
            })),
            BodyParser::Protobuf(parser) => parser.next(),
        }
    }

    /// Appends the labels of the sample that [`BodyParser::next`] gave last, `__name__` among them, in the order in which they
    /// stand, `le` and `quantile` in the spelling of Prometheus 3.
    ///
    /// **Errors** when they are not valid. That a name stands twice is found by [`LabelsBuf::sort`].
    pub fn labels(&self, out: &mut LabelsBuf) -> Result<(), ParseError> {
        match self {
            BodyParser::Text(parser, _) => parser.labels(out),
            BodyParser::Protobuf(parser) => parser.labels(out),
        }
    }

    /// Gives the native histogram of the sample given last.
    ///
    /// **Errors** with the reason when it does not fit together; the rest of the body is good nonetheless.
    pub fn histogram(&self) -> Result<Histogram, String> {
        match self {
            BodyParser::Text(..) => Err("the text formats have no native histograms".to_owned()),
            BodyParser::Protobuf(parser) => parser.histogram(),
        }
    }

    /// Hands the labels, value and time of each exemplar of the sample given last to `sink`.
    pub fn exemplars(&self, mut sink: impl FnMut(&LabelsBuf, f64, Option<i64>)) {
        match self {
            BodyParser::Text(_, None) => {}
            BodyParser::Text(_, Some(exemplar)) => {
                let mut labels = LabelsBuf::default();
                exemplar.read_labels(&mut labels);
                sink(&labels, exemplar.value, exemplar.ts_ms);
            }
            BodyParser::Protobuf(parser) => parser.exemplars(sink),
        }
    }

    /// Makes an error about the sample given last, for a fault that only the caller can see.
    pub fn fault(&self, message: impl Into<String>) -> ParseError {
        match self {
            BodyParser::Text(parser, _) => parser.fault(message),
            BodyParser::Protobuf(parser) => parser.fault(message),
        }
    }

    /// Gives the type of the family being read.
    pub fn metric_type(&self) -> MetricType {
        match self {
            BodyParser::Text(parser, _) => parser.metric_type(),
            BodyParser::Protobuf(parser) => parser.metric_type(),
        }
    }
}

/// Gives the metric name of a key, as [`series_name`] does for text.
pub fn key_name(format: Format, key: &[u8]) -> Cow<'_, str> {
    match format {
        Format::Text | Format::OpenMetrics => Cow::Borrowed(series_name(std::str::from_utf8(key).unwrap_or_default())),
        Format::Protobuf => Cow::Owned(protobuf::key_name(key)),
    }
}

/// Appends the labels of a key as [`BodyParser::labels`] would for a sample of it.
///
/// **Takes** the type that the family had then.
/// **Errors** when the key was given by no parser of that format, or its labels are not valid.
pub fn key_labels(format: Format, key: &[u8], metric_type: MetricType, out: &mut LabelsBuf) -> Result<(), ParseError> {
    let located = |fault| ParseError::locate(key, 1, 0, fault);
    match format {
        Format::Text | Format::OpenMetrics => {
            let text = std::str::from_utf8(key).map_err(|_| located(Fault::new(0, "the key is not UTF-8")))?;
            let sink = |name: &str, value: &str| match normalize_float_label(metric_type, name, value) {
                Some(normal) => out.push(name, &normal),
                None => out.push(name, value),
            };
            read_series(format, text, sink).map_err(located)
        }
        Format::Protobuf => protobuf::key_labels(key, out).map_err(|message| located(Fault::new(0, message))),
    }
}
