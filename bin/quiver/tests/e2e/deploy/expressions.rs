//! The expressions of alerts and dashboard: they parse, and what they name is on the page `/metrics`.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use model::{MatchOp, Matcher};
use promql::ast::{Expr, ExprKind};
use serde_json::Value;
use server::config::yaml::{self, Kind, Node};

use super::{file, quiver, run, text_of};

/// What stands for Grafana's variables.
const VARIABLES: [(&str, &str); 3] = [("$__rate_interval", "5m"), ("$__range", "1h"), ("$instance", ".*")];
/// Labels that a scrape adds.
const OF_THE_SCRAPE: [&str; 2] = ["job", "instance"];

#[test]
fn the_alerts_are_right_for_us_and_for_prometheus() {
    for words in [["check-rules", "prometheus/quiver-alerts.yml"], ["test-rules", "prometheus/quiver-alerts-test.yml"]]
    {
        run(quiver().arg(words[0]).arg(file(words[1])));
        let (first, second) = words[0].split_once('-').expect("two words");
        run(Command::new("/usr/bin/promtool").args([first, second]).arg(file(words[1])));
    }
}

/// Gives all expressions, by where they stand.
pub fn all() -> BTreeMap<String, Expr> {
    let mut texts = BTreeMap::new();
    let root = yaml::parse(&text_of("prometheus/quiver-alerts.yml")).expect("it is YAML");
    in_yaml(&root, "", &mut texts);
    let dashboard: Value = serde_json::from_str(&text_of("grafana/quiver.json")).expect("it is JSON");
    in_json(&dashboard, "", &mut texts);
    assert!(texts.len() >= 80, "all of them were found: {}", texts.len());
    let parsed = |(place, text): (String, String)| {
        let text = VARIABLES.iter().fold(text, |text, (name, value)| text.replace(name, value));
        let expr = promql::parse(&text).unwrap_or_else(|e| panic!("{place}: {text}: {e}"));
        (place, expr)
    };
    texts.into_iter().map(parsed).collect()
}

fn in_yaml(node: &Arc<Node>, place: &str, out: &mut BTreeMap<String, String>) {
    match &node.kind {
        Kind::Map(entries) => {
            let name = entries.iter().find(|e| e.key == "alert" || e.key == "name");
            let name = name.map_or(String::new(), |e| match &e.value.kind {
                Kind::Scalar(text) => text.clone(),
                _ => String::new(),
            });
            for entry in entries {
                match &entry.value.kind {
                    Kind::Scalar(text) if entry.key == "expr" => {
                        drop(out.insert(format!("{place}/{name}"), text.clone()))
                    }
                    _ => in_yaml(&entry.value, &format!("{place}/{name}"), out),
                }
            }
        }
        Kind::List(nodes) => nodes.iter().for_each(|node| in_yaml(node, place, out)),
        Kind::Scalar(_) | Kind::Null => {}
    }
}

fn in_json(value: &Value, place: &str, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) => {
            let title = members.get("title").and_then(Value::as_str).unwrap_or_default();
            for (key, value) in members {
                match value.as_str() {
                    Some(text) if key == "expr" => drop(out.insert(format!("{place} {}", out.len()), text.to_owned())),
                    _ => in_json(value, &format!("{place}{title}"), out),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| in_json(value, place, out)),
        _ => {}
    }
}

/// Looks every selector up on a page of metrics: its name, the labels it names and the values that it wants.
pub fn look_up(page: &str) {
    let known: Vec<(&str, Vec<(&str, &str)>)> =
        page.lines().filter(|line| !line.starts_with('#')).filter_map(series).collect();
    for (place, expr) in all() {
        let mut selectors = Vec::new();
        matchers(&expr, &mut selectors);
        assert!(!selectors.is_empty(), "{place} asks for nothing");
        for selector in selectors {
            let name = selector.iter().find(|m| m.name() == "__name__").map(Matcher::value).expect("a name");
            // `up` is made by whoever scrapes.
            let named: Vec<_> = known.iter().filter(|(known, _)| *known == name).collect();
            let is_announced = page.contains(&format!("# TYPE {name} "));
            assert!(!named.is_empty() || is_announced || name == "up", "{place}: there is no {name}");
            if named.is_empty() {
                // A family whose series come with what they count.
                continue;
            }
            for matcher in selector.iter().filter(|m| m.name() != "__name__" && !OF_THE_SCRAPE.contains(&m.name())) {
                let value = |labels: &[(&str, &str)]| {
                    labels.iter().find(|(label, _)| *label == matcher.name()).map(|(_, value)| (*value).to_owned())
                };
                let values: Vec<String> = named.iter().filter_map(|(_, labels)| value(labels)).collect();
                assert!(!values.is_empty(), "{place}: {name} has no label {}", matcher.name());
                let positive = matches!(matcher.op(), MatchOp::Equal | MatchOp::Regex);
                let found =
                    !positive || name.starts_with("quiver_http_requests") || values.iter().any(|v| matcher.matches(v));
                assert!(
                    found,
                    "{place}: {name}: no value of {} is {}, but {values:?}",
                    matcher.name(),
                    matcher.value()
                );
            }
        }
    }
}

/// Reads `name{label="value",...} number`; the values of our page that matter here have no quotes or commas.
fn series(line: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let Some(rest) = rest.strip_prefix('{') else { return Some((name, Vec::new())) };
    let labels = rest.split_once('}').map_or("", |(labels, _)| labels);
    Some((
        name,
        labels
            .split("\",")
            .filter_map(|pair| pair.split_once("=\""))
            .map(|(n, v)| (n, v.trim_end_matches('"')))
            .collect(),
    ))
}

fn matchers(expr: &Expr, out: &mut Vec<Vec<Matcher>>) {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::Duration(_) | ExprKind::String(_) => {}
        ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => out.push(selector.matchers.clone()),
        ExprKind::Subquery { expr, .. } | ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => matchers(expr, out),
        ExprKind::Aggregate(aggregate) => matchers(&aggregate.expr, out),
        ExprKind::Call { args, .. } => args.iter().for_each(|arg| matchers(arg, out)),
        ExprKind::Binary(binary) => {
            matchers(&binary.lhs, out);
            matchers(&binary.rhs, out);
        }
    }
}
