//! Tables, and the partitions of plain PostgreSQL.
//!
//! With TimescaleDB `metrics_ts` is a hypertable of one-hour chunks with the specification's two hash dimensions. Plain
//! PostgreSQL gets the same layout by declarative partitions: an hour, in it 16 by metric name, in each 8 by source; they are
//! made before rows of that hour are written, and for the next hour ahead. Each is made, and dropped, in a transaction of its
//! own, since it takes the whole table for a moment, and many of them at once more locks than a database has.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::{Layout, said};

/// Whoever makes tables first; the number is any that nobody else uses.
const LOCK: i64 = 0x5155_4956_4552;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 86_400_000;

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The extension is there, so that chunks make themselves.
    pub timescale: bool,
}

impl Found {
    /// Says in what form samples are stored.
    pub fn message(self, layout: Layout) -> &'static str {
        match (self.timescale, layout) {
            (true, Layout::Spec) => {
                "TimescaleDB: metrics_ts is a hypertable of 1-hour chunks, 16 by metric_name, 8 by source"
            }
            (true, Layout::Tuned) => "TimescaleDB: quiver_samples is a hypertable by time; metrics_ts is a view",
            (false, Layout::Spec) => {
                "PostgreSQL without TimescaleDB: metrics_ts is partitioned by hour, 16 by metric_name, 8 by source, which \
                 makes 145 tables an hour; `layout: tuned` makes one a day"
            }
            (false, Layout::Tuned) => {
                "PostgreSQL without TimescaleDB: quiver_samples is partitioned by day; metrics_ts is a view"
            }
        }
    }
}

/// For every session. A server that does not hear of our end must not keep the locks of what we left.
const SESSION: &str = "SET client_min_messages = warning; SET idle_in_transaction_session_timeout = '180s'; \
    SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3";
/// Partitions are not waited for longer: readers queue up behind who waits for the whole table.
const LOCK_WAIT: &str = "SET LOCAL lock_timeout = '5s'";

const PLACES: &str = "CREATE TABLE IF NOT EXISTS quiver_sink_places (\
    queue text PRIMARY KEY, seq bigint NOT NULL, updated_at timestamptz NOT NULL DEFAULT now())";

/// The specification's columns.
const SPEC_COLUMNS: &str = "\"timestamp\" timestamptz NOT NULL, metric_name varchar(200) NOT NULL, \
    metric_type varchar(20) NOT NULL, value double precision NOT NULL, labels jsonb, \
    source varchar(100) NOT NULL, target_id varchar(100) NOT NULL";

const SPEC_HISTOGRAMS: &str = "CREATE TABLE IF NOT EXISTS histograms_ts (\
    \"timestamp\" timestamptz NOT NULL, metric_name varchar(200) NOT NULL, labels jsonb, \
    source varchar(100) NOT NULL, target_id varchar(100) NOT NULL, payload bytea NOT NULL)";

const TUNED: [&str; 4] = [
    "CREATE TABLE IF NOT EXISTS quiver_series (series_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
     hash bytea NOT NULL UNIQUE, metric_name text NOT NULL, metric_type text NOT NULL, labels jsonb NOT NULL, \
     source text NOT NULL, target_id text NOT NULL)",
    "CREATE INDEX IF NOT EXISTS quiver_series_name ON quiver_series (metric_name)",
    "CREATE TABLE IF NOT EXISTS histograms_ts (series_id bigint NOT NULL, \"timestamp\" timestamptz NOT NULL, \
     payload bytea NOT NULL, PRIMARY KEY (series_id, \"timestamp\"))",
    "CREATE OR REPLACE VIEW metrics_ts AS SELECT s.\"timestamp\", n.metric_name, n.metric_type, s.value, n.labels, \
     n.source, n.target_id FROM quiver_samples s JOIN quiver_series n USING (series_id)",
];

const COMPRESS: &str = "ALTER TABLE quiver_samples SET";

const SAMPLES: &str = "CREATE TABLE IF NOT EXISTS quiver_samples (series_id bigint NOT NULL, \
    \"timestamp\" timestamptz NOT NULL, value double precision NOT NULL, PRIMARY KEY (series_id, \"timestamp\"))";

/// What must be there, with the kinds that it may have in `pg_class`.
fn wanted(layout: Layout) -> &'static [(&'static str, &'static [&'static str])] {
    const TABLE: &[&str] = &["r", "p"];
    match layout {
        Layout::Spec => &[("quiver_sink_places", TABLE), ("metrics_ts", TABLE), ("histograms_ts", TABLE)],
        Layout::Tuned => &[
            ("quiver_sink_places", TABLE),
            ("quiver_series", TABLE),
            ("quiver_samples", TABLE),
            ("histograms_ts", TABLE),
            ("metrics_ts", &["v"]),
        ],
    }
}

