//! One line of the Prometheus text format, as lenient as Prometheus' own reader.
//!
//! Two things that its state machine lets pass by accident are refused here, with their place: a value right behind a name without labels
//! (`a_b0.5 1` would be 0.5 of `a_b0` at the time 1), and a label that stands twice, once empty.

use memchr::{memchr3, memrchr};
use model::MetricType;

use crate::error::Fault;
use crate::number::{float_prefix, int_prefix};
use crate::parser::{Entry, Line, Sampled};
use crate::series::{is_name_byte, unescape};

/// Reads a line without its newline; `None` for a blank one.
#[inline]
pub(crate) fn read_line(line: &str) -> Result<Option<Line<'_>>, Fault> {
    let start = skip_blanks(line.as_bytes(), 0);
    match line.as_bytes().get(start) {
        None => Ok(None),
        Some(b'#') => read_comment(line, start).map(|entry| Some(Line::Entry(entry))),
        Some(_) => read_sample(line, start).map(|sample| Some(Line::Sample(sample))),
    }
}

/// What stands after the value, if all is well: a timestamp or nothing. Gives it with its end.
#[inline]
pub(crate) fn read_timestamp(bytes: &[u8], at: usize) -> Result<(Option<i64>, usize), Fault> {
    let start = skip_blanks(bytes, at);
    if matches!(bytes.get(start), None | Some(b'\n')) {
        return Ok((None, start));
    }
    if start == at {
        return Err(Fault::new(at, "expected a number"));
    }
    match int_prefix(&bytes[start..]) {
        Some((ts_ms, len)) => Ok((Some(ts_ms), skip_blanks(bytes, start + len))),
        None => Err(Fault::new(start, "expected a timestamp in whole milliseconds or the end of the line")),
    }
}

#[inline]
fn read_sample(line: &str, start: usize) -> Result<Sampled<'_>, Fault> {
    let bytes = line.as_bytes();
    let series_end = find_series_end(bytes, start)?;
    let at = skip_blanks(bytes, series_end);
    let Some((value, len)) = float_prefix(&bytes[at..]) else {
        let message = if at == bytes.len() { "expected a value after the series" } else { "expected a number" };
        return Err(Fault::new(at, message));
    };
    let (ts_ms, end) = read_timestamp(bytes, at + len).map_err(|fault| number_fault(fault, at, len))?;
    if end < bytes.len() {
        return Err(Fault::new(end, "expected the end of the line"));
    }
    Ok(Sampled { start, series: &line[start..series_end], value, ts_ms, nanos: None, exemplar: None })
}

/// A number that goes on in letters is a fault of its start: `0x1`, `1_000`.
fn number_fault(fault: Fault, at: usize, len: usize) -> Fault {
    if fault.at == at + len { Fault { at, ..fault } } else { fault }
}

/// Neither value nor timestamp holds a brace, so the last one closes the labels; whether they are right is looked at when
/// someone asks for them.
#[inline]
fn find_series_end(bytes: &[u8], start: usize) -> Result<usize, Fault> {
    let Some(delimiter) = memchr3(b'{', b' ', b'\t', &bytes[start..]).map(|i| start + i) else {
        return Err(Fault::new(bytes.len(), "expected a value after the series"));
    };
    let open = if bytes[delimiter] == b'{' { delimiter } else { skip_blanks(bytes, delimiter) };
    if bytes.get(open) != Some(&b'{') {
        return Ok(delimiter);
    }
    match memrchr(b'}', &bytes[open..]) {
        Some(close) => Ok(open + close + 1),
        None => Err(Fault::new(bytes.len(), "the closing brace is missing")),
    }
}

fn read_comment(line: &str, start: usize) -> Result<Entry<'_>, Fault> {
    let bytes = line.as_bytes();
    let word = skip_blanks(bytes, start + 1);
    let after_word = word + bytes[word..].iter().take_while(|b| b.is_ascii_uppercase()).count();
    let name_start = skip_blanks(bytes, after_word);
    let keyword = &line[word..after_word];
    if word == start + 1 || name_start == after_word || !matches!(keyword, "HELP" | "TYPE") {
        return Ok(Entry::Comment);
    }
    let (name, name_end) = read_family_name(line, name_start)?;
    // The one character after the name divides it from the text.
    let text_start = line[name_end..].chars().next().map_or(name_end, |c| name_end + c.len_utf8());
    let text = &line[text_start..];
    if keyword == "TYPE" {
        return Ok(Entry::Type { name, metric_type: read_type(text).ok_or_else(|| wrong_type(text_start))? });
    }
    let blank = text.bytes().all(|b| matches!(b, b' ' | b'\t'));
    Ok(Entry::Help { name, help: if blank { "".into() } else { unescape(text, false) } })
}

fn wrong_type(at: usize) -> Fault {
    Fault::new(at, "expected one of the types counter, gauge, histogram, summary and untyped")
}

fn read_type(word: &str) -> Option<MetricType> {
    match word {
        "counter" => Some(MetricType::Counter),
        "gauge" => Some(MetricType::Gauge),
        "histogram" => Some(MetricType::Histogram),
        "summary" => Some(MetricType::Summary),
        "untyped" => Some(MetricType::Unknown),
        _ => None,
    }
}

/// Reads a bare or quoted family name at `start` and gives it, without quotes, with its end. Escapes stay as they stand.
pub(crate) fn read_family_name(line: &str, start: usize) -> Result<(&str, usize), Fault> {
    let bytes = line.as_bytes();
    if bytes.get(start) == Some(&b'"') {
        let mut at = start + 1;
        loop {
            match bytes.get(at) {
                Some(b'"') => return Ok((&line[start + 1..at], at + 1)),
                Some(b'\\') => at += 2,
                Some(_) => at += 1,
                None => return Err(Fault::new(start, "the closing quote is missing")),
            }
        }
    }
    let len = bytes[start..].iter().take_while(|b| is_name_byte(**b)).count();
    if len == 0 || bytes[start].is_ascii_digit() {
        return Err(Fault::new(start, "expected a metric name"));
    }
    Ok((&line[start..start + len], start + len))
}

#[inline]
fn skip_blanks(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    at
}
