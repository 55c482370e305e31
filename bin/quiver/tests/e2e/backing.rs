//! Two servers on one PostgreSQL with a Redis beside them, killed and restarted in mid-load.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::postgres::{self, Postgres};
use crate::redis::{self, Redis};
use crate::support::{self, Program, free_port, node_exporter, quiver_on, wait_until};
use crate::toxic::{Mood, Toxic};

/// Writes a configuration whose passwords stand in files, as they do in production.
fn config(dir: &Path, node: &str, pg_port: u16, redis_port: u16) -> PathBuf {
    let write = |name: &str, text: String| {
        std::fs::create_dir_all(dir).expect("the folder is made");
        std::fs::write(dir.join(name), text).expect("the file is written");
    };
    write("pg-password", format!("{}\n", postgres::PASSWORD));
    write("redis-password", format!("{}\n", redis::PASSWORD));
    write(
        "config.yml",
        format!(
            "quiver:\n  node: {node}\n  catalog:\n    url: postgres://quiver@127.0.0.1:{pg_port}/targets\n    \
             password_file: pg-password\n  cache:\n    url: redis://127.0.0.1:{redis_port}/0\n    \
             password_file: redis-password\n"
        ),
    );
    dir.join("config.yml")
}

fn start(dir: &Path, port: u16) -> Program {
    let config = dir.join("config.yml").display().to_string();
    quiver_on(dir, port, &["--config", &config])
}

fn register(server: &Program, target_id: &str, exporter: &Program) -> support::Answer {
    let body = json!({"source_id": "desk", "target_id": target_id, "collection_method": "PULL_SCRAPING",
        "scrape_config": {"target_url": format!("127.0.0.1:{}", exporter.port), "scrape_interval": "1s"}});
    server.client.post_json("/api/v1/metrics/targets?wait=0", &body)
}

