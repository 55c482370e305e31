//! OTLP: over HTTP `POST /v1/metrics`, also below `/api/v1/otlp`, in protobuf and JSON; over gRPC on a port of its own.
//!
//! A request's way: `handler.rs` (`grpc.rs`) judges the headers → the way of remote write ([`crate::prom::write::Writer`]) reads
//! the body → `body.rs` inflates and decodes it → `delta_batch.rs` adds differences up → the store fsyncs it → `answer.rs`
//! (`grpc_answer.rs`) says what was refused. Room, decoders, buffers and events are those of remote write: both share the same
//! limits.

mod answer;
mod body;
mod delta;
mod delta_batch;
pub mod grpc;
mod grpc_answer;
mod handler;
#[cfg(test)]
mod tests;

pub use answer::{Encoding, error};
pub use handler::{Otlp, PATHS, router};
