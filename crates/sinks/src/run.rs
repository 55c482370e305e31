//! One sink at work: window after window.
//!
//! Invariants: 1. the place in the queue moves only behind what the other store has, or what is counted as refused; 2. a
//! window is repeated until one of both holds; 3. windows follow each other, so that the samples of a series go in order.
//! Fails how: the other store is away: the sink waits longer and longer, to the longest pause of its settings; the queue
//! keeps what comes meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sys::Fs;
use sys::spans::{Kind, Span};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::queue::{Place, Queue, Reader, Window};
use crate::{Later, SinkStats};

/// What cannot be read so often is passed over.
const READ_TRIES: u32 = 10;
/// What the system says of a bad sector.
const EIO: i32 = 5;
/// A window that is under way when the server stops gets this long.
const STOP_GRACE: Duration = Duration::from_millis(1_500);

/// A window could not be brought; it is to be tried again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Again(pub String);

/// Another store.
pub trait Sink: Send {
    /// Asks the other store how far it is, where it keeps that.
    fn resume(&mut self) -> Later<'_, Result<Option<u64>, Again>> {
        Box::pin(async { Ok(None) })
    }

    /// Lets the other store forget how far it is: this is the place from here on.
    fn rewind(&mut self, _seq: u64) -> Later<'_, Result<(), Again>> {
        Box::pin(async { Ok(()) })
    }

    /// Brings a window there; everything in it was taken, or refused for good and counted.
    fn deliver<'a>(&'a mut self, window: &'a Window) -> Later<'a, Result<(), Again>>;
}

/// How a sink is driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunSettings {
    /// Samples of a window.
    pub rows_max: usize,
    /// When there are fewer, it waits so long for more.
    pub gather: Duration,
    /// First pause after a failure, and the longest.
    pub backoff: (Duration, Duration),
}

struct Runner {
    settings: RunSettings,
    place: Arc<Place>,
    queue: Arc<Queue>,
    fs: Arc<dyn Fs>,
    stats: Arc<SinkStats>,
}

/// Drives a sink until told to stop.
pub async fn run(
    mut sink: Box<dyn Sink>,
    settings: RunSettings,
    (queue, place, fs): (Arc<Queue>, Arc<Place>, Arc<dyn Fs>),
    stats: Arc<SinkStats>,
    mut stop: watch::Receiver<bool>,
) {
    let mut reader = queue.reader(&place);
    let runner = Runner { settings, place, queue, fs, stats };
    tokio::select! {
        () = runner.resume(&mut *sink, &mut reader) => {}
        () = told(&mut stop) => return,
    }
    let mut window = Window::default();
    loop {
        let gathered = tokio::select! {
            gathered = runner.gather(reader, window) => gathered,
            () = told(&mut stop) => break,
        };
        let Some(gathered) = gathered else { break };
        (reader, window) = gathered;
        runner.place.begin(window.last_seq);
        runner.store().await;
        let delivered = {
            let mut delivering = std::pin::pin!(runner.deliver(&mut *sink, &window));
            tokio::select! {
                () = delivering.as_mut() => true,
                () = told(&mut stop) => timeout(STOP_GRACE, delivering).await.is_ok(),
            }
        };
        if !delivered {
            break;
        }
        runner.advance(&window);
        runner.store().await;
        window.clear_rows();
    }
    runner.store().await;
}

/// Waits to be told to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    // Whoever could tell is gone: that is an end, too.
    let _ = stop.wait_for(|stopped| *stopped).await;
}

impl Runner {
    /// Begins where the other store is, if it knows that.
    async fn resume(&self, sink: &mut dyn Sink, reader: &mut Reader) {
        let mut pause = self.settings.backoff.0;
        loop {
            match self.try_resume(sink, reader).await {
                Ok(()) => return,
                Err(Again(text)) => self.rest(&mut pause, &text).await,
            }
        }
    }

