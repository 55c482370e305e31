//! `/api/v1/metrics/uploads`: bytes in, progress out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRef, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use uuid::Uuid;

use super::clean;
use super::cleaner::CleanError;
use super::folder::{UPLOAD_BYTES_MAX, Upload, Uploads};
use super::meta::{Format, Meta, State as Stand, UploadStatus};
use crate::access::Pass;
use crate::prom::params::Params;
use crate::rest::body::{Query, idempotency_key};
use crate::rest::custom::source_id;
use crate::rest::problem::Problem;
use crate::rest::time;
use crate::sql::program;
use crate::telemetry::Exposition;

/// A body that says nothing for so long is given up; what has come of it stays.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes that are written at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Characters of a plan of columns.
const COLUMNS_CHARS_MAX: usize = 10_000;

impl Uploads {
    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let stats = &self.0.stats;
        let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let open = self.0.all.lock().values().filter(|u| !u.meta.lock().state.is_final()).count();
        page.gauge("quiver_uploads_open", "Uploads that are not done.", open as f64);
        page.family("quiver_uploads_total", "counter", "Uploads by what became of them.");
        for (outcome, n) in [("created", &stats.created), ("done", &stats.done), ("failed", &stats.failed)] {
            page.sample(&[("outcome", outcome)], load(n) as f64);
        }
        page.counter("quiver_upload_bytes_total", "Bytes of uploads received.", load(&stats.bytes));
        page.counter(
            "quiver_upload_bad_rows_total",
            "Rows of uploads that were not understood.",
            load(&stats.bad_rows),
        );
        page.counter(
            "quiver_upload_left_out_rows_total",
            "Rows of uploads that their clean-up left out.",
            load(&stats.left_out),
        );
        page.counter(
            "quiver_upload_cleaners_gone_total",
            "Processes of clean-ups that ended before their upload, or could not be started.",
            load(&stats.cleaners_gone),
        );
    }

    fn status(&self, upload: &Upload) -> UploadStatus {
        let meta = upload.meta.lock();
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        UploadStatus {
            upload_id: meta.upload_id.clone(),
            status: word(serde_json::to_value(meta.state).unwrap_or_default()),
            format: word(serde_json::to_value(meta.format).unwrap_or_default()),
            source_id: meta.source_id.clone(),
            offset: upload.offset.load(Ordering::Relaxed),
            length: meta.length,
            processed_bytes: meta.processed_bytes,
            result: meta.result(&self.0.rest.node),
            errors: meta.errors.clone(),
            left_out: meta.left_out.clone(),
            error: meta.error.clone(),
            created_at: time::to_text(meta.created_ms),
            finished_at: meta.finished_ms.map(time::to_text),
        }
    }

    fn answer(&self, status: StatusCode, upload: &Upload) -> Response {
        let shown = self.status(upload);
        let (offset, location) = (shown.offset, format!("/api/v1/metrics/uploads/{}", shown.upload_id));
        let mut response = (status, Json(shown)).into_response();
        let headers = response.headers_mut();
        headers.insert("upload-offset", HeaderValue::from(offset));
        if let Ok(location) = HeaderValue::from_str(&location) {
            headers.insert(header::LOCATION, location);
        }
        response
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Uploads) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let uploads = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&uploads)).await;
        done.unwrap_or_else(|_| Err(std::io::Error::other("the request failed"))).map_err(disk_problem)
    }

    /// Adds a body behind what is there; durable when it returns, all of it or what came.
    async fn add(&self, upload: &Arc<Upload>, mut body: Body) -> Result<(), Problem> {
        let id = upload.meta.lock().upload_id.clone();
        let max = upload.meta.lock().length.unwrap_or(UPLOAD_BYTES_MAX).min(UPLOAD_BYTES_MAX);
        let file = self.on_disk(move |uploads| uploads.body(&id)).await?;
        let mut file = Some(file);
        let mut piece = Vec::new();
        let mut offset = upload.offset.load(Ordering::Relaxed);
        let mut problem = None;
        loop {
            let frame = match tokio::time::timeout(SILENCE_MAX, body.frame()).await {
                Ok(frame) => frame,
                Err(_) => {
                    problem =
                        Some(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the body did not go on"));
                    None
                }
            };
            let ended = match frame {
                None => true,
                Some(Err(error)) => {
                    problem = Some(Problem::new(StatusCode::BAD_REQUEST, "incomplete_body", format!("body: {error}")));
                    true
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        piece.extend_from_slice(&data);
                    }
                    false
                }
            };
            if offset + piece.len() as u64 > max {
                let detail = format!("the upload is longer than {max} bytes");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail));
            }
            if !ended && piece.len() < PIECE_BYTES {
                continue;
            }
            let bytes = std::mem::take(&mut piece);
            offset += bytes.len() as u64;
            self.0.stats.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let Some(open) = file.take() else { return Err(disk_problem(std::io::Error::other("no file"))) };
            file = Some(self.on_disk(move |_| write_piece(open, &bytes, ended)).await?);
            if ended {
                break;
            }
        }
        upload.offset.store(offset, Ordering::Relaxed);
        problem.map_or(Ok(()), Err)
    }

    /// All bytes are there: its turn comes.
    async fn queue(&self, upload: &Arc<Upload>) -> Result<(), Problem> {
        {
            let mut meta = upload.meta.lock();
            meta.state = Stand::Queued;
            meta.length = Some(upload.offset.load(Ordering::Relaxed));
        }
        let saving = upload.clone();
        let saved = self.on_disk(move |uploads| uploads.save(&saving)).await;
        if saved.is_err() {
            upload.meta.lock().state = Stand::Receiving;
        }
        saved?;
        self.0.news.notify_one();
        Ok(())
    }
}

