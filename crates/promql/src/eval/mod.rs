//! Evaluation over [`model::Select`].

mod error;
mod options;
mod result;

use model::Select;

pub use error::EvalError;
pub use options::QueryOptions;
pub use result::{MatrixSeries, QueryResult, QueryStats, Value, VectorSample};

use crate::ast::Expr;

/// Evaluates a query at one time.
///
/// **Errors** say what Prometheus would say.
pub fn instant(
    _select: &dyn Select,
    _query: &Expr,
    _ts_ms: i64,
    options: &QueryOptions,
) -> Result<QueryResult, EvalError> {
    options.check()?;
    Err(EvalError::Execution("evaluation is not available yet".to_owned()))
}

/// Evaluates a query at `start_ms`, `start_ms + step_ms` and so on up to `end_ms`.
///
/// **Errors** say what Prometheus would say.
pub fn range(
    _select: &dyn Select,
    _query: &Expr,
    _start_ms: i64,
    _end_ms: i64,
    _step_ms: i64,
    options: &QueryOptions,
) -> Result<QueryResult, EvalError> {
    options.check()?;
    Err(EvalError::Execution("evaluation is not available yet".to_owned()))
}
