//! Registering targets, trying them out, scraping them now. Changing and removing: `targets_patch`, `targets_remove`.
//!
//! Invariant: catalog first, collector second, both under one lock per node.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use catalog::{CatalogError, StoredResponse, Target};
use collect::ScrapeOutcome;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use model::Health;
use serde_json::Value;
use utoipa::ToSchema;
use xxhash_rust::xxh3::xxh3_64;

use super::Rest;
use super::auth_config::seal;
use super::body::{Query, flag, idempotency_key, if_match, parse, read_json};
use super::changing::{Once, TRIES_MAX, never_first};
use super::problem::Problem;
use super::registration::Registration;
use super::target_json::{MetricTarget, ScrapeReport};
use super::targets::{no_target, with_etag};
use crate::access::Pass;

/// Bytes of a registration.
pub(super) const REGISTRATION_BYTES_MAX: usize = 1 << 20;

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
    /// `{"type": "NONE" | "BASIC" | "BEARER" | "API_KEY" | "OAUTH2" | "MTLS" | "SIGV4" | "GCP" | "AZURE_AD", ...}`. A secret is `{"value": "..."}`, which is sealed
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
    let key = idempotency_key(&headers)?;
    if flag(&params, "dry_run", false)? {
        return dry_run_of(&rest, &request.registration).await;
    }
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
pub(super) fn sealed(rest: &Rest, bytes: &[u8]) -> Result<Value, Problem> {
    let mut request = parse(bytes)?;
    seal(&mut request, &rest.vault, asked_by_admin())?;
    Ok(request)
}

/// Tells whether an admin asks; where nobody has to say who he is, the guard takes everybody for one.
pub(super) fn asked_by_admin() -> bool {
    Pass::in_force().is_some_and(|pass| pass.roles.is_admin())
}

pub(super) fn internal() -> Problem {
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
        let claimed = match Once::claim(self, format!("targets/{key}"), hash, self.now_ms()).await? {
            Once::Answered(response) => return Ok(response),
            Once::Work(claimed, _) => claimed,
        };
        let response = match self.register(request).await {
            Ok(response) => response,
            Err(problem) => {
                claimed.release().await;
                return Err(problem);
            }
        };
        let (parts, body) = response.into_parts();
        let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
            claimed.release().await;
            return Err(internal());
        };
        let location = parts.headers.get(header::LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
        let stored = StoredResponse {
            status: parts.status.as_u16(),
            head: location.to_owned(),
            body: String::from_utf8_lossy(&bytes).into_owned(),
        };
        claimed.finish(&stored).await?;
        Ok(Response::from_parts(parts, Body::from(bytes)))
    }

    async fn register(&self, request: &Register) -> Result<Response, Problem> {
        let registration = &request.registration;
        let target_id = &registration.target_id;
        let spec = registration.to_spec(&self.address_policy, &self.vault)?;
        let changing = self.begin_change().await?;
        if self.discovered(target_id).is_some() {
            return Err(managed_by_discovery(target_id));
        }
        let mut tries = 0..TRIES_MAX;
        let (target, existed) = loop {
            // Another server may have registered or deleted it since we looked: look again then.
            if tries.next().is_none() {
                return Err(never_first(target_id));
            }
            let new = registration.to_new_target();
            match self.catalog.get(target_id) {
                None if request.has_if_match => {
                    let detail = format!("there is no target {target_id:?} to match");
                    return Err(Problem::new(StatusCode::PRECONDITION_FAILED, "version_mismatch", detail));
                }
                None => match self.catalog.insert(new, self.now_ms()).await {
                    Err(CatalogError::Exists(_)) => {}
                    inserted => break (inserted?, false),
                },
                Some(old) if old.damage.is_none() && old.spec.request == new.request => {
                    let shown = self.show(&old, self.status_of(target_id).as_ref());
                    return Ok(with_etag(Json(shown).into_response(), old.version));
                }
                Some(old) if !request.replace && !request.has_if_match => return Err(conflict(&old, &new.request)),
                Some(_) => match self.catalog.replace(new, request.version, self.now_ms()).await {
                    Err(CatalogError::NotFound(_)) if !request.has_if_match => {}
                    replaced => break (replaced?, true),
                },
            }
        };
        self.put_in_force(registration, spec, target.health);
        drop(changing);
        let first = match request.wait && registration.enabled {
            true => self.collector.scrape_now(target_id).await,
            false => None,
        };
        let mut shown = self.show(&target, self.status_of(target_id).as_ref());
        shown.first_scrape = first.as_ref().map(|first| self.first_report(registration, first));
        if existed {
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

pub(super) fn managed_by_discovery(target_id: &str) -> Problem {
    let detail = format!("target {target_id:?} was found by discovery; PATCH {{\"enabled\": false}} mutes it");
    Problem::new(StatusCode::CONFLICT, "managed_by_discovery", detail)
}

/// Scrapes a target once; registers and stores nothing.
#[utoipa::path(
    post, path = "/api/v1/metrics/targets:dry-run", tag = "targets", request_body = MetricCollectionRequest,
    params(("strict" = Option<bool>, Query, description = "false ignores unknown fields")),
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
        Some((target_id, "restore")) => super::targets_remove::restore(State(rest), Path(target_id.to_owned())).await,
        Some((target_id, "scrape")) => scrape(State(rest), Path(target_id.to_owned())).await,
        _ => {
            let detail = "POST /targets registers; POST /targets/{id}/scrape and /restore act on one";
            Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).allow("GET, PATCH, DELETE"))
        }
    }
}
