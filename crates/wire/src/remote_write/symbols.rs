//! The symbols of a remote write 2.0 request, borrowed from its bytes.
//!
//! Why it is fast: a text with its length before it is the same bytes in protobuf and in our label encoding. So a label set is
//! its symbols' bytes put one behind the other; what must be checked of a text is checked once per symbol, not per series.

use model::LABEL_NAME;

use super::limits::Limits;
use crate::proto::{Field, WireError};

/// May stand as a label name without a second look.
const NAME: u32 = 1;
/// May stand as a label value without a second look.
const VALUE: u32 = 2;
/// Is `__name__`.
const IS_METRIC_NAME: u32 = 4;

/// A symbol: where its length, its text and what follows it start in the body.
#[derive(Clone, Copy)]
struct Symbol {
    piece: u32,
    text: u32,
    end: u32,
    flags: u32,
}

/// All symbols of a request, found by their number.
pub(super) struct Symbols<'a> {
    body: &'a [u8],
    symbols: Vec<Symbol>,
}

impl<'a> Symbols<'a> {
    pub(super) fn new(body: &'a [u8]) -> Symbols<'a> {
        Symbols { body, symbols: Vec::new() }
    }

    /// Takes the next symbol.
    #[inline]
    pub(super) fn push(&mut self, field: Field<'a>, limits: &Limits) -> Result<(), WireError> {
        let (bytes, offset) = (field.bytes()?, field.offset());
        if self.symbols.len() >= limits.symbols_max {
            return Err(WireError::TooManySymbols { max: limits.symbols_max });
        }
        let end = u32::try_from(offset + bytes.len());
        let end = end.map_err(|_| WireError::Malformed { offset, reason: "the request is larger than 4 GiB" })?;
        let text = end - bytes.len() as u32;
        let len_bytes = short_len_bytes(&self.body[..text as usize], bytes.len());
        let mut flags = 0;
        if len_bytes > 0 && !bytes.is_empty() && std::str::from_utf8(bytes).is_ok() {
            flags |= if bytes.len() <= limits.name_bytes_max { NAME } else { 0 };
            flags |= if bytes.len() <= limits.value_bytes_max { VALUE } else { 0 };
            flags |= if bytes == LABEL_NAME.as_bytes() { IS_METRIC_NAME } else { 0 };
        }
        self.symbols.push(Symbol { piece: text - len_bytes, text, end, flags });
        Ok(())
    }

    /// Gives the text of a symbol; `None` when there is none of that number.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&'a [u8]> {
        let symbol = self.symbols.get(number as usize)?;
        Some(&self.body[symbol.text as usize..symbol.end as usize])
    }

    /// Appends the canonical encoding of a label set; gives the number of the symbol that is the metric name.
    ///
    /// **Takes** packed references, name and value in turn.
    /// **Gives** `None` when anything is unusual (order, an empty value, a bad reference, no metric name); then `out` may hold
    /// a part.
    #[inline]
    pub(super) fn copy_labels(&self, mut refs: &[u8], labels_max: usize, out: &mut Vec<u8>) -> Option<u32> {
        let mut last_name: &[u8] = &[];
        let mut metric_name = None;
        let mut labels = 0;
        while !refs.is_empty() {
            let name = self.symbols.get(take_ref(&mut refs)? as usize)?;
            let value_ref = take_ref(&mut refs)?;
            let value = self.symbols.get(value_ref as usize)?;
            let text = &self.body[name.text as usize..name.end as usize];
            if name.flags & NAME == 0 || value.flags & VALUE == 0 || text <= last_name {
                return None;
            }
            last_name = text;
            if name.flags & IS_METRIC_NAME != 0 {
                metric_name = Some(value_ref);
            }
            out.extend_from_slice(&self.body[name.piece as usize..name.end as usize]);
            out.extend_from_slice(&self.body[value.piece as usize..value.end as usize]);
            labels += 1;
        }
        metric_name.filter(|_| labels <= labels_max)
    }
}

/// Takes the next packed reference.
#[inline]
fn take_ref(refs: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for shift in [0, 7, 14, 21] {
        let (byte, rest) = refs.split_first()?;
        *refs = rest;
        value |= u32::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    // More symbols than 2^28 are not taken; what is longer is left to the general reader.
    None
}

/// Counts the bytes of the length that stands at the end of `before`, if it is written as short as can be; else gives 0.
#[inline]
fn short_len_bytes(before: &[u8], len: usize) -> u32 {
    match len < 0x80 {
        true => u32::from(before.last() == Some(&(len as u8))),
        false => long_len_bytes(before, len),
    }
}

fn long_len_bytes(before: &[u8], mut len: usize) -> u32 {
    let mut expected = [0u8; 10];
    let mut count = 0;
    loop {
        let more = len >= 0x80;
        expected[count] = len as u8 & 0x7f | if more { 0x80 } else { 0 };
        count += 1;
        len >>= 7;
        if !more {
            break;
        }
    }
    if before.ends_with(&expected[..count]) { count as u32 } else { 0 }
}
