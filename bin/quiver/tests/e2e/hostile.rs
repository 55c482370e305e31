//! Peers that mean harm: the server lives, keeps to its memory, and serves the others meanwhile.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use serde_json::{Value, json};

use crate::remote;
use crate::support::{self, Answer, Program, now_ms};

const CUSTOM: &str = "/api/v1/metrics/custom";
const TARGETS: &str = "/api/v1/metrics/targets";
const JSON: (&str, &str) = ("content-type", "application/json");
const GZIP: (&str, &str) = ("content-encoding", "gzip");
/// What one hostile request may cost.
const GROWTH_BYTES_MAX: f64 = 64.0 * 1024.0 * 1024.0;

fn gzip(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for piece in pieces {
        encoder.write_all(piece.as_ref()).expect("memory takes bytes");
    }
    encoder.finish().expect("memory takes bytes")
}

/// `head`, then a piece so many times, then `tail`.
fn bomb(head: &str, piece: &str, times: usize, tail: &str) -> Vec<u8> {
    let pieces = std::iter::repeat_n(piece, times);
    gzip(std::iter::once(head).chain(pieces).chain(std::iter::once(tail)))
}

fn own(server: &Program, metric: &str) -> f64 {
    let page = server.client.get("/metrics").expect(200).body;
    let line = page.lines().find_map(|l| l.strip_prefix(metric)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {metric} in {page}"))
}

fn resident_bytes(server: &Program) -> f64 {
    own(server, "process_resident_memory_bytes")
}

/// What it worked: other than the time that passes it does not depend on who else works on the machine.
fn cpu_seconds(server: &Program) -> f64 {
    own(server, "process_cpu_seconds_total")
}

/// A row of the table of hostile input: what was sent, the answer, memory and time; `--nocapture` shows it.
fn tell(what: &str, sent: usize, status: u16, grown: f64, took: Duration) {
    let (mib, sent) = (grown / f64::from(1 << 20), sent.div_ceil(1 << 10));
    println!("| {what} | {sent} KiB | {status} | {mib:.0} MiB | {} ms |", took.as_millis());
}

fn good(server: &Program) -> Answer {
    let metric = json!([{"name": "good", "metric_type": "GAUGE", "value": 1, "source": "APPLICATION"}]);
    let before = cpu_seconds(server);
    let answer = server.client.post_json(CUSTOM, &metric);
    let worked = cpu_seconds(server) - before;
    assert!(worked < 1.0, "a good request took {worked} s of CPU");
    answer
}

fn open(server: &Program, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
    stream.write_all(head.as_bytes()).expect("a head is taken");
    stream
}

fn pull(url: &str, id: &str) -> Value {
    json!({
        "source_id": id, "target_id": id, "collection_method": "PULL_SCRAPING",
        "scrape_config": {"target_url": url, "scrape_interval": "1h", "scrape_timeout": "5s"}
    })
}

#[test]
fn bodies_that_are_announced_and_do_not_come_keep_nobody_out() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let head = |path: &str, more: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{more}\r\n\r\n")
    };
    let mut silent = Vec::new();
    for path in [CUSTOM, TARGETS, "/api/v1/metrics/targets:dry-run"] {
        for more in [
            "Content-Length: 60000000",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Encoding: gzip",
        ] {
            silent.extend((0..10).map(|_| open(&server, &head(path, more))));
        }
    }
    std::thread::sleep(Duration::from_millis(200));
    good(&server).expect(200);
    server.client.post_json(TARGETS, &pull("http://127.0.0.1:1", "t")).expect(201);
    let mut huge = open(&server, &head(CUSTOM, "Content-Length: 4611686018427387904"));
    let mut answer = [0; 12];
    huge.read_exact(&mut answer).expect("an answer comes without the body");
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert_eq!(silent.len(), 90);
}

#[test]
fn bombs_are_refused_and_take_no_memory() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let megabyte = |piece: &str| piece.repeat((1 << 20) / piece.len());
    let cases = [
        ("white space beyond the limit", bomb("[", &megabyte(" "), 300, "]"), 413),
        ("white space", bomb("[", &megabyte(" "), 30, "]"), 200),
        ("numbers", bomb("[0", &megabyte(",0"), 60, "]"), 413),
        ("lists", bomb("[[]", &megabyte(",[]"), 60, "]"), 413),
        ("objects", bomb("[{}", &megabyte(",{}"), 60, "]"), 413),
        ("members without content", gzip([""; 0]).repeat(100_000), 400),
        ("a body cut short", gzip(["[]"])[..12].to_vec(), 400),
    ];
    for (what, body, status) in &cases {
        let (before, worked) = (resident_bytes(&server), cpu_seconds(&server));
        let begin = Instant::now();
        let answer = server.client.send("POST", CUSTOM, &[JSON, GZIP], body);
        let took = begin.elapsed();
        assert_eq!(answer.status, *status, "{what}: {}", answer.body);
        let worked = cpu_seconds(&server) - worked;
        assert!(worked < 5.0, "{what} took {worked} s of CPU");
        let grown = resident_bytes(&server) - before;
        assert!(grown < GROWTH_BYTES_MAX, "{what}: {grown} bytes more");
        tell(what, body.len(), answer.status, grown, took);
        good(&server).expect(200);
    }
}

