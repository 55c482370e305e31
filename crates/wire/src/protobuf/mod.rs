//! The Prometheus protobuf exposition: `io.prometheus.client.MetricFamily` messages, each with its length before it.
//!
//! The only exposition format with native histograms. Numbers of fields are those of `prometheus/client_model`.

mod key;
mod metric;
mod parser;
mod plain;

pub use parser::ProtobufParser;

use model::LabelsBuf;

/// Gives the metric name of a key that [`ProtobufParser::next`] gave; empty for other bytes.
pub fn key_name(key: &[u8]) -> String {
    key::metric_name(key)
}

/// Appends the labels of a key that [`ProtobufParser::next`] gave.
///
/// **Errors** with the reason when a label is not valid.
pub fn key_labels(key: &[u8], out: &mut LabelsBuf) -> Result<(), &'static str> {
    key::labels(key, out)
}

#[cfg(test)]
mod messages;
#[cfg(test)]
mod tests;