fn write_piece(file: Box<dyn sys::File>, bytes: &[u8], sync: bool) -> std::io::Result<Box<dyn sys::File>> {
    file.append(bytes)?;
    if sync {
        file.sync_data()?;
    }
    Ok(file)
}

fn disk_problem(error: std::io::Error) -> Problem {
    let (status, code) = match error.kind() {
        std::io::ErrorKind::StorageFull => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
    };
    Problem::new(status, code, format!("the upload could not be kept: {error}")).retry_after_ms(5_000)
}

/// Gives an upload of the sources that who asks may write as.
fn yours(uploads: &Uploads, upload_id: &str) -> Result<Arc<Upload>, Problem> {
    let found = uploads.get(upload_id).filter(|upload| may_see(upload));
    found.ok_or_else(|| not_found(upload_id))
}

fn may_see(upload: &Upload) -> bool {
    Pass::in_force().is_none_or(|pass| pass.writes_as(&upload.meta.lock().source_id))
}

fn not_found(upload_id: &str) -> Problem {
    let shown: String = upload_id.chars().take(100).collect();
    Problem::not_found(format!("there is no upload {shown:?}; they are forgotten after a day"))
}

/// Makes the routes; the state must give [`Uploads`].
pub fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Uploads: FromRef<S>,
{
    const PATH: &str = "/api/v1/metrics/uploads";
    Router::new()
        .route(PATH, post(create).get(list))
        .route(&format!("{PATH}/{{upload_id}}"), get(show).patch(append).put(append).delete(cancel))
}

