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
    /// Native histograms that would take too much memory; the sender should send fewer at a time.
    #[error("the native histograms of the request take more than {max} bytes")]
    HistogramsTooLarge {
        /// The limit.
        max: usize,
    },
    /// Symbols that are referred to so often that labels and metadata would take too much memory.
    #[error("the labels and metadata of the request take more than {max} bytes")]
    TextTooLarge {
        /// The limit.
        max: usize,
    },
    /// More symbols than one request may hold; the sender should send fewer series at a time.
    #[error("the request holds more than {max} symbols")]
    TooManySymbols {
        /// The limit.
        max: usize,
    },
}

impl WireError {
    /// Tells whether the same data in smaller requests would be taken: what HTTP calls 413.
    pub fn is_too_large(&self) -> bool {
        !matches!(self, WireError::Malformed { .. })
    }
}

/// The value of a field.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// A field of a message: its number, its value and where the value starts in the body.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    value: Value<'a>,
    offset: usize,
}

impl<'a> Field<'a> {
    #[inline]
    pub(crate) fn varint(self) -> Result<u64, WireError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    #[inline]
    pub(crate) fn fixed64(self) -> Result<u64, WireError> {
        match self.value {
            Value::Fixed64(bits) => Ok(bits),
            _ => Err(self.wrong_type()),
        }
    }

    /// Reads a `sint32`, whose sign is folded into the lowest bit; what is beyond 32 bits is cut, as protobuf has it.
    #[inline]
    pub(crate) fn sint32(self) -> Result<i32, WireError> {
        self.varint().map(|value| unfold(u64::from(value as u32)) as i32)
    }

    /// Hands each number of a repeated integer field to `sink`, packed or not.
    pub(crate) fn varints(self, mut sink: impl FnMut(u64)) -> Result<(), WireError> {
        match self.value {
            Value::Varint(value) => sink(value),
            Value::Bytes(_) => {
                let mut packed = self.message()?;
                while !packed.rest().is_empty() {
                    sink(packed.read_varint()?);
                }
            }
            _ => return Err(self.wrong_type()),
        }
        Ok(())
    }

    /// Hands each number of a repeated field of doubles or 64-bit integers to `sink`, packed or not.
    pub(crate) fn fixed64s(self, mut sink: impl FnMut(u64)) -> Result<(), WireError> {
        match self.value {
            Value::Fixed64(bits) => sink(bits),
            Value::Bytes(bytes) => {
                let (numbers, rest) = bytes.as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(WireError::Malformed { offset: self.offset, reason: "a number is cut short" });
                }
                numbers.iter().for_each(|number| sink(u64::from_le_bytes(*number)));
            }
            _ => return Err(self.wrong_type()),
        }
        Ok(())
    }

    /// Gives where the value starts in the body.
    pub(crate) fn offset(self) -> usize {
        self.offset
    }

    #[inline]
    pub(crate) fn double(self) -> Result<f64, WireError> {
        match self.value {
            Value::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(self.wrong_type()),
        }
    }

    #[inline]
    pub(crate) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong_type()),
        }
    }

    #[inline]
    pub(crate) fn message(self) -> Result<Message<'a>, WireError> {
        self.bytes().map(|bytes| Message { bytes, at: 0, offset: self.offset })
    }

    fn wrong_type(self) -> WireError {
        WireError::Malformed { offset: self.offset, reason: "the field has another wire type than the schema says" }
    }
}

/// Undoes the folding of the sign into the lowest bit.
pub(crate) fn unfold(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// A message being read.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the message starts in the body.
    offset: usize,
}

impl<'a> Message<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Message<'a> {
        Message { bytes: body, at: 0, offset: 0 }
    }

    /// Gives what is not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Gives the message as it is after `len` more bytes.
    pub(crate) fn after(mut self, len: usize) -> Message<'a> {
        self.at = self.bytes.len().min(self.at + len);
        self
    }

    /// Reads the next field; `None` at the end of the message.
    #[inline]
    pub(crate) fn next_field(&mut self) -> Result<Option<Field<'a>>, WireError> {
        match self.next_short_field() {
            Some(field) => Ok(Some(field)),
            None => self.next_any_field(),
        }
    }

    /// Reads the next field if it is as nearly all are: a tag of one byte, and a number, a length of one byte or eight bytes
    /// behind it. Otherwise nothing is read.
    #[inline]
    fn next_short_field(&mut self) -> Option<Field<'a>> {
        let start = self.at;
        let (&[tag, byte], rest) = self.bytes.get(start..)?.split_first_chunk::<2>()?;
        if !(8..0x80).contains(&tag) {
            return None;
        }
        let (value, len, offset) = match tag & 7 {
            0 if byte < 0x80 => (Value::Varint(u64::from(byte)), 2, start),
            1 => {
                let bits = self.bytes.get(start + 1..)?.first_chunk::<8>()?;
                (Value::Fixed64(u64::from_le_bytes(*bits)), 9, start)
            }
            2 if byte < 0x80 => {
                let len = usize::from(byte);
                (Value::Bytes(rest.get(..len)?), 2 + len, start + 2)
            }
            _ => return None,
        };
        self.at = start + len;
        Some(Field { number: u32::from(tag >> 3), value, offset: self.offset + offset })
    }

    fn next_any_field(&mut self) -> Result<Option<Field<'a>>, WireError> {
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
            3 | 4 => return Err(self.malformed(start, "groups are not part of any schema read here")),
            _ => return Err(self.malformed(start, "the wire type is not valid")),
        };
        let offset = match value {
            Value::Bytes(bytes) => self.offset + self.at - bytes.len(),
            _ => self.offset + start,
        };
        Ok(Some(Field { number, value, offset }))
    }

    /// Reads a number without a tag, as packed fields and delimited messages have them.
    #[inline]
    pub(crate) fn read_varint(&mut self) -> Result<u64, WireError> {
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

    /// Reads the next of a row of messages that each have their length before them; `None` at the end.
    pub(crate) fn next_delimited(&mut self) -> Result<Option<Message<'a>>, WireError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let len = self.read_varint()?;
        let bytes = self.take(len)?;
        Ok(Some(Message { bytes, at: 0, offset: self.offset + self.at - bytes.len() }))
    }

    /// Gives where the next field starts in the body.
    pub(crate) fn offset(&self) -> usize {
        self.offset + self.at
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

    #[inline]
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(field: Field<'_>) -> (u32, usize, String) {
        let value = match field.value {
            Value::Varint(n) => format!("number {n}"),
            Value::Fixed64(bits) => format!("bits {bits}"),
            Value::Bytes(bytes) => format!("bytes {bytes:?}"),
            Value::Fixed32 => "four bytes".to_owned(),
        };
        (field.number, field.offset, value)
    }

    proptest! {
        /// The short way reads the same fields at the same places as the long one, and fails where it fails.
        #[test]
        fn short_fields_are_read_like_any(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 8u8..30, 0u8..4], 0..40), offset in 0usize..9,
        ) {
            let mut short = Message { bytes: &bytes, at: 0, offset };
            let mut long = short;
            loop {
                let (a, b) = (short.next_field(), long.next_any_field());
                prop_assert_eq!(short.at, long.at);
                match (a, b) {
                    (Ok(None), Ok(None)) => break,
                    (Ok(Some(a)), Ok(Some(b))) => prop_assert_eq!(said(a), said(b)),
                    (Err(a), Err(b)) => {
                        prop_assert_eq!(a, b);
                        break;
                    }
                    _ => prop_assert!(false, "one way fails and the other does not"),
                }
            }
        }
    }
}
