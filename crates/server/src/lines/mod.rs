//! Line protocols: InfluxDB's over HTTP; StatsD, DogStatsD and Graphite over sockets.
//!
//! A line's way: `wire` reads it → a row with a name that Prometheus has, too → a batch like any other. InfluxDB's requests are
//! answered when they are durable and take the way of remote write. Sockets give no answer: Graphite's rows gather in a
//! bounded buffer (`buffer.rs`), StatsD's become state (`table.rs`) that is written every few seconds; what finds no room is
//! counted with its reason.

mod buffer;
mod graphite;
mod influx;
mod influx_http;
mod resume;
mod rows;
mod sketch;
mod sockets;
mod stats;
mod statsd;
mod table;

pub use influx::influx_to_batch;
pub use influx_http::{Influx, router};
pub use sockets::{Lines, LinesParts, ListenError};
pub use stats::render as render_lines;
