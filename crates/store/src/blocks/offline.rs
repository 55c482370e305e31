//! Blocks of a directory that no server uses: list, verify, export, import, restore.
//!
//! Invariants: 1. what only looks changes nothing, and may be done beside a running server; 2. an import leaves out what
//! is there already, so that importing twice changes nothing.
//! Fails how: sentences that name file and bytes; nothing is half done: a block is there or not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use columns::ReadAt;
use hashbrown::HashSet;
use model::{Samples, TimeRange};
use parking_lot::RwLock;
use sys::{Fs, RealClock};

use super::block::{Block, Shared};
use super::cache::Cache;
use super::checksums::VerifiedFile;
use super::copy::copy_blocks;
use super::cursor::{Cursor, LeftOut};
use super::folder::{BlockFolder, BlockSettings};
use super::manifest::Manifest;
use super::masks::Masks;
use super::merge::verify;
use super::reader::read_series;
use super::writer::{BlockWriter, count, parse_folder_name};
use super::{BlockInfo, BlockInput, deletions};
use crate::attrs::SeriesAttrs;

/// What may be kept open and decoded.
const CACHE_BYTES: usize = 64 << 20;
const STEP_BYTES: u64 = 1 << 20;

/// What came of an import.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    /// Samples that are there now and were not before.
    pub samples: u64,
    /// Left out: they were there.
    pub repeated: u64,
    /// Left out: another value is there for their time.
    pub superseded: u64,
}

/// Gives the blocks of a data directory in order of their windows, and sentences about those that cannot be read.
pub fn list_blocks(fs: &dyn Fs, data_dir: &Path) -> Result<(Vec<BlockInfo>, Vec<String>), String> {
    let dir = data_dir.join("blocks");
    let names = fs.list(&dir).map_err(|e| format!("cannot list {}: {e}", dir.display()))?;
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for name in names.iter().filter(|name| parse_folder_name(name).is_some()) {
        let path = dir.join(name);
        let (manifest, told) = Manifest::load(fs, &path);
        damaged.extend(told);
        found.extend(manifest.map(|manifest| BlockInfo { path, manifest }));
    }
    let gone: HashSet<u64> = found.iter().flat_map(|b| b.manifest.replaces.iter().copied()).collect();
    found.retain(|b| !gone.contains(&b.manifest.id));
    found.sort_by_key(|b| (b.manifest.window_start_ms, b.manifest.id));
    Ok((found, damaged))
}

/// Opens a block beside its folder.
pub fn open(fs: &Arc<dyn Fs>, info: &BlockInfo) -> Arc<Block> {
    let shared = Shared {
        fs: fs.clone(),
        cache: Arc::new(Cache::new(CACHE_BYTES)),
        clock: Arc::new(RealClock::default()),
        damaged: Arc::new(AtomicU64::new(0)),
        masks: Arc::new(RwLock::new(Arc::new(Masks::default()))),
    };
    Arc::new(Block::new(Arc::new(shared), info.path.clone(), info.manifest.clone()))
}

/// Reads all of a block: every byte has to have its checksum, every sample counts for the manifest's digest.
///
/// **Takes** `done`, which hears of the bytes that were read.
/// **Gives** the number of samples.
pub fn verify_block(fs: &Arc<dyn Fs>, info: &BlockInfo, done: &mut dyn FnMut(u64)) -> Result<u64, String> {
    for (name, sums) in &info.manifest.files {
        let file = VerifiedFile::open(&**fs, &info.path.join(name), sums)?;
        let mut at = 0;
        while at < file.len() {
            let len = (file.len() - at).min(STEP_BYTES);
            file.read_at(at, len as usize)?;
            at += len;
            done(len);
        }
    }
    verify(&open(fs, info))
}

/// Copies blocks into a new directory on which a server, DuckDB and Polars can be started.
pub fn export_blocks(fs: &dyn Fs, blocks: &[BlockInfo], to: &Path, done: &mut dyn FnMut(u64)) -> Result<(), String> {
    let dir = to.join("blocks");
    if fs.exists(&dir) {
        return Err(format!("{} is there already", dir.display()));
    }
    let copied =
        fs.create_dir_all(to).and_then(|()| copy_blocks(fs, blocks, &dir, done)).and_then(|()| fs.sync_dir(to));
    copied.map_err(|e| format!("cannot write {}: {e}", dir.display()))
}

