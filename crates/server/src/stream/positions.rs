//! How far each stream has come.
//!
//! Owns: the table in memory and its file `streams`. Invariants: 1. a frame that is durable is known here, after a crash too: the
//! WAL record of a batch carries its mark, and the file has everything that the log may have lost to a cut; 2. one session at a time
//! moves a stream.
//! Limits: [`STREAMS_MAX`] streams; those that moved longest ago are forgotten first.
//! Fails how: a damaged file is said and set aside; then old frames are told apart by their samples alone.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Counts, StreamMark};
use parking_lot::Mutex;
use sys::Fs;
use xxhash_rust::xxh3::xxh3_64;

/// Streams that are remembered.
pub const STREAMS_MAX: usize = 20_000;
const HEAD: &str = "quiver streams 1";

/// How far one stream is.
#[derive(Clone, Debug)]
struct Position {
    seq: u64,
    used_ms: i64,
    /// What became of the last batch, if it is known.
    counts: Option<Counts>,
    /// Rises with each session that begins.
    session: u64,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The positions of all streams.
pub struct Positions {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    streams: HashMap<String, Position>,
    changed: bool,
    sessions: u64,
}

/// A session's hold on its stream.
pub struct Hold {
    positions: Arc<Positions>,
    stream_id: String,
    session: u64,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Positions {
    /// Reads the file, then what the store's log knows beyond it.
    ///
    /// **Gives** what is wrong with the file, too.
    pub fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        marks: Vec<(StreamMark, Counts)>,
        now_ms: i64,
    ) -> (Positions, Option<String>) {
        let path = dir.join("streams");
        let mut table = Table::default();
        let trouble = match fs.read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(format!("{}: {error}", path.display())),
            Ok(bytes) => match parse(&bytes) {
                Some(streams) => {
                    let entries = streams.into_iter().map(|(id, seq, used_ms)| (id, Position::new(seq, used_ms)));
                    table.streams = entries.collect();
                    None
                }
                None => {
                    Some(format!("{}: it is damaged; how far streams have come is taken from the log", path.display()))
                }
            },
        };
        for (mark, counts) in marks {
            let position = table.streams.entry(mark.stream_id).or_insert_with(|| Position::new(0, now_ms));
            if mark.seq >= position.seq {
                (position.seq, position.counts, position.used_ms) = (mark.seq, Some(counts), now_ms);
                table.changed = true;
            }
        }
        (Positions { fs, path, table: Mutex::new(table) }, trouble)
    }

    /// Begins a session; an earlier one of the same stream ends with the batch that it is at.
    pub fn begin(self: &Arc<Positions>, stream_id: &str, now_ms: i64) -> Hold {
        let mut table = self.table.lock();
        table.sessions += 1;
        let session = table.sessions;
        table.make_room(stream_id);
        let position = table.streams.entry(stream_id.to_owned()).or_insert_with(|| Position::new(0, now_ms));
        position.session = session;
        position.used_ms = now_ms;
        Hold { positions: self.clone(), stream_id: stream_id.to_owned(), session, turn: position.turn.clone() }
    }

    /// Gives how far a stream is and what became of its last batch.
    pub fn last(&self, stream_id: &str) -> (u64, Option<Counts>) {
        let table = self.table.lock();
        table.streams.get(stream_id).map_or((0, None), |p| (p.seq, p.counts))
    }

    /// Notes a batch that is durable.
    pub fn note(&self, mark: &StreamMark, counts: Counts, now_ms: i64) {
        let mut table = self.table.lock();
        table.changed = true;
        table.make_room(&mark.stream_id);
        let position = table.streams.entry(mark.stream_id.clone()).or_insert_with(|| Position::new(0, now_ms));
        position.seq = position.seq.max(mark.seq);
        position.counts = Some(counts);
        position.used_ms = now_ms;
    }

    /// Forgets a stream that will not go on.
    pub fn forget(&self, stream_id: &str) {
        let mut table = self.table.lock();
        table.changed |= table.streams.remove(stream_id).is_some();
    }

    /// Writes the file if anything has changed. Blocks. The store's log must not be cut before.
    pub fn save(&self) -> io::Result<()> {
        let text = {
            let mut table = self.table.lock();
            if !table.changed {
                return Ok(());
            }
            table.changed = false;
            table.print()
        };
        let written = self.write(text.as_bytes());
        if written.is_err() {
            self.table.lock().changed = true;
        }
        written
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.path.with_extension("tmp");
        let file = self.fs.create(&temporary)?;
        file.append(bytes)?;
        file.sync_data()?;
        drop(file);
        self.fs.rename(&temporary, &self.path)?;
        self.fs.sync_dir(self.path.parent().unwrap_or(Path::new(".")))
    }
}

impl Position {
    fn new(seq: u64, used_ms: i64) -> Position {
        Position { seq, used_ms, counts: None, session: 0, turn: Arc::default() }
    }
}

