//! Custom collectors: what no exporter exposes, made into a scrape.
//!
//! They come from the operator's configuration alone (`quiver.collectors`): whoever can run programs or reach every address here
//! can edit that file.

mod exec;
mod http_json;
mod output;
mod sql;
mod text;

pub use exec::Exec;
pub use http_json::{HttpJson, Mapping, Pick};
pub use output::Output;
pub use sql::{Database, Sql};