/// Makes the tables that are missing; who has them all needs no right to make any.
pub async fn prepare(connection: &mut PgConnection, layout: Layout) -> Result<Found, String> {
    sqlx::raw_sql(SESSION).execute(&mut *connection).await.map_err(said)?;
    let row = sqlx::query("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'");
    let timescale = row.fetch_one(&mut *connection).await.map_err(said)?.get::<i64, _>(0) > 0;
    let found = Found { timescale };
    let mut missing = false;
    for (name, kinds) in wanted(layout) {
        let query = sqlx::query("SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)").bind(*name);
        match query.fetch_optional(&mut *connection).await.map_err(said)? {
            None => missing = true,
            Some(row) if kinds.contains(&row.get::<String, _>(0).as_str()) => {}
            Some(_) => return Err(format!("{name} is there in another form: that of the other layout, or not ours")),
        }
    }
    if missing {
        // Several servers may come at the same time.
        sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(&mut *connection).await.map_err(said)?;
        let made = make(connection, found, layout).await;
        sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(&mut *connection).await.map_err(said)?;
        made?;
    }
    Ok(found)
}

async fn make(connection: &mut PgConnection, found: Found, layout: Layout) -> Result<(), String> {
    for statement in statements(found, layout) {
        let made = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.as_str())).execute(&mut *connection).await;
        if let Err(error) = made {
            let text = format!("{}: {statement}", said(error));
            // The edition of TimescaleDB without compression stores all the same.
            if !statement.starts_with(COMPRESS) {
                return Err(text);
            }
            tracing::warn!("samples will not be compressed: {text}");
        }
    }
    Ok(())
}

/// Gives the statements that make everything but partitions.
fn statements(found: Found, layout: Layout) -> Vec<String> {
    let mut all = vec![PLACES.to_owned()];
    let by = if found.timescale { "" } else { " PARTITION BY RANGE (\"timestamp\")" };
    match layout {
        Layout::Spec => {
            all.push(format!("CREATE TABLE IF NOT EXISTS metrics_ts ({SPEC_COLUMNS}){by}"));
            if found.timescale {
                all.push(hypertable("metrics_ts", "1 hour"));
                for (column, partitions) in [("metric_name", 16), ("source", 8)] {
                    all.push(format!(
                        "SELECT add_dimension('metrics_ts', '{column}', number_partitions => {partitions}, \
                         if_not_exists => TRUE)"
                    ));
                }
            }
            all.push(
                "CREATE INDEX IF NOT EXISTS metrics_ts_name_time ON metrics_ts (metric_name, \"timestamp\")".into(),
            );
            all.push(SPEC_HISTOGRAMS.to_owned());
        }
        Layout::Tuned => {
            all.push(format!("{SAMPLES}{by}"));
            if found.timescale {
                all.push(hypertable("quiver_samples", "1 day"));
                all.push(format!("{COMPRESS} (timescaledb.compress, timescaledb.compress_segmentby = 'series_id')"));
            }
            all.extend(TUNED.map(str::to_owned));
        }
    }
    all
}

fn hypertable(table: &str, chunk: &str) -> String {
    format!(
        "SELECT create_hypertable('{table}', 'timestamp', chunk_time_interval => INTERVAL '{chunk}', \
         if_not_exists => TRUE)"
    )
}

/// Gives which partition a time is in: its start, in milliseconds.
pub fn partition_of(layout: Layout, ts_ms: i64) -> i64 {
    let length = length_ms(layout);
    ts_ms.div_euclid(length).saturating_mul(length)
}

fn length_ms(layout: Layout) -> i64 {
    if layout == Layout::Spec { HOUR_MS } else { DAY_MS }
}

/// Gives the start of the partition behind another.
pub fn next_partition(layout: Layout, start_ms: i64) -> i64 {
    start_ms.saturating_add(length_ms(layout))
}

/// Makes the partition that starts at a time, if it is missing; not within a transaction.
pub async fn make_partition(connection: &mut PgConnection, layout: Layout, start_ms: i64) -> Result<(), sqlx::Error> {
    // Statements that are sent together are one transaction. Another server may be making the same.
    let mut all = vec![LOCK_WAIT.to_owned(), format!("SELECT pg_advisory_xact_lock({LOCK})")];
    all.extend(partition_statements(layout, start_ms));
    sqlx::raw_sql(sqlx::AssertSqlSafe(all.join(";\n"))).execute(connection).await.map(|_| ())
}

/// The table whose partitions or chunks hold the samples.
fn table(layout: Layout) -> &'static str {
    if layout == Layout::Spec { "metrics_ts" } else { "quiver_samples" }
}

