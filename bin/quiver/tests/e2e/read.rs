//! A real Prometheus reads from us: by remote read, as a stream of chunks, and by federation. vmagent writes to us.

use std::path::Path;

use crate::remote;
use crate::support::{self, Program, encode, free_port, now_ms, wait_until};

/// Starts Debian's Prometheus, which reads `job="read"` from the server and federates `job="fed"`.
fn reader(dir: &Path, server: &Program) -> Program {
    let (port, ours) = (free_port(), server.port);
    let config = dir.join("reader.yml");
    let text = format!(
        "global: {{scrape_interval: 1s}}\n\
         remote_read:\n\
         - url: http://127.0.0.1:{ours}/api/v1/read\n  read_recent: true\n  required_matchers: {{job: read}}\n\
         scrape_configs:\n\
         - job_name: federation\n  honor_labels: true\n  metrics_path: /federate\n\
         \x20 params: {{'match[]': ['{{job=\"fed\"}}']}}\n\
         \x20 static_configs: [{{targets: ['127.0.0.1:{ours}']}}]\n"
    );
    std::fs::write(&config, text).expect("the configuration is written");
    let args = [
        format!("--config.file={}", config.display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--storage.tsdb.path={}", dir.join("reader").display()),
        "--log.level=warn".to_owned(),
    ];
    Program::start(Path::new("/usr/bin/prometheus"), &args, port, "/-/ready", &dir.join("reader.log"))
}

#[test]
fn prometheus_reads_what_we_hold() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let now_ms = now_ms();
    let values = |seed: u64| {
        (0..700u64).map(move |i| {
            let bits = (seed + i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let value = if i % 3 == 0 { f64::from_bits(bits & 0x7fbf_ffff_ffff_ffff) } else { (i / 5) as f64 };
            (now_ms - 3_500_000 + i as i64 * 5_000 + (bits % 7) as i64, value)
        })
    };
    let labels = |n: &'static str, job: &'static str| [("__name__", "m"), ("n", n), ("job", job)];
    let mut data =
        vec![remote::series(&labels("1", "read"), values(1)), remote::series(&labels("2", "read"), values(99))];
    data.push(remote::series(&labels("1", "fed"), [(now_ms - 100, 0.1)]));
    data.push(remote::series(&[("__name__", "n_total"), ("job", "fed"), ("instance", "x")], [(now_ms - 50, 1e300)]));
    assert_eq!(remote::write(&server.client, data).status, 204);
    let theirs = reader(dir.path(), &server);

    let question = format!("/api/v1/query?time={}&query={}", now_ms / 1000, encode("m{job=\"read\"}[2h]"));
    let ours = server.client.get(&question).expect(200).json();
    assert_eq!(ours["data"]["result"].as_array().map(Vec::len), Some(2), "{ours}");
    assert_eq!(ours["data"]["result"][0]["values"].as_array().map(|v| v.len() > 600), Some(true));
    let read = theirs.client.get(&question).expect(200).json();
    assert_eq!(read["data"], ours["data"]);

    wait_until("Prometheus has federated", || theirs.client.query("up{job=\"federation\"}")[0]["value"][1] == "1");
    for (expr, expected) in
        [("m{job=\"fed\",n=\"1\",instance=\"\"}", 0.1), ("n_total{job=\"fed\",instance=\"x\"}", 1e300)]
    {
        assert_eq!(theirs.client.number(expr), expected, "{}", theirs.log_text());
        let ts_ms = (theirs.client.number(&format!("timestamp({expr})")) * 1000.0).round() as i64;
        assert!([now_ms - 100, now_ms - 50].contains(&ts_ms), "{expr}: {ts_ms}");
    }
}

#[test]
fn vmagent_writes_to_us_through_a_kill() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let (port, ours) = (free_port(), server.port);
    let config = dir.path().join("vmagent.yml");
    let text = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n\
         - job_name: agent\n  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n"
    );
    std::fs::write(&config, text).expect("the configuration is written");
    let args = [
        format!("-promscrape.config={}", config.display()),
        format!("-httpListenAddr=127.0.0.1:{port}"),
        format!("-remoteWrite.url=http://127.0.0.1:{ours}/api/v1/write"),
        format!("-remoteWrite.tmpDataPath={}", dir.path().join("vmagent").display()),
        "-remoteWrite.flushInterval=200ms".to_owned(),
    ];
    let agent = Program::start(Path::new("/usr/bin/vmagent"), &args, port, "/health", &dir.path().join("vmagent.log"));
    let samples = "count_over_time(up{job=\"agent\"}[1h])";
    let count =
        |server: &Program| server.client.query(samples)[0]["value"][1].as_str().map_or(0, |n| n.parse().unwrap_or(0));
    wait_until("vmagent has written", || count(&server) >= 3);
    server.kill();
    let server = support::quiver_on(dir.path(), ours, &[]);
    let after = count(&server);
    assert!(after >= 3, "{after}");
    wait_until("vmagent goes on", || count(&server) >= after + 3);
    // No scrape is missing or doubled: vmagent kept what it could not send.
    let rows = server.client.query("up{job=\"agent\"}[1h]")[0]["values"].as_array().cloned().unwrap_or_default();
    let times: Vec<f64> = rows.iter().filter_map(|row| row[0].as_f64()).collect();
    let steps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(steps.iter().all(|step| (0.5..1.6).contains(step)), "{steps:?}");
    drop(agent);
}
