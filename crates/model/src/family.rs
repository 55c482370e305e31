//! Metric families: what a group of series measures.

/// The type of a family, as the exposition formats know it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum MetricType {
    /// No type given, or the specification's CUSTOM.
    #[default]
    Unknown = 0,
    /// Only rises, or starts again from zero.
    Counter = 1,
    /// Goes up and down.
    Gauge = 2,
    /// Counts in buckets, cumulative.
    Histogram = 3,
    /// Quantiles computed at the source.
    Summary = 4,
    /// OpenMetrics info.
    Info = 5,
    /// OpenMetrics state set.
    StateSet = 6,
    /// OpenMetrics gauge histogram.
    GaugeHistogram = 7,
}

impl MetricType {
    /// Gives the lower-case word of the exposition formats.
    pub fn as_str(self) -> &'static str {
        match self {
            MetricType::Unknown => "unknown",
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            MetricType::Summary => "summary",
            MetricType::Info => "info",
            MetricType::StateSet => "stateset",
            MetricType::GaugeHistogram => "gaugehistogram",
        }
    }

    /// Gives the specification's word: COUNTER, GAUGE, HISTOGRAM, SUMMARY, and CUSTOM for all else.
    pub fn as_spec_str(self) -> &'static str {
        match self {
            MetricType::Counter => "COUNTER",
            MetricType::Gauge => "GAUGE",
            MetricType::Histogram => "HISTOGRAM",
            MetricType::Summary => "SUMMARY",
            _ => "CUSTOM",
        }
    }

    /// Reads the number that `self as u8` gave; unknown numbers become `Unknown`.
    pub fn from_u8(n: u8) -> MetricType {
        use MetricType::*;
        [Unknown, Counter, Gauge, Histogram, Summary, Info, StateSet, GaugeHistogram]
            .get(usize::from(n))
            .copied()
            .unwrap_or(Unknown)
    }
}

/// Name, type, help and unit of a family.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Family {
    /// The family's name; in OpenMetrics without `_total` and the like.
    pub name: String,
    /// Its type.
    pub metric_type: MetricType,
    /// Its help text, unescaped; empty when none was given.
    pub help: String,
    /// Its unit; empty when none was given.
    pub unit: String,
}
