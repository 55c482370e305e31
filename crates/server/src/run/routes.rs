//! All routes of a server that is open.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRef, State};
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response, map_response_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use collect::Collector;
use store::Store;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;

use super::inflight::{self, Inflight};
use super::landing;
use super::reload::Reloader;
use crate::access::{Access, guard, tokens_api};
use crate::cache::{self, Latest};
use crate::config::settings::LimitSettings;
use crate::lines::{self, Influx};
use crate::live::{self, Live};
use crate::memory::Memory;
use crate::otlp::{self, Otlp};
use crate::prom::{self, BuildInfo, PromApi};
use crate::push::{self, Gateway};
use crate::rest::problem::Problem;
use crate::rest::{self, Rest};
use crate::sql::{self, Sql};
use crate::stream::{self, Streams};
use crate::telemetry::HttpMetrics;
use crate::telemetry::http::count;
use crate::telemetry::own::Own;
use crate::upload::{self, Uploads};

/// The state of all routes. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub rest: Rest,
    pub latest: Latest,
    pub prom: PromApi,
    pub gateway: Gateway,
    pub otlp: Otlp,
    pub influx: Influx,
    pub streams: Streams,
    pub live: Live,
    pub uploads: Uploads,
    pub sql: Sql,
    pub reloader: Arc<Reloader>,
    pub own: Arc<Own>,
    pub collector: Arc<Collector>,
    pub memory: Memory,
    pub store: Arc<Store>,
    pub access: Arc<Access>,
}

impl FromRef<App> for Arc<Access> {
    fn from_ref(app: &App) -> Arc<Access> {
        app.access.clone()
    }
}

impl FromRef<App> for Rest {
    fn from_ref(app: &App) -> Rest {
        app.rest.clone()
    }
}

impl FromRef<App> for Latest {
    fn from_ref(app: &App) -> Latest {
        app.latest.clone()
    }
}

impl FromRef<App> for Gateway {
    fn from_ref(app: &App) -> Gateway {
        app.gateway.clone()
    }
}

impl FromRef<App> for Otlp {
    fn from_ref(app: &App) -> Otlp {
        app.otlp.clone()
    }
}

impl FromRef<App> for Influx {
    fn from_ref(app: &App) -> Influx {
        app.influx.clone()
    }
}

impl FromRef<App> for Streams {
    fn from_ref(app: &App) -> Streams {
        app.streams.clone()
    }
}

impl FromRef<App> for Live {
    fn from_ref(app: &App) -> Live {
        app.live.clone()
    }
}

impl FromRef<App> for Uploads {
    fn from_ref(app: &App) -> Uploads {
        app.uploads.clone()
    }
}

impl FromRef<App> for Sql {
    fn from_ref(app: &App) -> Sql {
        app.sql.clone()
    }
}

impl FromRef<App> for PromApi {
    fn from_ref(app: &App) -> PromApi {
        app.prom.clone()
    }
}

/// Puts all routes together.
pub fn router(app: App, http: Arc<HttpMetrics>, limits: &LimitSettings) -> Router {
    let own = app.own.clone();
    let inflight = Inflight::new(app.memory.requests.clone(), limits.body_bytes_max);
    let access = app.access.clone();
    bounded()
        .fallback(no_such_path)
        .layer(from_fn_with_state(inflight, inflight::bound))
        .layer(CatchPanicLayer::custom(move |panic: Box<dyn Any + Send>| broken(&|| own.count_panic(), &*panic)))
        .layer(CompressionLayer::new())
        // Streams and uploads bound their own bodies, and each line must leave at once.
        .merge(streaming().layer(CatchPanicLayer::custom(stream_broken)))
        // In front of everything that reads a body.
        .layer(from_fn_with_state(access.clone(), guard::guard))
        .layer(map_response(no_sniffing))
        .layer(map_response_with_state(access, configured_headers))
        .layer(from_fn_with_state(http, count))
        .with_state(app)
}

/// The routes whose bodies are bounded by the room for requests.
fn bounded() -> Router<App> {
    Router::new()
        .route("/", get(landing::page))
        .route("/metrics", get(metrics))
        .route("/-/reload", post(reload).put(reload))
        .merge(rest::router::<App>())
        .merge(cache::router::<App>())
        .merge(tokens_api::router::<App>())
        .merge(prom::router::<App>())
        .merge(push::router::<App>())
        .merge(otlp::router::<App>())
        .merge(lines::router::<App>())
        .merge(sql::router::<App>())
}