/// Puts a snapshot back as a data directory.
///
/// **Errors** when `data_dir` holds data already.
pub fn restore(fs: &dyn Fs, snapshot: &Path, data_dir: &Path, done: &mut dyn FnMut(u64)) -> Result<u64, String> {
    let (blocks, damaged) = list_blocks(fs, snapshot)?;
    if let Some(why) = damaged.first() {
        return Err(format!("the snapshot is damaged: {why}"));
    }
    if ["blocks", "wal", "lock"].iter().any(|name| fs.exists(&data_dir.join(name))) {
        return Err(format!("{} holds data already; name a new directory", data_dir.display()));
    }
    // Unfinished it has no folder `blocks`.
    let temporary = data_dir.join("restoring");
    let dir = temporary.join("blocks");
    let write = || {
        if fs.exists(&temporary) {
            fs.remove_dir_all(&temporary)?;
        }
        fs.create_dir_all(&dir)?;
        let (_, list, _) = deletions::load(fs, &snapshot.join("blocks"))?;
        if !list.is_empty() {
            deletions::store(fs, &dir, 1, &list)?;
        }
        copy_blocks(fs, &blocks, &dir, done)?;
        let metadata = snapshot.join("metadata");
        if fs.exists(&metadata) {
            fs.link(&metadata, &data_dir.join("metadata"))?;
        }
        fs.rename(&temporary.join("metrics_ts.sql"), &data_dir.join("metrics_ts.sql"))?;
        fs.rename(&dir, &data_dir.join("blocks"))?;
        fs.remove_dir_all(&temporary)?;
        fs.sync_dir(data_dir)
    };
    let mut write = write;
    write().map_err(|e| format!("cannot write {}: {e}", data_dir.display()))?;
    Ok(blocks.iter().map(|b| b.manifest.samples).sum())
}

/// Brings a block of another directory into a data directory that no server uses.
///
/// **Takes** `done`, which hears of every series.
pub fn import_block(
    fs: &Arc<dyn Fs>,
    info: &BlockInfo,
    data_dir: &Path,
    done: &mut dyn FnMut(u64),
) -> Result<Imported, String> {
    fs.create_dir_all(data_dir).map_err(|e| format!("cannot create {}: {e}", data_dir.display()))?;
    let lock = data_dir.join("lock");
    let _lock = fs.lock(&lock).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => format!("{} is in use by a server: stop it first", data_dir.display()),
        _ => format!("cannot lock {}: {e}", lock.display()),
    })?;
    let settings = BlockSettings::new(CACHE_BYTES);
    let (folder, _) = BlockFolder::open_with(fs.clone(), &data_dir.join("blocks"), settings)?;
    folder.import(&open(fs, info), done)
}

impl BlockFolder {
    fn import(&self, source: &Arc<Block>, done: &mut dyn FnMut(u64)) -> Result<Imported, String> {
        let mut writing = self.writing.lock();
        let id = writing.next_id;
        writing.next_id += 1;
        let mut rivals = self.rivals(source.manifest.span());
        let mut cursor = Cursor::new(source.clone())?;
        let mut writer = BlockWriter::new(self.shared.clone(), &self.dir, id, source.manifest.window());
        let (mut imported, mut left_out) = (Imported::default(), LeftOut::default());
        while let Some(row) = cursor.row()? {
            let mut samples = Samples::default();
            read_series(source, row, TimeRange::ALL, &mut samples)?;
            let (metric_type, source, target_id) = (row.metric_type, row.source.clone(), row.target_id.clone());
            let attrs = Arc::new(SeriesAttrs { metric_type, source, target_id });
            let mut input = BlockInput { labels: row.labels.clone(), attrs, samples };
            cursor.step();
            left_out.merge(self.leave_out_known(&mut input, &mut rivals));
            imported.samples += count(&input.samples);
            writer.add(&input)?;
            done(1);
        }
        if !writer.is_empty() {
            writer.finish()?;
            let block = writer.publish()?;
            let mut blocks = self.list().to_vec();
            blocks.push(Arc::new(block));
            self.replace_list(blocks);
        }
        (imported.repeated, imported.superseded) = (left_out.repeated, left_out.superseded);
        Ok(imported)
    }
}
