//! `quiver query`: PromQL to a running server.

use std::process::ExitCode;

use hyper::Method;
use jiff::Timestamp;
use serde_json::Value;

use crate::args::{Output, QueryArgs};
use crate::{Failure, client, table};

/// Points of a range when no step is given.
const POINTS: i64 = 60;

/// Asks and prints.
pub fn run(args: &QueryArgs) -> Result<ExitCode, Failure> {
    let now_ms = Timestamp::now().as_millisecond();
    let mut params = vec![("query", args.expr.clone())];
    let path = if let Some(start) = &args.start {
        let start_ms = time_ms(start, now_ms)?;
        let end_ms = args.end.as_deref().map_or(Ok(now_ms), |t| time_ms(t, now_ms))?;
        let step = args.step.clone().unwrap_or_else(|| seconds(((end_ms - start_ms) / POINTS).max(1000)));
        params.extend([("start", seconds(start_ms)), ("end", seconds(end_ms)), ("step", step)]);
        "/api/v1/query_range"
    } else {
        if let Some(time) = &args.time {
            params.push(("time", seconds(time_ms(time, now_ms)?)));
        }
        "/api/v1/query"
    };
    if let Some(timeout) = &args.timeout {
        params.push(("timeout", timeout.clone()));
    }
    let pairs: Vec<(&str, &str)> = params.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let body = ("application/x-www-form-urlencoded", client::form(&pairs).into_bytes());
    let answer = client::send(Method::POST, &args.server, path, Some(body))?.success()?;
    if args.server.output == Output::Json {
        println!("{}", String::from_utf8_lossy(&answer.body));
        return Ok(ExitCode::SUCCESS);
    }
    print(&answer.json()?);
    Ok(ExitCode::SUCCESS)
}

fn print(answer: &Value) {
    for note in ["warnings", "infos"] {
        for text in answer[note].as_array().into_iter().flatten().filter_map(Value::as_str) {
            eprintln!("{}: {}", note.trim_end_matches('s'), table::clean(text));
        }
    }
    let result = &answer["data"]["result"];
    match answer["data"]["resultType"].as_str().unwrap_or("") {
        "scalar" | "string" => println!("{}", table::clean(result[1].as_str().unwrap_or(""))),
        "vector" => {
            let rows = series(result).map(|s| vec![name(&s["metric"]), text(&s["value"][1]), time(&s["value"][0])]);
            print_rows(&["Series", "Value", "Time"], rows.collect());
        }
        _ => {
            let rows = series(result).flat_map(|s| {
                let points = s["values"].as_array().map_or(&[][..], Vec::as_slice);
                points.iter().map(|p| vec![name(&s["metric"]), time(&p[0]), text(&p[1])]).collect::<Vec<_>>()
            });
            print_rows(&["Series", "Time", "Value"], rows.collect());
        }
    }
}

fn series(result: &Value) -> impl Iterator<Item = &Value> {
    result.as_array().into_iter().flatten()
}

fn print_rows(head: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        println!("No series match.");
    } else {
        table::print(head, rows);
    }
}

/// Writes a label set the way PromQL does.
fn name(metric: &Value) -> String {
    let Some(labels) = metric.as_object() else { return String::new() };
    let name = labels.get("__name__").and_then(Value::as_str).unwrap_or("");
    let pairs: Vec<String> = labels
        .iter()
        .filter(|(k, _)| *k != "__name__")
        .map(|(k, v)| format!("{k}={:?}", v.as_str().unwrap_or("")))
        .collect();
    if pairs.is_empty() && !name.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", pairs.join(", ")) }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

fn time(value: &Value) -> String {
    let ms = value.as_f64().unwrap_or(0.0) * 1000.0;
    Timestamp::from_millisecond(ms.round() as i64).map_or_else(|_| value.to_string(), |t| t.to_string())
}

/// Reads Unix seconds, RFC 3339, `now`, or a duration before now; gives milliseconds.
pub fn time_ms(text: &str, now_ms: i64) -> Result<i64, Failure> {
    let bare = text.strip_prefix('-').unwrap_or(text);
    if text == "now" {
        return Ok(now_ms);
    }
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.abs() < 1e13
    {
        return Ok((seconds * 1000.0).round() as i64);
    }
    if let Ok(t) = text.parse::<Timestamp>() {
        return Ok(t.as_millisecond());
    }
    if let Some(ago) = duration_ms(bare) {
        return Ok(now_ms.saturating_sub(ago));
    }
    Err(Failure::usage(format!("{text:?} is not a time: give Unix seconds, RFC 3339, or a duration before now (5m)")))
}

fn duration_ms(text: &str) -> Option<i64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let number: i64 = text[..unit_at].parse().ok()?;
    let unit = match &text[unit_at..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        "y" => 31_536_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Writes milliseconds as Unix seconds.
pub fn seconds(ms: i64) -> String {
    format!("{}{}.{:03}", if ms < 0 { "-" } else { "" }, ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_all_spellings() {
        let now = 1_000_000;
        for (text, ms) in [
            ("now", now),
            ("5m", now - 300_000),
            ("-5m", now - 300_000),
            ("12.5", 12_500),
            ("1970-01-01T00:00:01Z", 1000),
        ] {
            assert_eq!(time_ms(text, now).unwrap(), ms, "{text}");
        }
        assert_eq!(time_ms("yesterday", now).unwrap_err().code, 2);
        assert_eq!(seconds(-1500), "-1.500");
    }

    #[test]
    fn label_sets_print_as_promql() {
        let metric = serde_json::json!({"__name__": "up", "job": "n\"x"});
        assert_eq!(name(&metric), "up{job=\"n\\\"x\"}");
        assert_eq!(name(&serde_json::json!({"__name__": "up"})), "up");
        assert_eq!(name(&serde_json::json!({})), "{}");
    }
}
