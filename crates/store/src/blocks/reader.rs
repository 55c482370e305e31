//! Reads the samples of one series out of a block.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use columns::{Column, ColumnPage, NO_SCALED, SeriesRow, scale};
use model::{Labels, Samples, SelectError, SeriesReader, TimeRange, stale_nan};

use super::block::{Block, OpenSamples};
use super::masks::RowMask;

/// One series of one block. It holds no file open and no page in memory.
pub struct BlockReader {
    pub block: Arc<Block>,
    pub row: SeriesRow,
    pub mask: RowMask,
}

impl SeriesReader for BlockReader {
    fn labels(&self) -> &Labels {
        &self.row.labels
    }

    fn read(&self, range: TimeRange, out: &mut Samples) -> Result<(), SelectError> {
        let (before, histograms_before) = (out.len(), out.histograms.len());
        let result = read_masked(&self.block, &self.row, range, &self.mask, out);
        if result.is_err() {
            out.ts_ms.truncate(before);
            out.values.truncate(before);
            out.histograms.truncate(histograms_before);
        }
        match result {
            // Removed for its age between the selection and now: there is nothing any more that could be asked for.
            Err(_) if self.block.removed.load(Ordering::Acquire) => Ok(()),
            Err(why) => {
                self.block.shared.report(&format!("cannot read {}: {why}", self.row.labels));
                Err(SelectError::Storage(why))
            }
            Ok(()) => Ok(()),
        }
    }
}

/// Appends the samples of a series in a range that are neither deleted nor past their retention.
pub fn read_visible(block: &Block, row: &SeriesRow, range: TimeRange, out: &mut Samples) -> Result<(), String> {
    let shared = &block.shared;
    let mask = shared.masks().of(&block.manifest, &row.labels, &row.target_id, shared.clock.now_ms());
    read_masked(block, row, range, &mask, out)
}

fn read_masked(
    block: &Block,
    row: &SeriesRow,
    range: TimeRange,
    mask: &RowMask,
    out: &mut Samples,
) -> Result<(), String> {
    let start_ms = range.start_ms.max(row.min_ts_ms).max(mask.floor_ms);
    let end_ms = range.end_ms.min(row.max_ts_ms).min(mask.ceiling_ms.saturating_sub(1));
    let range = TimeRange { start_ms, end_ms };
    if range.start_ms > range.end_ms || mask.hides_all(range) {
        return Ok(());
    }
    if mask.is_open(range) {
        return read_series(block, row, range, out);
    }
    let mut samples = Samples::default();
    read_series(block, row, range, &mut samples)?;
    mask.apply(&mut samples);
    out.ts_ms.append(&mut samples.ts_ms);
    out.values.append(&mut samples.values);
    out.histograms.append(&mut samples.histograms);
    Ok(())
}

/// Appends the samples of a series in a range, hidden ones as well.
pub fn read_series(block: &Block, row: &SeriesRow, range: TimeRange, out: &mut Samples) -> Result<(), String> {
    if !range.overlaps(&TimeRange { start_ms: row.min_ts_ms, end_ms: row.max_ts_ms }) {
        return Ok(());
    }
    let (samples, rows) = block.open_samples()?;
    let mut at = row.rows.first_row;
    let end = at.checked_add(row.rows.rows).filter(|end| *end <= rows);
    let end = end.ok_or_else(|| format!("{}: rows past the end", block.path.display()))?;
    while at < end {
        let (page, first, next) = samples.page_at(at)?;
        let stop = end.min(next);
        read_page(block, &samples, row, page, (at - first) as usize..(stop - first) as usize, range, out)?;
        at = stop;
    }
    if row.histograms.rows > 0 { read_histograms(block, row, range, out) } else { Ok(()) }
}

fn read_histograms(block: &Block, row: &SeriesRow, range: TimeRange, out: &mut Samples) -> Result<(), String> {
    let open = block.open_histograms()?;
    let mut at = row.histograms.first_row;
    let past = || format!("{}: rows of histograms past the end", block.path.display());
    let end = at.checked_add(row.histograms.rows).filter(|end| *end <= open.file.rows()).ok_or_else(past)?;
    while at < end {
        let (page, first, next) = open.file.page_of(at).ok_or_else(past)?;
        let stop = end.min(next);
        let stored = block.histogram_page(&open, page)?;
        let mine = stored.get((at - first) as usize..(stop - first) as usize).ok_or_else(short)?;
        let inside = mine.iter().filter(|h| range.contains(h.ts_ms));
        out.histograms.extend(inside.map(|h| (h.ts_ms, h.histogram.clone())));
        at = stop;
    }
    Ok(())
}

fn read_page(
    block: &Block,
    samples: &OpenSamples,
    row: &SeriesRow,
    page: usize,
    rows: Range<usize>,
    range: TimeRange,
    out: &mut Samples,
) -> Result<(), String> {
    let times = block.page(samples, Column::Timestamp, page)?;
    let ColumnPage::Integers(times) = &*times else { return Err(short()) };
    let mine = times.get(rows.clone()).ok_or_else(short)?;
    let from = rows.start + mine.partition_point(|ts| *ts < range.start_ms);
    let to = rows.start + mine.partition_point(|ts| *ts <= range.end_ms);
    if from >= to {
        return Ok(());
    }
    let page_of = |wanted: bool, column| wanted.then(|| block.page(samples, column, page)).transpose();
    let scaled = page_of(row.rows.exponent.is_some(), Column::Scaled)?;
    let plain = page_of(row.rows.plain_rows > 0, Column::Plain)?;
    let stale = page_of(row.rows.stale_rows > 0, Column::Stale)?;
    let integers = match scaled.as_deref() {
        Some(ColumnPage::Integers(n)) => Some(n.get(from..to).ok_or_else(short)?),
        _ => None,
    };
    let doubles = match plain.as_deref() {
        Some(ColumnPage::Doubles(v)) => Some(v.get(from..to).ok_or_else(short)?),
        _ => None,
    };
    let flags = match stale.as_deref() {
        Some(ColumnPage::Flags(f)) => Some(f.get(from..to).ok_or_else(short)?),
        _ => None,
    };
    out.ts_ms.extend_from_slice(times.get(from..to).ok_or_else(short)?);
    let divisor = scale::divisor(row.rows.exponent.unwrap_or(0));
    out.values.reserve(to - from);
    for at in 0..to - from {
        let is_stale = flags.is_some_and(|f| f.get(at) == Some(&true));
        let n = integers.and_then(|i| i.get(at)).copied().filter(|n| *n != NO_SCALED);
        let value = match (is_stale, n, doubles.and_then(|d| d.get(at))) {
            (true, _, _) => stale_nan(),
            (false, Some(n), _) => scale::from_scaled(n, divisor),
            (false, None, Some(value)) => *value,
            (false, None, None) => return Err(format!("{}: a row without a value", block.path.display())),
        };
        out.values.push(value);
    }
    Ok(())
}

fn short() -> String {
    "a page holds fewer rows than it should".to_owned()
}
