//! Reading targets: `GET /targets` and `GET /targets/{id}`.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use catalog::{Target, TargetFilter};
use collect::{AddressPolicy, TargetOrigin, TargetSpec, TargetStatus};
use http::{HeaderValue, header};
use model::Health;

use super::Rest;
use super::body::{Query, flag};
use super::problem::Problem;
use super::registration::Registration;
use super::target_json::MetricTarget;
use crate::prom::params::Params;

/// Largest page.
const LIMIT_MAX: usize = 100_000;

impl Rest {
    /// Shows a registered target.
    pub(super) fn show(&self, target: &Target, status: Option<&TargetStatus>) -> MetricTarget {
        MetricTarget::registered(target, status, self.scrape_url(target), &self.node)
    }

    /// Gives what is asked for, as the catalog's row says; worked out once per version.
    fn scrape_url(&self, target: &Target) -> String {
        let target_id = &target.spec.target_id;
        if let Some((_, url)) = self.urls.lock().get(target_id).filter(|(version, _)| *version == target.version) {
            return url.clone();
        }
        let registration = Registration::read(&target.spec.request, false, &AddressPolicy::allow_all());
        let url = match registration.map(|r| r.scrape) {
            Ok(Some(scrape)) => scrape.url.url.to_string(),
            Ok(None) => format!("{}{}", self.base_url, target.spec.target_url),
            Err(_) => target.spec.target_url.clone(),
        };
        if target.is_live() {
            self.urls.lock().insert(target_id.clone(), (target.version, url.clone()));
        }
        url
    }

    /// Gives all targets, registered and discovered.
    pub(crate) fn all_targets(&self) -> Vec<MetricTarget> {
        self.targets_after(None)
    }

    /// Gives the targets whose ids come after one.
    fn targets_after(&self, after: Option<&str>) -> Vec<MetricTarget> {
        let statuses = self.statuses();
        let by_id: HashMap<&str, &TargetStatus> = statuses.iter().map(|s| (s.target_id.as_str(), s)).collect();
        let past = |id: &str| after.is_none_or(|after| id > after);
        let mut shown: Vec<MetricTarget> = Vec::new();
        for target in self.catalog.all().iter().filter(|t| t.spec.origin == "api" && past(&t.spec.target_id)) {
            shown.push(self.show(target, by_id.get(target.spec.target_id.as_str()).copied()));
        }
        for status in statuses.iter().filter(|s| past(&s.target_id)) {
            if status.origin != TargetOrigin::Rest
                && let Some(spec) = self.collector.spec(&status.target_id)
            {
                shown.push(MetricTarget::discovered(&spec, status, &self.node));
            }
        }
        shown
    }

    /// Finds a target that discovery or the configuration brought.
    pub(super) fn discovered(&self, target_id: &str) -> Option<(TargetSpec, TargetStatus)> {
        let status = self.collector.status(target_id)?;
        let spec = self.collector.spec(target_id)?;
        (spec.origin != TargetOrigin::Rest).then_some((spec, status))
    }
}

struct ListRequest {
    filter: TargetFilter,
    limit: Option<usize>,
    after: Option<String>,
}

impl ListRequest {
    fn read(params: &Params) -> Result<ListRequest, Problem> {
        let health = match params.all("health").next().filter(|h| !h.is_empty()) {
            None => None,
            Some(word) => match Health::ALL.into_iter().find(|h| h.as_str().eq_ignore_ascii_case(word)) {
                Some(health) => Some(health),
                None => {
                    return Err(Problem::parameter(
                        "health",
                        "health is unknown, healthy, degraded, unhealthy or disabled",
                    ));
                }
            },
        };
        let mut labels = Vec::new();
        for pair in params.all("label").filter(|p| !p.is_empty()) {
            let Some((name, value)) = pair.split_once(['=', ':']) else {
                return Err(Problem::parameter("label", "label is name=value"));
            };
            labels.push((name.to_owned(), value.trim_matches('"').to_owned()));
        }
        let source_id = params.all("source_id").next().filter(|s| !s.is_empty()).map(str::to_owned);
        let enabled = match params.all("enabled").next() {
            None => None,
            Some(_) => Some(flag(params, "enabled", true)?),
        };
        let limit = match params.all("limit").next() {
            None | Some("") => None,
            Some(text) => match text.parse::<usize>() {
                Ok(n) if (1..=LIMIT_MAX).contains(&n) => Some(n),
                _ => return Err(Problem::parameter("limit", format!("limit is a number from 1 to {LIMIT_MAX}"))),
            },
        };
        let after = params.all("cursor").next().filter(|c| !c.is_empty()).map(str::to_owned);
        if after.as_ref().is_some_and(|c| c.chars().count() > 300) {
            return Err(Problem::parameter("cursor", "that is no cursor of ours"));
        }
        Ok(ListRequest { filter: TargetFilter { health, source_id, labels, enabled }, limit, after })
    }

