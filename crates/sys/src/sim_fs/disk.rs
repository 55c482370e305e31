//! What is on the simulated disk, and what a crash makes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::faults::{EIO, ENOSPC, Faults};
use crate::random::Random;

pub(super) const SECTOR_BYTES: usize = 512;

/// A file, with or without a name.
#[derive(Default)]
pub(super) struct Inode {
    pub live: Vec<u8>,
    pub durable: Vec<u8>,
    /// Where the next append goes; behind it may lie a part of a failed one.
    pub end: usize,
    /// Sectors that a failed sync did not write and that count as clean since: only writing them again helps.
    pub forgotten: BTreeSet<usize>,
    /// Sectors that hold something else on the medium than was written there; nobody knows before a crash.
    pub astray: BTreeMap<usize, Vec<u8>>,
}

impl Inode {
    /// Writes at the end without moving it.
    pub fn put(&mut self, bytes: &[u8]) {
        let to = self.end + bytes.len();
        if self.live.len() < to {
            self.live.resize(to, 0);
        }
        self.live[self.end..to].copy_from_slice(bytes);
        // What is written again is written, and goes where it should.
        let again = self.end / SECTOR_BYTES..=to / SECTOR_BYTES;
        self.astray.retain(|sector, _| !again.contains(sector));
        self.forgotten.retain(|sector| !again.contains(sector));
    }

    /// Cuts or grows to a length.
    pub fn resize(&mut self, len: usize) {
        self.live.resize(len, 0);
        self.end = len;
        self.forgotten.retain(|sector| *sector < len / SECTOR_BYTES);
    }

    /// Brings the bytes to the medium, but for those that the system believes to be there.
    pub fn sync(&mut self) {
        let before = std::mem::replace(&mut self.durable, self.live.clone());
        for sector in &self.forgotten {
            let start = sector * SECTOR_BYTES;
            for (at, byte) in self.durable.iter_mut().enumerate().skip(start).take(SECTOR_BYTES) {
                *byte = before.get(at).copied().unwrap_or(0);
            }
        }
    }

    /// A sync failed: what it should have written counts as clean from now on, as on Linux.
    pub fn forget(&mut self) {
        let sectors = self.live.len().div_ceil(SECTOR_BYTES);
        let of = |bytes: &[u8], sector: usize| -> Vec<u8> {
            bytes.iter().skip(sector * SECTOR_BYTES).take(SECTOR_BYTES).copied().collect()
        };
        let differs = |sector: &usize| of(&self.live, *sector) != of(&self.durable, *sector);
        let lost: Vec<usize> = (0..sectors).filter(differs).collect();
        self.forgotten.extend(lost);
    }
}

/// A place in a directory. Directories have numbers, as on a real disk: what happens to a name does not touch another
/// directory that had the name before.
pub(super) type Name = (u64, String);

/// The directory at the top.
pub(super) const ROOT: u64 = 0;

#[derive(Clone, Debug)]
pub(super) enum NameOp {
    Link(Name, Entry),
    Unlink(Name),
    Rename(Name, Name),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Entry {
    Dir(u64),
    File(u64),
}

pub(super) type Tree = BTreeMap<Name, Entry>;

/// All of the disk.
pub(super) struct Disk {
    pub inodes: HashMap<u64, Inode>,
    pub next_inode: u64,
    pub live: Tree,
    pub durable: Tree,
    pub pending: Vec<NameOp>,
    pub locks: BTreeSet<PathBuf>,
    /// Rises with every crash; handles of an older life fail.
    pub life: u64,
    pub random: Random,
    pub changes: u64,
    pub faults: Faults,
    pub power_is_gone: bool,
    pub capacity_bytes: Option<u64>,
    pub data_syncs: u64,
    /// Syncs wait.
    pub held: bool,
}

pub(super) fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;

impl Disk {
    pub fn seeded(seed: u64) -> Disk {
        Disk {
            inodes: HashMap::new(),
            next_inode: 1,
            live: Tree::new(),
            durable: Tree::new(),
            pending: Vec::new(),
            locks: BTreeSet::new(),
            life: 0,
            random: Random::seeded(seed),
            changes: 0,
            faults: Faults::default(),
            power_is_gone: false,
            capacity_bytes: None,
            data_syncs: 0,
            held: false,
        }
    }

