//! How far a sink has come, on disk.
//!
//! Layout: `<sequence number of the last event that is done> <XXH3-64 of those digits>\n`. Replaced atomically.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

/// The file of one sink's cursor.
pub struct Cursor {
    path: PathBuf,
}

impl Cursor {
    /// Gives the file of a sink.
    pub fn of(dir: &Path, name: &str) -> Cursor {
        Cursor { path: dir.join(format!("{name}.cursor")) }
    }

    /// Reads it; `None` when the sink is new.
    ///
    /// **Errors** when it cannot be read or does not check.
    pub fn read(&self) -> io::Result<Option<u64>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let sound = text.split_once(' ').filter(|(digits, sum)| *sum == sum_of(digits));
        match sound.and_then(|(digits, _)| digits.parse().ok()) {
            Some(seq) => Ok(Some(seq)),
            None => Err(io::Error::other(format!("{} is damaged", self.path.display()))),
        }
    }

    /// Writes it durably.
    pub fn write(&self, seq: u64) -> io::Result<()> {
        let temporary = self.path.with_extension("cursor.tmp");
        let digits = seq.to_string();
        let mut file = File::create(&temporary)?;
        file.write_all(format!("{digits} {}", sum_of(&digits)).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        match self.path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}

fn sum_of(digits: &str) -> String {
    format!("{:016x}\n", xxh3_64(digits.as_bytes()))
}
