//! The `quiver` command: flags → configuration → `server::run` → exit code.
//!
//! Exit codes: 0 all went well, 1 it failed, 2 it was asked wrongly.

mod args;
mod blocks;
mod check;
mod client;
mod import;
mod integrity;
mod progress;
mod query;
mod rules;
mod samples;
mod selftest;
mod serve;
mod sql;
mod table;
mod targets;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why a command failed, in words that say what to do next.
#[derive(Debug)]
pub struct Failure {
    /// 1 or 2.
    pub code: u8,
    /// What people read.
    pub text: String,
}

impl Failure {
    /// It was tried and failed.
    pub fn failed(text: impl Into<String>) -> Failure {
        Failure { code: 1, text: text.into() }
    }

    /// It was asked wrongly.
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure { code: 2, text: text.into() }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match cli.command {
        Command::Serve(args) => {
            small_pages();
            serve::run(*args)
        }
        Command::CheckConfig(args) => check::run(&args),
        Command::CheckRules(args) => rules::existing(&args.files).and_then(|()| rules::check(&args)),
        Command::TestRules(args) => rules::existing(&args.files).and_then(|()| rules::test(&args)),
        Command::Query(args) => query::run(&args),
        Command::Sql(args) => sql::run(&args),
        Command::Export(args) => samples::export(&args),
        Command::Quality(args) => samples::quality(&args),
        Command::Targets(args) => targets::run(&args),
        Command::Blocks(args) => blocks::run(&args),
        Command::Snapshot(args) => blocks::snapshot(&args),
        Command::Restore(args) => blocks::restore(&args),
        Command::Import(args) => import::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Integrity(args) => integrity::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "quiver", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => man(),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("quiver: {}", failure.text);
        ExitCode::from(failure.code)
    })
}

/// Asks for pages of 4 KiB: of the huge ones that the allocator asks for otherwise, a third stays empty with many series
/// (`docs/decisions/0018-small-pages.md`).
fn small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!("huge pages stay in use, more memory is taken: {error}");
    }
}

fn man() -> Result<ExitCode, Failure> {
    clap_mangen::Man::new(Cli::command())
        .render(&mut std::io::stdout())
        .map_err(|e| Failure::failed(format!("cannot write the man page: {e}")))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
