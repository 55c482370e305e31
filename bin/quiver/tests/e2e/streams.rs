//! Streams against the real binary: in with acknowledgements through kill -9, out with the past and what comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{self, Program, now_ms};

const PATIENCE: Duration = Duration::from_secs(60);

/// One connection that sends and reads lines at its own pace.
struct Stream {
    socket: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Stream {
    /// Begins a request whose body comes in chunks.
    fn post(server: &Program, query: &str) -> Stream {
        let head = format!(
            "POST /api/v1/metrics/stream?{query} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
        Stream::open(server, &head)
    }

    fn get(server: &Program, query: &str) -> Stream {
        Stream::open(server, &format!("GET /api/v1/metrics/stream?{query} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    fn open(server: &Program, head: &str) -> Stream {
        let mut socket = TcpStream::connect(("127.0.0.1", server.port)).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        socket.write_all(head.as_bytes()).expect("the head is sent");
        let lines = BufReader::new(socket.try_clone().expect("a socket clones"));
        Stream { socket, lines }
    }

    fn send(&mut self, line: &str) {
        write!(self.socket, "{:x}\r\n{line}\n\r\n", line.len() + 1).expect("the chunk is sent");
    }

    fn end(&mut self) {
        self.socket.write_all(b"0\r\n\r\n").expect("the end is sent");
    }

    /// Gives the next line of the answer; `None` when the connection is at its end.
    fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) if line.starts_with('{') => return serde_json::from_str(&line).ok(),
                Ok(_) if line.starts_with("HTTP/1.1 ") => assert!(line.contains(" 200 "), "{line}"),
                Ok(_) if line.trim_end() == "0" => return None,
                Ok(_) => {}
            }
        }
    }

    /// Gives the next line that is no heartbeat.
    #[track_caller]
    fn line(&mut self) -> Value {
        loop {
            let line = self.next().expect("a line comes");
            if line.get("heartbeat").is_none() {
                return line;
            }
        }
    }
}

fn frame(seq: u64, name: &str, value: u64) -> String {
    // No timestamp: nothing but the number tells a retry from a new frame.
    json!({"seq": seq, "metrics": [{"name": name, "metric_type": "COUNTER", "value": value}]}).to_string()
}

fn samples(server: &Program, name: &str) -> f64 {
    server.client.number(&format!("sum(count_over_time({name}[10m])) or vector(0)"))
}

#[test]
fn frames_are_stored_once_through_kills_and_retries() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut acked = 0u64;
    let mut sent = 0u64;
    for round in 0..4 {
        let server = support::quiver(dir.path(), &[]);
        let mut stream = Stream::post(&server, "stream_id=s-1&source_id=app");
        let hello = stream.line();
        let last = hello["last_seq"].as_u64().expect("a number");
        assert!(last >= acked && last <= sent, "round {round}: {acked} acknowledged, {sent} sent, {last} known");
        // All that was not acknowledged is sent again, as a sender must.
        let from = acked + 1;
        for seq in from..from + 40 {
            stream.send(&frame(seq, "ticks", seq));
            sent = sent.max(seq);
        }
        let wanted = from + 20 + round;
        while acked < wanted {
            let ack = stream.line();
            let seq = ack["ack"].as_u64().unwrap_or_else(|| panic!("{ack}"));
            assert_eq!(seq, acked + 1, "answers come in order: {ack}");
            assert!(ack["repeated"] == true || ack["accepted"] == 1, "{ack}");
            acked = seq;
        }
        server.kill();
    }
    let server = support::quiver(dir.path(), &[]);
    let mut stream = Stream::post(&server, "stream_id=s-1&source_id=app");
    let last = stream.line()["last_seq"].as_u64().expect("a number");
    assert!(last >= acked && last <= sent);
    stream.send(&frame(last, "ticks", 0));
    assert_eq!(stream.line(), json!({"ack": last, "repeated": true}));
    let values = server.client.query("ticks[10m]");
    let values: Vec<u64> = values[0]["values"]
        .as_array()
        .expect("a matrix")
        .iter()
        .map(|pair| pair[1].as_str().and_then(|v| v.parse().ok()).expect("a value"))
        .collect();
    let mut unique = values.clone();
    unique.dedup();
    assert_eq!(values, unique, "no frame is stored twice");
    assert!(values.windows(2).all(|w| w[0] < w[1]), "in order: {values:?}");
    let ledger = server.client.get("/metrics").expect(200).body;
    assert!(ledger.contains("quiver_stream_frames_total{outcome=\"repeated\"} 1"), "{ledger}");
    stream.end();
    assert!(stream.next().is_none(), "the answer ends with the body");
    server.kill();
}

