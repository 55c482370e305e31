//! The SQL view `metrics_ts` for DuckDB: the columns of the specification over the blocks' Parquet files.
//!
//! Owns: `metrics_ts.sql` in the data directory, replaced in one step whenever the list of blocks changes.
//! Paths in it are relative to the data directory.

use std::fmt::Write;
use std::io;
use std::path::Path;

use sys::Fs;

use super::manifest::{SAMPLES, SERIES};

const NAME: &str = "metrics_ts.sql";

const HEAD: &str = "\
-- The samples of all closed windows, with the columns of the specification's table metrics_ts. Written anew whenever
-- the list of blocks changes; what is still in the head and in the write-ahead log is not in it yet.
-- Use: cd DATA_DIRECTORY && duckdb -c \".read metrics_ts.sql\" -c \"SELECT count(*) FROM metrics_ts\"
-- From elsewhere: SET file_search_path = '/path/to/DATA_DIRECTORY' first.
-- Values are bit-exact: value_scaled / divisor is the one rounded division that gave the double. Stale markers, which
-- say that a series has ended, are left out.
";

const BODY: &str = "
SELECT s.\"timestamp\", d.metric_name, d.metric_type,
       CASE WHEN s.value_scaled IS NULL THEN s.value_plain ELSE CAST(s.value_scaled AS DOUBLE) / d.divisor END AS \"value\",
       CAST(d.labels AS JSON) AS labels, d.source, d.target_id
FROM samples AS s JOIN series AS d ON s.series_id = d.series_id
WHERE NOT s.stale;
";

const EMPTY: &str = "CREATE OR REPLACE VIEW metrics_ts AS
SELECT CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS \"timestamp\", CAST(NULL AS VARCHAR) AS metric_name,
       CAST(NULL AS VARCHAR) AS metric_type, CAST(NULL AS DOUBLE) AS \"value\", CAST(NULL AS JSON) AS labels,
       CAST(NULL AS VARCHAR) AS source, CAST(NULL AS VARCHAR) AS target_id
WHERE false;
";

/// Writes the view over the given folders of blocks; `blocks_dir` lies in the data directory.
pub fn write_view<'a>(fs: &dyn Fs, blocks_dir: &Path, folders: impl Iterator<Item = &'a Path>) -> io::Result<()> {
    let dir = blocks_dir.parent().unwrap_or(Path::new("."));
    let relative: Vec<String> =
        folders.filter_map(|f| Some(f.strip_prefix(dir).ok()?.to_string_lossy().into_owned())).collect();
    let temporary = dir.join(format!("{NAME}.tmp"));
    let file = fs.create(&temporary)?;
    file.append(sql(&relative).as_bytes())?;
    file.sync_data()?;
    fs.rename(&temporary, &dir.join(NAME))?;
    fs.sync_dir(dir)
}

fn sql(folders: &[String]) -> String {
    let mut out = HEAD.to_owned();
    if folders.is_empty() {
        out.push_str(EMPTY);
        return out;
    }
    out.push_str("CREATE OR REPLACE VIEW metrics_ts AS\nWITH samples AS (SELECT * FROM ");
    put_files(&mut out, folders, SAMPLES);
    out.push_str("),\nseries AS (SELECT * FROM ");
    put_files(&mut out, folders, SERIES);
    out.push(')');
    out.push_str(BODY);
    out
}

fn put_files(out: &mut String, folders: &[String], name: &str) {
    out.push_str("read_parquet([");
    for (number, folder) in folders.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        // Writing to a string cannot fail. Folder names are ours: digits and dashes below `blocks`.
        let _ = write!(out, "{comma}\n    '{}/{name}'", folder.replace('\'', "''"));
    }
    out.push_str("])");
}
