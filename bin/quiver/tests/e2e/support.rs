//! Starts and stops the programs of the tests, and speaks HTTP to them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// How long a program may take to start or stop before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// An HTTP answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {} {}", self.status, self.body))
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// A client for one base URL.
#[derive(Clone)]
pub struct Client {
    base: String,
    agent: ureq::Agent,
}

impl Client {
    pub fn new(base: &str) -> Client {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        Client { base: base.to_owned(), agent }
    }

    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ureq::Error> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let bodiless = body.is_empty() && matches!(method, "GET" | "DELETE" | "HEAD");
        let mut response = if bodiless {
            self.agent.run(request.body(()).expect("a valid request"))?
        } else {
            self.agent.run(request.body(body).expect("a valid request"))?
        };
        let headers: Vec<(String, String)> = response
            .headers()
            .iter()
            .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect();
        let content_type =
            headers.iter().find(|(n, _)| n == "content-type").map(|(_, v)| v.clone()).unwrap_or_default();
        let body = response.body_mut().with_config().limit(256 << 20).read_to_string()?;
        Ok(Answer { status: response.status().as_u16(), content_type, headers, body })
    }

    #[track_caller]
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, path, headers, body).unwrap_or_else(|e| panic!("{method} {}{path}: {e}", self.base))
    }

    /// Sends and gives the body as bytes; it must be a 200.
    #[track_caller]
    pub fn bytes(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.agent.run(request.body(body).expect("a valid request"));
        let mut answer = answer.unwrap_or_else(|e| panic!("{method} {}{path}: {e}", self.base));
        assert_eq!(answer.status().as_u16(), 200, "{path}");
        answer.body_mut().read_to_vec().expect("a body")
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], b"")
    }

    #[track_caller]
    pub fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Asks an instant query and gives `data.result`.
    #[track_caller]
    pub fn query(&self, expr: &str) -> Value {
        let answer = self.get(&format!("/api/v1/query?query={}", encode(expr))).expect(200).json();
        answer["data"]["result"].clone()
    }

    /// Asks an instant query that gives one series or a scalar and reads its value.
    #[track_caller]
    pub fn number(&self, expr: &str) -> f64 {
        let result = self.query(expr);
        let scalar = result[1].as_str();
        let text =
            scalar.or(result[0]["value"][1].as_str()).unwrap_or_else(|| panic!("{expr}: no single value in {result}"));
        text.parse().unwrap_or_else(|_| panic!("{expr}: {text}"))
    }
}

/// Percent-encodes a query parameter.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock stands after 1970");
    i64::try_from(since.as_millis()).expect("the clock stands before the year 292 million")
}

/// Asks the kernel for a port nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free loopback port").port()
}

/// Waits until the condition holds.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "still waiting after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A program of the test; killed by pid when it goes out of scope.
pub struct Program {
    child: Child,
    log: PathBuf,
    pub client: Client,
    pub port: u16,
}

impl Program {
    /// Starts a program; whether it is ready is the caller's to see.
    pub fn spawn(program: &Path, args: &[String], port: u16, log: &Path) -> Program {
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("the log file opens");
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("the log file clones"))
            .stderr(out)
            .spawn()
            .unwrap_or_else(|e| panic!("{} does not start ({e}): run scripts/setup test", program.display()));
        let client = Client::new(&format!("http://127.0.0.1:{port}"));
        Program { child, log: log.to_owned(), client, port }
    }

    /// Starts a program and waits until `ready_path` answers 200.
    pub fn start(program: &Path, args: &[String], port: u16, ready_path: &str, log: &Path) -> Program {
        let mut started = Program::spawn(program, args, port, log);
        let begin = Instant::now();
        loop {
            if started.client.try_send("GET", ready_path, &[], b"").is_ok_and(|a| a.status == 200) {
                return started;
            }
            let ended = started.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "{} ended: {}", program.display(), started.log_text());
            assert!(begin.elapsed() < PATIENCE, "{} is not ready: {}", program.display(), started.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().expect("the child can be killed");
        self.child.wait().expect("the child can be waited for");
    }

    /// SIGTERM; gives the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return status.code();
            }
            assert!(begin.elapsed() < PATIENCE, "does not stop: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives a client with connections of its own: a request that was answered before its body was read may cost the connection.
    pub fn fresh_client(&self) -> Client {
        Client::new(&format!("http://127.0.0.1:{}", self.port))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("the signal arrives");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already ended is fine here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the binary under test on a data directory.
pub fn quiver(dir: &Path, more: &[&str]) -> Program {
    quiver_on(dir, free_port(), more)
}

/// Starts the binary under test on a data directory and a port.
pub fn quiver_on(dir: &Path, port: u16, more: &[&str]) -> Program {
    let mut args = vec![
        "serve".to_owned(),
        "--listen".to_owned(),
        format!("127.0.0.1:{port}"),
        "--data-dir".to_owned(),
        dir.join("data").display().to_string(),
    ];
    args.extend(more.iter().map(|s| (*s).to_owned()));
    Program::start(Path::new(env!("CARGO_BIN_EXE_quiver")), &args, port, "/-/ready", &dir.join("quiver.log"))
}

/// The Python environment that `scripts/setup test` makes.
pub fn python() -> PathBuf {
    let cache = std::env::var_os("QUIVER_CACHE").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/quiver");
    cache.unwrap_or_else(home).join("venv/bin/python")
}

/// Starts Debian's node exporter.
pub fn node_exporter(dir: &Path) -> Program {
    let port = free_port();
    let args = [format!("--web.listen-address=127.0.0.1:{port}")];
    Program::start(
        Path::new("/usr/bin/prometheus-node-exporter"),
        &args,
        port,
        "/metrics",
        &dir.join("node_exporter.log"),
    )
}

/// Starts Debian's Prometheus with its remote-write receiver and nothing to scrape.
pub fn prometheus(dir: &Path) -> Program {
    let port = free_port();
    let config = dir.join("prometheus.yml");
    std::fs::write(&config, "global: {scrape_interval: 1h}\n").expect("the configuration is written");
    let args = [
        format!("--config.file={}", config.display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--storage.tsdb.path={}", dir.join("prometheus").display()),
        "--web.enable-remote-write-receiver".to_owned(),
        "--enable-feature=promql-at-modifier,promql-negative-offset".to_owned(),
        "--log.level=warn".to_owned(),
    ];
    Program::start(Path::new("/usr/bin/prometheus"), &args, port, "/-/ready", &dir.join("prometheus.log"))
}
