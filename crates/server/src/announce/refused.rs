//! Events that a receiver refused for good: a line of JSON each, for people to look at and send again.
//!
//! Limits: [`BYTES_MAX`]; the file before the current one is kept too, older ones go.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
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
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        let line = json!({"refused_at": at, "reason": reason, "event": event});
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_data()
    }
}
