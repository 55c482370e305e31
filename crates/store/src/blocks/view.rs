//! The SQL views for DuckDB over the blocks' Parquet files: `metrics_ts` with the columns of the specification, and
//! `histograms_ts` with the native histograms, which have no single value.
//!
//! Owns: `metrics_ts.sql` in the data directory, replaced in one step whenever the list of blocks changes.
//! Paths in it are relative to the data directory.

use std::fmt::Write;
use std::io;
use std::path::Path;

use sys::Fs;

use super::manifest::{HISTOGRAMS, Manifest, ROLLUPS, SAMPLES, SERIES};

const NAME: &str = "metrics_ts.sql";

const HEAD: &str = "\
-- The samples of all closed windows, with the columns of the specification's table metrics_ts. Written anew whenever
-- the list of blocks changes; what is still in the head and in the write-ahead log is not in it yet.
-- Use: cd DATA_DIRECTORY && duckdb -c \".read metrics_ts.sql\" -c \"SELECT count(*) FROM metrics_ts\"
-- From elsewhere: SET file_search_path = '/path/to/DATA_DIRECTORY' first.
-- Values are bit-exact: value_scaled / divisor is the one rounded division that gave the double. Stale markers, which
-- say that a series has ended, are left out.
-- Native histograms have no single value: they are in histograms_ts, whose payload docs/format/histogram.md draws.
";

const BODY: &str = "
SELECT s.\"timestamp\", d.metric_name, d.metric_type,
       CASE WHEN s.value_scaled IS NULL THEN s.value_plain ELSE CAST(s.value_scaled AS DOUBLE) / d.divisor END AS \"value\",
       CAST(d.labels AS JSON) AS labels, d.source, d.target_id
FROM samples AS s JOIN series AS d ON s.series_id = d.series_id
WHERE NOT s.stale;
";

const HISTOGRAMS_BODY: &str = "
SELECT h.\"timestamp\", d.metric_name, CAST(d.labels AS JSON) AS labels, d.source, d.target_id, h.\"count\", h.\"sum\",
       h.payload
FROM histograms AS h JOIN series AS d ON h.series_id = d.series_id
WHERE NOT h.stale;
";

const ROLLUPS_BODY: &str = "
SELECT r.\"timestamp\", d.metric_name, d.metric_type, CAST(d.labels AS JSON) AS labels, d.source, d.target_id, r.\"count\",
       r.\"sum\", r.\"min\", r.\"max\", r.\"first\", r.\"last\", r.first_timestamp, r.last_timestamp, r.increase
FROM rollups AS r JOIN series AS d ON r.series_id = d.series_id;
";

fn empty_rollups(name: &str) -> String {
    let columns = [
        ("timestamp", "TIMESTAMP WITH TIME ZONE"),
        ("metric_name", "VARCHAR"),
        ("metric_type", "VARCHAR"),
        ("labels", "JSON"),
        ("source", "VARCHAR"),
        ("target_id", "VARCHAR"),
        ("count", "BIGINT"),
        ("sum", "DOUBLE"),
        ("min", "DOUBLE"),
        ("max", "DOUBLE"),
        ("first", "DOUBLE"),
        ("last", "DOUBLE"),
        ("first_timestamp", "TIMESTAMP WITH TIME ZONE"),
        ("last_timestamp", "TIMESTAMP WITH TIME ZONE"),
        ("increase", "DOUBLE"),
    ];
    let columns: Vec<String> =
        columns.iter().map(|(name, kind)| format!("CAST(NULL AS {kind}) AS \"{name}\"")).collect();
    format!("CREATE OR REPLACE VIEW {name} AS\nSELECT {}\nWHERE false;\n", columns.join(",\n       "))
}

