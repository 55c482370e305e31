//! `quiver import`: brings samples of the past to a running server.

mod file;
mod prometheus;

use std::process::ExitCode;

use crate::Failure;
use crate::args::{ImportArgs, ImportCommand};

/// Imports a file, or a Prometheus.
pub fn run(args: &ImportArgs) -> Result<ExitCode, Failure> {
    match (&args.command, &args.file) {
        (Some(ImportCommand::Prometheus { dir }), _) => prometheus::run(dir, &args.server),
        (None, Some(file)) => file::run(file, args),
        (None, None) => Err(Failure::usage("name a file, or `prometheus DIR`")),
    }
}
