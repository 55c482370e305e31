//! The store's slow work: windows into blocks, cutting the log, retention, forgetting idle series.
//!
//! Closing windows goes: freeze (under the apply lock, so that it falls between two records) → blocks durable and
//! published → series log and metadata durable → accounts durable → ledger durable → frozen chunks dropped → chunk files
//! without other chunks removed → the reports in the segments durable elsewhere ([`Store::before_cut`]) → segments cut. A crash
//! between any two leaves a log that holds more than it needs, never less.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::{Samples, TimeRange};

use crate::attrs::SeriesAttrs;
use crate::blocks::BlockInput;
use crate::coding::write_sealed;
use crate::core::Core;
use crate::head::{FrozenSeries, Sealed, Snapshot};
use crate::series_log::SeriesLog;
use crate::store::Store;
use crate::wal::segment::file_name;

/// How long forgetting series may hold up the submitters.
pub const FORGET_WAIT: Duration = Duration::from_secs(2);

/// How many series go into a block between two looks at the log.
const SERIES_PER_LOOK: usize = 4096;

/// When which slow work was last done.
#[derive(Default)]
pub struct Schedule {
    last_late_flush_ms: Option<i64>,
}

/// What one round of slow work did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MaintenanceReport {
    /// Blocks written.
    pub blocks_written: u64,
    /// Blocks removed because they are past the retention.
    pub blocks_dropped: u64,
    /// Small blocks that went into a larger one.
    pub blocks_merged: u64,
    /// Segments of the log removed.
    pub segments_cut: u64,
    /// Series forgotten.
    pub series_forgotten: u64,
}

/// Slow work that did not go well; nothing is lost, the next round tries again.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// A block could not be written or removed.
    #[error("blocks: {0}")]
    Blocks(String),
    /// A small file could not be written, or a segment not removed.
    #[error("cannot {verb}: {error}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

pub(crate) fn failed(verb: &'static str) -> impl FnOnce(io::Error) -> MaintenanceError {
    move |error| MaintenanceError::Io { verb, error }
}

impl Store {
    /// Does what is due: windows that are over become blocks, the log is cut, what is past the retention goes.
    pub fn maintain(&self) -> Result<MaintenanceReport, MaintenanceError> {
        let mut report = self.maintain_windows()?;
        report.blocks_merged = self.compact()?;
        Ok(report)
    }

    /// Does all of [`Store::maintain`] but merging. A thread of the store calls it, see
    /// [`crate::StoreConfig::maintain_every_ms`].
    pub fn maintain_windows(&self) -> Result<MaintenanceReport, MaintenanceError> {
        let mut schedule = self.schedule.lock();
        let config = &self.core.config;
        let now_ms = self.core.clock.now_ms();
        let over_ms = now_ms.saturating_sub(config.window_grace_ms);
        let closed_ms = over_ms.div_euclid(config.window_ms) * config.window_ms;
        let done_ms = self.core.ledger.lock().before_ms;
        let late_due = schedule.last_late_flush_ms.is_none_or(|last| {
            // The clock may have been set back.
            now_ms < last || now_ms.saturating_sub(last) >= config.late_flush_ms
        });
        // What gives room comes first, and whatever fails: the rest may fail for want of it.
        let dropped = self.drop_old(now_ms);
        let checkpoint = self.checkpoint_if_due();
        let mut report = MaintenanceReport::default();
        if self.core.blocks.takes_windows() && (closed_ms > done_ms || late_due) {
            // A round that failed is not tried again at once: each may leave a small block behind.
            schedule.last_late_flush_ms = Some(now_ms);
            report = self.close_windows(closed_ms.max(done_ms))?;
        }
        report.blocks_dropped = dropped?;
        report.segments_cut += checkpoint?;
        Ok(report)
    }

