//! From the files of an earlier life to a running head.
//!
//! Invariants: 1. every record that checks is applied, in order; 2. what does not check is kept aside under
//! `damaged/` and told in a sentence; 3. no sample that a block holds already is counted again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use model::{CollectionReport, Counts, StreamMark};
use parking_lot::{Mutex, RwLock};
use sys::{Clock, Fs};

use crate::accounts::Accounts;
use crate::admission::AdmissionLimits;
use crate::attrs::AttrsTable;
use crate::blocks::{BlockSet, RetentionRules};
use crate::changes::Changes;
use crate::checkpoint::Checkpoints;
use crate::chunk_file::LookUps;
use crate::coding::open_sealed;
use crate::config::{OpenError, StoreConfig};
use crate::core::{Applied, Base, Core};
use crate::exemplars::Exemplars;
use crate::head::Head;
use crate::index::IndexCell;
use crate::ledger::Ledger;
use crate::metadata::Metadata;
use crate::preload;
use crate::registry::Registry;
use crate::restore;
use crate::series_log::SeriesLog;
use crate::wal::frame::SEGMENT_HEADER_BYTES;
use crate::wal::record;
use crate::wal::scan::{Piece, scan};
use crate::wal::segment::{SegmentInfo, SegmentWriter, is_no_space, parse_file_name};

/// What a start found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// The reports of the records in the log, with their place; counts as they were decided.
    pub reports: Vec<(u64, CollectionReport)>,
    /// How far streams have come, in order of the log, with what became of the samples of those batches.
    pub marks: Vec<(StreamMark, Counts)>,
    /// Records replayed.
    pub records: u64,
    /// Samples in them, those that were refused or in blocks already included.
    pub samples: u64,
    /// Whole sentences: which file, where, what was kept aside.
    pub damaged: Vec<String>,
    /// Torn ends of the log that were cut off.
    pub records_torn: u64,
    /// Damaged stretches of the log.
    pub records_damaged: u64,
    /// Records with samples whose series' definition is lost.
    pub records_orphaned: u64,
    /// Those samples.
    pub samples_orphaned: u64,
    /// How long it took.
    pub duration_ms: u64,
}

/// A head that is ready, and where the log goes on.
pub struct Recovered {
    pub core: Arc<Core>,
    pub writer: SegmentWriter,
    pub segments: Vec<SegmentInfo>,
    pub seq: u64,
    pub recovery: Recovery,
}

pub fn io(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.display().to_string();
    move |error| OpenError::Io { verb, path, error }
}

