//! Bodies, bounded while they grow.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use crate::outcome::{ScrapeError, ScrapeErrorKind};

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
    let mut out = Vec::with_capacity(wire.len().saturating_mul(4).min(limit as usize).min(1 << 20));
    MultiGzDecoder::new(wire)
        .take(limit.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|e| ScrapeError::new(ScrapeErrorKind::Encoding, format!("gzip: {e}")))?;
    if out.len() as u64 > limit { Err(too_large()) } else { Ok(out) }
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
        assert_eq!(inflate(b"a 1\n", 100).map_err(|e| e.kind), Err(ScrapeErrorKind::Encoding));
    }
}
