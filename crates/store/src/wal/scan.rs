//! The walk over a segment's bytes: records, and what lies broken between them.

use std::ops::Range;

use super::frame::{FRAME_BYTES, FRAME_MAGIC, Frame, SEGMENT_HEADER_BYTES, SegmentHeader};

/// What the walk meets.
#[derive(Clone, PartialEq, Debug)]
pub enum Piece {
    /// A record whose checksums agree; the range is its payload.
    Record { seq: u64, payload: Range<usize> },
    /// Bytes that are no record. `at_end` when nothing good follows in this segment.
    Broken { range: Range<usize>, why: &'static str, at_end: bool },
}

/// Walks over a segment; `None` when both copies of its header are broken.
pub fn scan(bytes: &[u8]) -> Option<(SegmentHeader, Vec<Piece>)> {
    let header = SegmentHeader::decode(bytes)?;
    let mut pieces = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES.min(bytes.len());
    while at < bytes.len() {
        let (piece, next) = step(bytes, at, header.nonce);
        pieces.push(piece);
        at = next;
    }
    Some((header, pieces))
}

fn step(bytes: &[u8], at: usize, nonce: u64) -> (Piece, usize) {
    let broken = |end: usize, why| (Piece::Broken { range: at..end, why, at_end: end == bytes.len() }, end);
    let Some(frame) = Frame::decode(&bytes[at..], nonce) else {
        return broken(next_frame(bytes, at + 1, nonce), "the frame's checksum disagrees");
    };
    let start = at + FRAME_BYTES;
    match bytes.get(start..start + frame.len as usize) {
        None => broken(next_frame(bytes, at + 1, nonce), "the record is longer than the file"),
        Some(payload) if frame.fits(payload) => {
            (Piece::Record { seq: frame.seq, payload: start..start + payload.len() }, start + payload.len())
        }
        Some(payload) => broken(start + payload.len(), "the record's checksum disagrees"),
    }
}

/// Finds the next frame that checks, or the end.
fn next_frame(bytes: &[u8], from: usize, nonce: u64) -> usize {
    let mut at = from.min(bytes.len());
    while let Some(offset) = bytes[at..].windows(4).position(|w| w == FRAME_MAGIC) {
        at += offset;
        if Frame::decode(&bytes[at..], nonce).is_some() {
            return at;
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(payloads: &[&[u8]]) -> Vec<u8> {
        let header = SegmentHeader { nonce: 77, epoch: 1 };
        let mut out = header.encode().to_vec();
        for (seq, payload) in payloads.iter().enumerate() {
            out.extend_from_slice(&Frame::of(payload, seq as u64 + 1).unwrap().encode(77));
            out.extend_from_slice(payload);
        }
        out
    }

    fn seqs(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let Some((_, pieces)) = scan(bytes) else { return vec![] };
        pieces
            .into_iter()
            .filter_map(|p| match p {
                Piece::Record { seq, payload } => Some((seq, bytes[payload].to_vec())),
                Piece::Broken { .. } => None,
            })
            .collect()
    }

    #[test]
    fn any_flipped_bit_costs_at_most_its_record_and_never_changes_another() {
        let bytes = segment(&[b"one", b"the second record QREC", b"3"]);
        let whole = seqs(&bytes);
        assert_eq!(whole.len(), 3);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                let got = seqs(&bad);
                assert!(got.len() >= 2, "byte {at} bit {bit} cost more than one record");
                assert!(got.iter().all(|r| whole.contains(r)), "byte {at} bit {bit} made a record up");
            }
        }
    }

    #[test]
    fn any_cut_costs_only_what_is_cut_off() {
        let bytes = segment(&[b"one", b"two"]);
        for len in SEGMENT_HEADER_BYTES..bytes.len() {
            let whole = usize::from(len >= SEGMENT_HEADER_BYTES + FRAME_BYTES + 3);
            assert_eq!(seqs(&bytes[..len]).len(), whole);
        }
    }

    #[test]
    fn a_frame_inside_a_payload_is_not_a_frame() {
        let forged = Frame::of(b"evil", 9).unwrap().encode(0);
        let mut bytes = segment(&[&[&forged[..], b"evil"].concat(), b"two"]);
        bytes[SEGMENT_HEADER_BYTES + 5] ^= 0xff;
        assert_eq!(seqs(&bytes), [(2, b"two".to_vec())]);
    }
}
