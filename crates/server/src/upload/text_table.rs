//! CSV as tables of text, for a clean-up: what a column is, is decided behind it.
//!
//! Limits: a table has at most [`ROWS_MAX`] rows and about [`BYTES_MAX`] bytes.

use std::io::Read;

use columns::{TableColumn, TableRows};
use wire::csv;

use super::clean::{ROW, Table, Tables};
use super::lines::Lines;
use super::rows::Failure;

const ROWS_MAX: usize = 16_384;
const BYTES_MAX: usize = 8 << 20;

/// The tables of a file; its first line is the head.
pub struct CsvTables {
    lines: Lines,
    may_be_headless: bool,
    names: Option<Vec<String>>,
    fields: Vec<String>,
}

impl CsvTables {
    /// Starts on a file. When `may_be_headless`, a first line with a number in it is data, and the columns are `c1`, `c2`, …
    pub fn new(reader: Box<dyn Read + Send>, may_be_headless: bool) -> CsvTables {
        CsvTables { lines: Lines::new(reader), may_be_headless, names: None, fields: Vec::new() }
    }

    /// Reads the next line that is not empty into `fields`; `false` at the end.
    fn cut(&mut self, bad: &mut Vec<(u64, String)>) -> Result<bool, Failure> {
        loop {
            if !self.lines.next()? {
                return Ok(false);
            }
            if self.lines.line.trim_ascii().is_empty() {
                continue;
            }
            match self.lines.fields(&mut self.fields) {
                Ok(()) => return Ok(true),
                Err(why) if self.names.is_none() => {
                    return Err(Failure::Content(format!("line {}: {why}", self.lines.number)));
                }
                Err(why) => bad.push((self.lines.number, why)),
            }
            if bad.len() >= ROWS_MAX {
                self.fields.clear();
                return Ok(true);
            }
        }
    }

    /// Reads the head; `true` when the line was data.
    fn head(&mut self) -> Result<bool, Failure> {
        let headless = self.may_be_headless && self.fields.iter().any(|field| csv::number(field).is_some());
        let names: Vec<String> = match headless {
            true => (1..=self.fields.len()).map(|n| format!("c{n}")).collect(),
            false => self.fields.iter().map(|name| name.trim().to_owned()).collect(),
        };
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Failure::Content(format!("the head has the column {:?} twice", twice[0])));
        }
        if names.iter().any(|name| name == ROW) {
            return Err(Failure::Content(format!("a column cannot be called {ROW:?}")));
        }
        self.names = Some(names);
        Ok(headless)
    }
}

impl Tables for CsvTables {
    fn next(&mut self, bad: &mut Vec<(u64, String)>) -> Result<Option<Table>, Failure> {
        let (mut numbers, mut bytes) = (Vec::new(), 0);
        let mut columns: Vec<Vec<Option<String>>> = vec![Vec::new(); self.names.as_ref().map_or(0, Vec::len)];
        while numbers.len() < ROWS_MAX && bytes < BYTES_MAX && bad.len() < ROWS_MAX && self.cut(bad)? {
            if self.names.is_none() {
                let is_data = self.head()?;
                columns.resize(self.fields.len(), Vec::new());
                if !is_data {
                    continue;
                }
            }
            if self.fields.is_empty() {
                continue;
            }
            numbers.push(self.lines.number);
            let mut fields = self.fields.drain(..);
            for column in &mut columns {
                let field = fields.next();
                // An empty place costs as much as a short text.
                bytes += field.as_ref().map_or(0, String::len) + size_of::<Option<String>>();
                column.push(field);
            }
        }
        let names = match &self.names {
            Some(names) if !numbers.is_empty() || !bad.is_empty() => names.clone(),
            _ => return Ok(None),
        };
        let rows = TableRows { rows: numbers.len(), columns: columns.into_iter().map(TableColumn::Texts).collect() };
        Ok(Some(Table { names, rows, numbers }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(text: &str, headless: bool) -> CsvTables {
        CsvTables::new(Box::new(std::io::Cursor::new(text.as_bytes().to_vec())), headless)
    }

    fn texts(column: &TableColumn) -> Vec<&str> {
        let TableColumn::Texts(texts) = column else { panic!("{column:?}") };
        texts.iter().map(|t| t.as_deref().unwrap_or("-")).collect()
    }

    #[test]
    fn lines_become_columns_with_their_numbers() {
        let mut bad = Vec::new();
        let mut all = tables("\u{feff}at, v\n1,2\n\n3\n\"4,5\n6,7,8\n", false);
        let table = all.next(&mut bad).unwrap().unwrap();
        assert_eq!((table.names, table.numbers), (vec!["at".to_owned(), "v".to_owned()], vec![2, 4, 6]));
        assert_eq!(texts(&table.rows.columns[0]), ["1", "3", "6"]);
        assert_eq!(texts(&table.rows.columns[1]), ["2", "-", "7"]);
        assert_eq!(bad.iter().map(|b| b.0).collect::<Vec<_>>(), [5]);
        assert!(all.next(&mut Vec::new()).unwrap().is_none());
        let table = tables("1,2\n", true).next(&mut bad).unwrap().unwrap();
        assert_eq!((table.names, table.rows.rows), (vec!["c1".to_owned(), "c2".to_owned()], 1));
        for head in ["a,a\n1,2\n", "#row\n1\n", "\"a\n"] {
            assert!(tables(head, false).next(&mut bad).is_err(), "{head}");
        }
    }

    #[test]
    fn long_files_come_in_several_tables() {
        let text = "v\n".to_owned() + &"1\n".repeat(ROWS_MAX + 5);
        let mut all = tables(&text, false);
        let rows: Vec<usize> =
            std::iter::from_fn(|| all.next(&mut Vec::new()).unwrap()).map(|table| table.rows.rows).collect();
        assert_eq!(rows, [ROWS_MAX, 5]);
    }
}
