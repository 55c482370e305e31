//! A bound on the bytes of all request bodies that are being worked on.
//!
//! A request takes room as its body arrives, and at its end what it may inflate to; see [`super::arriving`]. A body that is
//! announced as too large is refused before it comes. Remote write and OTLP count their own bytes, in the same room.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

use super::arriving::{Arriving, Fault, Pace, Toll};
use super::shape::{Early, Shape};
use crate::otlp;

/// Deflate makes a byte of at most so many.
const GZIP_GROWTH_MAX: u64 = 1_032;

/// How long a body is listened to that is refused anyway.
const DISCARD_MAX: Duration = Duration::from_millis(500);

/// The bytes that are left.
#[derive(Clone)]
pub struct Inflight {
    units: Arc<Semaphore>,
    body_bytes_max: usize,
    pace: Pace,
}

impl Inflight {
    /// Starts with all bytes free.
    ///
    /// **Takes** the room, in units of [`crate::memory::UNIT_BYTES`], which remote write and OTLP use, too.
    pub fn new(units: Arc<Semaphore>, body_bytes_max: usize) -> Inflight {
        Inflight { units, body_bytes_max, pace: Pace::default() }
    }

    fn toll(&self, headers: &HeaderMap, counts_itself: bool) -> Arc<Toll> {
        let growth = if headers.contains_key(header::CONTENT_ENCODING) { GZIP_GROWTH_MAX } else { 1 };
        Toll::new(self.pace, (!counts_itself).then(|| self.units.clone()), growth, self.body_bytes_max as u64)
    }

    fn is_too_large(&self, headers: &HeaderMap) -> bool {
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        declared.is_some_and(|n| n > self.body_bytes_max as u64)
    }
}

/// Charges, runs, gives back; a layer of the router.
pub async fn bound(State(inflight): State<Inflight>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let path = request.uri().path();
    let counts_itself = path == "/api/v1/write" || otlp::PATHS.contains(&path);
    let shape = Shape::of(path, request.headers());
    if !counts_itself && inflight.is_too_large(request.headers()) {
        let (parts, body) = request.into_parts();
        discard(&parts.headers, body).await;
        let text = format!("the body is larger than {} bytes", inflight.body_bytes_max);
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        return shape.answer(Early { status, code: "body_too_large", text, again: false });
    }
    let toll = inflight.toll(request.headers(), counts_itself);
    let response = next.run(request.map(|body| Body::new(Arriving::new(body, toll.clone())))).await;
    match toll.fault() {
        None => response,
        Some(fault) => shape.answer(given_up(fault)),
    }
}

/// Takes the body of a sender that reads its answer only when it is through; for a moment, and without keeping it.
///
/// Who waits for a word before he sends gets the answer for it: reading would tell him to go on.
pub(crate) async fn discard(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(DISCARD_MAX, all).await;
}

/// What whoever read the body made of its end is not the reason.
fn given_up(fault: Fault) -> Early {
    let (status, code) = match fault {
        Fault::Late => (StatusCode::REQUEST_TIMEOUT, "body_too_slow"),
        Fault::NoRoom => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
    };
    Early { status, code, text: format!("{fault}; try again"), again: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Bytes;
    use axum::middleware::from_fn_with_state;
    use axum::routing::post;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Poll;
    use tower::ServiceExt;

    async fn status(router: &Router, body: Body, declared: Option<u64>) -> u16 {
        let mut request = http::Request::post("/").body(body).unwrap();
        if let Some(n) = declared {
            request.headers_mut().insert(header::CONTENT_LENGTH, http::HeaderValue::from(n));
        }
        router.clone().oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn announced_bodies_keep_nobody_out_and_slow_ones_are_told() {
        let pace = Pace { silence_max: Duration::from_millis(700), bytes_per_second_min: 1 << 10 };
        let inflight = Inflight { pace, ..Inflight::new(Arc::new(Semaphore::new(257)), 64 << 10) };
        let taken = |body: Bytes| async move { body.len().to_string() };
        let router = Router::new().route("/", post(taken)).layer(from_fn_with_state(inflight.clone(), bound));
        let silent = || Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let router = router.clone();
                tokio::spawn(async move { status(&router, silent(), Some(60 << 10)).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(status(&router, Body::from("x"), None).await, 200);
        assert_eq!(status(&router, silent(), Some(u64::MAX / 2)).await, 413);
        for one in waiting {
            assert_eq!(one.await.unwrap(), 408);
        }
        let _all = inflight.units.clone().try_acquire_many_owned(257).unwrap();
        assert_eq!(status(&router, Body::from("x"), None).await, 503);
    }

    #[tokio::test]
    async fn who_waits_for_a_word_is_not_told_to_go_on() {
        for (expects, read) in [(false, true), (true, false)] {
            let polled = Arc::new(AtomicBool::new(false));
            let seen = polled.clone();
            let body = Body::from_stream(futures_util::stream::poll_fn(move |_| {
                seen.store(true, Ordering::Relaxed);
                Poll::Ready(None::<Result<Bytes, std::io::Error>>)
            }));
            let mut headers = HeaderMap::new();
            if expects {
                headers.insert(header::EXPECT, http::HeaderValue::from_static("100-continue"));
            }
            discard(&headers, body).await;
            assert_eq!(polled.load(Ordering::Relaxed), read);
        }
    }
}
