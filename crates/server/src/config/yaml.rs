//! A YAML text as a tree in which every key and value knows its line and column.
//!
//! Owns: nesting, anchors, merge keys, duplicate keys. Not here: what a key means.
//! Limits: nesting 64, one million nodes after aliases are followed.
//! Fails how: the first fault of syntax ends it, with its place.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle};

const DEPTH_MAX: usize = 64;
const WEIGHT_MAX: u64 = 1_000_000;

/// A place in the text; both count from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One value of the text.
#[derive(Debug)]
pub struct Node {
    /// Where it starts.
    pub at: Place,
    /// What it is.
    pub kind: Kind,
    weight: u64,
}

/// What a value is.
#[derive(Debug)]
pub enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// Text as it was written, escapes resolved.
    Scalar(String),
    /// A list.
    List(Vec<Arc<Node>>),
    /// A mapping, in order of the text.
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where the key stands.
    pub at: Place,
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Arc<Node>,
}

/// A text that is not YAML, or more than we take.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{at}: {text}")]
pub struct SyntaxError {
    /// Where.
    pub at: Place,
    /// What is wrong.
    pub text: String,
}

impl Node {
    /// Tells whether anything but nulls, empty lists and empty mappings is inside.
    pub fn holds_something(&self) -> bool {
        match &self.kind {
            Kind::Null => false,
            Kind::Scalar(_) => true,
            Kind::List(items) => items.iter().any(|n| n.holds_something()),
            Kind::Map(entries) => entries.iter().any(|e| e.value.holds_something()),
        }
    }

    /// Names the kind for an error.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Scalar(_) => "a plain value",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

/// Reads one document; an empty text is null.
pub fn parse(text: &str) -> Result<Arc<Node>, SyntaxError> {
    let mut builder = Builder::default();
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|e| SyntaxError {
            at: Place { line: e.marker().line().max(1), column: e.marker().col() + 1 },
            text: e.info(),
        })?;
        builder.take(event, Place { line: span.start.line().max(1), column: span.start.col() + 1 })?;
    }
    Ok(builder.root.unwrap_or_else(|| Arc::new(Node { at: Place { line: 1, column: 1 }, kind: Kind::Null, weight: 1 })))
}

/// A collection that is not finished yet.
struct Open {
    at: Place,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Arc<Node>>),
    Map { entries: Vec<Entry>, key: Option<(Place, String)>, merged: Vec<Entry> },
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    anchors: HashMap<usize, Arc<Node>>,
    root: Option<Arc<Node>>,
    documents: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: Place) -> Result<(), SyntaxError> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(fail(at, "a configuration is one YAML document; a second one starts here"));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = tag.is_some_and(|t| t.suffix() == "str");
                let null = style == ScalarStyle::Plain
                    && !tagged
                    && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL");
                let kind = if null { Kind::Null } else { Kind::Scalar(text.into_owned()) };
                self.place(Arc::new(Node { at, kind, weight: 1 }), anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.open(Open { at, anchor, kind: OpenKind::List(Vec::new()) }),
            Event::MappingStart(_, anchor, _) => {
                let kind = OpenKind::Map { entries: Vec::new(), key: None, merged: Vec::new() };
                self.open(Open { at, anchor, kind })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(at),
            Event::Alias(id) => match self.anchors.get(&id).cloned() {
                Some(node) => self.place(node, 0),
                None => Err(fail(at, "this alias refers to a value that contains it")),
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Result<(), SyntaxError> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(fail(open.at, "nested deeper than 64 levels"));
        }
        self.stack.push(open);
        Ok(())
    }

    fn close(&mut self, at: Place) -> Result<(), SyntaxError> {
        let Some(open) = self.stack.pop() else { return Err(fail(at, "a collection ends that never began")) };
        let kind = match open.kind {
            OpenKind::List(items) => Kind::List(items),
            OpenKind::Map { mut entries, merged, .. } => {
                for entry in merged {
                    if !entries.iter().any(|e| e.key == entry.key) {
                        entries.push(entry);
                    }
                }
                Kind::Map(entries)
            }
        };
        let weight = 1 + match &kind {
            Kind::List(items) => items.iter().map(|n| n.weight).sum::<u64>(),
            Kind::Map(entries) => entries.iter().map(|e| e.value.weight).sum::<u64>(),
            _ => 0,
        };
        if weight > WEIGHT_MAX {
            return Err(fail(open.at, "more than a million values once aliases are followed"));
        }
        self.place(Arc::new(Node { at: open.at, kind, weight }), open.anchor)
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, node: Arc<Node>, anchor: usize) -> Result<(), SyntaxError> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.kind {
            OpenKind::List(items) => items.push(node),
            OpenKind::Map { entries, key, merged } => match key.take() {
                None => *key = Some((node.at, key_text(&node)?)),
                Some((at, name)) if name == "<<" => merge(at, &node, merged)?,
                Some((at, name)) => {
                    if entries.iter().any(|e| e.key == name) {
                        return Err(fail(at, &format!("key {name:?} already set in map")));
                    }
                    entries.push(Entry { at, key: name, value: node });
                }
            },
        }
        Ok(())
    }
}

