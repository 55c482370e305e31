//! Prometheus remote write 1.0, `prometheus.WriteRequest`: a borrowing reader straight into a batch, and a writer.
//!
//! Bodies are given and taken uncompressed; [`crate::snappy`] does the rest.

mod decode;
mod encode;
mod plain;
mod proto;

pub use decode::{DecodeStats, Limits, RefusedSeries, decode_v1};
pub use encode::{Encoder, encode_v1};
pub use proto::WireError;

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

#[cfg(test)]
mod tests;
