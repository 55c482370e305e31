//! A server with people who may different things, and requests that are only looked at from outside.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use server::access::token::{TokenHash, make};
use tempfile::TempDir;

use crate::support::{Program, quiver};

/// The head of an answer, and what came of its body at once.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub text: String,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.text.lines().take_while(|line| !line.is_empty());
        let mut pairs = lines.filter_map(|line| line.split_once(": "));
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Sends exactly these bytes of a request and reads until the head of the answer and its first bytes are there: some answers never end.
pub fn ask(port: u16, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Head {
    exchange(port, method, target, headers, body, false)
}

/// The same, until the server ends the connection.
pub fn ask_whole(port: u16, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Head {
    exchange(port, method, target, headers, body, true)
}

fn exchange(port: u16, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8], whole: bool) -> Head {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        request.push_str("Connection: close\r\n");
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    // Whoever is turned away early may see the connection end while it still sends.
    let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.write_all(body));
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while whole || !bytes.windows(4).any(|w| w == b"\r\n\r\n") || bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
        }
        if !whole && bytes.ends_with(b"\r\n\r\n") {
            // Bodies that come later than their head are waited for, but not long.
            let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Head { status, text }
}

/// A server with tokens.
pub struct World {
    pub server: Program,
    pub folder: TempDir,
    pub read: String,
    pub write: String,
    pub admin: String,
    /// Writes as `mine` and `ours` only.
    pub scoped: String,
    pub expired: String,
}

impl World {
    pub fn start(more: &[&str]) -> World {
        World::start_with("", more)
    }

    /// Starts one; `auth` is what else stands below `quiver: auth:`.
    pub fn start_with(auth: &str, more: &[&str]) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let tokens: Vec<String> = (0..5).map(|_| make().expect("a token")).collect();
        let hash = |n: usize| TokenHash::of(&tokens[n]).to_hex();
        let config = format!(
            "quiver:\n  auth:\n    tokens:\n\
             \x20     - {{name: r, sha256: {}, role: read}}\n\
             \x20     - {{name: w, sha256: {}, role: write}}\n\
             \x20     - {{name: a, sha256: {}, role: admin}}\n\
             \x20     - {{name: s, sha256: {}, role: write, source_ids: [mine, ours]}}\n\
             \x20     - {{name: e, sha256: {}, role: admin, expires: '2020-01-01T00:00:00Z'}}\n{auth}",
            hash(0),
            hash(1),
            hash(2),
            hash(3),
            hash(4),
        );
        let file = folder.path().join("quiver.yml");
        std::fs::write(&file, config).expect("the configuration is written");
        let file = file.display().to_string();
        let args: Vec<&str> = ["--config", &file].iter().chain(more).copied().collect();
        let server = quiver(folder.path(), &args);
        let [read, write, admin, scoped, expired] = tokens.try_into().expect("five");
        World { server, folder, read, write, admin, scoped, expired }
    }

    pub fn ask(&self, token: &str, method: &str, target: &str, body: &[u8]) -> Head {
        self.ask_with(token, method, target, &[], body)
    }

    pub fn ask_with(&self, token: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Head {
        let bearer = format!("Bearer {token}");
        let mut all = headers.to_vec();
        if !token.is_empty() {
            all.push(("Authorization", &bearer));
        }
        ask(self.server.port, method, target, &all, body)
    }

    pub fn data_dir(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }
}

/// Reads all files below a folder.
pub fn files_below(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            out.extend(files_below(&path));
        } else {
            out.push((path.clone(), std::fs::read(&path).unwrap_or_default()));
        }
    }
    out
}
