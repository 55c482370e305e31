//! OpenMetrics 2.0 (release candidate 0, March 2026), written anew as delimited `io.prometheus.client.MetricFamily` messages.
//!
//! What 2.0 adds to 1.0 — whole histograms and summaries as one value, native buckets, start times beside the value, several
//! exemplars of one sample — protobuf has, too: so the rest of the house needs to know one format less. Names stay as they are:
//! a counter `foo` is a series `foo`. Families of type `info` and `stateset` become gauges.
//! Invariants: 1. a body is read whole or refused whole, with line and column; 2. what is written is at most some times as long
//! as the body: nothing is set aside on the word of a number in it.

mod composite;
mod family;
mod message;

use std::collections::HashSet;

use model::MetricType;

use crate::error::{Fault, ParseError};
use crate::series::{braces_end, read_exemplar_labels, read_series, unescape};
use crate::{Format, number};
use composite::Composite;
use family::{Exemplar, Family, Sample, Value};

/// Writes a body as `MetricFamily` messages.
///
/// **Errors** name the first place that is no OpenMetrics 2.0.
pub fn to_families(body: &[u8]) -> Result<Vec<u8>, ParseError> {
    let mut reader = Reader::default();
    let (mut line_number, mut at) = (0, 0);
    while at < body.len() {
        line_number += 1;
        let end = memchr::memchr(b'\n', &body[at..]).map_or(body.len(), |len| at + len);
        let located = |fault| ParseError::locate(body, line_number, at, fault);
        let line = std::str::from_utf8(&body[at..end])
            .map_err(|e| located(Fault::new(e.valid_up_to(), "the line is not UTF-8")))?;
        reader.read_line(line).map_err(located)?;
        at = end + 1;
    }
    if !reader.ended {
        return Err(ParseError::locate(
            body,
            line_number + 1,
            body.len(),
            Fault::new(0, "the body does not end with # EOF"),
        ));
    }
    Ok(reader.out)
}

#[derive(Default)]
struct Reader {
    out: Vec<u8>,
    family: Option<Family>,
    /// Names of families that are over.
    over: HashSet<String>,
    ended: bool,
}

impl Reader {
    fn read_line(&mut self, line: &str) -> Result<(), Fault> {
        if self.ended {
            return Err(Fault::new(0, "there is something behind # EOF"));
        }
        if line.is_empty() {
            return Err(Fault::new(0, "OpenMetrics has no blank lines"));
        }
        if line == "# EOF" {
            self.ended = true;
            return self.close();
        }
        match line.strip_prefix('#') {
            Some(_) => self.read_descriptor(line),
            None => self.read_sample(line),
        }
    }

    /// Gives the open family, opening another one when the name changes.
    fn family(&mut self, name: &str) -> Result<&mut Family, Fault> {
        if self.family.as_ref().is_none_or(|open| open.name != name) {
            self.close()?;
            if self.over.contains(name) {
                return Err(Fault::new(0, format!("the family {name:?} is not in one place")));
            }
            self.family = Some(Family::new(name));
        }
        self.family.as_mut().ok_or_else(|| Fault::new(0, "there is no family"))
    }

    fn close(&mut self) -> Result<(), Fault> {
        if let Some(family) = self.family.take() {
            family.write(&mut self.out);
            self.over.insert(family.name);
        }
        Ok(())
    }

    fn read_descriptor(&mut self, line: &str) -> Result<(), Fault> {
        let wrong = |at| Fault::new(at, "expected # TYPE, # UNIT, # HELP or # EOF");
        let (word, start) = match line.as_bytes().get(2..7) {
            Some(b"TYPE ") => ("TYPE", 7),
            Some(b"UNIT ") => ("UNIT", 7),
            Some(b"HELP ") => ("HELP", 7),
            _ => return Err(wrong(0)),
        };
        if !line.starts_with("# ") {
            return Err(wrong(1));
        }
        let (name, end) = read_name(line, start)?;
        let rest = line.get(end..).unwrap_or_default();
        let text = rest.strip_prefix(' ').ok_or_else(|| Fault::new(end, "expected a space behind the name"))?;
        let family = self.family(&name)?;
        if family.has_samples() {
            return Err(Fault::new(0, "the metadata of a family comes before its samples"));
        }
        let again = match word {
            "TYPE" => {
                let metric_type = type_of(text).ok_or_else(|| Fault::new(end + 1, "this is no type"))?;
                family.metric_type.replace(metric_type).is_some()
            }
            "UNIT" => family.unit.replace(text.to_owned()).is_some(),
            _ => family.help.replace(unescape(text, true).into_owned()).is_some(),
        };
        if again { Err(Fault::new(0, format!("# {word} stands twice"))) } else { Ok(()) }
    }

