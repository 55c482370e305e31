//! From matchers to series ids.
//!
//! Invariants: 1. no expression runs while the index is held, nor while a page of the head is: values and labels are taken
//! out in pieces and looked at outside, so that a slow expression keeps nobody from adding series; 2. ids are never given
//! to another series, so that what was found in one piece still holds in the next.

use std::ops::{Bound, Deref};
use std::sync::Arc;

use model::{Labels, MatchOp, Matcher};

use super::postings::{intersect, subtract, union};
use super::shape::{Shape, shape};
use super::{Ids, Index};

/// Values or series looked at in one go; few in tests, so that there are several pieces.
const PIECE: usize = if cfg!(test) { 2 } else { 1024 };

/// Finds the series that all matchers accept, sorted.
///
/// **Takes** how to hold the index for a moment, and how to look up the labels of given sorted ids.
pub fn matching<I: Deref<Target = Index>>(
    open: impl Fn() -> I,
    matchers: &[Matcher],
    labels_of: impl Fn(&[u32], &mut dyn FnMut(u32, &Labels)),
) -> Vec<u32> {
    let (some, absent): (Vec<&Matcher>, Vec<&Matcher>) = matchers.iter().partition(|m| !m.matches_empty());
    let index = open();
    let mut planned: Vec<(usize, &Matcher)> = some.into_iter().map(|m| (index.cost(m), m)).collect();
    drop(index);
    planned.sort_by_key(|p| p.0);
    let mut found: Option<Vec<u32>> = None;
    for (cost, matcher) in planned {
        found = Some(match found {
            None => chosen(&open, matcher, true),
            Some(ids) if ids.len() < cost => filter(&ids, matcher, &labels_of),
            Some(ids) => intersect(ids, &chosen(&open, matcher, true)),
        });
    }
    let mut ids = found.unwrap_or_else(|| open().all.clone());
    for matcher in absent {
        let values = open().names.get(matcher.name()).map_or(0, |values| values.len());
        ids = match values {
            0 => ids,
            values if ids.len() < values => filter(&ids, matcher, &labels_of),
            _ => subtract(ids, &chosen(&open, matcher, false)),
        };
    }
    ids
}

/// Gives the series that have the label with a value that the matcher accepts, or with one that it does not.
fn chosen<I: Deref<Target = Index>>(open: impl Fn() -> I, matcher: &Matcher, accepted: bool) -> Vec<u32> {
    let (name, value) = (matcher.name(), matcher.value());
    // An expression that says yes or no to a value, and how the answer is meant.
    let said = match matcher.op() {
        MatchOp::Equal => (accepted).then(|| Shape::Literals(vec![value.to_owned()])),
        MatchOp::NotEqual => (!accepted).then(|| Shape::Literals(vec![value.to_owned()])),
        MatchOp::Regex if value == ".*" && !accepted => return Vec::new(),
        MatchOp::Regex => accepted.then(|| shape(value)),
        MatchOp::NotRegex => (!accepted).then(|| shape(value)),
    };
    match said {
        Some(Shape::Literals(literals)) => open().of_values(name, &literals),
        Some(Shape::Prefix(prefix)) => looked_at(open, name, &prefix, |v| matcher.matches(v) == accepted),
        _ => looked_at(open, name, "", |v| matcher.matches(v) == accepted),
    }
}

/// Gives the series with values that begin so and are wanted.
fn looked_at<I: Deref<Target = Index>>(
    open: impl Fn() -> I,
    name: &str,
    prefix: &str,
    wanted: impl Fn(&str) -> bool,
) -> Vec<u32> {
    let (mut pieces, mut after): (Vec<Vec<u32>>, Option<Arc<str>>) = (Vec::new(), None);
    loop {
        let mut values = open().values_after(name, prefix, after.as_deref());
        let Some(last) = values.last().cloned() else { break };
        values.retain(|value| wanted(value));
        if !values.is_empty() {
            pieces.push(open().of_run(name, &values));
        }
        after = Some(last);
    }
    union(pieces.iter().map(Vec::as_slice).collect())
}

