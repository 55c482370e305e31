//! The event `metrics_collected`: one per collection, on disk for a day and handed to whoever listens.
//!
//! Owns: the directory `events/` with its segments, and the channel to live subscribers.
//! Invariants: 1. events have consecutive sequence numbers in order of publication, so those of one source stay in
//! order; 2. an event id is appended once: what [`EventLog::restore`] finds already written is left out; 3. a subscriber
//! gets every event from its start on, without a seam between disk and live, or is told the gap.
//! Not here: JSON, HTTP. An event is a [`model::CollectionReport`] and its sequence number.
//! Limits: see [`EventLogConfig`]; [`PENDING_BYTES_MAX`] wait for the disk, a slow subscriber reads on from disk.
//! Fails how: an event that cannot be written stays in the store's WAL, because [`EventLog::sync`] fails and the WAL is
//! not cut before it succeeds.

mod codec;
mod log;
mod segment;
mod subscription;

use std::sync::Arc;

pub use codec::{DecodeError, decode_report, encode_report};
pub use log::{EventLog, EventLogConfig, EventLogStats, PENDING_BYTES_MAX};
pub use subscription::{Delivery, SubscribeError, Subscription};

use model::CollectionReport;

/// Bytes of an event id: a UUID version 7.
pub type EventId = [u8; 16];

/// One event.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Place in this node's log; starts at 1, without holes.
    pub seq: u64,
    /// What was collected.
    pub report: Arc<CollectionReport>,
}

impl Event {
    /// Gives the event's id.
    pub fn id(&self) -> EventId {
        self.report.event_id
    }
}

/// Why the log failed.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// A file could not be read or written.
    #[error("event log {path}: {source}")]
    Io {
        /// Which file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An fsync failed earlier; nothing more is promised on this log until a restart.
    #[error("event log: an earlier fsync failed, nothing more is promised")]
    Poisoned,
}
