//! Events to a webhook and to NATS, with every side killed in mid-load: both sides are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::nats::{self, Nats};
use crate::support::{Program, free_port, quiver_on, wait_until};
use crate::toxic::{Mood, Toxic};

/// Takes every post; gives the port and what came.
fn receiver() -> (u16, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
    let port = listener.local_addr().expect("an address").port();
    let heard: Arc<Mutex<Vec<Value>>> = Arc::default();
    let hearing = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let heard = hearing.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                while let Some(body) = post(&mut reader) {
                    let Ok(Value::Array(events)) = serde_json::from_slice(&body) else { return };
                    heard.lock().expect("no thread panics").extend(events);
                    if reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, heard)
}

fn post(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        } else if line.is_empty() {
            let mut body = vec![0; length?];
            reader.read_exact(&mut body).ok()?;
            return Some(body);
        }
    }
}

fn start(dir: &Path, port: u16, hook: u16, nats_port: u16) -> Program {
    let text = format!(
        "quiver:\n  events:\n    webhooks:\n    - {{name: audit, url: 'http://127.0.0.1:{hook}/hook', secret: topsecret}}\n    \
         nats:\n    - name: bus\n      url: nats://127.0.0.1:{nats_port}\n      user: quiver\n      password_file: nats-password\n      \
         create_stream: true\n"
    );
    std::fs::write(dir.join("config.yml"), text).expect("the file is written");
    std::fs::write(dir.join("nats-password"), nats::PASSWORD).expect("the file is written");
    let config = dir.join("config.yml").display().to_string();
    quiver_on(dir, port, &["--config", &config])
}

/// Sends one metric each for three sources in turn; gives how many requests were answered 200.
fn send(server: &Program, count: u64) -> u64 {
    let one = |i: u64| {
        let metric = json!([{"name": "one", "metric_type": "GAUGE", "value": i, "source": "APPLICATION"}]);
        let path = format!("/api/v1/metrics/custom?source_id=desk.{}", i % 3);
        server.client.try_send("POST", &path, &[("content-type", "application/json")], metric.to_string().as_bytes())
    };
    (0..count).map(one).filter(|answer| answer.as_ref().is_ok_and(|a| a.status == 200)).count() as u64
}

/// Checks that nothing was lost and each source came in order; gives how many events came more than once.
fn check(events: &[Value], accepted: u64) -> usize {
    let mut by_source: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for event in events {
        let id = event["event_id"].as_str().expect("an id");
        if ids.insert(id) {
            let at = event["timestamp"].as_str().expect("a time");
            by_source.entry(event["metrics_collected"]["source_id"].as_str().expect("a source")).or_default().push(at);
        }
    }
    assert_eq!(ids.len() as u64, accepted, "no event is lost or made up");
    for (source, times) in by_source {
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{source} is out of order");
    }
    events.len() - ids.len()
}

#[test]
fn no_event_is_lost_when_either_side_is_killed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut bus = Nats::start();
    let (hook, heard) = receiver();
    let toxic = Toxic::before(hook);
    let port = free_port();
    let server = start(dir.path(), port, toxic.port(), bus.port);
    let distinct = || {
        let heard = heard.lock().expect("no thread panics");
        heard.iter().filter_map(|e| e["event_id"].as_str().map(str::to_owned)).collect::<BTreeSet<_>>().len() as u64
    };
    let mut accepted = send(&server, 150);
    assert_eq!(accepted, 150);
    wait_until("both have them", || distinct() == 150 && bus.count("METRICS") == 150);

    // Answers are lost, then the receivers; then we are killed.
    toxic.set(Mood::Mute);
    accepted += send(&server, 30);
    wait_until("some were heard", || distinct() > 150);
    toxic.set(Mood::Cut);
    bus.kill();
    accepted += send(&server, 100);
    let page = server.client.get("/metrics").expect(200).body;
    assert!(page.contains("quiver_event_sink_up{sink=\"audit\"} 0"), "{page}");
    server.kill();
    let server = start(dir.path(), port, toxic.port(), bus.port);
    accepted += send(&server, 100);
    assert_eq!(accepted, 380);
    toxic.set(Mood::Good);
    bus.resume();
    wait_until("both have all", || distinct() == accepted && bus.count("METRICS") == accepted);
    wait_until("nothing waits", || {
        let page = server.client.get("/metrics").expect(200).body;
        ["audit", "bus"].iter().all(|s| page.contains(&format!("quiver_event_sink_lag_events{{sink=\"{s}\"}} 0\n")))
    });
    let messages = bus.messages("METRICS");
    assert!(messages.iter().all(|(subject, event)| {
        let source = event["metrics_collected"]["source_id"].as_str().expect("a source");
        *subject == format!("metrics.collected.{}", source.replace('.', "_"))
    }));
    let events: Vec<Value> = messages.into_iter().map(|(_, event)| event).collect();
    assert_eq!(check(&events, accepted), 0, "the stream leaves doubles out");
    let again = check(&heard.lock().expect("no thread panics"), accepted);
    assert!(again >= 1, "what was delivered without an answer came again");
    assert!(!server.log_text().contains(nats::PASSWORD) && !server.log_text().contains("topsecret"));
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn events_come_as_cloudevents_to_who_asks() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = quiver_on(dir.path(), free_port(), &[]);
    assert_eq!(send(&server, 2), 2);
    let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).expect("it listens");
    let request = "GET /api/v1/metrics/events?format=cloudevents HTTP/1.1\r\nhost: q\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.by_ref().any(|line| line.contains("connected")));
    send(&server, 1);
    let data = lines.find_map(|line| line.strip_prefix("data: ").map(str::to_owned)).expect("an event");
    let event: Value = serde_json::from_str(&data).expect("it is JSON");
    assert_eq!((event["specversion"].as_str(), event["subject"].as_str()), (Some("1.0"), Some("desk.0")));
    assert_eq!(event["data"]["metrics_count"], 1);
    server.client.get("/api/v1/metrics/events?format=xml").expect(400);
}
