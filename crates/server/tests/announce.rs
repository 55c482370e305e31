//! Sinks against receivers that fail: nothing is lost, order per source, refused ones written down.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use events::{EventLog, EventLogConfig};
use http::{HeaderMap, StatusCode};
use model::{CollectionReport, Origin};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use nats::{Nats, PASSWORD};
use server::announce::{Announcer, signature};
use server::config::announce::read;
use server::config::fields::Problems;
use server::config::yaml;
use server::telemetry::Exposition;

#[path = "../../../tests/support/child.rs"]
mod child;
#[path = "../../../tests/support/nats.rs"]
mod nats;

const PATIENCE: Duration = Duration::from_secs(60);
const T0: u64 = 1_750_500_000_000;

fn report(n: u64) -> CollectionReport {
    let mut id = [0u8; 16];
    id[..6].copy_from_slice(&(T0 + n).to_be_bytes()[2..]);
    id[6] = 0x70;
    id[8..].copy_from_slice(&n.to_be_bytes());
    CollectionReport {
        event_id: id,
        batch_id: format!("batch_20250621_n1_{n:06}"),
        origin: Origin { target_id: format!("t{n}"), source_id: format!("s{}", n % 3), ..Origin::default() },
        finished_at_ms: (T0 + n) as i64,
        duration_ms: n,
        ..CollectionReport::default()
    }
}

/// What a receiver heard, and how it answers.
#[derive(Default)]
struct Receiver {
    heard: Mutex<Vec<Value>>,
    signed: Mutex<Vec<(HeaderMap, Bytes)>>,
    /// Answers this instead, so many times.
    answers: Mutex<Vec<StatusCode>>,
    /// Refuses deliveries with this event for good.
    poison: Mutex<Option<u64>>,
}

async fn hear(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if let Some(status) = receiver.answers.lock().pop() {
        return status;
    }
    let Ok(value) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST };
    let events = match value {
        Value::Array(events) => events,
        one => vec![one],
    };
    let poison = *receiver.poison.lock();
    let number = |e: &Value| e.pointer("/metrics_collected/collection_duration_ms").and_then(Value::as_u64);
    if poison.is_some() && events.iter().any(|e| number(e) == poison) {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    receiver.signed.lock().push((headers, body));
    receiver.heard.lock().extend(events);
    StatusCode::NO_CONTENT
}

