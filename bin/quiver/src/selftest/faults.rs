//! Harm to the files of a server that is not running.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::child::{self, Child, failed, open_for_harm};
use super::judge::Book;
use super::load::CHUNK;
use super::rows::Rows;
use crate::Failure;

/// Tears the tail of the newest log file: half a record stands at its end, as after a power cut.
pub fn torn_tail(server: Child, folder: &Path, book: &Book, rows: &mut Rows) -> Result<(), Failure> {
    let before = troubles(&server, "wal_records_torn")?;
    server.kill();
    let Some(newest) = wal_files(folder)?.pop() else {
        rows.not_run("3 torn tail", "starts, loses only the torn record", "there is no log file");
        return Ok(());
    };
    let mut bytes = std::fs::read(&newest).map_err(|e| failed("read the log", e))?;
    let half = bytes.get(80..).unwrap_or_default().iter().take(700).copied().collect::<Vec<u8>>();
    bytes.extend_from_slice(&half[..half.len() / 2]);
    std::fs::write(&newest, bytes).map_err(|e| failed("tear the log", e))?;
    let server = Child::start(folder)?;
    let verdict = book.judge(&server)?;
    let told = troubles(&server, "wal_records_torn")? > before;
    let seen = format!("{verdict}; {}", if told { "told" } else { "not told" });
    rows.check("3 torn tail", "starts, 0 acknowledged lost, says so", verdict.is_clean() && told, seen);
    server.kill();
    Ok(())
}

/// Flips one bit in the largest log file of a copy, in the middle of a record.
pub fn flipped_bit(folder: &Path, book: &Book, rows: &mut Rows) -> Result<(), Failure> {
    let copy = folder.join("copy");
    child::copy_folder(&folder.join("data"), &copy.join("data")).map_err(|e| failed("copy the data", e))?;
    std::fs::copy(folder.join("config.yml"), copy.join("config.yml")).map_err(|e| failed("copy the data", e))?;
    let size = |path: &PathBuf| path.metadata().map_or(0, |m| m.len());
    let Some(largest) = wal_files(&copy)?.into_iter().max_by_key(size) else {
        rows.not_run("4 one flipped bit", "no wrong value, one record at most", "there is no log file");
        return Ok(());
    };
    let at = size(&largest) / 2;
    flip(&largest, at).map_err(|e| failed("flip a bit", e))?;
    let server = Child::start(&copy)?;
    let verdict = book.judge(&server)?;
    let told = troubles(&server, "wal_records_damaged")?;
    // One record is one request. A hole moves the steps behind it, so values are compared in the other rows.
    let good = verdict.lost <= CHUNK && verdict.surplus == 0 && told > 0;
    let seen = format!("{} of {} lost, {told} damaged records told", verdict.lost, verdict.acknowledged);
    rows.check("4 one flipped bit in the log", "one record at most, kept aside", good, seen);
    server.kill();
    std::fs::remove_dir_all(&copy).map_err(|e| failed("remove the copy", e))
}

fn flip(path: &Path, at: u64) -> std::io::Result<()> {
    let mut file = open_for_harm(path)?;
    let mut byte = [0; 1];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&[byte[0] ^ 0x10])
}

fn troubles(server: &Child, what: &str) -> Result<u64, Failure> {
    Ok(server.json("/api/v1/metrics/integrity")?["durability"][what].as_u64().unwrap_or(0))
}

/// The log files, oldest first.
fn wal_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(folder.join("data").join("wal")).map_err(|e| failed("list the log", e))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "wal")).collect();
    files.sort();
    Ok(files)
}
