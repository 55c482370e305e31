//! Filters on every way in: what is kept, what collides, what is added up, and that a kill takes nothing away.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{self, Client, Program, encode};

/// Something to scrape, whose text changes.
struct Exposer {
    port: u16,
    text: Arc<Mutex<String>>,
}

impl Exposer {
    fn start(text: &str) -> Exposer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
        let port = listener.local_addr().expect("it is bound").port();
        let text = Arc::new(Mutex::new(text.to_owned()));
        let shown = text.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut asked = Vec::new();
                let mut buffer = [0; 4096];
                while !asked.windows(4).any(|w| w == b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(n) if n > 0 => asked.extend_from_slice(&buffer[..n]),
                        _ => break,
                    }
                }
                let body = shown.lock().expect("nobody panicked").clone();
                // Who does not wait for the answer is no concern here.
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Exposer { port, text }
    }

    fn show(&self, text: &str) {
        text.clone_into(&mut self.text.lock().expect("nobody panicked"));
    }
}

fn balance(report: &Value) -> [u64; 4] {
    let count = |name: &str| report["balance"][name].as_u64().unwrap_or_else(|| panic!("{report}"));
    let counts = [count("received"), count("accepted") + count("duplicates"), count("filtered"), count("rejected")];
    assert_eq!(counts[0], counts[1] + counts[2] + counts[3], "{report}");
    counts
}

fn request(exposer: &Exposer, filters: &Value) -> Value {
    json!({
        "source_id": "shop", "target_id": "shop-1", "collection_method": "PULL_SCRAPING",
        "scrape_config": {"target_url": format!("127.0.0.1:{}", exposer.port), "scrape_interval": "1h"},
        "filters": filters,
    })
}

fn scrape(client: &Client) -> Value {
    let report = client.send("POST", "/api/v1/metrics/targets/shop-1/scrape", &[], b"").expect(200).json();
    assert_eq!(report["ok"], json!(true), "{report}");
    report
}

fn explain(client: &Client, series: &str) -> Value {
    client.get(&format!("/api/v1/metrics/targets/shop-1/explain?series={}", encode(series))).expect(200).json()
}

const TEXT: &str = "# TYPE orders_total counter\norders_total{user=\"a\",pod=\"1\"} 10\norders_total{user=\"b\",pod=\"1\"} 5\n\
                    # TYPE go_threads gauge\ngo_threads 7\n# TYPE queue gauge\nqueue 3\n";

