//! Reads all files of a block again, compares them with the checksums of the manifest, and makes a damaged one whole
//! from its second copy where it has one.
//!
//! Invariants: 1. a file is replaced only by one that has every checksum of the manifest; 2. what is replaced is kept
//! under `damaged/` first; 3. a block that goes away meanwhile is no damage.
//! Second copies: each manifest has its twin; the ends of `samples.parquet` and `histograms.parquet` are in `postings`;
//! `postings` and `series.parquet` follow from each other.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use columns::{HistogramsFile, ReadAt, SamplesFile, SeriesWriter, read_series};
use sys::Fs;

use super::BlockInfo;
use super::block::Block;
use super::checksums::{FileSums, SummedFile, VerifiedFile};
use super::manifest::{HISTOGRAMS, Manifest, POSTINGS, SAMPLES, SERIES};
use super::offline::open;
use super::postings::PostingsWriter;
use super::writer::ZSTD_LEVEL;

/// What is read at a time.
const STEP_BYTES: u64 = 64 << 10;
/// A file larger than this is told of and left as it is: a repair holds it in memory.
const REPAIR_BYTES_MAX: u64 = 1 << 30;
/// How a file is called while it is made whole.
const UNFINISHED: &str = "repair.tmp";

/// What one look at a block came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Stretches without their checksum, copies of the manifest among them.
    pub stretches_damaged: u64,
    /// Files that are whole again.
    pub repaired: u64,
    /// Whole sentences: which file, where, what was done.
    pub findings: Vec<String>,
    /// It ended early: the pace said so, or the block went away.
    pub unfinished: bool,
}

/// Verifies one block.
///
/// **Takes** where to keep what is replaced, and a pace that is told of every read and says whether to go on.
pub fn scrub_block(fs: &Arc<dyn Fs>, path: &Path, aside: &Path, pace: &mut dyn FnMut(u64) -> bool) -> Verified {
    let mut work = Work { fs, path, aside, pace, done: Verified::default() };
    work.run();
    if !fs.exists(path) {
        // Removed by retention or a merge while we read.
        return Verified { unfinished: true, files: work.done.files, bytes: work.done.bytes, ..Verified::default() };
    }
    work.done
}

struct Work<'a> {
    fs: &'a Arc<dyn Fs>,
    path: &'a Path,
    aside: &'a Path,
    pace: &'a mut dyn FnMut(u64) -> bool,
    done: Verified,
}

