//! The wiring of `deploy/compose`, without containers: the same configuration, registrations and consumer.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use server::config::yaml::{self, Kind, Node};

use super::{expressions, file, run, text_of};
use crate::child::Running;
use crate::nats::{self, Nats};
use crate::postgres::{self, Postgres};
use crate::redis::{self, Redis};
use crate::support::{Program, free_port, node_exporter, quiver_on, wait_until};

/// Gives a member of a mapping.
fn member<'a>(node: &'a Node, path: &[&str]) -> Option<&'a Node> {
    path.iter().try_fold(node, |node, key| match &node.kind {
        Kind::Map(entries) => entries.iter().find(|e| e.key == *key).map(|e| &*e.value),
        _ => None,
    })
}

fn keys(node: &Node) -> Vec<&str> {
    match &node.kind {
        Kind::Map(entries) => entries.iter().map(|e| e.key.as_str()).collect(),
        _ => Vec::new(),
    }
}

/// Writes the files of `deploy/compose` with the places of this machine in place of containers'.
fn place(dir: &Path, ports: &[(&str, u16)]) {
    let here = |name: &str| {
        let text = text_of(name).replace("/run/secrets/", &format!("{}/", dir.display()));
        ports.iter().fold(text, |text, (service, port)| {
            assert!(text.contains(service) || !name.ends_with(".yml"), "{name} names {service}");
            text.replace(service, &format!("127.0.0.1:{port}"))
        })
    };
    // What is not in the example, but on the dashboard: another store, here one that nobody is.
    let more = "remote_write:\n- {name: nowhere, url: 'http://127.0.0.1:9/write'}\n";
    std::fs::write(dir.join("quiver.yml"), here("compose/quiver.yml") + more).expect("a file");
    std::fs::write(dir.join("targets.json"), here("compose/targets.json")).expect("a file");
    std::fs::copy(file("prometheus/quiver-alerts.yml"), dir.join("quiver-alerts.yml")).expect("a file");
    for (name, password) in [("postgres", postgres::PASSWORD), ("redis", redis::PASSWORD), ("nats", nats::PASSWORD)] {
        std::fs::write(dir.join(format!("{name}-password")), password).expect("a file");
    }
}

