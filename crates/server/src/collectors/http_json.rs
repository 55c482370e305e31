//! A page of JSON, read by pointers.
//!
//! `items` leads to the values that become samples: a JSON pointer in which a step `*` stands for every element of a list or
//! every member of an object. `value` and the labels are pointers from there.
//! Limits: [`SAMPLES_MAX`] samples of one page.

use collect::{Gather, Gathering};
use model::MetricType;
use serde_json::Value;
use wire::Format;

use super::text::quoted;

const SAMPLES_MAX: usize = 1_000_000;

/// Where a label's value comes from.
#[derive(Clone, PartialEq, Debug)]
pub enum Pick {
    /// A pointer from the item.
    At(String),
    /// The key or number that the n-th `*` of `items` stands for, counted from 1.
    Star(usize),
    /// Always the same.
    Fixed(String),
}

impl Pick {
    /// Reads `/pointer`, `*1` or any other text.
    pub fn parse(text: &str) -> Pick {
        match text.strip_prefix('*').and_then(|n| n.parse().ok()) {
            Some(n @ 1..) => Pick::Star(n),
            _ if text.starts_with('/') => Pick::At(text.to_owned()),
            _ => Pick::Fixed(text.strip_prefix('=').unwrap_or(text).to_owned()),
        }
    }
}

/// How one metric is found in a page.
#[derive(Clone, PartialEq, Debug)]
pub struct Mapping {
    /// Its name.
    pub name: String,
    /// Its type.
    pub metric_type: MetricType,
    /// Its help.
    pub help: String,
    /// Leads to its items; empty is the whole page.
    pub items: String,
    /// Leads from an item to its value; empty is the item itself.
    pub value: String,
    /// Label names, and where their values come from.
    pub labels: Vec<(String, Pick)>,
}

/// What is found in a page.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpJson {
    /// In order.
    pub metrics: Vec<Mapping>,
}

impl Gather for HttpJson {
    fn gather(&self) -> Option<Gathering<'_>> {
        None
    }

    fn read(&self, body: Vec<u8>, _: i64) -> Result<(Format, Vec<u8>), String> {
        let page: Value = serde_json::from_slice(&body).map_err(|e| format!("not JSON: {e}"))?;
        let (mut out, mut samples) = (String::new(), 0);
        for metric in &self.metrics {
            metric.write(&page, &mut out, &mut samples)?;
        }
        Ok((Format::Text, out.into_bytes()))
    }
}

impl Mapping {
    fn write(&self, page: &Value, out: &mut String, samples: &mut usize) -> Result<(), String> {
        let mut found = Vec::new();
        let steps: Vec<String> = steps(&self.items);
        walk(page, &steps, &mut Vec::new(), &mut found)?;
        if !self.help.is_empty() {
            out.push_str(&format!("# HELP {} {}\n", self.name, self.help.replace('\\', "\\\\").replace('\n', "\\n")));
        }
        let word = match self.metric_type {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            _ => "untyped",
        };
        out.push_str(&format!("# TYPE {} {word}\n", self.name));
        for (item, stars) in found {
            // What has no value now is not there, as with any exporter.
            let Some(value) = item.pointer(&self.value).filter(|v| !v.is_null()) else { continue };
            let value = number(value).ok_or_else(|| {
                let shown: String = value.to_string().chars().take(60).collect();
                format!("{}: {shown} at {:?} is no number", self.name, self.value)
            })?;
            *samples += 1;
            if *samples > SAMPLES_MAX {
                return Err(format!("the page holds more than {SAMPLES_MAX} values"));
            }
            out.push_str(&self.name);
            self.write_labels(item, &stars, out);
            out.push_str(&format!(" {value}\n"));
        }
        Ok(())
    }

    fn write_labels(&self, item: &Value, stars: &[String], out: &mut String) {
        let value = |pick: &Pick| match pick {
            Pick::Fixed(text) => Some(text.clone()),
            Pick::Star(n) => stars.get(n - 1).cloned(),
            Pick::At(pointer) => match item.pointer(pointer)? {
                Value::String(text) => Some(text.clone()),
                Value::Null => None,
                other => Some(other.to_string()),
            },
        };
        let labels = self.labels.iter().filter_map(|(name, pick)| Some(format!("{name}={}", quoted(&value(pick)?))));
        let labels: Vec<String> = labels.collect();
        if !labels.is_empty() {
            out.push_str(&format!("{{{}}}", labels.join(",")));
        }
    }
}

