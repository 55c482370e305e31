//! What the store's threads share, and the one place where samples reach the head.
//!
//! Invariants: 1. `apply` runs for one record at a time, in the order of the log, live and on replay alike; 2. a series
//! is in the head before it is in the index, and there before the registry calls it defined.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use model::{AppendError, Appended, Batch, Counts, LedgerPosition, MetricType, Origin, ScrapeSlot, Verdict};
use parking_lot::{Mutex, RwLock};
use sys::{Clock, Fs};

use crate::accounts::Accounts;
use crate::attrs::{AttrsId, AttrsTable};
use crate::blocks::{BlockSet, RetentionRules};
use crate::changes::Changes;
use crate::checkpoint::Checkpoints;
use crate::chunk_file::LookUps;
use crate::config::StoreConfig;
use crate::exemplars::{Exemplar, Exemplars};
use crate::follow::Verdicts;
use crate::head::{Defined, Head, unknown_series};
use crate::index::IndexCell;
use crate::ledger::Ledger;
use crate::metadata::Metadata;
use crate::registry::Registry;
use crate::series_log::SeriesLog;
use crate::wal::record::{Definition, Record};

/// What changes with every record.
pub struct Applied {
    /// The last record in the head.
    pub seq: u64,
    /// Counts of all records up to `seq`, since the directory was made.
    pub totals: Counts,
    /// The same by target and source; counts the same records.
    pub accounts: Accounts,
    pub records: u64,
    pub series_log: Option<SeriesLog>,
}

/// How far the files beside the log reach: what a replay leaves out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Base {
    pub ledger: Ledger,
    /// Samples of records up to here are in chunk files or blocks.
    pub checkpoint_seq: u64,
    /// Exemplars of records up to here are in the `exemplars` file.
    pub exemplars_seq: u64,
}

impl Base {
    /// Tells whether a sample of a record is in a chunk file or a block already.
    pub fn covers(&self, seq: u64, ts_ms: i64) -> bool {
        seq <= self.checkpoint_seq || self.ledger.covers(seq, ts_ms)
    }

    /// Gives the last record whose counts are in the totals of a file.
    pub fn counted_seq(&self) -> u64 {
        self.ledger.seq.max(self.checkpoint_seq)
    }
}

impl Applied {
    /// Counts a record that was not counted before.
    fn count(&mut self, origin: &Origin, slot: Option<&ScrapeSlot>, counts: &Counts, epoch: u64) {
        self.totals.merge(counts);
        self.accounts.add(origin, slot, counts, epoch);
    }

    /// Gives the accounts as they stand, with the place up to which they count.
    pub fn accounts(&self) -> Accounts {
        self.accounts.as_of(self.seq)
    }
}

/// Shared by submitters, the commit thread, the apply thread, readers and maintenance.
pub struct Core {
    pub config: StoreConfig,
    pub fs: Arc<dyn Fs>,
    pub clock: Arc<dyn Clock>,
    pub registry: Registry,
    pub attrs: Arc<AttrsTable>,
    pub head: Head,
    pub index: IndexCell,
    pub metadata: RwLock<Metadata>,
    pub exemplars: RwLock<Exemplars>,
    pub applied: Mutex<Applied>,
    pub ledger: Mutex<Ledger>,
    pub checkpoints: Mutex<Checkpoints>,
    /// What reads of chunk files meet.
    pub look_ups: Arc<LookUps>,
    pub blocks: Box<dyn BlockSet>,
    /// When which times of the data changed.
    pub changes: Changes,
    /// How long samples are kept.
    pub retention: RwLock<Arc<RetentionRules>>,
    pub epoch: u64,
    pub generation: AtomicU64,
    /// The follower had the records up to here when the store was opened.
    pub followed_seq: u64,
}

impl Core {
    /// Makes the series of a record known; gives how many are new.
    pub fn define(&self, applied: &mut Applied, origin: &Origin, definitions: &[Definition]) -> u64 {
        let mut new = 0;
        // Few types, many definitions.
        let mut of_type: Vec<(MetricType, AttrsId)> = Vec::new();
        let mut with_attrs = |d: &Definition| match of_type.iter().find(|(known, _)| *known == d.metric_type) {
            Some((_, attrs)) => *attrs,
            None => {
                let attrs = self.attrs.of(origin, d.metric_type);
                of_type.push((d.metric_type, attrs));
                attrs
            }
        };
        for definition in definitions {
            let attrs = with_attrs(definition);
            let defined = self.head.define(definition.id, &definition.labels, attrs);
            if defined == Defined::New {
                self.index.add(definition.id, &definition.labels);
                new += 1;
            }
            if defined != Defined::Known
                && let (Some(log), Some(attrs)) = (applied.series_log.as_mut(), self.attrs.get(attrs))
            {
                log.add(definition.id, &definition.labels, &attrs);
            }
        }
        if !definitions.is_empty() {
            self.registry.mark_defined(definitions.iter().map(|d| (&d.labels, d.id, with_attrs(d))));
        }
        new
    }