#[test]
fn bad_frames_cost_themselves_and_a_later_session_takes_over() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let mut first = Stream::post(&server, "stream_id=s");
    first.line();
    first.send("nonsense");
    assert_eq!(first.line()["error"]["code"], "invalid_json");
    first.send(r#"{"seq":5,"metrics":[{"name":"a","metric_type":"GAUGE","value":1},{"name":"9","metric_type":"GAUGE","value":1}]}"#);
    let ack = first.line();
    assert_eq!(
        (&ack["ack"], &ack["status"], &ack["rejections"][0]["reason"]),
        (&json!(5), &json!("PARTIAL"), &json!("invalid_name"))
    );
    let mut second = Stream::post(&server, "stream_id=s");
    assert_eq!(second.line()["last_seq"], 5);
    second.send(&frame(6, "b", 1));
    assert_eq!(second.line()["accepted"], 1);
    first.send(&frame(7, "c", 1));
    assert_eq!(first.line(), json!({"closed": "taken_over"}));
    assert_eq!(samples(&server, "c"), 0.0);

    server.client.send("POST", "/api/v1/metrics/stream?stream_id=a/b", &[], b"{}").expect(400);
    let brotli = [("content-encoding", "br")];
    server.fresh_client().send("POST", "/api/v1/metrics/stream", &brotli, b"{}").expect(415);
    let mut long = Stream::post(&server, "stream_id=long");
    long.line();
    let piece = "x".repeat(1 << 20);
    for _ in 0..8 {
        write!(long.socket, "{:x}\r\n{piece}\r\n", piece.len()).expect("the chunk is sent");
    }
    // Little beyond the limit: what is not read any more would reset the connection before its last line is read.
    write!(long.socket, "2\r\nxx\r\n").expect("the chunk is sent");
    let closed = long.line();
    assert_eq!((&closed["closed"], &closed["error"]["code"]), (&json!("failed"), &json!("frame_too_long")));
    // One request whose body ends at once does as well: curl --data-binary @file.
    let answer = server.client.send("POST", "/api/v1/metrics/stream?stream_id=one", &[], frame(1, "d", 4).as_bytes());
    let lines: Vec<&str> = answer.body.lines().collect();
    assert!(answer.status == 200 && lines.len() == 2 && lines[1].starts_with("{\"ack\":1"), "{}", answer.body);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_listener_hears_the_past_and_the_present_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let base = now_ms() / 1000 - 100;
    let push = |from: i64, to: i64| {
        let metrics: Vec<Value> = (from..to)
            .map(|i| json!({"name": "heard", "metric_type": "GAUGE", "value": i, "timestamp": base + i}))
            .collect();
        server.client.post_json("/api/v1/metrics/custom", &Value::Array(metrics)).expect(200);
    };
    push(0, 50);
    let mut listener = Stream::get(&server, "match=heard&from=10m");
    let past = listener.line();
    assert_eq!(past["metric"]["job"], "custom");
    let mut heard: Vec<i64> = values(&past);
    let mut token = String::new();
    while heard.len() < 50 || token.is_empty() {
        let line = listener.line();
        token = line["token"].as_str().unwrap_or_default().to_owned();
        heard.extend(values(&line));
    }
    server
        .client
        .post_json("/api/v1/metrics/custom", &json!([{"name": "other", "metric_type": "GAUGE", "value": 1}]))
        .expect(200);
    push(50, 60);
    while heard.len() < 60 {
        let line = listener.line();
        assert_eq!(line["metric"]["__name__"], "heard");
        token = line["token"].as_str().expect("a token").to_owned();
        heard.extend(values(&line));
    }
    assert_eq!(heard, (0..60).collect::<Vec<_>>());
    drop(listener);
    push(60, 70);
    let mut again = Stream::get(&server, &format!("match=heard&after={token}"));
    let mut heard = Vec::new();
    while heard.last() != Some(&69) {
        heard.extend(values(&again.line()));
    }
    assert!((60..70).all(|i| heard.contains(&i)), "{heard:?}");
    for bad in ["match=%7B", "", "match=up&from=soon", "match=up&after=x"] {
        server.client.get(&format!("/api/v1/metrics/stream?{bad}")).expect(400);
    }
    assert_eq!(server.terminate(), Some(0), "a listener does not hold up the stop");
}

