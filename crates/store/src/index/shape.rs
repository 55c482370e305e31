//! What an expression says of the values it accepts before it runs.

use regex_syntax::hir::{Hir, HirKind};

/// More alternatives than this are cheaper to match than to look up one by one.
const LITERALS_MAX: usize = 4096;

/// What can be known of an expression without running it.
#[derive(Clone, PartialEq, Debug)]
pub enum Shape {
    /// Accepts exactly these values.
    Literals(Vec<String>),
    /// Accepts only values that begin so.
    Prefix(String),
    Any,
}

/// Finds out what can be known of a pattern.
pub fn shape(pattern: &str) -> Shape {
    let Ok(hir) = regex_syntax::parse(&format!("(?s:{pattern})")) else { return Shape::Any };
    if let Some(literals) = literals(&hir) {
        return Shape::Literals(literals);
    }
    match prefix(&hir) {
        Some(prefix) if !prefix.is_empty() => Shape::Prefix(prefix),
        _ => Shape::Any,
    }
}

/// Gives all texts an expression accepts, when they are few.
fn literals(hir: &Hir) -> Option<Vec<String>> {
    match hir.kind() {
        HirKind::Empty => Some(vec![String::new()]),
        HirKind::Literal(literal) => Some(vec![String::from_utf8(literal.0.to_vec()).ok()?]),
        HirKind::Capture(capture) => literals(&capture.sub),
        HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
            let count: usize = class.ranges().iter().map(|r| r.end() as usize - r.start() as usize + 1).sum();
            let chars = || class.ranges().iter().flat_map(|r| r.start()..=r.end());
            (count <= 16).then(|| chars().map(String::from).collect())
        }
        HirKind::Alternation(branches) => {
            let mut out = Vec::new();
            for branch in branches {
                out.extend(literals(branch)?);
                if out.len() > LITERALS_MAX {
                    return None;
                }
            }
            Some(out)
        }
        HirKind::Concat(parts) => {
            let mut out = vec![String::new()];
            for part in parts {
                let tails = literals(part)?;
                if out.len() * tails.len() > LITERALS_MAX {
                    return None;
                }
                out = out.iter().flat_map(|head| tails.iter().map(move |tail| format!("{head}{tail}"))).collect();
            }
            Some(out)
        }
        _ => None,
    }
}

/// Gives a text that everything accepted begins with.
fn prefix(hir: &Hir) -> Option<String> {
    match hir.kind() {
        HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).ok(),
        HirKind::Capture(capture) => prefix(&capture.sub),
        HirKind::Concat(parts) => {
            let mut out = String::new();
            for part in parts {
                match part.kind() {
                    HirKind::Literal(literal) => out.push_str(std::str::from_utf8(&literal.0).ok()?),
                    _ => break,
                }
            }
            Some(out)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn shapes_are_seen() {
        assert_eq!(shape("a|b|cd"), Shape::Literals(texts(&["a", "b", "cd"])));
        assert_eq!(shape("(foo|bar)baz"), Shape::Literals(texts(&["foobaz", "barbaz"])));
        assert_eq!(shape("node_.*"), Shape::Prefix("node_".into()));
        assert_eq!(shape(".+"), Shape::Any);
        assert_eq!(shape("(?i)abc"), Shape::Literals(texts(&["ABC", "ABc", "AbC", "Abc", "aBC", "aBc", "abC", "abc"])));
        assert_eq!(shape("^a"), Shape::Any);
    }
}
