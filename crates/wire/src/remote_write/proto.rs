//! Just enough of the protobuf wire format, without copying.
//!
//! Limits: a message is as long as its bytes; nothing recurses, since what is not known is jumped over.

/// Why a body cannot be read. Nothing of it should be stored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// Not a message of this kind.
    #[error("malformed protobuf at byte {offset}: {reason}")]
    Malformed {
        /// Where in the body, counted from 0.
        offset: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// More samples than one request may hold; the sender should send fewer at a time.
    #[error("the request holds more than {max} samples")]
    TooManySamples {
        /// The limit.
        max: usize,
    },
}

/// The value of a field.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// A field of a message: its number, its value and where the value starts in the body.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    value: Value<'a>,
    offset: usize,
}

impl<'a> Field<'a> {
    pub(super) fn varint(self) -> Result<u64, WireError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    pub(super) fn double(self) -> Result<f64, WireError> {
        match self.value {
            Value::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(self.wrong_type()),
        }
    }

    #[inline]
    pub(super) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong_type()),
        }
    }

    #[inline]
    pub(super) fn message(self) -> Result<Message<'a>, WireError> {
        self.bytes().map(|bytes| Message { bytes, at: 0, offset: self.offset })
    }

    fn wrong_type(self) -> WireError {
        WireError::Malformed { offset: self.offset, reason: "the field has another wire type than the schema says" }
    }
}

/// A message being read.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the message starts in the body.
    offset: usize,
}

impl<'a> Message<'a> {
    pub(super) fn new(body: &'a [u8]) -> Message<'a> {
        Message { bytes: body, at: 0, offset: 0 }
    }

    /// Gives what is not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Gives the message as it is after `len` more bytes.
    pub(super) fn after(mut self, len: usize) -> Message<'a> {
        self.at = self.bytes.len().min(self.at + len);
        self
    }

    /// Reads the next field; `None` at the end of the message.
    #[inline]
    pub(super) fn next_field(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.read_varint()?;
        let number = match u32::try_from(tag) {
            Ok(tag) if tag >= 8 => tag >> 3,
            _ => return Err(self.malformed(start, "the field number is not valid")),
        };
        let value = match tag & 7 {
            0 => Value::Varint(self.read_varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.take_array()?)),
            2 => {
                let len = self.read_varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => {
                self.take_array::<4>()?;
                Value::Fixed32
            }
            3 | 4 => return Err(self.malformed(start, "groups are not part of remote write")),
            _ => return Err(self.malformed(start, "the wire type is not valid")),
        };
        let offset = match value {
            Value::Bytes(bytes) => self.offset + self.at - bytes.len(),
            _ => self.offset + start,
        };
        Ok(Some(Field { number, value, offset }))
    }

    #[inline]
    fn read_varint(&mut self) -> Result<u64, WireError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.read_long_varint(),
        }
    }

    fn read_long_varint(&mut self) -> Result<u64, WireError> {
        let start = self.at;
        let mut value = 0u64;
        for (index, &byte) in self.bytes[start..].iter().take(10).enumerate() {
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.at = start + index + 1;
                return Ok(value);
            }
        }
        let cut = self.bytes.len() - start < 10 && self.bytes[start..].iter().all(|b| *b >= 0x80);
        Err(self.malformed(start, if cut { "a number is cut short" } else { "a number has more than 64 bits" }))
    }

    #[inline]
    fn take(&mut self, len: u64) -> Result<&'a [u8], WireError> {
        let rest = &self.bytes[self.at..];
        // Compared as 64 bits: a length of 2^63 must not wrap.
        if len > rest.len() as u64 {
            return Err(self.malformed(self.at, "a length goes beyond the end of the message"));
        }
        self.at += len as usize;
        Ok(&rest[..len as usize])
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let bytes = self.bytes[self.at..].first_chunk::<N>().copied();
        let bytes = bytes.ok_or_else(|| self.malformed(self.at, "a number is cut short"))?;
        self.at += N;
        Ok(bytes)
    }

    fn malformed(&self, at: usize, reason: &'static str) -> WireError {
        WireError::Malformed { offset: self.offset + at, reason }
    }
}
