//! `quiver integrity`: the ledger of a running server as a table; and its scrubber on demand.

use std::process::ExitCode;

use hyper::Method;
use jiff::Timestamp;
use serde_json::Value;

use crate::args::{IntegrityArgs, IntegrityCommand, Output};
use crate::query::{seconds, time_ms};
use crate::{Failure, client, table};

const PATH: &str = "/api/v1/metrics/integrity";
const HEAD: [&str; 10] = [
    "Target",
    "Received",
    "Accepted",
    "Duplicates",
    "Filtered",
    "Rejected",
    "Scrapes",
    "Lost",
    "Integrity",
    "Missing because",
];

/// Asks and prints. Exit code 1 when the ledger does not balance.
pub fn run(args: &IntegrityArgs) -> Result<ExitCode, Failure> {
    if let Some(IntegrityCommand::Scrub) = args.command {
        return scrub(args);
    }
    let now_ms = Timestamp::now().as_millisecond();
    let mut params = Vec::new();
    for (name, text) in [("from", &args.from), ("to", &args.to)] {
        if let Some(text) = text {
            params.push((name, seconds(time_ms(text, now_ms)?)));
        }
    }
    for (name, text) in [("target_id", &args.target_id), ("source_id", &args.source_id)] {
        params.extend(text.iter().map(|t| (name, t.clone())));
    }
    let pairs: Vec<(&str, &str)> = params.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let path = format!("{PATH}?{}", client::form(&pairs));
    let report = client::send(Method::GET, &args.server, &path, None)?.success()?.json()?;
    if args.server.output == Output::Json {
        println!("{report}");
    } else {
        print(&report);
    }
    Ok(if report["balanced"] == true { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn scrub(args: &IntegrityArgs) -> Result<ExitCode, Failure> {
    let path = format!("{PATH}/scrub");
    let answer = client::send(Method::POST, &args.server, &path, None)?.success()?.json()?;
    if args.server.output == Output::Json {
        println!("{answer}");
    } else {
        println!("All blocks are being read again. `quiver integrity` shows what is found.");
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Value) {
    let rows: Vec<Vec<String>> = report["targets"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        println!("Nothing came in between {} and {}.", text(&report["from"]), text(&report["to"]));
    } else {
        table::print(&HEAD, rows);
    }
    notes(report).iter().for_each(|note| println!("{}", table::clean(note)));
}

fn row(target: &Value) -> Vec<String> {
    let scrapes = &target["scrapes"];
    let scraped = |key: &str| if scrapes.is_null() { String::new() } else { text(&scrapes[key]) };
    let of =
        if scrapes.is_null() { String::new() } else { format!("{} of {}", scraped("stored"), scraped("expected")) };
    vec![
        text(&target["target_id"]),
        text(&target["received"]),
        text(&target["accepted"]),
        text(&target["duplicates"]),
        text(&target["filtered"]),
        parts(text(&target["rejected"]), &target["rejected_by_reason"]),
        of,
        scraped("lost"),
        percent(&target["integrity_percent"]),
        parts(String::new(), &scrapes["missing_by_cause"]),
    ]
}

fn notes(report: &Value) -> Vec<String> {
    let balanced = if report["balanced"] == true { "balances" } else { "DOES NOT BALANCE" };
    let all = &report["lifetime"];
    let mut notes = vec![
        format!("From {} to {}.", text(&report["counted_from"]), text(&report["counted_to"])),
        format!(
            "Integrity {} (promised {}), delivered {}.",
            percent(&report["integrity_percent"]),
            percent(&report["promised_percent"]),
            percent(&report["delivered_percent"])
        ),
        format!(
            "The ledger {balanced}: {} received = {} accepted + {} duplicates + {} filtered + {} rejected, since the data \
             directory was made.",
            text(&all["received"]),
            text(&all["accepted"]),
            text(&all["duplicates"]),
            text(&all["filtered"]),
            text(&all["rejected"])
        ),
    ];
    let troubles = parts(String::new(), &report["durability"]);
    notes.push(match troubles.is_empty() {
        true => "No damage was ever found.".to_owned(),
        false => format!("Found damaged or failed: {troubles}."),
    });
    notes
        .extend(report["scrub"]["findings"].as_array().into_iter().flatten().map(|f| format!("Scrubber: {}", text(f))));
    notes
}

/// Adds the members of an object of numbers that are not 0: `6 (too_old 4, too_new 2)`.
fn parts(head: String, object: &Value) -> String {
    let parts: Vec<String> = object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, n)| n.as_u64() != Some(0))
        .map(|(name, n)| format!("{name} {}", text(n)))
        .collect();
    match (head.is_empty(), parts.is_empty()) {
        (_, true) => head,
        (true, false) => parts.join(", "),
        (false, false) => format!("{head} ({})", parts.join(", ")),
    }
}

/// Never rounds a loss away: 99.9999 is not 100.
fn percent(value: &Value) -> String {
    let value = value.as_f64().unwrap_or(0.0);
    let text = format!("{value:.4}");
    let rounded =
        if value < 100.0 && text == "100.0000" { "99.9999" } else { text.trim_end_matches('0').trim_end_matches('.') };
    format!("{rounded} %")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_reads_as_a_table_and_sentences() {
        let target = json!({
            "target_id": "web", "received": 10, "accepted": 7, "duplicates": 1, "filtered": 0, "rejected": 2,
            "rejected_by_reason": {"too_old": 2}, "integrity_percent": 99.999_999,
            "scrapes": {"stored": 8, "expected": 10, "lost": 2, "missing_by_cause": {"restart": 2}}
        });
        let cells = row(&target);
        assert_eq!(cells.len(), HEAD.len());
        assert_eq!(cells[5..], ["2 (too_old 2)", "8 of 10", "2", "99.9999 %", "restart 2"]);
        let pushed = row(&json!({"target_id": "desk", "scrapes": null, "integrity_percent": 100.0}));
        assert_eq!(pushed[6..], ["", "", "100 %", ""]);
        let report = json!({
            "balanced": false, "durability": {"wal_records_torn": 1, "fsync_failures": 0},
            "scrub": {"findings": ["x is damaged"]}
        });
        let notes = notes(&report).join("\n");
        for part in ["DOES NOT BALANCE", "failed: wal_records_torn 1.", "Scrubber: x is damaged"] {
            assert!(notes.contains(part), "{notes}");
        }
    }
}
