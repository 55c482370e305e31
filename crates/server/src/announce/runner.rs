//! Brings events to one sink: reads on from the cursor, delivers, tries again, notes how far it is.
//!
//! Invariant: the cursor moves over an event when the receiver has it, when nobody wanted it there, or when it was refused and
//! written down.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use events::{Delivery, Event, EventLog, SubscribeError, Subscription};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::cursor::Cursor;
use super::refused::Refused;
use super::sink::{Outcome, Sink, Wants};
use crate::rest::time;

/// The first pause after a failure; each next one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often the cursor is written while events come.
const CURSOR_EVERY: Duration = Duration::from_secs(1);
/// Events that are there so soon join a delivery.
const GATHER: Duration = Duration::from_millis(1);
/// When the event log cannot be read.
const LOG_PAUSE: Duration = Duration::from_secs(5);

/// The figures of one sink.
pub struct SinkStats {
    pub name: String,
    pub up: AtomicBool,
    pub delivered: AtomicU64,
    pub failures: AtomicU64,
    pub refused: AtomicU64,
    pub missed: AtomicU64,
    /// The last event that is done.
    pub done_seq: AtomicU64,
    /// When the oldest event that is being delivered was made; 0 while none is.
    oldest_ms: AtomicI64,
    now: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl SinkStats {
    /// Gives the age of the oldest event that is being delivered.
    pub fn lag_ms(&self) -> i64 {
        match self.oldest_ms.load(Ordering::Relaxed) {
            0 => 0,
            ms => ((self.now)() - ms).max(0),
        }
    }
}

/// One sink at work.
pub struct Runner {
    sink: Sink,
    node: String,
    log: EventLog,
    cursor: Cursor,
    refused: Refused,
    stats: Arc<SinkStats>,
    written_seq: u64,
    written_at: Instant,
    /// The last event that the subscription gave.
    looked_at_seq: AtomicU64,
}

impl Runner {
    /// Takes a sink; nothing happens yet.
    pub fn new(sink: Sink, node: &str, dir: &Path, log: EventLog, now: Arc<dyn Fn() -> i64 + Send + Sync>) -> Runner {
        let name = sink.wants().name.clone();
        let stats = SinkStats {
            name: name.clone(),
            up: AtomicBool::new(true),
            delivered: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            done_seq: AtomicU64::new(log.stats().last_seq),
            oldest_ms: AtomicI64::new(0),
            now,
        };
        Runner {
            cursor: Cursor::of(dir, &name),
            refused: Refused::of(dir, &name),
            sink,
            node: node.to_owned(),
            log,
            stats: Arc::new(stats),
            written_seq: 0,
            written_at: Instant::now(),
            looked_at_seq: AtomicU64::new(0),
        }
    }

    /// Gives the figures.
    pub fn stats(&self) -> Arc<SinkStats> {
        self.stats.clone()
    }

