//! The rows of an answer in the shapes that can be asked for.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::Deserialize;

/// RFC 3339, milliseconds, as everywhere else in the API.
const UTC: &str = "%Y-%m-%dT%H:%M:%S%.3fZ";

/// A shape of an answer.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `{"columns": [...], "rows": [[...]], "row_count": n}`
    Json,
    /// A stream of Arrow IPC.
    Arrow,
    /// A head line, then rows.
    Csv,
}

/// Writes an answer.
pub struct Answer {
    format: Format,
    schema: SchemaRef,
    types: Vec<String>,
    out: Vec<u8>,
    ipc: Option<StreamWriter<Vec<u8>>>,
    rows: u64,
    rows_max: u64,
    bytes_max: usize,
}

/// Why an answer could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It is too large.
    #[error("{0}")]
    TooLarge(String),
    /// A value has no text.
    #[error("{0}")]
    Arrow(#[from] ArrowError),
}

impl Answer {
    /// Begins one.
    ///
    /// **Takes** `types`: what SQL calls the columns' types; Arrow's words stand in for those that are missing.
    pub fn new(
        format: Format,
        schema: SchemaRef,
        types: Vec<String>,
        (rows_max, bytes_max): (u64, usize),
    ) -> Result<Answer, AnswerError> {
        let mut answer = Answer { format, schema, types, out: Vec::new(), ipc: None, rows: 0, rows_max, bytes_max };
        match format {
            Format::Arrow => answer.ipc = Some(StreamWriter::try_new(Vec::new(), &answer.schema)?),
            Format::Json => answer.json_head(),
            Format::Csv => {
                let names: Vec<String> = answer.schema.fields().iter().map(|f| csv(f.name())).collect();
                answer.out.extend_from_slice(names.join(",").as_bytes());
                answer.out.extend_from_slice(b"\r\n");
            }
        }
        Ok(answer)
    }

    /// Adds rows.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<(), AnswerError> {
        let rows = batch.num_rows() as u64;
        if self.rows + rows > self.rows_max {
            let text = format!("the answer has more than {} rows: add LIMIT, or aggregate", self.rows_max);
            return Err(AnswerError::TooLarge(text));
        }
        match self.format {
            Format::Arrow => {
                if let Some(writer) = &mut self.ipc {
                    writer.write(batch)?;
                }
            }
            Format::Json => self.add_text(batch, Answer::json_row)?,
            Format::Csv => self.add_text(batch, Answer::csv_row)?,
        }
        self.rows += rows;
        self.check_size()
    }

    fn check_size(&self) -> Result<(), AnswerError> {
        let bytes = self.out.len() + self.ipc.as_ref().map_or(0, |writer| writer.get_ref().len());
        if bytes > self.bytes_max {
            let text = format!("the answer is larger than {} bytes: add LIMIT, or aggregate", self.bytes_max);
            return Err(AnswerError::TooLarge(text));
        }
        Ok(())
    }

    fn add_text(
        &mut self,
        batch: &RecordBatch,
        write: fn(&mut Answer, &[Cell], usize) -> Result<(), AnswerError>,
    ) -> Result<(), AnswerError> {
        // Times with a zone are in UTC here, always, within lists too.
        let options = FormatOptions::default().with_timestamp_tz_format(Some(UTC));
        let mut cells = Vec::new();
        for (n, array) in batch.columns().iter().enumerate() {
            let is_json = self.types.get(n).is_some_and(|word| word == "JSON");
            let formatter = ArrayFormatter::try_new(array, &options)?;
            cells.push(Cell { array, formatter, is_json });
        }
        for row in 0..batch.num_rows() {
            write(self, &cells, row)?;
            if row % 1024 == 0 {
                self.check_size()?;
            }
        }
        Ok(())
    }

    fn json_head(&mut self) {
        let column = |(n, f): (usize, &Arc<Field>)| {
            let word = self.types.get(n).cloned().unwrap_or_else(|| f.data_type().to_string());
            serde_json::json!({"name": f.name(), "type": word})
        };
        let columns: Vec<serde_json::Value> = self.schema.fields().iter().enumerate().map(column).collect();
        let head = serde_json::Value::from(columns).to_string();
        self.out.extend_from_slice(format!("{{\"columns\":{head},\"rows\":[").as_bytes());
    }

    fn json_row(&mut self, cells: &[Cell], row: usize) -> Result<(), AnswerError> {
        let first = self.out.last() == Some(&b'[');
        self.out.extend_from_slice(if first { b"[" } else { b",[" });
        for (n, cell) in cells.iter().enumerate() {
            if n > 0 {
                self.out.push(b',');
            }
            self.out.extend_from_slice(cell.json(row)?.as_bytes());
        }
        self.out.push(b']');
        Ok(())
    }

    fn csv_row(&mut self, cells: &[Cell], row: usize) -> Result<(), AnswerError> {
        for (n, cell) in cells.iter().enumerate() {
            if n > 0 {
                self.out.push(b',');
            }
            if !cell.array.is_null(row) {
                let text = cell.formatter.value(row).try_to_string()?;
                self.out.extend_from_slice(csv(&text).as_bytes());
            }
        }
        self.out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Ends it; gives the bytes and how many rows there are.
    pub fn finish(mut self) -> Result<(Vec<u8>, u64), AnswerError> {
        if let Some(mut writer) = self.ipc.take() {
            writer.finish()?;
            return Ok((writer.into_inner()?, self.rows));
        }
        if self.format == Format::Json {
            self.out.extend_from_slice(format!("],\"row_count\":{}}}", self.rows).as_bytes());
        }
        Ok((self.out, self.rows))
    }
}

