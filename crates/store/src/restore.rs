//! The chunk files of an earlier life: their chunks come into the head as places, unread.
//!
//! Invariants: 1. only files that the manifest names count, and only as far as it says; without a sound manifest all
//! that are there count; 2. what is not found is told; 3. chunks that are in blocks already stay out.

use std::path::Path;
use std::sync::Arc;

use sys::Fs;

use crate::chunk_file::{
    ChunkFile, FileInfo, Found, Index, LookUps, Manifest, SUM_BYTES, Stored, file_name, parse_file_name, scan,
};
use crate::config::OpenError;
use crate::head::{Head, Sealed};
use crate::ledger::Ledger;
use crate::recover::io;

/// What the folder of chunk files says before any of them is read.
pub struct ChunkFolder {
    pub manifest: Manifest,
    /// Not both copies of the manifest are there and equal.
    pub uneven: bool,
    /// Free for the next file.
    pub next_number: u32,
    /// Sentences about damage.
    pub damaged: Vec<String>,
}

/// Reads the manifest and removes what no manifest names.
pub fn open_folder(fs: &dyn Fs, dir: &Path) -> Result<ChunkFolder, OpenError> {
    let found = Manifest::load(fs, dir).map_err(io("read the manifest in", dir))?;
    let names = fs.list(dir).map_err(io("list", dir))?;
    let numbers: Vec<u32> = names.iter().filter_map(|n| parse_file_name(n)).collect();
    let next_number = numbers.iter().max().map_or(1, |n| n.saturating_add(1));
    let Found { manifest, uneven, mut damaged } = found;
    let manifest = match manifest {
        Some(manifest) => manifest,
        None if damaged.is_empty() => Manifest::default(),
        None => {
            damaged.push(format!("{}: no manifest is sound; all chunk files that are there are used", dir.display()));
            without_manifest(fs, dir, &numbers)
        }
    };
    let unnamed: Vec<u32> = numbers.into_iter().filter(|n| manifest.files.iter().all(|f| f.number != *n)).collect();
    // After a power cut an older manifest may be there again that names them: the one that was read is made durable first.
    if !unnamed.is_empty() && Manifest::sync(fs, dir).is_ok() {
        for number in unnamed {
            // A checkpoint was broken off before or after its manifest; should this fail it is tried again next time.
            let _ = fs.remove_file(&dir.join(file_name(number)));
        }
    }
    Ok(ChunkFolder { manifest, uneven, next_number, damaged })
}

/// What is known of the files then, until they are read. The log has the records that they may not have; which those
/// are nobody knows any more.
fn without_manifest(fs: &dyn Fs, dir: &Path, numbers: &[u32]) -> Manifest {
    let info = |number: &u32| {
        let bytes = fs.open(&dir.join(file_name(*number))).and_then(|file| file.len()).ok()?;
        Some(FileInfo { number: *number, bytes, chunks: 0, last_seq: u64::MAX, max_ms: i64::MAX })
    };
    Manifest { files: numbers.iter().filter_map(info).collect(), ..Manifest::default() }
}

/// Brings the chunks into the head, whose series are known; gives sentences about damage.
pub fn restore(
    fs: &dyn Fs,
    dir: &Path,
    files: &mut [FileInfo],
    ledger: &Ledger,
    head: &Head,
    look_ups: &Arc<LookUps>,
) -> Result<Vec<String>, OpenError> {
    let mut damaged = Vec::new();
    for info in files {
        let path = dir.join(file_name(info.number));
        if !fs.exists(&path) {
            damaged.push(format!("chunk file {}: it is not there; {} chunks are lost", path.display(), info.chunks));
            continue;
        }
        let opened = ChunkFile::open(fs, dir, info.number, look_ups.clone()).map_err(io("open", &path))?;
        let Some(file) = opened.map(Arc::new) else {
            let lost = info.chunks;
            damaged.push(format!("chunk file {}: both headers are broken; {lost} chunks are lost", path.display()));
            continue;
        };
        let (mut found, mut orphans) = (FileInfo { chunks: 0, last_seq: 0, max_ms: i64::MIN, ..*info }, 0);
        let broken = scan(&file, info.bytes, &mut |seq, index| {
            found.chunks += index.entries.len() as u64;
            found.last_seq = found.last_seq.max(seq);
            found.max_ms = index.entries.iter().map(|e| e.max_ms).fold(found.max_ms, i64::max);
            orphans += head.restore(chunks(&file, seq, index, ledger));
        });
        for part in broken.map_err(io("read", &path))? {
            let (from, to) = (part.from, part.to);
            damaged.push(format!("chunk file {}: bytes {from} to {to} do not check", path.display()));
        }
        if found.chunks < info.chunks {
            let lost = info.chunks - found.chunks;
            damaged.push(format!("chunk file {}: {lost} of {} chunks are lost", path.display(), info.chunks));
        }
        if info.last_seq == u64::MAX {
            *info = found;
        }
        if orphans > 0 {
            damaged.push(format!(
                "chunk file {}: {orphans} chunks belong to series whose definition is lost",
                path.display()
            ));
        }
    }
    Ok(damaged)
}

/// Gives the chunks of a page that no block has.
fn chunks<'a>(
    file: &'a Arc<ChunkFile>,
    seq: u64,
    index: &'a Index,
    ledger: &'a Ledger,
) -> impl Iterator<Item = (u32, crate::chunk_file::Kind, Sealed)> + 'a {
    let mut at = index.data_offset;
    index.entries.iter().filter_map(move |entry| {
        let offset = u32::try_from(at).ok()?;
        at += u64::from(entry.len) + SUM_BYTES as u64;
        let seq = if entry.frozen { index.frozen_seq } else { seq };
        let stored = Stored { file: file.clone(), offset, len: entry.len };
        let wanted = !ledger.covers(seq, entry.max_ms);
        wanted.then(|| (entry.id, entry.kind, Sealed::in_file(stored, entry.min_ms, entry.max_ms, entry.count)))
    })
}