const HISTOGRAMS_EMPTY: &str = "CREATE OR REPLACE VIEW histograms_ts AS
SELECT CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS \"timestamp\", CAST(NULL AS VARCHAR) AS metric_name,
       CAST(NULL AS JSON) AS labels, CAST(NULL AS VARCHAR) AS source, CAST(NULL AS VARCHAR) AS target_id,
       CAST(NULL AS DOUBLE) AS \"count\", CAST(NULL AS DOUBLE) AS \"sum\", CAST(NULL AS BLOB) AS payload
WHERE false;
";

const EMPTY: &str = "CREATE OR REPLACE VIEW metrics_ts AS
SELECT CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS \"timestamp\", CAST(NULL AS VARCHAR) AS metric_name,
       CAST(NULL AS VARCHAR) AS metric_type, CAST(NULL AS DOUBLE) AS \"value\", CAST(NULL AS JSON) AS labels,
       CAST(NULL AS VARCHAR) AS source, CAST(NULL AS VARCHAR) AS target_id
WHERE false;
";

/// Writes the views over the given folders of blocks; `blocks_dir` lies in the data directory.
pub fn write_view<'a>(
    fs: &dyn Fs,
    blocks_dir: &Path,
    folders: impl Iterator<Item = (&'a Path, &'a Manifest)>,
) -> io::Result<()> {
    let dir = blocks_dir.parent().unwrap_or(Path::new("."));
    let relative = |(folder, manifest): (&Path, &'a Manifest)| {
        Some((folder.strip_prefix(dir).ok()?.to_string_lossy().into_owned(), manifest))
    };
    let relative: Vec<(String, &Manifest)> = folders.filter_map(relative).collect();
    let temporary = dir.join(format!("{NAME}.tmp"));
    let file = fs.create(&temporary)?;
    file.append(sql(&relative).as_bytes())?;
    file.sync_data()?;
    fs.rename(&temporary, &dir.join(NAME))?;
    fs.sync_dir(dir)
}

fn sql(folders: &[(String, &Manifest)]) -> String {
    let mut out = HEAD.to_owned();
    let those = |wanted: fn(&Manifest) -> bool| -> Vec<&str> {
        folders.iter().filter(|f| wanted(f.1)).map(|f| &*f.0).collect()
    };
    let all = those(|m| m.resolution_ms.is_none());
    let with_histograms = those(|m| m.resolution_ms.is_none() && m.histograms > 0);
    for (resolution_ms, name) in [(300_000, "rollups_5m_ts"), (3_600_000, "rollups_1h_ts")] {
        let rollups: Vec<&str> =
            folders.iter().filter(|f| f.1.resolution_ms == Some(resolution_ms)).map(|f| &*f.0).collect();
        put_view(&mut out, &rollups, (name, "rollups", ROLLUPS), ROLLUPS_BODY, &empty_rollups(name));
    }
    put_view(&mut out, &all, ("metrics_ts", "samples", SAMPLES), BODY, EMPTY);
    put_view(
        &mut out,
        &with_histograms,
        ("histograms_ts", "histograms", HISTOGRAMS),
        HISTOGRAMS_BODY,
        HISTOGRAMS_EMPTY,
    );
    out
}

fn put_view(out: &mut String, folders: &[&str], (view, rows, file): (&str, &str, &str), body: &str, empty: &str) {
    if folders.is_empty() {
        return out.push_str(empty);
    }
    // Writing to a string cannot fail.
    let _ = write!(out, "CREATE OR REPLACE VIEW {view} AS\nWITH {rows} AS (SELECT * FROM ");
    put_files(out, folders, file);
    out.push_str("),\nseries AS (SELECT series_id, metric_name, metric_type, labels, source, target_id, divisor FROM ");
    put_files(out, folders, SERIES);
    out.push(')');
    out.push_str(body);
}

fn put_files(out: &mut String, folders: &[&str], name: &str) {
    out.push_str("read_parquet([");
    for (number, folder) in folders.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        // Writing to a string cannot fail. Folder names are ours: digits and dashes below `blocks`.
        let _ = write!(out, "{comma}\n    '{}/{name}'", folder.replace('\'', "''"));
    }
    out.push_str("])");
}
