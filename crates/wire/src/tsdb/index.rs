//! The index file of a block.

use super::{Cursor, TsdbError, crc32c};

const MAGIC: u32 = 0xbaaa_d700;
const TOC_BYTES: usize = 6 * 8 + 4;
const HEAD_BYTES: usize = 5;

/// Where a chunk lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRef {
    /// Number of the file under `chunks/`, counted from 0: its name is one more.
    pub file: u32,
    /// Byte in it.
    pub offset: u32,
    /// First time, in milliseconds.
    pub min_ms: i64,
    /// Last time, in milliseconds.
    pub max_ms: i64,
}

/// One series.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Series<'a> {
    /// Sorted by name.
    pub labels: Vec<(&'a str, &'a str)>,
    /// In order of time.
    pub chunks: Vec<ChunkRef>,
}

/// An index, its symbols read.
#[derive(Debug)]
pub struct Index<'a> {
    bytes: &'a [u8],
    symbols: Vec<&'a str>,
    /// Where the next series may begin, and where they end.
    at: usize,
    end: usize,
}

impl<'a> Index<'a> {
    /// Reads the table of contents and the symbols; [`Iterator::next`] then gives series by series.
    pub fn open(bytes: &'a [u8]) -> Result<Index<'a>, TsdbError> {
        let mut head = Cursor { bytes, at: 0 };
        if head.u32()? != MAGIC {
            return Err(TsdbError { what: "this is no index of a block", at: 0 });
        }
        if head.take(1)?[0] != 2 {
            return Err(TsdbError { what: "an index of another version than 2", at: 4 });
        }
        let toc_at = bytes.len().checked_sub(TOC_BYTES).filter(|at| *at >= HEAD_BYTES);
        let toc_at = toc_at.ok_or(TsdbError { what: "the index is cut short", at: bytes.len() })?;
        let toc = &bytes[toc_at..];
        let mut cursor = Cursor { bytes: toc, at: 0 };
        let mut places = [0usize; 6];
        for place in &mut places {
            *place = usize::try_from(cursor.u64()?).unwrap_or(usize::MAX);
        }
        if cursor.u32()? != crc32c(&toc[..TOC_BYTES - 4]) {
            return Err(TsdbError { what: "the table of contents is damaged", at: toc_at });
        }
        let [symbols_at, series_at, rest @ ..] = places;
        let symbols = read_symbols(bytes, symbols_at)?;
        // Series end where the next section begins; sections that are not there have the place 0.
        let end = rest.into_iter().filter(|at| *at > series_at).min().unwrap_or(toc_at).min(toc_at);
        Ok(Index { bytes, symbols, at: series_at, end })
    }

    fn symbol(&self, cursor: &mut Cursor<'_>) -> Result<&'a str, TsdbError> {
        let n = usize::try_from(cursor.uvarint()?).unwrap_or(usize::MAX);
        self.symbols.get(n).copied().ok_or_else(|| cursor.error("a symbol that is not there"))
    }

    fn series(&mut self) -> Result<Option<Series<'a>>, TsdbError> {
        let Some(at) = self.at.checked_next_multiple_of(16).filter(|at| *at < self.end) else { return Ok(None) };
        self.at = at;
        let mut cursor = Cursor { bytes: &self.bytes[..self.end], at: self.at };
        let len = usize::try_from(cursor.uvarint()?).unwrap_or(usize::MAX);
        if len == 0 {
            // Padding before the next section.
            self.at = self.end;
            return Ok(None);
        }
        let start = cursor.at;
        let payload = cursor.take(len)?;
        if cursor.u32()? != crc32c(payload) {
            return Err(TsdbError { what: "a series is damaged", at: start });
        }
        self.at = cursor.at;
        let mut cursor = Cursor { bytes: payload, at: 0 };
        let count = cursor.uvarint()?;
        let mut labels = Vec::new();
        for _ in 0..count {
            labels.push((self.symbol(&mut cursor)?, self.symbol(&mut cursor)?));
        }
        let chunks = read_chunks(&mut cursor)?;
        Ok(Some(Series { labels, chunks }))
    }
}

impl<'a> Iterator for Index<'a> {
    type Item = Result<Series<'a>, TsdbError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.series().transpose();
        if matches!(next, Some(Err(_))) {
            self.at = self.end;
        }
        next
    }
}

