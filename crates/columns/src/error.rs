//! What can go wrong between columns and files.

use parquet::errors::ParquetError;

/// Why a file could not be written or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ColumnsError {
    /// The bytes could not be read or written; the text is the source's or sink's own sentence.
    #[error("{0}")]
    Io(String),
    /// The bytes are no Parquet.
    #[error("not readable as Parquet: {0}")]
    Parquet(String),
    /// Parquet, but not in our layout.
    #[error("not in the layout of a block: {0}")]
    Layout(String),
}

impl From<ParquetError> for ColumnsError {
    fn from(e: ParquetError) -> Self {
        match e {
            ParquetError::External(inner) => ColumnsError::Io(inner.to_string()),
            other => ColumnsError::Parquet(other.to_string()),
        }
    }
}

impl From<arrow_schema::ArrowError> for ColumnsError {
    fn from(e: arrow_schema::ArrowError) -> Self {
        ColumnsError::Parquet(e.to_string())
    }
}

/// Says that the layout is not ours.
pub(crate) fn layout(text: impl Into<String>) -> ColumnsError {
    ColumnsError::Layout(text.into())
}
