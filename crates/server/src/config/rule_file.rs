//! Rule files: groups of recording and alerting rules, as Prometheus has them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use rules::{GroupDefinition, Kind, Rule, Text, Texts};

use super::fields::{Fields, Problems};
use super::yaml::{self, Node, Place};

/// What groups inherit from `global`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inherited {
    /// `evaluation_interval`
    pub interval_ms: i64,
    /// `rule_query_offset`
    pub query_offset_ms: i64,
}

/// Reads the groups of a file.
pub fn read(text: &str, file: &Path, inherited: Inherited, problems: &mut Problems) -> Vec<GroupDefinition> {
    let root = match yaml::parse(text) {
        Ok(root) => root,
        Err(e) => {
            problems.error(e.at, e.text);
            return Vec::new();
        }
    };
    let mut fields = Fields::open(&root, "a rule file", problems);
    let mut groups: Vec<GroupDefinition> = Vec::new();
    let mut names = HashSet::new();
    for node in fields.list("groups", problems).unwrap_or_default() {
        let (group, at) = read_group(node, file, inherited, problems);
        if !group.name.is_empty() && !names.insert(group.name.clone()) {
            problems.error(at, format!("groupname: {:?} is repeated in the same file", group.name));
        }
        groups.push(group);
    }
    fields.finish(problems);
    groups
}

fn read_group(node: &Node, file: &Path, inherited: Inherited, problems: &mut Problems) -> (GroupDefinition, Place) {
    let mut fields = Fields::open(node, "a group of rules", problems);
    let name = fields.string("name", problems).unwrap_or_default();
    let at = fields.place_of("name");
    if name.is_empty() {
        problems.error(fields.at(), "Groupname must not be empty");
    } else {
        fields.rename(format!("the group {name:?}"));
    }
    let interval = fields.duration_ms("interval", problems).filter(|ms| *ms > 0);
    let offset = fields.duration_ms("query_offset", problems);
    let limit = fields.uint("limit", problems).unwrap_or(0);
    let shared = fields.string_map("labels", problems).unwrap_or_default();
    check_labels(&shared, fields.place_of("labels"), problems);
    let rules = fields.list("rules", problems).unwrap_or_default();
    let rules = rules.iter().filter_map(|node| read_rule(node, &name, &shared, problems)).collect();
    fields.finish(problems);
    let group = GroupDefinition {
        file: file.display().to_string(),
        name,
        interval_ms: interval.unwrap_or(inherited.interval_ms).max(1),
        query_offset_ms: offset.unwrap_or(inherited.query_offset_ms),
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        rules,
    };
    (group, at)
}

fn read_rule(node: &Arc<Node>, group: &str, shared: &[(String, String)], problems: &mut Problems) -> Option<Rule> {
    let mut fields = Fields::open(node, format!("a rule of the group {group:?}"), problems);
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let record = given(fields.string("record", problems));
    let alert = given(fields.string("alert", problems));
    let text = given(fields.string("expr", problems));
    let expr = match &text {
        Some(text) => promql::parse(text)
            .map_err(|e| problems.error(fields.place_of("expr"), format!("could not parse expression: {e}")))
            .ok(),
        None => {
            problems.error(fields.at(), "field 'expr' must be set in rule");
            None
        }
    };
    let for_ms = fields.duration_ms("for", problems);
    let keep_firing_for_ms = fields.duration_ms("keep_firing_for", problems);
    let own = fields.string_map("labels", problems).unwrap_or_default();
    check_labels(&own, fields.place_of("labels"), problems);
    let annotations = fields.string_map("annotations", problems);
    let mut labels: Vec<(String, String)> =
        shared.iter().filter(|(name, _)| !own.iter().any(|(n, _)| n == name)).cloned().collect();
    labels.extend(own);
    labels.sort();
    let kind = match (record, alert) {
        (None, None) => {
            problems.error(fields.at(), "one of 'record' or 'alert' must be set");
            None
        }
        (Some(_), Some(_)) => {
            problems.error(fields.at(), "only one of 'record' and 'alert' must be set");
            None
        }
        (Some(record), None) => {
            for (key, given) in [
                ("annotations", annotations.as_ref().is_some_and(|a| !a.is_empty())),
                ("for", for_ms.is_some_and(|ms| ms != 0)),
                ("keep_firing_for", keep_firing_for_ms.is_some_and(|ms| ms != 0)),
            ] {
                if given {
                    problems.error(fields.place_of(key), format!("invalid field '{key}' in recording rule"));
                }
            }
            if record.contains(['{', '}']) {
                let text = format!("braces present in the recording rule name; should it be in expr?: {record}");
                problems.error(fields.place_of("record"), text);
            }
            Some(Kind::Record(record))
        }
        (None, Some(name)) => Some(Kind::Alert {
            name,
            for_ms: for_ms.unwrap_or(0),
            keep_firing_for_ms: keep_firing_for_ms.unwrap_or(0),
            annotations: {
                let mut annotations = annotations.unwrap_or_default();
                annotations.sort();
                templates(annotations, fields.place_of("annotations"), problems)
            },
        }),
    };
    let labels = match &kind {
        Some(Kind::Alert { .. }) => templates(labels, fields.place_of("labels"), problems),
        // The labels of a recording rule are taken as they stand.
        _ => labels.into_iter().map(|(name, text)| (name, Text { text, template: None })).collect(),
    };
    fields.finish(problems);
    Some(Rule { kind: kind?, expr: expr?, labels })
}

