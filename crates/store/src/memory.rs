//! Where the head's memory goes.

use std::fmt;

use crate::store::Store;

/// Bytes of the head by part, as asked for from the allocator, which adds its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryParts {
    /// Series.
    pub series: u64,
    /// Texts of the labels, shared by head, registry and index.
    pub labels: u64,
    /// The places of series in the head, without what they point to.
    pub slots: u64,
    /// Open chunks.
    pub open_chunks: u64,
    /// Sealed chunks that no file has yet.
    pub sealed_chunks: u64,
    /// What is known of sealed chunks, wherever their bytes are.
    pub chunk_places: u64,
    /// Samples that came after a later one.
    pub late: u64,
    /// Native histograms.
    pub histograms: u64,
    /// Label sets to ids.
    pub registry: u64,
    /// Label values to ids; 0 while a start still makes it.
    pub index: u64,
}

impl MemoryParts {
    /// Gives the sum of all parts.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|p| p.1).sum()
    }

    fn parts(&self) -> [(&'static str, u64); 9] {
        [
            ("labels", self.labels),
            ("slots", self.slots),
            ("open chunks", self.open_chunks),
            ("sealed chunks", self.sealed_chunks),
            ("places of chunks", self.chunk_places),
            ("late samples", self.late),
            ("histograms", self.histograms),
            ("registry", self.registry),
            ("index", self.index),
        ]
    }
}

/// A line for each part: bytes, and bytes per series.
impl fmt::Display for MemoryParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bytes) in self.parts().into_iter().chain([("all", self.total())]) {
            writeln!(f, "{name:>18}: {:>8.1} MiB, {:>7.1} bytes per series", mib(bytes), per(bytes, self.series))?;
        }
        Ok(())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn per(bytes: u64, series: u64) -> f64 {
    bytes as f64 / series.max(1) as f64
}

impl Store {
    /// Counts the bytes. Walks over all series once.
    pub fn memory(&self) -> MemoryParts {
        let mut parts = MemoryParts { registry: self.core.registry.bytes(), ..MemoryParts::default() };
        if self.core.index.is_made() {
            parts.index = self.core.index.read().bytes();
        }
        self.core.head.visit_all(|_, slot| slot.add_memory(&mut parts));
        parts
    }
}
