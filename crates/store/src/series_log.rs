//! The series log: every definition a second and third time, apart from the write-ahead log.
//!
//! Owns: `series.1.log` and `series.2.log`, equal but for damage.
//! Invariants: 1. a definition that is only here is durable: the log is synced before a segment is cut; 2. a broken
//! entry costs itself, and only if the twin has it broken too.
//! An entry is a frame as in the write-ahead log (see `docs/format/wal.md`) around: id, type, source, target, labels.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;
use model::{Labels, MetricType};
use sys::{File, Fs};

use crate::attrs::SeriesAttrs;
use crate::coding::{Cursor, Malformed, put_bytes, put_varint};
use crate::wal::frame::{Frame, SegmentHeader};
use crate::wal::scan::{Piece, scan};

const NAMES: [&str; 2] = ["series.1.log", "series.2.log"];
/// The log holds label text only, but that is the sender's text too: the nonce keeps forged frames out.
type Known = HashMap<u32, (Labels, SeriesAttrs)>;

/// Both copies, open for appending.
pub struct SeriesLog {
    copies: Vec<Box<dyn File>>,
    nonce: u64,
    entries: u64,
    buffer: Vec<u8>,
}

/// What the copies held.
pub struct Loaded {
    pub known: Known,
    pub max_id: u32,
    /// Sentences about damage.
    pub damaged: Vec<String>,
}

/// Reads both copies; what is missing in one comes from the other.
pub fn load(fs: &dyn Fs, dir: &Path) -> io::Result<Loaded> {
    let mut loaded = Loaded { known: Known::new(), max_id: 0, damaged: Vec::new() };
    for name in NAMES {
        let path = dir.join(name);
        if fs.exists(&path) {
            load_copy(&path, &fs.read(&path)?, &mut loaded);
        }
    }
    Ok(loaded)
}

fn load_copy(path: &Path, bytes: &[u8], loaded: &mut Loaded) {
    let Some((_, pieces)) = scan(bytes) else {
        if !bytes.is_empty() {
            loaded.damaged.push(format!("{}: the header is broken; its twin is used", path.display()));
        }
        return;
    };
    for piece in pieces {
        match piece {
            Piece::Record { payload, .. } => match bytes.get(payload).map(decode_entry) {
                Some(Ok((id, labels, attrs))) => {
                    loaded.max_id = loaded.max_id.max(id);
                    loaded.known.insert(id, (labels, attrs));
                }
                _ => loaded.damaged.push(format!("{}: an entry does not decode", path.display())),
            },
            // The end is torn after any crash, because this file is synced late; the write-ahead log has those entries.
            Piece::Broken { at_end: true, .. } => {}
            Piece::Broken { range, why, .. } => {
                let (from, to) = (range.start, range.end);
                loaded.damaged.push(format!("{}: bytes {from} to {to}: {why}; its twin is used", path.display()));
            }
        }
    }
}

fn decode_entry(payload: &[u8]) -> Result<(u32, Labels, SeriesAttrs), Malformed> {
    let mut cursor = Cursor::new(payload);
    let id = u32::try_from(cursor.varint()?).map_err(|_| Malformed)?;
    let metric_type = MetricType::from_u8(cursor.u8()?);
    let source = Arc::from(cursor.string()?);
    let target_id = Arc::from(cursor.string()?);
    let labels = Labels::from_bytes(cursor.bytes()?).ok_or(Malformed)?;
    Ok((id, labels, SeriesAttrs { metric_type, source, target_id }))
}

impl SeriesLog {
    /// Writes both copies anew with the given series; each copy is replaced in one step, one after the other.
    pub fn rewrite<'a>(
        fs: &dyn Fs,
        dir: &Path,
        nonce: u64,
        series: impl Iterator<Item = (u32, &'a Labels, &'a SeriesAttrs)>,
    ) -> io::Result<SeriesLog> {
        let mut bytes = SegmentHeader { nonce, epoch: 0 }.encode().to_vec();
        let mut entries = 0;
        for (id, labels, attrs) in series {
            put_entry(&mut bytes, nonce, id, labels, attrs);
            entries += 1;
        }
        let mut copies = Vec::new();
        for name in NAMES {
            let (path, temporary): (PathBuf, PathBuf) = (dir.join(name), dir.join(format!("{name}.tmp")));
            let file = fs.create(&temporary)?;
            file.append(&bytes)?;
            file.sync_data()?;
            fs.rename(&temporary, &path)?;
            fs.sync_dir(dir)?;
            copies.push(file);
        }
        Ok(SeriesLog { copies, nonce, entries, buffer: Vec::new() })
    }

    /// Adds an entry; it is written with the next [`SeriesLog::write`].
    pub fn add(&mut self, id: u32, labels: &Labels, attrs: &SeriesAttrs) {
        put_entry(&mut self.buffer, self.nonce, id, labels, attrs);
        self.entries += 1;
    }

    /// Writes the added entries, without making them durable.
    pub fn write(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        for copy in &self.copies {
            copy.append(&self.buffer)?;
        }
        self.buffer.clear();
        Ok(())
    }

    /// Makes all entries durable.
    pub fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        self.copies.iter().try_for_each(|copy| copy.sync_data())
    }

    /// Counts the entries, superseded ones included.
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

fn put_entry(out: &mut Vec<u8>, nonce: u64, id: u32, labels: &Labels, attrs: &SeriesAttrs) {
    let mut payload = Vec::with_capacity(labels.as_bytes().len() + 64);
    put_varint(&mut payload, u64::from(id));
    payload.push(attrs.metric_type as u8);
    put_bytes(&mut payload, attrs.source.as_bytes());
    put_bytes(&mut payload, attrs.target_id.as_bytes());
    put_bytes(&mut payload, labels.as_bytes());
    // Labels are bounded far below the frame's limit.
    if let Some(frame) = Frame::of(&payload, u64::from(id)) {
        out.extend_from_slice(&frame.encode(nonce));
        out.extend_from_slice(&payload);
    }
}
