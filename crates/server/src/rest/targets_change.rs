//! Changing targets: register, patch, scrape, delete, restore.
//!
//! Invariant: catalog first, collector second, both under one lock per node.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use catalog::{Claim, StoredResponse, Target, TargetPatch};
use collect::ScrapeOutcome;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use model::Health;
use serde_json::Value;
use utoipa::ToSchema;
use xxhash_rust::xxh3::xxh3_64;

use super::auth_config::{carries_secrets_away, make_way, seal};
use super::body::{Query, flag, idempotency_key, if_match, parse, read_json};
use super::custom::{in_progress, other_request, replay};
use super::problem::Problem;
use super::registration::{Registration, is_target_id, merge};
use super::retention::Policy;
use super::target_json::{DeletionResult, MetricTarget, ScrapeReport};
use super::targets::{no_target, with_etag};
use super::{Rest, time};
use crate::access::Pass;
use crate::config::print::without_password;

/// Bytes of a registration.
const REGISTRATION_BYTES_MAX: usize = 1 << 20;
/// Levels of a merge patch.
const PATCH_DEPTH_MAX: usize = 8;

/// The specification's MetricCollectionRequest; for the document only, it is read by hand so that mistakes have
/// pointers.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct MetricCollectionRequest {
    /// At most 100 characters; the label `job`.
    source_id: String,
    /// `[A-Za-z0-9._:-]{1,100}`; derived when absent.
    target_id: Option<String>,
    /// PULL_SCRAPING, PUSH_GATEWAY, STREAMING or BATCH_UPLOAD.
    collection_method: String,
    /// MetricSource; APPLICATION when absent.
    source_type: Option<String>,
    /// Labels of all series.
    labels: Option<std::collections::BTreeMap<String, String>>,
    /// How to scrape; for PULL_SCRAPING, and for no other method.
    scrape_config: Option<ScrapeConfig>,
    /// `{"expected_interval": "1m", "ttl": "5m"}` of a source that pushes. Without a push for the time to live it is
    /// `degraded`, and its pushed groups end; 0 is for ever. 5 intervals when absent.
    #[schema(value_type = Option<Object>)]
    push_config: Option<Value>,
    /// An ordered list of `{"action": "KEEP|DROP|DROP_LABEL|RENAME_LABEL|HASH_LABEL|AGGREGATE_AWAY", "match": selector, "types",
    /// "labels", "to", "modulus", "function", "note"}` or `{"relabel": rule or rules}`; the first KEEP or DROP that accepts a series
    /// decides, the others all run in order.
    #[schema(value_type = Option<Vec<Object>>)]
    filters: Option<Vec<Value>>,
    /// `{"raw": "15d"}` or `"15d"`.
    #[schema(value_type = Option<Object>)]
    retention_policy: Option<Value>,
    /// `{"max_series", "max_samples_per_scrape", "on_exceed": "KEEP_EXISTING" | "FAIL"}`.
    #[schema(value_type = Option<Object>)]
    limits: Option<Value>,
    /// Whether to collect; true when absent.
    enabled: Option<bool>,
}

