//! The text of a series, `name{label="value"}`: where it ends, and what it says.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use model::{LABEL_NAME, LabelsBuf, MetricType};

use crate::error::{Fault, ParseError};
use crate::format::Format;
use crate::number::{format_openmetrics_float, parse_go_float};

/// Reads the labels of a series text and appends them, `__name__` among them, in the order in which they stand.
///
/// **Takes** the text as [`crate::Entry::Sample`] gives it.
/// **Errors** when it does not follow the format; the place counts from the start of the text. That a name stands twice is
/// found by [`LabelsBuf::sort`].
pub fn series_labels(format: Format, series: &str, out: &mut LabelsBuf) -> Result<(), ParseError> {
    read_series(format, series, |name, value| out.push(name, value))
        .map_err(|fault| ParseError::locate(series.as_bytes(), 1, 0, fault))
}

/// Gives the metric name of a series text as it is written: without quotes, escapes left alone; empty when there is none.
///
/// **Takes** the text as [`crate::Entry::Sample`] gives it, or any other.
pub fn series_name(series: &str) -> &str {
    let bytes = series.as_bytes();
    let end = bytes.iter().position(|b| matches!(b, b'{' | b' ' | b'\t')).unwrap_or(bytes.len());
    if end > 0 || bytes.is_empty() {
        return &series[..end];
    }
    let mut at = 1;
    while let Some(quote) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'=', rest)).map(|i| at + i) {
        if bytes[quote] == b'=' {
            at = quote + 1;
            // The quoted value of a label before the name.
            let Some(open) = bytes.get(at..).and_then(|rest| memchr(b'"', rest)) else { break };
            let Ok(end) = quoted_end(bytes, at + open) else { break };
            at = end;
            continue;
        }
        let Ok(end) = quoted_end(bytes, quote) else { break };
        let next = bytes.get(end..).unwrap_or_default().iter().find(|b| !matches!(b, b' ' | b'\t'));
        if next != Some(&b'=') {
            return &series[quote + 1..end - 1];
        }
        at = end;
    }
    ""
}

/// Gives the spelling that Prometheus 3 stores for `le` of a histogram and `quantile` of a summary: `1` becomes `1.0`.
///
/// `None` when the value stays as it is.
pub fn normalize_float_label(metric_type: MetricType, name: &str, value: &str) -> Option<String> {
    let applies = match metric_type {
        MetricType::Histogram => name == "le",
        MetricType::Summary => name == "quantile",
        _ => false,
    };
    let float = applies.then(|| parse_go_float(value)).flatten()?;
    Some(format_openmetrics_float(float)).filter(|text| text != value)
}

/// Reads a whole series text and hands each pair to `sink`.
pub(crate) fn read_series(format: Format, series: &str, mut sink: impl FnMut(&str, &str)) -> Result<(), Fault> {
    let bytes = series.as_bytes();
    let name_len = bytes.iter().take_while(|b| is_name_byte(**b)).count();
    if bytes.first().is_some_and(u8::is_ascii_digit) {
        return Err(Fault::new(0, "a metric name does not start with a digit"));
    }
    let name = &series[..name_len];
    if name_len > 0 {
        sink(LABEL_NAME, name);
    }
    let mut reader = LabelReader { format, text: series, at: name_len, named: name_len > 0, may_name: true };
    reader.skip_blanks();
    if reader.at == bytes.len() && name_len > 0 {
        return Ok(());
    }
    if reader.peek() != Some(b'{') {
        return Err(Fault::new(reader.at, "expected a metric name or an opening brace"));
    }
    reader.read_braces(&mut sink)?;
    if !reader.named {
        return Err(Fault::new(0, "the metric name is missing"));
    }
    if reader.at < bytes.len() {
        return Err(Fault::new(reader.at, "expected a value after the closing brace"));
    }
    Ok(())
}

/// Reads the labels of an exemplar, `{name="value"}`.
pub(crate) fn read_exemplar_labels(braces: &str, mut sink: impl FnMut(&str, &str)) -> Result<(), Fault> {
    let mut reader = LabelReader { format: Format::OpenMetrics, text: braces, at: 0, named: false, may_name: false };
    if reader.peek() != Some(b'{') {
        return Err(Fault::new(0, "expected an opening brace"));
    }
    reader.read_braces(&mut sink)?;
    if reader.at < braces.len() {
        return Err(Fault::new(reader.at, "expected a space after the exemplar's closing brace"));
    }
    Ok(())
}

/// Finds the end (exclusive) of the braces that open at `open`, jumping over quoted text.
pub(crate) fn braces_end(bytes: &[u8], open: usize) -> Result<usize, Fault> {
    let mut at = open + 1;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(found) = memchr2(b'"', b'}', rest) else {
            return Err(Fault::new(bytes.len(), "the closing brace is missing"));
        };
        if rest[found] == b'}' {
            return Ok(at + found + 1);
        }
        at = quoted_end(bytes, at + found)?;
    }
}