    pub fn end_life(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.faults = Faults::default();
        self.power_is_gone = false;
        self.held = false;
    }

    pub fn crash(&mut self) {
        self.end_life();
        let keep_prefix = self.random.coin();
        let pending = std::mem::take(&mut self.pending);
        let kept = self.random.below(pending.len() as u64 + 1);
        for (position, op) in pending.iter().enumerate() {
            let keep = if keep_prefix { (position as u64) < kept } else { self.random.coin() };
            if keep {
                apply(&mut self.durable, op);
            }
        }
        self.durable = self.rooted_durable();
        self.live = self.durable.clone();
        let mut ids: Vec<u64> = self.inodes.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if let Some(inode) = self.inodes.get_mut(&id) {
                inode.durable = torn(&inode.live, &inode.durable, &mut self.random);
                for (sector, bytes) in std::mem::take(&mut inode.astray) {
                    let start = sector * SECTOR_BYTES;
                    let there = inode.durable.iter_mut().skip(start).zip(bytes);
                    there.for_each(|(byte, other)| *byte = other);
                }
                inode.live = inode.durable.clone();
                inode.end = inode.live.len();
                inode.forgotten.clear();
            }
        }
    }

    /// Leaves out what lies in directories whose own entry was lost.
    fn rooted_durable(&self) -> Tree {
        let mut out = Tree::new();
        let mut dirs = vec![ROOT];
        while let Some(dir) = dirs.pop() {
            for (name, entry) in entries(&self.durable, dir) {
                out.insert(name.clone(), *entry);
                if let Entry::Dir(id) = entry {
                    dirs.push(*id);
                }
            }
        }
        out
    }

    /// Counts a change and finds out whether the power is still there.
    pub fn change(&mut self) -> io::Result<()> {
        if self.power_is_gone || self.faults.cut() {
            self.power_is_gone = true;
            return Err(errno(EIO));
        }
        self.changes += 1;
        Ok(())
    }

    pub fn powered(&self) -> io::Result<()> {
        if self.power_is_gone { Err(errno(EIO)) } else { Ok(()) }
    }

    pub fn used_bytes(&self) -> u64 {
        let linked = self.live.values().filter_map(|e| if let Entry::File(id) = e { Some(id) } else { None });
        linked.filter_map(|id| self.inodes.get(id)).map(|i| i.live.len() as u64).sum()
    }

    /// Tells how an append fails, if it does.
    pub fn append_fault(&mut self, len: usize) -> Option<io::Error> {
        let armed = self.faults.append(&mut self.random);
        let full = || self.capacity_bytes.is_some_and(|capacity| self.used_bytes() + len as u64 > capacity);
        armed.or_else(|| full().then_some(ENOSPC)).map(errno)
    }

