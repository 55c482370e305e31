//! Configuration: text → meaning, once.
//!
//! A file is a `prometheus.yml`; what is ours stands under the one key `quiver:`. [`yaml`] reads the text, every key and
//! value with its place; [`fields`] walks a mapping and notes what is wrong; the other modules know what the keys mean.
//! Invariants: 1. an unknown key is an error with its place; 2. a known key that we do not serve yet is an error too,
//! unless asked otherwise; 3. a file is taken whole or refused whole.

pub mod access;
pub mod alerting;
pub mod announce;
pub mod backing;
mod cloud_auth;
mod collectors;
pub mod fields;
pub mod filters;
pub mod global;
pub mod http_client;
pub mod load;
pub mod otlp;
pub mod print;
pub mod relabel;
pub mod remote_write;
pub mod rule_file;
pub mod rule_test;
pub mod scrape;
pub mod sd;
pub mod settings;
pub mod sink_queries;
pub mod sinks;
pub mod telemetry;
#[cfg(test)]
mod tests;
pub mod web;
pub mod yaml;

pub use announce::{EventSettings, NatsSettings, WebhookSettings};
pub use backing::{CacheSettings, CatalogSettings};
pub use discover::Mechanism;
pub use fields::parse_size_bytes;
pub use global::Global;
pub use load::{Config, LoadError, Located, load_file, load_rule_tests, load_rules, load_text};
pub use model::{format_duration_ms, parse_duration_ms};
pub use scrape::Job;
pub use settings::{MEMORY_BYTES_MIN, Overrides, Settings};
