//! The servers under load: how each is started, stopped, and asked what it holds.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::http::{Client, escaped};
use crate::payload::NAMES;
use crate::{Options, measure};

/// Longest time for a server to start, with all that it replays.
const START_MAX: Duration = Duration::from_secs(300);
/// How long files must not change until a server counts as done with its slow work.
const QUIET: Duration = Duration::from_secs(8);
const QUIET_MAX: Duration = Duration::from_secs(180);

/// A server that the benchmark knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    /// Ours.
    Quiver,
    /// Debian's Prometheus.
    Prometheus,
    /// Debian's VictoriaMetrics, single node.
    VictoriaMetrics,
    /// The same with vmagent before it, which scrapes and writes on.
    Vmagent,
    /// Debian's InfluxDB; takes remote write only.
    Influxdb,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Quiver => "Quiver",
            Kind::Prometheus => "Prometheus",
            Kind::VictoriaMetrics => "VictoriaMetrics",
            Kind::Vmagent => "vmagent + VictoriaMetrics",
            Kind::Influxdb => "InfluxDB",
        }
    }

    /// Tells whether the program is there.
    pub fn is_installed(self, options: &Options) -> bool {
        self.programs(options).iter().all(|program| program.exists())
    }

    /// The program's own word about its version.
    pub fn version(self, options: &Options) -> String {
        let programs = self.programs(options);
        let argument = if self == Kind::Influxdb { "version" } else { "--version" };
        let output = programs.last().map(|program| Command::new(program).arg(argument).output());
        let text = output.and_then(Result::ok).map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let first = text.lines().find(|l| !l.trim().is_empty()).unwrap_or("version unknown").to_owned();
        first.chars().take(70).collect()
    }

    /// The server first, helpers behind it.
    fn programs(self, options: &Options) -> Vec<PathBuf> {
        match self {
            Kind::Quiver => vec![options.quiver.clone()],
            Kind::Prometheus => vec!["/usr/bin/prometheus".into()],
            Kind::VictoriaMetrics => vec!["/usr/bin/victoria-metrics".into()],
            Kind::Vmagent => vec!["/usr/bin/victoria-metrics".into(), "/usr/bin/vmagent".into()],
            Kind::Influxdb => vec!["/usr/bin/influxd".into()],
        }
    }

    /// Where remote write goes.
    pub fn write_path(self) -> &'static str {
        if self == Kind::Influxdb { "/api/v1/prom/write?db=bench" } else { "/api/v1/write" }
    }

    fn ready_path(self) -> &'static str {
        match self {
            Kind::Quiver | Kind::Prometheus => "/-/ready",
            Kind::VictoriaMetrics | Kind::Vmagent => "/health",
            Kind::Influxdb => "/ping",
        }
    }

    /// Tells whether it scrapes.
    pub fn scrapes(self) -> bool {
        self != Kind::Influxdb
    }

    /// Tells whether it answers PromQL.
    pub fn answers_promql(self) -> bool {
        self != Kind::Influxdb
    }

    /// Arguments of each program, with everything but addresses and folders at its default.
    fn arguments(self, place: &Place) -> Vec<Vec<String>> {
        let (port, data, config) =
            (place.port, place.data().display().to_string(), place.config().display().to_string());
        let victoria = vec![
            format!("-httpListenAddr=127.0.0.1:{port}"),
            format!("-storageDataPath={data}"),
            "-search.latencyOffset=0s".into(),
            "-search.maxUniqueTimeseries=10000000".into(),
            "-loggerLevel=ERROR".into(),
        ];
        let scraping = format!("-promscrape.config={config}");
        match self {
            Kind::Quiver => {
                let analytics = place.analytics.iter().map(|program| format!("--analytics={}", program.display()));
                let arguments = [
                    "serve".into(),
                    format!("--listen=127.0.0.1:{port}"),
                    format!("--data-dir={data}"),
                    format!("--config={config}"),
                ];
                vec![arguments.into_iter().chain(analytics).collect()]
            }
            Kind::Prometheus => vec![vec![
                format!("--web.listen-address=127.0.0.1:{port}"),
                format!("--storage.tsdb.path={data}"),
                format!("--config.file={config}"),
                "--web.enable-remote-write-receiver".into(),
                "--web.enable-admin-api".into(),
                "--query.max-samples=1000000000".into(),
                "--log.level=error".into(),
            ]],
            Kind::VictoriaMetrics => vec![[victoria, vec![scraping]].concat()],
            Kind::Vmagent => {
                let agent = vec![
                    format!("-httpListenAddr=127.0.0.1:{}", place.helper_port),
                    format!("-remoteWrite.url=http://127.0.0.1:{port}/api/v1/write"),
                    format!("-remoteWrite.tmpDataPath={}", place.folder.join("vmagent").display()),
                    scraping,
                    "-loggerLevel=ERROR".into(),
                ];
                vec![victoria, agent]
            }
            Kind::Influxdb => vec![vec!["-config".into(), config]],
        }
    }
}

