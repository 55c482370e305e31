//! How much goes on at once, in memory and on the processor.

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

/// Bodies that wait or are read: this many units of memory in all, by the size that each had the last time.
const MEMORY_UNITS: usize = 65_536;
const MEMORY_UNIT_BYTES: u64 = 16 << 10;
/// One target never takes more than this part.
const MEMORY_UNITS_OF_ONE: u64 = MEMORY_UNITS as u64 / 4;

/// How much may go on at once.
pub(crate) struct Gates {
    /// Units of memory for bodies on their way.
    memory: Semaphore,
    /// Bodies being inflated, parsed and handed to the store: twice the cores.
    pub(crate) bodies: Semaphore,
}

impl Default for Gates {
    fn default() -> Gates {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Gates { memory: Semaphore::new(MEMORY_UNITS), bodies: Semaphore::new(2 * cores) }
    }
}

impl Gates {
    /// Waits for the memory that a body is likely to take.
    ///
    /// **Takes** the size of the target's last body; 0 when it has none.
    pub(crate) async fn memory_for(&self, body_bytes: u64) -> Result<SemaphorePermit<'_>, AcquireError> {
        let units = (body_bytes / MEMORY_UNIT_BYTES + 1).min(MEMORY_UNITS_OF_ONE);
        self.memory.acquire_many(units as u32).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_huge_body_leaves_room_for_others() {
        let gates = Gates::default();
        let huge = gates.memory_for(u64::MAX).await.map_err(|e| e.to_string());
        let small = gates.memory_for(0).await.map_err(|e| e.to_string());
        assert!(huge.is_ok() && small.is_ok());
        assert_eq!(gates.memory.available_permits(), MEMORY_UNITS - MEMORY_UNITS_OF_ONE as usize - 1);
        drop((huge, small));
        assert_eq!(gates.memory.available_permits(), MEMORY_UNITS);
    }
}
