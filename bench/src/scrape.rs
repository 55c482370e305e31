//! The scrape load: many targets of one generator, scraped by each server's own schedule.

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::measure::p50_p99;
use crate::own_histogram;
use crate::payload::{Churn, TextBody};
use crate::probe::{self, Served};
use crate::progress::Progress;
use crate::proto_body::ProtoBody;
use crate::report::Row;
use crate::server::{Kind, Server};
use crate::{Options, measure};

/// Targets that only show the probe, each at its own time within the interval.
const PROBES: usize = 20;

/// In which format the targets answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Text,
    OpenMetrics,
    Protobuf,
}

impl Shape {
    /// As `scrape_protocols` has it.
    fn protocol(self) -> &'static str {
        match self {
            Shape::Text => "PrometheusText0.0.4",
            Shape::OpenMetrics => "OpenMetricsText1.0.0",
            Shape::Protobuf => "PrometheusProto",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Shape::Text => "text/plain; version=0.0.4; charset=utf-8",
            Shape::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Shape::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// What the load is.
#[derive(Clone)]
pub struct Load {
    pub name: String,
    pub targets: usize,
    pub target_series: usize,
    pub interval_s: u64,
    pub seconds: u64,
    pub shape: Shape,
    /// Whether the server is told the format; the servers of Debian know no such setting.
    pub says_protocol: bool,
}

enum Body {
    Text(TextBody),
    Proto(ProtoBody),
}

impl Body {
    fn samples(&self) -> usize {
        match self {
            Body::Text(body) => body.samples(),
            Body::Proto(body) => body.samples(),
        }
    }

    fn render(&mut self, step: u64) -> &[u8] {
        match self {
            Body::Text(body) => body.render(step),
            Body::Proto(body) => body.render(step),
        }
    }
}

/// A target: its body, how often it was asked, and which of its series are due to be replaced.
struct Target {
    body: Body,
    step: u64,
    churn: Churn,
}

/// The targets: one listener, one body per path.
struct Targets {
    targets: Vec<Mutex<Target>>,
    shape: Shape,
    begin: Instant,
    samples: AtomicU64,
    scrapes: AtomicU64,
    probe: AtomicU64,
    served: Served,
    progress: Progress,
}

/// A server that scrapes the load.
pub struct Standing {
    pub server: Server,
    targets: Arc<Targets>,
    load: Load,
    _folder: tempfile::TempDir,
}

impl Standing {
    /// Starts targets and server and waits until the load is steady.
    pub fn start(options: &Options, kind: Kind, load: &Load) -> Result<Standing, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        let targets = Arc::new(Targets::new(options, kind, load));
        let serving = Arc::clone(&targets);
        std::thread::spawn(move || serve(&listener, &serving));
        let folder = options.folder()?;
        let server = Server::start(kind, options, folder.path(), &scrape_config(load, port))?;
        // The first scrapes create the series; what is measured is the steady state behind them.
        std::thread::sleep(Duration::from_secs(2 * load.interval_s + 5));
        Ok(Standing { server, targets, load: load.clone(), _folder: folder })
    }

    /// Watches for so many seconds how fast samples are there, and notes it.
    pub fn watch(&self, seconds: u64, row: &mut Row) -> Result<(), String> {
        let (server, targets, load) = (&self.server, &self.targets, &self.load);
        let own_before = own_histogram::read(server);
        let before = Snapshot::of(server, targets)?;
        let stop = AtomicBool::new(false);
        let delays = std::thread::scope(|scope| {
            let watching = scope.spawn(|| probe::by_scrape(server, &targets.served, &stop));
            std::thread::sleep(Duration::from_secs(seconds));
            stop.store(true, Ordering::Relaxed);
            watching.join().unwrap_or_else(|_| Err("the probe panicked".to_owned()))
        })?;
        let after = Snapshot::of(server, targets)?;
        let own_after = own_histogram::read(server);
        let seconds = (after.at - before.at).as_secs_f64();
        let samples = (after.samples - before.samples) as f64;
        row.set("series", (load.targets * load.target_series) as f64);
        row.set("samples_per_second", samples / seconds);
        row.set(
            "scrapes_of_due",
            (after.scrapes - before.scrapes) as f64 * load.interval_s as f64 / (load.targets as f64 * seconds),
        );
        row.set("cpu_s_per_million", (after.cpu - before.cpu) / (samples / 1e6));
        row.set("generator_cpu_s_per_million", (after.own - before.own) / (samples / 1e6));
        row.set("probes", delays.len() as f64);
        let (p50, p99) = p50_p99(delays);
        row.set("visible_p50_ms", p50);
        row.set("visible_p99_ms", p99);
        if let Some((p50, p99)) = own_histogram::between(&own_before, &own_after) {
            row.set("append_p50_ms_at_most", p50);
            row.set("append_p99_ms_at_most", p99);
        }
        Ok(())
    }
}

pub fn run(options: &Options, kind: Kind, load: &Load) -> Result<Row, String> {
    let standing = Standing::start(options, kind, load)?;
    let mut row = Row::new(&load.name, kind.name(), kind.version(options));
    standing.watch(load.seconds, &mut row)?;
    let (server, targets) = (&standing.server, &standing.targets);
    let active = (load.targets * load.target_series) as f64;
    let resident = server.resident_bytes();
    row.set("rss_mib", resident as f64 / 1_048_576.0);
    row.set("rss_bytes_per_series", resident as f64 / active);
    // Asked while scrapes go on, so that it lies between the two.
    let served_before = targets.samples.load(Ordering::Relaxed);
    row.set("found", server.found("job=\"load\"")? as f64);
    row.set("served", served_before as f64);
    row.set("disk_bytes_per_sample_now", server.disk_bytes() as f64 / served_before.max(1) as f64);
    if let Some(bytes) = server.flushed_bytes()? {
        let served = targets.samples.load(Ordering::Relaxed);
        row.set("disk_bytes_per_sample_flushed", bytes as f64 / served.max(1) as f64);
    }
    Ok(row)
}

/// What is compared between begin and end.
struct Snapshot {
    at: Instant,
    cpu: f64,
    own: f64,
    samples: u64,
    scrapes: u64,
}

impl Snapshot {
    fn of(server: &Server, targets: &Targets) -> Result<Snapshot, String> {
        Ok(Snapshot {
            at: Instant::now(),
            cpu: server.cpu_seconds()?,
            own: measure::own_cpu_seconds(),
            samples: targets.samples.load(Ordering::Relaxed),
            scrapes: targets.scrapes.load(Ordering::Relaxed),
        })
    }
}

impl Targets {
    fn new(options: &Options, kind: Kind, load: &Load) -> Targets {
        let body = |t| match load.shape {
            Shape::Text => Body::Text(TextBody::new(t, load.target_series)),
            Shape::OpenMetrics => Body::Text(TextBody::openmetrics(t, load.target_series)),
            Shape::Protobuf => Body::Proto(ProtoBody::new(t, load.target_series)),
        };
        let target =
            |t| Mutex::new(Target { body: body(t), step: 0, churn: Churn::new(load.target_series, options.churn) });
        let (targets, series) = (load.targets, load.targets * load.target_series);
        Targets {
            targets: (0..targets).map(target).collect(),
            shape: load.shape,
            begin: Instant::now(),
            samples: AtomicU64::new(0),
            scrapes: AtomicU64::new(0),
            probe: AtomicU64::new(0),
            served: Served::default(),
            progress: Progress::start(format!("{}, {}, {series} series on {targets} targets", load.name, kind.name())),
        }
    }
}

/// One job per path, because the path tells the targets apart.
fn scrape_config(load: &Load, port: u16) -> String {
    let interval = load.interval_s;
    let mut text = format!("global:\n  scrape_interval: {interval}s\n  scrape_timeout: {interval}s\n");
    let protocol = match load.says_protocol {
        true => format!("  scrape_protocols: [{}]\n", load.shape.protocol()),
        false => String::new(),
    };
    text.push_str(&format!("scrape_configs:\n- job_name: load\n{protocol}  static_configs:\n"));
    for t in 0..load.targets {
        text.push_str(&format!(
            "  - targets: ['127.0.0.1:{port}']\n    labels: {{__metrics_path__: /metrics/{t}, instance: 'host-{t:05}:9100'}}\n"
        ));
    }
    text.push_str("- job_name: probe\n  static_configs:\n");
    for p in 0..PROBES {
        text.push_str(&format!(
            "  - targets: ['127.0.0.1:{port}']\n    labels: {{__metrics_path__: /probe/{p}, instance: 'probe-{p}'}}\n"
        ));
    }
    text
}

fn serve(listener: &TcpListener, targets: &Arc<Targets>) {
    for stream in listener.incoming().flatten() {
        let targets = Arc::clone(targets);
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        // The scraper closing its connection ends the thread; without a thread the scraper sees a closed connection.
        let _ = thread.spawn(move || serve_connection(stream, &targets));
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
        let is_probe = path.starts_with("/probe/");
        let number = path.rsplit('/').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(usize::MAX);
        loop {
            line.clear();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
        }
        if is_probe { serve_probe(&mut writer, targets)? } else { serve_target(&mut writer, targets, number)? }
    }
}

fn serve_target(writer: &mut TcpStream, targets: &Targets, number: usize) -> std::io::Result<()> {
    let gone = || std::io::Error::other("no such target");
    let mut target = targets.targets.get(number).ok_or_else(gone)?.lock().map_err(|_| gone())?;
    let due = target.churn.due(targets.begin.elapsed().as_secs_f64());
    if let Body::Text(body) = &mut target.body {
        body.replace(due);
    }
    target.step += 1;
    let step = target.step;
    let samples = target.body.samples() as u64;
    answer(writer, targets.shape.content_type(), target.body.render(step))?;
    targets.samples.fetch_add(samples, Ordering::Relaxed);
    targets.scrapes.fetch_add(1, Ordering::Relaxed);
    targets.progress.add(samples);
    Ok(())
}

/// Each answer says a larger number than the one before.
fn serve_probe(writer: &mut TcpStream, targets: &Targets) -> std::io::Result<()> {
    let value = targets.probe.fetch_add(1, Ordering::Relaxed) + 1;
    let body = format!("# TYPE bench_probe gauge\nbench_probe {value}\n");
    answer(writer, Shape::Text.content_type(), body.as_bytes())?;
    targets.served.note(value as f64);
    Ok(())
}

fn answer(writer: &mut TcpStream, content_type: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n", body.len());
    let sent = writer.write_vectored(&[IoSlice::new(head.as_bytes()), IoSlice::new(body)])?;
    writer.write_all(head.as_bytes().get(sent..).unwrap_or_default())?;
    writer.write_all(body.get(sent.saturating_sub(head.len())..).unwrap_or_default())
}
