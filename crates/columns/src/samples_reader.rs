//! Reads single pages of `samples.parquet`.
//!
//! Owns: where each page lies, nothing else; who reads caches decoded pages if it likes.
//! Invariants: pages are numbered from 0 over all row groups, and page `p` holds the same rows in every column.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{CompressionCodec, Repetition, Type as Physical};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{BoolType, DataType, DoubleType, Int64Type};
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::SerializedPageReader;
use parquet::schema::types::ColumnDescPtr;

use crate::error::{ColumnsError, layout};
use crate::samples_writer::{COLUMNS, STALE, TIMESTAMP, VALUE_PLAIN, VALUE_SCALED};
use crate::source::{Chunks, ReadAt};

/// A page that claims more rows than this is damaged: the writer makes pages of [`crate::PAGE_ROWS`].
const PAGE_ROWS_MAX: u64 = 1 << 20;

/// Stands for "no scaled value in this row"; no scaled value is that large.
pub const NO_SCALED: i64 = i64::MIN;

/// The columns that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Column {
    /// Times in milliseconds.
    Timestamp = 0,
    /// Scaled values.
    Scaled = 1,
    /// Plain values.
    Plain = 2,
    /// Stale markers.
    Stale = 3,
}

/// One decoded page of one column, one entry per row.
#[derive(Clone, PartialEq, Debug)]
pub enum ColumnPage {
    /// Milliseconds since 1970, or scaled values with [`NO_SCALED`] where there is none.
    Integers(Vec<i64>),
    /// Plain values, zero where there is none.
    Doubles(Vec<f64>),
    /// Whether the row is a stale marker.
    Flags(Vec<bool>),
}

impl ColumnPage {
    /// Gives the memory it takes.
    pub fn bytes(&self) -> usize {
        match self {
            ColumnPage::Integers(v) => v.len() * 8,
            ColumnPage::Doubles(v) => v.len() * 8,
            ColumnPage::Flags(v) => v.len(),
        }
    }
}

/// The places of all pages.
pub struct SamplesFile {
    /// First row of each page, and the number of all rows at the end.
    page_rows: Vec<u64>,
    pages: [Vec<Place>; 4],
    codecs: [Codec; 4],
}

#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    len: u32,
}

#[derive(Clone)]
struct Codec {
    compression: CompressionCodec,
    column: ColumnDescPtr,
}

impl SamplesFile {
    /// Reads the footer and the offset index.
    pub fn open(source: &dyn ReadAt) -> Result<SamplesFile, ColumnsError> {
        let meta = ParquetMetaDataReader::new()
            .with_offset_index_policy(PageIndexPolicy::Required)
            .with_column_index_policy(PageIndexPolicy::Skip)
            .parse_and_finish(&Chunks(source))?;
        let columns = find_columns(&meta)?;
        let mut file = SamplesFile {
            page_rows: vec![0],
            pages: Default::default(),
            codecs: columns.clone().map(|(_, column)| Codec { compression: CompressionCodec::UNCOMPRESSED, column }),
        };
        for group in 0..meta.num_row_groups() {
            file.add_group(&meta, group, columns.each_ref().map(|c| c.0))?;
        }
        let length = source.len();
        let inside = |p: &Place| p.offset.checked_add(u64::from(p.len)).is_some_and(|end| end <= length);
        if !file.pages.iter().flatten().all(inside) {
            return Err(layout("a page lies past the end of the file"));
        }
        Ok(file)
    }

    fn add_group(&mut self, meta: &ParquetMetaData, group: usize, columns: [usize; 4]) -> Result<(), ColumnsError> {
        let rows = u64::try_from(meta.row_group(group).num_rows()).map_err(|_| layout("negative number of rows"))?;
        let base = self.page_rows.last().copied().unwrap_or(0);
        let index = meta.page_index_for_row_group(group);
        let mut starts: Option<Vec<u64>> = None;
        for (slot, column) in columns.into_iter().enumerate() {
            let locations = index.page_locations(column).ok_or_else(|| layout("no offset index"))?;
            let mut mine = Vec::with_capacity(locations.len());
            for location in locations {
                let bad = || layout("a page at a negative offset");
                let offset = u64::try_from(location.offset).map_err(|_| bad())?;
                let len = u32::try_from(location.compressed_page_size).map_err(|_| bad())?;
                self.pages[slot].push(Place { offset, len });
                mine.push(u64::try_from(location.first_row_index).map_err(|_| bad())?);
            }
            if *starts.get_or_insert_with(|| mine.clone()) != mine {
                return Err(layout("pages of different columns hold different rows"));
            }
            self.codecs[slot].compression = meta.row_group(group).column(column).compression_codec();
        }
        let mut starts = starts.unwrap_or_default();
        starts.push(rows);
        let sound = starts[0] == 0 && starts.windows(2).all(|w| w[0] < w[1] && w[1] - w[0] <= PAGE_ROWS_MAX);
        if !sound {
            return Err(layout("pages do not cover the rows"));
        }
        self.page_rows.extend(starts[1..].iter().map(|row| base + row));
        Ok(())
    }

