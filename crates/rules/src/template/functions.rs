//! The functions of templates: Go's own and Prometheus'.

use std::cmp::Ordering;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::exec::{OUTPUT_BYTES_MAX, Run};
use super::humanize;
use super::printf::printf;
use super::value::Value;

/// How deep `args` may lie in one another.
const ARGS_DEPTH_MAX: usize = 32;
/// Bytes that a compiled expression may take.
const REGEX_BYTES_MAX: usize = 1 << 20;

const NAMES: [&str; 48] = [
    "and",
    "args",
    "eq",
    "externalURL",
    "first",
    "ge",
    "graphLink",
    "gt",
    "html",
    "humanize",
    "humanize1024",
    "humanizeDuration",
    "humanizePercentage",
    "humanizeTimestamp",
    "index",
    "js",
    "label",
    "le",
    "len",
    "lt",
    "match",
    "ne",
    "not",
    "now",
    "or",
    "parseDuration",
    "pathPrefix",
    "print",
    "printf",
    "println",
    "query",
    "reReplaceAll",
    "safeHtml",
    "slice",
    "sortByLabel",
    "stripDomain",
    "stripPort",
    "strvalue",
    "tableLink",
    "title",
    "tmpl",
    "toDuration",
    "toLower",
    "toTime",
    "toUpper",
    "urlQueryEscape",
    "urlquery",
    "value",
];

/// Tells whether a function exists.
pub fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls a function.
///
/// **Errors** are sentences.
pub fn call(name: &str, args: &[Value], run: &mut Run<'_, '_>) -> Result<Value, String> {
    match (name, args) {
        ("tmpl", [Value::Text(name), data]) => run.call_for_text(&name.clone(), data.clone()).map(Value::text),
        ("query", [Value::Text(text)]) => query(text, run),
        ("now", []) => Ok(Value::Float(run.around.now_s)),
        ("externalURL", []) => Ok(Value::text(run.around.external_url)),
        ("pathPrefix", []) => Ok(Value::text(path_of(run.around.external_url))),
        ("eq" | "ne" | "lt" | "le" | "gt" | "ge", args) => compare(name, args),
        ("not", [value]) => Ok(Value::Bool(!value.holds())),
        ("args", values) => {
            let depth = 1 + values.iter().map(Value::depth).max().unwrap_or(0);
            if depth > ARGS_DEPTH_MAX {
                return Err(format!("more than {ARGS_DEPTH_MAX} args lie in one another"));
            }
            let named = values.iter().enumerate().map(|(i, value)| (format!("arg{i}"), value.clone()));
            Ok(Value::Map(Arc::new(named.collect()), depth))
        }
        ("print" | "println", values) => bounded(print(values, name == "println")),
        ("printf", [Value::Text(format), values @ ..]) => bounded(printf(format, values)),
        ("len" | "index" | "slice", args) => of_collections(name, args),
        ("first" | "label" | "value" | "strvalue" | "sortByLabel", args) => of_samples(name, args),
        (_, [value]) if name.starts_with("humanize") || matches!(name, "toTime" | "toDuration" | "parseDuration") => {
            of_numbers(name, value)
        }
        (_, args) => of_texts(name, args),
    }
}

fn wrong_arguments(args: &[Value]) -> String {
    let kinds: Vec<&str> = args.iter().map(Value::kind).collect();
    format!("wrong number or types of arguments: ({})", kinds.join(", "))
}

fn bounded(text: String) -> Result<Value, String> {
    match text.len() > OUTPUT_BYTES_MAX {
        true => Err(format!("it makes a text of more than {OUTPUT_BYTES_MAX} bytes")),
        false => Ok(Value::text(text)),
    }
}

fn query(text: &str, run: &Run<'_, '_>) -> Result<Value, String> {
    let samples = (run.around.query)(text)?;
    let samples = samples.iter().map(|(labels, value)| Value::sample(labels.iter(), *value));
    Ok(Value::List(Arc::new(samples.collect())))
}

