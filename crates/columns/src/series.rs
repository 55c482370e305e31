//! `series.parquet`: one row per series of a block, in the order of their samples.
//!
//! Owns: the rows not yet written.
//! Limits: [`FLUSH_ROWS`] rows are held in memory.

use std::collections::HashSet;
use std::io::Write;
use std::sync::{Arc, LazyLock};

use arrow_array::{
    Array, ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use model::{Labels, MetricType};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::error::{ColumnsError, layout};
use crate::histograms::HistogramRows;
use crate::labels_json::{labels_from_json, labels_to_json};
use crate::samples_writer::RowRange;
use crate::scale;

/// Rows of a row group.
const FLUSH_ROWS: usize = 65_536;

/// One series of a block.
#[derive(Clone, PartialEq, Debug)]
pub struct SeriesRow {
    /// Its number; unique over all blocks of a directory.
    pub series_id: i64,
    /// Its labels, the metric name among them.
    pub labels: Labels,
    /// Its type.
    pub metric_type: MetricType,
    /// Who delivered it.
    pub source: Arc<str>,
    /// The target it belongs to.
    pub target_id: Arc<str>,
    /// Where its samples lie.
    pub rows: RowRange,
    /// Where its native histograms lie.
    pub histograms: HistogramRows,
    /// Its first time; milliseconds since 1970.
    pub min_ts_ms: i64,
    /// Its last time.
    pub max_ts_ms: i64,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let time = || DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![
        field("series_id", DataType::Int64),
        field("metric_name", DataType::Utf8),
        field("metric_type", DataType::Utf8),
        field("family_type", DataType::Utf8),
        field("labels", DataType::Utf8),
        field("source", DataType::Utf8),
        field("target_id", DataType::Utf8),
        Field::new("exponent", DataType::Int32, true),
        Field::new("divisor", DataType::Float64, true),
        field("first_row", DataType::Int64),
        field("row_count", DataType::Int64),
        field("plain_rows", DataType::Int64),
        field("stale_rows", DataType::Int64),
        field("first_histogram", DataType::Int64),
        field("histogram_rows", DataType::Int64),
        field("min_ts", time()),
        field("max_ts", time()),
        field("fingerprint", DataType::UInt64),
    ]))
});

/// Writes rows to a sink.
pub struct SeriesWriter<W: Write + Send> {
    file: ArrowWriter<W>,
    rows: Vec<SeriesRow>,
}

impl<W: Write + Send> SeriesWriter<W> {
    /// Starts a file; `level` is zstd's compression level.
    pub fn new(sink: W, level: i32) -> Result<SeriesWriter<W>, ColumnsError> {
        let file = ArrowWriter::try_new(sink, SCHEMA.clone(), Some(properties(level)?))?;
        Ok(SeriesWriter { file, rows: Vec::new() })
    }

    /// Appends a row.
    pub fn add(&mut self, row: SeriesRow) -> Result<(), ColumnsError> {
        self.rows.push(row);
        if self.rows.len() == FLUSH_ROWS { self.flush() } else { Ok(()) }
    }

    /// Writes the footer and gives the sink back.
    pub fn finish(mut self) -> Result<W, ColumnsError> {
        self.flush()?;
        Ok(self.file.into_inner()?)
    }

    fn flush(&mut self) -> Result<(), ColumnsError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.file.write(&to_batch(&self.rows)?)?;
        self.file.flush()?;
        self.rows.clear();
        Ok(())
    }
}

fn to_batch(rows: &[SeriesRow]) -> Result<RecordBatch, ColumnsError> {
    let text = |get: &dyn Fn(&SeriesRow) -> &str| -> ArrayRef {
        Arc::new(rows.iter().map(|r| Some(get(r))).collect::<StringArray>())
    };
    let number = |get: &dyn Fn(&SeriesRow) -> i64| -> ArrayRef {
        Arc::new(rows.iter().map(get).collect::<Vec<i64>>().into_iter().collect::<Int64Array>())
    };
    let time = |get: &dyn Fn(&SeriesRow) -> i64| -> ArrayRef {
        Arc::new(rows.iter().map(|r| Some(get(r))).collect::<TimestampMillisecondArray>().with_timezone("UTC"))
    };
    let exponents: Int32Array = rows.iter().map(|r| r.rows.exponent.map(i32::from)).collect();
    let divisors: Float64Array = rows.iter().map(|r| r.rows.exponent.map(scale::divisor)).collect();
    let fingerprints: UInt64Array = rows.iter().map(|r| Some(r.labels.fingerprint().0)).collect();
    let columns: Vec<ArrayRef> = vec![
        number(&|r| r.series_id),
        text(&|r| r.labels.metric_name()),
        text(&|r| r.metric_type.as_spec_str()),
        text(&|r| r.metric_type.as_str()),
        Arc::new(labels_column(rows)),
        text(&|r| &r.source),
        text(&|r| &r.target_id),
        Arc::new(exponents),
        Arc::new(divisors),
        number(&|r| r.rows.first_row as i64),
        number(&|r| r.rows.rows as i64),
        number(&|r| r.rows.plain_rows as i64),
        number(&|r| r.rows.stale_rows as i64),
        number(&|r| r.histograms.first_row as i64),
        number(&|r| r.histograms.rows as i64),
        time(&|r| r.min_ts_ms),
        time(&|r| r.max_ts_ms),
        Arc::new(fingerprints),
    ];
    Ok(RecordBatch::try_new(SCHEMA.clone(), columns)?)
}

