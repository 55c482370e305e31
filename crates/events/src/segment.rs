//! One file of the log.
//!
//! Layout: header of 16 bytes (`QVEREVT1`, first sequence number), then frames. A frame is the mark `EVNT`, length (u32),
//! sequence number (u64), XXH3-64 of the 12 bytes before and the payload (u64), payload; all little-endian. A finished
//! segment ends in a trailer of 40 bytes: `EVND` and zero (8), last sequence number, smallest and largest event time,
//! XXH3-64 of the 32 bytes before.
//! A frame that does not check costs itself: reading goes on at the next mark that starts a sound frame.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::CollectionReport;
use xxhash_rust::xxh3::Xxh3;
use xxhash_rust::xxh3::xxh3_64;

use crate::codec::{decode_report, encode_report};
use crate::{Event, EventId};

const MAGIC: &[u8; 8] = b"QVEREVT1";
const FRAME_MARK: &[u8; 4] = b"EVNT";
const TRAILER_MARK: &[u8; 8] = b"EVND\0\0\0\0";
/// Bytes before the first frame.
pub const HEADER_BYTES: u64 = 16;
const FRAME_HEAD_BYTES: usize = 24;
const TRAILER_BYTES: usize = 40;
/// More than any report; a longer frame is damage.
const FRAME_BYTES_MAX: u32 = 512 * 1024;

/// What is known of one segment without reading it.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentInfo {
    /// The file.
    pub path: PathBuf,
    /// Sequence number of its first event, or of the next one while it is empty.
    pub first_seq: u64,
    /// Sequence number of its last event; `first_seq - 1` while it is empty.
    pub last_seq: u64,
    /// Smallest time in an event id; `i64::MAX` while it is empty.
    pub min_ms: i64,
    /// Largest time in an event id; `i64::MIN` while it is empty.
    pub max_ms: i64,
    /// Bytes of header and frames.
    pub bytes: u64,
}

impl SegmentInfo {
    /// Starts an empty segment.
    pub fn new(dir: &Path, first_seq: u64) -> SegmentInfo {
        let path = dir.join(format!("{first_seq:016x}.events"));
        let last_seq = first_seq.saturating_sub(1);
        SegmentInfo { path, first_seq, last_seq, min_ms: i64::MAX, max_ms: i64::MIN, bytes: HEADER_BYTES }
    }

    /// Counts one more event in.
    pub fn note(&mut self, seq: u64, id: &EventId, bytes: u64) {
        let ms = id_time_ms(id);
        self.last_seq = self.last_seq.max(seq);
        self.min_ms = self.min_ms.min(ms);
        self.max_ms = self.max_ms.max(ms);
        self.bytes += bytes;
    }

    /// Gives the trailer that ends it.
    pub fn trailer(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TRAILER_BYTES);
        out.extend_from_slice(TRAILER_MARK);
        out.extend_from_slice(&self.last_seq.to_le_bytes());
        out.extend_from_slice(&self.min_ms.to_le_bytes());
        out.extend_from_slice(&self.max_ms.to_le_bytes());
        out.extend_from_slice(&xxh3_64(&out).to_le_bytes());
        out
    }

    /// Reads what is known of a file: from its trailer if it has a sound one, else from its frames.
    ///
    /// **Gives** the info and the number of bytes that belong to no sound frame.
    pub fn open(path: &Path, first_seq: u64) -> io::Result<(SegmentInfo, u64)> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        if let Some(info) = read_trailer(&mut file, path, first_seq, len)? {
            return Ok((info, 0));
        }
        let mut info = SegmentInfo { path: path.to_owned(), ..SegmentInfo::new(Path::new(""), first_seq) };
        let mut cursor = SegmentCursor::open(path, len)?;
        let mut sound_end = HEADER_BYTES;
        let mut sound = HEADER_BYTES.min(len);
        while let Some(event) = cursor.next()? {
            let frame = cursor.last_frame_bytes;
            info.note(event.seq, &event.id(), frame);
            sound += frame;
            sound_end = cursor.offset;
        }
        info.bytes = sound_end;
        Ok((info, len.saturating_sub(sound)))
    }
}

fn read_trailer(file: &mut File, path: &Path, first_seq: u64, len: u64) -> io::Result<Option<SegmentInfo>> {
    if len < HEADER_BYTES + TRAILER_BYTES as u64 {
        return Ok(None);
    }
    let bytes = len - TRAILER_BYTES as u64;
    file.seek(SeekFrom::Start(bytes))?;
    let mut trailer = [0u8; TRAILER_BYTES];
    file.read_exact(&mut trailer)?;
    let sound = trailer.starts_with(TRAILER_MARK) && u64_at(&trailer, 32) == xxh3_64(&trailer[..32]);
    let (last_seq, min_ms, max_ms) = (u64_at(&trailer, 8), u64_at(&trailer, 16) as i64, u64_at(&trailer, 24) as i64);
    Ok((sound && last_seq >= first_seq).then(|| SegmentInfo {
        path: path.to_owned(),
        first_seq,
        last_seq,
        min_ms,
        max_ms,
        bytes,
    }))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Gives the milliseconds since 1970 in a UUID version 7.
pub fn id_time_ms(id: &EventId) -> i64 {
    id[..6].iter().fold(0i64, |ms, byte| ms << 8 | i64::from(*byte))
}

/// Gives the 16 bytes that start a segment.
pub fn header(first_seq: u64) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&first_seq.to_le_bytes());
    out
}