impl Receiver {
    async fn listen() -> (Arc<Receiver>, u16) {
        let receiver = Arc::new(Receiver::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/hook", post(hear)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, port)
    }

    fn numbers(&self) -> Vec<u64> {
        let heard = self.heard.lock();
        heard.iter().filter_map(|e| e["metrics_collected"]["collection_duration_ms"].as_u64()).collect()
    }
}

fn start(dir: &Path, log: &EventLog, yaml_text: &str) -> (Announcer, watch::Sender<bool>) {
    let mut problems = Problems::default();
    let settings = read(&yaml::parse(yaml_text).unwrap(), dir, &mut problems);
    assert!(problems.0.is_empty(), "{problems:?}");
    let (stop, stopped) = watch::channel(false);
    let now: Arc<dyn Fn() -> i64 + Send + Sync> = Arc::new(|| T0 as i64 + 5_000);
    (Announcer::start(&settings, "n1", dir, log, &now, &stopped).unwrap(), stop)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn page(announcer: &Announcer) -> String {
    let mut page = Exposition::default();
    announcer.render(&mut page);
    page.finish()
}

#[tokio::test]
async fn a_webhook_gets_everything_in_order_signed_and_over_restarts() {
    let dir = tempfile::TempDir::new().unwrap();
    let log = EventLog::open(&dir.path().join("events")).unwrap();
    let (receiver, port) = Receiver::listen().await;
    log.publish(report(1));
    let config = format!("webhooks: [{{name: a, url: 'http://127.0.0.1:{port}/hook', secret: whsec_c2VjcmV0}}]");
    let (announcer, stop) = start(dir.path(), &log, &config);
    until("it begins now", || dir.path().join("announce/a.cursor").exists()).await;
    (2..=500).for_each(|n| log.publish(report(n)));
    until("all are there", || receiver.numbers().len() >= 499).await;
    assert_eq!(receiver.numbers(), (2..=500).collect::<Vec<_>>());
    for (headers, body) in receiver.signed.lock().iter() {
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
        let signed = signature("secret", &id, &at, body).unwrap();
        assert_eq!((header("webhook-signature"), header("content-type")), (signed, "application/json".to_owned()));
        let first: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(first[0]["event_id"], id);
    }
    until("nothing waits", || page(&announcer).contains("quiver_event_sink_lag_events{sink=\"a\"} 0\n")).await;
    stop.send(true).unwrap();
    announcer.finish().await;

    // What came while nobody delivered comes first.
    (501..=600).for_each(|n| log.publish(report(n)));
    let (announcer, stop) = start(dir.path(), &log, &config);
    (601..=700).for_each(|n| log.publish(report(n)));
    until("all are there", || receiver.numbers().len() >= 699).await;
    assert_eq!(receiver.numbers(), (2..=700).collect::<Vec<_>>());
    stop.send(true).unwrap();
    announcer.finish().await;
}

#[tokio::test]
async fn a_receiver_that_fails_is_tried_again_and_what_it_refuses_is_written_down() {
    let dir = tempfile::TempDir::new().unwrap();
    let log = EventLog::open(&dir.path().join("events")).unwrap();
    let (receiver, port) = Receiver::listen().await;
    let hook = |name: &str, more: &str| format!("{{name: {name}, url: 'http://127.0.0.1:{port}/hook'{more}}}");
    let config = format!("webhooks: [{}]", hook("a", ", batch_max: 7"));
    let (announcer, _stop) = start(dir.path(), &log, &config);
    until("it begins now", || dir.path().join("announce/a.cursor").exists()).await;
    *receiver.answers.lock() = vec![StatusCode::INTERNAL_SERVER_ERROR, StatusCode::SERVICE_UNAVAILABLE];
    *receiver.poison.lock() = Some(11);
    (1..=30).for_each(|n| log.publish(report(n)));
    until("all but one are there", || receiver.numbers().len() >= 29).await;
    assert_eq!(receiver.numbers(), (1..=30).filter(|n| *n != 11).collect::<Vec<_>>());
    until("it is written down", || page(&announcer).contains("quiver_event_sink_refused_total{sink=\"a\"} 1\n")).await;
    let line = std::fs::read_to_string(dir.path().join("announce/a.refused")).unwrap();
    let line: Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(line["event"]["metrics_collected"]["collection_duration_ms"], 11);
    assert_eq!(line["reason"], "status 422");
    assert!(page(&announcer).contains("quiver_event_sink_failures_total{sink=\"a\"} 2\n"), "{}", page(&announcer));
}

#[tokio::test]
async fn sources_are_chosen_and_envelopes_are_cloudevents() {
    let dir = tempfile::TempDir::new().unwrap();
    let log = EventLog::open(&dir.path().join("events")).unwrap();
    let (receiver, port) = Receiver::listen().await;
    let config = format!(
        "webhooks: [{{name: a, url: 'http://127.0.0.1:{port}/hook', sources: [s1], format: cloudevents, batch_max: 1}}]"
    );
    let (announcer, _stop) = start(dir.path(), &log, &config);
    until("it begins now", || dir.path().join("announce/a.cursor").exists()).await;
    (1..=9).for_each(|n| log.publish(report(n)));
    until("three are there", || receiver.heard.lock().len() >= 3).await;
    until("nothing waits", || page(&announcer).contains("quiver_event_sink_lag_events{sink=\"a\"} 0\n")).await;
    let heard = receiver.heard.lock().clone();
    let places: Vec<_> = heard.iter().map(|e| e["data"]["collection_duration_ms"].as_u64().unwrap()).collect();
    assert_eq!(places, [1, 4, 7]);
    let (first, headers) = (&heard[0], receiver.signed.lock()[0].0.clone());
    for (name, expected) in [
        ("specversion", "1.0"),
        ("type", "quiver.metrics_collected"),
        ("source", "urn:quiver:node:n1"),
        ("subject", "s1"),
        ("time", "2025-06-21T10:00:00.001Z"),
    ] {
        assert_eq!(first[name], expected);
    }
    assert_eq!(
        (headers["content-type"].to_str().unwrap(), headers.get("webhook-signature")),
        ("application/cloudevents+json", None)
    );
    assert_eq!(first["id"].as_str().unwrap(), headers["webhook-id"].to_str().unwrap());
}

#[tokio::test]
async fn a_sink_that_fell_behind_is_told_the_gap() {
    let dir = tempfile::TempDir::new().unwrap();
    let small = EventLogConfig { segment_bytes_max: 2_000, bytes_max: 10_000, ..EventLogConfig::default() };
    let log = EventLog::open_with(&dir.path().join("events"), small).unwrap();
    let (receiver, port) = Receiver::listen().await;
    let config = format!("webhooks: [{{name: a, url: 'http://127.0.0.1:{port}/hook'}}]");
    let (announcer, stop) = start(dir.path(), &log, &config);
    until("it begins now", || dir.path().join("announce/a.cursor").exists()).await;
    stop.send(true).unwrap();
    announcer.finish().await;
    (1..=500).for_each(|n| log.publish(report(n)));
    log.sync().unwrap();
    log.retain(T0 as i64).unwrap();
    let (announcer, _stop) = start(dir.path(), &log, &config);
    until("the last is there", || receiver.numbers().last() == Some(&500)).await;
    let numbers = receiver.numbers();
    assert!(numbers[0] > 1 && numbers.windows(2).all(|w| w[1] == w[0] + 1), "{numbers:?}");
    let missed = format!("quiver_event_sink_missed_total{{sink=\"a\"}} {}\n", numbers[0] - 1);
    assert!(page(&announcer).contains(&missed), "{missed}{}", page(&announcer));
}

#[tokio::test]
async fn a_damaged_cursor_brings_everything_again_rather_than_losing_anything() {
    let dir = tempfile::TempDir::new().unwrap();
    let log = EventLog::open(&dir.path().join("events")).unwrap();
    (1..=20).for_each(|n| log.publish(report(n)));
    std::fs::create_dir_all(dir.path().join("announce")).unwrap();
    std::fs::write(dir.path().join("announce/a.cursor"), "999999 0000000000000000\n").unwrap();
    let (receiver, port) = Receiver::listen().await;
    let config = format!("webhooks: [{{name: a, url: 'http://127.0.0.1:{port}/hook'}}]");
    let (_announcer, _stop) = start(dir.path(), &log, &config);
    until("all are there", || receiver.numbers().len() >= 20).await;
    let by_source: HashMap<u64, Vec<u64>> = receiver.numbers().into_iter().fold(HashMap::new(), |mut all, n| {
        all.entry(n % 3).or_default().push(n);
        all
    });
    assert!(by_source.values().all(|numbers| numbers.windows(2).all(|w| w[0] < w[1])), "{by_source:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_no_stream_takes_holds_no_other_up_and_none_goes_to_a_wrong_stream() {
    let dir = tempfile::TempDir::new().unwrap();
    let log = EventLog::open(&dir.path().join("events")).unwrap();
    let bus = Nats::start();
    // Two kilobytes are more than any of the events but one.
    let stream = r#"{"name": "GOOD", "subjects": ["good.>", "other.>"], "max_msg_size": 2000, "storage": "file",
        "retention": "limits", "discard": "old", "num_replicas": 1}"#;
    let made = bus.request("$JS.API.STREAM.CREATE.GOOD", stream);
    assert_eq!(made["config"]["name"], "GOOD", "{made}");
    let sink = |name: &str, subject: &str, more: &str| {
        let url = format!("nats://127.0.0.1:{}", bus.port);
        format!("{{name: {name}, url: '{url}', user: quiver, password: {PASSWORD}, subject: {subject}{more}}}")
    };
    let config = format!(
        "nats: [{}, {}]",
        sink("good", "good", ", stream: GOOD"),
        sink("wrong", "other", ", stream: ELSEWHERE")
    );
    let (announcer, _stop) = start(dir.path(), &log, &config);
    until("they begin now", || {
        ["good", "wrong"].iter().all(|s| dir.path().join(format!("announce/{s}.cursor")).exists())
    })
    .await;
    for n in 1..=30 {
        let mut event = report(n);
        if n == 11 {
            event.batch_id = "x".repeat(3_000);
        }
        log.publish(event);
    }
    until("all but one are there", || bus.count("GOOD") >= 29).await;
    until("one is written down", || page(&announcer).contains("quiver_event_sink_refused_total{sink=\"good\"} 1\n"))
        .await;
    until("nothing waits", || page(&announcer).contains("quiver_event_sink_lag_events{sink=\"good\"} 0\n")).await;
    let messages = bus.messages("GOOD");
    assert!(messages.len() == 29 && messages.iter().all(|(subject, _)| subject.starts_with("good.")), "{messages:?}");
    // The other one waits for its stream, and says so.
    until("it has tried", || page(&announcer).contains("quiver_event_sink_up{sink=\"wrong\"} 0\n")).await;
    assert!(page(&announcer).contains("quiver_event_sink_refused_total{sink=\"wrong\"} 0\n"));
}
