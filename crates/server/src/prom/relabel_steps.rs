//! `targets/relabel_steps`: what each rule of a scrape pool makes of a label set.
//!
//! Limits: those of a parameter's length, and [`LABELS_MAX`] labels.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use model::relabel::{self, Rule};
use model::{Labels, LabelsBuf};

use super::api::PromApi;
use super::error::ApiError;
use super::json;
use super::params::Params;
use super::query::success;
use super::status::{object, quoted};

/// More labels than any mechanism gives a target.
const LABELS_MAX: usize = 1_000;

/// `/api/v1/targets/relabel_steps`
pub async fn relabel_steps(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    let pool = params.get("scrapePool");
    if pool.is_empty() {
        return Err(ApiError::bad_data("no scrapePool parameter provided"));
    }
    let text = params.get("labels");
    if text.is_empty() {
        return Err(ApiError::bad_data("no labels parameter provided"));
    }
    let labels: BTreeMap<String, String> =
        serde_json::from_str(text).map_err(|e| ApiError::bad_data(format!("error parsing labels: {e}")))?;
    if labels.len() > LABELS_MAX {
        return Err(ApiError::bad_data(format!("error parsing labels: more than {LABELS_MAX}")));
    }
    let rules = (api.relabel_rules)(pool)
        .ok_or_else(|| ApiError::bad_data(format!("error retrieving scrape config: scrape pool {pool:?} not found")))?;
    // Expressions of the configuration over what came in: for a thread that may be busy.
    let steps = api.queries.look_up(move |_| Ok(steps(&rules, &Labels::from_pairs(labels.iter()))));
    let steps = steps.await?;
    Ok(success(|out| {
        out.extend_from_slice(b"{\"steps\":");
        json::list(out, steps, |out, step| out.extend_from_slice(step.as_bytes()));
        out.push(b'}');
    }))
}

/// Applies the first rule, the first two, and so on; what is dropped has no labels from there on.
fn steps(rules: &[Rule], labels: &Labels) -> Vec<String> {
    let mut now = LabelsBuf::from_labels(labels);
    let mut keep = true;
    let mut steps = Vec::with_capacity(rules.len());
    for rule in rules {
        keep = keep && relabel::apply(std::slice::from_ref(rule), &mut now);
        let output = if keep { now.to_labels() } else { Labels::empty() };
        let mut text = Vec::new();
        json::labels(&mut text, &output);
        let members = [
            ("rule", shown(rule)),
            ("output", String::from_utf8(text).unwrap_or_default()),
            ("keep", keep.to_string()),
        ];
        let mut step = Vec::new();
        object(&mut step, &members);
        steps.push(String::from_utf8(step).unwrap_or_default());
    }
    steps
}

/// Writes a rule in the words of the configuration; what is empty is left out.
fn shown(rule: &Rule) -> String {
    let mut members = Vec::new();
    if !rule.source_labels.is_empty() {
        let names: Vec<String> = rule.source_labels.iter().map(|name| quoted(name)).collect();
        members.push(("source_labels", format!("[{}]", names.join(","))));
    }
    let texts = [("separator", rule.separator.as_str()), ("regex", rule.regex.as_str())];
    members.extend(texts.iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (*name, quoted(text))));
    if rule.modulus > 0 {
        members.push(("modulus", rule.modulus.to_string()));
    }
    let texts = [
        ("target_label", rule.target_label.as_str()),
        ("replacement", rule.replacement.as_str()),
        ("action", rule.action.as_str()),
    ];
    members.extend(texts.iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (*name, quoted(text))));
    let mut out = Vec::new();
    object(&mut out, &members);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use model::relabel::{Action, Pattern};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_rule_works_on_what_the_one_before_left() {
        let rules = [
            Rule {
                source_labels: vec!["a".to_owned()],
                target_label: "b".to_owned(),
                replacement: "$1!".to_owned(),
                ..Rule::default()
            },
            Rule {
                source_labels: vec!["b".to_owned()],
                regex: Pattern::new("x!").unwrap(),
                action: Action::Drop,
                ..Rule::default()
            },
            Rule { regex: Pattern::new("a").unwrap(), action: Action::LabelDrop, ..Rule::default() },
        ];
        let of = |value: &str| -> Vec<Value> {
            let labels = Labels::from_pairs([("a", value)]);
            steps(&rules, &labels).iter().map(|step| serde_json::from_str(step).unwrap()).collect()
        };
        let kept = of("y");
        assert_eq!(kept[0]["output"], json!({"a": "y", "b": "y!"}));
        assert_eq!(kept[0]["rule"]["source_labels"], json!(["a"]));
        assert_eq!((&kept[1]["keep"], &kept[1]["rule"]["action"]), (&json!(true), &json!("drop")));
        assert_eq!((&kept[2]["output"], &kept[2]["keep"]), (&json!({"b": "y!"}), &json!(true)));
        let dropped = of("x");
        assert_eq!((&dropped[1]["output"], &dropped[1]["keep"]), (&json!({}), &json!(false)));
        assert_eq!((&dropped[2]["output"], &dropped[2]["keep"]), (&json!({}), &json!(false)));
    }
}
