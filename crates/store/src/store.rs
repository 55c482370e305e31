//! The store as the rest of the house sees it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use model::histogram::{BUCKETS_MAX, Histogram};
use model::{
    Append, AppendDone, AppendError, Batch, CollectionMethod, Family, Labels, Matcher, MetricType, NO_FAMILY, NoRecall,
    Origin, Recall, Refusal, SeriesId, SeriesIndex, TimeRange, Verdict,
};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use sys::{Clock, Fs, Lock};

use crate::attrs::AttrsId;
use crate::blocks::{BlockFolder, BlockSet, BlockSettings, Pace, RetentionRules};
use crate::config::{OpenError, StoreConfig};
use crate::core::Core;
use crate::exemplars::Exemplar;
use crate::maintain::Schedule;
use crate::maintainer::Maintainer;
use crate::newcomers::{self, NewSeries, RefusedSeries};
use crate::pipeline::{Item, Pipeline, Waiting};
use crate::preload;
use crate::recover::{self, Recovery};
use crate::registry::Resolver;
use crate::scrub::Scrubber;
use crate::wal::frame::{FRAME_BYTES, Frame};
use crate::wal::record::{self, Definition};

/// See [`Store::before_cut`].
pub(crate) type BeforeCut = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Forgetting series takes about so long.
const RETRY_AFTER_FORGETTING_MS: u64 = 100;

/// Durable samples in one directory. See [`Append`] and [`model::Select`] for what goes in and out.
///
/// **Promises** an append answered `Ok` is on disk and readable; dropping the store closes it.
pub struct Store {
    pub(crate) core: Arc<Core>,
    pub(crate) pipeline: Pipeline,
    /// Held for reading from the look-up of ids until their batch is queued; for writing while series are forgotten.
    pub(crate) gate: RwLock<()>,
    pub(crate) schedule: Mutex<Schedule>,
    /// Bounds and ends the merging of blocks.
    pub(crate) pace: Arc<Pace>,
    pub(crate) before_cut: OnceLock<BeforeCut>,
    maintainer: Maintainer,
    indexer: Mutex<Option<JoinHandle<()>>>,
    pub(crate) scrubber: Scrubber,
    lock: Mutex<Option<Lock>>,
    closed: AtomicBool,
}

impl Store {
    /// Opens the directory, replays the log, starts the threads.
    ///
    /// **Errors** as [`Store::open_with`].
    pub fn open(
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: StoreConfig,
    ) -> Result<(Arc<Store>, Recovery), OpenError> {
        let settings = BlockSettings {
            cache_bytes_max: config.block_cache_bytes_max,
            compaction_ranges_ms: config.ranges_in_use_ms(),
            compaction_memory_bytes_max: config.compaction_memory_bytes_max,
            compaction_block_bytes_max: config.compaction_block_bytes_max,
            clock: clock.clone(),
            rules: RetentionRules::uniform(config.retention_ms),
        };
        Store::open_with(fs, clock, config, |fs, dir| {
            let (folder, damaged) = BlockFolder::open_with(fs, dir, settings)?;
            Ok((Box::new(folder), damaged))
        })
    }

    /// Opens with a given kind of blocks.
    ///
    /// **Errors** when another server holds the directory or a file cannot be read; damage is no error, see
    /// [`Recovery::damaged`].
    pub fn open_with(
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: StoreConfig,
        open_blocks: impl FnOnce(Arc<dyn Fs>, &Path) -> Result<(Box<dyn BlockSet>, Vec<String>), String>,
    ) -> Result<(Arc<Store>, Recovery), OpenError> {
        let (dir, maintain_every_ms) = (config.dir.clone(), config.maintain_every_ms);
        let pace = Arc::new(Pace::new(config.compaction_bytes_per_second));
        let scrub_bytes_per_second = config.scrub_bytes_per_second;
        prepare_dir(&*fs, &dir)?;
        let lock = take_lock(&*fs, &dir)?;
        let blocks_dir = dir.join("blocks");
        let (blocks, damaged) = open_blocks(fs.clone(), &blocks_dir).map_err(OpenError::Blocks)?;
        let mut opened = recover::recover(fs, clock, config, blocks)?;
        opened.core.applied.lock().accounts.durability.files_damaged += damaged.len() as u64;
        opened.recovery.damaged.splice(0..0, damaged);
        let pipeline = Pipeline::start(opened.core.clone(), opened.writer, opened.segments, opened.seq)
            .map_err(|error| OpenError::Io { verb: "start the threads for", path: dir.display().to_string(), error })?;
        let indexer = preload::start_index(opened.core.clone()).map_err(io_error("start the threads for", &dir))?;
        let store = Store {
            core: opened.core,
            pipeline,
            gate: RwLock::new(()),
            schedule: Mutex::new(Schedule::default()),
            pace,
            before_cut: OnceLock::new(),
            maintainer: Maintainer::default(),
            indexer: Mutex::new(Some(indexer)),
            scrubber: Scrubber::default(),
            lock: Mutex::new(Some(lock)),
            closed: AtomicBool::new(false),
        };
        let store = Arc::new(store);
        store.maintainer.start(&store, maintain_every_ms).map_err(io_error("start the threads for", &dir))?;
        store.scrubber.start(&store, scrub_bytes_per_second).map_err(io_error("start the threads for", &dir))?;
        Ok((store, opened.recovery))
    }