fn check_labels(labels: &[(String, String)], at: Place, problems: &mut Problems) {
    for (name, _) in labels {
        if name.is_empty() || name == "__name__" {
            problems.error(at, format!("invalid label name: {name}"));
        }
    }
}

fn templates(pairs: Vec<(String, String)>, at: Place, problems: &mut Problems) -> Texts {
    let mut texts = Texts::with_capacity(pairs.len());
    for (name, text) in pairs {
        match Text::read(&text) {
            Ok(text) => texts.push((name, text)),
            Err(e) => problems.error(at, format!("{name}: {e}")),
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(text: &str) -> Result<Vec<GroupDefinition>, Vec<String>> {
        let mut problems = Problems::default();
        let inherited = Inherited { interval_ms: 60_000, query_offset_ms: 0 };
        let groups = read(text, Path::new("r.yml"), inherited, &mut problems);
        match problems.0.is_empty() {
            true => Ok(groups),
            false => Err(problems.0.iter().map(|p| format!("{}: {}", p.at, p.text)).collect()),
        }
    }

    #[test]
    fn groups_are_read_whole() {
        let text = "groups:\n- name: g\n  interval: 30s\n  limit: 5\n  query_offset: 1s\n  labels: {team: a, tier: x}\n  \
                    rules:\n  - record: job:up:sum\n    expr: sum by (job) (up)\n    labels: {team: b}\n  - alert: Down\n    \
                    expr: up == 0\n    for: 5m\n    keep_firing_for: 1m\n    annotations: {summary: '{{ $labels.job }}'}\n";
        let groups = groups(text).unwrap();
        let group = &groups[0];
        assert_eq!((group.interval_ms, group.limit, group.query_offset_ms), (30_000, 5, 1000));
        assert_eq!(group.rules[0].plain_labels().to_string(), "{team=\"b\", tier=\"x\"}");
        let Kind::Alert { for_ms, keep_firing_for_ms, annotations, .. } = &group.rules[1].kind else { panic!() };
        assert_eq!((*for_ms, *keep_firing_for_ms, annotations.len()), (300_000, 60_000, 1));
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        for (text, expected) in [
            (
                "groups:\n- name: a\n  rules:\n  - record: x\n    expr: sum(\n",
                "5:5: could not parse expression: 1:5: parse error: unclosed left parenthesis",
            ),
            ("groups:\n- name: a\n- name: a\n", "3:3: groupname: \"a\" is repeated in the same file"),
            ("groups:\n- rules: []\n", "2:3: Groupname must not be empty"),
            ("groups:\n- name: a\n  rules:\n  - expr: up\n", "4:5: one of 'record' or 'alert' must be set"),
            ("groups:\n- name: a\n  rules:\n  - {record: x, alert: y, expr: up}\n", "only one of 'record' and 'alert'"),
            (
                "groups:\n- name: a\n  rules:\n  - {record: x, expr: up, for: 5m}\n",
                "invalid field 'for' in recording rule",
            ),
            ("groups:\n- name: a\n  rules:\n  - {alert: x}\n", "field 'expr' must be set in rule"),
            (
                "groups:\n- name: a\n  rules:\n  - {alert: x, expr: up, labels: {__name__: x}}\n",
                "invalid label name: __name__",
            ),
            (
                "groups:\n- name: a\n  rules:\n  - alert: x\n    expr: up\n    annotations:\n      s: '{{ nope }}'\n",
                "6:5: s: template line 1: function \"nope\" not defined",
            ),
            ("groups:\n- name: a\n  rulez: []\n", "3:3: unknown key \"rulez\""),
        ] {
            let problems = groups(text).unwrap_err().join("\n");
            assert!(problems.contains(expected), "{text}\n{problems}");
        }
    }
}
