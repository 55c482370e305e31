//! Debian's NATS server with JetStream on a free port and in a temporary folder, and as much of a client as tests need.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::child::{Running, free_port, is_open};
use serde_json::Value;

/// The password of the user `quiver`.
pub const PASSWORD: &str = "nats-secret-of-the-tests";

/// A NATS server that keeps its streams on disk.
pub struct Nats {
    dir: tempfile::TempDir,
    running: Running,
    more: Vec<String>,
    pub port: u16,
}

#[allow(dead_code, reason = "not every test that includes this file does everything")]
impl Nats {
    /// Starts one.
    pub fn start() -> Nats {
        Nats::start_with(Vec::new())
    }

    /// Starts one that speaks TLS and nothing else; it cannot be asked by this client, only counted through what it wrote.
    pub fn start_with_tls(certificate: &Path, key: &Path) -> Nats {
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        Nats::start_with(["--tls", "--tlscert", &certificate, "--tlskey", &key].map(str::to_owned).into())
    }

    fn start_with(more: Vec<String>) -> Nats {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut nats = Nats { dir, running: Running::default(), more, port: free_port() };
        nats.resume();
        nats
    }

    /// Starts it again on the same port, with what it had.
    pub fn resume(&mut self) {
        let mut command = Command::new("/usr/sbin/nats-server");
        command
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-js", "-sd"])
            .arg(self.dir.path())
            .args(["--user", "quiver", "--pass", PASSWORD])
            .args(&self.more)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.running.start(&mut command);
        let (port, tls) = (self.port, !self.more.is_empty());
        let is_ready = || if tls { is_open(port) } else { try_request(port, "$JS.API.INFO", "").is_some() };
        self.running.wait_until("NATS", is_ready, String::new);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Sends a request; gives the JSON of the answer.
    #[track_caller]
    pub fn request(&self, subject: &str, body: &str) -> Value {
        try_request(self.port, subject, body).unwrap_or_else(|| panic!("NATS does not answer to {subject}"))
    }

    /// Counts the messages of a stream; 0 when there is none.
    pub fn count(&self, stream: &str) -> u64 {
        let info = self.request(&format!("$JS.API.STREAM.INFO.{stream}"), "");
        info["state"]["messages"].as_u64().unwrap_or(0)
    }

    /// Gives all messages of a stream: subject and JSON.
    pub fn messages(&self, stream: &str) -> Vec<(String, Value)> {
        let get = |seq: u64| {
            let answer = self.request(&format!("$JS.API.STREAM.MSG.GET.{stream}"), &format!("{{\"seq\":{seq}}}"));
            let text = answer["message"]["data"].as_str().map(unbase64).expect("a message");
            let subject = answer["message"]["subject"].as_str().expect("a subject").to_owned();
            (subject, serde_json::from_slice(&text).expect("it is JSON"))
        };
        (1..=self.count(stream)).map(get).collect()
    }
}

fn try_request(port: u16, subject: &str, body: &str) -> Option<Value> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let hello = serde_json::json!({"verbose": false, "pedantic": false, "user": "quiver", "pass": PASSWORD});
    let request = format!("CONNECT {hello}\r\nSUB _INBOX.t 1\r\nPUB {subject} _INBOX.t {}\r\n{body}\r\n", body.len());
    stream.write_all(request.as_bytes()).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.first() {
            // HMSG: nobody is there yet.
            Some(&"HMSG" | &"-ERR") => return None,
            Some(&"MSG") => {
                let mut bytes = vec![0; words.last()?.parse().ok()?];
                reader.read_exact(&mut bytes).ok()?;
                return serde_json::from_slice(&bytes).ok();
            }
            _ => {}
        }
    }
}

fn unbase64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let (mut out, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        bits = bits << 6 | u32::from(digit(c));
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}
