//! The routes of pushes, with the statuses and texts of the Pushgateway.

use std::io::Read;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRef, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, put};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use model::AppendError;
use wire::Format;
use wire::gzip::{self, InflateError};

use super::body;
use super::gateway::{Gateway, Push, PushError, Verb};
use super::key::GroupKey;
use crate::access::{NotYours, Pass};
use crate::prom::api::other_method;
use crate::prom::params::{Params, parse_duration_ms};
use crate::rest::body::collect;

/// Longest time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_AFTER_S: u64 = 1;

/// Makes the routes; the state must give a [`Gateway`].
pub fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Gateway: FromRef<S>,
{
    let methods = || delete(remove).merge(put(push)).post(push);
    Router::new()
        .route("/metrics/job/{*rest}", methods())
        .route("/metrics/job@base64/{*rest}", methods())
        .method_not_allowed_fallback(other_method)
}

/// An answer that is not 2xx.
struct Failed {
    status: StatusCode,
    text: String,
}

impl Failed {
    fn bad(text: impl Into<String>) -> Failed {
        Failed { status: StatusCode::BAD_REQUEST, text: text.into() }
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.text + "\n").into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        response
    }
}

impl From<PushError> for Failed {
    fn from(error: PushError) -> Failed {
        let (status, text) = match error {
            PushError::Refused(text) => (StatusCode::BAD_REQUEST, text),
            PushError::Full(text) => (StatusCode::INSUFFICIENT_STORAGE, text),
            PushError::Disk(error) => {
                (StatusCode::INTERNAL_SERVER_ERROR, format!("the group could not be kept: {error}"))
            }
            PushError::Store(error) => {
                let status = match &error {
                    AppendError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                    AppendError::NoSpace(_) => StatusCode::INSUFFICIENT_STORAGE,
                    AppendError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
                    AppendError::Busy { .. } | AppendError::StaleIds | AppendError::Closed => {
                        StatusCode::SERVICE_UNAVAILABLE
                    }
                };
                (status, error.to_string())
            }
        };
        Failed { status, text }
    }
}

/// `PUT` and `POST`
async fn push(State(gateway): State<Gateway>, method: Method, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let response = match take(&gateway, &method, &uri, &headers, body).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(failed) => failed.into_response(),
    };
    gateway.stats().count(response.status().as_u16());
    response
}

/// `DELETE`
async fn remove(State(gateway): State<Gateway>, uri: Uri) -> Response {
    let response = match end(&gateway, &uri).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(failed) => failed.into_response(),
    };
    gateway.stats().count(response.status().as_u16());
    response
}

async fn end(gateway: &Gateway, uri: &Uri) -> Result<(), Failed> {
    let key = GroupKey::from_path(uri.path()).map_err(Failed::bad)?;
    let gateway = gateway.clone();
    // Spawned: a client that goes away must not leave a group half ended.
    let done = tokio::spawn(async move { gateway.delete(&key).await }).await;
    Ok(done.map_err(broken)??)
}

async fn take(gateway: &Gateway, method: &Method, uri: &Uri, headers: &HeaderMap, body: Body) -> Result<(), Failed> {
    let started = Instant::now();
    let key = GroupKey::from_path(uri.path()).map_err(Failed::bad)?;
    let ttl_ms = ttl_ms(headers, &Params::parse(uri.query().unwrap_or(""))).map_err(Failed::bad)?;
    let ttl_ms = ttl_ms.unwrap_or_else(|| gateway.ttl_ms(key.job()));
    let verb = if *method == Method::PUT { Verb::Put } else { Verb::Post };
    let max = gateway.limits().body_bytes_max;
    let too_large = || Failed {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        text: format!("the body is larger than {max} bytes or broke off"),
    };
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(body, max)).await;
    let late = |_| Failed { status: StatusCode::REQUEST_TIMEOUT, text: "the body did not arrive in time".to_owned() };
    let bytes = Bytes::from(read.map_err(late)?.map_err(|_| too_large())?);
    let received_at_ms = gateway.now_ms();
    let (format, encoding) = (format_of(headers), text(headers, header::CONTENT_ENCODING).to_owned());
    let parsing_key = key.clone();
    // Megabytes of text take longer than other requests should wait.
    let parsed = tokio::task::spawn_blocking(move || {
        let bytes = inflate(&encoding, bytes, max)?;
        body::read(format, &bytes, &parsing_key).map_err(Failed::bad)
    });
    let body = parsed.await.map_err(broken)??;
    // The labels of the key are those of all series: the guard knows the job.
    if let Some(Err(wait)) =
        Pass::in_force().and_then(|p| Some(p.samples.as_ref()?.take(body.content.series().count() as f64)))
    {
        let (status, text, _) = NotYours::TooMany(wait).told();
        return Err(Failed { status, text });
    }
    let push = Push { verb, key, body, ttl_ms, started, received_at_ms };
    let gateway = gateway.clone();
    // Spawned: a client that goes away must not leave a push half done.
    let done = tokio::spawn(async move { gateway.push(push).await }).await;
    Ok(done.map_err(broken)??)
}

