//! A second copy of the targets: `catalog.targets`, one checksummed line per change.
//!
//! Layout: per line 16 hexadecimal digits of the XXH3-64 of what follows the space, a space, the row as JSON. The last
//! line of a target counts.
//! Invariants: 1. a change is in the database and in here before it is answered; 2. at the start the file is written
//! anew when it does not say what the database says; 3. a line that does not check is skipped.
//! Beside a shared database (PostgreSQL) the copy is what a start goes by while that is away; there the database alone has
//! the last word, and nothing is brought back from here.
//! Not here: the state of health, which is found out again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::target::Columns;

/// The file, open for appending.
pub struct Journal {
    path: PathBuf,
    file: Option<File>,
    appended: usize,
}

impl Journal {
    /// Gives the file that belongs to a database.
    pub fn beside(database: &Path) -> Journal {
        Journal { path: database.with_extension("targets"), file: None, appended: 0 }
    }

    /// Reads the last sound line of every target; a file that is not there is empty.
    pub fn read(&self) -> io::Result<BTreeMap<String, Columns>> {
        let mut rows = BTreeMap::new();
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(rows),
            Err(e) => return Err(e),
        };
        let mut damaged = 0u64;
        for line in BufReader::new(file).split(b'\n') {
            match parse(&line?) {
                Some(columns) => drop(rows.insert(columns.target_id.clone(), columns)),
                None => damaged += 1,
            }
        }
        if damaged > 0 {
            tracing::warn!(path = %self.path.display(), damaged, "lines that do not check are skipped");
        }
        Ok(rows)
    }

    /// Puts a new file in the old one's place, atomically.
    pub fn rewrite<'a>(&mut self, rows: impl Iterator<Item = &'a Columns>) -> io::Result<()> {
        let temporary = self.path.with_extension("targets.tmp");
        let mut out = io::BufWriter::new(File::create(&temporary)?);
        for columns in rows {
            out.write_all(&line(columns))?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        sync_parent(&self.path)?;
        self.file = None;
        self.appended = 0;
        Ok(())
    }

    /// Tells whether far more changes than targets were written since the file was made.
    pub fn is_mostly_history(&self, targets: usize) -> bool {
        self.appended > 1_000 + 2 * targets
    }

    /// Tells whether there is a second copy.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Appends rows and fsyncs.
    pub fn append<'a>(&mut self, rows: impl IntoIterator<Item = &'a Columns>) -> io::Result<()> {
        let (mut lines, mut count) = (Vec::new(), 0);
        for columns in rows {
            lines.extend_from_slice(&line(columns));
            count += 1;
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
                sync_parent(&self.path)?;
                none.insert(file)
            }
        };
        let result = file.write_all(&lines).and_then(|()| file.sync_data());
        self.appended += count;
        if result.is_err() {
            self.file = None;
        }
        result
    }
}

/// Fsyncs the directory of a file.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn line(columns: &Columns) -> Vec<u8> {
    let json = serde_json::to_vec(columns).unwrap_or_default();
    let mut out = format!("{:016x} ", xxh3_64(&json)).into_bytes();
    out.extend_from_slice(&json);
    out.push(b'\n');
    out
}

fn parse(line: &[u8]) -> Option<Columns> {
    let (sum, json) = line.split_at_checked(17)?;
    // The exact spelling: a flipped bit that turns `f` into `F` is damage too.
    if sum != format!("{:016x} ", xxh3_64(json)).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}
