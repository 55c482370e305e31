//! A pull parser over one exposition body.
//!
//! Owns: the place in the body. Invariants: 1. nothing is allocated per sample; 2. after an error or the end, nothing more
//! comes; 3. every byte is looked at a bounded number of times, however hostile the body.
//! Not here: labels ([`Parser::labels`] reads them when asked), the rules that bind lines together
//! ([`crate::openmetrics::validate`]).
//! Fails how: with the place of the first fault. What was given before it was right as far as it goes; Prometheus
//! discards the whole scrape.

use std::borrow::Cow;

use memchr::memchr;
use model::{LABEL_NAME, LabelsBuf, MetricType};

use crate::error::{Fault, ParseError};
use crate::format::Format;
use crate::number::{Nanos, float_prefix};
use crate::series::{normalize_float_label, read_exemplar_labels, read_series};
use crate::{openmetrics, text};

/// One thing that a body says.
#[derive(Clone, PartialEq, Debug)]
pub enum Entry<'a> {
    /// A sample.
    Sample {
        /// The series exactly as it stands, `name` or `name{...}`: the key of the scrape cache. Its labels are not looked at
        /// yet; a fault in them shows in [`Parser::labels`].
        series: &'a str,
        /// Milliseconds since 1970 if the line has a timestamp.
        ts_ms: Option<i64>,
        /// The value; every NaN has Prometheus' bits.
        value: f64,
        /// The exemplar, in OpenMetrics.
        exemplar: Option<RawExemplar<'a>>,
        /// The line, counted from 1.
        line: u32,
    },
    /// The type of a family.
    Type {
        /// The family's name, without quotes.
        name: &'a str,
        /// Its type.
        metric_type: MetricType,
    },
    /// The help of a family.
    Help {
        /// The family's name, without quotes.
        name: &'a str,
        /// The text, unescaped.
        help: Cow<'a, str>,
    },
    /// The unit of a family, in OpenMetrics.
    Unit {
        /// The family's name, without quotes.
        name: &'a str,
        /// The unit, possibly empty.
        unit: &'a str,
    },
    /// A comment, in the text format.
    Comment,
    /// `# EOF`, in OpenMetrics. Nothing follows.
    Eof,
}

/// An exemplar as it stands behind a sample.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RawExemplar<'a> {
    /// `{name="value"}`; known to be well-formed.
    pub labels: &'a str,
    /// Its value.
    pub value: f64,
    /// Milliseconds since 1970 if it has a timestamp.
    pub ts_ms: Option<i64>,
}

impl RawExemplar<'_> {
    /// Appends the exemplar's labels in the order in which they stand.
    pub fn read_labels(&self, out: &mut LabelsBuf) {
        // The parser has read them once already, so that a fault is impossible here.
        let _ = read_exemplar_labels(self.labels, |name, value| out.push(name, value));
    }
}

/// A line as the two formats read it.
pub(crate) enum Line<'a> {
    Sample(Sampled<'a>),
    Entry(Entry<'a>),
}

/// A sample with what only this crate needs to know.
pub(crate) struct Sampled<'a> {
    /// Where in the line the series starts.
    pub(crate) start: usize,
    pub(crate) series: &'a str,
    pub(crate) value: f64,
    pub(crate) ts_ms: Option<i64>,
    /// The timestamp as exact as it was given, in OpenMetrics.
    pub(crate) nanos: Option<Nanos>,
    pub(crate) exemplar: Option<RawExemplar<'a>>,
}

/// Walks a body entry by entry.
///
/// **Cost** 30 to 60 ns per sample line; less with [`Parser::next_known`].
pub struct Parser<'a> {
    format: Format,
    body: &'a [u8],
    /// The part of the body from `base` on that is known to be UTF-8.
    text: &'a str,
    base: usize,
    /// The next line's start, counted in `text`.
    at: usize,
    /// The number of the line read last.
    line: u32,
    /// The start in the body of the line read last.
    line_start: usize,
    /// The text of the series given last and its place in its line.
    series: &'a str,
    series_column: usize,
    nanos: Option<Nanos>,
    /// The type that the last `# TYPE` gave; Prometheus spells labels by it.
    metric_type: MetricType,
    done: bool,
}

