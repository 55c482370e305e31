//! Reading the queue behind a sink's place, window by window.
//!
//! Invariants: 1. a window ends with a whole entry; 2. a series has one slot as long as [`Window::epoch`] stays the same, so
//! that sinks make of its labels what they need once; 3. damaged entries are skipped and counted.
//! Limits: a window takes at most one entry more than asked for; the table of series is begun anew when most of it has not
//! been seen for a segment.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use model::{Labels, MetricType, Sample, SeriesId};
use sys::File;
use tokio::sync::watch;

use super::entry::{self, Take};
use super::segment::{self, FRAME_BYTES, Frame, HEADER_BYTES};
use super::{Place, Segment, Shared};
use model::coding::Malformed;

/// What is read from a file at once.
const READ_BYTES: usize = 1 << 20;
/// So many series are kept whether they are in use or not.
const SERIES_KEPT: usize = 100_000;
/// Pairs of source and target.
const ORIGINS_KEPT: usize = 10_000;

/// A series as sinks see it.
#[derive(Clone, Debug)]
pub struct WindowSeries {
    /// Its labels.
    pub labels: Labels,
    /// The type of its family.
    pub metric_type: MetricType,
    /// Of its labels; equal in every life.
    pub hash: u64,
}

/// A sample that was stored.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Index into [`Window::series`].
    pub series: u32,
    /// Index into [`Window::origins`].
    pub origin: u32,
    /// Milliseconds since 1970.
    pub ts_ms: i64,
    /// The value, bit for bit.
    pub value: f64,
}

/// A native histogram that was stored.
#[derive(Clone, Debug)]
pub struct HistogramRow {
    /// Index into [`Window::series`].
    pub series: u32,
    /// Index into [`Window::origins`].
    pub origin: u32,
    /// Milliseconds since 1970.
    pub ts_ms: i64,
    /// What `Histogram::encode` wrote.
    pub bytes: Vec<u8>,
    /// How many of [`Window::rows`] were stored before it.
    pub behind: usize,
}

/// Some entries, taken apart.
#[derive(Debug, Default)]
pub struct Window {
    /// Changes when the indexes of series and origins have lost their meaning.
    pub epoch: u64,
    /// The last record in it.
    pub last_seq: u64,
    /// All series known.
    pub series: Vec<WindowSeries>,
    /// All pairs of source and target known.
    pub origins: Vec<(String, String)>,
    /// The samples, in the order in which they were stored.
    pub rows: Vec<Row>,
    /// The native histograms, in the order in which they were stored.
    pub histograms: Vec<HistogramRow>,
    /// Exemplars: series, their own labels, time and value.
    pub exemplars: Vec<(u32, Labels, Sample)>,
}

impl Window {
    /// Counts samples and histograms.
    pub fn len(&self) -> usize {
        self.rows.len() + self.histograms.len()
    }

    /// Chooses one of so many shards for a series: the same one in every life.
    pub fn shard_of(&self, series: u32, shards: usize) -> usize {
        let hash = self.series.get(series as usize).map_or(0, |s| s.hash);
        (hash % shards.max(1) as u64) as usize
    }

    /// Tells whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() + self.exemplars.len() == 0
    }

    /// Forgets the rows, keeps what is known of series.
    pub fn clear_rows(&mut self) {
        self.rows.clear();
        self.histograms.clear();
        self.exemplars.clear();
    }
}

struct Open {
    after: u64,
    file: Box<dyn File>,
    nonce: u64,
}

/// Reads the queue for one sink, always into the same window: it remembers the slots that it gave there.
pub struct Reader {
    shared: Arc<Shared>,
    place: Arc<Place>,
    readable: watch::Receiver<u64>,
    /// The last entry that was read.
    read: u64,
    open: Option<Open>,
    buffer: Buffer,
    known: Known,
}

#[derive(Default)]
struct Known {
    slots: HashMap<u64, u32, FixedState>,
    origins: HashMap<(String, String), u32>,
    /// Series that the present segment defined.
    defined: usize,
    /// Rows whose series was defined in an entry that is damaged.
    orphans: u64,
}

impl Known {
    /// Tells, at the end of a segment, whether most of it was not seen in that.
    fn is_full_of_old(&self) -> bool {
        self.slots.len() > SERIES_KEPT.max(self.defined * 2) || self.origins.len() > ORIGINS_KEPT
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, place: Arc<Place>) -> Reader {
        let readable = shared.readable.subscribe();
        let read = place.seq();
        Reader { shared, place, readable, read, open: None, buffer: Buffer::default(), known: Known::default() }
    }