    /// Sets what has to go well before any part of the log is removed: its records carry reports, and whoever keeps those
    /// elsewhere makes them durable here. The first call counts.
    ///
    /// **Promises** every record of the part that goes had been submitted before the hook is called; while it fails, the
    /// log stays and the next round of slow work tries again.
    pub fn before_cut(&self, hook: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        let _ = self.before_cut.set(Box::new(hook));
    }

    /// Tells whether the threads run that write and apply what comes; one that has ended takes everything with it.
    pub fn is_alive(&self) -> bool {
        self.pipeline.is_alive()
    }

    /// Takes nothing more, finishes what waits, gives the directory free. A second call does nothing.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        self.pace.stop();
        self.maintainer.stop();
        self.scrubber.stop();
        self.pipeline.close();
        if self.indexer.lock().take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that made the index panicked");
        }
        if let Some(log) = self.core.applied.lock().series_log.as_mut()
            && let Err(error) = log.sync()
        {
            tracing::warn!(%error, "cannot sync the series log; the write-ahead log has its entries");
        }
        self.lock.lock().take();
    }

    /// Gives the kept exemplars of matching series in a range, oldest first.
    pub fn exemplars(&self, matchers: &[Matcher], range: TimeRange) -> Vec<(Labels, Vec<Exemplar>)> {
        let ids = self.core.matching(matchers);
        let mut found: hashbrown::HashMap<u32, Vec<Exemplar>> = hashbrown::HashMap::new();
        for (id, exemplar) in self.core.exemplars.read().iter() {
            if range.contains(exemplar.ts_ms) && ids.binary_search(id).is_ok() {
                found.entry(*id).or_default().push(exemplar.clone());
            }
        }
        let mut out = Vec::new();
        self.core.head.visit(&ids, |id, slot| {
            if let Some(mut exemplars) = found.remove(&id) {
                exemplars.sort_by_key(|e| e.ts_ms);
                out.push((slot.labels.clone(), exemplars));
            }
        });
        out
    }

    /// Gives how far in the future samples are stored.
    pub fn future_limit_ms(&self) -> i64 {
        self.core.config.future_limit_ms
    }

    /// Gives the labels of series of the head by their ids; those that are gone are left out.
    pub fn labels_of(&self, ids: &[SeriesId]) -> Vec<(SeriesId, Labels)> {
        let ids: Vec<u32> = ids.iter().filter_map(|id| u32::try_from(id.0).ok()).collect();
        let mut out = Vec::with_capacity(ids.len());
        self.core.head.visit(&ids, |id, slot| out.push((SeriesId(u64::from(id)), slot.labels.clone())));
        out
    }

    fn prepare(&self, batch: &mut Batch) -> Result<Prepared, AppendError> {
        let generation = self.generation();
        let (definitions, refused) = self.resolve(batch, generation)?;
        let max_ts_ms = self.decide_early(batch, &refused);
        let mut framed = vec![0; FRAME_BYTES];
        {
            let metadata = self.core.metadata.read();
            let news: Vec<&Family> = batch.families.iter().filter(|f| !metadata.knows(f)).collect();
            record::encode(batch, &definitions, &news, &mut framed);
        }
        let payload = framed.get(FRAME_BYTES..).unwrap_or_default();
        let too_large = AppendError::TooLarge { bytes: payload.len() as u64, limit: self.core.config.batch_bytes_max };
        if payload.len() as u64 > self.core.config.batch_bytes_max {
            return Err(too_large);
        }
        let frame = Frame::of(payload, 0).ok_or(too_large)?;
        batch.generation = generation;
        Ok(Prepared { framed, frame, definitions, max_ts_ms })
    }

    /// Takes a batch in, waiting for room so long. The caller holds the gate.
    fn submit_within(&self, mut batch: Batch, done: AppendDone, wait: Duration) {
        if let Some(refusal) = self.pipeline.refusal() {
            return done(batch, Err(refusal));
        }
        match self.prepare(&mut batch) {
            Ok(Prepared { framed, frame, definitions, max_ts_ms }) => {
                let patient = batch.origin.method == CollectionMethod::PullScraping;
                let waiting = Waiting::new(batch, done);
                self.pipeline.enqueue(Item { framed, frame, definitions, max_ts_ms, patient, waiting }, wait);
            }
            Err(error) => done(batch, Err(error)),
        }
    }

    /// Gives every series an id; what has none is in the second list with its reason.
    fn resolve(&self, batch: &mut Batch, generation: u64) -> Result<(Vec<Definition>, RefusedSeries), AppendError> {
        let current = batch.generation == generation;
        let (mut definitions, mut new) = (Vec::new(), Vec::new());
        let mut attrs: [Option<AttrsId>; 256] = [None; 256];
        let mut resolver = self.core.registry.resolver();
        for index in 0..batch.series.len() {
            let series = batch.series[index];
            let bytes = batch.label_bytes(SeriesIndex(index as u32));
            if series.id.is_some() && (current || bytes.is_empty()) {
                if !current || u32::try_from(series.id.0).is_err() {
                    return Err(AppendError::StaleIds);
                }
                continue;
            }
            let metric_type = type_of(batch, series.family);
            let attrs =
                *attrs[metric_type as usize].get_or_insert_with(|| self.core.attrs.of(&batch.origin, metric_type));
            match resolver.find(bytes, attrs) {
                Some(resolved) => {
                    if let Some(labels) = resolved.define {
                        definitions.push(Definition { id: resolved.id, metric_type, labels });
                    }
                    batch.series[index].id = SeriesId(u64::from(resolved.id));
                }
                None => new.push(NewSeries { index: index as u32, metric_type, attrs }),
            }
        }
        drop(resolver);
        let refused = newcomers::admit(&self.core.registry, batch, new, &mut definitions);
        Ok((definitions, refused))
    }

    /// Refuses what no look at the head is needed for; gives the latest time of the rest.
    fn decide_early(&self, batch: &mut Batch, refused: &[(usize, Refusal)]) -> i64 {
        let now_ms = self.core.clock.now_ms();
        let newest_ms = now_ms.saturating_add(self.core.config.future_limit_ms);
        let longest_ms = self.core.retention.read().longest_of_ms(&batch.origin.target_id);
        let oldest_ms = now_ms.saturating_sub(longest_ms);
        let mut max_ts_ms = i64::MIN;
        for (sample, verdict) in batch.samples.iter().zip(batch.verdicts.iter_mut()) {
            if *verdict != Verdict::Pending {
                continue;
            }
            if sample.ts_ms > newest_ms {
                *verdict = Verdict::Refused(Refusal::TooNew);
            } else if sample.ts_ms < oldest_ms {
                *verdict = Verdict::Refused(Refusal::TooOld);
            } else {
                max_ts_ms = max_ts_ms.max(sample.ts_ms);
            }
        }
        for h in batch.histograms.iter_mut().filter(|h| h.verdict == Verdict::Pending) {
            if h.ts_ms > newest_ms {
                h.verdict = Verdict::Refused(Refusal::TooNew);
            } else if h.ts_ms < oldest_ms {
                h.verdict = Verdict::Refused(Refusal::TooOld);
            } else if !is_storable(&h.histogram) {
                h.verdict = Verdict::Refused(Refusal::InvalidValue);
            } else {
                max_ts_ms = max_ts_ms.max(h.ts_ms);
            }
        }
        if refused.is_empty() {
            return max_ts_ms;
        }
        let samples = batch.samples.iter().map(|s| s.series).zip(batch.verdicts.iter_mut());
        let histograms = batch.histograms.iter_mut().map(|h| (h.series, &mut h.verdict));
        for (series, verdict) in samples.chain(histograms) {
            if *verdict == Verdict::Pending
                && let Ok(at) = refused.binary_search_by_key(&(series.0 as usize), |r| r.0)
            {
                *verdict = Verdict::Refused(refused[at].1);
            }
        }
        max_ts_ms
    }
}

