//! A window's rows, into the tables of either layout.

use std::collections::BTreeSet;

use hashbrown::{HashMap, HashSet};
use model::{LABEL_NAME, Labels};
use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::Layout;
use super::copy::{CopyRows, has_time};
use super::schema::{self, Found};
use crate::queue::{HistogramRow, Row, Window, WindowSeries};

/// Series that one statement defines.
const SERIES_AT_ONCE: usize = 2_000;
/// Partitions that are remembered to be there.
const PARTITIONS_KNOWN_MAX: usize = 10_000;

/// What became of a window's rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    pub stored: usize,
    pub duplicates: usize,
    /// They have no form in the columns.
    pub unwritable: usize,
    /// They are older than what is kept.
    pub filtered: usize,
    /// The database refused them for good.
    pub failed: usize,
    pub bytes: usize,
}

impl Written {
    /// Counts another part too.
    pub fn add(&mut self, other: Written) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.unwritable += other.unwritable;
        self.filtered += other.filtered;
        self.failed += other.failed;
        self.bytes += other.bytes;
    }
}

/// Some rows of a window.
#[derive(Clone, Copy)]
pub struct Part<'w> {
    rows: &'w [Row],
    histograms: &'w [HistogramRow],
    /// Others of the same window are written in the same transaction.
    is_one_of_many: bool,
}

impl<'w> Part<'w> {
    /// Gives all of them.
    pub fn of(window: &'w Window) -> Part<'w> {
        Part { rows: &window.rows, histograms: &window.histograms, is_one_of_many: false }
    }

    /// Counts them.
    pub fn len(&self) -> usize {
        self.rows.len() + self.histograms.len()
    }

    /// Splits it in two, if it is more than one row.
    pub fn halves(&self) -> Option<(Part<'w>, Part<'w>)> {
        if self.len() < 2 {
            return None;
        }
        let part = |rows, histograms| Part { rows, histograms, is_one_of_many: true };
        if !self.histograms.is_empty() && !self.rows.is_empty() {
            return Some((part(self.rows, &[]), part(&[], self.histograms)));
        }
        let rows = self.rows.split_at(self.rows.len() / 2);
        let histograms = self.histograms.split_at(self.histograms.len() / 2);
        Some((part(rows.0, histograms.0), part(rows.1, histograms.1)))
    }

    /// Gives series and origin of each row.
    fn keys(&self) -> impl Iterator<Item = (u32, u32)> {
        let histograms = self.histograms.iter().map(|h| (h.series, h.origin));
        self.rows.iter().map(|row| (row.series, row.origin)).chain(histograms)
    }

    fn times(&self) -> impl Iterator<Item = i64> {
        self.rows.iter().map(|row| row.ts_ms).chain(self.histograms.iter().map(|h| h.ts_ms))
    }
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
    /// Those that are there.
    partitions: HashSet<i64>,
    /// Series that the savepoint under way has given an id.
    fresh: Vec<(u32, u32)>,
    /// What is older is not written.
    oldest_ms: i64,
}

impl Writer {
    pub fn new(layout: Layout, found: Found) -> Writer {
        let (ready, partitions, fresh) = Default::default();
        Writer { layout, found, epoch: 0, ready, partitions, fresh, oldest_ms: i64::MIN }
    }

    /// Makes ready what a window needs, before its transaction: texts of series, and partitions.
    pub async fn begin(
        &mut self,
        connection: &mut PgConnection,
        window: &Window,
        oldest_ms: i64,
    ) -> Result<(), sqlx::Error> {
        self.oldest_ms = oldest_ms;
        if self.epoch != window.epoch {
            self.epoch = window.epoch;
            self.ready.clear();
        }
        for key in Part::of(window).keys() {
            self.ready.entry(key).or_insert_with(|| {
                let series = window.series.get(key.0 as usize)?;
                let (source, target) = window.origins.get(key.1 as usize)?;
                ready_of(series, source, target, self.layout)
            });
        }
        if self.found.timescale { Ok(()) } else { self.make_partitions(connection, window).await }
    }

    /// Writes a part of the window within a transaction.
    pub async fn write(&mut self, connection: &mut PgConnection, part: Part<'_>) -> Result<Written, sqlx::Error> {
        self.fresh.clear();
        let filtered = part.times().filter(|ts_ms| *ts_ms < self.oldest_ms).count();
        let mut written = match self.layout {
            Layout::Spec => self.write_spec(connection, part).await?,
            Layout::Tuned => {
                self.define(connection, part).await?;
                self.write_tuned(connection, part).await?
            }
        };
        written.filtered = filtered;
        written.unwritable = written.unwritable.saturating_sub(filtered);
        Ok(written)
    }

    /// Says that the part that was written last was taken back.
    pub fn undo(&mut self) {
        for key in std::mem::take(&mut self.fresh) {
            if let Some(Some(ready)) = self.ready.get_mut(&key) {
                ready.id = 0;
            }
        }
    }

    fn get(&self, series: u32, origin: u32, ts_ms: i64) -> Option<&Ready> {
        let ready = self.ready.get(&(series, origin))?.as_ref();
        ready.filter(|_| has_time(ts_ms) && ts_ms >= self.oldest_ms)
    }

