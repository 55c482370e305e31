//! The systemd unit, and what the server says to systemd.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{file, text_of};
use crate::child::Running;
use crate::support::{Client, free_port};

#[test]
fn systemd_hears_when_the_server_is_ready_alive_and_stops() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let socket = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a time to wait");
    let hear = || {
        let mut bytes = [0; 1_000];
        let length = socket.recv(&mut bytes).expect("systemd hears something");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let port = free_port();
    let mut server = Running::default();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quiver"));
    command
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(dir.path().join("data"))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "600000")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    server.start(&mut command);
    let first = hear();
    assert!(first.starts_with("STATUS=") && first.contains("EXTEND_TIMEOUT_USEC="), "{first}");
    let mut heard = first;
    while !heard.starts_with("READY=1") {
        heard = hear();
    }
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    client.get("/-/ready").expect(200);
    (0..3).for_each(|_| assert_eq!(hear(), "WATCHDOG=1"));
    let ended = std::thread::spawn(move || server.end_by("-TERM"));
    while !heard.starts_with("STOPPING=1") {
        heard = hear();
    }
    assert!(ended.join().expect("no panic").is_some_and(|status| status.success()));
}

/// Where systemd is installed, it reads the unit; a machine without it has nothing to say about it.
#[test]
fn the_unit_is_one_that_systemd_takes() {
    let unit = text_of("systemd/quiver.service");
    for line in
        ["Type=notify", "WatchdogSec=60s", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="]
    {
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
    let analyze = "/usr/bin/systemd-analyze";
    if !std::path::Path::new(analyze).exists() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("quiver.service");
    // The binary lies elsewhere here.
    let unit = unit.replace("/usr/local/bin/quiver", env!("CARGO_BIN_EXE_quiver"));
    std::fs::write(&path, unit).expect("a file");
    let output = Command::new(analyze).arg("verify").arg(&path).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let about_it: Vec<&str> = said.lines().filter(|line| line.contains("quiver.service")).collect();
    assert!(about_it.is_empty(), "{about_it:#?}");
    let output = Command::new(analyze)
        .args(["security", "--offline=true", "--no-pager", "--threshold=20"])
        .arg(file("systemd/quiver.service"))
        .output()
        .expect("it runs");
    assert!(output.status.success(), "exposed more than 2.0: {}", String::from_utf8_lossy(&output.stdout));
}
