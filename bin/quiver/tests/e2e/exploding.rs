//! A target whose label `user_id` explodes: it and the others go on, who is new hears why, and the room comes back alone.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::support::{self, Program};

const TARGETS: &str = "/api/v1/metrics/targets";
const CUSTOM: &str = "/api/v1/metrics/custom";
/// Series that the server has room for.
const ROOM: u64 = 2_000;

/// A target with so many users.
fn target(users: Arc<AtomicU64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4096]);
            let mut body = String::from("# TYPE requests counter\n");
            for user in 0..users.load(Ordering::SeqCst) {
                let _ = writeln!(body, "requests{{code=\"{}\",user_id=\"{user}\"}} 1", user % 3);
            }
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    port
}

fn register(server: &Program, id: &str, port: u16) {
    let request = json!({
        "source_id": id, "target_id": id, "collection_method": "PULL_SCRAPING",
        "scrape_config": {"target_url": format!("http://127.0.0.1:{port}"), "scrape_interval": "1h", "scrape_timeout": "30s"}
    });
    server.client.post_json(TARGETS, &request).expect(201);
}

fn scrape(server: &Program, id: &str) -> Value {
    server.client.send("POST", &format!("{TARGETS}/{id}/scrape"), &[], b"").expect(200);
    server.client.get(&format!("{TARGETS}/{id}")).expect(200).json()
}

fn pushed(names: std::ops::Range<u32>) -> Value {
    names
        .map(|i| json!({"name": format!("pushed_{i}"), "metric_type": "GAUGE", "value": 1, "source": "APPLICATION"}))
        .collect()
}

#[test]
fn an_exploding_target_harms_nobody_and_its_room_comes_back() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = dir.path().join("quiver.yml");
    std::fs::write(&config, format!("quiver: {{limits: {{series_max: {ROOM}}}}}\n"))
        .expect("the configuration is written");
    let server = support::quiver(dir.path(), &["--config", &config.display().to_string()]);
    let (good, bad) = (Arc::new(AtomicU64::new(300)), Arc::new(AtomicU64::new(1_600)));
    register(&server, "good", target(good));
    register(&server, "bad", target(bad.clone()));
    assert_eq!(server.client.number("count(requests{job=\"bad\"})"), 1_600.0);

    // Ten times what there is room for.
    bad.store(10 * ROOM, Ordering::SeqCst);
    for _ in 0..3 {
        let shown = scrape(&server, "bad");
        assert_eq!(shown["health_status"], "degraded", "{shown}");
        assert_eq!(server.client.number("up{job=\"bad\"}"), 1.0);
        assert_eq!(scrape(&server, "good")["health_status"], "healthy");
    }
    assert_eq!(
        server.client.number("min(count_over_time(requests{job=\"bad\"}[1h]))"),
        4.0,
        "a series that was in lost a sample"
    );
    assert_eq!(server.client.number("min(count_over_time(requests{job=\"good\"}[1h]))"), 4.0);
    assert!(server.client.number("count({job=~\"good|bad\"})") <= ROOM as f64);
    let told = server.client.get(&format!("{TARGETS}/bad/rejections")).expect(200).json();
    assert_eq!(told["label_values"][0]["label"], "user_id", "{told}");
    assert_eq!(told["rejections"][0]["reason"], "series_limit", "{told}");
    assert!(told["rejections"][0]["examples"][0]["labels"]["user_id"].is_string(), "{told}");
    assert!(told["advice"].as_str().is_some_and(|a| a.contains("limits.series_max")), "{told}");
    server.client.get(&format!("{TARGETS}/good/rejections")).expect(200);
    server.client.get(&format!("{TARGETS}/nobody/rejections")).expect(404);

    // Who pushes new series is told who holds the room, and that it is worth another try.
    server.client.post_json(CUSTOM, &pushed(0..50)).expect(200);
    let mut refused = None;
    for at in 1..20 {
        let answer = server.client.post_json(CUSTOM, &pushed(50 * at..50 * (at + 1)));
        if answer.status != 200 {
            refused = Some(answer.expect(429));
            break;
        }
    }
    let refused = refused.expect("there is no room for a thousand more");
    assert!(refused.header("retry-after").is_some());
    assert!(refused.body.contains("held by bad") && refused.body.contains("label user_id of bad"), "{}", refused.body);
    server.client.post_json(CUSTOM, &pushed(0..50)).expect(200);
    let page = server.client.get("/metrics").expect(200).body;
    for figure in ["quiver_series_refused_total{limit=\"series\"}", "quiver_memory_limit_bytes{for=\"series\"}"] {
        let line = page.lines().find(|l| l.starts_with(figure)).unwrap_or_else(|| panic!("no {figure}"));
        assert!(!line.ends_with(" 0"), "{line}");
    }
    let explored = server.client.get("/api/v1/status/tsdb?limit=200").expect(200).json();
    assert_eq!(explored["data"]["seriesCountByTarget"][0]["name"], "bad", "{explored}");
    assert_eq!(explored["data"]["labelValueCountByLabelName"][0]["name"], "user_id");
    assert!(explored["data"]["seriesCountByLabelValuePair"].as_array().is_some_and(|l| l.len() == 200));

    // Repaired: what has ended makes room for those who wait.
    bad.store(10, Ordering::SeqCst);
    assert_eq!(scrape(&server, "bad")["health_status"], "healthy");
    support::wait_until("there is room again", || {
        let answer = server.client.post_json(CUSTOM, &pushed(0..1_000));
        answer.status == 200 && answer.json()["rejected"] == 0
    });
}
