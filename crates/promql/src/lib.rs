//! PromQL: parse, check, plan, evaluate over [`model::Select`].

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

pub use check::value_type;
pub use error::ParseError;
pub use eval::{EvalError, MatrixSeries, QueryOptions, QueryResult, QueryStats, Value, VectorSample, instant, range};
pub use parser::{MAX_DEPTH, MAX_NESTING, MAX_QUERY_BYTES, ParseOptions, parse, parse_selector, parse_with};
pub use printer::format;
