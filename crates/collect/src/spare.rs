//! Memory of scrapes that are over, for those that come: a scrape then asks the allocator for next to nothing.
//!
//! Limits: [`KEPT`] of each kind; what has grown beyond [`BYTES_MAX`] goes back to the system.

use model::{Batch, BatchSample, Origin};
use parking_lot::Mutex;

use crate::draft::Draft;

/// About as many as run at the same time.
const KEPT: usize = 8;
/// What one huge target has grown is not kept for small ones.
const BYTES_MAX: usize = 2 << 20;

/// What waits to be used again.
#[derive(Default)]
pub(crate) struct Spare {
    bodies: Mutex<Vec<Vec<u8>>>,
    batches: Mutex<Vec<Batch>>,
    drafts: Mutex<Vec<Draft>>,
}

impl Spare {
    /// Gives an empty buffer.
    pub(crate) fn body(&self) -> Vec<u8> {
        self.bodies.lock().pop().unwrap_or_default()
    }

    pub(crate) fn give_body(&self, mut body: Vec<u8>) {
        body.clear();
        if body.capacity() > 0 && body.capacity() <= BYTES_MAX {
            keep(&self.bodies, body);
        }
    }

    /// Gives an empty batch of an origin.
    pub(crate) fn batch(&self, origin: Origin) -> Batch {
        let mut batch = self.batches.lock().pop().unwrap_or_default();
        batch.origin = origin;
        batch
    }

    pub(crate) fn give_batch(&self, mut batch: Batch) {
        batch.clear();
        if batch.samples.capacity().saturating_mul(size_of::<BatchSample>()) <= BYTES_MAX {
            keep(&self.batches, batch);
        }
    }

    /// Gives a draft that holds nothing but memory.
    pub(crate) fn draft(&self) -> Draft {
        self.drafts.lock().pop().unwrap_or_default()
    }

    pub(crate) fn give_draft(&self, draft: Draft) {
        let draft = draft.emptied();
        if (draft.marks.capacity() + draft.order.capacity()) * size_of::<u32>() <= BYTES_MAX {
            keep(&self.drafts, draft);
        }
    }
}

fn keep<T>(kept: &Mutex<Vec<T>>, item: T) {
    let mut kept = kept.lock();
    if kept.len() < KEPT {
        kept.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_comes_back_empty_and_what_is_large_does_not() {
        let spare = Spare::default();
        for _ in 0..2 * KEPT {
            spare.give_body(vec![1; 100]);
            spare.give_draft(Draft { marks: vec![1; 10], order: vec![1; 10], failed: true, ..Draft::default() });
            let mut batch = Batch::default();
            let series = batch.push_known(model::SeriesId(1), model::NO_FAMILY);
            batch.push_sample(series, 1, 1.0);
            spare.give_batch(batch);
        }
        let body = spare.body();
        assert!(body.is_empty() && body.capacity() >= 100);
        let draft = spare.draft();
        assert!(draft.marks.is_empty() && draft.order.is_empty() && !draft.failed && draft.marks.capacity() >= 10);
        let origin = Origin { target_id: "t".into(), ..Origin::default() };
        let batch = spare.batch(origin.clone());
        assert_eq!((batch.samples.len(), batch.series.len(), &batch.origin), (0, 0, &origin));
        assert_eq!(spare.bodies.lock().len(), KEPT - 1);
        spare.bodies.lock().clear();
        spare.give_body(Vec::with_capacity(BYTES_MAX + 1));
        assert_eq!(spare.body().capacity(), 0);
    }
}
