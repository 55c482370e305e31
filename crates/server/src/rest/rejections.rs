//! `GET /targets/{id}/rejections`: what was refused of a target, or of a source of pushes.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use model::{LABEL_NAME, Labels};
use serde::Serialize;
use utoipa::ToSchema;

use super::Rest;
use super::custom::RejectionExample;
use super::problem::Problem;
use super::targets::no_target;
use super::time;
use crate::rejections::Record;

/// What was refused of one target since the start.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TargetRejections {
    /// The target, or the source of pushes.
    pub target_id: String,
    /// By reason; `filtered` is what filters and relabel rules took out, which is no refusal.
    pub rejections: Vec<RejectionsOfReason>,
    /// How many different values labels have among the new series that were refused lately, most first; a label that stands
    /// out is the one that explodes.
    pub label_values: Vec<LabelValueCount>,
    /// What was said to the sender last; null when no new series were refused.
    pub advice: Option<String>,
}

/// Samples refused for one reason.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RejectionsOfReason {
    /// Stable word.
    pub reason: String,
    /// Samples.
    pub count: u64,
    /// When the first one was refused.
    pub first_at: String,
    /// When the last one was refused.
    pub last_at: String,
    /// Some of the last ones.
    pub examples: Vec<RejectionExample>,
}

/// A label and about how many values it has.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LabelValueCount {
    /// Its name.
    pub label: String,
    /// About how many.
    pub values: u64,
}

/// Tells what was refused of a target or of a source of pushes, and why.
#[utoipa::path(
    get, path = "/api/v1/metrics/targets/{target_id}/rejections", tag = "targets",
    params(("target_id" = String, Path, description = "Names the target, or the source of pushes")),
    responses(
        (status = 200, description = "What was refused since the start; empty when nothing was", body = TargetRejections),
        (status = 404, description = "No such target, and nothing refused of a source of that name", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn rejections(
    State(rest): State<Rest>,
    Path(target_id): Path<String>,
) -> Result<Json<TargetRejections>, Problem> {
    let known = || rest.catalog.get(&target_id).is_some() || rest.collector.status(&target_id).is_some();
    match rest.rejections.of(&target_id) {
        Some(record) => Ok(Json(shown(target_id, record))),
        None if known() => Ok(Json(shown(target_id, Record::default()))),
        None => Err(no_target(&target_id)),
    }
}

fn shown(target_id: String, record: Record) -> TargetRejections {
    let of_reason = |(reason, refused): (&str, crate::rejections::Refused)| RejectionsOfReason {
        reason: reason.to_owned(),
        count: refused.count,
        first_at: time::to_text(refused.first_ms),
        last_at: time::to_text(refused.last_ms),
        examples: refused.examples.iter().map(example).collect(),
    };
    TargetRejections {
        target_id,
        rejections: {
            let refused = record.reasons.into_iter().map(|(reason, refused)| (reason.as_str(), refused));
            refused.chain(record.filtered.map(|filtered| ("filtered", filtered))).map(of_reason).collect()
        },
        label_values: record.labels.into_iter().map(|l| LabelValueCount { label: l.name, values: l.values }).collect(),
        advice: record.advice,
    }
}

fn example(labels: &Labels) -> RejectionExample {
    let others = labels.iter().filter(|(name, _)| *name != LABEL_NAME);
    let labels_shown: BTreeMap<String, String> = others.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    RejectionExample { name: labels.metric_name().to_owned(), labels: labels_shown }
}
