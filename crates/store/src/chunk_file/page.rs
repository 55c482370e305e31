//! The bytes of a page: which chunks it has, of which series, and where.
//!
//! A page is: index, chunks, index again. Either copy of the index suffices; each chunk has a checksum of its own.
//! Invariants: 1. the index says where the chunks begin, so that a reader knows it from either copy; 2. that place does
//! not change the length of the index.

use super::file::SUM_BYTES;
use crate::coding::{Cursor, Malformed, put_signed, put_varint};

const VERSION: u8 = 1;

/// What a chunk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Doubles, as `chunk.rs` packs them.
    Doubles,
    /// Native histograms, as the head's lane packs them.
    Histograms,
}

/// A chunk of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub id: u32,
    pub kind: Kind,
    /// It was on its way into a block when the page was written.
    pub frozen: bool,
    pub count: u16,
    pub min_ms: i64,
    pub max_ms: i64,
    pub len: u32,
}

/// An index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Index {
    /// The last record whose samples were in the head when the frozen entries were frozen.
    pub frozen_seq: u64,
    /// Where the first chunk begins.
    pub data_offset: u64,
    /// In the order of the chunks; ids never fall.
    pub entries: Vec<Entry>,
}

impl Index {
    /// Gives the bytes of all chunks with their checksums.
    pub fn data_len(&self) -> u64 {
        self.entries.iter().map(|e| u64::from(e.len) + SUM_BYTES as u64).sum()
    }

    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.data_offset.to_le_bytes());
        put_varint(out, self.frozen_seq);
        put_varint(out, self.entries.len() as u64);
        let (mut id, mut min_ms) = (0, 0);
        for entry in &self.entries {
            put_varint(out, u64::from(entry.id.wrapping_sub(id)));
            out.push(u8::from(entry.kind == Kind::Histograms) | u8::from(entry.frozen) << 1);
            put_varint(out, u64::from(entry.count));
            put_signed(out, entry.min_ms.wrapping_sub(min_ms));
            put_varint(out, entry.max_ms.wrapping_sub(entry.min_ms) as u64);
            put_varint(out, u64::from(entry.len));
            (id, min_ms) = (entry.id, entry.min_ms);
        }
    }

    /// Reads the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Index, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if cursor.u8()? != VERSION {
            return Err(Malformed);
        }
        let (data_offset, frozen_seq) = (cursor.u64_le()?, cursor.varint()?);
        let count = cursor.count()?;
        let mut index = Index { frozen_seq, data_offset, entries: Vec::with_capacity(count) };
        let (mut id, mut min_ms) = (0u32, 0i64);
        for _ in 0..count {
            id = narrow(cursor.varint()?).and_then(|step| id.checked_add(step).ok_or(Malformed))?;
            let flags = cursor.u8()?;
            let count = u16::try_from(cursor.varint()?).map_err(|_| Malformed)?;
            min_ms = min_ms.wrapping_add(cursor.signed()?);
            let max_ms = min_ms.wrapping_add(cursor.varint()? as i64);
            let kind = if flags & 1 == 0 { Kind::Doubles } else { Kind::Histograms };
            let (frozen, len) = (flags & 2 != 0, narrow(cursor.varint()?)?);
            index.entries.push(Entry { id, kind, frozen, count, min_ms, max_ms, len });
        }
        Ok(index)
    }
}

fn narrow(n: u64) -> Result<u32, Malformed> {
    u32::try_from(n).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_index_comes_back(
            entries in prop::collection::vec((0u32..3, any::<bool>(), any::<bool>(), any::<u16>(), any::<i64>(), 0i64..9_000_000, any::<u32>()), 0..50),
            frozen_seq: u64, data_offset: u64,
        ) {
            let mut id = 0;
            let entries = entries.into_iter().map(|(step, histograms, frozen, count, min_ms, span, len)| {
                id += step;
                let kind = if histograms { Kind::Histograms } else { Kind::Doubles };
                Entry { id, kind, frozen, count, min_ms, max_ms: min_ms.wrapping_add(span), len }
            });
            let index = Index { frozen_seq, data_offset, entries: entries.collect() };
            let mut bytes = Vec::new();
            index.encode(&mut bytes);
            prop_assert_eq!(Index::decode(&bytes), Ok(index));
        }

        #[test]
        fn any_bytes_end(bytes: Vec<u8>) {
            let _ = Index::decode(&[&[VERSION][..], &bytes].concat());
        }
    }
}
