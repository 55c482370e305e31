//! A server of our own in another process, which can be killed without harm to anybody.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::Value;

use crate::{Failure, client};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; killed when it goes out of scope.
pub struct Child {
    process: std::process::Child,
    /// Where it listens.
    pub port: u16,
    log: PathBuf,
    /// From its start until it answered everything.
    pub start_time: Duration,
}

impl Child {
    /// Starts a server on a folder that holds `config.yml` and gets `data` and `log`.
    pub fn start(folder: &Path) -> Result<Child, Failure> {
        let program = std::env::current_exe().map_err(|e| failed("find this program", e))?;
        let port = free_port()?;
        let log = folder.join("log");
        let out = OpenOptions::new().create(true).append(true).open(&log).map_err(|e| failed("write the log", e))?;
        let errors = out.try_clone().map_err(|e| failed("write the log", e))?;
        let began = Instant::now();
        let mut command = Command::new(program);
        // Settings of the user's own server must not reach this one.
        for name in ["QUIVER_CONFIG", "QUIVER_LISTEN", "QUIVER_DATA_DIR", "QUIVER_RETENTION", "QUIVER_LOG"] {
            command.env_remove(name);
        }
        let process = command
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--log-level", "warn"])
            .arg("--data-dir")
            .arg(folder.join("data"))
            .arg("--config")
            .arg(folder.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .spawn()
            .map_err(|e| failed("start a server", e))?;
        let mut child = Child { process, port, log, start_time: Duration::ZERO };
        child.wait_until_ready(began)?;
        Ok(child)
    }

    fn wait_until_ready(&mut self, began: Instant) -> Result<(), Failure> {
        while self.send(Method::GET, "/-/ready").is_err() {
            let ended = self.process.try_wait().map_err(|e| failed("watch the server", e))?;
            if ended.is_some() || began.elapsed() > PATIENCE {
                return Err(Failure::failed(format!(
                    "the server does not start; its log ends with: {}",
                    self.log_end()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.start_time = began.elapsed();
        Ok(())
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let from = text.char_indices().rev().nth(1_500).map_or(0, |(at, _)| at);
        text[from..].to_owned()
    }

    fn send(&self, method: Method, path: &str) -> Result<client::Answer, Failure> {
        client::send(method, &format!("http://127.0.0.1:{}", self.port), path, None)?.success()
    }

    /// Asks for JSON.
    pub fn json(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path)?.json()
    }

    /// Posts nothing, to start something.
    pub fn post(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::POST, path)?.json()
    }

    /// Posts JSON.
    pub fn post_json(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = Some(("application/json", body.to_string().into_bytes()));
        client::send(Method::POST, &format!("http://127.0.0.1:{}", self.port), path, body)?.success()?.json()
    }

    /// Asks an instant query; gives `data.result`.
    pub fn query(&self, expr: &str, at_ms: i64) -> Result<Value, Failure> {
        let time = format!("{}.{:03}", at_ms / 1000, at_ms % 1000);
        let path = format!("/api/v1/query?{}", client::form(&[("query", expr), ("time", &time), ("timeout", "110s")]));
        Ok(self.json(&path)?["data"]["result"].take())
    }

    /// Reads one of the server's own metrics; 0 when it has none of that name.
    pub fn metric(&self, name: &str) -> Result<f64, Failure> {
        let answer = self.send(Method::GET, "/metrics")?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.and_then(|v| v.trim().parse().ok()).unwrap_or(0.0))
    }

    /// CPU seconds used so far, user and system.
    pub fn cpu_seconds(&self) -> Result<f64, Failure> {
        self.metric("process_cpu_seconds_total")
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGTERM; gives whether it ended in order, and how long that took.
    pub fn terminate(mut self) -> Result<(bool, Duration), Failure> {
        let began = Instant::now();
        let pid = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        let Some(pid) = pid else { return Err(Failure::failed("the server has no process id")) };
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|e| failed("stop the server", e.into()))?;
        while began.elapsed() < PATIENCE {
            if let Some(status) = self.process.try_wait().map_err(|e| failed("watch the server", e))? {
                return Ok((status.success(), began.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok((false, began.elapsed()))
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes the configuration of a server that scrapes the given port each second.
pub fn write_config(folder: &Path, exporter_port: u16) -> Result<(), Failure> {
    let text = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: selftest-exporter\n  \
         static_configs: [{{targets: ['127.0.0.1:{exporter_port}']}}]\n"
    );
    std::fs::write(folder.join("config.yml"), text).map_err(|e| failed("write the configuration", e))
}

/// Copies a data directory, to do harm to the copy.
pub fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), &target)?),
        }
    }
    Ok(())
}

/// Opens a file of the copy for harm.
pub fn open_for_harm(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| failed("find a port", e))?;
    Ok(listener.local_addr().map_err(|e| failed("find a port", e))?.port())
}

/// Makes a failure of the machine's.
pub fn failed(what: &str, error: std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what}: {error}"))
}
