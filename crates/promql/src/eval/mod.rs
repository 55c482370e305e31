//! Evaluation over [`model::Select`].
//!
//! An expression is evaluated for all steps of a query at once: each selector is selected once and each of its series
//! read once, into a column with a value per step; functions, operators and aggregations turn columns into columns.

mod absent;
mod aggregate;
mod annotations;
mod binary;
mod buckets;
mod budget;
mod call;
mod classic_histogram;
mod date_fn;
mod error;
mod evaluator;
mod extended;
mod extended_native;
mod frame;
mod go_math;
mod group_native;
mod info;
mod kahan;
mod label_fn;
mod label_set;
mod matching;
mod math_fn;
mod native;
mod options;
mod over_time;
mod pick;
mod quantile;
mod range_fn;
mod range_native;
mod rate;
mod regression;
mod result;
mod scalars;
mod selector;
mod series;
mod starts;
mod window;
mod xxh64;

use model::{Samples, Select};

pub use budget::QueryMemory;
pub use error::EvalError;
pub use options::QueryOptions;
pub use result::{MatrixSeries, QueryResult, QueryStats, Value, VectorSample};

use crate::ast::{Expr, ValueType};
use crate::check::value_type;
use evaluator::{Evaluator, bare};
use frame::{Frame, QueryTimes};
use label_set::without_metadata;
use series::{Point, Series};

/// Evaluates a query at one time.
///
/// **Takes** an expression that [`crate::parse`] gave.
/// **Gives** whatever the query's type is; vectors in the order that `sort` and `topk` made, else sorted by labels.
/// **Errors** say what Prometheus would say.
/// **Cost** runs to completion on the caller's thread, within the limits of `options`.
pub fn instant(
    select: &dyn Select,
    query: &Expr,
    ts_ms: i64,
    options: &QueryOptions,
) -> Result<QueryResult, EvalError> {
    options.check()?;
    let times = QueryTimes { start_ms: ts_ms, end_ms: ts_ms, step_ms: 0 };
    let evaluator = Evaluator::new(select, options, times);
    let value = instant_value(&evaluator, query, ts_ms)?;
    Ok(answer(&evaluator, value))
}

fn instant_value(evaluator: &Evaluator<'_>, query: &Expr, ts_ms: i64) -> Result<Value, EvalError> {
    let frame = Frame::instant(ts_ms);
    match value_type(query) {
        ValueType::Scalar => {
            let value = evaluator.scalar(query, &frame)?.first().copied().unwrap_or(f64::NAN);
            Ok(Value::Scalar { ts_ms, value })
        }
        ValueType::String => Ok(Value::String { ts_ms, value: evaluator.text(query)?.to_owned() }),
        ValueType::Vector => {
            let mut series = series::finish(evaluator.vector(query, &frame)?.series)?;
            if !evaluator.ordered.get() {
                series.sort_by(|a, b| a.labels.cmp(&b.labels));
            }
            let sample = |series: Series| {
                let (value, histogram) = match series.point(0)? {
                    Point::Float(value) => (value, None),
                    Point::Histogram(histogram) => (histogram.sum, Some(histogram)),
                };
                Some(VectorSample { labels: series.labels, ts_ms, value, histogram })
            };
            Ok(Value::Vector(series.into_iter().filter_map(sample).collect()))
        }
        ValueType::Matrix => {
            let found = evaluator.matrix_at(bare(query), ts_ms)?;
            let mut all: Vec<MatrixSeries> = found
                .into_iter()
                .map(|(head, samples)| match head.drop_name {
                    true => MatrixSeries { labels: without_metadata(&head.labels), samples },
                    false => MatrixSeries { labels: head.labels, samples },
                })
                .collect();
            sort_unique(&mut all)?;
            Ok(Value::Matrix(all))
        }
    }
}

/// Evaluates a query at `start_ms`, `start_ms + step_ms` and so on up to `end_ms`.
///
/// **Takes** an expression that [`crate::parse`] gave, of type scalar or instant vector.
/// **Gives** a matrix, sorted by labels.
/// **Errors** say what Prometheus would say.
/// **Cost** runs to completion on the caller's thread, within the limits of `options`.
pub fn range(
    select: &dyn Select,
    query: &Expr,
    start_ms: i64,
    end_ms: i64,
    step_ms: i64,
    options: &QueryOptions,
) -> Result<QueryResult, EvalError> {
    options.check()?;
    let evaluator = Evaluator::new(select, options, QueryTimes { start_ms, end_ms, step_ms });
    let value = range_value(&evaluator, query)?;
    Ok(answer(&evaluator, value))
}

fn range_value(evaluator: &Evaluator<'_>, query: &Expr) -> Result<Value, EvalError> {
    let QueryTimes { start_ms, end_ms, step_ms } = evaluator.times;
    let kind = value_type(query);
    if !matches!(kind, ValueType::Scalar | ValueType::Vector) {
        let kind = kind.as_str();
        let text = format!("invalid expression type \"{kind}\" for range query, must be Scalar or instant Vector");
        return Err(EvalError::Execution(text));
    }
    if step_ms <= 0 {
        let text = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(EvalError::Execution(text.to_owned()));
    }
    if end_ms < start_ms {
        return Ok(Value::Matrix(Vec::new()));
    }
    let Some(frame) = Frame::between(start_ms, end_ms, step_ms, evaluator.options.points_max) else {
        let text = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
        return Err(EvalError::Execution(text.to_owned()));
    };
    let series = match kind {
        ValueType::Scalar => vec![call::constant(evaluator.scalar(query, &frame)?.into_values())],
        _ => series::finish(evaluator.vector(query, &frame)?.series)?,
    };
    let mut all: Vec<MatrixSeries> = series.into_iter().map(|series| matrix_series(series, &frame)).collect();
    sort_unique(&mut all)?;
    Ok(Value::Matrix(all))
}

fn matrix_series(series: Series, frame: &Frame) -> MatrixSeries {
    let mut samples = Samples::default();
    for step in 0..frame.steps {
        match series.point(step) {
            Some(Point::Float(value)) => samples.push(frame.at(step), value),
            Some(Point::Histogram(histogram)) => samples.histograms.push((frame.at(step), histogram)),
            None => {}
        }
    }
    MatrixSeries { labels: series.labels, samples }
}

fn sort_unique(all: &mut [MatrixSeries]) -> Result<(), EvalError> {
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    match all.windows(2).any(|pair| matches!(pair, [a, b] if a.labels == b.labels)) {
        true => Err(EvalError::Execution("vector cannot contain metrics with the same labelset".to_owned())),
        false => Ok(()),
    }
}

fn answer(evaluator: &Evaluator<'_>, value: Value) -> QueryResult {
    let stats = QueryStats { total_queryable_samples: evaluator.queryable(), peak_samples: evaluator.budget.peak() };
    QueryResult::new(value, evaluator.notes.take(), stats)
}
