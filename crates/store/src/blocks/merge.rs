//! Blocks into one, series by series.
//!
//! Invariants: 1. the merged block is read back from the disk, every sample of it, and compared by count and digest
//! with its sources, less what was left out for a reason that is counted, before it takes their place; 2. its manifest
//! names them, so that a crash in between leaves no sample twice.
//! Limits: one series of all sources is in memory at a time, of at most [`SERIES_SAMPLES_MAX`] samples, besides what the
//! writer and the cache of the sources hold.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use columns::{Bucket, RollupsFile};
use model::{Labels, Samples, TimeRange};

use super::BlockInput;
use super::block::{Block, Shared};
use super::checksums::VerifiedFile;
use super::cursor::{Cursor, LeftOut, leave_out};
use super::manifest::Balance;
use super::masks::{Masks, RowMask};
use super::reader::read_series;
use super::writer::{BlockWriter, count, digest};
use crate::attrs::SeriesAttrs;

/// More samples of one series are not merged: 256 MiB.
const SERIES_SAMPLES_MAX: u64 = 16 << 20;

/// What is to be merged.
pub struct Order {
    /// Number of the new block.
    pub id: u64,
    /// Its window.
    pub window: TimeRange,
    /// Blocks that its manifest names.
    pub replaces: Vec<u64>,
    /// What is hidden, and from when on.
    pub masks: Arc<Masks>,
    pub now_ms: i64,
    /// Resolutions to which all sources were rolled up.
    pub rolled: Vec<i64>,
}

/// A merged block, not yet published.
pub struct Merged {
    /// `None` when nothing was left.
    pub writer: Option<BlockWriter>,
    pub balance: Balance,
}

/// Count and digest of samples.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Sum {
    samples: u64,
    digest: u64,
}

impl Sum {
    fn of(labels: &Labels, samples: &Samples) -> Sum {
        Sum { samples: count(samples), digest: digest(labels, samples) }
    }