fn compare(name: &str, args: &[Value]) -> Result<Value, String> {
    let [first, rest @ ..] = args else { return Err("missing argument for comparison".to_owned()) };
    let second = rest.first().ok_or("missing argument for comparison")?;
    if name == "eq" {
        for other in rest {
            if first.compare(other)? == Ordering::Equal {
                return Ok(Value::Bool(true));
            }
        }
        return Ok(Value::Bool(false));
    }
    let nan = [first, second].iter().any(|v| matches!(v, Value::Float(f) if f.is_nan()));
    let order = first.compare(second)?;
    Ok(Value::Bool(match name {
        "ne" => order != Ordering::Equal,
        "lt" => order == Ordering::Less,
        "le" => order != Ordering::Greater,
        "gt" => order == Ordering::Greater && !nan,
        _ => order != Ordering::Less && !nan,
    }))
}

/// Go puts spaces between neighbours that are no texts; `println` between all.
fn print(values: &[Value], line: bool) -> String {
    let mut out = String::new();
    for (i, value) in values.iter().enumerate() {
        let texts = matches!(value, Value::Text(_)) || i > 0 && matches!(values[i - 1], Value::Text(_));
        if i > 0 && (line || !texts) {
            out.push(' ');
        }
        value.print(&mut out);
    }
    if line {
        out.push('\n');
    }
    out
}

fn of_collections(name: &str, args: &[Value]) -> Result<Value, String> {
    match (name, args) {
        ("len", [Value::Text(text)]) => Ok(Value::Int(text.len() as i64)),
        ("len", [Value::List(items)]) => Ok(Value::Int(items.len() as i64)),
        ("len", [Value::Labels(pairs)]) => Ok(Value::Int(pairs.len() as i64)),
        ("len", [Value::Map(entries, _)]) => Ok(Value::Int(entries.len() as i64)),
        ("index", [value, keys @ ..]) => {
            let mut value = value.clone();
            for key in keys {
                value = match (&value, key) {
                    (Value::List(items), Value::Int(at)) => {
                        let at = usize::try_from(*at).ok().filter(|at| *at < items.len());
                        items.get(at.ok_or("error calling index: index out of range")?).cloned().unwrap_or(Value::Nil)
                    }
                    (Value::Labels(_) | Value::Map(..), Value::Text(name)) => value.field(name)?,
                    _ => return Err(format!("can't index item of type {}", value.kind())),
                };
            }
            Ok(value)
        }
        ("slice", [Value::Text(text), bounds @ ..]) => {
            let (from, to) = slice_bounds(bounds, text.len())?;
            Ok(Value::text(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned()))
        }
        ("slice", [Value::List(items), bounds @ ..]) => {
            let (from, to) = slice_bounds(bounds, items.len())?;
            Ok(Value::List(Arc::new(items[from..to].to_vec())))
        }
        _ => Err(wrong_arguments(args)),
    }
}

fn slice_bounds(bounds: &[Value], len: usize) -> Result<(usize, usize), String> {
    let at = |value: Option<&Value>, default: usize| match value {
        None => Ok(default),
        Some(Value::Int(n)) => usize::try_from(*n).ok().filter(|n| *n <= len).ok_or(format!("index out of range: {n}")),
        Some(other) => Err(format!("cannot index slice/array with type {}", other.kind())),
    };
    let (from, to) = (at(bounds.first(), 0)?, at(bounds.get(1), len)?);
    if from <= to { Ok((from, to)) } else { Err(format!("invalid slice index: {from} > {to}")) }
}

fn of_samples(name: &str, args: &[Value]) -> Result<Value, String> {
    match (name, args) {
        ("first", [Value::List(items)]) => {
            items.first().cloned().ok_or_else(|| "first() called on vector with no elements".to_owned())
        }
        ("label", [Value::Text(label), sample]) => sample.field("Labels")?.field(label),
        ("value", [sample]) => sample.field("Value"),
        ("strvalue", [sample]) => sample.field("Labels")?.field("__value__"),
        ("sortByLabel", [Value::Text(label), Value::List(items)]) => {
            let mut keyed = Vec::with_capacity(items.len());
            for item in items.iter() {
                keyed.push((item.field("Labels")?.field(label)?.as_text()?.to_owned(), item.clone()));
            }
            keyed.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(Value::List(Arc::new(keyed.into_iter().map(|(_, item)| item).collect())))
        }
        _ => Err(wrong_arguments(args)),
    }
}

