//! Samples, one or a column of them, and the marker for "this series ended here".

use std::sync::Arc;

use crate::histogram::Histogram;

/// The bits of the NaN that marks a series as stale (Prometheus `value.StaleNaN`).
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// Gives the stale marker.
pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// Tells whether a value is the stale marker (other NaNs are not).
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// One value at one time.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Sample {
    /// Milliseconds since 1970, UTC.
    pub ts_ms: i64,
    /// The value, bit for bit as it was given.
    pub value: f64,
}

/// The samples of one series: doubles in two columns of equal length, native histograms beside them. Times rise strictly
/// within each, and no time stands in both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Milliseconds since 1970, UTC.
    pub ts_ms: Vec<i64>,
    /// The values that belong to the times.
    pub values: Vec<f64>,
    /// Native histograms with their times.
    pub histograms: Vec<(i64, Arc<Histogram>)>,
    /// When the counting began that samples belong to ("start timestamp"): time of the sample, then when; times rise. Only
    /// samples of which it is known stand here.
    pub starts: Vec<(i64, i64)>,
}

impl Samples {
    /// Forgets all samples, keeps the memory.
    pub fn clear(&mut self) {
        self.ts_ms.clear();
        self.values.clear();
        self.histograms.clear();
        self.starts.clear();
    }

    /// Appends one sample.
    pub fn push(&mut self, ts_ms: i64, value: f64) {
        self.ts_ms.push(ts_ms);
        self.values.push(value);
    }

    /// Counts the doubles.
    pub fn len(&self) -> usize {
        self.ts_ms.len()
    }

    /// Tells whether there is neither a double nor a histogram.
    pub fn is_empty(&self) -> bool {
        self.ts_ms.is_empty() && self.histograms.is_empty()
    }
}
