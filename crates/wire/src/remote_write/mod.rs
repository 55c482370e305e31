//! Prometheus remote write, 1.0 (`prometheus.WriteRequest`) and 2.0 (`io.prometheus.write.v2.Request`): borrowing readers
//! straight into a batch, and writers of both.
//!
//! Bodies are given and taken uncompressed; [`crate::snappy`] does the rest.

mod decode;
mod decode_v2;
mod encode;
mod encode_histogram;
mod histogram;
pub(crate) mod intake;
mod limits;
mod plain;
mod send;
mod symbols;

pub use crate::proto::WireError;
pub use decode::{decode_v1, decode_v1_recalling};
pub use decode_v2::decode_v2;
pub use encode::{Encoder, encode_v1};
pub use limits::{DecodeStats, Limits, RefusedHistogram, RefusedSeries, Written};
pub use send::{SeriesEncoder, SeriesEncoderV2, SeriesMetadata, SymbolTable, render_labels};

use model::MetricType;

/// The numbers of `MetricMetadata.MetricType`.
const METRIC_TYPES: [MetricType; 8] = [
    MetricType::Unknown,
    MetricType::Counter,
    MetricType::Gauge,
    MetricType::Histogram,
    MetricType::GaugeHistogram,
    MetricType::Summary,
    MetricType::Info,
    MetricType::StateSet,
];

/// Reads the number of a type; unknown ones are `Unknown`.
fn metric_type(number: u64) -> MetricType {
    let number = usize::try_from(number).unwrap_or(usize::MAX);
    METRIC_TYPES.get(number).copied().unwrap_or_default()
}

#[cfg(test)]
mod messages;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_v2;
