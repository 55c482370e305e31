//! The servers under load: how each is started, and how it is asked what it holds.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::{Options, measure};

/// A server that the benchmark knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    /// Ours.
    Quiver,
    /// Debian's Prometheus.
    Prometheus,
    /// Debian's VictoriaMetrics, single node.
    VictoriaMetrics,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Quiver => "Quiver",
            Kind::Prometheus => "Prometheus",
            Kind::VictoriaMetrics => "VictoriaMetrics",
        }
    }

    /// The program's own word about its version.
    pub fn version(self, options: &Options) -> String {
        let program = self.program(options);
        let output = Command::new(&program).arg("--version").output();
        let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let first = text.lines().find(|l| !l.trim().is_empty()).unwrap_or("version unknown").to_owned();
        first.chars().take(70).collect()
    }

    fn program(self, options: &Options) -> std::path::PathBuf {
        match self {
            Kind::Quiver => options.quiver.clone(),
            Kind::Prometheus => "/usr/bin/prometheus".into(),
            Kind::VictoriaMetrics => "/usr/bin/victoria-metrics".into(),
        }
    }

    /// Arguments with everything but the addresses at its default; `config` has the scrape targets, if any.
    fn arguments(self, port: u16, data: &Path, config: &Path) -> Vec<String> {
        let (data, config) = (data.display(), config.display());
        match self {
            Kind::Quiver => vec![
                "serve".into(),
                format!("--listen=127.0.0.1:{port}"),
                format!("--data-dir={data}"),
                format!("--config={config}"),
            ],
            Kind::Prometheus => vec![
                format!("--web.listen-address=127.0.0.1:{port}"),
                format!("--storage.tsdb.path={data}"),
                format!("--config.file={config}"),
                "--web.enable-remote-write-receiver".into(),
                "--log.level=error".into(),
            ],
            Kind::VictoriaMetrics => vec![
                format!("-httpListenAddr=127.0.0.1:{port}"),
                format!("-storageDataPath={data}"),
                format!("-promscrape.config={config}"),
                "-search.latencyOffset=0s".into(),
                "-loggerLevel=ERROR".into(),
            ],
        }
    }
}

/// A running server; stopped by pid at the end.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    /// Starts a server on a fresh folder and waits until it answers.
    pub fn start(kind: Kind, options: &Options, folder: &Path, scrape_config: &str) -> Result<Server, String> {
        let port = free_port()?;
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, scrape_config).map_err(|e| format!("{}: {e}", config.display()))?;
        let log = File::create(folder.join("log")).map_err(|e| e.to_string())?;
        let program = kind.program(options);
        let child = Command::new(&program)
            .args(kind.arguments(port, &folder.join("data"), &config))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("{} does not start: {e}; run scripts/setup test", program.display()))?;
        let server = Server { child, port };
        let begin = Instant::now();
        while server.get("/-/ready").is_err() && server.get("/health").is_err() {
            if begin.elapsed() > Duration::from_secs(60) {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(format!("{} is not ready after 60 s: {log}", kind.name()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    pub fn cpu_seconds(&self) -> Result<f64, String> {
        measure::cpu_seconds(self.child.id())
    }

    pub fn resident_bytes(&self) -> u64 {
        measure::resident_bytes(self.child.id())
    }

    fn get(&self, path: &str) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let mut answer = ureq::get(&url).call().map_err(|e| e.to_string())?;
        answer.body_mut().read_to_string().map_err(|e| e.to_string())
    }

    /// Evaluates an instant query that gives one number; 0 when it gives nothing.
    pub fn number(&self, encoded_query: &str) -> Result<f64, String> {
        let body = self.get(&format!("/api/v1/query?query={encoded_query}"))?;
        let answer: serde_json::Value = serde_json::from_str(&body).map_err(|e| format!("{body}: {e}"))?;
        let text = answer.pointer("/data/result/0/value/1").and_then(|v| v.as_str()).unwrap_or("0");
        text.parse().map_err(|e| format!("{text}: {e}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port())
}
