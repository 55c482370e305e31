//! A request's body while it arrives: given up when it comes too slowly, and charged for what it takes.
//!
//! Invariants: 1. a body that is only announced takes no room, so that silent senders do not keep others out; 2. what it
//! took is given back with the answer.
//! Limits: [`Pace`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};

/// How slow a body may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Without a byte for so long it is given up. In all it has this time, and a second more for each of the next.
    pub silence_max: Duration,
    /// It may be slower than this, but not for long.
    pub bytes_per_second_min: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { silence_max: Duration::from_secs(30), bytes_per_second_min: 16 << 10 }
    }
}

/// What one permit stands for.
const UNIT_BYTES: u64 = crate::memory::UNIT_BYTES as u64;

/// Why a body was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// It came too slowly.
    #[error("the body arrives too slowly")]
    Late,
    /// There is no room for it.
    #[error("too many request bodies are being worked on")]
    NoRoom,
}

/// What a body takes, and what became of it; shared by the body and who waits for the answer.
pub struct Toll {
    pace: Pace,
    /// Where room is taken; `None` leaves the counting to who reads the body.
    room: Option<Arc<Semaphore>>,
    /// How many times larger than on the wire it may be in memory, at its end.
    growth: u64,
    bytes_max: u64,
    held: Mutex<Option<OwnedSemaphorePermit>>,
    fault: AtomicU8,
}

impl Toll {
    /// Starts without having taken anything.
    pub fn new(pace: Pace, room: Option<Arc<Semaphore>>, growth: u64, bytes_max: u64) -> Arc<Toll> {
        Arc::new(Toll { pace, room, growth, bytes_max, held: Mutex::default(), fault: AtomicU8::new(0) })
    }

    /// Tells why the body was given up, if it was.
    pub fn fault(&self) -> Option<Fault> {
        match self.fault.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Fault::Late),
            _ => Some(Fault::NoRoom),
        }
    }

    fn give_up(&self, fault: Fault) -> axum::Error {
        self.fault.store(if fault == Fault::Late { 1 } else { 2 }, Ordering::Relaxed);
        axum::Error::new(fault)
    }

    /// Takes room until it is enough for so many bytes.
    fn charge(&self, bytes: u64) -> Result<(), axum::Error> {
        let Some(room) = &self.room else { return Ok(()) };
        let wanted = (bytes.min(self.bytes_max) / UNIT_BYTES + 1) as usize;
        let mut held = self.held.lock();
        let missing = wanted.saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if missing == 0 {
            return Ok(());
        }
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let Ok(more) = Arc::clone(room).try_acquire_many_owned(missing) else {
            return Err(self.give_up(Fault::NoRoom));
        };
        match held.as_mut() {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }
}

/// A body that watches its own arrival.
pub struct Arriving {
    body: Body,
    toll: Arc<Toll>,
    started: Instant,
    last: Instant,
    arrived: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    /// Starts the clock.
    pub fn new(body: Body, toll: Arc<Toll>) -> Arriving {
        let now = Instant::now();
        Arriving { body, toll, started: now, last: now, arrived: 0, timer: None }
    }

    fn deadline(&self) -> Instant {
        let pace = self.toll.pace;
        let earned = Duration::from_secs(self.arrived / pace.bytes_per_second_min.max(1));
        (self.started + earned).min(self.last) + pace.silence_max
    }

    /// Waits on; past the deadline the body is given up.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<axum::Error> {
        let deadline = self.deadline();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(self.toll.give_up(Fault::Late))
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return self.wait(cx).map(|error| Some(Err(error))),
            Poll::Ready(frame) => frame,
        };
        let charged = match &frame {
            Some(Ok(frame)) => {
                self.arrived += frame.data_ref().map_or(0, |data| data.len() as u64);
                self.last = Instant::now();
                self.toll.charge(self.arrived)
            }
            None => self.toll.charge(self.arrived.saturating_mul(self.toll.growth)),
            Some(Err(_)) => Ok(()),
        };
        Poll::Ready(match charged {
            Ok(()) => frame,
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        // The end of a compressed body is charged, too: it must be asked for.
        self.toll.growth == 1 && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use http_body_util::BodyExt;

    fn body_of(pieces: usize, every: Duration) -> Body {
        let piece = move |_| async move {
            tokio::time::sleep(every).await;
            Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 1000]))
        };
        Body::from_stream(futures_util::stream::iter(0..pieces).then(piece))
    }

    async fn arrives(body: Body, toll: &Arc<Toll>) -> bool {
        let mut arriving = Arriving::new(body, toll.clone());
        while let Some(frame) = arriving.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    }

    #[tokio::test]
    async fn slow_and_silent_bodies_are_given_up() {
        let pace = Pace { silence_max: Duration::from_millis(300), bytes_per_second_min: 10_000 };
        for (pieces, every_ms, expected) in [(3, 50, true), (2, 600, false), (1_000, 150, false), (100, 10, true)] {
            let (toll, started) = (Toll::new(pace, None, 1, 1 << 20), Instant::now());
            let arrived = arrives(body_of(pieces, Duration::from_millis(every_ms)), &toll).await;
            assert_eq!(arrived, expected, "{pieces} pieces, one each {every_ms} ms");
            assert_eq!(toll.fault(), (!arrived).then_some(Fault::Late));
            assert!(arrived || started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        }
    }

    #[tokio::test]
    async fn room_is_taken_as_bytes_arrive_and_given_back() {
        let room = Arc::new(Semaphore::new(64));
        let toll = |growth| Toll::new(Pace::default(), Some(room.clone()), growth, 40_000);
        let plain = toll(1);
        assert!(arrives(body_of(9, Duration::ZERO), &plain).await);
        assert_eq!(room.available_permits(), 55);
        let packed = toll(1_000);
        assert!(arrives(body_of(1, Duration::ZERO), &packed).await, "it may become 40,000 bytes, not more");
        assert_eq!(room.available_permits(), 15);
        let refused = toll(1);
        assert!(!arrives(body_of(20, Duration::ZERO), &refused).await);
        assert_eq!(refused.fault(), Some(Fault::NoRoom));
        drop((plain, packed, refused));
        assert_eq!(room.available_permits(), 64);
    }
}