fn read_symbols(bytes: &[u8], at: usize) -> Result<Vec<&str>, TsdbError> {
    let mut cursor = Cursor { bytes, at };
    let len = cursor.u32()? as usize;
    let start = cursor.at;
    let section = cursor.take(len)?;
    if cursor.u32()? != crc32c(section) {
        return Err(TsdbError { what: "the symbols are damaged", at: start });
    }
    let mut cursor = Cursor { bytes: section, at: 0 };
    let count = cursor.u32()?;
    let mut symbols = Vec::new();
    for _ in 0..count {
        let len = usize::try_from(cursor.uvarint()?).unwrap_or(usize::MAX);
        let text = std::str::from_utf8(cursor.take(len)?);
        symbols.push(text.map_err(|_| cursor.error("a symbol is not UTF-8"))?);
    }
    Ok(symbols)
}

fn read_chunks(cursor: &mut Cursor<'_>) -> Result<Vec<ChunkRef>, TsdbError> {
    let count = cursor.uvarint()?;
    let mut chunks: Vec<ChunkRef> = Vec::new();
    let (mut place, mut before) = (0i64, 0i64);
    for n in 0..count {
        let step = if n == 0 { cursor.varint()? } else { cursor.uvarint()? as i64 };
        let min_ms = before.wrapping_add(step);
        let max_ms = min_ms.wrapping_add(cursor.uvarint()? as i64);
        let moved = if n == 0 { cursor.uvarint()? as i64 } else { cursor.varint()? };
        place = place.wrapping_add(moved);
        before = max_ms;
        chunks.push(ChunkRef { file: (place as u64 >> 32) as u32, offset: place as u32, min_ms, max_ms });
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(payload: &[u8]) -> Vec<u8> {
        [payload, &crc32c(payload).to_be_bytes()].concat()
    }

    /// An index with the series `a{l="x"}` of two chunks.
    fn index() -> Vec<u8> {
        let mut bytes = MAGIC.to_be_bytes().to_vec();
        bytes.push(2);
        let symbols_at = bytes.len() as u64;
        let symbols = [&4u32.to_be_bytes()[..], b"\x00", b"\x08__name__", b"\x01a", b"\x01l"].concat();
        bytes.extend((symbols.len() as u32).to_be_bytes());
        bytes.extend(sealed(&symbols));
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let series_at = bytes.len() as u64;
        // Two labels; two chunks: from 10 to 15 at 8, from 20 to 21 at 30 of the next file.
        let mut series = vec![2, 1, 2, 3, 2, 2, 20, 5, 8, 5, 1];
        let mut moved = (((1u64 << 32) + 22) << 1) as i64 as u64;
        while moved >= 0x80 {
            series.push(moved as u8 | 0x80);
            moved >>= 7;
        }
        series.push(moved as u8);
        bytes.push(series.len() as u8);
        bytes.extend(sealed(&series));
        let postings_at = bytes.len() as u64;
        bytes.extend([0; 8]);
        let toc: Vec<u8> =
            [symbols_at, series_at, 0, 0, postings_at, postings_at].iter().flat_map(|n| n.to_be_bytes()).collect();
        bytes.extend(sealed(&toc));
        bytes
    }

    #[test]
    fn series_and_their_chunks_are_found() {
        let bytes = index();
        let series: Vec<_> = Index::open(&bytes).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(series.len(), 1);
        assert_eq!(series[0].labels, [("__name__", "a"), ("l", "a")]);
        assert_eq!(
            series[0].chunks,
            [
                ChunkRef { file: 0, offset: 8, min_ms: 10, max_ms: 15 },
                ChunkRef { file: 1, offset: 30, min_ms: 20, max_ms: 21 }
            ]
        );
    }

    #[test]
    fn damage_is_found_wherever_it_is() {
        let good = index();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            let read = Index::open(&bytes).and_then(|index| index.collect::<Result<Vec<_>, _>>());
            // Padding and what lies behind the series is not looked at.
            if let Ok(series) = read {
                let same = Index::open(&good).and_then(|index| index.collect::<Result<Vec<_>, _>>());
                assert!(Ok(series) == same, "byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut named = MAGIC.to_be_bytes().to_vec();
            named.push(2);
            named.extend(&bytes);
            if let Ok(index) = Index::open(&named) {
                prop_assert!(index.count() <= named.len());
            }
            let _ = read_chunks(&mut Cursor { bytes: &bytes, at: 0 });
        }
    }
}