struct Prepared {
    framed: Vec<u8>,
    frame: Frame,
    definitions: Vec<Definition>,
    max_ts_ms: i64,
}

impl Append for Store {
    fn submit(&self, batch: Batch, done: AppendDone) {
        // Recursive: whoever recalled the ids of this batch holds it already, and one who waits to write must not part them.
        let _gate = self.gate.read_recursive();
        self.submit_within(batch, done, Duration::from_millis(self.core.config.queue_wait_ms));
    }

    fn submit_now(&self, batch: Batch, done: AppendDone) {
        match self.gate.try_read_recursive() {
            Some(_gate) => self.submit_within(batch, done, Duration::ZERO),
            None => done(batch, Err(AppendError::Busy { retry_after_ms: RETRY_AFTER_FORGETTING_MS })),
        }
    }

    fn generation(&self) -> u64 {
        self.core.generation.load(Ordering::Acquire)
    }

    fn recall(&self) -> Box<dyn Recall + '_> {
        match self.gate.try_read() {
            Some(_gate) => Box::new(Recalling { store: self, _gate, resolver: None, attrs: AttrsId(0) }),
            None => Box::new(NoRecall),
        }
    }

    fn labels_of(&self, id: SeriesId) -> Option<Labels> {
        let mut labels = None;
        self.core.head.visit(&[u32::try_from(id.0).ok()?], |_, slot| labels = Some(slot.labels.clone()));
        labels
    }
}

