//! Rows of the two tables, read from either database in the same way.

use sqlx::{ColumnIndex, Decode, Row, Type};

use crate::collection::{CollectionRow, RowText};
use crate::target::Columns;

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