fn key_text(node: &Node) -> Result<String, SyntaxError> {
    match &node.kind {
        Kind::Scalar(text) => Ok(text.clone()),
        Kind::Null => Ok(String::new()),
        _ => Err(fail(node.at, "a key must be a plain value")),
    }
}

/// Takes the entries of a mapping, or of a list of mappings, for `<<`.
fn merge(at: Place, node: &Arc<Node>, merged: &mut Vec<Entry>) -> Result<(), SyntaxError> {
    match &node.kind {
        Kind::Map(entries) => merged.extend(entries.iter().cloned()),
        Kind::List(items) => {
            for item in items {
                let Kind::Map(entries) = &item.kind else { return Err(fail(at, "<< needs a mapping")) };
                merged.extend(entries.iter().cloned());
            }
        }
        _ => return Err(fail(at, "<< needs a mapping")),
    }
    if merged.len() as u64 > WEIGHT_MAX {
        return Err(fail(at, "more than a million values once aliases are followed"));
    }
    Ok(())
}

fn fail(at: Place, text: &str) -> SyntaxError {
    SyntaxError { at, text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Entry {
        let Kind::Map(entries) = &node.kind else { panic!("not a map: {node:?}") };
        entries.iter().find(|e| e.key == key).unwrap_or_else(|| panic!("no {key} in {node:?}"))
    }

    #[test]
    fn keys_and_values_know_their_places_and_keep_their_spelling() {
        let root = parse("a: 1.10\nb:\n  - x\n  - {c: '01', d: }\n").unwrap();
        assert!(matches!(&entry(&root, "a").value.kind, Kind::Scalar(t) if t == "1.10"));
        assert_eq!(entry(&root, "b").at, Place { line: 2, column: 1 });
        let Kind::List(items) = &entry(&root, "b").value.kind else { panic!() };
        assert_eq!(entry(&items[1], "c").at, Place { line: 4, column: 6 });
        assert!(matches!(entry(&items[1], "d").value.kind, Kind::Null));
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let root = parse("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nagain: *b\n").unwrap();
        let used = &entry(&root, "use").value;
        assert!(matches!(&entry(used, "y").value.kind, Kind::Scalar(t) if t == "3"));
        assert!(matches!(&entry(used, "x").value.kind, Kind::Scalar(t) if t == "1"));
        assert!(matches!(&entry(&root, "again").value.kind, Kind::Map(e) if e.len() == 2));
    }

    #[test]
    fn faults_have_a_place() {
        assert_eq!(parse("a: 1\nb: 2\na: 3\n").unwrap_err().to_string(), "3:1: key \"a\" already set in map");
        assert_eq!(parse("a: [1, 2\nb: 3\n").unwrap_err().at.line, 2);
        assert!(parse("---\na: 1\n---\nb: 1\n").unwrap_err().text.contains("one YAML document"));
        assert!(parse(&"[".repeat(100)).is_err());
        assert!(matches!(parse("").unwrap().kind, Kind::Null));
        assert!(matches!(parse("# only a comment\n").unwrap().kind, Kind::Null));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..9 {
            let of = format!("*a{}", i - 1);
            text.push_str(&format!("a{i}: &a{i} [{}]\n", vec![of; 10].join(",")));
        }
        assert!(parse(&text).unwrap_err().text.contains("million"));
    }
}
