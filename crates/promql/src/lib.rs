//! PromQL of Prometheus 3.x: parse, check, print, evaluate over [`model::Select`].
//!
//! A query's text becomes a tree by [`parse`], the tree an answer by [`instant`] or [`range`]. Evaluation runs to completion
//! on the caller's thread, within the limits of [`QueryOptions`].

pub mod ast;
mod check;
mod error;
mod eval;
pub mod functions_table;
pub mod go_text;
mod lexer;
mod number;
mod parser;
mod printer;
mod reach;
pub mod testing;

pub use check::value_type;
pub use error::ParseError;
pub use eval::{
    EvalError, MatrixSeries, QueryMemory, QueryOptions, QueryResult, QueryStats, Value, VectorSample, instant, range,
};
pub use parser::{
    MAX_DEPTH, MAX_NESTING, MAX_PATTERN_BYTES, MAX_PATTERNS, MAX_QUERY_BYTES, ParseOptions, parse, parse_selector,
    parse_selectors, parse_with,
};
pub use printer::format;
pub use reach::reach_ms;