/// Reads everything and builds the head.
pub fn recover(
    fs: Arc<dyn Fs>,
    clock: Arc<dyn Clock>,
    config: StoreConfig,
    blocks: Box<dyn BlockSet>,
) -> Result<Recovered, OpenError> {
    let started = clock.monotonic_ms();
    let dir = config.dir.clone();
    let wal_dir = dir.join("wal");
    let mut recovery = Recovery::default();
    let (mut ledger, damaged) = Ledger::load(&*fs, &dir).map_err(io("read the ledger in", &dir))?;
    recovery.damaged.extend(damaged);
    let chunk_dir = dir.join("chunks");
    let chunks = restore::open_folder(&*fs, &chunk_dir)?;
    recovery.damaged.extend(chunks.damaged);
    let look_ups = Arc::new(LookUps::default());

    let old_ledger = ledger;
    let totals = if chunks.manifest.seq > ledger.seq { chunks.manifest.totals } else { ledger.totals };
    let counted_seq = ledger.seq.max(chunks.manifest.seq);
    let accounts = load_accounts(&*fs, &dir, (counted_seq, totals), &mut recovery)?;
    ledger.next_id = ledger.next_id.max(chunks.manifest.next_id);
    let numbers = segment_numbers(&*fs, &wal_dir)?;
    ledger.epoch = ledger.epoch.max(newest_epoch(&*fs, &wal_dir, &numbers)) + 1;
    let metadata = load_metadata(&*fs, &dir, &mut recovery);
    let attrs = Arc::new(AttrsTable::default());
    let followed_seq = match &config.follower.0 {
        Some(follower) => follower.open(counted_seq).map_err(io("open what follows the store in", &dir))?,
        None => 0,
    };
    let room = AdmissionLimits {
        series_max: config.series_max,
        series_bytes_max: config.series_bytes_max,
        source_series_max: config.source_series_max,
    };
    let core = Arc::new(Core {
        registry: Registry::new(room, config.label_limits, attrs.clone()),
        attrs,
        changes: Changes::default(),
        head: Head::new(config.window_ms),
        index: IndexCell::unmade(),
        metadata: RwLock::new(metadata),
        exemplars: RwLock::new(Exemplars::new(config.exemplars_max)),
        applied: Mutex::new(Applied {
            // No place that is counted is given again, whatever became of its record.
            seq: counted_seq.max(accounts.seq),
            totals: accounts.totals(),
            accounts,
            records: 0,
            series_log: None,
        }),
        look_ups: look_ups.clone(),
        checkpoints: Mutex::new(Checkpoints::new(
            chunks.manifest.clone(),
            chunks.uneven,
            chunks.next_number,
            look_ups.clone(),
        )),
        blocks,
        retention: RwLock::new(Arc::new(RetentionRules::uniform(config.retention_ms))),
        epoch: ledger.epoch,
        // Leaves room for as many changes as one start will ever see.
        generation: AtomicU64::new(ledger.epoch << 24),
        ledger: Mutex::new(ledger),
        fs: fs.clone(),
        clock: clock.clone(),
        followed_seq,
        config,
    });
    core.registry.never_again(ledger.next_id.saturating_sub(1));
    let known = preload::preload(&core).map_err(io("read the series log in", &dir))?;
    recovery.damaged.extend(known.damaged);
    core.registry.never_again(known.max_id);
    // Without it, what the replay defines is written with all the rest.
    let log = known.sound.and_then(|nonce| SeriesLog::open(&*core.fs, &dir, nonce, known.entries).ok());
    core.applied.lock().series_log = log;

    let mut files = chunks.manifest.files;
    recovery.damaged.extend(restore::restore(&*fs, &chunk_dir, &mut files, &old_ledger, &core.head, &look_ups)?);
    {
        let mut state = core.checkpoints.lock();
        state.manifest.files = files;
        state.note_bytes();
    }
    let exemplars_seq = load_exemplars(&core, &mut recovery);
    let base = Base { ledger: old_ledger, checkpoint_seq: chunks.manifest.seq, exemplars_seq };

    let mut replay = Replay { core: &core, base, wal_dir: &wal_dir, recovery: &mut recovery };
    let mut segments = Vec::new();
    for number in &numbers {
        let newest = Some(number) == numbers.last();
        segments.extend(replay.segment(*number, newest)?);
        if newest {
            replay.sync(*number)?;
        }
    }
    forget_empty(&core);
    tend_series_log(&core, &dir, &mut recovery);
    core.index.begin();
    count_damage(&core, &recovery);
    store_epoch(&core, &dir, &mut recovery)?;

    let seq = core.applied.lock().seq;
    if let Some(follower) = &core.config.follower.0 {
        follower.passed(seq);
    }
    let next = numbers.last().map_or(1, |n| n + 1);
    let writer = SegmentWriter::new(fs, &wal_dir, core.epoch, core.config.segment_bytes_max, next);
    recovery.duration_ms = clock.monotonic_ms().saturating_sub(started);
    Ok(Recovered { core, writer, segments, seq, recovery })
}

