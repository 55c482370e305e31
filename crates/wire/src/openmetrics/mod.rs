//! OpenMetrics 1.0: one line of it, as strict as Prometheus' own reader; the rules of the whole in `family`, `counter`,
//! `histogram` and `validate`.

mod counter;
mod family;
mod histogram;
pub mod v2;
mod validate;

use memchr::{memchr, memchr2, memrchr};
use model::MetricType;

use crate::error::Fault;
use crate::number::{Nanos, float_prefix, seconds_prefix};
use crate::parser::{Entry, Line, RawExemplar, Sampled};
use crate::series::{braces_end, read_exemplar_labels, unescape};
use crate::text::read_family_name;

pub use validate::validate;

/// Tells whether a sample is the start ("created") timestamp of the family's point: its value is seconds since 1970.
///
/// **Takes** the sample's metric name, the family's name and type.
pub fn is_created_of(sample_name: &str, family: &str, metric_type: MetricType) -> bool {
    matches!(metric_type, MetricType::Counter | MetricType::Histogram | MetricType::Summary)
        && sample_name.strip_prefix(family) == Some("_created")
}

/// Turns the value of a `_created` sample into milliseconds since 1970; `None` for what is no time.
pub fn created_ms(value: f64) -> Option<i64> {
    let ms = (value * 1000.0).round();
    (ms.is_finite() && ms.abs() < i64::MAX as f64).then_some(ms as i64)
}

/// Reads a line without its newline.
#[inline]
pub(crate) fn read_line(line: &str) -> Result<Line<'_>, Fault> {
    match line.as_bytes().first() {
        None => Err(Fault::new(0, "OpenMetrics has no blank lines")),
        Some(b'#') => read_metadata(line).map(Line::Entry),
        Some(_) => read_sample(line).map(Line::Sample),
    }
}

/// Reads the timestamp behind the space at `at` and gives it with its end.
#[inline]
pub(crate) fn read_timestamp(bytes: &[u8], at: usize) -> Option<(Option<Nanos>, usize)> {
    seconds_prefix(bytes.get(at + 1..)?).map(|(nanos, len)| (Some(nanos), at + 1 + len))
}

#[inline]
fn read_sample(line: &str) -> Result<Sampled<'_>, Fault> {
    let bytes = line.as_bytes();
    let series_end = find_series_end(bytes)?;
    let (value, mut at) = read_value(bytes, series_end, "expected a space and a value after the series")?;
    let mut nanos = None;
    if at < bytes.len() && !starts_exemplar(bytes, at) {
        (nanos, at) = timestamp_or_fault(bytes, at)?;
    }
    let exemplar = if at < bytes.len() { Some(read_exemplar(line, at)?) } else { None };
    let series = &line[..series_end];
    Ok(Sampled { start: 0, series, value, ts_ms: nanos.map(Nanos::to_millis), nanos, exemplar })
}

/// Without a `#` there can be no exemplar, and the last brace of the line closes the labels. Whether they are right is
/// looked at when someone asks for them.
#[inline]
fn find_series_end(bytes: &[u8]) -> Result<usize, Fault> {
    let Some(delimiter) = memchr2(b'{', b' ', bytes) else {
        return Err(Fault::new(bytes.len(), "expected a space and a value after the series"));
    };
    if bytes[delimiter] == b' ' {
        return Ok(delimiter);
    }
    if memchr(b'#', &bytes[delimiter..]).is_some() {
        return braces_end(bytes, delimiter);
    }
    match memrchr(b'}', &bytes[delimiter..]) {
        Some(close) => Ok(delimiter + close + 1),
        None => Err(Fault::new(bytes.len(), "the closing brace is missing")),
    }
}

#[inline]
fn read_value(bytes: &[u8], at: usize, missing: &'static str) -> Result<(f64, usize), Fault> {
    if bytes.get(at) != Some(&b' ') || at + 1 == bytes.len() {
        return Err(Fault::new(at, missing));
    }
    match float_prefix(&bytes[at + 1..]) {
        Some((value, len)) if matches!(bytes.get(at + 1 + len), None | Some(b' ')) => Ok((value, at + 1 + len)),
        _ => Err(Fault::new(at + 1, "expected a number")),
    }
}

fn timestamp_or_fault(bytes: &[u8], at: usize) -> Result<(Option<Nanos>, usize), Fault> {
    match read_timestamp(bytes, at) {
        Some((nanos, end)) if matches!(bytes.get(end), None | Some(b' ')) => Ok((nanos, end)),
        _ => Err(Fault::new(at + 1, "expected a timestamp in seconds, an exemplar or the end of the line")),
    }
}

fn starts_exemplar(bytes: &[u8], at: usize) -> bool {
    bytes[at..].starts_with(b" # {")
}

fn read_exemplar(line: &str, at: usize) -> Result<RawExemplar<'_>, Fault> {
    let bytes = line.as_bytes();
    if !starts_exemplar(bytes, at) {
        return Err(Fault::new(at, "expected ` # {` and an exemplar, or the end of the line"));
    }
    let open = at + 3;
    let close = braces_end(bytes, open)?;
    let labels = &line[open..close];
    read_exemplar_labels(labels, |_, _| ()).map_err(|fault| fault.after(open))?;
    let (value, end) = read_value(bytes, close, "expected a space and a value after the exemplar's labels")?;
    let mut ts_ms = None;
    if end < bytes.len() {
        let (nanos, ts_end) = timestamp_or_fault(bytes, end)?;
        if ts_end < bytes.len() {
            return Err(Fault::new(ts_end, "expected the end of the line after the exemplar"));
        }
        ts_ms = nanos.map(Nanos::to_millis);
    }
    Ok(RawExemplar { labels, value, ts_ms })
}

fn read_metadata(line: &str) -> Result<Entry<'_>, Fault> {
    if line == "# EOF" {
        return Ok(Entry::Eof);
    }
    let keyword = ["# HELP ", "# TYPE ", "# UNIT "].into_iter().find(|k| line.starts_with(k));
    let Some(keyword) = keyword else {
        return Err(Fault::new(0, "OpenMetrics has no comments but # HELP, # TYPE, # UNIT and # EOF"));
    };
    let (name, name_end) = read_family_name(line, keyword.len())?;
    let Some(text) = line[name_end..].strip_prefix(' ') else {
        return Err(Fault::new(name_end, "expected a space and a text after the metric name"));
    };
    match keyword {
        "# HELP " => Ok(Entry::Help { name, help: unescape(text, true) }),
        "# TYPE " => match read_type(text) {
            Some(metric_type) => Ok(Entry::Type { name, metric_type }),
            None => Err(Fault::new(name_end + 1, "expected one of the types that OpenMetrics knows")),
        },
        _ if ends_in_unit(name, text) => Ok(Entry::Unit { name, unit: text }),
        _ => Err(Fault::new(name_end + 1, "the unit is not the end of the metric name")),
    }
}

fn ends_in_unit(name: &str, unit: &str) -> bool {
    unit.is_empty() || name.strip_suffix(unit).is_some_and(|head| head.ends_with('_'))
}

fn read_type(word: &str) -> Option<MetricType> {
    (0..=u8::MAX).map_while(|n| Some(MetricType::from_u8(n)).filter(|t| n == *t as u8)).find(|t| t.as_str() == word)
}
