//! What a query answers.

use std::sync::Arc;

use model::histogram::Histogram;
use model::{Labels, Samples};

use super::annotations::Annotations;

/// The answer to a query.
#[derive(Clone, PartialEq, Debug)]
pub struct QueryResult {
    /// The value.
    pub value: Value,
    /// What makes the answer doubtful, sorted.
    pub warnings: Vec<String>,
    /// What the asker may want to know, sorted.
    pub infos: Vec<String>,
    /// What it cost.
    pub stats: QueryStats,
    annotations: Annotations,
}

impl QueryResult {
    pub(super) fn new(value: Value, annotations: Annotations, stats: QueryStats) -> QueryResult {
        let (warnings, infos) = annotations.texts(None);
        QueryResult { value, warnings, infos, stats, annotations }
    }

    /// Tells whether nothing is to be said about the answer.
    pub fn is_plain(&self) -> bool {
        self.warnings.is_empty() && self.infos.is_empty()
    }

    /// Makes one answer of several to the same query, each for times after those of the one before.
    ///
    /// **Takes** matrices of which nothing is to be said ([`QueryResult::is_plain`]); what else there is, is left out.
    pub fn joined(parts: impl IntoIterator<Item = QueryResult>) -> QueryResult {
        let (mut all, mut stats) = (Vec::new(), QueryStats::default());
        for part in parts {
            if let Value::Matrix(series) = part.value {
                all.extend(series);
            }
            stats.total_queryable_samples += part.stats.total_queryable_samples;
            stats.peak_samples = stats.peak_samples.max(part.stats.peak_samples);
        }
        // Stable: the parts of a series stay in the order of time.
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        all.dedup_by(|next, first| {
            let same = next.labels == first.labels;
            if same {
                first.samples.ts_ms.append(&mut next.samples.ts_ms);
                first.samples.values.append(&mut next.samples.values);
                first.samples.histograms.append(&mut next.samples.histograms);
            }
            same
        });
        QueryResult::new(Value::Matrix(all), Annotations::default(), stats)
    }

    /// Makes an answer of series that an earlier one had.
    pub fn of_matrix(series: Vec<MatrixSeries>) -> QueryResult {
        QueryResult::new(Value::Matrix(series), Annotations::default(), QueryStats::default())
    }

    /// Says in warnings and infos where in this text their cause stands, line by line; else the query counts as one line.
    pub fn place(&mut self, query: &str) {
        (self.warnings, self.infos) = self.annotations.texts(Some(query));
    }
}

/// What a query cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueryStats {
    /// Samples looked at, counted once per step that used them.
    pub total_queryable_samples: u64,
    /// The most samples held in memory at once.
    pub peak_samples: u64,
}

/// A value of PromQL. Instant queries give any of them, range queries give matrices.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// A number.
    Scalar {
        /// When.
        ts_ms: i64,
        /// The number.
        value: f64,
    },
    /// A text.
    String {
        /// When.
        ts_ms: i64,
        /// The text.
        value: String,
    },
    /// A number per series; in order where the query asks for one, else sorted by labels.
    Vector(Vec<VectorSample>),
    /// Samples per series, sorted by labels.
    Matrix(Vec<MatrixSeries>),
}

/// One series at one time.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct VectorSample {
    /// Which series.
    pub labels: Labels,
    /// When.
    pub ts_ms: i64,
    /// The value; of a native histogram its sum.
    pub value: f64,
    /// The native histogram, if it is one.
    pub histogram: Option<Arc<Histogram>>,
}

impl VectorSample {
    /// Makes a sample that is a double.
    pub fn new(labels: Labels, ts_ms: i64, value: f64) -> VectorSample {
        VectorSample { labels, ts_ms, value, histogram: None }
    }
}

/// One series over time.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct MatrixSeries {
    /// Which series.
    pub labels: Labels,
    /// Its samples.
    pub samples: Samples,
}

impl MatrixSeries {
    /// Gives the samples from one time to another, both included; `None` when there are none.
    pub fn between(&self, from_ms: i64, to_ms: i64) -> Option<MatrixSeries> {
        let Samples { ts_ms, values, histograms, .. } = &self.samples;
        let (start, end) = (ts_ms.partition_point(|t| *t < from_ms), ts_ms.partition_point(|t| *t <= to_ms));
        let first = histograms.partition_point(|h| h.0 < from_ms);
        let last = histograms.partition_point(|h| h.0 <= to_ms);
        let samples = Samples {
            ts_ms: ts_ms.get(start..end)?.to_vec(),
            values: values.get(start..end)?.to_vec(),
            histograms: histograms.get(first..last)?.to_vec(),
            starts: Vec::new(),
        };
        let is_empty = samples.ts_ms.is_empty() && samples.histograms.is_empty();
        (!is_empty).then(|| MatrixSeries { labels: self.labels.clone(), samples })
    }
}
