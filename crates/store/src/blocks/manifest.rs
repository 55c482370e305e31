//! The manifest: what a block is, and the checksums of its files.
//!
//! Owns: `manifest.1` and `manifest.2`, equal but for damage.
//! A copy is one line of JSON and, as a second line, its checksum; `docs/format/block.md` lists the members.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use model::TimeRange;
use serde::{Deserialize, Serialize};
use sys::Fs;
use xxhash_rust::xxh3::xxh3_64;

use super::checksums::FileSums;

/// The copies of the manifest.
pub const COPIES: [&str; 2] = ["manifest.1", "manifest.2"];
/// Version 2 has the length of a stretch and may have histograms; version 1 is read as well.
const VERSION: u32 = 2;
/// Roll-ups: who does not know them must not take them for samples.
const ROLLUP_VERSION: u32 = 3;
const FIRST_VERSION: u32 = 1;

/// Samples, rows of one series after the other.
pub const SAMPLES: &str = "samples.parquet";
/// One row per series.
pub const SERIES: &str = "series.parquet";
/// Native histograms, rows of one series after the other; only in blocks that have some.
pub const HISTOGRAMS: &str = "histograms.parquet";
/// What samples come to in each stretch of time; only in roll-ups.
pub const ROLLUPS: &str = "rollups.parquet";
/// Label values to series, and a copy of what is needed to find samples.
pub const POSTINGS: &str = "postings";

/// What a block is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the layout.
    pub version: u32,
    /// Number of the block; rises with every block of a directory.
    pub id: u64,
    /// First millisecond of its window.
    pub window_start_ms: i64,
    /// Last millisecond of its window.
    pub window_end_ms: i64,
    /// First sample time.
    pub min_ms: i64,
    /// Last sample time.
    pub max_ms: i64,
    /// Series in it.
    pub series: u64,
    /// Samples in it, native histograms among them.
    pub samples: u64,
    /// Native histograms in it.
    #[serde(default)]
    pub histograms: u64,
    /// Sum of a hash of every sample: equal contents have equal digests in whatever order and in however many blocks.
    pub digest: u64,
    /// Blocks whose samples are all in this one; they go.
    pub replaces: Vec<u64>,
    /// How it balances with the blocks it was merged from; `None` when it came from the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// The length of the stretches that samples were rolled up to; `None` for samples as they came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution_ms: Option<i64>,
    /// Of a roll-up: the blocks it was made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rolled_from: Vec<u64>,
    /// Of a merged block: the resolutions to which all its sources were rolled up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rolled: Vec<i64>,
    /// Its files.
    pub files: BTreeMap<String, FileSums>,
}

/// What went into a merged block and what became of it.
///
/// **Promises** `samples_in` = the manifest's `samples` + [`Balance::left_out`], and `digest_in` = the manifest's `digest`
/// + `digest_left_out` modulo 2^64: checked with what was read back from the disk, before the block is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Balance {
    /// Samples of all sources.
    pub samples_in: u64,
    /// Sum of their digests.
    pub digest_in: u64,
    /// The digest of what was left out.
    pub digest_left_out: u64,
    /// Left out: the same sample stood in an earlier source.
    pub repeated: u64,
    /// Left out: an earlier source had another value for the time.
    pub superseded: u64,
    /// Left out: past its retention.
    pub expired: u64,
    /// Left out: deleted by request.
    pub deleted: u64,
}

impl Balance {
    /// Counts what was left out, for whatever reason.
    pub fn left_out(&self) -> u64 {
        self.repeated + self.superseded + self.expired + self.deleted
    }
}

impl Manifest {
    /// Gives the window.
    pub fn window(&self) -> TimeRange {
        TimeRange { start_ms: self.window_start_ms, end_ms: self.window_end_ms }
    }

    /// Gives the range of sample times.
    pub fn span(&self) -> TimeRange {
        TimeRange { start_ms: self.min_ms, end_ms: self.max_ms }
    }

