//! Live queries against the real binary: through cuts, kill -9, resets and late samples each step comes once, and what came last of it
//! is what a range query gives.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::streams::{websocket_at, websocket_next};
use crate::support::{self, Client, Program, encode, now_ms};

const PATIENCE: Duration = Duration::from_secs(60);
const QUERY: &str = "sum by (room) (rate(jobs_total[6s])) or level";

fn path(more: &str) -> String {
    format!("/api/v1/metrics/live?query={}&step=1s&delay=1s{more}", encode(QUERY))
}

/// A browser's EventSource, near enough.
struct Source {
    lines: BufReader<TcpStream>,
}

impl Source {
    fn open(server: &Program, more: &str, last_id: Option<&str>) -> Source {
        let mut socket = TcpStream::connect(("127.0.0.1", server.port)).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let id = last_id.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let head = format!("GET {} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{id}\r\n", path(more));
        socket.write_all(head.as_bytes()).expect("the head is sent");
        Source { lines: BufReader::new(socket) }
    }

    /// Gives the next event, and its id if it has one.
    fn next(&mut self) -> Option<(Value, Option<String>)> {
        let (mut data, mut id) = (None, None);
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.starts_with("HTTP/1.1 ") {
                assert!(line.contains(" 200 "), "{line}");
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = Some(serde_json::from_str(text).expect("JSON"));
            } else if let Some(text) = line.strip_prefix("id: ") {
                id = Some(text.to_owned());
            } else if line.is_empty() && data.is_some() {
                return data.map(|data| (data, id));
            }
        }
    }
}

/// What somebody has who reads again and again.
#[derive(Default)]
struct Seen {
    last: BTreeMap<i64, Value>,
    steps: Vec<i64>,
    corrected: usize,
    id: Option<String>,
}

impl Seen {
    #[track_caller]
    fn take(&mut self, source: &mut Source) -> Value {
        let (event, id) = source.next().expect("an event comes");
        self.id = id.or(self.id.take());
        let at = event["time"].as_i64().unwrap_or_default();
        match event["event"].as_str() {
            Some("step") => self.steps.push(at),
            Some("corrected") => self.corrected += 1,
            _ => return event,
        }
        self.last.insert(at, event["result"].clone());
        event
    }

    /// Reads until so many steps have come.
    fn steps_to(&mut self, source: &mut Source, count: usize) {
        while self.steps.len() < count {
            self.take(source);
        }
    }
}

/// Counts and pushes until it is told to stop; a killed server costs it some.
fn push_until(client: Client, stop: &AtomicBool) {
    let mut n = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        // The counter starts anew again and again.
        let samples = json!([
            {"name": "jobs_total", "value": n % 11, "metric_type": "COUNTER", "labels": {"room": "a"}},
            {"name": "level", "value": n * 7 % 5, "metric_type": "GAUGE"},
        ]);
        let _ = client.try_send(
            "POST",
            "/api/v1/metrics/custom",
            &[("content-type", "application/json")],
            samples.to_string().as_bytes(),
        );
        n += 1;
        std::thread::sleep(Duration::from_millis(150));
    }
}

fn range(client: &Client, steps: &[i64]) -> BTreeMap<i64, Value> {
    let (first, last) = (steps.first().expect("steps"), steps.last().expect("steps"));
    let path = format!("/api/v1/query_range?query={}&start={first}&end={last}&step=1&nocache=1", encode(QUERY));
    let mut out: BTreeMap<i64, Value> = (*first..=*last).map(|at| (at, json!([]))).collect();
    let answer = client.get(&path).expect(200).json();
    for series in answer["data"]["result"].as_array().expect("a matrix") {
        for point in series["values"].as_array().expect("values") {
            let row = json!({"metric": series["metric"], "value": point});
            out.get_mut(&point[0].as_i64().expect("a time")).expect("a step").as_array_mut().expect("a list").push(row);
        }
    }
    out
}

