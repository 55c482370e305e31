//! What a template works with, and how it prints.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::exec::OUTPUT_BYTES_MAX;

/// A value of a template.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// No value.
    Nil,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A double.
    Float(f64),
    /// A text.
    Text(Arc<str>),
    /// Values in order.
    List(Arc<Vec<Value>>),
    /// Texts by name: labels. What is absent is the empty text.
    Labels(Arc<BTreeMap<String, String>>),
    /// Values by name: `args`, or a sample with `Labels` and `Value`.
    Struct(Arc<BTreeMap<&'static str, Value>>),
    /// Values by a name that was made, such as `arg0`, and how deep such values lie in one another.
    Map(Arc<BTreeMap<String, Value>>, usize),
    /// Seconds since 1970.
    Time(f64),
    /// Nanoseconds.
    Duration(i64),
}

impl Value {
    /// Makes a text.
    pub fn text(text: impl Into<Arc<str>>) -> Value {
        Value::Text(text.into())
    }

    /// Makes labels.
    pub fn labels<'l>(pairs: impl IntoIterator<Item = (&'l str, &'l str)>) -> Value {
        Value::Labels(Arc::new(pairs.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()))
    }

    /// Makes a sample of a query's answer.
    pub fn sample<'l>(labels: impl IntoIterator<Item = (&'l str, &'l str)>, value: f64) -> Value {
        Value::Struct(Arc::new(BTreeMap::from([("Labels", Value::labels(labels)), ("Value", Value::Float(value))])))
    }

    /// Tells whether it counts as true: not zero, not empty.
    pub fn holds(&self) -> bool {
        match self {
            Value::Nil => false,
            Value::Bool(yes) => *yes,
            Value::Int(n) | Value::Duration(n) => *n != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Labels(pairs) => !pairs.is_empty(),
            Value::Map(entries, _) => !entries.is_empty(),
            Value::Struct(_) | Value::Time(_) => true,
        }
    }

    /// Gives a field.
    ///
    /// **Errors** are sentences.
    pub fn field(&self, name: &str) -> Result<Value, String> {
        match self {
            Value::Labels(pairs) => Ok(Value::text(pairs.get(name).map_or("", String::as_str))),
            Value::Map(entries, _) => Ok(entries.get(name).cloned().unwrap_or(Value::Nil)),
            Value::Struct(fields) => {
                fields.get(name).cloned().ok_or_else(|| format!("can't evaluate field {name} in this value"))
            }
            Value::Nil => Err(format!("nil data; no entry for key {name:?}")),
            other => Err(format!("can't evaluate field {name} in type {}", other.kind())),
        }
    }

    /// Names the type as Go does.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Nil => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::List(_) => "list",
            Value::Labels(_) => "map[string]string",
            Value::Map(..) => "map[string]interface {}",
            Value::Struct(_) => "struct",
            Value::Time(_) => "time.Time",
            Value::Duration(_) => "time.Duration",
        }
    }

    /// Gives a number as the functions take it: texts are read.
    pub fn to_float(&self) -> Result<f64, String> {
        match self {
            Value::Int(n) => Ok(*n as f64),
            Value::Float(value) => Ok(*value),
            Value::Duration(ns) => Ok(*ns as f64 / 1e9),
            Value::Text(text) => {
                text.parse().map_err(|_| format!("strconv.ParseFloat: parsing {text:?}: invalid syntax"))
            }
            other => Err(format!("can't convert {} to float", other.kind())),
        }
    }

    /// Gives a text as functions take it: nothing but texts.
    pub fn as_text(&self) -> Result<&str, String> {
        match self {
            Value::Text(text) => Ok(text),
            other => Err(format!("wrong type for value; expected string; got {}", other.kind())),
        }
    }

    /// Compares two values of one type.
    pub fn compare(&self, other: &Value) -> Result<Ordering, String> {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) | (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
            // A NaN is neither less nor equal; callers ask for one of both.
            (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b).unwrap_or(Ordering::Greater)),
            (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) if a == b => Ok(Ordering::Equal),
            (Value::Bool(_), Value::Bool(_)) => Ok(Ordering::Greater),
            (Value::Nil, Value::Nil) => Ok(Ordering::Equal),
            _ => Err("incompatible types for comparison".to_owned()),
        }
    }

    /// Says how deep made values lie in it.
    pub fn depth(&self) -> usize {
        if let Value::Map(_, depth) = self { *depth } else { 0 }
    }

    /// Writes it as Go's `%v`; stops some way behind [`OUTPUT_BYTES_MAX`], which whoever asked has to see.
    pub fn print(&self, out: &mut String) {
        if out.len() > OUTPUT_BYTES_MAX {
            return;
        }
        match self {
            Value::Nil => out.push_str("<no value>"),
            Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
            Value::Int(n) => drop(write!(out, "{n}")),
            Value::Float(value) => out.push_str(&shortest(*value)),
            Value::Text(text) => out.push_str(text),
            Value::List(items) => print_all(out, "[", items.iter(), "]"),
            Value::Labels(pairs) => {
                let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}:{value}")).collect();
                let _ = write!(out, "map[{}]", pairs.join(" "));
            }
            Value::Map(entries, _) => print_entries(out, entries.iter().map(|(name, value)| (name.as_str(), value))),
            Value::Struct(fields) => print_all(out, "{", fields.values(), "}"),
            Value::Time(seconds) => out.push_str(&super::humanize::time_text(*seconds)),
            Value::Duration(ns) => out.push_str(&duration_text(*ns)),
        }
    }
}

