//! OTLP over HTTP: `POST /v1/metrics`, also below `/api/v1/otlp`, in protobuf and JSON.
//!
//! A request's way: `handler.rs` judges the headers → the way of remote write ([`crate::prom::write::Writer`]) reads the body
//! → `body.rs` inflates and decodes it → the store fsyncs it → `answer.rs` says what was refused. Room, decoders, buffers and
//! events are those of remote write: both share the same limits.

mod answer;
mod body;
mod handler;
#[cfg(test)]
mod tests;

pub use handler::{Otlp, PATHS, router};
