//! Tokens made and revoked while the server runs; passwords; rates; the audit log.

use std::io::Write as _;
use std::process::Command;

use serde_json::{Value, json};

use super::world::{World, ask, files_below};
use crate::support::{Program, quiver, quiver_on, wait_until};

fn command(words: &[&str], token: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_quiver")).args(words).env("QUIVER_TOKEN", token).output();
    let output = output.expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).trim().to_owned())
}

fn status(server: &Program, authorization: &str, method: &str, path: &str) -> u16 {
    ask(server.port, method, path, &[("Authorization", authorization)], b"").status
}

#[test]
fn the_first_token_of_an_admin_shuts_the_door_and_the_last_one_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = quiver(folder.path(), &[]);
    let url = format!("http://127.0.0.1:{}", server.port);
    let register = |role: &str, name: &str, token: &str| {
        command(&["token", "create", "--register", "--role", role, "--name", name, "--server", &url], token)
    };
    let (code, text) = register("read", "early", "");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("admin first"), "{text}");
    let (code, admin) = register("admin", "root", "");
    assert_eq!(code, Some(0), "{admin}");
    assert_eq!(ask(server.port, "GET", "/metrics", &[], b"").status, 401);
    let (code, text) = register("read", "grafana", "");
    assert_eq!(code, Some(1), "{text}");
    let (code, reader) = register("read", "grafana", &admin);
    assert_eq!(code, Some(0), "{reader}");
    assert!(reader.starts_with("qvr_"), "{reader}");
    assert_eq!(register("read", "grafana", &admin).0, Some(1), "the name is taken");
    let bearer = format!("Bearer {reader}");
    assert_eq!(status(&server, &bearer, "GET", "/api/v1/query?query=1"), 200);
    let (_, listed) = command(&["token", "list", "-o", "json", "--server", &url], &admin);
    let listed: Value = serde_json::from_str(&listed).expect("a list");
    assert_eq!((&listed[0]["name"], &listed[1]["roles"]), (&json!("root"), &json!(["read"])));
    assert!(!listed.to_string().contains(&reader));
    let revoke = |name: &str| command(&["token", "revoke", name, "--server", &url], &admin);
    assert_eq!(revoke("grafana").0, Some(0));
    assert_eq!(status(&server, &bearer, "GET", "/api/v1/query?query=1"), 401);
    let (code, text) = revoke("root");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("last way in"), "{text}");
    // Over a kill, and never in a file.
    let port = server.port;
    server.kill();
    let server = quiver_on(folder.path(), port, &[]);
    assert_eq!(status(&server, &format!("Bearer {admin}"), "GET", "/metrics"), 200);
    assert_eq!(ask(server.port, "GET", "/metrics", &[], b"").status, 401);
    for (path, bytes) in files_below(folder.path()) {
        for secret in [&admin, &reader] {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{} holds a token", path.display());
        }
    }
    let audit = std::fs::read_to_string(folder.path().join("data/audit/audit.jsonl")).expect("an audit log");
    let lines: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let made = lines.iter().find(|l| l["who"] == "token:root" && l["method"] == "POST").expect("a line");
    assert_eq!((&made["path"], &made["status"]), (&json!("/api/v1/metrics/tokens"), &json!(201)));
    assert!(made["from"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")), "{made}");
    assert!(lines.iter().any(|l| l["method"] == "DELETE" && l["status"] == 204), "{audit}");
}

#[test]
fn whoever_goes_away_leaves_a_line_all_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = quiver(folder.path(), &[]);
    // A target that does not answer: the registration waits for its first scrape.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let target = json!({
        "source_id": "s", "target_id": "silent", "collection_method": "PULL_SCRAPING",
        "scrape_config": {"target_url": url, "scrape_interval": "1h", "scrape_timeout": "30s"}
    })
    .to_string();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
    let head = "POST /api/v1/metrics/targets HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{target}", target.len()).expect("it is sent");
    wait_until("the target is asked", || server.client.get("/api/v1/metrics/targets").body.contains("silent"));
    drop(stream);
    let audit = folder.path().join("data/audit/audit.jsonl");
    wait_until("the line is written", || {
        let text = std::fs::read_to_string(&audit).unwrap_or_default();
        text.contains("\"path\":\"/api/v1/metrics/targets\"") && text.contains("\"status\":499")
    });
}

