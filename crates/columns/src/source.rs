//! The door to stored bytes: whoever owns the files implements it and verifies before it answers.

use std::io::Read;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::ColumnsError;

/// A file that can be read anywhere.
pub trait ReadAt: Send + Sync {
    /// Gives the file's length in bytes.
    fn len(&self) -> u64;

    /// Tells whether the file is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads exactly `len` bytes from `offset`, verified.
    ///
    /// **Errors** when the range passes the end, cannot be read, or does not have its checksum; the text names the file.
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, String>;
}

impl ReadAt for Bytes {
    fn len(&self) -> u64 {
        Bytes::len(self) as u64
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, String> {
        let start = usize::try_from(offset).map_err(|_| "offset past the end".to_owned())?;
        let end = start.checked_add(len).filter(|end| *end <= Bytes::len(self));
        end.map(|end| self.slice(start..end)).ok_or_else(|| format!("{len} bytes at {offset} pass the end"))
    }
}

/// Lets the parquet crate read from a [`ReadAt`].
pub(crate) struct Chunks<'a>(pub &'a dyn ReadAt);

impl Length for Chunks<'_> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<'a> ChunkReader for Chunks<'a> {
    type T = SequentialRead<'a>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(SequentialRead { source: self.0, at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.0.read_at(start, length).map_err(|text| ParquetError::External(ColumnsError::Io(text).into()))
    }
}

/// Reads on from an offset.
pub(crate) struct SequentialRead<'a> {
    source: &'a dyn ReadAt,
    at: u64,
}

impl Read for SequentialRead<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let left = self.source.len().saturating_sub(self.at);
        let want = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let bytes = self.source.read_at(self.at, want).map_err(std::io::Error::other)?;
        buf[..want].copy_from_slice(&bytes);
        self.at += want as u64;
        Ok(want)
    }
}
