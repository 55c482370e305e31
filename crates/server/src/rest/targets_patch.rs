//! Changing parts of targets; discovered ones can be switched off and on.
//!
//! Invariant: a patch is applied to what the catalog has, whichever server changed it last.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use catalog::{CatalogError, TargetPatch};
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::Rest;
use super::auth_config::{carries_secrets_away, make_way};
use super::body::{Query, flag, if_match, read_json};
use super::changing::{TRIES_MAX, never_first};
use super::problem::Problem;
use super::registration::{Registration, merge};
use super::target_json::MetricTarget;
use super::targets::{no_target, with_etag};
use super::targets_change::{REGISTRATION_BYTES_MAX, asked_by_admin, internal, managed_by_discovery, sealed};
use model::secret_url::without_password;

/// Levels of a merge patch.
const PATCH_DEPTH_MAX: usize = 8;

/// Changes parts of a target.
#[utoipa::path(
    patch, path = "/api/v1/metrics/targets/{target_id}", tag = "targets",
    params(
        ("target_id" = String, Path, description = "Names the target"),
        ("If-Match" = Option<String>, Header, description = "ETag of the version to change"),
        ("strict" = Option<bool>, Query, description = "false ignores unknown fields"),
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
        rights: (bool, bool),
        version: Option<i64>,
    ) -> Result<Response, Problem> {
        let _changing = self.begin_change().await?;
        for _ in 0..TRIES_MAX {
            if let Some(response) = self.patch_known(target_id, patch, rights, version).await? {
                return Ok(response);
            }
        }
        Err(never_first(target_id))
    }

    /// Changes a target as it is known; `None` when another server has changed it meanwhile, so that nobody undoes what he
    /// has not seen.
    async fn patch_known(
        &self,
        target_id: &str,
        patch: &Value,
        (strict, admin): (bool, bool),
        version: Option<i64>,
    ) -> Result<Option<Response>, Problem> {
        let Some(old) = self.catalog.get(target_id).filter(|t| t.spec.origin == "api") else {
            return self.mute(target_id, patch).await.map(Some);
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
            return Ok(Some(with_etag(Json(shown).into_response(), old.version)));
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
        let expected = version.unwrap_or(old.version);
        let target = match self.catalog.patch(target_id, &patch, Some(expected), self.now_ms()).await {
            Err(CatalogError::VersionMismatch { .. }) if version.is_none() => return Ok(None),
            patched => patched?,
        };
        self.put_in_force(&registration, spec, target.health);
        let shown = self.show(&target, self.status_of(target_id).as_ref());
        Ok(Some(with_etag(Json(shown).into_response(), target.version)))
    }

    /// Switches a discovered target off or on; it stays so over restarts.
    async fn mute(&self, target_id: &str, patch: &Value) -> Result<Response, Problem> {
        let Some((spec, _)) = self.discovered(target_id) else { return Err(no_target(target_id)) };
        let enabled = match patch.as_object().map(|m| (m.len(), m.get("enabled"))) {
            Some((1, Some(Value::Bool(enabled)))) => *enabled,
            _ => return Err(managed_by_discovery(target_id)),
        };
        let done = match (self.catalog.get(target_id), enabled) {
            (Some(_), true) => self.catalog.delete(target_id, None, None, self.now_ms()).await,
            (Some(_), false) => {
                let change = TargetPatch { enabled: Some(false), ..TargetPatch::default() };
                self.catalog.patch(target_id, &change, None, self.now_ms()).await
            }
            (None, true) => Err(CatalogError::NotFound(target_id.to_owned())),
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
                self.catalog.insert(row, self.now_ms()).await
            }
        };
        match done {
            // Somebody else muted it, or let it speak again, meanwhile or before.
            Err(CatalogError::NotFound(_)) if enabled => {}
            Err(CatalogError::Exists(_)) => {}
            done => drop(done?),
        }
        self.collector.set_enabled(target_id, enabled);
        match self.discovered(target_id) {
            Some((spec, status)) => Ok(Json(MetricTarget::discovered(&spec, &status, &self.node)).into_response()),
            None => Err(no_target(target_id)),
        }
    }
}
