//! The frame around a record, and the header of a segment.
//!
//! Invariants: 1. a header's checksum is seeded with the segment's nonce, so that bytes inside a payload never pass
//! for a frame, whoever chose them; 2. a damaged payload leaves its length trusted, a damaged header is skipped by
//! looking for the next header that checks.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes of a frame in front of its payload.
pub const FRAME_BYTES: usize = 32;
/// Bytes in front of the first record: the segment header, twice.
pub const SEGMENT_HEADER_BYTES: usize = 2 * HEADER_COPY_BYTES;

pub const FRAME_MAGIC: [u8; 4] = *b"QREC";
const HEADER_COPY_BYTES: usize = 40;
const SEGMENT_MAGIC: [u8; 8] = *b"QUIVERWL";
const VERSION: u32 = 1;

/// What a frame says about its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    pub len: u32,
    pub seq: u64,
    pub payload_sum: u64,
}

impl Frame {
    /// Describes a payload; `None` when it is larger than a record may be.
    pub fn of(payload: &[u8], seq: u64) -> Option<Frame> {
        Some(Frame { len: u32::try_from(payload.len()).ok()?, seq, payload_sum: xxh3_64(payload) })
    }

    /// Gives the bytes.
    pub fn encode(&self, nonce: u64) -> [u8; FRAME_BYTES] {
        let mut out = [0; FRAME_BYTES];
        out[..4].copy_from_slice(&FRAME_MAGIC);
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.seq.to_le_bytes());
        out[16..24].copy_from_slice(&self.payload_sum.to_le_bytes());
        let sum = xxh3_64_with_seed(&out[..24], nonce);
        out[24..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads the frame at the start of `bytes`; `None` when it does not check.
    pub fn decode(bytes: &[u8], nonce: u64) -> Option<Frame> {
        let bytes: &[u8; FRAME_BYTES] = bytes.first_chunk()?;
        if bytes[..4] != FRAME_MAGIC || number(&bytes[24..]) != xxh3_64_with_seed(&bytes[..24], nonce) {
            return None;
        }
        let len = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        Some(Frame { len, seq: number(&bytes[8..16]), payload_sum: number(&bytes[16..24]) })
    }

    /// Tells whether a payload is the one that was framed.
    pub fn fits(&self, payload: &[u8]) -> bool {
        payload.len() == self.len as usize && xxh3_64(payload) == self.payload_sum
    }
}

/// What a segment says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub nonce: u64,
    pub epoch: u64,
}

impl SegmentHeader {
    /// Gives the bytes, both copies.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut copy = [0; HEADER_COPY_BYTES];
        copy[..8].copy_from_slice(&SEGMENT_MAGIC);
        copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
        copy[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        copy[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        let sum = xxh3_64(&copy[..32]);
        copy[32..].copy_from_slice(&sum.to_le_bytes());
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[..HEADER_COPY_BYTES].copy_from_slice(&copy);
        out[HEADER_COPY_BYTES..].copy_from_slice(&copy);
        out
    }

    /// Reads whichever copy checks.
    pub fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        bytes.chunks_exact(HEADER_COPY_BYTES).take(2).find_map(|copy| {
            let good = copy[..8] == SEGMENT_MAGIC
                && copy[8..12] == VERSION.to_le_bytes()
                && number(&copy[32..]) == xxh3_64(&copy[..32]);
            good.then(|| SegmentHeader { nonce: number(&copy[16..24]), epoch: number(&copy[24..32]) })
        })
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
}
