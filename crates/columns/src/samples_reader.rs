//! Reads single pages of `samples.parquet`.
//!
//! Owns: where each page lies, nothing else; who reads caches decoded pages if it likes.
//! Invariants: pages are numbered from 0 over all row groups, and page `p` holds the same rows in every column.

use parquet::basic::{Repetition, Type as Physical};
use parquet::data_type::{BoolType, DoubleType, Int64Type};

use crate::error::ColumnsError;
use crate::pages::{Pages, Wanted};
use crate::samples_writer::{COLUMNS, STALE, TIMESTAMP, VALUE_PLAIN, VALUE_SCALED};
use crate::source::ReadAt;

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
pub struct SamplesFile(Pages);

/// In the order of [`Column`].
const WANTED: [Wanted; 4] = [
    Wanted { name: COLUMNS[TIMESTAMP], physical: Physical::INT64, repetition: Repetition::REQUIRED },
    Wanted { name: COLUMNS[VALUE_SCALED], physical: Physical::INT64, repetition: Repetition::OPTIONAL },
    Wanted { name: COLUMNS[VALUE_PLAIN], physical: Physical::DOUBLE, repetition: Repetition::OPTIONAL },
    Wanted { name: COLUMNS[STALE], physical: Physical::BOOLEAN, repetition: Repetition::REQUIRED },
];

impl SamplesFile {
    /// Reads the footer and the offset index.
    pub fn open(source: &dyn ReadAt) -> Result<SamplesFile, ColumnsError> {
        Pages::open(source, &WANTED).map(SamplesFile)
    }

    /// Counts all rows.
    pub fn rows(&self) -> u64 {
        self.0.rows()
    }

    /// Counts the pages.
    pub fn pages(&self) -> usize {
        self.0.count()
    }

    /// Gives the number of the page that holds a row, `None` past the end.
    pub fn page_of(&self, row: u64) -> Option<usize> {
        self.0.page_of(row)
    }

    /// Gives the first row of a page and the first row of the next.
    pub fn page_span(&self, page: usize) -> Option<(u64, u64)> {
        self.0.span(page)
    }

    /// Gives where the pages end: from there to the end of the file lies what [`SamplesFile::open`] reads.
    pub fn pages_end(&self) -> u64 {
        self.0.end()
    }

    /// Gives the memory it takes.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Reads and decodes one page of one column.
    pub fn read_page(&self, source: &dyn ReadAt, column: Column, page: usize) -> Result<ColumnPage, ColumnsError> {
        let slot = column as usize;
        Ok(match column {
            Column::Timestamp => ColumnPage::Integers(self.0.read::<Int64Type>(source, slot, page, 0)?),
            Column::Scaled => ColumnPage::Integers(self.0.read::<Int64Type>(source, slot, page, NO_SCALED)?),
            Column::Plain => ColumnPage::Doubles(self.0.read::<DoubleType>(source, slot, page, 0.0)?),
            Column::Stale => ColumnPage::Flags(self.0.read::<BoolType>(source, slot, page, false)?),
        })
    }
}
