//! Head and blocks as tables for a reader that is not ours: files of Parquet, and the rest of the samples in columns.
//!
//! Invariant: files and rows together are what [`model::Select`] gives for the same range, stale markers included; a
//! series and time that the files show is not among the rows, so that counts add up without looking for doubles.
//! Limits: [`Store::tabular`] takes the bytes that the rows may have.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use model::{Labels, Matcher, Samples, SelectError, SeriesReader, TimeRange};

use crate::attrs::SeriesAttrs;
use crate::blocks::{BlockFiles, BlockTables, HiddenRows, Stop, TablesOf};
use crate::head::Snapshot;
use crate::store::Store;

/// What a row of a sample counts for: series, time and value.
const ROW_BYTES: u64 = 24;
/// What a series counts for beside its labels.
const SERIES_BYTES: u64 = 96;

/// All samples of a range at one moment.
#[derive(Default, Debug)]
pub struct Tabular {
    /// Blocks to read.
    pub files: Vec<BlockFiles>,
    /// Rows of them to leave out.
    pub hidden: Vec<HiddenRows>,
    /// Series that have samples in no block yet.
    pub series: Vec<HeadRow>,
    /// The places in `series`, times and values of their samples; native histograms are left out.
    pub owners: Vec<i64>,
    /// See `owners`.
    pub ts_ms: Vec<i64>,
    /// See `owners`.
    pub values: Vec<f64>,
}

/// A series of the head.
#[derive(Clone, Debug)]
pub struct HeadRow {
    /// Its labels.
    pub labels: Labels,
    /// Type, source and target of its latest owner.
    pub attrs: Arc<SeriesAttrs>,
}

impl Store {
    /// Gives the samples of a range as tables.
    ///
    /// **Takes** `names`: only these metrics are wanted of the head; `None` for all. The files are not narrowed by them.
    /// **Errors** [`SelectError::Limit`] when the rows have more than `bytes_max` bytes, or when `stop` says so.
    /// **Cost** see [`crate::BlockFolder::files_in`].
    pub fn tabular(
        &self,
        names: Option<&[String]>,
        range: TimeRange,
        bytes_max: u64,
        stop: Stop<'_>,
    ) -> Result<Tabular, SelectError> {
        let core = &self.core;
        let range = TimeRange { start_ms: range.start_ms.max(core.retention_start_ms()), end_ms: range.end_ms };
        if range.start_ms > range.end_ms {
            return Ok(Tabular::default());
        }
        // The head first, as in `select`: what moves into a block meanwhile is seen twice, and left out below.
        let head = self.head_rows(names, range);
        let tables = core.blocks.tables(range, TablesOf::Samples, stop)?;
        let mut out = Tabular::default();
        let mut left = Budget(bytes_max);
        let known = Known::of(&tables, &head)?;
        for Recent { row, snapshot, kept, .. } in head {
            stop.check()?;
            let mut samples = Samples::default();
            snapshot.read(kept, &mut samples).map_err(SelectError::Storage)?;
            known.leave_out(&row.labels, &mut samples)?;
            if samples.ts_ms.is_empty() {
                continue;
            }
            let labels: usize = row.labels.iter().map(|(n, v)| n.len() + v.len() + 6).sum();
            left.take(SERIES_BYTES + labels as u64 + ROW_BYTES * samples.ts_ms.len() as u64)?;
            let place = out.series.len() as i64;
            out.owners.extend(std::iter::repeat_n(place, samples.ts_ms.len()));
            out.ts_ms.append(&mut samples.ts_ms);
            out.values.append(&mut samples.values);
            out.series.push(row);
        }
        out.files = tables.files;
        out.hidden = tables.hidden;
        Ok(out)
    }

    /// Gives the files of series and of roll-ups, and what to leave out of them.
    ///
    /// **Errors** when files are damaged, too much is to be left out, or `stop` says so. With [`Store::head_series`] they are
    /// all series only if those are asked for first: what moves into a block meanwhile is seen twice then, else never.
    pub fn series_files(&self, stop: Stop<'_>) -> Result<(Vec<BlockFiles>, Vec<HiddenRows>), SelectError> {
        let kept = TimeRange { start_ms: self.core.retention_start_ms(), end_ms: i64::MAX };
        let tables = self.core.blocks.tables(kept, TablesOf::SeriesAndRollups, stop)?;
        Ok((tables.files, tables.hidden))
    }