fn segment_numbers(fs: &dyn Fs, wal_dir: &Path) -> Result<Vec<u64>, OpenError> {
    let names = fs.list(wal_dir).map_err(io("list", wal_dir))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| parse_file_name(n)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads the epoch of the newest readable segment, in case the ledger is older than it.
fn newest_epoch(fs: &dyn Fs, wal_dir: &Path, numbers: &[u64]) -> u64 {
    let header = |number: &u64| {
        let file = fs.open(&wal_dir.join(crate::wal::segment::file_name(*number))).ok()?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        file.read_at(&mut bytes, 0).ok()?;
        crate::wal::frame::SegmentHeader::decode(&bytes)
    };
    numbers.iter().rev().find_map(header).map_or(0, |h| h.epoch)
}

fn load_metadata(fs: &dyn Fs, dir: &Path, recovery: &mut Recovery) -> Metadata {
    let path = dir.join("metadata");
    if !fs.exists(&path) {
        return Metadata::default();
    }
    let bytes = fs.read(&path).unwrap_or_default();
    match open_sealed(&bytes).map(Metadata::decode) {
        Some(Ok(metadata)) => metadata,
        _ => {
            recovery.damaged.push(format!(
                "{}: the checksum disagrees; help texts and types come back with the next scrapes",
                path.display()
            ));
            Metadata::default()
        }
    }
}

/// Gives the last record whose exemplars the file has.
fn load_exemplars(core: &Core, recovery: &mut Recovery) -> u64 {
    let path = core.config.dir.join("exemplars");
    if !core.fs.exists(&path) {
        return 0;
    }
    let bytes = core.fs.read(&path).unwrap_or_default();
    match open_sealed(&bytes).map(|body| core.exemplars.write().restore(body)) {
        Some(Ok(seq)) => seq,
        _ => {
            recovery.damaged.push(format!("{}: the checksum disagrees; older exemplars are lost", path.display()));
            0
        }
    }
}

/// Forgets series whose samples are all in blocks or expired; the index is not made yet.
fn forget_empty(core: &Core) {
    let gone = core.head.idle_since(i64::MAX);
    core.registry.forget(&gone);
    core.head.remove(&gone.iter().map(|g| g.0).collect::<Vec<_>>());
}

/// Adds what the replay defined to the series log; writes it anew when a crash or damage left something behind, or when
/// most of it is forgotten.
fn tend_series_log(core: &Core, dir: &Path, recovery: &mut Recovery) {
    let mut applied = core.applied.lock();
    if let Some(log) = applied.series_log.as_mut()
        && log.entries() <= core.registry.len() * 2 + 1000
        && log.write().is_ok()
    {
        return;
    }
    match core.rewrite_series_log() {
        Ok(log) => applied.series_log = Some(log),
        Err(error) => {
            applied.series_log = None;
            let dir = dir.display();
            recovery.damaged.push(format!("{dir}: cannot write the series log ({error}); it is tried again"));
        }
    }
}

/// Reads the accounts, or begins them with what ledger and manifest say: the counts of all records up to a place.
fn load_accounts(
    fs: &dyn Fs,
    dir: &Path,
    (counted_seq, totals): (u64, Counts),
    recovery: &mut Recovery,
) -> Result<Accounts, OpenError> {
    let (found, damaged) = Accounts::load(fs, dir).map_err(io("read the accounts in", dir))?;
    let lost = found.is_none() && !damaged.is_empty();
    recovery.damaged.extend(damaged);
    // Older ones have not seen what is in blocks or chunk files by now: it cannot be made up.
    if let Some(accounts) = found.filter(|a| a.seq >= counted_seq) {
        return Ok(accounts);
    }
    if lost {
        recovery.damaged.push(format!(
            "{}: both copies of the accounts are damaged: what each target delivered is counted anew from here, the totals are kept",
            dir.display()
        ));
    }
    Ok(Accounts::since(counted_seq, totals))
}

/// Notes what this start found, for the report on integrity.
fn count_damage(core: &Core, recovery: &Recovery) {
    let mut applied = core.applied.lock();
    let durability = &mut applied.accounts.durability;
    durability.records_torn += recovery.records_torn;
    durability.records_damaged += recovery.records_damaged;
    durability.samples_orphaned += recovery.samples_orphaned;
    let of_records = recovery.records_torn + recovery.records_damaged + recovery.records_orphaned;
    durability.files_damaged += (recovery.damaged.len() as u64).saturating_sub(of_records);
}

fn store_epoch(core: &Core, dir: &Path, recovery: &mut Recovery) -> Result<(), OpenError> {
    let mut ledger = core.ledger.lock();
    ledger.next_id = core.registry.next_id();
    let accounts = core.applied.lock().accounts();
    match accounts.store(&*core.fs, dir).and_then(|()| ledger.store(&*core.fs, dir)) {
        Ok(()) => Ok(()),
        Err(error) if is_no_space(&error) => {
            recovery.damaged.push(format!("{}: the disk is full, the ledger could not be renewed", dir.display()));
            Ok(())
        }
        Err(error) => Err(io("write the ledger in", dir)(error)),
    }
}

struct Replay<'a> {
    core: &'a Core,
    base: Base,
    wal_dir: &'a Path,
    recovery: &'a mut Recovery,
}

