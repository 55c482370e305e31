//! The thread that does the store's slow work.
//!
//! Invariants: it keeps no store alive: it holds it only during a round, and ends when the store is closed or gone.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::store::Store;

#[derive(Default)]
struct Signal {
    stopped: Mutex<bool>,
    changed: Condvar,
}

/// The thread, when it was started.
#[derive(Default)]
pub struct Maintainer {
    signal: Arc<Signal>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Maintainer {
    /// Starts the thread; does nothing for a period of 0.
    pub fn start(&self, store: &Arc<Store>, period_ms: u64) -> io::Result<()> {
        if period_ms == 0 {
            return Ok(());
        }
        let (store, signal) = (Arc::downgrade(store), self.signal.clone());
        let period = Duration::from_millis(period_ms);
        let thread =
            thread::Builder::new().name("store-maintain".into()).spawn(move || run(&store, &signal, period))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Ends the thread, waiting for the round it is in.
    pub fn stop(&self) {
        *self.signal.stopped.lock() = true;
        self.signal.changed.notify_all();
        let Some(thread) = self.thread.lock().take() else { return };
        // The last owner may have been a round itself.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the thread for the store's slow work panicked");
        }
    }
}

fn run(store: &Weak<Store>, signal: &Signal, period: Duration) {
    while signal.sleep(period) {
        let Some(store) = store.upgrade() else { return };
        match store.maintain() {
            Ok(report) if report.blocks_written + report.blocks_dropped + report.blocks_merged > 0 => {
                tracing::info!(?report, "windows went into blocks");
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the store's slow work failed; it is tried again"),
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
