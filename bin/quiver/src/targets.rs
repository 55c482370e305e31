//! `quiver targets`: list, add, remove, scrape.

use std::process::ExitCode;

use hyper::Method;
use serde_json::{Map, Value, json};

use crate::args::{AddArgs, Output, ServerArgs, TargetsArgs, TargetsCommand};
use crate::{Failure, client, table};

const TARGETS: &str = "/api/v1/metrics/targets";

/// Does what was asked.
pub fn run(args: &TargetsArgs) -> Result<ExitCode, Failure> {
    let server = &args.server;
    match &args.command {
        TargetsCommand::List { health } => list(server, health.as_deref()),
        TargetsCommand::Add(add) => register(server, add),
        TargetsCommand::Rm { target_id } => {
            let answer = client::send(Method::DELETE, server, &one(target_id, ""), None)?.success()?;
            show(server, &answer, |value| {
                let undo = value["undo_until"].as_str().unwrap_or("shortly");
                println!("Removed {target_id}. Its samples are kept. It can be restored until {undo}:");
                println!("  curl -X POST {}{}", server.server.trim_end_matches('/'), one(target_id, "/restore"));
            })
        }
        TargetsCommand::Scrape { target_id } => {
            let answer = client::send(Method::POST, server, &one(target_id, "/scrape"), None)?.success()?;
            show(server, &answer, print_report)
        }
    }
}

fn one(target_id: &str, rest: &str) -> String {
    let id: String = url::form_urlencoded::byte_serialize(target_id.as_bytes()).collect();
    format!("{TARGETS}/{}{rest}", id.replace('+', "%20"))
}

fn list(server: &ServerArgs, health: Option<&str>) -> Result<ExitCode, Failure> {
    let query = health.map_or(String::new(), |h| format!("?{}", client::form(&[("health", h)])));
    let answer = client::send(Method::GET, server, &format!("{TARGETS}{query}"), None)?.success()?;
    show(server, &answer, |value| {
        let rows: Vec<Vec<String>> = value.as_array().into_iter().flatten().map(row).collect();
        if rows.is_empty() {
            println!("No targets. Add one: quiver targets add http://localhost:9100/metrics");
        } else {
            table::print(&["Target", "URL", "Health", "Last scrape", "Took", "Samples", "Last error"], rows);
        }
    })
}

