//! Reads JSON objects field by field and remembers everything that is wrong, each with its JSON pointer.
//!
//! Invariant: a field that nobody asked for is an error in strict mode, and so is one of another type.
//! Limits: [`ERRORS_MAX`] errors are kept; nesting is bounded by the JSON parser (128).

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value};

use super::problem::{ERRORS_MAX, FieldError, Problem};
use super::time;

/// How bad an error is; the worst one decides the status.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Understood, but refused: 422.
    Refused,
    /// Understood, but its part is not built: 501.
    NotYet,
    /// Not understood: 400.
    Malformed,
}

impl Severity {
    fn status(self) -> StatusCode {
        match self {
            Severity::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            Severity::NotYet => StatusCode::NOT_IMPLEMENTED,
            Severity::Malformed => StatusCode::BAD_REQUEST,
        }
    }
}

/// What is wrong so far.
#[derive(Debug, Default)]
pub struct Issues {
    /// Unknown fields are ignored.
    pub lenient: bool,
    found: Vec<(Severity, FieldError)>,
    more: usize,
}

impl Issues {
    /// Starts without issues.
    pub fn new(strict: bool) -> Issues {
        Issues { lenient: !strict, ..Issues::default() }
    }

    /// Notes an issue.
    pub fn add(&mut self, severity: Severity, pointer: impl Into<String>, reason: &str, detail: impl Into<String>) {
        if self.found.len() >= ERRORS_MAX {
            self.more += 1;
            return;
        }
        let error =
            FieldError { pointer: pointer.into(), reason: reason.to_owned(), detail: detail.into(), example: None };
        self.found.push((severity, error));
    }

    /// Gives an example to the issue noted last.
    pub fn example(&mut self, example: impl Into<String>) {
        if let Some((_, error)) = self.found.last_mut().filter(|_| self.more == 0) {
            error.example = Some(example.into());
        }
    }

    /// Tells whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Gives the problem that the issues make, if any.
    pub fn into_result(self) -> Result<(), Problem> {
        let Some(worst) = self.found.iter().map(|(s, _)| *s).max() else { return Ok(()) };
        let first = self.found.iter().find(|(s, _)| *s == worst);
        let (code, mut detail) = first.map(|(_, e)| (e.reason.clone(), e.detail.clone())).unwrap_or_default();
        let others = self.found.len() + self.more - 1;
        if others > 0 {
            detail.push_str(&format!(" (and {others} more)"));
        }
        let mut problem = Problem::new(worst.status(), &code, detail);
        problem.errors = self.found.into_iter().map(|(_, e)| e).collect();
        Err(problem)
    }
}

/// Appends a step to a JSON pointer.
pub fn join(pointer: &str, step: &str) -> String {
    format!("{pointer}/{}", step.replace('~', "~0").replace('/', "~1"))
}

/// One JSON object under examination.
pub struct Fields<'v, 'i> {
    map: &'v Map<String, Value>,
    pointer: String,
    asked: Vec<&'static str>,
    /// Where what is wrong is noted.
    pub issues: &'i mut Issues,
}

impl<'v, 'i> Fields<'v, 'i> {
    /// Starts on a value; `None`, with an issue, when it is no object.
    pub fn open(value: &'v Value, pointer: impl Into<String>, issues: &'i mut Issues) -> Option<Fields<'v, 'i>> {
        let pointer = pointer.into();
        match value.as_object() {
            Some(map) => Some(Fields { map, pointer, asked: Vec::new(), issues }),
            None => {
                issues.add(
                    Severity::Malformed,
                    pointer,
                    "wrong_type",
                    format!("expected an object, got {}", kind(value)),
                );
                None
            }
        }
    }

    /// Gives the pointer to a field.
    pub fn at(&self, name: &str) -> String {
        join(&self.pointer, name)
    }

    /// Notes an issue with a field.
    pub fn issue(&mut self, severity: Severity, name: &str, reason: &str, detail: impl Into<String>) {
        let pointer = self.at(name);
        self.issues.add(severity, pointer, reason, detail);
    }

    /// Gives a field; absent and `null` are the same.
    pub fn value(&mut self, name: &'static str) -> Option<&'v Value> {
        self.asked.push(name);
        self.map.get(name).filter(|v| !v.is_null())
    }

    fn typed<T>(&mut self, name: &'static str, expected: &str, read: impl Fn(&'v Value) -> Option<T>) -> Option<T> {
        let value = self.value(name)?;
        let found = read(value);
        if found.is_none() {
            self.issue(
                Severity::Malformed,
                name,
                "wrong_type",
                format!("{name}: expected {expected}, got {}", kind(value)),
            );
        }
        found
    }

