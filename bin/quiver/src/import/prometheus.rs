//! The blocks of a Prometheus, read from its data directory and sent by remote write.
//!
//! What is still in its head, not yet in a block, is not here: take a snapshot of it first. Sending the same block again
//! changes nothing, so an import that broke off is simply begun anew.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use model::{Batch, Labels, NO_FAMILY, Origin};
use wire::tsdb::{Chunk, Index, decode_chunk};
use wire::{remote_write, snappy};

use crate::Failure;
use crate::args::{Output, ServerArgs};
use crate::client;
use crate::progress::Progress;

/// Samples of one request.
const REQUEST_SAMPLES: usize = 20_000;
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(1);

/// What was done.
#[derive(Default, Debug)]
struct Tally {
    blocks: u64,
    series: u64,
    samples: u64,
    histograms: u64,
    refused: Vec<String>,
}

/// Imports all blocks of a directory, or one block.
pub fn run(dir: &Path, server: &ServerArgs) -> Result<ExitCode, Failure> {
    let blocks = blocks(dir)?;
    if blocks.is_empty() {
        return Err(Failure::failed(format!("{} holds no block (a folder with meta.json and index)", dir.display())));
    }
    let mut tally = Tally::default();
    for block in &blocks {
        import(block, server, &mut tally)
            .map_err(|f| Failure { text: format!("{}: {}", block.display(), f.text), ..f })?;
        tally.blocks += 1;
    }
    show(&tally, server.output);
    if dir.join("wal").is_dir() && blocks.iter().all(|b| b != dir) {
        eprintln!("quiver: what is in no block yet was left out; a snapshot (POST /api/v1/admin/tsdb/snapshot) has it");
    }
    Ok(if tally.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn blocks(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let is_block = |path: &Path| path.join("meta.json").is_file() && path.join("index").is_file();
    if is_block(dir) {
        return Ok(vec![dir.to_owned()]);
    }
    let unreadable = |e| Failure::failed(format!("cannot read {}: {e}", dir.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if is_block(&path) {
            found.push(path);
        }
    }
    // Names are ULIDs: in order of their making.
    found.sort();
    Ok(found)
}

fn import(block: &Path, server: &ServerArgs, tally: &mut Tally) -> Result<(), Failure> {
    let damaged = |e: wire::tsdb::TsdbError| Failure::failed(format!("index: {e}"));
    let bytes = fs::read(block.join("index")).map_err(|e| Failure::failed(format!("index: {e}")))?;
    if fs::metadata(block.join("tombstones")).is_ok_and(|m| m.len() > 9) {
        eprintln!("quiver: {}: series that were deleted there and not cleaned yet come along", block.display());
    }
    let total = Index::open(&bytes).map_err(damaged)?.count() as u64;
    let mut progress = Progress::new("sending", total);
    let mut files: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut batch = Batch::new(Origin::default());
    for (n, series) in Index::open(&bytes).map_err(damaged)?.enumerate() {
        let series = series.map_err(damaged)?;
        tally.series += 1;
        let labels = Labels::from_pairs(series.labels.iter().copied());
        for chunk in &series.chunks {
            // Series are in order of their labels, their chunks in order of the files: one file at a time is enough, mostly.
            if !files.contains_key(&chunk.file) {
                files.clear();
                let path = block.join("chunks").join(format!("{:06}", u64::from(chunk.file) + 1));
                let bytes = fs::read(&path).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
                files.insert(chunk.file, bytes);
            }
            let file = files.get(&chunk.file).map(Vec::as_slice).unwrap_or_default();
            match decode_chunk(file, chunk.offset) {
                Ok(Chunk::Doubles(samples)) => {
                    let index = batch.push_labels(&labels, NO_FAMILY);
                    samples.iter().for_each(|(ts, value)| batch.push_sample(index, *ts, *value));
                    tally.samples += samples.len() as u64;
                }
                Ok(Chunk::Histograms(n)) => tally.histograms += n as u64,
                Err(e) => return Err(Failure::failed(format!("chunks/{:06}: {e}", u64::from(chunk.file) + 1))),
            }
            if batch.samples.len() >= REQUEST_SAMPLES {
                send(&mut batch, server, tally)?;
            }
        }
        progress.at(n as u64);
    }
    if !batch.samples.is_empty() {
        send(&mut batch, server, tally)?;
    }
    drop(progress);
    Ok(())
}

fn send(batch: &mut Batch, server: &ServerArgs, tally: &mut Tally) -> Result<(), Failure> {
    let body = snappy::encode_block(&remote_write::encode_v1(batch)).map_err(|e| Failure::failed(e.to_string()))?;
    batch.clear();
    let headers = [
        ("content-type", "application/x-protobuf".to_owned()),
        ("content-encoding", "snappy".to_owned()),
        ("x-prometheus-remote-write-version", "0.1.0".to_owned()),
    ];
    let path = "/api/v1/write?source_id=prometheus-import";
    let mut tries = 0;
    loop {
        let answer = client::send_with(Method::POST, server, path, &headers, body.clone());
        match answer {
            Ok(answer) if answer.status.is_success() => return Ok(()),
            // The rest of the request is stored; the text says what is not.
            Ok(answer) if answer.status == 400 => {
                tally.refused.push(String::from_utf8_lossy(&answer.body).trim().chars().take(300).collect());
                return Ok(());
            }
            Ok(answer) if !answer.status.is_server_error() && answer.status != 429 => {
                return answer.success().map(drop);
            }
            Ok(answer) if tries >= TRIES => return answer.success().map(drop),
            Err(failure) if tries >= TRIES => return Err(failure),
            Ok(_) | Err(_) => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn show(tally: &Tally, output: Output) {
    if output == Output::Json {
        let json = serde_json::json!({
            "blocks": tally.blocks, "series": tally.series, "samples": tally.samples,
            "native_histograms_left_out": tally.histograms, "refused": tally.refused,
        });
        println!("{json}");
        return;
    }
    println!("{} samples of {} series in {} blocks sent", tally.samples, tally.series, tally.blocks);
    if tally.histograms > 0 {
        println!("{} native histograms were left out: they are not read from blocks yet", tally.histograms);
    }
    for text in tally.refused.iter().take(5) {
        println!("  {text}");
    }
}