fn row(target: &Value) -> Vec<String> {
    let took = target["scrape_duration_ms"].as_f64().map_or(String::new(), |ms| format!("{ms:.1} ms"));
    vec![
        text(&target["target_id"]),
        text(&target["target_url"]),
        text(&target["health_status"]),
        text(&target["last_scrape"]),
        took,
        text(&target["samples_scraped"]),
        text(&target["last_error"]),
    ]
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn register(server: &ServerArgs, add: &AddArgs) -> Result<ExitCode, Failure> {
    let body = request(add)?;
    let path = if add.dry_run { format!("{TARGETS}?dry_run=true") } else { TARGETS.to_owned() };
    let body = ("application/json", body.to_string().into_bytes());
    let answer = client::send(Method::POST, server, &path, Some(body))?.success()?;
    let created = answer.status.as_u16() == 201;
    show(server, &answer, |value| {
        if !add.dry_run {
            let id = text(&value["target_id"]);
            println!("{} {}.", if created { "Registered" } else { "Already registered:" }, table::clean(&id));
        }
        if !value["first_scrape"].is_null() {
            print_report(&value["first_scrape"]);
        }
    })
}

fn request(add: &AddArgs) -> Result<Value, Failure> {
    let mut labels = Map::new();
    for label in &add.labels {
        let (name, value) =
            label.split_once('=').ok_or_else(|| Failure::usage(format!("--label wants NAME=VALUE, not {label:?}")))?;
        labels.insert(name.to_owned(), json!(value));
    }
    let mut scrape = Map::new();
    scrape.insert("target_url".to_owned(), json!(add.url));
    if let Some(interval) = &add.interval {
        scrape.insert("scrape_interval".to_owned(), json!(interval));
    }
    if let Some(timeout) = &add.timeout {
        scrape.insert("scrape_timeout".to_owned(), json!(timeout));
    }
    let mut body = json!({"source_id": add.source_id, "collection_method": "PULL_SCRAPING", "scrape_config": scrape});
    if let Some(id) = &add.target_id {
        body["target_id"] = json!(id);
    }
    if !labels.is_empty() {
        body["labels"] = Value::Object(labels);
    }
    Ok(body)
}

/// Prints what a person wants to know of a first scrape; `--output json` has the rest.
fn print_report(report: &Value) {
    table::print(&["First scrape", ""], report_rows(report));
}

fn report_rows(report: &Value) -> Vec<Vec<String>> {
    let number = |key: &str| report[key].as_u64().unwrap_or(0);
    let mut rows = Vec::new();
    let mut row = |what: &str, value: String| {
        if !value.is_empty() {
            rows.push(vec![what.to_owned(), value]);
        }
    };
    row("Result", if report["ok"] == true { "good".to_owned() } else { "failed".to_owned() });
    row("Error", text(&report["error"]));
    for error in report["parse_errors"].as_array().into_iter().flatten() {
        let place = format!("line {}, column {}: ", text(&error["line"]), text(&error["column"]));
        row("Error", format!("{place}{} near {}", text(&error["message"]), text(&error["text"])));
    }
    row("Address", text(&report["address"]));
    row("Format", text(&report["format"]));
    row("Size", format!("{} bytes, {} on the wire", number("bytes"), number("bytes_wire")));
    row("Took", format!("{} ms", number("duration_ms")));
    let series = format!("{} ({} samples)", number("series"), number("samples"));
    row("Series", with_parts(series, &report["series_by_type"]));
    row("Not stored", with_parts(String::new(), &report["balance"]["rejected_by_reason"]));
    let top = report["top_labels"].as_array().into_iter().flatten().take(5);
    let top: Vec<String> = top.map(|l| format!("{} {}", text(&l["name"]), text(&l["values"]))).collect();
    row("Label values", top.join(", "));
    rows
}

/// Adds the members of an object of numbers: `250 (250 samples): counter 90, gauge 40`.
fn with_parts(head: String, parts: &Value) -> String {
    let parts: Vec<String> = parts.as_object().into_iter().flatten().map(|(k, v)| format!("{k} {}", text(v))).collect();
    match (head.is_empty(), parts.is_empty()) {
        (_, true) => head,
        (true, false) => parts.join(", "),
        (false, false) => format!("{head}: {}", parts.join(", ")),
    }
}

fn show(server: &ServerArgs, answer: &client::Answer, people: impl FnOnce(&Value)) -> Result<ExitCode, Failure> {
    let value = answer.json()?;
    if server.output == Output::Json {
        println!("{value}");
    } else {
        people(&value);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_scrape_reads_as_sentences() {
        let report = json!({
            "ok": false, "error": "syntax", "bytes": 120, "bytes_wire": 80, "duration_ms": 3, "series": 2, "samples": 2,
            "parse_errors": [{"line": 3, "column": 4, "message": "no value", "text": "b{x"}],
            "series_by_type": {"counter": 2}, "balance": {"rejected_by_reason": {"too_new": 1}}, "top_labels": []
        });
        let lines: Vec<String> = report_rows(&report).into_iter().map(|r| r.join(": ")).collect();
        assert!(lines.contains(&"Error: line 3, column 4: no value near b{x".to_owned()), "{lines:?}");
        assert!(lines.contains(&"Series: 2 (2 samples): counter 2".to_owned()), "{lines:?}");
        assert!(lines.contains(&"Not stored: too_new 1".to_owned()), "{lines:?}");
        assert!(!lines.iter().any(|l| l.starts_with("Label values")), "{lines:?}");
    }

    #[test]
    fn a_registration_holds_what_was_given() {
        let add = AddArgs {
            url: "localhost:9100".into(),
            source_id: "node".into(),
            target_id: Some("n1".into()),
            interval: Some("5s".into()),
            timeout: None,
            labels: vec!["env=prod=eu".into()],
            dry_run: false,
        };
        let body = request(&add).unwrap();
        assert_eq!(body["scrape_config"], json!({"target_url": "localhost:9100", "scrape_interval": "5s"}));
        assert_eq!(body["labels"], json!({"env": "prod=eu"}));
        assert_eq!(body["target_id"], "n1");
        let bad = AddArgs { labels: vec!["x".into()], ..add };
        assert_eq!(request(&bad).unwrap_err().code, 2);
    }

    #[test]
    fn ids_are_escaped_in_paths() {
        assert_eq!(one("a b/c", "/scrape"), "/api/v1/metrics/targets/a%20b%2Fc/scrape");
    }
}
