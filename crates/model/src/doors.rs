//! The two doors of the store: samples go in by [`Append`], come out by [`Select`].

use crate::batch::Batch;
use crate::family::Family;
use crate::labels::{Labels, SeriesId};
use crate::matcher::Matcher;
use crate::refusal::Counts;
use crate::report::Origin;
use crate::sample::Samples;

/// Called once, after the batch is durable and readable, or has failed. It gets the batch back, with ids and verdicts.
/// It runs on a thread of the store: it must be short and must not wait.
pub type AppendDone = Box<dyn FnOnce(Batch, Result<Appended, AppendError>) + Send>;

/// Takes batches in.
pub trait Append: Send + Sync {
    /// Hands over a batch and returns at once, or after waiting for room in the store's bounded queue.
    ///
    /// **Promises** `done` is called exactly once; `Ok` means checksummed, fsynced and visible to [`Select`].
    /// One batch is one WAL record: after a crash all of it is there or nothing.
    fn submit(&self, batch: Batch, done: AppendDone);

    /// Hands over a batch and returns at once. Where [`Append::submit`] would wait, the answer is [`AppendError::Busy`] and
    /// nothing is stored: submit the batch again from a thread that may wait.
    fn submit_now(&self, batch: Batch, done: AppendDone) {
        self.submit(batch, done);
    }

    /// Gives the number that changes whenever series ids given earlier may have lost their meaning.
    /// A batch that uses ids of an older generation fails with [`AppendError::StaleIds`] and nothing of it is stored.
    fn generation(&self) -> u64 {
        self.behind().map_or(0, Append::generation)
    }

    /// Gives the door behind this one, which is asked what this one has no answer to; `None` for the last.
    fn behind(&self) -> Option<&dyn Append> {
        None
    }

    /// Starts to find the ids of series that were sent before by the bytes that name them. Never waits: a store that would
    /// make it wait knows nothing.
    fn recall(&self) -> Box<dyn Recall + '_> {
        self.behind().map_or_else(|| Box::new(NoRecall) as Box<dyn Recall>, Append::recall)
    }

    /// Gives the labels of a series that an append or [`Append::recall`] gave the id of.
    fn labels_of(&self, id: SeriesId) -> Option<Labels> {
        self.behind()?.labels_of(id)
    }

    /// Appends and waits. For threads that may block; never call it from async code.
    fn append(&self, batch: Batch) -> (Batch, Result<Appended, AppendError>) {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.submit(batch, Box::new(move |batch, result| drop(tx.send((batch, result)))));
        rx.recv().unwrap_or_else(|_| (Batch::default(), Err(AppendError::Closed)))
    }
}

/// Knows the series of earlier batches by the bytes that named them, so that their labels need not be read again.
///
/// **Promises** the ids it gives stay good until it is dropped: drop it after the batch is submitted, and soon.
pub trait Recall {
    /// Begins a batch. Gives the generation that the ids belong to, for [`Batch::generation`].
    fn begin(&mut self, origin: &Origin) -> u64;

    /// Gives the id of the series that was written in exactly these bytes, if it comes in much the same order as last time.
    /// Only for series without metadata.
    ///
    /// **Cost** a hash of the bytes and one look; nothing is searched.
    fn by_written(&mut self, written: &[u8]) -> Option<SeriesId>;

    /// Gives the id of a label set in its canonical encoding, if a durable record of this origin defines it; remembers that it
    /// was written in the bytes that were asked for last.
    fn by_labels(&mut self, labels: &[u8]) -> Option<SeriesId>;

    /// Ends the look-ups of the batch, so that new series can be defined.
    fn end(&mut self);
}

/// Knows nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoRecall;

impl Recall for NoRecall {
    fn begin(&mut self, _: &Origin) -> u64 {
        0
    }

    fn by_written(&mut self, _: &[u8]) -> Option<SeriesId> {
        None
    }

    fn by_labels(&mut self, _: &[u8]) -> Option<SeriesId> {
        None
    }

