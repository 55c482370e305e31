//! `filters` of a registration: from JSON to a compiled list, and back.
//!
//! Invariant: [`Filters::normal`] reads back as the same filters; that is the form in the catalog.
//! Limits: [`FILTERS_MAX`] filters, [`LABELS_MAX`] labels and [`RULES_MAX`] relabel rules each.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::filter::{Action, Filter, FilterSet, Function, MODULUS_DEFAULT, TypeSet};
use model::relabel::{self, Pattern, Rule};
use model::{Matcher, MetricType};
use serde_json::{Map, Value, json};

use super::fields::{Fields, Issues, Severity, join};

/// Each is asked for every new series.
const FILTERS_MAX: usize = 100;
const LABELS_MAX: usize = 32;
const RULES_MAX: usize = 100;
const SELECTOR_CHARS_MAX: usize = 4096;
const NAME_CHARS_MAX: usize = 200;
const NOTE_CHARS_MAX: usize = 500;

/// Types as the specification and the exposition formats name them; CUSTOM is whatever has no word in the specification.
const TYPES: [(&str, &[MetricType]); 9] = [
    ("COUNTER", &[MetricType::Counter]),
    ("GAUGE", &[MetricType::Gauge]),
    ("HISTOGRAM", &[MetricType::Histogram]),
    ("SUMMARY", &[MetricType::Summary]),
    ("CUSTOM", &[MetricType::Unknown, MetricType::Info, MetricType::StateSet, MetricType::GaugeHistogram]),
    ("UNKNOWN", &[MetricType::Unknown]),
    ("INFO", &[MetricType::Info]),
    ("STATESET", &[MetricType::StateSet]),
    ("GAUGEHISTOGRAM", &[MetricType::GaugeHistogram]),
];

/// The filters of a target, as they were given and compiled.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    normal: Vec<Value>,
    set: Arc<FilterSet>,
}

impl PartialEq for Filters {
    fn eq(&self, other: &Filters) -> bool {
        self.normal == other.normal
    }
}

impl Filters {
    /// Reads the field `filters` of a request.
    ///
    /// **Takes** the labels that name the target: what it is told apart by cannot be aggregated away.
    pub fn read(f: &mut Fields, own: &BTreeMap<String, String>) -> Filters {
        let pointer = f.at("filters");
        match f.array("filters") {
            Some(list) => Filters::of(list, &pointer, own, f.issues),
            None => Filters::default(),
        }
    }

    /// Reads a list of filters.
    pub fn of(list: &[Value], pointer: &str, own: &BTreeMap<String, String>, issues: &mut Issues) -> Filters {
        if list.len() > FILTERS_MAX {
            let detail = format!("{} filters, {FILTERS_MAX} are allowed", list.len());
            issues.add(Severity::Refused, pointer, "too_many", detail);
            return Filters::default();
        }
        let (mut normal, mut filters) = (Vec::new(), Vec::new());
        for (number, value) in list.iter().enumerate() {
            if let Some((filter, form)) = read_one(value, join(pointer, &number.to_string()), own, issues) {
                filters.push(filter);
                normal.push(form);
            }
        }
        Filters { normal, set: Arc::new(FilterSet::new(filters)) }
    }

    /// Gives the normal form.
    pub fn normal(&self) -> Value {
        Value::Array(self.normal.clone())
    }

    /// Gives the compiled filters.
    pub fn set(&self) -> Arc<FilterSet> {
        self.set.clone()
    }
}

fn read_one(
    value: &Value,
    pointer: String,
    own: &BTreeMap<String, String>,
    issues: &mut Issues,
) -> Option<(Filter, Value)> {
    let mut f = Fields::open(value, pointer, issues)?;
    let relabel = f.value("relabel");
    let word = f.word("action", &Action::WORDS);
    let action = match (relabel, word) {
        (Some(_), None) => Action::Relabel,
        (None, _) => f.require("action", word)?,
        (Some(_), Some(_)) => {
            f.issue(Severity::Refused, "relabel", "conflict", "a filter has an action or relabel rules, not both");
            return None;
        }
    };
    let mut form = Map::new();
    let mut filter = Filter::new(action);
    if action != Action::Relabel {
        form.insert("action".to_owned(), Value::from(action.as_str()));
    }
    read_condition(&mut f, &mut filter, &mut form);
    read_labels(&mut f, &mut filter, &mut form, own);
    read_options(&mut f, &mut filter, &mut form);
    if let Some(note) = f.string_max("note", NOTE_CHARS_MAX) {
        filter.note = note.to_owned();
        form.insert("note".to_owned(), Value::from(note));
    }
    let at = f.at("relabel");
    f.note_unknown();
    if let Some(value) = relabel {
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        if list.is_empty() || list.len() > RULES_MAX {
            f.issue(Severity::Refused, "relabel", "out_of_range", format!("relabel: 1 to {RULES_MAX} rules"));
        }
        let (rules, forms): (Vec<Rule>, Vec<Value>) =
            list.iter().take(RULES_MAX).filter_map(|rule| read_rule(rule, &at, f.issues)).unzip();
        filter.rules = rules;
        form.insert("relabel".to_owned(), Value::Array(forms));
    }
    Some((filter, Value::Object(form)))
}

