//! Varints, strings and checksummed files: what all our own byte layouts are made of.

use std::io;
use std::path::Path;

use sys::{File, Fs};
use xxhash_rust::xxh3::xxh3_64;

/// Appends an unsigned LEB128 number.
pub fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a signed number, zigzag and LEB128.
pub fn put_signed(out: &mut Vec<u8>, n: i64) {
    put_varint(out, ((n << 1) ^ (n >> 63)) as u64);
}

/// Appends a length and bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The bytes are not what our own writer makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bytes do not decode")]
pub struct Malformed;

/// Reads what the `put_` functions wrote; never past the end, never more memory than there are bytes.
#[derive(Clone)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes }
    }

    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub fn u64_le(&mut self) -> Result<u64, Malformed> {
        self.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| Malformed)
    }

    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    pub fn signed(&mut self) -> Result<i64, Malformed> {
        let n = self.varint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// Reads a count of things that take at least one byte each.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        let n = self.varint()?;
        if n > self.rest.len() as u64 { Err(Malformed) } else { Ok(n as usize) }
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.count()?;
        self.take(len)
    }

    pub fn string(&mut self) -> Result<String, Malformed> {
        std::str::from_utf8(self.bytes()?).map(str::to_owned).map_err(|_| Malformed)
    }
}

/// Writes a small file in one step: checksum in front, temporary name, fsync, rename, fsync of the directory.
pub fn write_sealed(fs: &dyn Fs, path: &Path, body: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(body.len() + 8);
    bytes.extend_from_slice(&xxh3_64(body).to_le_bytes());
    bytes.extend_from_slice(body);
    replace_file(fs, path, &path.with_extension("tmp"), &bytes).map(drop)
}

/// Puts a file with these bytes in the place of another, in one step; gives it open for appending.
///
/// **Errors** leave the old file as it was, and nothing under the temporary name.
pub fn replace_file(fs: &dyn Fs, path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<Box<dyn File>> {
    let write = || {
        let file = fs.create(temporary)?;
        file.append(bytes)?;
        file.sync_data()?;
        fs.rename(temporary, path)?;
        Ok(file)
    };
    let file = write().inspect_err(|_: &io::Error| {
        // What did not fit must not keep room; should this fail too, the next try overwrites it.
        let _ = fs.remove_file(temporary);
    })?;
    path.parent().map_or(Ok(()), |dir| fs.sync_dir(dir))?;
    Ok(file)
}

/// Checks and opens what [`write_sealed`] wrote; `None` when the checksum disagrees.
pub fn open_sealed(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, body) = bytes.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == xxh3_64(body)).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_and_bytes_come_back(unsigned: Vec<u64>, signed: Vec<i64>, text: String) {
            let mut out = Vec::new();
            unsigned.iter().for_each(|n| put_varint(&mut out, *n));
            signed.iter().for_each(|n| put_signed(&mut out, *n));
            put_bytes(&mut out, text.as_bytes());
            let mut cursor = Cursor::new(&out);
            for n in unsigned {
                prop_assert_eq!(cursor.varint(), Ok(n));
            }
            for n in signed {
                prop_assert_eq!(cursor.signed(), Ok(n));
            }
            prop_assert_eq!(cursor.string(), Ok(text));
            prop_assert!(cursor.is_at_end());
        }
    }
}
