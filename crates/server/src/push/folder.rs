//! The groups on disk: one checksummed file each, replaced in one step.
//!
//! Invariants: 1. when a write returns, the file's new bytes survive a crash; before, the old ones do; 2. a damaged file is
//! kept aside and named.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::Fs;

use super::group::Group;
use super::key::GroupKey;

const SUFFIX: &str = ".group";
const TEMPORARY: &str = ".tmp";
const DAMAGED: &str = ".damaged";

/// The folder of all groups. Two writers of the same group must take turns.
pub struct Folder {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
}

impl Folder {
    /// Opens the folder, making it if it is not there; gives what lies in it, and what is damaged.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path) -> io::Result<(Folder, Vec<Group>, Vec<String>)> {
        if !fs.exists(dir) {
            fs.create_dir_all(dir)?;
            if let Some(above) = dir.parent() {
                fs.sync_dir(above)?;
            }
        }
        let folder = Folder { fs, dir: dir.to_owned() };
        let (mut groups, mut damaged) = (Vec::new(), Vec::new());
        for name in folder.fs.list(dir)? {
            if name.ends_with(TEMPORARY) {
                folder.fs.remove_file(&dir.join(&name))?;
            } else if name.ends_with(SUFFIX) {
                match folder.read(&name)? {
                    Some(group) => groups.push(group),
                    None => damaged.push(folder.put_aside(&name)?),
                }
            }
        }
        Ok((folder, groups, damaged))
    }

    fn read(&self, name: &str) -> io::Result<Option<Group>> {
        let group = Group::decode(&self.fs.read(&self.dir.join(name))?);
        Ok(group.filter(|group| name.strip_suffix(SUFFIX) == Some(&group.key.file_name())))
    }

    fn put_aside(&self, name: &str) -> io::Result<String> {
        let (from, to) = (self.dir.join(name), self.dir.join(format!("{name}{DAMAGED}")));
        self.fs.rename(&from, &to)?;
        self.fs.sync_dir(&self.dir)?;
        Ok(format!("the pushed group in {} is damaged; it is kept as {}", from.display(), to.display()))
    }

    fn path(&self, key: &GroupKey) -> PathBuf {
        self.dir.join(key.file_name() + SUFFIX)
    }

    /// Writes a group in the place of what was there. It is durable when this returns.
    pub fn write(&self, group: &Group) -> io::Result<()> {
        let path = self.path(&group.key);
        let temporary = path.with_extension(&TEMPORARY[1..]);
        let file = self.fs.create(&temporary)?;
        file.append(&group.encode())?;
        file.sync_data()?;
        drop(file);
        self.fs.rename(&temporary, &path)?;
        self.fs.sync_dir(&self.dir)
    }

    /// Removes a group; one that is not there is no error.
    pub fn remove(&self, key: &GroupKey) -> io::Result<()> {
        match self.fs.remove_file(&self.path(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.fs.sync_dir(&self.dir),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::tests::sample_group;
    use super::*;

    #[test]
    fn groups_come_back_and_damaged_ones_are_kept_aside() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = dir.path().join("push");
        let open = || Folder::open(Arc::new(sys::RealFs), &path).unwrap_or_else(|e| panic!("{e}"));
        let (folder, groups, _) = open();
        assert!(groups.is_empty());
        let group = sample_group();
        for _ in 0..2 {
            folder.write(&group).unwrap_or_else(|e| panic!("{e}"));
        }
        std::fs::write(path.join("torn.tmp"), "x").unwrap_or_else(|e| panic!("{e}"));
        let (_, groups, damaged) = open();
        assert_eq!((groups.len(), damaged.len()), (1, 0));
        assert_eq!(groups[0].encode(), group.encode());

        let file = folder.path(&group.key);
        let mut bytes = std::fs::read(&file).unwrap_or_else(|e| panic!("{e}"));
        bytes[20] ^= 1;
        std::fs::write(&file, bytes).unwrap_or_else(|e| panic!("{e}"));
        let (_, groups, damaged) = open();
        assert!(groups.is_empty() && damaged[0].contains("damaged"), "{damaged:?}");
        assert_eq!(std::fs::read_dir(&path).map(Iterator::count).ok(), Some(1));
        for _ in 0..2 {
            folder.remove(&group.key).unwrap_or_else(|e| panic!("{e}"));
        }
    }
}
