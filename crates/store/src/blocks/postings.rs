//! The postings file: from label values to the series of a block, and the series themselves in small sets.
//!
//! Owns: the byte layout, both ways. It says nothing that `series.parquet` and `samples.parquet` do not say; it is there
//! to be fast, and in place of either's damaged end. `docs/format/block.md` draws it.
//! Invariants: 1. series are numbered from 0 in the order of their labels; 2. nothing is believed about lengths that
//! the bytes at hand do not bear out.

use std::io::{self, Write};
use std::sync::Arc;

use columns::{HistogramRows, RowRange, SeriesRow};
use model::{Labels, MetricType};

use super::id_list::put_list;
use crate::coding::{Cursor, Malformed, put_bytes, put_signed, put_varint};
use crate::index::Index;

/// Series that are packed together: what has to be unpacked for one.
pub const SET_ROWS: usize = 256;
/// Length of the footer.
pub const FOOTER_BYTES: usize = 24;
const MAGIC: &[u8; 8] = b"QUIVERP2";
/// Of the first format: lists and rows without regard to their neighbours. It is read still.
const FIRST_MAGIC: &[u8; 8] = b"QUIVERPX";
const ZSTD_LEVEL: i32 = 3;
/// In a series' exponent: it has native histograms, and where they lie follows.
const HAS_HISTOGRAMS: u64 = 64;
/// What a part may unpack to; ours are far below.
const PART_BYTES_MAX: usize = 1 << 30;

/// Where something lies, and how long it is unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Where.
    pub offset: u64,
    /// Bytes in the file.
    pub len: u32,
    /// Bytes unpacked.
    pub raw_len: u32,
}

/// Where everything lies.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Directory {
    /// Series in the block.
    pub series: u32,
    /// The sets of series.
    pub sets: Vec<Place>,
    /// For each label name, sorted, its table of values.
    pub names: Vec<(String, Place)>,
    /// The end of `samples.parquet`.
    pub tail: Place,
    /// Where in `samples.parquet` that begins.
    pub tail_start: u64,
    /// The end of `histograms.parquet` and where in it that begins; `None` when the block has none.
    pub histograms_tail: Option<(Place, u64)>,
}

impl Directory {
    /// Gives the memory it takes.
    pub fn bytes(&self) -> usize {
        self.sets.len() * size_of::<Place>() + self.names.iter().map(|n| n.0.len() + 64).sum::<usize>()
    }

    /// Gives the number of a label name.
    pub fn name(&self, name: &str) -> Option<usize> {
        self.names.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()
    }
}

/// Writes a postings file.
pub struct PostingsWriter<W: Write> {
    sink: W,
    at: u64,
    directory: Directory,
    index: Index,
    set: Vec<u8>,
    /// The last series of the set so far.
    last: Option<SeriesRow>,
}

impl<W: Write> PostingsWriter<W> {
    /// Starts a file.
    pub fn new(sink: W) -> io::Result<PostingsWriter<W>> {
        let (directory, index) = Default::default();
        let mut writer = PostingsWriter { sink, at: 0, directory, index, set: Vec::new(), last: None };
        writer.put(MAGIC)?;
        Ok(writer)
    }

    /// Adds a series; they come sorted by labels.
    pub fn add(&mut self, row: &SeriesRow) -> io::Result<()> {
        put_row(&mut self.set, row, self.last.as_ref());
        self.last = Some(row.clone());
        self.index.add(self.directory.series, &row.labels);
        self.directory.series = self.directory.series.checked_add(1).ok_or_else(|| io::Error::other("2^32 series"))?;
        if (self.directory.series as usize).is_multiple_of(SET_ROWS) { self.put_set() } else { Ok(()) }
    }

    fn put_set(&mut self) -> io::Result<()> {
        let set = std::mem::take(&mut self.set);
        self.last = None;
        let place = self.put_packed(&set)?;
        self.directory.sets.push(place);
        Ok(())
    }

    /// Writes the rest; the tails are the ends of `samples.parquet` and `histograms.parquet` and where they begin.
    pub fn finish(mut self, tail: (u64, &[u8]), histograms_tail: Option<(u64, &[u8])>) -> io::Result<W> {
        if !self.set.is_empty() {
            self.put_set()?;
        }
        let index = std::mem::take(&mut self.index);
        let mut names: Vec<&str> = index.names().collect();
        names.sort_unstable();
        for name in names {
            let table = self.put_lists(&index, name)?;
            let place = self.put_packed(&table)?;
            self.directory.names.push((name.to_owned(), place));
        }
        self.directory.tail_start = tail.0;
        self.directory.tail = self.put_packed(tail.1)?;
        if let Some((start, bytes)) = histograms_tail {
            self.directory.histograms_tail = Some((self.put_packed(bytes)?, start));
        }
        let start = self.at;
        let mut bytes = Vec::new();
        put_directory(&mut bytes, &self.directory);
        self.put(&bytes)?;
        self.put(&start.to_le_bytes())?;
        self.put(&(bytes.len() as u64).to_le_bytes())?;
        self.put(MAGIC)?;
        Ok(self.sink)
    }

