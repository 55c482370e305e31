//! What filters do and add up, over all targets and sources: shared by scrapes, by pushes, and by who writes it to disk.
//!
//! Invariants: 1. an owner has one state, however often its filters change; 2. an owner that nobody wants for
//! [`UNWANTED_MS`] goes, and those who still hold its sums are told ([`OwnSums::is_gone`]).
//! Limits: those of [`Aggregator`] for each owner, [`CHILDREN_TOTAL_MAX`] children in all; [`BYTES_MAX`] bytes are written and
//! read back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use model::Labels;
use model::aggregate::{Aggregator, Child, How};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::filter_counts::FilterCounts;

/// Bytes of a state that is written and read.
pub const BYTES_MAX: usize = 1 << 30;
/// Children of all owners.
pub const CHILDREN_TOTAL_MAX: usize = 2_000_000;
/// An owner without filters that add up keeps its sums for so long: a target may be gone for the time of a reload.
pub const UNWANTED_MS: i64 = 3_600_000;

/// Gives time and value of the last stored sample of a series, if there is one.
pub type Resume = Arc<dyn Fn(&Labels) -> Option<(i64, f64)> + Send + Sync>;

/// What all owners share.
struct Shared {
    resume: Resume,
    children: AtomicI64,
    /// Grows with every collection that is stored.
    changes: AtomicU64,
}

/// One target or source.
struct Owner {
    aggregator: Mutex<Aggregator>,
    busy: Mutex<bool>,
    free: Condvar,
    gone: AtomicBool,
    /// Since when nobody wants it; `i64::MAX` when somebody does.
    unwanted_ms: AtomicI64,
}

impl Owner {
    fn new(aggregator: Aggregator) -> Arc<Owner> {
        Arc::new(Owner {
            aggregator: Mutex::new(aggregator),
            busy: Mutex::default(),
            free: Condvar::new(),
            gone: AtomicBool::new(false),
            unwanted_ms: AtomicI64::new(i64::MAX),
        })
    }
}

/// The sums of all owners.
pub struct Sums {
    owners: Mutex<HashMap<String, Arc<Owner>>>,
    shared: Arc<Shared>,
    /// The changes that are written.
    written: AtomicU64,
    counts: FilterCounts,
}

/// The sums of one owner.
#[derive(Clone)]
pub struct OwnSums {
    owner: Arc<Owner>,
    shared: Arc<Shared>,
}

/// All states as bytes.
pub struct Encoded {
    /// What [`Sums::decode`] reads.
    pub bytes: Vec<u8>,
    /// Owners for which there was no room in it.
    pub left_out: usize,
    changes: u64,
}

impl std::fmt::Debug for OwnSums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnSums").finish_non_exhaustive()
    }
}

impl Default for Sums {
    fn default() -> Sums {
        Sums::new(Arc::new(|_| None))
    }
}

impl Sums {
    /// Starts without sums.
    ///
    /// **Takes** what knows the store: it may block.
    pub fn new(resume: Resume) -> Sums {
        let shared = Shared { resume, children: AtomicI64::new(0), changes: AtomicU64::new(0) };
        Sums {
            owners: Mutex::default(),
            shared: Arc::new(shared),
            written: AtomicU64::new(0),
            counts: FilterCounts::default(),
        }
    }

    /// Counts what filters do to samples.
    pub fn counts(&self) -> &FilterCounts {
        &self.counts
    }

    /// Gives the sums of a target or a source of pushes.
    pub fn of(&self, owner: &str) -> OwnSums {
        let mut owners = self.owners.lock();
        let owner = match owners.get(owner) {
            Some(known) => known.clone(),
            None => owners.entry(owner.to_owned()).or_insert_with(|| Owner::new(Aggregator::default())).clone(),
        };
        OwnSums { owner, shared: self.shared.clone() }
    }

