//! Custom collectors and the registry for others: programs and pages of JSON as scrapes, a real Prometheus on `http_sd`.

use std::path::Path;

use serde_json::{Value, json};

use crate::postgres::{PASSWORD, Postgres};
use crate::support::{self, Program, free_port, wait_until};

/// Finds a target in the list.
fn target(server: &Program, id: &str) -> Value {
    server.client.get(&format!("/api/v1/metrics/targets/{id}")).expect(200).json()
}

#[test]
fn programs_and_pages_are_scraped_like_any_target() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let script = dir.path().join("stats.sh");
    let text = "#!/bin/sh\nprintf '# TYPE jobs gauge\\njobs{state=\"%s\"} 7\\n' \"$STATE\"\n";
    std::fs::write(&script, text).expect("the script is written");
    // The page is our own: it is JSON, and it is there.
    let port = free_port();
    let config = format!(
        "quiver:\n  collectors:\n    - name: jobs\n      interval: 200ms\n      labels: {{env: test}}\n      exec: {{command: [/bin/sh, '{}'], env: {{STATE: busy}}}}\n    - name: lines\n      interval: 200ms\n      exec: {{command: [/bin/echo, 'disk,dev=sda used=3'], format: influx}}\n    - name: broken\n      interval: 200ms\n      exec: {{command: [/bin/sh, -c, 'echo no luck >&2; exit 4']}}\n    - name: page\n      interval: 200ms\n      http_json:\n        url: http://127.0.0.1:{port}/api/v1/metrics/stats\n        metrics:\n          - {{name: quiver_targets, value: /total_targets, labels: {{kind: all}}}}\n  filters:\n    - job: lines\n      filters: [{{action: RENAME_LABEL, labels: [dev], to: device}}]\n",
        script.display()
    );
    let path = dir.path().join("quiver.yml");
    std::fs::write(&path, &config).expect("the configuration is written");
    let server = support::quiver_on(dir.path(), port, &["--config", &path.display().to_string()]);
    let client = &server.client;
    wait_until("all have run", || client.query("up").as_array().is_some_and(|all| all.len() == 4));
    wait_until("the program's samples are there", || client.query("jobs") != json!([]));
    assert_eq!(client.number("jobs{state=\"busy\",env=\"test\",job=\"jobs\"}"), 7.0);
    assert_eq!(client.number("disk_used{device=\"sda\"}"), 3.0);
    wait_until("the page's samples are there", || client.query("quiver_targets") != json!([]));
    assert!(client.number("quiver_targets{kind=\"all\"}") >= 0.0);
    assert_eq!(client.number("up{job=\"broken\"}"), 0.0);
    assert_eq!(client.number("scrape_samples_scraped{job=\"jobs\"}"), 1.0);
    let shown = target(&server, "collector:broken");
    assert_eq!(
        (shown["origin"].as_str(), shown["health_status"].as_str()),
        (Some("collector:broken"), Some("unhealthy"))
    );
    assert!(shown["last_error"].as_str().is_some_and(|e| e.contains("exit status: 4: no luck")), "{shown}");
    assert_eq!(target(&server, "collector:jobs")["health_status"], json!("healthy"));
    // What the operator configured is not for the API to remove, and reloading takes it out.
    client.send("DELETE", "/api/v1/metrics/targets/collector:jobs", &[], b"").expect(409);
    std::fs::write(&path, "quiver: {}\n").expect("the configuration is written");
    client.send("POST", "/-/reload", &[], b"").expect(200);
    client.get("/api/v1/metrics/targets/collector:jobs").expect(404);
    wait_until("its series have ended", || client.query("jobs") == json!([]));
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn collectors_that_are_wrong_stop_the_start_with_their_place() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("quiver.yml");
    std::fs::write(&path, "quiver:\n  collectors:\n    - name: a\n      exec: {command: 'rm -rf x'}\n    - {name: b}\n  filters:\n    - job: none\n      filters: [{action: EXPLODE}]\n").expect("it is written");
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_quiver"))
        .args(["check-config", &path.display().to_string()])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{text}");
    for wanted in [
        "quiver.yml:4:",
        "quiver.yml:5:",
        "there is no shell",
        "one of exec, http_json and sql",
        "no scrape job and no collector",
        "/filters/0/action",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn a_real_prometheus_scrapes_what_is_registered_here() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let exporter = support::node_exporter(dir.path());
    let body = json!({
        "source_id": "nodes", "target_id": "node-1", "collection_method": "PULL_SCRAPING", "labels": {"env": "test"},
        "scrape_config": {"target_url": format!("127.0.0.1:{}", exporter.port), "scrape_interval": "1s", "scrape_timeout": "1s"},
    });
    let registered = server.client.post_json("/api/v1/metrics/targets", &body).expect(201).json();
    let projected = &registered["first_scrape"]["projected"];
    let per_scrape = registered["first_scrape"]["samples_post_metric_relabeling"].as_u64().expect("a number");
    assert_eq!(projected["samples_per_day"].as_u64(), Some(per_scrape * 86_400), "{projected}");
    // The same labels again: both would write the same series.
    let mut twin = body.clone();
    twin["target_id"] = json!("node-2");
    let twin = server.client.post_json("/api/v1/metrics/targets?dry_run=true", &twin).expect(200).json();
    assert_eq!(twin["first_scrape"]["conflicts"], json!(["node-1"]), "{twin}");

    let prometheus_port = free_port();
    let config = dir.path().join("prometheus.yml");
    let text = format!(
        "scrape_configs:\n  - job_name: registry\n    http_sd_configs:\n      - url: http://127.0.0.1:{}/api/v1/metrics/sd\n        refresh_interval: 1s\n",
        server.port
    );
    std::fs::write(&config, text).expect("the configuration is written");
    let args = [
        format!("--config.file={}", config.display()),
        format!("--web.listen-address=127.0.0.1:{prometheus_port}"),
        format!("--storage.tsdb.path={}", dir.path().join("tsdb").display()),
        "--log.level=warn".to_owned(),
    ];
    let log = dir.path().join("prometheus.log");
    let prometheus = Program::start(Path::new("/usr/bin/prometheus"), &args, prometheus_port, "/-/ready", &log);
    let up = "up{job=\"nodes\",env=\"test\"}";
    wait_until("Prometheus has scraped it", || prometheus.client.query(up)[0]["value"][1] == json!("1"));
    let instance = format!("node_load1{{instance=\"127.0.0.1:{}\"}}", exporter.port);
    wait_until("both have the same series", || prometheus.client.query(&instance) != json!([]));
    assert_ne!(server.client.query(&instance), json!([]));
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn rows_of_a_real_postgresql_are_scraped_and_nothing_is_changed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let postgres = Postgres::start();
    postgres.create("shop");
    postgres.ask("shop", "CREATE TABLE orders (state text, amount numeric); INSERT INTO orders VALUES ('open', 1.5), ('open', 2), ('done', 4)");
    std::fs::write(dir.path().join("password"), format!("{PASSWORD}\n")).expect("the password is written");
    let entry = |name: &str, query: &str| {
        format!(
            "    - name: {name}\n      interval: 200ms\n      timeout: 200ms\n      sql:\n        postgres: postgres://quiver@127.0.0.1:{}/shop\n        password_file: password\n        query: {query}\n        metrics: [{{name: shop_orders, value: n, labels: [state]}}, {{name: shop_amount, value: sum, labels: [state]}}]\n",
            postgres.port
        )
    };
    let config = [
        "quiver:\n  collectors:\n".to_owned(),
        entry("orders", "SELECT state, count(*) AS n, sum(amount) FROM orders GROUP BY state"),
        entry("writes", "\"WITH gone AS (DELETE FROM orders RETURNING *) SELECT 1 AS n FROM gone\""),
        entry("slow", "SELECT pg_sleep(100)"),
    ];
    let path = dir.path().join("quiver.yml");
    std::fs::write(&path, config.concat()).expect("the configuration is written");
    let server = support::quiver(dir.path(), &["--config", &path.display().to_string()]);
    let client = &server.client;
    wait_until("the rows are there", || client.query("shop_orders") != json!([]));
    assert_eq!(client.number("shop_orders{state=\"open\",job=\"orders\"}"), 2.0);
    assert_eq!(client.number("shop_amount{state=\"open\"}"), 3.5);
    wait_until("all were tried", || {
        client.query("up{job=~\"writes|slow\"}").as_array().is_some_and(|up| up.len() == 2)
    });
    assert_eq!(client.number("sum(up{job=~\"writes|slow\"})"), 0.0);
    assert_eq!(postgres.ask("shop", "SELECT count(*) FROM orders"), "3");
    let page =
        client.get("/api/v1/metrics/targets").expect(200).body + &client.get("/api/v1/status/config").expect(200).body;
    assert!(!page.contains(PASSWORD), "{page}");
    assert_eq!(server.terminate(), Some(0));
    wait_until("no query goes on", || {
        postgres.ask(
            "postgres",
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(100)%' AND pid <> pg_backend_pid()",
        ) == "0"
    });
}
