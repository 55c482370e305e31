//! What an operator asks of the data at rest: delete, clean, copy, look; and how long it is kept.

use std::io;
use std::path::{Path, PathBuf};

use model::{Matcher, TimeRange};

use crate::blocks::{BlockInfo, RetentionRules};
use crate::maintain::MaintenanceError;
use crate::store::Store;

/// The folder of snapshots in the data directory.
const SNAPSHOTS: &str = "snapshots";
const UNFINISHED: &str = "tmp-";

/// Which series to delete from.
#[derive(Clone, Debug)]
pub enum Doomed {
    /// Those that all matchers accept.
    Matching(Vec<Matcher>),
    /// Those that belong to a target.
    OfTarget(String),
}

impl Store {
    /// Deletes what there is, in a range, of the given series. What comes in later is not concerned.
    ///
    /// **Promises** when it returns `Ok` the samples are not read any more, and that survives any crash. They go from the
    /// disk when their blocks are merged or rewritten next.
    /// **Cost** writes the head to blocks when it has samples of them.
    pub fn delete_series(&self, doomed: &[Doomed], range: TimeRange) -> Result<(), MaintenanceError> {
        if doomed.iter().any(|d| self.head_has(d, range)) {
            self.flush_to_blocks()?;
        }
        let now_ms = self.core.clock.now_ms();
        let deleted = self.core.blocks.delete(doomed.to_vec(), range, now_ms).map_err(MaintenanceError::Blocks);
        // An error may come after a part was done.
        self.core.changes.note_all();
        deleted
    }

    fn head_has(&self, doomed: &Doomed, range: TimeRange) -> bool {
        let (matchers, target): (&[Matcher], _) = match doomed {
            Doomed::Matching(matchers) => (matchers, None),
            Doomed::OfTarget(target_id) => (&[], Some(target_id)),
        };
        let mut found = false;
        self.core.head.visit(&self.core.matching(matchers), |_, slot| {
            let owned = |t: &String| self.core.attrs.get(slot.attrs).is_some_and(|a| *a.target_id == **t);
            let inside = |(start_ms, end_ms)| range.overlaps(&TimeRange { start_ms, end_ms });
            found |= slot.span().is_some_and(inside) && target.is_none_or(owned);
        });
        found
    }

    /// Brings the disk space of deleted samples back; gives how many blocks were written anew.
    pub fn clean_tombstones(&self) -> Result<u64, MaintenanceError> {
        let mut rewritten = 0;
        loop {
            match self.compact()? {
                0 => return Ok(rewritten),
                blocks => rewritten += blocks,
            }
        }
    }

    /// Says how long samples are kept from now on; what is past that is not read any more.
    pub fn set_retention(&self, rules: RetentionRules) {
        *self.core.retention.write() = std::sync::Arc::new(rules.clone());
        self.core.blocks.retain(rules);
        self.core.changes.note_all();
    }

    /// Copies all blocks into a folder of their own, by hard links where that is possible. A store opens on it as it is.
    ///
    /// **Takes** `name`, of the folder below `snapshots`; `with_head`: the head is written to blocks first.
    /// **Promises** when it returns `Ok` the copy survives any crash.
    pub fn snapshot(&self, name: &str, with_head: bool) -> Result<PathBuf, MaintenanceError> {
        if with_head {
            self.flush_to_blocks()?;
        }
        let folder = self.core.config.dir.join(SNAPSHOTS);
        let (temporary, path) = (folder.join(format!("{UNFINISHED}{name}")), folder.join(name));
        let made = self.copy_to(&temporary).and_then(|()| self.publish(&folder, &temporary, &path).map_err(text));
        if let Err(why) = made {
            let _ = self.core.fs.remove_dir_all(&temporary);
            return Err(MaintenanceError::Blocks(format!("cannot write the snapshot {}: {why}", path.display())));
        }
        Ok(path)
    }

    fn copy_to(&self, dir: &Path) -> Result<(), String> {
        let fs = &*self.core.fs;
        fs.create_dir_all(dir).map_err(text)?;
        self.core.blocks.copy_to(&dir.join("blocks"))?;
        let metadata = self.core.config.dir.join("metadata");
        if fs.exists(&metadata) {
            fs.link(&metadata, &dir.join("metadata")).map_err(text)?;
        }
        fs.sync_dir(dir).map_err(text)
    }

    fn publish(&self, folder: &Path, temporary: &Path, path: &Path) -> io::Result<()> {
        let fs = &*self.core.fs;
        if fs.exists(path) {
            return Err(io::Error::other("there is one of that name"));
        }
        fs.rename(temporary, path)?;
        fs.sync_dir(folder)?;
        fs.sync_dir(&self.core.config.dir)
    }

    /// Gives what blocks there are, in order of their windows.
    pub fn blocks(&self) -> Vec<BlockInfo> {
        self.core.blocks.infos()
    }
}

fn text(error: io::Error) -> String {
    error.to_string()
}
