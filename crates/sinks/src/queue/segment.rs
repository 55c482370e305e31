//! A file of the queue: a header, then framed entries.
//!
//! Invariants: 1. a frame's checksum is seeded with the segment's nonce, so that no text of a sender passes for a frame;
//! 2. a damaged payload costs itself: its length is trusted; a damaged frame is skipped by looking for the next one.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes in front of the first frame.
pub const HEADER_BYTES: usize = 32;
/// Bytes of a frame in front of its payload.
pub const FRAME_BYTES: usize = 40;

const MAGIC: [u8; 8] = *b"QUIVERSQ";
const VERSION: u64 = 1;
const FRAME_MAGIC: [u8; 4] = *b"QSNT";

/// Gives the name of the segment whose first entry comes behind `after`. One that is loose comes behind bytes whose sync has
/// failed: it ends with the life that made it.
pub fn file_name(after: u64, loose: bool) -> String {
    format!("{after:020}.{}", if loose { "loose" } else { "queue" })
}

/// Tells whether a name is that of a loose segment.
pub fn is_loose(name: &str) -> bool {
    name.ends_with(".loose")
}

/// Reads a name.
pub fn parse_file_name(name: &str) -> Option<u64> {
    name.strip_suffix(".queue")?.parse().ok()
}

/// Gives the header's bytes.
pub fn header(nonce: u64) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..16].copy_from_slice(&VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&nonce.to_le_bytes());
    let sum = xxh3_64(&out[..24]);
    out[24..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// Gives the nonce; `None` when the header does not check.
pub fn nonce_of(bytes: &[u8]) -> Option<u64> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let good =
        header[..8] == MAGIC && number(&header[8..]) == VERSION && number(&header[24..]) == xxh3_64(&header[..24]);
    good.then(|| number(&header[16..]))
}

/// What a frame says of its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Bytes of the payload.
    pub len: u32,
    /// The record's place in the ledger.
    pub seq: u64,
    /// Samples and histograms in it.
    pub rows: u32,
    sum: u64,
}

impl Frame {
    /// Describes a payload; `None` when it is larger than an entry may be.
    pub fn of(payload: &[u8], seq: u64, rows: usize) -> Option<Frame> {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        Some(Frame { len: u32::try_from(payload.len()).ok()?, seq, rows, sum: xxh3_64(payload) })
    }

    /// Gives the bytes.
    pub fn encode(&self, nonce: u64) -> [u8; FRAME_BYTES] {
        let mut out = [0; FRAME_BYTES];
        out[..4].copy_from_slice(&FRAME_MAGIC);
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.seq.to_le_bytes());
        out[16..20].copy_from_slice(&self.rows.to_le_bytes());
        out[24..32].copy_from_slice(&self.sum.to_le_bytes());
        let sum = xxh3_64_with_seed(&out[..32], nonce);
        out[32..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads the frame at the start of `bytes`; `None` when it does not check.
    pub fn decode(bytes: &[u8], nonce: u64) -> Option<Frame> {
        let bytes: &[u8; FRAME_BYTES] = bytes.first_chunk()?;
        if bytes[..4] != FRAME_MAGIC || number(&bytes[32..]) != xxh3_64_with_seed(&bytes[..32], nonce) {
            return None;
        }
        let small = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Some(Frame { len: small(4), seq: number(&bytes[8..]), rows: small(16), sum: number(&bytes[24..]) })
    }

    /// Tells whether a payload is the one that was framed.
    pub fn fits(&self, payload: &[u8]) -> bool {
        xxh3_64(payload) == self.sum
    }
}

/// Finds the next frame that checks from an offset on.
pub fn next_frame(bytes: &[u8], from: usize, nonce: u64) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.windows(4).position(|w| w == FRAME_MAGIC)?;
        if Frame::decode(&bytes[at..], nonce).is_some() {
            return Some(at);
        }
        at += 1;
    }
}

/// What a walk over the frames of a file finds, from memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Walked {
    /// The last good entry.
    pub last_seq: Option<u64>,
    /// Where the last good entry ends.
    pub end: usize,
    /// Rows of the entries behind the asked place.
    pub rows_after: u64,
}

/// Walks over a whole file; `None` when the header is broken.
pub fn walk(bytes: &[u8], after: u64) -> Option<Walked> {
    let nonce = nonce_of(bytes)?;
    let mut walked = Walked { end: HEADER_BYTES, ..Walked::default() };
    let mut at = HEADER_BYTES;
    while let Some(found) = next_frame(bytes, at, nonce) {
        let Some(frame) = bytes.get(found..).and_then(|b| Frame::decode(b, nonce)) else { break };
        let start = found + FRAME_BYTES;
        let Some(payload) = bytes.get(start..start + frame.len as usize) else {
            at = found + 1;
            continue;
        };
        at = start + payload.len();
        if frame.fits(payload) {
            walked.last_seq = Some(frame.seq);
            walked.end = at;
            if frame.seq > after {
                walked.rows_after += u64::from(frame.rows);
            }
        }
    }
    Some(walked)
}

/// Walks over a file up to the first entry that is not good: behind a hole nothing was synced, and what lies there may
/// have others missing in front of it. But entries up to `secured` were synced, and nobody has them but this file: a hole
/// among them is damage, and they are kept on both of its sides. `None` when the header is broken.
pub fn prefix(bytes: &[u8], secured: u64) -> Option<Walked> {
    let nonce = nonce_of(bytes)?;
    let mut walked = Walked { end: HEADER_BYTES, ..Walked::default() };
    while let Some(at) = next_frame(bytes, walked.end, nonce) {
        let Some(frame) = bytes.get(at..).and_then(|rest| Frame::decode(rest, nonce)) else { break };
        let start = at + FRAME_BYTES;
        let payload = bytes.get(start..start.saturating_add(frame.len as usize));
        let good = payload.is_some_and(|payload| frame.fits(payload));
        // What does not check but says that it was secured is damage: it costs itself.
        if (at != walked.end || !good) && frame.seq > secured {
            break;
        }
        let Some(payload) = payload else { break };
        walked = Walked { last_seq: Some(frame.seq), end: start + payload.len(), rows_after: 0 };
    }
    Some(walked)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(payloads: &[&[u8]]) -> Vec<u8> {
        let mut out = header(7).to_vec();
        for (i, payload) in payloads.iter().enumerate() {
            out.extend_from_slice(&Frame::of(payload, i as u64 + 1, i + 1).unwrap().encode(7));
            out.extend_from_slice(payload);
        }
        out
    }

    #[test]
    fn a_flipped_bit_costs_at_most_its_entry() {
        let bytes = file(&[b"one", b"the QSNT second", b"three"]);
        assert_eq!(walk(&bytes, 1), Some(Walked { last_seq: Some(3), end: bytes.len(), rows_after: 5 }));
        for at in HEADER_BYTES..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            let rows = walk(&bad, 0).unwrap().rows_after;
            assert!((3..6).contains(&rows), "byte {at}: {rows}");
            assert!(prefix(&bad, 0).unwrap().end <= at, "byte {at}: nothing behind damage is taken for synced");
            let secured = prefix(&bad, 3).unwrap();
            assert!(secured.last_seq >= Some(2), "byte {at}: damage among what was secured costs itself: {secured:?}");
            assert!(at >= bytes.len() - 45 || secured.end == bytes.len(), "byte {at}: {secured:?}");
        }
        for len in HEADER_BYTES..bytes.len() {
            assert!(walk(&bytes[..len], 0).unwrap().end <= len);
        }
    }
}
