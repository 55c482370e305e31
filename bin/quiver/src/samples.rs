//! `quiver export` and `quiver quality`: samples of a running server, stretch by stretch, to `quiver-analytics` here.
//!
//! The server answers SQL with Arrow; a stretch that is too large for one answer is halved. The program here keeps little
//! in memory however many stretches there are.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};

use jiff::Timestamp;
use serde_json::Value;

use crate::args::{ExportArgs, Output, QualityArgs, SamplesArgs};
use crate::query::time_ms;
use crate::{Failure, sql, table};

const HOUR_MS: i64 = 3_600_000;
/// A stretch is not cut shorter.
const STRETCH_MS_MIN: i64 = 1_000;
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Writes samples into a folder.
pub fn export(args: &ExportArgs) -> Result<ExitCode, Failure> {
    let folder = std::path::absolute(&args.folder).unwrap_or_else(|_| args.folder.clone());
    let io = |e: std::io::Error| Failure::failed(format!("{}: {e}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(io)?;
    if std::fs::read_dir(&folder).map_err(io)?.next().is_some() {
        return Err(Failure::usage(format!(
            "{} is not empty: an export goes into a folder of its own",
            folder.display()
        )));
    }
    let mut worker = Worker::start(&args.samples, &["export", "--out", &folder.to_string_lossy()])?;
    for hour in hours(&args.samples)? {
        fetch(&args.samples, "metrics_ts", hour, &mut |stream| worker.send(b"samples", stream))?;
    }
    let done = worker.finish()?;
    if args.samples.server.output == Output::Json {
        println!("{done}");
    } else {
        println!("{} samples in {} files below {}", done["rows"], done["files"], folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Reports on samples.
pub fn quality(args: &QualityArgs) -> Result<ExitCode, Failure> {
    let worst = args.worst.to_string();
    let mut worker = Worker::start(&args.samples, &["quality", "--worst", &worst])?;
    for hour in hours(&args.samples)? {
        for view in ["stale_ts", "metrics_ts"] {
            fetch(&args.samples, view, hour, &mut |stream| worker.send(view.as_bytes(), stream))?;
        }
    }
    let report = worker.finish()?;
    if args.samples.server.output == Output::Json {
        println!("{report}");
        return Ok(ExitCode::SUCCESS);
    }
    for name in
        ["series", "samples", "duplicates", "nan", "infinite", "stale", "series_with_gaps", "gaps", "untyped_series"]
    {
        println!("{:<18}{}", name.replace('_', " "), report[name]);
    }
    let rows: Vec<Vec<String>> = report["worst"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            let cell = |name: &str| match &row[name] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            ["series", "samples", "interval_s", "gaps", "longest_gap_s", "nan", "stale"].map(cell).to_vec()
        })
        .collect();
    if !rows.is_empty() {
        table::print(&["Series", "Samples", "Interval s", "Gaps", "Longest s", "NaN", "Stale"], rows);
    }
    Ok(ExitCode::SUCCESS)
}

/// Cuts the time that is asked for at full hours.
fn hours(args: &SamplesArgs) -> Result<Vec<(i64, i64)>, Failure> {
    let now_ms = Timestamp::now().as_millisecond();
    let (start_ms, end_ms) = (time_ms(&args.start, now_ms)?, time_ms(&args.end, now_ms)?);
    if start_ms >= end_ms {
        return Err(Failure::usage("--start is not before --end"));
    }
    let mut out = Vec::new();
    let mut at = start_ms;
    while at < end_ms {
        let next = (at.div_euclid(HOUR_MS) + 1).saturating_mul(HOUR_MS).min(end_ms);
        out.push((at, next));
        at = next;
    }
    Ok(out)
}

/// Asks for a stretch of time; halves it where it is too much for one answer.
fn fetch(
    args: &SamplesArgs,
    view: &str,
    (start_ms, end_ms): (i64, i64),
    take: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let quoted: Vec<String> = args.metric.iter().map(|name| format!("'{}'", name.replace('\'', "''"))).collect();
    let named = if quoted.is_empty() { String::new() } else { format!(" AND metric_name IN ({})", quoted.join(", ")) };
    let statement = format!(
        "SELECT * REPLACE (epoch_ms(\"timestamp\") AS \"timestamp\", CAST(labels AS VARCHAR) AS labels) FROM {view} \
         WHERE \"timestamp\" >= make_timestamptz({start_ms}000) AND \"timestamp\" < make_timestamptz({end_ms}000){named}"
    );
    let answer = sql::ask(&args.server, &statement, "arrow")?;
    if answer.status.is_success() {
        return take(&answer.body);
    }
    let code = answer.json().ok().and_then(|problem| problem["code"].as_str().map(str::to_owned)).unwrap_or_default();
    let too_much = ["sql_too_large", "sql_needs_a_bound", "sql_memory", "sql_timeout", "sql_limit"].contains(&&*code);
    if !too_much || end_ms - start_ms <= STRETCH_MS_MIN {
        answer.success()?;
        return Ok(());
    }
    let middle = start_ms + (end_ms - start_ms) / 2;
    fetch(args, view, (start_ms, middle), take)?;
    fetch(args, view, (middle, end_ms), take)
}

/// The program here.
struct Worker {
    child: Child,
}

impl Worker {
    fn start(args: &SamplesArgs, words: &[&str]) -> Result<Worker, Failure> {
        let program = server::sql::program::find(args.analytics.as_deref()).map_err(Failure::failed)?;
        let child = Command::new(&program)
            .args(words)
            .env("POLARS_MAX_THREADS", "2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let child = child.map_err(|e| Failure::failed(format!("{} cannot be started: {e}", program.display())))?;
        Ok(Worker { child })
    }

    fn send(&mut self, name: &[u8], stream: &[u8]) -> Result<(), Failure> {
        let name_len = [u8::try_from(name.len()).unwrap_or(0)];
        self.frame(b'T', &[&name_len, name, stream])
    }

    fn frame(&mut self, kind: u8, parts: &[&[u8]]) -> Result<(), Failure> {
        let gone = |e: std::io::Error| Failure::failed(format!("quiver-analytics does not go on: {e}"));
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(len).map_err(|_| Failure::failed("an answer of more than 4 GiB"))?;
        let stdin = self.child.stdin.as_mut().ok_or_else(|| Failure::failed("quiver-analytics has no input"))?;
        stdin.write_all(&[kind]).and_then(|()| stdin.write_all(&len.to_le_bytes())).map_err(gone)?;
        parts.iter().try_for_each(|part| stdin.write_all(part)).and_then(|()| stdin.flush()).map_err(gone)
    }

    /// Says that all has been sent, and reads what came of it.
    fn finish(mut self) -> Result<Value, Failure> {
        self.frame(b'G', &[])?;
        drop(self.child.stdin.take());
        let mut answer = Vec::new();
        if let Some(stdout) = self.child.stdout.take() {
            let read = stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
            read.map_err(|e| Failure::failed(format!("quiver-analytics: {e}")))?;
        }
        let status = self.child.wait().map_err(|e| Failure::failed(format!("quiver-analytics: {e}")))?;
        if !status.success() {
            return Err(Failure::failed(format!("quiver-analytics ended with {status}")));
        }
        serde_json::from_slice(&answer).map_err(|e| Failure::failed(format!("quiver-analytics answers no JSON: {e}")))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Already ended is fine here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_cut_at_full_hours() {
        let args = |start: &str, end: &str| SamplesArgs {
            start: start.to_owned(),
            end: end.to_owned(),
            metric: Vec::new(),
            analytics: None,
            server: crate::args::ServerArgs {
                server: String::new(),
                output: Output::Json,
                ca_file: None,
                token_file: None,
            },
        };
        let cut = hours(&args("3599", "7201")).unwrap();
        assert_eq!(cut, [(3_599_000, 3_600_000), (3_600_000, 7_200_000), (7_200_000, 7_201_000)]);
        assert_eq!(hours(&args("10", "10")).unwrap_err().code, 2);
    }
}