/// Finds the end (exclusive) of the quoted text that opens at `open`.
fn quoted_end(bytes: &[u8], open: usize) -> Result<usize, Fault> {
    let mut at = open + 1;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(found) = memchr2(b'"', b'\\', rest) else {
            return Err(Fault::new(open, "the closing quote is missing"));
        };
        if rest[found] == b'"' {
            return Ok(at + found + 1);
        }
        at += found + 2;
    }
}

pub(crate) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'
}

/// Undoes `\\`, `\n` and `\"`; any other pair stays as it stands.
pub(crate) fn unescape(text: &str, quotes: bool) -> Cow<'_, str> {
    let Some(first) = memchr(b'\\', text.as_bytes()) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..first]);
    let mut chars = text[first..].chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('\\') => out.push('\\'),
            Some('n') => out.push('\n'),
            Some('"') if quotes => out.push('"'),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    Cow::Owned(out)
}

struct LabelReader<'a> {
    format: Format,
    text: &'a str,
    at: usize,
    /// Whether the metric name is known.
    named: bool,
    /// Whether a lone quoted text is a metric name: in a series, not in an exemplar.
    may_name: bool,
}

impl<'a> LabelReader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn fault<T>(&self, message: &'static str) -> Result<T, Fault> {
        Err(Fault::new(self.at, message))
    }

    /// The text format allows blanks anywhere between two tokens, OpenMetrics nowhere.
    fn skip_blanks(&mut self) {
        if self.format == Format::Text {
            while matches!(self.peek(), Some(b' ' | b'\t')) {
                self.at += 1;
            }
        }
    }

    fn read_braces(&mut self, sink: &mut impl FnMut(&str, &str)) -> Result<(), Fault> {
        self.at += 1;
        loop {
            self.skip_blanks();
            if self.peek() == Some(b'}') {
                self.at += 1;
                return Ok(());
            }
            self.read_pair(sink)?;
            self.skip_blanks();
            match (self.peek(), self.format) {
                (Some(b','), _) => self.at += 1,
                (Some(b'}'), _) => {}
                // Prometheus' own leniency: in the text format the comma may be missing.
                (Some(_), Format::Text) => {}
                _ => return self.fault("expected a comma or the closing brace"),
            }
        }
    }

    fn read_pair(&mut self, sink: &mut impl FnMut(&str, &str)) -> Result<(), Fault> {
        let start = self.at;
        let quoted = self.peek() == Some(b'"');
        let name = if quoted { self.read_quoted()? } else { Cow::Borrowed(self.read_bare_name()?) };
        self.skip_blanks();
        if quoted && self.may_name && matches!(self.peek(), Some(b',' | b'}')) {
            return self.take_metric_name(start, &name, sink);
        }
        if name.is_empty() {
            return Err(Fault::new(start, "a label name is empty"));
        }
        if self.peek() != Some(b'=') {
            return self.fault("expected an equals sign after the label name");
        }
        self.at += 1;
        self.skip_blanks();
        if self.peek() != Some(b'"') {
            return self.fault("expected a label value in double quotes");
        }
        let value = self.read_quoted()?;
        sink(&name, &value);
        Ok(())
    }

    fn take_metric_name(&mut self, start: usize, name: &str, sink: &mut impl FnMut(&str, &str)) -> Result<(), Fault> {
        if self.named {
            return Err(Fault::new(start, "the metric name is given twice, or a label has no value"));
        }
        if name.is_empty() {
            return Err(Fault::new(start, "the metric name is empty"));
        }
        self.named = true;
        sink(LABEL_NAME, name);
        Ok(())
    }

    fn read_bare_name(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        let text = self.text;
        let is_label_byte = |b: &&u8| b.is_ascii_alphanumeric() || **b == b'_';
        let len = text.as_bytes()[start..].iter().take_while(is_label_byte).count();
        if len == 0 {
            return self.fault("expected a label name");
        }
        if text.as_bytes()[start].is_ascii_digit() {
            return self.fault("a label name does not start with a digit");
        }
        self.at += len;
        Ok(&text[start..start + len])
    }

    fn read_quoted(&mut self) -> Result<Cow<'a, str>, Fault> {
        let end = quoted_end(self.text.as_bytes(), self.at)?;
        let inner = &self.text[self.at + 1..end - 1];
        self.at = end;
        Ok(unescape(inner, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(format: Format, series: &str) -> Result<Vec<(String, String)>, String> {
        let mut out = LabelsBuf::default();
        series_labels(format, series, &mut out).map_err(|e| format!("{}: {}", e.column, e.message))?;
        Ok(out.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect())
    }

    fn pairs(list: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        Ok(list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn both_formats_read_names_and_labels() {
        for format in [Format::Text, Format::OpenMetrics] {
            let read = |series| labels(format, series);
            assert_eq!(read("up"), pairs(&[("__name__", "up")]));
            assert_eq!(read("a:b_c1{}"), pairs(&[("__name__", "a:b_c1")]));
            assert_eq!(read(r#"a{b="c",d="",}"#), pairs(&[("__name__", "a"), ("b", "c"), ("d", "")]));
            assert_eq!(read(r#"{"my.metric","l.x"="1"}"#), pairs(&[("__name__", "my.metric"), ("l.x", "1")]));
            assert_eq!(read(r#"{l="1","my \"m\""}"#), pairs(&[("l", "1"), ("__name__", "my \"m\"")]));
            let escapes = r#"a{b="\\ \" \n \z } = , é"}"#;
            assert_eq!(read(escapes), pairs(&[("__name__", "a"), ("b", "\\ \" \n \\z } = , é")]));
        }
    }

    #[test]
    fn only_the_text_format_is_lenient_with_blanks_and_commas() {
        let spaced = "a { b = \"c\"\t,d=\"e\" f=\"g\" , }";
        assert_eq!(labels(Format::Text, spaced), pairs(&[("__name__", "a"), ("b", "c"), ("d", "e"), ("f", "g")]));
        for series in [spaced, r#"a {b="c"}"#, r#"a{b="c", d="e"}"#, r#"a{b="c"d="e"}"#] {
            assert!(labels(Format::OpenMetrics, series).is_err(), "{series}");
        }
    }

    #[test]
    fn faults_have_their_column() {
        let cases = [
            (r#"a{b}"#, "4: expected an equals sign after the label name"),
            (r#"a{b=}"#, "5: expected a label value in double quotes"),
            (r#"a{b='c'}"#, "5: expected a label value in double quotes"),
            (r#"a{="c"}"#, "3: expected a label name"),
            (r#"a{,}"#, "3: expected a label name"),
            (r#"a{b="c",,d="e"}"#, "9: expected a label name"),
            (r#"a{1="1"}"#, "3: a label name does not start with a digit"),
            (r#"a{b="c"#, "5: the closing quote is missing"),
            (r#"a{b="c\"}"#, "5: the closing quote is missing"),
            (r#"a{""}"#, "3: the metric name is given twice, or a label has no value"),
            (r#"{b="c"}"#, "1: the metric name is missing"),
            (r#"{}"#, "1: the metric name is missing"),
            (r#"{""}"#, "2: the metric name is empty"),
            (r#"{"a",""="b"}"#, "6: a label name is empty"),
            (r#"0a"#, "1: a metric name does not start with a digit"),
            ("a.b", "2: expected a metric name or an opening brace"),
            (r#"a{b="c"} 1 {}"#, "9: expected a value after the closing brace"),
            ("", "1: expected a metric name or an opening brace"),
        ];
        for (series, message) in cases {
            assert_eq!(labels(Format::OpenMetrics, series), Err(message.to_owned()), "{series}");
        }
    }

    #[test]
    fn the_name_is_found_without_reading_the_labels() {
        assert_eq!(series_name("up"), "up");
        assert_eq!(series_name("up {a=\"b\"}"), "up");
        assert_eq!(series_name(r#"up{a="{"}"#), "up");
        assert_eq!(series_name(r#"{"my.metric",a="b"}"#), "my.metric");
        assert_eq!(series_name(r#"{a="b\"","l.x"="\\", "my.metric" }"#), "my.metric");
        assert_eq!(series_name(r#"{a="b"}"#), "");
        assert_eq!(series_name(r#"{a="#), "");
        assert_eq!(series_name(""), "");
    }

    #[test]
    fn le_and_quantile_get_the_spelling_of_prometheus_3() {
        let normal = normalize_float_label;
        assert_eq!(normal(MetricType::Histogram, "le", "1").as_deref(), Some("1.0"));
        assert_eq!(normal(MetricType::Histogram, "le", "1.0"), None);
        assert_eq!(normal(MetricType::Histogram, "le", "+Inf"), None);
        assert_eq!(normal(MetricType::Histogram, "le", "inf").as_deref(), Some("+Inf"));
        assert_eq!(normal(MetricType::Summary, "quantile", "1e-1").as_deref(), Some("0.1"));
        assert_eq!(normal(MetricType::Gauge, "le", "1"), None);
        assert_eq!(normal(MetricType::Histogram, "le", "x"), None);
    }

    #[test]
    fn ten_thousand_labels_are_read_in_one_go() {
        let body: Vec<String> = (0..10_000).map(|i| format!("l{i}=\"v\\n{i}\"")).collect();
        let series = format!("a{{{}}}", body.join(","));
        assert_eq!(labels(Format::OpenMetrics, &series).map(|l| l.len()), Ok(10_001));
    }
}