    /// Gives the bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|f| f.bytes).sum()
    }

    /// Writes both copies and makes their bytes durable.
    pub fn store(&mut self, fs: &dyn Fs, dir: &Path) -> io::Result<()> {
        self.version = if self.resolution_ms.is_some() { ROLLUP_VERSION } else { VERSION };
        let bytes = encode(self)?;
        for name in COPIES {
            let file = fs.create(&dir.join(name))?;
            file.append(&bytes)?;
            file.sync_data()?;
        }
        Ok(())
    }

    /// Tells whether the disk gives the copies that are there, sound or not.
    pub fn readable(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
        for path in COPIES.map(|name| dir.join(name)) {
            if fs.exists(&path) {
                fs.read(&path)?;
            }
        }
        Ok(())
    }

    /// Gives the names of a copy that checks and of one that does not; `None` when there are not both.
    pub fn sound_and_damaged(fs: &dyn Fs, dir: &Path) -> Option<(&'static str, &'static str)> {
        let sound = |name: &&str| fs.read(&dir.join(name)).is_ok_and(|bytes| decode(&bytes).is_ok());
        let good = COPIES.into_iter().find(|name| sound(name))?;
        let bad = COPIES.into_iter().find(|name| !sound(name))?;
        Some((good, bad))
    }

    /// Reads the first copy that checks; the sentences tell of the copies before it and why.
    pub fn load(fs: &dyn Fs, dir: &Path) -> (Option<Manifest>, Vec<String>) {
        let (mut found, mut damaged) = (None, Vec::new());
        for name in COPIES {
            let path = dir.join(name);
            let read = fs.read(&path).map_err(|error| error.to_string());
            match read.and_then(|bytes| decode(&bytes)) {
                Ok(manifest) => {
                    found.get_or_insert(manifest);
                }
                Err(why) => damaged.push(format!("{}: {why}", path.display())),
            }
        }
        (found, damaged)
    }
}

fn encode(manifest: &Manifest) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(manifest).map_err(io::Error::other)?;
    let sum = xxh3_64(&bytes);
    bytes.extend_from_slice(format!("\n\"xxh3:{sum:016x}\"\n").as_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Manifest, String> {
    let end = bytes.iter().position(|b| *b == b'\n').ok_or("it has no checksum")?;
    let (body, sum) = bytes.split_at(end);
    if sum != format!("\n\"xxh3:{:016x}\"\n", xxh3_64(body)).as_bytes() {
        return Err("the checksum disagrees".to_owned());
    }
    let manifest: Manifest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if !(FIRST_VERSION..=ROLLUP_VERSION).contains(&manifest.version) {
        return Err(format!("version {} is not known here", manifest.version));
    }
    let listed = |name: &&str| manifest.files.contains_key(*name);
    let complete = [SAMPLES, SERIES, POSTINGS].iter().all(listed)
        && (manifest.histograms == 0 || listed(&HISTOGRAMS))
        && (manifest.resolution_ms.is_none() || listed(&ROLLUPS));
    if !complete || !manifest.files.values().all(FileSums::is_sound) {
        return Err("it does not list the files of a block".to_owned());
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::SimFs;

    #[test]
    fn one_broken_copy_is_survived_and_told() {
        let (fs, dir) = (SimFs::seeded(1), Path::new("/"));
        let mut manifest =
            Manifest { id: 7, min_ms: -5, digest: u64::MAX, replaces: vec![1, 2], ..Manifest::default() };
        for name in [SAMPLES, SERIES, POSTINGS] {
            manifest
                .files
                .insert(name.to_owned(), FileSums { bytes: 3, xxh3: vec![u64::MAX - 1], ..FileSums::default() });
        }
        manifest.store(&fs, dir).unwrap();
        assert_eq!(Manifest::load(&fs, dir), (Some(manifest.clone()), vec![]));
        for name in COPIES {
            for at in 0..fs.read(&dir.join(name)).unwrap().len() {
                fs.damage(&dir.join(name), |bytes| bytes[at] ^= 4).unwrap();
                let (back, damaged) = Manifest::load(&fs, dir);
                assert_eq!((back, damaged.len()), (Some(manifest.clone()), 1));
                fs.damage(&dir.join(name), |bytes| bytes[at] ^= 4).unwrap();
            }
        }
        COPIES.iter().for_each(|name| fs.damage(&dir.join(name), |bytes| bytes.truncate(9)).unwrap());
        assert_eq!(Manifest::load(&fs, dir).0, None);
    }
}
