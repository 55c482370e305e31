//! The disk as the store sees it: few operations, each of which a simulated disk can follow exactly.

use std::io;
use std::path::Path;

/// An exclusive lock; given back when dropped.
pub type Lock = Box<dyn Send + Sync>;

/// A file system.
///
/// A name (creation, rename, removal) is durable once `sync_dir` of its directory has returned; bytes of a file once
/// its `sync_data` has returned.
pub trait Fs: Send + Sync {
    /// Creates a directory and what is missing above it.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates a file, or empties it when it is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Opens a file that is there for reading and appending.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Renames a file or directory, replacing a file of that name in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file that does not change any more a second name, or makes a durable copy of it where that is not
    /// possible. The name is durable after `sync_dir`.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let bytes = self.read(from)?;
        let file = self.create(to)?;
        file.append(&bytes)?;
        file.sync_data()
    }

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Gives the names in a directory, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Tells whether there is a file or directory.
    fn exists(&self, path: &Path) -> bool;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes an exclusive lock on a file, creating it if needed.
    ///
    /// **Errors** with `WouldBlock` when somebody holds it.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
}

/// An open file that grows at its end.
pub trait File: Send + Sync {
    /// Appends all bytes; gives the offset at which they start. After an error the file may hold a part of them:
    /// `len` does not count it, and the next append overwrites it.
    fn append(&self, bytes: &[u8]) -> io::Result<u64>;

    /// Reads at an offset; fewer bytes than asked for only at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Gives the length.
    fn len(&self) -> io::Result<u64>;

    /// Tells whether nothing is in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file off.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes the bytes and the length durable.
    fn sync_data(&self) -> io::Result<()>;
}
