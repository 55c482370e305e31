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
