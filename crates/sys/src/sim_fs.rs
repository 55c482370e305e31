//! A disk in memory that forgets what was not synced, and fails when told to.
//!
//! Owns: for every file a live and a durable image; for the names a live tree, a durable tree, and the list of
//! operations in between.
//! Invariants: 1. after `crash` nothing that was synced is missing; 2. what was not synced is there, half there or
//! gone, as the seed decides; 3. handles from before a crash only fail; 4. the same seed and the same calls give the
//! same disk.
//! Not here: hard links, permissions, open files that lost their name but are still read by that name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::fs::{File, Fs, Lock};
use crate::random::Random;

const SECTOR_BYTES: usize = 512;

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
    /// The `sync_data` after `after` more fails with EIO; the bytes stay volatile and count as clean, as on Linux.
    Sync {
        /// Syncs that still go well.
        after: u64,
    },
    /// After that many more changes of any kind everything fails until [`SimFs::crash`]: the power is gone.
    PowerCut {
        /// Changes that still go well.
        after: u64,
    },
}

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimFs {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Where the next append goes; behind it may lie a part of a failed one.
    end: usize,
    clean_after_failed_sync: bool,
}

impl Inode {
    /// Writes at the end without moving it.
    fn put(&mut self, bytes: &[u8]) {
        let to = self.end + bytes.len();
        if self.live.len() < to {
            self.live.resize(to, 0);
        }
        self.live[self.end..to].copy_from_slice(bytes);
    }
}

#[derive(Clone, Debug)]
enum NameOp {
    Link(PathBuf, Entry),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Entry {
    Dir,
    File(u64),
}

type Tree = BTreeMap<PathBuf, Entry>;

struct Disk {
    inodes: HashMap<u64, Inode>,
    next_inode: u64,
    live: Tree,
    durable: Tree,
    pending: Vec<NameOp>,
    locks: BTreeSet<PathBuf>,
    /// Rises with every crash; handles of an older life fail.
    life: u64,
    random: Random,
    changes: u64,
    appends_until_fault: Option<(u64, i32)>,
    syncs_until_fault: Option<u64>,
    changes_until_cut: Option<u64>,
    power_is_gone: bool,
    capacity_bytes: Option<u64>,
    data_syncs: u64,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const ENOSPC: i32 = 28;

impl SimFs {
    /// Makes an empty disk.
    pub fn seeded(seed: u64) -> SimFs {
        SimFs {
            disk: Arc::new(Mutex::new(Disk {
                inodes: HashMap::new(),
                next_inode: 1,
                live: Tree::new(),
                durable: Tree::new(),
                pending: Vec::new(),
                locks: BTreeSet::new(),
                life: 0,
                random: Random::seeded(seed),
                changes: 0,
                appends_until_fault: None,
                syncs_until_fault: None,
                changes_until_cut: None,
                power_is_gone: false,
                capacity_bytes: None,
                data_syncs: 0,
            })),
        }
    }

    /// Cuts the power and starts again: what was not synced is gone, in part or as a whole; all handles are dead,
    /// all locks free, all faults off.
    pub fn crash(&self) {
        self.disk.lock().crash();
    }

    /// Ends the process without a power cut (kill -9): all bytes stay, handles are dead, locks free.
    pub fn kill(&self) {
        self.disk.lock().end_life();
    }

    /// Arms a fault.
    pub fn inject(&self, fault: Fault) {
        let mut disk = self.disk.lock();
        match fault {
            Fault::Append { after, errno } => disk.appends_until_fault = Some((after, errno)),
            Fault::Sync { after } => disk.syncs_until_fault = Some(after),
            Fault::PowerCut { after } => disk.changes_until_cut = Some(after),
        }
    }

    /// Sets how many bytes fit; `None` means any number.
    pub fn set_capacity_bytes(&self, capacity: Option<u64>) {
        self.disk.lock().capacity_bytes = capacity;
    }

    /// Counts the bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.disk.lock().used_bytes()
    }

    /// Counts the changes so far: creations, appends, syncs, renames, removals.
    pub fn changes(&self) -> u64 {
        self.disk.lock().changes
    }

    /// Counts the `sync_data` calls so far.
    pub fn data_syncs(&self) -> u64 {
        self.disk.lock().data_syncs
    }

    /// Tells whether the armed power cut has happened.
    pub fn power_is_gone(&self) -> bool {
        self.disk.lock().power_is_gone
    }

