//! The paths of Prometheus 3.x under `/api/v1`, its parameters, texts and status codes.
//!
//! Owns: nothing that outlives a request but the writer's buffers.
//! Invariants: 1. every answer of these paths has Prometheus' envelope; 2. whatever may block runs where it may.

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use collect::report::BatchIds;
use collect::{Collector, DroppedTarget, TargetSpec, TargetStatus};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use model::relabel::Rule;
use model::{Append, CollectionReport, Labels, Matcher, Select, TimeRange};
use store::{BlockInfo, Exemplar, StoreStats};
use tokio::sync::{Semaphore, watch};

use super::admin::Admin;
use super::service::QueryService;
use super::status::{BuildInfo, RuntimeInfo};
use super::write::{WriteLimits, Writer, WriterParts};
use super::{admin, federate, lookup, notices, query, read, relabel_steps, rules, search, status, targets, write};
use crate::alerting::GroupView;
use crate::telemetry::Exposition;

/// Gives something whenever it is asked.
pub type Source<T> = Arc<dyn Fn() -> T + Send + Sync>;
/// Finds exemplars of matching series in a range.
pub type FindExemplars = Arc<dyn Fn(&[Matcher], TimeRange) -> Vec<(Labels, Vec<Exemplar>)> + Send + Sync>;
/// Gives the `relabel_configs` of a scrape pool; `None` where there is none of that name.
pub type RelabelRules = Arc<dyn Fn(&str) -> Option<Vec<Rule>> + Send + Sync>;
/// Hears of the collections of pushes.
pub type Pushed = Arc<dyn Fn(CollectionReport) + Send + Sync>;

/// What the Prometheus API works with.
pub struct PromParts {
    /// The way into the store.
    pub append: Arc<dyn Append>,
    /// The way out of it.
    pub select: Arc<dyn Select>,
    /// Runs the queries.
    pub queries: QueryService,
    /// Gives all targets with their state, registered and discovered, disabled ones included.
    pub targets: Source<Vec<(TargetSpec, TargetStatus)>>,
    /// Gives the discovered targets that are not scraped, with their job.
    pub dropped: Source<Vec<(String, DroppedTarget)>>,
    /// Finds exemplars.
    pub exemplars: FindExemplars,
    /// Counts the store.
    pub store_stats: Source<StoreStats>,
    /// Gives what blocks there are.
    pub blocks: Source<Vec<BlockInfo>>,
    /// Gives the rules that make the targets of a pool out of what is discovered.
    pub relabel_rules: RelabelRules,
    /// Gives the configuration that is in force, as YAML.
    pub config_text: Source<String>,
    /// Gives the labels that stand for this server towards others: `external_labels`.
    pub external_labels: Source<Vec<(String, String)>>,
    /// Gives the command line's flags, without their dashes.
    pub flags: Source<Vec<(String, String)>>,
    /// Gives the state of the process.
    pub runtime: Source<RuntimeInfo>,
    /// Deletes and copies; `None` when that is switched off.
    pub admin: Option<Arc<Admin>>,
    /// What this binary is.
    pub build: BuildInfo,
    /// `host:port` under which others reach this server; stands in for loopback in `globalUrl`.
    pub external_host: String,
    /// Gives the time, in milliseconds since 1970.
    pub now: Source<i64>,
    /// Limits of remote write.
    pub write_limits: WriteLimits,
    /// Numbers batches.
    pub batch_ids: Arc<BatchIds>,
    /// Hears of remote write: once per source and second.
    pub pushed: Pushed,
    /// The room for bytes of requests in flight, when it is shared with others.
    pub room: Option<Arc<Semaphore>>,
    /// Gives the groups of rules.
    pub rules: Source<Vec<GroupView>>,
    /// Gives the URLs of the Alertmanagers, and the addresses that relabeling dropped.
    pub alertmanagers: Source<(Vec<String>, Vec<String>)>,
    /// Turns true when the server stops.
    pub stop: watch::Receiver<bool>,
}

/// The state of the Prometheus API. Cheap to clone.
#[derive(Clone)]
pub struct PromApi(Arc<Inner>);

/// What stands behind [`PromApi`].
pub struct Inner {
    parts: PromParts,
    /// Takes remote write.
    pub writer: Writer,
    /// Those who listen to notices.
    pub(super) listeners: Arc<Semaphore>,
}

impl Deref for Inner {
    type Target = PromParts;

    fn deref(&self) -> &PromParts {
        &self.parts
    }
}

