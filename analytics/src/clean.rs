//! Cleans up the tables of an upload, one after the other, before the server makes samples of their rows.
//!
//! The conversation: `Q` (the steps, as JSON) is answered `P` (this program's version) or `E`. Then each `T` (some rows of the file) is
//! answered `R` (rows that are not understood, and how many each step left out) and `D` (the rows that are left); `G` ends it. The
//! column [`ROW`] numbers the rows of the file, and stays with what becomes of them.
//! Invariant: the same tables and steps give the same rows.

mod apply;
mod steps;

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};

use polars::prelude::{DataType, IpcStreamReader, IpcStreamWriter, SerReader, SerWriter};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::frames;
use steps::Step;

/// The column that numbers rows.
pub const ROW: &str = "#row";

/// Rises when the same steps make other rows: uploads that are under way must be begun again then.
const VERSION: &str = "1";

/// What is asked.
#[derive(Deserialize)]
struct Question {
    steps: String,
}

/// What became of a table beside what is left of it.
#[derive(Serialize, Default, PartialEq, Debug)]
struct Report {
    /// Numbers of rows that are not understood, and why.
    bad: Vec<(i64, String)>,
    /// Rows that steps left out, by the step's text.
    left_out: BTreeMap<String, u64>,
}

/// Answers until the server has no more tables.
pub fn run(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let (kind, bytes) = frames::read(input)?;
    let question: Question = match kind {
        b'Q' => serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?,
        kind => return Err(unknown(kind)),
    };
    let steps = match steps::parse(&question.steps) {
        Ok(steps) => steps,
        Err(text) => return frames::write(output, b'E', json!({"code": "clean", "text": text}).to_string().as_bytes()),
    };
    frames::write(output, b'P', json!({"version": VERSION}).to_string().as_bytes())?;
    loop {
        match frames::read(input)? {
            (b'T', bytes) => match one(&bytes, &steps) {
                Ok((report, table)) => {
                    frames::write(output, b'R', serde_json::to_string(&report)?.as_bytes())?;
                    frames::write(output, b'D', &table)?;
                }
                Err(text) => {
                    let told = json!({"code": "clean", "text": text});
                    return frames::write(output, b'E', told.to_string().as_bytes());
                }
            },
            (b'G', _) => return Ok(()),
            (kind, _) => return Err(unknown(kind)),
        }
    }
}

fn unknown(kind: u8) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("an unknown frame {kind:?}"))
}

/// Cleans up one table.
fn one(bytes: &[u8], steps: &[(String, Step)]) -> Result<(Report, Vec<u8>), String> {
    let mut table = IpcStreamReader::new(Cursor::new(bytes)).finish().map_err(|e| e.to_string())?;
    let numbers = table.column(ROW).and_then(|rows| rows.cast(&DataType::Int64)).map_err(|e| e.to_string())?;
    table.with_column(numbers).map_err(|e| e.to_string())?;
    let mut report = Report::default();
    let mut table = apply::all(table, steps, &mut report)?;
    let mut stream = Vec::new();
    IpcStreamWriter::new(&mut stream).finish(&mut table).map_err(|e| e.to_string())?;
    Ok((report, stream))
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::{DataFrame, df};

    fn stream(mut table: DataFrame) -> Vec<u8> {
        let mut stream = Vec::new();
        IpcStreamWriter::new(&mut stream).finish(&mut table).unwrap();
        stream
    }

    fn talk(steps: &str, tables: &[Vec<u8>]) -> Vec<(u8, Vec<u8>)> {
        let mut input = Vec::new();
        frames::write(&mut input, b'Q', json!({"steps": steps}).to_string().as_bytes()).unwrap();
        tables.iter().for_each(|table| frames::write(&mut input, b'T', table).unwrap());
        frames::write(&mut input, b'G', b"").unwrap();
        let mut output = Vec::new();
        run(&mut &input[..], &mut output).unwrap();
        let (mut rest, mut answers) = (&output[..], Vec::new());
        while !rest.is_empty() {
            answers.push(frames::read(&mut rest).unwrap());
        }
        answers
    }

    #[test]
    fn tables_are_answered_one_by_one() {
        let table = |from: i64| stream(df!("v" => ["1", ""], ROW => [from, from + 1]).unwrap());
        let answers = talk("drop_empty:v", &[table(1), table(3)]);
        let kinds: Vec<u8> = answers.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, b"PRDRD");
        let report: serde_json::Value = serde_json::from_slice(&answers[3].1).unwrap();
        assert_eq!(report, json!({"bad": [], "left_out": {"drop_empty:v": 1}}));
        let left = IpcStreamReader::new(Cursor::new(&answers[4].1)).finish().unwrap();
        assert_eq!(left, df!("v" => ["1"], ROW => [3_i64]).unwrap());
    }

    #[test]
    fn mistakes_are_told() {
        let table = stream(df!("v" => ["1"], ROW => [1_i64]).unwrap());
        for (steps, tables, kinds) in
            [("blur:v", vec![], &b"E"[..]), ("lower:w", vec![table.clone()], b"PE"), ("trim", vec![vec![1, 2]], b"PE")]
        {
            let answers = talk(steps, &tables);
            assert_eq!(answers.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), kinds, "{steps}");
        }
        assert!(run(&mut &b"T\0\0\0\0"[..], &mut Vec::new()).is_err());
    }
}