    /// Writes the lists of all values of a name; gives their table.
    fn put_lists(&mut self, index: &Index, name: &str) -> io::Result<Vec<u8>> {
        let mut table = Vec::new();
        let (mut lists, mut count) = (Vec::new(), 0u64);
        put_varint(&mut table, self.at);
        let mut entries = Vec::new();
        for (value, ids) in index.postings(name) {
            let before = lists.len();
            put_list(&mut lists, ids);
            put_bytes(&mut entries, value.as_bytes());
            put_varint(&mut entries, (lists.len() - before) as u64);
            put_varint(&mut entries, ids.len() as u64);
            count += 1;
        }
        put_varint(&mut table, count);
        table.extend_from_slice(&entries);
        self.put(&lists)?;
        Ok(table)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.sink.write_all(bytes)
    }

    fn put_packed(&mut self, raw: &[u8]) -> io::Result<Place> {
        let packed = zstd::bulk::compress(raw, ZSTD_LEVEL)?;
        let offset = self.at;
        self.put(&packed)?;
        let short = |len: usize| u32::try_from(len).map_err(|_| io::Error::other("a part of 4 GiB"));
        Ok(Place { offset, len: short(packed.len())?, raw_len: short(raw.len())? })
    }
}

/// Undoes the packing of a part.
pub fn unpack(packed: &[u8], place: Place) -> Result<Vec<u8>, Malformed> {
    let raw_len = place.raw_len as usize;
    if raw_len > PART_BYTES_MAX {
        return Err(Malformed);
    }
    let raw = zstd::bulk::decompress(packed, raw_len).map_err(|_| Malformed)?;
    if raw.len() == raw_len { Ok(raw) } else { Err(Malformed) }
}

/// What the footer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    /// Where the directory lies.
    pub offset: u64,
    /// Its length.
    pub len: u64,
    /// The file is of the first format.
    pub first_format: bool,
}

/// Reads the footer.
pub fn read_footer(footer: &[u8]) -> Result<Footer, Malformed> {
    let mut cursor = Cursor::new(footer);
    let (offset, len) = (cursor.u64_le()?, cursor.u64_le()?);
    let magic = cursor.take(8)?;
    let first_format = magic == FIRST_MAGIC;
    if first_format || magic == MAGIC { Ok(Footer { offset, len, first_format }) } else { Err(Malformed) }
}

fn put_place(out: &mut Vec<u8>, place: Place) {
    put_varint(out, place.offset);
    put_varint(out, u64::from(place.len));
    put_varint(out, u64::from(place.raw_len));
}

fn get_u32(cursor: &mut Cursor<'_>) -> Result<u32, Malformed> {
    u32::try_from(cursor.varint()?).map_err(|_| Malformed)
}

fn get_place(cursor: &mut Cursor<'_>) -> Result<Place, Malformed> {
    Ok(Place { offset: cursor.varint()?, len: get_u32(cursor)?, raw_len: get_u32(cursor)? })
}

fn put_directory(out: &mut Vec<u8>, directory: &Directory) {
    put_varint(out, u64::from(directory.series));
    put_varint(out, directory.sets.len() as u64);
    directory.sets.iter().for_each(|place| put_place(out, *place));
    put_varint(out, directory.names.len() as u64);
    for (name, place) in &directory.names {
        put_bytes(out, name.as_bytes());
        put_place(out, *place);
    }
    put_place(out, directory.tail);
    put_varint(out, directory.tail_start);
    if let Some((place, start)) = directory.histograms_tail {
        put_place(out, place);
        put_varint(out, start);
    }
}

/// Reads a directory.
pub fn read_directory(bytes: &[u8]) -> Result<Directory, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let series = get_u32(&mut cursor)?;
    let sets = (0..cursor.count()?).map(|_| get_place(&mut cursor)).collect::<Result<_, _>>()?;
    let mut names = Vec::new();
    for _ in 0..cursor.count()? {
        names.push((cursor.string()?, get_place(&mut cursor)?));
    }
    let (tail, tail_start) = (get_place(&mut cursor)?, cursor.varint()?);
    let more = !cursor.is_at_end();
    let histograms_tail = more.then(|| Ok::<_, Malformed>((get_place(&mut cursor)?, cursor.varint()?))).transpose()?;
    Ok(Directory { series, sets, names, tail, tail_start, histograms_tail })
}

