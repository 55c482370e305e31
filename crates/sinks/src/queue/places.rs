//! How far each sink is: the last record that it has for good.
//!
//! Invariant: a place on disk is never ahead of what the sink has; after a crash it may be behind by the window that was
//! under way, which is then made up again from the same records.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sys::Fs;
use xxhash_rust::xxh3::xxh3_64;

/// A sink's place.
pub struct Place {
    name: String,
    path: PathBuf,
    seq: AtomicU64,
    /// The end of the window that was begun last.
    begun: AtomicU64,
    /// What is on disk.
    stored: Mutex<Option<(u64, u64)>>,
    lost: AtomicU64,
}

impl Place {
    /// Gives the sink's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the last record that the sink has.
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::SeqCst)
    }

    /// Gives the end of a window that an earlier life began and did not bring to its end: it is made up once more with the
    /// same end, so that the same requests go out again.
    pub fn begun(&self) -> Option<u64> {
        let begun = self.begun.load(Ordering::SeqCst);
        (begun > self.seq()).then_some(begun)
    }

    /// Gives the last record that the sink will have after any crash; what is in front of it may go.
    fn durable(&self) -> u64 {
        self.stored.lock().map_or(0, |stored| stored.0)
    }

    /// Counts samples that the queue had to give up before the sink took them.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn lose(&self, rows: u64, seq: u64) {
        self.lost.fetch_add(rows, Ordering::Relaxed);
        self.advance(seq);
    }

    /// Says that the sink has everything up to a record.
    pub fn advance(&self, seq: u64) {
        self.seq.fetch_max(seq, Ordering::SeqCst);
    }

    /// Says that a window up to a record is about to be sent.
    pub fn begin(&self, seq: u64) {
        self.begun.store(seq, Ordering::SeqCst);
    }

    /// Makes the place durable, if it has moved.
    pub fn store(&self, fs: &dyn Fs) -> io::Result<()> {
        let mut stored = self.stored.lock();
        let now = (self.seq(), self.begun.load(Ordering::SeqCst));
        if *stored == Some(now) {
            return Ok(());
        }
        let fresh = self.path.with_extension("new");
        let mut bytes = [now.0.to_le_bytes(), now.1.to_le_bytes()].concat();
        let sum = xxh3_64(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        let file = fs.create(&fresh)?;
        file.append(&bytes)?;
        file.sync_data()?;
        fs.rename(&fresh, &self.path)?;
        fs.sync_dir(self.path.parent().unwrap_or(Path::new(".")))?;
        *stored = Some(now);
        Ok(())
    }
}

/// Reads a place; a damaged one is the beginning of what there is: twice is better than not at all.
fn load(fs: &dyn Fs, path: &Path) -> io::Result<Option<(u64, u64)>> {
    if !fs.exists(path) {
        return Ok(None);
    }
    let bytes = fs.read(path)?;
    let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let place = number(0).zip(number(8)).filter(|_| number(16) == Some(xxh3_64(bytes.get(..16).unwrap_or_default())));
    if place.is_none() {
        tracing::error!(path = %path.display(), "the place of a sink is damaged: it gets all that the queue has");
    }
    Ok(Some(place.unwrap_or((0, 0))))
}

/// All places; `None` until it is known which sinks there are.
#[derive(Default)]
pub struct Places(Option<Vec<Arc<Place>>>);

impl Places {
    /// Keeps the places of these sinks, adds those that are missing at `end`, removes all others.
    pub fn choose(&mut self, fs: &dyn Fs, dir: &Path, names: &[String], end: u64) -> io::Result<Vec<Arc<Place>>> {
        let mut chosen = Vec::with_capacity(names.len());
        for name in names {
            if let Some(known) = self.0.iter().flatten().find(|place| place.name == *name) {
                chosen.push(known.clone());
                continue;
            }
            let path = dir.join(format!("{name}.place"));
            let mut found = load(fs, &path)?;
            if let Some((seq, begun)) = found
                && (seq > end || begun > end)
            {
                // An older copy of the data directory stands here, or that of another server.
                tracing::error!(sink = name, seq, begun, end, "the place of a sink is behind the end of the ledger");
                found = Some((seq.min(end), 0));
            }
            let place = Place {
                name: name.clone(),
                path,
                seq: AtomicU64::new(found.map_or(end, |f| f.0)),
                begun: AtomicU64::new(found.map_or(0, |f| f.1)),
                stored: Mutex::new(found),
                lost: AtomicU64::new(0),
            };
            place.store(fs)?;
            chosen.push(Arc::new(place));
        }
        for file in fs.list(dir)? {
            if let Some(name) = file.strip_suffix(".place")
                && !names.iter().any(|n| n == name)
            {
                tracing::warn!(sink = name, "there is no such sink any more: its place in the queue is forgotten");
                fs.remove_file(&dir.join(&file))?;
            }
        }
        fs.sync_dir(dir)?;
        self.0 = Some(chosen.clone());
        Ok(chosen)
    }

    /// Tells whether every sink has passed a record; nobody knows before it is known which sinks there are.
    pub fn have_passed(&self, seq: u64) -> bool {
        self.0.as_ref().is_some_and(|all| all.iter().all(|place| place.durable() >= seq))
    }

    /// Gives the last record that every sink has, in this life; `None` when nobody knows or there is no sink.
    pub fn passed_by_all(&self) -> Option<u64> {
        self.0.iter().flatten().map(|place| place.seq()).min()
    }

    /// Tells whether it is known which sinks there are.
    pub fn are_known(&self) -> bool {
        self.0.is_some()
    }

    /// Gives the places that have not reached a record.
    pub fn behind(&self, seq: u64) -> impl Iterator<Item = &Arc<Place>> {
        self.0.iter().flatten().filter(move |place| place.seq() < seq)
    }
}
