//! A bound on the bytes of all request bodies that are being worked on.
//!
//! A request reserves what its body may become: its declared length, or the limit of a body when it has none or is
//! compressed. Remote write and OTLP count their own bytes and are not counted here.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use tokio::sync::Semaphore;

use crate::otlp;
use crate::rest::problem::Problem;

/// What one permit stands for.
const UNIT_BYTES: usize = 4 << 10;

/// The bytes that are left.
#[derive(Clone)]
pub struct Inflight {
    units: Arc<Semaphore>,
    body_bytes_max: usize,
}

impl Inflight {
    /// Starts with all bytes free.
    pub fn new(inflight_bytes_max: usize, body_bytes_max: usize) -> Inflight {
        let units = (inflight_bytes_max.max(body_bytes_max) / UNIT_BYTES + 1).min(Semaphore::MAX_PERMITS);
        Inflight { units: Arc::new(Semaphore::new(units)), body_bytes_max }
    }

    fn units_of(&self, headers: &HeaderMap) -> u32 {
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        let bytes = match declared {
            Some(n) if !headers.contains_key(header::CONTENT_ENCODING) => n.min(self.body_bytes_max),
            _ => self.body_bytes_max,
        };
        u32::try_from(bytes / UNIT_BYTES + 1).unwrap_or(u32::MAX)
    }
}

/// Reserves, runs, gives back; a layer of the router.
pub async fn bound(State(inflight): State<Inflight>, request: Request, next: Next) -> Response {
    let bodiless = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE);
    let path = request.uri().path();
    if bodiless || path == "/api/v1/write" || otlp::PATHS.contains(&path) {
        return next.run(request).await;
    }
    let units = inflight.units_of(request.headers());
    let Ok(_permit) = inflight.units.clone().try_acquire_many_owned(units) else {
        let detail = "too many request bodies are being worked on; try again in a moment";
        let mut problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail);
        problem.retryable = true;
        let mut response = problem.into_response();
        response.headers_mut().insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
        return response;
    };
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_body_may_become_is_reserved() {
        let inflight = Inflight::new(1 << 20, 64 << 10);
        let units = |pairs: &[(header::HeaderName, &str)]| {
            let pair = |(n, v): &(header::HeaderName, &str)| (n.clone(), http::HeaderValue::from_str(v).unwrap());
            inflight.units_of(&pairs.iter().map(pair).collect())
        };
        assert_eq!(units(&[(header::CONTENT_LENGTH, "100")]), 1);
        assert_eq!(units(&[(header::CONTENT_LENGTH, "8192")]), 3);
        assert_eq!(units(&[]), 17);
        assert_eq!(units(&[(header::CONTENT_LENGTH, "100"), (header::CONTENT_ENCODING, "gzip")]), 17);
        assert_eq!(units(&[(header::CONTENT_LENGTH, "99999999999")]), 17);
    }
}
