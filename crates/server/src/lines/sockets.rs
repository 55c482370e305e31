//! The sockets of StatsD and Graphite, and the tasks that write what came over them.
//!
//! Owns: the listeners, one state of StatsD, one buffer of Graphite. Invariants: 1. a batch that the store does not take is tried
//! again before the next one; meanwhile connections wait and datagrams are counted as dropped; 2. what has come when the server
//! stops is written before the store closes.
//! Limits: [`CONNECTIONS_MAX`] connections, [`LINE_BYTES_MAX`] bytes a line, [`IDLE_MAX`] of silence; see `table.rs` and `buffer.rs`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use collect::report::{self, BatchIds, PushFacts};
use model::{Append, AppendError, Appended, Batch, CollectionMethod, CollectionReport, Origin, Select, TypeCounts};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

use super::buffer::Buffer;
use super::graphite::Reader;
use super::stats::{Dropped, LineStats};
use super::statsd::Statsd;
use crate::config::settings::LineSettings;
use crate::prom::api::{Pushed, Source};
use crate::telemetry::Exposition;

/// Connections of Graphite.
const CONNECTIONS_MAX: usize = 1_000;
/// Longest line of a connection, and its buffer.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Longest datagram.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;
/// A connection that says nothing for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(3_600);
/// How long rows gather, so that many lines share an fdatasync and an event.
const GATHER: Duration = Duration::from_millis(500);
/// Pause before a batch is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// A batch is given up when the server stops and the store does not take it.
const RETRIES_AT_STOP: u32 = 3;

/// What the line protocols work with.
pub struct LinesParts {
    /// The way into the store.
    pub append: Arc<dyn Append>,
    /// Knows what an earlier life wrote.
    pub select: Arc<dyn Select>,
    /// Numbers batches.
    pub batch_ids: Arc<BatchIds>,
    /// Hears of each batch.
    pub pushed: Pushed,
    /// Gives the time, in milliseconds since 1970.
    pub now: Source<i64>,
    /// Turns true when the server stops.
    pub stop: watch::Receiver<bool>,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for {protocol} on {address}: {error}")]
pub struct ListenError {
    protocol: &'static str,
    address: String,
    error: io::Error,
}

/// The line protocols at work. Cheap to clone.
#[derive(Clone)]
pub struct Lines(Arc<Inner>);

struct Inner {
    parts: LinesParts,
    statsd: Statsd,
    graphite: Buffer,
    graphite_stats: LineStats,
    connections: Arc<Semaphore>,
    refused: AtomicU64,
    failed: AtomicU64,
    not_stored: AtomicU64,
    /// The tasks that write, and Unix sockets to be removed.
    writers: Mutex<Vec<JoinHandle<()>>>,
    paths: Mutex<Vec<PathBuf>>,
    addresses: Mutex<Vec<(&'static str, SocketAddr)>>,
}

impl Lines {
    /// Starts without listeners.
    pub fn new(parts: LinesParts) -> Lines {
        Lines(Arc::new(Inner {
            parts,
            statsd: Statsd::default(),
            graphite: Buffer::default(),
            graphite_stats: LineStats::default(),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            not_stored: AtomicU64::new(0),
            writers: Mutex::default(),
            paths: Mutex::default(),
            addresses: Mutex::default(),
        }))
    }

    /// Opens the sockets and starts the tasks.
    ///
    /// **Errors** name the address that cannot be had; those opened before are closed with the process.
    pub async fn listen(&self, settings: &LineSettings) -> Result<(), ListenError> {
        for address in &settings.statsd {
            self.listen_statsd(address).await.map_err(refused("statsd", address))?;
        }
        for address in &settings.graphite {
            self.listen_graphite(address).await.map_err(refused("graphite", address))?;
        }
        if !settings.statsd.is_empty() {
            let every = Duration::from_millis(settings.statsd_flush_ms.max(1).unsigned_abs());
            self.write_with(move |lines| lines.write_statsd(every));
        }
        if !settings.graphite.is_empty() {
            self.write_with(Lines::write_graphite);
        }
        Ok(())
    }

    /// Gives the addresses in use, for whoever asked for port 0.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        self.0.addresses.lock().clone()
    }

    /// Gives the figures of StatsD and Graphite.
    pub fn stats(&self) -> [(&'static str, &LineStats); 2] {
        [("statsd", &self.0.statsd.stats), ("graphite", &self.0.graphite_stats)]
    }

    /// Writes the figures that are not lines.
    pub fn render(&self, page: &mut Exposition) {
        let inner = &self.0;
        page.gauge("quiver_statsd_series", "Series that StatsD keeps.", inner.statsd.series() as f64);
        let open = CONNECTIONS_MAX - inner.connections.available_permits();
        page.gauge("quiver_graphite_connections", "Connections of Graphite that are open.", open as f64);
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        page.counter("quiver_graphite_connections_refused_total", "Connections over the limit.", load(&inner.refused));
        page.counter("quiver_lines_batches_retried_total", "Batches tried again.", load(&inner.failed));
        page.counter("quiver_lines_samples_not_stored_total", "Samples given up at a stop.", load(&inner.not_stored));
    }

    /// Waits until everything that came is written; the server must be stopping.
    pub async fn finish(&self) {
        let writers = std::mem::take(&mut *self.0.writers.lock());
        for writer in writers {
            let _ = writer.await;
        }
        for path in self.0.paths.lock().drain(..) {
            let _ = std::fs::remove_file(path);
        }
    }

    fn write_with<F: Future<Output = ()> + Send + 'static>(&self, task: impl FnOnce(Lines) -> F) {
        self.0.writers.lock().push(tokio::spawn(task(self.clone())));
    }