    fn accepts(&self, shown: &MetricTarget) -> bool {
        let f = &self.filter;
        f.health.is_none_or(|h| h.as_str() == shown.health_status)
            && f.source_id.as_ref().is_none_or(|s| *s == shown.source_id)
            && f.enabled.is_none_or(|e| e == shown.enabled)
            && f.labels.iter().all(|(n, v)| shown.labels.get(n) == Some(v))
    }
}

/// Lists targets, registered and discovered, in order of their ids.
#[utoipa::path(
    get, path = "/api/v1/metrics/targets", tag = "targets",
    params(
        ("health" = Option<String>, Query, description = "Only targets in this state"),
        ("source_id" = Option<String>, Query, description = "Only targets of this source"),
        ("label" = Option<String>, Query, description = "name=value; may be given several times"),
        ("enabled" = Option<bool>, Query, description = "Only targets that are collected, or not"),
        ("limit" = Option<u64>, Query, description = "Page size; without it the list is complete"),
        ("cursor" = Option<String>, Query, description = "X-Next-Cursor of the page before"),
    ),
    responses((status = 200, description = "The targets; the next page is named in Link and X-Next-Cursor", body = Vec<MetricTarget>))
)]
pub async fn list(State(rest): State<Rest>, Query(params): Query) -> Result<Response, Problem> {
    let request = ListRequest::read(&params)?;
    let mut shown = rest.targets_after(request.after.as_deref());
    shown.retain(|t| request.accepts(t));
    shown.sort_by(|a, b| a.target_id.cmp(&b.target_id));
    let mut next = None;
    if let Some(limit) = request.limit.filter(|limit| shown.len() > *limit) {
        shown.truncate(limit);
        next = shown.last().map(|t| t.target_id.clone());
    }
    let mut response = Json(shown).into_response();
    if let Some(cursor) = next {
        name_next_page(&mut response, &params, &cursor);
    }
    Ok(response)
}

/// Names the next page in `X-Next-Cursor` and `Link`.
fn name_next_page(response: &mut Response, params: &Params, cursor: &str) {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for name in ["health", "source_id", "label", "enabled", "limit"] {
        for value in params.all(name) {
            query.append_pair(name, value);
        }
    }
    query.append_pair("cursor", cursor);
    let link = format!("</api/v1/metrics/targets?{}>; rel=\"next\"", query.finish());
    let headers = response.headers_mut();
    if let (Ok(cursor), Ok(link)) = (HeaderValue::from_str(cursor), HeaderValue::from_str(&link)) {
        headers.insert("x-next-cursor", cursor);
        headers.insert(header::LINK, link);
    }
}

/// Gives one target.
#[utoipa::path(
    get, path = "/api/v1/metrics/targets/{target_id}", tag = "targets",
    params(("target_id" = String, Path, description = "Names the target")),
    responses(
        (status = 200, description = "The target; its version is the ETag", body = MetricTarget),
        (status = 404, description = "No such target", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn get_one(State(rest): State<Rest>, Path(target_id): Path<String>) -> Result<Response, Problem> {
    if let Some(target) = rest.catalog.get(&target_id).filter(|t| t.spec.origin == "api") {
        let shown = rest.show(&target, rest.status_of(&target_id).as_ref());
        return Ok(with_etag(Json(shown).into_response(), target.version));
    }
    match rest.discovered(&target_id) {
        Some((spec, status)) => Ok(Json(MetricTarget::discovered(&spec, &status, &rest.node)).into_response()),
        None => Err(no_target(&target_id)),
    }
}

/// The 404 of a target.
pub(super) fn no_target(target_id: &str) -> Problem {
    let shown: String = target_id.chars().take(120).collect();
    Problem::not_found(format!("no target {shown:?}"))
}

/// Adds the version as ETag.
pub(super) fn with_etag(mut response: Response, version: i64) -> Response {
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