/// Begins an upload; a body with it is the whole of it.
#[utoipa::path(
    post, path = "/api/v1/metrics/uploads", tag = "ingestion",
    request_body(content = String, content_type = "application/octet-stream",
        description = "The file; or nothing, with Upload-Length, to send it in pieces with PATCH"),
    params(
        ("format" = Option<String>, Query, description = "ndjson, csv, parquet or openmetrics; else Content-Type says it"),
        ("source_id" = Option<String>, Query, description = "Label job of samples that have none; X-Source-Id does the same; default custom"),
        ("columns" = Option<String>, Query, description = "What columns of CSV and Parquet are, such as 1:time:unix_ms,temp:metric:temperature,room:label:room; without it time, name, value and labels are known by their names"),
        ("clean" = Option<String>, Query, description = "Steps that bring a table of CSV or Parquet into order before columns are looked at, such as trim;drop_empty:temp;scale:temp:0.1;time:at:%d.%m.%Y %H:%M. quiver-analytics does them; without it 501"),
        ("Upload-Length" = Option<u64>, Header, description = "Bytes that are to come"),
        ("Content-Encoding" = Option<String>, Header, description = "gzip, but for Parquet"),
        ("Idempotency-Key" = Option<String>, Header, description = "A retry with the same key is the same upload"),
    ),
    responses(
        (status = 202, description = "All bytes are durable and their samples will be stored; or, with Upload-Length and no body, the upload waits for its bytes", body = UploadStatus),
        (status = 400, description = "Not understood", body = crate::rest::problem::ProblemBody),
        (status = 413, description = "More than 1 GiB", body = crate::rest::problem::ProblemBody),
        (status = 415, description = "No format of ours", body = crate::rest::problem::ProblemBody),
        (status = 429, description = "Too many uploads are not done", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn create(
    State(uploads): State<Uploads>,
    headers: HeaderMap,
    Query(params): Query,
    body: Body,
) -> Result<Response, Problem> {
    let meta = read_request(&uploads, &headers, &params)?;
    check_clean(&uploads, &meta.clean).await?;
    let in_pieces = meta.length.is_some();
    let upload = match meta.key.as_deref().and_then(|key| uploads.with_key(key)) {
        Some(known) if !may_see(&known) => return Err(crate::rest::custom::other_request()),
        Some(known) if !known.meta.lock().same_request(&meta) && known.meta.lock().state == Stand::Receiving => {
            return Err(crate::rest::custom::other_request());
        }
        Some(known) if in_pieces || known.meta.lock().state != Stand::Receiving => {
            return Ok(uploads.answer(StatusCode::ACCEPTED, &known));
        }
        Some(known) => {
            bind(&known);
            known
        }
        None => {
            let busy =
                |detail| Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_uploads", detail).retry_after_ms(10_000);
            let upload = uploads.insert(meta).map_err(busy)?;
            uploads.0.stats.created.fetch_add(1, Ordering::Relaxed);
            upload
        }
    };
    // Spawned: bytes that came are kept whoever goes away.
    let task = tokio::spawn(async move {
        let _adding = upload.adding.lock().await;
        let saving = upload.clone();
        uploads.on_disk(move |uploads| uploads.save(&saving)).await?;
        if !in_pieces {
            start_over(&uploads, &upload).await?;
            if let Err(problem) = uploads.add(&upload, body).await {
                forget(&uploads, &upload).await;
                return Err(problem);
            }
            uploads.queue(&upload).await?;
        }
        Ok(uploads.answer(StatusCode::ACCEPTED, &upload))
    });
    task.await
        .unwrap_or_else(|_| Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed")))
}

/// A whole body begins at the beginning.
async fn start_over(uploads: &Uploads, upload: &Arc<Upload>) -> Result<(), Problem> {
    let id = upload.meta.lock().upload_id.clone();
    uploads.on_disk(move |uploads| uploads.body(&id)?.truncate(0)).await?;
    upload.offset.store(0, Ordering::Relaxed);
    Ok(())
}

/// Forgets an upload that came in one piece and broke off: nobody knows its id.
async fn forget(uploads: &Uploads, upload: &Arc<Upload>) {
    let id = upload.meta.lock().upload_id.clone();
    uploads.0.all.lock().remove(&id);
    let removed = uploads.on_disk(move |uploads| {
        uploads.remove_body(&id)?;
        uploads.0.fs.remove_file(&uploads.0.dir.join(format!("{id}.json")))
    });
    if let Err(problem) = removed.await {
        tracing::warn!("{}", problem.detail);
    }
}

/// Has the steps of a clean-up looked at by the program that will do them.
async fn check_clean(uploads: &Uploads, steps: &str) -> Result<(), Problem> {
    if steps.is_empty() {
        return Ok(());
    }
    let missing = |detail| Problem::at(StatusCode::NOT_IMPLEMENTED, "analytics_missing", "?clean", detail);
    let program = program::find(uploads.0.analytics.as_deref()).map_err(missing)?;
    let stopped = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server stops");
    let _turn = uploads.0.checks.acquire().await.map_err(stopped)?;
    let steps = steps.to_owned();
    let checked = tokio::task::spawn_blocking(move || clean::check(&program, &steps)).await;
    let broken = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed");
    checked.map_err(broken)?.map_err(|error| match error {
        CleanError::Told(why) => Problem::parameter("clean", why),
        CleanError::Gone(why) => {
            uploads.0.stats.cleaners_gone.fetch_add(1, Ordering::Relaxed);
            tracing::error!("clean-up: {why}");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "analytics_unavailable", why).retry_after_ms(5_000)
        }
    })
}

fn read_request(uploads: &Uploads, headers: &HeaderMap, params: &Params) -> Result<Meta, Problem> {
    let source_id = source_id(headers, params)?;
    let mut meta =
        Meta::new(Uuid::now_v7().to_string(), source_id, format_of(headers, params)?, (uploads.0.rest.now)());
    params.get("columns").clone_into(&mut meta.columns);
    if meta.columns.chars().count() > COLUMNS_CHARS_MAX {
        return Err(Problem::parameter("columns", format!("columns has more than {COLUMNS_CHARS_MAX} characters")));
    }
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    meta.gzip = match text("content-encoding").as_deref() {
        None | Some("" | "identity") => false,
        Some("gzip" | "x-gzip") if meta.format != Format::Parquet => true,
        Some(other) => {
            let detail = format!(
                "content encoding {other:?} is not understood here; gzip and identity are, Parquet is compressed inside"
            );
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail));
        }
    };
    params.get("clean").trim().clone_into(&mut meta.clean);
    if meta.clean.chars().count() > COLUMNS_CHARS_MAX {
        return Err(Problem::parameter("clean", format!("clean has more than {COLUMNS_CHARS_MAX} characters")));
    }
    if !meta.clean.is_empty() && !matches!(meta.format, Format::Csv | Format::Parquet) {
        return Err(Problem::parameter("clean", "a clean-up is for tables: CSV and Parquet"));
    }
    meta.key = idempotency_key(headers)?;
    meta.bound = Pass::in_force().is_some_and(|pass| pass.is_scoped());
    if let Some(length) = text("upload-length") {
        let wrong = || Problem::new(StatusCode::BAD_REQUEST, "invalid_header", "Upload-Length is a whole number");
        let length: u64 = length.parse().map_err(|_| wrong())?;
        if length > UPLOAD_BYTES_MAX {
            let detail = format!("an upload has at most {UPLOAD_BYTES_MAX} bytes; send several");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail));
        }
        meta.length = Some(length);
    }
    Ok(meta)
}

