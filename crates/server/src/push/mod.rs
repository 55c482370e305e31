//! Pushes in the way of Prometheus' Pushgateway: `PUT`, `POST` and `DELETE` on `/metrics/job/<job>{/<label>/<value>}`.
//!
//! A request's way: `handler.rs` reads path, body and life → `gateway.rs` checks it against all groups (`registry.rs`), stores
//! its samples, then its group (`folder.rs`), then answers. From then on the gateway restates the group's samples at the
//! present time, so that it answers queries as if it were scraped, until it is deleted or its time to live is over.

mod body;
mod content;
mod decode;
mod folder;
mod gateway;
mod group;
mod handler;
mod key;
mod registry;
mod stats;
#[cfg(test)]
mod tests;

pub use body::{Body, PushedExemplar, read as read_body};
pub use folder::Folder;
pub use gateway::{Gateway, GatewayParts};
pub use group::Group;
pub use handler::router;
pub use key::GroupKey;
pub use registry::PushLimits;