    /// Waits until there is something behind what was read.
    pub async fn wait(&mut self) {
        let read = self.read;
        // The sender lives as long as the queue.
        if self.readable.wait_for(|seq| *seq > read).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Tells whether the window must not end yet: an earlier life sent more in it.
    pub fn is_amid(&self) -> bool {
        self.place.begun().is_some_and(|end| self.read < end)
    }

    /// Passes over what cannot be read: the rest of the segment, or what is there of the last one.
    pub fn pass_over(&mut self) {
        let (from, readable) = (self.read, *self.readable.borrow());
        let next = self.segment().and_then(|(_, next)| next);
        self.read = self.read.max(next.unwrap_or(readable));
        self.open = None;
        self.shared.figures.entries_damaged.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            sink = self.place.name(),
            behind = from,
            up_to = self.read,
            "entries of the sinks' queue cannot be read: their samples are lost to this sink"
        );
    }

    /// Begins again behind another place than the one on disk: the sink knows better.
    pub fn resume(&mut self, seq: u64) {
        self.place.advance(seq);
        self.read = self.place.seq();
        self.open = None;
    }

    /// Adds entries until the window has so many rows or everything was read; `false` when there is no more now. A window
    /// that an earlier life began ends where it ended then, as soon as all of it is there.
    pub fn fill(&mut self, window: &mut Window, rows_max: usize) -> io::Result<bool> {
        if let Some(end) = self.place.begun() {
            while self.read < end && self.step(window, end)? {}
            if self.read >= end {
                window.last_seq = window.last_seq.max(end);
            }
            return Ok(self.read >= end);
        }
        while window.len() < rows_max {
            if self.open.is_none() && self.known.is_full_of_old() && !window.is_empty() {
                // The next segment begins a new table, which takes an empty window.
                return Ok(true);
            }
            if !self.step(window, u64::MAX)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads one entry, if it is not behind `end`; `false` when there is none.
    fn step(&mut self, window: &mut Window, end: u64) -> io::Result<bool> {
        let readable = *self.readable.borrow();
        self.read = self.read.max(self.place.seq());
        if self.read >= readable {
            return Ok(false);
        }
        let Some((segment, next)) = self.segment() else {
            self.read = readable;
            window.last_seq = self.read;
            return Ok(false);
        };
        if self.open.as_ref().is_none_or(|open| open.after != segment.after) {
            self.enter(segment, window)?;
        }
        match self.frame(segment.bytes)? {
            Some(frame) if frame.seq > end => {
                self.read = end;
                return Ok(false);
            }
            Some(frame) => self.take(frame, window),
            None if next.is_some() => {
                // Nothing more in this segment: the next one begins behind here.
                self.read = self.read.max(next.unwrap_or(0));
                self.open = None;
            }
            None => {
                self.read = readable;
                window.last_seq = window.last_seq.max(readable);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Finds the segment that the next entry is in, and where the next one begins.
    fn segment(&self) -> Option<(Segment, Option<u64>)> {
        let state = self.shared.state.lock();
        let at = state.segments.partition_point(|s| s.after <= self.read).saturating_sub(1);
        let segment = state.segments.get(at)?;
        Some((*segment, state.segments.get(at + 1).map(|s| s.after)))
    }

    fn enter(&mut self, segment: Segment, window: &mut Window) -> io::Result<()> {
        let after = segment.after;
        let file = self.shared.fs.open(&self.shared.dir.join(segment.file_name()))?;
        let mut header = [0; HEADER_BYTES];
        let read = file.read_at(&mut header, 0)?;
        let nonce = segment::nonce_of(&header[..read]);
        if nonce.is_none() {
            tracing::error!(
                segment = after,
                "a segment of the sinks' queue has a damaged header; its entries are lost"
            );
            self.shared.figures.entries_damaged.fetch_add(1, Ordering::Relaxed);
        }
        // Without a nonce no frame checks, and the segment is passed over.
        self.open = Some(Open { after, file, nonce: nonce.unwrap_or(0) });
        self.buffer = Buffer::at(HEADER_BYTES as u64);
        if window.is_empty() && self.known.is_full_of_old() {
            self.known = Known::default();
            window.epoch += 1;
            window.series.clear();
            window.origins.clear();
        }
        self.known.defined = 0;
        Ok(())
    }

    /// Gives the next whole frame with its payload in the buffer; looks for it behind damage.
    fn frame(&mut self, bytes: u64) -> io::Result<Option<Frame>> {
        let Some(open) = self.open.as_ref() else { return Ok(None) };
        let buffer = &mut self.buffer;
        loop {
            if !buffer.fill(&*open.file, FRAME_BYTES, bytes)? {
                return Ok(None);
            }
            if let Some(frame) = Frame::decode(buffer.rest(), open.nonce)
                && buffer.fill(&*open.file, FRAME_BYTES + frame.len as usize, bytes)?
            {
                return Ok(Some(frame));
            }
            self.shared.figures.entries_damaged.fetch_add(1, Ordering::Relaxed);
            tracing::error!(segment = open.after, "a part of the sinks' queue is damaged and passed over");
            buffer.consume(1);
            while segment::next_frame(buffer.rest(), 0, open.nonce).is_none() {
                // A frame may begin in the last bytes.
                buffer.consume(buffer.rest().len().saturating_sub(FRAME_BYTES - 1));
                let wanted = buffer.rest().len() + 1;
                if !buffer.fill(&*open.file, wanted, bytes)? {
                    return Ok(None);
                }
            }
            buffer.consume(segment::next_frame(buffer.rest(), 0, open.nonce).unwrap_or(0));
        }
    }

    /// Takes the entry whose frame is at the start of the buffer.
    fn take(&mut self, frame: Frame, window: &mut Window) {
        let whole = FRAME_BYTES + frame.len as usize;
        let payload = self.buffer.rest().get(FRAME_BYTES..whole).unwrap_or_default();
        let mut taker = Taker { window: &mut *window, known: &mut self.known, origin: 0 };
        let good = frame.fits(payload) && entry::decode(payload, frame.seq > self.read, &mut taker).is_ok();
        if !good {
            self.shared.figures.entries_damaged.fetch_add(1, Ordering::Relaxed);
        }
        let orphans = std::mem::take(&mut self.known.orphans);
        let lost = if good { orphans } else { orphans + u64::from(frame.rows) };
        if lost > 0 {
            tracing::error!(
                sink = self.place.name(),
                samples = lost,
                "samples are lost to a sink by damage of its queue"
            );
            self.place.lose(lost, 0);
        }
        self.read = self.read.max(frame.seq);
        window.last_seq = window.last_seq.max(frame.seq);
        self.buffer.consume(whole);
    }
}

/// A part of a segment.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Where the part that is not used up begins; and where that is in the file.
    start: usize,
    offset: u64,
}

impl Buffer {
    fn at(offset: u64) -> Buffer {
        Buffer { offset, ..Buffer::default() }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.rest().len());
        self.start += count;
        self.offset += count as u64;
    }

    /// Reads on until the rest holds so many bytes; `false` when the segment has fewer.
    fn fill(&mut self, file: &dyn File, wanted: usize, bytes: u64) -> io::Result<bool> {
        if self.rest().len() >= wanted {
            return Ok(true);
        }
        self.bytes.drain(..self.start);
        self.start = 0;
        while self.bytes.len() < wanted {
            let at = self.offset + self.bytes.len() as u64;
            let room = bytes.saturating_sub(at).min(READ_BYTES.max(wanted - self.bytes.len()) as u64) as usize;
            let start = self.bytes.len();
            self.bytes.resize(start + room, 0);
            let read = if room == 0 { 0 } else { file.read_at(&mut self.bytes[start..], at)? };
            self.bytes.truncate(start + read);
            if read == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

struct Taker<'a> {
    window: &'a mut Window,
    known: &'a mut Known,
    origin: u32,
}

impl Taker<'_> {
    fn slot(&self, id: SeriesId) -> Option<u32> {
        self.known.slots.get(&id.0).copied()
    }
}

impl Take for Taker<'_> {
    fn origin(&mut self, source: &str, target: &str) {
        let pair = (source.to_owned(), target.to_owned());
        let next = self.window.origins.len() as u32;
        self.origin = *self.known.origins.entry(pair.clone()).or_insert(next);
        if self.origin == next {
            self.window.origins.push(pair);
        }
    }

    fn define(&mut self, id: SeriesId, metric_type: MetricType, labels: &[u8]) -> Result<(), Malformed> {
        self.known.defined += 1;
        if let Some(slot) = self.slot(id)
            && self.window.series.get(slot as usize).is_some_and(|s| s.metric_type == metric_type)
        {
            return Ok(());
        }
        let labels = Labels::from_bytes(labels).ok_or(Malformed)?;
        self.known.slots.insert(id.0, self.window.series.len() as u32);
        let hash = labels.fingerprint().0;
        self.window.series.push(WindowSeries { labels, metric_type, hash });
        Ok(())
    }

    fn sample(&mut self, id: SeriesId, sample: Sample) {
        match self.slot(id) {
            Some(series) => {
                self.window.rows.push(Row { series, origin: self.origin, ts_ms: sample.ts_ms, value: sample.value });
            }
            None => self.known.orphans += 1,
        }
    }

    fn histogram(&mut self, id: SeriesId, ts_ms: i64, bytes: &[u8]) -> Result<(), Malformed> {
        match self.slot(id) {
            Some(series) => {
                let (origin, bytes, behind) = (self.origin, bytes.to_vec(), self.window.rows.len());
                self.window.histograms.push(HistogramRow { series, origin, ts_ms, bytes, behind });
            }
            None => self.known.orphans += 1,
        }
        Ok(())
    }

    fn exemplar(&mut self, id: SeriesId, labels: &[u8], sample: Sample) -> Result<(), Malformed> {
        let labels = Labels::from_bytes(labels).ok_or(Malformed)?;
        if let Some(series) = self.slot(id) {
            self.window.exemplars.push((series, labels, sample));
        }
        Ok(())
    }
}
