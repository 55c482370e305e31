//! Bytes of the outside to samples and back: one module per format.
//!
//! Pure functions: no I/O, no clocks, no threads. Every decoder bounds what it allocates by the bytes it was given or by
//! a limit it was given, never by a length that the sender declares.
//!
//! * [`Parser`] walks a Prometheus text or OpenMetrics body entry by entry, without looking into labels.
//! * [`openmetrics::validate`] holds a body against the whole of OpenMetrics 1.0.
//! * [`protobuf`] walks a Prometheus protobuf body; [`BodyParser`] is one face for all formats.
//! * [`otlp`] reads OpenTelemetry metrics, binary and JSON.
//! * [`remote_write`] reads Prometheus remote write 1.0 and 2.0 and writes 1.0.
//! * [`influx`], [`graphite`] and [`statsd`] read line protocols, line by line.
//! * [`tsdb`] reads the blocks of Prometheus.
//! * [`websocket`] reads and writes the frames of RFC 6455.
//! * [`csv`] reads samples in columns of text.
//! * [`snappy`], [`gzip`] and [`zstd`] inflate under a cap; [`inflating`] inflates what flows.
//! * [`points`] counts metric points: a histogram of twelve samples is one.

pub mod csv;
mod error;
mod escaping;
mod format;
pub mod graphite;
pub mod gzip;
pub mod inflating;
pub mod influx;
mod line_error;
mod native;
mod number;
pub mod openmetrics;
pub mod otlp;
mod parser;
pub mod points;
mod proto;
pub mod protobuf;
pub mod remote_write;
pub mod scrape;
mod series;
pub mod snappy;
pub mod statsd;
mod text;
pub mod tsdb;
pub mod websocket;
pub mod zstd;

pub use error::ParseError;
pub use escaping::Escaping;
pub use format::Format;
pub use line_error::{LineError, legacy_name};
pub use number::{format_openmetrics_float, parse_go_float};
pub use parser::{Entry, Parser, RawExemplar, check};
pub use scrape::BodyParser;
pub use series::{normalize_float_label, series_labels, series_name};
