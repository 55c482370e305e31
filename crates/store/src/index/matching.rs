//! From matchers to series ids.

use std::ops::Bound;
use std::sync::Arc;

use model::{Labels, MatchOp, Matcher};
use regex_syntax::hir::{Hir, HirKind};

use super::postings::{intersect, subtract, union};
use super::{Ids, Index, Values};

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

impl Index {
    /// Finds the series that all matchers accept, sorted. `labels_of` looks up the labels of given sorted ids.
    pub fn matching(&self, matchers: &[Matcher], labels_of: impl Fn(&[u32], &mut dyn FnMut(u32, &Labels))) -> Vec<u32> {
        let (some, absent): (Vec<&Matcher>, Vec<&Matcher>) = matchers.iter().partition(|m| !m.matches_empty());
        let mut planned: Vec<(usize, &Matcher)> = some.into_iter().map(|m| (self.cost(m), m)).collect();
        planned.sort_by_key(|p| p.0);
        let mut found: Option<Vec<u32>> = None;
        for (cost, matcher) in planned {
            found = Some(match found {
                None => self.accepted(matcher),
                Some(ids) if ids.len() < cost => filter(&ids, matcher, &labels_of),
                Some(ids) => intersect(ids, &self.accepted(matcher)),
            });
        }
        let mut ids = found.unwrap_or_else(|| self.all.clone());
        for matcher in absent {
            ids = match self.names.get(matcher.name()) {
                None => ids,
                Some(values) if ids.len() < values.len() => filter(&ids, matcher, &labels_of),
                Some(values) => subtract(ids, &union(rejected(values, matcher))),
            };
        }
        ids
    }

    /// Guesses how much work the postings of a matcher are: ids for `=`, values otherwise.
    fn cost(&self, matcher: &Matcher) -> usize {
        let Some(values) = self.names.get(matcher.name()) else { return 0 };
        match matcher.op() {
            MatchOp::Equal => values.get(matcher.value()).map_or(0, |ids| ids.len()),
            _ => self.all.len().saturating_add(values.len()) / 2 + values.len(),
        }
    }

    /// Gives the series with an accepted value; the matcher does not accept an absent label.
    fn accepted(&self, matcher: &Matcher) -> Vec<u32> {
        let Some(values) = self.names.get(matcher.name()) else { return Vec::new() };
        let get = |value: &str| values.get(value).map(|ids| &ids[..]);
        if matcher.op() == MatchOp::Equal {
            return get(matcher.value()).map(<[u32]>::to_vec).unwrap_or_default();
        }
        if matcher.op() != MatchOp::Regex {
            return union(values.iter().filter(|(v, _)| matcher.matches(v)).map(|(_, ids)| &ids[..]).collect());
        }
        match shape(matcher.value()) {
            Shape::Literals(literals) => union(literals.iter().filter_map(|l| get(l)).collect()),
            Shape::Prefix(prefix) => {
                let inside = starting_with(values, prefix).filter(|(v, _)| matcher.matches(v));
                union(inside.map(|(_, ids)| &ids[..]).collect())
            }
            Shape::Any => union(values.iter().filter(|(v, _)| matcher.matches(v)).map(|(_, ids)| &ids[..]).collect()),
        }
    }
}

/// Gives the postings of values that a matcher does not accept.
fn rejected<'a>(values: &'a Values, matcher: &Matcher) -> Vec<&'a [u32]> {
    let get = |value: &str| values.get(value).map(|ids| &ids[..]);
    match (matcher.op(), matcher.value()) {
        (MatchOp::NotEqual, value) => get(value).into_iter().collect(),
        (MatchOp::Regex, ".*") => Vec::new(),
        (MatchOp::NotRegex, pattern) => match shape(pattern) {
            Shape::Literals(literals) => literals.iter().filter_map(|l| get(l)).collect(),
            Shape::Prefix(prefix) => {
                starting_with(values, prefix).filter(|(v, _)| !matcher.matches(v)).map(|(_, ids)| &ids[..]).collect()
            }
            Shape::Any => values.iter().filter(|(v, _)| !matcher.matches(v)).map(|(_, ids)| &ids[..]).collect(),
        },
        _ => values.iter().filter(|(v, _)| !matcher.matches(v)).map(|(_, ids)| &ids[..]).collect(),
    }
}

fn starting_with(values: &Values, prefix: String) -> impl Iterator<Item = (&Arc<str>, &Ids)> {
    let from = values.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
    from.take_while(move |(v, _)| v.starts_with(&prefix))
}

/// Asks each series itself: cheaper than postings when few are left.
fn filter(ids: &[u32], matcher: &Matcher, labels_of: &impl Fn(&[u32], &mut dyn FnMut(u32, &Labels))) -> Vec<u32> {
    let mut out = Vec::with_capacity(ids.len());
    labels_of(ids, &mut |id, labels| {
        if matcher.matches(labels.get(matcher.name()).unwrap_or("")) {
            out.push(id);
        }
    });
    out
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
    use proptest::prelude::*;

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

    fn labels() -> impl Strategy<Value = Labels> {
        prop::collection::vec(("[abc]", "[xyz]{0,2}"), 0..4).prop_map(Labels::from_pairs)
    }

    fn matcher() -> impl Strategy<Value = Matcher> {
        let op = prop::sample::select(vec![MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]);
        let value = prop::sample::select(vec![
            "", "x", "xy", "x|y", "x.*", ".*", ".+", "(x|y)z?", "z|", "[xy]", "^x$", "(?i)X",
        ]);
        ("[abcd]", op, value).prop_map(|(name, op, value)| Matcher::new(name, op, value).unwrap())
    }

    proptest! {
        #[test]
        fn the_index_finds_what_looking_at_all_finds(
            all in prop::collection::vec(labels(), 0..60), matchers in prop::collection::vec(matcher(), 0..4), removed in 0usize..20,
        ) {
            let mut index = Index::default();
            for (id, labels) in all.iter().enumerate() {
                index.add(id as u32, labels);
            }
            let gone: Vec<(u32, Labels)> = all.iter().enumerate().take(removed).map(|(id, l)| (id as u32, l.clone())).collect();
            index.remove(&gone);
            let got = index.matching(&matchers, |ids, act| ids.iter().for_each(|id| act(*id, &all[*id as usize])));
            let want: Vec<u32> = (gone.len()..all.len()).map(|id| id as u32)
                .filter(|id| matchers.iter().all(|m| m.matches(all[*id as usize].get(m.name()).unwrap_or("")))).collect();
            prop_assert_eq!(got, want);
        }
    }
}
