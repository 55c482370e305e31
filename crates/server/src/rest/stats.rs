//! `GET /stats`: CollectionStats, computed live on this node.

use axum::Json;
use axum::extract::State;
use model::Health;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::Query;
use super::problem::Problem;
use super::target_json::Balance;
use super::{Rest, time};

/// The specification's CollectionStats, and what explains it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CollectionStats {
    /// Registered and discovered.
    pub total_targets: u64,
    /// Those that are `healthy`.
    pub healthy_targets: u64,
    /// Samples accepted since the data directory was made.
    pub total_metrics_collected: u64,
    /// Samples accepted per second, over the last 60 s.
    pub collection_rate_per_second: f64,
    /// Over completed scrapes of the last 5 min.
    pub average_scrape_duration_ms: f64,
    /// Failed by tried collections of the last 5 min; 0 when there were none.
    pub error_rate: f64,
    /// Half of the scrapes were faster; to 5 %.
    pub scrape_duration_p50_ms: f64,
    /// 95 % of the scrapes were faster; to 5 %.
    pub scrape_duration_p95_ms: f64,
    /// 99 % of the scrapes were faster; to 5 %.
    pub scrape_duration_p99_ms: f64,
    /// Targets by state.
    pub targets_by_health: std::collections::BTreeMap<String, u64>,
    /// What became of all samples since the data directory was made.
    pub balance: Balance,
    /// When this was computed.
    pub as_of: String,
    /// `node`.
    pub scope: String,
}

/// Gives the statistics.
#[utoipa::path(
    get, path = "/api/v1/metrics/stats", tag = "stats",
    params(("scope" = Option<String>, Query, description = "node; there is no other")),
    responses((status = 200, description = "Live statistics of this node", body = CollectionStats))
)]
pub async fn stats(State(rest): State<Rest>, Query(params): Query) -> Result<Json<CollectionStats>, Problem> {
    match params.get("scope") {
        "" | "node" => {}
        "cluster" => return Err(Problem::not_yet("?scope", "clusters are not built yet")),
        other => return Err(Problem::parameter("scope", format!("scope {other:?} is neither node nor cluster"))),
    }
    Ok(Json(rest.collection_stats()))
}

impl Rest {
    /// Computes the statistics of this node.
    pub fn collection_stats(&self) -> CollectionStats {
        let now_ms = self.now_ms();
        let totals = (self.totals)();
        let recent = self.observer.recent(now_ms, totals.stored);
        let health = self.all_health();
        let count = |h: Health| health.iter().filter(|x| **x == h).count() as u64;
        CollectionStats {
            total_targets: health.len() as u64,
            healthy_targets: count(Health::Healthy),
            total_metrics_collected: totals.stored,
            collection_rate_per_second: recent.samples_per_second,
            average_scrape_duration_ms: recent.duration_mean_ms,
            error_rate: recent.error_rate(),
            scrape_duration_p50_ms: recent.duration_p50_ms,
            scrape_duration_p95_ms: recent.duration_p95_ms,
            scrape_duration_p99_ms: recent.duration_p99_ms,
            targets_by_health: Health::ALL.iter().map(|h| (h.as_str().to_owned(), count(*h))).collect(),
            balance: Balance::from(&totals),
            as_of: time::to_text(now_ms),
            scope: "node".to_owned(),
        }
    }
}