    fn add(&mut self, other: Sum) {
        self.samples += other.samples;
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

/// Writes one block with the samples of all the given ones, in order of their windows, and checks it.
pub fn merge(shared: &Arc<Shared>, blocks_dir: &Path, order: &Order, sources: &[Arc<Block>]) -> Result<Merged, String> {
    let mut writer = BlockWriter::new(shared.clone(), blocks_dir, order.id, order.window);
    writer.replaces(order.replaces.clone());
    writer.rolled(order.rolled.clone());
    let mut buckets = match sources {
        [one] if one.manifest.resolution_ms.is_some() => {
            let manifest = &one.manifest;
            writer.rolls_up(manifest.resolution_ms.unwrap_or_default(), manifest.rolled_from.clone());
            Some(Buckets::open(one)?)
        }
        all if all.iter().any(|b| b.manifest.resolution_ms.is_some()) => {
            return Err("roll-ups are not merged".to_owned());
        }
        _ => None,
    };
    let mut cursors = sources.iter().cloned().map(Cursor::new).collect::<Result<Vec<_>, _>>()?;
    let mut balance = Balance::default();
    for source in sources {
        balance.samples_in += source.manifest.samples;
        balance.digest_in = balance.digest_in.wrapping_add(source.manifest.digest);
    }
    while let Some(labels) = least(&mut cursors)? {
        let masks = masks_of(&mut cursors, &labels, order)?;
        let series_id = cursors.first_mut().and_then(|c| c.row().ok().flatten().map(|row| row.series_id));
        let input = joined(&mut cursors, &labels, &masks, &mut balance)?;
        match (&mut buckets, series_id, masks.first()) {
            (Some(buckets), Some(series_id), Some(Some(mask))) => {
                writer.add_rolled(&input, &buckets.visible(series_id, mask)?)?;
            }
            _ => writer.add(&input)?,
        }
    }
    if writer.is_empty() {
        check(Sum::default(), order.window, &balance)?;
        return Ok(Merged { writer: None, balance });
    }
    writer.balance(balance);
    let block = writer.finish()?;
    check(contents(&block)?, order.window, &balance)?;
    Ok(Merged { writer: Some(writer), balance })
}

fn least(cursors: &mut [Cursor]) -> Result<Option<Labels>, String> {
    let mut least: Option<Labels> = None;
    for cursor in cursors {
        if let Some(row) = cursor.row()?
            && least.as_ref().is_none_or(|l| row.labels < *l)
        {
            least = Some(row.labels.clone());
        }
    }
    Ok(least)
}

/// Gives what is hidden of a label set in each source; of several owners the one that keeps longest decides.
fn masks_of(cursors: &mut [Cursor], labels: &Labels, order: &Order) -> Result<Vec<Option<RowMask>>, String> {
    let (mut all, mut samples) = (Vec::with_capacity(cursors.len()), 0u64);
    for cursor in cursors {
        let block = cursor.block.clone();
        let row = cursor.row()?.filter(|row| row.labels == *labels);
        samples += row.map_or(0, |row| row.rows.rows + row.histograms.rows);
        all.push(row.map(|row| order.masks.of(&block.manifest, labels, &row.target_id, order.now_ms)));
    }
    if samples > SERIES_SAMPLES_MAX {
        return Err(format!(
            "{labels} has {samples} samples in the blocks to merge, {SERIES_SAMPLES_MAX} are possible"
        ));
    }
    let floor_ms = all.iter().flatten().map(|mask| mask.floor_ms).min().unwrap_or(i64::MIN);
    // What a finer block has is left out when it is read, not here.
    all.iter_mut().flatten().for_each(|mask| (mask.floor_ms, mask.ceiling_ms) = (floor_ms, i64::MAX));
    Ok(all)
}

/// Joins the samples of one label set over all sources; attributes are those of the latest.
fn joined(
    cursors: &mut [Cursor],
    labels: &Labels,
    masks: &[Option<RowMask>],
    balance: &mut Balance,
) -> Result<BlockInput, String> {
    let (mut all, mut attrs) = (Samples::default(), None);
    for (cursor, mask) in cursors.iter_mut().zip(masks) {
        let Some(mask) = mask else { continue };
        let block = cursor.block.clone();
        let Some(row) = cursor.row()? else { continue };
        let mut samples = Samples::default();
        read_series(&block, row, TimeRange::ALL, &mut samples)?;
        attrs = Some(SeriesAttrs {
            metric_type: row.metric_type,
            source: row.source.clone(),
            target_id: row.target_id.clone(),
        });
        let span = TimeRange { start_ms: row.min_ts_ms, end_ms: row.max_ts_ms };
        cursor.step();
        reduce(&mut samples, (span, mask), &all, labels, balance);
        all = crate::select::merge(all, samples);
    }
    let attrs = Arc::new(attrs.ok_or("no source has the series any more")?);
    Ok(BlockInput { labels: labels.clone(), attrs, samples: all })
}

/// Takes out what is hidden or known already, and enters it in the balance.
fn reduce(
    samples: &mut Samples,
    (span, mask): (TimeRange, &RowMask),
    known: &Samples,
    labels: &Labels,
    balance: &mut Balance,
) {
    // What is not changed need not be summed twice.
    let overlaps = super::writer::span(known).is_some_and(|known| known.overlaps(&span));
    if mask.is_open(span) && !overlaps {
        return;
    }
    let before = Sum::of(labels, samples);
    let masked = mask.apply(samples);
    let LeftOut { repeated, superseded } = leave_out(samples, known);
    let after = Sum::of(labels, samples);
    balance.expired += masked.expired;
    balance.deleted += masked.deleted;
    balance.repeated += repeated;
    balance.superseded += superseded;
    balance.digest_left_out = balance.digest_left_out.wrapping_add(before.digest.wrapping_sub(after.digest));
}

/// The buckets of a roll-up, read from front to back beside its series.
struct Buckets {
    file: RollupsFile,
    source: VerifiedFile,
    page: usize,
    waiting: VecDeque<(i64, Bucket)>,
}

impl Buckets {
    fn open(block: &Block) -> Result<Buckets, String> {
        let (file, source) = block.open_rollups()?;
        Ok(Buckets { file, source, page: 0, waiting: VecDeque::new() })
    }

    /// Gives those of a series that are not hidden in part; what comes before it is skipped.
    fn visible(&mut self, series_id: i64, mask: &RowMask) -> Result<Vec<Bucket>, String> {
        let mut out = Vec::new();
        loop {
            if self.waiting.is_empty() && self.page < self.file.pages() {
                self.waiting = self.file.read_page(&self.source, self.page).map_err(|e| e.to_string())?.into();
                self.page += 1;
            }
            let Some((id, bucket)) = self.waiting.front().copied().filter(|b| b.0 <= series_id) else { return Ok(out) };
            self.waiting.pop_front();
            let inside = TimeRange { start_ms: bucket.first_ts_ms, end_ms: bucket.last_ts_ms };
            if id == series_id && mask.is_open(inside) {
                out.push(bucket);
            }
        }
    }
}

/// Reads a whole block from the disk.
fn contents(block: &Block) -> Result<Sum, String> {
    let mut found = Sum::default();
    let lookup = block.lookup()?;
    let ids: Vec<u32> = (0..lookup.series()).collect();
    let mut failed = Ok(());
    lookup.visit(&ids, |_, row| {
        let mut samples = Samples::default();
        if failed.is_ok() {
            failed = read_series(block, row, TimeRange::ALL, &mut samples);
            found.add(Sum::of(&row.labels, &samples));
        }
    })?;
    failed.map(|()| found)
}

fn check(found: Sum, window: TimeRange, balance: &Balance) -> Result<(), String> {
    let digest = found.digest.wrapping_add(balance.digest_left_out);
    if found.samples + balance.left_out() == balance.samples_in && digest == balance.digest_in {
        return Ok(());
    }
    Err(format!(
        "the blocks of window {} do not merge: {} samples with digest {:016x} became {} and {} left out with {digest:016x}; \
         they stay as they are",
        window.start_ms,
        balance.samples_in,
        balance.digest_in,
        found.samples,
        balance.left_out(),
    ))
}

/// Reads every sample of a block and compares count and digest with its manifest; gives how many there are.
pub fn verify(block: &Block) -> Result<u64, String> {
    let found = contents(block)?;
    let manifest = &block.manifest;
    if (found.samples, found.digest) == (manifest.samples, manifest.digest) {
        return Ok(found.samples);
    }
    Err(format!(
        "{}: the manifest speaks of {} samples with digest {:016x}, there are {} with {:016x}",
        block.path.display(),
        manifest.samples,
        manifest.digest,
        found.samples,
        found.digest
    ))
}