/// The routes that bound their own.
fn streaming() -> Router<App> {
    stream::router::<App>().merge(upload::router::<App>()).merge(live::router::<App>())
}

/// What this binary is.
pub fn build_info() -> BuildInfo {
    BuildInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: option_env!("QUIVER_REVISION").unwrap_or("unknown").to_owned(),
        branch: option_env!("QUIVER_BRANCH").unwrap_or("unknown").to_owned(),
        build_user: String::new(),
        build_date: option_env!("QUIVER_BUILD_DATE").unwrap_or_default().to_owned(),
        rust_version: env!("CARGO_PKG_RUST_VERSION").to_owned(),
    }
}

/// `/metrics`
async fn metrics(State(app): State<App>) -> Response {
    let own = app.own.clone();
    // Counting a large head takes a while.
    match tokio::task::spawn_blocking(move || own.page()).await {
        Ok(page) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made\n").into_response(),
    }
}

/// `/-/reload`: 200, or 500 with every place that is wrong.
async fn reload(State(app): State<App>) -> Response {
    // Spawned: a client that goes away must not leave a configuration half in force.
    match tokio::spawn(async move { app.reloader.reload().await }).await {
        Ok(Ok(())) => StatusCode::OK.into_response(),
        Ok(Err(error)) => {
            let text = format!("failed to reload config: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed to reload config\n").into_response(),
    }
}

async fn no_such_path() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

/// What we send is what we say it is.
async fn no_sniffing(mut response: Response) -> Response {
    let name = header::X_CONTENT_TYPE_OPTIONS;
    response.headers_mut().entry(name).or_insert(header::HeaderValue::from_static("nosniff"));
    response
}

/// Headers that the operator wants in every answer.
async fn configured_headers(State(access): State<Arc<Access>>, mut response: Response) -> Response {
    for (name, value) in access.headers() {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    response
}

/// Panics of streams' handlers; what runs behind them is apart.
fn stream_broken(panic: Box<dyn Any + Send>) -> Response<Body> {
    broken(&|| (), &*panic)
}

/// A panic costs its request alone.
fn broken(count: &dyn Fn(), panic: &(dyn Any + Send)) -> Response<Body> {
    count();
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("unknown"), "a request broke off; this is a bug");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request met a bug; the log says more")
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tower::ServiceExt;

    async fn breaks() -> &'static str {
        panic!("a secret detail")
    }

    /// The patterns of a router, as it shows them to people who look for bugs.
    fn patterns(router: &Router<App>) -> Vec<String> {
        let shown = format!("{router:?}");
        let paths = regex::Regex::new("\"(/[^\"]*)\"").unwrap();
        let mut all: Vec<String> = paths.captures_iter(&shown).map(|c| c[1].to_owned()).collect();
        all.sort();
        all.dedup();
        // The router's own name for its fallback.
        all.retain(|path| !path.contains("__private__"));
        all
    }

    #[test]
    fn every_route_has_a_row_and_every_row_a_route() {
        use crate::access::table::{ROWS, row_of};
        let mut all = patterns(&bounded());
        all.extend(patterns(&streaming()));
        assert!(all.len() > 50 && all.iter().any(|p| p == "/api/v1/label/{name}/values"), "{all:?}");
        for path in &all {
            assert!(row_of(path).is_some(), "{path} has no row in access/table.rs");
        }
        let elsewhere = ["/-/healthy", "/-/ready", crate::otlp::grpc::PATH];
        for row in ROWS.iter().filter(|row| !elsewhere.contains(&row.path)) {
            assert!(all.iter().any(|path| path == row.path), "{} is no route", row.path);
        }
    }

    #[tokio::test]
    async fn a_panic_costs_its_request_alone_and_is_counted() {
        let panics = Arc::new(AtomicU64::new(0));
        let counted = panics.clone();
        let catch = CatchPanicLayer::custom(move |panic: Box<dyn Any + Send>| {
            let count = || {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            broken(&count, &*panic)
        });
        let router = Router::new().route("/x", get(breaks)).route("/y", get(|| async { "y" })).layer(catch);
        for (path, status) in [("/x", 500), ("/x", 500), ("/y", 200)] {
            let request = axum::http::Request::get(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
            assert!(!String::from_utf8_lossy(&body).contains("secret"));
        }
        assert_eq!(panics.load(Ordering::Relaxed), 2);
    }
}
