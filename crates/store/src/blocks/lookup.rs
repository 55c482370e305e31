//! Finds series in the postings of one block.
//!
//! Owns: the open postings and their directory. Tables and sets of series are unpacked when asked for and stay in the
//! shared cache for a while.
//! Cost: a selection unpacks the tables of the labels it names and the sets its series lie in, nothing else.

use std::ops::Range;
use std::sync::Arc;

use columns::{ReadAt, SeriesRow};
use model::{MatchOp, Matcher};

use super::cache::{Cache, Part};
use super::id_list::{read_first_list, read_list};
use super::postings::{
    Directory, FOOTER_BYTES, Place, SET_ROWS, Table, read_directory, read_footer, read_rows, unpack,
};
use crate::coding::Malformed;
use crate::index::{Shape, intersect, shape, subtract, union};

/// So few series are asked themselves rather than looked up by value.
const FEW: usize = 64;

/// The postings of a block, open.
pub struct Lookup {
    source: Box<dyn ReadAt>,
    directory: Directory,
    first_format: bool,
    block: u64,
    cache: Arc<Cache>,
}

fn malformed(_: Malformed) -> String {
    "the postings do not decode".to_owned()
}

impl Lookup {
    /// Reads the directory.
    pub fn open(source: Box<dyn ReadAt>, block: u64, cache: Arc<Cache>) -> Result<Lookup, String> {
        let start = source.len().checked_sub(FOOTER_BYTES as u64).ok_or("the postings are too short")?;
        let footer = read_footer(&source.read_at(start, FOOTER_BYTES)?).map_err(malformed)?;
        let len = usize::try_from(footer.len).map_err(|_| "the postings do not decode")?;
        let directory = read_directory(&source.read_at(footer.offset, len)?).map_err(malformed)?;
        Ok(Lookup { source, directory, first_format: footer.first_format, block, cache })
    }

    /// Counts the series.
    pub fn series(&self) -> u32 {
        self.directory.series
    }

    /// Gives the memory it takes.
    pub fn bytes(&self) -> usize {
        self.directory.bytes()
    }

    /// Gives the copy of the end of `samples.parquet`, and where that begins.
    pub fn tail(&self) -> Result<(u64, Vec<u8>), String> {
        Ok((self.directory.tail_start, self.part(self.directory.tail)?))
    }

    /// Gives the copy of the end of `histograms.parquet`, and where that begins.
    pub fn histograms_tail(&self) -> Result<(u64, Vec<u8>), String> {
        let (place, start) = self.directory.histograms_tail.ok_or("there is no copy of its end")?;
        Ok((start, self.part(place)?))
    }

