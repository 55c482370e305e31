//! Blocks on their way out: replaced, past the retention, too many bytes.
//!
//! Invariants: 1. a block goes after those that its manifest names, or they would come back at the next start; 2. what
//! could not be removed stays on the list and is tried again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::block::Block;
use super::folder::{BlockFolder, Writing};

/// How long replaced blocks live on for readers that have an older list.
const REPLACED_LIVE_MS: i64 = 600_000;

/// A block that is not on the list any more.
pub struct Leaving {
    pub block: Arc<Block>,
    /// When it goes; `None` until the next round.
    pub at_ms: Option<i64>,
}

impl Leaving {
    /// Goes when foreign readers have had their time.
    pub fn replaced(block: Arc<Block>) -> Leaving {
        Leaving { block, at_ms: None }
    }

    fn at_once(block: Arc<Block>) -> Leaving {
        Leaving { block, at_ms: Some(i64::MIN) }
    }
}

impl BlockFolder {
    /// Takes blocks off the list and removes them.
    fn drop_blocks(&self, writing: &mut Writing, gone: &[Arc<Block>]) -> Result<(), String> {
        if !gone.is_empty() {
            gone.iter().for_each(|b| b.removed.store(true, Ordering::Release));
            let kept = self.list().iter().filter(|b| !gone.iter().any(|g| g.id() == b.id())).cloned().collect();
            self.replace_list(kept);
            writing.leaving.extend(gone.iter().cloned().map(Leaving::at_once));
        }
        self.remove_due(writing, i64::MIN)
    }

    /// Removes blocks that end before a time; gives how many. One that is being merged waits.
    pub(super) fn drop_older(&self, ts_ms: i64) -> Result<u64, String> {
        let mut writing = self.writing.lock();
        let old = |b: &&Arc<Block>| b.manifest.max_ms < ts_ms && !writing.busy.contains(&b.id());
        let gone: Vec<Arc<Block>> = self.list().iter().filter(old).cloned().collect();
        self.drop_blocks(&mut writing, &gone)?;
        Ok(gone.len() as u64)
    }

    /// Removes the oldest blocks until the rest takes at most so many bytes; gives how many.
    pub(super) fn drop_beyond(&self, bytes_max: u64) -> Result<u64, String> {
        let mut writing = self.writing.lock();
        let list = self.list();
        let mut bytes: u64 = list.iter().map(|b| b.manifest.bytes()).sum();
        let waiting: u64 = writing.leaving.iter().map(|l| l.block.manifest.bytes()).sum();
        if bytes + waiting > bytes_max {
            // Foreign readers of older lists come after the limit.
            writing.leaving.iter_mut().for_each(|l| l.at_ms = Some(i64::MIN));
        }
        let mut oldest: Vec<&Arc<Block>> = list.iter().filter(|b| !writing.busy.contains(&b.id())).collect();
        oldest.sort_by_key(|b| (b.manifest.max_ms, b.id()));
        let mut gone = Vec::new();
        for block in oldest {
            if bytes <= bytes_max {
                break;
            }
            bytes = bytes.saturating_sub(block.manifest.bytes());
            gone.push(block.clone());
        }
        self.drop_blocks(&mut writing, &gone)?;
        Ok(gone.len() as u64)
    }

    /// Removes what is due.
    pub(super) fn remove_due(&self, writing: &mut Writing, now_ms: i64) -> Result<(), String> {
        for leaving in writing.leaving.iter_mut().filter(|_| now_ms != i64::MIN) {
            leaving.at_ms.get_or_insert(now_ms.saturating_add(REPLACED_LIVE_MS));
        }
        let due = |l: &Leaving| l.at_ms.is_some_and(|at| at <= now_ms);
        while let Some(block) = writing.leaving.iter().find(|l| due(l)).map(|l| l.block.clone()) {
            self.retire(writing, &block).map_err(|e| format!("cannot remove {}: {e}", block.path.display()))?;
        }
        Ok(())
    }

    fn retire(&self, writing: &mut Writing, block: &Arc<Block>) -> io::Result<()> {
        let named = |l: &&Leaving| l.block.id() != block.id() && block.manifest.replaces.contains(&l.block.id());
        while let Some(older) = writing.leaving.iter().find(named).map(|l| l.block.clone()) {
            self.retire(writing, &older)?;
        }
        block.retire(&self.dir)?;
        writing.leaving.retain(|l| l.block.id() != block.id());
        writing.checked.remove(&block.id());
        Ok(())
    }
}
