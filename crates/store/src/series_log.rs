//! The series log: every definition a second and third time, apart from the write-ahead log.
//!
//! Owns: `series.1.log` and `series.2.log`, equal but for damage.
//! Invariants: 1. a definition that is only here is durable: the log is synced before a segment is cut; 2. a broken
//! entry costs itself, and only if the twin has it broken too; 3. an entry that one copy did not take is given to that
//! copy again, and to no other.
//! Limits: [`WAITING_BYTES_MAX`] wait for a copy that fails; beyond that the log counts as incomplete until it is
//! written anew.
//! An entry is a frame as in the write-ahead log (see `docs/format/wal.md`) around: id, type, source, target, labels.

use std::io;
use std::path::{Path, PathBuf};

use model::{Labels, MetricType};
use sys::{File, Fs};

use crate::attrs::SeriesAttrs;
use crate::coding::{Cursor, Malformed, put_bytes, put_varint, replace_file};
use crate::wal::frame::{FRAME_BYTES, Frame, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::wal::scan::{Piece, scan};

const NAMES: [&str; 2] = ["series.1.log", "series.2.log"];
/// Bytes that wait while a copy cannot be written.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// How much is read at once; no entry is as large.
const READ_BYTES: usize = 1 << 20;

/// Both copies, open for appending.
pub struct SeriesLog {
    copies: Vec<Copy>,
    /// The log holds label text only, but that is the sender's text too: the nonce keeps forged frames out.
    nonce: u64,
    entries: u64,
    buffer: Vec<u8>,
    /// More waited than there was room for: only writing the log anew helps.
    incomplete: bool,
}

struct Copy {
    file: Box<dyn File>,
    /// How much of the buffer this copy has already.
    taken: usize,
}

/// A definition as it stands in the log.
pub struct Entry<'a> {
    pub id: u32,
    pub metric_type: MetricType,
    pub source: &'a str,
    pub target_id: &'a str,
    pub labels: Labels,
}

/// What is known of the copies after they were read.
#[derive(Default)]
pub struct Loaded {
    pub max_id: u32,
    /// Entries, superseded ones included.
    pub entries: u64,
    /// The nonce of two copies that can be gone on with.
    pub sound: Option<u64>,
    /// Sentences about damage.
    pub damaged: Vec<String>,
}

/// Gives all definitions in the order in which they came; later ones supersede earlier ones. What is missing in one copy
/// comes from the other, and then some come twice.
///
/// **Cost** one copy is read when it is sound and as long as the other.
pub fn load(fs: &dyn Fs, dir: &Path, act: &mut dyn FnMut(Entry)) -> io::Result<Loaded> {
    let paths = NAMES.map(|name| dir.join(name));
    if let Some(loaded) = load_sound(fs, &paths, act)? {
        return Ok(loaded);
    }
    let mut loaded = Loaded::default();
    for path in paths {
        if fs.exists(&path) {
            load_copy(&path, &fs.read(&path)?, &mut loaded, act);
        }
    }
    Ok(loaded)
}

/// Reads the first copy a piece at a time; `None` when anything about the two is not as it should be.
fn load_sound(fs: &dyn Fs, paths: &[PathBuf; 2], act: &mut dyn FnMut(Entry)) -> io::Result<Option<Loaded>> {
    if !paths.iter().all(|path| fs.exists(path)) {
        return Ok(None);
    }
    let (first, second) = (fs.open(&paths[0])?, fs.open(&paths[1])?);
    let mut headers = [[0; SEGMENT_HEADER_BYTES]; 2];
    first.read_at(&mut headers[0], 0)?;
    second.read_at(&mut headers[1], 0)?;
    let Some(header) = SegmentHeader::decode(&headers[0]) else { return Ok(None) };
    if first.len()? != second.len()? || headers.iter().any(|bytes| *bytes != header.encode()) {
        return Ok(None);
    }
    let mut loaded = Loaded { sound: Some(header.nonce), ..Loaded::default() };
    let whole = frames(&*first, header.nonce, &mut |payload| match decode_entry(payload) {
        Ok(entry) => {
            loaded.max_id = loaded.max_id.max(entry.id);
            loaded.entries += 1;
            act(entry);
            true
        }
        Err(Malformed) => false,
    })?;
    Ok(whole.then_some(loaded))
}

