//! Which new series are let in, when there is not room for all.
//!
//! Owns: the room for series (in number and in bytes of memory) and how much of it each target and source holds.
//! Invariants: 1. a series that is in is never put out to make room for another; 2. what is asked for together is given
//! together or not at all; 3. what replay brings is counted, but never refused.
//! Limits: [`AdmissionLimits`]. The last fifth of the memory is kept for targets that hold little, so that one that
//! explodes does not keep the others from growing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;

/// What a series costs beside its labels: slot, open chunk, index, registry. Measured under remote write of a million.
const SERIES_BYTES: u64 = 600;
/// How often the bytes of its labels are held: by registry, head and index.
const LABEL_COPIES: u64 = 4;
/// Beyond this part of the memory only targets that hold little may grow.
const SHARED: (u64, u64) = (4, 5);
/// A target that holds less than this part of the memory holds little.
const LITTLE: u64 = 16;

/// How much room there is for series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdmissionLimits {
    /// Series at one time.
    pub series_max: u64,
    /// Memory that series may take, as we count it.
    pub series_bytes_max: u64,
    /// Series of one source.
    pub source_series_max: u64,
}

impl AdmissionLimits {
    /// Limits the number of series only.
    pub fn of_series(series_max: u64) -> AdmissionLimits {
        AdmissionLimits { series_max, series_bytes_max: u64::MAX, source_series_max: u64::MAX }
    }
}

/// Why there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Full {
    /// As many series as are allowed in all.
    Series = 1,
    /// As many as one source may have.
    Source = 2,
    /// The memory for series is used up.
    Memory = 3,
    /// The rest of the memory is kept for targets that hold little.
    Share = 4,
    /// The process has reached its memory limit, whatever it is that takes it.
    Process = 5,
}

impl Full {
    /// All of them.
    pub const ALL: [Full; 5] = [Full::Series, Full::Source, Full::Memory, Full::Share, Full::Process];

    /// Gives the word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Full::Series => "series",
            Full::Source => "source",
            Full::Memory => "memory",
            Full::Share => "share",
            Full::Process => "process",
        }
    }

    fn of(number: u8) -> Option<Full> {
        Full::ALL.into_iter().find(|full| *full as u8 == number)
    }
}

/// What is held by whoever has the series: a target, or a source of pushes.
#[derive(Debug)]
pub struct Owner {
    target_id: Arc<str>,
    source: Arc<str>,
    held: Held,
    of_source: Arc<Held>,
    /// Why the last refusal was; 0 when there was none.
    full: AtomicU8,
}

/// Series and their memory.
#[derive(Default, Debug)]
pub struct Held {
    series: AtomicU64,
    bytes: AtomicU64,
}

impl Held {
    fn add(&self, series: u64, bytes: u64) {
        self.series.fetch_add(series, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take(&self, series: u64, bytes: u64) {
        // Other counts than were added would be a bug; a count that wraps would keep everybody out for ever.
        let less = |n: u64| move |held: u64| Some(held.saturating_sub(n));
        let _ = self.series.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less(series));
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less(bytes));
    }
}

impl Owner {
    /// Starts without series.
    pub fn new(target_id: Arc<str>, source: Arc<str>, of_source: Arc<Held>) -> Owner {
        Owner { target_id, source, held: Held::default(), of_source, full: AtomicU8::new(0) }
    }
}

/// What a target holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnerStats {
    /// The target, or the source of pushes.
    pub target_id: Arc<str>,
    /// Its source.
    pub source: Arc<str>,
    /// Series that it brought last.
    pub series: u64,
    /// Memory that they take, as we count it.
    pub bytes: u64,
    /// Why it was last refused series; `None` when it never was.
    pub full: Option<Full>,
}

impl OwnerStats {
    /// Counts what an owner holds now.
    pub fn of(owner: &Owner) -> OwnerStats {
        OwnerStats {
            target_id: owner.target_id.clone(),
            source: owner.source.clone(),
            series: owner.held.series.load(Ordering::Relaxed),
            bytes: owner.held.bytes.load(Ordering::Relaxed),
            full: Full::of(owner.full.load(Ordering::Relaxed)),
        }
    }
}

/// How the room stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdmissionStats {
    /// The limits.
    pub limits: AdmissionLimits,
    /// Series that are in.
    pub series: u64,
    /// Memory that they take, as we count it.
    pub bytes: u64,
    /// Series let in since the start.
    pub admitted: u64,
    /// Series refused since the start, by [`Full::ALL`]; one that is tried again counts again.
    pub refused: [u64; Full::ALL.len()],
    /// The process has reached its memory limit.
    pub pressure: bool,
}

impl AdmissionStats {
    /// Counts the series refused since the start.
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().sum()
    }
}

/// The room for series.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    held: Held,
    /// Held while room is asked for, so that two do not get the same.
    asking: Mutex<()>,
    pressure: AtomicBool,
    admitted: AtomicU64,
    refused: [AtomicU64; Full::ALL.len()],
}

/// Gives the memory that a series takes, by the length of its label encoding.
pub fn cost_of(label_bytes: usize) -> u64 {
    SERIES_BYTES + LABEL_COPIES * label_bytes as u64
}

impl Admission {
    /// Starts empty.
    pub fn new(limits: AdmissionLimits) -> Admission {
        Admission {
            limits,
            held: Held::default(),
            asking: Mutex::new(()),
            pressure: AtomicBool::new(false),
            admitted: AtomicU64::new(0),
            refused: Default::default(),
        }
    }

