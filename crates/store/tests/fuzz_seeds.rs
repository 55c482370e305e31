//! The seeds of the fuzz targets of the store: they reach what they are for, and none of them breaks anything.

use std::fs;
use std::path::{Path, PathBuf};

use store::testing::{read_file, replay};

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let read = |path: PathBuf| (path.clone(), fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    files.filter_map(|file| Some(read(file.ok()?.path()))).collect()
}

/// The records of a seed, each behind its length.
fn records(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let (record, behind) = behind.split_at(usize::from(u16::from_le_bytes(*length)).min(behind.len()));
        records.push(record);
        rest = behind;
    }
    records
}

#[test]
fn a_store_starts_on_every_seed() {
    let mut all = None;
    for (path, seed) in seeds("wal_replay") {
        let (taken, read) = replay(&records(&seed));
        if path.ends_with("all") {
            all = Some((taken, read));
        }
    }
    // The records of a real log: all of them, and the numbers in them (a native histogram stands apart).
    assert!(matches!(all, Some((3, 2..))), "{all:?}");
}

#[test]
fn files_are_read_or_refused() {
    let seeds = seeds("store_files");
    assert!(seeds.len() >= 4, "{}", seeds.len());
    for (_, seed) in seeds {
        if let Some((kind, bytes)) = seed.split_first() {
            read_file(*kind, bytes);
        }
    }
}