/// Where a server lives.
struct Place {
    folder: PathBuf,
    port: u16,
    helper_port: u16,
    /// The program that answers SQL.
    analytics: Option<PathBuf>,
}

impl Place {
    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn config(&self) -> PathBuf {
        self.folder.join("config")
    }
}

/// A running server; its processes are ended by pid at the end.
pub struct Server {
    pub kind: Kind,
    programs: Vec<PathBuf>,
    place: Place,
    processes: Vec<Child>,
    pub port: u16,
}

impl Server {
    /// Starts a server on a fresh folder and waits until it answers.
    pub fn start(kind: Kind, options: &Options, folder: &Path, scrape_config: &str) -> Result<Server, String> {
        let place = Place {
            folder: folder.to_owned(),
            port: free_port()?,
            helper_port: free_port()?,
            analytics: options.analytics.clone(),
        };
        let config = if kind == Kind::Influxdb { influx_config(&place)? } else { scrape_config.to_owned() };
        std::fs::write(place.config(), config).map_err(|e| format!("{}: {e}", place.config().display()))?;
        let port = place.port;
        let mut server = Server { kind, programs: kind.programs(options), place, processes: Vec::new(), port };
        server.spawn()?;
        server.wait_until_ready()?;
        if kind == Kind::Influxdb {
            let mut client = server.client()?;
            client.request("POST", "/query?q=CREATE%20DATABASE%20bench", "", &[]).map_err(|e| e.to_string())?;
        }
        Ok(server)
    }

    /// Starts the processes, on whatever the folder holds.
    pub fn spawn(&mut self) -> Result<(), String> {
        let log = File::options().append(true).create(true).open(self.place.folder.join("log"));
        let log = log.map_err(|e| e.to_string())?;
        for (program, arguments) in self.programs.iter().zip(self.kind.arguments(&self.place)) {
            let child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(log.try_clone().map_err(|e| e.to_string())?)
                .stderr(log.try_clone().map_err(|e| e.to_string())?)
                .spawn()
                .map_err(|e| format!("{} does not start: {e}; run scripts/setup bench", program.display()))?;
            self.processes.push(child);
        }
        Ok(())
    }

