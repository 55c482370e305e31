//! The server: configuration, HTTP, start-up and shutdown. The only room that knows all others.

pub mod access;
pub mod alerting;
pub mod announce;
pub mod cache;
mod collectors;
pub mod config;
mod filtering;
pub mod lines;
pub mod live;
pub mod memory;
pub mod net;
pub mod observe;
pub mod otlp;
pub mod prom;
pub mod push;
pub mod rejections;
pub mod rest;
pub mod run;
mod sinking;
mod sketch;
pub mod sql;
pub mod stream;
pub mod telemetry;
pub mod upload;
