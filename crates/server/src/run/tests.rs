//! Whole servers in this process: real listener, real store in a temporary folder, real scrapes of themselves.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn options(dir: &Path, config: Option<&str>) -> Options {
    let file = config.map(|text| {
        let path = dir.join("prometheus.yml");
        std::fs::write(&path, text).unwrap();
        path
    });
    Options {
        config_file: file,
        overrides: Overrides {
            listen: Some("127.0.0.1:0".to_owned()),
            data_dir: Some(dir.join("data")),
            ..Overrides::default()
        },
        ..Options::default()
    }
}

async fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: \
         {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head[9..12].parse().unwrap(), body.to_owned())
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    send(address, "GET", path, "").await
}

async fn get_json(address: SocketAddr, path: &str) -> Value {
    let (status, body) = get(address, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
}

/// Asks until the answer satisfies.
async fn wait_for(address: SocketAddr, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let value = get_json(address, path).await;
        if wanted(&value) {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "still waiting: {value}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn config(job: &str) -> String {
    format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: {job}\n  file_sd_configs: [{{files: [t.json]}}]\n"
    )
}

/// The value of a series on `/metrics`.
async fn figure(address: SocketAddr, series: &str) -> f64 {
    let (_, page) = get(address, "/metrics").await;
    let line = page.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {page}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_a_prefix_everything_is_there_and_links_lead_to_it() {
    let dir = TempDir::new().unwrap();
    let outside = Outside::read(Some("https://m.example.org/q/"), None).unwrap();
    let mut server = Server::bind(Options { outside, ..options(dir.path(), None) }).await.unwrap();
    let address = server.address();
    server.open().await.unwrap();
    assert_eq!(get(address, "/q/-/ready").await.0, 200);
    assert_eq!((get(address, "/-/ready").await.0, get(address, "/api/v1/query?query=1").await.0), (404, 404));
    assert_eq!((get(address, "/").await.0, get(address, "/q").await.0), (302, 302));
    let (status, page) = get(address, "/q/").await;
    assert!(status == 200 && page.contains("href=\"openapi\"") && !page.contains("href=\"/"), "{page}");
    // Rights and parameters are those of the route, whatever stands in front of it.
    assert_eq!(get_json(address, "/q/api/v1/query?query=1%2B1").await["data"]["result"][1], "2");
    let target = json!({"source_id": "s", "target_id": "s", "collection_method": "BATCH_UPLOAD"}).to_string();
    let (status, made) = send(address, "POST", "/q/api/v1/metrics/targets", &target).await;
    let made: Value = serde_json::from_str(&made).unwrap();
    let expected = "https://m.example.org/q/api/v1/metrics/uploads?source_id=s";
    assert_eq!((status, made["push_url"].as_str()), (201, Some(expected)), "{made}");
    let flags = get_json(address, "/q/api/v1/status/flags").await;
    assert_eq!(flags["status"], "success");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_scrapes_itself_reloads_and_stops() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::bind(options(dir.path(), Some(&config("one")))).await.unwrap();
    let address = server.address();
    assert_eq!(get(address, "/-/healthy").await.0, 200);
    let (status, text) = get(address, "/-/ready").await;
    assert_eq!(status, 503);
    assert!(text.contains("not ready: starting"), "{text}");
    assert_eq!(get(address, "/api/v1/metrics/targets").await.0, 503);

    let target = json!([{"targets": [address.to_string()], "labels": {"zone": "a"}}]);
    std::fs::write(dir.path().join("t.json"), target.to_string()).unwrap();
    server.open().await.unwrap();
    assert_eq!(get(address, "/-/ready").await, (200, "Quiver is ready.\n".to_owned()));

    let targets = "/api/v1/metrics/targets";
    let found = wait_for(address, targets, |v| v[0]["health_status"] == "healthy").await;
    assert_eq!(list(&found).len(), 1);
    assert_eq!(found[0]["origin"], "discovery:one", "{found}");
    let up = get_json(address, "/api/v1/query?query=up").await;
    assert_eq!(up["data"]["result"][0]["metric"]["zone"], "a", "{up}");
    assert_eq!(up["data"]["result"][0]["value"][1], "1");

    reloads(&server, dir.path()).await;
    server.stop().await;

    // The directory is free again and everything is there.
    let mut again = Server::bind(options(dir.path(), None)).await.unwrap();
    again.open().await.unwrap();
    let stats = get_json(again.address(), "/api/v1/metrics/stats").await;
    assert!(stats["total_metrics_collected"].as_u64().is_some_and(|n| n > 100), "{stats}");
    again.stop().await;
}

/// A good file is taken whole, a bad one refused whole, and what was muted stays muted.
async fn reloads(server: &Server, dir: &Path) {
    let (address, file) = (server.address(), dir.join("prometheus.yml"));
    std::fs::write(&file, config("two")).unwrap();
    assert_eq!(send(address, "POST", "/-/reload", "").await.0, 200);
    let targets = get_json(address, "/api/v1/metrics/targets").await;
    assert_eq!((list(&targets).len(), &targets[0]["origin"]), (1, &json!("discovery:two")), "{targets}");

    let path = format!("/api/v1/metrics/targets/{}", targets[0]["target_id"].as_str().unwrap());
    let (status, text) = send(address, "PATCH", &path, "{\"enabled\": false}").await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(send(address, "PUT", "/-/reload", "").await.0, 200);
    let muted = get_json(address, &path).await;
    assert_eq!(muted["health_status"], "disabled", "{muted}");

    std::fs::write(&file, format!("{}  scrape_intervall: 5s\n", config("three"))).unwrap();
    let (status, text) = send(address, "POST", "/-/reload", "").await;
    assert_eq!(status, 500);
    assert!(text.contains("prometheus.yml:5:3: unknown key \"scrape_intervall\""), "{text}");
    let after = get_json(address, "/api/v1/metrics/targets").await;
    assert_eq!(after[0]["origin"], "discovery:two", "{after}");
    let printed = get_json(address, "/api/v1/status/config").await;
    assert!(printed["data"]["yaml"].as_str().is_some_and(|y| y.contains("job_name: two")), "{printed}");
    assert_eq!(figure(address, "quiver_config_last_reload_successful").await, 0.0);
    assert!(server.reload().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_page_is_sound_and_the_ledger_balances() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::bind(options(dir.path(), None)).await.unwrap();
    server.open().await.unwrap();
    let address = server.address();
    let body = r#"[{"name": "a", "metric_type": "GAUGE", "value": 1, "source": "APPLICATION"}]"#;
    let (status, text) = send(address, "POST", "/api/v1/metrics/custom", body).await;
    assert_eq!(status, 200, "{text}");
    let (_, page) = get(address, "/metrics").await;
    wire::check(wire::Format::Text, page.as_bytes()).unwrap_or_else(|e| panic!("{e:?}\n{page}"));
    families_stand_together(&page);
    for series in [
        "quiver_samples_total{method=\"batch_upload\",verdict=\"stored\",reason=\"\"}",
        "quiver_batches_total",
        "quiver_append_duration_seconds_count",
        "quiver_events_published_total",
    ] {
        assert_eq!(figure(address, series).await, 1.0, "{series}");
    }
    assert!(figure(address, "process_resident_memory_bytes").await > 0.0);
    let (status, html) = get(address, "/").await;
    assert!(status == 200 && html.contains("quiver targets add"), "{html}");
    assert_eq!(get(address, "/nothing/here").await.0, 404);
    server.stop().await;
}

/// Each family is announced once, before its samples, and no series stands twice.
fn families_stand_together(page: &str) {
    let (mut families, mut series) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    let mut family = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} twice");
        } else if !line.starts_with('#') {
            assert!(line.starts_with(family), "{line} in {family}");
            assert!(series.insert(line.rsplit_once(' ').unwrap().0), "{line} twice");
        }
    }
    assert!(families.len() > 40, "{}", families.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_derived_again_from_the_stores_log() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::bind(options(dir.path(), None)).await.unwrap();
    server.open().await.unwrap();
    for i in 0..3 {
        let body = format!(r#"[{{"name": "a{i}", "metric_type": "GAUGE", "value": 1, "source": "APPLICATION"}}]"#);
        assert_eq!(send(server.address(), "POST", "/api/v1/metrics/custom", &body).await.0, 200);
    }
    server.stop().await;
    std::fs::remove_dir_all(dir.path().join("data/events")).unwrap();

    let mut again = Server::bind(options(dir.path(), None)).await.unwrap();
    again.open().await.unwrap();
    assert_eq!(figure(again.address(), "quiver_events_published_total").await, 3.0);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_takes_less_than_five_seconds_whatever_is_under_way() {
    let dir = TempDir::new().unwrap();
    // Takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!(
        "scrape_configs:\n- job_name: s\n  scrape_interval: 1m\n  scrape_timeout: 1m\n  static_configs: [{{targets: \
         ['{}']}}]\n",
        silent.local_addr().unwrap()
    );
    let mut server = Server::bind(options(dir.path(), Some(&text))).await.unwrap();
    server.open().await.unwrap();
    let address = server.address();
    let (status, targets) = get(address, "/api/v1/metrics/targets").await;
    assert_eq!(status, 200);
    let id = serde_json::from_str::<Value>(&targets).unwrap()[0]["target_id"].as_str().unwrap().to_owned();
    let path = format!("POST /api/v1/metrics/targets/{id}/scrape HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    let mut asked = TcpStream::connect(address).await.unwrap();
    asked.write_all(path.as_bytes()).await.unwrap();
    let _held = silent.accept().await.unwrap();
    let mut listener = TcpStream::connect(address).await.unwrap();
    listener.write_all(b"GET /api/v1/metrics/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    listener.read_exact(&mut [0; 12]).await.unwrap();

    let begin = Instant::now();
    server.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_one_sentence() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::bind(options(dir.path(), None)).await.unwrap();
    server.open().await.unwrap();

    let mut taken = options(dir.path(), None);
    taken.overrides.listen = Some(server.address().to_string());
    let error = Server::bind(taken).await.err().unwrap().to_string();
    assert!(error.contains("the address is in use"), "{error}");

    let mut second = Server::bind(options(dir.path(), None)).await.unwrap();
    let error = second.open().await.unwrap_err().to_string();
    assert!(error.contains("in use by another server"), "{error}");
    second.stop().await;
    server.stop().await;

    for (listen, part) in [("nowhere", "needs a port"), ("192.0.2.1:1", "does not have that address")] {
        let mut options = options(dir.path(), None);
        options.overrides.listen = Some(listen.to_owned());
        let error = Server::bind(options).await.err().unwrap().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    }
    let missing = Options { config_file: Some(PathBuf::from("/does/not/exist.yml")), ..options(dir.path(), None) };
    let error = Server::bind(missing).await.err().unwrap().to_string();
    assert!(error.starts_with("cannot read the configuration /does/not/exist.yml"), "{error}");
}
