//! `GET /sd`: our registered targets for the `http_sd_configs` of others.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use collect::AddressPolicy;
use serde::Serialize;
use utoipa::ToSchema;

use super::Rest;
use super::body::Query;
use super::registration::Registration;

/// One group of Prometheus' HTTP service discovery.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SdGroup {
    /// Host and port.
    pub targets: Vec<String>,
    /// Labels, `__scheme__` and `__metrics_path__` included.
    pub labels: BTreeMap<String, String>,
}

/// Lists enabled registered targets.
#[utoipa::path(
    get, path = "/api/v1/metrics/sd", tag = "targets",
    params(("source_id" = Option<String>, Query, description = "Only targets of this source")),
    responses((status = 200, description = "Groups for http_sd_configs", body = Vec<SdGroup>))
)]
pub async fn sd(State(rest): State<Rest>, Query(params): Query) -> Json<Vec<SdGroup>> {
    let wanted = params.get("source_id");
    let mut groups = Vec::new();
    for target in rest.catalog.all() {
        let spec = &target.spec;
        if !spec.enabled || spec.origin != "api" || (!wanted.is_empty() && spec.source_id != wanted) {
            continue;
        }
        if let Ok(registration) = Registration::read(&spec.request, false, &AddressPolicy::allow_all()) {
            groups.extend(group(&registration));
        }
    }
    Json(groups)
}

/// Sources that push are nothing to scrape.
fn group(r: &Registration) -> Option<SdGroup> {
    let scrape = r.scrape.as_ref()?;
    let url = &scrape.url;
    let mut labels = r.labels.clone();
    let interval = |ms: u64| model::format_duration_ms(i64::try_from(ms).unwrap_or(i64::MAX));
    labels.entry("job".to_owned()).or_insert_with(|| r.source_id.clone());
    labels.insert("__scheme__".to_owned(), url.scheme().to_owned());
    labels.insert("__metrics_path__".to_owned(), url.path().to_owned());
    labels.insert("__scrape_interval__".to_owned(), interval(scrape.interval_ms));
    labels.insert("__scrape_timeout__".to_owned(), interval(scrape.timeout_ms));
    labels.insert("__meta_quiver_target_id".to_owned(), r.target_id.clone());
    for (name, values) in &url.params {
        if let Some(first) = values.first() {
            labels.insert(format!("__param_{name}"), first.clone());
        }
    }
    Some(SdGroup { targets: vec![url.address.clone()], labels })
}