    async fn try_resume(&self, sink: &mut dyn Sink, reader: &mut Reader) -> Result<(), Again> {
        let Some(seq) = sink.resume().await? else { return Ok(()) };
        let end = self.queue.end();
        if seq <= end {
            reader.resume(seq);
            return Ok(());
        }
        // The data directory is an older copy: what comes now would pass for what the other store has.
        let place = self.place.seq();
        tracing::error!(
            sink = self.place.name(),
            seq,
            end,
            place,
            "the other store is ahead of the ledger; it is set back"
        );
        sink.rewind(place).await
    }

    async fn rest(&self, pause: &mut Duration, text: &str) {
        if self.stats.trouble(Some(text)) {
            tracing::warn!(sink = self.place.name(), "the sink takes nothing: {text}; it is tried again");
        }
        self.stats.retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(self.settings.backoff.1);
    }

    /// Fills a window; `None` when the queue cannot be read by a bug of ours.
    async fn gather(&self, mut reader: Reader, mut window: Window) -> Option<(Reader, Window)> {
        let (mut deadline, mut failures) = (None, 0);
        loop {
            reader.wait().await;
            let rows_max = self.settings.rows_max;
            let filling = tokio::task::spawn_blocking(move || {
                let filled = reader.fill(&mut window, rows_max);
                (reader, window, filled)
            });
            let filled: io::Result<bool>;
            (reader, window, filled) = filling.await.ok()?;
            match filled {
                Ok(true) => return Some((reader, window)),
                Ok(false) => failures = 0,
                Err(error) => {
                    tracing::error!(sink = self.place.name(), %error, "the queue of the sinks cannot be read; it is tried again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    // A bad sector or a file that is gone does not mend itself, and what lies behind it waits. Others do,
                    // such as too many open files.
                    let stays = error.raw_os_error() == Some(EIO) || error.kind() == io::ErrorKind::NotFound;
                    failures = if stays { failures + 1 } else { 0 };
                    if failures >= READ_TRIES {
                        reader.pass_over();
                        failures = 0;
                    }
                }
            }
            if reader.is_amid() {
                continue;
            }
            if window.is_empty() {
                // Records without anything for us move the place too.
                self.place.advance(window.last_seq);
                continue;
            }
            let end = *deadline.get_or_insert_with(|| tokio::time::Instant::now() + self.settings.gather);
            if tokio::time::timeout_at(end, reader.wait()).await.is_err() {
                return Some((reader, window));
            }
        }
    }

    async fn deliver(&self, sink: &mut dyn Sink, window: &Window) {
        let mut pause = self.settings.backoff.0;
        let mut span = Span::root("sink", Kind::Client);
        span.note("quiver.sink", self.place.name());
        span.note("quiver.samples", window.len() as u64);
        self.stats.within(span.context());
        while let Err(Again(text)) = sink.deliver(window).await {
            span.note("quiver.tried_again", text.as_str());
            self.rest(&mut pause, &text).await;
        }
        self.stats.within(None);
        if self.stats.trouble(None) {
            tracing::info!(sink = self.place.name(), "the sink takes samples again");
        }
    }

    fn advance(&self, window: &Window) {
        self.place.advance(window.last_seq);
        let times = window.rows.iter().map(|row| row.ts_ms).chain(window.histograms.iter().map(|row| row.ts_ms));
        let highest = times.max().unwrap_or(i64::MIN);
        self.stats.highest_ts_ms.fetch_max(highest, Ordering::Relaxed);
    }

    /// Makes the place durable and lets go of what every sink has passed.
    async fn store(&self) {
        let (place, fs, queue) = (self.place.clone(), self.fs.clone(), self.queue.clone());
        let stored = tokio::task::spawn_blocking(move || {
            let stored = place.store(&*fs);
            queue.release();
            stored
        });
        if let Ok(Err(error)) = stored.await {
            tracing::warn!(sink = self.place.name(), %error, "how far the sink is could not be written; it is tried again");
        }
    }
}