impl Deref for PromApi {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Makes [`PromParts::targets`] out of a collector.
pub fn targets_of(collector: Arc<Collector>) -> Source<Vec<(TargetSpec, TargetStatus)>> {
    Arc::new(move || {
        let statuses = collector.statuses().into_iter();
        statuses.filter_map(|status| Some((collector.spec(&status.target_id)?, status))).collect()
    })
}

impl PromApi {
    /// Puts the parts together.
    pub fn new(parts: PromParts) -> PromApi {
        let writer_parts = WriterParts {
            append: Arc::clone(&parts.append),
            select: Arc::clone(&parts.select),
            batch_ids: Arc::clone(&parts.batch_ids),
            pushed: Arc::clone(&parts.pushed),
            now: Arc::clone(&parts.now),
            limits: parts.write_limits,
        };
        let writer = match &parts.room {
            Some(room) => Writer::sharing(writer_parts, Arc::clone(room)),
            None => Writer::new(writer_parts),
        };
        let listeners = Arc::new(Semaphore::new(notices::LISTENERS_MAX));
        PromApi(Arc::new(Inner { parts, writer, listeners }))
    }

    /// Reports remote write each second; ends when the server stops, with a last report.
    pub async fn report_writes(self, stop: watch::Receiver<bool>) {
        self.writer.report_each_second(stop).await;
    }

    /// Writes the figures of queries and remote write.
    pub fn render(&self, page: &mut Exposition) {
        self.queries.stats().render(page);
        self.queries.cache().render(page);
        self.queries.elsewhere().render(page);
        self.writer.stats().render(page);
    }
}

/// Makes the routes; the state must give a [`PromApi`].
pub fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    PromApi: FromRef<S>,
{
    let path = |rest: &str| format!("/api/v1{rest}");
    let asked = Router::new()
        .route(&path("/query"), get(query::instant).post(query::instant))
        .route(&path("/query_range"), get(query::range).post(query::range))
        .route(&path("/query_exemplars"), get(query::exemplars).post(query::exemplars))
        .route(&path("/format_query"), get(query::format).post(query::format))
        .route(&path("/parse_query"), get(query::parse).post(query::parse))
        .route(&path("/series"), get(lookup::series).post(lookup::series).delete(lookup::drop_series))
        .route(&path("/labels"), get(lookup::labels).post(lookup::labels))
        .route(&path("/label/{name}/values"), get(lookup::label_values))
        .route(&path("/metadata"), get(targets::metadata))
        .route(&path("/targets"), get(targets::targets))
        .route(&path("/targets/metadata"), get(targets::target_metadata))
        .route(&path("/targets/relabel_steps"), get(relabel_steps::relabel_steps))
        .route(&path("/scrape_pools"), get(targets::scrape_pools))
        .route(&path("/alertmanagers"), get(rules::alertmanagers))
        .route(&path("/alerts"), get(rules::alerts))
        .route(&path("/rules"), get(rules::rules))
        .route(&path("/search/metric_names"), get(search::metric_names).post(search::metric_names))
        .route(&path("/search/label_names"), get(search::label_names).post(search::label_names))
        .route(&path("/search/label_values"), get(search::label_values).post(search::label_values))
        .route(&path("/notifications"), get(notices::notifications))
        .route(&path("/notifications/live"), get(notices::live))
        .route(&path("/features"), get(status::features))
        .route(&path("/status/config"), get(status::config))
        .route(&path("/status/flags"), get(status::flags))
        .route(&path("/status/runtimeinfo"), get(status::runtime))
        .route(&path("/status/buildinfo"), get(status::build))
        .route(&path("/status/tsdb"), get(status::tsdb))
        .route(&path("/status/tsdb/blocks"), get(status::blocks))
        .route(&path("/status/walreplay"), get(status::wal_replay))
        .route(&path("/admin/tsdb/{verb}"), post(admin::admin).put(admin::admin))
        .route("/api/v1", any(no_such_path))
        .route(&path("/"), any(no_such_path))
        .route(&path("/{*rest}"), any(no_such_path))
        .method_not_allowed_fallback(other_method)
        .layer(from_fn(cors));
    Router::new()
        .route(&path("/write"), post(write::write))
        .route(&path("/read"), post(read::read))
        .route("/federate", get(federate::federate))
        .method_not_allowed_fallback(other_method)
        .merge(asked)
}

/// Adds Prometheus' headers for pages of other origins (`--web.cors.origin` is `.*` by default) and answers OPTIONS.
async fn cors(request: Request, next: Next) -> Response {
    const ADDED: [(HeaderName, &str); 5] = [
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Accept, Authorization, Content-Type, Origin"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
        (header::VARY, "Origin"),
    ];
    let from_page = request.headers().get(header::ORIGIN).is_some_and(|origin| !origin.is_empty());
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    if from_page {
        for (name, value) in ADDED {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// What Go's routers say; the router adds `Allow`.
pub(crate) async fn other_method() -> Response {
    let nosniff = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::METHOD_NOT_ALLOWED, nosniff, "Method Not Allowed\n").into_response()
}

async fn no_such_path() -> Response {
    let nosniff = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::NOT_FOUND, nosniff, "404 page not found\n").into_response()
}
