//! The audit log: who changed what, as lines of JSON in `audit/audit.jsonl` of the data directory.
//!
//! Limits: [`FILE_BYTES_MAX`] bytes a file, [`FILES_MAX`] files, [`WAITING_MAX`] lines that wait for the disk.
//! Fails how: a line that cannot be written is counted; the request it tells of was answered all the same. Lines are not fsynced.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::Serialize;

/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Files that are kept, the one that is written included.
const FILES_MAX: usize = 8;
/// Lines that wait.
const WAITING_MAX: usize = 4_096;
const NAME: &str = "audit.jsonl";

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// RFC 3339.
    pub time: String,
    /// Who, as in [`super::pass::Pass::name`].
    pub who: String,
    /// From which address.
    pub from: String,
    /// The method.
    pub method: String,
    /// The path, without the query: that may hold what is nobody's business.
    pub path: String,
    /// What was answered.
    pub status: u16,
}

/// Writes the log.
pub struct Audit {
    lines: SyncSender<Entry>,
    failed: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
}

impl Audit {
    /// Opens the log and starts its thread, which ends with the last giver of lines.
    pub fn start(data_dir: &Path) -> io::Result<Audit> {
        let dir = data_dir.join("audit");
        std::fs::create_dir_all(&dir)?;
        let mut file = LogFile::open(dir)?;
        let (lines, waiting): (_, Receiver<Entry>) = sync_channel(WAITING_MAX);
        let (failed, written) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (fails, writes) = (failed.clone(), written.clone());
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            while let Ok(entry) = waiting.recv() {
                let counter = if file.write(&entry).is_ok() { &writes } else { &fails };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        Ok(Audit { lines, failed, written })
    }

    /// Hands a line over; never waits.
    pub fn note(&self, entry: Entry) {
        if self.lines.try_send(entry).is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts the lines that are written, and those that could not be.
    pub fn counts(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

struct LogFile {
    dir: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    fn open(dir: PathBuf) -> io::Result<LogFile> {
        let file = OpenOptions::new().create(true).append(true).open(dir.join(NAME))?;
        let bytes = file.metadata()?.len();
        Ok(LogFile { dir, file, bytes })
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if self.bytes > 0 && self.bytes + line.len() as u64 > FILE_BYTES_MAX {
            self.turn()?;
        }
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// `audit.jsonl` becomes `audit.jsonl.1`, and so on; the oldest goes.
    fn turn(&mut self) -> io::Result<()> {
        let numbered = |n: usize| self.dir.join(format!("{NAME}.{n}"));
        for n in (1..FILES_MAX - 1).rev() {
            match std::fs::rename(numbered(n), numbered(n + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        std::fs::rename(self.dir.join(NAME), numbered(1))?;
        let dir = self.dir.clone();
        *self = LogFile::open(dir)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            time: "t".into(),
            who: "token:a".into(),
            from: "127.0.0.1:1".into(),
            method: "POST".into(),
            path: path.into(),
            status: 200,
        }
    }

    #[test]
    fn the_log_turns_and_keeps_so_many_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(dir.path().to_owned()).unwrap();
        for n in 0..12 {
            file.write(&entry(&format!("/{n}"))).unwrap();
            file.bytes = FILE_BYTES_MAX;
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(read("audit.jsonl").contains("\"/11\"") && read("audit.jsonl.1").contains("\"/10\""));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), FILES_MAX);
    }
}
