//! A server under test: started, asked, ended.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A start or a stop that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Server {
    child: std::sync::Mutex<Child>,
    pid: u32,
    pub port: u16,
    /// From the start of the process to ready.
    pub start_ms: f64,
    agent: ureq::Agent,
}

/// How a process ended.
pub struct Ended {
    pub after_ms: f64,
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// Whether it had gone before it was told to.
    pub by_itself: bool,
}

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Percent-encodes a query.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

impl Server {
    /// Starts the binary on a data directory and waits until it is ready.
    pub fn start(program: &Path, data: &Path, config: Option<&Path>) -> Result<Server, String> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?.port();
        let log = data.with_extension("log");
        let out = OpenOptions::new().create(true).append(true).open(&log).map_err(|e| e.to_string())?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"]).arg(data);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        let begin = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(|e| e.to_string())?)
            .stderr(out)
            .spawn()
            .map_err(|e| format!("{} does not start: {e}", program.display()))?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        let pid = child.id();
        let mut server = Server { child: std::sync::Mutex::new(child), pid, port, start_ms: 0.0, agent };
        while !server.get("/-/ready").is_ok_and(|(status, _)| status == 200) {
            if begin.elapsed() > PATIENCE || server.exit_code().is_some() {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let tail: String = text.lines().rev().take(20).collect::<Vec<_>>().join("\n");
                return Err(format!("the server is not ready; its log, newest first:\n{tail}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        server.start_ms = begin.elapsed().as_secs_f64() * 1e3;
        Ok(server)
    }

    fn exit_code(&self) -> Option<Option<i32>> {
        let mut child = self.child.lock().unwrap_or_else(|e| e.into_inner());
        child.try_wait().ok().flatten().map(|status| status.code())
    }

    pub fn get(&self, path: &str) -> Result<(u16, String), String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let mut answer = self.agent.get(&url).call().map_err(|e| e.to_string())?;
        let text = answer.body_mut().with_config().limit(1 << 30).read_to_string().map_err(|e| e.to_string())?;
        Ok((answer.status().as_u16(), text))
    }

    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<(u16, String), String> {
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("http://127.0.0.1:{}{path}", self.port));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).map_err(|e| e.to_string())?;
        let mut answer = self.agent.run(request).map_err(|e| e.to_string())?;
        let text = answer.body_mut().read_to_string().map_err(|e| e.to_string())?;
        Ok((answer.status().as_u16(), text))
    }

    /// Asks an instant query; gives `data.result`.
    pub fn query(&self, expr: &str, time_ms: Option<i64>) -> Result<serde_json::Value, String> {
        let time = time_ms.map(|ms| format!("&time={}.{:03}", ms / 1000, ms % 1000)).unwrap_or_default();
        let (status, text) = self.get(&format!("/api/v1/query?query={}{time}", encode(expr)))?;
        if status != 200 {
            return Err(format!("{expr}: {status} {text}"));
        }
        let mut answer: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("{expr}: {e}"))?;
        Ok(answer["data"]["result"].take())
    }

    pub fn number(&self, expr: &str) -> Option<f64> {
        let result = self.query(expr, None).ok()?;
        result[0]["value"][1].as_str()?.parse().ok()
    }

    pub fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Ends the process by SIGTERM or SIGKILL and waits for it; one that does not stop is killed, which shows in the code.
    pub fn end(&self, by_term: bool) -> Ended {
        let begin = Instant::now();
        let signal = if by_term { "-TERM" } else { "-KILL" };
        let by_itself = self.exit_code().is_some();
        let _ = Command::new("kill").args([signal, &self.pid.to_string()]).status();
        loop {
            if let Some(code) = self.exit_code() {
                return Ended { after_ms: begin.elapsed().as_secs_f64() * 1e3, code, by_itself };
            }
            if begin.elapsed() > PATIENCE {
                let mut child = self.child.lock().unwrap_or_else(|e| e.into_inner());
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(|e| e.into_inner());
        // It has ended, but for an error on the way.
        let _ = child.kill();
        let _ = child.wait();
    }
}
