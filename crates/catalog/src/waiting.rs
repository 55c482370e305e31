//! Rows of `collection_jobs` that wait on disk for a database that is away, as lines of [`crate::lines`].
//!
//! Invariants: 1. rows leave in the order in which they came, so that the last word on a job is written last; 2. a row
//! leaves the file after the database has it; after a crash it may be written again, which changes nothing; 3. what finds
//! no room is counted, once.
//! Limits: [`FILE_BYTES_MAX`], about a week of failures and roll-ups of a thousand targets.

use std::io;
use std::path::PathBuf;

use crate::CollectionRow;
use crate::collection::RowText;
use crate::lines::{LineFile, line};

/// Bytes of waiting rows.
pub const FILE_BYTES_MAX: u64 = 512 << 20;
/// Rows taken at a time.
const PIECE_ROWS_MAX: usize = 500;
/// A row is far shorter; a longer line is damage.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// The file of waiting rows.
pub struct Waiting {
    file: LineFile,
    /// Where the next row to write begins.
    start: u64,
    /// Where the last row ends.
    end: u64,
    limit: u64,
    dropped: u64,
}

/// Rows from the front of the file.
pub struct Piece {
    /// Sound rows.
    pub rows: Vec<CollectionRow>,
    damaged: u64,
    end: u64,
}

impl Waiting {
    /// Opens what an earlier run may have left; nothing is made before the first row waits.
    pub fn open(path: PathBuf) -> io::Result<Waiting> {
        Waiting::open_with(path, FILE_BYTES_MAX)
    }

    fn open_with(path: PathBuf, limit: u64) -> io::Result<Waiting> {
        let file = LineFile::at(path);
        let end = file.bytes()?;
        Ok(Waiting { file, start: 0, end, limit, dropped: 0 })
    }

    /// Tells whether no row waits.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Gives the bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Counts the rows that found no room or were damaged.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Appends rows; they are on disk when it returns.
    ///
    /// **Errors** mean that none of them waits here, and none was counted.
    pub fn append(&mut self, rows: &[CollectionRow]) -> io::Result<()> {
        let (mut lines, mut dropped) = (Vec::new(), 0);
        for row in rows {
            let line = line(&RowText::from(row));
            if self.end + (lines.len() + line.len()) as u64 > self.limit {
                dropped += 1;
            } else {
                lines.extend_from_slice(&line);
            }
        }
        if !lines.is_empty() {
            self.end = self.file.append(&lines)?;
        }
        self.dropped += dropped;
        Ok(())
    }

    /// Reads rows from the front; they stay until [`Waiting::done`].
    pub fn piece(&self) -> io::Result<Piece> {
        let mut lines = self.file.read(self.start, self.end, LINE_BYTES_MAX)?;
        let mut piece = Piece { rows: Vec::new(), damaged: 0, end: self.start };
        while piece.rows.len() < PIECE_ROWS_MAX {
            let Some((row, bytes)) = lines.next::<RowText>()? else {
                // Somebody may have cut the file.
                piece.end = self.end;
                break;
            };
            piece.end += bytes;
            match row {
                Some(row) => piece.rows.push(row.into()),
                None => piece.damaged += 1,
            }
        }
        Ok(piece)
    }

    /// The database has a piece; an empty file gives its room back.
    pub fn done(&mut self, piece: &Piece) -> io::Result<()> {
        if piece.damaged > 0 {
            let damaged = piece.damaged;
            tracing::warn!(path = %self.file.path().display(), damaged, "lines that do not check are skipped");
            self.dropped += damaged;
        }
        self.start = piece.end;
        if self.is_empty() {
            self.file.clear()?;
            (self.start, self.end) = (0, 0);
        }
        Ok(())
    }
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
        let one = line(&RowText::from(&row(0))).len() as u64;
        let mut waiting = Waiting::open_with(path.clone(), 3 * one).unwrap();
        waiting.append(&(0..5).map(row).collect::<Vec<_>>()).unwrap();
        assert_eq!((waiting.dropped(), waiting.bytes()), (2, 3 * one));
        drop(waiting);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[one as usize + 30] ^= 1;
        bytes.truncate(bytes.len() - 3);
        std::fs::write(&path, bytes).unwrap();
        let mut waiting = Waiting::open(path).unwrap();
        // A database that does not take them reads them again and again: damage counts once.
        assert_eq!((waiting.piece().unwrap().rows, waiting.dropped()), (vec![row(0)], 0));
        waiting.append(&[row(7)]).unwrap();
        assert_eq!(drain(&mut waiting), [row(0), row(7)], "what broke off takes no other line with it");
        assert_eq!(waiting.dropped(), 2);
    }
}
