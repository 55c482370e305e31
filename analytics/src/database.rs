//! DuckDB for one query: closed off, filled with what the server sent, locked, asked once.
//!
//! Invariant: the statement runs only after the settings are locked; there is no thread but its own, no file but those of
//! the blocks, nothing spilled to disk.

use std::io::Cursor;
use std::path::Path;

use arrow::ipc::reader::StreamReader;
use duckdb::{Config, Connection};
use serde::Deserialize;

use crate::frames;

/// Which files the server names.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// For `metrics_ts`.
    pub samples: Vec<Pair>,
    /// For `series`.
    pub series: Vec<String>,
    /// For the roll-ups.
    pub rollups: Vec<Rollup>,
}

/// A block.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    series: String,
    rows: String,
}

/// A block of roll-ups.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Rollup {
    series: String,
    rows: String,
    resolution_ms: i64,
}

/// Tables that the server sends, and their columns.
pub const TABLES: [(&str, &str); 5] = [
    (
        "head_series",
        "series_id BIGINT, metric_name VARCHAR, metric_type VARCHAR, labels VARCHAR, source VARCHAR, target_id VARCHAR",
    ),
    ("head_samples", "series_id BIGINT, timestamp_ms BIGINT, stale BIGINT, \"value\" DOUBLE"),
    ("hidden", "series_id BIGINT, start_ms BIGINT, end_ms BIGINT"),
    ("all_series", "metric_name VARCHAR, metric_type VARCHAR, labels VARCHAR, source VARCHAR, target_id VARCHAR"),
    (
        "all_targets",
        "target_id VARCHAR, source VARCHAR, collection_method VARCHAR, url VARCHAR, health VARCHAR, labels VARCHAR, enabled BIGINT, last_scrape_ms BIGINT",
    ),
];
const PROMQL_COLUMNS: &str = "timestamp_ms BIGINT, metric_name VARCHAR, labels VARCHAR, \"value\" DOUBLE";
const UTC: &str = "TIMESTAMP WITH TIME ZONE";

/// A database of one query.
pub struct Database {
    pub connection: Connection,
}

impl Database {
    /// Opens it empty, with nothing in reach but a folder.
    pub fn open(readable: &Path, memory_bytes: u64) -> Result<Database, duckdb::Error> {
        let config = Config::default()
            .with("threads", "1")?
            .with("memory_limit", format!("{memory_bytes}B"))?
            .with("temp_directory", "")?
            .with("autoinstall_known_extensions", "false")?
            .with("autoload_known_extensions", "false")?
            .with("allow_community_extensions", "false")?;
        let connection = Connection::open_in_memory_with_flags(config)?;
        let folder = quoted(&readable.to_string_lossy());
        connection.execute_batch(&format!(
            "SET TimeZone = 'UTC'; SET allowed_directories = [{folder}]; SET enable_external_access = false;"
        ))?;
        for (name, columns) in TABLES {
            connection.execute_batch(&format!("CREATE TABLE {name} ({columns})"))?;
        }
        Ok(Database { connection })
    }

    /// Fills a table of the server's.
    pub fn fill(&self, frame: &[u8]) -> Result<(), String> {
        let (name, stream) = frames::named(frame).ok_or("a table without a name")?;
        let known = TABLES.iter().any(|t| t.0 == name);
        if let Some(number) = name.strip_prefix("promql_rows_") {
            let number: usize = number.parse().map_err(|_| "a table with an unknown name")?;
            self.promql_table(number).map_err(text)?;
        } else if !known {
            return Err(format!("{name:?} is no table"));
        }
        let mut appender = self.connection.appender(name).map_err(text)?;
        for batch in StreamReader::try_new(Cursor::new(stream), None).map_err(text)? {
            appender.append_record_batch(batch.map_err(text)?).map_err(text)?;
        }
        appender.flush().map_err(text)
    }

