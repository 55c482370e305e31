//! What is wrong with a query, and where.

use std::fmt;

use crate::ast::Span;

/// A query that cannot be parsed or does not type-check; it prints as Prometheus prints it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Byte position in the line, from 1; 0 when the error has no place, as in an empty query.
    pub column: u32,
    /// The place in the query.
    pub span: Span,
    /// What is wrong.
    pub message: String,
}

impl ParseError {
    /// Builds the error and works out its line and column.
    pub(crate) fn new(query: &str, span: Span, message: impl Into<String>) -> ParseError {
        let message = message.into();
        if query.is_empty() {
            return ParseError {
                line: 0,
                column: 0,
                span,
                message: format!("unknown position: parse error: {message}"),
            };
        }
        let at = (span.start as usize).min(query.len());
        let before = query.as_bytes().get(..at).unwrap_or_default();
        let line = before.iter().filter(|&&b| b == b'\n').count() as u32 + 1;
        let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        ParseError { line, column: (at - line_start) as u32 + 1, span, message }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            0 => f.write_str(&self.message),
            column => write!(f, "{}:{column}: parse error: {}", self.line, self.message),
        }
    }
}

impl std::error::Error for ParseError {}
