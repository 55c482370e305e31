//! `POST /v1/metrics`: judged, stored, answered.
//!
//! Invariants: 1. 200 means that all points but those of the partial success are stored and fsynced; 2. what a sender shall
//! try again is answered 503: OTLP gives up on any other error, a full disk's included.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRef, State};
use axum::response::Response;
use axum::routing::post;
use http::{HeaderMap, StatusCode, Uri, header};
use model::{AppendError, Appended, Batch, Refusal};
use wire::otlp::{Options, PartialSuccess};

use super::answer::{self, Encoding};
use super::body::{Compression, Decoded, Kind, Reader};
use super::delta::Deltas;
use crate::prom::params::Params;
use crate::prom::write::{Arrived, RETRY_AFTER_FULL_S, Refused, Stored, WriteStats, Writer, refused_by_store};
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
    options: Arc<ArcSwap<Options>>,
    deltas: Arc<Deltas>,
    stats: WriteStats,
}

impl Otlp {
    /// Makes a receiver that shares room, decoders and events with a writer.
    ///
    /// **Takes** where the options in force stand: a reload may change them.
    pub fn new(writer: Writer, options: Arc<ArcSwap<Options>>) -> Otlp {
        let deltas = Arc::new(Deltas::new(writer.select().clone()));
        Otlp(Arc::new(Inner { writer, options, deltas, stats: WriteStats::default() }))
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        self.0.stats.render_as(page, "otlp", "OTLP");
        self.0.deltas.render(page);
    }

    async fn take(&self, headers: &HeaderMap, uri: &Uri, body: Body) -> Result<Response, Refused> {
        let kind = kind_of(headers)?;
        let source_id = write_headers::named_source(headers, &Params::parse(uri.query().unwrap_or("")))?;
        let arrived = self.0.writer.receive(headers, body).await?;
        self.export(arrived, kind, source_id, move |partial| answer::success(kind.encoding, partial)).await
    }

    /// Decodes a body that has arrived, stores it and answers with what `respond` makes of the part that was refused.
    pub(super) async fn export(
        &self,
        mut arrived: Arrived,
        kind: Kind,
        source_id: Option<String>,
        respond: impl FnOnce(Option<&PartialSuccess>) -> Response + Send + 'static,
    ) -> Result<Response, Refused> {
        let writer = &self.0.writer;
        let bytes = kind.bytes(&arrived.buffers.body, writer.limits().inflated_bytes_max);
        writer.fit(&mut arrived, bytes)?;
        let (reading, answering) = (self.clone(), self.clone());
        let decode = move |arrived: &mut Arrived, batch: &mut Batch| {
            let Inner { writer, options, deltas, stats } = &*reading.0;
            Reader { writer, options: &options.load_full(), deltas, stats, kind, source_id }.read(arrived, batch)
        };
        let answer = move |batch: &Batch, decoded: &Decoded, stored: Stored<'_>| match stored {
            // New series found no room and nothing else was stored: worth another try later.
            Ok(appended) if nothing_but_refused(appended) && batch.advice.is_some() => {
                let text = batch.advice.as_deref().unwrap_or_default();
                Err(Refused::new(StatusCode::TOO_MANY_REQUESTS, text).retry_after(RETRY_AFTER_FULL_S))
            }
            Ok(_) => {
                if let Some(claim) = &decoded.claim {
                    claim.commit(batch);
                }
                let partial = decoded.stats.partial_success(batch);
                if partial.is_some() {
                    answering.0.stats.count_refused_in_part();
                }
                Ok(respond(partial.as_ref()))
            }
            Err(error) => Err(not_stored(error)),
        };
        writer.store(arrived, decode, answer).await
    }

    pub(super) fn writer(&self) -> &Writer {
        &self.0.writer
    }

    pub(super) fn stats(&self) -> &WriteStats {
        &self.0.stats
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
        Err(refused) => answer::error(Encoding::of_request(&headers), &refused),
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
    let name = write_headers::text(headers, header::CONTENT_ENCODING);
    let Some(compression) = Compression::from_name(name) else {
        let known = Compression::NAMES;
        return Err(unsupported(format!("content encoding {name:?} is not known; {known} are")));
    };
    Ok(Kind { encoding, compression, framing: 0 })
}

fn nothing_but_refused(appended: &Appended) -> bool {
    let counts = &appended.counts;
    let of_series = counts.refused[Refusal::SeriesLimit as usize];
    of_series > 0 && of_series == counts.received
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