    async fn make_partitions(&mut self, connection: &mut PgConnection, window: &Window) -> Result<(), sqlx::Error> {
        let layout = self.layout;
        let times = window.rows.iter().map(|row| row.ts_ms);
        let times = times.filter(|ts_ms| has_time(*ts_ms) && *ts_ms >= self.oldest_ms);
        let wanted: BTreeSet<i64> = times.map(|ts_ms| schema::partition_of(layout, ts_ms)).collect();
        for start in &wanted {
            if !self.partitions.contains(start) {
                schema::make_partition(connection, layout, *start).await?;
                self.partitions.insert(*start);
            }
        }
        // Made ahead, so that no row of the next one waits for it; that this one cannot be made now is no trouble yet.
        if let Some(ahead) = wanted.last().map(|latest| schema::next_partition(layout, *latest))
            && !self.partitions.contains(&ahead)
        {
            match schema::make_partition(connection, layout, ahead).await {
                Ok(()) => drop(self.partitions.insert(ahead)),
                Err(error @ sqlx::Error::Database(_)) => tracing::debug!(%error, "the next partition waits"),
                Err(error) => return Err(error),
            }
        }
        if self.partitions.len() > PARTITIONS_KNOWN_MAX {
            self.partitions.retain(|start| wanted.contains(start));
        }
        Ok(())
    }

    /// Drops what is older than what is kept; gives how many partitions went.
    pub async fn drop_old(&mut self, connection: &mut PgConnection, before_ms: i64) -> Result<usize, sqlx::Error> {
        self.partitions.retain(|start| schema::next_partition(self.layout, *start) > before_ms);
        schema::drop_old(connection, self.found, self.layout, before_ms).await
    }

    async fn write_spec(&self, connection: &mut PgConnection, part: Part<'_>) -> Result<Written, sqlx::Error> {
        let mut written = Written::default();
        let mut rows = CopyRows::new(7);
        for row in part.rows {
            let Some(ready) = self.get(row.series, row.origin, row.ts_ms) else { continue };
            rows.row().time(row.ts_ms).raw(ready.name.as_bytes()).raw(ready.metric_type.as_bytes());
            rows.double(row.value).json(&ready.labels).raw(ready.source.as_bytes()).raw(ready.target.as_bytes());
        }
        let mut histograms = CopyRows::new(6);
        for h in part.histograms {
            let Some(ready) = self.get(h.series, h.origin, h.ts_ms) else { continue };
            histograms.row().time(h.ts_ms).raw(ready.name.as_bytes()).json(&ready.labels);
            histograms.raw(ready.source.as_bytes()).raw(ready.target.as_bytes()).raw(&h.bytes);
        }
        written.stored = rows.len() + histograms.len();
        written.unwritable = part.len() - written.stored;
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

    async fn write_tuned(&self, connection: &mut PgConnection, part: Part<'_>) -> Result<Written, sqlx::Error> {
        let mut written = Written::default();
        let mut rows = CopyRows::new(3);
        for row in part.rows {
            let Some(ready) = self.get(row.series, row.origin, row.ts_ms) else { continue };
            rows.row().bigint(ready.id).time(row.ts_ms).double(row.value);
        }
        let mut histograms = CopyRows::new(3);
        for h in part.histograms {
            let Some(ready) = self.get(h.series, h.origin, h.ts_ms) else { continue };
            histograms.row().bigint(ready.id).time(h.ts_ms).raw(&h.bytes);
        }
        let offered = rows.len() + histograms.len();
        written.unwritable = part.len() - offered;
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
            if part.is_one_of_many {
                sqlx::raw_sql(sqlx::AssertSqlSafe(format!("TRUNCATE {staging}"))).execute(&mut *connection).await?;
            }
        }
        written.duplicates = offered.saturating_sub(written.stored);
        Ok(written)
    }

    /// Gives those series of a part that have none an id in the database.
    async fn define(&mut self, connection: &mut PgConnection, part: Part<'_>) -> Result<(), sqlx::Error> {
        let unknown = |key: &(u32, u32)| self.ready.get(key).is_some_and(|r| r.as_ref().is_some_and(|r| r.id == 0));
        let mut missing: Vec<(u32, u32)> = part.keys().filter(unknown).collect();
        missing.sort_unstable();
        missing.dedup();
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
                 had AS (SELECT hash, series_id FROM quiver_series WHERE hash = ANY ($1::bytea[])), \
                 made AS (INSERT INTO quiver_series (hash, metric_name, metric_type, labels, source, target_id) \
                 SELECT DISTINCT ON (hash) hash, metric_name, metric_type, labels::jsonb, source, target_id FROM new \
                 WHERE NOT EXISTS (SELECT FROM had WHERE had.hash = new.hash) ORDER BY hash \
                 ON CONFLICT (hash) DO UPDATE SET hash = excluded.hash RETURNING hash, series_id) \
                 SELECT hash, series_id FROM had UNION ALL SELECT hash, series_id FROM made",
            );
            let rows = query.bind(&hashes).bind(names).bind(types).bind(labels).bind(sources).bind(targets);
            let rows = rows.fetch_all(&mut *connection).await?;
            let ids: HashMap<Vec<u8>, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            let found: Vec<_> = known.iter().map(|(key, r)| (**key, ids.get(&r.hash()).copied())).collect();
            for (key, id) in found {
                if let (Some(Some(ready)), Some(id)) = (self.ready.get_mut(&key), id) {
                    ready.id = id;
                    self.fresh.push(key);
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
            model::coding::put_bytes(&mut all, text.as_bytes());
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
