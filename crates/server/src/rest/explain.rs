//! `GET /targets/{id}/explain` and `GET /targets/{id}/filters`: what the filters of a target do, and to whom.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use collect::{Explained, FilterEffects, TargetSpec, explain as explain_series};
use http::header;
use model::filter::{DroppedBy, Effect, Filter, FilterSet, to_rules};
use model::{Labels, MatchOp, MetricType};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Rest;
use super::body::Query;
use super::filters::{rule_to_value, to_value};
use super::problem::Problem;
use super::registration::Registration;
use super::targets::no_target;

/// What became of a series of a target.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// The target.
    pub target_id: String,
    /// The series as it was asked for.
    pub series: String,
    /// The type that it was taken for.
    #[serde(rename = "type")]
    pub metric_type: String,
    /// `kept`, `relabeled`, `aggregated`, `dropped` or `refused`.
    pub outcome: String,
    /// Why, in a sentence; null for a series that is kept as it came.
    pub reason: Option<String>,
    /// What it is stored as, or added to; null when it is not stored.
    pub stored_as: Option<String>,
    /// What the filters did, in order.
    pub steps: Vec<ExplainedStep>,
    /// What was refused of the target lately and looks like this series: the reason and how often.
    pub refusals: BTreeMap<String, u64>,
}

/// What one filter did.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ExplainedStep {
    /// Its place in `filters`.
    pub filter: usize,
    /// Its action.
    pub action: String,
    /// Its note.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// `kept`, `dropped`, or the labels that it left.
    pub effect: String,
}

/// What a filter did to the series of a scrape.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FilterReport {
    /// Its place in `filters`; null for what no KEEP accepted.
    pub filter: Option<usize>,
    /// Its action; NO_KEEP for what no KEEP accepted.
    pub action: String,
    /// Its note.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Series that it acted on.
    pub series: u64,
    /// Some of them.
    pub examples: Vec<FilterExample>,
}

/// A series and what a filter made of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FilterExample {
    /// With the labels of the target, before all filters.
    pub series: String,
    /// After this filter; null when it took the series out.
    pub becomes: Option<String>,
}

/// Shows what each filter did.
pub fn report(effects: &[FilterEffects], set: &FilterSet) -> Vec<FilterReport> {
    let one = |e: &FilterEffects| {
        let filter = e.filter.and_then(|at| set.filters().get(at));
        let example = |(before, after): &(Labels, Option<Labels>)| FilterExample {
            series: before.to_string(),
            becomes: after.as_ref().map(Labels::to_string),
        };
        FilterReport {
            filter: e.filter,
            action: filter.map_or("NO_KEEP", |f| f.action.as_str()).to_owned(),
            note: filter.map(|f| f.note.clone()).unwrap_or_default(),
            series: e.series,
            examples: e.examples.iter().map(example).collect(),
        }
    };
    effects.iter().map(one).collect()
}

impl Rest {
    /// Gives what a target's series go through, whoever collects it.
    fn rules_of(&self, target_id: &str) -> Result<TargetSpec, Problem> {
        if let Some(spec) = self.collector.spec(target_id) {
            return Ok(spec);
        }
        // A source that pushes sends its labels itself.
        let nowhere = url::Url::parse("http://localhost/").map_err(|_| no_target(target_id))?;
        let mut spec = TargetSpec::new(target_id, nowhere, Labels::empty());
        let Some(target) = self.catalog.get(target_id) else {
            // One that is not registered may have filters in the configuration.
            spec.filters = (self.configured_filters)(target_id).ok_or_else(|| no_target(target_id))?;
            return Ok(spec);
        };
        let registration = Registration::read(&target.spec.request, false, &self.address_policy)?;
        if let Some(spec) = registration.to_spec(&self.address_policy, &self.vault)? {
            return Ok(spec);
        }
        spec.filters = registration.filters.set();
        if spec.filters.is_empty() {
            spec.filters = (self.configured_filters)(&registration.source_id).unwrap_or_default();
        }
        Ok(spec)
    }
}