#[test]
fn scrapes_are_filtered_explained_and_added_up_over_a_kill() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let client = &server.client;
    let exposer = Exposer::start(TEXT);
    let filters = json!([
        {"action": "DROP", "match": "{__name__=~\"go_.*\"}", "note": "nobody looks at them"},
        {"action": "DROP_LABEL", "labels": ["user"]},
        {"action": "RENAME_LABEL", "labels": ["pod"], "to": "replica"},
    ]);
    let body = request(&exposer, &filters);

    // A dry run tells what would become of everything, and stores nothing.
    let dry = client.post_json("/api/v1/metrics/targets?dry_run=true", &body).expect(200).json();
    let report = &dry["first_scrape"];
    assert_eq!(balance(report), [4, 2, 1, 1], "{report}");
    let acted: Vec<(&str, u64)> = report["filters"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|f| (f["action"].as_str().unwrap_or_default(), f["series"].as_u64().unwrap_or_default()))
        .collect();
    assert_eq!(acted, [("DROP", 1), ("DROP_LABEL", 1), ("RENAME_LABEL", 1)], "{report}");
    assert!(report["collisions"][0].as_str().is_some_and(|c| c.contains("user=\"b\"")), "{report}");
    assert!(report["advice"].as_str().is_some_and(|a| a.contains("AGGREGATE_AWAY")), "{report}");
    assert_eq!(client.query("orders_total"), json!([]));

    let registered = client.post_json("/api/v1/metrics/targets", &body).expect(201).json();
    assert_eq!(registered["filters"], filters, "{registered}");
    assert_eq!(client.number("orders_total{replica=\"1\",user=\"\"}"), 10.0);
    assert_eq!(client.query("go_threads"), json!([]));
    assert_eq!(client.number("up{job=\"shop\"}"), 1.0);
    let refused = client.get("/api/v1/metrics/targets/shop-1/rejections").expect(200).json();
    assert_eq!(refused["rejections"][0]["reason"], json!("label_collision"), "{refused}");
    assert_eq!(refused["rejections"][0]["examples"][0]["labels"]["user"], json!("b"), "{refused}");

    let told = explain(client, "go_threads");
    assert_eq!(told["outcome"], json!("dropped"), "{told}");
    assert!(told["reason"].as_str().is_some_and(|r| r.contains("nobody looks at them")), "{told}");
    let told = explain(client, "orders_total{user=\"a\",pod=\"1\"}");
    assert_eq!((told["outcome"].as_str(), told["type"].as_str()), (Some("relabeled"), Some("counter")), "{told}");
    assert!(told["stored_as"].as_str().is_some_and(|s| s.contains("replica=\"1\"") && !s.contains("user")), "{told}");
    assert_eq!(explain(client, "queue")["outcome"], json!("kept"));
    let rules = client.get("/api/v1/metrics/targets/shop-1/filters?format=relabel").expect(200).body;
    assert!(rules.starts_with("metric_relabel_configs:\n"), "{rules}");

    // Added up instead: nothing is refused, and a kill is no reset.
    let aggregate = json!([{"action": "AGGREGATE_AWAY", "labels": ["user", "pod"]}]);
    let path = "/api/v1/metrics/targets/shop-1";
    let patched = client.send("PATCH", path, &[], json!({"filters": aggregate}).to_string().as_bytes()).expect(200);
    assert_eq!(patched.json()["filters"][0]["function"], json!("SUM"));
    assert_eq!(balance(&scrape(client))[2..], [1, 0]);
    assert_eq!(client.number("orders_total{replica=\"\"}"), 15.0);
    exposer.show("# TYPE orders_total counter\norders_total{user=\"a\",pod=\"1\"} 12\n");
    scrape(client);
    assert_eq!(client.number("orders_total{replica=\"\"}"), 17.0, "what is gone keeps what it gave");
    server.kill();
    exposer.show(
        "# TYPE orders_total counter\norders_total{user=\"a\",pod=\"1\"} 1\norders_total{user=\"b\",pod=\"1\"} 6\n",
    );
    let server = support::quiver(dir.path(), &[]);
    let client = &server.client;
    scrape(client);
    let after = client.number("orders_total{replica=\"\"}");
    // The file of sums may be older than the kill. Then it says 10 of a and not 12: the 2 are in the 17 that are stored, and what
    // both gave since is not more than those. It is never counted twice.
    assert!([17.0, 19.0].contains(&after), "{after}");
    exposer.show(
        "# TYPE orders_total counter\norders_total{user=\"a\",pod=\"1\"} 4\norders_total{user=\"b\",pod=\"1\"} 6\n",
    );
    scrape(client);
    assert_eq!(client.number("orders_total{replica=\"\"}"), after + 3.0);
    // In order, nothing is lost at all.
    assert_eq!(server.terminate(), Some(0));
    exposer.show(
        "# TYPE orders_total counter\norders_total{user=\"a\",pod=\"1\"} 2\norders_total{user=\"b\",pod=\"1\"} 9\n",
    );
    let server = support::quiver(dir.path(), &[]);
    scrape(&server.client);
    assert_eq!(server.client.number("orders_total{replica=\"\"}"), after + 8.0);
    assert_eq!(explain(&server.client, "orders_total{user=\"a\"}")["outcome"], json!("aggregated"));
    assert_eq!(server.terminate(), Some(0));
}

fn start_with(dir: &std::path::Path, config: &str) -> Program {
    let path = dir.join("quiver.yml");
    std::fs::write(&path, config).expect("the configuration is written");
    support::quiver(dir, &["--config", &path.display().to_string()])
}