fn print_all<'v>(out: &mut String, open: &str, values: impl Iterator<Item = &'v Value>, close: &str) {
    out.push_str(open);
    for (i, value) in values.enumerate() {
        if i > 0 {
            out.push(' ');
        }
        value.print(out);
    }
    out.push_str(close);
}

fn print_entries<'v>(out: &mut String, entries: impl Iterator<Item = (&'v str, &'v Value)>) {
    out.push_str("map[");
    for (i, (name, value)) in entries.enumerate() {
        if out.len() > OUTPUT_BYTES_MAX {
            return;
        }
        if i > 0 {
            out.push(' ');
        }
        out.push_str(name);
        out.push(':');
        value.print(out);
    }
    out.push(']');
}

/// Writes a double as Go's `%v`: the shortest digits, with an exponent below 1e-4 and from 1e6 on.
pub fn shortest(value: f64) -> String {
    match special(value) {
        Some(text) => text.to_owned(),
        None => general(value, &format!("{value:e}"), SHORTEST_EXPONENT),
    }
}

/// From this exponent on Go's `%v` writes `e`.
const SHORTEST_EXPONENT: i32 = 6;

/// Writes a double as Go's `%.<digits>g`.
pub fn significant(value: f64, digits: usize) -> String {
    let digits = digits.max(1);
    match special(value) {
        Some(text) => text.to_owned(),
        None => general(value, &format!("{value:.*e}", digits - 1), i32::try_from(digits).unwrap_or(i32::MAX)),
    }
}

/// Gives Go's words for what is no number.
pub fn special(value: f64) -> Option<&'static str> {
    match value {
        _ if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("+Inf"),
        f64::NEG_INFINITY => Some("-Inf"),
        _ => None,
    }
}

/// Turns Rust's `1.50e3` into what Go writes for `%g`.
fn general(value: f64, scientific: &str, exponent_from: i32) -> String {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let mantissa = match mantissa.contains('.') {
        true => mantissa.trim_end_matches('0').trim_end_matches('.'),
        false => mantissa,
    };
    if exponent < -4 || exponent >= exponent_from {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let decimals = mantissa.split_once('.').map_or(0, |(_, decimals)| decimals.len()) as i32 - exponent;
    let rounded: f64 = scientific.parse().unwrap_or(value);
    format!("{rounded:.*}", usize::try_from(decimals).unwrap_or(0))
}

/// Writes a duration as Go does: `1h2m3.5s`.
fn duration_text(ns: i64) -> String {
    let magnitude = ns.unsigned_abs();
    let sign = if ns < 0 { "-" } else { "" };
    let decimal = |whole: u64, part: u64, width: usize| {
        let part = format!("{part:0width$}");
        match part.trim_end_matches('0') {
            "" => whole.to_string(),
            part => format!("{whole}.{part}"),
        }
    };
    match magnitude {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{magnitude}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(magnitude / 1_000, magnitude % 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(magnitude / 1_000_000, magnitude % 1_000_000, 6)),
        _ => {
            let whole = magnitude / 1_000_000_000;
            let seconds = decimal(whole % 60, magnitude % 1_000_000_000, 9);
            match (whole / 3600, whole / 60 % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_in_go() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (100_000.0, "100000"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e6, "1e+06"),
            (123_456_789.0, "1.23456789e+08"),
            (99.999, "99.999"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(shortest(value), text);
        }
        for (value, text) in [
            (1234.5678, "1235"),
            (12345.0, "1.234e+04"),
            (0.1, "0.1"),
            (1.0, "1"),
            (99.999, "100"),
            (0.00012345, "0.0001234"),
        ] {
            assert_eq!(significant(value, 4), text, "{value}");
        }
    }

    #[test]
    fn durations_print_as_in_go() {
        for (ns, text) in [
            (0, "0s"),
            (1_500, "1.5µs"),
            (1_100_000, "1.1ms"),
            (90_000_000_000, "1m30s"),
            (-3_600_000_000_000, "-1h0m0s"),
            (2_500_000_000, "2.5s"),
        ] {
            assert_eq!(duration_text(ns), text);
        }
    }
}