    fn promql_table(&self, number: usize) -> Result<(), duckdb::Error> {
        let macro_name = crate::needs::table_of_call(number);
        self.connection.execute_batch(&format!(
            "CREATE TABLE promql_rows_{number} ({PROMQL_COLUMNS});
             CREATE MACRO {macro_name}() AS TABLE SELECT make_timestamptz(timestamp_ms * 1000) AS \"timestamp\", metric_name,
             CAST(labels AS JSON) AS labels, \"value\" FROM promql_rows_{number};"
        ))
    }

    /// Makes the views and locks the settings.
    pub fn bind(&self, files: &Files) -> Result<(), duckdb::Error> {
        let hidden: i64 = self.connection.query_row("SELECT count(*) FROM hidden", [], |row| row.get(0))?;
        let mut sql = String::new();
        sql.push_str(&metrics_views(files, hidden > 0));
        sql.push_str(&series_view(files, hidden > 0));
        sql.push_str(&rollup_views(files, hidden > 0));
        sql.push_str(
            "CREATE VIEW targets AS SELECT target_id, source, collection_method, url, health, CAST(labels AS JSON) AS labels,
             enabled <> 0 AS enabled, make_timestamptz(last_scrape_ms * 1000) AS last_scrape FROM all_targets;\n",
        );
        sql.push_str("SET lock_configuration = true;");
        self.connection.execute_batch(&sql)
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn read_files<'a>(paths: impl Iterator<Item = &'a str>) -> String {
    let list: Vec<String> = paths.map(quoted).collect();
    format!("read_parquet([{}])", list.join(", "))
}

/// Leaves out rows that are deleted or past their retention.
fn visible(with_hidden: bool, id: &str, first: &str, last: &str) -> String {
    if !with_hidden {
        return String::new();
    }
    format!(
        " AND NOT EXISTS (SELECT 1 FROM hidden AS x WHERE x.series_id = {id} AND {first} >= x.start_ms AND {last} <= x.end_ms)"
    )
}

/// The samples, and apart from them the stale markers, which say that a series has ended.
fn metrics_views(files: &Files, with_hidden: bool) -> String {
    let shown = visible(with_hidden, "s.series_id", "epoch_ms(s.\"timestamp\")", "epoch_ms(s.\"timestamp\")");
    let rows = read_files(files.samples.iter().map(|f| &*f.rows));
    let series = read_files(files.samples.iter().map(|f| &*f.series));
    let mut out = String::new();
    for (name, stale) in [("metrics_ts", false), ("stale_ts", true)] {
        let (value, of_block) = if stale {
            ("", "")
        } else {
            (
                "h.\"value\", ",
                "CASE WHEN s.value_scaled IS NULL THEN s.value_plain ELSE CAST(s.value_scaled AS DOUBLE) / d.divisor END AS \"value\", ",
            )
        };
        let head = format!(
            "SELECT make_timestamptz(h.timestamp_ms * 1000) AS \"timestamp\", d.metric_name, d.metric_type, {value}\
             CAST(d.labels AS JSON) AS labels, d.source, d.target_id \
             FROM head_samples AS h JOIN head_series AS d ON h.series_id = d.series_id WHERE h.stale = {}",
            u8::from(stale)
        );
        let blocks = format!(
            "SELECT s.\"timestamp\", d.metric_name, d.metric_type, {of_block}CAST(d.labels AS JSON) AS labels, d.source, d.target_id \
             FROM {rows} AS s JOIN (SELECT series_id, metric_name, metric_type, labels, source, target_id, divisor FROM {series}) \
             AS d ON s.series_id = d.series_id WHERE s.stale = {stale}{shown} UNION ALL "
        );
        let blocks = if files.samples.is_empty() { "" } else { &blocks };
        out.push_str(&format!("CREATE VIEW {name} AS {blocks}{head};\n"));
    }
    out
}

fn series_view(files: &Files, with_hidden: bool) -> String {
    let mut parts = vec![
        "SELECT metric_name, metric_type, labels, source, target_id, 9223372036854775807 AS last_ms FROM all_series"
            .to_owned(),
    ];
    if !files.series.is_empty() {
        let shown = visible(with_hidden, "d.series_id", "epoch_ms(d.min_ts)", "epoch_ms(d.max_ts)");
        let rows = read_files(files.series.iter().map(String::as_str));
        parts.push(format!(
            "SELECT metric_name, metric_type, labels, source, target_id, epoch_ms(max_ts) AS last_ms FROM {rows} AS d WHERE true{shown}"
        ));
    }
    format!(
        "CREATE VIEW series AS SELECT metric_name, arg_max(metric_type, last_ms) AS metric_type, CAST(labels AS JSON) AS labels, \
         arg_max(source, last_ms) AS source, arg_max(target_id, last_ms) AS target_id FROM ({}) GROUP BY metric_name, labels;\n",
        parts.join(" UNION ALL ")
    )
}

fn rollup_views(files: &Files, with_hidden: bool) -> String {
    let mut out = String::new();
    let mut all = Vec::new();
    for (resolution_ms, name) in [(300_000, "rollups_5m_ts"), (3_600_000, "rollups_1h_ts")] {
        let those: Vec<&Rollup> = files.rollups.iter().filter(|f| f.resolution_ms == resolution_ms).collect();
        let body = if those.is_empty() { no_rollups() } else { rollups(&those, resolution_ms, with_hidden) };
        out.push_str(&format!("CREATE VIEW {name} AS {body};\n"));
        all.push(format!("SELECT {resolution_ms} AS resolution_ms, * FROM {name}"));
    }
    out.push_str(&format!("CREATE VIEW rollups AS {};\n", all.join(" UNION ALL ")));
    out
}

fn rollups(files: &[&Rollup], resolution_ms: i64, with_hidden: bool) -> String {
    let rows = read_files(files.iter().map(|f| &*f.rows));
    let series = read_files(files.iter().map(|f| &*f.series));
    // A stretch of which anything is deleted is not shown.
    let shown = if with_hidden {
        format!(
            " WHERE NOT EXISTS (SELECT 1 FROM hidden AS x WHERE x.series_id = r.series_id \
             AND epoch_ms(r.\"timestamp\") <= x.end_ms AND epoch_ms(r.\"timestamp\") + {resolution_ms} > x.start_ms)"
        )
    } else {
        String::new()
    };
    format!(
        "SELECT r.\"timestamp\", d.metric_name, d.metric_type, CAST(d.labels AS JSON) AS labels, d.source, d.target_id, \
         r.\"count\", r.\"sum\", r.\"min\", r.\"max\", r.\"first\", r.\"last\", r.first_timestamp, r.last_timestamp, r.increase \
         FROM {rows} AS r JOIN (SELECT series_id, metric_name, metric_type, labels, source, target_id FROM {series}) AS d \
         ON r.series_id = d.series_id{shown}"
    )
}

fn no_rollups() -> String {
    let doubles: Vec<String> = ["sum", "min", "max", "first", "last"]
        .iter()
        .map(|name| format!("CAST(NULL AS DOUBLE) AS \"{name}\""))
        .collect();
    format!(
        "SELECT CAST(NULL AS {UTC}) AS \"timestamp\", CAST(NULL AS VARCHAR) AS metric_name, CAST(NULL AS VARCHAR) AS metric_type, \
         CAST(NULL AS JSON) AS labels, CAST(NULL AS VARCHAR) AS source, CAST(NULL AS VARCHAR) AS target_id, \
         CAST(NULL AS BIGINT) AS \"count\", {}, CAST(NULL AS {UTC}) AS first_timestamp, CAST(NULL AS {UTC}) AS last_timestamp, \
         CAST(NULL AS DOUBLE) AS increase WHERE false",
        doubles.join(", ")
    )
}
