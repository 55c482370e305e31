//! TLS and client certificates, with curl on the other side.

use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::support::{Program, free_port, wait_until};

/// A certificate authority and what it signed, as files.
pub struct Authority {
    dir: PathBuf,
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    pub fn new(dir: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).expect("it is written");
        Authority { dir: dir.to_owned(), params, key }
    }

    /// Writes `<file>.pem` and `<file>.key`.
    pub fn sign(&self, file: &str, name: &str) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        std::fs::write(self.dir.join(format!("{file}.pem")), certificate.pem()).expect("it is written");
        std::fs::write(self.dir.join(format!("{file}.key")), key.serialize_pem()).expect("it is written");
    }
}

/// Starts a server that speaks TLS; the answer to whether it is ready comes over TLS, too.
fn started(dir: &Path, config: &str) -> (Program, u16) {
    let (port, file) = (free_port(), dir.join("q.yml"));
    std::fs::write(&file, config).expect("it is written");
    let args = [
        "serve".to_owned(),
        format!("--config={}", file.display()),
        format!("--listen=127.0.0.1:{port}"),
        format!("--data-dir={}", dir.join("data").display()),
    ];
    let log = dir.join("quiver.log");
    let server = Program::spawn(Path::new(env!("CARGO_BIN_EXE_quiver")), &args, port, &log);
    wait_until("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    (server, port)
}

/// Gives the status that curl saw and the body; 0 when there was no answer.
fn curl(dir: &Path, port: u16, path: &str, more: &[&str]) -> (u16, String) {
    let output = Command::new("curl")
        .current_dir(dir)
        .args(["-sS", "--max-time", "30", "-w", "\n%{http_code}"])
        .args(more)
        .arg(format!("https://127.0.0.1:{port}{path}"))
        .output()
        .expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", "0"));
    (code.trim().parse().unwrap_or(0), body.to_owned())
}

#[test]
fn tls_is_spoken_and_new_certificates_are_taken_bad_ones_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();
    let first = Authority::new(dir, "first");
    let second = Authority::new(dir, "second");
    first.sign("server", "server");
    let (server, port) = started(dir, "quiver: {tls: {cert_file: server.pem, key_file: server.key}}\n");
    let ready = |ca: &str| curl(dir, port, "/-/ready", &["--cacert", ca]).0;
    wait_until("it is ready", || ready("first.pem") == 200);
    assert_eq!(curl(dir, port, "/-/healthy", &["--cacert", "first.pem", "--http2"]).0, 200);
    assert_eq!(ready("second.pem"), 0, "whom it does not trust it does not speak to");
    // Without TLS there is nothing.
    let plain = std::panic::catch_unwind(|| super::world::ask(port, "GET", "/-/ready", &[], b"").status);
    assert_eq!(plain.unwrap_or(0), 0);
    // The command line trusts what it is told to.
    let url = format!("https://127.0.0.1:{port}");
    let query = |ca: &str| {
        let command = Command::new(env!("CARGO_BIN_EXE_quiver"))
            .current_dir(dir)
            .args(["query", "1", "--server", &url, "--ca-file", ca])
            .output();
        command.expect("it runs").status.success()
    };
    assert!(query("first.pem") && !query("second.pem"));
    // A new pair that does not fit is not taken, one that does is.
    let reload = || curl(dir, port, "/-/reload", &["--cacert", "first.pem", "-X", "POST"]);
    std::fs::copy(dir.join("second.pem"), dir.join("server.pem")).expect("it is copied");
    let (status, text) = reload();
    assert_eq!(status, 500, "{text}");
    assert!(text.contains("TLS"), "{text}");
    assert_eq!(ready("first.pem"), 200, "the old one stays");
    second.sign("server", "server");
    server.signal(rustix::process::Signal::HUP);
    wait_until("the new pair is in force", || ready("second.pem") == 200);
    assert_eq!(ready("first.pem"), 0);
    // Without a reload, too: the files are looked at.
    first.sign("server", "server");
    wait_until("the files are seen to have changed", || ready("first.pem") == 200);
    let metrics = curl(dir, port, "/metrics", &["--cacert", "first.pem"]).1;
    assert!(
        metrics.contains("quiver_tls_reloads_failed_total ") && !metrics.contains("reloads_failed_total 0\n"),
        "{metrics}"
    );
}

#[test]
fn certificates_of_clients_are_identities() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();
    let ours = Authority::new(dir, "ours");
    let theirs = Authority::new(dir, "theirs");
    ours.sign("server", "server");
    ours.sign("agent", "agent-1");
    ours.sign("nobody", "nobody");
    theirs.sign("forged", "agent-1");
    let config = "quiver:\n  tls: {cert_file: server.pem, key_file: server.key, client_ca_file: ours.pem, client_auth: optional}\n  \
                  auth:\n    certificates:\n      - {subject: agent-1, role: write, source_ids: [mine]}\n";
    let (_server, port) = started(dir, config);
    let as_client = |name: &str, path: &str, more: &[&str]| {
        let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
        let mut args = vec!["--cacert", "ours.pem"];
        if !name.is_empty() {
            args.extend(["--cert", &cert, "--key", &key]);
        }
        args.extend(more);
        curl(dir, port, path, &args).0
    };
    wait_until("it is ready", || as_client("", "/-/ready", &[]) == 200);
    let push = ["-X", "PUT", "--data-binary", "a 1\n"];
    assert_eq!(as_client("agent", "/metrics/job/mine", &push), 200);
    assert_eq!(as_client("agent", "/metrics/job/other", &push), 403);
    assert_eq!(as_client("agent", "/api/v1/query?query=1", &[]), 403);
    assert_eq!(as_client("nobody", "/metrics/job/mine", &push), 401);
    assert_eq!(as_client("", "/metrics/job/mine", &push), 401);
    assert_eq!(as_client("forged", "/metrics/job/mine", &push), 0, "the handshake fails");
}
