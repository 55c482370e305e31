//! The thread that brings the queue's entries to disk.

use std::io;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;
use sys::File;

use super::segment;
use super::{Piece, Segment, Shared, State};

/// Entries that have just come are joined by others before they are written.
const GATHER: Duration = Duration::from_millis(20);
/// When so much waits, it is written at once.
const GATHER_BYTES_MAX: usize = 1 << 20;
/// After a write that failed.
const AGAIN: Duration = Duration::from_secs(1);

struct Open {
    after: u64,
    file: Box<dyn File>,
}

/// Writes until the queue is closed, and then the rest.
pub(super) fn run(shared: &Shared) {
    let mut open: Option<Open> = None;
    let mut left: Vec<Piece> = Vec::new();
    loop {
        let (taken, sync, closed) = {
            let mut state = shared.state.lock();
            wait_for_work(shared, &mut state, left.is_empty());
            left.extend(state.waiting.drain(..));
            (state.taken, state.closed || state.sync_is_due(), state.closed)
        };
        let outcome = work(shared, &mut open, &mut left, sync);
        let mut state = shared.state.lock();
        state.waiting_bytes = left.iter().chain(&state.waiting).map(|piece| piece.bytes.len()).sum();
        match outcome {
            Ok(()) => {
                state.trouble = None;
                state.written = taken;
                if sync && !state.broken {
                    state.synced = taken;
                }
                shared.readable.send_replace(taken);
            }
            Err(Failed::Write(error)) => {
                if state.trouble.is_none() {
                    tracing::error!("the queue of the sinks cannot be written: {error}; it is tried again");
                }
                state.trouble = Some(error.to_string());
            }
            Err(Failed::Sync(error)) => {
                if !std::mem::replace(&mut state.broken, true) {
                    // For a start without a power cut, which reads well what is not on disk. It need not last longer.
                    if let Err(error) = shared.fs.create(&shared.dir.join(super::UNSYNCED)) {
                        tracing::warn!(%error, "the next start cannot be told that a sync has failed");
                    }
                    tracing::error!(
                        "the queue of the sinks cannot be synced: {error}; until the next start the store keeps its log"
                    );
                }
                state.trouble = Some(error.to_string());
            }
        }
        // It stays so until the next start, and is seen.
        if state.broken && state.trouble.is_none() {
            state.trouble = Some("a sync has failed".to_owned());
        }
        shared.done.notify_all();
        if closed && (left.is_empty() && state.waiting.is_empty() || state.trouble.is_some()) {
            return;
        }
    }
}

/// Why the queue is not on disk.
enum Failed {
    /// Bytes could not be written: they are written again, at the same place.
    Write(io::Error),
    /// What was written may be lost, and no second sync would say so.
    Sync(io::Error),
}

fn wait_for_work(shared: &Shared, state: &mut MutexGuard<'_, State>, nothing_left: bool) {
    if !nothing_left {
        let until = Instant::now() + AGAIN;
        while !state.closed && !shared.came.wait_until(state, until).timed_out() {}
        return;
    }
    while !state.closed && state.taken == state.written && !state.sync_is_due() {
        shared.came.wait(state);
    }
    let until = Instant::now() + GATHER;
    while !state.closed && !state.sync_is_due() && state.waiting_bytes < GATHER_BYTES_MAX {
        if shared.came.wait_until(state, until).timed_out() {
            break;
        }
    }
}

/// Writes the pieces in order; those that were written leave the list.
fn work(shared: &Shared, open: &mut Option<Open>, left: &mut Vec<Piece>, sync: bool) -> Result<(), Failed> {
    while let Some(piece) = left.first() {
        if open.as_ref().is_none_or(|o| o.after != piece.after) {
            if let Some(full) = open.take() {
                full.file.sync_data().map_err(Failed::Sync)?;
            }
            *open = Some(create(shared, piece)?);
            shared.release();
        }
        if let Some(open) = open.as_ref() {
            open.file.append(&piece.bytes).map_err(Failed::Write)?;
        }
        let piece = left.remove(0);
        let mut state = shared.state.lock();
        if let Some(segment) = state.segments.iter_mut().find(|s| s.after == piece.after) {
            segment.bytes += piece.bytes.len() as u64;
        }
    }
    match open {
        Some(open) if sync => open.file.sync_data().map_err(Failed::Sync),
        _ => Ok(()),
    }
}

fn create(shared: &Shared, piece: &Piece) -> Result<Open, Failed> {
    let loose = shared.state.lock().broken;
    let path = shared.dir.join(segment::file_name(piece.after, loose));
    let file = shared.fs.create(&path).map_err(Failed::Write)?;
    let header = segment::header(piece.nonce);
    file.append(&header).map_err(Failed::Write)?;
    shared.fs.sync_dir(&shared.dir).map_err(Failed::Sync)?;
    let mut state = shared.state.lock();
    state.segments.retain(|s| s.after != piece.after);
    state.segments.push(Segment { after: piece.after, bytes: header.len() as u64, loose });
    drop(state);
    Ok(Open { after: piece.after, file })
}