    /// Changes a file behind everybody's back, as a dying disk would; live and durable alike.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let id = disk.file_id(path)?;
        let inode = disk.inode(id)?;
        change(&mut inode.live);
        inode.end = inode.live.len();
        inode.durable = inode.live.clone();
        Ok(())
    }

    /// Makes a copy of what is on the medium now, as another disk.
    pub fn fork(&self, seed: u64) -> SimFs {
        let copy = SimFs::seeded(seed);
        {
            let from = self.disk.lock();
            let mut to = copy.disk.lock();
            to.live = from.live.clone();
            to.durable = from.live.clone();
            to.next_inode = from.next_inode;
            for (id, inode) in &from.inodes {
                let bytes = inode.live.clone();
                let end = bytes.len();
                let inode = Inode { live: bytes.clone(), durable: bytes, end, clean_after_failed_sync: false };
                to.inodes.insert(*id, inode);
            }
        }
        copy
    }
}

impl Disk {
    fn end_life(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.appends_until_fault = None;
        self.syncs_until_fault = None;
        self.changes_until_cut = None;
        self.power_is_gone = false;
    }

    fn crash(&mut self) {
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
                inode.live = inode.durable.clone();
                inode.end = inode.live.len();
                inode.clean_after_failed_sync = false;
            }
        }
    }

    /// Leaves out what lies in directories whose own entry was lost.
    fn rooted_durable(&self) -> Tree {
        let mut out = Tree::new();
        for (path, entry) in &self.durable {
            let parent = path.parent().unwrap_or(Path::new("/"));
            if is_root(parent) || out.get(parent) == Some(&Entry::Dir) {
                out.insert(path.clone(), *entry);
            }
        }
        out
    }

    /// Counts a change and finds out whether the power is still there.
    fn change(&mut self) -> io::Result<()> {
        if self.power_is_gone {
            return Err(errno(EIO));
        }
        if let Some(left) = self.changes_until_cut.as_mut() {
            if *left == 0 {
                self.power_is_gone = true;
                return Err(errno(EIO));
            }
            *left -= 1;
        }
        self.changes += 1;
        Ok(())
    }

    fn powered(&self) -> io::Result<()> {
        if self.power_is_gone { Err(errno(EIO)) } else { Ok(()) }
    }

    fn used_bytes(&self) -> u64 {
        let linked = self.live.values().filter_map(|e| if let Entry::File(id) = e { Some(id) } else { None });
        linked.filter_map(|id| self.inodes.get(id)).map(|i| i.live.len() as u64).sum()
    }

    /// Tells how an append fails, if it does.
    fn append_fault(&mut self, len: usize) -> Option<io::Error> {
        if let Some((left, code)) = self.appends_until_fault.as_mut() {
            if *left == 0 {
                let code = *code;
                self.appends_until_fault = None;
                return Some(errno(code));
            }
            *left -= 1;
        }
        let full = self.capacity_bytes.is_some_and(|capacity| self.used_bytes() + len as u64 > capacity);
        full.then(|| errno(ENOSPC))
    }

    fn file_id(&self, path: &Path) -> io::Result<u64> {
        match self.live.get(path) {
            Some(Entry::File(id)) => Ok(*id),
            Some(Entry::Dir) => Err(errno(EEXIST)),
            None => Err(errno(ENOENT)),
        }
    }

    fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| errno(EIO))
    }

    fn is_dir(&self, path: &Path) -> bool {
        is_root(path) || self.live.get(path) == Some(&Entry::Dir)
    }

    fn name_op(&mut self, op: NameOp) {
        apply(&mut self.live, &op);
        self.pending.push(op);
    }
}

fn is_root(path: &Path) -> bool {
    path.parent().is_none() || path.as_os_str().is_empty()
}

fn apply(tree: &mut Tree, op: &NameOp) {
    match op {
        NameOp::Link(path, entry) => {
            tree.insert(path.clone(), *entry);
        }
        NameOp::Unlink(path) => {
            tree.remove(path);
        }
        NameOp::Rename(from, to) => {
            let moved: Vec<PathBuf> = tree.keys().filter(|p| p.starts_with(from)).cloned().collect();
            for old in moved {
                if let (Some(entry), Ok(tail)) = (tree.remove(&old), old.strip_prefix(from)) {
                    let new = if tail.as_os_str().is_empty() { to.clone() } else { to.join(tail) };
                    tree.insert(new, entry);
                }
            }
        }
    }
}

