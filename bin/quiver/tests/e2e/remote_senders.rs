//! Real senders of remote write, killed in turn with the server: what they had sent or had still to send is there, once.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{self, Program, encode, free_port, wait_until};

/// A counter that rises with every scrape, so that every sample tells which one it is.
fn exposer() -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
    let port = listener.local_addr().expect("it is bound").port();
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buffer = [0; 4096];
            if stream.read(&mut buffer).is_ok_and(|n| n > 0) {
                let body =
                    format!("# TYPE ticks_total counter\nticks_total {}\n", counted.fetch_add(1, Ordering::SeqCst) + 1);
                // A sender that was killed meanwhile does not read it.
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        }
    });
    (port, count)
}

struct Sender<'a> {
    dir: &'a Path,
    job: &'static str,
    exposed: u16,
    port: u16,
    server: u16,
}

impl Sender<'_> {
    fn start(&self) -> Program {
        let config = self.dir.join(format!("{}.yml", self.job));
        let scrape = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n  - job_name: {}\n    static_configs: [{{targets: ['127.0.0.1:{}']}}]\n",
            self.job, self.exposed
        );
        let url = format!("http://127.0.0.1:{}/api/v1/write", self.server);
        let queue = "{batch_send_deadline: 100ms, min_backoff: 20ms, max_backoff: 100ms}";
        let data = self.dir.join(self.job).display().to_string();
        let (program, text, args) = match self.job {
            "prometheus" => (
                "/usr/bin/prometheus",
                format!("{scrape}remote_write:\n  - url: {url}\n    queue_config: {queue}\n"),
                vec![
                    format!("--config.file={}", config.display()),
                    format!("--storage.tsdb.path={data}"),
                    format!("--web.listen-address=127.0.0.1:{}", self.port),
                    "--log.level=error".to_owned(),
                ],
            ),
            _ => (
                "/usr/bin/vmagent",
                scrape,
                vec![
                    format!("-promscrape.config={}", config.display()),
                    format!("-remoteWrite.url={url}"),
                    format!("-remoteWrite.tmpDataPath={data}"),
                    "-remoteWrite.flushInterval=100ms".to_owned(),
                    format!("-httpListenAddr=127.0.0.1:{}", self.port),
                    "-loggerLevel=ERROR".to_owned(),
                ],
            ),
        };
        std::fs::write(&config, text).expect("the configuration is written");
        let log = self.dir.join(format!("{}.log", self.job));
        let ready = if self.job == "prometheus" { "/-/ready" } else { "/health" };
        Program::start(Path::new(program), &args, self.port, ready, &log)
    }
}

/// Gives the ticks that the server has of a sender, in order.
fn ticks(server: &Program, job: &str) -> Vec<u64> {
    values(server, &format!("ticks_total{{job=\"{job}\"}}"))
}

/// Counts the scrapes that failed with the sender, each of which may have taken a tick.
fn failed(server: &Program, job: &str) -> usize {
    values(server, &format!("up{{job=\"{job}\"}}")).into_iter().filter(|up| *up == 0).count()
}

fn values(server: &Program, selector: &str) -> Vec<u64> {
    let query = encode(&format!("{selector}[10m]"));
    let answer = server.client.get(&format!("/api/v1/query?query={query}")).expect(200).json();
    let values = answer["data"]["result"][0]["values"].as_array().cloned().unwrap_or_default();
    values.iter().map(|pair| pair[1].as_str().and_then(|v| v.parse().ok()).expect("a whole number")).collect()
}

#[test]
fn senders_and_the_server_are_killed_in_turn_and_every_sample_counts_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = free_port();
    let server = support::quiver_on(dir.path(), port, &[]);
    let (exposed, counts): (Vec<u16>, Vec<Arc<AtomicU64>>) = (0..2).map(|_| exposer()).unzip();
    let senders: Vec<Sender<'_>> = ["prometheus", "vmagent"]
        .into_iter()
        .zip(&exposed)
        .map(|(job, exposed)| Sender { dir: dir.path(), job, exposed: *exposed, port: free_port(), server: port })
        .collect();
    let running: Vec<Program> = senders.iter().map(Sender::start).collect();
    let last = |server: &Program, job: &str| ticks(server, job).last().copied().unwrap_or(0);
    for sender in &senders {
        wait_until("the first samples are there", || last(&server, sender.job) >= 3);
    }
    // The server dies; what comes meanwhile waits with the senders.
    server.kill();
    let at_kill: Vec<u64> = counts.iter().map(|c| c.load(Ordering::SeqCst)).collect();
    wait_until("there is something to catch up on", || {
        counts.iter().zip(&at_kill).all(|(c, before)| c.load(Ordering::SeqCst) >= before + 5)
    });
    let server = support::quiver_on(dir.path(), port, &[]);
    let missed: Vec<u64> = counts.iter().map(|c| c.load(Ordering::SeqCst)).collect();
    for (sender, missed) in senders.iter().zip(&missed) {
        // A sender may try again with what waited after it has sent what is newer.
        wait_until("what waited has come, and nothing is missing", || {
            let found = ticks(&server, sender.job);
            let missing = found.windows(2).map(|pair| pair[1].saturating_sub(pair[0] + 1)).sum::<u64>();
            found.last().is_some_and(|last| last >= missed) && missing <= failed(&server, sender.job) as u64
        });
        let found = ticks(&server, sender.job);
        assert!(found.windows(2).all(|pair| pair[1] > pair[0]), "{}: nothing came twice: {found:?}", sender.job);
    }
    // The senders die: what they had not sent may be gone with them, what they had is there once.
    let before: Vec<Vec<u64>> = senders.iter().map(|s| ticks(&server, s.job)).collect();
    running.into_iter().for_each(Program::kill);
    let running: Vec<Program> = senders.iter().map(Sender::start).collect();
    for ((sender, before), count) in senders.iter().zip(&before).zip(&counts) {
        let goal = count.load(Ordering::SeqCst) + 3;
        wait_until("it sends again", || last(&server, sender.job) >= goal);
        let found = ticks(&server, sender.job);
        assert!(found.starts_with(before), "{}: {before:?} {found:?}", sender.job);
        assert!(found.windows(2).all(|pair| pair[1] > pair[0]), "{}: {found:?}", sender.job);
        let gaps = found.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        assert!(gaps <= 1 + failed(&server, sender.job), "{}: only where it was killed: {found:?}", sender.job);
    }
    drop(running);
    let totals = server.client.get("/api/v1/metrics/integrity").expect(200).json();
    assert_eq!(totals["balanced"], serde_json::json!(true), "{totals}");
    let lost = &totals["acknowledged_lost"];
    assert_eq!(*lost, serde_json::json!(0), "{totals}");
    assert_eq!(server.terminate(), Some(0));
}
