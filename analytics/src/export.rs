//! Samples as a folder of Parquet files in the specification's partitions: hour, metric name (16), source (8).
//!
//! Invariants: 1. a sample stands in exactly one file; 2. a file is complete and synced when the next stretch is taken.
//! The partitions are Hive's: `hour=2026-11-25T08/metric_hash=07/source_hash=3/part-00000.parquet`; a hash is XXH3-64 of
//! the name or the source, modulo 16 or 8.

use std::fs::File;
use std::path::{Path, PathBuf};

use polars::prelude::{
    Column, DataFrame, DataType, NamedFrom, ParquetCompression, ParquetWriter, PolarsError, Series,
    SortMultipleOptions, TimeUnit, TimeZone,
};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

const HOUR_MS: i64 = 3_600_000;
const METRIC_PARTS: u64 = 16;
const SOURCE_PARTS: u64 = 8;
/// The names of the partitions, while they stand in a table.
const KEYS: [&str; 3] = ["#hour", "#metric", "#source"];

/// A folder that is being filled.
pub struct Export {
    folder: PathBuf,
    stretches: u64,
    files: u64,
    rows: u64,
}

impl Export {
    /// Begins with an empty folder.
    pub fn new(folder: PathBuf) -> Export {
        Export { folder, stretches: 0, files: 0, rows: 0 }
    }

    /// Writes a stretch: columns `timestamp` (milliseconds), `metric_name`, `labels`, `source` and others.
    pub fn add(&mut self, table: DataFrame) -> Result<(), String> {
        let text = |e: PolarsError| e.to_string();
        let parts = partitioned(table).map_err(text)?;
        for part in parts {
            let folder = self.folder.join(folder_of(&part).map_err(text)?);
            let mut rows = in_order(part).map_err(text)?;
            self.rows += rows.height() as u64;
            write(&folder, &format!("part-{:05}.parquet", self.stretches), &mut rows)?;
            self.files += 1;
        }
        self.stretches += 1;
        Ok(())
    }

    /// Says what was written.
    pub fn summary(&self) -> Value {
        json!({"rows": self.rows, "files": self.files})
    }
}

fn partitioned(mut table: DataFrame) -> Result<Vec<DataFrame>, PolarsError> {
    let hours: Vec<Option<i64>> =
        table.column("timestamp")?.i64()?.iter().map(|ms| ms.map(|ms| ms.div_euclid(HOUR_MS))).collect();
    let hashed = |name: &str, parts: u64| -> Result<Vec<Option<i64>>, PolarsError> {
        let texts = table.column(name)?.str()?;
        Ok(texts.iter().map(|text| Some((xxh3_64(text.unwrap_or_default().as_bytes()) % parts) as i64)).collect())
    };
    let (metrics, sources) = (hashed("metric_name", METRIC_PARTS)?, hashed("source", SOURCE_PARTS)?);
    for (name, values) in KEYS.into_iter().zip([hours, metrics, sources]) {
        table.with_column(Column::from(Series::new(name.into(), values)))?;
    }
    table.partition_by_stable(KEYS, true)
}

fn folder_of(part: &DataFrame) -> Result<PathBuf, PolarsError> {
    let first = |name: &str| -> Result<i64, PolarsError> { Ok(part.column(name)?.i64()?.get(0).unwrap_or_default()) };
    let [hour, metric, source] = KEYS;
    let hour = format!("hour={}", hour_text(first(hour)?));
    let metric = format!("metric_hash={:02}", first(metric)?);
    Ok(Path::new(&hour).join(metric).join(format!("source_hash={}", first(source)?)))
}

/// Writes the number of an hour since 1970 as `2026-11-25T08`.
fn hour_text(hour: i64) -> String {
    let (days, hour) = (hour.div_euclid(24), hour.rem_euclid(24));
    // Days to a date of the Gregorian calendar, after Howard Hinnant's `civil_from_days`.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}")
}

/// Sorts by series and time, and gives the time its type.
fn in_order(part: DataFrame) -> Result<DataFrame, PolarsError> {
    let mut rows = part.drop_many(KEYS);
    let time = DataType::Datetime(TimeUnit::Milliseconds, Some(TimeZone::UTC));
    let times = rows.column("timestamp")?.cast(&time)?;
    rows.with_column(times)?;
    rows.sort(["metric_name", "labels", "timestamp"], SortMultipleOptions::default())
}

fn write(folder: &Path, name: &str, rows: &mut DataFrame) -> Result<(), String> {
    let path = folder.join(name);
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    std::fs::create_dir_all(folder).map_err(|e| at(&e))?;
    let file = File::create_new(&path).map_err(|e| at(&e))?;
    let writer = ParquetWriter::new(&file).with_compression(ParquetCompression::Zstd(None));
    writer.finish(rows).map_err(|e| at(&e))?;
    file.sync_all().map_err(|e| at(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::{ParquetReader, SerReader, df};

    fn files_below(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files_below(&path, out) } else { out.push(path) }
        }
    }

    #[test]
    fn hours_are_dates() {
        for (hour, text) in [
            (0, "1970-01-01T00"),
            (-1, "1969-12-31T23"),
            (495_560, "2026-07-14T08"),
            (24 * 11_016, "2000-02-29T00"),
            (24 * 20_512 + 23, "2026-02-28T23"),
        ] {
            assert_eq!(hour_text(hour), text, "{hour}");
        }
    }

    #[test]
    fn every_sample_stands_in_one_file_of_its_partition() {
        let folder = tempfile::tempdir().unwrap();
        let mut export = Export::new(folder.path().to_owned());
        let n = 5_000_i64;
        for stretch in 0..2 {
            let times: Vec<i64> = (0..n).map(|i| stretch * HOUR_MS / 2 + i * 1_000).collect();
            let names: Vec<String> = (0..n).map(|i| format!("m{}", i % 40)).collect();
            let sources: Vec<String> = (0..n).map(|i| format!("s{}", i % 11)).collect();
            let values: Vec<f64> = (0..n).map(|i| if i == 3 { -0.0 } else { i as f64 / 3.0 }).collect();
            let table = df!("timestamp" => times, "metric_name" => names, "labels" => vec!["{}"; n as usize],
                "source" => sources, "value" => values);
            export.add(table.unwrap()).unwrap();
        }
        let mut files = Vec::new();
        files_below(folder.path(), &mut files);
        assert_eq!(export.summary(), json!({"rows": 2 * n, "files": files.len()}));
        let mut rows = 0;
        for path in &files {
            let table = ParquetReader::new(File::open(path).unwrap()).finish().unwrap();
            rows += table.height() as i64;
            let place = path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
            for name in table.column("metric_name").unwrap().str().unwrap().iter().flatten() {
                let key = format!("metric_hash={:02}", xxh3_64(name.as_bytes()) % 16);
                assert!(place.contains(&key), "{name} in {place}");
            }
            for source in table.column("source").unwrap().str().unwrap().iter().flatten() {
                assert!(
                    place.contains(&format!("source_hash={}", xxh3_64(source.as_bytes()) % 8)),
                    "{source} in {place}"
                );
            }
        }
        assert_eq!(rows, 2 * n);
    }
}