/// Pushes a sample with a time of its own.
fn late(client: &Client, at: f64, value: f64) {
    let sample =
        json!([{"name": "level", "value": value, "metric_type": "GAUGE", "timestamp": at, "labels": {"late": "yes"}}]);
    client.post_json("/api/v1/metrics/custom", &sample).expect(200);
}

#[test]
fn each_step_comes_once_and_is_what_a_range_query_gives_through_cuts_and_kills() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let (port, stop) = (server.port, Arc::new(AtomicBool::new(false)));
    late(&server.client, now_ms() as f64 / 1e3 - 20.0, 1.0);
    let pusher = {
        let (client, stop) = (server.client.clone(), stop.clone());
        std::thread::spawn(move || push_until(client, &stop))
    };
    let mut seen = Seen::default();
    let mut source = Source::open(&server, "&from=15s", None);
    seen.steps_to(&mut source, 17);
    drop(source);
    // A cut.
    let mut source = Source::open(&server, "&from=15s", seen.id.as_deref());
    seen.steps_to(&mut source, 19);
    // A kill, and a sample that comes late meanwhile.
    server.kill();
    assert!(std::iter::repeat_with(|| source.next()).take(1_000).any(|event| event.is_none()), "it ends");
    let server = support::quiver_on(dir.path(), port, &[]);
    late(&server.client, seen.steps[10] as f64 + 0.5, 42.0);
    let corrected = seen.corrected;
    let mut source = Source::open(&server, "&from=15s", seen.id.as_deref());
    seen.steps_to(&mut source, 21);
    assert!(seen.corrected > corrected, "the late sample is told");
    stop.store(true, Ordering::Relaxed);
    pusher.join().expect("it ends");
    // One that comes late to who is listening.
    late(&server.client, seen.steps[15] as f64 + 0.5, 43.0);
    let (corrected, begun) = (seen.corrected, Instant::now());
    while seen.corrected == corrected {
        assert!(begun.elapsed() < PATIENCE, "what came late is not told");
        seen.take(&mut source);
    }
    // The last step may have been sent before its last sample came: then it is told again.
    while seen.last != range(&server.client, &seen.steps) {
        assert!(begun.elapsed() < PATIENCE, "what was sent is not what a query gives: {:?}", seen.last);
        seen.take(&mut source);
    }
    assert!(seen.steps.windows(2).all(|pair| pair[1] == pair[0] + 1), "{:?}", seen.steps);
    assert!(seen.last.values().any(|result| result.to_string().contains("\"43\"")), "{:?}", seen.last);
    let own = server.client.get("/metrics").expect(200).body;
    assert!(own.contains("quiver_live_queries 1"), "one is listening");
    assert_eq!(server.terminate(), Some(0));
    let closed = std::iter::from_fn(|| source.next()).last().map(|(event, _)| event["event"].clone());
    assert_eq!(closed, Some(json!("closed")));
}

#[test]
fn a_websocket_gives_the_same_and_what_cannot_be_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    late(&server.client, now_ms() as f64 / 1e3 - 3.0, 5.0);
    let mut socket = websocket_at(&server, &path("&from=5s"));
    let steps: Vec<Value> = (0..3).map(|_| websocket_next(&mut socket)).collect();
    let times: Vec<i64> = steps.iter().map(|step| step["time"].as_i64().expect("a time")).collect();
    assert!(steps.iter().all(|step| step["event"] == "step") && times[2] == times[0] + 2, "{steps:?}");
    let wanted = range(&server.client, &times);
    assert!(steps.iter().zip(&times).all(|(step, at)| step["result"] == wanted[at]), "{steps:?}");
    let get = |more: &str| server.client.get(&format!("/api/v1/metrics/live?{more}"));
    assert_eq!(get("query=up&step=1s&from=t_5").expect(400).json()["code"], "invalid_parameter");
    assert_eq!(get("query=up%20%40%205&step=1s").expect(422).json()["code"], "not_live");
}
