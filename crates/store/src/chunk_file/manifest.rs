//! Which chunk files count, and up to which record they have everything.
//!
//! Owns: `manifest.1` and `manifest.2` in the folder of the chunk files, each replaced in one step, one after the other.
//! Invariants: 1. every sample of a record up to `seq` is in a file of the list or in a block; 2. what a file holds
//! behind its length here does not count.

use std::io;
use std::path::Path;

use model::Counts;
use sys::Fs;

use crate::coding::{Cursor, Malformed, open_sealed, put_signed, put_varint, write_sealed};
use crate::wal::record::{get_counts, put_counts};

const NAMES: [&str; 2] = ["manifest.1", "manifest.2"];
const VERSION: u8 = 1;

/// A chunk file in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileInfo {
    pub number: u32,
    /// As far as it counts.
    pub bytes: u64,
    pub chunks: u64,
    /// All its chunks are the state of this record or of one before.
    pub last_seq: u64,
    pub max_ms: i64,
}

/// The state as of the last checkpoint.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Manifest {
    /// Rises with every write.
    pub revision: u64,
    /// Last record that is wholly in chunk files or blocks.
    pub seq: u64,
    /// The counts of all records up to `seq`, since the directory was made.
    pub totals: Counts,
    /// Ids below this have been given.
    pub next_id: u32,
    /// Oldest first.
    pub files: Vec<FileInfo>,
}

/// What a start finds of it.
#[derive(Debug, Default)]
pub struct Found {
    /// The newer of the copies that check.
    pub manifest: Option<Manifest>,
    /// Not both copies are there and equal.
    pub uneven: bool,
    /// Sentences about damage.
    pub damaged: Vec<String>,
}

impl Manifest {
    /// Reads the newer of the copies that check.
    pub fn load(fs: &dyn Fs, dir: &Path) -> io::Result<Found> {
        let mut found = Found::default();
        let mut copies: Vec<Option<Manifest>> = Vec::new();
        for path in NAMES.map(|name| dir.join(name)) {
            if !fs.exists(&path) {
                copies.push(None);
                continue;
            }
            let decoded = open_sealed(&fs.read(&path)?).map(Manifest::decode);
            if !matches!(decoded, Some(Ok(_))) {
                found.damaged.push(format!("{}: the checksum disagrees; the other copy is used", path.display()));
            }
            copies.push(decoded.and_then(Result::ok));
        }
        found.uneven = copies.windows(2).any(|c| c[0] != c[1]);
        found.manifest = copies.into_iter().flatten().max_by_key(|m| m.revision);
        Ok(found)
    }

    /// Makes the state durable.
    pub fn store(&mut self, fs: &dyn Fs, dir: &Path) -> io::Result<()> {
        self.revision += 1;
        let body = self.encode();
        NAMES.iter().try_for_each(|name| write_sealed(fs, &dir.join(name), &body))
    }

    /// Makes what lies in the folder durable as it is read now: a killed process may not have come to it.
    pub fn sync(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
        for path in NAMES.map(|name| dir.join(name)).iter().filter(|path| fs.exists(path)) {
            fs.open(path)?.sync_data()?;
        }
        fs.sync_dir(dir)
    }

    /// Takes files as they are now: those that are in the list already have grown.
    pub fn take(&mut self, files: &[FileInfo]) {
        for file in files {
            match self.files.iter_mut().find(|f| f.number == file.number) {
                Some(known) => *known = *file,
                None => self.files.push(*file),
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for n in [self.revision, self.seq, u64::from(self.next_id), self.files.len() as u64] {
            put_varint(&mut out, n);
        }
        for file in &self.files {
            for n in [u64::from(file.number), file.bytes, file.chunks, file.last_seq] {
                put_varint(&mut out, n);
            }
            put_signed(&mut out, file.max_ms);
        }
        put_counts(&mut out, &self.totals);
        out
    }

    fn decode(body: &[u8]) -> Result<Manifest, Malformed> {
        let mut cursor = Cursor::new(body);
        if cursor.u8()? != VERSION {
            return Err(Malformed);
        }
        let (revision, seq) = (cursor.varint()?, cursor.varint()?);
        let next_id = u32::try_from(cursor.varint()?).map_err(|_| Malformed)?;
        let mut manifest = Manifest { revision, seq, next_id, ..Manifest::default() };
        for _ in 0..cursor.count()? {
            manifest.files.push(FileInfo {
                number: u32::try_from(cursor.varint()?).map_err(|_| Malformed)?,
                bytes: cursor.varint()?,
                chunks: cursor.varint()?,
                last_seq: cursor.varint()?,
                max_ms: cursor.signed()?,
            });
        }
        manifest.totals = get_counts(&mut cursor)?;
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::SimFs;

    #[test]
    fn one_broken_copy_is_survived() {
        let fs = SimFs::seeded(1);
        let dir = Path::new("/d");
        fs.create_dir_all(dir).unwrap();
        let mut manifest = Manifest { seq: 9, next_id: 4, ..Manifest::default() };
        manifest.totals.received = 5;
        let file = FileInfo { number: 3, bytes: 1000, chunks: 7, last_seq: 8, max_ms: -4 };
        manifest.take(&[file, FileInfo { number: 4, ..file }, FileInfo { bytes: 2000, ..file }]);
        manifest.store(&fs, dir).unwrap();
        assert_eq!(manifest.files.iter().map(|f| (f.number, f.bytes)).collect::<Vec<_>>(), [(3, 2000), (4, 1000)]);
        for name in NAMES {
            let bytes = fs.read(&dir.join(name)).unwrap();
            for at in 0..bytes.len() {
                fs.damage(&dir.join(name), |b| b[at] ^= 0x10).unwrap();
                let found = Manifest::load(&fs, dir).unwrap();
                assert_eq!((found.manifest, found.uneven, found.damaged.len()), (Some(manifest.clone()), true, 1));
                fs.damage(&dir.join(name), |b| b[at] ^= 0x10).unwrap();
            }
        }
        assert!(!Manifest::load(&fs, dir).unwrap().uneven);
    }
}
