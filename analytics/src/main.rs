//! The analytics process: SQL by DuckDB and tables by Polars over the samples of a Quiver server, apart from it.
//!
//! `sql` answers one query over its pipes and ends; the server starts it. `export` and `quality` take samples over their
//! input; the `quiver` commands of the same names start them. `clean` works on the tables of uploads; the server starts it. Each locks itself in before it reads a word; see `sandbox.rs`.

mod answer;
mod clean;
mod database;
mod export;
mod frames;
mod needs;
mod quality;
mod query;
mod sandbox;
mod statement;
mod stretches;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use sandbox::Limits;

const USAGE: &str = "\
Usage: quiver-analytics sql --readable DIR --memory BYTES --cpu SECONDS
       quiver-analytics export --out DIR
       quiver-analytics quality --worst N
       quiver-analytics clean --memory BYTES --cpu SECONDS
       quiver-analytics --version
The server and the commands of quiver start it; put it beside the quiver binary.";
/// For work on stretches of samples, each of which is one answer of the server.
const STRETCHES_MEMORY_BYTES: u64 = 2 << 30;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match &words[..] {
        ["sql", options @ ..] => sql(options),
        ["export", options @ ..] => run_export(options),
        ["quality", options @ ..] => run_quality(options),
        ["clean", options @ ..] => run_clean(options),
        ["--version"] => {
            println!("quiver-analytics {} (DuckDB 1.5.6)", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("quiver-analytics: {why}");
            ExitCode::FAILURE
        }
    }
}

fn sql(options: &[&str]) -> Result<(), String> {
    let readable = PathBuf::from(option(options, "--readable")?);
    let number = |name| option(options, name)?.parse().map_err(|_| format!("{name} takes a number"));
    let limits = Limits { memory_bytes: number("--memory")?, cpu_seconds: Some(number("--cpu")?) };
    // DuckDB looks at its control group when it opens, and gives up where it may not. Nothing has been asked by then.
    let database = database::Database::open(&readable, limits.memory_bytes).map_err(|e| e.to_string())?;
    sandbox::enter(Some(&readable), None, &limits)?;
    watch::end_with_the_reader().map_err(|e| format!("cannot watch for the server: {e}"))?;
    query::run(&database).map_err(|e| e.to_string())
}

fn run_export(options: &[&str]) -> Result<(), String> {
    let folder = PathBuf::from(option(options, "--out")?);
    let limits = Limits { memory_bytes: STRETCHES_MEMORY_BYTES, cpu_seconds: None };
    sandbox::enter(None, Some(&folder), &limits)?;
    let mut export = export::Export::new(folder);
    stretches::each(&mut std::io::stdin(), |_, table| export.add(table))?;
    println!("{}", export.summary());
    Ok(())
}

fn run_quality(options: &[&str]) -> Result<(), String> {
    let worst = option(options, "--worst")?.parse().map_err(|_| "--worst takes a number")?;
    let limits = Limits { memory_bytes: STRETCHES_MEMORY_BYTES, cpu_seconds: None };
    sandbox::enter(None, None, &limits)?;
    let mut report = quality::Report::default();
    stretches::each(&mut std::io::stdin(), |name, table| match name {
        "stale_ts" => report.note_stale(&table),
        _ => report.add(table),
    })?;
    println!("{}", report.finish(worst));
    Ok(())
}

fn run_clean(options: &[&str]) -> Result<(), String> {
    let number = |name| option(options, name)?.parse().map_err(|_| format!("{name} takes a number"));
    let limits = Limits { memory_bytes: number("--memory")?, cpu_seconds: Some(number("--cpu")?) };
    sandbox::enter(None, None, &limits)?;
    watch::end_with_the_reader().map_err(|e| format!("cannot watch for the server: {e}"))?;
    clean::run(&mut std::io::stdin().lock(), &mut std::io::stdout().lock()).map_err(|e| e.to_string())
}

fn option<'a>(options: &[&'a str], name: &str) -> Result<&'a str, String> {
    let pair = options.chunks(2).find(|pair| pair.first() == Some(&name));
    pair.and_then(|pair| pair.get(1)).copied().ok_or_else(|| format!("{name} is missing; {USAGE}"))
}