/// Reads the steps of a pointer.
fn steps(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect()
}

/// Finds what steps lead to, with what the stars stood for.
fn walk<'v>(
    value: &'v Value,
    steps: &[String],
    stars: &mut Vec<String>,
    found: &mut Vec<(&'v Value, Vec<String>)>,
) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        if found.len() >= SAMPLES_MAX {
            return Err(format!("the page holds more than {SAMPLES_MAX} items"));
        }
        found.push((value, stars.clone()));
        return Ok(());
    };
    let mut go_on = |key: String, next: &'v Value| {
        stars.push(key);
        let done = walk(next, rest, stars, found);
        stars.pop();
        done
    };
    match (value, step.as_str()) {
        (Value::Array(list), "*") => list.iter().enumerate().try_for_each(|(n, next)| go_on(n.to_string(), next)),
        (Value::Object(map), "*") => map.iter().try_for_each(|(key, next)| go_on(key.clone(), next)),
        (Value::Array(list), step) => match step.parse::<usize>().ok().and_then(|n| list.get(n)) {
            Some(next) => walk(next, rest, stars, found),
            None => Ok(()),
        },
        (Value::Object(map), step) => map.get(step).map_or(Ok(()), |next| walk(next, rest, stars, found)),
        _ => Ok(()),
    }
}

/// Reads a number as JSON has it, or as a text, or a truth value.
fn number(value: &Value) -> Option<String> {
    match value {
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(yes) => Some(u8::from(*yes).to_string()),
        Value::String(text) => text.trim().parse::<f64>().ok().map(|n| match n {
            _ if n.is_nan() => "NaN".to_owned(),
            f64::INFINITY => "+Inf".to_owned(),
            f64::NEG_INFINITY => "-Inf".to_owned(),
            _ => n.to_string(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mapping: Mapping, page: &str) -> Result<String, String> {
        let body = HttpJson { metrics: vec![mapping] }.read(page.as_bytes().to_vec(), 0)?;
        Ok(String::from_utf8(body.1).unwrap())
    }

    fn mapping(items: &str, value: &str, labels: &[(&str, &str)]) -> Mapping {
        Mapping {
            name: "m".into(),
            metric_type: MetricType::Gauge,
            help: String::new(),
            items: items.into(),
            value: value.into(),
            labels: labels.iter().map(|(n, v)| ((*n).to_owned(), Pick::parse(v))).collect(),
        }
    }

    #[test]
    fn items_values_and_labels_are_found() {
        let page =
            r#"{"queues": {"a": {"size": 3, "up": true, "tag": "x\"y"}, "b": {"size": "4.5"}, "c": {"size": null}}}"#;
        let found = read(mapping("/queues/*", "/size", &[("queue", "*1"), ("tag", "/tag"), ("kind", "=/fixed")]), page);
        assert_eq!(
            found.unwrap(),
            "# TYPE m gauge\nm{queue=\"a\",tag=\"x\\\"y\",kind=\"/fixed\"} 3\nm{queue=\"b\",kind=\"/fixed\"} 4.5\n"
        );
        assert_eq!(read(mapping("/queues/a", "/up", &[]), page).unwrap(), "# TYPE m gauge\nm 1\n");
        assert_eq!(read(mapping("", "/none", &[]), page).unwrap(), "# TYPE m gauge\n");
        assert_eq!(
            read(mapping("/*/1", "", &[("n", "*1")]), "[[1,2],[3,4]]").unwrap(),
            "# TYPE m gauge\nm{n=\"0\"} 2\nm{n=\"1\"} 4\n"
        );
        assert!(read(mapping("/queues", "", &[]), page).is_err_and(|e| e.contains("is no number")));
        assert!(read(mapping("", "", &[]), "nonsense").is_err_and(|e| e.contains("not JSON")));
    }
}
