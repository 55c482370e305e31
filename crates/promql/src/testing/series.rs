//! The notation of series: labels, then values such as `1 2+3x4 _ stale {{schema:0 count:4}}`.

use std::sync::Arc;

use model::histogram::{BucketSpan, CUSTOM_SCHEMA, Histogram, ResetHint};
use model::{Labels, stale_nan};

/// Steps that one item of a series may stand for.
const STEPS_MAX: usize = 1_000_000;

/// A value of a series.
#[derive(Clone, Debug)]
pub enum Point {
    /// A double.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

/// A value, or nothing at this step.
pub type Slot = Option<Point>;

/// Reads a line of a series.
pub fn parse_series(line: &str) -> Result<(Labels, Vec<Slot>), String> {
    let end = labels_end(line);
    let labels = parse_labels(line[..end].trim())?;
    Ok((labels, parse_values(line[end..].trim())?))
}

/// Finds the byte behind name and braces.
fn labels_end(line: &str) -> usize {
    let (mut quote, mut escaped) = (None, false);
    let mut open = false;
    for (at, c) in line.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(q) if c == '\\' && q != '`' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if open && matches!(c, '"' | '\'' | '`') => quote = Some(c),
            None if c == '{' => open = true,
            None if c == '}' => return at + 1,
            None if c.is_whitespace() && !open => return at,
            None => {}
        }
    }
    line.len()
}

/// Reads labels such as `up{job="x"}`.
pub fn parse_labels(text: &str) -> Result<Labels, String> {
    if text == "{}" {
        return Ok(Labels::empty());
    }
    // A name in front makes any braces a selector; its matcher is the last one.
    let (selector, added) = if text.starts_with('{') { (format!("x{text}"), 1) } else { (text.to_owned(), 0) };
    let matchers = crate::parse_selector(&selector).map_err(|e| format!("{text}: {e}"))?;
    let kept = matchers.len() - added;
    Ok(Labels::from_pairs(matchers[..kept].iter().map(|m| (m.name(), m.value()))))
}

fn parse_values(text: &str) -> Result<Vec<Slot>, String> {
    let mut slots = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let token_end = match rest.starts_with("{{") {
            true => histogram_item_end(rest)?,
            false => rest.find(char::is_whitespace).unwrap_or(rest.len()),
        };
        let (token, tail) = rest.split_at(token_end);
        push_item(token, &mut slots).map_err(|e| format!("{token}: {e}"))?;
        rest = tail.trim_start();
    }
    Ok(slots)
}

/// Finds the end of `{{..}}`, `{{..}}xN` or `{{..}}+{{..}}xN`.
fn histogram_item_end(text: &str) -> Result<usize, String> {
    let mut at = text.find("}}").ok_or("no }}")? + 2;
    if text[at..].starts_with("+{{") || text[at..].starts_with("-{{") {
        at += text[at..].find("}}").ok_or("no }}")? + 2;
    }
    Ok(text[at..].find(char::is_whitespace).map_or(text.len(), |more| at + more))
}

fn push_item(token: &str, slots: &mut Vec<Slot>) -> Result<(), String> {
    if token == "_" {
        slots.push(None);
    } else if let Some(times) = token.strip_prefix("_x") {
        slots.extend(vec![None; count(times)?]);
    } else if token == "stale" {
        slots.push(Some(Point::Float(stale_nan())));
    } else if let Some(times) = token.strip_prefix("stalex") {
        slots.extend(vec![Some(Point::Float(stale_nan())); count(times)? + 1]);
    } else if token.starts_with("{{") {
        push_histograms(token, slots)?;
    } else {
        push_floats(token, slots)?;
    }
    Ok(())
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count <= STEPS_MAX => Ok(count),
        Ok(_) => Err(format!("more than {STEPS_MAX} steps")),
        Err(_) => Err(format!("no count: {text}")),
    }
}

