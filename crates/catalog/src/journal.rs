//! A second copy of the targets: `catalog.targets`, one checksummed line per change, see [`crate::lines`].
//!
//! The last line of a target counts.
//! Invariants: 1. a change is in the database and in here before it is answered; when the file could not be written, it is
//! written anew as soon as that is possible; 2. at the start the file is written anew when it does not say what the database
//! says; 3. a line that does not check is skipped.
//! Beside a shared database (PostgreSQL) the copy is what a start goes by while that is away; there the database alone has
//! the last word, and nothing is brought back from here.
//! Not here: the state of health, which is found out again.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::lines::{LineFile, line};
use crate::target::Columns;

/// A registration is at most 1 MiB, and stands in a row in several forms, quoted.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// The file, open for appending.
pub struct Journal {
    file: LineFile,
    appended: usize,
    is_behind: bool,
}

impl Journal {
    /// Gives the file that belongs to a database.
    pub fn beside(database: &Path) -> Journal {
        let file = LineFile::at(database.with_extension("targets"));
        Journal { file, appended: 0, is_behind: false }
    }

    /// Reads the last sound line of every target; a file that is not there is empty.
    pub fn read(&self) -> io::Result<BTreeMap<String, Columns>> {
        let mut rows = BTreeMap::new();
        let mut lines = self.file.read(0, u64::MAX, LINE_BYTES_MAX)?;
        let mut damaged = 0u64;
        while let Some((columns, _)) = lines.next::<Columns>()? {
            match columns {
                Some(columns) => drop(rows.insert(columns.target_id.clone(), columns)),
                None => damaged += 1,
            }
        }
        if damaged > 0 {
            tracing::warn!(path = %self.file.path().display(), damaged, "lines that do not check are skipped");
        }
        Ok(rows)
    }

    /// Puts a new file in the old one's place, atomically.
    pub fn rewrite<'a>(&mut self, rows: impl Iterator<Item = &'a Columns>) -> io::Result<()> {
        let written = self.file.replace(rows.map(line));
        self.is_behind = written.is_err();
        self.appended = 0;
        written
    }

    /// Tells whether far more changes than targets were written since the file was made.
    pub fn is_mostly_history(&self, targets: usize) -> bool {
        self.appended > 1_000 + 2 * targets
    }

    /// Tells whether a change is missing that could not be written.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Tells whether there is a second copy.
    pub fn exists(&self) -> bool {
        self.file.exists()
    }

    /// Appends rows and fsyncs.
    pub fn append<'a>(&mut self, rows: impl IntoIterator<Item = &'a Columns>) -> io::Result<()> {
        let (mut lines, mut count) = (Vec::new(), 0);
        for columns in rows {
            lines.extend_from_slice(&line(columns));
            count += 1;
        }
        self.appended += count;
        let written = self.file.append(&lines);
        self.is_behind |= written.is_err();
        written.map(drop)
    }
}
