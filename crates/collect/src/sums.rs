//! What filters add up, over all targets and sources: shared by scrapes, by pushes, and by who writes it to disk.
//!
//! Limits: those of [`Aggregator`] for each owner; [`BYTES_MAX`] bytes are read back.

use std::collections::HashMap;
use std::sync::Arc;

use model::Labels;
use model::aggregate::{Aggregator, Child, How};
use parking_lot::{Mutex, MutexGuard};

/// Bytes of a state that is read.
pub const BYTES_MAX: usize = 1 << 30;

/// Gives time and value of the last stored sample of a series, if there is one.
pub type Resume = Arc<dyn Fn(&Labels) -> Option<(i64, f64)> + Send + Sync>;

/// The sums of all owners.
pub struct Sums {
    owners: Mutex<HashMap<String, Arc<Mutex<Aggregator>>>>,
    resume: Resume,
}

/// The sums of one owner.
#[derive(Clone)]
pub struct OwnSums {
    aggregator: Arc<Mutex<Aggregator>>,
    resume: Resume,
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
        Sums { owners: Mutex::default(), resume }
    }

    /// Gives the sums of a target or a source of pushes.
    pub fn of(&self, owner: &str) -> OwnSums {
        let mut owners = self.owners.lock();
        let aggregator = match owners.get(owner) {
            Some(known) => known.clone(),
            None => owners.entry(owner.to_owned()).or_default().clone(),
        };
        OwnSums { aggregator, resume: self.resume.clone() }
    }

    /// Counts what is added up.
    pub fn children(&self) -> usize {
        self.all().iter().map(|(_, one)| one.lock().children()).sum()
    }

    fn all(&self) -> Vec<(String, Arc<Mutex<Aggregator>>)> {
        self.owners.lock().iter().map(|(owner, one)| (owner.clone(), one.clone())).collect()
    }

    /// Gives all states as bytes; `None` when nothing has changed since the last call.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let all = self.all();
        if !all.iter().fold(false, |changed, (_, one)| one.lock().take_changed() || changed) {
            return None;
        }
        let mut out = Vec::new();
        let mut part = Vec::new();
        for (owner, one) in all {
            part.clear();
            one.lock().encode(&mut part);
            for bytes in [owner.as_bytes(), &part] {
                out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
                out.extend_from_slice(bytes);
            }
        }
        Some(out)
    }

    /// Takes up what [`Sums::encode`] gave; `false`, and nothing taken up, when it is something else.
    pub fn decode(&self, mut bytes: &[u8]) -> bool {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let read = (|| {
                let owner = String::from_utf8(part(&mut bytes)?.to_vec()).ok()?;
                Some((owner, Aggregator::decode(part(&mut bytes)?)?))
            })();
            match read {
                Some((owner, aggregator)) => found.push((owner, Arc::new(Mutex::new(aggregator)))),
                None => return false,
            }
        }
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
        self.aggregator.lock()
    }

    /// Finds a child, or takes it in; see [`Aggregator::child`]. It may read the store.
    pub fn child(&self, key: u64, labels: &Labels, how: How, now_ms: i64) -> Option<Child> {
        self.lock().child(key, labels, how, now_ms, &*self.resume)
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
        own.lock().commit();
        let bytes = sums.encode().unwrap_or_else(|| panic!("it changed"));
        assert!(sums.encode().is_none());
        let again = Sums::default();
        assert!(again.decode(&bytes) && again.children() == 1);
        assert!(!Sums::default().decode(&bytes[1..]) && !Sums::default().decode(&bytes[..bytes.len() - 1]));
    }
}
