//! The load: remote write, JSON, pushes, scrapes and queries at the same time, until the server goes away.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;

use crate::book::{Book, POSITIONS_PER_BATCH, Progress, SERIES, STEP_MS, Way, value_of};
use crate::message::{Label, Sample, TimeSeries, WriteRequest};
use crate::server::Server;

/// A writer rests so long between two batches: what is sent has to be checked again and again.
const REST: Duration = Duration::from_millis(20);

/// What happened beside the writers.
#[derive(Default)]
pub struct Figures {
    pub queries: AtomicU64,
    pub queries_failed: AtomicU64,
    pub told_to_wait: AtomicU64,
}

/// Puts all kinds of load on a server until it is gone or `stop` is set.
pub fn run(server: &Server, book: Book, stop: &AtomicBool, figures: &Figures) -> Result<Book, String> {
    let base_ms = book.base_ms;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0u64..)
            .zip(&book.writers)
            .map(|(number, at)| scope.spawn(move || write(server, number, base_ms, *at, stop, figures)))
            .collect();
        let pusher = scope.spawn(|| push(server, book.pushed, stop));
        let asker = scope.spawn(|| ask(server, stop, figures));
        let panicked = |_| "a thread of the load panicked".to_owned();
        let writers: Result<Vec<_>, String> = writers.into_iter().map(|w| w.join().map_err(panicked)?).collect();
        asker.join().map_err(panicked)?;
        Ok(Book { base_ms, writers: writers?, pushed: pusher.join().map_err(panicked)?? })
    })
}

/// Writes until the server goes away; retries the unanswered batch first, as a real sender does.
pub fn write(
    server: &Server,
    number: u64,
    base_ms: i64,
    mut at: Progress,
    stop: &AtomicBool,
    figures: &Figures,
) -> Result<Progress, String> {
    while !stop.load(Ordering::Relaxed) {
        match write_once(server, number, base_ms, &mut at) {
            Ok((200 | 204, _)) => std::thread::sleep(REST),
            Ok((429 | 503 | 507, _)) => {
                figures.told_to_wait.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(REST);
            }
            Ok((status, text)) => return Err(format!("writer {number}: refused: {status} {text}")),
            Err(_) => return Ok(at),
        }
    }
    Ok(at)
}

/// Sends the next batch, or the last one again when it was not acknowledged.
pub fn write_once(server: &Server, number: u64, base_ms: i64, at: &mut Progress) -> Result<(u16, String), String> {
    let positions = at.acked..at.acked + POSITIONS_PER_BATCH;
    at.sent = at.sent.max(positions.end);
    let ts_ms = |position: u64| base_ms + position as i64 * STEP_MS;
    let answer = match at.way {
        Way::RemoteWrite => {
            let series = |series: u64| {
                let labels =
                    [("__name__", "soak".to_owned()), ("series", series.to_string()), ("writer", number.to_string())];
                let labels = labels.into_iter().map(|(name, value)| Label { name: name.to_owned(), value }).collect();
                let sample = |p| Sample { value: value_of(number, series, p), timestamp: ts_ms(p) };
                TimeSeries { labels, samples: positions.clone().map(sample).collect() }
            };
            let bytes = WriteRequest { timeseries: (0..SERIES).map(series).collect() }.encode_to_vec();
            let body = snap::raw::Encoder::new().compress_vec(&bytes).map_err(|e| e.to_string())?;
            let headers = [("content-type", "application/x-protobuf"), ("content-encoding", "snappy")];
            server.send("POST", "/api/v1/write", &headers, &body)
        }
        Way::Json => {
            let all = positions.clone().flat_map(|p| (0..SERIES).map(move |s| (p, s)));
            let metric = |(p, s): (u64, u64)| {
                let ms = ts_ms(p);
                format!(
                    "{{\"name\":\"soak\",\"metric_type\":\"GAUGE\",\"value\":{:e},\"timestamp\":{}.{:03},\
                     \"labels\":{{\"series\":\"{s}\",\"writer\":\"{number}\"}}}}",
                    value_of(number, s, p),
                    ms / 1000,
                    ms % 1000
                )
            };
            let body = format!("[{}]", all.map(metric).collect::<Vec<_>>().join(","));
            server.send("POST", "/api/v1/metrics/custom", &[("content-type", "application/json")], body.as_bytes())
        }
    };
    if matches!(answer, Ok((200 | 204, _))) {
        at.acked = positions.end;
    }
    answer
}

fn push(server: &Server, mut at: (u64, u64), stop: &AtomicBool) -> Result<(u64, u64), String> {
    while !stop.load(Ordering::Relaxed) {
        at.1 += 1;
        let body = format!("# TYPE soak_push gauge\nsoak_push {}\n", at.1);
        match server.send("PUT", "/metrics/job/soak", &[], body.as_bytes()) {
            Ok((200 | 202, _)) => at.0 = at.1,
            Ok((429 | 503 | 507, _)) => {}
            Ok((status, text)) => return Err(format!("push: {status} {text}")),
            Err(_) => return Ok(at),
        }
        std::thread::sleep(Duration::from_millis(150));
    }
    Ok(at)
}

/// Asks one question after the other; one that is not answered because the server is going does not count.
fn ask(server: &Server, stop: &AtomicBool, figures: &Figures) {
    let questions = [
        "sum(rate(soak_step[1m]))",
        "sum(count_over_time(soak[3h])) by (writer)",
        "max_over_time(soak_step[5m])",
        "topk(3, soak)",
        "up",
    ];
    for expr in questions.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match server.get(&format!("/api/v1/query?query={}", crate::server::encode(expr))) {
            Ok((200, _)) => figures.queries.fetch_add(1, Ordering::Relaxed),
            Ok((503, _)) | Err(_) => return,
            Ok(_) => figures.queries_failed.fetch_add(1, Ordering::Relaxed),
        };
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Something to scrape.
pub struct Exporter {
    port: u16,
    served: Arc<AtomicU64>,
}

impl Exporter {
    pub fn start() -> Result<Exporter, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        let served = Arc::new(AtomicU64::new(0));
        let counter = served.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = counter.clone();
                // The scraper closing its connection ends the thread.
                std::thread::spawn(move || drop(answer(stream, &counter)));
            }
        });
        Ok(Exporter { port, served })
    }

    pub fn config(&self) -> String {
        format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: soak\n  static_configs: [{{targets: ['127.0.0.1:{}']}}]\n",
            self.port
        )
    }

    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

fn answer(stream: TcpStream, served: &AtomicU64) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let mut line = String::new();
    loop {
        let mut bytes = 0;
        loop {
            line.clear();
            match reader.read_line(&mut line)? {
                0 => return Ok(()),
                n if n <= 2 => break,
                n => bytes += n,
            }
            if bytes > 1 << 16 {
                return Ok(());
            }
        }
        let step = served.fetch_add(1, Ordering::Relaxed);
        let lines: Vec<String> = (0..200).map(|n| format!("soak_step{{n=\"{n}\"}} {step}\n")).collect();
        let body = format!("# TYPE soak_step gauge\n{}", lines.concat());
        write!(
            writer,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}