fn push_floats(token: &str, slots: &mut Vec<Slot>) -> Result<(), String> {
    let (first, rest) = number(token)?;
    if rest.is_empty() {
        slots.push(Some(Point::Float(first)));
        return Ok(());
    }
    let (delta, times) = match rest.strip_prefix('x') {
        Some(times) => (0.0, times),
        None => {
            let (delta, rest) = number(rest)?;
            (delta, rest.strip_prefix('x').ok_or("no x behind the delta")?)
        }
    };
    let mut value = first;
    for _ in 0..=count(times)? {
        slots.push(Some(Point::Float(value)));
        value += delta;
    }
    Ok(())
}

/// Takes a number off the front.
pub fn number(text: &str) -> Result<(f64, &str), String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let sign_len = text.len() - unsigned.len();
    let lower = unsigned.to_ascii_lowercase();
    let len = if lower.starts_with("inf") || lower.starts_with("nan") { 3 } else { float_len(unsigned) };
    let (head, tail) = text.split_at(sign_len + len);
    let value = head.parse::<f64>().map_err(|_| format!("no number: {text}"))?;
    Ok((value, tail))
}

fn float_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
    let mut len = digits(0);
    if bytes.get(len).is_some_and(|b| matches!(b, b'e' | b'E')) {
        let sign = usize::from(bytes.get(len + 1).is_some_and(|b| matches!(b, b'+' | b'-')));
        let exponent = bytes.get(len + 1 + sign..).map_or(0, |_| digits(len + 1 + sign));
        if exponent > 0 {
            len += 1 + sign + exponent;
        }
    }
    len
}

fn push_histograms(token: &str, slots: &mut Vec<Slot>) -> Result<(), String> {
    let first_end = token.find("}}").ok_or("no }}")? + 2;
    let first = parse_histogram(&token[..first_end])?;
    let rest = &token[first_end..];
    let push = |histogram: &Histogram, slots: &mut Vec<Slot>| {
        slots.push(Some(Point::Histogram(Arc::new(histogram.clone()))));
    };
    if rest.is_empty() {
        push(&first, slots);
        return Ok(());
    }
    if let Some(times) = rest.strip_prefix('x') {
        (0..=count(times)?).for_each(|_| push(&first, slots));
        return Ok(());
    }
    let sign = if rest.starts_with('-') { -1.0 } else { 1.0 };
    let delta_end = rest.find("}}").ok_or("no }}")? + 2;
    let delta = parse_histogram(&rest[1..delta_end])?;
    let times = rest[delta_end..].strip_prefix('x').ok_or("no x behind the delta")?;
    let mut current = first;
    for _ in 0..=count(times)? {
        push(&current, slots);
        current = sum(&current, &delta, sign)?;
    }
    Ok(())
}

/// Adds a histogram of the same layout, or an empty side.
fn sum(a: &Histogram, b: &Histogram, sign: f64) -> Result<Histogram, String> {
    let schema = a.schema.min(b.schema);
    let (a, b) = (&coarser(a, schema)?, &coarser(b, schema)?);
    let mut out = a.clone();
    out.count += sign * b.count;
    out.sum += sign * b.sum;
    out.zero_count += sign * b.zero_count;
    (out.positive_spans, out.positive) =
        add_side((&a.positive_spans, &a.positive), (&b.positive_spans, &b.positive), sign);
    (out.negative_spans, out.negative) =
        add_side((&a.negative_spans, &a.negative), (&b.negative_spans, &b.negative), sign);
    Ok(out)
}