/// The specification's ScrapeConfig.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ScrapeConfig {
    /// `host:port` or a URL; at most 500 characters.
    target_url: String,
    /// Such as `15s`, the default; `scrape_interval_ms` is the same in milliseconds.
    scrape_interval: Option<String>,
    /// At most the interval; `10s` or the interval when absent.
    scrape_timeout: Option<String>,
    /// `/metrics` when absent.
    metrics_path: Option<String>,
    /// `http` when absent.
    scheme: Option<String>,
    /// `{"type": "NONE" | "BASIC" | "BEARER" | "API_KEY" | "OAUTH2" | "MTLS", ...}`. A secret is `{"value": "..."}`, which is sealed
    /// and shown as `{"redacted": true, "sha256_8"}`, or for admins `{"ref": "env:NAME" | "file:/path"}`.
    #[schema(value_type = Option<Object>)]
    authentication: Option<Value>,
    /// Parameters of the request.
    #[schema(value_type = Option<Object>)]
    params: Option<Value>,
    /// More headers.
    headers: Option<std::collections::BTreeMap<String, String>>,
    /// Labels of the exporter win.
    honor_labels: Option<bool>,
    /// Timestamps of the exporter are used.
    honor_timestamps: Option<bool>,
    /// Redirects are followed.
    follow_redirects: Option<bool>,
    /// Such as `10MB`.
    body_size_limit: Option<String>,
    /// Formats to ask for, best first, in the words of Prometheus' `scrape_protocols`.
    protocols: Option<Vec<String>>,
    /// Native histograms are taken, and protobuf is asked for first unless `protocols` says otherwise.
    scrape_native_histograms: Option<bool>,
    /// The classic buckets of a native histogram are taken, too.
    always_scrape_classic_histograms: Option<bool>,
    /// `{"ca", "server_name", "insecure_skip_verify"}`.
    #[schema(value_type = Option<Object>)]
    tls: Option<Value>,
}

