//! The third door of the store: whoever brings what is stored elsewhere, too, is shown every record here.

use std::io;
use std::sync::Arc;

use crate::family::MetricType;
use crate::labels::{Labels, SeriesId};
use crate::report::Origin;
use crate::sample::Sample;

/// A record whose samples have reached the head: those that were stored, and no others.
pub struct Followed<'a> {
    /// Its place in the ledger; rises from record to record, not always by one.
    pub seq: u64,
    /// Where it came from.
    pub origin: &'a Origin,
    /// The samples that were stored.
    pub samples: &'a [(SeriesId, Sample)],
    /// The native histograms that were stored, as `Histogram::encode` writes them, with their times.
    pub histograms: &'a [(SeriesId, i64, Vec<u8>)],
    /// The exemplars: series, their own labels, and value and time.
    pub exemplars: &'a [(SeriesId, Labels, Sample)],
    /// Knows the series of this record.
    pub series: &'a dyn SeriesLookUp,
}

/// Gives what ids stand for.
pub trait SeriesLookUp {
    /// Calls `act` for each of these series that is known, in order of the ids.
    fn visit(&self, ids: &[SeriesId], act: &mut dyn FnMut(SeriesId, &Labels, MetricType));
}

/// Is shown what is stored.
///
/// **Promises** of the store: every record that was acknowledged is shown, in order of the ledger, after its samples are
/// readable; it leaves the store's log only after [`Follow::secure`] has gone well for it. So after a crash it is in the
/// follower's own files, or the store shows it again while it starts.
pub trait Follow: Send + Sync {
    /// Tells whether anything is to be shown; asked for each record.
    fn wants(&self) -> bool;

    /// Opens its files; nobody else uses the data directory from here on.
    ///
    /// **Takes** the last record that the store's log need not have any more: up to there it was secured.
    /// **Gives** the last record that it has: the store shows those behind it again, as far as its log goes back.
    fn open(&self, secured: u64) -> io::Result<u64>;

    /// Says that all records up to this one are over, whether they were shown or not.
    fn passed(&self, seq: u64);

    /// Takes a record. It runs on the store's apply thread: it copies what it needs, and may wait only to slow the givers.
    fn record(&self, record: &Followed<'_>);

    /// Makes everything up to a record durable.
    ///
    /// **Errors** keep the store's log as it is; the store tries again.
    fn secure(&self, seq: u64) -> Result<(), String>;
}

/// A follower, or none.
#[derive(Clone, Default)]
pub struct Follower(pub Option<Arc<dyn Follow>>);

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Follower" } else { "none" })
    }
}

impl PartialEq for Follower {
    fn eq(&self, other: &Follower) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
