//! Tables as streams of Arrow IPC: how samples go to another process and answers come back.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::error::{ColumnsError, layout};

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
    let (names, arrays): (Vec<&str>, Vec<ArrayRef>) =
        columns.into_iter().map(|(name, column)| (name, column.into_array())).unzip();
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
    fn an_empty_table_has_its_columns() {
        let stream = write_ipc(vec![("n", IpcColumn::Int(Vec::new()))]).unwrap();
        let reader = StreamReader::try_new(Cursor::new(&stream), None).unwrap();
        assert_eq!(reader.schema().field(0).name(), "n");
    }
}
