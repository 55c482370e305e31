//! Chunk files: sealed chunks on disk before their window becomes a block, so that the log can be cut early.
//!
//! `file.rs` reads one chunk, `page.rs` is the bytes of a page, `writer.rs` appends pages, `scan.rs` walks over a file at
//! a start, `manifest.rs` says which files count. `docs/format/chunk_file.md` draws the bytes.

mod file;
mod manifest;
mod page;
mod scan;
mod writer;

pub use file::{ChunkFile, LookUps, SUM_BYTES, Stored};
pub use manifest::{FileInfo, Found, Manifest};
pub use page::{Entry, Index, Kind};
pub use scan::scan;
pub use writer::{Synced, Tag, Writer};

/// Gives the file name of a number.
pub fn file_name(number: u32) -> String {
    format!("{number:08}.chunks")
}

/// Reads the number from a file name.
pub fn parse_file_name(name: &str) -> Option<u32> {
    name.strip_suffix(".chunks")?.parse().ok()
}