    fn read_sample(&mut self, line: &str) -> Result<(), Fault> {
        let bytes = line.as_bytes();
        let series_end = match memchr::memchr2(b' ', b'{', bytes) {
            Some(at) if bytes[at] == b'{' => braces_end(bytes, at)?,
            Some(at) => at,
            None => bytes.len(),
        };
        let (mut name, mut labels) = (String::new(), Vec::new());
        read_series(Format::OpenMetrics, &line[..series_end], |key, value| match key {
            model::LABEL_NAME => value.clone_into(&mut name),
            _ => labels.push((key.to_owned(), value.to_owned())),
        })?;
        let mut cursor = Cursor { line, at: series_end };
        let value = cursor.read_value()?;
        let mut sample = Sample { labels, value, ..Sample::default() };
        if cursor.peek(" ") && !cursor.peek(" #") && !cursor.peek(" st@") {
            sample.ts_ms = Some(cursor.read_seconds(" ")?);
        }
        if cursor.peek(" st@") {
            sample.start_ms = Some(cursor.read_seconds(" st@")?);
        }
        while cursor.at < line.len() {
            sample.exemplars.push(cursor.read_exemplar()?);
        }
        self.family(&name)?.push(&sample).map_err(|fault| fault.after(series_end))
    }
}

/// Reads the name of a family, plain or quoted, and gives it with its end.
fn read_name(line: &str, start: usize) -> Result<(String, usize), Fault> {
    let rest = line.get(start..).unwrap_or_default();
    let Some(quoted) = rest.strip_prefix('"') else {
        let len = rest.bytes().take_while(|b| crate::series::is_name_byte(*b)).count();
        let good = len > 0 && !rest.starts_with(|c: char| c.is_ascii_digit());
        return if good {
            Ok((rest[..len].to_owned(), start + len))
        } else {
            Err(Fault::new(start, "expected a name"))
        };
    };
    let mut escaped = false;
    for (at, byte) in quoted.bytes().enumerate() {
        match byte {
            b'"' if !escaped && at > 0 => return Ok((unescape(&quoted[..at], true).into_owned(), start + at + 2)),
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    Err(Fault::new(start, "the quoted name is empty or does not end"))
}

fn type_of(word: &str) -> Option<MetricType> {
    use MetricType::{Counter, Gauge, GaugeHistogram, Histogram, Info, StateSet, Summary, Unknown};
    [Counter, Gauge, Histogram, GaugeHistogram, StateSet, Info, Summary, Unknown]
        .into_iter()
        .find(|t| t.as_str() == word)
}

/// A place in a line, behind the series.
struct Cursor<'a> {
    line: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn rest(&self) -> &str {
        self.line.get(self.at..).unwrap_or_default()
    }

    fn peek(&self, text: &str) -> bool {
        self.rest().starts_with(text)
    }

    fn expect(&mut self, text: &str) -> Result<(), Fault> {
        if !self.peek(text) {
            return Err(Fault::new(self.at, format!("expected {text:?}")));
        }
        self.at += text.len();
        Ok(())
    }

    fn read_value(&mut self) -> Result<Value, Fault> {
        self.expect(" ")?;
        if !self.peek("{") {
            return self.read_number().map(Value::Number);
        }
        let len = memchr::memchr(b'}', self.rest().as_bytes())
            .ok_or_else(|| Fault::new(self.at, "the value does not end"))?;
        let start = self.at + 1;
        let composite = Composite::read(&self.rest()[1..len]).map_err(|fault| fault.after(start))?;
        self.at += len + 1;
        Ok(Value::Composite(composite))
    }

    fn read_number(&mut self) -> Result<f64, Fault> {
        let read = number::float_prefix(self.rest().as_bytes()).filter(|(_, len)| self.ends_token(*len));
        let (value, len) = read.ok_or_else(|| Fault::new(self.at, "expected a number"))?;
        self.at += len;
        Ok(value)
    }

    fn read_seconds(&mut self, before: &str) -> Result<i64, Fault> {
        self.expect(before)?;
        let read = number::seconds_prefix(self.rest().as_bytes()).filter(|(_, len)| self.ends_token(*len));
        let (nanos, len) = read.ok_or_else(|| Fault::new(self.at, "expected a time in seconds"))?;
        self.at += len;
        Ok(nanos.to_millis())
    }

    fn ends_token(&self, len: usize) -> bool {
        self.rest().as_bytes().get(len).is_none_or(|b| *b == b' ')
    }

    fn read_exemplar(&mut self) -> Result<Exemplar, Fault> {
        self.expect(" # ")?;
        if !self.peek("{") {
            return Err(Fault::new(self.at, "expected the labels of an exemplar"));
        }
        let end = braces_end(self.line.as_bytes(), self.at)?;
        let mut labels = Vec::new();
        read_exemplar_labels(&self.line[self.at..end], |key, value| labels.push((key.to_owned(), value.to_owned())))
            .map_err(|fault| fault.after(self.at))?;
        self.at = end;
        self.expect(" ")?;
        let value = self.read_number()?;
        let ts_ms = self.read_seconds(" ")?;
        Ok(Exemplar { labels, value, ts_ms })
    }
}

#[cfg(test)]
mod tests;