    /// Reads a string.
    pub fn string(&mut self, name: &'static str) -> Option<&'v str> {
        self.typed(name, "a string", Value::as_str)
    }

    /// Reads a string of at most so many characters.
    pub fn string_max(&mut self, name: &'static str, max: usize) -> Option<&'v str> {
        let text = self.string(name)?;
        let length = text.chars().count();
        if length > max {
            self.issue(
                Severity::Refused,
                name,
                "too_long",
                format!("{name} has {length} characters, {max} are allowed"),
            );
            return None;
        }
        Some(text)
    }

    /// Reads a boolean.
    pub fn boolean(&mut self, name: &'static str) -> Option<bool> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// Reads a whole number that is not negative.
    pub fn whole(&mut self, name: &'static str) -> Option<u64> {
        self.typed(name, "a whole number, not negative", whole)
    }

    /// Reads an array.
    pub fn array(&mut self, name: &'static str) -> Option<&'v Vec<Value>> {
        self.typed(name, "an array", Value::as_array)
    }

    /// Reads one of several words; capitals do not matter.
    pub fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(name)?;
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let detail = format!("{name}: {text:?} is none of {}", known.join(", "));
            self.issue(Severity::Malformed, name, "unknown_value", detail);
        }
        found
    }

    /// Reads `name` as a duration, or `name_ms` as milliseconds.
    pub fn duration_ms(&mut self, name: &'static str, name_ms: &'static str) -> Option<u64> {
        let text = self.string(name);
        let ms = self.whole(name_ms);
        let from_text = text.and_then(|text| match model::parse_duration_ms(text) {
            Ok(ms) => u64::try_from(ms).ok(),
            Err(e) => {
                self.issue(Severity::Malformed, name, "invalid_duration", e.to_string());
                self.issues.example("15s");
                None
            }
        });
        if let (Some(a), Some(b)) = (from_text, ms)
            && a != b
        {
            self.issue(Severity::Refused, name_ms, "conflict", format!("{name} and {name_ms} say different things"));
        }
        from_text.or(ms)
    }

    /// Reads a time: RFC 3339 or Unix seconds.
    pub fn time_ms(&mut self, name: &'static str) -> Option<i64> {
        let value = self.value(name)?;
        let found = time::from_json(value);
        if found.is_none() {
            let detail = format!("{name}: expected RFC 3339 or Unix seconds, got {}", shown(value));
            self.issue(Severity::Malformed, name, "invalid_timestamp", detail);
            self.issues.example("2025-06-21T10:00:00.000Z");
        }
        found
    }

    /// Reads an object whose values are all strings.
    pub fn strings(&mut self, name: &'static str) -> Option<BTreeMap<String, String>> {
        let map = self.typed(name, "an object", Value::as_object)?;
        let mut out = BTreeMap::new();
        for (key, value) in map {
            match value.as_str() {
                Some(text) => drop(out.insert(key.clone(), text.to_owned())),
                None => {
                    let pointer = join(&self.at(name), key);
                    let detail = format!("{key}: expected a string, got {}", kind(value));
                    self.issues.add(Severity::Malformed, pointer, "wrong_type", detail);
                }
            }
        }
        Some(out)
    }

    /// Notes a missing field unless it is there.
    pub fn require<T>(&mut self, name: &'static str, found: Option<T>) -> Option<T> {
        if found.is_none() && self.map.get(name).is_none_or(Value::is_null) {
            self.issue(Severity::Malformed, name, "missing_field", format!("{name} is missing"));
        }
        found
    }

    /// Notes that a field's part is not built, if the field holds anything.
    pub fn not_yet(&mut self, name: &'static str, what: &str) {
        if let Some(value) = self.value(name)
            && !is_empty(value)
        {
            self.issue(Severity::NotYet, name, "not_yet", format!("{what} not built yet"));
        }
    }

    /// Ends the examination: what nobody asked for is unknown.
    pub fn finish(mut self) {
        self.note_unknown();
    }

    /// Notes the fields that nobody asked for until now; the last call on an object.
    pub fn note_unknown(&mut self) {
        if self.issues.lenient {
            return;
        }
        for name in self.map.keys().filter(|n| !self.asked.contains(&n.as_str())) {
            let known = closest(name, &self.asked);
            let pointer = join(&self.pointer, name);
            self.issues.add(Severity::Malformed, pointer, "unknown_field", format!("unknown field {:?}", cut(name)));
            if let Some(known) = known {
                self.issues.example(format!("did you mean {known:?}?"));
            }
        }
    }
}

/// Reads a whole number: `94.0` is one in JSON as `94` is.
pub(super) fn whole(value: &Value) -> Option<u64> {
    let exact = |n: &f64| n.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(n);
    value.as_u64().or_else(|| value.as_f64().filter(exact).map(|n| n as u64))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::String(s) => s.is_empty(),
        Value::Bool(b) => !b,
        Value::Number(_) => false,
    }
}

fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Gives the known name that differs by a letter or two.
fn closest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    if name.len() > 40 {
        return None;
    }
    let distance = |k: &str| edit_distance(name.as_bytes(), k.as_bytes());
    known.iter().copied().map(|k| (distance(k), k)).min().filter(|(d, k)| *d <= 2 && *d < k.len()).map(|(_, k)| k)
}

fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

/// Names the type of a value for people.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{:?}", cut(s)),
        Value::Number(n) => n.to_string(),
        other => kind(other).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pointers(value: &Value, read: impl Fn(&mut Fields)) -> Vec<(String, String)> {
        let mut issues = Issues::new(true);
        if let Some(mut fields) = Fields::open(value, "", &mut issues) {
            read(&mut fields);
            fields.finish();
        }
        let errors = issues.into_result().err().map(|p| p.errors.clone()).unwrap_or_default();
        errors.into_iter().map(|e| (e.pointer, e.reason)).collect()
    }

    fn found(pointer: &str, reason: &str) -> Vec<(String, String)> {
        vec![(pointer.to_owned(), reason.to_owned())]
    }

    #[test]
    fn every_kind_of_mistake_has_its_pointer() {
        assert_eq!(pointers(&json!({"a/b~": 1}), |_| ()), found("/a~1b~0", "unknown_field"));
        assert_eq!(pointers(&json!([]), |_| ()), found("", "wrong_type"));
        assert_eq!(
            pointers(&json!({"a": 1}), |f| {
                let _ = f.string("a");
            }),
            found("/a", "wrong_type")
        );
        assert_eq!(
            pointers(&json!({"a": "xxx"}), |f| {
                let _ = f.string_max("a", 2);
            }),
            found("/a", "too_long")
        );
        assert_eq!(
            pointers(&json!({"a": "x"}), |f| {
                let _ = f.word("a", &[("Y", 1)]);
            }),
            found("/a", "unknown_value")
        );
        assert_eq!(
            pointers(&json!({"a": "y"}), |f| {
                let _ = f.word("a", &[("Y", 1)]);
            }),
            []
        );
        assert_eq!(
            pointers(&json!({"a": -1}), |f| {
                let _ = f.whole("a");
            }),
            found("/a", "wrong_type")
        );
        assert_eq!(
            pointers(&json!({"a": {"k": 1}}), |f| {
                let _ = f.strings("a");
            }),
            found("/a/k", "wrong_type")
        );
        let soon = json!({"a": "soon"});
        assert_eq!(
            pointers(&soon, |f| {
                let _ = f.duration_ms("a", "a_ms");
            }),
            found("/a", "invalid_duration")
        );
        let both = json!({"a": "1s", "a_ms": 2});
        assert_eq!(
            pointers(&both, |f| {
                let _ = f.duration_ms("a", "a_ms");
            }),
            found("/a_ms", "conflict")
        );
        assert_eq!(
            pointers(&json!({"a": null}), |f| {
                let a = f.string("a");
                f.require("a", a);
            }),
            found("/a", "missing_field")
        );
        assert_eq!(
            pointers(&json!({"a": [], "b": ""}), |f| {
                f.not_yet("a", "a is");
                f.not_yet("b", "b is")
            }),
            []
        );
        assert_eq!(pointers(&json!({"a": [1]}), |f| f.not_yet("a", "a is")), found("/a", "not_yet"));
    }

    #[test]
    fn the_worst_decides_the_status() {
        let mut issues = Issues::new(true);
        issues.add(Severity::Refused, "/a", "too_long", "a");
        issues.add(Severity::Malformed, "/b", "wrong_type", "b");
        let problem = issues.into_result().expect_err("two issues");
        assert_eq!((problem.status, problem.code.as_str(), problem.errors.len()), (400, "wrong_type", 2));
    }

    #[test]
    fn a_slip_of_the_finger_gets_a_hint() {
        assert_eq!(closest("sourceid", &["source_id", "labels"]), Some("source_id"));
        assert_eq!(closest("colour", &["source_id", "labels"]), None);
    }

    #[test]
    fn lenient_ignores_unknown_fields_only() {
        let mut issues = Issues::new(false);
        let value = json!({"x": 1, "a": 1});
        let mut fields = Fields::open(&value, "", &mut issues).expect("an object");
        assert_eq!(fields.string("a"), None);
        fields.finish();
        assert_eq!(issues.into_result().expect_err("a is a number").errors.len(), 1);
    }
}
