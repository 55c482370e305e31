//! Pushes by prometheus_client, unchanged, with kill -9 between a push and its queries.

use std::path::Path;
use std::process::Command;

use crate::support::{self, Program, encode, wait_until};

#[track_caller]
fn push(server: &Program, step: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compat/push_client.py");
    let out = Command::new(support::python())
        .arg(script)
        .arg(format!("127.0.0.1:{}", server.port))
        .arg(step)
        .output()
        .expect("the Python environment is there: run scripts/setup test");
    assert!(out.status.success(), "{step}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Counts the series that an instant query gives.
#[track_caller]
fn count(server: &Program, expr: &str) -> usize {
    server.client.query(expr).as_array().expect("a vector").len()
}

fn start(dir: &Path) -> Program {
    let config = dir.join("quiver.yml");
    std::fs::write(&config, "quiver: {push_restate_interval: 1s}\n").expect("the configuration is written");
    support::quiver(dir, &["--config", &config.display().to_string()])
}

#[test]
fn prometheus_client_pushes_and_its_groups_outlive_a_kill() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = start(dir.path());
    push(&server, "put");
    server.kill();

    let server = start(dir.path());
    let client = &server.client;
    let group = "job=\"nightly\",instance=\"host/1 a\"";
    assert_eq!(client.number(&format!("job_last_success{{{group}}}")), 1.5);
    assert_eq!(client.number(&format!("job_items_total{{{group},kind=\"good\"}}")), 41.0);
    assert_eq!(client.number("sum(job_items_total{kind=\"b\\\"ad\\\\\"})"), 1.0);
    assert_eq!(client.number("histogram_quantile(0.5, job_seconds_bucket)"), 2.75);
    assert_eq!(client.number("job_build_info{version=\"1.2\"}"), 1.0);
    let pushed = client.number(&format!("push_time_seconds{{{group}}}"));
    assert!((pushed - support::now_ms() as f64 / 1000.0).abs() < 60.0, "{pushed}");
    assert_eq!(client.number("push_failure_time_seconds"), 0.0);
    let metadata = client.get("/api/v1/metadata?metric=job_items_total").expect(200).json();
    assert_eq!(metadata["data"]["job_items_total"][0]["type"], "counter", "{metadata}");

    // Written again at the present time, after the restart, too.
    let first = client.number("timestamp(job_last_success)");
    wait_until("the group is written again", || client.number("timestamp(job_last_success)") >= first + 2.0);
    assert_eq!(client.number(&format!("push_time_seconds{{{group}}}")), pushed);

    push(&server, "contradict");
    assert!(client.number("push_failure_time_seconds{job=\"other\"}") >= pushed);
    push(&server, "add");
    assert_eq!(client.number("job_last_success"), 2.5);
    assert_eq!(count(&server, "job_items_total"), 2);
    push(&server, "replace");
    assert_eq!((count(&server, "job_last_success"), count(&server, "{__name__=~\"job_.*\"}")), (0, 1));
    assert_eq!(client.number("job_other"), 3.0);
    push(&server, "delete");
    server.kill();
    let server = start(dir.path());
    assert_eq!(count(&server, "{job=\"nightly\"}"), 0);

    let page = server.client.get("/metrics").expect(200).body;
    // The group that failed is one, as in the original.
    assert!(page.contains("\nquiver_push_groups 1\n"), "{page}");
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_group_ends_with_its_life() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = start(dir.path());
    let client = &server.client;
    let put = |path: &str, headers: &[(&str, &str)]| client.send("PUT", path, headers, b"m 1\n").expect(200);
    put("/metrics/job/short?ttl=2s", &[]);
    put("/metrics/job/long", &[("x-quiver-ttl", "1h")]);
    assert_eq!(count(&server, "m"), 2);
    wait_until("the group's life is over", || count(&server, "m") == 1);
    assert_eq!(client.number("m{job=\"long\"}"), 1.0);
    let url = format!("/api/v1/query?query={}", encode("count_over_time(m{job=\"short\"}[1m])"));
    let before = client.get(&url).expect(200).json();
    assert!(before["data"]["result"][0]["value"][1].as_str().is_some_and(|n| n != "0"), "{before}");
    let page = client.get("/metrics").expect(200).body;
    for line in ["quiver_push_requests_total{outcome=\"stored\"} 2\n", "quiver_push_groups_expired_total 1\n"] {
        assert!(page.contains(line), "{line}: {page}");
    }
}