impl Table {
    fn make_room(&mut self, stream_id: &str) {
        if self.streams.len() < STREAMS_MAX || self.streams.contains_key(stream_id) {
            return;
        }
        // Seldom, so that looking at all is cheap enough: a sixteenth goes at once.
        let mut ages: Vec<i64> = self.streams.values().map(|p| p.used_ms).collect();
        let cut = STREAMS_MAX / 16;
        let (_, limit, _) = ages.select_nth_unstable(cut);
        let (limit, mut left) = (*limit, cut);
        self.streams.retain(|_, p| {
            let goes = left > 0 && p.used_ms <= limit && Arc::strong_count(&p.turn) == 1;
            left -= usize::from(goes);
            !goes
        });
    }

    fn print(&self) -> String {
        let mut body = String::new();
        for (id, position) in &self.streams {
            body.push_str(&format!("{} {} {id}\n", position.seq, position.used_ms));
        }
        format!("{HEAD} {:016x}\n{body}", xxh3_64(body.as_bytes()))
    }
}

fn parse(bytes: &[u8]) -> Option<Vec<(String, u64, i64)>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once('\n')?;
    let hash = u64::from_str_radix(head.strip_prefix(HEAD)?.trim(), 16).ok()?;
    if hash != xxh3_64(body.as_bytes()) {
        return None;
    }
    let entry = |line: &str| {
        let mut parts = line.splitn(3, ' ');
        let (seq, used_ms) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some((parts.next()?.to_owned(), seq, used_ms))
    };
    body.lines().map(entry).collect()
}

impl Hold {
    /// Gives the stream.
    pub fn stream_id(&self) -> &str {
        &self.stream_id
    }

    /// Waits for the batch that an earlier session is at; `None` when a later session has begun.
    pub async fn turn(&self) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        let guard = self.turn.clone().lock_owned().await;
        let table = self.positions.table.lock();
        let current = table.streams.get(&self.stream_id).is_some_and(|p| p.session == self.session);
        drop(table);
        current.then_some(guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::RealFs;

    fn open(dir: &Path, marks: Vec<(StreamMark, Counts)>) -> (Arc<Positions>, Option<String>) {
        let (positions, trouble) = Positions::open(Arc::new(RealFs), dir, marks, 5);
        (Arc::new(positions), trouble)
    }

    fn mark(stream_id: &str, seq: u64) -> StreamMark {
        StreamMark { stream_id: stream_id.to_owned(), seq }
    }

    #[test]
    fn positions_come_from_the_file_and_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let (positions, _) = open(dir.path(), Vec::new());
        positions.note(&mark("a", 7), Counts::default(), 1);
        positions.note(&mark("b", 2), Counts::default(), 1);
        positions.save().unwrap();
        positions.note(&mark("b", 3), Counts::default(), 1);
        let stored = Counts { received: 4, stored: 4, ..Counts::default() };
        let (positions, trouble) =
            open(dir.path(), vec![(mark("b", 9), stored), (mark("c", 1), stored), (mark("a", 6), stored)]);
        assert_eq!(trouble, None);
        assert_eq!(["a", "b", "c", "d"].map(|id| positions.last(id).0), [7, 9, 1, 0]);
        assert_eq!(positions.last("b").1.map(|c| c.stored), Some(4));
        positions.forget("c");
        assert_eq!(positions.last("c").0, 0);
    }

    #[test]
    fn a_damaged_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (positions, _) = open(dir.path(), Vec::new());
        positions.note(&mark("a", 7), Counts::default(), 1);
        positions.save().unwrap();
        let path = dir.path().join("streams");
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (positions, trouble) = open(dir.path(), vec![(mark("a", 3), Counts::default())]);
        assert!(trouble.unwrap().contains("damaged"));
        assert_eq!(positions.last("a").0, 3);
    }

    #[tokio::test]
    async fn a_later_session_takes_over() {
        let dir = tempfile::tempdir().unwrap();
        let (positions, _) = open(dir.path(), Vec::new());
        let first = positions.begin("s", 0);
        let turn = first.turn().await.unwrap();
        let second = positions.begin("s", 0);
        let mut waiting = Box::pin(second.turn());
        assert!(futures_util::poll!(&mut waiting).is_pending(), "the batch under way is done first");
        drop(turn);
        assert!(waiting.await.is_some());
        assert!(first.turn().await.is_none());
    }

    #[test]
    fn the_oldest_streams_are_forgotten_first() {
        let dir = tempfile::tempdir().unwrap();
        let (positions, _) = open(dir.path(), Vec::new());
        for i in 0..STREAMS_MAX as i64 {
            positions.note(&mark(&format!("s{i}"), 1), Counts::default(), i);
        }
        positions.note(&mark("new", 1), Counts::default(), 1 << 40);
        let len = positions.table.lock().streams.len();
        assert!(len < STREAMS_MAX && len > STREAMS_MAX / 2, "{len}");
        assert_eq!((positions.last("s0").0, positions.last("new").0), (0, 1));
    }
}
