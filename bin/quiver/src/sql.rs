//! `quiver sql`: one SELECT to a running server.

use std::io::Write;
use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use crate::args::{Output, SqlArgs};
use crate::client::Answer;
use crate::{Failure, client, table};

/// Asks and prints.
pub fn run(args: &SqlArgs) -> Result<ExitCode, Failure> {
    let format = args.format.as_deref().unwrap_or("json");
    let answer = ask(&args.server.server, &args.statement, format)?.success()?;
    if let Some(path) = &args.out {
        std::fs::write(path, &answer.body).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.format.is_some() || args.server.output == Output::Json {
        let mut out = std::io::stdout();
        let end: &[u8] = if format == "json" { b"\n" } else { b"" };
        let written = out.write_all(&answer.body).and_then(|()| out.write_all(end));
        written.map_err(|e| Failure::failed(format!("the answer cannot be printed: {e}")))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&answer.json()?);
    Ok(ExitCode::SUCCESS)
}

/// Sends a statement.
pub fn ask(server: &str, statement: &str, format: &str) -> Result<Answer, Failure> {
    let path = format!("/api/v1/metrics/sql?format={format}");
    let body = ("application/sql", statement.as_bytes().to_vec());
    client::send(Method::POST, server, &path, Some(body))
}

fn print(answer: &Value) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let names: Vec<String> =
        list(&answer["columns"]).iter().map(|c| table::clean(c["name"].as_str().unwrap_or_default())).collect();
    let head: Vec<&str> = names.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> = list(&answer["rows"]).iter().map(|row| list(row).iter().map(text).collect()).collect();
    if rows.is_empty() {
        println!("No rows.");
    } else {
        table::print(&head, rows);
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
