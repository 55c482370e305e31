//! How the simulated disk fails: once when told, or at random as the seed decides.

use crate::random::Random;

/// How the next operations fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The append after `after` more appends fails with this errno, with a part of the bytes written.
    Append {
        /// Appends that still go well.
        after: u64,
        /// For example 28 for ENOSPC, 5 for EIO.
        errno: i32,
    },
    /// The file that would be made after `after` more cannot be, with this errno.
    Create {
        /// Files that are still made.
        after: u64,
        /// For example 24 for EMFILE.
        errno: i32,
    },
    /// The `sync_data` after `after` more fails with ENOSPC, as where room is found only then; else as [`Fault::Sync`].
    SyncNoSpace {
        /// Syncs that still go well.
        after: u64,
    },
    /// The `sync_data` after `after` more fails with EIO; its bytes stay volatile and count as clean, as on Linux.
    Sync {
        /// Syncs that still go well.
        after: u64,
    },
    /// The read after `after` more fails with EIO.
    Read {
        /// Reads that still go well.
        after: u64,
    },
    /// One sector of the append after `after` more lands in another place: on the medium the old bytes stay, and
    /// another sector, of this or another file, is overwritten. Nobody is told; it shows after a crash.
    Misdirect {
        /// Appends that still land where they should.
        after: u64,
    },
    /// After that many more changes of any kind everything fails until [`crate::SimFs::crash`]: the power is gone.
    PowerCut {
        /// Changes that still go well.
        after: u64,
    },
}

/// How often operations fail at random: once in so many, 0 for never. The seed decides which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Weather {
    /// Appends that fail with ENOSPC.
    pub no_space: u64,
    /// Appends that fail with EIO.
    pub append_eio: u64,
    /// Syncs of files and directories that fail with EIO.
    pub sync_eio: u64,
    /// Reads that fail with EIO.
    pub read_eio: u64,
    /// Appends of which a sector lands elsewhere.
    pub misdirected: u64,
}

pub(super) const EIO: i32 = 5;
pub(super) const ENOSPC: i32 = 28;

/// What is armed.
#[derive(Default)]
pub(super) struct Faults {
    append: Option<(u64, i32)>,
    create: Option<(u64, i32)>,
    sync: Option<(u64, i32)>,
    read: Option<u64>,
    misdirect: Option<u64>,
    cut: Option<u64>,
    pub weather: Weather,
}

impl Faults {
    pub fn arm(&mut self, fault: Fault) {
        match fault {
            Fault::Append { after, errno } => self.append = Some((after, errno)),
            Fault::Create { after, errno } => self.create = Some((after, errno)),
            Fault::Sync { after } => self.sync = Some((after, EIO)),
            Fault::SyncNoSpace { after } => self.sync = Some((after, ENOSPC)),
            Fault::Read { after } => self.read = Some(after),
            Fault::Misdirect { after } => self.misdirect = Some(after),
            Fault::PowerCut { after } => self.cut = Some(after),
        }
    }

    /// Tells with which errno this append fails, if it does.
    pub fn append(&mut self, random: &mut Random) -> Option<i32> {
        if let Some(errno) = due(&mut self.append) {
            return Some(errno);
        }
        if strikes(self.weather.no_space, random) {
            return Some(ENOSPC);
        }
        strikes(self.weather.append_eio, random).then_some(EIO)
    }

    /// Tells with which errno this file cannot be made, if so.
    pub fn create(&mut self) -> Option<i32> {
        due(&mut self.create)
    }

    /// Tells with which errno this sync fails, if it does.
    pub fn sync(&mut self, random: &mut Random) -> Option<i32> {
        due(&mut self.sync).or_else(|| strikes(self.weather.sync_eio, random).then_some(EIO))
    }

    pub fn sync_dir(&mut self, random: &mut Random) -> bool {
        strikes(self.weather.sync_eio, random)
    }

    pub fn read(&mut self, random: &mut Random) -> bool {
        is_over(&mut self.read) || strikes(self.weather.read_eio, random)
    }

    pub fn misdirects(&mut self, random: &mut Random) -> bool {
        is_over(&mut self.misdirect) || strikes(self.weather.misdirected, random)
    }

    /// Tells whether the power goes before this change.
    pub fn cut(&mut self) -> bool {
        is_over(&mut self.cut)
    }
}

/// Counts down; gives the errno once, when it is over.
fn due(armed: &mut Option<(u64, i32)>) -> Option<i32> {
    let (left, errno) = (*armed)?;
    *armed = left.checked_sub(1).map(|left| (left, errno));
    (left == 0).then_some(errno)
}

/// Counts down; `true` once, when it is over.
fn is_over(left: &mut Option<u64>) -> bool {
    let over = *left == Some(0);
    *left = left.and_then(|n| n.checked_sub(1));
    over
}

fn strikes(once_in: u64, random: &mut Random) -> bool {
    once_in > 0 && random.below(once_in) == 0
}
