//! Room made when there is none left: series that have ended go at once, not after two windows.

use hashbrown::HashSet;
use std::sync::atomic::Ordering;

use crate::admission::{AdmissionStats, OwnerStats};
use crate::maintain::{FORGET_WAIT, MaintenanceError};
use crate::store::Store;

/// With fewer ended series than this part of all it is not worth the blocks.
const WORTH_PERCENT: usize = 5;

impl Store {
    /// Tells how the room for series stands.
    pub fn admission(&self) -> AdmissionStats {
        self.core.registry.admission().stats()
    }

    /// Tells which target and source holds how many series, in no particular order.
    pub fn owners(&self) -> Vec<OwnerStats> {
        self.core.attrs.owners()
    }

    /// Says whether the process has reached its memory limit; while it has, no new series come in.
    pub fn set_pressure(&self, pressure: bool) {
        self.core.registry.admission().set_pressure(pressure);
    }

    /// Writes the head to blocks and forgets the series whose last sample says that they have ended. Costs a small block,
    /// which is merged later: for when new series are refused.
    ///
    /// **Gives** how many series went; 0, at the cost of a look at all of them, when too few have ended.
    pub fn relieve(&self) -> Result<u64, MaintenanceError> {
        let core = &self.core;
        let mut ended = HashSet::new();
        core.head.visit_all(|id, slot| {
            if slot.has_ended() {
                ended.insert(id);
            }
        });
        if ended.is_empty() || ended.len() * 100 < core.registry.len() as usize * WORTH_PERCENT {
            return Ok(0);
        }
        self.flush_to_blocks()?;
        let Some(_gate) = self.gate.try_write_for(FORGET_WAIT) else { return Ok(0) };
        if !self.pipeline.wait_until_idle(FORGET_WAIT) {
            return Ok(0);
        }
        // What has samples again has not ended after all.
        let mut gone = core.head.idle_since(i64::MAX);
        gone.retain(|(id, _)| ended.contains(id));
        core.generation.fetch_add(1, Ordering::AcqRel);
        core.index.write().remove(&gone);
        core.registry.forget(&gone);
        core.head.remove(&gone.iter().map(|g| g.0).collect::<Vec<_>>());
        Ok(gone.len() as u64)
    }
}
