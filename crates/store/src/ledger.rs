//! What survives every restart and every cut of the log: totals, epoch, and how much is in blocks.
//!
//! Owns: `ledger.1` and `ledger.2`, each replaced in one step, one after the other.
//! Invariants: 1. every record up to `seq` is counted in `totals`, none behind it; 2. every sample before
//! `before_ms` of a record up to `seq` is in a durable block.

use std::io;
use std::path::Path;

use model::Counts;
use sys::Fs;

use crate::coding::{Cursor, Malformed, open_sealed, put_signed, put_varint, write_sealed};
use crate::wal::record::{get_counts, put_counts};

const NAMES: [&str; 2] = ["ledger.1", "ledger.2"];
const VERSION: u8 = 1;

/// The state as of the last checkpoint.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ledger {
    /// Rises with every write of the file.
    pub revision: u64,
    /// Rises with every start.
    pub epoch: u64,
    /// Last record that is counted here.
    pub seq: u64,
    /// Samples before this time, of records up to `seq`, are in blocks.
    pub before_ms: i64,
    /// Ids below this have been given.
    pub next_id: u32,
    /// The counts of all records up to `seq`, since the directory was made.
    pub totals: Counts,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger { revision: 0, epoch: 0, seq: 0, before_ms: i64::MIN, next_id: 1, totals: Counts::default() }
    }
}

impl Ledger {
    /// Tells whether a sample of a record is in a block already.
    pub fn covers(&self, seq: u64, ts_ms: i64) -> bool {
        seq <= self.seq && ts_ms < self.before_ms
    }

    /// Reads the newer of the copies that check; the sentences tell of those that do not.
    pub fn load(fs: &dyn Fs, dir: &Path) -> io::Result<(Ledger, Vec<String>)> {
        let (mut best, mut damaged) = (Ledger::default(), Vec::new());
        for name in NAMES {
            let path = dir.join(name);
            if !fs.exists(&path) {
                continue;
            }
            match open_sealed(&fs.read(&path)?).map(Ledger::decode) {
                Some(Ok(ledger)) if ledger.revision >= best.revision => best = ledger,
                Some(Ok(_)) => {}
                _ => damaged.push(format!("{}: the checksum disagrees; the other copy is used", path.display())),
            }
        }
        Ok((best, damaged))
    }

    /// Makes the state durable.
    pub fn store(&mut self, fs: &dyn Fs, dir: &Path) -> io::Result<()> {
        self.revision += 1;
        let body = self.encode();
        NAMES.iter().try_for_each(|name| write_sealed(fs, &dir.join(name), &body))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for n in [self.revision, self.epoch, self.seq, u64::from(self.next_id)] {
            put_varint(&mut out, n);
        }
        put_signed(&mut out, self.before_ms);
        put_counts(&mut out, &self.totals);
        out
    }

    fn decode(body: &[u8]) -> Result<Ledger, Malformed> {
        let mut cursor = Cursor::new(body);
        if cursor.u8()? != VERSION {
            return Err(Malformed);
        }
        Ok(Ledger {
            revision: cursor.varint()?,
            epoch: cursor.varint()?,
            seq: cursor.varint()?,
            next_id: u32::try_from(cursor.varint()?).map_err(|_| Malformed)?,
            before_ms: cursor.signed()?,
            totals: get_counts(&mut cursor)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::SimFs;

    #[test]
    fn one_broken_copy_is_survived() {
        let fs = SimFs::seeded(1);
        let dir = Path::new("/d");
        fs.create_dir_all(dir).unwrap();
        let mut ledger = Ledger { epoch: 3, seq: 9, before_ms: -7, next_id: 4, ..Ledger::default() };
        ledger.totals.received = 5;
        ledger.store(&fs, dir).unwrap();
        for name in NAMES {
            let bytes = fs.read(&dir.join(name)).unwrap();
            for at in 0..bytes.len() {
                fs.damage(&dir.join(name), |b| b[at] ^= 0x10).unwrap();
                let (back, damaged) = Ledger::load(&fs, dir).unwrap();
                assert_eq!((back, damaged.len()), (ledger, 1));
                fs.damage(&dir.join(name), |b| b[at] ^= 0x10).unwrap();
            }
        }
    }
}
