//! Keeps slow work slow: a file system that spends from a budget of bytes per second.
//!
//! Invariants: once stopped, every read and write through it fails, and a wait ends at once.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use sys::{File, Fs, Lock};

/// How far the budget may be ahead: short spurts need not wait.
const SPURT: Duration = Duration::from_millis(200);

/// A budget of bytes per second for reading and writing together.
pub struct Pace {
    bytes_per_second: u64,
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    /// When all that was spent is paid for.
    paid: Option<Instant>,
}

impl Pace {
    /// Starts with a budget; 0 is none.
    pub fn new(bytes_per_second: u64) -> Pace {
        Pace { bytes_per_second, state: Mutex::default(), stopped: Condvar::new() }
    }

    /// Lets everything that goes through it fail from now on.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.stopped.notify_all();
    }

    /// Tells whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Waits until so many bytes may be read or written.
    pub fn spend(&self, bytes: usize) -> io::Result<()> {
        let mut state = self.state.lock();
        if self.bytes_per_second > 0 {
            let now = Instant::now();
            let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            let paid = state.paid.map_or(now, |paid| paid.max(now)) + cost;
            state.paid = Some(paid);
            while !state.stopped && Instant::now() + SPURT < paid {
                self.stopped.wait_until(&mut state, paid - SPURT);
            }
        }
        // Not `Interrupted`: that is taken for "try again".
        if state.stopped { Err(io::Error::other("the store is closing")) } else { Ok(()) }
    }
}

/// A file system within a budget.
pub struct PacedFs {
    /// The one that does it.
    pub fs: Arc<dyn Fs>,
    /// The budget.
    pub pace: Arc<Pace>,
}

impl PacedFs {
    fn paced(&self, file: Box<dyn File>) -> Box<dyn File> {
        Box::new(PacedFile { file, pace: self.pace.clone() })
    }
}

impl Fs for PacedFs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.fs.create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.fs.create(path).map(|file| self.paced(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.fs.open(path).map(|file| self.paced(file))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let bytes = self.fs.read(path)?;
        self.pace.spend(bytes.len())?;
        Ok(bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.fs.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.fs.remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.fs.list(path)
    }

    fn exists(&self, path: &Path) -> bool {
        self.fs.exists(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.fs.lock(path)
    }
}

struct PacedFile {
    file: Box<dyn File>,
    pace: Arc<Pace>,
}

impl File for PacedFile {
    fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        self.pace.spend(bytes.len())?;
        self.file.append(bytes)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.pace.spend(buf.len())?;
        self.file.read_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_the_wait_and_everything_after() {
        let pace = Arc::new(Pace::new(1));
        pace.spend(0).unwrap();
        let waiting = pace.clone();
        // Without the stop it would take a day.
        let thread = std::thread::spawn(move || waiting.spend(86_400).is_err());
        pace.stop();
        assert!(thread.join().unwrap());
        assert!(pace.spend(0).is_err() && pace.is_stopped());
    }

    #[test]
    fn no_budget_waits_for_nothing() {
        let pace = Pace::new(0);
        (0..10).for_each(|_| pace.spend(usize::MAX).unwrap());
    }
}
