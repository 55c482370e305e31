//! What came over line protocols, and what became of it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::Exposition;

/// Why a line or what it holds is not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dropped {
    /// The line is not understood.
    BadLine,
    /// It is no metric: an event or a service check.
    NoMetric,
    /// A text among numbers.
    Text,
    /// A label name that may not be given.
    InvalidName,
    /// The same name and tags have another type already.
    TypeConflict,
    /// There is no room for one more series.
    SeriesLimit,
    /// What came before is not stored yet and fills the room.
    QueueFull,
    /// The line, or the datagram, is too long.
    TooLong,
}

impl Dropped {
    const ALL: [(Dropped, &'static str); 8] = [
        (Dropped::BadLine, "bad_line"),
        (Dropped::NoMetric, "no_metric"),
        (Dropped::Text, "text_field"),
        (Dropped::InvalidName, "invalid_name"),
        (Dropped::TypeConflict, "type_conflict"),
        (Dropped::SeriesLimit, "series_limit"),
        (Dropped::QueueFull, "queue_full"),
        (Dropped::TooLong, "too_long"),
    ];
}

/// The figures of one protocol.
#[derive(Default, Debug)]
pub struct LineStats {
    lines: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
}

impl LineStats {
    /// Counts lines that were read.
    pub fn lines(&self, n: u64) {
        self.lines.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts something that is not kept.
    pub fn dropped(&self, why: Dropped, n: u64) {
        self.dropped[why as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// Gives how often something was not kept for a reason.
    #[cfg(test)]
    pub fn count(&self, why: Dropped) -> u64 {
        self.dropped[why as usize].load(Ordering::Relaxed)
    }
}

/// Writes the figures of all protocols.
pub fn render(page: &mut Exposition, all: &[(&str, &LineStats)]) {
    page.family("quiver_lines_total", "counter", "Lines read, by protocol.");
    for (protocol, stats) in all {
        page.sample(&[("protocol", protocol)], stats.lines.load(Ordering::Relaxed) as f64);
    }
    page.family("quiver_lines_dropped_total", "counter", "Lines, fields and values not kept, by protocol and reason.");
    for (protocol, stats) in all {
        for (why, reason) in Dropped::ALL {
            let n = stats.dropped[why as usize].load(Ordering::Relaxed);
            page.sample(&[("protocol", protocol), ("reason", reason)], n as f64);
        }
    }
}
