//! A file through the upload endpoint: sent in pieces, taken up again where it broke, followed until its samples are stored.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::Failure;
use crate::args::{ImportArgs, Output};
use crate::client::{self, Answer};
use crate::progress::Progress;

const PIECE_BYTES: u64 = 8 << 20;
/// How often a piece is tried before the command gives up.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(300);

/// Imports one file.
pub fn run(path: &Path, args: &ImportArgs) -> Result<ExitCode, Failure> {
    let format = match &args.format {
        Some(format) => format.clone(),
        None => format_of(path)?.to_owned(),
    };
    let unreadable = |e| Failure::failed(format!("cannot read {}: {e}", path.display()));
    let mut file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let gzip = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
    let id = begin(args, &format, length, gzip)?;
    send(&mut file, length, &id, args).map_err(|failure| Failure {
        text: format!("{} (upload {id} keeps what has come for a day)", failure.text),
        ..failure
    })?;
    let status = follow(&id, length, args)?;
    show(&status, args.server.output);
    match status["status"].as_str() {
        Some("DONE") => Ok(ExitCode::SUCCESS),
        _ => Err(Failure::failed(status["error"].as_str().unwrap_or("the upload did not end well"))),
    }
}

/// Tells the format by the name: `samples.csv`, `samples.csv.gz`.
fn format_of(path: &Path) -> Result<&'static str, Failure> {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let endings = [
        (".csv", "csv"),
        (".parquet", "parquet"),
        (".ndjson", "ndjson"),
        (".jsonl", "ndjson"),
        (".json", "ndjson"),
        (".prom", "openmetrics"),
        (".om", "openmetrics"),
        (".txt", "openmetrics"),
    ];
    let found = endings.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| *format);
    found.ok_or_else(|| {
        Failure::usage(format!("{name} does not say its format: give --format csv, parquet, ndjson or openmetrics"))
    })
}

fn begin(args: &ImportArgs, format: &str, length: u64, gzip: bool) -> Result<String, Failure> {
    let mut query = vec![("format", format), ("source_id", args.source_id.as_str())];
    if let Some(columns) = &args.columns {
        query.push(("columns", columns));
    }
    if let Some(clean) = &args.clean {
        query.push(("clean", clean));
    }
    let path = format!("/api/v1/metrics/uploads?{}", client::form(&query));
    let mut headers = vec![("upload-length", length.to_string())];
    if gzip {
        headers.push(("content-encoding", "gzip".to_owned()));
    }
    let answer = client::send_with(Method::POST, &args.server, &path, &headers, Vec::new())?.success()?;
    let id = answer.json()?["upload_id"].as_str().map(str::to_owned);
    id.ok_or_else(|| Failure::failed("the answer names no upload; is this a Quiver server?"))
}

fn send(file: &mut File, length: u64, id: &str, args: &ImportArgs) -> Result<(), Failure> {
    let path = format!("/api/v1/metrics/uploads/{id}");
    let mut progress = Progress::new("sending", length);
    let (mut offset, mut tries) = (0u64, 0);
    // An empty file still has to say that it is complete.
    while offset < length || (length == 0 && tries == 0) {
        let bytes = piece(file, offset).map_err(|e| Failure::failed(format!("the file cannot be read: {e}")))?;
        if bytes.is_empty() && length > 0 {
            return Err(Failure::failed("the file has become shorter while it was sent"));
        }
        let headers = [("upload-offset", offset.to_string())];
        let failed = match client::send_with(Method::PATCH, &args.server, &path, &headers, bytes) {
            Ok(answer) if answer.status.is_success() => {
                offset = offset_of(&answer)?;
                tries = u32::from(length == 0);
                progress.at(offset);
                continue;
            }
            // 409: more of the file has come than we know of.
            Ok(answer) if answer.status.is_client_error() && !matches!(answer.status.as_u16(), 408 | 409 | 429) => {
                answer.success()?;
                continue;
            }
            Ok(answer) => answer.success().map(drop),
            Err(failure) => Err(failure),
        };
        tries += 1;
        if tries >= TRIES {
            return failed;
        }
        std::thread::sleep(PAUSE);
        // What came of the piece is kept: go on from there, as soon as somebody says where that is.
        if let Ok(answer) = client::send(Method::GET, &args.server, &path, None).and_then(Answer::success) {
            offset = offset_of(&answer)?;
        }
    }
    drop(progress);
    Ok(())
}

fn piece(file: &mut File, offset: u64) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(PIECE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn offset_of(answer: &Answer) -> Result<u64, Failure> {
    let offset = answer.json()?["offset"].as_u64();
    offset.ok_or_else(|| Failure::failed("the answer does not say how far the upload is"))
}

fn follow(id: &str, length: u64, args: &ImportArgs) -> Result<Value, Failure> {
    let path = format!("/api/v1/metrics/uploads/{id}");
    let mut progress = Progress::new("storing", length);
    loop {
        let status = client::send(Method::GET, &args.server, &path, None)?.success()?.json()?;
        if matches!(status["status"].as_str(), Some("DONE" | "FAILED" | "CANCELLED") | None) {
            drop(progress);
            return Ok(status);
        }
        progress.at(status["processed_bytes"].as_u64().unwrap_or(0));
        std::thread::sleep(POLL);
    }
}

fn show(status: &Value, output: Output) {
    if output == Output::Json {
        println!("{status}");
        return;
    }
    let result = &status["result"];
    let n = |name: &str| result[name].as_u64().unwrap_or(0);
    println!(
        "{} samples: {} stored, {} there already, {} refused; {} new series",
        n("received"),
        n("accepted"),
        n("duplicates"),
        n("rejected"),
        n("new_series")
    );
    for rejection in result["rejections"].as_array().into_iter().flatten() {
        println!("  {}: {}", rejection["reason"].as_str().unwrap_or("?"), rejection["count"]);
    }
    for error in status["errors"].as_array().into_iter().flatten() {
        println!("  line {}: {}", error["line"], error["detail"].as_str().unwrap_or(""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_formats() {
        for (name, format) in [
            ("a.csv", "csv"),
            ("B.CSV.gz", "csv"),
            ("x.parquet", "parquet"),
            ("m.jsonl", "ndjson"),
            ("m.prom", "openmetrics"),
        ] {
            assert_eq!(format_of(Path::new(name)).ok(), Some(format), "{name}");
        }
        assert_eq!(format_of(Path::new("data.bin")).map_err(|f| f.code), Err(2));
    }
}
