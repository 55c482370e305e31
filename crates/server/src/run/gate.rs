//! Stands before the routes while the server starts and stops.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use parking_lot::Mutex;
use tower::ServiceExt;

use super::outside::Outside;

/// Tells how far the replay is; it says nothing of what is stored, and asks for no role.
const REPLAY: &str = "/api/v1/status/walreplay";

/// Lets requests through once there is something behind it.
pub struct Gate {
    app: OnceLock<Router>,
    closed: AtomicBool,
    progress: Mutex<String>,
    /// First and last segment of the log that is replayed.
    segments: Mutex<(u64, u64)>,
    started: Instant,
}

impl Gate {
    /// Starts shut.
    pub fn new() -> Gate {
        Gate {
            app: OnceLock::new(),
            closed: AtomicBool::new(false),
            progress: Mutex::new("starting".to_owned()),
            segments: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Says what the start is doing now.
    pub fn progress(&self, text: impl Into<String>) {
        *self.progress.lock() = text.into();
    }

    /// Says which segments of the log are replayed, from the first to the last.
    pub fn replaying(&self, segments: (u64, u64)) {
        *self.segments.lock() = segments;
    }

    /// Opens; a second call does nothing.
    pub fn open(&self, app: Router) {
        let _ = self.app.set(app);
    }

    /// Says that the server stops; requests under way go on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Makes the outermost routes, below the path that others ask for.
    pub fn router(self: &Arc<Gate>, outside: &Outside) -> Router {
        let routes = Router::new()
            .route("/-/healthy", get(|| async { "Quiver is healthy.\n" }))
            .route("/-/ready", get(ready))
            .fallback(pass)
            .with_state(self.clone());
        if outside.prefix().is_empty() && outside.shown().is_empty() {
            return routes;
        }
        // No `nest`: what a route is called must not depend on the prefix.
        Router::new().fallback(below).with_state(Below { outside: Arc::new(outside.clone()), routes })
    }

    /// Tells why not, if not.
    pub fn shut(&self) -> Option<String> {
        if self.closed.load(Ordering::Relaxed) {
            return Some("stopping".to_owned());
        }
        if self.app.get().is_some() {
            return None;
        }
        Some(format!("{}, for {:.1} s", self.progress.lock(), self.started.elapsed().as_secs_f64()))
    }
}

/// The routes, and what stands in front of their paths.
#[derive(Clone)]
struct Below {
    outside: Arc<Outside>,
    routes: Router,
}

async fn below(State(below): State<Below>, mut request: Request) -> Response {
    if !below.outside.prefix().is_empty() {
        match below.outside.inner(request.uri()) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(answer) => return *answer,
        }
    }
    // A router never fails.
    let mut response = below.routes.oneshot(request).await.unwrap_or_else(|never| match never {});
    below.outside.outward(&mut response);
    response
}

async fn ready(State(gate): State<Arc<Gate>>) -> Response {
    match gate.shut() {
        None => "Quiver is ready.\n".into_response(),
        Some(why) => unavailable(&why),
    }
}

async fn pass(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    match gate.app.get() {
        // A router never fails.
        Some(app) => app.clone().oneshot(request).await.unwrap_or_else(|never| match never {}),
        // As in Prometheus, it is there while there is something to tell.
        None if request.uri().path() == REPLAY => {
            let (first, last) = *gate.segments.lock();
            let body = format!(r#"{{"status":"success","data":{{"min":{first},"max":{last},"current":{first}}}}}"#);
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        None => unavailable(&gate.shut().unwrap_or_default()),
    }
}

fn unavailable(why: &str) -> Response {
    let text = format!("Quiver is not ready: {why}.\n");
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    async fn status(gate: &Arc<Gate>, path: &str) -> u16 {
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        gate.router(&Outside::default()).oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn below_a_prefix_routes_are_called_as_ever() {
        let gate = Arc::new(Gate::new());
        let named = |path: axum::extract::MatchedPath| async move { path.as_str().to_owned() };
        gate.open(Router::new().route("/x/{y}", get(named)));
        let router = gate.router(&Outside::read(None, Some("/q")).unwrap());
        for (path, status, body) in [
            ("/q/x/1", 200, "/x/{y}"),
            ("/q/-/ready", 200, "Quiver is ready.\n"),
            ("/x/1", 404, "404 page not found\n"),
        ] {
            let request = http::Request::get(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{path}");
            let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
            assert_eq!(bytes, body.as_bytes(), "{path}");
        }
    }

    #[tokio::test]
    async fn the_replay_is_told_while_it_lasts() {
        let gate = Arc::new(Gate::new());
        gate.replaying((3, 7));
        let request = || http::Request::get(REPLAY).body(Body::empty()).unwrap();
        let response = gate.router(&Outside::default()).oneshot(request()).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        assert_eq!(body, br#"{"status":"success","data":{"min":3,"max":7,"current":3}}"#[..]);
        gate.open(Router::new());
        let response = gate.router(&Outside::default()).oneshot(request()).await.unwrap();
        assert_eq!(response.status(), 404, "then it is for the routes behind it");
    }

    #[tokio::test]
    async fn ready_only_between_opening_and_closing() {
        let gate = Arc::new(Gate::new());
        for (path, expected) in [("/-/healthy", 200), ("/-/ready", 503), ("/x", 503)] {
            assert_eq!(status(&gate, path).await, expected, "{path}");
        }
        gate.open(Router::new().route("/x", get(|| async { "x" })));
        for (path, expected) in [("/-/healthy", 200), ("/-/ready", 200), ("/x", 200), ("/y", 404)] {
            assert_eq!(status(&gate, path).await, expected, "{path}");
        }
        gate.close();
        for (path, expected) in [("/-/healthy", 200), ("/-/ready", 503), ("/x", 200)] {
            assert_eq!(status(&gate, path).await, expected, "{path}");
        }
    }
}
