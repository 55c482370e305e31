//! Harm to the files of a server that is not running.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::child::{self, Child, failed, open_for_harm};
use super::judge::Book;
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

/// Samples written before a bit of their log is flipped, one request each.
const FLIP_SAMPLES: usize = 60;
/// Their name.
const FLIP_METRIC: &str = "selftest_flip";

/// Flips one bit in the middle of the newest log file of a copy, which a start has to read: it holds samples written since
/// the last start, and no checkpoint.
pub fn flipped_bit(folder: &Path, book: &Book, rows: &mut Rows) -> Result<(), Failure> {
    let copy = folder.join("copy");
    child::copy_folder(&folder.join("data"), &copy.join("data")).map_err(|e| failed("copy the data", e))?;
    // Without the exporter, so that the log holds nothing but what is asked for below.
    std::fs::write(copy.join("config.yml"), "{}\n").map_err(|e| failed("write the configuration", e))?;
    let server = Child::start(&copy)?;
    let at_s = jiff::Timestamp::now().as_second() - FLIP_SAMPLES as i64;
    for n in 0..FLIP_SAMPLES {
        let metric = json!([{"name": FLIP_METRIC, "metric_type": "GAUGE", "source": "APPLICATION",
            "value": n, "timestamp": at_s, "labels": {"n": n.to_string()}}]);
        server.post_json("/api/v1/metrics/custom?source_id=selftest", &metric)?;
    }
    server.kill();
    let Some(newest) = wal_files(&copy)?.pop() else {
        rows.not_run("4 one flipped bit", "no wrong value, one record at most", "there is no log file");
        return Ok(());
    };
    let size = newest.metadata().map_or(0, |m| m.len());
    flip(&newest, size / 2).map_err(|e| failed("flip a bit", e))?;
    let server = Child::start(&copy)?;
    let verdict = book.judge(&server)?;
    let told = troubles(&server, "wal_records_damaged")?;
    let found = server.query(FLIP_METRIC, at_s * 1000)?;
    let found = found.as_array().map(Vec::as_slice).unwrap_or_default();
    let wrong = found.iter().filter(|series| series["metric"]["n"] != series["value"][1]).count();
    // One record is one request, and each of these holds one sample.
    let lost = FLIP_SAMPLES.saturating_sub(found.len());
    let good = verdict.is_clean() && wrong == 0 && lost <= 1 && told > 0;
    let seen =
        format!("{lost} of {FLIP_SAMPLES} lost, {wrong} wrong, {told} damaged records told; the rest: {verdict}");
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
