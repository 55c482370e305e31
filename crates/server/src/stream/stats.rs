//! What streams brought and gave.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::Exposition;

/// What ended a stream before its sender did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The connection broke.
    Broken,
    /// A compressed body ended in the middle.
    CutShort,
    /// It is not what it says it is.
    Damaged,
    /// It inflates too far.
    Bomb,
    /// A frame is too long.
    TooLong,
    /// There was no memory for it.
    NoRoom,
}

/// Faults by their numbers.
const FAULTS: [&str; 6] = ["broken", "cut_short", "damaged", "inflates_too_far", "frame_too_long", "no_room"];

/// The figures of all streams.
#[derive(Default, Debug)]
pub struct StreamStats {
    pub opened: AtomicU64,
    pub refused: AtomicU64,
    pub frames: AtomicU64,
    pub repeated: AtomicU64,
    pub bad: AtomicU64,
    pub failed: AtomicU64,
    pub idle: AtomicU64,
    faults: [AtomicU64; FAULTS.len()],
    pub sent: AtomicU64,
    pub missed: AtomicU64,
}

impl StreamStats {
    /// Adds one.
    pub fn one(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a stream.
    pub fn fault(&self, fault: Fault) {
        StreamStats::one(&self.faults[fault as usize]);
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition, open: usize, listeners: usize) {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        page.gauge("quiver_streams", "Streams that come in now.", open as f64);
        page.gauge("quiver_stream_listeners", "Streams that go out now.", listeners as f64);
        page.counter("quiver_streams_total", "Streams begun.", load(&self.opened));
        page.counter("quiver_streams_refused_total", "Streams over the limit.", load(&self.refused));
        page.counter("quiver_streams_idle_total", "Streams ended because nothing came.", load(&self.idle));
        page.family("quiver_stream_faults_total", "counter", "Streams that something else than their sender ended.");
        for (reason, n) in FAULTS.iter().zip(&self.faults) {
            page.sample(&[("reason", reason)], load(n) as f64);
        }
        page.family("quiver_stream_frames_total", "counter", "Frames by what became of them.");
        let frames =
            [("stored", &self.frames), ("repeated", &self.repeated), ("bad", &self.bad), ("failed", &self.failed)];
        for (outcome, n) in frames {
            page.sample(&[("outcome", outcome)], load(n) as f64);
        }
        page.counter("quiver_stream_samples_sent_total", "Samples sent to listeners.", load(&self.sent));
        page.counter(
            "quiver_stream_samples_missed_total",
            "Samples that listeners were too slow for.",
            load(&self.missed),
        );
    }
}
