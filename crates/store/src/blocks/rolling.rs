//! Rolls blocks up: makes, beside a block of samples, one with what they come to in each stretch of time.
//!
//! Invariants: 1. a block is rolled up to a resolution once: the roll-up names it, and a merged block says what its
//! sources were rolled up to; 2. blocks that differ in that are not merged; 3. what is deleted does not get into it; 4. the
//! increase of a counter from one block to the next is in the first stretch of the latter.

use std::sync::Arc;

use model::{Labels, Samples, TimeRange, is_stale};

use super::BlockInput;
use super::block::Block;
use super::compact::Job;
use super::cursor::Cursor;
use super::folder::BlockFolder;
use super::masks::RetentionRules;
use super::merge::verify;
use super::pace::{Pace, PacedFs};
use super::reader::read_series;
use super::rollup::{is_counter, roll_up};
use super::writer::BlockWriter;
use crate::attrs::SeriesAttrs;

/// A counter's last sample in earlier blocks is looked for this far back.
const BEFORE_MS: i64 = 3_600_000;

/// Gives the resolutions to which a block was rolled up.
pub fn rolled_to(list: &[Arc<Block>], block: &Block) -> Vec<i64> {
    let here = |b: &&Arc<Block>| b.manifest.rolled_from.contains(&block.id());
    let mut all: Vec<i64> = list.iter().filter(here).filter_map(|b| b.manifest.resolution_ms).collect();
    all.extend(&block.manifest.rolled);
    all.sort_unstable();
    all.dedup();
    all
}

/// Tells whether a block's samples have the age at which some target wants them rolled up: as the rule says, or when the
/// first are about to expire.
fn is_due(rules: &RetentionRules, resolution_ms: i64, block: &Block, now_ms: i64) -> bool {
    let window = block.manifest.window();
    rules.targets.values().any(|target| {
        let raw_ms = target.keep_ms.unwrap_or(rules.default_ms);
        target.rollups.iter().filter(|rule| rule.resolution_ms == resolution_ms).any(|rule| {
            let age_ms = now_ms.saturating_sub(window.end_ms);
            let old = age_ms >= rule.after_ms || now_ms.saturating_sub(window.start_ms) >= raw_ms;
            age_ms >= 0 && old && age_ms < rule.keep_ms
        })
    })
}

impl BlockFolder {
    /// Tells whether blocks were rolled up to the same resolutions.
    pub(super) fn is_equally_rolled(&self, list: &[Arc<Block>], ids: &[u64]) -> bool {
        let mut rolled = list.iter().filter(|b| ids.contains(&b.id())).map(|b| rolled_to(list, b));
        let first = rolled.next();
        rolled.all(|other| Some(other) == first)
    }

    /// Finds a block to roll up, oldest first, and to what.
    pub(super) fn next_roll_up(&self, now_ms: i64) -> Option<(Arc<Block>, i64)> {
        let masks = self.shared.masks();
        let mut resolutions: Vec<i64> =
            masks.rules.targets.values().flat_map(|t| t.rollups.iter().map(|r| r.resolution_ms)).collect();
        resolutions.sort_unstable();
        resolutions.dedup();
        if resolutions.is_empty() {
            return None;
        }
        let list = self.list();
        let writing = self.writing.lock();
        for block in list.iter().filter(|b| b.manifest.resolution_ms.is_none()) {
            let rolled = rolled_to(&list, block);
            let wanted = resolutions.iter().copied().find(|resolution_ms| {
                !rolled.contains(resolution_ms)
                    && !writing.nothing_to_roll.contains(&(block.id(), *resolution_ms, masks.version))
                    && is_due(&masks.rules, *resolution_ms, block, now_ms)
            });
            if let Some(resolution_ms) = wanted
                && writing.may_try(&[block.id()], now_ms)
            {
                return Some((block.clone(), resolution_ms));
            }
        }
        None
    }