impl Index {
    /// Guesses how much work the postings of a matcher are: ids for `=`, values otherwise.
    fn cost(&self, matcher: &Matcher) -> usize {
        let Some(values) = self.names.get(matcher.name()) else { return 0 };
        match matcher.op() {
            MatchOp::Equal => values.get(matcher.value()).map_or(0, |ids| ids.len()),
            _ => self.all.len().saturating_add(values.len()) / 2 + values.len(),
        }
    }

    /// Gives the series that have a label with one of these values.
    fn of_values(&self, name: &str, wanted: &[String]) -> Vec<u32> {
        let Some(values) = self.names.get(name) else { return Vec::new() };
        union(wanted.iter().filter_map(|value| values.get(value.as_str())).map(|ids| &ids[..]).collect())
    }

    /// Gives the next values of a label, at most a piece of them.
    fn values_after(&self, name: &str, prefix: &str, after: Option<&str>) -> Vec<Arc<str>> {
        let Some(values) = self.names.get(name) else { return Vec::new() };
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let run = values.range::<str, _>((from, Bound::Unbounded)).take_while(|(value, _)| value.starts_with(prefix));
        run.take(PIECE).map(|(value, _)| value.clone()).collect()
    }

    /// Gives the series that have a label with one of these values, which are in order and near to each other.
    fn of_run(&self, name: &str, wanted: &[Arc<str>]) -> Vec<u32> {
        let (Some(values), [first, .., last]) = (self.names.get(name), wanted) else {
            return self
                .names
                .get(name)
                .zip(wanted.first())
                .map_or_else(Vec::new, |(values, one)| ids_of(values.get(&**one)));
        };
        let mut rest = wanted.iter().peekable();
        let run = values.range::<str, _>((Bound::Included(&**first), Bound::Included(&**last)));
        let mut lists = Vec::with_capacity(wanted.len());
        for (value, ids) in run {
            // What is gone since was before the one at hand.
            while rest.next_if(|next| ***next < **value).is_some() {}
            if rest.next_if(|next| Arc::ptr_eq(next, value) || ***next == **value).is_some() {
                lists.push(&ids[..]);
            }
        }
        union(lists)
    }
}

fn ids_of(ids: Option<&Ids>) -> Vec<u32> {
    ids.map_or_else(Vec::new, |ids| ids.to_vec())
}

/// Asks each series itself: cheaper than postings when few are left.
fn filter(ids: &[u32], matcher: &Matcher, labels_of: &impl Fn(&[u32], &mut dyn FnMut(u32, &Labels))) -> Vec<u32> {
    let mut out = Vec::with_capacity(ids.len());
    let mut piece = Vec::with_capacity(ids.len().min(PIECE));
    for some in ids.chunks(PIECE) {
        labels_of(some, &mut |id, labels| piece.push((id, labels.clone())));
        let accepted =
            |(id, labels): (u32, Labels)| matcher.matches(labels.get(matcher.name()).unwrap_or("")).then_some(id);
        out.extend(piece.drain(..).filter_map(accepted));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nobody_holds_the_index_while_values_are_looked_at() {
        let index = parking_lot::RwLock::new(Index::default());
        (0..5).for_each(|id| index.write().add(id, &Labels::from_pairs([("n", format!("v{id}"))])));
        let mut looked = std::collections::BTreeSet::new();
        let seen = std::cell::RefCell::new(&mut looked);
        let ids = looked_at(
            || index.read(),
            "n",
            "v",
            |value| {
                seen.borrow_mut().insert(value.to_owned());
                // Series come and go meanwhile.
                let mut index = index.try_write().expect("it is held");
                index.add(9, &Labels::from_pairs([("n", "v0")]));
                index.remove(&[(3, Labels::from_pairs([("n", "v3")]))]);
                value != "v2"
            },
        );
        assert_eq!(ids, [0, 1, 4, 9]);
        assert_eq!(looked.len(), 4, "v3 was gone before its turn");
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
            let got = matching(|| &index, &matchers, |ids, act| ids.iter().for_each(|id| act(*id, &all[*id as usize])));
            let want: Vec<u32> = (gone.len()..all.len()).map(|id| id as u32)
                .filter(|id| matchers.iter().all(|m| m.matches(all[*id as usize].get(m.name()).unwrap_or("")))).collect();
            prop_assert_eq!(got, want);
        }
    }
}
