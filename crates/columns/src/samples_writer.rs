//! Writes `samples.parquet`: rows of one series after the other, times rising.
//!
//! Owns: the row group under construction.
//! Invariants: 1. all columns of a row group are cut into pages at the same rows; 2. a row is stale, or has a scaled
//! value, or a plain one, and only one of the three.
//! Limits: [`ROW_GROUP_ROWS`] rows are held in memory, about 8 MiB.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use model::{STALE_NAN_BITS, Samples, is_stale};
use parquet::basic::{
    Compression, ConvertedType, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel,
};
use parquet::data_type::{BoolType, DataType, DoubleType, Int64Type};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use crate::error::ColumnsError;
use crate::scale::{choose_exponent, to_scaled};

/// Rows of a page: what has to be decoded for one series, at least.
pub const PAGE_ROWS: usize = 8192;

/// Rows of a row group: what the writer holds in memory, and what foreign engines hand to one thread.
pub const ROW_GROUP_ROWS: usize = 32 * PAGE_ROWS;

/// The names of the columns, in order.
pub const COLUMNS: [&str; 5] = ["series_id", "timestamp", "value_scaled", "value_plain", "stale"];

pub(crate) const SERIES_ID: usize = 0;
pub(crate) const TIMESTAMP: usize = 1;
pub(crate) const VALUE_SCALED: usize = 2;
pub(crate) const VALUE_PLAIN: usize = 3;
pub(crate) const STALE: usize = 4;

/// Where the rows of one series lie and how they are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowRange {
    /// The first row, counted from the start of the file.
    pub first_row: u64,
    /// How many rows.
    pub rows: u64,
    /// The exponent of the scaled rows; `None` when there are none.
    pub exponent: Option<u8>,
    /// Rows kept as plain doubles.
    pub plain_rows: u64,
    /// Rows that are stale markers.
    pub stale_rows: u64,
}

/// Writes rows to a sink.
pub struct SamplesWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    group: RowGroup,
    rows: u64,
}

#[derive(Default)]
struct RowGroup {
    series_id: Vec<i64>,
    ts_ms: Vec<i64>,
    scaled: Vec<i64>,
    scaled_levels: Vec<i16>,
    plain: Vec<f64>,
    plain_levels: Vec<i16>,
    stale: Vec<bool>,
}

impl<W: Write + Send> SamplesWriter<W> {
    /// Starts a file; `level` is zstd's compression level.
    pub fn new(sink: W, level: i32) -> Result<SamplesWriter<W>, ColumnsError> {
        let file = SerializedFileWriter::new(sink, SCHEMA.clone(), properties(level)?)?;
        Ok(SamplesWriter { file, group: RowGroup::default(), rows: 0 })
    }

    /// Appends all samples of one series. Ids must rise from call to call, times within the call.
    pub fn add(&mut self, series_id: i64, samples: &Samples) -> Result<RowRange, ColumnsError> {
        let exponent = choose_exponent(&samples.values, is_stale);
        let mut range = RowRange { first_row: self.rows, rows: samples.len() as u64, ..RowRange::default() };
        for (&ts_ms, &value) in samples.ts_ms.iter().zip(&samples.values) {
            let stale = value.to_bits() == STALE_NAN_BITS;
            let scaled = if stale { None } else { exponent.and_then(|e| to_scaled(value, e)) };
            if stale {
                range.stale_rows += 1;
            } else if scaled.is_some() {
                range.exponent = exponent;
            } else {
                range.plain_rows += 1;
            }
            self.group.push(series_id, ts_ms, value, scaled, stale);
            if self.group.stale.len() == ROW_GROUP_ROWS {
                self.flush()?;
            }
        }
        self.rows += range.rows;
        Ok(range)
    }

    /// Writes the footer and gives the sink back.
    pub fn finish(mut self) -> Result<W, ColumnsError> {
        self.flush()?;
        Ok(self.file.into_inner()?)
    }