    /// Gives the label names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.directory.names.iter().map(|n| n.0.as_str())
    }

    fn part(&self, place: Place) -> Result<Vec<u8>, String> {
        unpack(&self.source.read_at(place.offset, place.len as usize)?, place).map_err(malformed)
    }

    /// Gives the values of a label; `None` when no series has it.
    pub fn table(&self, name: &str) -> Result<Option<Arc<Table>>, String> {
        let Some(number) = self.directory.name(name) else { return Ok(None) };
        let Some((_, place)) = self.directory.names.get(number) else { return Ok(None) };
        let make = || {
            let table = Table::read(&self.part(*place)?).map_err(malformed)?;
            let bytes = table.bytes();
            Ok::<_, String>((table, bytes))
        };
        self.cache.get((self.block, Part::Table, number as u64), make).map(Some)
    }

    /// Gives a set of series by its number.
    pub fn set(&self, number: usize) -> Result<Arc<Vec<SeriesRow>>, String> {
        let place = *self.directory.sets.get(number).ok_or("the postings name a series that is not there")?;
        let make = || {
            let rows = read_rows(&self.part(place)?, self.first_format).map_err(malformed)?;
            let bytes = rows.iter().map(|r| r.labels.as_bytes().len() + size_of::<SeriesRow>() + 16).sum();
            Ok::<_, String>((rows, bytes))
        };
        self.cache.get((self.block, Part::Rows, number as u64), make)
    }

    /// Visits the given series (sorted ids).
    pub fn visit(&self, ids: &[u32], mut act: impl FnMut(u32, &SeriesRow)) -> Result<(), String> {
        for run in ids.chunk_by(|a, b| *a as usize / SET_ROWS == *b as usize / SET_ROWS) {
            let Some(first) = run.first() else { continue };
            let set = self.set(*first as usize / SET_ROWS)?;
            for id in run {
                let row = set.get(*id as usize % SET_ROWS).ok_or("the postings name a series that is not there")?;
                act(*id, row);
            }
        }
        Ok(())
    }

    /// Finds the series that all matchers accept, sorted.
    pub fn matching(&self, matchers: &[Matcher]) -> Result<Vec<u32>, String> {
        let (mut some, absent): (Vec<&Matcher>, Vec<&Matcher>) = matchers.iter().partition(|m| !m.matches_empty());
        some.sort_by_key(|m| m.op() != MatchOp::Equal);
        let mut found: Option<Vec<u32>> = None;
        for matcher in some {
            let Some(table) = self.table(matcher.name())? else { return Ok(Vec::new()) };
            found = Some(match found {
                None => self.accepted(&table, matcher)?,
                Some(ids) if ids.len() <= FEW => self.filter(&ids, matcher)?,
                Some(ids) => intersect(ids, &self.accepted(&table, matcher)?),
            });
            if found.as_ref().is_some_and(Vec::is_empty) {
                return Ok(Vec::new());
            }
        }
        let mut ids = found.unwrap_or_else(|| (0..self.directory.series).collect());
        for matcher in absent {
            ids = match self.table(matcher.name())? {
                None => ids,
                Some(_) if ids.len() <= FEW => self.filter(&ids, matcher)?,
                Some(table) => subtract(ids, &self.lists(&table, chosen(&table, matcher, false))?),
            };
        }
        Ok(ids)
    }

    /// Gives the series with an accepted value; the matcher does not accept an absent label.
    fn accepted(&self, table: &Table, matcher: &Matcher) -> Result<Vec<u32>, String> {
        self.lists(table, chosen(table, matcher, true))
    }

    /// Asks each series itself.
    fn filter(&self, ids: &[u32], matcher: &Matcher) -> Result<Vec<u32>, String> {
        let mut out = Vec::with_capacity(ids.len());
        self.visit(ids, |id, row| {
            if matcher.matches(row.labels.get(matcher.name()).unwrap_or("")) {
                out.push(id);
            }
        })?;
        Ok(out)
    }

    /// Joins the lists of the given values (sorted). Neighbours are read together.
    fn lists(&self, table: &Table, values: Vec<usize>) -> Result<Vec<u32>, String> {
        let mut lists = Vec::with_capacity(values.len());
        for run in values.chunk_by(|a, b| a + 1 == *b) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let (offset, len) = table.lists(*first, *last);
            let bytes = self.source.read_at(offset, len)?;
            for value in run {
                let (at, len) = table.lists(*value, *value);
                let start = (at - offset) as usize;
                let list = bytes.get(start..start + len).ok_or("the postings do not decode")?;
                let series = table.series(*value);
                if series > self.directory.series as usize {
                    return Err("the postings do not decode".to_owned());
                }
                let read = if self.first_format { read_first_list } else { read_list };
                lists.push(read(list, series).map_err(malformed)?);
            }
        }
        let ids = union(lists.iter().map(|l| &l[..]).collect());
        match ids.last() {
            Some(last) if *last >= self.directory.series => Err("the postings do not decode".to_owned()),
            _ => Ok(ids),
        }
    }
}

/// Gives the places of the values that a matcher accepts (or, with `wanted` false, does not).
fn chosen(table: &Table, matcher: &Matcher, wanted: bool) -> Vec<usize> {
    let positive = matches!(matcher.op(), MatchOp::Equal | MatchOp::Regex);
    // What a pattern names is looked up, be it to keep it or to take it away; all else is tried value by value.
    let named = match matcher.op() {
        _ if positive != wanted => Shape::Any,
        MatchOp::Equal | MatchOp::NotEqual => Shape::Literals(vec![matcher.value().to_owned()]),
        MatchOp::Regex | MatchOp::NotRegex => shape(matcher.value()),
    };
    let within = match named {
        Shape::Literals(literals) => {
            let mut found: Vec<usize> = literals.iter().filter_map(|l| table.find(l)).collect();
            found.sort_unstable();
            found.dedup();
            return found;
        }
        Shape::Prefix(prefix) => prefixed(table, &prefix),
        Shape::Any => 0..table.len(),
    };
    within.filter(|at| matcher.matches(table.value(*at)) == wanted).collect()
}

fn prefixed(table: &Table, prefix: &str) -> Range<usize> {
    let first = table.lower_bound(prefix);
    let (mut low, mut high) = (first, table.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if table.value(middle).starts_with(prefix) { low = middle + 1 } else { high = middle }
    }
    first..low
}
