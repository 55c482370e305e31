//! `rollups.parquet`: what the samples of a series come to in each stretch of time, rows of one series after the other.
//!
//! Owns: the row group under construction.
//! Invariants: all columns of a row group are cut into pages at the same rows.
//! Limits: [`GROUP_ROWS`] rows are held in memory, about 6 MiB.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use parquet::basic::{Compression, Encoding, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{DoubleType, Int64Type};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use crate::error::{ColumnsError, layout};
use crate::pages::{Pages, Wanted};
use crate::samples_writer::{built, field, timestamp_field, write_column};
use crate::source::ReadAt;

/// Rows of a page.
const PAGE_ROWS: usize = 8192;
/// Rows of a row group.
const GROUP_ROWS: usize = 8 * PAGE_ROWS;

/// The names of the columns, in order.
pub const ROLLUP_COLUMNS: [&str; 11] = [
    "series_id",
    "timestamp",
    "count",
    "sum",
    "min",
    "max",
    "first",
    "last",
    "first_timestamp",
    "last_timestamp",
    "increase",
];

/// What the samples of a series come to in one stretch of time. Stale markers do not count.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Bucket {
    /// Where the stretch starts; milliseconds since 1970.
    pub start_ms: i64,
    /// How many samples.
    pub count: i64,
    /// Their sum.
    pub sum: f64,
    /// The least; a NaN only when there is nothing else.
    pub min: f64,
    /// The greatest; a NaN only when there is nothing else.
    pub max: f64,
    /// The first.
    pub first: f64,
    /// The last.
    pub last: f64,
    /// The time of the first.
    pub first_ts_ms: i64,
    /// The time of the last.
    pub last_ts_ms: i64,
    /// By how much a counter rose since the sample before the first, resets taken care of; `None` for others.
    pub increase: Option<f64>,
}

/// Writes rows to a sink.
pub struct RollupsWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    series_id: Vec<i64>,
    buckets: Vec<Bucket>,
}

impl<W: Write + Send> RollupsWriter<W> {
    /// Starts a file; `level` is zstd's compression level.
    pub fn new(sink: W, level: i32) -> Result<RollupsWriter<W>, ColumnsError> {
        let file = SerializedFileWriter::new(sink, SCHEMA.clone(), properties(level)?)?;
        Ok(RollupsWriter { file, series_id: Vec::new(), buckets: Vec::new() })
    }

