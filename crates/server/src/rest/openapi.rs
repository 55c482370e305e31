//! `/openapi.json`, and a page that shows it.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::response::{Html, IntoResponse, Response};
use http::{HeaderValue, header};
use serde_json::Value;
use utoipa::OpenApi;

use super::openapi_exact::lay_over;

use super::{
    custom, events_api, explain, integrity, problem, query, rejections, sd, stats, target_json, targets,
    targets_change, targets_patch, targets_remove,
};

/// The document of the REST API.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Quiver",
        description = "Metrics collection: register targets, push metrics, ask in PromQL, listen to collections. \
                       The Prometheus HTTP API (/api/v1/query and its siblings) is served on the same port; its answers are described at prometheus.io.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        targets_change::register,
        targets::list,
        targets::get_one,
        crate::cache::latest_metrics,
        targets_patch::patch,
        targets_remove::remove,
        targets_change::scrape,
        targets_remove::restore,
        targets_change::dry_run,
        rejections::rejections,
        explain::explain,
        explain::filters,
        custom::custom,
        query::query,
        stats::stats,
        integrity::integrity,
        integrity::scrub,
        events_api::stream,
        sd::sd,
        crate::access::tokens_api::list,
        crate::access::tokens_api::create,
        crate::access::tokens_api::revoke,
        crate::stream::to_here,
        crate::stream::from_here,
        crate::live::live,
        crate::sql::ask,
        crate::upload::create,
        crate::upload::append,
        crate::upload::show,
        crate::upload::list,
        crate::upload::cancel,
    ),
    components(schemas(
        targets_change::MetricCollectionRequest,
        targets_change::ScrapeConfig,
        target_json::MetricTarget,
        crate::cache::LatestMetric,
        target_json::ScrapeReport,
        target_json::DeletionResult,
        rejections::TargetRejections,
        explain::Explanation,
        explain::FilterReport,
        custom::Metric,
        custom::IngestionResult,
        stats::CollectionStats,
        integrity::IntegrityReport,
        integrity::ScrubJson,
        events_api::MetricsCollectedEvent,
        problem::ProblemBody,
        problem::FieldError,
        sd::SdGroup,
        crate::sql::SqlRequest,
        crate::upload::UploadStatus,
        crate::access::tokens_api::TokenShown,
        crate::access::tokens_api::TokenRequest,
    )),
    modifiers(&Schemes),
    security(("token" = []), ("password" = [])),
    tags(
        (name = "targets", description = "What is collected"),
        (name = "ingestion", description = "Pushing metrics"),
        (name = "query", description = "Asking"),
        (name = "stats", description = "How it goes"),
        (name = "integrity", description = "What is missing, and why"),
        (name = "events", description = "Hearing of every collection"),
        (name = "prometheus", description = "The HTTP API of Prometheus, for its clients"),
        (name = "access", description = "Who may come in; see docs/access.md"),
    ),
)]
pub struct ApiDoc;

/// How to say who one is, once anybody has to.
struct Schemes;

impl utoipa::Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        let components = document.components.get_or_insert_default();
        let scheme = |kind| SecurityScheme::Http(Http::new(kind));
        components.add_security_scheme("token", scheme(HttpAuthScheme::Bearer));
        components.add_security_scheme("password", scheme(HttpAuthScheme::Basic));
    }
}

/// Gives the whole document.
pub fn whole() -> Value {
    lay_over(serde_json::to_value(ApiDoc::openapi()).unwrap_or_default())
}

/// The document as it is sent; it never changes.
static TEXT: LazyLock<Bytes> = LazyLock::new(|| whole().to_string().into());

/// Gives the document.
pub async fn document() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], TEXT.clone()).into_response()
}

/// Gives the page.
pub async fn page() -> Response {
    let mut response = Html(include_str!("openapi.html")).into_response();
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_the_six_endpoints_of_the_specification() {
        let document = whole();
        for (path, method) in [
            ("/api/v1/metrics/targets", "post"),
            ("/api/v1/metrics/targets", "get"),
            ("/api/v1/metrics/custom", "post"),
            ("/api/v1/metrics/query", "get"),
            ("/api/v1/metrics/stats", "get"),
            ("/api/v1/metrics/targets/{target_id}", "delete"),
        ] {
            assert!(document["paths"][path][method].is_object(), "{method} {path}");
        }
        for schema in [
            "MetricCollectionRequest",
            "MetricTarget",
            "Metric",
            "IngestionResult",
            "CollectionStats",
            "DeletionResult",
        ] {
            assert!(document["components"]["schemas"][schema].is_object(), "{schema}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = whole();
        let text = document.to_string();
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().unwrap_or_default();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
