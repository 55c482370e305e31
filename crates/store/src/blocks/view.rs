//! The SQL views for DuckDB over the blocks' Parquet files: `metrics_ts` with the columns of the specification, and
//! `histograms_ts` with the native histograms, which have no single value.
//!
//! Owns: `metrics_ts.sql` in the data directory, replaced in one step whenever the list of blocks changes.
//! Paths in it are relative to the data directory.

use std::fmt::Write;
use std::io;
use std::path::Path;

use sys::Fs;

use super::manifest::{HISTOGRAMS, SAMPLES, SERIES};

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

/// Writes the views over the given folders of blocks, each with whether it has histograms; `blocks_dir` lies in the
/// data directory.
pub fn write_view<'a>(
    fs: &dyn Fs,
    blocks_dir: &Path,
    folders: impl Iterator<Item = (&'a Path, bool)>,
) -> io::Result<()> {
    let dir = blocks_dir.parent().unwrap_or(Path::new("."));
    let relative = |(folder, histograms): (&Path, bool)| {
        Some((folder.strip_prefix(dir).ok()?.to_string_lossy().into_owned(), histograms))
    };
    let relative: Vec<(String, bool)> = folders.filter_map(relative).collect();
    let temporary = dir.join(format!("{NAME}.tmp"));
    let file = fs.create(&temporary)?;
    file.append(sql(&relative).as_bytes())?;
    file.sync_data()?;
    fs.rename(&temporary, &dir.join(NAME))?;
    fs.sync_dir(dir)
}

fn sql(folders: &[(String, bool)]) -> String {
    let mut out = HEAD.to_owned();
    let all: Vec<&str> = folders.iter().map(|f| &*f.0).collect();
    let with_histograms: Vec<&str> = folders.iter().filter(|f| f.1).map(|f| &*f.0).collect();
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
