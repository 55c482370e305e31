//! Tables, and the partitions of plain PostgreSQL.
//!
//! With TimescaleDB `metrics_ts` is a hypertable of one-hour chunks with the specification's two hash dimensions. Plain
//! PostgreSQL gets the same layout by declarative partitions: an hour, in it 16 by metric name, in each 8 by source; they are
//! made before rows of that hour are written, and for the next hour ahead.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::Layout;

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

const SAMPLES: &str = "CREATE TABLE IF NOT EXISTS quiver_samples (series_id bigint NOT NULL, \
    \"timestamp\" timestamptz NOT NULL, value double precision NOT NULL, PRIMARY KEY (series_id, \"timestamp\"))";

/// Makes the tables that are missing.
pub async fn prepare(connection: &mut PgConnection, layout: Layout) -> Result<Found, sqlx::Error> {
    let row = sqlx::query("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'");
    let timescale = row.fetch_one(&mut *connection).await?.get::<i64, _>(0) > 0;
    let found = Found { timescale };
    // Several servers may come at the same time.
    sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(&mut *connection).await?;
    let mut made = Ok(());
    for statement in statements(found, layout) {
        made = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut *connection).await.map(|_| ());
        if made.is_err() {
            break;
        }
    }
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(&mut *connection).await?;
    made.map(|()| found)
}

/// Gives the statements that make everything but partitions.
fn statements(found: Found, layout: Layout) -> Vec<String> {
    // What is there already is no news to anybody.
    let mut all = vec!["SET client_min_messages = warning".to_owned(), PLACES.to_owned()];
    match layout {
        Layout::Spec => {
            let by = if found.timescale { "" } else { " PARTITION BY RANGE (\"timestamp\")" };
            all.push(format!("CREATE TABLE IF NOT EXISTS metrics_ts ({SPEC_COLUMNS}){by}"));
            if found.timescale {
                all.push(
                    "SELECT create_hypertable('metrics_ts', 'timestamp', chunk_time_interval => INTERVAL '1 hour', \
                     if_not_exists => TRUE)"
                        .to_owned(),
                );
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
            let by = if found.timescale { "" } else { " PARTITION BY RANGE (\"timestamp\")" };
            all.push(format!("{SAMPLES}{by}"));
            if found.timescale {
                all.push(
                    "SELECT create_hypertable('quiver_samples', 'timestamp', chunk_time_interval => INTERVAL '1 day', \
                     if_not_exists => TRUE)"
                        .to_owned(),
                );
                all.push(
                    "ALTER TABLE quiver_samples SET (timescaledb.compress, timescaledb.compress_segmentby = 'series_id')"
                        .to_owned(),
                );
            }
            all.extend(TUNED.map(str::to_owned));
        }
    }
    all
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

/// Makes the partition that starts at a time, if it is missing.
pub async fn make_partition(connection: &mut PgConnection, layout: Layout, start_ms: i64) -> Result<(), sqlx::Error> {
    // Another server may be making it; until the end of the transaction.
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *connection).await?;
    let all = partition_statements(layout, start_ms).join(";\n");
    sqlx::raw_sql(sqlx::AssertSqlSafe(all)).execute(connection).await.map(|_| ())
}

fn partition_statements(layout: Layout, start_ms: i64) -> Vec<String> {
    let (start_s, end_s) = (start_ms / 1000, next_partition(layout, start_ms) / 1000);
    // Bounds of a partition must be constants.
    let range = format!("FROM (to_timestamp({start_s})) TO (to_timestamp({end_s}))");
    let name =
        |table: &str| format!("{table}_p{}", if start_s < 0 { format!("m{}", -start_s) } else { start_s.to_string() });
    if layout == Layout::Tuned {
        let name = name("quiver_samples");
        return vec![format!("CREATE TABLE IF NOT EXISTS {name} PARTITION OF quiver_samples FOR VALUES {range}")];
    }
    let hour = name("metrics_ts");
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
}
