//! Single pages of a Parquet file of ours: where each lies, and how to read one.
//!
//! Invariants: pages are numbered from 0 over all row groups, and page `p` holds the same rows in every column.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{CompressionCodec, Repetition, Type as Physical};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::DataType;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::SerializedPageReader;
use parquet::schema::types::ColumnDescPtr;

use crate::error::{ColumnsError, layout};
use crate::source::{Chunks, ReadAt};

/// A page that claims more rows than this is damaged: the writers make far smaller ones.
const PAGE_ROWS_MAX: u64 = 1 << 20;

/// A column that has to be there.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub physical: Physical,
    /// Whether rows may be null.
    pub repetition: Repetition,
}

/// The places of all pages of the wanted columns.
pub(crate) struct Pages {
    /// First row of each page, and the number of all rows at the end.
    rows: Vec<u64>,
    columns: Vec<ColumnPages>,
}

struct ColumnPages {
    /// Its number in the file.
    at: usize,
    places: Vec<Place>,
    codec: Codec,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    len: u32,
}

struct Codec {
    compression: CompressionCodec,
    column: ColumnDescPtr,
}

impl Pages {
    /// Reads the footer and the offset index.
    pub fn open(source: &dyn ReadAt, wanted: &[Wanted]) -> Result<Pages, ColumnsError> {
        let meta = ParquetMetaDataReader::new()
            .with_offset_index_policy(PageIndexPolicy::Required)
            .with_column_index_policy(PageIndexPolicy::Skip)
            .parse_and_finish(&Chunks(source))?;
        let columns = wanted.iter().map(|w| find_column(&meta, w)).collect::<Result<_, _>>()?;
        let mut pages = Pages { rows: vec![0], columns };
        for group in 0..meta.num_row_groups() {
            pages.add_group(&meta, group)?;
        }
        let length = source.len();
        let inside = |p: &Place| p.offset.checked_add(u64::from(p.len)).is_some_and(|end| end <= length);
        if !pages.places().all(inside) {
            return Err(layout("a page lies past the end of the file"));
        }
        Ok(pages)
    }

    fn add_group(&mut self, meta: &ParquetMetaData, group: usize) -> Result<(), ColumnsError> {
        let rows = u64::try_from(meta.row_group(group).num_rows()).map_err(|_| layout("negative number of rows"))?;
        let base = self.rows.last().copied().unwrap_or(0);
        let index = meta.page_index_for_row_group(group);
        let mut starts: Option<Vec<u64>> = None;
        for column in &mut self.columns {
            let locations = index.page_locations(column.at).ok_or_else(|| layout("no offset index"))?;
            let mut mine = Vec::with_capacity(locations.len());
            for location in locations {
                let bad = || layout("a page at a negative offset");
                let offset = u64::try_from(location.offset).map_err(|_| bad())?;
                let len = u32::try_from(location.compressed_page_size).map_err(|_| bad())?;
                column.places.push(Place { offset, len });
                mine.push(u64::try_from(location.first_row_index).map_err(|_| bad())?);
            }
            if *starts.get_or_insert_with(|| mine.clone()) != mine {
                return Err(layout("pages of different columns hold different rows"));
            }
            column.codec.compression = meta.row_group(group).column(column.at).compression_codec();
        }
        let mut starts = starts.unwrap_or_default();
        starts.push(rows);
        let sound = starts[0] == 0 && starts.windows(2).all(|w| w[0] < w[1] && w[1] - w[0] <= PAGE_ROWS_MAX);
        if !sound {
            return Err(layout("pages do not cover the rows"));
        }
        self.rows.extend(starts[1..].iter().map(|row| base + row));
        Ok(())
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.columns.iter().flat_map(|c| &c.places)
    }

    /// Counts all rows.
    pub fn rows(&self) -> u64 {
        self.rows.last().copied().unwrap_or(0)
    }

    /// Counts the pages.
    pub fn count(&self) -> usize {
        self.rows.len() - 1
    }

    /// Gives the number of the page that holds a row, `None` past the end.
    pub fn page_of(&self, row: u64) -> Option<usize> {
        (row < self.rows()).then(|| self.rows.partition_point(|first| *first <= row) - 1)
    }

    /// Gives the first row of a page and the first row of the next.
    pub fn span(&self, page: usize) -> Option<(u64, u64)> {
        Some((*self.rows.get(page)?, *self.rows.get(page + 1)?))
    }

    /// Gives where the pages end: from there to the end of the file lies what [`Pages::open`] reads.
    pub fn end(&self) -> u64 {
        self.places().map(|p| p.offset + u64::from(p.len)).max().unwrap_or(0)
    }

    /// Gives the memory it takes.
    pub fn bytes(&self) -> usize {
        let places = self.columns.iter().map(|c| c.places.capacity() * size_of::<Place>());
        self.rows.capacity() * 8 + places.sum::<usize>()
    }

    /// Reads and decodes one page of one of the wanted columns, by its place among them; `missing` stands in null rows.
    pub fn read<D: DataType>(
        &self,
        source: &dyn ReadAt,
        column: usize,
        page: usize,
        missing: D::T,
    ) -> Result<Vec<D::T>, ColumnsError> {
        let (first, next) = self.span(page).ok_or_else(|| layout("no such page"))?;
        let column = self.columns.get(column).ok_or_else(|| layout("no such column"))?;
        let place = column.places.get(page).ok_or_else(|| layout("no such page"))?;
        let bytes = source.read_at(place.offset, place.len as usize).map_err(ColumnsError::Io)?;
        decode::<D>(bytes, &column.codec, (next - first) as usize, missing)
    }
}

fn find_column(meta: &ParquetMetaData, wanted: &Wanted) -> Result<ColumnPages, ColumnsError> {
    let schema = meta.file_metadata().schema_descr();
    let at = schema.columns().iter().position(|c| c.path().parts() == [wanted.name]);
    let found = at.map(|at| (at, schema.column(at))).filter(|(_, column)| {
        let repetition = column.self_type().get_basic_info().repetition();
        column.physical_type() == wanted.physical && repetition == wanted.repetition
    });
    let (at, column) = found.ok_or_else(|| layout(format!("no column \"{}\" of the right type", wanted.name)))?;
    let codec = Codec { compression: CompressionCodec::UNCOMPRESSED, column };
    Ok(ColumnPages { at, places: Vec::new(), codec })
}

fn decode<D: DataType>(bytes: Bytes, codec: &Codec, rows: usize, missing: D::T) -> Result<Vec<D::T>, ColumnsError> {
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
    let mut next = |level: &i16| (*level > 0).then(|| packed.next()).flatten().unwrap_or_else(|| missing.clone());
    Ok(levels.iter().map(&mut next).collect())
}
