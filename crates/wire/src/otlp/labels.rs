//! The labels of a data point: attributes, what the resource and the scope add, and the names of its series.
//!
//! Invariants: 1. names are unique and sorted once [`PointLabels::finish`] is done; 2. names are translated once per key.
//! Limits: [`NAMES_MAX`] translated names are remembered.

use std::borrow::Cow;
use std::collections::HashMap;

use model::{LABEL_NAME, LabelsBuf};

use super::names::{LabelStyle, label_name};

const NAMES_MAX: usize = 10_000;

/// A label that the resource or the scope adds.
pub(super) struct Added {
    pub(super) name: String,
    pub(super) value: String,
    /// It replaces an attribute of the same name; else the attribute stays.
    pub(super) replaces: bool,
}

#[derive(Clone)]
struct Pair<'a> {
    key: &'a str,
    /// Place of the translated name.
    name: u32,
    value: Cow<'a, str>,
}

/// Builds label sets, point after point.
pub(super) struct PointLabels<'a> {
    style: LabelStyle,
    names: Vec<Box<str>>,
    known: HashMap<&'a str, u32>,
    pairs: Vec<Pair<'a>>,
    /// Keys of the points before and the places of their names: the next point mostly has the same keys in the same order.
    before: Vec<(&'a str, u32)>,
    /// The finished labels, without a metric name.
    pub(super) base: LabelsBuf,
}

impl<'a> PointLabels<'a> {
    pub(super) fn new(style: LabelStyle) -> PointLabels<'a> {
        PointLabels {
            style,
            names: Vec::new(),
            known: HashMap::new(),
            pairs: Vec::new(),
            before: Vec::new(),
            base: LabelsBuf::default(),
        }
    }

    /// Starts the next point.
    pub(super) fn clear(&mut self) {
        self.pairs.clear();
        self.base.clear();
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
            self.known.clear();
            self.before.clear();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    pub(super) fn push(&mut self, key: &'a str, value: Cow<'a, str>) {
        let name = match self.before.get(self.pairs.len()) {
            Some((same, name)) if *same == key => *name,
            _ => self.find_name(key),
        };
        self.pairs.push(Pair { key, name, value });
    }

    fn find_name(&mut self, key: &'a str) -> u32 {
        let (names, style) = (&mut self.names, self.style);
        let name = *self.known.entry(key).or_insert_with(|| {
            names.push(label_name(style, key).into_boxed_str());
            names.len() as u32 - 1
        });
        match self.before.get_mut(self.pairs.len()) {
            Some(before) => *before = (key, name),
            // Keys come one behind the other, so that the next free place is the right one.
            None => self.before.push((key, name)),
        }
        name
    }

    /// Puts the labels together: attributes whose names fall together are joined by `;` in the order of their keys.
    pub(super) fn finish(&mut self, added: &[&[Added]]) {
        let names = &self.names;
        let name_of = |pair: &Pair<'_>| &*names[pair.name as usize];
        self.pairs.sort_by(|a, b| name_of(a).cmp(name_of(b)).then_with(|| a.key.cmp(b.key)));
        let added = || added.iter().copied().flatten();
        let mut joined = String::new();
        for same in self.pairs.chunk_by(|a, b| names[a.name as usize] == names[b.name as usize]) {
            let name = name_of(&same[0]);
            if name == LABEL_NAME || added().any(|a| a.replaces && a.name == name) {
                continue;
            }
            if let [one] = same {
                self.base.push(name, &one.value);
                continue;
            }
            joined.clear();
            for (at, pair) in same.iter().enumerate() {
                joined.push_str(if at > 0 { ";" } else { "" });
                joined.push_str(&pair.value);
            }
            self.base.push(name, &joined);
        }
        for label in added() {
            if self.base.get(&label.name).is_none() {
                self.base.push(&label.name, &label.value);
            }
        }
        // No name stands twice: what is added is looked for first.
        let _ = self.base.sort();
    }
}

/// Appends the canonical encoding of labels with a metric name and possibly one more label, which replace others.
pub(super) fn encode(base: &LabelsBuf, metric_name: &str, more: Option<(&str, &str)>, out: &mut Vec<u8>) {
    let mut extras = [(LABEL_NAME, metric_name), more.unwrap_or(("", ""))];
    extras.sort_by_key(|extra| extra.0);
    let mut waiting = extras.iter().filter(|extra| !extra.0.is_empty()).peekable();
    for (name, value) in base.iter() {
        while let Some(extra) = waiting.next_if(|extra| extra.0 < name) {
            put_pair(out, extra.0, extra.1);
        }
        if extras.iter().all(|extra| extra.0 != name) {
            put_pair(out, name, value);
        }
    }
    waiting.for_each(|extra| put_pair(out, extra.0, extra.1));
}

fn put_pair(out: &mut Vec<u8>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    for text in [name, value] {
        let mut len = text.len();
        while len >= 0x80 {
            out.push(len as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Labels;

    #[test]
    fn labels_are_joined_replaced_and_sorted() {
        let mut labels = PointLabels::new(crate::otlp::Options::default().label_style());
        for (key, value) in
            [("z", "1"), ("a.b", "second"), ("a_b", "third"), ("a-b", "first"), ("job", "mine"), ("p", "own")]
        {
            labels.push(key, value.into());
        }
        let added = |name: &str, replaces| Added { name: name.into(), value: "added".into(), replaces };
        labels.finish(&[&[added("job", true), added("p", false)], &[added("q", false)]]);
        let mut out = Vec::new();
        encode(&labels.base, "m", Some(("le", "0.5")), &mut out);
        let wanted = r#"m{a_b="first;second;third", job="added", le="0.5", p="own", q="added", z="1"}"#;
        assert_eq!(Labels::from_bytes(&out).map(|l| l.to_string()).as_deref(), Some(wanted));
    }
}