/// Registers a target.
#[utoipa::path(
    post, path = "/api/v1/metrics/targets", tag = "targets", request_body = MetricCollectionRequest,
    params(
        ("replace" = Option<bool>, Query, description = "Puts the registration in the place of one with the same id"),
        ("wait" = Option<bool>, Query, description = "0 answers without waiting for the first scrape"),
        ("dry_run" = Option<bool>, Query, description = "Scrapes once, registers and stores nothing"),
        ("strict" = Option<bool>, Query, description = "false ignores unknown fields"),
        ("Idempotency-Key" = Option<String>, Header, description = "A retry with the same key is answered as the first one"),
        ("If-Match" = Option<String>, Header, description = "ETag of the registration to replace"),
    ),
    responses(
        (status = 201, description = "Registered; first_scrape says how the first scrape went", body = MetricTarget),
        (status = 200, description = "Registered already, or replaced", body = MetricTarget),
        (status = 400, description = "Not understood", body = crate::rest::problem::ProblemBody),
        (status = 409, description = "A different target has this id", body = crate::rest::problem::ProblemBody),
        (status = 412, description = "If-Match does not match", body = crate::rest::problem::ProblemBody),
        (status = 422, description = "Refused", body = crate::rest::problem::ProblemBody),
        (status = 501, description = "Not built yet", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn register(
    State(rest): State<Rest>,
    headers: HeaderMap,
    Query(params): Query,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = read_json(&headers, body, REGISTRATION_BYTES_MAX).await?;
    let sealed = sealed(&rest, &bytes)?;
    let hash = xxh3_64(sealed.to_string().as_bytes());
    let request = Register {
        registration: Registration::read(&sealed, flag(&params, "strict", true)?, &rest.address_policy)?,
        replace: flag(&params, "replace", false)?,
        wait: flag(&params, "wait", true)?,
        has_if_match: headers.contains_key(header::IF_MATCH),
        version: if_match(&headers)?,
    };
    if flag(&params, "dry_run", false)? {
        return dry_run_of(&rest, &request.registration).await;
    }
    let key = idempotency_key(&headers)?;
    // Spawned: a client that goes away must not leave catalog and collector apart.
    let task = tokio::spawn(async move {
        match key {
            None => rest.register(&request).await,
            // Of what is sealed: a hash of the secrets themselves would let guesses be tried.
            Some(key) => rest.register_once(&request, &key, hash).await,
        }
    });
    task.await.unwrap_or_else(|_| Err(internal()))
}

/// Reads a request; its secrets are sealed before anything else is done with it.
fn sealed(rest: &Rest, bytes: &[u8]) -> Result<Value, Problem> {
    let mut request = parse(bytes)?;
    seal(&mut request, &rest.vault, asked_by_admin())?;
    Ok(request)
}

/// Tells whether an admin asks; where nobody has to say who he is, the guard takes everybody for one.
fn asked_by_admin() -> bool {
    Pass::in_force().is_some_and(|pass| pass.roles.is_admin())
}

fn internal() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed")
}

struct Register {
    registration: Registration,
    replace: bool,
    wait: bool,
    has_if_match: bool,
    version: Option<i64>,
}

impl Rest {
    async fn register_once(&self, request: &Register, key: &str, hash: u64) -> Result<Response, Problem> {
        let key = format!("targets/{key}");
        match self.catalog.claim_key(&key, hash, self.now_ms()).await? {
            Claim::Done(response) => return Ok(replay(&response)),
            Claim::OtherRequest => return Err(other_request()),
            Claim::InProgress => return Err(in_progress()),
            Claim::Fresh { .. } => {}
        }
        let response = match self.register(request).await {
            Ok(response) => response,
            Err(problem) => {
                self.catalog.release_key(&key);
                return Err(problem);
            }
        };
        let (parts, body) = response.into_parts();
        let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
            self.catalog.release_key(&key);
            return Err(internal());
        };
        let location = parts.headers.get(header::LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
        let stored = StoredResponse {
            status: parts.status.as_u16(),
            head: location.to_owned(),
            body: String::from_utf8_lossy(&bytes).into_owned(),
        };
        self.catalog.finish_key(&key, &stored).await?;
        Ok(Response::from_parts(parts, Body::from(bytes)))
    }

    async fn register(&self, request: &Register) -> Result<Response, Problem> {
        let registration = &request.registration;
        let target_id = &registration.target_id;
        let spec = registration.to_spec(&self.address_policy, &self.vault)?;
        let changing = self.changing.lock().await;
        if self.discovered(target_id).is_some() {
            return Err(managed_by_discovery(target_id));
        }
        let new = registration.to_new_target();
        let existing = self.catalog.get(target_id);
        let target = match &existing {
            None if request.has_if_match => {
                let detail = format!("there is no target {target_id:?} to match");
                return Err(Problem::new(StatusCode::PRECONDITION_FAILED, "version_mismatch", detail));
            }
            None => self.catalog.insert(new, self.now_ms()).await?,
            Some(old) if old.damage.is_none() && old.spec.request == new.request => {
                let shown = self.show(old, self.status_of(target_id).as_ref());
                return Ok(with_etag(Json(shown).into_response(), old.version));
            }
            Some(old) if !request.replace && !request.has_if_match => return Err(conflict(old, &new.request)),
            Some(_) => self.catalog.replace(new, request.version, self.now_ms()).await?,
        };
        self.put_in_force(registration, spec, target.health);
        drop(changing);
        let first = match request.wait && registration.enabled {
            true => self.collector.scrape_now(target_id).await,
            false => None,
        };
        let mut shown = self.show(&target, self.status_of(target_id).as_ref());
        shown.first_scrape = first.as_ref().map(|first| self.first_report(registration, first));
        if existing.is_some() {
            return Ok(with_etag(Json(shown).into_response(), target.version));
        }
        let mut response = (StatusCode::CREATED, Json(shown)).into_response();
        if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/metrics/targets/{target_id}")) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        Ok(with_etag(response, target.version))
    }
}

fn conflict(old: &Target, new: &Value) -> Problem {
    let target_id = &old.spec.target_id;
    let detail = match &old.damage {
        Some(damage) => format!("target {target_id:?} is damaged ({damage}); ?replace=true registers it anew"),
        None => format!("target {target_id:?} is registered differently; ?replace=true or If-Match replaces it"),
    };
    let mut problem = Problem::new(StatusCode::CONFLICT, "conflicting_registration", detail);
    for name in [
        "source_id",
        "collection_method",
        "source_type",
        "labels",
        "scrape_config",
        "filters",
        "limits",
        "retention_policy",
        "enabled",
    ] {
        if old.spec.request.get(name) != new.get(name) {
            problem.errors.push(super::problem::FieldError {
                pointer: format!("/{name}"),
                reason: "differs".to_owned(),
                detail: format!("{name} differs from what is registered"),
                example: None,
            });
        }
    }
    problem
}

fn managed_by_discovery(target_id: &str) -> Problem {
    let detail = format!("target {target_id:?} was found by discovery; PATCH {{\"enabled\": false}} mutes it");
    Problem::new(StatusCode::CONFLICT, "managed_by_discovery", detail)
}

/// Scrapes a target once; registers and stores nothing.
#[utoipa::path(
    post, path = "/api/v1/metrics/targets:dry-run", tag = "targets", request_body = MetricCollectionRequest,
    responses((status = 200, description = "What a scrape came to", body = MetricTarget))
)]
pub async fn dry_run(
    State(rest): State<Rest>,
    headers: HeaderMap,
    Query(params): Query,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = read_json(&headers, body, REGISTRATION_BYTES_MAX).await?;
    let registration =
        Registration::read(&sealed(&rest, &bytes)?, flag(&params, "strict", true)?, &rest.address_policy)?;
    dry_run_of(&rest, &registration).await
}

