//! `relabel_configs` and `metric_relabel_configs`.

use std::sync::Arc;

use model::relabel::{Action, Pattern, Rule};

use super::fields::{Fields, Problems};
use super::yaml::{Kind, Node};

/// Reads the rules of one list.
pub fn read(nodes: &[Arc<Node>], what: &str, problems: &mut Problems) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        if matches!(node.kind, Kind::Null) {
            problems.error(node.at, format!("empty or null relabeling rule in {what}"));
            continue;
        }
        let before = problems.0.len();
        let rule = read_rule(node, format!("{what}[{i}]"), problems);
        if problems.0.len() > before {
            continue;
        }
        match rule.validate() {
            Ok(()) => rules.push(rule),
            Err(e) => problems.error(node.at, e.to_string()),
        }
    }
    rules
}

fn read_rule(node: &Node, what: String, problems: &mut Problems) -> Rule {
    let mut fields = Fields::open(node, what, problems);
    let mut rule = Rule::default();
    if let Some(names) = fields.strings("source_labels", problems) {
        if let Some(bad) = names.iter().find(|n| n.is_empty()) {
            problems.error(fields.place_of("source_labels"), format!("{bad:?} is not a valid label name"));
        }
        rule.source_labels = names;
    }
    if let Some(text) = fields.string("separator", problems) {
        rule.separator = text;
    }
    if let Some(pattern) = fields.parsed("regex", problems, |t| Pattern::new(t).map_err(|e| e.to_string())) {
        rule.regex = pattern;
    }
    if let Some(n) = fields.uint("modulus", problems) {
        rule.modulus = n;
    }
    if let Some(text) = fields.string("target_label", problems) {
        rule.target_label = text;
    }
    if let Some(text) = fields.string("replacement", problems) {
        rule.replacement = text;
    }
    if let Some(action) = fields.parsed("action", problems, |t| Action::parse(t).map_err(|e| e.to_string())) {
        rule.action = action;
    }
    fields.finish(problems);
    rule
}