    /// Takes room for new series of one owner: for all of them or for none.
    ///
    /// **Takes** whether they are let in though there is no room: the few series in which a target reports on itself.
    pub fn reserve(&self, owner: &Owner, series: u64, bytes: u64, essential: bool) -> Result<(), Full> {
        let _asking = self.asking.lock();
        if !essential && let Some(full) = self.lacks(owner, series, bytes) {
            owner.full.store(full as u8, Ordering::Relaxed);
            self.refused[full as usize - 1].fetch_add(series, Ordering::Relaxed);
            return Err(full);
        }
        self.admitted.fetch_add(series, Ordering::Relaxed);
        self.add(owner, series, bytes);
        Ok(())
    }

    fn lacks(&self, owner: &Owner, series: u64, bytes: u64) -> Option<Full> {
        let limits = &self.limits;
        let (all, of_source, own) = (&self.held, &owner.of_source, &owner.held);
        let after = |held: &AtomicU64, more: u64| held.load(Ordering::Relaxed).saturating_add(more);
        let used = after(&all.bytes, bytes);
        // Without the division first, a limit of "none" would overflow.
        let shared = limits.series_bytes_max / SHARED.1 * SHARED.0;
        if after(&all.series, series) > limits.series_max {
            Some(Full::Series)
        } else if after(&of_source.series, series) > limits.source_series_max {
            Some(Full::Source)
        } else if used > limits.series_bytes_max {
            Some(Full::Memory)
        } else if used > shared && after(&own.bytes, bytes) > limits.series_bytes_max / LITTLE {
            Some(Full::Share)
        } else if self.pressure.load(Ordering::Relaxed) {
            Some(Full::Process)
        } else {
            None
        }
    }

    /// Counts series of an owner without asking.
    pub fn add(&self, owner: &Owner, series: u64, bytes: u64) {
        self.held.add(series, bytes);
        owner.held.add(series, bytes);
        owner.of_source.add(series, bytes);
    }

    /// Gives the room of series back.
    pub fn release(&self, owner: &Owner, series: u64, bytes: u64) {
        self.held.take(series, bytes);
        owner.held.take(series, bytes);
        owner.of_source.take(series, bytes);
    }

    /// Says whether the process has reached its memory limit.
    pub fn set_pressure(&self, pressure: bool) {
        self.pressure.store(pressure, Ordering::Relaxed);
    }

    /// Counts the series that are in.
    pub fn series(&self) -> u64 {
        self.held.series.load(Ordering::Relaxed)
    }

    /// Tells how the room stands.
    pub fn stats(&self) -> AdmissionStats {
        AdmissionStats {
            limits: self.limits,
            series: self.series(),
            bytes: self.held.bytes.load(Ordering::Relaxed),
            admitted: self.admitted.load(Ordering::Relaxed),
            refused: std::array::from_fn(|i| self.refused[i].load(Ordering::Relaxed)),
            pressure: self.pressure.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str, of_source: &Arc<Held>) -> Owner {
        Owner::new(Arc::from(name), Arc::from("s"), of_source.clone())
    }

    #[test]
    fn a_source_and_all_of_them_have_limits() {
        let admission =
            Admission::new(AdmissionLimits { series_max: 10, source_series_max: 6, ..AdmissionLimits::of_series(10) });
        let (one, two) = (Arc::default(), Arc::default());
        let (a, b, c) = (owner("a", &one), owner("b", &one), owner("c", &two));
        assert_eq!(admission.reserve(&a, 4, 1, false), Ok(()));
        assert_eq!(admission.reserve(&b, 3, 1, false), Err(Full::Source));
        assert_eq!(admission.reserve(&b, 2, 1, false), Ok(()));
        assert_eq!(admission.reserve(&c, 5, 1, false), Err(Full::Series));
        assert_eq!(admission.reserve(&c, 4, 1, false), Ok(()));
        assert_eq!(admission.reserve(&c, 1, 1, false), Err(Full::Series));
        assert_eq!(admission.reserve(&c, 1, 1, true), Ok(()), "a target may always say how it stands");
        admission.release(&a, 4, 1);
        assert_eq!(admission.reserve(&c, 1, 1, false), Ok(()));
        let stats = admission.stats();
        assert_eq!((stats.series, stats.admitted, stats.refused_total()), (8, 12, 9));
        assert_eq!(OwnerStats::of(&b).full, Some(Full::Source));
    }

    #[test]
    fn the_last_fifth_of_the_memory_is_for_the_small() {
        let limits = AdmissionLimits { series_bytes_max: 1_600, ..AdmissionLimits::of_series(u64::MAX) };
        let admission = Admission::new(limits);
        let source = Arc::default();
        let (greedy, small) = (owner("greedy", &source), owner("small", &source));
        let mut taken = 0;
        while admission.reserve(&greedy, 1, 10, false).is_ok() {
            taken += 10;
        }
        assert_eq!((taken, OwnerStats::of(&greedy).full), (1_280, Some(Full::Share)));
        assert_eq!(admission.reserve(&small, 10, 100, false), Ok(()));
        assert_eq!(admission.reserve(&small, 1, 1, false), Err(Full::Share));
        assert_eq!(admission.reserve(&owner("huge", &source), 1, 1_000, false), Err(Full::Memory));
        admission.set_pressure(true);
        assert_eq!(admission.reserve(&owner("late", &source), 1, 10, false), Err(Full::Process));
    }
}
