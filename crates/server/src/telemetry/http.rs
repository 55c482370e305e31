//! Requests counted by route, method and status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;
use sys::spans::{self, Context, Kind, Span};

use super::exposition::{Exposition, Histogram};
use super::trace::{self, TRACEPARENT};

/// The requests of this process. The routes are those of the router, so the table stays small.
#[derive(Default, Debug)]
pub struct HttpMetrics {
    routes: Mutex<BTreeMap<String, Arc<Route>>>,
}

#[derive(Default, Debug)]
struct Route {
    codes: Mutex<BTreeMap<(&'static str, u16), u64>>,
    seconds: Histogram,
}

impl HttpMetrics {
    fn record(&self, route: &str, method: &'static str, code: u16, seconds: f64) {
        let entry = self.routes.lock().entry(route.to_owned()).or_default().clone();
        *entry.codes.lock().entry((method, code)).or_default() += 1;
        entry.seconds.observe(seconds);
    }

    /// Writes the counts.
    pub fn render(&self, page: &mut Exposition) {
        let routes: Vec<_> = self.routes.lock().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        page.family("quiver_http_requests_total", "counter", "Requests answered, by route, method and status.");
        for (name, route) in &routes {
            for ((method, code), count) in route.codes.lock().iter() {
                let labels = [("handler", name.as_str()), ("method", method), ("code", &code.to_string())];
                page.sample(&labels, *count as f64);
            }
        }
        page.family("quiver_http_request_duration_seconds", "histogram", "Time until the head of the answer.");
        for (name, route) in &routes {
            page.histogram(&[("handler", name)], &route.seconds);
        }
    }
}

/// Counts a request; a layer of the router.
pub async fn count(State(metrics): State<Arc<HttpMetrics>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("other".to_owned(), |p| p.as_str().to_owned());
    let method = method_name(request.method());
    let parent = request.headers().get(TRACEPARENT).and_then(|v| Context::parse(v.to_str().ok()?));
    let response = match (parent, spans::is_on()) {
        (None, false) => next.run(request).await,
        (parent, _) => traced(parent, &route, request, next).await,
    };
    metrics.record(&route, method, response.status().as_u16(), started.elapsed().as_secs_f64());
    response
}

/// Answers a request within a trace: that of who asks, or one that begins here.
async fn traced(parent: Option<Context>, route: &str, request: Request, next: Next) -> Response {
    let context = parent.map_or_else(Context::new, |parent| parent.below());
    let method = request.method().clone();
    // Methods are the client's words here, too.
    let word = if method_name(&method) == "other" { "_OTHER" } else { method.as_str() };
    let mut span = Span::at(context, parent.map(|parent| parent.span_id), format!("{word} {route}"), Kind::Server);
    span.note("http.request.method", word);
    span.note("http.route", route);
    span.note("url.path", request.uri().path());
    let response = trace::within(context, next.run(request)).await;
    span.note("http.response.status_code", u64::from(response.status().as_u16()));
    if response.status().is_server_error() {
        span.fail(response.status().canonical_reason().unwrap_or("it failed"));
    }
    response
}

/// Methods are the client's words: only the known ones become labels.
fn method_name(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "HEAD" => "head",
        "OPTIONS" => "options",
        _ => "other",
    }
}
