//! Series written down, and in memory: what tests of queries and of rules load.

mod memory;
mod series;

pub use memory::Memory;
pub use series::{Point, Slot, number, parse_labels, parse_series};
