//! `quiver sql`: one SELECT to a running server.

use std::io::Write;
use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use crate::args::{Output, ServerArgs, SqlArgs};
use crate::client::Answer;
use crate::{Failure, client, table};

/// Asks and prints.
pub fn run(args: &SqlArgs) -> Result<ExitCode, Failure> {
    let format = args.format.as_deref().unwrap_or("json");
    let answer = ask(&args.server, &args.statement, format)?.success()?;
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
pub fn ask(server: &ServerArgs, statement: &str, format: &str) -> Result<Answer, Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    #[test]
    fn who_asks_is_told_to_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, "qv_of_a_file\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = ServerArgs {
            server: format!("http://{}", listener.local_addr().unwrap()),
            output: Output::Json,
            ca_file: None,
            token_file: Some(token_file),
        };
        let heard = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(socket.try_clone().unwrap()).lines().map(Result::unwrap);
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").unwrap();
            head
        });
        ask(&server, "SELECT 1", "json").unwrap().success().unwrap();
        let head = heard.join().unwrap();
        assert!(head.iter().any(|line| line.eq_ignore_ascii_case("authorization: Bearer qv_of_a_file")), "{head:?}");
        let missing = ServerArgs { token_file: Some(folder.path().join("none")), ..server };
        assert!(ask(&missing, "SELECT 1", "json").unwrap_err().text.contains("token"));
    }
}
