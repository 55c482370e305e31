//! The walk over a chunk file's pages: reads their indexes, not the chunks.

use std::io;

use super::file::ChunkFile;
use super::page::Index;
use crate::wal::frame::{FRAME_BYTES, FRAME_MAGIC, Frame, SEGMENT_HEADER_BYTES};

/// How much is read at once while looking for the next sound index.
const SEARCH_BYTES: usize = 1 << 20;

/// Bytes of a chunk file that are no index where one should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    pub from: u64,
    pub to: u64,
}

/// Gives every page whose index has a sound copy to `act`, with its seq, and what lies broken between them.
pub fn scan(file: &ChunkFile, bytes: u64, act: &mut dyn FnMut(u64, &Index)) -> io::Result<Vec<Broken>> {
    let mut broken = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES as u64;
    // Where the chunks of the last page begin: its second index is known already.
    let mut known = 0;
    while at < bytes {
        let Some((seq, index, len)) = index_at(file, at, bytes)? else {
            let next = next_index(file, at + 1, bytes)?;
            broken.push(Broken { from: at, to: next });
            at = next;
            continue;
        };
        if index.data_offset != known {
            act(seq, &index);
            known = index.data_offset;
        }
        let behind = at + len;
        at = if index.data_offset == behind { behind.saturating_add(index.data_len()) } else { behind };
    }
    Ok(broken)
}

/// Reads the index at a place; `None` when none checks there. The last number is the bytes it takes.
fn index_at(file: &ChunkFile, at: u64, bytes: u64) -> io::Result<Option<(u64, Index, u64)>> {
    let mut head = [0; FRAME_BYTES];
    if file.file().read_at(&mut head, at)? < FRAME_BYTES {
        return Ok(None);
    }
    let Some(frame) = Frame::decode(&head, file.nonce()) else { return Ok(None) };
    if at + FRAME_BYTES as u64 + u64::from(frame.len) > bytes {
        return Ok(None);
    }
    let mut payload = vec![0; frame.len as usize];
    let read = file.file().read_at(&mut payload, at + FRAME_BYTES as u64)?;
    if read < payload.len() || !frame.fits(&payload) {
        return Ok(None);
    }
    Ok(Index::decode(&payload).ok().map(|index| (frame.seq, index, FRAME_BYTES as u64 + u64::from(frame.len))))
}

/// Finds the next index that checks, or the end.
fn next_index(file: &ChunkFile, from: u64, bytes: u64) -> io::Result<u64> {
    let mut buffer = vec![0; SEARCH_BYTES];
    let mut at = from;
    while at < bytes {
        let read = file.file().read_at(&mut buffer, at)?;
        let part = &buffer[..read];
        let mut seen = 0;
        while let Some(offset) = part[seen..].windows(FRAME_MAGIC.len()).position(|w| w == FRAME_MAGIC) {
            seen += offset;
            let place = at + seen as u64;
            if place < bytes && index_at(file, place, bytes)?.is_some() {
                return Ok(place);
            }
            seen += 1;
        }
        if read < buffer.len() {
            break;
        }
        // The magic may lie across the edge.
        at += (read + 1 - FRAME_MAGIC.len()) as u64;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use super::super::page::{Entry, Kind};
    use super::super::{FileInfo, LookUps, Stored, Writer, file_name};
    use super::*;
    use sys::SimFs;

    fn entry(id: u32) -> Entry {
        Entry { id, kind: Kind::Doubles, frozen: id == 2, count: 3, min_ms: 5, max_ms: 9, len: 0 }
    }

    fn chunk(id: u32) -> Vec<u8> {
        (0..20 + id).map(|n| (n * 7 + id) as u8).collect()
    }

    /// Three pages of three chunks.
    fn written(fs: &SimFs) -> FileInfo {
        let mut writer =
            Writer::new(Arc::new(fs.clone()), Path::new("/"), 1, Arc::new(AtomicU32::new(4)), Arc::default());
        for page in 0..3 {
            writer.begin(10 + u64::from(page), 7);
            for n in 0..3 {
                let id = page * 3 + n;
                writer.add(entry(id), &chunk(id), Some((id, Kind::Doubles, n))).unwrap();
            }
            writer.finish_page().unwrap();
        }
        let synced = writer.sync().unwrap();
        assert_eq!(synced.placed.len(), 9);
        for (tag, stored) in &synced.placed {
            assert_eq!(*stored.read().unwrap(), chunk(tag.0), "they are found where they were put");
        }
        synced.files[0]
    }

    /// What can be read: ids, and what was damaged.
    fn read(fs: &SimFs, info: FileInfo) -> (Vec<u32>, usize) {
        let look_ups = Arc::new(LookUps::default());
        let Some(file) = ChunkFile::open(fs, Path::new("/"), info.number, look_ups.clone()).unwrap() else {
            return (Vec::new(), 1);
        };
        let (file, mut ids) = (Arc::new(file), Vec::new());
        let broken = scan(&file, info.bytes, &mut |seq, index| {
            assert_eq!(index.frozen_seq, 7);
            let mut at = index.data_offset as u32;
            for e in &index.entries {
                assert_eq!((Entry { len: 0, ..e.clone() }, seq), (entry(e.id), 10 + u64::from(e.id) / 3));
                let stored = Stored { file: file.clone(), offset: at, len: e.len };
                if let Ok(bytes) = stored.read() {
                    assert_eq!(*bytes, chunk(e.id));
                    ids.push(e.id);
                }
                at += e.len + 8;
            }
        });
        (ids, broken.unwrap().len() + look_ups.damaged() as usize)
    }

    #[test]
    fn any_flipped_bit_costs_at_most_one_chunk_and_is_noticed() {
        let fs = SimFs::seeded(1);
        let info = written(&fs);
        assert_eq!(read(&fs, info), ((0..9).collect(), 0));
        let path = Path::new("/").join(file_name(info.number));
        for at in 0..info.bytes as usize {
            let copy = fs.fork(at as u64);
            copy.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8)).unwrap();
            let (ids, damaged) = read(&copy, info);
            assert!(ids.len() >= 8, "byte {at}: only {ids:?}");
            assert!(damaged == 1 || at < SEGMENT_HEADER_BYTES, "byte {at} was not noticed");
        }
    }

    #[test]
    fn any_cut_costs_what_is_cut_off() {
        let fs = SimFs::seeded(1);
        let info = written(&fs);
        let path = Path::new("/").join(file_name(info.number));
        for len in (SEGMENT_HEADER_BYTES..info.bytes as usize).step_by(3) {
            let copy = fs.fork(1);
            copy.damage(&path, |bytes| bytes.truncate(len)).unwrap();
            let (ids, damaged) = read(&copy, info);
            assert!(damaged > 0 && ids == (0..ids.len() as u32).collect::<Vec<_>>(), "{len}: {ids:?}");
        }
    }
}
