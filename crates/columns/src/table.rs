//! Reads Parquet files that others made: any columns, batch by batch.
//!
//! Limits: [`BATCH_ROWS`] rows at a time; the file's pages bound the rest.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, TimestampMillisecondType};
use arrow_array::{Array, ArrayRef, MapArray};
use arrow_cast::cast;
use arrow_schema::{DataType, TimeUnit};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::ColumnsError;
use crate::source::ReadAt;

/// Rows read at a time.
pub const BATCH_ROWS: usize = 4_096;

/// The values of one column, one entry for each row.
#[derive(Clone, PartialEq, Debug)]
pub enum TableColumn {
    /// Times of a time type, in milliseconds since 1970.
    Times(Vec<Option<i64>>),
    /// Numbers of any type.
    Numbers(Vec<Option<f64>>),
    /// Texts.
    Texts(Vec<Option<String>>),
    /// Maps from text to text.
    Pairs(Vec<Vec<(String, String)>>),
    /// A type that has no meaning here.
    Other,
}

/// Some rows of a file.
#[derive(Clone, PartialEq, Debug)]
pub struct TableRows {
    /// How many.
    pub rows: usize,
    /// In the order of [`TableReader::names`].
    pub columns: Vec<TableColumn>,
}

/// Walks a file.
pub struct TableReader {
    names: Vec<String>,
    reader: ParquetRecordBatchReader,
}

/// An owned source for the parquet crate.
struct Shared(Arc<dyn ReadAt>);

impl Length for Shared {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Shared {
    type T = SharedRead;

    fn get_read(&self, start: u64) -> parquet::errors::Result<SharedRead> {
        Ok(SharedRead { source: self.0.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.0.read_at(start, length).map_err(|text| ParquetError::External(ColumnsError::Io(text).into()))
    }
}

struct SharedRead {
    source: Arc<dyn ReadAt>,
    at: u64,
}

impl std::io::Read for SharedRead {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let left = self.source.len().saturating_sub(self.at);
        let want = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let bytes = self.source.read_at(self.at, want).map_err(std::io::Error::other)?;
        buf[..want].copy_from_slice(&bytes);
        self.at += want as u64;
        Ok(want)
    }
}

impl TableReader {
    /// Reads the footer.
    pub fn open(source: Arc<dyn ReadAt>) -> Result<TableReader, ColumnsError> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(Shared(source))?;
        let names = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
        let reader = builder.with_batch_size(BATCH_ROWS).build()?;
        Ok(TableReader { names, reader })
    }

    /// Gives the names of the columns.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl Iterator for TableReader {
    type Item = Result<TableRows, ColumnsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.reader.next()? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error.into())),
        };
        let columns = batch.columns().iter().map(column).collect::<Result<_, _>>();
        Some(columns.map(|columns| TableRows { rows: batch.num_rows(), columns }))
    }
}

pub(crate) fn column(array: &ArrayRef) -> Result<TableColumn, ColumnsError> {
    Ok(match array.data_type() {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            let millis = cast(array, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
            let millis = millis.as_primitive::<TimestampMillisecondType>();
            TableColumn::Times(millis.iter().collect())
        }
        kind if kind.is_numeric() || *kind == DataType::Boolean => {
            let doubles = cast(array, &DataType::Float64)?;
            TableColumn::Numbers(doubles.as_primitive::<Float64Type>().iter().collect())
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => TableColumn::Texts(texts(array)?),
        DataType::Dictionary(_, value) if matches!(**value, DataType::Utf8 | DataType::LargeUtf8) => {
            TableColumn::Texts(texts(array)?)
        }
        DataType::Map(..) => match array.as_any().downcast_ref::<MapArray>() {
            Some(maps) => pairs(maps)?,
            None => TableColumn::Other,
        },
        _ => TableColumn::Other,
    })
}

fn texts(array: &ArrayRef) -> Result<Vec<Option<String>>, ColumnsError> {
    let texts = cast(array, &DataType::Utf8)?;
    Ok(texts.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect())
}

fn pairs(maps: &MapArray) -> Result<TableColumn, ColumnsError> {
    let (Ok(keys), Ok(values)) = (cast(maps.keys(), &DataType::Utf8), cast(maps.values(), &DataType::Utf8)) else {
        return Ok(TableColumn::Other);
    };
    let (keys, values) = (keys.as_string::<i32>(), values.as_string::<i32>());
    let offsets = maps.value_offsets();
    let row = |row: usize| {
        let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
        if maps.is_null(row) {
            return Vec::new();
        }
        let pair = |i: usize| {
            (keys.value(i).to_owned(), if values.is_null(i) { String::new() } else { values.value(i).to_owned() })
        };
        (start..end).map(pair).collect()
    };
    Ok(TableColumn::Pairs((0..maps.len()).map(row).collect()))
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{MapBuilder, StringBuilder};
    use arrow_array::types::Int32Type;
    use arrow_array::{Float32Array, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray};
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn file() -> Bytes {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        map.keys().append_value("a");
        map.values().append_value("b");
        map.append(true).unwrap();
        map.append(true).unwrap();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_700_000_000_000_500), None]))),
            ("v", Arc::new(Float32Array::from(vec![Some(1.5), None]))),
            ("n", Arc::new(Int64Array::from(vec![7, -1]))),
            ("t", Arc::new(StringArray::from(vec![Some("x"), None]))),
            ("m", Arc::new(map.finish())),
            ("l", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)]), None]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        Bytes::from(bytes)
    }

    #[test]
    fn foreign_files_are_read() {
        let mut reader = TableReader::open(Arc::new(file())).unwrap();
        assert_eq!(reader.names(), ["at", "v", "n", "t", "m", "l"]);
        let rows = reader.next().unwrap().unwrap();
        assert_eq!(rows.columns[0], TableColumn::Times(vec![Some(1_700_000_000_000), None]));
        assert_eq!(rows.columns[1], TableColumn::Numbers(vec![Some(1.5), None]));
        assert_eq!(rows.columns[2], TableColumn::Numbers(vec![Some(7.0), Some(-1.0)]));
        assert_eq!(rows.columns[3], TableColumn::Texts(vec![Some("x".into()), None]));
        assert_eq!(rows.columns[4], TableColumn::Pairs(vec![vec![("a".into(), "b".into())], vec![]]));
        assert_eq!(rows.columns[5], TableColumn::Other);
        assert!(reader.next().is_none());
    }

    #[test]
    fn damaged_files_are_refused() {
        let good = file();
        for cut in [0, 4, good.len() / 2, good.len() - 1] {
            assert!(TableReader::open(Arc::new(good.slice(..cut))).is_err(), "{cut}");
        }
    }
}