    fn end(&mut self) {}
}

/// Position of a batch in this node's ledger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LedgerPosition {
    /// Rises with every start of the store on this directory.
    pub epoch: u64,
    /// Rises with every batch, across restarts.
    pub seq: u64,
}

/// What became of a batch.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Appended {
    /// The balance; always adds up.
    pub counts: Counts,
    /// Series seen for the first time.
    pub new_series: u64,
    /// Where it stands in the ledger.
    pub ledger: LedgerPosition,
}

/// Why a batch could not be taken. Nothing of it is stored.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum AppendError {
    /// Ids of an older generation: resolve by labels and submit again.
    #[error("series ids belong to an older generation of the head")]
    StaleIds,
    /// The batch is larger than one record may be: split it.
    #[error("batch of {bytes} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Size of the batch.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The disk is full. Try again later.
    #[error("no space left for the write-ahead log: {0}")]
    NoSpace(String),
    /// Too much is waiting. Try again later.
    #[error("the store is busy; try again in {retry_after_ms} ms")]
    Busy {
        /// How long to wait.
        retry_after_ms: u64,
    },
    /// A write or fsync failed: nothing more is acknowledged until a restart.
    #[error("the write-ahead log failed and takes nothing more: {0}")]
    Failed(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// Times from `start_ms` to `end_ms`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimeRange {
    /// First millisecond.
    pub start_ms: i64,
    /// Last millisecond.
    pub end_ms: i64,
}

impl TimeRange {
    /// All of time.
    pub const ALL: TimeRange = TimeRange { start_ms: i64::MIN, end_ms: i64::MAX };

    /// Tells whether a time lies inside.
    pub fn contains(&self, ts_ms: i64) -> bool {
        self.start_ms <= ts_ms && ts_ms <= self.end_ms
    }

    /// Tells whether two ranges share a millisecond.
    pub fn overlaps(&self, other: &TimeRange) -> bool {
        self.start_ms <= other.end_ms && other.start_ms <= self.end_ms
    }
}

/// What changed in the data since a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The moment of asking: an answer computed after it is compared with it later.
    pub moment: u64,
    /// The first time of samples that may have come, gone or changed since; `i64::MAX` when none has.
    pub from_ms: i64,
    /// From here on samples are not taken away for their age.
    pub kept_from_ms: i64,
}

/// Gives samples out.
pub trait Select: Send + Sync {
    /// Finds the series that all matchers accept and that may have samples in the range. In no particular order; no label set twice.
    fn select(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<Box<dyn SeriesReader>>, SelectError>;

    /// Gives the sorted names of labels on matching series; no matchers means all series.
    fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError>;

    /// Gives the sorted values of one label on matching series; no matchers means all series.
    fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError>;

    /// Says what a reader of an answer should know of where its samples come from, such as roll-ups.
    fn notes(&self, _matchers: &[Matcher], _range: TimeRange) -> Vec<String> {
        Vec::new()
    }

    /// Tells what changed since an earlier moment, for those who keep answers. Who does not know says that everything did.
    fn changes(&self, _since: u64) -> Changed {
        Changed { moment: 0, from_ms: i64::MIN, kept_from_ms: i64::MAX }
    }

    /// Gives what is known of families, sorted by name; several entries of one name where sources disagree.
    fn metadata(&self, family: Option<&str>) -> Vec<Family>;
}

/// One selected series.
pub trait SeriesReader: Send + Sync {
    /// Gives its labels.
    fn labels(&self) -> &Labels;

    /// Appends the samples in the range to `out`, times strictly rising, stale markers included.
    fn read(&self, range: TimeRange, out: &mut Samples) -> Result<(), SelectError>;
}

/// Why a selection failed.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum SelectError {
    /// A file could not be read or is damaged; the text names it.
    #[error("{0}")]
    Storage(String),
    /// A limit was reached.
    #[error("{0}")]
    Limit(String),
}
