//! `POST /v1/metrics`: judged, stored, answered.
//!
//! Invariants: 1. 200 means that all points but those of the partial success are stored and fsynced; 2. what a sender shall
//! try again is answered 503: OTLP gives up on any other error, a full disk's included.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRef, State};
use axum::response::Response;
use axum::routing::post;
use http::{HeaderMap, StatusCode, Uri, header};
use model::{AppendError, Batch};
use wire::otlp::{Options, Stats};

use super::answer::{self, Encoding};
use super::body::{Kind, Reader};
use crate::prom::params::Params;
use crate::prom::write::{Arrived, Refused, Stored, WriteStats, Writer, refused_by_store};
use crate::prom::write_headers;
use crate::telemetry::Exposition;

/// Where requests go: the specification's own path, and that of Prometheus.
pub const PATHS: [&str; 2] = ["/v1/metrics", "/api/v1/otlp/v1/metrics"];
/// A store that failed needs a while.
const RETRY_AFTER_FAILURE_S: u64 = 5;

/// Takes OTLP. Cheap to clone.
#[derive(Clone)]
pub struct Otlp(Arc<Inner>);

struct Inner {
    writer: Writer,
    options: Options,
    stats: WriteStats,
}

impl Otlp {
    /// Makes a receiver that shares room, decoders and events with a writer.
    pub fn new(writer: Writer, options: Options) -> Otlp {
        Otlp(Arc::new(Inner { writer, options, stats: WriteStats::default() }))
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        self.0.stats.render_as(page, "otlp", "OTLP");
    }

    async fn take(&self, headers: &HeaderMap, uri: &Uri, body: Body) -> Result<Response, Refused> {
        let writer = &self.0.writer;
        let kind = kind_of(headers)?;
        let source_id = write_headers::named_source(headers, &Params::parse(uri.query().unwrap_or("")))?;
        let mut arrived = writer.receive(headers, body).await?;
        let bytes = kind.bytes(&arrived.buffers.body, writer.limits().inflated_bytes_max);
        writer.fit(&mut arrived, bytes)?;
        let (reading, answering) = (self.clone(), self.clone());
        let decode = move |arrived: &mut Arrived, batch: &mut Batch| {
            let Inner { writer, options, stats } = &*reading.0;
            Reader { writer, options, stats, kind, source_id }.read(arrived, batch)
        };
        let answer = move |batch: &Batch, stats: &Stats, stored: Stored<'_>| match stored {
            Ok(_) => Ok(answering.answer(kind.encoding, batch, stats)),
            Err(error) => Err(not_stored(error)),
        };
        writer.store(arrived, decode, answer).await
    }

    fn answer(&self, encoding: Encoding, batch: &Batch, stats: &Stats) -> Response {
        let partial = stats.partial_success(batch);
        if partial.is_some() {
            self.0.stats.count_refused_in_part();
        }
        answer::success(encoding, partial.as_ref())
    }
}

/// Makes the routes; the state must give an [`Otlp`].
pub fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Otlp: FromRef<S>,
{
    PATHS.iter().fold(Router::new(), |router, path| router.route(path, post(export)))
}

async fn export(State(otlp): State<Otlp>, headers: HeaderMap, uri: Uri, body: Body) -> Response {
    let response = match otlp.take(&headers, &uri, body).await {
        Ok(response) => response,
        // Who speaks neither is a person, most likely.
        Err(refused) => answer::error(encoding_of(&headers).unwrap_or(Encoding::Json), &refused),
    };
    otlp.0.stats.count(response.status());
    response
}

fn encoding_of(headers: &HeaderMap) -> Option<Encoding> {
    Encoding::from_content_type(write_headers::text(headers, header::CONTENT_TYPE))
}

fn kind_of(headers: &HeaderMap) -> Result<Kind, Refused> {
    let unsupported = |text: String| Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    let Some(encoding) = encoding_of(headers) else {
        let text = write_headers::text(headers, header::CONTENT_TYPE);
        return Err(unsupported(format!(
            "content type {text:?} is not known; application/x-protobuf and application/json are"
        )));
    };
    let gzip = match write_headers::text(headers, header::CONTENT_ENCODING).to_ascii_lowercase().as_str() {
        "" | "identity" => false,
        "gzip" => true,
        other => return Err(unsupported(format!("content encoding {other:?} is not known; gzip is"))),
    };
    Ok(Kind { encoding, gzip })
}

/// As remote write has it, but what passes must be 503 to be sent again. Points that were stored after all are duplicates then.
fn not_stored(error: &AppendError) -> Refused {
    let refused = refused_by_store(error);
    match refused.status() {
        status if status.is_server_error() => {
            let seconds = refused.retry_after_s().unwrap_or(RETRY_AFTER_FAILURE_S);
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, refused.text()).retry_after(seconds)
        }
        _ => refused,
    }
}