    fn flush(&mut self) -> Result<(), ColumnsError> {
        if self.group.stale.is_empty() {
            return Ok(());
        }
        let g = &self.group;
        let mut out = self.file.next_row_group()?;
        write_column::<Int64Type, W>(&mut out, &g.series_id, None)?;
        write_column::<Int64Type, W>(&mut out, &g.ts_ms, None)?;
        write_column::<Int64Type, W>(&mut out, &g.scaled, Some(&g.scaled_levels))?;
        write_column::<DoubleType, W>(&mut out, &g.plain, Some(&g.plain_levels))?;
        write_column::<BoolType, W>(&mut out, &g.stale, None)?;
        out.close()?;
        self.group.clear();
        Ok(())
    }
}

impl RowGroup {
    fn push(&mut self, series_id: i64, ts_ms: i64, value: f64, scaled: Option<i64>, stale: bool) {
        self.series_id.push(series_id);
        self.ts_ms.push(ts_ms);
        self.stale.push(stale);
        let plain = !stale && scaled.is_none();
        self.scaled.extend(scaled);
        self.scaled_levels.push(i16::from(scaled.is_some()));
        if plain {
            self.plain.push(value);
        }
        self.plain_levels.push(i16::from(plain));
    }

    fn clear(&mut self) {
        self.series_id.clear();
        self.ts_ms.clear();
        self.scaled.clear();
        self.scaled_levels.clear();
        self.plain.clear();
        self.plain_levels.clear();
        self.stale.clear();
    }
}

pub(crate) fn write_column<D: DataType, W: Write + Send>(
    out: &mut SerializedRowGroupWriter<'_, W>,
    values: &[D::T],
    levels: Option<&[i16]>,
) -> Result<(), ColumnsError> {
    let mut column = out.next_column()?.ok_or_else(|| crate::error::layout("too few columns"))?;
    column.typed::<D>().write_batch(values, levels, None)?;
    Ok(column.close()?)
}

static SCHEMA: LazyLock<TypePtr> = LazyLock::new(|| {
    let fields = vec![
        field(COLUMNS[SERIES_ID], Physical::INT64, Repetition::REQUIRED),
        timestamp_field(COLUMNS[TIMESTAMP]),
        field(COLUMNS[VALUE_SCALED], Physical::INT64, Repetition::OPTIONAL),
        field(COLUMNS[VALUE_PLAIN], Physical::DOUBLE, Repetition::OPTIONAL),
        field(COLUMNS[STALE], Physical::BOOLEAN, Repetition::REQUIRED),
    ];
    built(Type::group_type_builder("samples").with_fields(fields).build())
});

pub(crate) fn field(name: &str, physical: Physical, repetition: Repetition) -> TypePtr {
    built(Type::primitive_type_builder(name, physical).with_repetition(repetition).build())
}

pub(crate) fn timestamp_field(name: &str) -> TypePtr {
    let logical = LogicalType::timestamp(true, TimeUnit::MILLIS);
    built(
        Type::primitive_type_builder(name, Physical::INT64)
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type(Some(logical))
            .with_converted_type(ConvertedType::TIMESTAMP_MILLIS)
            .build(),
    )
}

/// The schema is a constant: that it is well formed is checked by the first test that writes a file.
#[expect(clippy::expect_used, reason = "built from constants")]
pub(crate) fn built(built: parquet::errors::Result<Type>) -> TypePtr {
    Arc::new(built.expect("the schema is built from constants"))
}

fn properties(level: i32) -> Result<WriterPropertiesPtr, ColumnsError> {
    let path = |column: usize| ColumnPath::from(COLUMNS[column]);
    let props = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("quiver".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(level)?))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_statistics_enabled(path(SERIES_ID), EnabledStatistics::Page)
        .set_column_statistics_enabled(path(TIMESTAMP), EnabledStatistics::Page)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_data_page_size_limit(64 * PAGE_ROWS)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_column_encoding(path(SERIES_ID), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(path(TIMESTAMP), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(path(VALUE_SCALED), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(path(VALUE_PLAIN), Encoding::PLAIN)
        .set_column_encoding(path(STALE), Encoding::RLE)
        .build();
    Ok(Arc::new(props))
}
