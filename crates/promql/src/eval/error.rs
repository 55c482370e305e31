//! Why a query gave no answer.

/// Why a query gave no answer; prints as Prometheus prints it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EvalError {
    /// The asker went away.
    #[error("query was canceled in expression evaluation")]
    Canceled,
    /// The deadline passed.
    #[error("query timed out in expression evaluation")]
    Timeout,
    /// More samples than allowed (the number) would have been held in memory.
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples(u64),
    /// All queries together would have taken more bytes of memory than allowed (the number).
    #[error(
        "the query needs more memory than there is: all queries together may take {0} bytes (quiver.limits.memory_bytes); ask for \
         fewer series, a shorter range or a larger step"
    )]
    OutOfMemory(u64),
    /// The query cannot be computed over this data.
    #[error("{0}")]
    Execution(String),
    /// The data could not be read.
    #[error("{0}")]
    Storage(String),
}

impl From<model::SelectError> for EvalError {
    fn from(error: model::SelectError) -> Self {
        EvalError::Storage(error.to_string())
    }
}