fn format_of(headers: &HeaderMap, params: &Params) -> Result<Format, Problem> {
    let given = params.get("format").to_ascii_lowercase();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    let word = if given.is_empty() { essence } else { &given };
    match word {
        "ndjson" | "jsonl" | "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Format::Ndjson),
        "csv" | "text/csv" | "application/csv" => Ok(Format::Csv),
        "parquet" | "application/vnd.apache.parquet" | "application/x-parquet" => Ok(Format::Parquet),
        "openmetrics" | "prometheus" | "text" | "application/openmetrics-text" => Ok(Format::OpenMetrics),
        "text/plain" if given.is_empty() && kind.contains("version=0.0.4") => Ok(Format::OpenMetrics),
        _ => {
            let detail = "name the format with ?format=: ndjson, csv, parquet or openmetrics";
            Err(Problem::at(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "?format", detail))
        }
    }
}

/// Adds bytes to an upload.
#[utoipa::path(
    patch, path = "/api/v1/metrics/uploads/{upload_id}", tag = "ingestion",
    request_body(content = String, content_type = "application/octet-stream"),
    params(
        ("upload_id" = String, Path, description = "Names the upload"),
        ("Upload-Offset" = u64, Header, description = "Where the bytes belong; it must be the offset of the upload. Content-Range: bytes a-b/n does the same"),
    ),
    responses(
        (status = 202, description = "The bytes are durable; with the last of them the samples will be stored", body = UploadStatus),
        (status = 404, description = "No such upload", body = crate::rest::problem::ProblemBody),
        (status = 409, description = "The bytes belong elsewhere: go on at Upload-Offset", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn append(
    State(uploads): State<Uploads>,
    Path(upload_id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let upload = yours(&uploads, &upload_id)?;
    let at = offset_of(&headers)?;
    let binds = bind(&upload);
    let task = tokio::spawn(async move {
        let _adding = upload.adding.lock().await;
        if binds {
            let saving = upload.clone();
            uploads.on_disk(move |uploads| uploads.save(&saving)).await?;
        }
        let offset = upload.offset.load(Ordering::Relaxed);
        let length = upload.meta.lock().length;
        if upload.meta.lock().state != Stand::Receiving {
            // The last piece again: it was durable before its answer got lost.
            if length.is_some_and(|length| at < length) {
                return Ok(uploads.answer(StatusCode::ACCEPTED, &upload));
            }
            let detail = "the upload has all its bytes";
            return Err(Problem::new(StatusCode::CONFLICT, "upload_complete", detail));
        }
        if at != offset {
            let detail = format!("the upload goes on at byte {offset}, not {at}");
            let mut response = Problem::new(StatusCode::CONFLICT, "wrong_offset", detail).into_response();
            response.headers_mut().insert("upload-offset", HeaderValue::from(offset));
            return Ok(response);
        }
        uploads.add(&upload, body).await?;
        if length.is_some_and(|length| upload.offset.load(Ordering::Relaxed) >= length) {
            uploads.queue(&upload).await?;
        }
        Ok(uploads.answer(StatusCode::ACCEPTED, &upload))
    });
    task.await
        .unwrap_or_else(|_| Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed")))
}

/// Whoever may write as some sources alone makes the whole upload be judged so, whoever began it; gives whether that is new.
fn bind(upload: &Upload) -> bool {
    let scoped = Pass::in_force().is_some_and(|pass| pass.is_scoped());
    scoped && !std::mem::replace(&mut upload.meta.lock().bound, true)
}

/// Reads `Upload-Offset`, else the start of `Content-Range`.
fn offset_of(headers: &HeaderMap) -> Result<u64, Problem> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let range = || text("content-range")?.strip_prefix("bytes ")?.split('-').next();
    let wrong = "say with Upload-Offset or Content-Range where the bytes belong";
    let offset = text("upload-offset").or_else(range).and_then(|t| t.parse().ok());
    offset.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "invalid_header", wrong))
}

/// Tells how far an upload is and what became of its samples.
#[utoipa::path(
    get, path = "/api/v1/metrics/uploads/{upload_id}", tag = "ingestion",
    params(("upload_id" = String, Path, description = "Names the upload")),
    responses(
        (status = 200, description = "Where it stands; the result is final when status is DONE", body = UploadStatus),
        (status = 404, description = "No such upload", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn show(State(uploads): State<Uploads>, Path(upload_id): Path<String>) -> Result<Response, Problem> {
    let upload = yours(&uploads, &upload_id)?;
    Ok(uploads.answer(StatusCode::OK, &upload))
}

/// Lists the uploads of the last day.
#[utoipa::path(
    get, path = "/api/v1/metrics/uploads", tag = "ingestion",
    responses((status = 200, description = "All of them, oldest first", body = Vec<UploadStatus>))
)]
pub async fn list(State(uploads): State<Uploads>) -> Json<Vec<UploadStatus>> {
    let all: Vec<_> = uploads.0.all.lock().values().cloned().collect();
    Json(all.iter().map(|upload| uploads.status(upload)).collect())
}

/// Takes an upload back; what is stored stays.
#[utoipa::path(
    delete, path = "/api/v1/metrics/uploads/{upload_id}", tag = "ingestion",
    params(("upload_id" = String, Path, description = "Names the upload")),
    responses(
        (status = 200, description = "Where it stood", body = UploadStatus),
        (status = 404, description = "No such upload", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn cancel(State(uploads): State<Uploads>, Path(upload_id): Path<String>) -> Result<Response, Problem> {
    let upload = yours(&uploads, &upload_id)?;
    let _adding = upload.adding.lock().await;
    let was = upload.meta.lock().state;
    if !was.is_final() {
        let mut meta = upload.meta.lock();
        meta.state = Stand::Cancelled;
        meta.finished_ms = Some((uploads.0.rest.now)());
    }
    let saving = upload.clone();
    uploads
        .on_disk(move |uploads| {
            uploads.save(&saving)?;
            // The worker removes what it is at.
            if was == Stand::Processing { Ok(()) } else { uploads.remove_body(&upload_id) }
        })
        .await?;
    Ok(uploads.answer(StatusCode::OK, &upload))
}
