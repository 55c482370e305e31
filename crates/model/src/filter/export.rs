//! Filters as relabel rules, for those who take them elsewhere.
//!
//! A relabel rule knows no "only if": each filter first computes into a label of its own whether it applies, and acts on that.

use super::{Action, Filter, FilterSet, TypeSet};
use crate::matcher::{MatchOp, Matcher};
use crate::relabel::{self, Pattern, Rule};

/// The labels that the rules work with; the last rule removes them.
const SCRATCH: &str = "__tmp_quiver_";
/// "1" when the filter at hand applies.
const APPLIES: &str = "__tmp_quiver_applies";
/// "1" when a KEEP has accepted the series.
const KEPT: &str = "__tmp_quiver_kept";
const HASH: &str = "__tmp_quiver_hash";

/// Relabel rules that do what filters do.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Export {
    /// The rules, in order.
    pub rules: Vec<Rule>,
    /// What could not be said with rules, with the place of the filter.
    pub missing: Vec<(usize, String)>,
}

/// Writes filters as relabel rules.
///
/// **Promises** where nothing is missing, the rules keep, drop and change every series as the filters do. Where a KEEP is missing,
/// they drop nothing that it might keep: what comes after it and drops is missing as well.
pub fn to_rules(set: &FilterSet) -> Export {
    let mut out = Export::default();
    let mut lacks_keep = false;
    for (at, filter) in set.filters().iter().enumerate() {
        if lacks_keep && filter.action == Action::Drop {
            out.missing.push((at, "a KEEP before it is missing, and might keep what it drops".to_owned()));
        } else if filter.types != TypeSet::ALL {
            lacks_keep |= filter.action == Action::Keep;
            out.missing.push((at, "relabel rules do not know types: the filter is left out".to_owned()));
        } else if filter.action == Action::AggregateAway {
            let labels = filter.labels.join(", ");
            let text = format!("relabel rules cannot add up: use a recording rule with sum without ({labels})");
            out.missing.push((at, text));
        } else if filter.action == Action::Relabel && !filter.matchers.is_empty() {
            let text = "a relabel rule cannot have a condition of ours: the filter is left out".to_owned();
            out.missing.push((at, text));
        } else if filter.rules.iter().any(touches_scratch) && filter.action == Action::Relabel {
            let text =
                "its regex takes labels that begin with __tmp_, which the rules here need: the filter is left out";
            out.missing.push((at, text.to_owned()));
        } else {
            applies(filter, &mut out.rules);
            act(filter, &mut out.rules);
        }
    }
    if lacks_keep {
        // Otherwise what only the missing one accepts would be dropped.
        let at = set.filters().iter().position(|f| f.action == Action::Keep).unwrap_or_default();
        out.missing.push((at, "as one KEEP is missing, what no KEEP accepts is not dropped".to_owned()));
    } else if set.has_keep {
        out.rules.push(rule(relabel::Action::Keep, &[KEPT], "1"));
    }
    if !out.rules.is_empty() {
        out.rules.push(rule(relabel::Action::LabelDrop, &[], &format!("{SCRATCH}.*")));
    }
    out
}

/// Tells whether a rule takes or copies the labels that the rules work with.
fn touches_scratch(rule: &Rule) -> bool {
    let held = format!("{SCRATCH}holds_0");
    matches!(rule.action, relabel::Action::LabelDrop | relabel::Action::LabelMap)
        && [APPLIES, KEPT, HASH, &held].iter().any(|name| rule.regex.matches(name))
}

/// Gives a rule that leaves the labels alone that the rules work with.
fn sparing_scratch(rule: &Rule) -> Rule {
    match rule.action {
        relabel::Action::LabelKeep => {
            let regex = Pattern::new(&format!("(?:{})|{SCRATCH}.*", rule.regex.as_str()));
            Rule { regex: regex.unwrap_or_else(|_| rule.regex.clone()), ..rule.clone() }
        }
        _ => rule.clone(),
    }
}

/// A rule whose regex is made here or was compiled before.
fn rule(action: relabel::Action, sources: &[&str], regex: &str) -> Rule {
    Rule {
        action,
        source_labels: sources.iter().map(|s| (*s).to_owned()).collect(),
        regex: Pattern::new(regex).unwrap_or_default(),
        ..Rule::default()
    }
}

fn write(sources: &[&str], regex: &str, target: &str, replacement: &str) -> Rule {
    Rule {
        target_label: target.to_owned(),
        replacement: replacement.to_owned(),
        ..rule(relabel::Action::Replace, sources, regex)
    }
}

/// Writes "1" into a label if all matchers hold.
fn applies(filter: &Filter, out: &mut Vec<Rule>) {
    out.push(write(&[], ".*", APPLIES, "1"));
    for (at, matcher) in filter.matchers.iter().enumerate() {
        let regex = match matcher.op() {
            MatchOp::Equal | MatchOp::NotEqual => regex::escape(matcher.value()),
            MatchOp::Regex | MatchOp::NotRegex => matcher.value().to_owned(),
        };
        let both = format!("1;(?:{regex})");
        if negative(matcher) {
            out.push(write(&[APPLIES, matcher.name()], &both, APPLIES, ""));
        } else {
            // What holds is noted apart, and only that is taken over: a rule cannot say "unless".
            let holds = format!("{SCRATCH}holds_{at}");
            out.push(write(&[], ".*", &holds, ""));
            out.push(write(&[APPLIES, matcher.name()], &both, &holds, "1"));
            out.push(write(&[&holds], "(.*)", APPLIES, "$1"));
        }
    }
}

fn negative(matcher: &Matcher) -> bool {
    matches!(matcher.op(), MatchOp::NotEqual | MatchOp::NotRegex)
}

fn act(filter: &Filter, out: &mut Vec<Rule>) {
    match filter.action {
        Action::Keep => out.push(write(&[APPLIES], "1", KEPT, "1")),
        Action::Drop => out.push(rule(relabel::Action::Drop, &[APPLIES, KEPT], "1;")),
        Action::DropLabel | Action::AggregateAway => {
            out.extend(filter.labels.iter().map(|label| write(&[APPLIES], "1", label, "")));
        }
        Action::RenameLabel => {
            if let Some(from) = filter.labels.first() {
                out.push(write(&[APPLIES, from], "1;(.+)", &filter.to, "$1"));
                out.push(write(&[APPLIES], "1", from, ""));
            }
        }
        Action::HashLabel => {
            for label in &filter.labels {
                let hashed = rule(relabel::Action::HashMod, &[label], "(.*)");
                out.push(Rule { target_label: HASH.to_owned(), modulus: filter.modulus.max(1), ..hashed });
                out.push(write(&[APPLIES, HASH, label], "1;([0-9]+);.+", label, "$1"));
            }
        }
        Action::Relabel => out.extend(filter.rules.iter().map(sparing_scratch)),
    }
}
