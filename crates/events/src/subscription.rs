//! One listener: history from disk, then live, without a seam.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinHandle;

use crate::log::{Shared, io_error};
use crate::segment::SegmentCursor;
use crate::{Event, EventError, EventId};

/// Events read from disk at a time.
const READ_EVENTS_MAX: usize = 512;

/// Why a listener cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The events it wants are not kept any more.
    #[error("the event to resume after is not in the log any more")]
    Gone {
        /// The oldest one that is; `None` when there is none.
        oldest: Option<EventId>,
    },
    /// The log failed.
    #[error(transparent)]
    Log(#[from] EventError),
    /// The log is closed.
    #[error("the event log is closed")]
    Closed,
}

/// What a listener gets.
#[derive(Clone, PartialEq, Debug)]
pub enum Delivery {
    /// The next event.
    Event(Event),
    /// It was too slow for the live channel and reads on from disk; nothing is lost.
    Lagged {
        /// How many events it is behind.
        behind: u64,
    },
}

/// A listener.
pub struct Subscription {
    shared: Arc<Shared>,
    live: broadcast::Receiver<Event>,
    source_id: Option<String>,
    next_seq: u64,
    /// Event from the live channel that came before the ones on disk were through.
    ahead: Option<Event>,
    from_disk: VecDeque<Event>,
    cursor: Option<(u64, SegmentCursor)>,
    /// A read that is under way; it is waited for again when who waited was cancelled.
    reading: Option<JoinHandle<Result<Read, SubscribeError>>>,
}

impl Subscription {
    pub(crate) fn new(
        shared: Arc<Shared>,
        live: broadcast::Receiver<Event>,
        source_id: Option<String>,
        next_seq: u64,
    ) -> Subscription {
        let (from_disk, cursor) = (VecDeque::new(), None);
        Subscription { shared, live, source_id, next_seq, ahead: None, from_disk, cursor, reading: None }
    }

    /// Gives the place of the event that comes next at the earliest.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Waits for the next event of the wanted source. Cancelling it loses nothing, no read of the disk either.
    pub async fn next(&mut self) -> Result<Delivery, SubscribeError> {
        loop {
            if let Some(event) = self.next_known() {
                if self.wants(&event) {
                    return Ok(Delivery::Event(event));
                }
                continue;
            }
            if self.ahead.is_some() {
                self.read_disk().await?;
                continue;
            }
            match self.live.try_recv() {
                Ok(event) => self.ahead = Some(event),
                Err(TryRecvError::Lagged(behind)) => return Ok(Delivery::Lagged { behind }),
                Err(TryRecvError::Closed) => return Err(SubscribeError::Closed),
                Err(TryRecvError::Empty) if self.next_seq < self.shared.next_seq() => self.read_disk().await?,
                Err(TryRecvError::Empty) => match self.live.recv().await {
                    Ok(event) => self.ahead = Some(event),
                    Err(RecvError::Lagged(behind)) => return Ok(Delivery::Lagged { behind }),
                    Err(RecvError::Closed) => return Err(SubscribeError::Closed),
                },
            }
        }
    }

    fn wants(&self, event: &Event) -> bool {
        self.source_id.as_ref().is_none_or(|s| *s == event.report.origin.source_id)
    }

    /// Takes the next event that is at hand already, and drops those that were given before.
    fn next_known(&mut self) -> Option<Event> {
        while let Some(event) = self.from_disk.pop_front() {
            if event.seq >= self.next_seq {
                self.next_seq = event.seq + 1;
                return Some(event);
            }
        }
        match &self.ahead {
            Some(event) if event.seq < self.next_seq => {
                self.ahead = None;
                None
            }
            Some(event) if event.seq == self.next_seq => {
                self.next_seq += 1;
                self.ahead.take()
            }
            _ => None,
        }
    }

    /// Reads the next events from disk, on a thread that may wait.
    async fn read_disk(&mut self) -> Result<(), SubscribeError> {
        let next_seq = self.next_seq;
        let reading = match &mut self.reading {
            Some(reading) => reading,
            none => {
                let (shared, cursor) = (Arc::clone(&self.shared), self.cursor.take());
                none.insert(tokio::task::spawn_blocking(move || read(&shared, cursor, next_seq)))
            }
        };
        let joined = reading.await;
        self.reading = None;
        let Ok(result) = joined else { return Err(SubscribeError::Closed) };
        let read = result?;
        self.cursor = read.cursor;
        self.from_disk = read.events;
        if self.from_disk.is_empty() {
            // Damage swallowed what was there: go on with what comes next, or there is nothing to wait for on disk.
            self.next_seq = self.ahead.as_ref().map_or(read.end_seq, |e| e.seq).max(next_seq);
        }
        Ok(())
    }
}

struct Read {
    events: VecDeque<Event>,
    cursor: Option<(u64, SegmentCursor)>,
    /// All events before this one were looked for.
    end_seq: u64,
}

fn read(shared: &Shared, cursor: Option<(u64, SegmentCursor)>, next_seq: u64) -> Result<Read, SubscribeError> {
    shared.write()?;
    let mut seq = next_seq;
    let mut events = VecDeque::new();
    let mut cursor = cursor;
    while events.is_empty() {
        let Some(info) = shared.segment_of(seq) else { break };
        if info.first_seq > seq && seq == next_seq && gap_is_retention(shared, info.first_seq) {
            return Err(SubscribeError::Gone { oldest: shared.oldest_id()? });
        }
        let mut walk = match cursor.take() {
            Some((first_seq, walk)) if first_seq == info.first_seq => walk,
            _ => match SegmentCursor::open(&info.path, info.bytes) {
                Ok(walk) => walk,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(SubscribeError::Gone { oldest: shared.oldest_id()? });
                }
                Err(e) => return Err(io_error(&info.path, e).into()),
            },
        };
        walk.end = info.bytes;
        while events.len() < READ_EVENTS_MAX
            && let Some(event) = walk.next().map_err(|e| io_error(&info.path, e))?
        {
            if event.seq >= next_seq {
                events.push_back(event);
            }
        }
        seq = info.last_seq + 1;
        cursor = Some((info.first_seq, walk));
    }
    Ok(Read { events, cursor, end_seq: seq })
}

/// Tells whether the events before a segment were deleted: it is the oldest one then.
fn gap_is_retention(shared: &Shared, first_seq: u64) -> bool {
    shared.segment_of(0).is_some_and(|oldest| oldest.first_seq == first_seq)
}