impl Replay<'_> {
    /// Replays one segment; `None` when nothing of it is left.
    fn segment(&mut self, number: u64, newest: bool) -> Result<Option<SegmentInfo>, OpenError> {
        let name = crate::wal::segment::file_name(number);
        let path = self.wal_dir.join(&name);
        let bytes = self.core.fs.read(&path).map_err(io("read", &path))?;
        let Some((header, pieces)) = scan(&bytes) else {
            return self.headless(&name, &bytes).map(|()| None);
        };
        let mut info = SegmentInfo { number, bytes: bytes.len() as u64, last_seq: 0, max_ts_ms: i64::MIN };
        for piece in pieces {
            match piece {
                Piece::Record { seq, payload } => {
                    let payload = bytes.get(payload).unwrap_or_default();
                    self.record(&name, (seq, header.epoch), payload, &mut info);
                }
                Piece::Broken { range, why, at_end } => {
                    let broken = bytes.get(range.clone()).unwrap_or_default();
                    let torn = newest && at_end;
                    self.broken(&name, range.start as u64, broken, why, torn)?;
                    if torn {
                        info.bytes = range.start as u64;
                    }
                }
            }
        }
        Ok(Some(info))
    }

    /// Makes durable what the last life wrote and did not come to sync: a sender that tries again is told "duplicate", and
    /// that is a promise.
    fn sync(&self, number: u64) -> Result<(), OpenError> {
        let path = self.wal_dir.join(crate::wal::segment::file_name(number));
        if !self.core.fs.exists(&path) {
            return Ok(());
        }
        let synced = self.core.fs.open(&path).and_then(|file| file.sync_data());
        synced.and_then(|()| self.core.fs.sync_dir(self.wal_dir)).map_err(io("sync", &path))
    }

    fn record(&mut self, name: &str, (seq, epoch): (u64, u64), payload: &[u8], info: &mut SegmentInfo) {
        let Ok(record) = record::decode(payload) else {
            self.recovery.records_damaged += 1;
            self.recovery.damaged.push(format!("wal segment {name}: record {seq} checks but does not decode"));
            return;
        };
        info.last_seq = info.last_seq.max(seq);
        let times = record.samples.iter().map(|s| s.ts_ms).chain(record.histograms.iter().map(|h| h.ts_ms));
        info.max_ts_ms = times.fold(info.max_ts_ms, i64::max);
        let (counts, orphans) = self.core.apply_record(&record, seq, epoch, &self.base);
        if orphans > 0 {
            self.recovery.records_orphaned += 1;
            self.recovery.samples_orphaned += orphans;
            self.recovery.damaged.push(format!(
                "wal segment {name}: record {seq}: {orphans} samples belong to series whose definition is lost"
            ));
        }
        self.recovery.records += 1;
        let samples = record.samples.len() as u64 + record.histograms.len() as u64;
        self.recovery.samples += samples;
        if let Some(mark) = record.mark {
            let counts = self.counts_for_report(seq, &record.decided, samples, counts);
            self.recovery.marks.push((mark, counts));
        }
        if let Some(mut report) = record.report {
            report.counts = self.counts_for_report(seq, &record.decided, samples, counts);
            self.recovery.reports.push((seq, report));
        }
    }

    /// Of samples that are in blocks or chunk files nobody knows the verdict any more: they count as stored.
    fn counts_for_report(&self, seq: u64, decided: &Counts, samples: u64, mut counts: Counts) -> Counts {
        if seq <= self.base.counted_seq() {
            let in_blocks = (decided.received + samples).saturating_sub(counts.received);
            counts.received += in_blocks;
            counts.stored += in_blocks;
        }
        counts
    }

    fn broken(&mut self, name: &str, at: u64, bytes: &[u8], why: &str, torn: bool) -> Result<(), OpenError> {
        let len = bytes.len();
        *if torn { &mut self.recovery.records_torn } else { &mut self.recovery.records_damaged } += 1;
        let aside = self.keep_aside(&format!("{name}-at-{at}.bin"), bytes);
        let what = if torn { "torn tail, cut off" } else { "skipped" };
        self.recovery.damaged.push(format!("wal segment {name}: {len} bytes at byte {at}: {why}: {what}; {aside}"));
        if torn {
            let path = self.wal_dir.join(name);
            let cut = self.core.fs.open(&path).and_then(|file| {
                file.truncate(at)?;
                file.sync_data()
            });
            cut.map_err(io("cut the torn tail off", &path))?;
        }
        Ok(())
    }

    /// Deals with a segment of which neither header checks.
    fn headless(&mut self, name: &str, bytes: &[u8]) -> Result<(), OpenError> {
        // Power went away while it was made: no record can be in it.
        if bytes.len() > SEGMENT_HEADER_BYTES {
            let aside = self.keep_aside(name, bytes);
            self.recovery.damaged.push(format!("wal segment {name}: both headers are broken: taken out; {aside}"));
            if aside.starts_with("could not") {
                return Ok(());
            }
        }
        let path = self.wal_dir.join(name);
        self.core.fs.remove_file(&path).map_err(io("remove", &path))
    }

    /// Copies bytes to `damaged/`; gives the end of a sentence.
    fn keep_aside(&self, name: &str, bytes: &[u8]) -> String {
        let fs = &*self.core.fs;
        let dir = self.core.config.dir.join("damaged");
        let path = dir.join(name);
        let written = fs.create_dir_all(&dir).and_then(|()| {
            let file = fs.create(&path)?;
            file.append(bytes)?;
            file.sync_data()?;
            fs.sync_dir(&dir)
        });
        match written {
            Ok(()) => format!("kept aside as damaged/{name}"),
            Err(error) => format!("could not be kept aside: {error}"),
        }
    }
}