    /// Gives the label sets of the head with samples that are kept, without the samples.
    ///
    /// **Errors** [`SelectError::Limit`] when they have more than `bytes_max` bytes.
    pub fn head_series(&self, bytes_max: u64) -> Result<Vec<HeadRow>, SelectError> {
        let core = &self.core;
        let kept = TimeRange { start_ms: core.retention_start_ms(), end_ms: i64::MAX };
        let mut left = Budget(bytes_max);
        let mut out = Vec::new();
        for id in core.matching(&[]) {
            let mut row = None;
            core.head.visit(&[id], |_, slot| {
                let inside = |(start_ms, end_ms)| kept.overlaps(&TimeRange { start_ms, end_ms });
                let attrs = core.attrs.get(slot.attrs).filter(|_| slot.span().is_some_and(inside));
                row = attrs.map(|attrs| HeadRow { labels: slot.labels.clone(), attrs });
            });
            let Some(row) = row else { continue };
            let labels: usize = row.labels.iter().map(|(n, v)| n.len() + v.len() + 6).sum();
            left.take(SERIES_BYTES + labels as u64)?;
            out.push(row);
        }
        Ok(out)
    }

    fn head_rows(&self, names: Option<&[String]>, range: TimeRange) -> Vec<Recent> {
        let core = &self.core;
        let ids = match names {
            None => core.matching(&[]),
            Some(names) => {
                let mut ids: Vec<u32> =
                    names.iter().flat_map(|name| core.matching(&[Matcher::equal("__name__", name)])).collect();
                ids.sort_unstable();
                ids.dedup();
                ids
            }
        };
        let rules = core.retention.read().clone();
        let now_ms = core.clock.now_ms();
        let mut out = Vec::new();
        core.head.visit(&ids, |_, slot| {
            let (Some(snapshot), Some(attrs)) = (slot.snapshot(range), core.attrs.get(slot.attrs)) else { return };
            let Some((first_ms, last_ms)) = slot.span() else { return };
            let floor_ms = now_ms.saturating_sub(rules.keep_ms(&attrs.target_id, &slot.labels));
            let kept = TimeRange { start_ms: range.start_ms.max(floor_ms), end_ms: range.end_ms };
            if kept.start_ms <= kept.end_ms {
                let span = TimeRange { start_ms: first_ms.max(kept.start_ms), end_ms: last_ms.min(kept.end_ms) };
                out.push(Recent { row: HeadRow { labels: slot.labels.clone(), attrs }, snapshot, kept, span });
            }
        });
        out
    }
}

/// What the head has of a series.
struct Recent {
    row: HeadRow,
    snapshot: Snapshot,
    kept: TimeRange,
    /// Its samples lie within.
    span: TimeRange,
}

struct Budget(u64);

impl Budget {
    fn take(&mut self, bytes: u64) -> Result<(), SelectError> {
        let text = "more recent samples than fit: give a shorter time, as in timestamp >= now() - INTERVAL '1 hour', or name the metrics, as in metric_name = 'up'";
        self.0 = self.0.checked_sub(bytes).ok_or_else(|| SelectError::Limit(text.to_owned()))?;
        Ok(())
    }
}

/// What the blocks have of the head's times.
#[derive(Default)]
struct Known {
    readers: HashMap<Labels, Vec<Box<dyn SeriesReader>>>,
}

impl Known {
    /// Looks into the blocks only where the head's samples reach into their times.
    fn of(tables: &BlockTables, head: &[Recent]) -> Result<Known, SelectError> {
        let mut known = Known::default();
        let all = head
            .iter()
            .map(|recent| recent.span)
            .reduce(|a, b| TimeRange { start_ms: a.start_ms.min(b.start_ms), end_ms: a.end_ms.max(b.end_ms) });
        let Some(all) = all else { return Ok(known) };
        let there: HashSet<&Labels> = head.iter().map(|recent| &recent.row.labels).collect();
        for reader in tables.readers(all, |labels| there.contains(labels))? {
            known.readers.entry(reader.labels().clone()).or_default().push(reader);
        }
        Ok(known)
    }

    fn leave_out(&self, labels: &Labels, samples: &mut Samples) -> Result<(), SelectError> {
        let (Some(first), Some(last)) = (samples.ts_ms.first(), samples.ts_ms.last()) else { return Ok(()) };
        let range = TimeRange { start_ms: *first, end_ms: *last };
        for reader in self.readers.get(labels).into_iter().flatten() {
            let mut there = Samples::default();
            reader.read(range, &mut there)?;
            let taken = |ts_ms: i64| {
                there.ts_ms.binary_search(&ts_ms).is_ok()
                    || there.histograms.binary_search_by_key(&ts_ms, |h| h.0).is_ok()
            };
            let doubles = samples.ts_ms.iter().copied().zip(samples.values.iter().copied());
            (samples.ts_ms, samples.values) = doubles.filter(|d| !taken(d.0)).unzip();
        }
        Ok(())
    }
}