    /// Removes blocks that are past the retention or beyond its bytes, and what was replaced long enough ago.
    fn drop_old(&self, now_ms: i64) -> Result<u64, MaintenanceError> {
        let config = &self.core.config;
        let blocks = &self.core.blocks;
        let mut dropped = blocks.drop_before(self.core.retention_start_ms()).map_err(MaintenanceError::Blocks)?;
        if let Some(bytes_max) = config.retention_bytes {
            let wal_bytes = self.pipeline.with_segments(|segments| segments.iter().map(|s| s.bytes).sum::<u64>());
            let bytes_max = bytes_max.saturating_sub(wal_bytes + self.core.look_ups.bytes());
            let shrunk = blocks.shrink_to(bytes_max).map_err(MaintenanceError::Blocks);
            if !matches!(shrunk, Ok(0)) {
                self.core.changes.note_all();
            }
            dropped += shrunk?;
        }
        blocks.clean(now_ms).map_err(MaintenanceError::Blocks)?;
        Ok(dropped)
    }

    /// Merges or rewrites blocks once, if that is due; gives how many went into the new one. Another thread of the store
    /// calls it, so that a long merge holds up nothing.
    pub fn compact(&self) -> Result<u64, MaintenanceError> {
        let now_ms = self.core.clock.now_ms();
        // A flush by request puts the edge into the future; the window goes on all the same.
        let over_ms = now_ms.saturating_sub(self.core.config.window_grace_ms);
        let closed_ms = self.core.ledger.lock().before_ms.min(over_ms);
        self.core.blocks.compact(closed_ms, now_ms, &self.pace).map_err(MaintenanceError::Blocks)
    }

    /// Writes everything to blocks, the window that is still open included.
    pub fn flush_to_blocks(&self) -> Result<MaintenanceReport, MaintenanceError> {
        let _schedule = self.schedule.lock();
        let mut latest_ms = i64::MIN;
        self.core.head.visit_all(|_, slot| latest_ms = latest_ms.max(slot.span().map_or(i64::MIN, |s| s.1)));
        if latest_ms == i64::MIN || !self.core.blocks.takes_windows() {
            return Ok(MaintenanceReport::default());
        }
        let window_ms = self.core.config.window_ms;
        let edge_ms = latest_ms.div_euclid(window_ms).saturating_add(1).saturating_mul(window_ms);
        let done_ms = self.core.ledger.lock().before_ms;
        self.close_windows(edge_ms.max(done_ms))
    }

    fn close_windows(&self, before_ms: i64) -> Result<MaintenanceReport, MaintenanceError> {
        let core = &self.core;
        let mut report = MaintenanceReport::default();
        let (seq, totals) = {
            let mut applied = core.applied.lock();
            core.head.freeze(before_ms);
            core.checkpoints.lock().frozen_seq = applied.seq;
            applied.accounts.forget(core.retention_start_ms());
            (applied.seq, applied.totals)
        };
        let mut frozen = core.head.frozen();
        frozen.sort_by(|a, b| a.labels.cmp(&b.labels));
        report.blocks_written = self.write_blocks(&frozen)?;
        drop(frozen);
        core.secure_side_files()?;
        core.store_exemplars()?;
        core.store_accounts()?;
        core.secure_follower(seq).map_err(failed("secure what follows the store"))?;
        {
            let mut ledger = core.ledger.lock();
            let mut next = *ledger;
            (next.seq, next.totals, next.before_ms, next.next_id) = (seq, totals, before_ms, core.registry.next_id());
            next.store(&*core.fs, &core.config.dir).map_err(failed("write the ledger"))?;
            *ledger = next;
        }
        core.head.drop_frozen();
        core.drop_covered_chunk_files().map_err(failed("write the manifest of the chunk files"))?;
        let covered = core.checkpoints.lock().manifest.seq;
        report.segments_cut = self.cut_segments(covered).map_err(failed("cut the write-ahead log"))?;
        report.series_forgotten = self.forget_idle(before_ms).map_err(failed("rewrite the series log"))?;
        Ok(report)
    }