    /// Waits until it says that it is ready; gives how long that took.
    pub fn wait_until_ready(&self) -> Result<Duration, String> {
        let begin = Instant::now();
        while !self.get(self.kind.ready_path()).is_ok_and(|(status, _)| (200..300).contains(&status)) {
            if begin.elapsed() > START_MAX {
                let log = std::fs::read_to_string(self.place.folder.join("log")).unwrap_or_default();
                let tail: String = log.chars().rev().take(2000).collect::<Vec<_>>().into_iter().rev().collect();
                return Err(format!("{} is not ready after {} s: {tail}", self.kind.name(), START_MAX.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(begin.elapsed())
    }

    /// Ends the processes without a word, as kill -9 does.
    pub fn kill(&mut self) {
        for mut process in self.processes.drain(..) {
            // It may have ended by itself; then there is nothing to do.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Asks the processes to stop and waits until they did.
    pub fn stop(&mut self) -> Result<(), String> {
        for process in &mut self.processes {
            let pid = process.id().to_string();
            Command::new("kill").args(["-TERM", &pid]).status().map_err(|e| e.to_string())?;
            let begin = Instant::now();
            while process.try_wait().map_err(|e| e.to_string())?.is_none() {
                if begin.elapsed() > START_MAX {
                    return Err(format!("{} does not stop", self.kind.name()));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.processes.clear();
        Ok(())
    }

    /// CPU seconds of all its processes.
    pub fn cpu_seconds(&self) -> Result<f64, String> {
        self.processes.iter().map(|p| measure::cpu_seconds(p.id())).sum()
    }

    /// Resident memory of all its processes.
    pub fn resident_bytes(&self) -> u64 {
        self.processes.iter().map(|p| measure::resident_bytes(p.id())).sum()
    }

    /// The most resident memory that its processes had.
    pub fn peak_bytes(&self) -> u64 {
        self.processes.iter().map(|p| measure::peak_bytes(p.id())).sum()
    }

    /// Bytes of all its files.
    pub fn disk_bytes(&self) -> u64 {
        measure::disk_bytes(&self.place.data())
    }

    pub fn client(&self) -> Result<Client, String> {
        Client::connect(self.port).map_err(|e| format!("{}: {e}", self.kind.name()))
    }

    fn get(&self, path: &str) -> Result<(u16, String), String> {
        let answer = self.client()?.get(path).map_err(|e| e.to_string())?;
        Ok((answer.status, answer.text()))
    }

    /// Evaluates an instant query that gives one number; 0 when it gives nothing.
    pub fn number(&self, query: &str) -> Result<f64, String> {
        number_of(&mut self.client()?, query)
    }

    /// Counts the samples of the load that it finds, over the last day; a part of the hosts at a time, because servers
    /// limit what one query may read.
    pub fn found(&self, matcher: &str) -> Result<u64, String> {
        if self.kind == Kind::Influxdb {
            return self.found_by_influx();
        }
        let part = |digit: u8| {
            let hosts = format!("instance=~\"host-.*{digit}[.:].*\"");
            let of = |name: &str| format!("sum(count_over_time({name}{{{matcher},{hosts}}}[1d]))");
            let by_names = |_| NAMES.iter().map(|name| self.number(&format!("{} or vector(0)", of(name)))).sum();
            match self.kind {
                // It refuses series that differ by their names alone, as those of some loads do.
                Kind::Prometheus => self.number(&of("")).or_else(by_names),
                _ => self.number(&of("")),
            }
        };
        Ok((0..10).map(part).sum::<Result<f64, String>>()? as u64)
    }

    fn found_by_influx(&self) -> Result<u64, String> {
        let (_, body) = self.get("/query?db=bench&q=SELECT%20count(%2A)%20FROM%20%2Fnode_.%2A%2F")?;
        let answer: serde_json::Value = serde_json::from_str(&body).map_err(|e| format!("{body}: {e}"))?;
        let series = answer.pointer("/results/0/series").and_then(|s| s.as_array()).cloned().unwrap_or_default();
        let counts = series.iter().filter_map(|s| s.pointer("/values/0")?.as_array());
        Ok(counts.map(|row| row.iter().skip(1).filter_map(serde_json::Value::as_u64).sum::<u64>()).sum())
    }

    /// Lets the server write everything to its long-lived files, as far as it offers that; gives their bytes.
    ///
    /// `None`: it offers no such thing while data is recent.
    pub fn flushed_bytes(&self) -> Result<Option<u64>, String> {
        match self.kind {
            Kind::Quiver | Kind::Prometheus => {
                let answer = self.client()?.request("POST", "/api/v1/admin/tsdb/snapshot", "", &[]);
                if !answer.map_err(|e| e.to_string())?.is_good() {
                    return Ok(None);
                }
                Ok(Some(measure::disk_bytes(&self.place.data().join("snapshots"))))
            }
            Kind::VictoriaMetrics | Kind::Vmagent => {
                self.get("/internal/force_flush")?;
                self.get("/internal/force_merge")?;
                self.wait_until_quiet();
                Ok(Some(self.disk_bytes()))
            }
            Kind::Influxdb => Ok(Some(self.disk_bytes())),
        }
    }

    /// Waits until its files have not changed for a while: flushes, merges and compactions are done.
    pub fn wait_until_quiet(&self) {
        let begin = Instant::now();
        let (mut last, mut since) = (self.disk_bytes(), Instant::now());
        while since.elapsed() < QUIET && begin.elapsed() < QUIET_MAX {
            std::thread::sleep(Duration::from_millis(500));
            let now = self.disk_bytes();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Evaluates an instant query that gives one number over a connection that stays open; 0 when it gives nothing.
pub fn number_of(client: &mut Client, query: &str) -> Result<f64, String> {
    let answer = client.get(&format!("/api/v1/query?query={}", escaped(query))).map_err(|e| e.to_string())?;
    let body = answer.text();
    if !answer.is_good() {
        return Err(format!("{query}: {body}"));
    }
    let answer: serde_json::Value = serde_json::from_str(&body).map_err(|e| format!("{body}: {e}"))?;
    let text = answer.pointer("/data/result/0/value/1").and_then(|v| v.as_str()).unwrap_or("0");
    text.parse().map_err(|e| format!("{text}: {e}"))
}

/// InfluxDB's limits on series would end the load early; all else is at its default.
fn influx_config(place: &Place) -> Result<String, String> {
    let (data, rpc) = (place.data().display().to_string(), free_port()?);
    Ok(format!(
        "reporting-disabled = true\nbind-address = \"127.0.0.1:{rpc}\"\n[meta]\n  dir = \"{data}/meta\"\n[data]\n  dir = \"{data}/data\"\n  \
         wal-dir = \"{data}/wal\"\n  index-version = \"tsi1\"\n  max-series-per-database = 0\n  max-values-per-tag = 0\n[monitor]\n  \
         store-enabled = false\n[http]\n  bind-address = \"127.0.0.1:{}\"\n  log-enabled = false\n  max-body-size = 0\n[logging]\n  \
         level = \"error\"\n",
        place.port
    ))
}

pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port())
}