/// A request of remote write 2.0: a series is a list of numbers, each of which may stand for a long text.
#[derive(Clone, PartialEq, Message)]
struct Request2 {
    #[prost(string, repeated, tag = "4")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    timeseries: Vec<Series2>,
}

#[derive(Clone, PartialEq, Message)]
struct Series2 {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<remote::Sample>,
}

/// What it is, method, path, headers, body, and the status that answers it.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], Vec<u8>, u16);

fn many_texts(series: usize, value_bytes: usize) -> Vec<u8> {
    let symbols = ["", "__name__", "m", "long", &"x".repeat(value_bytes)].map(str::to_owned).to_vec();
    let one = Series2 {
        labels_refs: vec![1, 2, 3, 4],
        samples: vec![remote::Sample { value: Some(1.0), timestamp: now_ms() }],
    };
    let bytes = Request2 { symbols, timeseries: vec![one; series] }.encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&bytes).expect("a request fits into one snappy block")
}

#[test]
fn requests_that_become_much_more_than_they_are_take_no_memory() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let metric = r#"{"name":"a","metric_type":"GAUGE","value":1,"source":"APPLICATION"}"#;
    let metrics = format!("[{}{metric}]", format!("{metric},").repeat(400_000)).into_bytes();
    let lines: Vec<u8> = (0..400_000).flat_map(|i| format!("a{{i=\"{i}\"}} 1\n").into_bytes()).collect();
    let one = remote::series(&[("__name__", "m")], [(now_ms(), 1.0)]);
    let second = [
        remote::HEADERS[1],
        ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
        ("x-prometheus-remote-write-version", "2.0.0"),
    ];
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let types: Vec<u8> = (0..1_400_000).flat_map(|i| format!("# TYPE a{i} gauge\n").into_bytes()).collect();
    let strangers: Vec<u8> = (0..1_500_000).flat_map(|i| format!("b{i} 1\n").into_bytes()).collect();
    let exemplars: Vec<u8> =
        (0..700_000).flat_map(|i| format!("c_total{{i=\"{i}\"}} 1 # {{t=\"x\"}} 1\n").into_bytes()).collect();
    let exemplars = [b"# TYPE c counter\n", &exemplars[..], b"# EOF\n"].concat();
    let open_metrics = [GZIP, ("content-type", "application/openmetrics-text; version=1.0.0")];
    let cases: [Case<'_>; 10] = [
        ("two million parameters", "POST", "/api/v1/query", &form, b"a=1&".repeat(2_000_000), 413),
        ("400,000 metrics", "POST", CUSTOM, &[JSON], metrics, 413),
        ("700,000 series", "POST", "/api/v1/write", &remote::HEADERS, remote::body(vec![one; 700_000]), 413),
        ("a long text 20,000 times", "POST", "/api/v1/write", &second, many_texts(20_000, 4_000), 413),
        ("a short text 600,000 times", "POST", "/api/v1/write", &second, many_texts(600_000, 10), 413),
        ("400,000 pushed series", "PUT", "/metrics/job/x", &[GZIP], gzip([lines]), 400),
        ("1.4 million families", "PUT", "/metrics/job/x", &[GZIP], gzip([&types]), 400),
        ("1.4 million families as they are", "PUT", "/metrics/job/x", &[], types, 400),
        ("a million and a half names", "PUT", "/metrics/job/x", &[GZIP], gzip([strangers]), 400),
        ("700,000 exemplars", "POST", "/metrics/job/x", &open_metrics, gzip([exemplars]), 400),
    ];
    for (what, method, path, headers, body, status) in &cases {
        let before = resident_bytes(&server);
        let begin = Instant::now();
        let answer = server.client.send(method, path, headers, body);
        let took = begin.elapsed();
        assert_eq!(answer.status, *status, "{what}: {}", answer.body);
        assert!(answer.body.contains("more than") || answer.body.contains("too"), "{what}: {}", answer.body);
        let grown = resident_bytes(&server) - before;
        assert!(grown < GROWTH_BYTES_MAX, "{what}: {grown} bytes more");
        tell(what, body.len(), answer.status, grown, took);
        good(&server).expect(200);
    }
}