    /// Appends all rows of one series. Ids must rise from call to call, times within the call.
    pub fn add(&mut self, series_id: i64, buckets: &[Bucket]) -> Result<(), ColumnsError> {
        for bucket in buckets {
            self.series_id.push(series_id);
            self.buckets.push(*bucket);
            if self.buckets.len() == GROUP_ROWS {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes the footer and gives the sink back.
    pub fn finish(mut self) -> Result<W, ColumnsError> {
        self.flush()?;
        Ok(self.file.into_inner()?)
    }

    fn flush(&mut self) -> Result<(), ColumnsError> {
        if self.buckets.is_empty() {
            return Ok(());
        }
        let buckets = &self.buckets;
        let integers = |get: fn(&Bucket) -> i64| -> Vec<i64> { buckets.iter().map(get).collect() };
        let doubles = |get: fn(&Bucket) -> f64| -> Vec<f64> { buckets.iter().map(get).collect() };
        let increases: Vec<f64> = buckets.iter().filter_map(|b| b.increase).collect();
        let levels: Vec<i16> = buckets.iter().map(|b| i16::from(b.increase.is_some())).collect();
        let mut out = self.file.next_row_group()?;
        write_column::<Int64Type, W>(&mut out, &self.series_id, None)?;
        write_column::<Int64Type, W>(&mut out, &integers(|b| b.start_ms), None)?;
        write_column::<Int64Type, W>(&mut out, &integers(|b| b.count), None)?;
        for get in
            [|b: &Bucket| b.sum, |b: &Bucket| b.min, |b: &Bucket| b.max, |b: &Bucket| b.first, |b: &Bucket| b.last]
        {
            write_column::<DoubleType, W>(&mut out, &doubles(get), None)?;
        }
        write_column::<Int64Type, W>(&mut out, &integers(|b| b.first_ts_ms), None)?;
        write_column::<Int64Type, W>(&mut out, &integers(|b| b.last_ts_ms), None)?;
        write_column::<DoubleType, W>(&mut out, &increases, Some(&levels))?;
        out.close()?;
        self.series_id.clear();
        self.buckets.clear();
        Ok(())
    }
}

static SCHEMA: LazyLock<TypePtr> = LazyLock::new(|| {
    let [series_id, timestamp, count, sum, min, max, first, last, first_ts, last_ts, increase] = ROLLUP_COLUMNS;
    let double = |name| field(name, Physical::DOUBLE, Repetition::REQUIRED);
    let fields = vec![
        field(series_id, Physical::INT64, Repetition::REQUIRED),
        timestamp_field(timestamp),
        field(count, Physical::INT64, Repetition::REQUIRED),
        double(sum),
        double(min),
        double(max),
        double(first),
        double(last),
        timestamp_field(first_ts),
        timestamp_field(last_ts),
        field(increase, Physical::DOUBLE, Repetition::OPTIONAL),
    ];
    built(Type::group_type_builder("rollups").with_fields(fields).build())
});

fn properties(level: i32) -> Result<WriterPropertiesPtr, ColumnsError> {
    let path = |column: usize| ColumnPath::from(ROLLUP_COLUMNS[column]);
    let mut props = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("quiver".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(level)?))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_statistics_enabled(path(0), EnabledStatistics::Page)
        .set_column_statistics_enabled(path(1), EnabledStatistics::Page)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_data_page_size_limit(64 * PAGE_ROWS)
        .set_max_row_group_row_count(Some(GROUP_ROWS));
    for column in [0, 1, 2, 8, 9] {
        props = props.set_column_encoding(path(column), Encoding::DELTA_BINARY_PACKED);
    }
    Ok(Arc::new(props.build()))
}

const fn wanted(column: usize, physical: Physical) -> Wanted {
    Wanted { name: ROLLUP_COLUMNS[column], physical, repetition: Repetition::REQUIRED }
}

const WANTED: [Wanted; 11] = [
    wanted(0, Physical::INT64),
    wanted(1, Physical::INT64),
    wanted(2, Physical::INT64),
    wanted(3, Physical::DOUBLE),
    wanted(4, Physical::DOUBLE),
    wanted(5, Physical::DOUBLE),
    wanted(6, Physical::DOUBLE),
    wanted(7, Physical::DOUBLE),
    wanted(8, Physical::INT64),
    wanted(9, Physical::INT64),
    Wanted { name: ROLLUP_COLUMNS[10], physical: Physical::DOUBLE, repetition: Repetition::OPTIONAL },
];

/// Stands for "no increase" in a decoded page; no sum of doubles has these bits.
const NO_INCREASE: u64 = 0x7ff8_0000_0000_51e4;

/// The places of all pages.
pub struct RollupsFile(Pages);

impl RollupsFile {
    /// Reads the footer and the offset index.
    pub fn open(source: &dyn ReadAt) -> Result<RollupsFile, ColumnsError> {
        Pages::open(source, &WANTED).map(RollupsFile)
    }

    /// Counts the pages.
    pub fn pages(&self) -> usize {
        self.0.count()
    }

    /// Reads the rows of one page, each with its series.
    pub fn read_page(&self, source: &dyn ReadAt, page: usize) -> Result<Vec<(i64, Bucket)>, ColumnsError> {
        let integers = |column: usize| self.0.read::<Int64Type>(source, column, page, 0);
        let doubles = |column: usize| self.0.read::<DoubleType>(source, column, page, f64::from_bits(NO_INCREASE));
        let (ids, starts, counts) = (integers(0)?, integers(1)?, integers(2)?);
        let (firsts, lasts) = (integers(8)?, integers(9)?);
        let values = [doubles(3)?, doubles(4)?, doubles(5)?, doubles(6)?, doubles(7)?, doubles(10)?];
        let short = || layout("a page holds fewer rows than it should");
        let row = |(at, series_id): (usize, i64)| {
            let integer = |column: &[i64]| column.get(at).copied().ok_or_else(short);
            let double = |column: usize| values.get(column).and_then(|v| v.get(at)).copied().ok_or_else(short);
            let bucket = Bucket {
                start_ms: integer(&starts)?,
                count: integer(&counts)?,
                sum: double(0)?,
                min: double(1)?,
                max: double(2)?,
                first: double(3)?,
                last: double(4)?,
                first_ts_ms: integer(&firsts)?,
                last_ts_ms: integer(&lasts)?,
                increase: Some(double(5)?).filter(|v| v.to_bits() != NO_INCREASE),
            };
            Ok((series_id, bucket))
        };
        ids.into_iter().enumerate().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_is_written_comes_back_whatever_the_size() {
        for rows in [0, 1, PAGE_ROWS, GROUP_ROWS + PAGE_ROWS + 7] {
            let bucket = |n: usize| Bucket {
                start_ms: n as i64 * 300_000,
                count: 20,
                sum: n as f64 / 3.0,
                min: -0.0,
                max: f64::INFINITY,
                first: n as f64,
                last: 0.1,
                first_ts_ms: n as i64 * 300_000 + 7,
                last_ts_ms: n as i64 * 300_000 + 299_000,
                increase: (!n.is_multiple_of(3)).then_some(n as f64),
            };
            let all: Vec<Bucket> = (0..rows).map(bucket).collect();
            let mut writer = RollupsWriter::new(Vec::new(), 3).unwrap();
            writer.add(1, &all[..rows / 2]).unwrap();
            writer.add(2, &all[rows / 2..]).unwrap();
            let bytes = Bytes::from(writer.finish().unwrap());
            let file = RollupsFile::open(&bytes).unwrap();
            let back: Vec<(i64, Bucket)> =
                (0..file.pages()).flat_map(|page| file.read_page(&bytes, page).unwrap()).collect();
            let want = all.iter().enumerate().map(|(n, b)| (if n < rows / 2 { 1 } else { 2 }, *b));
            assert!(back.into_iter().eq(want), "{rows} rows");
        }
    }
}
