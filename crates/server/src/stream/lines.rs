//! From the pieces in which a body arrives, compressed or not, to whole lines.
//!
//! Invariants: 1. a line is at most `line_bytes_max` long; 2. what waits for the rest of its line is paid for out of a common budget
//! beyond the first [`FREE_BYTES`]: ten thousand half lines cost no more than the budget; decoders are paid for out of another one;
//! 3. what is not inflated yet waits in the piece it came in: a body is inflated no faster than its lines are taken; 4. of a body that
//! is cut short no half line is given.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::inflating::{Inflating, InflatingError};

/// Bytes of a line that cost nothing: a connection has as much in its buffers.
const FREE_BYTES: usize = 64 << 10;
/// The budgets are counted in pieces of this size.
pub const PIECE_BYTES: usize = 16 << 10;
/// Bytes inflated at a time; the last step may go beyond.
const INFLATED_BYTES: usize = 64 << 10;

/// Why there are no more lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LineFault {
    /// A line is longer than it may be.
    TooLong(usize),
    /// The connection broke.
    Broken(String),
    /// Others have taken the memory there is for half lines or for decoders.
    NoRoom,
    /// The body cannot be inflated any further.
    Inflating(InflatingError),
}

/// What lines are paid for with, in pieces of [`PIECE_BYTES`].
#[derive(Clone)]
pub struct Budgets {
    /// For half lines.
    pub lines: Arc<Semaphore>,
    /// For the memory of decoders.
    pub decoders: Arc<Semaphore>,
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
    budgets: Budgets,
    paid: Option<OwnedSemaphorePermit>,
    compressed: Option<Compressed>,
}

/// What there is of a compressed body.
struct Compressed {
    inflating: Inflating,
    /// Not inflated yet.
    waiting: Bytes,
    /// The decoder may hold more.
    has_more: bool,
    paid: Option<OwnedSemaphorePermit>,
}

impl Lines {
    /// Starts on a body; with a decoder on a compressed one.
    pub fn new(body: Body, inflating: Option<Inflating>, line_bytes_max: usize, budgets: Budgets) -> Lines {
        let compressed =
            inflating.map(|inflating| Compressed { inflating, waiting: Bytes::new(), has_more: false, paid: None });
        let (bytes, seen, start, ended, paid) = (Vec::new(), 0, 0, false, None);
        Lines { body, bytes, seen, start, ended, line_bytes_max, budgets, paid, compressed }
    }

    /// Gives a line that is there already. Empty ones are left out.
    pub fn ready(&mut self) -> Option<Bytes> {
        while self.seen == self.start && self.bytes.get(self.seen) == Some(&b'\n') {
            self.start += 1;
            self.seen = self.start;
        }
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
            if let Err(fault) = self.more().await {
                self.ended = true;
                self.bytes.clear();
                (self.start, self.seen) = (0, 0);
                return Some(Err(fault));
            }
        }
    }

    /// Waits for more bytes, or for the end.
    async fn more(&mut self) -> Result<(), LineFault> {
        if self.compressed.as_ref().is_some_and(Compressed::is_waiting) {
            // A body that inflates far must not keep others from their turn.
            tokio::task::yield_now().await;
            return self.inflate();
        }
        match self.body.frame().await {
            None => {
                let finished = self.compressed.as_mut().map_or(Ok(()), |c| c.inflating.finish());
                finished.map_err(LineFault::Inflating)?;
                self.ended = true;
                Ok(())
            }
            Some(Err(error)) => Err(LineFault::Broken(error.to_string())),
            Some(Ok(frame)) => match (frame.into_data(), &mut self.compressed) {
                (Err(_trailers), _) => Ok(()),
                (Ok(data), None) => self.take(&data),
                (Ok(data), Some(compressed)) => {
                    compressed.waiting = data;
                    Ok(())
                }
            },
        }
    }

    /// Inflates some of what waits.
    fn inflate(&mut self) -> Result<(), LineFault> {
        let Some(compressed) = &mut self.compressed else { return Ok(()) };
        let mut inflated = Vec::new();
        while inflated.len() < INFLATED_BYTES && compressed.is_waiting() {
            let step = compressed.inflating.step(&compressed.waiting, &mut inflated);
            let step = step.map_err(LineFault::Inflating)?;
            drop(compressed.waiting.split_to(step.taken));
            compressed.has_more = step.has_more;
            if !pay(&self.budgets.decoders, &mut compressed.paid, compressed.inflating.held_bytes()) {
                return Err(LineFault::NoRoom);
            }
        }
        self.take(&inflated)
    }

    /// Adds bytes to the line that is not whole yet.
    fn take(&mut self, data: &[u8]) -> Result<(), LineFault> {
        let first_end = memchr::memchr(b'\n', data).unwrap_or(data.len());
        if self.bytes.len() - self.start + first_end > self.line_bytes_max {
            return Err(LineFault::TooLong(self.line_bytes_max));
        }
        if !pay(&self.budgets.lines, &mut self.paid, (self.bytes.len() + data.len()).saturating_sub(FREE_BYTES)) {
            return Err(LineFault::NoRoom);
        }
        self.bytes.extend_from_slice(data);
        Ok(())
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
}

