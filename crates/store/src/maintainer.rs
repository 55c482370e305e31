//! The threads that do the store's slow work: one closes windows, the other merges blocks.
//!
//! Invariants: they keep no store alive: they hold it only during a round, and end when the store is closed or gone.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::store::Store;

/// What one of the threads does each time.
type Round = fn(&Store);

/// After so many merges the thread looks whether it is to end.
const MERGES_OF_ROUND: usize = 16;

#[derive(Default)]
struct Signal {
    stopped: Mutex<bool>,
    changed: Condvar,
}

/// The threads, when they were started.
#[derive(Default)]
pub struct Maintainer {
    signal: Arc<Signal>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Maintainer {
    /// Starts the threads; does nothing for a period of 0.
    pub fn start(&self, store: &Arc<Store>, period_ms: u64) -> io::Result<()> {
        if period_ms == 0 {
            return Ok(());
        }
        let period = Duration::from_millis(period_ms);
        let rounds: [(&str, Round); 2] = [("store-maintain", close_windows), ("store-compact", merge_blocks)];
        for (name, round) in rounds {
            let (store, signal) = (Arc::downgrade(store), self.signal.clone());
            let thread = thread::Builder::new().name(name.into()).spawn(move || run(&store, &signal, period, round))?;
            self.threads.lock().push(thread);
        }
        Ok(())
    }

    /// Ends the threads, waiting for the rounds they are in.
    pub fn stop(&self) {
        *self.signal.stopped.lock() = true;
        self.signal.changed.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        // The last owner may have been a round itself.
        for thread in threads.into_iter().filter(|t| t.thread().id() != thread::current().id()) {
            if thread.join().is_err() {
                tracing::error!("a thread for the store's slow work panicked");
            }
        }
    }
}

fn run(store: &Weak<Store>, signal: &Signal, period: Duration, round: Round) {
    while signal.sleep(period) {
        let Some(store) = store.upgrade() else { return };
        round(&store);
    }
}

fn close_windows(store: &Store) {
    match store.maintain_windows() {
        Ok(report) if report.blocks_written + report.blocks_dropped > 0 => {
            tracing::info!(?report, "windows went into blocks");
        }
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "the store's slow work failed; it is tried again"),
    }
}

fn merge_blocks(store: &Store) {
    // One after the other, or a start with many small blocks would take as many periods.
    for _ in 0..MERGES_OF_ROUND {
        match store.compact() {
            Ok(0) => return,
            Ok(blocks) => tracing::info!(blocks, "blocks became one"),
            Err(error) => return tracing::error!(%error, "blocks could not be merged; it is tried again"),
        }
    }
}

impl Signal {
    /// Sleeps; `false` when it is time to end.
    fn sleep(&self, period: Duration) -> bool {
        let deadline = Instant::now() + period;
        let mut stopped = self.stopped.lock();
        while !*stopped {
            if self.changed.wait_until(&mut stopped, deadline).timed_out() {
                return !*stopped;
            }
        }
        false
    }
}
