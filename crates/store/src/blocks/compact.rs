//! Small blocks into larger ones, and blocks rewritten without what is hidden of them.
//!
//! A merge goes: plan and number (under the lock) → read, write, check (without it, within a budget of bytes per second
//! and with a cache of its own) → publish and replace the list (under the lock).
//! Invariants: 1. one merge at a time; 2. its sources are busy meanwhile: nobody else removes them; 3. what fails keeps
//! its sources and is tried again later, each time after a longer wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashSet;
use model::TimeRange;

use super::block::Block;
use super::cursor::LeftOut;
use super::deletions;
use super::folder::{BlockFolder, Writing};
use super::manifest::Balance;
use super::masks::Masks;
use super::merge::{Merged, Order, merge};
use super::pace::{Pace, PacedFs};
use super::plan::{self, Limits, Piece, Plan};
use super::removal::Leaving;
use super::rolling::rolled_to;

/// How long after its first failure a merge is tried again; doubles with each.
const RETRY_MS: i64 = 600_000;
const RETRY_MS_MAX: i64 = 86_400_000;
/// What was found out about the retention of a block is asked for again after this.
const RECHECK_MS: i64 = 3_600_000;

/// A merge that failed.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    wait_ms: i64,
    again_ms: i64,
}

/// When a block was last looked at for hidden samples.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// Of the masks.
    version: u64,
    again_ms: i64,
}

pub(super) struct Job {
    pub order: Order,
    pub sources: Vec<Arc<Block>>,
    /// Roll the one source up to this, beside it.
    pub roll_up_ms: Option<i64>,
}

impl BlockFolder {
    /// Does one merge or rewrite, if one is due; gives how many blocks went into it.
    pub(super) fn compact_once(&self, closed_ms: i64, now_ms: i64, pace: &Arc<Pace>) -> Result<u64, String> {
        let _alone = self.compacting.lock();
        let Some(job) = self.next_job(closed_ms, now_ms)? else { return Ok(0) };
        let done = match job.roll_up_ms {
            Some(resolution_ms) => self.roll_up(&job, resolution_ms, pace),
            None => self.carry_out(&job, pace),
        };
        let key: Vec<u64> = job.sources.iter().map(|b| b.id()).collect();
        let mut writing = self.writing.lock();
        writing.busy.clear();
        match done {
            Ok(()) => {
                writing.failed.remove(&key);
                Ok(key.len() as u64)
            }
            Err(_) if pace.is_stopped() => Ok(0),
            Err(why) => {
                self.failed_merges.fetch_add(1, Ordering::Relaxed);
                let wait_ms = writing.failed.get(&key).map_or(RETRY_MS, |f| (f.wait_ms * 2).min(RETRY_MS_MAX));
                writing.failed.insert(key, Failed { wait_ms, again_ms: now_ms.saturating_add(wait_ms) });
                Err(why)
            }
        }
    }

    fn next_job(&self, closed_ms: i64, now_ms: i64) -> Result<Option<Job>, String> {
        // First of all: what is about to expire is rolled up before.
        if let Some((block, resolution_ms)) = self.next_roll_up(now_ms) {
            let plan = Plan { window: block.manifest.window(), sources: vec![block.id()] };
            return Ok(self.take(&plan, now_ms, Some(resolution_ms)));
        }
        let list = self.list();
        let raw = list.iter().filter(|b| b.manifest.resolution_ms.is_none());
        let piece = |b: &Arc<Block>| Piece { id: b.id(), window: b.manifest.window(), bytes: b.manifest.bytes() };
        let pieces: Vec<Piece> = raw.map(piece).collect();
        let limits = Limits {
            ranges_ms: &self.settings.compaction_ranges_ms,
            closed_ms,
            bytes_max: self.settings.compaction_block_bytes_max,
        };
        let found = {
            let writing = self.writing.lock();
            plan::next(&pieces, &limits, |plan| {
                writing.may_try(&plan.sources, now_ms) && self.is_equally_rolled(&list, &plan.sources)
            })
        };
        let found = match found {
            Some(plan) => Some(plan),
            None => self.next_rewrite(now_ms)?,
        };
        Ok(found.and_then(|plan| self.take(&plan, now_ms, None)))
    }

    /// Numbers a plan and reserves its sources.
    fn take(&self, plan: &Plan, now_ms: i64, roll_up_ms: Option<i64>) -> Option<Job> {
        let mut writing = self.writing.lock();
        let list = self.list();
        let sources: Vec<Arc<Block>> = list.iter().filter(|b| plan.sources.contains(&b.id())).cloned().collect();
        if sources.len() != plan.sources.len() {
            // One was dropped since; there is another round.
            return None;
        }
        let id = writing.next_id;
        writing.next_id += 1;
        writing.busy = plan.sources.iter().copied().collect();
        // Those that its sources replaced may be there still.
        let older = sources.iter().flat_map(|b| b.manifest.replaces.iter().copied());
        let older = older.filter(|id| writing.leaving.iter().any(|l| l.block.id() == *id));
        let replaces = plan.sources.iter().copied().chain(older).collect();
        let rolled = sources.first().map(|block| rolled_to(&list, block)).unwrap_or_default();
        let order = Order { id, window: plan.window, replaces, masks: self.shared.masks(), now_ms, rolled };
        Some(Job { order, sources, roll_up_ms })
    }

