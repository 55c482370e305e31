//! The scrape load: many targets of one generator, scraped by each server's own schedule.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::payload::TextBody;
use crate::report::Row;
use crate::server::{Kind, Server};
use crate::{Options, measure};

/// The targets: one listener, one body per path.
struct Targets {
    bodies: Vec<Mutex<TextBody>>,
    step: AtomicU64,
    served: AtomicU64,
}

pub fn run(options: &Options, kind: Kind) -> Result<Row, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    let targets = Arc::new(Targets {
        bodies: (0..options.targets).map(|t| Mutex::new(TextBody::new(t, options.target_series))).collect(),
        step: AtomicU64::new(0),
        served: AtomicU64::new(0),
    });
    let serving = Arc::clone(&targets);
    std::thread::spawn(move || serve(&listener, &serving));

    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let server = Server::start(kind, options, folder.path(), &scrape_config(options, port))?;
    // The first scrapes create the series; what is measured is the steady state behind them.
    std::thread::sleep(Duration::from_secs(2 * options.interval + 3));
    let (cpu_before, served_before) = (server.cpu_seconds()?, targets.served.load(Ordering::Relaxed));
    let begin = Instant::now();
    std::thread::sleep(Duration::from_secs(options.seconds));
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = server.cpu_seconds()? - cpu_before;
    let samples = targets.served.load(Ordering::Relaxed) - served_before;
    let resident = server.resident_bytes();
    let found = server.number("sum(count_over_time(%7Bslot%21%3D%22%22%7D%5B1d%5D))")?;
    Ok(Row {
        load: "scrape".to_owned(),
        server: kind.name().to_owned(),
        version: kind.version(options),
        samples_per_second: samples as f64 / seconds,
        cpu_seconds_per_million: cpu / (samples as f64 / 1e6),
        p50_ms: 0.0,
        p99_ms: 0.0,
        resident_bytes: resident,
        disk_bytes: measure::disk_bytes(&folder.path().join("data")),
        sent: targets.served.load(Ordering::Relaxed),
        refused: 0,
        found: found as u64,
    })
}

/// One job per target, because the path tells the targets apart.
fn scrape_config(options: &Options, port: u16) -> String {
    let mut text = format!(
        "global:\n  scrape_interval: {0}s\n  scrape_timeout: {0}s\nscrape_configs:\n- job_name: load\n  static_configs:\n",
        options.interval
    );
    for t in 0..options.targets {
        text.push_str(&format!(
            "  - targets: ['127.0.0.1:{port}']\n    labels: {{__metrics_path__: /metrics/{t}, instance: 'host-{t:05}:9100'}}\n"
        ));
    }
    text
}

fn serve(listener: &TcpListener, targets: &Arc<Targets>) {
    for stream in listener.incoming().flatten() {
        let targets = Arc::clone(targets);
        std::thread::spawn(move || {
            // The scraper closing its connection ends the thread.
            let _ = serve_connection(stream, &targets);
        });
    }
}

fn serve_connection(stream: TcpStream, targets: &Targets) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split_whitespace().nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let target = path.rsplit('/').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        while reader.read_line(&mut line)? > 2 {}
        let Some(body) = targets.bodies.get(target) else { return Ok(()) };
        let Ok(mut body) = body.lock() else { return Ok(()) };
        let step = targets.step.fetch_add(1, Ordering::Relaxed);
        let samples = body.samples() as u64;
        let bytes = body.render(step / targets.bodies.len() as u64);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        writer.write_all(head.as_bytes())?;
        writer.write_all(bytes)?;
        targets.served.fetch_add(samples, Ordering::Relaxed);
    }
}
