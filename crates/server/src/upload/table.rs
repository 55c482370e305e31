//! Parquet files.

use columns::{TableColumn, TableReader, TableRows};
use model::LabelsBuf;
use wire::csv::{Plan, Role};

use super::clean::{ROW, Table as CleanTable, Tables};
use super::lines::{Cell, add_row};
use super::rows::{Failure, Rows, Sink};
use super::work::BodyFile;

/// The rows of a file.
pub struct Table {
    reader: TableReader,
    plan: Plan,
    rows: Option<(TableRows, usize)>,
    number: u64,
    labels: LabelsBuf,
}

impl Table {
    /// Reads the footer and makes the plan.
    pub fn open(body: BodyFile, columns: &str) -> Result<Table, Failure> {
        let reader = TableReader::open(body.at_any_place()).map_err(|e| Failure::Content(e.to_string()))?;
        let plan = Plan::new(columns, reader.names()).map_err(|why| Failure::Content(format!("columns: {why}")))?;
        Ok(Table { reader, plan, rows: None, number: 0, labels: LabelsBuf::default() })
    }
}

/// Adds the samples of a row, by its plan.
pub(super) fn add(plan: &Plan, rows: &TableRows, row: usize, number: u64, labels: &mut LabelsBuf, sink: &mut Sink<'_>) {
    let cell = |column: &'_ TableColumn| -> Option<OwnedCell> {
        Some(match column {
            TableColumn::Times(all) => OwnedCell::Time((*all.get(row)?)?),
            TableColumn::Numbers(all) => OwnedCell::Number((*all.get(row)?)?),
            TableColumn::Texts(all) => OwnedCell::Text(all.get(row)?.clone()?),
            TableColumn::Pairs(all) => OwnedCell::Pairs(all.get(row)?.clone()),
            TableColumn::Other => return None,
        })
    };
    let cells: Vec<(&Role, OwnedCell)> =
        plan.roles.iter().zip(&rows.columns).filter_map(|(role, column)| Some((role, cell(column)?))).collect();
    let named = cells.iter().any(|(role, _)| matches!(role, Role::Name | Role::Metric(_)));
    let added = match named {
        true => add_row(cells.iter().map(|(role, cell)| (*role, cell.borrow())), labels, sink),
        false => Err("the metric's name is missing".to_owned()),
    };
    if let Err(why) = added {
        sink.bad(number, why);
    }
}

/// The tables of a file, for a clean-up.
pub struct ParquetTables {
    reader: TableReader,
    number: u64,
}

impl ParquetTables {
    /// Reads the footer.
    pub fn open(body: BodyFile) -> Result<ParquetTables, Failure> {
        let reader = TableReader::open(body.at_any_place()).map_err(|e| Failure::Content(e.to_string()))?;
        if reader.names().iter().any(|name| name == ROW) {
            return Err(Failure::Content(format!("a column cannot be called {ROW:?}")));
        }
        Ok(ParquetTables { reader, number: 0 })
    }
}

impl Tables for ParquetTables {
    fn next(&mut self, _: &mut Vec<(u64, String)>) -> Result<Option<CleanTable>, Failure> {
        let Some(rows) = self.reader.next() else { return Ok(None) };
        let rows = rows.map_err(|e| Failure::Content(e.to_string()))?;
        let first = self.number + 1;
        self.number += rows.rows as u64;
        Ok(Some(CleanTable { names: self.reader.names().to_vec(), rows, numbers: (first..=self.number).collect() }))
    }
}

enum OwnedCell {
    Time(i64),
    Number(f64),
    Text(String),
    Pairs(Vec<(String, String)>),
}

impl OwnedCell {
    fn borrow(&self) -> Cell<'_> {
        match self {
            OwnedCell::Time(ms) => Cell::Time(*ms),
            OwnedCell::Number(n) => Cell::Number(*n),
            OwnedCell::Text(text) => Cell::Text(text),
            OwnedCell::Pairs(pairs) => Cell::Pairs(pairs),
        }
    }
}

impl Rows for Table {
    fn fill(&mut self, sink: &mut Sink<'_>) -> Result<bool, Failure> {
        while !sink.is_full() {
            let (rows, at) = match self.rows.take() {
                Some(rows) => rows,
                None => match self.reader.next() {
                    None => return Ok(false),
                    Some(rows) => (rows.map_err(|e| Failure::Content(e.to_string()))?, 0),
                },
            };
            if at < rows.rows {
                self.number += 1;
                add(&self.plan, &rows, at, self.number, &mut self.labels, sink);
                self.rows = Some((rows, at + 1));
            }
        }
        Ok(true)
    }
}
