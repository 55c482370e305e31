//! End-to-end tests: the real binary beside the real programs it has to work with.
//!
//! Everything listens on loopback, on free ports, in temporary folders, and is stopped by pid.
//! A program that is missing fails the run: `scripts/setup test` installs them.

mod access;
mod admin;
mod announce;
mod backing;
mod bad_input;
mod beside_tls;
#[path = "../../../../tests/support/child.rs"]
mod child;
mod cloud;
mod collectors;
mod deploy;
mod differential;
mod exploding;
mod exporters;
mod filters;
mod hostile;
mod hostile_queries;
mod kill;
mod lines;
mod live;
mod main_job;
#[path = "../../../../tests/support/nats.rs"]
mod nats;
mod otlp;
#[path = "../../../../tests/support/postgres.rs"]
mod postgres;
mod prometheus_api;
mod promises;
mod promtool;
mod push;
mod read;
mod readme;
#[path = "../../../../tests/support/redis.rs"]
mod redis;
mod remote;
mod remote_senders;
mod remote_v2;
mod rules;
mod scrape_protobuf;
mod selftest;
mod sink_places;
mod sink_queries;
mod sinks;
mod sql;
mod sql_process;
mod sql_views;
mod streams;
mod support;
mod telemetry;
mod toxic;
mod uploads;