#[test]
fn fields_that_stand_twice_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let metric = r#""metric_type":"GAUGE","value":1,"source":"APPLICATION""#;
    for (path, body) in [
        (CUSTOM, format!(r#"[{{"name":"a","name":"b",{metric}}}]"#)),
        (CUSTOM, format!(r#"[{{"name":"a","labels":{{"x":"1","x":"2"}},{metric}}}]"#)),
        (TARGETS, r#"{"source_id":"a","source_id":"b"}"#.to_owned()),
    ] {
        let answer = server.client.send("POST", path, &[JSON], body.as_bytes()).expect(400);
        assert!(answer.body.contains("twice"), "{}", answer.body);
    }
    let help = json!([{"name": "a", "metric_type": "GAUGE", "value": 1, "source": "APPLICATION", "help_text": "h".repeat(1 << 20)}]);
    server.client.post_json(CUSTOM, &help).expect(422);
}

#[test]
fn a_key_is_not_lost_with_the_client_that_used_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let body = r#"[{"name":"once","metric_type":"GAUGE","value":1,"source":"APPLICATION"}]"#;
    for i in 0..400 {
        let head = format!(
            "POST {CUSTOM} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: k{}\r\nContent-Length: {}\r\n\r\n{body}",
            i % 20,
            body.len()
        );
        let stream = open(&server, &head);
        std::thread::sleep(Duration::from_micros(i % 40 * 50));
        drop(stream);
    }
    for i in 0..20 {
        let key = format!("k{i}");
        let mut status = 0;
        support::wait_until("the key is free or answered", || {
            let headers = [JSON, ("idempotency-key", key.as_str())];
            status = server.client.send("POST", CUSTOM, &headers, body.as_bytes()).status;
            status != 409
        });
        assert_eq!(status, 200);
    }
}

/// A target that answers each request with the same bytes.
fn target(answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4096]);
            // The server may have heard enough.
            let _ = stream.write_all(&answer);
        }
    });
    port
}

#[test]
fn targets_cannot_do_harm_with_their_answers() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let ok = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
    let plain = |body: &[u8]| [&ok[..], b"\r\n", body].concat();
    let packed = |body: &[u8]| [&ok[..], b"Content-Encoding: gzip\r\n\r\n", body].concat();
    let megabyte = |piece: &str| piece.repeat((1 << 20) / piece.len());
    let mut lies = bomb("", &megabyte("# x\n"), 1_024, "");
    let truth = packed(&lies);
    let at = lies.len() - 4;
    lies[at..].fill(0);
    let cases = [
        ("bomb", truth, GROWTH_BYTES_MAX),
        // All that its limit allows, before it is beyond it.
        ("lying-bomb", packed(&lies), 2.0 * GROWTH_BYTES_MAX),
        ("endless", plain(megabyte("# x\n").repeat(100).as_bytes()), 2.0 * GROWTH_BYTES_MAX),
        ("one-sample", packed(&bomb("", &megabyte("a 1\n"), 60, "")), 5.0 * GROWTH_BYTES_MAX),
        (
            "forbidden",
            b"HTTP/1.1 302 F\r\nLocation: http://[64:ff9b:1::a9fe:a9fe]/\r\nContent-Length: 0\r\n\r\n".to_vec(),
            GROWTH_BYTES_MAX,
        ),
    ];
    for (id, answer, growth_max) in cases {
        let before = resident_bytes(&server);
        let url = format!("http://127.0.0.1:{}", target(answer));
        let target = server.client.post_json(TARGETS, &pull(&url, id)).expect(201).json();
        assert_eq!(target["health_status"], "unhealthy", "{target}");
        assert!(target["first_scrape"]["error"].as_str().is_some_and(|e| !e.is_empty()), "{target}");
        let grown = resident_bytes(&server) - before;
        assert!(grown < growth_max, "{id}: {grown} bytes more");
        good(&server).expect(200);
    }
    let help = plain(format!("# HELP long {}\nlong 1\n", "é".repeat(1 << 19)).as_bytes());
    let url = format!("http://127.0.0.1:{}", target(help));
    server.client.post_json(TARGETS, &pull(&url, "long")).expect(201);
    let known = server.client.get("/api/v1/metadata?metric=long").expect(200).json();
    let help = known["data"]["long"][0]["help"].as_str().unwrap_or_default();
    assert!(help.starts_with('é') && help.len() <= 4_096, "{} bytes", help.len());
}

#[test]
fn a_configuration_that_does_not_come_does_not_hold_the_stop_up() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = dir.path().join("quiver.yml");
    std::fs::write(&config, "scrape_configs: []\n").expect("the configuration is written");
    let server = support::quiver(dir.path(), &["--config", &config.display().to_string()]);
    std::fs::remove_file(&config).expect("the configuration is removed");
    let made = std::process::Command::new("mkfifo").arg(&config).status().expect("mkfifo runs");
    assert!(made.success());
    server.signal(rustix::process::Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    good(&server).expect(200);
    let begin = Instant::now();
    assert_eq!(server.terminate(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}