/// Gives the payloads of a file of frames to `act`; `false` when not all of the file is frames that check and that `act`
/// takes.
fn frames(file: &dyn File, nonce: u64, act: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<bool> {
    let len = file.len()?;
    let (mut buffer, mut held, mut at) = (vec![0; READ_BYTES], 0, SEGMENT_HEADER_BYTES as u64);
    loop {
        let read = file.read_at(&mut buffer[held..], at)?;
        at += read as u64;
        held += read;
        let mut done = 0;
        while let Some(frame) = Frame::decode(&buffer[done..held], nonce) {
            let start = done + FRAME_BYTES;
            let Some(payload) = buffer.get(start..start + frame.len as usize).filter(|p| start + p.len() <= held)
            else {
                break;
            };
            if !frame.fits(payload) || !act(payload) {
                return Ok(false);
            }
            done = start + payload.len();
        }
        if done == 0 || read == 0 {
            // No progress: the end, or a frame that is broken or larger than any entry.
            return Ok(held == 0 || (done == held && at == len));
        }
        buffer.copy_within(done..held, 0);
        held -= done;
        if held == 0 && at == len {
            return Ok(true);
        }
    }
}

/// Tells whether the second copy is wholly sound too; a start does not wait for that.
pub fn second_is_sound(fs: &dyn Fs, dir: &Path, nonce: u64) -> io::Result<bool> {
    let file = fs.open(&dir.join(NAMES[1]))?;
    let end = file.len()?;
    let mut seen = SEGMENT_HEADER_BYTES as u64;
    let whole = frames(&*file, nonce, &mut |payload| {
        seen += (FRAME_BYTES + payload.len()) as u64;
        true
    })?;
    // It may have grown meanwhile.
    Ok(whole || seen >= end)
}

fn load_copy(path: &Path, bytes: &[u8], loaded: &mut Loaded, act: &mut dyn FnMut(Entry)) {
    let Some((_, pieces)) = scan(bytes) else {
        if !bytes.is_empty() {
            loaded.damaged.push(format!("{}: the header is broken; its twin is used", path.display()));
        }
        return;
    };
    for piece in pieces {
        match piece {
            Piece::Record { payload, .. } => match bytes.get(payload).map(decode_entry) {
                Some(Ok(entry)) => {
                    loaded.max_id = loaded.max_id.max(entry.id);
                    loaded.entries += 1;
                    act(entry);
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

fn decode_entry(payload: &[u8]) -> Result<Entry<'_>, Malformed> {
    let mut cursor = Cursor::new(payload);
    let id = u32::try_from(cursor.varint()?).map_err(|_| Malformed)?;
    let metric_type = MetricType::from_u8(cursor.u8()?);
    let mut text = || std::str::from_utf8(cursor.bytes()?).map_err(|_| Malformed);
    let (source, target_id) = (text()?, text()?);
    let labels = Labels::from_bytes(cursor.bytes()?).ok_or(Malformed)?;
    Ok(Entry { id, metric_type, source, target_id, labels })
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
            copies.push(Copy { file: replace_file(fs, &path, &temporary, &bytes)?, taken: 0 });
        }
        Ok(SeriesLog { copies, nonce, entries, buffer: Vec::new(), incomplete: false })
    }

    /// Goes on with two copies that [`load`] found sound.
    pub fn open(fs: &dyn Fs, dir: &Path, nonce: u64, entries: u64) -> io::Result<SeriesLog> {
        let mut copies = Vec::new();
        for name in NAMES {
            copies.push(Copy { file: fs.open(&dir.join(name))?, taken: 0 });
        }
        Ok(SeriesLog { copies, nonce, entries, buffer: Vec::new(), incomplete: false })
    }

    /// Adds an entry; it is written with the next [`SeriesLog::write`].
    pub fn add(&mut self, id: u32, labels: &Labels, attrs: &SeriesAttrs) {
        if self.buffer.len() >= WAITING_BYTES_MAX {
            self.incomplete = true;
            return;
        }
        put_entry(&mut self.buffer, self.nonce, id, labels, attrs);
        self.entries += 1;
    }

    /// Writes the added entries, without making them durable.
    ///
    /// **Errors** leave what a copy did not take for the next try.
    pub fn write(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for copy in &mut self.copies {
            let rest = self.buffer.get(copy.taken..).unwrap_or_default();
            if rest.is_empty() {
                continue;
            }
            match copy.file.append(rest) {
                Ok(_) => copy.taken = self.buffer.len(),
                Err(error) => result = Err(error),
            }
        }
        if result.is_ok() {
            self.buffer.clear();
            self.copies.iter_mut().for_each(|copy| copy.taken = 0);
        }
        result
    }

    /// Makes all entries durable.
    ///
    /// **Errors** mean that the log has to be written anew before anything may rely on it.
    pub fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        if self.incomplete {
            return Err(io::Error::other("more definitions waited for the disk than there was room for"));
        }
        self.copies.iter().try_for_each(|copy| copy.file.sync_data())
    }

    /// Gives what seeds the checksums of its frames.
    pub fn nonce(&self) -> u64 {
        self.nonce
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

#[cfg(test)]
mod tests {
    use super::*;
    use sys::{Fault, SimFs};

    const ENOSPC: i32 = 28;

    fn attrs() -> SeriesAttrs {
        SeriesAttrs { metric_type: MetricType::Gauge, source: "s".into(), target_id: "t".into() }
    }

    fn labels(n: u32) -> Labels {
        Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())])
    }

    fn frames(fs: &SimFs, name: &str) -> Vec<u64> {
        let bytes = fs.read(&Path::new("/").join(name)).unwrap();
        let pieces = scan(&bytes).unwrap().1;
        let seq = |piece: &Piece| match piece {
            Piece::Record { seq, .. } => *seq,
            Piece::Broken { why, .. } => panic!("{name}: {why}"),
        };
        pieces.iter().map(seq).collect()
    }

    /// The ids in the log, each once.
    fn ids(fs: &SimFs) -> (Vec<u32>, Loaded) {
        let mut ids = Vec::new();
        let loaded = load(fs, Path::new("/"), &mut |entry| {
            assert_eq!(entry.labels, labels(entry.id));
            ids.push(entry.id);
        });
        ids.sort_unstable();
        ids.dedup();
        (ids, loaded.unwrap())
    }

    #[test]
    fn any_flipped_byte_costs_nothing_and_sound_copies_are_gone_on_with() {
        let (fs, attrs) = (SimFs::seeded(1), attrs());
        let mut log = SeriesLog::rewrite(&fs, Path::new("/"), 7, [].into_iter()).unwrap();
        assert!(ids(&fs).1.sound.is_some());
        (1..4).for_each(|id| log.add(id, &labels(id), &attrs));
        log.sync().unwrap();
        let (found, loaded) = ids(&fs);
        assert_eq!((found, loaded.sound, loaded.entries, loaded.max_id), (vec![1, 2, 3], Some(7), 3, 3));
        let mut log = SeriesLog::open(&fs, Path::new("/"), 7, 3).unwrap();
        log.add(4, &labels(4), &attrs);
        log.sync().unwrap();
        assert_eq!(ids(&fs).0, [1, 2, 3, 4]);
        assert!(second_is_sound(&fs, Path::new("/"), 7).unwrap());
        for name in NAMES {
            let path = Path::new("/").join(name);
            for at in 0..fs.read(&path).unwrap().len() {
                let copy = fs.fork(at as u64);
                copy.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8)).unwrap();
                let (found, loaded) = ids(&copy);
                assert_eq!(found, [1, 2, 3, 4], "{name} byte {at}");
                let noticed = match loaded.sound {
                    Some(nonce) => !second_is_sound(&copy, Path::new("/"), nonce).unwrap(),
                    None => true,
                };
                assert!(noticed, "{name} byte {at}");
                copy.damage(&path, |bytes| bytes.truncate(at)).unwrap();
                assert_eq!(ids(&copy).0, [1, 2, 3, 4], "{name} cut at {at}");
            }
        }
    }

    #[test]
    fn a_copy_that_failed_gets_what_it_missed_and_the_other_nothing_twice() {
        for failing in 0..2 {
            let (fs, attrs) = (SimFs::seeded(failing), attrs());
            let mut log = SeriesLog::rewrite(&fs, Path::new("/"), 7, [].into_iter()).unwrap();
            log.add(1, &labels(1), &attrs);
            log.write().unwrap();
            log.add(2, &labels(2), &attrs);
            fs.inject(Fault::Append { after: failing, errno: ENOSPC });
            assert!(log.write().is_err());
            log.add(3, &labels(3), &attrs);
            log.sync().unwrap();
            for name in NAMES {
                assert_eq!(frames(&fs, name), [1, 2, 3], "{name}, failed {failing}");
            }
            log.write().unwrap();
            assert_eq!(ids(&fs).0, [1, 2, 3]);
        }
    }

    #[test]
    fn a_rewrite_that_fails_leaves_no_file_behind_and_the_old_log_as_it_was() {
        let attrs = attrs();
        let all: Vec<(u32, Labels)> = (1..4).map(|n| (n, labels(n))).collect();
        let entries = || all.iter().map(|(id, labels)| (*id, labels, &attrs));
        for fault in 0..4 {
            let fs = SimFs::seeded(fault);
            SeriesLog::rewrite(&fs, Path::new("/"), 7, entries()).unwrap();
            match fault % 2 {
                0 => fs.inject(Fault::Append { after: fault / 2, errno: ENOSPC }),
                _ => fs.inject(Fault::Sync { after: fault / 2 }),
            }
            assert!(SeriesLog::rewrite(&fs, Path::new("/"), 8, entries()).is_err());
            assert_eq!(fs.list(Path::new("/")).unwrap(), NAMES, "fault {fault}");
            let (ids, loaded) = ids(&fs);
            assert!(ids == [1, 2, 3] && loaded.damaged.is_empty(), "fault {fault}");
        }
    }

    #[test]
    fn what_waits_is_bounded_and_the_log_says_that_it_misses_something() {
        let (fs, attrs) = (SimFs::seeded(1), attrs());
        let mut log = SeriesLog::rewrite(&fs, Path::new("/"), 7, [].into_iter()).unwrap();
        fs.set_capacity_bytes(Some(0));
        let long = Labels::from_pairs([("__name__", "m".repeat(4096))]);
        for id in 0..8192 {
            log.add(id, &long, &attrs);
        }
        assert!(log.write().is_err() && log.buffer.len() < WAITING_BYTES_MAX + 8192);
        fs.set_capacity_bytes(None);
        log.write().unwrap();
        assert!(log.sync().is_err(), "it is to be written anew");
    }
}
