//! `rules`, `alerts`, `alertmanagers`.

use ::rules::{Alert, GroupDefinition, Health, Kind, Rule, RuleState};
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use model::Matcher;

use super::api::PromApi;
use super::error::{ApiError, json_response};
use super::json;
use super::params::Params;
use super::query::success;
use super::status::{go_time, object, quoted};
use crate::alerting::GroupView;

/// What is asked of `rules`.
struct Asked<'p> {
    kind: String,
    names: Vec<&'p str>,
    groups: Vec<&'p str>,
    files: Vec<&'p str>,
    matchers: Vec<Vec<Matcher>>,
    without_alerts: bool,
    limit: Option<usize>,
    token: &'p str,
}

impl Asked<'_> {
    fn read(params: &Params) -> Result<Asked<'_>, ApiError> {
        let kind = params.get("type").to_lowercase();
        if !matches!(kind.as_str(), "" | "alert" | "record") {
            return Err(ApiError::invalid_parameter("type", format!("not supported value {kind:?}")));
        }
        let without_alerts = match params.get("exclude_alerts") {
            "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
            "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
            _ => {
                let text = "error converting exclude_alerts to boolean value";
                return Err(ApiError::invalid_parameter("exclude_alerts", text));
            }
        };
        let token = params.get("group_next_token");
        if !token.is_empty() && params.get("group_limit").is_empty() {
            let text = "group_limit needs to be present in order to paginate over the groups";
            return Err(ApiError::invalid_parameter("group_next_token", text));
        }
        let limit = match params.get("group_limit") {
            "" => None,
            text => match text.parse::<i64>().map(usize::try_from) {
                Ok(Ok(limit)) => Some(limit).filter(|limit| *limit > 0),
                _ => return Err(ApiError::invalid_parameter("group_limit", "group_limit needs to be a valid number")),
            },
        };
        let texts: Vec<&str> = params.all("match[]").collect();
        let matchers = promql::parse_selectors(&texts);
        Ok(Asked {
            kind,
            names: params.all("rule_name[]").collect(),
            groups: params.all("rule_group[]").collect(),
            files: params.all("file[]").collect(),
            matchers: matchers.map_err(|e| ApiError::bad_data(e.to_string()))?,
            without_alerts,
            limit,
            token,
        })
    }

    fn wants_group(&self, group: &GroupDefinition) -> bool {
        let among = |list: &[&str], name: &str| list.is_empty() || list.contains(&name);
        among(&self.groups, &group.name) && among(&self.files, &group.file)
    }

    fn wants(&self, rule: &Rule) -> bool {
        let kind = match self.kind.as_str() {
            "alert" => rule.is_alert(),
            "record" => !rule.is_alert(),
            _ => true,
        };
        let labels = rule.plain_labels();
        let matches = |set: &Vec<Matcher>| set.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or_default()));
        kind && (self.names.is_empty() || self.names.contains(&rule.name()))
            && (self.matchers.is_empty() || self.matchers.iter().any(matches))
    }

    fn filters_rules(&self) -> bool {
        !self.kind.is_empty() || !self.names.is_empty() || !self.matchers.is_empty()
    }
}

/// `/api/v1/rules`
pub async fn rules(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    let asked = Asked::read(&params)?;
    let views = (api.rules)();
    let shown = |group: &GroupView| {
        let rules: Vec<usize> = (0..group.rules.len()).filter(|i| asked.wants(&group.definition.rules[*i])).collect();
        let wanted = asked.wants_group(&group.definition) && (!rules.is_empty() || !asked.filters_rules());
        wanted.then(|| (group.clone(), rules))
    };
    let mut groups: Vec<(GroupView, Vec<usize>)> = views.iter().filter_map(shown).collect();
    if !asked.token.is_empty() {
        let at = groups.iter().position(|(group, _)| token(&group.definition) == asked.token);
        let at = at.ok_or_else(|| ApiError::invalid_parameter("group_next_token", "invalid group_next_token"))?;
        groups.drain(..at);
    }
    let mut next = String::new();
    if let Some(limit) = asked.limit.filter(|limit| groups.len() > *limit) {
        next = token(&groups[limit].0.definition);
        groups.truncate(limit);
    }
    let mut list = Vec::new();
    json::list(&mut list, &groups, |out, (group, rules)| write_group(out, group, rules, asked.without_alerts));
    let mut members = vec![("groups", text(list))];
    if !next.is_empty() {
        members.push(("groupNextToken", quoted(&next)));
    }
    Ok(success(|out| object(out, &members)))
}

/// `/api/v1/alerts`
pub async fn alerts(State(api): State<PromApi>) -> Response {
    let views = (api.rules)();
    let active = views.iter().flat_map(|group| &group.rules).flat_map(active);
    success(|out| {
        out.extend_from_slice(b"{\"alerts\":");
        json::list(out, active, write_alert);
        out.push(b'}');
    })
}