/// Appends the frame of an event; gives its length.
pub fn put_frame(seq: u64, report: &CollectionReport, out: &mut Vec<u8>) -> u64 {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    encode_report(report, out);
    let len = (out.len() - start - FRAME_HEAD_BYTES) as u32;
    let (head, payload) = out[start..].split_at_mut(FRAME_HEAD_BYTES);
    head[..4].copy_from_slice(FRAME_MARK);
    head[4..8].copy_from_slice(&len.to_le_bytes());
    head[8..16].copy_from_slice(&seq.to_le_bytes());
    let sum = frame_checksum(&head[4..16], payload);
    head[16..].copy_from_slice(&sum.to_le_bytes());
    (out.len() - start) as u64
}

fn frame_checksum(head: &[u8], payload: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.digest()
}

/// Tells what stands at the front of `bytes`.
enum Front {
    Frame {
        event: Event,
        len: usize,
    },
    /// More bytes are needed to tell, up to this many in all.
    Short(usize),
    Damage,
}

fn front(bytes: &[u8]) -> Front {
    let Some(head) = bytes.get(..FRAME_HEAD_BYTES) else {
        return Front::Short(FRAME_HEAD_BYTES);
    };
    let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if !head.starts_with(FRAME_MARK) || len > FRAME_BYTES_MAX {
        return Front::Damage;
    }
    let end = FRAME_HEAD_BYTES + len as usize;
    let Some(payload) = bytes.get(FRAME_HEAD_BYTES..end) else {
        return Front::Short(end);
    };
    if frame_checksum(&head[4..16], payload) != u64_at(head, 16) {
        return Front::Damage;
    }
    match decode_report(payload) {
        Ok(report) => Front::Frame { event: Event { seq: u64_at(head, 8), report: Arc::new(report) }, len: end },
        Err(_) => Front::Damage,
    }
}

/// Walks the sound frames of a segment; more may be appended while it walks.
pub struct SegmentCursor {
    file: File,
    buffer: Vec<u8>,
    at: usize,
    /// Where the next frame is expected.
    pub offset: u64,
    /// Length of the frame that was given last.
    pub last_frame_bytes: u64,
    /// Where to stop: what is behind may be half written.
    pub end: u64,
    read_to: u64,
}

impl SegmentCursor {
    /// Starts at the first frame; reads up to the byte `end`.
    pub fn open(path: &Path, end: u64) -> io::Result<SegmentCursor> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(HEADER_BYTES))?;
        Ok(SegmentCursor {
            file,
            buffer: Vec::new(),
            at: 0,
            offset: HEADER_BYTES,
            last_frame_bytes: 0,
            end,
            read_to: HEADER_BYTES,
        })
    }

    /// Gives the next event; `None` at the end of what is there now.
    pub fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            match front(&self.buffer[self.at..]) {
                Front::Frame { event, len } => {
                    self.advance(len);
                    self.last_frame_bytes = len as u64;
                    return Ok(Some(event));
                }
                Front::Short(needed) => {
                    if !self.fill(needed)? {
                        // Too short for what its length says: a torn tail, or damage in the length of a middle frame.
                        if !self.skip_to_later_mark() {
                            return Ok(None);
                        }
                    }
                }
                Front::Damage => {
                    if !self.skip_to_mark()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn advance(&mut self, n: usize) {
        self.at += n;
        self.offset += n as u64;
    }

    /// Reads on until `needed` bytes are there; `false` when the file ends before.
    fn fill(&mut self, needed: usize) -> io::Result<bool> {
        self.buffer.drain(..self.at);
        self.at = 0;
        while self.buffer.len() < needed {
            let old = self.buffer.len();
            let room = self.end.saturating_sub(self.read_to).min(64 * 1024) as usize;
            self.buffer.resize(old + room, 0);
            let read = self.file.read(&mut self.buffer[old..])?;
            self.buffer.truncate(old + read);
            self.read_to += read as u64;
            if read == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes to the next mark in the file, at least one byte on; `false` when there is none.
    fn skip_to_mark(&mut self) -> io::Result<bool> {
        self.advance(1);
        loop {
            if let Some(found) = find_mark(&self.buffer[self.at..]) {
                self.advance(found);
                return Ok(true);
            }
            // A mark may be cut by the end of the buffer.
            let left = self.buffer.len() - self.at;
            self.advance(left.saturating_sub(FRAME_MARK.len() - 1));
            let left = self.buffer.len() - self.at;
            if !self.fill(left + 1)? {
                return Ok(false);
            }
        }
    }

    /// Goes to a later mark in the bytes at hand; stays where it is when there is none, because more may be appended.
    fn skip_to_later_mark(&mut self) -> bool {
        match self.buffer.get(self.at + 1..).and_then(find_mark) {
            Some(found) => {
                self.advance(found + 1);
                true
            }
            None => false,
        }
    }
}

fn find_mark(bytes: &[u8]) -> Option<usize> {
    bytes.windows(FRAME_MARK.len()).position(|w| w == FRAME_MARK)
}