/// Reads `match` and `types`.
fn read_condition(f: &mut Fields, filter: &mut Filter, form: &mut Map<String, Value>) {
    if let Some(text) = f.string_max("match", SELECTOR_CHARS_MAX).filter(|t| !matches!(t.trim(), "" | "{}")) {
        match promql::parse_selector(text) {
            Ok(matchers) => filter.matchers = matchers,
            Err(e) => {
                f.issue(Severity::Refused, "match", "invalid_selector", e.to_string());
                f.issues.example("{__name__=~\"http_.*\",code=~\"5..\"}");
            }
        }
        form.insert("match".to_owned(), Value::from(text));
    }
    let (pointer, mut types, mut words) = (f.at("types"), Vec::new(), Vec::new());
    for (number, value) in f.array("types").into_iter().flatten().enumerate() {
        let known = value.as_str().and_then(|t| TYPES.iter().find(|(word, _)| word.eq_ignore_ascii_case(t)));
        match known {
            Some((word, of)) => {
                types.extend_from_slice(of);
                words.push(*word);
            }
            None => {
                let all: Vec<&str> = TYPES.iter().map(|(word, _)| *word).collect();
                let detail = format!("a type is one of {}", all.join(", "));
                f.issues.add(Severity::Malformed, join(&pointer, &number.to_string()), "unknown_value", detail);
            }
        }
    }
    filter.types = TypeSet::of(&types);
    if !words.is_empty() {
        form.insert("types".to_owned(), json!(words));
    }
}

fn read_labels(f: &mut Fields, filter: &mut Filter, form: &mut Map<String, Value>, own: &BTreeMap<String, String>) {
    let takes_labels = !matches!(filter.action, Action::Keep | Action::Drop | Action::Relabel);
    let pointer = f.at("labels");
    let list = f.array("labels");
    if !takes_labels {
        if list.is_some_and(|l| !l.is_empty()) {
            let detail = format!("labels do not go with {}; name series with match", filter.action.as_str());
            f.issue(Severity::Refused, "labels", "not_applicable", detail);
        }
        return;
    }
    let list = f.require("labels", list).map(Vec::as_slice).unwrap_or_default();
    let most = if filter.action == Action::RenameLabel { 1 } else { LABELS_MAX };
    if list.is_empty() || list.len() > most {
        let detail = format!("{} takes 1 to {most} labels", filter.action.as_str());
        f.issue(Severity::Refused, "labels", "out_of_range", detail);
    }
    for (number, value) in list.iter().take(LABELS_MAX).enumerate() {
        let at = join(&pointer, &number.to_string());
        match value.as_str() {
            None => f.issues.add(Severity::Malformed, at, "wrong_type", "a label is a string"),
            Some(name) if !is_label(name) => {
                f.issues.add(Severity::Refused, at, "invalid_label_name", format!("{name:?} is no label of a series"));
            }
            Some(name)
                if filter.action == Action::AggregateAway
                    && (matches!(name, "job" | "instance") || own.contains_key(name)) =>
            {
                let detail = format!(
                    "{name} tells the target from others, and samples of several targets are not added up here; use a \
                     recording rule with sum without ({name})"
                );
                f.issues.add(Severity::Refused, at, "names_the_target", detail);
            }
            Some(name) => filter.labels.push(name.to_owned()),
        }
    }
    form.insert("labels".to_owned(), json!(filter.labels));
}

fn is_label(name: &str) -> bool {
    !name.is_empty() && !name.starts_with("__") && name.chars().count() <= NAME_CHARS_MAX
}

