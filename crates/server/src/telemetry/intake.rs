//! Counts every batch on its way into the store.
//!
//! Invariant: received = stored + duplicates + filtered + refused, for each way in and in total.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use model::{Append, AppendDone, AppendError, Batch, CollectionMethod, Counts, Refusal};
use parking_lot::Mutex;

use super::exposition::{Exposition, Histogram};

/// What came in since the start.
#[derive(Default, Debug)]
pub struct Intake {
    counts: Mutex<[Counts; CollectionMethod::ALL.len()]>,
    batches: AtomicU64,
    failed: AtomicU64,
    seconds: Histogram,
}

impl Intake {
    /// Gives the ledger of all ways in.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in self.counts.lock().iter() {
            total.merge(counts);
        }
        total
    }

    /// Writes the counts.
    pub fn render(&self, page: &mut Exposition) {
        let counts = *self.counts.lock();
        page.family("quiver_samples_total", "counter", "Samples received, by way in and by what became of them.");
        for (method, counts) in CollectionMethod::ALL.iter().zip(&counts) {
            let method = method.as_str().to_ascii_lowercase();
            for (verdict, n) in
                [("stored", counts.stored), ("duplicate", counts.duplicates), ("filtered", counts.filtered)]
            {
                page.sample(&[("method", &method), ("verdict", verdict), ("reason", "")], n as f64);
            }
            for reason in Refusal::ALL {
                let n = counts.refused[reason as usize];
                page.sample(&[("method", &method), ("verdict", "refused"), ("reason", reason.as_str())], n as f64);
            }
        }
        page.family("quiver_samples_received_total", "counter", "Samples received, by way in.");
        for (method, counts) in CollectionMethod::ALL.iter().zip(&counts) {
            page.sample(&[("method", &method.as_str().to_ascii_lowercase())], counts.received as f64);
        }
        page.counter("quiver_batches_total", "Batches stored.", self.batches.load(Ordering::Relaxed));
        page.counter(
            "quiver_batches_failed_total",
            "Batches that the store did not take.",
            self.failed.load(Ordering::Relaxed),
        );
        page.family(
            "quiver_append_duration_seconds",
            "histogram",
            "Time from handing a batch to the store until it is fsynced and readable.",
        );
        page.histogram(&[], &self.seconds);
    }
}

/// The store's door with a counter in it.
pub struct Metered {
    inner: Arc<dyn Append>,
    intake: Arc<Intake>,
}

impl Metered {
    /// Puts the counter in front of a door.
    pub fn new(inner: Arc<dyn Append>, intake: Arc<Intake>) -> Metered {
        Metered { inner, intake }
    }
}

impl Append for Metered {
    fn submit(&self, batch: Batch, done: AppendDone) {
        self.inner.submit(batch, self.counted(done, false));
    }

    fn submit_now(&self, batch: Batch, done: AppendDone) {
        self.inner.submit_now(batch, self.counted(done, true));
    }

    fn behind(&self) -> Option<&dyn Append> {
        Some(&*self.inner)
    }
}

impl Metered {
    /// Puts the count before an answer; `comes_again` says that a busy store is no failure.
    fn counted(&self, done: AppendDone, comes_again: bool) -> AppendDone {
        let intake = self.intake.clone();
        let started = Instant::now();
        Box::new(move |batch, result| {
            match &result {
                Ok(appended) => {
                    intake.counts.lock()[batch.origin.method as usize].merge(&appended.counts);
                    intake.batches.fetch_add(1, Ordering::Relaxed);
                    intake.seconds.observe(started.elapsed().as_secs_f64());
                }
                Err(AppendError::Busy { .. }) if comes_again => {}
                Err(_) => {
                    intake.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            done(batch, result);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Appended, Origin, Verdict};

    /// Stores every second sample and refuses the others.
    struct Half;

    impl Append for Half {
        fn submit(&self, mut batch: Batch, done: AppendDone) {
            if batch.samples.is_empty() {
                return done(batch, Err(AppendError::Closed));
            }
            for (i, verdict) in batch.verdicts.iter_mut().enumerate() {
                *verdict = if i % 2 == 0 { Verdict::Stored } else { Verdict::Refused(Refusal::TooNew) };
            }
            let counts = batch.counts();
            done(batch, Ok(Appended { counts, ..Appended::default() }));
        }

        fn generation(&self) -> u64 {
            7
        }
    }

    #[test]
    fn the_ledger_balances() {
        let intake = Arc::new(Intake::default());
        let door = Metered::new(Arc::new(Half), intake.clone());
        let mut batch = Batch::new(Origin { method: CollectionMethod::Streaming, ..Origin::default() });
        let series = batch.push_labels(&model::Labels::from_pairs([("__name__", "x")]), model::NO_FAMILY);
        for i in 0..5 {
            batch.push_sample(series, i, 1.0);
        }
        assert!(door.append(batch).1.is_ok());
        assert!(door.append(Batch::default()).1.is_err());
        let total = intake.total();
        assert!(total.balances());
        assert_eq!((total.received, total.stored, total.refused_total()), (5, 3, 2));
        let mut page = Exposition::default();
        intake.render(&mut page);
        let text = page.finish();
        assert!(text.contains("quiver_samples_total{method=\"streaming\",verdict=\"refused\",reason=\"too_new\"} 2\n"));
        assert!(text.contains("quiver_batches_failed_total 1\n"));
        assert_eq!(door.generation(), 7);
    }
}
