//! The write-ahead log: segments of checksummed records. `docs/format/wal.md` draws the bytes.

pub mod frame;
pub mod record;
pub mod scan;
pub mod segment;
