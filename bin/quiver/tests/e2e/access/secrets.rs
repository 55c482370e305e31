//! Secrets planted everywhere, looked for everywhere; and targets that are shown who asks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use server::access::table::ROWS;

use super::world::{World, files_below};
use crate::support::wait_until;

/// A target, or an issuer of tokens, that remembers what it was asked.
struct Listener {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    /// Answers `body`; where a head holds `Location`, it is a redirect.
    fn start(head: &str, body: &str) -> Listener {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, head, body) = (heads.clone(), head.to_owned(), body.to_owned());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
                let (mut text, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                        length = n.trim().parse().unwrap_or(0);
                    }
                    text.push_str(&line);
                }
                let mut sent = vec![0; length];
                let _ = reader.read_exact(&mut sent);
                text.push_str(&String::from_utf8_lossy(&sent));
                seen.lock().expect("a lock").push(text);
                let answer = format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Listener { port, heads }
    }

    fn exporter() -> Listener {
        Listener::start("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n", "a 1\n")
    }

    fn heard(&self, text: &str) -> bool {
        self.heads.lock().expect("a lock").iter().any(|head| head.to_lowercase().contains(&text.to_lowercase()))
    }
}

fn registration(id: &str, port: u16, auth: &Value) -> Vec<u8> {
    json!({"source_id": "s", "target_id": id, "collection_method": "PULL_SCRAPING", "scrape_config":
        {"target_url": format!("http://127.0.0.1:{port}"), "scrape_interval": "1s", "authentication": auth}})
    .to_string()
    .into_bytes()
}

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

#[test]
fn targets_are_shown_who_asks_and_nobody_else_is() {
    let target = Listener::exporter();
    let issuer = Listener::start(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n",
        r#"{"access_token": "fetched-token", "token_type": "Bearer", "expires_in": 3600}"#,
    );
    let elsewhere = Listener::exporter();
    let moved = format!("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{}/metrics\r\n", elsewhere.port);
    let moved = Listener::start(&moved, "");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("password"), "from-a-file\n").expect("it is written");
    let more = format!("  secrets: {{dirs: ['{}']}}\n", folder.path().display());
    let world = World::start_with(&more, &[]);
    let register = |token: &str, id: &str, port: u16, auth: Value| {
        world.ask_with(token, "POST", "/api/v1/metrics/targets", &JSON, &registration(id, port, &auth))
    };
    // `u:hunter2` in base64.
    let basic = json!({"type": "BASIC", "username": "u", "password": {"value": "hunter2"}});
    let answer = register(&world.write, "basic", target.port, basic.clone());
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(target.heard("Authorization: Basic dTpodW50ZXIy\r\n"));
    assert_eq!(register(&world.write, "basic", target.port, basic).status, 200, "the same again is the same target");
    let bearer = json!({"type": "BEARER", "token": {"value": "bearer-token"}});
    assert_eq!(register(&world.write, "bearer", target.port, bearer.clone()).status, 201);
    assert!(target.heard("Authorization: Bearer bearer-token\r\n"));
    let key = json!({"type": "API_KEY", "header": "X-Api-Key", "value": {"value": "api-key-value"}});
    assert_eq!(register(&world.write, "key", target.port, key).status, 201);
    assert!(target.heard("X-Api-Key: api-key-value\r\n"));
    let oauth2 = json!({"type": "OAUTH2", "client_id": "me", "client_secret": {"value": "client-secret"}, "scopes": ["a", "b"],
        "token_url": format!("http://127.0.0.1:{}/token", issuer.port), "audience": "metrics"});
    let answer = register(&world.write, "oauth2", target.port, oauth2);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(target.heard("Authorization: Bearer fetched-token\r\n"));
    // `me:client-secret` in base64.
    assert!(
        issuer.heard("Authorization: Basic bWU6Y2xpZW50LXNlY3JldA==") && issuer.heard("scope=a+b&audience=metrics")
    );
    wait_until("it is scraped again", || {
        let heads = target.heads.lock().expect("a lock");
        heads.iter().filter(|head| head.contains("fetched-token")).count() >= 3
    });
    assert_eq!(issuer.heads.lock().expect("a lock").len(), 1, "one token serves many scrapes");
    // References are for admins, and lead to allowed folders only.
    let file = json!({"type": "BEARER", "token": {"ref": format!("file:{}/password", folder.path().display())}});
    assert_eq!(register(&world.write, "file", target.port, file.clone()).status, 403);
    assert_eq!(register(&world.admin, "file", target.port, file).status, 201);
    assert!(target.heard("Authorization: Bearer from-a-file\r\n"));
    for reference in ["file:/etc/passwd", "env:HOME", "file:relative"] {
        let auth = json!({"type": "BEARER", "token": {"ref": reference}});
        assert_eq!(register(&world.admin, "bad", target.port, auth).status, 422, "{reference}");
    }
    // Nothing crosses to another host, nor is a target pointed elsewhere with its secret.
    assert_eq!(register(&world.write, "moved", moved.port, bearer).status, 201);
    wait_until("the redirect is followed", || elsewhere.heard("GET /metrics"));
    assert!(moved.heard("bearer-token") && !elsewhere.heard("bearer-token") && !elsewhere.heard("authorization"));
    let patch = json!({"scrape_config": {"target_url": format!("http://127.0.0.1:{}", elsewhere.port)}}).to_string();
    let answer = world.ask_with(&world.write, "PATCH", "/api/v1/metrics/targets/bearer", &JSON, patch.as_bytes());
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.text.contains("secret_needed"), "{answer:?}");
    // What the server is in a cloud is for admins.
    for kind in ["SIGV4", "GCP", "AZURE_AD"] {
        assert_eq!(register(&world.write, "lent", target.port, json!({"type": kind})).status, 403, "{kind}");
    }
    let aws =
        json!({"type": "SIGV4", "region": "eu-west-1", "access_key": "AKIATEST", "secret_key": {"value": "hunter3"}});
    assert_eq!(register(&world.write, "aws", target.port, aws).status, 201);
    assert!(target.heard("Credential=AKIATEST/") && !target.heard("hunter3"));
    let lend = json!({"scrape_config": {"authentication": {"secret_key": null, "access_key": null}}}).to_string();
    let answer = world.ask_with(&world.write, "PATCH", "/api/v1/metrics/targets/aws", &JSON, lend.as_bytes());
    assert_eq!(answer.status, 403, "{answer:?}");
}