/// Makes buckets as wide as those of a lower schema.
fn coarser(h: &Histogram, schema: i32) -> Result<Histogram, String> {
    if h.schema == schema {
        return Ok(h.clone());
    }
    if schema == CUSTOM_SCHEMA {
        return Err("custom and exponential buckets do not mix".to_owned());
    }
    let shift = h.schema - schema;
    let side = |spans: &[BucketSpan], counts: &[f64]| {
        let mut all = std::collections::BTreeMap::new();
        for (index, count) in Histogram::buckets(spans, counts) {
            *all.entry(((index - 1) >> shift) + 1).or_insert(0.0) += count;
        }
        spans_of(all)
    };
    let (positive_spans, positive) = side(&h.positive_spans, &h.positive);
    let (negative_spans, negative) = side(&h.negative_spans, &h.negative);
    Ok(Histogram { schema, positive_spans, positive, negative_spans, negative, ..h.clone() })
}

type Side<'s> = (&'s [BucketSpan], &'s [f64]);

fn add_side(a: Side<'_>, b: Side<'_>, sign: f64) -> (Vec<BucketSpan>, Vec<f64>) {
    let mut all = std::collections::BTreeMap::new();
    for (index, count) in Histogram::buckets(a.0, a.1) {
        *all.entry(index).or_insert(0.0) += count;
    }
    for (index, count) in Histogram::buckets(b.0, b.1) {
        *all.entry(index).or_insert(0.0) += sign * count;
    }
    spans_of(all)
}

fn spans_of(all: std::collections::BTreeMap<i32, f64>) -> (Vec<BucketSpan>, Vec<f64>) {
    let (mut spans, mut counts): (Vec<BucketSpan>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut next = 0;
    for (index, count) in all {
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(BucketSpan { offset: index - next, length: 1 }),
        }
        counts.push(count);
        next = index + 1;
    }
    (spans, counts)
}

/// Reads `{{schema:1 sum:3 count:22 buckets:[5 10 7]}}`.
fn parse_histogram(text: &str) -> Result<Histogram, String> {
    let inner = text.strip_prefix("{{").and_then(|t| t.strip_suffix("}}")).ok_or("no braces")?;
    let mut h = Histogram::default();
    let (mut positive_offset, mut negative_offset) = (0, 0);
    let mut rest = inner.trim();
    while !rest.is_empty() {
        let (key, tail) = rest.split_once(':').ok_or("no colon")?;
        let list = tail.starts_with('[');
        let end = if list { tail.find(']').ok_or("no ]")? + 1 } else { tail.find(' ').unwrap_or(tail.len()) };
        let (value, tail) = tail.split_at(end);
        let float = || number(value).map(|(v, _)| v);
        let floats = || -> Result<Vec<f64>, String> {
            let items = value.trim_start_matches('[').trim_end_matches(']').split_whitespace();
            items.map(|item| number(item).map(|(v, _)| v)).collect()
        };
        match key.trim() {
            "schema" => h.schema = float()? as i32,
            "sum" => h.sum = float()?,
            "count" => h.count = float()?,
            "z_bucket" => h.zero_count = float()?,
            "z_bucket_w" => h.zero_threshold = float()?,
            "offset" => positive_offset = float()? as i32,
            "n_offset" => negative_offset = float()? as i32,
            "buckets" => h.positive = floats()?,
            "n_buckets" => h.negative = floats()?,
            "custom_values" => h.custom_bounds = floats()?,
            "counter_reset_hint" => h.reset_hint = hint(value)?,
            other => return Err(format!("unknown: {other}")),
        }
        rest = tail.trim();
    }
    h.positive_spans = span(positive_offset, h.positive.len());
    h.negative_spans = span(negative_offset, h.negative.len());
    Ok(h)
}

fn hint(text: &str) -> Result<ResetHint, String> {
    Ok(match text {
        "unknown" => ResetHint::Unknown,
        "reset" => ResetHint::Reset,
        "not_reset" => ResetHint::NoReset,
        "gauge" => ResetHint::Gauge,
        other => return Err(format!("unknown hint: {other}")),
    })
}

fn span(offset: i32, len: usize) -> Vec<BucketSpan> {
    if len == 0 { Vec::new() } else { vec![BucketSpan { offset, length: len as u32 }] }
}
