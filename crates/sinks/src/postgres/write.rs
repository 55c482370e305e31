//! A window's rows, into the tables of either layout.

use hashbrown::{HashMap, HashSet};
use model::{LABEL_NAME, Labels};
use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::Layout;
use super::copy::{CopyRows, has_time};
use super::schema::{self, Found};
use crate::queue::{Window, WindowSeries};

/// Series that one statement defines.
const SERIES_AT_ONCE: usize = 2_000;

/// What became of a window's rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    pub stored: usize,
    pub duplicates: usize,
    pub unwritable: usize,
    pub bytes: usize,
}

/// What the columns hold of a series with its origin, ready to be copied.
struct Ready {
    name: String,
    metric_type: &'static str,
    labels: String,
    source: String,
    target: String,
    /// In the tuned layout, once it is known.
    id: i64,
}

/// Writes windows over one connection.
pub struct Writer {
    layout: Layout,
    found: Found,
    epoch: u64,
    /// By series and origin; `None` for what the columns cannot hold.
    ready: HashMap<(u32, u32), Option<Ready>>,
    partitions: HashSet<i64>,
    /// Made in the transaction that is under way.
    fresh: Vec<i64>,
}

impl Writer {
    pub fn new(layout: Layout, found: Found) -> Writer {
        Writer { layout, found, epoch: 0, ready: HashMap::new(), partitions: HashSet::new(), fresh: Vec::new() }
    }

    /// Says that the transaction was committed: its partitions are there.
    pub fn commit(&mut self) {
        self.partitions.extend(self.fresh.drain(..));
    }

    /// Writes a window within a transaction.
    pub async fn write(&mut self, connection: &mut PgConnection, window: &Window) -> Result<Written, sqlx::Error> {
        self.fresh.clear();
        self.prepare(window);
        if self.layout == Layout::Tuned {
            self.define(connection).await?;
        }
        self.make_partitions(connection, window).await?;
        match self.layout {
            Layout::Spec => self.write_spec(connection, window).await,
            Layout::Tuned => self.write_tuned(connection, window).await,
        }
    }

    fn prepare(&mut self, window: &Window) {
        if self.epoch != window.epoch {
            self.epoch = window.epoch;
            self.ready.clear();
        }
        let rows = window.rows.iter().map(|row| (row.series, row.origin));
        for key in rows.chain(window.histograms.iter().map(|h| (h.0, h.1))) {
            self.ready.entry(key).or_insert_with(|| {
                let series = window.series.get(key.0 as usize)?;
                let (source, target) = window.origins.get(key.1 as usize)?;
                ready_of(series, source, target, self.layout)
            });
        }
    }

    fn get(&self, series: u32, origin: u32, ts_ms: i64) -> Option<&Ready> {
        self.ready.get(&(series, origin))?.as_ref().filter(|_| has_time(ts_ms))
    }

    async fn make_partitions(&mut self, connection: &mut PgConnection, window: &Window) -> Result<(), sqlx::Error> {
        if self.found.timescale {
            return Ok(());
        }
        let mut wanted: Vec<i64> = Vec::new();
        for row in window.rows.iter().filter(|row| has_time(row.ts_ms)) {
            let start = schema::partition_of(self.layout, row.ts_ms);
            if !self.partitions.contains(&start) && !wanted.contains(&start) {
                wanted.push(start);
            }
        }
        // Made ahead, so that no row of the next hour waits for it.
        if let Some(latest) = wanted.iter().max().copied() {
            let next = schema::next_partition(self.layout, latest);
            if !self.partitions.contains(&next) {
                wanted.push(next);
            }
        }
        for start in wanted {
            schema::make_partition(connection, self.layout, start).await?;
            self.fresh.push(start);
        }
        Ok(())
    }

    async fn write_spec(&self, connection: &mut PgConnection, window: &Window) -> Result<Written, sqlx::Error> {
        let mut written = Written::default();
        let mut rows = CopyRows::new(7);
        for row in &window.rows {
            let Some(ready) = self.get(row.series, row.origin, row.ts_ms) else { continue };
            rows.row().time(row.ts_ms).raw(ready.name.as_bytes()).raw(ready.metric_type.as_bytes());
            rows.double(row.value).json(&ready.labels).raw(ready.source.as_bytes()).raw(ready.target.as_bytes());
        }
        let mut histograms = CopyRows::new(6);
        for (series, origin, ts_ms, payload) in &window.histograms {
            let Some(ready) = self.get(*series, *origin, *ts_ms) else { continue };
            histograms.row().time(*ts_ms).raw(ready.name.as_bytes()).json(&ready.labels);
            histograms.raw(ready.source.as_bytes()).raw(ready.target.as_bytes()).raw(payload);
        }
        written.stored = rows.len() + histograms.len();
        written.unwritable = window.len() - written.stored;
        written.bytes += copy(
            connection,
            "COPY metrics_ts (\"timestamp\", metric_name, metric_type, value, labels, source, target_id) \
             FROM STDIN (FORMAT binary)",
            rows,
        )
        .await?;
        written.bytes += copy(
            connection,
            "COPY histograms_ts (\"timestamp\", metric_name, labels, source, target_id, payload) \
             FROM STDIN (FORMAT binary)",
            histograms,
        )
        .await?;
        Ok(written)
    }

