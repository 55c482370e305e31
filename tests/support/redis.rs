//! Debian's Redis on a free port and in a temporary folder, for the tests that include this file.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to start before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// The password.
pub const PASSWORD: &str = "redis-secret-of-the-tests";

/// A Redis that keeps nothing on disk.
pub struct Redis {
    dir: tempfile::TempDir,
    child: Option<Child>,
    pub port: u16,
}

#[allow(dead_code, reason = "not every test that includes this file does everything")]
impl Redis {
    /// Starts one.
    pub fn start() -> Redis {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a port").port();
        let mut redis = Redis { dir: tempfile::tempdir().expect("a temporary folder"), child: None, port };
        redis.resume();
        redis
    }

    /// Starts it again on the same port, empty.
    pub fn resume(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let (dir, port) = (self.dir.path().display().to_string(), self.port.to_string());
        let child = Command::new("/usr/bin/redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--dir", &dir, "--save", "", "--appendonly", "no"])
            .args(["--requirepass", PASSWORD, "--daemonize", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("Redis starts: run scripts/setup test"));
        let begin = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(begin.elapsed() < PATIENCE, "Redis is not ready");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the child can be killed");
            child.wait().expect("the child can be waited for");
        }
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

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