/// Tells which filter acts on a series of a target.
#[utoipa::path(
    get, path = "/api/v1/metrics/targets/{target_id}/explain", tag = "targets",
    params(
        ("target_id" = String, Path, description = "Names the target"),
        ("series" = String, Query, description = "The series as the target exposes it, such as http_requests_total{code=\"200\"}"),
        ("type" = Option<String>, Query, description = "Its type; what is known of the metric when absent"),
    ),
    responses(
        (status = 200, description = "What becomes of it", body = Explanation),
        (status = 400, description = "series is not a series", body = crate::rest::problem::ProblemBody),
        (status = 404, description = "No such target", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn explain(
    State(rest): State<Rest>,
    Path(target_id): Path<String>,
    Query(params): Query,
) -> Result<Json<Explanation>, Problem> {
    let spec = rest.rules_of(&target_id)?;
    let series = read_series(params.get("series"))?;
    let metric_type = match params.get("type") {
        "" => rest.type_of(series.metric_name()),
        word => read_type(word)?,
    };
    let explained = explain_series(&spec, &series, metric_type).map_err(|text| Problem::parameter("series", text))?;
    let mut shown = shown(&target_id, &series, metric_type, &spec, &explained);
    let stored_as = explained.stored_as.clone().unwrap_or_default();
    for (reason, refused) in rest.rejections.of(&target_id).map(|r| r.reasons).unwrap_or_default() {
        let is_it = |l: &Labels| *l == series || *l == stored_as || Some(l) == explained.attached.as_ref();
        if refused.examples.iter().any(is_it) {
            shown.refusals.insert(reason.as_str().to_owned(), refused.count);
        }
    }
    Ok(Json(shown))
}

/// Reads a selector whose matchers are all equalities.
fn read_series(text: &str) -> Result<Labels, Problem> {
    let matchers = promql::parse_selector(text).map_err(|e| Problem::parameter("series", e.to_string()))?;
    if matchers.iter().any(|m| m.op() != MatchOp::Equal) {
        return Err(Problem::parameter("series", "series names one series: only = is allowed"));
    }
    let labels = Labels::from_pairs(matchers.iter().map(|m| (m.name(), m.value())));
    match labels.metric_name() {
        "" => Err(Problem::parameter("series", "series has no metric name")),
        _ => Ok(labels),
    }
}

fn read_type(word: &str) -> Result<MetricType, Problem> {
    let all = (0u8..8).map(MetricType::from_u8);
    let known = if word.eq_ignore_ascii_case("custom") { "unknown" } else { word };
    all.into_iter()
        .find(|t| t.as_str().eq_ignore_ascii_case(known))
        .ok_or_else(|| Problem::parameter("type", format!("{word:?} is no type")))
}

fn shown(target_id: &str, series: &Labels, metric_type: MetricType, spec: &TargetSpec, e: &Explained) -> Explanation {
    let filter = |at: usize| spec.filters.filters().get(at);
    let step = |s: &model::filter::Step| ExplainedStep {
        filter: s.filter,
        action: filter(s.filter).map(|f| f.action.as_str()).unwrap_or_default().to_owned(),
        note: filter(s.filter).map(|f| f.note.clone()).unwrap_or_default(),
        effect: match &s.effect {
            Effect::Kept => "kept".to_owned(),
            Effect::Dropped => "dropped".to_owned(),
            Effect::Changed(labels) => format!("relabeled to {labels}"),
            Effect::Aggregated(labels) => format!("added to {labels}"),
        },
    };
    let (outcome, reason) = outcome(e, &filter);
    Explanation {
        target_id: target_id.to_owned(),
        series: series.to_string(),
        metric_type: metric_type.as_str().to_owned(),
        outcome: outcome.to_owned(),
        reason,
        stored_as: e.stored_as.as_ref().map(Labels::to_string),
        steps: e.steps.iter().map(step).collect(),
        refusals: BTreeMap::new(),
    }
}

fn outcome<'f>(e: &Explained, filter: &dyn Fn(usize) -> Option<&'f Filter>) -> (&'static str, Option<String>) {
    let by = |what: &str, at: usize| {
        let note = filter(at).map(|f| f.note.as_str()).filter(|n| !n.is_empty());
        let action = filter(at).map(|f| f.action.as_str()).unwrap_or_default();
        match note {
            Some(note) => format!("{what} filter {at} ({action}): {note}"),
            None => format!("{what} filter {at} ({action})"),
        }
    };
    match (&e.attached, e.dropped, &e.refused) {
        (None, ..) => ("dropped", Some("dropped by metric_relabel_configs".to_owned())),
        (_, Some(DroppedBy::Filter(at)), _) => ("dropped", Some(by("dropped by", at))),
        (_, Some(DroppedBy::Quantile(at)), _) => {
            ("dropped", Some(by("a quantile cannot be added to others: dropped by", at)))
        }
        (_, Some(DroppedBy::NoKeep), _) => ("dropped", Some("no KEEP accepts it".to_owned())),
        (_, None, Some(text)) => ("refused", Some(text.clone())),
        _ => match e.aggregate {
            Some(at) => ("aggregated", Some(by("added to others by", at))),
            None if e.stored_as != e.attached => ("relabeled", Some("its labels are changed, see steps".to_owned())),
            None => ("kept", None),
        },
    }
}

/// Gives the filters of a target, or relabel rules that do the same.
#[utoipa::path(
    get, path = "/api/v1/metrics/targets/{target_id}/filters", tag = "targets",
    params(
        ("target_id" = String, Path, description = "Names the target"),
        ("format" = Option<String>, Query, description = "relabel gives metric_relabel_configs in YAML"),
    ),
    responses(
        (status = 200, description = "The filters", body = Vec<Object>),
        (status = 404, description = "No such target", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn filters(
    State(rest): State<Rest>,
    Path(target_id): Path<String>,
    Query(params): Query,
) -> Result<Response, Problem> {
    let spec = rest.rules_of(&target_id)?;
    match params.get("format") {
        "relabel" => {
            let yaml = [(header::CONTENT_TYPE, "application/yaml; charset=utf-8")];
            Ok((yaml, relabel_yaml(&spec.filters)).into_response())
        }
        "" | "json" => {
            // As they were given, or else those of the configuration.
            let registered = rest.catalog.get(&target_id).map(|t| t.spec.filters.clone());
            let registered = registered.filter(|f| f.as_array().is_some_and(|list| !list.is_empty()));
            Ok(Json(registered.unwrap_or_else(|| to_value(&spec.filters))).into_response())
        }
        other => Err(Problem::parameter("format", format!("{other:?} is neither json nor relabel"))),
    }
}

/// Writes filters as `metric_relabel_configs`; JSON strings are YAML strings.
fn relabel_yaml(set: &FilterSet) -> String {
    let export = to_rules(set);
    let mut out = String::new();
    for (at, text) in &export.missing {
        out.push_str(&format!("# filter {at}: {text}\n"));
    }
    if export.rules.is_empty() {
        out.push_str("metric_relabel_configs: []\n");
        return out;
    }
    out.push_str("metric_relabel_configs:\n");
    for rule in &export.rules {
        let Value::Object(fields) = rule_to_value(rule) else { continue };
        // A rule of defaults alone would be an empty one.
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        out.push_str(&format!("  - {{{}}}\n", fields.join(", ")));
    }
    out
}

impl Rest {
    /// Gives the type that is known of a metric by its name or that of its family.
    pub(crate) fn type_of(&self, name: &str) -> MetricType {
        (self.type_of_metric)(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::filter::Action;

    #[test]
    fn rules_are_written_as_yaml_that_reads_back() {
        let filter =
            Filter { matchers: promql::parse_selector("http_x{code=~\"5..\"}").unwrap(), ..Filter::new(Action::Drop) };
        let text = relabel_yaml(&FilterSet::new(vec![filter, Filter::new(Action::AggregateAway)]));
        assert!(text.starts_with("# filter 1: "), "{text}");
        let root = crate::config::yaml::parse(&text).unwrap();
        assert!(root.holds_something());
        assert!(text.contains("action: \"drop\"") && text.contains("1;(?:5..)"), "{text}");
    }
}
