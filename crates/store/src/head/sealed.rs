//! A chunk that changes no more, in memory or in a chunk file.

use std::io;
use std::sync::Arc;

use crate::chunk_file::Stored;

/// Where the bytes of a chunk are.
#[derive(Clone, Debug)]
enum Place {
    Memory(Arc<[u8]>),
    File(Stored),
}

/// A chunk that changes no more.
#[derive(Clone, Debug)]
pub struct Sealed {
    place: Place,
    pub min_ms: i64,
    pub max_ms: i64,
    pub count: u16,
    /// How often it was frozen. If ever, it is on its way into a block: still read, no longer asked about duplicates.
    pub frozen: u32,
}

impl Sealed {
    /// Makes one in memory, not frozen.
    pub fn in_memory(bytes: &[u8], min_ms: i64, max_ms: i64, count: u16) -> Sealed {
        Sealed { place: Place::Memory(Arc::from(bytes)), min_ms, max_ms, count, frozen: 0 }
    }

    /// Makes one that is in a file, not frozen.
    pub fn in_file(stored: Stored, min_ms: i64, max_ms: i64, count: u16) -> Sealed {
        Sealed { place: Place::File(stored), min_ms, max_ms, count, frozen: 0 }
    }

    /// Frozen so often.
    pub fn aged(self, frozen: u32) -> Sealed {
        Sealed { frozen, ..self }
    }

    /// Tells whether it is on its way into a block.
    pub fn is_frozen(&self) -> bool {
        self.frozen > 0
    }

    /// Freezes it if it lies before a window's edge.
    pub fn freeze(&mut self, before_ms: i64) {
        if self.max_ms < before_ms {
            self.frozen = self.frozen.saturating_add(1);
        }
    }

    /// Tells whether it may hold samples of a time and is still asked about them.
    pub fn answers_for(&self, ts_ms: i64) -> bool {
        !self.is_frozen() && self.min_ms <= ts_ms && ts_ms <= self.max_ms
    }

    /// Gives the bytes.
    ///
    /// **Errors** name the file that is damaged or cannot be read.
    pub fn load(&self) -> Result<Arc<[u8]>, String> {
        match &self.place {
            Place::Memory(bytes) => Ok(bytes.clone()),
            Place::File(stored) => stored.read(),
        }
    }

    /// Gives the same chunk with its bytes in memory; `None` when they are damaged.
    ///
    /// **Errors** when the disk does not answer, which says nothing about the bytes.
    pub fn if_sound(&self) -> io::Result<Option<Sealed>> {
        let bytes = match &self.place {
            Place::Memory(bytes) => Some(bytes.clone()),
            Place::File(stored) => stored.read_if_sound()?,
        };
        Ok(bytes.map(|bytes| Sealed { place: Place::Memory(bytes), ..self.clone() }))
    }

    /// Gives the bytes to decide about a sample, `None` when they are damaged.
    pub fn look_up(&self) -> Option<Arc<[u8]>> {
        match &self.place {
            Place::Memory(bytes) => Some(bytes.clone()),
            Place::File(stored) => stored.look_up(),
        }
    }

    /// Gives the bytes if they are in memory.
    pub fn in_memory_bytes(&self) -> Option<&[u8]> {
        match &self.place {
            Place::Memory(bytes) => Some(bytes),
            Place::File(_) => None,
        }
    }

    /// Notes that the same bytes are durable in a file now.
    pub fn move_to(&mut self, stored: Stored) {
        if self.in_memory_bytes().is_some_and(|bytes| bytes.len() == stored.len as usize) {
            self.place = Place::File(stored);
        }
    }
}