impl Compressed {
    fn is_waiting(&self) -> bool {
        self.has_more || !self.waiting.is_empty()
    }
}

/// Takes out of a budget what so many bytes cost more than what is paid already; tells whether there was enough.
fn pay(budget: &Arc<Semaphore>, paid: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> bool {
    let wanted = bytes.div_ceil(PIECE_BYTES);
    let held = paid.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    if wanted <= held {
        return true;
    }
    let more = u32::try_from(wanted - held).unwrap_or(u32::MAX);
    match (budget.clone().try_acquire_many_owned(more), paid) {
        (Ok(permit), Some(paid)) => paid.merge(permit),
        (Ok(permit), paid @ None) => *paid = Some(permit),
        (Err(_), _) => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use wire::inflating::Coding;

    use super::*;

    fn body(pieces: Vec<Vec<u8>>) -> Body {
        let pieces = pieces.into_iter().map(|p| Ok::<Bytes, std::io::Error>(p.into()));
        Body::from_stream(futures_util::stream::iter(pieces))
    }

    fn budgets(lines: usize, decoders: usize) -> Budgets {
        Budgets { lines: Arc::new(Semaphore::new(lines)), decoders: Arc::new(Semaphore::new(decoders)) }
    }

    fn lines(pieces: &[&'static str], max: usize, budget: usize) -> Lines {
        let pieces: Vec<_> = pieces.iter().map(|p| p.as_bytes().to_vec()).collect();
        Lines::new(body(pieces), None, max, budgets(budget, 0))
    }

    fn compressed(coding: Coding, bytes: &[u8], chunk: usize, decoders: usize) -> Lines {
        let pieces: Vec<_> = bytes.chunks(chunk).map(<[u8]>::to_vec).collect();
        Lines::new(body(pieces), Some(Inflating::new(coding).unwrap()), 8 << 20, budgets(1 << 10, decoders))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
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

    fn given(lines: &[&str]) -> Vec<Result<String, LineFault>> {
        lines.iter().map(|s| Ok((*s).to_owned())).collect()
    }

    #[tokio::test]
    async fn lines_are_joined_and_cut() {
        let wanted = given(&["ab", "cde", "f"]);
        for pieces in [&["ab\n\ncde\nf"][..], &["a", "b", "\n", "\nc", "de\nf"], &["\nab\n\ncd", "e\n", "f\n"]] {
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

    #[tokio::test]
    async fn compressed_lines_come_whole_and_a_cut_gives_no_half_one() {
        let text: String = (0..20_000).map(|n| format!("line {n} of many\n")).collect();
        let wanted: Vec<_> = text.lines().map(|l| Ok(l.to_owned())).collect();
        let zstd = zstd::stream::encode_all(text.as_bytes(), 3).unwrap();
        for (coding, bytes) in [(Coding::Gzip, gzip(text.as_bytes())), (Coding::Zstd, zstd)] {
            for chunk in [1_000, 1 << 20] {
                assert!(all(compressed(coding, &bytes, chunk, 1_000)).await == wanted, "{coding:?} {chunk}");
            }
            let cut = all(compressed(coding, &bytes[..bytes.len() - 5], 1_000, 1_000)).await;
            let (fault, whole) = cut.split_last().unwrap();
            assert_eq!(fault, &Err(LineFault::Inflating(InflatingError::CutShort)), "{coding:?}");
            assert!(whole == &wanted[..whole.len()], "{coding:?}");
        }
        let unended = all(compressed(Coding::Gzip, &gzip(b"a\nb"), 3, 0)).await;
        assert_eq!(unended, given(&["a", "b"]));
    }

    #[tokio::test]
    async fn bombs_and_windows_end_it() {
        let fault = |all: Vec<Result<String, LineFault>>| all.into_iter().next_back().unwrap().unwrap_err();
        let endless = all(compressed(Coding::Gzip, &gzip(&vec![b' '; 20 << 20]), 8_000, 0)).await;
        assert!(
            [LineFault::TooLong(8 << 20), LineFault::Inflating(InflatingError::Bomb)].contains(&fault(endless.clone())),
            "{endless:?}"
        );
        let empty = zstd::stream::encode_all(&vec![b'\n'; 20 << 20][..], 3).unwrap();
        let empty = all(compressed(Coding::Zstd, &empty, 8_000, 1_000)).await;
        assert_eq!(empty, [Err(LineFault::Inflating(InflatingError::Bomb))]);
        // A window of 8 MiB, and room for four.
        let head = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (23 - 10) << 3, 0x00, 0x00, 0x00];
        assert_eq!(fault(all(compressed(Coding::Zstd, &head, 100, 256)).await), LineFault::NoRoom);
    }
}