async fn dry_run_of(rest: &Rest, registration: &Registration) -> Result<Response, Problem> {
    let Some(spec) = registration.to_spec(&rest.address_policy, &rest.vault)? else {
        return Ok(Json(dry_push(rest, registration)).into_response());
    };
    let url = spec.url.to_string();
    let outcome: ScrapeOutcome = rest.collector.dry_run(spec).await;
    let target = Target::new(registration.to_new_target(), rest.now_ms());
    let mut shown = MetricTarget::registered(&target, None, url, &rest.node);
    let health = if outcome.ok { Health::Healthy } else { Health::Unhealthy };
    shown.health_status = health.as_str().to_owned();
    shown.scrape_duration_ms = outcome.duration_ms as f64;
    shown.samples_scraped = outcome.samples;
    shown.last_error = outcome.error.as_ref().map(|e| e.message.clone());
    shown.first_scrape = Some(rest.first_report(registration, &outcome));
    shown.created_at = None;
    shown.updated_at = None;
    shown.version = 0;
    shown.dry_run = true;
    Ok(Json(shown).into_response())
}

/// Shows what a source that pushes would be registered as.
fn dry_push(rest: &Rest, registration: &Registration) -> MetricTarget {
    let target = Target::new(registration.to_new_target(), rest.now_ms());
    let mut shown = rest.show(&target, None);
    shown.created_at = None;
    shown.updated_at = None;
    shown.version = 0;
    shown.dry_run = true;
    shown
}

