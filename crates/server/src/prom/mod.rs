//! The Prometheus HTTP API.

pub mod admin;
pub mod api;
mod ast_json;
mod busy;
pub mod elsewhere;
pub mod error;
mod federate;
pub mod histogram_json;
pub mod json;
mod lookup;
mod notices;
mod noting;
pub mod openapi;
pub mod params;
mod point_kinds;
mod query;
mod read;
pub mod read_message;
mod relabel_steps;
mod result_cache;
mod rules;
mod search;
mod search_score;
pub mod service;
pub mod status;
mod targets;
#[cfg(test)]
mod tests;
mod value_json;
pub mod write;
mod write_events;
pub(crate) mod write_headers;
mod write_pool;
mod xor_chunk;

pub use api::{PromApi, PromParts, router, targets_of};
pub use service::{QueryLimits, QueryService};
pub use status::{BuildInfo, RuntimeInfo};
pub use write::WriteLimits;
