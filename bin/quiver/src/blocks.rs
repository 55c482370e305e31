//! `quiver blocks`, `quiver restore`: blocks of a directory, without a server. `quiver snapshot`: with one.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::BlockInfo;
use sys::{Fs, RealFs};

use crate::args::{BlocksArgs, BlocksCommand, Output, RestoreArgs, SnapshotArgs};
use crate::progress::Progress;
use crate::{Failure, client, table};

/// Lists, verifies, exports or imports.
pub fn run(args: &BlocksArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        BlocksCommand::List => list(args),
        BlocksCommand::Verify { ids } => verify(args, ids),
        BlocksCommand::Export { to, ids } => export(args, to, ids),
        BlocksCommand::Import { from } => import(args, from),
    }
}

/// Reads the list; damage is said at once.
fn blocks_of(dir: &Path) -> Result<(Vec<BlockInfo>, bool), Failure> {
    let (blocks, damaged) = store::list_blocks(&RealFs, dir).map_err(Failure::failed)?;
    for why in &damaged {
        eprintln!("damaged: {why}");
    }
    Ok((blocks, damaged.is_empty()))
}

/// Picks blocks by number; all when none is named.
fn chosen(blocks: Vec<BlockInfo>, ids: &[u64]) -> Result<Vec<BlockInfo>, Failure> {
    if let Some(id) = ids.iter().find(|id| !blocks.iter().any(|b| b.manifest.id == **id)) {
        return Err(Failure::failed(format!("there is no block {id}; `quiver blocks list` shows which there are")));
    }
    Ok(blocks.into_iter().filter(|b| ids.is_empty() || ids.contains(&b.manifest.id)).collect())
}

fn bytes_of(blocks: &[BlockInfo]) -> u64 {
    blocks.iter().map(|b| b.manifest.bytes()).sum()
}

fn list(args: &BlocksArgs) -> Result<ExitCode, Failure> {
    let (blocks, sound) = blocks_of(&args.data_dir)?;
    if args.output == Output::Json {
        println!("{}", Value::from(blocks.iter().map(shown).collect::<Vec<_>>()));
    } else {
        let head = ["Block", "From", "To", "Series", "Samples", "Histograms", "Bytes", "Bytes/sample", "Merged from"];
        table::print(&head, blocks.iter().map(row).collect());
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| t.to_string())
}

fn per_sample(info: &BlockInfo) -> f64 {
    info.manifest.bytes() as f64 / info.manifest.samples.max(1) as f64
}

fn row(info: &BlockInfo) -> Vec<String> {
    let m = &info.manifest;
    let sources = if m.balance.is_some() { m.replaces.len().to_string() } else { String::new() };
    vec![
        m.id.to_string(),
        time(m.window_start_ms),
        time(m.window_end_ms.saturating_add(1)),
        m.series.to_string(),
        m.samples.to_string(),
        m.histograms.to_string(),
        m.bytes().to_string(),
        format!("{:.2}", per_sample(info)),
        sources,
    ]
}

fn shown(info: &BlockInfo) -> Value {
    let m = &info.manifest;
    json!({
        "id": m.id, "path": info.path.display().to_string(), "window_start_ms": m.window_start_ms,
        "window_end_ms": m.window_end_ms, "min_ms": m.min_ms, "max_ms": m.max_ms, "series": m.series,
        "samples": m.samples, "histograms": m.histograms, "bytes": m.bytes(), "digest": format!("{:016x}", m.digest),
        "balance": m.balance, "replaces": m.replaces,
    })
}

