//! A checksum for every 8 KiB of a file: made while it is written, checked before anything of it is decoded.
//!
//! Invariants: 1. no byte leaves [`VerifiedFile`] whose stretch does not have its checksum; 2. a stretch has its
//! number as seed, so that stretches that changed places are found too.

use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use columns::ReadAt;
use serde::{Deserialize, Serialize};
use sys::{File, Fs};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What one checksum covers: small enough that a damaged byte costs little; `docs/decisions/0005` has what it costs.
pub const STRETCH_BYTES: usize = 8 << 10;
/// What one covered in the first format.
const FIRST_STRETCH_BYTES: u32 = 64 << 10;
/// Longer stretches are not ours.
const STRETCH_BYTES_MAX: u32 = 1 << 20;
/// What is handed to the file system at a time.
const WRITE_BYTES: usize = 64 << 10;

/// Length and checksums of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileSums {
    /// Length of the file.
    pub bytes: u64,
    /// Bytes of a stretch.
    #[serde(default = "first_stretch")]
    pub stretch: u32,
    /// XXH3-64 of each stretch, seeded with its number.
    #[serde(with = "hex")]
    pub xxh3: Vec<u64>,
}

fn first_stretch() -> u32 {
    FIRST_STRETCH_BYTES
}

impl Default for FileSums {
    fn default() -> FileSums {
        FileSums { bytes: 0, stretch: STRETCH_BYTES as u32, xxh3: Vec::new() }
    }
}

impl FileSums {
    /// Tells whether there is a checksum for every byte, and no more.
    pub fn is_sound(&self) -> bool {
        let sane = (1..=STRETCH_BYTES_MAX).contains(&self.stretch);
        sane && self.bytes.div_ceil(u64::from(self.stretch)) == self.xxh3.len() as u64
    }
}

impl FileSums {
    /// Tells whether these are the bytes that were summed.
    pub fn fit(&self, bytes: &[u8]) -> bool {
        let mut stretches = bytes.chunks((self.stretch as usize).max(1)).enumerate();
        bytes.len() as u64 == self.bytes
            && stretches.all(|(number, part)| self.xxh3.get(number) == Some(&sum(part, number)))
    }
}

fn sum(stretch: &[u8], number: usize) -> u64 {
    xxh3_64_with_seed(stretch, number as u64)
}

/// A new file that is summed on its way to the disk.
pub struct SummedFile {
    file: Box<dyn File>,
    /// What is not written yet: whole stretches, and one under construction.
    buffer: Vec<u8>,
    sums: FileSums,
}

impl SummedFile {
    /// Creates the file.
    pub fn create(fs: &dyn Fs, path: &Path) -> io::Result<SummedFile> {
        let buffer = Vec::with_capacity(WRITE_BYTES);
        Ok(SummedFile { file: fs.create(path)?, buffer, sums: FileSums::default() })
    }

    fn put_stretches(&mut self) -> io::Result<()> {
        self.file.append(&self.buffer)?;
        for stretch in self.buffer.chunks(STRETCH_BYTES) {
            self.sums.xxh3.push(sum(stretch, self.sums.xxh3.len()));
        }
        self.sums.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left and makes the bytes durable.
    pub fn finish(mut self) -> io::Result<FileSums> {
        if !self.buffer.is_empty() {
            self.put_stretches()?;
        }
        self.file.sync_data()?;
        Ok(self.sums)
    }
}

impl Write for SummedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(WRITE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.buffer.len() == WRITE_BYTES {
            self.put_stretches()?;
        }
        Ok(taken)
    }

    /// Does nothing: only whole stretches are written before the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file of which only verified bytes are given out.
pub struct VerifiedFile {
    file: Box<dyn File>,
    /// For sentences about damage.
    name: String,
    sums: FileSums,
}

impl VerifiedFile {
    /// Opens a file that has to be what `sums` say.
    pub fn open(fs: &dyn Fs, path: &Path, sums: &FileSums) -> Result<VerifiedFile, String> {
        let name = path.display().to_string();
        let file = fs.open(path).map_err(|error| format!("cannot open {name}: {error}"))?;
        Ok(VerifiedFile { file, name, sums: sums.clone() })
    }

    /// Never 0, for it divides.
    fn stretch(&self) -> u64 {
        u64::from(self.sums.stretch).max(1)
    }

