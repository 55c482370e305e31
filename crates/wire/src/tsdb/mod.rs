//! Blocks of Prometheus' TSDB: the index of version 2, and chunks of doubles.
//!
//! Pure functions over bytes; checksums are checked before anything is believed. Native histograms are told apart, not read.
//! Limits: everything is bounded by the bytes of the index; a chunk has at most 65,535 samples.

mod chunk;
mod index;

pub use chunk::{Chunk, decode_chunk};
pub use index::{ChunkRef, Index, Series};

/// Bytes that are no TSDB block, or a damaged one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct TsdbError {
    /// What is wrong.
    pub what: &'static str,
    /// Where.
    pub at: usize,
}

/// Castagnoli's CRC-32, as Prometheus has it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |crc, byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

/// Reads from a place of a byte string.
pub(crate) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn error(&self, what: &'static str) -> TsdbError {
        TsdbError { what, at: self.at }
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], TsdbError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.error("the bytes end too early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub fn u32(&mut self) -> Result<u32, TsdbError> {
        Ok(self.take(4)?.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    pub fn u64(&mut self) -> Result<u64, TsdbError> {
        Ok(self.take(8)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    pub fn uvarint(&mut self) -> Result<u64, TsdbError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(self.error("a number is too long"))
    }

    pub fn varint(&mut self) -> Result<i64, TsdbError> {
        let n = self.uvarint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnoli_s() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