#[test]
fn no_planted_secret_is_found_anywhere() {
    let target = Listener::exporter();
    let planted = |n: usize| format!("PlantedSecret{n}Planted");
    // Whatever stands under `quiver:` ends here; the rest is Prometheus'.
    let more = format!(
        "scrape_configs:\n\
         - job_name: a\n  basic_auth: {{username: u, password: {}}}\n  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n  scrape_interval: 1s\n\
         - job_name: b\n  authorization: {{credentials: {}}}\n  http_headers: {{X-Custom: {{secrets: [{}]}}}}\n  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n\
         - job_name: c\n  oauth2: {{client_id: x, client_secret: {}, token_url: 'http://127.0.0.1:1/t'}}\n  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n  scrape_interval: 1s\n\
         alerting:\n  alertmanagers:\n  - basic_auth: {{username: u, password: {}}}\n    static_configs: [{{targets: ['127.0.0.1:1']}}]\n",
        planted(1),
        planted(2),
        planted(3),
        planted(4),
        planted(5),
        port = target.port,
    );
    let world = World::start_with(&more, &["--log-level=debug", "--web.enable-admin-api"]);
    let post = |path: &str, body: &[u8]| world.ask_with(&world.admin, "POST", path, &JSON, body);
    for (id, auth) in [
        ("t6", json!({"type": "BASIC", "username": "u", "password": {"value": planted(6)}})),
        ("t7", json!({"type": "BEARER", "token": {"value": planted(7)}})),
        ("t8", json!({"type": "API_KEY", "header": "X-Key", "value": {"value": planted(8)}})),
        (
            "t9",
            json!({"type": "OAUTH2", "client_id": "c", "client_secret": {"value": planted(9)}, "token_url": "http://127.0.0.1:1/"}),
        ),
        ("t15", json!({"type": "SIGV4", "region": "r", "access_key": "a", "secret_key": {"value": planted(15)}})),
        ("t16", json!({"type": "GCP", "credentials": {"value": planted(16)}})),
        (
            "t17",
            json!({"type": "AZURE_AD", "client_id": "00000000-0000-4000-8000-000000000001", "tenant_id": "t.invalid",
                "client_secret": {"value": planted(17)}}),
        ),
    ] {
        let answer = post("/api/v1/metrics/targets", &registration(id, target.port, &auth));
        assert_eq!(answer.status, 201, "{answer:?}");
        assert!(!answer.text.contains("PlantedSecret"), "{answer:?}");
        let again = post(
            "/api/v1/metrics/targets?replace=true",
            &registration(id, target.port, &json!({"type": "NONE", "x": planted(10)})),
        );
        assert!(again.status == 400 && !again.text.contains("PlantedSecret"), "{again:?}");
    }
    // What is refused is not repeated either.
    let login = json!({"source_id": "s", "collection_method": "PULL_SCRAPING",
        "scrape_config": {"target_url": format!("http://u:{}@127.0.0.1:{}/", planted(11), target.port)}});
    let refused = post("/api/v1/metrics/targets", login.to_string().as_bytes());
    assert!(refused.status == 422 && !refused.text.contains("PlantedSecret"), "{refused:?}");
    for value in
        [format!("Bearer {}", planted(12)), format!("Bearer qvr_{}", planted(13)), format!("Basic {}", planted(14))]
    {
        let answer = super::world::ask(world.server.port, "GET", "/metrics", &[("Authorization", &value)], b"");
        assert!(answer.status == 401 && !answer.text.contains("PlantedSecret"), "{answer:?}");
    }
    wait_until("all jobs were tried", || target.heard(&planted(2)) && target.heard(&planted(8)));
    assert_eq!(world.ask(&world.admin, "POST", "/-/reload", b"").status, 200);
    let secrets: Vec<&str> =
        [&world.read, &world.write, &world.admin, &world.scoped].into_iter().map(String::as_str).collect();
    let clean = |what: &str, text: &[u8]| {
        for secret in secrets.iter().copied().chain(["PlantedSecret"]) {
            let found = text.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{what} holds a secret");
        }
    };
    for row in ROWS.iter().filter(|row| row.needs.iter().any(|(method, _)| *method == "GET")) {
        let paths = ["t6", "t9", "nobody"].map(|id| {
            row.path
                .replace("{target_id}", id)
                .replace("{name}", "job")
                .replace("{*rest}", "x")
                .replace("{upload_id}", "x")
        });
        for path in paths {
            let asked = match row.path {
                "/federate" => format!("{path}?match[]={{job!=%22%22}}"),
                "/api/v1/query" | "/api/v1/metrics/query" => format!("{path}?query=up"),
                "/api/v1/metrics/stream" => format!("{path}?match=up&from=1h"),
                _ => path,
            };
            let endless = ["/api/v1/metrics/stream", "/api/v1/metrics/events", "/api/v1/notifications/live"];
            let answer = if endless.contains(&row.path) {
                world.ask(&world.admin, "GET", &asked, b"")
            } else {
                let bearer = format!("Bearer {}", world.admin);
                super::world::ask_whole(world.server.port, "GET", &asked, &[("Authorization", &bearer)], b"")
            };
            clean(&asked, answer.text.as_bytes());
        }
    }
    let shown = world.ask(&world.read, "GET", "/api/v1/metrics/targets/t6", b"");
    assert!(shown.text.contains("\"redacted\":true") && !shown.text.contains("sealed"), "{shown:?}");
    clean("the log", world.server.log_text().as_bytes());
    for (path, bytes) in files_below(&world.data_dir()) {
        clean(&path.display().to_string(), &bytes);
    }
    // Over a restart the sealed ones still open.
    let port = world.server.port;
    let heard = target.heads.lock().expect("a lock").len();
    let (folder, args) = (world.folder, ["--config".to_owned(), String::new()]);
    world.server.kill();
    let config = folder.path().join("quiver.yml").display().to_string();
    let again = crate::support::quiver_on(folder.path(), port, &[&args[0], &config]);
    wait_until("the sealed secret is sent again", || {
        target.heads.lock().expect("a lock").iter().skip(heard).any(|head| head.contains(&planted(7)))
    });
    assert!(!again.log_text().contains("PlantedSecret"));
}