    /// Reads and checks whole stretches.
    fn stretches(&self, first: usize, from: u64, len: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; len];
        let read = self.file.read_at(&mut bytes, from).map_err(|e| format!("cannot read {}: {e}", self.name))?;
        if read != len {
            return Err(format!("{} is damaged: it ends at byte {}", self.name, from + read as u64));
        }
        let size = self.stretch() as usize;
        for (number, stretch) in (first..).zip(bytes.chunks(size)) {
            if self.sums.xxh3.get(number) != Some(&sum(stretch, number)) {
                let at = number * size;
                let to = at + stretch.len();
                return Err(format!("{} is damaged: the checksum of bytes {at} to {to} disagrees", self.name));
            }
        }
        Ok(bytes)
    }
}

impl ReadAt for VerifiedFile {
    fn len(&self) -> u64 {
        self.sums.bytes
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, String> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.sums.bytes);
        let end = end.ok_or_else(|| format!("{}: {len} bytes at {offset} pass the end", self.name))?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let stretch = self.stretch();
        let first = offset / stretch;
        let from = first * stretch;
        let to = end.next_multiple_of(stretch).min(self.sums.bytes);
        let bytes = Bytes::from(self.stretches(first as usize, from, (to - from) as usize)?);
        let start = (offset - from) as usize;
        Ok(bytes.slice(start..start + len))
    }
}

/// Checksums as one run of hexadecimal digits, sixteen for each.
mod hex {
    use std::fmt::Write;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(sums: &[u64], to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(sums.len() * 16);
        for sum in sums {
            // Writing to a string cannot fail.
            let _ = write!(text, "{sum:016x}");
        }
        to.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.as_bytes();
        if digits.len() % 16 != 0 {
            return Err(D::Error::custom("checksums have sixteen digits each"));
        }
        let number = |run: &[u8]| std::str::from_utf8(run).ok().and_then(|t| u64::from_str_radix(t, 16).ok());
        let sums = digits.chunks(16).map(|run| number(run).ok_or_else(|| D::Error::custom("not hexadecimal")));
        sums.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::{Random, SimFs};

    #[test]
    fn what_was_written_is_read_and_every_flipped_byte_is_found() {
        let (fs, path) = (SimFs::seeded(1), Path::new("/f"));
        let mut random = Random::seeded(1);
        let content: Vec<u8> = (0..STRETCH_BYTES * 2 + 1000).map(|_| random.next_u64() as u8).collect();
        let mut file = SummedFile::create(&fs, path).unwrap();
        file.write_all(&content).unwrap();
        let sums = file.finish().unwrap();
        assert!(sums.is_sound() && sums.bytes == content.len() as u64);
        let first_format: FileSums =
            serde_json::from_str(r#"{"bytes":65537,"xxh3":"00000000000000010000000000000002"}"#).unwrap();
        assert!(first_format.is_sound() && !FileSums { stretch: 0, ..first_format }.is_sound());
        let text = serde_json::to_string(&sums).unwrap();
        assert_eq!(serde_json::from_str::<FileSums>(&text).unwrap(), sums);
        let open = || VerifiedFile::open(&fs, path, &sums).unwrap();
        for (offset, len) in [(0, 0), (0, content.len()), (5, 10), (STRETCH_BYTES - 1, 2), (content.len() - 1, 1)] {
            assert_eq!(open().read_at(offset as u64, len).unwrap(), content[offset..offset + len]);
        }
        assert!(open().read_at(1, content.len()).is_err());
        for at in [0, STRETCH_BYTES - 1, STRETCH_BYTES, content.len() - 1] {
            fs.damage(path, |bytes| bytes[at] ^= 1).unwrap();
            let mine = at / STRETCH_BYTES;
            for stretch in 0..3 {
                let answer = open().read_at((stretch * STRETCH_BYTES) as u64, 1);
                assert_eq!(answer.is_err(), stretch == mine, "{answer:?}");
            }
            fs.damage(path, |bytes| bytes[at] ^= 1).unwrap();
        }
        fs.damage(path, |bytes| bytes.truncate(STRETCH_BYTES)).unwrap();
        assert!(open().read_at(STRETCH_BYTES as u64, 1).unwrap_err().contains("ends at"));
    }
}