fn labels_column(rows: &[SeriesRow]) -> StringArray {
    let mut json = String::new();
    rows.iter()
        .map(|row| {
            json.clear();
            labels_to_json(&row.labels, &mut json);
            Some(json.clone())
        })
        .collect()
}

fn properties(level: i32) -> Result<WriterProperties, ColumnsError> {
    let mut props = WriterProperties::builder()
        .set_created_by("quiver".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(level)?))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_data_page_row_count_limit(FLUSH_ROWS)
        .set_max_row_group_row_count(Some(FLUSH_ROWS));
    for name in ["series_id", "metric_name", "min_ts", "max_ts"] {
        props = props.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::Chunk);
    }
    let numbers = ["first_row", "row_count", "plain_rows", "stale_rows", "first_histogram", "histogram_rows"];
    for name in numbers.into_iter().chain(["series_id", "min_ts", "max_ts"]) {
        let path = ColumnPath::from(name);
        props = props.set_column_dictionary_enabled(path.clone(), false);
        props = props.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    for name in ["labels", "fingerprint"] {
        props = props.set_column_dictionary_enabled(ColumnPath::from(name), false);
    }
    Ok(props.build())
}

/// Reads a whole file; `each` gets the rows in order.
pub fn read_series(bytes: Bytes, mut each: impl FnMut(SeriesRow)) -> Result<(), ColumnsError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.with_batch_size(4096).build()?;
    let mut names = Interner::default();
    for batch in reader {
        let batch = batch?;
        let rows = Rows::of(&batch)?;
        for at in 0..batch.num_rows() {
            each(rows.row(at, &mut names)?);
        }
    }
    Ok(())
}

/// Sources and targets repeat on thousands of rows: each is kept once.
#[derive(Default)]
struct Interner(HashSet<Arc<str>>);

impl Interner {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.0.insert(new.clone());
        new
    }
}

/// The columns of a batch, found by name: columns that later formats add are not in the way.
struct Rows<'a> {
    series_id: &'a Int64Array,
    metric_name: &'a StringArray,
    family_type: &'a StringArray,
    labels: &'a StringArray,
    source: &'a StringArray,
    target_id: &'a StringArray,
    exponent: &'a Int32Array,
    first_row: &'a Int64Array,
    row_count: &'a Int64Array,
    plain_rows: &'a Int64Array,
    stale_rows: &'a Int64Array,
    /// The first format had no histograms.
    first_histogram: Option<&'a Int64Array>,
    histogram_rows: Option<&'a Int64Array>,
    min_ts: &'a TimestampMillisecondArray,
    max_ts: &'a TimestampMillisecondArray,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Rows<'a>, ColumnsError> {
        Ok(Rows {
            series_id: column(batch, "series_id")?,
            metric_name: column(batch, "metric_name")?,
            family_type: column(batch, "family_type")?,
            labels: column(batch, "labels")?,
            source: column(batch, "source")?,
            target_id: column(batch, "target_id")?,
            exponent: column(batch, "exponent")?,
            first_row: column(batch, "first_row")?,
            row_count: column(batch, "row_count")?,
            plain_rows: column(batch, "plain_rows")?,
            stale_rows: column(batch, "stale_rows")?,
            first_histogram: column(batch, "first_histogram").ok(),
            histogram_rows: column(batch, "histogram_rows").ok(),
            min_ts: column(batch, "min_ts")?,
            max_ts: column(batch, "max_ts")?,
        })
    }

    fn row(&self, at: usize, names: &mut Interner) -> Result<SeriesRow, ColumnsError> {
        let count = |column: &Int64Array| {
            u64::try_from(column.value(at)).map_err(|_| layout("a negative number in the series table"))
        };
        let labels = labels_from_json(self.metric_name.value(at), self.labels.value(at));
        let exponent = match self.exponent.is_null(at) {
            true => None,
            false => Some(exponent_of(self.exponent.value(at))?),
        };
        Ok(SeriesRow {
            series_id: self.series_id.value(at),
            labels: labels.ok_or_else(|| layout("labels that are no JSON object of strings"))?,
            metric_type: metric_type_of(self.family_type.value(at)),
            source: names.get(self.source.value(at)),
            target_id: names.get(self.target_id.value(at)),
            rows: RowRange {
                first_row: count(self.first_row)?,
                rows: count(self.row_count)?,
                exponent,
                plain_rows: count(self.plain_rows)?,
                stale_rows: count(self.stale_rows)?,
            },
            histograms: HistogramRows {
                first_row: self.first_histogram.map_or(Ok(0), count)?,
                rows: self.histogram_rows.map_or(Ok(0), count)?,
            },
            min_ts_ms: self.min_ts.value(at),
            max_ts_ms: self.max_ts.value(at),
        })
    }
}

fn column<'a, A: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a A, ColumnsError> {
    let found = batch.column_by_name(name).and_then(|c| c.as_any().downcast_ref::<A>());
    found.ok_or_else(|| layout(format!("no column \"{name}\" of the right type")))
}

fn exponent_of(number: i32) -> Result<u8, ColumnsError> {
    let fits = u8::try_from(number).ok().filter(|e| *e <= scale::EXPONENT_MAX);
    fits.ok_or_else(|| layout("an exponent out of range"))
}

fn metric_type_of(word: &str) -> MetricType {
    (0..=7).map(MetricType::from_u8).find(|t| t.as_str() == word).unwrap_or_default()
}
