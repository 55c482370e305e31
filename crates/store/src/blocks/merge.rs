//! Many small blocks of one window into one.
//!
//! Invariants: 1. the merged block is read back from the disk, every sample of it, and compared by count and digest
//! with its sources before it takes their place; 2. its manifest names them, so that a crash in between leaves no
//! sample twice.

use std::path::Path;
use std::sync::Arc;

use model::{Labels, Samples, TimeRange};

use super::BlockInput;
use super::block::{Block, Shared};
use super::cursor::{Cursor, LeftOut, leave_out};
use super::reader::read_series;
use super::writer::{BlockWriter, count, digest};
use crate::attrs::SeriesAttrs;

/// Count and digest of samples.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Sum {
    samples: u64,
    digest: u64,
}

impl Sum {
    fn add(&mut self, labels: &Labels, samples: &Samples) {
        self.samples += count(samples);
        self.digest = self.digest.wrapping_add(digest(labels, samples));
    }
}

/// Writes one block with the samples of all the given ones (in order of their writing) and publishes it.
pub fn merge(
    shared: &Arc<Shared>,
    blocks_dir: &Path,
    id: u64,
    sources: &[Arc<Block>],
) -> Result<(Block, LeftOut), String> {
    let window = sources.first().map(|b| b.manifest.window()).ok_or("nothing to merge")?;
    let mut writer = BlockWriter::new(shared.clone(), blocks_dir, id, window);
    writer.replaces(sources.iter().map(|b| b.id()).collect());
    let mut cursors = sources.iter().cloned().map(Cursor::new).collect::<Result<Vec<_>, _>>()?;
    let (mut left_out, mut dropped) = (LeftOut::default(), Sum::default());
    while let Some(labels) = least(&mut cursors)? {
        let (input, out) = joined(&mut cursors, &labels, &mut dropped)?;
        left_out.merge(out);
        writer.add(&input)?;
    }
    let block = writer.finish()?;
    check(&block, sources, dropped)?;
    shared.cache.forget(id);
    Ok((writer.publish()?, left_out))
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

/// Joins the samples of one label set over all sources; attributes are those of the latest.
fn joined(cursors: &mut [Cursor], labels: &Labels, dropped: &mut Sum) -> Result<(BlockInput, LeftOut), String> {
    let (mut all, mut left_out, mut attrs) = (Samples::default(), LeftOut::default(), None);
    for cursor in cursors {
        let block = cursor.block.clone();
        let Some(row) = cursor.row()?.filter(|row| row.labels == *labels) else { continue };
        let mut samples = Samples::default();
        read_series(&block, row, TimeRange::ALL, &mut samples)?;
        attrs = Some(SeriesAttrs {
            metric_type: row.metric_type,
            source: row.source.clone(),
            target_id: row.target_id.clone(),
        });
        cursor.step();
        let mut before = Sum::default();
        before.add(labels, &samples);
        left_out.merge(leave_out(&mut samples, &all));
        let mut kept = Sum::default();
        kept.add(labels, &samples);
        dropped.samples += before.samples - kept.samples;
        dropped.digest = dropped.digest.wrapping_add(before.digest.wrapping_sub(kept.digest));
        all = crate::select::merge(all, samples);
    }
    let attrs = Arc::new(attrs.ok_or("no source has the series any more")?);
    Ok((BlockInput { labels: labels.clone(), attrs, samples: all }, left_out))
}

/// Reads the new block and compares.
fn check(block: &Block, sources: &[Arc<Block>], dropped: Sum) -> Result<(), String> {
    let mut found = dropped;
    let lookup = block.lookup()?;
    let ids: Vec<u32> = (0..lookup.series()).collect();
    let mut failed = Ok(());
    lookup.visit(&ids, |_, row| {
        let mut samples = Samples::default();
        if failed.is_ok() {
            failed = read_series(block, row, TimeRange::ALL, &mut samples);
            found.add(&row.labels, &samples);
        }
    })?;
    failed?;
    let mut want = Sum::default();
    for source in sources {
        want.samples += source.manifest.samples;
        want.digest = want.digest.wrapping_add(source.manifest.digest);
    }
    if found == want {
        return Ok(());
    }
    Err(format!(
        "the blocks of window {} do not merge: {} samples with digest {:016x} became {} with {:016x}; they stay as they are",
        block.manifest.window_start_ms, want.samples, want.digest, found.samples, found.digest
    ))
}
