//! Bad input of each kind: a 4xx with the reason, and the server goes on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::remote;
use crate::support::{self, Program, now_ms};

fn request_with(change: impl FnOnce(&mut Value)) -> Value {
    let mut request = json!({
        "source_id": "s", "collection_method": "PULL_SCRAPING",
        "scrape_config": {"target_url": "http://127.0.0.1:1", "scrape_interval": "15s", "scrape_timeout": "1s"}
    });
    change(&mut request);
    request
}

#[track_caller]
fn problem(server: &Program, request: &Value, statuses: &[u16], pointer: &str) -> Value {
    let answer = server.client.post_json("/api/v1/metrics/targets", request);
    assert!(statuses.contains(&answer.status), "{request}: {} {}", answer.status, answer.body);
    assert!(answer.content_type.starts_with("application/problem+json"), "{}", answer.content_type);
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status, "{problem}");
    assert!(problem["title"].is_string() && problem["detail"].is_string() && problem["code"].is_string(), "{problem}");
    if !pointer.is_empty() {
        let pointers = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert!(pointers.iter().any(|e| e["pointer"] == pointer), "no {pointer} in {problem}");
    }
    problem
}

#[test]
fn registrations_that_make_no_sense_are_refused_with_a_pointer() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let long = "x".repeat(101);
    type Case = (fn(&mut Value, &str), &'static str);
    let cases: [Case; 10] = [
        (|r, _| r["colour"] = json!("red"), "/colour"),
        (|r, _| r["scrape_config"]["colour"] = json!("red"), "/scrape_config/colour"),
        (|r, _| r["collection_method"] = json!("TELEPATHY"), "/collection_method"),
        (|r, _| r["source_id"] = json!(7), "/source_id"),
        (|r, long| r["source_id"] = json!(long), "/source_id"),
        (|r, long| r["target_id"] = json!(long), "/target_id"),
        (|r, _| r["target_id"] = json!("a/b"), "/target_id"),
        (|r, _| r["scrape_config"]["scrape_timeout"] = json!("1h"), "/scrape_config/scrape_timeout"),
        (|r, _| r["scrape_config"]["scrape_interval"] = json!("soon"), "/scrape_config/scrape_interval"),
        (
            |r, long| r["scrape_config"]["target_url"] = json!(format!("http://127.0.0.1/{}", long.repeat(6))),
            "/scrape_config/target_url",
        ),
    ];
    for (change, pointer) in cases {
        problem(&server, &request_with(|r| change(r, &long)), &[400, 422], pointer);
    }
    for url in [
        "http://169.254.169.254/latest",
        "http://[fe80::1]/metrics",
        "http://[::ffff:169.254.169.254]/metrics",
        "http://2852039166/metrics",
        "http://0xa9fea9fe/metrics",
        "file:///etc/passwd",
        "http://169.254.1.1:80",
    ] {
        problem(
            &server,
            &request_with(|r| r["scrape_config"]["target_url"] = json!(url)),
            &[400, 422],
            "/scrape_config/target_url",
        );
    }
    let conflict = problem(
        &server,
        &request_with(|r| {
            r["scrape_config"]["target_url"] = json!("http://127.0.0.1:1/other");
            r["scrape_config"]["metrics_path"] = json!("/metrics");
        }),
        &[422],
        "",
    );
    assert!(conflict.to_string().contains("conflicting_url"), "{conflict}");
    let not_yet = problem(
        &server,
        &request_with(|r| {
            r["scrape_config"]["authentication"] = json!({"type": "BEARER", "token": {"ref": "vault:a#b"}})
        }),
        &[501],
        "/scrape_config/authentication/token",
    );
    assert!(not_yet.to_string().contains("not_yet"), "{not_yet}");
    let wrong = json!([{"action": "DROP", "match": "{a=\"b\""}]);
    problem(&server, &request_with(|r| r["filters"] = wrong), &[400, 422], "/filters/0/match");
    assert_eq!(server.client.get("/api/v1/metrics/targets").expect(200).json(), json!([]));
}