/// Looks ids up for one batch. While it lives no series is forgotten, so that its ids stay good.
struct Recalling<'a> {
    store: &'a Store,
    _gate: RwLockReadGuard<'a, ()>,
    resolver: Option<Resolver<'a>>,
    attrs: AttrsId,
}

impl Recall for Recalling<'_> {
    fn begin(&mut self, origin: &Origin) -> u64 {
        self.attrs = self.store.core.attrs.of(origin, MetricType::Unknown);
        self.resolver = Some(self.store.core.registry.resolver());
        self.store.generation()
    }

    fn by_written(&mut self, written: &[u8]) -> Option<SeriesId> {
        let id = self.resolver.as_mut()?.by_written(written, self.attrs)?;
        Some(SeriesId(u64::from(id)))
    }

    fn by_labels(&mut self, labels: &[u8]) -> Option<SeriesId> {
        let id = self.resolver.as_mut()?.by_labels(labels, self.attrs)?;
        Some(SeriesId(u64::from(id)))
    }

    fn end(&mut self) {
        self.resolver = None;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// What is acknowledged must be read again: the byte form has the same limits as the check, and one on spans.
fn is_storable(histogram: &Histogram) -> bool {
    let spans = histogram.positive_spans.len().max(histogram.negative_spans.len());
    spans <= BUCKETS_MAX && histogram.check().is_ok()
}

fn type_of(batch: &Batch, family: u32) -> MetricType {
    if family == NO_FAMILY {
        return MetricType::Unknown;
    }
    batch.families.get(family as usize).map_or(MetricType::Unknown, |f| f.metric_type)
}

fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.display().to_string();
    move |error| OpenError::Io { verb, path, error }
}

/// Makes the directories and their names durable. One that is there may not be: an earlier start may have ended between
/// making it and syncing its name.
fn prepare_dir(fs: &dyn Fs, dir: &Path) -> Result<(), OpenError> {
    for made in ["wal", "chunks"].map(|name| dir.join(name)) {
        prepare_one(fs, &made)?;
    }
    Ok(())
}

fn prepare_one(fs: &dyn Fs, dir: &Path) -> Result<(), OpenError> {
    let named = |path: &&Path| !path.as_os_str().is_empty() && path.parent().is_some();
    let missing: Vec<PathBuf> = dir.ancestors().take_while(|p| !fs.exists(p)).map(Path::to_path_buf).collect();
    fs.create_dir_all(dir).map_err(io_error("create", dir))?;
    for (depth, made) in dir.ancestors().filter(named).enumerate() {
        let above = match made.parent() {
            Some(above) if !above.as_os_str().is_empty() => above,
            _ => Path::new("."),
        };
        let ours = depth < 2 || missing.iter().any(|path| path == made);
        match fs.sync_dir(above) {
            // Directories above ours may be closed to us; they are older than we are.
            Err(error) if ours && error.kind() != std::io::ErrorKind::PermissionDenied => {
                return Err(io_error("sync", above)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn take_lock(fs: &dyn Fs, dir: &Path) -> Result<Lock, OpenError> {
    let path = dir.join("lock");
    fs.lock(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::Locked { dir: dir.display().to_string() },
        _ => io_error("lock", &path)(error),
    })
}
