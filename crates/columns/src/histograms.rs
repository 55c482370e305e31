//! `histograms.parquet`: the native histograms of a block, rows of one series after the other, times rising.
//!
//! Owns: the row group under construction.
//! Invariants: 1. all columns of a row group are cut into pages at the same rows; 2. `count` and `sum` say what the
//! payload says: they are there for foreign readers, ours reads the payload.
//! Limits: a row group of [`GROUP_ROWS`] rows or, if that is less, about [`GROUP_BYTES`] of payload is held in memory.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use model::histogram::Histogram;
use model::is_stale;
use parquet::basic::{Compression, Encoding, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use crate::error::{ColumnsError, layout};
use crate::pages::{Pages, Wanted};
use crate::samples_writer::{built, field, timestamp_field, write_column};
use crate::source::ReadAt;

/// Rows of a page: what has to be unpacked for one histogram.
const PAGE_ROWS: usize = 256;
/// Rows of a row group.
const GROUP_ROWS: usize = 64 * PAGE_ROWS;
/// Bytes of payload after which a row group ends.
const GROUP_BYTES: usize = 8 << 20;

/// The names of the columns, in order.
pub const HISTOGRAM_COLUMNS: [&str; 6] = ["series_id", "timestamp", "count", "sum", "stale", "payload"];

const TIMESTAMP: Wanted = wanted(1, Physical::INT64);
const PAYLOAD: Wanted = wanted(5, Physical::BYTE_ARRAY);

const fn wanted(column: usize, physical: Physical) -> Wanted {
    Wanted { name: HISTOGRAM_COLUMNS[column], physical, repetition: Repetition::REQUIRED }
}

/// Where the histograms of one series lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HistogramRows {
    /// The first row, counted from the start of the file.
    pub first_row: u64,
    /// How many rows.
    pub rows: u64,
}

/// A row read back.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredHistogram {
    /// Milliseconds since 1970.
    pub ts_ms: i64,
    /// The histogram.
    pub histogram: Arc<Histogram>,
}

/// Writes rows to a sink.
pub struct HistogramsWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    group: RowGroup,
    rows: u64,
}

#[derive(Default)]
struct RowGroup {
    series_id: Vec<i64>,
    ts_ms: Vec<i64>,
    count: Vec<f64>,
    sum: Vec<f64>,
    stale: Vec<bool>,
    payload: Vec<ByteArray>,
    payload_bytes: usize,
}

impl<W: Write + Send> HistogramsWriter<W> {
    /// Starts a file; `level` is zstd's compression level.
    pub fn new(sink: W, level: i32) -> Result<HistogramsWriter<W>, ColumnsError> {
        let file = SerializedFileWriter::new(sink, SCHEMA.clone(), properties(level)?)?;
        Ok(HistogramsWriter { file, group: RowGroup::default(), rows: 0 })
    }

