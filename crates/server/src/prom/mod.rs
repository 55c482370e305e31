//! The Prometheus HTTP API.

pub mod error;
pub mod json;
pub mod params;
