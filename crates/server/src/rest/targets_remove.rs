//! Removing targets, with their samples or without, and bringing them back.
//!
//! Invariant: the row of a deleted target says from the deletion on whether its samples go, so that every server that shares
//! the catalog knows.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use catalog::{CatalogError, Target};
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::body::{Query, flag, if_match};
use super::changing::{TRIES_MAX, never_first};
use super::problem::Problem;
use super::registration::is_target_id;
use super::retention::Policy;
use super::target_json::DeletionResult;
use super::targets::{no_target, with_etag};
use super::targets_change::{internal, managed_by_discovery};
use super::{Rest, time};

/// What a deletion says of samples that go when it cannot be undone any more.
const PURGE_SCHEDULED: &str = "PURGE_SCHEDULED";

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
        let _changing = self.begin_change().await?;
        let now_ms = self.now_ms();
        for _ in 0..TRIES_MAX {
            let Some(target) = self.catalog.get(target_id).filter(|t| t.spec.origin == "api") else {
                return self.removed_before(target_id, now_ms, purge).await;
            };
            let asked = || Policy::from_value(&target.spec.retention_policy).is_some_and(|policy| policy.purge);
            let purges = purge.unwrap_or_else(asked);
            // With the first word on it, so that all servers hear that the samples go.
            let result = deletion(target_id, now_ms, purges);
            let expected = version.unwrap_or(target.version);
            match self.catalog.delete(target_id, Some(expected), Some(to_value(&result)), now_ms).await {
                Err(CatalogError::VersionMismatch { .. }) if version.is_none() => {}
                Err(CatalogError::NotFound(_)) => {}
                deleted => {
                    deleted?;
                    return self.removed(result, purges).await;
                }
            }
        }
        Err(never_first(target_id))
    }

    /// Does what follows a deletion that is durable.
    async fn removed(&self, mut result: DeletionResult, purges: bool) -> Result<Response, Problem> {
        let target_id = &result.target_id;
        if purges {
            let until_ms = self.catalog.get_deleted(target_id).and_then(|t| t.undo_until_ms());
            if let Err(problem) = self.schedule_purge(target_id, until_ms.unwrap_or_else(|| self.now_ms())).await {
                // The row says it: whoever keeps the retention follows the catalog.
                tracing::warn!(target_id, "{}", problem.detail);
            }
        }
        let pushes = self.observer.push_targets().remove(target_id);
        result.stale_markers_written = if pushes { 0 } else { self.collector.remove(target_id).await };
        self.catalog.forget(target_id);
        self.urls.lock().remove(target_id);
        // The deletion is durable; only a repeated answer depends on this.
        if let Err(error) = self.catalog.set_deletion(target_id, to_value(&result)).await {
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
            body["data"] = Value::from(PURGE_SCHEDULED);
            body["purge_job_id"] = Value::from(purge_job_id(target_id, until_ms));
            self.catalog.set_deletion(target_id, body.clone()).await?;
        }
        Ok(Json(body).into_response())
    }
}

/// Says what a deletion comes to, before the last samples of the target have ended.
fn deletion(target_id: &str, now_ms: i64, purges: bool) -> DeletionResult {
    let undo_until_ms = now_ms.saturating_add(catalog::UNDO_WINDOW_MS);
    DeletionResult {
        target_id: target_id.to_owned(),
        deleted: true,
        status: "DELETED".to_owned(),
        stale_markers_written: 0,
        data: if purges { PURGE_SCHEDULED } else { "KEPT" }.to_owned(),
        purge_job_id: purges.then(|| purge_job_id(target_id, undo_until_ms)),
        undo_until: time::to_text(undo_until_ms),
        deleted_at: time::to_text(now_ms),
    }
}

fn to_value(result: &DeletionResult) -> Value {
    serde_json::to_value(result).unwrap_or_default()
}

/// Tells whether a deletion was answered with that the samples go.
pub fn purges(deletion: &Value) -> bool {
    deletion["data"] == PURGE_SCHEDULED
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
        (status = 200, description = "Registered again", body = crate::rest::target_json::MetricTarget),
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
        let _changing = self.begin_change().await?;
        let target: Arc<Target> = self.catalog.restore(target_id, self.now_ms()).await?;
        let (registration, spec) = self.read_registered(&target.spec.request)?;
        self.put_in_force(&registration, spec, target.health);
        let shown = self.show(&target, self.status_of(target_id).as_ref());
        Ok(with_etag(Json(shown).into_response(), target.version))
    }
}