    fn carry_out(&self, job: &Job, pace: &Arc<Pace>) -> Result<(), String> {
        let fs = Arc::new(PacedFs { fs: self.shared.fs.clone(), pace: pace.clone() });
        let apart = self.shared.apart(fs, self.settings.compaction_memory_bytes_max);
        let again = |b: &Arc<Block>| Arc::new(Block::new(apart.clone(), b.path.clone(), b.manifest.clone()));
        let sources: Vec<Arc<Block>> = job.sources.iter().map(again).collect();
        let Merged { writer, balance } = merge(&apart, &self.dir, &job.order, &sources)?;
        let mut writing = self.writing.lock();
        let gone: HashSet<u64> = job.sources.iter().map(|b| b.id()).collect();
        let mut blocks: Vec<Arc<Block>> = self.list().iter().filter(|b| !gone.contains(&b.id())).cloned().collect();
        if let Some(writer) = writer {
            let Block { path, manifest, .. } = writer.publish()?;
            blocks.push(Arc::new(Block::new(self.shared.clone(), path, manifest)));
        }
        self.replace_list(blocks);
        writing.leaving.extend(job.sources.iter().cloned().map(Leaving::replaced));
        drop(writing);
        self.note(LeftOut { repeated: balance.repeated, superseded: balance.superseded });
        self.note_merge(&balance);
        Ok(())
    }

    /// Finds a block with samples that are hidden for good; forgets deletions that no block has samples of any more.
    fn next_rewrite(&self, now_ms: i64) -> Result<Option<Plan>, String> {
        let masks = self.shared.masks();
        if masks.rules.is_uniform() && masks.deletions.is_empty() {
            return Ok(None);
        }
        for block in self.list().iter() {
            let known = {
                let writing = self.writing.lock();
                if !writing.may_try(&[block.id()], now_ms) {
                    continue;
                }
                writing.checked.get(&block.id()).copied()
            };
            if known.is_some_and(|c| c.version == masks.version && now_ms < c.again_ms) {
                continue;
            }
            if has_hidden(block, &masks, now_ms)? {
                return Ok(Some(Plan { window: block.manifest.window(), sources: vec![block.id()] }));
            }
            let checked = Checked { version: masks.version, again_ms: now_ms.saturating_add(RECHECK_MS) };
            self.writing.lock().checked.insert(block.id(), checked);
        }
        self.settle_deletions(&masks, now_ms).map(|()| None)
    }

    /// Forgets the deletions that every block was looked at for.
    fn settle_deletions(&self, masks: &Arc<Masks>, now_ms: i64) -> Result<(), String> {
        let mut writing = self.writing.lock();
        if masks.deletions.is_empty() || self.shared.masks().version != masks.version {
            return Ok(());
        }
        let list = self.list();
        let concerns = |block: &Arc<Block>, d: &deletions::Deletion| {
            block.id() < d.before_block && block.manifest.span().overlaps(&d.range)
        };
        let done = |d: &deletions::Deletion| {
            let settled = |b: &Arc<Block>| writing.checked.get(&b.id()).is_some_and(|c| c.version == masks.version);
            list.iter().filter(|b| concerns(b, d)).all(settled)
                && !writing.leaving.iter().any(|l| concerns(&l.block, d))
                && now_ms >= d.made_ms
        };
        let left: Vec<_> = masks.deletions.iter().filter(|d| !done(d)).cloned().collect();
        if left.len() == masks.deletions.len() {
            return Ok(());
        }
        self.put_deletions(&mut writing, left)
    }

    /// Makes a list of deletions durable and lets it count.
    pub(super) fn put_deletions(&self, writing: &mut Writing, list: Vec<deletions::Deletion>) -> Result<(), String> {
        writing.deletions_revision += 1;
        deletions::store(&*self.shared.fs, &self.dir, writing.deletions_revision, &list)
            .map_err(|e| format!("cannot write the list of deletions: {e}"))?;
        self.change_masks(|masks| masks.deletions = list);
        Ok(())
    }

    /// Puts changed masks in place.
    pub(super) fn change_masks(&self, change: impl FnOnce(&mut Masks)) {
        let mut place = self.shared.masks.write();
        let mut next = (**place).clone();
        change(&mut next);
        next.version += 1;
        *place = Arc::new(next);
    }

    fn note_merge(&self, balance: &Balance) {
        let mut totals = self.merged.lock();
        totals.samples_in += balance.samples_in;
        totals.repeated += balance.repeated;
        totals.superseded += balance.superseded;
        totals.expired += balance.expired;
        totals.deleted += balance.deleted;
    }
}

impl Writing {
    pub(super) fn may_try(&self, sources: &[u64], now_ms: i64) -> bool {
        self.failed.get(sources).is_none_or(|f| f.again_ms <= now_ms)
    }
}

/// Tells whether a block has samples that were deleted, or series whose retention is over for the whole block.
fn has_hidden(block: &Block, masks: &Masks, now_ms: i64) -> Result<bool, String> {
    let (id, span) = (block.id(), block.manifest.span());
    let touched = masks.deletions.iter().any(|d| id < d.before_block && d.range.overlaps(&span));
    if !touched && masks.rules.is_uniform() {
        return Ok(false);
    }
    let lookup = block.lookup()?;
    let ids: Vec<u32> = (0..lookup.series()).collect();
    let mut found = false;
    lookup.visit(&ids, |_, row| {
        if !found {
            let mask = masks.of(&block.manifest, &row.labels, &row.target_id, now_ms);
            let range = TimeRange { start_ms: row.min_ts_ms, end_ms: row.max_ts_ms };
            // A block that only begins to expire is left alone: it would be rewritten again and again.
            found = mask.floor_ms > span.end_ms || mask.deleted.iter().any(|d| d.overlaps(&range));
        }
    })?;
    Ok(found)
}
