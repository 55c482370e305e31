//! From the pieces in which a body arrives to whole lines.
//!
//! Invariants: 1. a line is at most `line_bytes_max` long; 2. what waits for the rest of its line is paid for out of a common budget
//! beyond the first [`FREE_BYTES`]: ten thousand half lines cost no more than the budget.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a line that cost nothing: a connection has as much in its buffers.
const FREE_BYTES: usize = 64 << 10;
/// The budget is counted in pieces of this size.
pub const PIECE_BYTES: usize = 16 << 10;

/// Why there are no more lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LineFault {
    /// A line is longer than it may be.
    TooLong(usize),
    /// The connection broke.
    Broken(String),
    /// Others have taken the memory there is for half lines.
    NoRoom,
}

/// The lines of a body.
pub struct Lines {
    body: Body,
    bytes: Vec<u8>,
    /// Everything before here was looked at and has no line end.
    seen: usize,
    start: usize,
    ended: bool,
    line_bytes_max: usize,
    budget: Arc<Semaphore>,
    paid: Option<OwnedSemaphorePermit>,
}

impl Lines {
    /// Starts on a body.
    pub fn new(body: Body, line_bytes_max: usize, budget: Arc<Semaphore>) -> Lines {
        Lines { body, bytes: Vec::new(), seen: 0, start: 0, ended: false, line_bytes_max, budget, paid: None }
    }

    /// Gives a line that is there already.
    pub fn ready(&mut self) -> Option<Bytes> {
        let rest = self.bytes.get(self.seen..)?;
        let end = match memchr::memchr(b'\n', rest) {
            Some(end) => self.seen + end,
            None if self.ended && self.start < self.bytes.len() => self.bytes.len(),
            None => {
                self.seen = self.bytes.len();
                return None;
            }
        };
        let line = Bytes::copy_from_slice(&self.bytes[self.start..end]);
        self.start = (end + 1).min(self.bytes.len());
        self.seen = self.start;
        Some(line)
    }

    /// Waits for a line; `None` at the end.
    ///
    /// Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Result<Bytes, LineFault>> {
        loop {
            if let Some(line) = self.ready() {
                return Some(Ok(line));
            }
            if self.ended {
                return None;
            }
            self.make_room();
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(error)) => {
                    self.ended = true;
                    self.bytes.clear();
                    (self.start, self.seen) = (0, 0);
                    return Some(Err(LineFault::Broken(error.to_string())));
                }
                Some(Ok(frame)) => {
                    let Some(data) = frame.data_ref() else { continue };
                    let first_end = memchr::memchr(b'\n', data).unwrap_or(data.len());
                    if self.bytes.len() - self.start + first_end > self.line_bytes_max {
                        return Some(Err(LineFault::TooLong(self.line_bytes_max)));
                    }
                    if !self.pay(self.bytes.len() + data.len()) {
                        return Some(Err(LineFault::NoRoom));
                    }
                    self.bytes.extend_from_slice(data);
                }
            }
        }
    }

    /// Drops what was given out.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.seen -= self.start;
            self.start = 0;
        }
        if self.bytes.is_empty() {
            self.paid = None;
            if self.bytes.capacity() > FREE_BYTES {
                self.bytes = Vec::new();
            }
        }
    }

    fn pay(&mut self, bytes: usize) -> bool {
        let wanted = bytes.saturating_sub(FREE_BYTES).div_ceil(PIECE_BYTES);
        let held = self.paid.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if wanted <= held {
            return true;
        }
        let more = u32::try_from(wanted - held).unwrap_or(u32::MAX);
        match (self.budget.clone().try_acquire_many_owned(more), &mut self.paid) {
            (Ok(permit), Some(paid)) => paid.merge(permit),
            (Ok(permit), paid @ None) => *paid = Some(permit),
            (Err(_), _) => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&'static str], max: usize, budget: usize) -> Lines {
        let pieces: Vec<_> = pieces.iter().map(|p| Ok::<_, std::io::Error>(Bytes::from_static(p.as_bytes()))).collect();
        Lines::new(Body::from_stream(futures_util::stream::iter(pieces)), max, Arc::new(Semaphore::new(budget)))
    }

    async fn all(mut lines: Lines) -> Vec<Result<String, LineFault>> {
        let mut out = Vec::new();
        while let Some(line) = lines.next().await {
            let stop = line.is_err();
            out.push(line.map(|l| String::from_utf8_lossy(&l).into_owned()));
            if stop {
                break;
            }
        }
        out
    }

    #[tokio::test]
    async fn lines_are_joined_and_cut() {
        let wanted: Vec<Result<String, LineFault>> =
            ["ab", "", "cde", "f"].iter().map(|s| Ok((*s).to_owned())).collect();
        for pieces in [&["ab\n\ncde\nf"][..], &["a", "b", "\n", "\nc", "de\nf"], &["ab\n\ncd", "e\n", "f\n"]] {
            assert_eq!(all(lines(pieces, 10, 0)).await, wanted, "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn long_lines_and_full_budgets_end_it() {
        assert_eq!(all(lines(&["abcdef\n"], 5, 0)).await, [Err(LineFault::TooLong(5))]);
        assert_eq!(all(lines(&["ab", "cd", "ef"], 5, 0)).await, [Err(LineFault::TooLong(5))]);
        let long: &'static str = "x".repeat(FREE_BYTES + 1).leak();
        assert_eq!(all(lines(&[long], 1 << 20, 0)).await, [Err(LineFault::NoRoom)]);
        assert_eq!(all(lines(&[long], 1 << 20, 1)).await.len(), 1);
    }
}
