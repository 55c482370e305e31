//! The machine's own file system.

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::Mutex;

use crate::fs::{File, Fs, Lock};

/// The machine's file system, through std.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl Fs for RealFs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(RealFile { file, end: Mutex::new(0) }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let end = Mutex::new(file.metadata()?.len());
        Ok(Box::new(RealFile { file, end }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        match fs::hard_link(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // Another file system, or one that has no links.
                fs::copy(from, to)?;
                fs::File::open(to)?.sync_all()
            }
            done => done,
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

struct RealFile {
    file: fs::File,
    /// Where the next append goes. Bytes behind it are the rest of a failed append.
    end: Mutex<u64>,
}

impl File for RealFile {
    fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let mut end = self.end.lock();
        let offset = *end;
        self.file.write_all_at(bytes, offset)?;
        *end = offset + bytes.len() as u64;
        Ok(offset)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(*self.end.lock())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut end = self.end.lock();
        self.file.set_len(len)?;
        *end = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_behave_as_promised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/a");
        RealFs.create_dir_all(path.parent().unwrap()).unwrap();
        let file = RealFs.create(&path).unwrap();
        assert_eq!(file.append(b"hello").unwrap(), 0);
        assert_eq!(file.append(b" world").unwrap(), 5);
        let mut buf = [0; 20];
        assert_eq!(file.read_at(&mut buf, 6).unwrap(), 5);
        assert_eq!(&buf[..5], b"world");
        file.truncate(5).unwrap();
        file.sync_data().unwrap();
        RealFs.sync_dir(dir.path()).unwrap();
        assert_eq!(RealFs.open(&path).unwrap().len().unwrap(), 5);
        assert_eq!(RealFs.read(&path).unwrap(), b"hello");
        RealFs.link(&path, &dir.path().join("b")).unwrap();
        assert_eq!(RealFs.read(&dir.path().join("b")).unwrap(), b"hello");
        assert_eq!(RealFs.list(dir.path()).unwrap(), ["b", "sub"]);
        let lock = dir.path().join("lock");
        let held = RealFs.lock(&lock).unwrap();
        assert_eq!(RealFs.lock(&lock).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(held);
        assert!(RealFs.lock(&lock).is_ok());
    }
}