    /// Counts all rows.
    pub fn rows(&self) -> u64 {
        self.page_rows.last().copied().unwrap_or(0)
    }

    /// Counts the pages.
    pub fn pages(&self) -> usize {
        self.page_rows.len() - 1
    }

    /// Gives the number of the page that holds a row, `None` past the end.
    pub fn page_of(&self, row: u64) -> Option<usize> {
        (row < self.rows()).then(|| self.page_rows.partition_point(|first| *first <= row) - 1)
    }

    /// Gives the first row of a page and the first row of the next.
    pub fn page_span(&self, page: usize) -> Option<(u64, u64)> {
        Some((*self.page_rows.get(page)?, *self.page_rows.get(page + 1)?))
    }

    /// Gives where the pages end: from there to the end of the file lies what [`SamplesFile::open`] reads.
    pub fn pages_end(&self) -> u64 {
        self.pages.iter().flatten().map(|p| p.offset + u64::from(p.len)).max().unwrap_or(0)
    }

    /// Gives the memory it takes.
    pub fn bytes(&self) -> usize {
        self.page_rows.capacity() * 8 + self.pages.iter().map(|p| p.capacity() * size_of::<Place>()).sum::<usize>()
    }

    /// Reads and decodes one page of one column.
    pub fn read_page(&self, source: &dyn ReadAt, column: Column, page: usize) -> Result<ColumnPage, ColumnsError> {
        let slot = column as usize;
        let (first, next) = self.page_span(page).ok_or_else(|| layout("no such page"))?;
        let place = self.pages[slot].get(page).ok_or_else(|| layout("no such page"))?;
        let bytes = source.read_at(place.offset, place.len as usize).map_err(ColumnsError::Io)?;
        let rows = (next - first) as usize;
        let codec = &self.codecs[slot];
        Ok(match column {
            Column::Timestamp => ColumnPage::Integers(decode::<Int64Type>(bytes, codec, rows, 0)?),
            Column::Scaled => ColumnPage::Integers(decode::<Int64Type>(bytes, codec, rows, NO_SCALED)?),
            Column::Plain => ColumnPage::Doubles(decode::<DoubleType>(bytes, codec, rows, 0.0)?),
            Column::Stale => ColumnPage::Flags(decode::<BoolType>(bytes, codec, rows, false)?),
        })
    }
}

fn find_columns(meta: &ParquetMetaData) -> Result<[(usize, ColumnDescPtr); 4], ColumnsError> {
    let schema = meta.file_metadata().schema_descr();
    let find = |name: usize, physical: Physical, repetition: Repetition| {
        let name = COLUMNS[name];
        let at = schema.columns().iter().position(|c| c.path().parts() == [name]);
        let found = at.map(|at| (at, schema.column(at)));
        found
            .filter(|(_, c)| c.physical_type() == physical && c.self_type().get_basic_info().repetition() == repetition)
            .ok_or_else(|| layout(format!("no column \"{name}\" of the right type")))
    };
    Ok([
        find(TIMESTAMP, Physical::INT64, Repetition::REQUIRED)?,
        find(VALUE_SCALED, Physical::INT64, Repetition::OPTIONAL)?,
        find(VALUE_PLAIN, Physical::DOUBLE, Repetition::OPTIONAL)?,
        find(STALE, Physical::BOOLEAN, Repetition::REQUIRED)?,
    ])
}

/// Decodes the bytes of one page; `missing` stands in the rows that are null.
fn decode<D: DataType>(bytes: Bytes, codec: &Codec, rows: usize, missing: D::T) -> Result<Vec<D::T>, ColumnsError>
where
    D::T: Copy,
{
    let chunk = ColumnChunkMetaData::builder(codec.column.clone())
        .set_compression_codec(codec.compression)
        .set_num_values(rows as i64)
        .set_data_page_offset(0)
        .set_total_compressed_size(bytes.len() as i64)
        .build()?;
    let pages = SerializedPageReader::new(Arc::new(bytes), &chunk, rows, None)?;
    let mut reader = ColumnReaderImpl::<D>::new(codec.column.clone(), Box::new(pages));
    let nullable = codec.column.max_def_level() > 0;
    let mut levels: Vec<i16> = Vec::with_capacity(if nullable { rows } else { 0 });
    let mut values: Vec<D::T> = Vec::with_capacity(rows);
    let (records, _, _) = reader.read_records(rows, nullable.then_some(&mut levels), None, &mut values)?;
    if records != rows {
        return Err(layout(format!("a page of {rows} rows holds {records}")));
    }
    if !nullable || values.len() == rows {
        return Ok(values);
    }
    let mut packed = values.into_iter();
    let spread = levels.iter().map(|level| if *level > 0 { packed.next().unwrap_or(missing) } else { missing });
    Ok(spread.collect())
}
