//! Rows on their way from sockets to the store.
//!
//! Invariants: 1. at most [`ROWS_MAX`] rows wait; 2. what was taken out and not stored goes back by being kept with the taker;
//! 3. who may wait (a connection) waits for room, who may not (a datagram) is told that there is none.

use model::Batch;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Rows that wait.
pub const ROWS_MAX: usize = 200_000;
/// Label text of the rows that wait.
const BYTES_MAX: usize = 64 << 20;

/// A bounded batch.
#[derive(Default)]
pub struct Buffer {
    waiting: Mutex<Waiting>,
    room: Notify,
}

#[derive(Default)]
struct Waiting {
    batch: Batch,
    bytes: usize,
}

impl Buffer {
    /// Adds rows if there is room.
    ///
    /// **Takes** how many bytes they came in.
    pub fn offer(&self, bytes: usize, rows: impl FnOnce(&mut Batch)) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.batch.samples.len() >= ROWS_MAX || waiting.bytes + bytes > BYTES_MAX {
            return false;
        }
        rows(&mut waiting.batch);
        waiting.bytes += bytes;
        true
    }

    /// Waits until there is room again.
    pub async fn room(&self) {
        let freed = self.room.notified();
        let full = {
            let waiting = self.waiting.lock();
            waiting.batch.samples.len() >= ROWS_MAX || waiting.bytes >= BYTES_MAX / 2
        };
        if full {
            freed.await;
        }
    }

    /// Takes all rows out; `None` when there are none.
    pub fn take(&self) -> Option<Batch> {
        let taken = {
            let mut waiting = self.waiting.lock();
            if waiting.batch.samples.is_empty() {
                return None;
            }
            std::mem::take(&mut *waiting).batch
        };
        self.room.notify_waiters();
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Labels, NO_FAMILY};

    #[tokio::test]
    async fn the_buffer_is_bounded_and_room_is_told() {
        let buffer = Buffer::default();
        let labels = Labels::from_pairs([("__name__", "a")]);
        let row = |batch: &mut Batch| {
            let series = batch.push_labels(&labels, NO_FAMILY);
            batch.push_sample(series, 1, 1.0);
        };
        assert!(buffer.take().is_none());
        for _ in 0..ROWS_MAX {
            assert!(buffer.offer(10, row));
        }
        assert!(!buffer.offer(10, row));
        let mut waiting = Box::pin(buffer.room());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(buffer.take().map(|b| b.samples.len()), Some(ROWS_MAX));
        waiting.await;
        assert!(buffer.offer(10, row));
        assert!(!buffer.offer(BYTES_MAX, row));
    }
}
