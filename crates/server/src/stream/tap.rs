//! Hears of every sample that is stored, for those who listen.
//!
//! Owns: a bounded queue for each listener. Invariants: 1. nobody who listens slows the store: what finds no room is counted and
//! told; 2. without listeners a batch costs a load of an atomic.
//! Limits: [`QUEUE_SAMPLES_MAX`] samples wait for one listener.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::histogram::Histogram;
use model::{Append, AppendDone, Batch, SeriesId, Verdict};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

/// Samples that wait for one listener.
pub const QUEUE_SAMPLES_MAX: usize = 500_000;

/// A value that was stored.
#[derive(Clone, Debug)]
pub enum Stored {
    /// A double.
    Value(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

/// What a batch brought, by the store's ids.
#[derive(Debug, Default)]
pub struct Delivery {
    /// Series, time in milliseconds, value.
    pub samples: Vec<(SeriesId, i64, Stored)>,
}

/// All listeners.
#[derive(Default)]
pub struct Tap {
    count: AtomicUsize,
    listeners: RwLock<Vec<Arc<Listener>>>,
}

/// One listener's queue.
#[derive(Default)]
pub struct Listener {
    queue: Mutex<Queue>,
    news: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Delivery>>,
    samples: usize,
    missed: u64,
}

/// A listener at work; gone when dropped.
pub struct Listening {
    tap: Arc<Tap>,
    listener: Arc<Listener>,
}

impl Tap {
    /// Begins to listen: every batch that is stored from now on comes.
    pub fn listen(self: &Arc<Tap>) -> Listening {
        let listener = Arc::new(Listener::default());
        let mut listeners = self.listeners.write();
        listeners.push(listener.clone());
        self.count.store(listeners.len(), Ordering::SeqCst);
        Listening { tap: self.clone(), listener }
    }

    fn give(&self, batch: &Batch) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let delivery = Arc::new(delivery(batch));
        if delivery.samples.is_empty() {
            return;
        }
        for listener in self.listeners.read().iter() {
            listener.offer(&delivery);
        }
    }
}

fn delivery(batch: &Batch) -> Delivery {
    let id = |series: model::SeriesIndex| batch.series.get(series.0 as usize).map(|s| s.id).filter(|id| id.is_some());
    let samples = batch.samples.iter().zip(&batch.verdicts).filter(|(_, verdict)| **verdict == Verdict::Stored);
    let samples = samples.filter_map(|(s, _)| Some((id(s.series)?, s.ts_ms, Stored::Value(s.value))));
    let histograms = batch.histograms.iter().filter(|h| h.verdict == Verdict::Stored);
    let histograms = histograms.filter_map(|h| Some((id(h.series)?, h.ts_ms, Stored::Histogram(h.histogram.clone()))));
    Delivery { samples: samples.chain(histograms).collect() }
}

impl Listener {
    fn offer(&self, delivery: &Arc<Delivery>) {
        let mut queue = self.queue.lock();
        let more = delivery.samples.len();
        // One batch larger than the whole queue still fits when nothing waits.
        if queue.samples > 0 && queue.samples + more > QUEUE_SAMPLES_MAX {
            queue.missed += more as u64;
        } else {
            queue.samples += more;
            queue.waiting.push_back(delivery.clone());
        }
        drop(queue);
        self.news.notify_one();
    }
}

impl Listening {
    /// Gives what waits, and how many samples found no room since the last call.
    pub fn take(&self) -> (Vec<Arc<Delivery>>, u64) {
        let mut queue = self.listener.queue.lock();
        queue.samples = 0;
        (queue.waiting.drain(..).collect(), std::mem::take(&mut queue.missed))
    }

    /// Waits until something is there, or was missed.
    pub async fn news(&self) {
        self.listener.news.notified().await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listeners = self.tap.listeners.write();
        listeners.retain(|listener| !Arc::ptr_eq(listener, &self.listener));
        self.tap.count.store(listeners.len(), Ordering::SeqCst);
    }
}

/// The store's door with a tap in it.
pub struct Tapped {
    inner: Arc<dyn Append>,
    tap: Arc<Tap>,
}

impl Tapped {
    /// Puts the tap in front of a door.
    pub fn new(inner: Arc<dyn Append>, tap: Arc<Tap>) -> Tapped {
        Tapped { inner, tap }
    }
}

impl Append for Tapped {
    fn submit(&self, batch: Batch, done: AppendDone) {
        self.inner.submit(batch, self.tapped(done));
    }

    fn submit_now(&self, batch: Batch, done: AppendDone) {
        self.inner.submit_now(batch, self.tapped(done));
    }

    fn behind(&self) -> Option<&dyn Append> {
        Some(&*self.inner)
    }
}

impl Tapped {
    /// Puts the tap before an answer.
    fn tapped(&self, done: AppendDone) -> AppendDone {
        let tap = self.tap.clone();
        Box::new(move |batch, result| {
            if result.is_ok() {
                tap.give(&batch);
            }
            done(batch, result);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Labels, NO_FAMILY, Refusal};

    fn batch(samples: usize) -> Batch {
        let mut batch = Batch::default();
        let series = batch.push_labels(&Labels::from_pairs([("__name__", "a")]), NO_FAMILY);
        batch.series[0].id = SeriesId(7);
        (0..samples).for_each(|i| batch.push_decided(series, i as i64, 1.0, Verdict::Stored));
        batch.push_decided(series, 0, 1.0, Verdict::Refused(Refusal::TooOld));
        batch.push_decided(series, 0, 1.0, Verdict::Duplicate);
        batch
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_and_the_others_are_not_touched() {
        let tap = Arc::new(Tap::default());
        tap.give(&batch(1));
        let (slow, quick) = (tap.listen(), tap.listen());
        let mut heard = 0;
        for _ in 0..6 {
            tap.give(&batch(100_000));
            quick.news().await;
            let (deliveries, missed) = quick.take();
            heard += deliveries.iter().map(|d| d.samples.len()).sum::<usize>();
            assert_eq!(missed, 0);
        }
        let (deliveries, missed) = slow.take();
        assert_eq!((heard, deliveries.len(), missed), (600_000, 5, 100_000));
        drop(slow);
        drop(quick);
        assert_eq!(tap.count.load(Ordering::SeqCst), 0);
    }
}