fn of_numbers(name: &str, value: &Value) -> Result<Value, String> {
    if name == "parseDuration" {
        let ms = model::parse_duration_ms(value.as_text()?).map_err(|e| e.to_string())?;
        return Ok(Value::Float(ms as f64 / 1000.0));
    }
    let number = value.to_float()?;
    Ok(match name {
        "humanize" => Value::text(humanize::decimal(number)),
        "humanize1024" => Value::text(humanize::binary(number)),
        "humanizeDuration" => Value::text(humanize::duration(number)),
        "humanizePercentage" => Value::text(humanize::percentage(number)),
        "humanizeTimestamp" => Value::text(humanize::timestamp(number)?),
        "toTime" => Value::Time(number),
        _ => Value::Duration((number * 1e9) as i64),
    })
}

fn regex(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build().map_err(|e| e.to_string())
}

/// Replaces what matches; ends with an error as soon as it becomes too much.
fn replace_all(regex: &Regex, with: &str, text: &str) -> Result<Value, String> {
    let (mut out, mut behind) = (String::new(), 0);
    for found in regex.captures_iter(text) {
        let Some(whole) = found.get(0) else { continue };
        out.push_str(&text[behind..whole.start()]);
        found.expand(with, &mut out);
        behind = whole.end();
        if out.len() > OUTPUT_BYTES_MAX {
            break;
        }
    }
    out.push_str(&text[behind..]);
    bounded(out)
}

fn of_texts(name: &str, args: &[Value]) -> Result<Value, String> {
    if let "html" | "js" | "urlquery" = name {
        let text = print(args, false);
        return bounded(match name {
            "html" => escape_html(&text),
            "js" => escape_js(&text),
            _ => escape_query(&text),
        });
    }
    let texts: Vec<&str> = args.iter().map(Value::as_text).collect::<Result<_, _>>()?;
    match (name, texts.as_slice()) {
        ("toUpper", [text]) => bounded(text.to_uppercase()),
        ("toLower", [text]) => bounded(text.to_lowercase()),
        ("title", [text]) => bounded(title(text)),
        ("safeHtml", [text]) => Ok(Value::text(*text)),
        ("match", [pattern, text]) => Ok(Value::Bool(regex(pattern)?.is_match(text))),
        ("reReplaceAll", [pattern, with, text]) => replace_all(&regex(pattern)?, with, text),
        ("graphLink" | "tableLink", [expr]) => {
            let tab = u8::from(name == "tableLink");
            bounded(format!("/graph?g0.expr={}&g0.tab={tab}", escape_query(expr)))
        }
        ("urlQueryEscape", [text]) => bounded(escape_query(text)),
        ("stripPort", [text]) => Ok(Value::text(split_host_port(text).map_or(*text, |(host, _)| host))),
        ("stripDomain", [text]) => Ok(Value::text(strip_domain(text))),
        _ => Err(wrong_arguments(args)),
    }
}

/// Escapes as Go's `url.QueryEscape`.
pub fn escape_query(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('*', "%2A").replace("%7E", "~")
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

fn escape_js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => out.extend(['\\', c]),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

/// Makes the first letter of each word a capital.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    for c in text.chars() {
        match before.is_whitespace() || before.is_ascii_punctuation() && before != '_' && before != '\'' {
            true => out.extend(c.to_uppercase()),
            false => out.push(c),
        }
        before = c;
    }
    out
}

/// Splits as Go's `net.SplitHostPort`.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    if let Some(inner) = text.strip_prefix('[') {
        let (host, tail) = inner.split_once(']')?;
        return Some((host, tail.strip_prefix(':')?));
    }
    let (host, port) = text.rsplit_once(':')?;
    (!host.contains(':')).then_some((host, port))
}

/// Gives the first part of a host's name; addresses stay whole.
fn strip_domain(text: &str) -> String {
    let (host, port) = split_host_port(text).map_or((text, None), |(host, port)| (host, Some(port)));
    if host.parse::<std::net::IpAddr>().is_ok() {
        return text.to_owned();
    }
    let first = host.split('.').next().unwrap_or(host);
    port.map_or_else(|| first.to_owned(), |port| format!("{first}:{port}"))
}

fn path_of(url: &str) -> String {
    url::Url::parse(url).map(|url| url.path().trim_end_matches('/').to_owned()).unwrap_or_default()
}