    /// Appends all histograms of one series. Ids must rise from call to call, times within the call.
    pub fn add(&mut self, series_id: i64, histograms: &[(i64, Arc<Histogram>)]) -> Result<HistogramRows, ColumnsError> {
        let range = HistogramRows { first_row: self.rows, rows: histograms.len() as u64 };
        for (ts_ms, histogram) in histograms {
            self.group.push(series_id, *ts_ms, histogram);
            if self.group.stale.len() == GROUP_ROWS || self.group.payload_bytes >= GROUP_BYTES {
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
        write_column::<DoubleType, W>(&mut out, &g.count, None)?;
        write_column::<DoubleType, W>(&mut out, &g.sum, None)?;
        write_column::<BoolType, W>(&mut out, &g.stale, None)?;
        write_column::<ByteArrayType, W>(&mut out, &g.payload, None)?;
        out.close()?;
        self.group = RowGroup::default();
        Ok(())
    }
}

impl RowGroup {
    fn push(&mut self, series_id: i64, ts_ms: i64, histogram: &Histogram) {
        let mut payload = Vec::new();
        histogram.encode(&mut payload);
        self.payload_bytes += payload.len();
        self.series_id.push(series_id);
        self.ts_ms.push(ts_ms);
        self.count.push(histogram.count);
        self.sum.push(histogram.sum);
        self.stale.push(is_stale(histogram.sum));
        self.payload.push(ByteArray::from(payload));
    }
}

static SCHEMA: LazyLock<TypePtr> = LazyLock::new(|| {
    let [series_id, timestamp, count, sum, stale, payload] = HISTOGRAM_COLUMNS;
    let fields = vec![
        field(series_id, Physical::INT64, Repetition::REQUIRED),
        timestamp_field(timestamp),
        field(count, Physical::DOUBLE, Repetition::REQUIRED),
        field(sum, Physical::DOUBLE, Repetition::REQUIRED),
        field(stale, Physical::BOOLEAN, Repetition::REQUIRED),
        field(payload, Physical::BYTE_ARRAY, Repetition::REQUIRED),
    ];
    built(Type::group_type_builder("histograms").with_fields(fields).build())
});

fn properties(level: i32) -> Result<WriterPropertiesPtr, ColumnsError> {
    let path = |column: usize| ColumnPath::from(HISTOGRAM_COLUMNS[column]);
    let props = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("quiver".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(level)?))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_statistics_enabled(path(0), EnabledStatistics::Page)
        .set_column_statistics_enabled(path(1), EnabledStatistics::Page)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        // Never reached: a row group ends before, so that pages are cut by rows alone.
        .set_data_page_size_limit(8 * GROUP_BYTES)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_column_encoding(path(0), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(path(1), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(path(4), Encoding::RLE)
        .build();
    Ok(Arc::new(props))
}

/// The places of all pages.
pub struct HistogramsFile(Pages);

impl HistogramsFile {
    /// Reads the footer and the offset index.
    pub fn open(source: &dyn ReadAt) -> Result<HistogramsFile, ColumnsError> {
        Pages::open(source, &[TIMESTAMP, PAYLOAD]).map(HistogramsFile)
    }

    /// Counts all rows.
    pub fn rows(&self) -> u64 {
        self.0.rows()
    }

    /// Gives the number of the page that holds a row with its first row and the next page's; `None` past the end.
    pub fn page_of(&self, row: u64) -> Option<(usize, u64, u64)> {
        let page = self.0.page_of(row)?;
        let (first, next) = self.0.span(page)?;
        Some((page, first, next))
    }

    /// Gives where the pages end: from there to the end of the file lies what [`HistogramsFile::open`] reads.
    pub fn pages_end(&self) -> u64 {
        self.0.end()
    }

    /// Gives the memory it takes.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Reads the rows of one page; gives them with the bytes that their payloads had.
    pub fn read_page(&self, source: &dyn ReadAt, page: usize) -> Result<(Vec<StoredHistogram>, usize), ColumnsError> {
        let times = self.0.read::<Int64Type>(source, 0, page, 0)?;
        let payloads = self.0.read::<ByteArrayType>(source, 1, page, ByteArray::default())?;
        let mut bytes = 0;
        let decoded = times.into_iter().zip(payloads).map(|(ts_ms, payload)| {
            bytes += payload.len();
            let (histogram, used) = Histogram::decode(payload.data()).ok_or_else(|| layout("no native histogram"))?;
            if used != payload.len() {
                return Err(layout("bytes behind a native histogram"));
            }
            Ok(StoredHistogram { ts_ms, histogram: Arc::new(histogram) })
        });
        Ok((decoded.collect::<Result<_, _>>()?, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use model::histogram::BucketSpan;

    fn histogram(n: usize, buckets: usize) -> Arc<Histogram> {
        let positive = (0..buckets).map(|b| (n * b) as f64 + if n.is_multiple_of(5) { 0.5 } else { 0.0 }).collect();
        let sum = if n.is_multiple_of(7) { model::stale_nan() } else { n as f64 / 3.0 };
        let span = BucketSpan { offset: n as i32 - 3, length: buckets as u32 };
        let count = n as f64 * 100.0;
        Arc::new(Histogram { schema: 3, count, sum, positive_spans: vec![span], positive, ..Histogram::default() })
    }

    #[test]
    fn what_is_written_comes_back_whatever_the_size() {
        for (rows, buckets) in [(0, 0), (1, 3), (PAGE_ROWS, 5), (GROUP_ROWS + PAGE_ROWS + 7, 1), (600, 9000)] {
            let all: Vec<_> = (0..rows).map(|n| (n as i64 * 15_000, histogram(n, buckets))).collect();
            let mut writer = HistogramsWriter::new(Vec::new(), 3).unwrap();
            let half = rows / 2;
            let first = writer.add(1, &all[..half]).unwrap();
            let second = writer.add(2, &all[half..]).unwrap();
            assert_eq!((first.rows, second.first_row), (half as u64, half as u64));
            let bytes = Bytes::from(writer.finish().unwrap());
            let file = HistogramsFile::open(&bytes).unwrap();
            assert_eq!(file.rows(), rows as u64);
            let (mut back, mut row) = (Vec::new(), 0);
            while let Some((page, start, next)) = file.page_of(row) {
                assert!(start == row && next - start <= PAGE_ROWS as u64);
                back.extend(file.read_page(&bytes, page).unwrap().0);
                row = next;
            }
            assert_eq!(back.len(), rows);
            for (got, (ts_ms, want)) in back.iter().zip(&all) {
                assert!(got.ts_ms == *ts_ms && got.histogram.same_bits(want), "{rows} rows, at {ts_ms}");
            }
        }
    }

    #[test]
    fn a_payload_that_is_no_histogram_is_an_error() {
        let mut writer = HistogramsWriter::new(Vec::new(), 3).unwrap();
        writer.group.push(1, 5, &histogram(1, 2));
        writer.group.payload[0] = ByteArray::from(vec![1, 2, 3]);
        let bytes = Bytes::from(writer.finish().unwrap());
        let file = HistogramsFile::open(&bytes).unwrap();
        assert!(matches!(file.read_page(&bytes, 0), Err(ColumnsError::Layout(_))));
    }
}