fn values(line: &Value) -> Vec<i64> {
    let pairs = line["values"].as_array().map(Vec::as_slice).unwrap_or_default();
    pairs.iter().map(|pair| pair[1].as_str().and_then(|v| v.parse().ok()).expect("a value")).collect()
}

/// Sends one masked text frame, as a client must.
fn websocket_send(socket: &mut TcpStream, text: &str) {
    let mut frame = vec![0x81];
    match text.len() {
        n @ 0..126 => frame.push(0x80 | n as u8),
        n => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(n as u16).to_be_bytes());
        }
    }
    let mask = [7u8, 1, 9, 4];
    frame.extend_from_slice(&mask);
    frame.extend(text.bytes().enumerate().map(|(i, b)| b ^ mask[i % 4]));
    socket.write_all(&frame).expect("the frame is sent");
}

pub fn websocket_next(socket: &mut TcpStream) -> Value {
    let mut head = [0u8; 2];
    socket.read_exact(&mut head).expect("a frame comes");
    assert_eq!(head[0], 0x81, "a text frame");
    let len = match head[1] {
        126 => {
            let mut len = [0u8; 2];
            socket.read_exact(&mut len).expect("a length comes");
            usize::from(u16::from_be_bytes(len))
        }
        n => usize::from(n),
    };
    let mut text = vec![0; len];
    socket.read_exact(&mut text).expect("the frame comes");
    serde_json::from_slice(&text).expect("JSON")
}

fn websocket(server: &Program, query: &str) -> TcpStream {
    websocket_at(server, &format!("/api/v1/metrics/stream?{query}"))
}

pub fn websocket_at(server: &Program, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", server.port)).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .expect("the head is sent");
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).expect("a head comes");
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    socket
}

#[test]
fn websockets_do_the_same() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let mut out = websocket(&server, "match=ws");
    assert_eq!(websocket_next(&mut out)["live"], true);
    let mut socket = websocket(&server, "stream_id=w&source_id=app");
    assert_eq!(websocket_next(&mut socket)["last_seq"], 0);
    websocket_send(&mut socket, &frame(1, "ws", 7));
    let ack = websocket_next(&mut socket);
    assert_eq!((&ack["ack"], &ack["accepted"]), (&json!(1), &json!(1)));
    assert_eq!(values(&websocket_next(&mut out)), [7]);
    drop(socket);
    server.kill();
    let server = support::quiver(dir.path(), &[]);
    let mut socket = websocket(&server, "stream_id=w&source_id=app");
    assert_eq!(websocket_next(&mut socket)["last_seq"], 1);
    websocket_send(&mut socket, &frame(1, "ws", 7));
    assert_eq!(websocket_next(&mut socket)["repeated"], true);
    assert_eq!(samples(&server, "ws"), 1.0);
}

#[test]
fn frames_that_python_compresses_are_stored_as_they_flow() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compat/stream_client.py");
    let out = Command::new(support::python())
        .arg(script)
        .arg(server.port.to_string())
        .output()
        .expect("the Python environment is there: run scripts/setup test");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let figures = server.client.get("/metrics").expect(200).body;
    for (reason, n) in [("cut_short", 2), ("inflates_too_far", 2), ("damaged", 1), ("broken", 0)] {
        let line = format!("quiver_stream_faults_total{{reason=\"{reason}\"}} {n}\n");
        assert!(figures.contains(&line), "{line}{figures}");
    }
    let refused = server.client.send("POST", "/api/v1/metrics/stream", &[("content-encoding", "br")], b"x").expect(415);
    assert!(refused.body.contains("gzip and zstd"), "{}", refused.body);
    server.kill();

    let server = support::quiver(dir.path(), &[]);
    for (name, n) in [("flow", 20.0), ("members", 30.0), ("cut", 5.0)] {
        assert_eq!(server.client.number(&format!("count_over_time({name}[1h])")), n, "{name}");
        assert_eq!(server.client.number(name), n, "{name}");
    }
    let answer = server.client.query("{job=\"python\"}");
    assert_eq!(answer.as_array().map(Vec::len), Some(3), "{answer}");
}