    async fn listen_statsd(&self, address: &str) -> io::Result<()> {
        let (lines, mut stop) = (self.clone(), self.0.parts.stop.clone());
        if let Some(path) = address.strip_prefix("unix:") {
            let socket = bind_unix(path)?;
            self.0.paths.lock().push(PathBuf::from(path));
            tokio::spawn(async move {
                let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
                loop {
                    let read = tokio::select! {
                        read = socket.recv(&mut bytes) => read,
                        _ = stop.wait_for(|stopped| *stopped) => return,
                    };
                    lines.statsd_datagram(read.ok(), &bytes).await;
                }
            });
            return Ok(());
        }
        let socket = UdpSocket::bind(address).await?;
        self.note("statsd", socket.local_addr()?);
        tokio::spawn(async move {
            let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
            loop {
                let read = tokio::select! {
                    read = socket.recv(&mut bytes) => read,
                    _ = stop.wait_for(|stopped| *stopped) => return,
                };
                lines.statsd_datagram(read.ok(), &bytes).await;
            }
        });
        Ok(())
    }

    async fn statsd_datagram(&self, read: Option<usize>, bytes: &[u8]) {
        match read.and_then(|n| bytes.get(..n)) {
            Some(datagram) => self.0.statsd.datagram(datagram),
            // An ICMP answer to something; it must not become a loop without a pause.
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }

    async fn listen_graphite(&self, address: &str) -> io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let socket = UdpSocket::bind(address).await?;
        self.note("graphite", address);
        tokio::spawn(self.clone().accept(listener));
        let (lines, mut stop) = (self.clone(), self.0.parts.stop.clone());
        tokio::spawn(async move {
            let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
            let mut reader = Reader::default();
            loop {
                let read = tokio::select! {
                    read = socket.recv(&mut bytes) => read,
                    _ = stop.wait_for(|stopped| *stopped) => return,
                };
                match read.ok().and_then(|n| bytes.get(..n)) {
                    Some(datagram) => lines.graphite_datagram(datagram, &mut reader),
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        });
        Ok(())
    }

    fn note(&self, protocol: &'static str, address: SocketAddr) {
        if !address.ip().is_loopback() {
            tracing::warn!("listening for {protocol} on {address}, which is reachable from other machines");
        }
        tracing::info!("listening for {protocol} on {address}");
        self.0.addresses.lock().push((protocol, address));
    }

    fn graphite_datagram(&self, datagram: &[u8], reader: &mut Reader) {
        let inner = &self.0;
        let now_ms = (inner.parts.now)();
        let taken = inner.graphite.offer(datagram.len(), |batch| {
            reader.read(datagram, now_ms, &inner.graphite_stats, batch);
        });
        if !taken {
            let lines = datagram.split(|b| *b == b'\n').filter(|line| !line.is_empty()).count() as u64;
            inner.graphite_stats.lines(lines);
            inner.graphite_stats.dropped(Dropped::QueueFull, lines);
        }
    }

    async fn accept(self, listener: TcpListener) {
        let mut stop = self.0.parts.stop.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stopped| *stopped) => return,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            match self.0.connections.clone().try_acquire_owned() {
                Ok(seat) => {
                    let lines = self.clone();
                    tokio::spawn(async move {
                        let _seat = seat;
                        lines.connection(stream).await;
                    });
                }
                Err(_) => drop(self.0.refused.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream) {
        let mut stop = self.0.parts.stop.clone();
        let mut reader = Reader::default();
        // Grows with what comes: a silent connection costs little.
        let mut bytes: Vec<u8> = Vec::new();
        let mut too_long = false;
        loop {
            let read = tokio::select! {
                read = tokio::time::timeout(IDLE_MAX, stream.read_buf(&mut bytes)) => read,
                _ = stop.wait_for(|stopped| *stopped) => return,
            };
            let ended = !matches!(read, Ok(Ok(1..)));
            let whole = match memchr::memrchr(b'\n', &bytes) {
                Some(end) => end + 1,
                None if ended => bytes.len(),
                None => 0,
            };
            let mut lines = &bytes[..whole];
            if too_long && let Some(end) = memchr::memchr(b'\n', lines) {
                // The rest of a line that was given up.
                (lines, too_long) = (&lines[end + 1..], false);
            }
            if !lines.is_empty() && !too_long {
                self.rows(lines, &mut reader).await;
            }
            bytes.drain(..whole);
            if bytes.len() > LINE_BYTES_MAX {
                bytes = Vec::new();
                if !too_long {
                    self.0.graphite_stats.dropped(Dropped::TooLong, 1);
                }
                too_long = true;
            }
            if ended {
                return;
            }
        }
    }

    /// Adds rows; waits for room.
    async fn rows(&self, lines: &[u8], reader: &mut Reader) {
        let inner = &self.0;
        loop {
            let now_ms = (inner.parts.now)();
            let taken = inner.graphite.offer(lines.len(), |batch| {
                reader.read(lines, now_ms, &inner.graphite_stats, batch);
            });
            if taken {
                return;
            }
            inner.graphite.room().await;
        }
    }

    async fn write_graphite(self) {
        let mut stop = self.0.parts.stop.clone();
        loop {
            let stopping = tokio::select! {
                _ = tokio::time::sleep(GATHER) => false,
                _ = stop.wait_for(|stopped| *stopped) => true,
            };
            if let Some(mut batch) = self.0.graphite.take() {
                batch.origin = self.origin("graphite");
                let others = batch.samples.len() as u64;
                self.store(batch, TypeCounts { others, ..TypeCounts::default() }).await;
            }
            if stopping {
                return;
            }
        }
    }

    async fn write_statsd(self, every: Duration) {
        let mut stop = self.0.parts.stop.clone();
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            let stopping = tokio::select! {
                _ = tick.tick() => false,
                _ = stop.wait_for(|stopped| *stopped) => true,
            };
            self.flush_statsd().await;
            if stopping {
                return;
            }
        }
    }

    async fn flush_statsd(&self) {
        if self.0.statsd.series() == 0 {
            return;
        }
        let lines = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let inner = &lines.0;
            let now_ms = (inner.parts.now)();
            if let Err(error) = inner.statsd.resume(&*inner.parts.select, now_ms) {
                tracing::warn!("statsd: series that are new wait until the store can be read: {error}");
            }
            let mut batch = Batch::new(lines.origin("statsd"));
            let points = inner.statsd.flush(&mut batch, now_ms);
            (batch, points)
        });
        if let Ok((batch, points)) = made.await
            && !(batch.samples.is_empty() && batch.histograms.is_empty())
        {
            self.store(batch, points).await;
        }
    }