    /// Brings a durable batch into the head and fills in its verdicts.
    pub fn apply_batch(
        &self,
        batch: &mut Batch,
        definitions: &[Definition],
        seq: u64,
    ) -> Result<Appended, AppendError> {
        let mut applied = self.applied.lock();
        let new_series = self.define(&mut applied, &batch.origin, definitions);
        if let Some(log) = applied.series_log.as_mut()
            && let Err(error) = log.write()
        {
            // The record holds the definitions too; the log is tried again before that record is cut.
            tracing::warn!(%error, "cannot write to the series log");
        }
        let times = batch.samples.iter().map(|s| s.ts_ms).chain(batch.histograms.iter().map(|h| h.ts_ms));
        let _change = self.changes.begin(times);
        let Batch { samples, verdicts, series, .. } = batch;
        let pending = samples.iter().zip(verdicts.iter()).filter(|(_, v)| **v == Verdict::Pending);
        let placed = pending.map(|(s, _)| {
            let id = series.get(s.series.0 as usize).map_or(0, |s| s.id.0 as u32);
            (id, s.ts_ms, s.value)
        });
        let mut decided = Vec::with_capacity(samples.len());
        self.head.apply(placed, |verdict| decided.push(verdict.unwrap_or_else(unknown_series)));
        let waiting = verdicts.iter_mut().filter(|v| **v == Verdict::Pending);
        waiting.zip(decided).for_each(|(place, verdict)| *place = verdict);
        self.apply_histograms(batch);
        let counts = batch.counts();
        self.keep_extras(batch);
        applied.seq = seq;
        applied.records += 1;
        applied.count(&batch.origin, batch.slot.as_ref(), &counts, self.epoch);
        if let Some(report) = batch.report.as_mut() {
            report.counts = counts;
        }
        Ok(Appended { counts, new_series, ledger: LedgerPosition { epoch: self.epoch, seq } })
    }

    /// Comes after the batch's doubles, as on replay.
    fn apply_histograms(&self, batch: &mut Batch) {
        let Batch { histograms, series, .. } = batch;
        let pending = histograms.iter().filter(|h| h.verdict == Verdict::Pending).map(|h| {
            let mut bytes = Vec::new();
            h.histogram.encode(&mut bytes);
            (series.get(h.series.0 as usize).map_or(0, |s| s.id.0 as u32), h.ts_ms, bytes)
        });
        let mut decided = Vec::new();
        self.head.apply_histograms(pending, |verdict| decided.push(verdict.unwrap_or_else(unknown_series)));
        let waiting = histograms.iter_mut().filter(|h| h.verdict == Verdict::Pending);
        waiting.zip(decided).for_each(|(place, verdict)| place.verdict = verdict);
    }

    fn keep_extras(&self, batch: &Batch) {
        if batch.families.iter().any(|f| !self.metadata.read().knows(f)) {
            let mut metadata = self.metadata.write();
            batch.families.iter().for_each(|family| metadata.add(family));
        }
        if !batch.exemplars.is_empty() {
            let mut exemplars = self.exemplars.write();
            for exemplar in &batch.exemplars {
                let id = batch.series.get(exemplar.series.0 as usize).map_or(0, |s| s.id.0 as u32);
                let (labels, ts_ms, value) = (exemplar.labels.clone(), exemplar.ts_ms, exemplar.value);
                exemplars.add(id, Exemplar { labels, ts_ms, value });
            }
        }
    }

    /// Brings a record of an earlier life into the head; gives its counts, and how many samples had no series.
    ///
    /// **Takes** the start of the store that wrote the record.
    pub fn apply_record(&self, record: &Record, seq: u64, epoch: u64, base: &Base) -> (Counts, u64) {
        let mut applied = self.applied.lock();
        self.define(&mut applied, &record.origin, &record.definitions);
        let wanted = record.samples.iter().filter(|s| !base.covers(seq, s.ts_ms)).map(|s| (s.id, s.ts_ms, s.value));
        let (mut counts, mut orphans) = (record.decided, 0);
        let mut shown = (seq > self.followed_seq && self.follower().is_some()).then(Verdicts::default);
        let mut decided = |verdict: Option<Verdict>| {
            if let Some(shown) = &mut shown {
                shown.push(verdict);
            }
            orphans += u64::from(verdict.is_none());
            counts.add(verdict.unwrap_or_else(unknown_series));
        };
        self.head.apply(wanted, &mut decided);
        let wanted = record.histograms.iter().filter(|h| !base.covers(seq, h.ts_ms));
        self.head.apply_histograms(wanted.map(|h| (h.id, h.ts_ms, &h.bytes)), &mut decided);
        let mut metadata = self.metadata.write();
        record.families.iter().for_each(|family| metadata.add(family));
        drop(metadata);
        if seq > base.exemplars_seq && !record.exemplars.is_empty() {
            let mut exemplars = self.exemplars.write();
            for e in &record.exemplars {
                exemplars.add(e.id, Exemplar { labels: e.labels.clone(), ts_ms: e.ts_ms, value: e.value });
            }
        }
        applied.seq = applied.seq.max(seq);
        applied.records += 1;
        if seq > applied.accounts.seq {
            applied.count(&record.origin, record.slot.as_ref(), &counts, epoch);
        }
        drop(applied);
        if let Some(shown) = shown {
            self.show_record(record, seq, &shown, |ts_ms| !base.covers(seq, ts_ms));
        }
        (counts, orphans)
    }

    /// Gives the earliest time that is still kept.
    pub fn retention_start_ms(&self) -> i64 {
        self.clock.now_ms().saturating_sub(self.retention.read().longest_ms())
    }
}