/// Starts the consumer; gives what it prints.
fn consume(running: &mut Running, dir: &Path, port: u16, lines: &Arc<Mutex<Vec<String>>>) {
    let out = dir.join("consumer.out");
    let stdout = std::fs::OpenOptions::new().create(true).append(true).open(&out).expect("a file");
    let mut command = Command::new("python3");
    command
        .args(["-u", "-B"])
        .arg(file("compose/consumer.py"))
        .env("NATS_URL", format!("nats://127.0.0.1:{port}"))
        .env("NATS_USER", "quiver")
        .env("NATS_PASSWORD_FILE", dir.join("nats-password"))
        .stdout(stdout)
        .stderr(Stdio::null());
    running.start(&mut command);
    let lines = lines.clone();
    std::thread::spawn(move || {
        while Arc::strong_count(&lines) > 1 {
            let text = std::fs::read_to_string(&out).unwrap_or_default();
            *lines.lock().expect("no thread panics") = text.lines().map(str::to_owned).collect();
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
}

fn about(lines: &Arc<Mutex<Vec<String>>>, source_id: &str) -> usize {
    let lines = lines.lock().expect("no thread panics");
    lines.iter().filter(|line| line.contains(&format!(" {source_id}: ")) && line.contains("PULL_SCRAPING")).count()
}

#[test]
fn the_services_are_those_that_the_configuration_names() {
    let compose = yaml::parse(&text_of("compose/compose.yml")).expect("it is YAML");
    let services = keys(member(&compose, &["services"]).expect("services"));
    let config = text_of("compose/quiver.yml");
    for service in ["postgres", "redis", "nats"] {
        assert!(services.contains(&service), "{services:?}");
        assert!(
            config.contains(&format!("{service}:")) && config.contains(&format!("/run/secrets/{service}-password"))
        );
        let secrets = member(&compose, &["services", service, "secrets"]).expect("its secrets");
        assert!(format!("{secrets:?}").contains(&format!("{service}-password")));
    }
    let script = text_of("compose/make-secrets");
    for secret in keys(member(&compose, &["secrets"]).expect("secrets")) {
        let name = secret.strip_suffix("-password").expect("a password");
        assert!(script.contains(name), "make-secrets makes {secret}");
    }
    let targets: Value = serde_json::from_str(&text_of("compose/targets.json")).expect("it is JSON");
    for target in targets.as_array().expect("a list") {
        let url = target["scrape_config"]["target_url"].as_str().expect("a URL");
        assert!(services.iter().any(|service| url.starts_with(&format!("http://{service}:"))), "{url}");
    }
    assert_eq!(targets[0]["source_id"], "portfolio_management_service");
}

#[test]
fn the_wiring_of_compose_works_without_containers() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (pg, cache, mut bus) = (Postgres::start(), Redis::start(), Nats::start());
    pg.create("targets");
    let exporter = node_exporter(dir.path());
    let own_port = free_port();
    let ports =
        [("127.0.0.1:9740", own_port), ("postgres:5432", pg.port), ("redis:6379", cache.port), ("nats:4222", bus.port)];
    place(dir.path(), &ports);
    let targets = std::fs::read_to_string(dir.path().join("targets.json")).expect("the registrations");
    let targets = targets.replace("node-exporter:9100", &format!("127.0.0.1:{}", exporter.port));
    // The test does not wait as long as people do.
    let targets = targets.replace("\"15s\"", "\"1s\"").replace("\"30s\"", "\"1s\"");
    std::fs::write(dir.path().join("targets.json"), targets).expect("a file");
    let config = dir.path().join("quiver.yml").display().to_string();
    run(Command::new(env!("CARGO_BIN_EXE_quiver")).args(["check-config", &config]));
    let server: Program = quiver_on(dir.path(), own_port, &["--config", &config]);

    for said in ["registered", "registered already"] {
        let printed = run(Command::new("python3")
            .arg("-B")
            .arg(file("compose/register.py"))
            .arg(dir.path().join("targets.json"))
            .env("QUIVER_URL", format!("http://127.0.0.1:{own_port}")));
        assert!(printed.lines().count() == 2 && printed.lines().all(|line| line.ends_with(said)), "{printed}");
    }
    let (lines, mut consumer) = (Arc::default(), Running::default());
    consume(&mut consumer, dir.path(), bus.port, &lines);
    wait_until("the consumer hears of both", || {
        about(&lines, "portfolio_management_service") > 0 && about(&lines, "infrastructure") > 0
    });

    // Redis has the four keys, PostgreSQL the targets.
    wait_until("others read along", || {
        ["target_health:", "latest_metrics:", "scrape_schedule:"]
            .iter()
            .all(|key| cache.ask(&["GET", &format!("{key}portfolio_management_service-1")]).is_some())
            && cache.ask(&["GET", "collection_stats"]).is_some()
    });
    assert_eq!(pg.ask("targets", "SELECT count(*) FROM metric_targets"), "2");

    // Nobody is there for a while: what comes meanwhile comes later.
    consumer.kill();
    let before = about(&lines, "portfolio_management_service");
    bus.kill();
    wait_until("events wait", || {
        let page = server.client.get("/metrics").expect(200).body;
        let behind = page.lines().find_map(|l| l.strip_prefix("quiver_event_sink_lag_events{sink=\"bus\"} "));
        behind.and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n >= 4.0)
    });
    bus.resume();
    let (lines, mut consumer) = (Arc::default(), Running::default());
    consume(&mut consumer, dir.path(), bus.port, &lines);
    wait_until("it hears of what it missed", || about(&lines, "portfolio_management_service") >= before + 3);

    // The rules are in force, and everything that they and the dashboard name is there.
    let rules = server.client.get("/api/v1/rules?type=alert").expect(200).json();
    assert!(rules["data"]["groups"].as_array().is_some_and(|g| g.len() == 4), "{rules}");
    wait_until("a round of rules is over", || {
        server.client.number("count(up{job=\"quiver\"} == 1) or vector(0)") == 1.0
    });
    expressions::look_up(&server.client.get("/metrics").expect(200).body);
    let custom = json!([{"name": "orders_open", "metric_type": "GAUGE", "value": 42}]);
    server.client.post_json("/api/v1/metrics/custom?source_id=portfolio_management_service", &custom).expect(200);
    let log = server.log_text();
    for password in [postgres::PASSWORD, redis::PASSWORD, nats::PASSWORD] {
        assert!(!log.contains(password), "a password is in the log");
    }
    assert_eq!(server.terminate(), Some(0));
}