impl<'a> Parser<'a> {
    /// Starts at the beginning of a body of a text format; [`crate::BodyParser`] reads those of all formats.
    pub fn new(format: Format, body: &'a [u8]) -> Parser<'a> {
        Parser {
            format,
            body,
            text: valid_prefix(body),
            base: 0,
            at: 0,
            line: 0,
            line_start: 0,
            series: "",
            series_column: 0,
            nanos: None,
            metric_type: MetricType::Unknown,
            done: false,
        }
    }

    /// Gives the next line if it is a plain sample (no exemplar) of exactly this series: its timestamp and value.
    ///
    /// `None` leaves the parser where it is; ask [`Iterator::next`] then. This is what makes a repeated scrape cheap: the text of the
    /// series at the same place of the last scrape is compared, nothing is searched.
    ///
    /// **Takes** the text of a series whose labels were read without a fault.
    #[inline]
    pub fn next_known(&mut self, series: &str) -> Option<(Option<i64>, f64)> {
        self.next_known_bytes(series.as_bytes())
    }

    /// [`Parser::next_known`] for the bytes of the text.
    #[inline]
    pub(crate) fn next_known_bytes(&mut self, series: &[u8]) -> Option<(Option<i64>, f64)> {
        let rest = self.text.as_bytes().get(self.at..)?.strip_prefix(series)?;
        if self.done || series.is_empty() || rest.first() != Some(&b' ') {
            return None;
        }
        let (value, len) = float_prefix(&rest[1..])?;
        let mut end = 1 + len;
        let mut ts_ms = None;
        let mut nanos = None;
        if rest.get(end) == Some(&b' ') {
            match self.format {
                Format::Text => (ts_ms, end) = text::read_timestamp(rest, end).ok()?,
                Format::OpenMetrics => (nanos, end) = openmetrics::read_timestamp(rest, end)?,
                Format::Protobuf => return None,
            }
        }
        if rest.get(end) != Some(&b'\n') {
            return None;
        }
        self.nanos = nanos;
        self.line += 1;
        self.line_start = self.base + self.at;
        self.series = &self.text[self.at..self.at + series.len()];
        self.series_column = 0;
        self.at += series.len() + end + 1;
        Some((ts_ms.or(nanos.map(Nanos::to_millis)), value))
    }

    /// Appends the labels of the sample given last, `__name__` among them, in the order in which they stand, `le` and
    /// `quantile` in the spelling of Prometheus 3.
    ///
    /// **Errors** when the series text does not follow the format. That a name stands twice is found by
    /// [`LabelsBuf::sort`]; see [`Parser::fault`].
    pub fn labels(&self, out: &mut LabelsBuf) -> Result<(), ParseError> {
        let sink = |name: &str, value: &str| match normalize_float_label(self.metric_type, name, value) {
            Some(normal) => out.push(name, &normal),
            None => out.push(name, value),
        };
        read_series(self.format, self.series, sink).map_err(|fault| self.locate(fault.after(self.series_column)))
    }

    /// Like [`Parser::labels`], in the spelling of the body.
    pub(crate) fn raw_labels(&self, out: &mut LabelsBuf) -> Result<(), ParseError> {
        read_series(self.format, self.series, |name, value| out.push(name, value))
            .map_err(|fault| self.locate(fault.after(self.series_column)))
    }

    /// Makes an error about the sample given last, for a fault that only the caller can see.
    pub fn fault(&self, message: impl Into<String>) -> ParseError {
        self.locate(Fault::new(self.series_column, message.into()))
    }

    /// Gives the number of the line read last, counted from 1.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// Gives the type that the last `# TYPE` line gave.
    pub fn metric_type(&self) -> MetricType {
        self.metric_type
    }

    /// Gives the timestamp of the sample given last to the nanosecond.
    pub(crate) fn nanos(&self) -> Option<Nanos> {
        self.nanos
    }

    /// Gives the line read last as it stands, without its newline.
    pub(crate) fn line_bytes(&self) -> &'a [u8] {
        let rest = self.body.get(self.line_start..).unwrap_or_default();
        &rest[..memchr(b'\n', rest).unwrap_or(rest.len())]
    }

    fn locate(&self, fault: Fault) -> ParseError {
        ParseError::locate(self.body, self.line, self.line_start, fault)
    }