fn verify(args: &BlocksArgs, ids: &[u64]) -> Result<ExitCode, Failure> {
    let (blocks, mut sound) = blocks_of(&args.data_dir)?;
    let blocks = chosen(blocks, ids)?;
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let mut results = Vec::new();
    {
        let mut progress = Progress::new("verifying", bytes_of(&blocks));
        for block in &blocks {
            results.push((block, store::verify_block(&fs, block, &mut |bytes| progress.add(bytes))));
        }
    }
    sound &= results.iter().all(|r| r.1.is_ok());
    if args.output == Output::Json {
        let one = |(block, result): &(&BlockInfo, Result<u64, String>)| json!({"id": block.manifest.id, "sound": result.is_ok(), "samples": result.as_ref().ok(), "error": result.as_ref().err()});
        println!("{}", Value::from(results.iter().map(one).collect::<Vec<_>>()));
    } else {
        let rows = results.iter().map(|(block, result)| {
            let text = result.as_ref().map_or_else(Clone::clone, |samples| format!("sound: {samples} samples"));
            vec![block.manifest.id.to_string(), text]
        });
        table::print(&["Block", "Result"], rows.collect());
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn export(args: &BlocksArgs, to: &Path, ids: &[u64]) -> Result<ExitCode, Failure> {
    let (blocks, sound) = blocks_of(&args.data_dir)?;
    let blocks = chosen(blocks, ids)?;
    let bytes = bytes_of(&blocks);
    {
        let mut progress = Progress::new("exporting", bytes);
        store::export_blocks(&RealFs, &blocks, to, &mut |bytes| progress.add(bytes)).map_err(Failure::failed)?;
    }
    say(args.output, &json!({"blocks": blocks.len(), "bytes": bytes, "path": to.display().to_string()}), || {
        format!(
            "{} blocks ({bytes} bytes) are in {}; read them with: cd {} && duckdb -c \".read metrics_ts.sql\" -c \"FROM metrics_ts\"",
            blocks.len(),
            to.display(),
            to.display()
        )
    });
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn import(args: &BlocksArgs, from: &Path) -> Result<ExitCode, Failure> {
    let (blocks, sound) = blocks_of(from)?;
    if !sound {
        return Err(Failure::failed("nothing was imported: mend or remove what is damaged first"));
    }
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let mut sum = store::Imported::default();
    {
        let mut progress = Progress::new("verifying", bytes_of(&blocks));
        for block in &blocks {
            store::verify_block(&fs, block, &mut |bytes| progress.add(bytes)).map_err(Failure::failed)?;
        }
    }
    {
        let mut progress = Progress::new("importing", blocks.iter().map(|b| b.manifest.series).sum());
        for block in &blocks {
            let one = store::import_block(&fs, block, &args.data_dir, &mut |series| progress.add(series));
            let one = one.map_err(Failure::failed)?;
            sum.samples += one.samples;
            sum.repeated += one.repeated;
            sum.superseded += one.superseded;
        }
    }
    let value = json!({
        "blocks": blocks.len(), "imported": sum.samples, "repeated": sum.repeated, "superseded": sum.superseded,
    });
    say(args.output, &value, || {
        format!(
            "{} samples of {} blocks imported; {} were there, {} had another value for their time and were left out",
            sum.samples,
            blocks.len(),
            sum.repeated,
            sum.superseded
        )
    });
    Ok(ExitCode::SUCCESS)
}

/// Puts a snapshot back.
pub fn restore(args: &RestoreArgs) -> Result<ExitCode, Failure> {
    let (blocks, _) = blocks_of(&args.snapshot)?;
    let samples = {
        let mut progress = Progress::new("restoring", bytes_of(&blocks));
        store::restore(&RealFs, &args.snapshot, &args.data_dir, &mut |bytes| progress.add(bytes))
    };
    let samples = samples.map_err(Failure::failed)?;
    println!(
        "{samples} samples are in {}; start on them with: quiver serve --data-dir {}",
        args.data_dir.display(),
        args.data_dir.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Asks a running server for a snapshot.
pub fn snapshot(args: &SnapshotArgs) -> Result<ExitCode, Failure> {
    let path = format!("/api/v1/admin/tsdb/snapshot?skip_head={}", args.skip_head);
    let answer = client::send(Method::POST, &args.server, &path, None)?.success().map_err(|failure| {
        match failure.text.as_str() {
            "admin APIs disabled" => {
                Failure::failed("the server does not allow it: start it with --web.enable-admin-api")
            }
            _ => failure,
        }
    })?;
    let value = answer.json()?;
    say(args.server.output, &value, || {
        let name = table::clean(value["data"]["name"].as_str().unwrap_or(""));
        format!("snapshots/{name} in the server's data directory; `quiver restore` puts it back")
    });
    Ok(ExitCode::SUCCESS)
}

fn say(output: Output, value: &Value, text: impl FnOnce() -> String) {
    match output {
        Output::Json => println!("{value}"),
        Output::Table => println!("{}", text()),
    }
}