#[test]
fn a_target_that_answers_nonsense_is_told_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer);
            let body = "# TYPE a counter\na_total 1\nb{x=\"1\" 2\n";
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    let request = request_with(|r| {
        r["target_id"] = json!("broken");
        r["scrape_config"]["target_url"] = json!(format!("http://127.0.0.1:{port}"));
    });
    let target = server.client.post_json("/api/v1/metrics/targets", &request).expect(201).json();
    assert_eq!(target["health_status"], "unhealthy", "{target}");
    let error = &target["first_scrape"]["parse_errors"][0];
    assert_eq!(error["line"], 3, "{target}");
    assert!(error["column"].as_u64().is_some(), "{target}");
    assert!(error["text"].as_str().is_some_and(|t| !t.is_empty()), "{target}");
    assert_eq!(server.client.number("up{job=\"s\"}"), 0.0);
}

#[test]
fn writes_that_make_no_sense_are_refused_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let send = |body: &[u8], headers: &[(&str, &str)]| server.client.send("POST", "/api/v1/write", headers, body);

    let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0];
    for body in [&b"not snappy at all"[..], &bomb[..], &[]] {
        let answer = send(body, &remote::HEADERS);
        assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.body);
    }
    let hostile = snap::raw::Encoder::new()
        .compress_vec(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1])
        .expect("compresses");
    send(&hostile, &remote::HEADERS).expect(400);
    let good = remote::body(vec![remote::series(&[("__name__", "good")], [(now_ms(), 1.0)])]);
    assert_eq!(send(&good, &[("content-type", "text/csv"), ("content-encoding", "snappy")]).status, 415);

    let far = now_ms() + 3_600_000;
    let mixed = vec![
        remote::series(&[("__name__", "good")], [(now_ms(), 1.0)]),
        remote::series(&[("__name__", "good")], [(far, 1.0)]),
        remote::series(&[("no_name", "x")], [(now_ms(), 1.0)]),
    ];
    let answer = remote::write(&server.client, mixed).expect(400);
    assert!(answer.body.contains("too_new") || answer.body.contains("future"), "{}", answer.body);
    assert_eq!(server.client.number("good"), 1.0);

    let custom = json!([
        {"name": "fine", "metric_type": "GAUGE", "value": 1, "labels": {}, "source": "APPLICATION"},
        {"name": "late", "metric_type": "GAUGE", "value": 1, "labels": {}, "timestamp": far / 1000, "source": "APPLICATION"},
        {"name": "fine", "metric_type": "GAUGE", "value": 1, "labels": {"__reserved": "x"}, "source": "APPLICATION"}
    ]);
    let result = server.client.post_json("/api/v1/metrics/custom", &custom).expect(200).json();
    assert_eq!(result["status"], "PARTIAL", "{result}");
    assert_eq!(
        (&result["received"], &result["accepted"], &result["rejected"]),
        (&json!(3), &json!(1), &json!(2)),
        "{result}"
    );
    for (body, statuses) in
        [("{", &[400][..]), ("[{\"name\": 1}]", &[400, 422]), ("{}", &[400, 422]), ("[{}]", &[400, 422])]
    {
        let json_type = [("content-type", "application/json")];
        let answer = server.client.send("POST", "/api/v1/metrics/custom", &json_type, body.as_bytes());
        assert!(statuses.contains(&answer.status), "{body}: {} {}", answer.status, answer.body);
        assert!(answer.content_type.starts_with("application/problem+json"), "{}", answer.content_type);
    }
    let deep = "[".repeat(100_000);
    let answer =
        server.client.send("POST", "/api/v1/metrics/custom", &[("content-type", "application/json")], deep.as_bytes());
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    server.client.get("/-/healthy").expect(200);
}

#[test]
fn strange_requests_do_no_harm() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    for bytes in [
        &b"GARBAGE\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
        stream.write_all(bytes).expect("bytes are taken");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    let nested = format!("/api/v1/query?query={}1{}", "(".repeat(5000), ")".repeat(5000));
    let answer = server.client.get(&nested);
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    for (method, path) in
        [("GET", "/api/v1/nothing"), ("GET", "/nothing"), ("PATCH", "/api/v1/query"), ("PUT", "/api/v1/metrics/stats")]
    {
        let answer = server.client.send(method, path, &[], b"");
        assert!(answer.status == 404 || answer.status == 405, "{method} {path}: {}", answer.status);
    }
    assert_eq!(server.client.number("1 + 1"), 2.0);
    // A second server on the same directory is refused with a reason.
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_quiver"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .output()
        .expect("the binary runs");
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr).to_lowercase();
    assert!(text.contains("lock") || text.contains("another"), "{text}");
}