    fn step(&mut self) -> Result<Option<Entry<'a>>, Fault> {
        loop {
            let Some(line) = self.next_line()? else { return self.end() };
            let read = match self.format {
                Format::Text => text::read_line(line)?,
                Format::OpenMetrics => Some(openmetrics::read_line(line)?),
                Format::Protobuf => return Err(Fault::new(0, "the body is protobuf, which this parser does not read")),
            };
            match read {
                None => {}
                Some(Line::Sample(sample)) => return Ok(Some(self.take_sample(sample))),
                Some(Line::Entry(entry)) => return self.take_entry(entry).map(Some),
            }
        }
    }

    /// Gives the next line without its newline.
    #[inline]
    fn next_line(&mut self) -> Result<Option<&'a str>, Fault> {
        loop {
            let rest = &self.text[self.at..];
            self.line_start = self.base + self.at;
            let whole = memchr(b'\n', rest.as_bytes());
            let known_end = self.base + self.text.len();
            if whole.is_none() && rest.is_empty() && known_end == self.body.len() {
                return Ok(None);
            }
            self.line += 1;
            if let Some(len) = whole {
                self.at += len + 1;
                return Ok(Some(&rest[..len]));
            }
            if known_end == self.body.len() {
                self.at = self.text.len();
                return Ok(Some(rest));
            }
            self.pass_invalid(rest)?;
        }
    }

    /// Deals with a line that is not UTF-8: a comment of the text format is passed over, all else is a fault.
    #[cold]
    fn pass_invalid(&mut self, valid_start: &str) -> Result<(), Fault> {
        let bad = self.base + self.text.len();
        let is_comment = self.format == Format::Text
            && matches!(text::read_line(valid_start), Ok(Some(Line::Entry(Entry::Comment))));
        if !is_comment {
            return Err(Fault::new(bad - self.line_start, "the bytes are not UTF-8"));
        }
        let rest = &self.body[bad..];
        self.base = memchr(b'\n', rest).map_or(self.body.len(), |len| bad + len + 1);
        self.text = valid_prefix(&self.body[self.base..]);
        self.at = 0;
        Ok(())
    }

    #[inline]
    fn take_sample(&mut self, sample: Sampled<'a>) -> Entry<'a> {
        self.series = sample.series;
        self.series_column = sample.start;
        self.nanos = sample.nanos;
        Entry::Sample {
            series: sample.series,
            ts_ms: sample.ts_ms,
            value: sample.value,
            exemplar: sample.exemplar,
            line: self.line,
        }
    }

    fn take_entry(&mut self, entry: Entry<'a>) -> Result<Entry<'a>, Fault> {
        self.series_column = 0;
        if let Entry::Type { metric_type, .. } = &entry {
            self.metric_type = *metric_type;
        }
        if entry == Entry::Eof {
            self.done = true;
            if self.base + self.at < self.body.len() {
                self.line += 1;
                self.line_start = self.base + self.at;
                return Err(Fault::new(0, "nothing may follow # EOF"));
            }
        }
        Ok(entry)
    }

    fn end(&mut self) -> Result<Option<Entry<'a>>, Fault> {
        match self.format {
            Format::Text | Format::Protobuf => Ok(None),
            Format::OpenMetrics => {
                self.line += 1;
                Err(Fault::new(0, "the body ends without # EOF; it may be cut short"))
            }
        }
    }
}

impl<'a> Iterator for Parser<'a> {
    type Item = Result<Entry<'a>, ParseError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        match self.step() {
            Ok(Some(entry)) => Some(Ok(entry)),
            Ok(None) => {
                self.done = true;
                None
            }
            Err(fault) => {
                self.done = true;
                Some(Err(self.locate(fault)))
            }
        }
    }
}

fn valid_prefix(body: &[u8]) -> &str {
    match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(e) => std::str::from_utf8(&body[..e.valid_up_to()]).unwrap_or_default(),
    }
}

/// Reads a whole body with all labels, as a scrape would, and gives the number of its samples.
///
/// **Errors** when Prometheus would refuse the body for its syntax, a label name that stands twice included.
pub fn check(format: Format, body: &[u8]) -> Result<u64, ParseError> {
    let mut parser = Parser::new(format, body);
    let mut labels = LabelsBuf::default();
    let mut samples = 0;
    while let Some(entry) = parser.next() {
        if let Entry::Sample { .. } = entry? {
            samples += 1;
            labels.clear();
            parser.labels(&mut labels)?;
            labels.sort().map_err(|e| parser.fault(e.to_string()))?;
            if labels.get(LABEL_NAME).is_none() {
                return Err(parser.fault("the metric name is empty"));
            }
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests;
