//! Line protocols against the real binary: InfluxDB's over HTTP, StatsD and Graphite over sockets, through kill -9.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;

use crate::support::{self, Program, free_port, now_ms, wait_until};

fn has(server: &Program, expr: &str, wanted: f64) {
    wait_until(expr, || {
        let result = server.client.query(expr);
        result[0]["value"][1].as_str().and_then(|v| v.parse::<f64>().ok()) == Some(wanted)
    });
}

#[test]
fn influx_lines_are_durable_when_they_are_answered() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let ts = now_ms() - 60_000;
    let lines = format!("cpu,host=a usage=1.5,idle=98i,note=\"x\" {ts}\ncpu,host=b usage=2 {ts}\n");
    let path = "/write?db=telegraf&precision=ms";
    server.client.get("/ping").expect(204);
    server.client.send("POST", "/query?q=CREATE+DATABASE+telegraf", &[], b"").expect(200);
    server.client.send("POST", path, &[], lines.as_bytes()).expect(204);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(format!("mem free=7 {}\n", ts / 1000).as_bytes()).expect("it is in memory");
    let gzip = gzip.finish().expect("it is in memory");
    let headers = [("content-encoding", "gzip")];
    server.client.send("POST", "/api/v2/write?bucket=b&org=o&precision=s", &headers, &gzip).expect(204);
    server.kill();

    let server = support::quiver(dir.path(), &[]);
    server.client.send("POST", path, &[], lines.as_bytes()).expect(204);
    assert_eq!(server.client.number("sum(count_over_time({db=\"telegraf\"}[10m]))"), 3.0, "a retry counts once");
    assert_eq!(server.client.number("cpu_usage{host=\"b\",db=\"telegraf\"}"), 2.0);
    assert_eq!(server.client.number("mem_free{db=\"b\"}"), 7.0);
    let databases = server.client.get("/query?q=SHOW%20DATABASES").expect(200).json();
    assert_eq!(databases["results"][0]["series"][0]["values"], serde_json::json!([["b"], ["telegraf"]]));

    let bad = format!("good x=1 {ts}\nbad\nfar x=1 {}\n", ts + 86_400_000);
    let answer = server.client.send("POST", path, &[], bad.as_bytes()).expect(400).json();
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(error.contains("partial write: 1 points are stored") && error.contains("line 2"), "{error}");
    assert!(error.contains("too_new: 1"), "{error}");
    assert_eq!(server.client.number("good_x"), 1.0);
    server.client.send("POST", "/write?precision=days", &[], b"a x=1").expect(400);
    server.client.send("POST", "/write", &headers, b"no gzip").expect(400);
    server.client.get("/query?q=SELECT%201").expect(400);
    let metrics = server.client.get("/metrics").expect(200).body;
    assert!(metrics.contains("quiver_lines_dropped_total{protocol=\"influx\",reason=\"bad_line\"} 1"), "{metrics}");
}

#[test]
fn statsd_counters_go_on_after_a_kill() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let socket_path = dir.path().join("statsd.sock");
    let config = dir.path().join("q.yml");
    let port = free_port();
    let text = format!(
        "quiver: {{listen: {{statsd: ['127.0.0.1:{port}', 'unix:{}'], statsd_flush_interval: 200ms}}}}\n",
        socket_path.display()
    );
    std::fs::write(&config, text).expect("the configuration is written");
    let flags = ["--config", config.to_str().expect("UTF-8")];
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let send = |text: &str| {
        udp.send_to(text.as_bytes(), ("127.0.0.1", port)).expect("it is sent");
    };

    let server = support::quiver(dir.path(), &flags);
    send("hits:5|c|#env:test\ntook:250|ms\ntemp:20|g\nbad\n_e{1,1}:a|b");
    has(&server, "hits{env=\"test\"}", 5.0);
    has(&server, "histogram_count(took)", 1.0);
    server.kill();

    let server = support::quiver(dir.path(), &flags);
    let unix = UnixDatagram::unbound().expect("a socket");
    unix.send_to(b"hits:2|c|#env:test\ntook:750|ms\ntemp:+1|g", &socket_path).expect("it is sent");
    has(&server, "hits{env=\"test\"}", 7.0);
    has(&server, "histogram_sum(took)", 1.0);
    has(&server, "temp", 21.0);
    assert_eq!(server.client.number("resets(hits[5m])"), 0.0);
    send("last:1|c");
    let metrics = server.client.get("/metrics").expect(200).body;
    assert!(metrics.contains("quiver_statsd_series 3") || metrics.contains("quiver_statsd_series 4"), "{metrics}");
    wait_until("the datagram is read", || {
        server.client.get("/metrics").expect(200).body.contains("quiver_lines_total{protocol=\"statsd\"} 4")
    });
    assert_eq!(server.terminate(), Some(0));
    assert!(!socket_path.exists(), "the socket is removed");
    let server = support::quiver(dir.path(), &[]);
    has(&server, "last", 1.0);
}

#[test]
fn graphite_lines_come_over_tcp_and_udp() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = free_port();
    let server = support::quiver(dir.path(), &["--listen.graphite", &format!("127.0.0.1:{port}")]);
    let seconds = now_ms() / 1000;
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let long = "x".repeat(200_000);
    write!(tcp, "disk.used;host=a 42.5 {seconds}\nbad line\n{long}\nafter.long 1 {seconds}\nno.end 3 {seconds}")
        .expect("sent");
    drop(tcp);
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    udp.send_to(format!("net.in 7 {seconds}\n").as_bytes(), ("127.0.0.1", port)).expect("it is sent");
    has(&server, "disk_used{host=\"a\"}", 42.5);
    has(&server, "after_long", 1.0);
    has(&server, "no_end", 3.0);
    has(&server, "net_in", 7.0);
    let metrics = server.client.get("/metrics").expect(200).body;
    assert!(metrics.contains("quiver_lines_dropped_total{protocol=\"graphite\",reason=\"bad_line\"} 1"), "{metrics}");
    assert!(metrics.contains("quiver_lines_dropped_total{protocol=\"graphite\",reason=\"too_long\"} 1"), "{metrics}");
    server.kill();
    let server = support::quiver(dir.path(), &[]);
    has(&server, "disk_used{host=\"a\"}", 42.5);
}
