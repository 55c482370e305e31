//! Reports on their way from a batch to its event: the store's log is not cut while one of its reports is on the way.
//!
//! The store's log carries every report, and a start publishes those that the event log does not have. So an event can
//! be lost only if its record leaves the store's log before the event is durable; [`Unpublished::settle`] stands between.
//! Invariants: 1. a report is here from before its batch can be durable until its event is published or its batch has
//! failed; 2. only `settle` waits.
//! Limits: as many as batches are under way, and those whose owner broke off since the last `settle`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use events::EventId;
use model::{Append, AppendDone, AppendError, Batch, CollectionReport};
use parking_lot::{Condvar, Mutex};

/// What is known of a report on its way.
enum Way {
    /// Its batch is with the store.
    Submitted,
    /// Its batch is durable; the owner of the batch is about to publish.
    Durable(Box<CollectionReport>),
}

/// The reports on their way.
#[derive(Default)]
pub struct Unpublished {
    ways: Mutex<HashMap<EventId, Way>>,
    changed: Condvar,
}

impl Unpublished {
    /// The event of a report is in the event log, or there will be none.
    pub fn done(&self, id: &EventId) {
        if self.ways.lock().remove(id).is_some() {
            self.changed.notify_all();
        }
    }

    fn submitted(&self, id: EventId) {
        self.ways.lock().insert(id, Way::Submitted);
    }

    fn durable(&self, report: CollectionReport) {
        if let Some(way) = self.ways.lock().get_mut(&report.event_id) {
            *way = Way::Durable(Box::new(report));
        }
    }

    /// Waits until the reports that are on their way now are published, and publishes those whose owner does not.
    ///
    /// **Gives** whether none of them is left.
    pub fn settle(&self, wait: Duration, publish: impl Fn(CollectionReport)) -> bool {
        let deadline = Instant::now() + wait;
        let mut ways = self.ways.lock();
        let mut waited_for: Vec<EventId> = ways.keys().copied().collect();
        loop {
            waited_for.retain(|id| ways.contains_key(id));
            if waited_for.is_empty() {
                return true;
            }
            if self.changed.wait_until(&mut ways, deadline).timed_out() {
                break;
            }
        }
        let mut abandoned = Vec::new();
        for id in &waited_for {
            if let Some(Way::Durable(_)) = ways.get(id)
                && let Some(Way::Durable(report)) = ways.remove(id)
            {
                abandoned.push(*report);
            }
        }
        drop(ways);
        let all = abandoned.len() == waited_for.len();
        abandoned.into_iter().for_each(publish);
        all
    }
}

/// The store's door, which notes the reports that go through it.
pub struct Noting {
    inner: Arc<dyn Append>,
    unpublished: Arc<Unpublished>,
}

impl Noting {
    /// Stands in front of a door.
    pub fn new(inner: Arc<dyn Append>, unpublished: Arc<Unpublished>) -> Noting {
        Noting { inner, unpublished }
    }
}

impl Append for Noting {
    fn submit(&self, batch: Batch, done: AppendDone) {
        let done = self.noted(&batch, done, false);
        self.inner.submit(batch, done);
    }

    fn submit_now(&self, batch: Batch, done: AppendDone) {
        let done = self.noted(&batch, done, true);
        self.inner.submit_now(batch, done);
    }

    fn behind(&self) -> Option<&dyn Append> {
        Some(&*self.inner)
    }
}

impl Noting {
    /// Notes the report of a batch, and puts what becomes of it before its answer; `comes_again` says that a busy store is
    /// no end.
    fn noted(&self, batch: &Batch, done: AppendDone, comes_again: bool) -> AppendDone {
        let Some(id) = batch.report.as_ref().map(|report| report.event_id) else { return done };
        self.unpublished.submitted(id);
        let unpublished = self.unpublished.clone();
        Box::new(move |batch, result| {
            match (&result, &batch.report) {
                (Ok(_), Some(report)) => unpublished.durable(report.clone()),
                // It is submitted again, under the same id.
                (Err(AppendError::Busy { .. }), _) if comes_again => {}
                // A failed batch's owner publishes another event, or tries again.
                _ => unpublished.done(&id),
            }
            done(batch, result);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Appended;

    type Held = Vec<(Batch, AppendDone)>;

    /// Keeps batches until it is told to answer.
    #[derive(Default)]
    struct Slow(Mutex<Held>);

    impl Append for Slow {
        fn submit(&self, batch: Batch, done: AppendDone) {
            self.0.lock().push((batch, done));
        }

        fn generation(&self) -> u64 {
            1
        }
    }

    impl Slow {
        fn answer(&self, result: Result<Appended, AppendError>) {
            let held = std::mem::take(&mut *self.0.lock());
            held.into_iter().for_each(|(batch, done)| done(batch, result.clone()));
        }
    }

    fn batch(n: u8) -> Batch {
        let report = CollectionReport { event_id: [n; 16], ..CollectionReport::default() };
        let mut batch = Batch::default();
        batch.report = Some(report);
        batch
    }

    fn settled(unpublished: &Unpublished, wait_ms: u64) -> (bool, Vec<u8>) {
        let published = Mutex::new(Vec::new());
        let all = unpublished.settle(Duration::from_millis(wait_ms), |r| published.lock().push(r.event_id[0]));
        (all, published.into_inner())
    }

    #[test]
    fn a_report_is_on_its_way_from_submit_to_its_event() {
        let (slow, unpublished) = (Arc::new(Slow::default()), Arc::new(Unpublished::default()));
        let door = Noting::new(slow.clone(), unpublished.clone());
        assert_eq!(settled(&unpublished, 0), (true, vec![]));
        door.submit(batch(1), Box::new(|_, _| {}));
        assert_eq!(settled(&unpublished, 1), (false, vec![]), "it may be durable and has no event yet");
        slow.answer(Ok(Appended::default()));
        std::thread::scope(|scope| {
            let owner = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                unpublished.done(&[1; 16]);
            });
            assert_eq!(settled(&unpublished, 60_000), (true, vec![]), "its owner published it");
            owner.join().unwrap();
        });
        door.submit(Batch::default(), Box::new(|_, _| {}));
        assert_eq!(settled(&unpublished, 0), (true, vec![]), "no report, nothing to wait for");
    }

    #[test]
    fn a_report_whose_owner_broke_off_is_published_and_one_of_a_failed_batch_is_not() {
        let (slow, unpublished) = (Arc::new(Slow::default()), Arc::new(Unpublished::default()));
        let door = Noting::new(slow.clone(), unpublished.clone());
        door.submit(batch(1), Box::new(|_, _| {}));
        slow.answer(Ok(Appended::default()));
        door.submit(batch(2), Box::new(|_, _| {}));
        slow.answer(Err(AppendError::Closed));
        assert_eq!(settled(&unpublished, 1), (true, vec![1]));
        assert_eq!(settled(&unpublished, 1), (true, vec![]), "once");
    }
}
