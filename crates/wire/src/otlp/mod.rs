//! OpenTelemetry metrics, `opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest`, into a batch.
//!
//! Gauges, sums, histograms, exponential histograms and summaries become series as Prometheus' OTLP receiver makes them. A data
//! point that cannot be taken is refused alone and counted, for the partial success of the answer.

mod attributes;
mod classic;
mod decode;
mod exponential;
mod json;
mod labels;
mod names;
mod points;
pub mod send;
mod service;

pub use decode::decode;
pub use json::{JsonError, decode_json, json_to_protobuf};
pub use names::Strategy;
pub use service::service_name;

use std::ops::Range;

use model::{Batch, Refusal, Verdict};

use crate::remote_write::DecodeStats;

/// How requests are translated. The names are those of Prometheus' `otlp` section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// `translation_strategy`.
    pub strategy: Strategy,
    /// `promote_resource_attributes`: resource attributes that become labels of every series.
    pub promote_resource_attributes: Vec<String>,
    /// `promote_all_resource_attributes`: all do, but for those of `ignore_resource_attributes`.
    pub promote_all_resource_attributes: bool,
    /// `ignore_resource_attributes`.
    pub ignore_resource_attributes: Vec<String>,
    /// `keep_identifying_resource_attributes`: `target_info` has `service.name`, `service.namespace` and
    /// `service.instance.id`, too.
    pub keep_identifying_resource_attributes: bool,
    /// `promote_scope_metadata`: name, version, schema and attributes of the scope become labels `otel_scope_...`.
    pub promote_scope_metadata: bool,
    /// `convert_histograms_to_nhcb`: a histogram becomes a native one with custom bounds, no classic series.
    pub convert_histograms_to_nhcb: bool,
    /// `label_name_underscore_sanitization`: `key` comes before names of labels that begin with one underscore.
    pub label_name_underscore_sanitization: bool,
    /// `label_name_preserve_multiple_underscores`: underscores in a row stay, else they become one.
    pub label_name_preserve_multiple_underscores: bool,
    /// Whether each resource becomes samples of `target_info`.
    pub target_info: bool,
    /// What happens to points of delta temporality.
    pub deltas: Deltas,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            strategy: Strategy::default(),
            promote_resource_attributes: Vec::new(),
            promote_all_resource_attributes: false,
            ignore_resource_attributes: Vec::new(),
            keep_identifying_resource_attributes: false,
            promote_scope_metadata: false,
            convert_histograms_to_nhcb: false,
            label_name_underscore_sanitization: true,
            label_name_preserve_multiple_underscores: true,
            target_info: true,
            deltas: Deltas::Refuse,
        }
    }
}

impl Options {
    fn label_style(&self) -> names::LabelStyle {
        names::LabelStyle {
            escapes: self.strategy.escapes(),
            sanitizes_underscore: self.label_name_underscore_sanitization,
            keeps_underscores: self.label_name_preserve_multiple_underscores,
        }
    }
}

/// What happens to points of delta temporality.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Deltas {
    /// Each is refused.
    Refuse,
    /// They come in like cumulative ones, and [`Stats`] says which they are: the caller must add them up.
    Mark,
}

/// What a request held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Data points.
    pub points: usize,
    /// Data points refused here.
    pub rejected: usize,
    /// The first of them.
    pub first_rejected: Option<RejectedPoint>,
    /// Per data point, how many samples and histograms the batch held after it.
    pub point_ends: Vec<PointEnd>,
    /// Data points taken that are differences since the last point, not sums since the start.
    pub deltas: Vec<DeltaPoint>,
    /// Series, samples, histograms, exemplars and families.
    pub decoded: DecodeStats,
}

/// A data point of delta temporality.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeltaPoint {
    /// Its places in [`Batch::samples`].
    pub samples: Range<u32>,
    /// Its places in [`Batch::histograms`].
    pub histograms: Range<u32>,
    /// Since when it counts; 0 when it does not say.
    pub start_ms: i64,
}

/// Where a data point ends in the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PointEnd {
    /// Samples up to here.
    pub samples: u32,
    /// Histograms up to here.
    pub histograms: u32,
}

/// A data point that is refused, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RejectedPoint {
    /// The metric's name as it was sent.
    pub metric: String,
    /// The reason counted.
    pub reason: Refusal,
    /// The reason in words.
    pub text: String,
}

/// What `ExportMetricsPartialSuccess` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartialSuccess {
    /// Data points of which nothing or not all is stored.
    pub rejected_data_points: u64,
    /// Why, in words.
    pub error_message: String,
}

impl Stats {
    /// Tells how many data points were refused, here or by the store; `None` when all were taken.
    ///
    /// **Takes** the batch that the request was decoded into, empty before, with its verdicts.
    pub fn partial_success(&self, batch: &Batch) -> Option<PartialSuccess> {
        let refused = |verdict: Verdict| if let Verdict::Refused(reason) = verdict { Some(reason) } else { None };
        let mut start = PointEnd { samples: 0, histograms: 0 };
        let (mut rejected, mut first) = (0, None);
        for end in &self.point_ends {
            let verdicts = batch.verdicts.get(start.samples as usize..end.samples as usize).unwrap_or_default();
            let histograms =
                batch.histograms.get(start.histograms as usize..end.histograms as usize).unwrap_or_default();
            let mut all = verdicts.iter().copied().chain(histograms.iter().map(|h| h.verdict));
            if let Some(reason) = all.find_map(refused) {
                rejected += 1;
                first.get_or_insert(reason);
            }
            start = *end;
        }
        let reason = first?;
        let error_message = match &self.first_rejected {
            Some(point) => format!("metric {:?}: {}: {}", point.metric, point.reason.as_str(), point.text),
            None => format!("the first reason is {}", reason.as_str()),
        };
        Some(PartialSuccess { rejected_data_points: rejected, error_message })
    }
}

#[cfg(test)]
mod messages;
#[cfg(test)]
mod tests;