/// Changes parts of a target.
#[utoipa::path(
    patch, path = "/api/v1/metrics/targets/{target_id}", tag = "targets",
    params(
        ("target_id" = String, Path, description = "Names the target"),
        ("If-Match" = Option<String>, Header, description = "ETag of the version to change"),
    ),
    request_body(content = Object, description = "A merge patch (RFC 7396) on MetricCollectionRequest"),
    responses(
        (status = 200, description = "Changed", body = MetricTarget),
        (status = 404, description = "No such target", body = crate::rest::problem::ProblemBody),
        (status = 409, description = "Managed by discovery: only enabled can be changed", body = crate::rest::problem::ProblemBody),
        (status = 412, description = "If-Match does not match", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn patch(
    State(rest): State<Rest>,
    Path(target_id): Path<String>,
    headers: HeaderMap,
    Query(params): Query,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = read_json(&headers, body, REGISTRATION_BYTES_MAX).await?;
    let patch = sealed(&rest, &bytes)?;
    let admin = asked_by_admin();
    let strict = flag(&params, "strict", true)?;
    let version = if_match(&headers)?;
    if !patch.is_object() {
        return Err(Problem::at(StatusCode::BAD_REQUEST, "wrong_type", "", "the body is an object"));
    }
    let task = tokio::spawn(async move { rest.patch(&target_id, &patch, (strict, admin), version).await });
    task.await.unwrap_or_else(|_| Err(internal()))
}

impl Rest {
    async fn patch(
        &self,
        target_id: &str,
        patch: &Value,
        (strict, admin): (bool, bool),
        version: Option<i64>,
    ) -> Result<Response, Problem> {
        let _changing = self.changing.lock().await;
        let Some(old) = self.catalog.get(target_id).filter(|t| t.spec.origin == "api") else {
            return self.mute(target_id, patch).await;
        };
        if let Some(damage) = &old.damage {
            let detail = format!("target {target_id:?} is damaged ({damage}); register it anew with ?replace=true");
            return Err(Problem::new(StatusCode::CONFLICT, "damaged", detail));
        }
        let mut request = old.spec.request.clone();
        make_way(&mut request, patch);
        merge(&mut request, patch, PATCH_DEPTH_MAX);
        if !admin && carries_secrets_away(&old.spec.request, &request, patch) {
            let detail = "the target has secrets: give them again with the change, or let an admin do it";
            let place = "/scrape_config/authentication";
            return Err(Problem::at(StatusCode::FORBIDDEN, "secret_needed", place, detail));
        }
        for name in ["target_id", "source_id", "collection_method"] {
            if request.get(name) != old.spec.request.get(name) {
                let detail = format!("{name} cannot be changed; register another target");
                return Err(Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "immutable", format!("/{name}"), detail));
            }
        }
        let registration = Registration::read(&request, strict, &self.address_policy)?;
        let spec = registration.to_spec(&self.address_policy, &self.vault)?;
        let new = registration.to_new_target();
        if new.request == old.spec.request && version.is_none() {
            let shown = self.show(&old, self.status_of(target_id).as_ref());
            return Ok(with_etag(Json(shown).into_response(), old.version));
        }
        let patch = TargetPatch {
            enabled: Some(new.enabled),
            labels: Some(new.labels),
            filters: Some(new.filters),
            limits: Some(new.limits),
            retention_policy: Some(new.retention_policy),
            source_type: Some(new.source_type),
            request: Some(new.request),
            target_url: Some(new.target_url),
            scrape_config: Some(new.scrape_config),
        };
        let target = self.catalog.patch(target_id, &patch, version, self.now_ms()).await?;
        self.put_in_force(&registration, spec, target.health);
        let shown = self.show(&target, self.status_of(target_id).as_ref());
        Ok(with_etag(Json(shown).into_response(), target.version))
    }

    /// Switches a discovered target off or on; it stays so over restarts.
    async fn mute(&self, target_id: &str, patch: &Value) -> Result<Response, Problem> {
        let Some((spec, _)) = self.discovered(target_id) else { return Err(no_target(target_id)) };
        let enabled = match patch.as_object().map(|m| (m.len(), m.get("enabled"))) {
            Some((1, Some(Value::Bool(enabled)))) => *enabled,
            _ => return Err(managed_by_discovery(target_id)),
        };
        let known = self.catalog.get(target_id);
        let change = TargetPatch { enabled: Some(enabled), ..TargetPatch::default() };
        match (&known, enabled) {
            (Some(_), true) => drop(self.catalog.delete(target_id, self.now_ms()).await?),
            (Some(_), false) => drop(self.catalog.patch(target_id, &change, None, self.now_ms()).await?),
            (None, true) => {}
            (None, false) => {
                let origin = super::target_json::origin_text(&spec.origin);
                let row = catalog::NewTarget {
                    target_id: target_id.to_owned(),
                    target_url: without_password(spec.url.as_str())
                        .chars()
                        .take(super::registration::URL_CHARS_MAX)
                        .collect(),
                    source_type: "APPLICATION".to_owned(),
                    source_id: spec.source_id.clone(),
                    origin: origin.chars().take(200).collect(),
                    enabled: false,
                    ..catalog::NewTarget::default()
                };
                self.catalog.insert(row, self.now_ms()).await?;
            }
        }
        self.collector.set_enabled(target_id, enabled);
        match self.discovered(target_id) {
            Some((spec, status)) => Ok(Json(MetricTarget::discovered(&spec, &status, &self.node)).into_response()),
            None => Err(no_target(target_id)),
        }
    }
}

/// Scrapes a target now, as a normal collection.
#[utoipa::path(
    post, path = "/api/v1/metrics/targets/{target_id}/scrape", tag = "targets",
    params(("target_id" = String, Path, description = "Names the target")),
    responses(
        (status = 200, description = "What the scrape came to", body = ScrapeReport),
        (status = 404, description = "No such target", body = crate::rest::problem::ProblemBody),
        (status = 409, description = "The target is switched off", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn scrape(State(rest): State<Rest>, Path(target_id): Path<String>) -> Result<Response, Problem> {
    if rest.observer.push_targets().status(&target_id, 0).is_some() {
        let detail = format!("target {target_id:?} sends by itself and is not scraped");
        return Err(Problem::new(StatusCode::CONFLICT, "not_scraped", detail));
    }
    let Some(status) = rest.collector.status(&target_id) else { return Err(no_target(&target_id)) };
    if status.health == Health::Disabled {
        let detail = format!("target {target_id:?} is switched off");
        return Err(Problem::new(StatusCode::CONFLICT, "disabled", detail));
    }
    match rest.collector.scrape_now(&target_id).await {
        Some(outcome) => {
            let set = rest.collector.spec(&target_id).map(|spec| spec.filters).unwrap_or_default();
            Ok(Json(ScrapeReport::with_filters(&outcome, &set)).into_response())
        }
        None => Err(no_target(&target_id)),
    }
}

/// Answers `POST /targets/{id}:restore` and `:scrape`, the other spelling of `/restore` and `/scrape`.
pub async fn verb(State(rest): State<Rest>, Path(text): Path<String>) -> Result<Response, Problem> {
    match text.rsplit_once(':') {
        Some((target_id, "restore")) => restore(State(rest), Path(target_id.to_owned())).await,
        Some((target_id, "scrape")) => scrape(State(rest), Path(target_id.to_owned())).await,
        _ => {
            let detail = "POST /targets registers; POST /targets/{id}/scrape and /restore act on one";
            Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).allow("GET, PATCH, DELETE"))
        }
    }
}

/// Removes a target; its samples stay, or go with it when the deletion can no longer be undone.
#[utoipa::path(
    delete, path = "/api/v1/metrics/targets/{target_id}", tag = "targets",
    params(
        ("target_id" = String, Path, description = "Names the target"),
        ("purge" = Option<bool>, Query, description = "Delete its samples too; default: as its retention_policy says"),
    ),
    responses(
        (status = 200, description = "Deleted; the same answer again until undo_until", body = DeletionResult),
        (status = 404, description = "No such target", body = crate::rest::problem::ProblemBody),
        (status = 409, description = "Managed by discovery", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn remove(
    State(rest): State<Rest>,
    Path(target_id): Path<String>,
    headers: HeaderMap,
    Query(params): Query,
) -> Result<Response, Problem> {
    let purge = params.all("purge").next().is_some().then(|| flag(&params, "purge", false)).transpose()?;
    let version = if_match(&headers)?;
    let task = tokio::spawn(async move { rest.remove(&target_id, version, purge).await });
    task.await.unwrap_or_else(|_| Err(internal()))
}

impl Rest {
    async fn remove(&self, target_id: &str, version: Option<i64>, purge: Option<bool>) -> Result<Response, Problem> {
        let _changing = self.changing.lock().await;
        let now_ms = self.now_ms();
        let Some(target) = self.catalog.get(target_id).filter(|t| t.spec.origin == "api") else {
            return self.removed_before(target_id, now_ms, purge).await;
        };
        let asked = || Policy::from_value(&target.spec.retention_policy).is_some_and(|policy| policy.purge);
        let purge = purge.unwrap_or_else(asked);
        if let Some(expected) = version.filter(|v| *v != target.version) {
            let detail = format!("target {target_id:?} has version {}, not {expected}", target.version);
            return Err(Problem::new(StatusCode::PRECONDITION_FAILED, "version_mismatch", detail));
        }
        let deleted = self.catalog.delete(target_id, now_ms).await?;
        let undo_until_ms = deleted.undo_until_ms().unwrap_or(now_ms);
        if purge {
            self.schedule_purge(target_id, undo_until_ms).await?;
        }
        let pushes = self.observer.push_targets().remove(target_id);
        let stale = if pushes { 0 } else { self.collector.remove(target_id).await };
        self.catalog.forget(target_id);
        self.urls.lock().remove(target_id);
        let result = DeletionResult {
            target_id: target_id.to_owned(),
            deleted: true,
            status: "DELETED".to_owned(),
            stale_markers_written: stale,
            data: if purge { "PURGE_SCHEDULED" } else { "KEPT" }.to_owned(),
            purge_job_id: purge.then(|| purge_job_id(target_id, undo_until_ms)),
            undo_until: time::to_text(undo_until_ms),
            deleted_at: time::to_text(now_ms),
        };
        let body = serde_json::to_value(&result).unwrap_or_default();
        // The deletion is durable; only a repeated answer depends on this.
        if let Err(error) = self.catalog.set_deletion(target_id, body).await {
            tracing::warn!("{error}");
        }
        Ok(Json(result).into_response())
    }

    async fn schedule_purge(&self, target_id: &str, at_ms: i64) -> Result<(), Problem> {
        let (purge, id) = (self.purge.clone(), target_id.to_owned());
        let noted = tokio::task::spawn_blocking(move || purge(&id, at_ms)).await.map_err(|_| internal())?;
        noted.map_err(|why| {
            let detail =
                format!("target {target_id:?} is deleted, but that its samples go is not noted; ask again: {why}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "purge_failed", detail)
        })
    }

    async fn removed_before(&self, target_id: &str, now_ms: i64, purge: Option<bool>) -> Result<Response, Problem> {
        if self.discovered(target_id).is_some() {
            return Err(managed_by_discovery(target_id));
        }
        let gone = self.catalog.get_deleted(target_id).filter(|t| t.undo_until_ms().is_some_and(|u| now_ms <= u));
        let Some((until_ms, mut body)) = gone.and_then(|t| Some((t.undo_until_ms()?, t.deletion.clone()?))) else {
            return Err(no_target(target_id));
        };
        if purge == Some(true) {
            // The first time it may have been asked for without, or it did not get this far.
            self.schedule_purge(target_id, until_ms).await?;
            body["data"] = Value::from("PURGE_SCHEDULED");
            body["purge_job_id"] = Value::from(purge_job_id(target_id, until_ms));
            self.catalog.set_deletion(target_id, body.clone()).await?;
        }
        Ok(Json(body).into_response())
    }
}

/// Names a purge, equally for equal requests.
fn purge_job_id(target_id: &str, at_ms: i64) -> String {
    format!("purge-{target_id}-{at_ms}")
}

/// Undoes a deletion within ten minutes.
#[utoipa::path(
    post, path = "/api/v1/metrics/targets/{target_id}/restore", tag = "targets",
    params(("target_id" = String, Path, description = "Names the target")),
    responses(
        (status = 200, description = "Registered again", body = MetricTarget),
        (status = 404, description = "No such target", body = crate::rest::problem::ProblemBody),
        (status = 409, description = "Not deleted, or too long ago", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn restore(State(rest): State<Rest>, Path(target_id): Path<String>) -> Result<Response, Problem> {
    if !is_target_id(&target_id) {
        return Err(no_target(&target_id));
    }
    let task = tokio::spawn(async move { rest.restore(&target_id).await });
    task.await.unwrap_or_else(|_| Err(internal()))
}

impl Rest {
    async fn restore(&self, target_id: &str) -> Result<Response, Problem> {
        let _changing = self.changing.lock().await;
        let target: Arc<Target> = self.catalog.restore(target_id, self.now_ms()).await?;
        let registration = Registration::read(&target.spec.request, false, &self.address_policy)?;
        let spec = registration.to_spec(&self.address_policy, &self.vault)?;
        self.put_in_force(&registration, spec, target.health);
        let shown = self.show(&target, self.status_of(target_id).as_ref());
        Ok(with_etag(Json(shown).into_response(), target.version))
    }
}
