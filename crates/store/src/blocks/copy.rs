//! Copies blocks into other folders: snapshots, restores, exports.
//!
//! Invariant: the files of a block never change, so that a hard link is a copy.

use std::io;
use std::path::Path;

use sys::Fs;

use super::folder::{BlockFolder, Writing};
use super::manifest::{COPIES, Manifest};
use super::view::write_view;
use super::{BlockInfo, deletions};

/// Copies one block below `dir`; its name is durable when `dir` is synced.
pub fn copy_block(fs: &dyn Fs, from: &Path, manifest: &Manifest, dir: &Path) -> io::Result<()> {
    let name = from.file_name().ok_or_else(|| io::Error::other("a block without a name"))?;
    let to = dir.join(name);
    fs.create_dir_all(&to)?;
    for file in manifest.files.keys().map(String::as_str).chain(COPIES) {
        // One copy of the manifest may be lost.
        if fs.exists(&from.join(file)) {
            fs.link(&from.join(file), &to.join(file))?;
        }
    }
    fs.sync_dir(&to)
}

/// Copies blocks into a new folder `dir` of blocks, with the views beside it; `done` hears of every block.
pub fn copy_blocks(fs: &dyn Fs, blocks: &[BlockInfo], dir: &Path, done: &mut dyn FnMut(u64)) -> io::Result<()> {
    fs.create_dir_all(dir)?;
    for block in blocks {
        copy_block(fs, &block.path, &block.manifest, dir)?;
        done(block.manifest.bytes());
    }
    fs.sync_dir(dir)?;
    let named = blocks.iter().filter_map(|b| Some((dir.join(b.path.file_name()?), &b.manifest)));
    let named: Vec<_> = named.collect();
    write_view(fs, dir, named.iter().map(|(path, manifest)| (&**path, *manifest)))
}

impl BlockFolder {
    /// Copies all that is in use; deletions that have not reached the disk yet come along.
    pub(super) fn copy_blocks(&self, _: &Writing, dir: &Path) -> io::Result<()> {
        let fs = &*self.shared.fs;
        let info =
            |b: &std::sync::Arc<super::block::Block>| BlockInfo { path: b.path.clone(), manifest: b.manifest.clone() };
        let blocks: Vec<BlockInfo> = self.list().iter().map(info).collect();
        fs.create_dir_all(dir)?;
        let deletions = &self.shared.masks().deletions;
        if !deletions.is_empty() {
            deletions::store(fs, dir, 1, deletions)?;
        }
        copy_blocks(fs, &blocks, dir, &mut |_| {})
    }
}
