//! A disk in memory that forgets what was not synced, and fails when told to.
//!
//! Owns: for every file a live and a durable image; for the names a live tree, a durable tree, and the list of
//! operations in between.
//! Invariants: 1. after `crash` nothing that was synced is missing, but for what was misdirected; 2. what was not synced
//! is there, half there or gone, sector by sector and name by name, in any order, as the seed decides; 3. handles from
//! before a crash only fail; 4. the same seed and the same calls give the same disk.
//! Not here: hard links, permissions, open files that lost their name but are still read by that name.

mod disk;
mod faults;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::fs::{File, Fs, Lock};
use disk::{Disk, Entry, Inode, NameOp, apply, entries, errno, touches};
use faults::EIO;
pub use faults::{Fault, Weather};

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimFs {
    medium: Arc<Medium>,
}

struct Medium {
    disk: Mutex<Disk>,
    /// Syncs need not wait any more.
    released: Condvar,
}

impl SimFs {
    /// Makes an empty disk.
    pub fn seeded(seed: u64) -> SimFs {
        SimFs { medium: Arc::new(Medium { disk: Mutex::new(Disk::seeded(seed)), released: Condvar::new() }) }
    }

    /// Cuts the power and starts again: what was not synced is gone, in part or as a whole; all handles are dead,
    /// all locks free, all faults off, the weather fine.
    pub fn crash(&self) {
        self.disk().crash();
        self.medium.released.notify_all();
    }

    /// Ends the process without a power cut (kill -9): all bytes stay, handles are dead, locks free.
    pub fn kill(&self) {
        self.disk().end_life();
        self.medium.released.notify_all();
    }

    /// Arms a fault.
    pub fn inject(&self, fault: Fault) {
        self.disk().faults.arm(fault);
    }

    /// Sets how often operations fail at random, until the next crash or kill.
    pub fn set_weather(&self, weather: Weather) {
        self.disk().faults.weather = weather;
    }

    /// Lets every `sync_data` wait until it is told otherwise, as a disk does that is slow beyond measure.
    pub fn hold_syncs(&self, held: bool) {
        self.disk().held = held;
        self.medium.released.notify_all();
    }

    /// Flips one bit of one file, on the medium and in every cache; gives which.
    pub fn rot(&self) -> Option<(PathBuf, u64)> {
        let mut disk = self.disk();
        let files: Vec<(PathBuf, u64)> = disk.files().into_iter().filter(|(_, id)| disk.bytes_of(*id) > 0).collect();
        let (path, id) = files.get(disk.random.below(files.len() as u64) as usize)?.clone();
        let bits = disk.bytes_of(id) * 8;
        let bit = disk.random.below(bits);
        let inode = disk.inodes.get_mut(&id)?;
        let at = (bit / 8) as usize;
        inode.live[at] ^= 1 << (bit % 8);
        if let Some(byte) = inode.durable.get_mut(at) {
            *byte = inode.live[at];
        }
        Some((path, bit))
    }

    /// Gives the paths of all files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        self.disk().files().into_iter().map(|file| file.0).collect()
    }

    /// Sets how many bytes fit; `None` means any number.
    pub fn set_capacity_bytes(&self, capacity: Option<u64>) {
        self.disk().capacity_bytes = capacity;
    }

    /// Counts the bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.disk().used_bytes()
    }

    /// Counts the changes so far: creations, appends, syncs, renames, removals.
    pub fn changes(&self) -> u64 {
        self.disk().changes
    }

    /// Counts the `sync_data` calls so far.
    pub fn data_syncs(&self) -> u64 {
        self.disk().data_syncs
    }

    /// Tells whether the armed power cut has happened.
    pub fn power_is_gone(&self) -> bool {
        self.disk().power_is_gone
    }

    /// Changes a file behind everybody's back, as a dying disk would; live and durable alike.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut disk = self.disk();
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
            let from = self.disk();
            let mut to = copy.disk();
            to.live = from.live.clone();
            to.durable = from.live.clone();
            to.next_inode = from.next_inode;
            for (id, inode) in &from.inodes {
                let bytes = inode.live.clone();
                let end = bytes.len();
                let inode = Inode { live: bytes.clone(), durable: bytes, end, ..Inode::default() };
                to.inodes.insert(*id, inode);
            }
        }
        copy
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.medium.disk.lock()
    }
}

