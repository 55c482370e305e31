//! Events that a receiver refused for good: a line of JSON each, for people to look at and send again.
//!
//! Invariant: a line that broke off costs itself: the next one begins on a line of its own.
//! Limits: [`BYTES_MAX`]; the file before the current one is kept too, older ones go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Bytes of one file.
const BYTES_MAX: u64 = 64 << 20;

/// The file of one sink's refused events.
pub struct Refused {
    path: PathBuf,
}

impl Refused {
    /// Gives the file of a sink; nothing is made before something is refused.
    pub fn of(dir: &Path, name: &str) -> Refused {
        Refused { path: dir.join(format!("{name}.refused")) }
    }

    /// Writes an event down; it is on disk when this returns.
    pub fn write(&self, at: &str, reason: &str, event: &Value) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|m| m.len() >= BYTES_MAX) {
            fs::rename(&self.path, self.path.with_extension("refused.1"))?;
        }
        let is_new = !self.path.exists();
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.path)?;
        let line = json!({"refused_at": at, "reason": reason, "event": event});
        let begin = if is_torn(&mut file)? { "\n" } else { "" };
        file.write_all(format!("{begin}{line}\n").as_bytes())?;
        file.sync_data()?;
        match self.path.parent().filter(|_| is_new) {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// Tells whether a file ends in the middle of a line.
fn is_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_broke_off_takes_no_other_with_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("hook.refused"), "{\"refused_at").unwrap();
        let refused = Refused::of(dir.path(), "hook");
        refused.write("now", "too large", &json!({"a": 1})).unwrap();
        refused.write("now", "too large", &json!({"a": 2})).unwrap();
        let text = fs::read_to_string(dir.path().join("hook.refused")).unwrap();
        let sound: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(sound.iter().map(|line| line["event"]["a"].clone()).collect::<Vec<_>>(), [1, 2]);
    }
}