    /// Lets one sector of what was just written from `from` to `to` land elsewhere, if that is due.
    pub fn misdirect(&mut self, id: u64, from: usize, to: usize) {
        if from == to || !self.faults.misdirects(&mut self.random) {
            return;
        }
        let mut ids: Vec<u64> = self.inodes.keys().copied().collect();
        ids.sort_unstable();
        let victim = ids[self.random.below(ids.len() as u64) as usize];
        let (first, last) = (from / SECTOR_BYTES, (to - 1) / SECTOR_BYTES);
        let sector = first + self.random.below((last - first + 1) as u64) as usize;
        let of = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().skip(sector * SECTOR_BYTES).take(SECTOR_BYTES).copied().collect()
        };
        let Some(inode) = self.inodes.get_mut(&id) else { return };
        let (written, mut old) = (of(&inode.live), of(&inode.durable));
        old.resize(SECTOR_BYTES, 0);
        inode.astray.insert(sector, old);
        if let Some(other) = self.inodes.get_mut(&victim) {
            let sectors = other.durable.len().div_ceil(SECTOR_BYTES);
            let place = self.random.below(sectors as u64) as usize;
            if sectors > 0 && (victim, place) != (id, sector) {
                other.astray.insert(place, written);
            }
        }
    }

    /// Tells whether a read fails.
    pub fn read_fault(&mut self) -> io::Result<()> {
        self.powered()?;
        if self.faults.read(&mut self.random) { Err(errno(EIO)) } else { Ok(()) }
    }

    /// Gives the files that have a name, sorted by it.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut out = Vec::new();
        let mut dirs = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, dir)) = dirs.pop() {
            for ((_, name), entry) in entries(&self.live, dir) {
                match entry {
                    Entry::File(id) => out.push((path.join(name), *id)),
                    Entry::Dir(id) => dirs.push((path.join(name), *id)),
                }
            }
        }
        out.sort();
        out
    }

    pub fn bytes_of(&self, id: u64) -> u64 {
        self.inodes.get(&id).map_or(0, |inode| inode.live.len() as u64)
    }

    /// Finds what a path leads to.
    pub fn find(&self, path: &Path) -> Option<Entry> {
        let mut at = Entry::Dir(ROOT);
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let Entry::Dir(dir) = at else { return None };
            at = *self.live.get(&(dir, name.to_string_lossy().into_owned()))?;
        }
        Some(at)
    }

    pub fn file_id(&self, path: &Path) -> io::Result<u64> {
        match self.find(path) {
            Some(Entry::File(id)) => Ok(id),
            Some(Entry::Dir(_)) => Err(errno(EEXIST)),
            None => Err(errno(ENOENT)),
        }
    }

    pub fn dir_id(&self, path: &Path) -> io::Result<u64> {
        match self.find(path) {
            Some(Entry::Dir(id)) => Ok(id),
            Some(Entry::File(_)) => Err(errno(ENOTDIR)),
            None => Err(errno(ENOENT)),
        }
    }

    /// Gives the place of a path in its directory, which must be there.
    pub fn place(&self, path: &Path) -> io::Result<Name> {
        let name = path.file_name().ok_or_else(|| errno(EEXIST))?;
        let dir = self.dir_id(path.parent().unwrap_or(Path::new("/")))?;
        Ok((dir, name.to_string_lossy().into_owned()))
    }

    pub fn new_id(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode - 1
    }

    pub fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| errno(EIO))
    }

    pub fn name_op(&mut self, op: NameOp) {
        apply(&mut self.live, &op);
        self.pending.push(op);
    }
}

/// Gives what is in a directory, sorted by name.
pub(super) fn entries(tree: &Tree, dir: u64) -> impl Iterator<Item = (&Name, &Entry)> {
    tree.range((dir, String::new())..(dir + 1, String::new()))
}

pub(super) fn apply(tree: &mut Tree, op: &NameOp) {
    match op {
        NameOp::Link(name, entry) => {
            tree.insert(name.clone(), *entry);
        }
        NameOp::Unlink(name) => {
            tree.remove(name);
        }
        NameOp::Rename(from, to) => {
            if let Some(entry) = tree.remove(from) {
                tree.insert(to.clone(), entry);
            }
        }
    }
}

pub(super) fn touches(op: &NameOp, dir: u64) -> bool {
    match op {
        NameOp::Link(name, _) | NameOp::Unlink(name) => name.0 == dir,
        NameOp::Rename(from, to) => from.0 == dir || to.0 == dir,
    }
}

/// What a file looks like after the power came back: of the sectors that differ each is old or new.
fn torn(live: &[u8], durable: &[u8], random: &mut Random) -> Vec<u8> {
    if live == durable {
        return durable.to_vec();
    }
    let (short, long) = (live.len().min(durable.len()), live.len().max(durable.len()));
    let len = match random.below(4) {
        0 => live.len(),
        1 => durable.len(),
        _ => short + random.below((long - short) as u64 + 1) as usize,
    };
    let all_new = random.below(3) == 0;
    let mut out = vec![0u8; len];
    for (index, sector) in out.chunks_mut(SECTOR_BYTES).enumerate() {
        let from = if all_new || random.coin() { live } else { durable };
        let start = index * SECTOR_BYTES;
        for (offset, byte) in sector.iter_mut().enumerate() {
            *byte = from.get(start + offset).copied().unwrap_or(0);
        }
    }
    // What is the same in both images, or was synced and not changed since, cannot differ.
    let same = live.iter().zip(durable).take_while(|(a, b)| a == b).count().min(len);
    out[..same].copy_from_slice(&durable[..same]);
    out
}