    /// Removes the oldest segments whose samples are all in blocks, or in chunk files that have all records up to `seq`.
    pub(crate) fn cut_segments(&self, seq: u64) -> io::Result<u64> {
        self.pipeline.roll();
        let ledger = *self.core.ledger.lock();
        let covered: Vec<u64> = self.pipeline.with_segments(|segments| {
            // The last one may be growing.
            let full = segments.split_last().map_or(&[][..], |s| s.1);
            let covered = full.iter().take_while(|s| s.last_seq <= seq || ledger.covers(s.last_seq, s.max_ts_ms));
            covered.map(|s| s.number).collect()
        });
        if let (false, Some(hook)) = (covered.is_empty(), self.before_cut.get()) {
            hook().map_err(io::Error::other)?;
        }
        let dir = self.core.config.dir.join("wal");
        for number in &covered {
            self.core.fs.remove_file(&dir.join(file_name(*number)))?;
            self.pipeline.with_segments(|segments| segments.retain(|s| s.number != *number));
        }
        if !covered.is_empty() {
            self.core.fs.sync_dir(&dir)?;
        }
        Ok(covered.len() as u64)
    }

    /// Forgets series without a sample for two windows; their ids lose their meaning.
    fn forget_idle(&self, before_ms: i64) -> io::Result<u64> {
        let core = &self.core;
        let idle_ms = before_ms.saturating_sub(core.config.window_ms.saturating_mul(2));
        if core.head.idle_since(idle_ms).is_empty() {
            return Ok(0);
        }
        // Under load there is always somebody inside: another time, then. Whoever waits here holds up all slow work.
        let Some(gate) = self.gate.try_write_for(FORGET_WAIT) else { return Ok(0) };
        if !self.pipeline.wait_until_idle(FORGET_WAIT) {
            return Ok(0);
        }
        let gone = core.head.idle_since(idle_ms);
        core.generation.fetch_add(1, Ordering::AcqRel);
        core.index.write().remove(&gone);
        core.registry.forget(&gone);
        core.head.remove(&gone.iter().map(|g| g.0).collect::<Vec<_>>());
        drop(gate);
        Ok(gone.len() as u64)
    }
}

impl Store {
    /// Writes the frozen chunks, a block for each window; gives how many.
    fn write_blocks(&self, frozen: &[FrozenSeries]) -> Result<u64, MaintenanceError> {
        let core = &self.core;
        let window_ms = core.config.window_ms;
        // Places in `frozen`, rising.
        let mut windows: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (at, series) in frozen.iter().enumerate() {
            for chunk in series.chunks.iter().chain(&series.histograms) {
                let inside = windows.entry(chunk.min_ms.div_euclid(window_ms)).or_default();
                if inside.last() != Some(&at) {
                    inside.push(at);
                }
            }
        }
        for (window, inside) in &windows {
            let start_ms = window.saturating_mul(window_ms);
            let range = TimeRange { start_ms, end_ms: start_ms.saturating_add(window_ms - 1) };
            let mut unanswered = None;
            let series = inside.iter().filter_map(|at| frozen.get(*at));
            let mut inputs = series.enumerate().filter_map(|(n, series)| {
                if n % SERIES_PER_LOOK == SERIES_PER_LOOK - 1 {
                    self.checkpoint_meanwhile();
                }
                let input = unanswered.is_none().then(|| core.block_input(series, range));
                input?.unwrap_or_else(|error| {
                    unanswered = Some(error);
                    None
                })
            });
            let written = core.blocks.write(range, &mut inputs);
            // Head and log keep what did not get there; the next round tries again.
            written.inspect_err(|_| core.transfer_failed()).map_err(MaintenanceError::Blocks)?;
            // What is in the block now is left out of it when the round is done again.
            unanswered.map_or(Ok(()), Err).map_err(failed("read chunk files"))?;
        }
        Ok(windows.len() as u64)
    }

    /// Writing a block of many series takes long: the log must not grow without end meanwhile.
    fn checkpoint_meanwhile(&self) {
        if let Err(error) = self.checkpoint_if_due() {
            tracing::warn!(%error, "no checkpoint while a block is written; it is tried again");
        }
    }
}

impl Core {
    /// Makes the accounts durable as they are now; before a ledger or manifest that lets the log be cut. Newer ones do no
    /// harm, for records that are counted are not counted again; older ones could not count what is gone from the log.
    pub fn store_accounts(&self) -> Result<(), MaintenanceError> {
        let accounts = self.applied.lock().accounts();
        accounts.store(&*self.fs, &self.config.dir).map_err(failed("write the accounts"))
    }

