//! Queries for what is no longer kept here, answered by the real stores that have it.

use std::path::Path;

use serde_json::Value;

use crate::remote;
use crate::sinks::{Again, drained, figure, prometheus, quiver, victoria_metrics};
use crate::support::{Answer, Client, encode, free_port, now_ms, wait_until};

const MINUTE_MS: i64 = 60_000;

/// A Quiver that keeps an hour, in front of a store that has three hours of `old`.
struct Pair {
    store: Again,
    server: Again,
    store_port: u16,
    /// The end of the oldest of three hours, in milliseconds.
    now: i64,
}

impl Pair {
    fn start(dir: &Path, store: Again, store_port: u16) -> Pair {
        let now = now_ms() / MINUTE_MS * MINUTE_MS;
        let old = (60..180).rev().map(|minutes| (now - minutes * MINUTE_MS, minutes as f64));
        let old = remote::series(&[("__name__", "old"), ("job", "j")], old);
        assert!(matches!(remote::write(store.client(), vec![old]).status, 200 | 204));
        let server = Again::new(quiver(&dir.join("q"), free_port(), &config(store_port, "")));
        let recent = remote::series(&[("__name__", "m"), ("job", "j")], [(now, 7.0)]);
        assert!(matches!(remote::write(server.client(), vec![recent]).status, 200 | 204));
        drained(server.client());
        Pair { store, server, store_port, now }
    }

    /// Asks both for the same; gives our answer when it is that of the store.
    #[track_caller]
    fn passed_on(&self, path: &str) -> Value {
        let theirs = self.store.client().get(path).expect(200).json();
        let ours = self.server.client().get(path).expect(200);
        assert_eq!(ours.header("x-quiver-answered-by"), Some("store"), "{path}: {}", ours.body);
        let ours = ours.json();
        assert_eq!(ours["data"], theirs["data"], "{path}");
        ours["data"].clone()
    }

    fn old_range(&self) -> String {
        let (start, end) = ((self.now - 170 * MINUTE_MS) / 1000, (self.now - 130 * MINUTE_MS) / 1000);
        format!("/api/v1/query_range?query=old&start={start}&end={end}&step=60")
    }
}

fn config(store_port: u16, more: &str) -> String {
    format!(
        "remote_write:\n- {{name: store, url: 'http://127.0.0.1:{store_port}/api/v1/write', queue_config: \
         {{batch_send_deadline: 30ms}}}}\nquiver:\n  retention: 1h\n  sinks:\n    queries: {{sink: store, url: \
         'http://127.0.0.1:{store_port}'{more}}}\n"
    )
}

#[track_caller]
fn is_ours(answer: Answer) -> Value {
    let answer = answer.expect(200);
    assert_eq!(answer.header("x-quiver-answered-by"), None, "{}", answer.body);
    answer.json()["data"]["result"].clone()
}

fn passed(client: &Client, outcome: &str) -> f64 {
    figure(client, &format!("quiver_queries_passed_on_total{{outcome=\"{outcome}\"}}"))
}

fn asked_of_both(pair: &mut Pair, dir: &Path) {
    wait_until("the store shows what it has", || {
        let found = pair.store.client().get(&pair.old_range()).expect(200).json();
        found["data"]["result"][0]["values"].as_array().is_some_and(|values| values.len() == 41)
    });
    let found = pair.passed_on(&pair.old_range());
    assert_eq!(found["result"][0]["values"][0][1], "170", "{found}");
    let now_s = pair.now / 1000;
    let found = pair.passed_on(&format!("/api/v1/query?query={}&time={now_s}", encode("count_over_time(old[3h])")));
    assert_eq!(found["result"][0]["metric"]["job"], "j", "{found}");
    pair.passed_on(&format!("/api/v1/query?query=old&time={}", now_s - 9_000));
    let times = format!("start={}&end={}", now_s - 10_000, now_s - 7_000);
    let found = pair.passed_on(&format!("/api/v1/series?{times}&match[]=old"));
    assert_eq!(found[0]["__name__"], "old");
    let found = pair.passed_on(&format!("/api/v1/label/__name__/values?{times}"));
    assert!(found.as_array().is_some_and(|names| names.iter().any(|name| name == "old")), "{found}");
    let form = format!("query=old&time={}", now_s - 9_000);
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let posted = pair.server.client().send("POST", "/api/v1/query", &headers, form.as_bytes()).expect(200);
    assert_eq!(posted.header("x-quiver-answered-by"), Some("store"));

    // What is here is answered here: the store does not even have to be there.
    pair.store.stop();
    let here = format!("/api/v1/query?query=m&time={now_s}");
    assert_eq!(is_ours(pair.server.client().get(&here))[0]["value"][1], "7");
    let away = pair.server.client().get(&pair.old_range());
    assert_eq!(away.status, 503, "{}", away.body);
    let away = away.json();
    assert_eq!(away["errorType"], "unavailable");
    assert!(away["error"].as_str().is_some_and(|text| text.starts_with("store does not answer")), "{away}");
    assert_eq!(passed(pair.server.client(), "failed"), 1.0);
    assert_eq!(passed(pair.server.client(), "answered"), 6.0);
    pair.store.resume();

    // Everything, by option.
    std::fs::write(dir.join("q/quiver.yml"), config(pair.store_port, ", when: always")).expect("the file is written");
    pair.server.client().send("POST", "/-/reload", &[], b"").expect(200);
    // VictoriaMetrics moves what is asked of the last seconds, unless it is told not to.
    pair.passed_on(&format!("/api/v1/query?query=m&nocache=1&time={now_s}"));
    pair.passed_on("/api/v1/labels");
    let bad = pair.server.client().get("/api/v1/query?query=m{");
    assert_eq!(bad.status, 400, "a query that nobody understands goes nowhere: {}", bad.body);
}

#[test]
fn prometheus_answers_what_is_no_longer_here() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = free_port();
    let store = Again::new(prometheus(dir.path(), port, ""));
    asked_of_both(&mut Pair::start(dir.path(), store, port), dir.path());
}

#[test]
fn victoria_metrics_answers_what_is_no_longer_here() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = free_port();
    let store = Again::new(victoria_metrics(dir.path(), port));
    asked_of_both(&mut Pair::start(dir.path(), store, port), dir.path());
}