struct Cell<'a> {
    array: &'a ArrayRef,
    formatter: ArrayFormatter<'a>,
    is_json: bool,
}

impl Cell<'_> {
    fn json(&self, row: usize) -> Result<String, ArrowError> {
        if self.array.is_null(row) {
            return Ok("null".to_owned());
        }
        let number = match self.array.data_type() {
            DataType::Float64 => Some(self.array.as_primitive::<Float64Type>().value(row)),
            DataType::Float32 => Some(f64::from(self.array.as_primitive::<Float32Type>().value(row))),
            _ => None,
        };
        if let Some(number) = number {
            return Ok(json_number(number));
        }
        let text = self.formatter.value(row).try_to_string()?;
        let bare = matches!(
            self.array.data_type(),
            DataType::Boolean
                | DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::UInt8
                | DataType::UInt16
                | DataType::UInt32
                | DataType::UInt64
                | DataType::Decimal128(..)
        );
        let embedded = self.is_json && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        if bare || embedded { Ok(text) } else { Ok(serde_json::Value::from(text).to_string()) }
    }
}

/// JSON has no word for what is not finite: texts as Prometheus writes them.
fn json_number(number: f64) -> String {
    match serde_json::Number::from_f64(number) {
        Some(number) => number.to_string(),
        None if number.is_nan() => "\"NaN\"".to_owned(),
        None if number > 0.0 => "\"+Inf\"".to_owned(),
        None => "\"-Inf\"".to_owned(),
    }
}

fn csv(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    use arrow::array::{Float64Array, ListArray, StringArray, TimestampMicrosecondArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Schema;

    fn batch() -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![
            Field::new("v", DataType::Float64, true),
            Field::new("t", DataType::Utf8, true),
        ]));
        let values = Float64Array::from(vec![Some(0.1), Some(f64::NAN), Some(f64::NEG_INFINITY), None]);
        let texts = StringArray::from(vec![Some("a,\"b\""), None, Some("ü\n"), Some("")]);
        RecordBatch::try_new(schema, vec![Arc::new(values), Arc::new(texts)]).unwrap()
    }

    fn words() -> Vec<String> {
        vec!["DOUBLE".to_owned(), "VARCHAR".to_owned()]
    }

    fn text(format: Format) -> String {
        let batch = batch();
        let mut answer = Answer::new(format, batch.schema(), words(), (100, 10_000)).unwrap();
        answer.add(&batch).unwrap();
        let (bytes, rows) = answer.finish().unwrap();
        assert_eq!(rows, 4);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn values_that_have_no_place_in_json_are_texts() {
        let expected = r#"{"columns":[{"name":"v","type":"DOUBLE"},{"name":"t","type":"VARCHAR"}],"rows":[[0.1,"a,\"b\""],["NaN",null],["-Inf","ü\n"],[null,""]],"row_count":4}"#;
        assert_eq!(text(Format::Json), expected);
        assert_eq!(text(Format::Csv), "v,t\r\n0.1,\"a,\"\"b\"\"\"\r\nNaN,\r\n-inf,\"ü\n\"\r\n,\r\n");
    }

    #[test]
    fn times_are_utc_in_lists_as_well() {
        let micros = TimestampMicrosecondArray::from(vec![Some(1_577_836_800_250_000), None]).with_timezone("UTC");
        let item = Arc::new(Field::new("item", micros.data_type().clone(), true));
        let list = ListArray::new(item, OffsetBuffer::from_lengths([2, 0]), Arc::new(micros.clone()), None);
        let batch =
            RecordBatch::try_from_iter([("t", Arc::new(micros) as ArrayRef), ("l", Arc::new(list) as ArrayRef)]);
        let batch = batch.unwrap();
        let mut answer = Answer::new(Format::Json, batch.schema(), Vec::new(), (10, 10_000)).unwrap();
        answer.add(&batch).unwrap();
        let out = String::from_utf8(answer.finish().unwrap().0).unwrap();
        let rows = r#""rows":[["2020-01-01T00:00:00.250Z","[2020-01-01T00:00:00.250Z, ]"],[null,"[]"]]"#;
        assert!(out.contains(rows), "{out}");
    }

    #[test]
    fn too_many_rows_or_bytes_are_said() {
        let batch = batch();
        let mut answer = Answer::new(Format::Csv, batch.schema(), words(), (3, 10_000)).unwrap();
        assert!(matches!(answer.add(&batch), Err(AnswerError::TooLarge(_))));
        for format in [Format::Csv, Format::Json, Format::Arrow] {
            let mut answer = Answer::new(format, batch.schema(), words(), (100, 10)).unwrap();
            assert!(matches!(answer.add(&batch), Err(AnswerError::TooLarge(_))));
        }
    }
}