/// What a series is expected to say, given the one before it in its set: only differences to that are written.
#[derive(Default)]
struct Expected {
    series_id: i64,
    first_row: u64,
    first_histogram: u64,
    min_ts_ms: i64,
    max_ts_ms: i64,
}

impl Expected {
    fn after(before: Option<&SeriesRow>) -> Expected {
        before.map_or_else(Expected::default, |row| Expected {
            series_id: row.series_id.wrapping_add(1),
            first_row: row.rows.first_row.wrapping_add(row.rows.rows),
            first_histogram: row.histograms.first_row.wrapping_add(row.histograms.rows),
            min_ts_ms: row.min_ts_ms,
            max_ts_ms: row.max_ts_ms,
        })
    }
}

fn put_row(out: &mut Vec<u8>, row: &SeriesRow, before: Option<&SeriesRow>) {
    let expected = Expected::after(before);
    put_bytes(out, row.labels.as_bytes());
    out.push(row.metric_type as u8);
    put_bytes(out, row.source.as_bytes());
    put_bytes(out, row.target_id.as_bytes());
    put_signed(out, row.series_id.wrapping_sub(expected.series_id));
    put_signed(out, row.rows.first_row.wrapping_sub(expected.first_row) as i64);
    let exponent = row.rows.exponent.map_or(0, |e| u64::from(e) + 1);
    let kind = if row.histograms.rows > 0 { exponent | HAS_HISTOGRAMS } else { exponent };
    for n in [row.rows.rows, kind, row.rows.plain_rows, row.rows.stale_rows] {
        put_varint(out, n);
    }
    if row.histograms.rows > 0 {
        put_signed(out, row.histograms.first_row.wrapping_sub(expected.first_histogram) as i64);
        put_varint(out, row.histograms.rows);
    }
    put_signed(out, row.min_ts_ms.wrapping_sub(expected.min_ts_ms));
    put_signed(out, row.max_ts_ms.wrapping_sub(expected.max_ts_ms));
}

/// Reads a set of series.
pub fn read_rows(bytes: &[u8], first_format: bool) -> Result<Vec<SeriesRow>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let mut rows: Vec<SeriesRow> = Vec::with_capacity(SET_ROWS);
    while !cursor.is_at_end() {
        let row = read_row(&mut cursor, rows.last(), first_format)?;
        rows.push(row);
    }
    Ok(rows)
}

/// Reads a series; shares what it has in common with the one before.
fn read_row(cursor: &mut Cursor<'_>, before: Option<&SeriesRow>, first_format: bool) -> Result<SeriesRow, Malformed> {
    let expected = Expected::after(before.filter(|_| !first_format));
    // Counts were unsigned in the first format, for nothing was expected of them.
    let place = |cursor: &mut Cursor<'_>, expected: u64| match first_format {
        true => cursor.varint(),
        false => cursor.signed().map(|n| expected.wrapping_add(n as u64)),
    };
    let labels = Labels::from_bytes(cursor.bytes()?).ok_or(Malformed)?;
    let metric_type = MetricType::from_u8(cursor.u8()?);
    let source = shared(cursor, before.map(|b| &b.source))?;
    let target_id = shared(cursor, before.map(|b| &b.target_id))?;
    let series_id = expected.series_id.wrapping_add(cursor.signed()?);
    let (first_row, rows) = (place(cursor, expected.first_row)?, cursor.varint()?);
    let kind = cursor.varint()?;
    let exponent = match kind & !HAS_HISTOGRAMS {
        0 => None,
        n => Some(u8::try_from(n - 1).ok().filter(|e| *e <= columns::scale::EXPONENT_MAX).ok_or(Malformed)?),
    };
    let (plain_rows, stale_rows) = (cursor.varint()?, cursor.varint()?);
    let histograms = match kind & HAS_HISTOGRAMS {
        0 => HistogramRows::default(),
        _ => HistogramRows { first_row: place(cursor, expected.first_histogram)?, rows: cursor.varint()? },
    };
    let min_ts_ms = expected.min_ts_ms.wrapping_add(cursor.signed()?);
    let max_ts_ms = expected.max_ts_ms.wrapping_add(cursor.signed()?);
    let rows = RowRange { first_row, rows, exponent, plain_rows, stale_rows };
    Ok(SeriesRow { series_id, labels, metric_type, source, target_id, rows, histograms, min_ts_ms, max_ts_ms })
}

fn shared(cursor: &mut Cursor<'_>, before: Option<&Arc<str>>) -> Result<Arc<str>, Malformed> {
    let text = std::str::from_utf8(cursor.bytes()?).map_err(|_| Malformed)?;
    Ok(before.filter(|b| &***b == text).cloned().unwrap_or_else(|| Arc::from(text)))
}