    async fn write_tuned(&self, connection: &mut PgConnection, window: &Window) -> Result<Written, sqlx::Error> {
        let mut written = Written::default();
        let mut rows = CopyRows::new(3);
        for row in &window.rows {
            let Some(ready) = self.get(row.series, row.origin, row.ts_ms) else { continue };
            rows.row().bigint(ready.id).time(row.ts_ms).double(row.value);
        }
        let mut histograms = CopyRows::new(3);
        for (series, origin, ts_ms, payload) in &window.histograms {
            let Some(ready) = self.get(*series, *origin, *ts_ms) else { continue };
            histograms.row().bigint(ready.id).time(*ts_ms).raw(payload);
        }
        let offered = rows.len() + histograms.len();
        written.unwritable = window.len() - offered;
        for (staging, table, column, rows) in [
            ("quiver_new_samples", "quiver_samples", "value double precision", rows),
            ("quiver_new_histograms", "histograms_ts", "payload bytea", histograms),
        ] {
            if rows.len() == 0 {
                continue;
            }
            let make = format!(
                "CREATE TEMPORARY TABLE IF NOT EXISTS {staging} (series_id bigint, \"timestamp\" timestamptz, {column}) \
                 ON COMMIT DELETE ROWS"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(make)).execute(&mut *connection).await?;
            written.bytes += copy(connection, &format!("COPY {staging} FROM STDIN (FORMAT binary)"), rows).await?;
            let take = format!("INSERT INTO {table} SELECT * FROM {staging} ON CONFLICT DO NOTHING");
            let taken = sqlx::query(sqlx::AssertSqlSafe(take)).execute(&mut *connection).await?;
            written.stored += usize::try_from(taken.rows_affected()).unwrap_or(usize::MAX);
        }
        written.duplicates = offered.saturating_sub(written.stored);
        Ok(written)
    }

    /// Gives the series that have none an id in the database.
    async fn define(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let missing: Vec<(u32, u32)> =
            self.ready.iter().filter(|(_, r)| r.as_ref().is_some_and(|r| r.id == 0)).map(|(key, _)| *key).collect();
        for keys in missing.chunks(SERIES_AT_ONCE) {
            let mut hashes: Vec<Vec<u8>> = Vec::new();
            let mut texts: [Vec<&str>; 5] = Default::default();
            let known = keys.iter().filter_map(|key| Some((key, self.ready.get(key)?.as_ref()?)));
            let known: Vec<_> = known.collect();
            for (_, r) in &known {
                hashes.push(r.hash());
                let columns = [r.name.as_str(), r.metric_type, &r.labels, &r.source, &r.target];
                texts.iter_mut().zip(columns).for_each(|(all, text)| all.push(text));
            }
            let [names, types, labels, sources, targets] = &texts;
            let query = sqlx::query(
                "WITH new AS (SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], \
                 $6::text[]) AS t (hash, metric_name, metric_type, labels, source, target_id)), \
                 made AS (INSERT INTO quiver_series (hash, metric_name, metric_type, labels, source, target_id) \
                 SELECT hash, metric_name, metric_type, labels::jsonb, source, target_id FROM new ORDER BY hash \
                 ON CONFLICT (hash) DO UPDATE SET hash = excluded.hash RETURNING hash, series_id) \
                 SELECT hash, series_id FROM made",
            );
            let rows = query.bind(&hashes).bind(names).bind(types).bind(labels).bind(sources).bind(targets);
            let rows = rows.fetch_all(&mut *connection).await?;
            let ids: HashMap<Vec<u8>, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            let found: Vec<_> = known.iter().map(|(key, r)| (**key, ids.get(&r.hash()).copied())).collect();
            for (key, id) in found {
                if let (Some(Some(ready)), Some(id)) = (self.ready.get_mut(&key), id) {
                    ready.id = id;
                }
            }
        }
        Ok(())
    }
}

impl Ready {
    /// Tells series apart: 128 bits of all columns.
    fn hash(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for text in [&self.name, self.metric_type, &self.labels, &self.source, &self.target] {
            crate::coding::put_bytes(&mut all, text.as_bytes());
        }
        xxhash_rust::xxh3::xxh3_128(&all).to_be_bytes().to_vec()
    }
}

fn ready_of(series: &WindowSeries, source: &str, target: &str, layout: Layout) -> Option<Ready> {
    let name = series.labels.metric_name();
    let texts = [name, source, target];
    let fits =
        layout == Layout::Tuned || texts.iter().zip([200, 100, 100]).all(|(text, max)| text.chars().count() <= max);
    // PostgreSQL has no form for the character 0.
    let plain = !series.labels.as_bytes().contains(&0) || !has_nul(&series.labels);
    let plain = plain && !texts.iter().any(|text| text.contains('\0'));
    (fits && plain).then(|| Ready {
        name: name.to_owned(),
        metric_type: series.metric_type.as_spec_str(),
        labels: json_of(&series.labels),
        source: source.to_owned(),
        target: target.to_owned(),
        id: 0,
    })
}

fn has_nul(labels: &Labels) -> bool {
    labels.iter().any(|(name, value)| name.contains('\0') || value.contains('\0'))
}

fn json_of(labels: &Labels) -> String {
    let pairs = labels.iter().filter(|(name, _)| *name != LABEL_NAME);
    let map: serde_json::Map<String, serde_json::Value> = pairs.map(|(n, v)| (n.to_owned(), v.into())).collect();
    serde_json::Value::Object(map).to_string()
}

/// Copies rows; gives how many bytes they were.
async fn copy(connection: &mut PgConnection, statement: &str, rows: CopyRows) -> Result<usize, sqlx::Error> {
    if rows.len() == 0 {
        return Ok(0);
    }
    let bytes = rows.finish();
    let len = bytes.len();
    let mut copying = connection.copy_in_raw(statement).await?;
    copying.send(bytes).await?;
    copying.finish().await?;
    Ok(len)
}
