//! Checksummed files, and what all our own byte layouts are made of.

use std::io;
use std::path::Path;

pub use model::coding::{Cursor, Malformed, put_bytes, put_signed, put_varint};
use sys::{File, Fs};
use xxhash_rust::xxh3::xxh3_64;

/// Writes a small file in one step: checksum in front, temporary name, fsync, rename, fsync of the directory.
pub fn write_sealed(fs: &dyn Fs, path: &Path, body: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(body.len() + 8);
    bytes.extend_from_slice(&xxh3_64(body).to_le_bytes());
    bytes.extend_from_slice(body);
    replace_file(fs, path, &path.with_extension("tmp"), &bytes).map(drop)
}

/// Puts a file with these bytes in the place of another, in one step; gives it open for appending.
///
/// **Errors** leave the old file as it was, and nothing under the temporary name.
pub fn replace_file(fs: &dyn Fs, path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<Box<dyn File>> {
    let write = || {
        let file = fs.create(temporary)?;
        file.append(bytes)?;
        file.sync_data()?;
        fs.rename(temporary, path)?;
        Ok(file)
    };
    let file = write().inspect_err(|_: &io::Error| {
        // What did not fit must not keep room; should this fail too, the next try overwrites it.
        let _ = fs.remove_file(temporary);
    })?;
    path.parent().map_or(Ok(()), |dir| fs.sync_dir(dir))?;
    Ok(file)
}

/// Checks and opens what [`write_sealed`] wrote; `None` when the checksum disagrees.
pub fn open_sealed(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, body) = bytes.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == xxh3_64(body)).then_some(body)
}