    /// Writes the roll-up of a block beside it.
    pub(super) fn roll_up(&self, job: &Job, resolution_ms: i64, pace: &Arc<Pace>) -> Result<(), String> {
        let Some(source) = job.sources.first() else { return Ok(()) };
        let fs = Arc::new(PacedFs { fs: self.shared.fs.clone(), pace: pace.clone() });
        let apart = self.shared.apart(fs, self.settings.compaction_memory_bytes_max);
        let source = Arc::new(Block::new(apart.clone(), source.path.clone(), source.manifest.clone()));
        let mut writer = BlockWriter::new(apart.clone(), &self.dir, job.order.id, job.order.window);
        writer.rolls_up(resolution_ms, vec![source.id()]);
        self.roll_series(job, resolution_ms, &source, &mut writer)?;
        if writer.is_empty() {
            let mut writing = self.writing.lock();
            let known: Vec<u64> = self.list().iter().map(|b| b.id()).collect();
            writing.nothing_to_roll.retain(|entry| known.contains(&entry.0) && entry.2 == job.order.masks.version);
            writing.nothing_to_roll.insert((source.id(), resolution_ms, job.order.masks.version));
            return Ok(());
        }
        verify(&writer.finish()?)?;
        let writing = self.writing.lock();
        let Block { path, manifest, .. } = writer.publish()?;
        let mut blocks = self.list().to_vec();
        blocks.push(Arc::new(Block::new(self.shared.clone(), path, manifest)));
        self.replace_list(blocks);
        drop(writing);
        Ok(())
    }

    fn roll_series(
        &self,
        job: &Job,
        resolution_ms: i64,
        source: &Arc<Block>,
        writer: &mut BlockWriter,
    ) -> Result<(), String> {
        let masks = &job.order.masks;
        let mut cursor = Cursor::new(source.clone())?;
        let mut before = Before::open(&self.list(), source)?;
        while let Some(row) = cursor.row()? {
            let wanted = masks.rules.rollups(&row.target_id).iter().any(|rule| rule.resolution_ms == resolution_ms);
            if wanted {
                let mut samples = Samples::default();
                read_series(source, row, TimeRange::ALL, &mut samples)?;
                let mut mask = masks.of(&source.manifest, &row.labels, &row.target_id, job.order.now_ms);
                // What has expired meanwhile is why it is rolled up.
                (mask.floor_ms, mask.ceiling_ms) = (i64::MIN, i64::MAX);
                mask.apply(&mut samples);
                let counter = is_counter(row.metric_type, row.labels.metric_name());
                let last = if counter { before.value(&row.labels)? } else { None };
                let rolled = roll_up(&samples, last, resolution_ms, counter);
                let attrs = SeriesAttrs {
                    metric_type: row.metric_type,
                    source: row.source.clone(),
                    target_id: row.target_id.clone(),
                };
                let input = BlockInput { labels: row.labels.clone(), attrs: Arc::new(attrs), samples: rolled.kept };
                writer.add_rolled(&input, &rolled.buckets)?;
            }
            cursor.step();
        }
        Ok(())
    }
}

/// Blocks that end before another begins, or reach into it.
struct Before {
    cursors: Vec<Cursor>,
    range: TimeRange,
}

impl Before {
    fn open(list: &[Arc<Block>], source: &Arc<Block>) -> Result<Before, String> {
        let start_ms = source.manifest.window().start_ms;
        let range = TimeRange { start_ms: start_ms.saturating_sub(BEFORE_MS), end_ms: start_ms.saturating_sub(1) };
        let earlier = list.iter().filter(|b| b.id() != source.id() && b.manifest.window().overlaps(&range));
        Ok(Before { cursors: earlier.cloned().map(Cursor::new).collect::<Result<_, _>>()?, range })
    }

    /// Gives a series' last value before the block; to be asked in the order of labels.
    fn value(&mut self, labels: &Labels) -> Result<Option<f64>, String> {
        let mut last: Option<(i64, f64)> = None;
        for cursor in &mut self.cursors {
            let Some(samples) = cursor.samples_of(labels, self.range)? else { continue };
            let rows = samples.ts_ms.iter().copied().zip(samples.values.iter().copied());
            let latest = rows.rev().find(|(_, value)| !is_stale(*value));
            last = [last, latest].into_iter().flatten().max_by_key(|(ts_ms, _)| *ts_ms);
        }
        Ok(last.map(|(_, value)| value))
    }
}