fn touches(op: &NameOp, dir: &Path) -> bool {
    match op {
        NameOp::Link(path, _) | NameOp::Unlink(path) => path.parent() == Some(dir),
        NameOp::Rename(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
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

impl Fs for SimFs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let mut missing: Vec<PathBuf> = Vec::new();
        for above in path.ancestors().filter(|p| !is_root(p)) {
            match disk.live.get(above) {
                Some(Entry::Dir) => break,
                Some(Entry::File(_)) => return Err(errno(ENOTDIR)),
                None => missing.push(above.to_path_buf()),
            }
        }
        for dir in missing.into_iter().rev() {
            disk.change()?;
            disk.name_op(NameOp::Link(dir, Entry::Dir));
        }
        disk.powered()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk.lock();
        disk.change()?;
        if !path.parent().is_some_and(|p| disk.is_dir(p)) {
            return Err(errno(ENOENT));
        }
        let id = match disk.live.get(path) {
            Some(Entry::Dir) => return Err(errno(EEXIST)),
            Some(Entry::File(id)) => *id,
            None => {
                let id = disk.next_inode;
                disk.next_inode += 1;
                disk.inodes.insert(id, Inode::default());
                disk.name_op(NameOp::Link(path.to_path_buf(), Entry::File(id)));
                id
            }
        };
        let inode = disk.inode(id)?;
        inode.live.clear();
        inode.end = 0;
        Ok(Box::new(SimFile { disk: self.disk.clone(), id, life: disk.life }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk.lock();
        disk.powered()?;
        let id = disk.file_id(path)?;
        let inode = disk.inode(id)?;
        inode.end = inode.live.len();
        Ok(Box::new(SimFile { disk: self.disk.clone(), id, life: disk.life }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut disk = self.disk.lock();
        disk.powered()?;
        let id = disk.file_id(path)?;
        Ok(disk.inode(id)?.live.clone())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change()?;
        if !disk.live.contains_key(from) || !to.parent().is_some_and(|p| disk.is_dir(p)) {
            return Err(errno(ENOENT));
        }
        if disk.live.get(to) == Some(&Entry::Dir) {
            return Err(errno(EEXIST));
        }
        disk.name_op(NameOp::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change()?;
        disk.file_id(path)?;
        disk.name_op(NameOp::Unlink(path.to_path_buf()));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        if !disk.live.contains_key(path) {
            return Err(errno(ENOENT));
        }
        let inside: Vec<PathBuf> = disk.live.keys().filter(|p| p.starts_with(path)).cloned().collect();
        for each in inside.into_iter().rev() {
            disk.change()?;
            disk.name_op(NameOp::Unlink(each));
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk.lock();
        disk.powered()?;
        if !disk.is_dir(path) {
            return Err(errno(ENOENT));
        }
        let inside = disk.live.keys().filter(|p| p.parent() == Some(path));
        Ok(inside.filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn exists(&self, path: &Path) -> bool {
        is_root(path) || self.disk.lock().live.contains_key(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change()?;
        if !disk.is_dir(path) {
            return Err(errno(ENOENT));
        }
        let pending = std::mem::take(&mut disk.pending);
        for op in pending {
            if touches(&op, path) {
                apply(&mut disk.durable, &op);
            } else {
                disk.pending.push(op);
            }
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut disk = self.disk.lock();
        disk.powered()?;
        if !disk.locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.disk.clone(), path: path.to_path_buf(), life: disk.life }))
    }
}

struct SimLock {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
    life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if disk.life == self.life {
            disk.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    id: u64,
    life: u64,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock();
        if disk.life != self.life {
            return Err(errno(EIO));
        }
        disk.powered()?;
        act(&mut disk)
    }
}

impl File for SimFile {
    fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        self.with(|disk| {
            disk.change()?;
            if let Some(error) = disk.append_fault(bytes.len()) {
                let part = disk.random.below(bytes.len() as u64 + 1) as usize;
                let (inode, part) = (disk.inode(self.id)?, bytes.get(..part).unwrap_or_default());
                inode.put(part);
                return Err(error);
            }
            let inode = disk.inode(self.id)?;
            let offset = inode.end;
            inode.put(bytes);
            inode.end += bytes.len();
            Ok(offset as u64)
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|disk| {
            let live = &disk.inode(self.id)?.live;
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(live.len());
            let count = buf.len().min(live.len() - start);
            buf[..count].copy_from_slice(&live[start..start + count]);
            Ok(count)
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|disk| Ok(disk.inode(self.id)?.end as u64))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.with(|disk| {
            disk.change()?;
            let len = usize::try_from(len).map_err(|_| errno(EIO))?;
            let inode = disk.inode(self.id)?;
            inode.live.resize(len, 0);
            inode.end = len;
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk| {
            disk.change()?;
            disk.data_syncs += 1;
            if let Some(left) = disk.syncs_until_fault.as_mut() {
                if *left == 0 {
                    disk.syncs_until_fault = None;
                    disk.inode(self.id)?.clean_after_failed_sync = true;
                    return Err(errno(EIO));
                }
                *left -= 1;
            }
            let inode = disk.inode(self.id)?;
            // After a failed fsync the kernel believes the pages clean: a later fsync says yes and writes nothing.
            if !inode.clean_after_failed_sync {
                inode.durable = inode.live.clone();
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synced_bytes_under_a_synced_name_survive_every_crash() {
        for seed in 0..50 {
            let fs = SimFs::seeded(seed);
            fs.create_dir_all(Path::new("/d")).unwrap();
            fs.sync_dir(Path::new("/")).unwrap();
            let file = fs.create(Path::new("/d/a")).unwrap();
            file.append(&[7; 1000]).unwrap();
            file.sync_data().unwrap();
            fs.sync_dir(Path::new("/d")).unwrap();
            file.append(&[9; 3000]).unwrap();
            fs.crash();
            let bytes = fs.read(Path::new("/d/a")).unwrap();
            assert_eq!(&bytes[..1000], &[7; 1000], "seed {seed}");
            assert!(bytes.len() <= 4000 && bytes[1000..].iter().all(|b| *b == 9 || *b == 0));
            assert!(file.append(b"x").is_err(), "a handle from before the crash is dead");
        }
    }

    #[test]
    fn what_was_not_synced_is_lost_for_some_seed() {
        let (mut name_lost, mut bytes_lost, mut torn_once) = (0, 0, 0);
        for seed in 0..100 {
            let fs = SimFs::seeded(seed);
            fs.create(Path::new("/a")).unwrap().append(&[1; 2000]).unwrap();
            fs.crash();
            match fs.read(Path::new("/a")) {
                Err(_) => name_lost += 1,
                Ok(bytes) if bytes.is_empty() => bytes_lost += 1,
                Ok(bytes) => torn_once += i32::from(bytes != [1; 2000]),
            }
        }
        assert!(name_lost > 0 && bytes_lost > 0 && torn_once > 0);
    }

    #[test]
    fn rename_is_one_step_and_old_content_stays_behind_it() {
        for seed in 0..50 {
            let fs = SimFs::seeded(seed);
            for (name, text) in [("/a", b"old"), ("/b", b"new")] {
                let file = fs.create(Path::new(name)).unwrap();
                file.append(text).unwrap();
                file.sync_data().unwrap();
            }
            fs.sync_dir(Path::new("/")).unwrap();
            fs.rename(Path::new("/b"), Path::new("/a")).unwrap();
            fs.crash();
            let a = fs.read(Path::new("/a")).unwrap();
            assert!(a == b"old" || a == b"new");
            assert_eq!(fs.exists(Path::new("/b")), a == b"old");
        }
    }

    #[test]
    fn faults_come_when_told() {
        let fs = SimFs::seeded(1);
        let file = fs.create(Path::new("/a")).unwrap();
        fs.inject(Fault::Append { after: 1, errno: ENOSPC });
        assert!(file.append(b"x").is_ok());
        assert_eq!(file.append(b"y").unwrap_err().raw_os_error(), Some(ENOSPC));
        assert_eq!(file.append(b"z").unwrap(), 1);
        fs.inject(Fault::Sync { after: 0 });
        assert!(file.sync_data().is_err());
        assert!(file.sync_data().is_ok(), "says yes and writes nothing");
        fs.set_capacity_bytes(Some(3));
        assert!(file.append(b"12").is_err());
        fs.set_capacity_bytes(None);
        fs.inject(Fault::PowerCut { after: 0 });
        assert!(file.append(b"x").is_err() && fs.power_is_gone());
        assert!(fs.list(Path::new("/")).is_err());
        assert!(fs.lock(Path::new("/lock")).is_err());
        fs.crash();
        let held = fs.lock(Path::new("/lock")).unwrap();
        assert_eq!(fs.lock(Path::new("/lock")).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(held);
        assert!(fs.lock(Path::new("/lock")).is_ok());
    }
}
