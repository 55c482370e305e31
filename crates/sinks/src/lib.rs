//! Other stores that samples go to as well: remote write, InfluxDB, PostgreSQL and TimescaleDB.
//!
//! A sample's way: the store has it → [`Queue`] (one for all sinks, on disk) → a [`Window`] of it for each sink
//! ([`Reader`]) → [`RemoteWrite`], [`Influx`] or [`Postgres`] says it in the other store's words → the sink's place in the
//! queue moves on. [`run()`] drives one sink.
//! Promise: what was acknowledged reaches every sink that was configured then, after a crash of either side too; at least
//! once, and exactly once where the other store can keep a place (PostgreSQL). What a place refuses, cannot hold, or what
//! the queue had to give up is counted and said.

mod http;
mod influx;
mod post;
mod postgres;
mod queue;
mod remote_write;
mod run;
mod stats;

pub use http::HttpSettings;
pub use influx::{Influx, InfluxSettings};
pub use post::{Answer, MakePost, Post};
pub use postgres::{Layout, Postgres, PostgresSettings};
pub use queue::{HistogramRow, Place, Queue, QueueSettings, Reader, Row, Window, WindowSeries};
pub use remote_write::{MetadataSettings, Protocol, RemoteWrite, RemoteWriteSettings, Surroundings};
pub use run::{Again, RunSettings, Sink, run};
pub use stats::SinkStats;

/// What a sink's work gives, later.
pub type Later<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
