//! A line on standard error every few seconds, so that a long run is seen to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(5);

/// Counts samples and says how many, until it is dropped.
pub struct Progress {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    samples: AtomicU64,
    over: AtomicBool,
}

impl Progress {
    pub fn start(what: String) -> Progress {
        eprintln!("{what} ...");
        let shared = Arc::new(Shared::default());
        let counted = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let (begin, mut told, mut last) = (Instant::now(), Instant::now(), 0);
            while !counted.over.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(200));
                if told.elapsed() >= EVERY {
                    let samples = counted.samples.load(Ordering::Relaxed);
                    let rate = (samples - last) as f64 / told.elapsed().as_secs_f64();
                    let seconds = begin.elapsed().as_secs();
                    eprintln!("  {seconds:4} s: {:.1} million samples, {rate:.0} a second now", samples as f64 / 1e6);
                    (told, last) = (Instant::now(), samples);
                }
            }
        });
        Progress { shared, thread: Some(thread) }
    }

    pub fn add(&self, samples: u64) {
        self.shared.samples.fetch_add(samples, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It only prints.
            let _ = thread.join();
        }
    }
}