/// Reads `to`, `modulus` and `function`, each where it means something.
fn read_options(f: &mut Fields, filter: &mut Filter, form: &mut Map<String, Value>) {
    let not_for = |f: &mut Fields, name: &'static str, action: Action| {
        let detail = format!("{name} does not go with {}", action.as_str());
        f.issue(Severity::Refused, name, "not_applicable", detail);
    };
    let to = f.string_max("to", NAME_CHARS_MAX);
    match (filter.action, to) {
        (Action::RenameLabel, to) => match f.require("to", to) {
            Some(to) if !is_label(to) || filter.labels.first().is_some_and(|l| l == to) => {
                f.issue(Severity::Refused, "to", "invalid_label_name", format!("{to:?} is no new name of a label"));
            }
            Some(to) => {
                filter.to = to.to_owned();
                form.insert("to".to_owned(), Value::from(to));
            }
            None => {}
        },
        (action, Some(_)) => not_for(f, "to", action),
        _ => {}
    }
    let modulus = f.whole("modulus");
    match (filter.action, modulus) {
        (Action::HashLabel, Some(0)) => f.issue(Severity::Refused, "modulus", "out_of_range", "modulus is at least 1"),
        (Action::HashLabel, given) => {
            filter.modulus = given.unwrap_or(MODULUS_DEFAULT);
            if let Some(modulus) = given {
                form.insert("modulus".to_owned(), Value::from(modulus));
            }
        }
        (action, Some(_)) => not_for(f, "modulus", action),
        _ => {}
    }
    let function = f.word("function", &Function::WORDS);
    match (filter.action, function) {
        (Action::AggregateAway, function) => {
            filter.function = function.unwrap_or_default();
            form.insert("function".to_owned(), Value::from(filter.function.as_str()));
        }
        (action, Some(_)) => not_for(f, "function", action),
        _ => {}
    }
}

/// Reads one rule with the names and defaults of Prometheus.
fn read_rule(value: &Value, pointer: &str, issues: &mut Issues) -> Option<(Rule, Value)> {
    let mut f = Fields::open(value, pointer, issues)?;
    let mut rule = Rule::default();
    for name in f.array("source_labels").into_iter().flatten() {
        match name.as_str() {
            Some(name) => rule.source_labels.push(name.to_owned()),
            None => f.issue(Severity::Malformed, "source_labels", "wrong_type", "source_labels: expected strings"),
        }
    }
    if let Some(text) = f.string("separator") {
        rule.separator = text.to_owned();
    }
    if let Some(text) = f.string_max("regex", SELECTOR_CHARS_MAX) {
        match Pattern::new(text) {
            Ok(regex) => rule.regex = regex,
            Err(e) => f.issue(Severity::Refused, "regex", "invalid_regex", e.to_string()),
        }
    }
    rule.modulus = f.whole("modulus").unwrap_or(0);
    if let Some(text) = f.string("target_label") {
        rule.target_label = text.to_owned();
    }
    if let Some(text) = f.string("replacement") {
        rule.replacement = text.to_owned();
    }
    if let Some(text) = f.string("action") {
        match relabel::Action::parse(text) {
            Ok(action) => rule.action = action,
            Err(e) => f.issue(Severity::Malformed, "action", "unknown_value", e.to_string()),
        }
    }
    if let Err(e) = rule.validate() {
        f.issue(Severity::Refused, "action", "invalid_rule", e.to_string());
    }
    f.finish();
    let form = rule_to_value(&rule);
    Some((rule, form))
}

/// Writes filters in the form in which they are given, where that is not known any more.
pub fn to_value(set: &FilterSet) -> Value {
    set.filters().iter().map(filter_to_value).collect()
}

fn filter_to_value(filter: &Filter) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
    let action = filter.action;
    if action != Action::Relabel {
        put("action", json!(action.as_str()));
    }
    if !filter.matchers.is_empty() {
        let one = |m: &Matcher| format!("{}{}{}", quoted_name(m.name()), m.op().as_str(), json!(m.value()));
        put("match", json!(format!("{{{}}}", filter.matchers.iter().map(one).collect::<Vec<_>>().join(","))));
    }
    if filter.types != TypeSet::ALL {
        // Those that stand for one type; what CUSTOM stands for is named.
        let words = TYPES.iter().filter(|(_, of)| matches!(of, [one] if filter.types.has(*one)));
        put("types", words.map(|(word, _)| *word).collect());
    }
    match action {
        Action::Keep | Action::Drop => {}
        Action::Relabel => put("relabel", filter.rules.iter().map(rule_to_value).collect()),
        Action::DropLabel | Action::RenameLabel | Action::HashLabel | Action::AggregateAway => {
            put("labels", json!(filter.labels));
        }
    }
    match action {
        Action::RenameLabel => put("to", json!(filter.to)),
        Action::HashLabel if filter.modulus != MODULUS_DEFAULT => put("modulus", json!(filter.modulus)),
        Action::AggregateAway => put("function", json!(filter.function.as_str())),
        _ => {}
    }
    if !filter.note.is_empty() {
        put("note", json!(filter.note));
    }
    Value::Object(out)
}