    /// Delivers until the server stops.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let stopped = async {
            let _ = stop.wait_for(|stopped| *stopped).await;
        };
        tokio::select! {
            () = self.work() => {}
            () = stopped => {}
        }
        self.write_cursor(true).await;
    }

    async fn work(&mut self) {
        let mut next_seq = self.start().await;
        loop {
            let log = self.log.clone();
            let subscribed = tokio::task::spawn_blocking(move || log.subscribe_at(next_seq)).await;
            let mut subscription = match subscribed {
                Ok(Ok((subscription, missed))) => {
                    self.miss(missed);
                    self.looked_at_seq.store(subscription.next_seq() - 1, Ordering::Relaxed);
                    subscription
                }
                Ok(Err(error)) => {
                    tracing::error!(sink = self.stats.name, "{error}");
                    sleep(LOG_PAUSE).await;
                    continue;
                }
                Err(_) => return,
            };
            match self.follow(&mut subscription).await {
                SubscribeError::Closed => return,
                // It took longer than events are kept.
                SubscribeError::Gone { .. } => {}
                SubscribeError::Log(error) => {
                    tracing::error!(sink = self.stats.name, "{error}");
                    sleep(LOG_PAUSE).await;
                }
            }
            next_seq = self.stats.done_seq.load(Ordering::Relaxed) + 1;
        }
    }

    /// Gives where to begin; a new sink begins now.
    async fn start(&mut self) -> u64 {
        let last_seq = self.log.stats().last_seq;
        let done_seq = match self.cursor.read() {
            Ok(Some(seq)) => seq,
            Ok(None) => last_seq,
            Err(error) => {
                tracing::error!(sink = self.stats.name, "{error}; all events that are kept are delivered again");
                0
            }
        };
        self.stats.done_seq.store(done_seq, Ordering::Relaxed);
        self.write_cursor(true).await;
        done_seq + 1
    }

    /// Delivers what comes; gives why it ended.
    async fn follow(&mut self, subscription: &mut Subscription) -> SubscribeError {
        let mut ahead: Option<Event> = None;
        loop {
            let first = match ahead.take() {
                Some(event) => event,
                None => match timeout(CURSOR_EVERY, subscription.next()).await {
                    Ok(Ok(Delivery::Event(event))) => event,
                    Ok(Ok(Delivery::Lagged { .. })) => continue,
                    Ok(Err(error)) => return error,
                    Err(_) => {
                        self.write_cursor(false).await;
                        continue;
                    }
                },
            };
            let (batch, last_seq, next) = match self.gather(subscription, first).await {
                Ok(gathered) => gathered,
                Err(error) => return error,
            };
            ahead = next;
            self.deliver(&batch).await;
            self.stats.done_seq.store(last_seq, Ordering::Relaxed);
            self.stats.oldest_ms.store(0, Ordering::Relaxed);
            self.write_cursor(false).await;
        }
    }

    /// Takes what is there already and may go with the first event; gives the wanted ones, the place of the last one
    /// looked at, and one that has to wait.
    async fn gather(
        &self,
        subscription: &mut Subscription,
        first: Event,
    ) -> Result<(Vec<Event>, u64, Option<Event>), SubscribeError> {
        let wants = self.sink.wants();
        let mut batch = Vec::new();
        let mut last_seq = self.note_place(&first);
        batch.extend(wanted(wants, &first).then_some(first));
        let begin = Instant::now();
        while batch.len() < wants.batch_max && begin.elapsed() < CURSOR_EVERY {
            let event = match timeout(GATHER, subscription.next()).await {
                Ok(Ok(Delivery::Event(event))) => event,
                Ok(Ok(Delivery::Lagged { .. })) => continue,
                // What was gathered goes first; it comes again with the next call.
                Ok(Err(error)) if batch.is_empty() => return Err(error),
                Ok(Err(_)) | Err(_) => break,
            };
            if !self.sink.may_join(&batch, &event) {
                return Ok((batch, last_seq, Some(event)));
            }
            last_seq = self.note_place(&event);
            batch.extend(wanted(wants, &event).then_some(event));
        }
        Ok((batch, last_seq, None))
    }

    /// Gives an event's place; places that the log skipped over were damaged.
    fn note_place(&self, event: &Event) -> u64 {
        let before = self.looked_at_seq.swap(event.seq, Ordering::Relaxed);
        self.miss(event.seq.saturating_sub(before + 1));
        event.seq
    }

    /// Delivers a batch, however long it takes; what is refused is looked for one by one.
    async fn deliver(&mut self, batch: &[Event]) {
        let Some(oldest) = batch.first() else { return };
        self.stats.oldest_ms.store(oldest.report.finished_at_ms.max(1), Ordering::Relaxed);
        match self.persist(batch).await {
            Ok(()) => {}
            Err(reason) if batch.len() == 1 => self.write_down(&batch[0], &reason).await,
            Err(_) => {
                for event in batch {
                    if let Err(reason) = self.persist(std::slice::from_ref(event)).await {
                        self.write_down(event, &reason).await;
                    }
                }
            }
        }
    }

    /// Delivers until it is taken or refused; the error is why.
    async fn persist(&mut self, events: &[Event]) -> Result<(), String> {
        let (mut pause, mut answers) = (PAUSE_MIN, 0);
        loop {
            match self.sink.deliver(events, &self.node).await {
                Outcome::Done => {
                    self.stats.delivered.fetch_add(events.len() as u64, Ordering::Relaxed);
                    if !self.stats.up.swap(true, Ordering::Relaxed) {
                        tracing::info!(sink = self.stats.name, "the receiver takes events again");
                    }
                    return Ok(());
                }
                Outcome::Refused(reason) => return Err(reason),
                Outcome::Again { reason, after, answered } => {
                    self.stats.failures.fetch_add(1, Ordering::Relaxed);
                    answers += u32::from(answered);
                    if answers >= self.sink.wants().attempts_max {
                        return Err(format!("after {answers} answers: {reason}"));
                    }
                    if self.stats.up.swap(false, Ordering::Relaxed) {
                        tracing::warn!(sink = self.stats.name, "events wait: {reason}");
                    }
                    self.write_cursor(false).await;
                    sleep(after.unwrap_or(pause)).await;
                    pause = (2 * pause).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Keeps an event that the receiver refused for good; on a full disk it waits.
    async fn write_down(&self, event: &Event, reason: &str) {
        let shown = self.sink.wants().format.show(event, &self.node);
        let at = time::to_text((self.stats.now)());
        tracing::error!(
            sink = self.stats.name,
            source = event.report.origin.source_id,
            "an event was refused: {reason}"
        );
        while let Err(error) = self.refused.write(&at, reason, &shown) {
            tracing::error!(
                sink = self.stats.name,
                "a refused event cannot be written down: {error}; it is tried again"
            );
            sleep(LOG_PAUSE).await;
        }
        self.stats.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn miss(&self, missed: u64) {
        if missed > 0 {
            self.stats.missed.fetch_add(missed, Ordering::Relaxed);
            tracing::error!(sink = self.stats.name, missed, "events were not kept long enough to be delivered");
        }
    }

    /// Writes the cursor when it is time; the log is made durable first, so that the place keeps its meaning.
    async fn write_cursor(&mut self, now: bool) {
        let seq = self.stats.done_seq.load(Ordering::Relaxed);
        let is_due = seq != self.written_seq && self.written_at.elapsed() >= CURSOR_EVERY;
        if !now && !is_due {
            return;
        }
        self.written_at = Instant::now();
        let log = self.log.clone();
        let synced = tokio::task::spawn_blocking(move || log.sync()).await;
        let written = match synced {
            Ok(Ok(())) => self.cursor.write(seq).map_err(|e| e.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => return,
        };
        match written {
            Ok(()) => self.written_seq = seq,
            Err(error) => {
                tracing::warn!(sink = self.stats.name, "the cursor is not written: {error}; it is tried again")
            }
        }
    }
}

fn wanted(wants: &Wants, event: &Event) -> bool {
    wants.sources.is_empty() || wants.sources.contains(&event.report.origin.source_id)
}