#[test]
fn pushes_pass_the_filters_of_their_source() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = "quiver:\n  filters:\n    - source: edge\n      filters:\n        - {action: DROP, match: '{__name__=~\"tmp_.*\"}'}\n        - {action: AGGREGATE_AWAY, labels: [host], match: 'hits_total'}\n";
    let server = start_with(dir.path(), config);
    let client = &server.client;
    let push = |source: &str, metrics: &Value| {
        client.post_json(&format!("/api/v1/metrics/custom?source_id={source}"), metrics)
    };
    let hits = |host: &str, value: f64, ts: i64| json!({"name": "hits_total", "metric_type": "COUNTER", "labels": {"host": host}, "value": value, "timestamp": ts});
    let first = support::now_ms() / 1000 - 100;
    let body = json!([hits("a", 3.0, first), hits("b", 4.0, first),
        {"name": "tmp_x", "metric_type": "GAUGE", "value": 1, "timestamp": first}, {"name": "load", "metric_type": "GAUGE", "value": 2, "timestamp": first}]);
    let result = push("edge", &body).expect(200).json();
    assert_eq!(
        [&result["received"], &result["accepted"], &result["filtered"], &result["rejected"]],
        [4, 2, 2, 0],
        "{result}"
    );
    assert_eq!(client.number("sum(hits_total)"), 7.0);
    // A retry counts once.
    let again = push("edge", &body).expect(200).json();
    assert_eq!([&again["duplicates"], &again["filtered"], &again["accepted"]], [3, 1, 0], "{again}");
    let result = push("edge", &json!([hits("a", 1.0, first + 10), hits("b", 6.0, first + 10)])).expect(200).json();
    assert_eq!([&result["accepted"], &result["filtered"]], [1, 1], "{result}");
    assert_eq!(client.number("sum(hits_total)"), 10.0, "a began again");
    // Other sources are not touched.
    push("core", &json!([{"name": "tmp_y", "metric_type": "GAUGE", "value": 1}])).expect(200);
    assert_eq!(client.number("tmp_y"), 1.0);

    // A registered source has its own, on its way in.
    let filters = json!([{"action": "DROP_LABEL", "labels": ["run"]}, {"action": "KEEP", "match": "{__name__=~\"job_.*|push_.*\"}"}]);
    client
        .post_json(
            "/api/v1/metrics/targets",
            &json!({"source_id": "nightly", "collection_method": "PUSH_GATEWAY", "filters": filters}),
        )
        .expect(201);
    client.send("PUT", "/metrics/job/nightly/run/1", &[], b"job_items 4\nother 1\n").expect(200);
    assert_eq!(client.number("job_items{run=\"\"}"), 4.0);
    assert_eq!(client.query("other"), json!([]));
    let remote = json!({"source_id": "sender", "collection_method": "STREAMING", "filters": [{"action": "HASH_LABEL", "labels": ["mail"], "modulus": 1}]});
    client.post_json("/api/v1/metrics/targets", &remote).expect(201);
    let frame =
        json!({"seq": 1, "metrics": [{"name": "seen", "metric_type": "GAUGE", "labels": {"mail": "a@b"}, "value": 1}]});
    client
        .send(
            "POST",
            "/api/v1/metrics/stream?stream_id=s&source_id=sender",
            &[("content-type", "application/x-ndjson")],
            format!("{frame}\n").as_bytes(),
        )
        .expect(200);
    assert_eq!(client.number("seen{mail=\"0\"}"), 1.0);
    server.kill();
    let server = start_with(dir.path(), config);
    let result = server
        .client
        .post_json(
            "/api/v1/metrics/custom?source_id=edge",
            &json!([hits("a", 2.0, first + 20), hits("b", 6.0, first + 20)]),
        )
        .expect(200)
        .json();
    assert_eq!([&result["accepted"], &result["filtered"]], [1, 1], "{result}");
    let sum = server.client.number("sum(hits_total)");
    assert!((10.0..=11.0).contains(&sum), "{sum}");
    assert_eq!(server.terminate(), Some(0));
}
