//! The state of the head as of one record, while later records go on changing it.
//!
//! A capture begins between two records. Each page is captured once: by the checkpoint, or before that by the apply
//! thread when a later record is about to change it.
//! Invariants: 1. a page is captured as it was when the capture began; 2. after a write that failed nothing more is
//! captured, and the head keeps what it has.

use std::io;

use parking_lot::Mutex;

use super::slot::Slot;
use crate::chunk_file::{Entry, Kind, Writer};

/// A capture under way.
pub struct Capture {
    /// Rises with every capture of a head.
    pub round: u64,
    window_ms: i64,
    out: Mutex<Out>,
}

/// What a capture fills.
pub struct Out {
    /// For sealed chunks, which the head forgets once they are durable.
    pub sealed: Writer,
    /// For what still grows.
    pub open: Writer,
    pub failed: Option<io::Error>,
}

impl Capture {
    /// Both writers have been told which record this is the state of.
    pub fn new(round: u64, window_ms: i64, sealed: Writer, open: Writer) -> Capture {
        Capture { round, window_ms, out: Mutex::new(Out { sealed, open, failed: None }) }
    }

    /// Gives the writers back. Nobody else may hold the capture.
    pub fn into_out(self) -> Out {
        self.out.into_inner()
    }

    /// Syncs what has been written, when that is much; the caller holds no page.
    pub fn sync_early(&self) {
        let files = {
            let mut out = self.out.lock();
            [out.sealed.early(), out.open.early()]
        };
        for file in files.iter().flatten() {
            if let Err(error) = file.file().sync_data() {
                self.out.lock().failed.get_or_insert(error);
            }
        }
    }

    /// Writes down a page; the caller holds its lock.
    pub fn page(&self, first_id: u32, slots: &[Option<Slot>]) {
        let mut out = self.out.lock();
        if out.failed.is_none()
            && let Err(error) = out.page(first_id, slots, self.window_ms)
        {
            out.failed = Some(error);
        }
    }
}

impl Out {
    fn page(&mut self, first_id: u32, slots: &[Option<Slot>], window_ms: i64) -> io::Result<()> {
        for (id, slot) in (first_id..).zip(slots) {
            let Some(slot) = slot else { continue };
            let mut result = Ok(());
            slot.unwritten(window_ms, &mut |kind: Kind, place, chunk| {
                let (bytes, frozen) = (chunk.in_memory_bytes().unwrap_or_default(), chunk.is_frozen());
                let (count, min_ms, max_ms) = (chunk.count, chunk.min_ms, chunk.max_ms);
                let entry = Entry { id, kind, frozen, count, min_ms, max_ms, len: 0 };
                let added = match place {
                    Some(place) => self.sealed.add(entry, bytes, Some((id, kind, place as u32))),
                    None => self.open.add(entry, bytes, None),
                };
                if result.is_ok() {
                    result = added;
                }
            });
            result?;
        }
        self.sealed.finish_page()?;
        self.open.finish_page()
    }
}