impl Work<'_> {
    fn run(&mut self) {
        let (manifest, sentences) = Manifest::load(&**self.fs, self.path);
        self.done.files += 2;
        let Some(manifest) = manifest else {
            self.done.stretches_damaged += sentences.len() as u64;
            return self.done.findings.extend(sentences);
        };
        if !sentences.is_empty() {
            self.manifest(&sentences);
        }
        let mut damaged = Vec::new();
        for (name, sums) in &manifest.files {
            match self.file(name, sums) {
                Ok(0) => {}
                Ok(_) => damaged.push(name.clone()),
                Err(()) => {
                    self.done.unfinished = true;
                    return;
                }
            }
        }
        damaged.iter().for_each(|name| self.repair(&manifest, name));
    }

    /// Reads a file; gives how many stretches are damaged, an error when it is time to stop.
    fn file(&mut self, name: &str, sums: &FileSums) -> Result<u64, ()> {
        self.done.files += 1;
        let file = match VerifiedFile::open(&**self.fs, &self.path.join(name), sums) {
            Ok(file) => file,
            Err(why) => return Ok(self.damage(why)),
        };
        let (mut at, mut damaged) = (0, 0);
        while at < file.len() {
            let len = (file.len() - at).min(STEP_BYTES);
            if file.read_at(at, len as usize).is_err() {
                damaged += self.stretches(&file, at, len, u64::from(sums.stretch.max(1)));
            }
            self.done.bytes += len;
            if !(self.pace)(len) {
                return Err(());
            }
            at += len;
        }
        Ok(damaged)
    }

    /// Looks at each stretch of a part in which something is wrong.
    fn stretches(&mut self, file: &VerifiedFile, from: u64, len: u64, stretch: u64) -> u64 {
        let mut damaged = 0;
        for at in (from..from + len).step_by(stretch as usize) {
            let part = (from + len - at).min(stretch);
            if let Err(why) = file.read_at(at, part as usize) {
                damaged += self.damage(why);
            }
        }
        damaged
    }

    fn damage(&mut self, why: String) -> u64 {
        self.done.stretches_damaged += 1;
        self.done.findings.push(why);
        1
    }

    /// One copy of the manifest is sound: it takes the other's place.
    fn manifest(&mut self, sentences: &[String]) {
        for sentence in sentences {
            self.damage(sentence.clone());
        }
        let Some((good, bad)) = Manifest::sound_and_damaged(&**self.fs, self.path) else { return };
        let made = self.fs.read(&self.path.join(good)).and_then(|bytes| self.replace(bad, &bytes));
        self.told(bad, made.map_err(|e| e.to_string()));
    }

    fn repair(&mut self, manifest: &Manifest, name: &str) {
        let Some(sums) = manifest.files.get(name) else { return };
        if sums.bytes > REPAIR_BYTES_MAX {
            return;
        }
        let block = open(self.fs, &BlockInfo { path: self.path.to_path_buf(), manifest: manifest.clone() });
        let image = match name {
            SAMPLES => self.with_end(SAMPLES, block.lookup().and_then(|l| l.tail())),
            HISTOGRAMS => self.with_end(HISTOGRAMS, block.lookup().and_then(|l| l.histograms_tail())),
            POSTINGS => self.postings(manifest),
            SERIES => self.series(&block),
            _ => return,
        };
        let made = image.and_then(|image| {
            if !sums.fit(&image) {
                return Err("no second copy of that part".to_owned());
            }
            self.replace(name, &image).map_err(|e| e.to_string())
        });
        self.told(name, made);
    }

    fn told(&mut self, name: &str, made: Result<(), String>) {
        let file = self.path.join(name).display().to_string();
        self.done.repaired += u64::from(made.is_ok());
        self.done.findings.push(match made {
            Ok(()) => format!("{file}: whole again from its second copy; the damaged one is kept under damaged/"),
            Err(why) => format!("{file}: cannot be made whole: {why}"),
        });
    }

    /// The file as it is, with its end from the copy.
    fn with_end(&self, name: &str, tail: Result<(u64, Vec<u8>), String>) -> Result<Vec<u8>, String> {
        let (start, tail) = tail?;
        let mut bytes = self.fs.read(&self.path.join(name)).map_err(|e| e.to_string())?;
        bytes.truncate(usize::try_from(start).map_err(|e| e.to_string())?);
        bytes.extend_from_slice(&tail);
        Ok(bytes)
    }

    /// The postings follow from the series table and the ends of the other files.
    fn postings(&self, manifest: &Manifest) -> Result<Vec<u8>, String> {
        let open = |name: &str| {
            let sums = manifest.files.get(name).ok_or_else(|| format!("there is no {name}"))?;
            VerifiedFile::open(&**self.fs, &self.path.join(name), sums)
        };
        let end = |file: &VerifiedFile, start: u64| {
            let len = usize::try_from(file.len().saturating_sub(start)).map_err(|e| e.to_string())?;
            Ok::<_, String>((start, file.read_at(start, len)?.to_vec()))
        };
        let series = open(SERIES)?;
        let mut writer = PostingsWriter::new(Vec::new()).map_err(|e| e.to_string())?;
        let mut failed = Ok(());
        let whole = usize::try_from(series.len()).map_err(|e| e.to_string())?;
        read_series(series.read_at(0, whole)?, |row| {
            if failed.is_ok() {
                failed = writer.add(&row);
            }
        })
        .map_err(|e| e.to_string())?;
        failed.map_err(|e| e.to_string())?;
        let samples = open(SAMPLES)?;
        let (start, tail) =
            end(&samples, SamplesFile::open(&samples as &dyn ReadAt).map_err(|e| e.to_string())?.pages_end())?;
        let second = match manifest.files.contains_key(HISTOGRAMS) {
            false => None,
            true => {
                let file = open(HISTOGRAMS)?;
                let start = HistogramsFile::open(&file as &dyn ReadAt).map_err(|e| e.to_string())?.pages_end();
                Some(end(&file, start)?)
            }
        };
        let second = second.as_ref().map(|(start, tail)| (*start, &tail[..]));
        writer.finish((start, &tail), second).map_err(|e| e.to_string())
    }

    /// The series table follows from the postings.
    fn series(&self, block: &Block) -> Result<Vec<u8>, String> {
        let lookup = block.lookup()?;
        let mut writer = SeriesWriter::new(Vec::new(), ZSTD_LEVEL).map_err(|e| e.to_string())?;
        let ids: Vec<u32> = (0..lookup.series()).collect();
        let mut failed = Ok(());
        lookup.visit(&ids, |_, row| {
            if failed.is_ok() {
                failed = writer.add(row.clone());
            }
        })?;
        failed.map_err(|e| e.to_string())?;
        writer.finish().map_err(|e| e.to_string())
    }

    /// Keeps the damaged file aside and puts another one in its place, in one step.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let block = self.path.file_name().unwrap_or_default().to_string_lossy();
        let path = self.path.join(name);
        if !self.fs.exists(self.aside) {
            self.fs.create_dir_all(self.aside)?;
        }
        if self.fs.exists(&path) {
            let damaged = self.fs.read(&path)?;
            let mut copy = SummedFile::create(&**self.fs, &self.aside.join(format!("{block}-{name}")))?;
            copy.write_all(&damaged)?;
            copy.finish()?;
            self.fs.sync_dir(self.aside)?;
        }
        let temporary = self.path.join(UNFINISHED);
        let mut file = SummedFile::create(&**self.fs, &temporary)?;
        file.write_all(bytes)?;
        file.finish()?;
        self.fs.rename(&temporary, &path)?;
        self.fs.sync_dir(self.path)
    }
}
