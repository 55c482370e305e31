//! What a sink counts.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use sys::spans::Context;

/// The figures of one sink. `samples` counts native histograms too.
#[derive(Debug, Default)]
pub struct SinkStats {
    /// Samples that the place has taken.
    pub sent: AtomicU64,
    /// Exemplars that the place has taken.
    pub exemplars: AtomicU64,
    /// Bytes of the bodies that were taken, as they went over the wire.
    pub bytes: AtomicU64,
    /// Samples that the place refused for good.
    pub failed: AtomicU64,
    /// Samples that relabeling or settings hold back.
    pub filtered: AtomicU64,
    /// Samples that the place has no form for, such as NaN in InfluxDB.
    pub unwritable: AtomicU64,
    /// Samples that the place had already.
    pub duplicates: AtomicU64,
    /// Requests that were sent again.
    pub retries: AtomicU64,
    /// Latest time of a sample or histogram that is done with, in milliseconds.
    pub highest_ts_ms: AtomicI64,
    /// Requests at once, last time.
    pub shards: AtomicU64,
    trouble: Mutex<Option<String>>,
    within: Mutex<Option<Context>>,
}

impl SinkStats {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Notes that the place does not take anything now, or does again; tells whether that is news.
    pub fn trouble(&self, text: Option<&str>) -> bool {
        let mut trouble = self.trouble.lock();
        let news = trouble.is_some() != text.is_some();
        *trouble = text.map(str::to_owned);
        news
    }

    /// Notes in which trace the window is that is on its way; there is one at a time.
    pub fn within(&self, span: Option<Context>) {
        *self.within.lock() = span;
    }

    /// Gives in which trace the window is that is on its way.
    pub fn span(&self) -> Option<Context> {
        *self.within.lock()
    }

    /// Gives why the place does not take anything now.
    pub fn why(&self) -> Option<String> {
        self.trouble.lock().clone()
    }
}