    /// Makes the exemplars durable as of the last record in the head.
    fn store_exemplars(&self) -> Result<(), MaintenanceError> {
        let exemplars = {
            let applied = self.applied.lock();
            self.exemplars.read().encode(applied.seq)
        };
        self.write_exemplars(&exemplars)
    }

    /// Writes exemplars, encoded as of some record.
    pub(crate) fn write_exemplars(&self, encoded: &[u8]) -> Result<(), MaintenanceError> {
        write_sealed(&*self.fs, &self.config.dir.join("exemplars"), encoded).map_err(failed("write the exemplars"))
    }

    fn transfer_failed(&self) {
        self.applied.lock().accounts.durability.transfers_failed += 1;
    }

    /// Gives what a series has in a window. Damaged chunks are told and left out.
    ///
    /// **Errors** when the disk does not answer: then nothing may be taken for damaged, and the round is done again.
    fn block_input(&self, series: &FrozenSeries, range: TimeRange) -> io::Result<Option<BlockInput>> {
        let inside = |all: &[Sealed]| all.iter().filter(|c| range.contains(c.min_ms)).cloned().collect();
        let (chunks, histograms): (Vec<Sealed>, Vec<Sealed>) = (inside(&series.chunks), inside(&series.histograms));
        let mut samples = Samples::default();
        if let Err(error) = Snapshot::of_chunks(chunks.clone(), histograms.clone()).read(range, &mut samples) {
            let sound = |all: Vec<Sealed>| -> io::Result<Vec<Sealed>> {
                all.iter().filter_map(|chunk| chunk.if_sound().transpose()).collect()
            };
            let (chunks, histograms) = (sound(chunks)?, sound(histograms)?);
            tracing::error!("{error}; what else there is of {} goes into the block", series.labels);
            self.transfer_failed();
            samples = Samples::default();
            // They are in memory now.
            Snapshot::of_chunks(chunks, histograms).read(range, &mut samples).map_err(io::Error::other)?;
        }
        let Some(attrs) = self.attrs.get(series.attrs) else { return Ok(None) };
        Ok((!samples.is_empty()).then(|| BlockInput { labels: series.labels.clone(), attrs, samples }))
    }

    /// Makes durable what a start needs beside samples, before a part of the log goes.
    pub(crate) fn secure_side_files(&self) -> Result<(), MaintenanceError> {
        self.sync_series_log().map_err(failed("sync the series log"))?;
        let metadata = self.metadata.read().encode();
        write_sealed(&*self.fs, &self.config.dir.join("metadata"), &metadata).map_err(failed("write the metadata"))
    }

    /// Makes all definitions durable outside the log that is about to be cut.
    fn sync_series_log(&self) -> io::Result<()> {
        let mut applied = self.applied.lock();
        // Series end, and change their owner: most of what it holds may be of no use any more.
        let is_long = |log: &SeriesLog| log.entries() > self.registry.len() * 2 + 1000;
        let synced = match applied.series_log.as_mut() {
            Some(log) if is_long(log) => None,
            log => log.map(SeriesLog::sync),
        };
        if let Some(Ok(())) = synced {
            return Ok(());
        }
        // After a failed sync nobody knows what the file holds: a new one is written.
        applied.series_log = None;
        applied.series_log = Some(self.rewrite_series_log()?);
        Ok(())
    }

    /// Writes the series log anew from the series of the head.
    pub fn rewrite_series_log(&self) -> io::Result<SeriesLog> {
        let mut series: Vec<(u32, model::Labels, Arc<SeriesAttrs>)> = Vec::new();
        self.head.visit_all(|id, slot| {
            if let Some(attrs) = self.attrs.get(slot.attrs) {
                series.push((id, slot.labels.clone(), attrs));
            }
        });
        // Any number does that a sender of labels cannot know.
        let nonce = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), self.epoch);
        let entries = series.iter().map(|(id, labels, attrs)| (*id, labels, &**attrs));
        SeriesLog::rewrite(&*self.fs, &self.config.dir, nonce, entries)
    }
}
