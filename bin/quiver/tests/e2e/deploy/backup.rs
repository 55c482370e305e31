//! A backup is made while samples come, and a server starts on it elsewhere.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;

use super::{file, run};
use crate::support::{Client, node_exporter, quiver, wait_until};

fn script(name: &str, from: &Path, to: &Path) -> Command {
    let mut command = Command::new(file(&format!("backup/{name}")));
    command.env("QUIVER", env!("CARGO_BIN_EXE_quiver")).arg(from).arg(to);
    command
}

/// Sends a sample with a number of its own; tells whether it was answered 200.
fn send(client: &Client, n: u64) -> bool {
    let body = json!([{"name": "counted", "metric_type": "GAUGE", "value": n, "labels": {"n": n.to_string()}}]);
    let headers = [("content-type", "application/json")];
    let sent = client.try_send("POST", "/api/v1/metrics/custom?source_id=e2e", &headers, body.to_string().as_bytes());
    sent.is_ok_and(|answer| answer.status == 200)
}

#[test]
fn a_backup_made_under_load_starts_elsewhere_with_everything() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let exporter = node_exporter(dir.path());
    let (home, elsewhere) = (dir.path().join("home"), dir.path().join("elsewhere"));
    std::fs::create_dir_all(&home).expect("a folder");
    std::fs::create_dir_all(&elsewhere).expect("a folder");
    let server = quiver(&home, &["--web.enable-admin-api"]);
    let target = json!({"source_id": "desk", "target_id": "one", "collection_method": "PULL_SCRAPING",
        "labels": {"team": "a"}, "retention_policy": {"raw": "30d"},
        "scrape_config": {"target_url": format!("127.0.0.1:{}", exporter.port), "scrape_interval": "1s",
            "authentication": {"type": "BASIC", "username": "u", "password": {"value": "sealed-secret"}}}});
    server.client.post_json("/api/v1/metrics/targets", &target).expect(201);

    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let sending = std::thread::spawn({
        let (client, stop, accepted) = (server.client.clone(), stop.clone(), accepted.clone());
        move || {
            while !stop.load(Ordering::SeqCst) {
                let n = accepted.load(Ordering::SeqCst);
                accepted.fetch_add(u64::from(send(&client, n)), Ordering::SeqCst);
            }
        }
    });
    wait_until("some are in", || accepted.load(Ordering::SeqCst) >= 50);
    let at_least = accepted.load(Ordering::SeqCst);
    let (data, backup) = (home.join("data"), dir.path().join("backup"));
    let mut command = script("backup", &data, &backup);
    run(command.args(["--server", &format!("http://127.0.0.1:{}", server.port)]));
    let at_most = accepted.load(Ordering::SeqCst) + 1;
    stop.store(true, Ordering::SeqCst);
    sending.join().expect("no panic");
    assert!(
        std::fs::read_dir(data.join("snapshots")).is_ok_and(|mut left| left.next().is_none()),
        "the snapshot is gone"
    );
    assert!(!script("backup", &data, &backup).status().expect("it runs").success(), "nothing is written over");
    server.kill();
    std::fs::remove_dir_all(&data).expect("the disk is lost");

    run(&mut script("restore", &backup, &elsewhere.join("data")));
    assert!(!script("restore", &backup, &elsewhere.join("data")).status().expect("it runs").success());
    let server = quiver(&elsewhere, &[]);
    let count = server.client.number("count(last_over_time(counted[1h]))") as u64;
    assert!((at_least..=at_most).contains(&count), "{at_least} <= {count} <= {at_most}");
    let shown = server.client.get("/api/v1/metrics/targets/one").expect(200).json();
    assert_eq!((&shown["labels"]["team"], &shown["retention_policy"]["raw"]), (&json!("a"), &json!("30d")), "{shown}");
    // Its password can be opened: the key came along.
    wait_until("it is scraped", || {
        server.client.get("/api/v1/metrics/targets/one").json()["health_status"] == "healthy"
    });
    assert!(send(&server.client, 1_000_000));
    let integrity = server.client.get("/api/v1/metrics/integrity").expect(200).json();
    assert!(integrity["balanced"] != false, "{integrity}");
}
