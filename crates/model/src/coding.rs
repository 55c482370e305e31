//! Numbers and bytes as our own layouts write them; protobuf writes its numbers so, too.

/// Appends an unsigned LEB128 number.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a signed number, zigzag and LEB128.
#[inline]
pub fn put_signed(out: &mut Vec<u8>, n: i64) {
    put_varint(out, ((n << 1) ^ (n >> 63)) as u64);
}

/// Appends a length and bytes.
#[inline]
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
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes }
    }

    /// Tells whether everything has been read.
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Counts the bytes that were not read.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Gives the next so many bytes.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }

    /// Gives the next byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*first)
    }

    /// Reads eight bytes, the lowest first.
    #[inline]
    pub fn u64_le(&mut self) -> Result<u64, Malformed> {
        self.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| Malformed)
    }

    /// Reads what [`put_varint`] wrote; one that does not fit into 64 bits is malformed.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// Reads what [`put_signed`] wrote.
    #[inline]
    pub fn signed(&mut self) -> Result<i64, Malformed> {
        let n = self.varint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// Reads a count of things that take at least one byte each.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        let n = self.varint()?;
        if n > self.rest.len() as u64 { Err(Malformed) } else { Ok(n as usize) }
    }

    /// Reads what [`put_bytes`] wrote.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.count()?;
        self.take(len)
    }

    /// Reads a text.
    pub fn str(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    /// Reads a text to keep.
    pub fn string(&mut self) -> Result<String, Malformed> {
        self.str().map(str::to_owned)
    }

    /// Reads a double, its lowest byte first.
    #[inline]
    pub fn f64(&mut self) -> Result<f64, Malformed> {
        self.u64_le().map(f64::from_bits)
    }
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

    #[test]
    fn a_number_beyond_64_bits_is_malformed() {
        let mut most = Vec::new();
        put_varint(&mut most, u64::MAX);
        assert_eq!(Cursor::new(&most).varint(), Ok(u64::MAX));
        *most.last_mut().unwrap() = 2;
        assert_eq!(Cursor::new(&most).varint(), Err(Malformed));
        assert_eq!(Cursor::new(&[0x80; 11]).varint(), Err(Malformed));
    }
}