#[test]
fn a_token_that_is_made_without_a_server_comes_with_its_entry() {
    let (code, text) = command(
        &["token", "create", "--role", "write", "--source", "app", "--expires-in", "1d", "--samples-per-second", "5"],
        "",
    );
    assert_eq!(code, Some(0), "{text}");
    let (token, entry) = text.split_once('\n').expect("a token and an entry");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("q.yml");
    std::fs::write(&file, entry).expect("it is written");
    let server = quiver(folder.path(), &["--config", &file.display().to_string()]);
    let body = |n: usize| {
        let metric = |i| json!({"name": format!("m{i}"), "metric_type": "GAUGE", "value": 1});
        json!((0..n).map(metric).collect::<Vec<_>>()).to_string()
    };
    let send = |n: usize| {
        let headers = [("Authorization", &*format!("Bearer {token}")), ("Content-Type", "application/json")];
        ask(server.port, "POST", "/api/v1/metrics/custom", &headers, body(n).as_bytes())
    };
    // It has one source, and writes as that without saying so.
    assert_eq!(send(20).status, 200);
    let limited = send(1);
    assert_eq!(limited.status, 429, "{limited:?}");
    assert!(limited.header("retry-after").is_some(), "{limited:?}");
    assert_eq!(command(&["token", "create", "--role", "read", "--source", "x"], "").0, Some(2));
}

#[test]
fn prometheus_web_configuration_lets_in_by_password_and_headers_are_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let hash = bcrypt::hash("hunter2", 4).expect("a hash");
    let web = folder.path().join("web.yml");
    let text =
        format!("basic_auth_users: {{alice: '{hash}'}}\nhttp_server_config:\n  headers: {{X-Frame-Options: deny}}\n");
    std::fs::write(&web, text).expect("it is written");
    let server = quiver(folder.path(), &["--web.config.file", &web.display().to_string()]);
    let basic = |login: &str| {
        use base64::Engine;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login))
    };
    for (login, wanted) in [("alice:hunter2", 200), ("alice:hunter3", 401), ("bob:hunter2", 401), ("alice:", 401)] {
        assert_eq!(status(&server, &basic(login), "GET", "/api/v1/query?query=1"), wanted, "{login}");
    }
    let answer = ask(server.port, "GET", "/metrics", &[("Authorization", &basic("alice:hunter2"))], b"");
    assert_eq!(answer.header("x-frame-options"), Some("deny"));
    assert!(answer.text.contains("quiver_"), "{answer:?}");
    // A reload may add people, but not leave the door open where others reach it; a broken file changes nothing.
    std::fs::write(&web, "basic_auth_users: {alice: nonsense}\n").expect("it is written");
    assert_eq!(status(&server, &basic("alice:hunter2"), "POST", "/-/reload"), 500);
    assert_eq!(status(&server, &basic("alice:hunter2"), "GET", "/metrics"), 200);
}

#[test]
fn requests_beyond_a_rate_are_told_to_wait() {
    let token = server::access::token::make().expect("a token");
    let hash = server::access::token::TokenHash::of(&token).to_hex();
    let entry = format!("      - {{name: slow, sha256: {hash}, role: read, requests_per_second: 0.001}}\n");
    let world = World::start_with(&entry, &[]);
    assert_eq!(world.ask(&token, "GET", "/api/v1/query?query=1", b"").status, 200);
    let limited = world.ask(&token, "GET", "/api/v1/query?query=1", b"");
    assert_eq!((limited.status, limited.header("retry-after").is_some()), (429, true), "{limited:?}");
    assert!(limited.text.contains("\"errorType\":\"too_many_requests\""), "{limited:?}");
    assert_eq!(world.ask(&world.read, "GET", "/api/v1/query?query=1", b"").status, 200, "others are not concerned");
}