/// Drops what is older than a time: whole partitions or chunks of samples, and histograms row by row. Gives how many
/// partitions went.
pub async fn drop_old(
    connection: &mut PgConnection,
    found: Found,
    layout: Layout,
    before_ms: i64,
) -> Result<usize, sqlx::Error> {
    let (table, before_s) = (table(layout), before_ms.div_euclid(1000));
    let mut dropped = 0;
    if found.timescale {
        let all = format!("SELECT drop_chunks('{table}', older_than => to_timestamp({before_s}))");
        dropped = sqlx::raw_sql(sqlx::AssertSqlSafe(all)).fetch_all(&mut *connection).await?.len();
    } else {
        let children = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
                        WHERE i.inhparent = to_regclass($1)";
        let rows = sqlx::query(children).bind(table).fetch_all(&mut *connection).await?;
        let names = rows.iter().map(|row| row.get::<String, _>(0));
        let old = names
            .filter(|name| start_of(table, name).is_some_and(|start_ms| next_partition(layout, start_ms) <= before_ms));
        for name in old.collect::<Vec<_>>() {
            let all = format!("{LOCK_WAIT};\nDROP TABLE IF EXISTS {name}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(all)).execute(&mut *connection).await?;
            dropped += 1;
        }
    }
    let histograms = "DELETE FROM histograms_ts WHERE \"timestamp\" < to_timestamp($1)";
    sqlx::query(histograms).bind(before_s as f64).execute(connection).await?;
    Ok(dropped)
}

/// Gives the start of a partition that we made, from its name.
fn start_of(table: &str, name: &str) -> Option<i64> {
    let rest = name.strip_prefix(table)?.strip_prefix("_p")?;
    let seconds: i64 = match rest.strip_prefix('m') {
        Some(before) => before.parse::<i64>().ok()?.checked_neg()?,
        None => rest.parse().ok()?,
    };
    // No other text comes to the same number: the name goes into a statement.
    (name_of(table, seconds) == name).then(|| seconds.saturating_mul(1000))
}

fn name_of(table: &str, start_s: i64) -> String {
    format!("{table}_p{}", if start_s < 0 { format!("m{}", -start_s) } else { start_s.to_string() })
}

fn partition_statements(layout: Layout, start_ms: i64) -> Vec<String> {
    let (start_s, end_s) = (start_ms / 1000, next_partition(layout, start_ms) / 1000);
    // Bounds of a partition must be constants.
    let range = format!("FROM (to_timestamp({start_s})) TO (to_timestamp({end_s}))");
    let hour = name_of(table(layout), start_s);
    if layout == Layout::Tuned {
        return vec![format!("CREATE TABLE IF NOT EXISTS {hour} PARTITION OF quiver_samples FOR VALUES {range}")];
    }
    let mut all = vec![format!(
        "CREATE TABLE IF NOT EXISTS {hour} PARTITION OF metrics_ts FOR VALUES {range} PARTITION BY HASH (metric_name)"
    )];
    for by_name in 0..16 {
        let part = format!("{hour}_{by_name}");
        all.push(format!(
            "CREATE TABLE IF NOT EXISTS {part} PARTITION OF {hour} FOR VALUES WITH (MODULUS 16, REMAINDER {by_name}) \
             PARTITION BY HASH (source)"
        ));
        all.extend((0..8).map(|by_source| {
            format!(
                "CREATE TABLE IF NOT EXISTS {part}_{by_source} PARTITION OF {part} FOR VALUES \
                 WITH (MODULUS 8, REMAINDER {by_source})"
            )
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specified_layout_is_made_word_for_word() {
        let all = statements(Found { timescale: true }, Layout::Spec).join("\n");
        for part in [
            "create_hypertable('metrics_ts', 'timestamp', chunk_time_interval => INTERVAL '1 hour'",
            "add_dimension('metrics_ts', 'metric_name', number_partitions => 16",
            "add_dimension('metrics_ts', 'source', number_partitions => 8",
            "metric_name varchar(200) NOT NULL",
            "target_id varchar(100) NOT NULL",
        ] {
            assert!(all.contains(part), "{part}\n{all}");
        }
        let hour = partition_statements(Layout::Spec, partition_of(Layout::Spec, 1_700_000_000_123));
        assert_eq!(hour.len(), 1 + 16 + 16 * 8);
        assert!(hour[0].contains("FROM (to_timestamp(1699999200)) TO (to_timestamp(1700002800))"), "{}", hour[0]);
        let early = partition_statements(Layout::Tuned, partition_of(Layout::Tuned, -1));
        assert!(early[0].contains("quiver_samples_pm86400 "), "{}", early[0]);
    }

    #[test]
    fn only_partitions_of_ours_are_known_by_their_names() {
        for start_ms in [0, 1_699_999_200_000, -86_400_000] {
            assert_eq!(start_of("t", &name_of("t", start_ms / 1000)), Some(start_ms));
        }
        for other in
            ["t", "t_p", "t_p1x", "t_p01", "t_p+1", "t_p-1", "t_pm0", "u_p1", "t_p1; DROP", "t_p99999999999999999999"]
        {
            assert_eq!(start_of("t", other), None, "{other}");
        }
    }
}
