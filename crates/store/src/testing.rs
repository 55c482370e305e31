//! Doors for the fuzz targets, into what reads bytes from the disk. Nobody else has business here.

use std::path::PathBuf;
use std::sync::Arc;

use model::{Samples, Select, TimeRange};
use sys::{Fs, SimClock, SimFs};

use crate::blocks::HeadOnly;
use crate::blocks::id_list::{read_first_list, read_list};
use crate::blocks::postings;
use crate::chunk::ChunkIter;
use crate::chunk_file::Index;
use crate::metadata::Metadata;
use crate::wal::frame::Frame;
use crate::wal::segment::SegmentWriter;
use crate::{Store, StoreConfig};

/// The clock of [`replay`]; milliseconds since 1970.
pub const NOW_MS: i64 = 1_795_617_000_000;

/// Puts records into a log, each in a frame that checks, and starts a store on it.
///
/// **Gives** how many records were taken, and how many samples are read back; each series must come in order of time.
pub fn replay(payloads: &[&[u8]]) -> (u64, usize) {
    let fs = SimFs::seeded(1);
    let shared: Arc<dyn Fs> = Arc::new(fs);
    let dir = PathBuf::from("/data");
    let wal = dir.join("wal");
    let made = shared.create_dir_all(&wal).and_then(|()| shared.sync_dir(&dir));
    assert!(made.is_ok(), "{made:?}");
    let mut writer = SegmentWriter::new(shared.clone(), &wal, 1, 64 << 20, 1);
    let Ok((_, nonce)) = writer.prepare() else { panic!("a simulated disk takes a segment") };
    let mut framed = Vec::new();
    for (seq, payload) in (1u64..).zip(payloads) {
        if let Some(frame) = Frame::of(payload, seq) {
            framed.extend_from_slice(&frame.encode(nonce));
            framed.extend_from_slice(payload);
        }
    }
    assert!(writer.append(&framed).is_ok() && writer.sync().is_ok());
    let config = StoreConfig { dir, maintain_every_ms: 0, scrub_bytes_per_second: 0, ..StoreConfig::default() };
    let opened =
        Store::open_with(shared, Arc::new(SimClock::at(NOW_MS)), config, |_, _| Ok((Box::new(HeadOnly), Vec::new())));
    let (store, recovery) = opened.unwrap_or_else(|e| panic!("{e}"));
    let range = TimeRange { start_ms: i64::MIN, end_ms: i64::MAX };
    let mut read = 0;
    for series in store.select(&[], range).unwrap_or_else(|e| panic!("{e}")) {
        let mut samples = Samples::default();
        if series.read(range, &mut samples).is_ok() {
            assert!(samples.ts_ms.is_sorted(), "{:?}", samples.ts_ms);
            read += samples.ts_ms.len();
        }
    }
    store.close();
    (recovery.records, read)
}

/// Reads what stands in files beside the log and in blocks, each as if its checksum held.
pub fn read_file(kind: u8, bytes: &[u8]) {
    match kind % 9 {
        0 => drop(Index::decode(bytes)),
        1 => drop(postings::read_directory(bytes)),
        2 => drop(postings::read_rows(bytes, false)),
        3 => drop(postings::read_rows(bytes, true)),
        4 => drop(postings::Table::read(bytes)),
        5 | 6 => {
            let Some((count, list)) = bytes.split_first_chunk::<2>() else { return };
            let count = usize::from(u16::from_le_bytes(*count));
            let read = if kind % 9 == 5 { read_list(list, count) } else { read_first_list(list, count) };
            assert!(read.is_err() || read.is_ok_and(|ids| ids.len() == count && ids.is_sorted()));
        }
        7 => drop(Metadata::decode(bytes)),
        _ => {
            let Some((count, chunk)) = bytes.split_first_chunk::<2>() else { return };
            let count = u16::from_le_bytes(*count);
            assert!(ChunkIter::new(chunk, count).count() <= usize::from(count));
        }
    }
}
