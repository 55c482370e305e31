//! Deleting, snapshots, restore and the blocks commands with the real binary.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Program, encode, quiver};

fn send(server: &Program, name: &str, value: f64) {
    let body = json!([{"name": name, "metric_type": "GAUGE", "value": value, "labels": {}, "source": "APPLICATION"}]);
    server.client.post_json("/api/v1/metrics/custom?source_id=e2e", &body).expect(200);
}

fn count(server: &Program, name: &str) -> f64 {
    let result = server.client.query(&format!("count_over_time({name}[1h])"));
    result[0]["value"][1].as_str().map_or(0.0, |n| n.parse().expect("a number"))
}

fn command(words: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_quiver")).args(words).output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words:?}: {out}{err}");
    serde_json::from_str(&out).unwrap_or(Value::String(out.into_owned()))
}

#[test]
fn series_are_deleted_snapshots_restored_and_blocks_carried_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = quiver(folder.path(), &["--web.enable-admin-api"]);
    send(&server, "kept", 1.0);
    send(&server, "doomed", 2.0);
    let admin = |path: &str| server.client.send("POST", &format!("/api/v1/admin/tsdb/{path}"), &[], b"");
    assert_eq!(admin("delete_series").expect(400).json()["error"], "no match[] parameter provided");
    admin(&format!("delete_series?match[]={}", encode("{__name__=\"doomed\"}"))).expect(204);
    assert_eq!((count(&server, "doomed"), count(&server, "kept")), (0.0, 1.0));
    admin("clean_tombstones").expect(204);
    admin("burn").expect(404);
    send(&server, "doomed", 3.0);
    assert_eq!(count(&server, "doomed"), 1.0, "what comes later is not concerned");

    let url = format!("http://127.0.0.1:{}", server.port);
    let snapshot = command(&["snapshot", "--server", &url, "-o", "json"]);
    let name = snapshot["data"]["name"].as_str().expect("a name").to_owned();
    let path = folder.path().join("data").join("snapshots").join(name);
    send(&server, "later", 1.0);
    let (snapshot, fresh, exported) =
        (path.display().to_string(), folder.path().join("restored/data"), folder.path().join("exported"));
    let (fresh, exported) = (fresh.display().to_string(), exported.display().to_string());
    let verified = command(&["blocks", "verify", "--data-dir", &snapshot, "-o", "json"]);
    assert!(verified.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|b| b["sound"] == true)));
    command(&["blocks", "export", &exported, "--data-dir", &snapshot]);
    assert!(Path::new(&exported).join("metrics_ts.sql").exists());
    command(&["restore", &snapshot, "--data-dir", &fresh]);
    let again = command(&["blocks", "import", &exported, "--data-dir", &fresh, "-o", "json"]);
    assert_eq!(again["imported"], 0, "all of it is there: {again}");
    let listed = command(&["blocks", "list", "--data-dir", &fresh, "-o", "json"]);
    assert_eq!(listed.as_array().map(Vec::len), verified.as_array().map(Vec::len));
    let restored = quiver(&folder.path().join("restored"), &[]);
    let counts = ["kept", "doomed", "later"].map(|name| count(&restored, name));
    assert_eq!(counts, [1.0, 1.0, 0.0]);
}

#[test]
fn the_admin_api_is_off_unless_it_is_switched_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = quiver(folder.path(), &[]);
    let answer = server.client.send("POST", "/api/v1/admin/tsdb/clean_tombstones", &[], b"").expect(500);
    assert_eq!(answer.json()["error"], "admin APIs disabled");
    let output = Command::new(env!("CARGO_BIN_EXE_quiver"))
        .args(["snapshot", "--server", &format!("http://127.0.0.1:{}", server.port)])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--web.enable-admin-api"));
}