fn quoted_name(name: &str) -> String {
    if model::is_legacy_label_name(name) { name.to_owned() } else { json!(name).to_string() }
}

/// Writes a rule with the names of Prometheus; what has its default is left out.
pub fn rule_to_value(rule: &Rule) -> Value {
    let default = Rule::default();
    let mut out = Map::new();
    let mut put = |name: &str, value: Value, is_default: bool| {
        if !is_default {
            out.insert(name.to_owned(), value);
        }
    };
    put("source_labels", json!(rule.source_labels), rule.source_labels.is_empty());
    put("separator", json!(rule.separator), rule.separator == default.separator);
    put("regex", json!(rule.regex.as_str()), rule.regex == default.regex);
    put("modulus", json!(rule.modulus), rule.modulus == default.modulus);
    put("target_label", json!(rule.target_label), rule.target_label == default.target_label);
    put("replacement", json!(rule.replacement), rule.replacement == default.replacement);
    put("action", json!(rule.action.as_str()), rule.action == default.action);
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: Value) -> (Filters, Vec<String>) {
        let mut issues = Issues::new(true);
        let own = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let filters = Filters::of(list.as_array().unwrap(), "/filters", &own, &mut issues);
        let errors = issues.into_result().err().map(|p| p.errors.clone()).unwrap_or_default();
        (filters, errors.into_iter().map(|e| format!("{} {}", e.pointer, e.reason)).collect())
    }

    #[test]
    fn the_normal_form_reads_back_as_itself() {
        let (filters, errors) = read(json!([
            {"action": "keep", "match": "{__name__=~\"http_.*\"}", "types": ["counter", "CUSTOM"], "note": "why"},
            {"action": "RENAME_LABEL", "labels": ["a"], "to": "b"},
            {"action": "HASH_LABEL", "labels": ["user", "mail"], "modulus": 16},
            {"action": "AGGREGATE_AWAY", "labels": ["pod"], "function": "max"},
            {"relabel": {"source_labels": ["a"], "regex": "x.*", "action": "drop"}, "match": "up"},
        ]));
        assert!(errors.is_empty(), "{errors:?}");
        let (again, errors) = read(filters.normal());
        assert!(errors.is_empty() && again == filters && again.set() == filters.set(), "{errors:?}");
        assert_eq!(filters.set().filters().len(), 5);
        let (again, errors) = read(to_value(&filters.set()));
        assert!(errors.is_empty() && again.set() == filters.set(), "{errors:?}");
    }

    #[test]
    fn mistakes_have_their_place() {
        let (_, errors) = read(json!([
            {"action": "KEEP", "labels": ["a"]},
            {"action": "DROP", "match": "{"},
            {"action": "DROP_LABEL", "labels": ["__name__"]},
            {"action": "RENAME_LABEL", "labels": ["a", "b"], "to": "c"},
            {"action": "AGGREGATE_AWAY", "labels": ["instance", "env"]},
            {"action": "EXPLODE"},
            {"relabel": {"action": "hashmod"}},
            {"action": "DROP", "to": "x", "colour": 1, "types": ["RED"]},
            {"action": "HASH_LABEL", "labels": ["a"], "modulus": 0},
        ]));
        assert_eq!(
            errors,
            [
                "/filters/0/labels not_applicable",
                "/filters/1/match invalid_selector",
                "/filters/2/labels/0 invalid_label_name",
                "/filters/3/labels out_of_range",
                "/filters/4/labels/0 names_the_target",
                "/filters/4/labels/1 names_the_target",
                "/filters/5/action unknown_value",
                "/filters/6/relabel/action invalid_rule",
                "/filters/7/types/0 unknown_value",
                "/filters/7/to not_applicable",
                "/filters/7/colour unknown_field",
                "/filters/8/modulus out_of_range",
            ]
        );
    }
}
