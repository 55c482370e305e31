//! Rows of the tables, and the texts about them, the same for either database.

use sqlx::{ColumnIndex, Decode, Row, Type};

use crate::collection::{CollectionRow, RowText};
use crate::target::Columns;
use crate::{Claim, StoredResponse, time};

/// The columns of `metric_targets`, in the order of [`bind_columns`].
macro_rules! target_columns {
    () => {
        "id, target_id, target_url, source_type, scrape_config, labels, health_status, enabled, created_at, source_id, \
         collection_method, origin, request, filters, retention_policy, limits, version, updated_at, deleted_at, \
         deletion, checksum"
    };
}
pub(crate) use target_columns;

/// What a row of `collection_jobs` that is there already takes over from a newer word on its job.
macro_rules! newer_collection {
    () => {
        " ON CONFLICT (job_id) DO UPDATE SET metrics_collected = excluded.metrics_collected, \
         collection_duration_ms = excluded.collection_duration_ms, health_status = excluded.health_status, \
         collections = excluded.collections, samples_stored = excluded.samples_stored, \
         samples_refused = excluded.samples_refused, updated_at = excluded.updated_at"
    };
}
pub(crate) use newer_collection;

/// Binds `$1` to `$21`, in the order of [`target_columns`].
macro_rules! bind_columns {
    ($query:expr, $columns:expr) => {{
        let c: &$crate::target::Columns = $columns;
        $query
            .bind(&c.id)
            .bind(&c.target_id)
            .bind(&c.target_url)
            .bind(&c.source_type)
            .bind(&c.scrape_config)
            .bind(&c.labels)
            .bind(&c.health_status)
            .bind(c.enabled)
            .bind(&c.created_at)
            .bind(&c.source_id)
            .bind(&c.collection_method)
            .bind(&c.origin)
            .bind(&c.request)
            .bind(&c.filters)
            .bind(&c.retention_policy)
            .bind(&c.limits)
            .bind(c.version)
            .bind(&c.updated_at)
            .bind(&c.deleted_at)
            .bind(&c.deletion)
            .bind(c.checksum)
    }};
}
pub(crate) use bind_columns;

/// A claim of a key, as it is asked for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The key.
    pub key: &'a str,
    /// Hash of the request.
    pub request_hash: i64,
    /// Now.
    pub now_ms: i64,
    /// Keys from before this time count as unknown.
    pub valid_from_ms: i64,
}

/// What a row of `idempotency_keys` says.
pub struct KnownClaim {
    request_hash: i64,
    claimed_at_ms: Option<i64>,
    response: Option<StoredResponse>,
}

impl KnownClaim {
    /// Reads `request_hash`, `claimed_at` and the columns of the response.
    pub fn read<R: Row>(row: &R) -> Result<KnownClaim, sqlx::Error>
    where
        for<'a> &'a str: ColumnIndex<R>,
        for<'a> String: Decode<'a, R::Database> + Type<R::Database>,
        for<'a> i64: Decode<'a, R::Database> + Type<R::Database>,
        for<'a> Option<i64>: Decode<'a, R::Database> + Type<R::Database>,
        for<'a> Option<String>: Decode<'a, R::Database> + Type<R::Database>,
    {
        let text = |name: &str| row.try_get::<Option<String>, _>(name).map(Option::unwrap_or_default);
        let response = match row.try_get::<Option<i64>, _>("response_status")? {
            Some(status) => Some(StoredResponse {
                status: u16::try_from(status).unwrap_or(500),
                head: text("response_head")?,
                body: text("response_body")?,
            }),
            None => None,
        };
        Ok(KnownClaim {
            request_hash: row.try_get("request_hash")?,
            claimed_at_ms: time::from_text(&row.try_get::<String, _>("claimed_at")?),
            response,
        })
    }

    /// Says what became of the claim; the time of the first one stays.
    pub fn answer(self, asked: &Asked<'_>) -> Claim {
        match self.response {
            _ if self.request_hash != asked.request_hash => Claim::OtherRequest,
            Some(response) => Claim::Done(response),
            None => Claim::Fresh { claimed_at_ms: self.claimed_at_ms.unwrap_or(asked.now_ms) },
        }
    }
}

/// Reads a target; a column of a wrong type reads as empty, which the checksum then finds.
pub fn read_columns<R: Row>(row: &R) -> Columns
where
    for<'a> &'a str: ColumnIndex<R>,
    for<'a> String: Decode<'a, R::Database> + Type<R::Database>,
    for<'a> i64: Decode<'a, R::Database> + Type<R::Database>,
    for<'a> bool: Decode<'a, R::Database> + Type<R::Database>,
    for<'a> Option<String>: Decode<'a, R::Database> + Type<R::Database>,
{
    let text = |name: &str| row.try_get::<String, _>(name).unwrap_or_default();
    let optional = |name: &str| row.try_get::<Option<String>, _>(name).unwrap_or_default();
    Columns {
        id: text("id"),
        target_id: text("target_id"),
        target_url: text("target_url"),
        source_type: text("source_type"),
        scrape_config: text("scrape_config"),
        labels: optional("labels"),
        health_status: text("health_status"),
        enabled: row.try_get("enabled").unwrap_or_default(),
        created_at: text("created_at"),
        source_id: text("source_id"),
        collection_method: text("collection_method"),
        origin: text("origin"),
        request: optional("request"),
        filters: optional("filters"),
        retention_policy: optional("retention_policy"),
        limits: optional("limits"),
        version: row.try_get("version").unwrap_or_default(),
        updated_at: text("updated_at"),
        deleted_at: optional("deleted_at"),
        deletion: optional("deletion"),
        checksum: row.try_get("checksum").unwrap_or_default(),
    }
}

/// Reads a collection.
pub fn read_collection<R: Row>(row: &R) -> Result<CollectionRow, sqlx::Error>
where
    for<'a> &'a str: ColumnIndex<R>,
    for<'a> String: Decode<'a, R::Database> + Type<R::Database>,
    for<'a> i64: Decode<'a, R::Database> + Type<R::Database>,
    for<'a> Option<f64>: Decode<'a, R::Database> + Type<R::Database>,
    for<'a> Option<String>: Decode<'a, R::Database> + Type<R::Database>,
{
    let text = RowText {
        job_id: row.try_get("job_id")?,
        target_id: row.try_get("target_id")?,
        source_id: row.try_get("source_id")?,
        collection_method: row.try_get("collection_method")?,
        status: row.try_get("status")?,
        metrics_collected: row.try_get("metrics_collected")?,
        collection_duration_ms: row.try_get("collection_duration_ms")?,
        error_details: row.try_get("error_details")?,
        created_at: row.try_get("created_at")?,
        health_status: row.try_get("health_status")?,
        collections: row.try_get("collections")?,
        samples_stored: row.try_get("samples_stored")?,
        samples_refused: row.try_get("samples_refused")?,
        window_start: row.try_get("window_start")?,
    };
    Ok(text.into())
}
