//! Bodies, bounded while they grow.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use crate::outcome::{ScrapeError, ScrapeErrorKind};

/// What is set aside on the word of the sender.
pub(crate) const FIRST_BYTES_MAX: u64 = 1 << 20;
const PIECE_BYTES: usize = 16 << 10;
const GROWTH: usize = 8;
/// Beyond this no body is held, whatever the limits say.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// Gives the largest body that a limit allows; zero means the largest we can hold.
pub(crate) fn body_limit(limit: u64) -> u64 {
    if limit == 0 { BODY_BYTES_MAX } else { limit.min(BODY_BYTES_MAX) }
}

/// The error for a body beyond its limit; Prometheus' text.
pub(crate) fn too_large() -> ScrapeError {
    ScrapeError::new(ScrapeErrorKind::BodyTooLarge, "body size limit exceeded")
}

/// Inflates a gzip body, member after member, and stops when it grows beyond the limit.
///
/// **Errors** when it is not gzip, is cut short, or is too large.
pub(crate) fn inflate(wire: &[u8], limit: u64) -> Result<Vec<u8>, ScrapeError> {
    let failed = |e: std::io::Error| ScrapeError::new(ScrapeErrorKind::Encoding, format!("gzip: {e}"));
    let said = said_len(wire);
    // What says that it is too large is read to be sure, but not kept.
    let keep = said <= limit;
    let (mut out, mut total, mut piece) = (Vec::new(), 0u64, [0; PIECE_BYTES]);
    if keep {
        grow(&mut out, said.min(FIRST_BYTES_MAX) as usize, limit);
    }
    let mut decoder = MultiGzDecoder::new(wire);
    loop {
        let n = decoder.read(&mut piece).map_err(failed)?;
        total += n as u64;
        if total > limit || (n == 0 && !keep) {
            return Err(too_large());
        }
        if n == 0 {
            return Ok(out);
        }
        if keep {
            grow(&mut out, n, limit);
            out.extend_from_slice(&piece[..n]);
        }
    }
}

/// Gives the length that the last member of a gzip body says it has; it may lie, but a larger one is never true.
fn said_len(wire: &[u8]) -> u64 {
    wire.last_chunk().map_or(0, |tail| u32::from_le_bytes(*tail).into())
}

/// Makes room for more bytes of a body.
///
/// Large bodies get room in few and large steps: while they are copied, both copies are in memory, but what is only set
/// aside is not.
pub(crate) fn grow(bytes: &mut Vec<u8>, more: usize, limit: u64) {
    let wanted = bytes.len().saturating_add(more);
    if wanted > bytes.capacity() {
        let step = bytes.capacity().saturating_mul(GROWTH).min(usize::try_from(limit).unwrap_or(usize::MAX));
        bytes.reserve_exact(wanted.max(step) - bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn members_are_joined_and_bombs_stopped() {
        let mut twice = gzip(b"a 1\n");
        twice.extend(gzip(b"b 2\n"));
        assert_eq!(inflate(&twice, 8), Ok(b"a 1\nb 2\n".to_vec()));
        assert_eq!(inflate(&twice, 7), Err(too_large()));
        let bomb = gzip(&vec![b'x'; 50 << 20]);
        assert!(bomb.len() < 1 << 20);
        assert_eq!(inflate(&bomb, 1 << 20), Err(too_large()));
        assert_eq!(inflate(&twice[..twice.len() - 3], 100).map_err(|e| e.kind), Err(ScrapeErrorKind::Encoding));
        assert_eq!(inflate(b"a 1\n", u64::MAX).map_err(|e| e.kind), Err(ScrapeErrorKind::Encoding));
        let mut lies = bomb;
        let at = lies.len() - 4;
        lies[at..].fill(0);
        assert_eq!(inflate(&lies, 1 << 20), Err(too_large()));
        assert_eq!(inflate(&lies, 100 << 20).map_err(|e| e.kind), Err(ScrapeErrorKind::Encoding));
    }

    #[test]
    fn room_grows_in_large_steps_up_to_the_limit() {
        let (mut bytes, mut steps) = (Vec::new(), 0);
        for _ in 0..4_000 {
            let before = bytes.capacity();
            grow(&mut bytes, 16_000, 64 << 20);
            bytes.extend_from_slice(&[0; 16_000]);
            steps += usize::from(bytes.capacity() != before);
        }
        assert!(steps < 8 && bytes.capacity() <= 64 << 20, "{steps} steps to {}", bytes.capacity());
    }
}
