//! Bytes per sample of a real node exporter's numbers, in all files of a server that has done its slow work.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Options;
use crate::http::Client;
use crate::measure::now_ms;
use crate::progress::Progress;
use crate::queries::{settle, write};
use crate::remote_body::RemoteBody;
use crate::remote_write::NO_SCRAPES;
use crate::report::Row;
use crate::server::{Kind, Server, free_port};

const EXPORTER: &str = "/usr/bin/prometheus-node-exporter";
const STEP_MS: i64 = 15_000;
/// Between two real scrapes: the machine's numbers must move.
const PAUSE: Duration = Duration::from_millis(60);
const HOUR_MS: i64 = 3_600_000;

/// What was scraped: the labels of each series, and its values, one a scrape.
pub struct Recording {
    series: Vec<Vec<(String, String)>>,
    rows: Vec<Vec<f64>>,
}

/// Scrapes a node exporter so many times; the series of the first scrape that are in all.
pub fn record(scrapes: usize) -> Result<Recording, String> {
    let port = free_port()?;
    let mut exporter = Command::new(EXPORTER)
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("{EXPORTER}: {e}; run scripts/setup bench"))?;
    let recorded = record_from(port, scrapes);
    // It is ours and holds nothing.
    let _ = exporter.kill();
    let _ = exporter.wait();
    recorded
}

fn record_from(port: u16, scrapes: usize) -> Result<Recording, String> {
    let mut client = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        Client::connect(port).ok()
    });
    let client = client.as_mut().ok_or("the node exporter does not answer")?;
    let progress = Progress::start(format!("recording a node exporter, {scrapes} scrapes"));
    let mut names: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for _ in 0..scrapes {
        let body = client.get("/metrics").map_err(|e| e.to_string())?.text();
        let lines: Vec<(&str, f64)> = body.lines().filter_map(parse_line).collect();
        if names.is_empty() {
            names = lines.iter().map(|l| l.0.to_owned()).collect();
        }
        let now: std::collections::HashMap<&str, f64> = lines.into_iter().collect();
        rows.push(names.iter().map(|name| now.get(name.as_str()).copied().unwrap_or(f64::NAN)).collect::<Vec<f64>>());
        progress.add(names.len() as u64);
        std::thread::sleep(PAUSE);
    }
    let whole: Vec<usize> = (0..names.len()).filter(|i| rows.iter().all(|row| !row[*i].is_nan())).collect();
    Ok(Recording {
        series: whole.iter().map(|i| parse_series(&names[*i])).collect(),
        rows: rows.iter().map(|row| whole.iter().map(|i| row[*i]).collect()).collect(),
    })
}

fn parse_line(line: &str) -> Option<(&str, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    Some((series, value.parse().ok()?))
}

/// Reads `name{a="b",...}`; the exporter escapes nothing that matters here.
fn parse_series(text: &str) -> Vec<(String, String)> {
    let (name, rest) = text.split_once('{').unwrap_or((text, ""));
    let mut labels = vec![("__name__".to_owned(), name.to_owned())];
    let mut rest = rest;
    while let Some((label, after)) = rest.split_once("=\"") {
        let Some((value, next)) = after.split_once('"') else { break };
        if !value.is_empty() {
            labels.push((label.trim_start_matches(',').to_owned(), value.to_owned()));
        }
        rest = next;
    }
    labels.push(("instance".to_owned(), "host-00000:9100".to_owned()));
    labels.push(("job".to_owned(), "node".to_owned()));
    labels.sort();
    labels
}

/// Writes the recording as if scraped every 15 s; gives the row.
pub fn run(options: &Options, kind: Kind, recording: &Recording) -> Result<Row, String> {
    let folder = options.folder()?;
    let mut server = Server::start(kind, options, folder.path(), NO_SCRAPES)?;
    let progress = Progress::start(format!("disk, {}: backfill", kind.name()));
    let series = recording.series.iter().cloned().enumerate();
    let mut body = RemoteBody::of(series, now_ms());
    let mut client = server.client()?;
    let end_ms = (now_ms() - HOUR_MS / 4) / HOUR_MS * HOUR_MS;
    let mut ts_ms = end_ms - recording.rows.len() as i64 * STEP_MS;
    let mut samples = 0u64;
    for row in &recording.rows {
        write(&mut client, &server, body.render_with(ts_ms, |n| row.get(n).copied().unwrap_or(0.0)))?;
        samples += row.len() as u64;
        progress.add(row.len() as u64);
        ts_ms += STEP_MS;
    }
    drop(progress);
    let bytes = settle(&mut server)?;
    let mut row = Row::new("disk, a real node exporter every 15 s", kind.name(), kind.version(options));
    row.set("series", recording.series.len() as f64);
    row.set("samples", samples as f64);
    row.set("bytes_per_sample", bytes as f64 / samples as f64);
    if kind.answers_promql() {
        row.set("found", server.found("job=\"node\"")? as f64);
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_an_exporter_become_sorted_labels() {
        let (series, value) = parse_line("node_cpu_seconds_total{mode=\"idle\",cpu=\"0\"} 1.5e3").expect("a sample");
        assert_eq!(value, 1500.0);
        let labels = parse_series(series);
        let names: Vec<&str> = labels.iter().map(|l| l.0.as_str()).collect();
        assert_eq!(names, ["__name__", "cpu", "instance", "job", "mode"]);
        assert_eq!(labels[1].1, "0");
        assert_eq!(parse_line("# HELP x y"), None);
        assert_eq!(parse_series("up").len(), 3);
    }
}