impl Fs for SimFs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let mut above: Vec<&Path> = path.ancestors().filter(|p| p.file_name().is_some()).collect();
        above.reverse();
        for dir in above {
            match disk.find(dir) {
                Some(Entry::Dir(_)) => {}
                Some(Entry::File(_)) => return Err(errno(ENOTDIR)),
                None => {
                    disk.change()?;
                    let (place, id) = (disk.place(dir)?, disk.new_id());
                    disk.name_op(NameOp::Link(place, Entry::Dir(id)));
                }
            }
        }
        disk.powered()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk();
        disk.change()?;
        if let Some(code) = disk.faults.create() {
            return Err(errno(code));
        }
        let place = disk.place(path)?;
        let id = match disk.find(path) {
            Some(Entry::Dir(_)) => return Err(errno(EEXIST)),
            Some(Entry::File(id)) => id,
            None => {
                let id = disk.new_id();
                disk.inodes.insert(id, Inode::default());
                disk.name_op(NameOp::Link(place, Entry::File(id)));
                id
            }
        };
        let inode = disk.inode(id)?;
        inode.resize(0);
        Ok(Box::new(SimFile { medium: self.medium.clone(), id, life: disk.life }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk();
        disk.powered()?;
        let id = disk.file_id(path)?;
        let inode = disk.inode(id)?;
        inode.end = inode.live.len();
        Ok(Box::new(SimFile { medium: self.medium.clone(), id, life: disk.life }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut disk = self.disk();
        disk.read_fault()?;
        let id = disk.file_id(path)?;
        Ok(disk.inode(id)?.live.clone())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change()?;
        if disk.find(from).is_none() {
            return Err(errno(ENOENT));
        }
        if let Some(Entry::Dir(_)) = disk.find(to) {
            return Err(errno(EEXIST));
        }
        let op = NameOp::Rename(disk.place(from)?, disk.place(to)?);
        disk.name_op(op);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change()?;
        disk.file_id(path)?;
        let place = disk.place(path)?;
        disk.name_op(NameOp::Unlink(place));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let mut names = vec![disk.place(path)?];
        let mut dirs = vec![disk.dir_id(path)?];
        while let Some(dir) = dirs.pop() {
            for (name, entry) in entries(&disk.live, dir) {
                names.push(name.clone());
                if let Entry::Dir(id) = entry {
                    dirs.push(*id);
                }
            }
        }
        for name in names.into_iter().rev() {
            disk.change()?;
            disk.name_op(NameOp::Unlink(name));
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        disk.powered()?;
        let dir = disk.dir_id(path)?;
        Ok(entries(&disk.live, dir).map(|((_, name), _)| name.clone()).collect())
    }

    fn exists(&self, path: &Path) -> bool {
        self.disk().find(path).is_some()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change()?;
        let dir = disk.dir_id(path)?;
        let Disk { faults, random, .. } = &mut *disk;
        if faults.sync_dir(random) {
            return Err(errno(EIO));
        }
        let pending = std::mem::take(&mut disk.pending);
        for op in pending {
            if touches(&op, dir) {
                apply(&mut disk.durable, &op);
            } else {
                disk.pending.push(op);
            }
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut disk = self.disk();
        disk.powered()?;
        if !disk.locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { medium: self.medium.clone(), path: path.to_path_buf(), life: disk.life }))
    }
}

struct SimLock {
    medium: Arc<Medium>,
    path: PathBuf,
    life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.medium.disk.lock();
        if disk.life == self.life {
            disk.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    medium: Arc<Medium>,
    id: u64,
    life: u64,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.medium.disk.lock();
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
            disk.misdirect(self.id, offset, offset + bytes.len());
            Ok(offset as u64)
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|disk| {
            disk.read_fault()?;
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
            disk.inode(self.id)?.resize(len);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        {
            let mut disk = self.medium.disk.lock();
            while disk.held && disk.life == self.life {
                self.medium.released.wait(&mut disk);
            }
        }
        self.with(|disk| {
            disk.change()?;
            disk.data_syncs += 1;
            let Disk { faults, random, .. } = disk;
            let fails = faults.sync(random);
            let inode = disk.inode(self.id)?;
            if let Some(code) = fails {
                // A later sync says yes and does not write these bytes.
                inode.forget();
                return Err(errno(code));
            }
            inode.sync();
            Ok(())
        })
    }
}