/// The values of a label, sorted, and where their lists lie.
#[derive(Debug, Default)]
pub struct Table {
    text: String,
    /// Per value: where its text ends, where its list ends (both from the start), and how many series it has.
    entries: Vec<(u32, u32, u32)>,
    /// Where the first list lies.
    lists: u64,
}

impl Table {
    /// Reads a table.
    pub fn read(bytes: &[u8]) -> Result<Table, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let lists = cursor.varint()?;
        let count = cursor.count()?;
        let mut table = Table { text: String::new(), entries: Vec::with_capacity(count), lists };
        let mut end = 0u32;
        for _ in 0..count {
            table.text.push_str(std::str::from_utf8(cursor.bytes()?).map_err(|_| Malformed)?);
            end = end.checked_add(get_u32(&mut cursor)?).ok_or(Malformed)?;
            let text_end = u32::try_from(table.text.len()).map_err(|_| Malformed)?;
            table.entries.push((text_end, end, get_u32(&mut cursor)?));
        }
        Ok(table)
    }

    /// Counts the values.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Gives the memory it takes.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.entries.len() * 12
    }

    /// Gives a value; empty past the end.
    pub fn value(&self, at: usize) -> &str {
        let start = at.checked_sub(1).and_then(|before| self.entries.get(before)).map_or(0, |e| e.0);
        let end = self.entries.get(at).map_or(start, |e| e.0);
        self.text.get(start as usize..end as usize).unwrap_or("")
    }

    /// Gives the values in order.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|at| self.value(at))
    }

    /// Finds a value.
    pub fn find(&self, value: &str) -> Option<usize> {
        let at = self.lower_bound(value);
        (at < self.len() && self.value(at) == value).then_some(at)
    }

    /// Finds the first value that is not below the given one.
    pub fn lower_bound(&self, value: &str) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.value(middle) < value { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Counts the series with a value.
    pub fn series(&self, at: usize) -> usize {
        self.entries.get(at).map_or(0, |e| e.2 as usize)
    }

    /// Gives where the lists of a run of values lie: offset and length.
    pub fn lists(&self, first: usize, last: usize) -> (u64, usize) {
        let start = first.checked_sub(1).and_then(|before| self.entries.get(before)).map_or(0, |e| e.1);
        let end = self.entries.get(last).map_or(start, |e| e.1);
        (self.lists + u64::from(start), end.saturating_sub(start) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u64) -> SeriesRow {
        let histograms =
            if n % 3 == 1 { HistogramRows { first_row: n * 5, rows: n } } else { HistogramRows::default() };
        SeriesRow {
            series_id: (7 << 32 | n) as i64,
            labels: Labels::from_pairs([("__name__", "m".to_owned()), ("n", format!("{n:05}"))]),
            metric_type: MetricType::Gauge,
            source: "s".into(),
            target_id: format!("t{}", n % 2).into(),
            rows: RowRange { first_row: n * 240, rows: 240 - n % 7, exponent: Some(2), plain_rows: n, stale_rows: 1 },
            histograms,
            min_ts_ms: -5 + (n % 4) as i64,
            max_ts_ms: i64::MAX - n as i64,
        }
    }

    /// As the first format wrote them.
    fn put_first_row(out: &mut Vec<u8>, row: &SeriesRow) {
        put_bytes(out, row.labels.as_bytes());
        out.push(row.metric_type as u8);
        put_bytes(out, row.source.as_bytes());
        put_bytes(out, row.target_id.as_bytes());
        put_signed(out, row.series_id);
        let exponent = row.rows.exponent.map_or(0, |e| u64::from(e) + 1);
        for n in [row.rows.first_row, row.rows.rows, exponent, row.rows.plain_rows, row.rows.stale_rows] {
            put_varint(out, n);
        }
        put_signed(out, row.min_ts_ms);
        put_signed(out, row.max_ts_ms);
    }

    #[test]
    fn rows_come_back_in_this_format_and_in_the_first() {
        let rows: Vec<SeriesRow> = (0..SET_ROWS as u64).map(row).collect();
        let (mut now, mut first) = (Vec::new(), Vec::new());
        for (n, row) in rows.iter().enumerate() {
            put_row(&mut now, row, n.checked_sub(1).and_then(|before| rows.get(before)));
            put_first_row(&mut first, row);
        }
        assert_eq!(read_rows(&now, false), Ok(rows.clone()));
        let doubles_only: Vec<SeriesRow> =
            rows.into_iter().map(|row| SeriesRow { histograms: HistogramRows::default(), ..row }).collect();
        assert_eq!(read_rows(&first, true), Ok(doubles_only));
        assert!(now.len() < first.len());
    }
}
