//! Rows of an upload by way of `quiver-analytics clean`, which brings tables into order before samples are made of them.
//!
//! Invariants: 1. the same file, steps and program make the same batches; 2. one table is on its way at a time; 3. the process is
//! gone when its reader is.
//! Limits: [`TABLES_MAX`] tables for a batch, so that a file of which nothing is left can be cancelled.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use columns::{TableColumn, TableRows, read_table};
use model::LabelsBuf;
use serde::Deserialize;
use wire::csv::Plan;

use super::cleaner::{CleanError, Cleaner};
use super::meta::{Format, Meta};
use super::rows::{Failure, Rows, Sink};
use super::table::{self, ParquetTables};
use super::text_table::CsvTables;
use super::work::BodyFile;

/// The column that numbers rows; as the process knows it.
pub const ROW: &str = "#row";
/// Tables that are looked at for one batch.
const TABLES_MAX: usize = 8;
/// A table as it comes back.
const ANSWER_BYTES_MAX: u32 = 256 << 20;

/// Some rows of a file.
pub struct Table {
    /// The names of the columns.
    pub names: Vec<String>,
    /// The rows.
    pub rows: TableRows,
    /// The number of each row, or its line.
    pub numbers: Vec<u64>,
}

/// Gives a file table by table.
pub trait Tables: Send {
    /// Gives the next table; `None` at the end. Rows that cannot be cut into columns are put aside.
    fn next(&mut self, bad: &mut Vec<(u64, String)>) -> Result<Option<Table>, Failure>;
}

/// What the process says of a table beside what is left of it.
#[derive(Deserialize)]
struct Report {
    bad: Vec<(u64, String)>,
    left_out: BTreeMap<String, u64>,
}

/// The rows that a clean-up leaves.
pub struct Cleaned {
    tables: Box<dyn Tables>,
    cleaner: Cleaner,
    columns: String,
    /// Tables whose rows are not all taken: with their plan, the numbers of their rows, and the next row.
    waiting: VecDeque<(Plan, TableRows, Vec<u64>, usize)>,
    labels: LabelsBuf,
}

impl Cleaned {
    /// Starts on a file.
    pub fn open(meta: &Meta, body: BodyFile, cleaner: Cleaner) -> Result<Cleaned, Failure> {
        let tables: Box<dyn Tables> = match meta.format {
            Format::Parquet => Box::new(ParquetTables::open(body)?),
            Format::Csv => Box::new(CsvTables::new(body.read(meta.gzip), !meta.columns.is_empty())),
            Format::Ndjson | Format::OpenMetrics => {
                return Err(Failure::Content("only tables are cleaned up: CSV and Parquet".to_owned()));
            }
        };
        let (columns, waiting) = (meta.columns.clone(), VecDeque::new());
        Ok(Cleaned { tables, cleaner, columns, waiting, labels: LabelsBuf::default() })
    }

    /// Has the next table cleaned up; `false` at the end.
    fn more(&mut self, sink: &mut Sink<'_>) -> Result<bool, Failure> {
        let Some(Table { mut names, mut rows, numbers }) = self.tables.next(sink.bad)? else { return Ok(false) };
        names.push(ROW.to_owned());
        rows.columns.push(TableColumn::Numbers(numbers.iter().map(|n| Some(*n as f64)).collect()));
        let table = columns::write_table(&names, rows).map_err(content)?;
        self.cleaner.write(b'T', &table).map_err(content)?;
        let report = self.cleaner.expect(b'R', ANSWER_BYTES_MAX).map_err(content)?;
        let report: Report = serde_json::from_slice(&report).map_err(content)?;
        report.bad.into_iter().for_each(|(row, why)| sink.bad(row, why));
        report.left_out.into_iter().for_each(|(step, n)| *sink.left_out.entry(step).or_default() += n);
        let cleaned = self.cleaner.expect(b'D', ANSWER_BYTES_MAX).map_err(content)?;
        let (mut names, batches) = read_table(&cleaned).map_err(content)?;
        let at = names.iter().position(|name| name == ROW).ok_or_else(|| content("a table without row numbers"))?;
        names.remove(at);
        let plan = Plan::new(&self.columns, &names).map_err(|why| Failure::Content(format!("columns: {why}")))?;
        for mut rows in batches {
            let numbers = match rows.columns.remove(at) {
                TableColumn::Numbers(numbers) => numbers.iter().map(|n| n.unwrap_or_default() as u64).collect(),
                _ => return Err(content("row numbers that are none")),
            };
            self.waiting.push_back((plan.clone(), rows, numbers, 0));
        }
        Ok(true)
    }

    /// Takes rows that are there.
    fn take(&mut self, sink: &mut Sink<'_>) {
        while let Some((plan, rows, numbers, next)) = self.waiting.front_mut() {
            while *next < rows.rows && !sink.is_full() {
                let number = numbers.get(*next).copied().unwrap_or_default();
                table::add(plan, rows, *next, number, &mut self.labels, sink);
                *next += 1;
            }
            if *next < rows.rows {
                return;
            }
            self.waiting.pop_front();
        }
    }
}

impl Rows for Cleaned {
    fn fill(&mut self, sink: &mut Sink<'_>) -> Result<bool, Failure> {
        for _ in 0..TABLES_MAX {
            self.take(sink);
            if sink.is_full() {
                return Ok(true);
            }
            if !self.more(sink)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn content(error: impl std::fmt::Display) -> Failure {
    Failure::Content(format!("clean-up: {error}"))
}

/// Tells whether steps are understood. Blocks for the start of a process.
pub fn check(program: &Path, steps: &str) -> Result<(), CleanError> {
    Cleaner::start(program, steps).map(drop)
}