fn own(server: &Program, name: &str) -> f64 {
    let page = server.client.get("/metrics").expect(200).body;
    let line = page.lines().find(|l| l.starts_with(name) && l[name.len()..].starts_with([' ', '{']));
    let line = line.unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

/// Both servers register and change the same targets at the same time, each something else of them.
fn both_change_the_same(a: &Program, b: &Program, exporter: &Program) {
    const ROUNDS: usize = 15;
    let path = "/api/v1/metrics/targets/one";
    std::thread::scope(|scope| {
        for (server, name) in [(a, "a"), (b, "b")] {
            scope.spawn(move || {
                for n in 0..ROUNDS {
                    let patch = json!({"labels": {format!("{name}{n}"): "x"}}).to_string();
                    let headers = [("content-type", "application/merge-patch+json")];
                    server.client.send("PATCH", path, &headers, patch.as_bytes()).expect(200);
                    let answer = register(server, &format!("both{n}"), exporter);
                    assert!([200, 201].contains(&answer.status), "the registration is the same: {}", answer.body);
                }
            });
        }
    });
    wait_until("both have all changes of either", || {
        [a, b].iter().all(|server| {
            let labels = server.client.get(path).expect(200).json()["labels"].clone();
            (0..ROUNDS).all(|n| labels[format!("a{n}")] == "x" && labels[format!("b{n}")] == "x")
        })
    });
    let etag = a.client.get(path).header("etag").map(str::to_owned).expect("an ETag");
    let patch = json!({"labels": {"late": "x"}}).to_string();
    let headers = [("content-type", "application/merge-patch+json")];
    b.client.send("PATCH", path, &headers, patch.as_bytes()).expect(200);
    a.client.send("DELETE", path, &[("if-match", &etag)], b"").expect(412);
    for n in 0..ROUNDS {
        a.client.delete(&format!("/api/v1/metrics/targets/both{n}")).expect(200);
    }
    wait_until("they are gone", || b.client.get("/api/v1/metrics/targets").json().as_array().map(Vec::len) == Some(1));
}

#[test]
fn servers_with_targets_of_the_same_name_do_not_answer_for_each_other() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let redis = Redis::start();
    let exporter = node_exporter(dir.path());
    let servers = ["a", "b"].map(|name| {
        let dir = dir.path().join(name);
        std::fs::create_dir_all(&dir).expect("the folder is made");
        quiver_on(&dir, free_port(), &["--cache", &redis.url()])
    });
    register(&servers[0], "one", &exporter).expect(201);
    register(&servers[1], "one", &servers[0]).expect(201);
    let latest = |server: &Program| server.client.get("/api/v1/metrics/targets/one/latest").expect(200).body;
    wait_until("each has its own", || {
        latest(&servers[0]).contains("node_load1") && latest(&servers[1]).contains("quiver_build_info")
    });
    for round in 0..40 {
        let (of_a, of_b) = (latest(&servers[0]), latest(&servers[1]));
        assert!(of_a.contains("node_load1") && !of_a.contains("quiver_build_info"), "round {round}: {of_a}");
        assert!(of_b.contains("quiver_build_info") && !of_b.contains("node_load1"), "round {round}: {of_b}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn two_servers_share_a_catalog_that_goes_away() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut pg, mut redis) = (Postgres::start(), Redis::start());
    pg.create("targets");
    let toxic = Toxic::before(pg.port);
    let exporter = node_exporter(dir.path());
    let (dir_a, dir_b) = (dir.path().join("a"), dir.path().join("b"));
    config(&dir_a, "a", toxic.port(), redis.port);
    config(&dir_b, "b", pg.port, redis.port);
    let (port_a, port_b) = (free_port(), free_port());
    let (a, b) = (start(&dir_a, port_a), start(&dir_b, port_b));

    register(&a, "one", &exporter).expect(201);
    wait_until("the other server scrapes it too", || {
        b.client.get("/api/v1/metrics/targets/one").json()["health_status"] == "healthy"
    });
    wait_until("the four keys are in Redis", || {
        ["target_health:one", "latest_metrics:one", "collection_stats", "scrape_schedule:one"]
            .iter()
            .all(|key| redis.ask(&["GET", key]).is_some())
    });
    let key = |redis: &Redis, name: &str| -> Value {
        serde_json::from_str(&redis.ask(&["GET", name]).expect("the key is there")).expect("it is JSON")
    };
    assert_eq!(key(&redis, "target_health:one")["status"], "healthy");
    // Statistics are put each ten seconds, the first ones before there was a target.
    wait_until("statistics have it", || key(&redis, "collection_stats")["total_targets"] == 1);
    assert!(key(&redis, "scrape_schedule:one").as_str().is_some_and(|t| t.ends_with('Z')));
    let latest = key(&redis, "latest_metrics:one");
    assert!(
        latest.as_array().is_some_and(|l| l.iter().any(|m| m["name"] == "node_load1" && m["metric_type"] == "GAUGE")),
        "{latest}"
    );
    for (name, least_ms) in [("target_health:one", 240_000), ("latest_metrics:one", 60_000)] {
        let left: i64 = redis.ask(&["PTTL", name]).and_then(|t| t.parse().ok()).expect("a time");
        assert!((least_ms..=600_000).contains(&left), "{name}: {left}");
    }

    both_change_the_same(&a, &b, &exporter);

    // Redis dies: answers come from the store.
    redis.kill();
    let answer = a.client.get("/api/v1/metrics/targets/one/latest").expect(200).json();
    assert!(answer.as_array().is_some_and(|l| l.iter().any(|m| m["name"] == "up" && m["value"] == 1.0)), "{answer}");
    a.client.get("/api/v1/metrics/stats").expect(200);

    // PostgreSQL dies in the middle of it: collection goes on, changes are refused with the reason.
    pg.kill();
    let refused = register(&a, "two", &exporter).expect(503);
    let retry_after = refused.header("retry-after").map(str::to_owned);
    let problem = refused.json();
    assert_eq!((problem["code"].as_str(), retry_after.as_deref()), (Some("catalog_unavailable"), Some("5")));
    assert!(problem["detail"].as_str().is_some_and(|d| d.contains("postgres://quiver@")), "{problem}");
    assert!(!problem.to_string().contains(postgres::PASSWORD));
    assert_eq!(a.client.delete("/api/v1/metrics/targets/one").status, 503);
    let before = a.client.number("count_over_time(up{job=\"desk\"}[1h])");
    wait_until("scrapes go on", || a.client.number("count_over_time(up{job=\"desk\"}[1h])") >= before + 3.0);
    assert_eq!(own(&a, "quiver_catalog_up"), 0.0);

    // A crash meanwhile: the targets come from the copy in the data directory.
    a.kill();
    let a = start(&dir_a, port_a);
    assert_eq!(a.client.get("/api/v1/metrics/targets").expect(200).json().as_array().map(Vec::len), Some(1));
    // Failures are rows of their own, and wait.
    drop(exporter);
    wait_until("a failure waits on disk", || {
        a.client.get("/api/v1/metrics/targets/one").json()["health_status"] == "unhealthy"
            && own(&a, "quiver_catalog_waiting_bytes") > 0.0
    });

    pg.resume();
    redis.resume();
    let exporter = node_exporter(dir.path());
    wait_until("changes are taken again", || [200, 201].contains(&register(&a, "two", &exporter).status));
    wait_until("the other server has it", || b.client.get("/api/v1/metrics/targets/two").status == 200);
    wait_until("what waited is written", || {
        own(&a, "quiver_catalog_waiting_bytes") == 0.0
            && pg.ask("targets", "SELECT count(*) FROM collection_jobs WHERE status = 'failed'") != "0"
    });
    wait_until("Redis has what it forgot", || {
        ["target_health:one", "target_health:two", "collection_stats"].iter().all(|k| redis.ask(&["GET", k]).is_some())
    });
    // A network that swallows everything between one server and the database is no difference to its targets.
    toxic.set(Mood::HalfOpen);
    register(&b, "three", &exporter).expect(201);
    a.client.get("/api/v1/metrics/targets/three").expect(404);
    toxic.set(Mood::Cut);
    toxic.set(Mood::Good);
    wait_until("it catches up", || a.client.get("/api/v1/metrics/targets/three").status == 200);
    b.client.delete("/api/v1/metrics/targets/two").expect(200);
    wait_until("a deletion arrives", || a.client.get("/api/v1/metrics/targets/two").status == 404);
    assert_eq!(own(&a, "quiver_catalog_collections_dropped_total"), 0.0);
    for server in [&a, &b] {
        let log = server.log_text();
        assert!(!log.contains(postgres::PASSWORD) && !log.contains(redis::PASSWORD), "a password is in the log");
    }
    assert_eq!((a.terminate(), b.terminate()), (Some(0), Some(0)));
}

#[test]
fn a_catalog_that_refuses_ends_the_start_with_what_to_do() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pg = Postgres::start();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_quiver"))
        .args(["serve", "--listen", &format!("127.0.0.1:{}", free_port()), "--data-dir"])
        .arg(dir.path())
        .args(["--catalog", &pg.url("nowhere")])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("\"nowhere\" does not exist") && text.contains("CREATE DATABASE"), "{text}");
    assert!(!text.contains(postgres::PASSWORD), "{text}");
}
