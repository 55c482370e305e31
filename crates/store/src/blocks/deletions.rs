//! Deletions by request: what is hidden at once and goes from the disk with the next merge.
//!
//! Owns: `deletions.1` and `deletions.2` beside the blocks, each replaced in one step, one after the other.
//! Invariants: 1. a deletion concerns blocks with a number below `before_block`, so that samples that come in later are
//! never touched; 2. it is on the list until no such block holds any of its samples.
//! Limits: [`DELETIONS_MAX`] at a time.

use std::io;
use std::path::Path;

use model::{Labels, MatchOp, Matcher, TimeRange};
use serde::{Deserialize, Serialize};
use sys::Fs;

use crate::admin::Doomed;
use crate::coding::{open_sealed, write_sealed};

const NAMES: [&str; 2] = ["deletions.1", "deletions.2"];
/// A read asks each of them.
pub const DELETIONS_MAX: usize = 1000;

/// One deletion.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// Blocks from this number on were written later.
    pub before_block: u64,
    /// Of which series.
    pub doomed: Doomed,
    /// The times deleted.
    pub range: TimeRange,
    /// When it was asked for.
    pub made_ms: i64,
}

impl Deletion {
    /// Tells whether samples of a series in a block are deleted.
    pub fn hides(&self, block: u64, labels: &Labels, target_id: &str) -> bool {
        block < self.before_block
            && match &self.doomed {
                Doomed::Matching(matchers) => matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or(""))),
                Doomed::OfTarget(doomed) => doomed == target_id,
            }
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    revision: u64,
    deletions: Vec<StoredDeletion>,
}

#[derive(Serialize, Deserialize)]
struct StoredDeletion {
    before_block: u64,
    start_ms: i64,
    end_ms: i64,
    made_ms: i64,
    /// Name, operator, value.
    matchers: Vec<(String, String, String)>,
    /// In place of matchers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_id: Option<String>,
}

/// Makes a list durable; `revision` rises with every call.
pub fn store(fs: &dyn Fs, dir: &Path, revision: u64, deletions: &[Deletion]) -> io::Result<()> {
    let stored = |d: &Deletion| {
        let (matchers, target_id): (&[Matcher], _) = match &d.doomed {
            Doomed::Matching(matchers) => (matchers, None),
            Doomed::OfTarget(target_id) => (&[], Some(target_id.clone())),
        };
        StoredDeletion {
            before_block: d.before_block,
            start_ms: d.range.start_ms,
            end_ms: d.range.end_ms,
            made_ms: d.made_ms,
            matchers: matchers.iter().map(|m| (m.name().into(), m.op().as_str().into(), m.value().into())).collect(),
            target_id,
        }
    };
    let body = Stored { revision, deletions: deletions.iter().map(stored).collect() };
    let body = serde_json::to_vec(&body).map_err(io::Error::other)?;
    NAMES.iter().try_for_each(|name| write_sealed(fs, &dir.join(name), &body))
}

/// Reads the newer of the copies that check, and its revision; the sentences tell of those that do not.
pub fn load(fs: &dyn Fs, dir: &Path) -> io::Result<(u64, Vec<Deletion>, Vec<String>)> {
    let (mut best, mut damaged) = ((0, Vec::new()), Vec::new());
    for name in NAMES {
        let path = dir.join(name);
        if !fs.exists(&path) {
            continue;
        }
        let bytes = fs.read(&path)?;
        match open_sealed(&bytes).and_then(decode) {
            Some((revision, deletions)) if revision >= best.0 => best = (revision, deletions),
            Some(_) => {}
            None => damaged.push(format!("{}: the checksum disagrees; its twin is used", path.display())),
        }
    }
    Ok((best.0, best.1, damaged))
}

fn decode(body: &[u8]) -> Option<(u64, Vec<Deletion>)> {
    let stored: Stored = serde_json::from_slice(body).ok()?;
    let one = |d: StoredDeletion| {
        let matchers = d.matchers.into_iter().map(|(name, op, value)| Matcher::new(name, op_of(&op)?, value).ok());
        let range = TimeRange { start_ms: d.start_ms, end_ms: d.end_ms };
        let doomed = match d.target_id {
            Some(target_id) => Doomed::OfTarget(target_id),
            None => Doomed::Matching(matchers.collect::<Option<_>>()?),
        };
        Some(Deletion { before_block: d.before_block, doomed, range, made_ms: d.made_ms })
    };
    Some((stored.revision, stored.deletions.into_iter().map(one).collect::<Option<_>>()?))
}

fn op_of(text: &str) -> Option<MatchOp> {
    [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex].into_iter().find(|op| op.as_str() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::SimFs;

    #[test]
    fn one_broken_copy_is_survived_and_told() {
        let (fs, dir) = (SimFs::seeded(1), Path::new("/d"));
        fs.create_dir_all(dir).unwrap();
        let matchers = vec![Matcher::equal("a", "b\"\n"), Matcher::new("c", MatchOp::NotRegex, "x|y").unwrap()];
        let range = TimeRange { start_ms: i64::MIN, end_ms: 7 };
        let other = Deletion { before_block: 8, doomed: Doomed::OfTarget("t".into()), range, made_ms: 5 };
        let one = Deletion { before_block: 9, doomed: Doomed::Matching(matchers), range, made_ms: 5 };
        store(&fs, dir, 3, &[other, one.clone()]).unwrap();
        for name in NAMES {
            for at in 0..fs.read(&dir.join(name)).unwrap().len() {
                fs.damage(&dir.join(name), |bytes| bytes[at] ^= 4).unwrap();
                let (revision, back, damaged) = load(&fs, dir).unwrap();
                assert_eq!((revision, back.len(), damaged.len()), (3, 2, 1));
                assert_eq!(format!("{:?}", back[1]), format!("{one:?}"));
                fs.damage(&dir.join(name), |bytes| bytes[at] ^= 4).unwrap();
            }
        }
    }
}
