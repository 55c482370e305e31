//! Tables as streams of Arrow IPC: how samples go to another process and answers come back.

use std::io::Cursor;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::error::{ColumnsError, layout};
use crate::labels_json::pairs_to_json;
use crate::table::{TableColumn, TableRows, column};

/// Rows of one batch: small enough for a reader that takes them one by one.
const BATCH_ROWS: usize = 65_536;

/// A column of a table.
#[derive(Clone, Debug)]
pub enum IpcColumn {
    /// Whole numbers.
    Int(Vec<i64>),
    /// Doubles, bit for bit.
    Double(Vec<f64>),
    /// Texts, or nothing.
    Text(Vec<Option<String>>),
}

impl IpcColumn {
    fn into_array(self) -> ArrayRef {
        match self {
            IpcColumn::Int(values) => Arc::new(Int64Array::from(values)),
            IpcColumn::Double(values) => Arc::new(Float64Array::from(values)),
            IpcColumn::Text(values) => Arc::new(StringArray::from(values)),
        }
    }
}

/// Writes a table as a stream of Arrow IPC.
///
/// **Takes** columns of equal length, with their names.
pub fn write_ipc(columns: Vec<(&str, IpcColumn)>) -> Result<Vec<u8>, ColumnsError> {
    write_arrays(columns.into_iter().map(|(name, column)| (name, column.into_array())))
}

/// Writes rows of a file as a stream of Arrow IPC; maps become JSON objects, and what has no meaning is empty.
///
/// **Takes** as many names as columns.
pub fn write_table(names: &[String], rows: TableRows) -> Result<Vec<u8>, ColumnsError> {
    let array = |column| -> ArrayRef {
        match column {
            TableColumn::Times(values) => Arc::new(TimestampMillisecondArray::from(values)),
            TableColumn::Numbers(values) => Arc::new(Float64Array::from(values)),
            TableColumn::Texts(values) => Arc::new(StringArray::from(values)),
            TableColumn::Pairs(values) => {
                let text = |pairs: &Vec<(String, String)>| (!pairs.is_empty()).then(|| pairs_to_json(pairs));
                Arc::new(values.iter().map(text).collect::<StringArray>())
            }
            TableColumn::Other => Arc::new(StringArray::from(vec![None::<String>; rows.rows])),
        }
    };
    write_arrays(names.iter().map(String::as_str).zip(rows.columns.into_iter().map(array)))
}

/// Reads a stream of Arrow IPC whole: the names of its columns, and its rows batch by batch.
pub fn read_table(stream: &[u8]) -> Result<(Vec<String>, Vec<TableRows>), ColumnsError> {
    let reader = StreamReader::try_new(Cursor::new(stream), None)?;
    let names = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
    let rows = reader.map(|batch| {
        let batch = batch?;
        let columns = batch.columns().iter().map(column).collect::<Result<_, _>>()?;
        Ok(TableRows { rows: batch.num_rows(), columns })
    });
    Ok((names, rows.collect::<Result<_, ColumnsError>>()?))
}

fn write_arrays<'a>(columns: impl Iterator<Item = (&'a str, ArrayRef)>) -> Result<Vec<u8>, ColumnsError> {
    let (names, arrays): (Vec<&str>, Vec<ArrayRef>) = columns.unzip();
    let field = |(name, array): (&&str, &ArrayRef)| Field::new(*name, array.data_type().clone(), true);
    let schema = Arc::new(Schema::new(names.iter().zip(&arrays).map(field).collect::<Vec<_>>()));
    let whole = RecordBatch::try_new(schema.clone(), arrays)?;
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    let mut at = 0;
    while at < whole.num_rows() {
        let rows = BATCH_ROWS.min(whole.num_rows() - at);
        writer.write(&whole.slice(at, rows))?;
        at += rows;
    }
    writer.finish()?;
    Ok(writer.into_inner()?)
}

/// Turns a stream of Arrow IPC into a Parquet file.
///
/// **Errors** when the file becomes larger than `bytes_max`, or a type has no place in Parquet.
pub fn ipc_to_parquet(stream: &[u8], bytes_max: usize) -> Result<Vec<u8>, ColumnsError> {
    let reader = StreamReader::try_new(Cursor::new(stream), None)?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), reader.schema(), Some(properties))?;
    for batch in reader {
        writer.write(&batch?)?;
        if writer.bytes_written() + writer.in_progress_size() > bytes_max {
            return Err(layout(format!("the answer is larger than {bytes_max} bytes")));
        }
    }
    Ok(writer.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    #[test]
    fn a_table_goes_through_both_shapes_bit_for_bit() {
        let rows = BATCH_ROWS + 3;
        let values: Vec<f64> =
            (0..rows).map(|n| if n == 7 { f64::from_bits(0x7ff0_0000_0000_0002) } else { n as f64 }).collect();
        let texts = (0..rows).map(|n| (n % 2 == 0).then(|| format!("t{n}"))).collect();
        let stream =
            write_ipc(vec![("value", IpcColumn::Double(values.clone())), ("text", IpcColumn::Text(texts))]).unwrap();
        let file = ipc_to_parquet(&stream, usize::MAX).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file)).unwrap().build().unwrap();
        let mut seen = Vec::new();
        let mut nulls = 0;
        for batch in reader {
            let batch = batch.unwrap();
            let column = batch.column(0).as_any().downcast_ref::<Float64Array>().unwrap();
            seen.extend(column.values().iter().map(|v| v.to_bits()));
            nulls += batch.column(1).null_count();
        }
        assert_eq!(seen, values.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        assert_eq!(nulls, rows / 2);
        assert!(ipc_to_parquet(&stream, 100).is_err());
        assert!(ipc_to_parquet(b"no arrow at all", 100).is_err());
    }

    #[test]
    fn rows_of_a_file_come_back() {
        let names = ["at", "n", "t", "m", "o"].map(str::to_owned);
        let pairs = vec![("a\"".to_owned(), "b".to_owned())];
        let columns = vec![
            TableColumn::Times(vec![Some(1_700_000_000_123), None]),
            TableColumn::Numbers(vec![None, Some(-0.0)]),
            TableColumn::Texts(vec![Some("x".into()), None]),
            TableColumn::Pairs(vec![pairs, vec![]]),
            TableColumn::Other,
        ];
        let stream = write_table(&names, TableRows { rows: 2, columns: columns.clone() }).unwrap();
        let (back, rows) = read_table(&stream).unwrap();
        assert_eq!((back, rows.len()), (names.to_vec(), 1));
        assert_eq!(rows[0].columns[..3], columns[..3]);
        assert_eq!(rows[0].columns[3], TableColumn::Texts(vec![Some("{\"a\\\"\":\"b\"}".into()), None]));
        assert_eq!(rows[0].columns[4], TableColumn::Texts(vec![None, None]));
        for cut in [0, 3, stream.len() / 2] {
            assert!(read_table(&stream[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn an_empty_table_has_its_columns() {
        let stream = write_ipc(vec![("n", IpcColumn::Int(Vec::new()))]).unwrap();
        let reader = StreamReader::try_new(Cursor::new(&stream), None).unwrap();
        assert_eq!(reader.schema().field(0).name(), "n");
    }
}
