//! Gzip and deflate under a cap: whole bodies and chunk by chunk.

use std::io::{self, Read, Write};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// What is set aside at first; what a body really holds is then grown into.
const FIRST_BYTES_MAX: usize = 1 << 20;
const PIECE_BYTES: usize = 16 << 10;
/// Large bodies get room in few and large steps: while they are copied both copies are in memory, what is only set aside is
/// not.
const GROWTH: usize = 16;

/// Why a body cannot be inflated.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InflateError {
    /// Too large.
    #[error("the body inflates to more than the {max} bytes allowed")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// Not what it says it is, damaged or cut short.
    #[error("{0}")]
    Damaged(String),
}

/// Inflates a gzip body, member after member.
///
/// **Errors** when it is no gzip, is cut short or grows beyond `max` bytes.
pub fn inflate_capped(bytes: &[u8], max: usize) -> Result<Vec<u8>, InflateError> {
    read_capped(MultiGzDecoder::new(bytes), "gzip", bytes.len(), max)
}

/// Inflates a body of `Content-Encoding: deflate`: zlib as the standard has it, or raw as some send it.
///
/// **Errors** as [`inflate_capped`].
pub fn deflate_capped(bytes: &[u8], max: usize) -> Result<Vec<u8>, InflateError> {
    // RFC 1950: the low half of the first byte is 8, and the first two bytes divide by 31.
    let zlib = matches!(bytes, [a, b, ..] if a & 0x0f == 8 && (u16::from(*a) << 8 | u16::from(*b)) % 31 == 0);
    if zlib {
        read_capped(ZlibDecoder::new(bytes), "deflate", bytes.len(), max)
    } else {
        read_capped(DeflateDecoder::new(bytes), "deflate", bytes.len(), max)
    }
}

/// Reads a decoder of `len` bytes to its end; `what` is its name in an error.
pub(crate) fn read_capped(mut decoder: impl Read, what: &str, len: usize, max: usize) -> Result<Vec<u8>, InflateError> {
    let mut out = Vec::with_capacity(len.saturating_mul(4).min(max).min(FIRST_BYTES_MAX));
    let mut piece = [0; PIECE_BYTES];
    loop {
        let n = match decoder.read(&mut piece) {
            Ok(0) => return Ok(out),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(InflateError::Damaged(format!("{what}: {e}"))),
        };
        let wanted = out.len() + n;
        if wanted > max {
            return Err(InflateError::TooLarge { max });
        }
        if wanted > out.capacity() {
            out.reserve_exact(wanted.max(out.capacity().saturating_mul(GROWTH).min(max)) - out.len());
        }
        out.extend_from_slice(piece.get(..n).unwrap_or_default());
    }
}

/// Inflates a gzip body as its chunks arrive.
pub struct GzipStream {
    decoder: flate2::write::MultiGzDecoder<Capped>,
}

impl GzipStream {
    /// Starts a body that may inflate to at most `max` bytes.
    pub fn new(max: usize) -> GzipStream {
        GzipStream { decoder: flate2::write::MultiGzDecoder::new(Capped { bytes: Vec::new(), max, full: false }) }
    }

    /// Takes the next chunk.
    ///
    /// **Errors** as [`inflate_capped`]; then the stream is of no more use.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), InflateError> {
        let written = self.decoder.write_all(chunk).and_then(|()| self.decoder.flush());
        written.map_err(|e| self.decoder.get_ref().explain(&e))
    }

    /// Gives the whole inflated body.
    ///
    /// **Errors** when the last member is cut short.
    pub fn finish(mut self) -> Result<Vec<u8>, InflateError> {
        match self.decoder.try_finish() {
            Ok(()) => Ok(std::mem::take(&mut self.decoder.get_mut().bytes)),
            Err(e) => Err(self.decoder.get_ref().explain(&e)),
        }
    }
}

struct Capped {
    bytes: Vec<u8>,
    max: usize,
    full: bool,
}

impl Capped {
    fn explain(&self, error: &io::Error) -> InflateError {
        if self.full {
            InflateError::TooLarge { max: self.max }
        } else {
            InflateError::Damaged(format!("gzip: {error}"))
        }
    }
}

impl Write for Capped {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        if chunk.len() > self.max - self.bytes.len() {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn stream(bytes: &[u8], chunk: usize, max: usize) -> Result<Vec<u8>, InflateError> {
        let mut stream = GzipStream::new(max);
        for chunk in bytes.chunks(chunk) {
            stream.push(chunk)?;
        }
        stream.finish()
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        let bomb = gzip(&vec![0; 10 << 20]);
        assert!(bomb.len() < 100_000);
        assert_eq!(inflate_capped(&bomb, 1 << 20), Err(InflateError::TooLarge { max: 1 << 20 }));
        assert_eq!(stream(&bomb, 100, 1 << 20), Err(InflateError::TooLarge { max: 1 << 20 }));
        assert_eq!(inflate_capped(&bomb, 10 << 20).map(|b| b.len()), Ok(10 << 20));
    }

    #[test]
    fn members_follow_each_other_and_a_cut_is_found() {
        let mut two = gzip(b"one ");
        two.extend(gzip(b"two"));
        assert_eq!(inflate_capped(&two, 100), Ok(b"one two".to_vec()));
        assert_eq!(stream(&two, 3, 100), Ok(b"one two".to_vec()));
        let one = gzip(b"some text that is cut");
        for cut in 1..one.len() {
            assert!(inflate_capped(&one[..cut], 100).is_err(), "{cut}");
            assert!(stream(&one[..cut], 7, 100).is_err(), "{cut}");
        }
        assert!(inflate_capped(b"a 1\n", 100).is_err());
    }

    #[test]
    fn deflate_is_read_with_and_without_its_header() {
        let text = b"a 1\nb 2\n".repeat(20);
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(&text).unwrap();
        assert_eq!(deflate_capped(&zlib.finish().unwrap(), 1000), Ok(text.clone()));
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
        raw.write_all(&text).unwrap();
        let raw = raw.finish().unwrap();
        assert_eq!(deflate_capped(&raw, 1000), Ok(text));
        assert_eq!(deflate_capped(&raw, 100), Err(InflateError::TooLarge { max: 100 }));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_grow_beyond_the_cap(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut named = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
            named.extend(&bytes);
            for result in [inflate_capped(&named, 1000), deflate_capped(&bytes, 1000), stream(&named, 9, 1000)] {
                prop_assert!(result.map_or(0, |out| out.len()) <= 1000);
            }
        }
    }
}
