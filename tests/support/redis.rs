//! Debian's Redis on a free port and in a temporary folder, for the tests that include this file.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use super::child::{PATIENCE, Running, free_port, is_open};

/// The password.
pub const PASSWORD: &str = "redis-secret-of-the-tests";

/// A Redis that keeps nothing on disk.
pub struct Redis {
    dir: tempfile::TempDir,
    running: Running,
    more: Vec<String>,
    pub port: u16,
    tls_port: u16,
}

#[allow(dead_code, reason = "not every test that includes this file does everything")]
impl Redis {
    /// Starts one.
    pub fn start() -> Redis {
        Redis::start_with(0, Vec::new())
    }

    /// Starts one that speaks TLS on a second port.
    pub fn start_with_tls(certificate: &Path, key: &Path) -> Redis {
        let port = free_port();
        let more = [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", certificate.display().to_string()),
            ("--tls-key-file", key.display().to_string()),
            ("--tls-ca-cert-file", certificate.display().to_string()),
            ("--tls-auth-clients", "no".to_owned()),
        ];
        Redis::start_with(port, more.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect())
    }

    fn start_with(tls_port: u16, more: Vec<String>) -> Redis {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut redis = Redis { dir, running: Running::default(), more, port: free_port(), tls_port };
        redis.resume();
        redis
    }

    /// Starts it again on the same port, empty.
    pub fn resume(&mut self) {
        let (dir, port) = (self.dir.path().display().to_string(), self.port.to_string());
        let mut command = Command::new("/usr/bin/redis-server");
        command
            .args(["--port", &port, "--bind", "127.0.0.1", "--dir", &dir, "--save", "", "--appendonly", "no"])
            .args(["--requirepass", PASSWORD, "--daemonize", "no"])
            .args(&self.more)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.running.start(&mut command);
        self.running.wait_until("Redis", || is_open(self.port), String::new);
    }

    /// Gives the port where it speaks TLS; 0 without.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Gives a URL with the password.
    pub fn url(&self) -> String {
        self.url_by(self.port)
    }

    /// Gives a URL that leads over another port, such as a proxy's.
    pub fn url_by(&self, port: u16) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{port}/0")
    }

    /// Runs one command; gives the answer without its first line's mark, `None` for nil.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("Redis listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time to wait");
        let mut request = Vec::new();
        for words in [&["AUTH", PASSWORD][..], words] {
            request.extend(format!("*{}\r\n", words.len()).into_bytes());
            words.iter().for_each(|w| request.extend(format!("${}\r\n{w}\r\n", w.len()).into_bytes()));
        }
        stream.write_all(&request).expect("Redis reads");
        assert_eq!(line(&mut stream), "+OK");
        let head = line(&mut stream);
        match head.split_at(1) {
            ("$", "-1") => None,
            ("$", length) => {
                let mut bytes = vec![0; length.parse::<usize>().expect("a length") + 2];
                stream.read_exact(&mut bytes).expect("Redis answers");
                bytes.truncate(bytes.len() - 2);
                Some(String::from_utf8(bytes).expect("it is text"))
            }
            ("-", error) => panic!("{words:?}: {error}"),
            (_, rest) => Some(rest.to_owned()),
        }
    }
}

fn line(stream: &mut TcpStream) -> String {
    let mut out = Vec::new();
    let mut byte = [0];
    while !out.ends_with(b"\r\n") {
        stream.read_exact(&mut byte).expect("Redis answers");
        out.push(byte[0]);
    }
    out.truncate(out.len() - 2);
    String::from_utf8(out).expect("it is text")
}
