//! Buffers of remote write that are used again and again.
//!
//! Limits: [`KEPT`] of each kind; those that grew beyond [`BYTES_MAX`] are given back to the system.

use model::Batch;
use parking_lot::Mutex;

/// More than run at the same time on most machines.
const KEPT: usize = 32;
/// A buffer that one large request has grown is not kept for small ones.
const BYTES_MAX: usize = 16 << 20;

/// The bytes of a request, as they came and inflated.
#[derive(Default)]
pub struct Buffers {
    /// As they came.
    pub body: Vec<u8>,
    /// Inflated; only grows, see [`wire::snappy::decode_block_into`].
    pub inflated: Vec<u8>,
}

/// What waits to be used again.
#[derive(Default)]
pub struct Pool {
    buffers: Mutex<Vec<Buffers>>,
    batches: Mutex<Vec<Batch>>,
}

impl Pool {
    /// Gives buffers; the body is empty.
    pub fn buffers(&self) -> Buffers {
        self.buffers.lock().pop().unwrap_or_default()
    }

    /// Takes buffers back.
    pub fn give_buffers(&self, mut buffers: Buffers) {
        buffers.body.clear();
        if buffers.body.capacity().max(buffers.inflated.capacity()) <= BYTES_MAX {
            keep(&self.buffers, buffers);
        }
    }

    /// Gives an empty batch.
    pub fn batch(&self) -> Batch {
        self.batches.lock().pop().unwrap_or_default()
    }

    /// Takes a batch back.
    pub fn give_batch(&self, mut batch: Batch) {
        batch.clear();
        if batch.samples.capacity().saturating_mul(size_of::<model::BatchSample>()) <= BYTES_MAX {
            keep(&self.batches, batch);
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
    fn buffers_come_back_empty_and_large_ones_do_not() {
        let pool = Pool::default();
        let mut buffers = pool.buffers();
        buffers.body.extend_from_slice(b"abc");
        buffers.inflated.resize(100, 1);
        pool.give_buffers(buffers);
        let again = pool.buffers();
        assert_eq!((again.body.len(), again.inflated.len()), (0, 100));
        assert!(again.body.capacity() >= 3);
        pool.give_buffers(Buffers { body: Vec::new(), inflated: vec![0; BYTES_MAX + 1] });
        assert_eq!(pool.buffers().inflated.len(), 0);
    }

    #[test]
    fn no_more_are_kept_than_allowed() {
        let pool = Pool::default();
        for _ in 0..2 * KEPT {
            pool.give_batch(Batch::default());
        }
        assert_eq!(pool.batches.lock().len(), KEPT);
    }
}
