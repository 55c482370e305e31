//! Rows of `collection_jobs` that wait on disk for a database that is away: one checksummed line of JSON each.
//!
//! Invariants: 1. rows leave in the order in which they came, so that the last word on a job is written last; 2. a row
//! leaves the file after the database has it; after a crash it may be written again, which changes nothing; 3. what finds
//! no room is counted.
//! Limits: [`FILE_BYTES_MAX`], about a week of failures and roll-ups of a thousand targets.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_64;

use crate::CollectionRow;
use crate::collection::RowText;

/// Bytes of waiting rows.
pub const FILE_BYTES_MAX: u64 = 512 << 20;
/// Rows taken at a time.
const PIECE_ROWS_MAX: usize = 500;
/// A row is far shorter; a longer line is damage.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// The file of waiting rows.
pub struct Waiting {
    path: PathBuf,
    file: Option<File>,
    /// Where the next row to write begins.
    start: u64,
    /// Where the next row is appended.
    end: u64,
    limit: u64,
    dropped: u64,
}

/// Rows from the front of the file.
pub struct Piece {
    /// Sound rows.
    pub rows: Vec<CollectionRow>,
    end: u64,
}

impl Waiting {
    /// Opens what an earlier run may have left; nothing is made before the first row waits.
    pub fn open(path: PathBuf) -> io::Result<Waiting> {
        Waiting::open_with(path, FILE_BYTES_MAX)
    }

    fn open_with(path: PathBuf, limit: u64) -> io::Result<Waiting> {
        let end = match std::fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        Ok(Waiting { path, file: None, start: 0, end, limit, dropped: 0 })
    }

    /// Tells whether no row waits.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Gives the bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Counts the rows that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Appends rows; they are on disk when it returns.
    pub fn append(&mut self, rows: &[CollectionRow]) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for row in rows {
            let line = line(row);
            if self.end + (lines.len() + line.len()) as u64 > self.limit {
                self.dropped += 1;
            } else {
                lines.extend_from_slice(&line);
            }
        }
        let end = self.end;
        let file = self.file()?;
        file.seek(SeekFrom::Start(end))?;
        if let Err(error) = file.write_all(&lines).and_then(|()| file.sync_data()) {
            // What came through of it is cut off again.
            let _ = file.set_len(end);
            self.file = None;
            return Err(error);
        }
        self.end += lines.len() as u64;
        Ok(())
    }

    /// Reads rows from the front; they stay until [`Waiting::done`].
    pub fn piece(&mut self) -> io::Result<Piece> {
        let (start, end) = (self.start, self.end);
        let file = self.file()?;
        file.seek(SeekFrom::Start(start))?;
        let mut reader = BufReader::new(file.take(end.saturating_sub(start)));
        let mut piece = Piece { rows: Vec::new(), end: start };
        let mut damaged = 0u64;
        while piece.rows.len() < PIECE_ROWS_MAX {
            let mut bytes = Vec::new();
            let read = (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                break;
            }
            piece.end += read as u64;
            match parse(&bytes) {
                Some(row) => piece.rows.push(row),
                None => damaged += 1,
            }
        }
        if damaged > 0 {
            tracing::warn!(path = %self.path.display(), damaged, "lines that do not check are skipped");
            self.dropped += damaged;
        }
        Ok(piece)
    }

    /// The database has a piece; an empty file gives its room back.
    pub fn done(&mut self, piece: &Piece) -> io::Result<()> {
        self.start = piece.end;
        if self.is_empty() {
            let file = self.file()?;
            file.set_len(0)?;
            file.sync_data()?;
            (self.start, self.end) = (0, 0);
        }
        Ok(())
    }

    fn file(&mut self) -> io::Result<&mut File> {
        match &mut self.file {
            Some(file) => Ok(file),
            none => {
                let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&self.path)?;
                Ok(none.insert(file))
            }
        }
    }
}

fn line(row: &CollectionRow) -> Vec<u8> {
    let json = serde_json::to_vec(&RowText::from(row)).unwrap_or_default();
    let mut out = format!("{:016x} ", xxh3_64(&json)).into_bytes();
    out.extend_from_slice(&json);
    out.push(b'\n');
    out
}

fn parse(line: &[u8]) -> Option<CollectionRow> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, json) = line.split_at_checked(17)?;
    if sum != format!("{:016x} ", xxh3_64(json)).as_bytes() {
        return None;
    }
    serde_json::from_slice::<RowText>(json).ok().map(CollectionRow::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{CollectionMethod, Health};

    fn row(n: i64) -> CollectionRow {
        CollectionRow {
            job_id: format!("job_{n}"),
            target_id: "t".into(),
            source_id: "s".into(),
            method: CollectionMethod::Streaming,
            status: "failed".into(),
            metrics_collected: n,
            collection_duration_ms: 1.5,
            error_details: Some("line\nbreak".into()),
            created_at_ms: 1_750_500_000_000 + n,
            health: Health::Degraded,
            collections: 1,
            samples_stored: n,
            samples_refused: 0,
            window_start_ms: None,
        }
    }

    fn drain(waiting: &mut Waiting) -> Vec<CollectionRow> {
        let mut out = Vec::new();
        while !waiting.is_empty() {
            let piece = waiting.piece().unwrap();
            waiting.done(&piece).unwrap();
            out.extend(piece.rows);
        }
        out
    }

    #[test]
    fn rows_come_back_in_order_and_over_a_restart() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("jobs");
        let rows: Vec<CollectionRow> = (0..1_200).map(row).collect();
        let mut waiting = Waiting::open(path.clone()).unwrap();
        assert!(waiting.is_empty() && !path.exists());
        waiting.append(&rows[..700]).unwrap();
        let first = waiting.piece().unwrap();
        waiting.done(&first).unwrap();
        waiting.append(&rows[700..]).unwrap();
        // A crash: what was written before comes again, the rest with it.
        drop(waiting);
        let mut waiting = Waiting::open(path.clone()).unwrap();
        assert_eq!(drain(&mut waiting), rows);
        assert_eq!((waiting.bytes(), std::fs::metadata(&path).unwrap().len()), (0, 0));
        waiting.append(&rows[..1]).unwrap();
        assert_eq!(drain(&mut waiting), rows[..1]);
    }

    #[test]
    fn damage_costs_a_line_and_a_full_file_counts_what_it_does_not_take() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("jobs");
        let one = line(&row(0)).len() as u64;
        let mut waiting = Waiting::open_with(path.clone(), 3 * one).unwrap();
        waiting.append(&(0..5).map(row).collect::<Vec<_>>()).unwrap();
        assert_eq!((waiting.dropped(), waiting.bytes()), (2, 3 * one));
        drop(waiting);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[one as usize + 30] ^= 1;
        bytes.truncate(bytes.len() - 3);
        std::fs::write(&path, bytes).unwrap();
        let mut waiting = Waiting::open(path).unwrap();
        assert_eq!(drain(&mut waiting), [row(0)]);
        assert_eq!(waiting.dropped(), 2);
    }
}