/// `/api/v1/alertmanagers`
pub async fn alertmanagers(State(api): State<PromApi>) -> Response {
    let (active, dropped) = (api.alertmanagers)();
    let list = |urls: &[String]| {
        let mut out = Vec::new();
        json::list(&mut out, urls, |out, url| object(out, &[("url", quoted(url))]));
        text(out)
    };
    let members = [("activeAlertmanagers", list(&active)), ("droppedAlertmanagers", list(&dropped))];
    json_response(StatusCode::OK, {
        let mut data = Vec::new();
        object(&mut data, &members);
        json::success(&data, &[], &[])
    })
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_default()
}

/// Names a group in a request for the next page.
fn token(group: &GroupDefinition) -> String {
    let name = model::Labels::from_pairs([("file", &group.file), ("name", &group.name)]);
    format!("{:016x}", name.fingerprint().0)
}

fn active(state: &RuleState) -> impl Iterator<Item = &Alert> {
    state.alerts.values().filter(|alert| alert.state != ::rules::State::Inactive)
}

fn seconds(seconds: f64) -> String {
    let mut out = Vec::new();
    json::float(&mut out, seconds);
    text(out)
}

fn write_group(out: &mut Vec<u8>, group: &GroupView, shown: &[usize], without_alerts: bool) {
    let mut rules = Vec::new();
    json::list(&mut rules, shown, |out, at| {
        write_rule(out, &group.definition.rules[*at], &group.rules[*at], without_alerts);
    });
    let definition = &group.definition;
    object(
        out,
        &[
            ("name", quoted(&definition.name)),
            ("file", quoted(&definition.file)),
            ("rules", text(rules)),
            ("interval", seconds(definition.interval_ms as f64 / 1000.0)),
            ("limit", definition.limit.to_string()),
            ("evaluationTime", seconds(group.seconds)),
            ("lastEvaluation", quoted(&go_time(group.evaluated_at_ms))),
        ],
    );
}

fn write_rule(out: &mut Vec<u8>, rule: &Rule, state: &RuleState, without_alerts: bool) {
    let mut members: Vec<(&str, String)> = Vec::new();
    let labels = {
        let mut out = Vec::new();
        json::labels(&mut out, &rule.plain_labels());
        text(out)
    };
    let (health, error) = match &state.health {
        Health::Unknown => ("unknown", ""),
        Health::Good => ("ok", ""),
        Health::Bad(text) => ("err", text.as_str()),
    };
    if let Kind::Alert { for_ms, keep_firing_for_ms, annotations, .. } = &rule.kind {
        let worst = active(state).map(|alert| alert.state).max();
        members.push(("state", quoted(worst.map_or("inactive", |state| state.as_str()))));
        members.push(("name", quoted(rule.name())));
        members.push(("query", quoted(&promql::format(&rule.expr))));
        members.push(("duration", seconds(*for_ms as f64 / 1000.0)));
        members.push(("keepFiringFor", seconds(*keep_firing_for_ms as f64 / 1000.0)));
        members.push(("labels", labels));
        let mut texts = Vec::new();
        json::pairs(&mut texts, annotations.iter().map(|(name, text)| (name.as_str(), text.text.as_str())));
        members.push(("annotations", text(texts)));
        let mut alerts = Vec::new();
        json::list(&mut alerts, active(state).filter(|_| !without_alerts), write_alert);
        members.push(("alerts", text(alerts)));
    } else {
        members.push(("name", quoted(rule.name())));
        members.push(("query", quoted(&promql::format(&rule.expr))));
        if !rule.labels.is_empty() {
            members.push(("labels", labels));
        }
    }
    members.push(("health", quoted(health)));
    if !error.is_empty() {
        members.push(("lastError", quoted(error)));
    }
    members.push(("evaluationTime", seconds(state.seconds)));
    members.push(("lastEvaluation", quoted(&go_time(state.evaluated_at_ms))));
    members.push(("type", quoted(if rule.is_alert() { "alerting" } else { "recording" })));
    object(out, &members);
}

fn write_alert(out: &mut Vec<u8>, alert: &Alert) {
    let mut labels = Vec::new();
    json::labels(&mut labels, &alert.labels);
    let mut annotations = Vec::new();
    json::pairs(&mut annotations, alert.annotations.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    let mut members = vec![
        ("labels", text(labels)),
        ("annotations", text(annotations)),
        ("state", quoted(alert.state.as_str())),
        ("activeAt", quoted(&go_time(Some(alert.active_at_ms)))),
    ];
    if let Some(since) = alert.keep_firing_since_ms {
        members.push(("keepFiringSince", quoted(&go_time(Some(since)))));
    }
    let mut value = Vec::new();
    json::exponent(&mut value, alert.value);
    members.push(("value", quoted(&text(value))));
    object(out, &members);
}
