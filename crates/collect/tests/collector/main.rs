//! The collector against a real HTTP server and a store in memory.

#![allow(clippy::unwrap_used, missing_docs)]

mod failures;
mod filtering;
mod http2;
mod limits;
mod mapping;
mod messages;
mod protobuf;
mod protobuf_hostile;
mod scraping;
mod staleness;
mod support;
mod targets;
mod tls;