fn broken(_: tokio::task::JoinError) -> Failed {
    Failed { status: StatusCode::INTERNAL_SERVER_ERROR, text: "the request failed".to_owned() }
}

/// As the original, takes for text what is not said to be something else.
fn format_of(headers: &HeaderMap) -> Format {
    Format::from_content_type(text(headers, header::CONTENT_TYPE)).unwrap_or_default()
}

/// Reads `?ttl=`, else `X-Quiver-TTL`: a duration or seconds. 0 means for ever.
fn ttl_ms(headers: &HeaderMap, params: &Params) -> Result<Option<i64>, String> {
    let header = headers.get("x-quiver-ttl").map(|v| v.to_str().unwrap_or("?"));
    let Some(given) = params.all("ttl").next().or(header) else { return Ok(None) };
    let ms = parse_duration_ms(given).map_err(|e| format!("invalid ttl: {e}"))?;
    if ms < 0.0 {
        return Err(format!("invalid ttl: {given:?} is negative"));
    }
    // Less than a millisecond is not for ever.
    Ok(Some(if ms == 0.0 { 0 } else { (ms.round() as i64).max(1) }))
}

fn inflate(encoding: &str, bytes: Bytes, max: usize) -> Result<Bytes, Failed> {
    let too_large = |text: String| Failed { status: StatusCode::PAYLOAD_TOO_LARGE, text };
    match encoding.to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(bytes),
        "gzip" => gzip::inflate_capped(&bytes, max).map(Bytes::from).map_err(|error| match error {
            InflateError::TooLarge { .. } => too_large(error.to_string()),
            _ => Failed::bad(error.to_string()),
        }),
        "snappy" => {
            let mut out = Vec::new();
            let mut reader = snap::read::FrameDecoder::new(&bytes[..]).take(max as u64 + 1);
            reader.read_to_end(&mut out).map_err(|e| Failed::bad(format!("the body is no framed snappy: {e}")))?;
            match out.len() > max {
                true => Err(too_large(format!("the body inflates to more than {max} bytes"))),
                false => Ok(Bytes::from(out)),
            }
        }
        other => Err(Failed {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            text: format!("content encoding {other:?} is not known; gzip and snappy are"),
        }),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_durations_or_seconds() {
        let header = |text: &str| {
            HeaderMap::from_iter([(
                "x-quiver-ttl".parse().unwrap_or(header::AGE),
                HeaderValue::from_str(text).unwrap_or(HeaderValue::from(0)),
            )])
        };
        let none = HeaderMap::new();
        for (query, headers, expected) in [
            ("", none.clone(), Ok(None)),
            ("ttl=0", none.clone(), Ok(Some(0))),
            ("ttl=5m", none.clone(), Ok(Some(300_000))),
            ("ttl=1.5", header("9h"), Ok(Some(1_500))),
            ("", header("1h"), Ok(Some(3_600_000))),
        ] {
            assert_eq!(ttl_ms(&headers, &Params::parse(query)), expected, "{query}");
        }
        for bad in ["ttl=", "ttl=x", "ttl=-1"] {
            assert!(ttl_ms(&none, &Params::parse(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn bombs_are_refused_in_every_encoding() {
        let zeros = vec![0; 100_000];
        let mut snappy = snap::write::FrameEncoder::new(Vec::new());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        for out in [&mut snappy as &mut dyn std::io::Write, &mut gzip] {
            out.write_all(&zeros).unwrap_or_else(|e| panic!("{e}"));
        }
        let snappy = snappy.into_inner().unwrap_or_else(|e| panic!("{e}"));
        let gzip = gzip.finish().unwrap_or_else(|e| panic!("{e}"));
        for (encoding, bytes) in [("snappy", &snappy), ("gzip", &gzip)] {
            let inflate = |bytes: &[u8], max| inflate(encoding, Bytes::copy_from_slice(bytes), max);
            let status = inflate(bytes, 99_999).err().map(|f| f.status.as_u16());
            assert_eq!(status, Some(413), "{encoding}");
            assert_eq!(inflate(bytes, 100_000).ok().map(|b| b.len()), Some(100_000), "{encoding}");
            assert_eq!(inflate(&bytes[..9], 100_000).err().map(|f| f.status.as_u16()), Some(400));
        }
        assert_eq!(inflate("br", Bytes::new(), 1).err().map(|f| f.status.as_u16()), Some(415));
    }
}
