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
            let answer = client::send(Method::DELETE, &server.server, &one(target_id, ""), None)?.success()?;
            show(server, &answer, |value| {
                let undo = value["undo_until"].as_str().unwrap_or("shortly");
                println!("Removed {target_id}. Its samples are kept. It can be restored until {undo}:");
                println!("  curl -X POST {}{}", server.server.trim_end_matches('/'), one(target_id, "/restore"));
            })
        }
        TargetsCommand::Scrape { target_id } => {
            let answer = client::send(Method::POST, &server.server, &one(target_id, "/scrape"), None)?.success()?;
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
    let answer = client::send(Method::GET, &server.server, &format!("{TARGETS}{query}"), None)?.success()?;
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
    let answer = client::send(Method::POST, &server.server, &path, Some(body))?.success()?;
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
        let (name, value) = label
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("--label wants NAME=VALUE, not {label:?}")))?;
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

/// Prints every plain member of a scrape report, and its errors.
fn print_report(report: &Value) {
    let rows: Vec<Vec<String>> = report
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, v)| !v.is_null())
        .map(|(k, v)| vec![k.clone(), text(v)])
        .collect();
    table::print(&["First scrape", ""], rows);
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