    fn origin(&self, source: &str) -> Origin {
        Origin {
            target_id: source.to_owned(),
            source_id: source.to_owned(),
            method: CollectionMethod::Streaming,
            received_at_ms: (self.0.parts.now)(),
        }
    }

    /// Stores a batch, however long it takes; only when the server stops it may be given up.
    async fn store(&self, mut batch: Batch, summary: TypeCounts) {
        let parts = &self.0.parts;
        let samples_count = (batch.samples.len() + batch.histograms.len()) as u64;
        let facts = PushFacts { origin: batch.origin.clone(), duration_ms: 0, summary, samples_count, error: None };
        let report = report::for_push(&parts.batch_ids, facts);
        batch.report = Some(report.clone());
        let mut tries = 0;
        loop {
            let (again, result) = self.submit(batch).await;
            match result {
                Ok(appended) => {
                    (parts.pushed)(CollectionReport { counts: appended.counts, ..report });
                    return;
                }
                Err(error) => {
                    self.0.failed.fetch_add(1, Ordering::Relaxed);
                    tries += 1;
                    let hopeless = matches!(error, AppendError::TooLarge { .. } | AppendError::Closed);
                    if hopeless || (*parts.stop.borrow() && tries >= RETRIES_AT_STOP) {
                        tracing::error!(samples = samples_count, "lines were not stored: {error}");
                        self.0.not_stored.fetch_add(samples_count, Ordering::Relaxed);
                        return;
                    }
                    batch = again;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn submit(&self, batch: Batch) -> (Batch, Result<Appended, AppendError>) {
        let (tx, rx) = oneshot::channel();
        let append = self.0.parts.append.clone();
        // A full queue makes `submit` wait for room.
        let handed = tokio::task::spawn_blocking(move || {
            append.submit(batch, Box::new(move |batch, result| drop(tx.send((batch, result)))));
        });
        match (handed.await, rx.await) {
            (Ok(()), Ok(answer)) => answer,
            _ => (Batch::default(), Err(AppendError::Closed)),
        }
    }
}

fn refused(protocol: &'static str, address: &str) -> impl FnOnce(io::Error) -> ListenError {
    let address = address.to_owned();
    move |error| ListenError { protocol, address, error }
}

/// Binds a datagram socket; one that an earlier life left behind is removed.
fn bind_unix(path: &str) -> io::Result<UnixDatagram> {
    match UnixDatagram::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            use std::os::unix::fs::FileTypeExt;
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            let probe = std::os::unix::net::UnixDatagram::unbound()?;
            if !is_socket || probe.connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixDatagram::bind(path)
        }
        bound => bound,
    }
}