    /// Counts the children of all owners.
    pub fn children(&self) -> usize {
        usize::try_from(self.shared.children.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Counts the sums of all owners.
    pub fn groups(&self) -> usize {
        self.all().iter().map(|(_, one)| one.aggregator.lock().groups()).sum()
    }

    fn all(&self) -> Vec<(String, Arc<Owner>)> {
        self.owners.lock().iter().map(|(owner, one)| (owner.clone(), one.clone())).collect()
    }

    /// Lets owners go that are not wanted for long, and of the others what rests.
    ///
    /// **Cost** a look at every child: for every few minutes.
    pub fn sweep(&self, wanted: impl Fn(&str) -> bool, now_ms: i64) {
        let mut children = 0;
        for (name, owner) in self.all() {
            let since_ms = match wanted(&name) {
                true => i64::MAX,
                false => owner.unwanted_ms.load(Ordering::Relaxed).min(now_ms),
            };
            owner.unwanted_ms.store(since_ms, Ordering::Relaxed);
            if since_ms < i64::MAX && now_ms.saturating_sub(since_ms) > UNWANTED_MS {
                owner.gone.store(true, Ordering::Relaxed);
                self.owners.lock().remove(&name);
                self.shared.changes.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let mut aggregator = owner.aggregator.lock();
            aggregator.sweep(now_ms);
            children += aggregator.children();
        }
        // What came in meanwhile is counted the next time.
        self.shared.children.store(i64::try_from(children).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Gives all states as bytes; `None` when nothing has changed since those that were written.
    pub fn encode(&self) -> Option<Encoded> {
        let changes = self.shared.changes.load(Ordering::Acquire);
        if changes == self.written.load(Ordering::Relaxed) {
            return None;
        }
        let mut out = Encoded { bytes: Vec::new(), left_out: 0, changes };
        let mut part = Vec::new();
        for (name, owner) in self.all() {
            part.clear();
            owner.aggregator.lock().encode(&mut part);
            if out.bytes.len() + name.len() + part.len() + 16 > BYTES_MAX {
                out.left_out += 1;
                continue;
            }
            for bytes in [name.as_bytes(), &part] {
                out.bytes.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
                out.bytes.extend_from_slice(bytes);
            }
        }
        Some(out)
    }

    /// What [`Sums::encode`] gave is on disk.
    pub fn written(&self, encoded: &Encoded) {
        self.written.store(encoded.changes, Ordering::Relaxed);
    }

    /// Takes up what [`Sums::encode`] gave; `false`, and nothing taken up, when it is something else.
    pub fn decode(&self, mut bytes: &[u8]) -> bool {
        let (mut found, mut children) = (Vec::new(), 0);
        while !bytes.is_empty() {
            let read = (|| {
                let owner = String::from_utf8(part(&mut bytes)?.to_vec()).ok()?;
                Some((owner, Aggregator::decode(part(&mut bytes)?)?))
            })();
            match read {
                Some((owner, aggregator)) => {
                    children += aggregator.children();
                    found.push((owner, Owner::new(aggregator)));
                }
                None => return false,
            }
        }
        self.shared.children.fetch_add(i64::try_from(children).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.owners.lock().extend(found);
        true
    }
}

fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (head, behind) = rest.split_first_chunk::<8>()?;
    let (part, behind) = behind.split_at_checked(usize::try_from(u64::from_le_bytes(*head)).ok()?)?;
    *rest = behind;
    Some(part)
}

impl OwnSums {
    /// Locks them: for moments only.
    pub fn lock(&self) -> MutexGuard<'_, Aggregator> {
        self.owner.aggregator.lock()
    }

    /// Tells whether nobody wanted them for long, so that [`Sums::of`] gives others now.
    pub fn is_gone(&self) -> bool {
        self.owner.gone.load(Ordering::Relaxed)
    }

    /// Finds a child, or takes it in; see [`Aggregator::child`]. It may read the store.
    pub fn child(&self, key: u64, labels: &Labels, how: How, now_ms: i64) -> Option<Child> {
        let children = &self.shared.children;
        let mut sums = self.lock();
        let is_full = children.load(Ordering::Relaxed) >= CHILDREN_TOTAL_MAX as i64;
        if is_full && !sums.knows(key) {
            return None;
        }
        let before = sums.children() as i64;
        let child = sums.child(key, labels, how, now_ms, &*self.shared.resume);
        children.fetch_add(sums.children() as i64 - before, Ordering::Relaxed);
        child
    }

    /// The collection is stored; see [`Aggregator::commit`].
    pub fn commit(&self) {
        self.lock().commit();
        self.shared.changes.fetch_add(1, Ordering::Release);
    }

    /// Waits until no other collection of this owner is on its way.
    pub fn turn(&self) -> Turn {
        let mut busy = self.owner.busy.lock();
        while *busy {
            self.owner.free.wait(&mut busy);
        }
        *busy = true;
        Turn(self.clone())
    }
}

/// Held from the adding up of a collection until the store has answered.
pub struct Turn(OwnSums);

impl Turn {
    /// Gives the sums that it is held for.
    pub fn sums(&self) -> &OwnSums {
        &self.0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Nothing of it that is not committed counts.
        self.0.lock().abandon();
        *self.0.owner.busy.lock() = false;
        self.0.owner.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_back_or_refused() {
        let sums = Sums::default();
        let labels = Labels::from_pairs([("__name__", "x_total")]);
        let own = sums.of("t");
        let child = own.child(1, &labels, How::Cumulative, 1).unwrap_or_else(|| panic!("there is room"));
        own.lock().add(child, 5.0);
        own.commit();
        let encoded = sums.encode().unwrap_or_else(|| panic!("it changed"));
        assert!(sums.encode().is_some(), "it was not written");
        sums.written(&encoded);
        assert!(sums.encode().is_none());
        let bytes = encoded.bytes;
        let again = Sums::default();
        assert!(again.decode(&bytes) && again.children() == 1);
        assert!(!Sums::default().decode(&bytes[1..]) && !Sums::default().decode(&bytes[..bytes.len() - 1]));
    }

    #[test]
    fn who_is_not_wanted_goes_after_a_while() {
        let sums = Sums::default();
        let labels = Labels::from_pairs([("__name__", "x_total")]);
        let own = sums.of("t");
        own.child(1, &labels, How::Cumulative, 1).unwrap_or_else(|| panic!("there is room"));
        own.commit();
        sums.sweep(|_| false, 1);
        sums.sweep(|_| true, 2);
        sums.sweep(|_| false, 3);
        sums.sweep(|_| false, 3 + UNWANTED_MS);
        assert!(!own.is_gone() && sums.children() == 1);
        sums.sweep(|_| false, 4 + UNWANTED_MS);
        assert!(own.is_gone() && sums.children() == 0 && !sums.of("t").is_gone());
    }

    #[test]
    fn turns_wait_for_each_other_whoever_asked() {
        let sums = Sums::default();
        let (one, other) = (sums.of("t"), sums.of("t"));
        let turn = one.turn();
        let waiting = std::thread::spawn(move || drop(other.turn()));
        assert!(*one.owner.busy.lock());
        drop(turn);
        assert!(waiting.join().is_ok());
        assert!(!*one.owner.busy.lock());
    }
}
