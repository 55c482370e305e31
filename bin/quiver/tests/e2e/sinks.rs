//! Samples on their way to other stores, with the real ones: nothing lost and nothing doubled, whoever is killed (promise 10).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::postgres::{PASSWORD, Postgres};
use crate::remote;
use crate::support::{Client, Program, encode, free_port, now_ms, quiver_on, wait_until};
use crate::toxic::{Mood, Toxic};

const SERIES: u64 = 20;
const SAMPLES_PER_BATCH: u64 = 5;
const STEP_MS: i64 = 10;

/// A program that is started again and again on the same port and data.
pub struct Again {
    start: Box<dyn Fn() -> Program>,
    running: Option<Program>,
}

impl Again {
    pub fn new(start: impl Fn() -> Program + 'static) -> Again {
        let running = Some(start());
        Again { start: Box::new(start), running }
    }

    pub fn kill(&mut self) {
        self.running.take().expect("it runs").kill();
    }

    /// SIGTERM.
    pub fn stop(&mut self) {
        self.running.take().expect("it runs").terminate();
    }

    pub fn resume(&mut self) {
        self.running = Some((self.start)());
    }

    pub fn port(&self) -> u16 {
        self.running.as_ref().expect("it runs").port
    }

    pub fn log_text(&self) -> String {
        self.running.as_ref().expect("it runs").log_text()
    }

    pub fn client(&self) -> &Client {
        &self.running.as_ref().expect("it runs").client
    }
}

pub fn prometheus(dir: &Path, port: u16, more: &str) -> impl Fn() -> Program + 'static {
    let (config, data, log) = (dir.join("p.yml"), dir.join("prometheus"), dir.join("prometheus.log"));
    std::fs::write(&config, format!("global: {{scrape_interval: 1h}}\n{more}")).expect("the file is written");
    let args = [
        format!("--config.file={}", config.display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--storage.tsdb.path={}", data.display()),
        "--web.enable-remote-write-receiver".to_owned(),
        "--log.level=warn".to_owned(),
    ];
    move || Program::start(Path::new("/usr/bin/prometheus"), &args, port, "/-/ready", &log)
}

pub fn victoria_metrics(dir: &Path, port: u16) -> impl Fn() -> Program + 'static {
    let (data, log) = (dir.join("vm"), dir.join("vm.log"));
    let args = [format!("-httpListenAddr=127.0.0.1:{port}"), format!("-storageDataPath={}", data.display())];
    move || Program::start(Path::new("/usr/bin/victoria-metrics"), &args, port, "/health", &log)
}

pub fn influxdb(dir: &Path, port: u16) -> impl Fn() -> Program + 'static {
    let (config, log, data) = (dir.join("influxdb.conf"), dir.join("influxdb.log"), dir.join("influxdb"));
    let data = data.display();
    let text = format!(
        "reporting-disabled = true\nbind-address = \"127.0.0.1:{}\"\n[meta]\ndir = \"{data}/meta\"\n[data]\ndir = \
         \"{data}/data\"\nwal-dir = \"{data}/wal\"\n[http]\nbind-address = \"127.0.0.1:{port}\"\nlog-enabled = \
         false\n[monitor]\nstore-enabled = false\n",
        free_port()
    );
    std::fs::write(&config, text).expect("the file is written");
    let args = ["-config".to_owned(), config.display().to_string()];
    move || Program::start(Path::new("/usr/bin/influxd"), &args, port, "/query?q=SHOW+DATABASES", &log)
}

pub fn quiver(dir: &Path, port: u16, config: &str) -> impl Fn() -> Program + 'static {
    let file: PathBuf = dir.join("quiver.yml");
    std::fs::create_dir_all(dir).expect("the folder is made");
    std::fs::write(&file, config).expect("the file is written");
    let dir = dir.to_path_buf();
    move || quiver_on(&dir, port, &["--config", &file.display().to_string()])
}

/// Writes all the time; a batch that was not answered is sent again, as a real sender does.
pub struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Load {
    pub fn start(port: u16, base_ms: i64) -> Load {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), acked.clone());
        let client = Client::new(&format!("http://127.0.0.1:{port}"));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let first = counted.load(Ordering::Relaxed);
                let request = (0..SERIES).map(|s| {
                    let labels = [("__name__", "load"), ("job", "e2e, x=1"), ("series", &s.to_string())];
                    let positions = first..first + SAMPLES_PER_BATCH;
                    let samples = positions.map(|p| (base_ms + p as i64 * STEP_MS, (s * 1_000 + p) as f64));
                    remote::series(&labels, samples)
                });
                let body = remote::body(request.collect());
                match client.try_send("POST", "/api/v1/write", &remote::HEADERS, &body) {
                    Ok(answer) if matches!(answer.status, 200 | 204) => {
                        counted.fetch_add(SAMPLES_PER_BATCH, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    Ok(answer) if matches!(answer.status, 503 | 429) => std::thread::sleep(Duration::from_millis(5)),
                    Ok(answer) => panic!("refused: {} {}", answer.status, answer.body),
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Load { stop, acked, thread }
    }

    /// Waits until so many more batches have been acknowledged.
    pub fn go_on(&self, batches: u64) {
        let goal = self.acked.load(Ordering::Relaxed) + batches * SAMPLES_PER_BATCH;
        wait_until("the load goes on", || self.acked.load(Ordering::Relaxed) >= goal);
    }

    /// Gives how many samples have been acknowledged so far.
    pub fn samples(&self) -> u64 {
        self.acked.load(Ordering::Relaxed) * SERIES
    }

    /// Gives how many samples were acknowledged, and their sum.
    pub fn finish(self) -> (u64, f64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load ends");
        let positions = self.acked.load(Ordering::Relaxed);
        let sum: u64 = (0..SERIES).map(|s| s * 1_000 * positions + positions * positions.saturating_sub(1) / 2).sum();
        (positions * SERIES, sum as f64)
    }
}

/// Reads one own metric of a sink.
pub fn figure(client: &Client, series: &str) -> f64 {
    let page = client.get("/metrics").expect(200).body;
    let line = page.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let text = line.unwrap_or_else(|| panic!("no {series} in {page}"));
    text.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
}

/// Waits until every sink has everything.
pub fn drained(client: &Client) {
    wait_until("every sink has everything", || {
        let page = client.get("/metrics").expect(200).body;
        let pending: Vec<&str> = page.lines().filter(|l| l.starts_with("quiver_sink_pending_batches{")).collect();
        !pending.is_empty() && pending.iter().all(|line| line.ends_with(" 0"))
    });
}

pub fn in_promql(client: &Client) -> (u64, f64) {
    let ask = |expr: &str| client.number(expr);
    (ask("sum(count_over_time(load[1d]))") as u64, ask("sum(sum_over_time(load[1d]))"))
}

/// VictoriaMetrics keeps what it gets twice; the same sample twice counts once here.
fn in_victoria_metrics(client: &Client) -> (u64, f64) {
    let text = client.get(&format!("/api/v1/export?match[]={}", encode("load"))).expect(200).body;
    let mut found = std::collections::BTreeMap::new();
    for line in text.lines() {
        let series: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let name = series["metric"]["series"].as_str().expect("a label").to_owned();
        let (times, values) = (series["timestamps"].as_array(), series["values"].as_array());
        for (ts, value) in times.into_iter().flatten().zip(values.into_iter().flatten()) {
            let before = found.insert((name.clone(), ts.as_i64()), value.as_f64().expect("a number"));
            assert!(before.is_none_or(|b| Some(b) == value.as_f64()), "altered");
        }
    }
    (found.len() as u64, found.values().sum())
}

pub fn in_influxdb(client: &Client) -> (u64, f64) {
    let query = "SELECT count(value), sum(value) FROM load";
    let found = client.get(&format!("/query?db=quiver&q={}", encode(query))).expect(200).json();
    let row = &found["results"][0]["series"][0]["values"][0];
    (row[1].as_u64().unwrap_or(0), row[2].as_f64().unwrap_or(0.0))
}

pub fn in_postgres(postgres: &Postgres, database: &str) -> (u64, f64) {
    let text = postgres.ask(database, "SELECT count(*), sum(value) FROM metrics_ts WHERE metric_name = 'load'");
    let (count, sum) = text.split_once('|').expect("two columns");
    (count.parse().expect("a number"), sum.parse().unwrap_or(0.0))
}

#[test]
fn nothing_is_lost_or_doubled_whoever_is_killed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ports: [u16; 5] = std::array::from_fn(|_| free_port());
    let mut database = Postgres::start();
    ["tuned", "spec"].iter().for_each(|name| database.create(name));
    let mut prometheus = Again::new(prometheus(dir.path(), ports[0], ""));
    let victoria_metrics = Again::new(victoria_metrics(dir.path(), ports[1]));
    let mut influxdb = Again::new(influxdb(dir.path(), ports[2]));
    influxdb
        .client()
        .send("POST", "/query", &[("content-type", "application/x-www-form-urlencoded")], b"q=CREATE+DATABASE+quiver")
        .expect(200);
    let mut second = Again::new(quiver(&dir.path().join("second"), ports[3], "quiver: {node: second}\n"));
    let queue = "queue_config: {batch_send_deadline: 40ms, max_backoff: 200ms, max_samples_per_send: 500}";
    let (to_second, to_database) = (Toxic::before(ports[3]), Toxic::before(database.port));
    let write = |port: u16, more: &str| format!("- url: http://127.0.0.1:{port}/api/v1/write\n  {queue}\n{more}");
    let config = format!(
        "remote_write:\n{}{}{}quiver:\n  sinks:\n    influxdb:\n    - {{url: 'http://127.0.0.1:{}', database: quiver, \
         batch_send_deadline: 40ms}}\n    postgres:\n    - {{name: tuned, url: 'postgres://quiver@127.0.0.1:{pg}/tuned', \
         password: {PASSWORD}, batch_send_deadline: 40ms}}\n    - {{name: spec, layout: spec, url: \
         'postgres://quiver@127.0.0.1:{pg}/spec', password: {PASSWORD}, batch_send_deadline: 40ms}}\n",
        write(ports[0], "  name: prometheus\n"),
        write(ports[1], "  name: victoria-metrics\n"),
        write(to_second.port(), "  name: second\n  protobuf_message: io.prometheus.write.v2.Request\n"),
        ports[2],
        pg = to_database.port(),
    );
    let mut server = Again::new(quiver(&dir.path().join("first"), ports[4], &config));

    let base_ms = now_ms() - 600_000;
    let load = Load::start(ports[4], base_ms);
    load.go_on(30);
    // Work is done there, and nobody hears of it.
    [&to_second, &to_database].iter().for_each(|way| way.set(Mood::Mute));
    load.go_on(10);
    [&to_second, &to_database].iter().for_each(|way| way.set(Mood::Cut));
    load.go_on(5);
    [&to_second, &to_database].iter().for_each(|way| way.set(Mood::Good));
    load.go_on(10);
    // The other stores go, in the middle of it; then Quiver, three times, with them away.
    prometheus.kill();
    influxdb.kill();
    load.go_on(10);
    database.kill();
    second.kill();
    for _ in 0..3 {
        load.go_on(20);
        server.kill();
        server.resume();
    }
    load.go_on(20);
    prometheus.resume();
    influxdb.resume();
    database.resume();
    second.resume();
    // And once more, while it sends what waited.
    load.go_on(20);
    server.kill();
    server.resume();
    load.go_on(20);
    odd_values(server.client(), base_ms);
    let wanted = load.finish();
    drained(server.client());

    assert_eq!(in_promql(server.client()), wanted, "Quiver itself");
    assert_eq!(in_promql(second.client()), wanted, "a second Quiver, by remote write 2.0");
    assert_eq!(in_promql(prometheus.client()), wanted, "Prometheus: {}", failed(server.client(), "prometheus"));
    wait_until("VictoriaMetrics shows what it has", || in_victoria_metrics(victoria_metrics.client()).0 >= wanted.0);
    assert_eq!(in_victoria_metrics(victoria_metrics.client()), wanted, "VictoriaMetrics");
    assert_eq!(in_influxdb(influxdb.client()), wanted, "InfluxDB");
    for layout in ["tuned", "spec"] {
        assert_eq!(in_postgres(&database, layout), wanted, "PostgreSQL, {layout}");
        let bits =
            "SELECT encode(float8send(value), 'hex') FROM metrics_ts WHERE metric_name = 'odd' ORDER BY timestamp";
        assert_eq!(database.ask(layout, bits), "8000000000000000\n7ff0000000000002\n7ff8000000000123", "{layout}");
        let row = "SELECT metric_type, source, target_id, labels FROM metrics_ts WHERE metric_name = 'load' LIMIT 1";
        let row = database.ask(layout, row);
        assert!(row.starts_with("CUSTOM|remote_write|remote_write|{\"job\": \"e2e, x=1\", "), "{layout}: {row}");
    }
    println!("{} samples in each of seven places, each once", wanted.0);
    let outcome = |sink: &str, kind: &str, outcome: &str| {
        let series = format!("quiver_sink_samples_total{{sink=\"{sink}\",kind=\"{kind}\",outcome=\"{outcome}\"}}");
        figure(server.client(), &series)
    };
    assert_eq!(outcome("tuned", "postgres", "failed") + outcome("second", "remote_write", "failed"), 0.0);
    assert_eq!(outcome("spec", "postgres", "lost"), 0.0);
    assert_eq!(server.running.take().expect("it runs").terminate(), Some(0));
}

fn failed(client: &Client, sink: &str) -> f64 {
    figure(client, &format!("quiver_sink_samples_total{{sink=\"{sink}\",kind=\"remote_write\",outcome=\"failed\"}}"))
}

/// What loses its bits on the way as text: -0, the stale marker, a NaN with a payload.
fn odd_values(client: &Client, base_ms: i64) {
    let odd = [-0.0, f64::from_bits(0x7ff0_0000_0000_0002), f64::from_bits(0x7ff8_0000_0000_0123)];
    let samples = odd.iter().enumerate().map(|(i, value)| (base_ms + i as i64, *value));
    let answer = remote::write(client, vec![remote::series(&[("__name__", "odd"), ("job", "e2e")], samples)]);
    assert!(matches!(answer.status, 200 | 204), "{} {}", answer.status, answer.body);
}

#[test]
fn one_bad_sample_costs_itself_and_a_reload_adds_and_removes_sinks() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ports: [u16; 2] = std::array::from_fn(|_| free_port());
    let prometheus = Again::new(prometheus(dir.path(), ports[0], ""));
    let server = Again::new(quiver(&dir.path().join("q"), ports[1], "quiver: {node: q}\n"));
    let now = now_ms();
    let sample = |name: &str, ts_ms: i64| remote::series(&[("__name__", name), ("job", "j")], [(ts_ms, 1.0)]);
    let write = |all| assert!(matches!(remote::write(server.client(), all).status, 200 | 204));
    write(vec![sample("before", now)]);

    let config = dir.path().join("q/quiver.yml");
    let text = format!(
        "global: {{external_labels: {{zone: z1}}}}\nremote_write:\n- url: http://127.0.0.1:{}/api/v1/write\n  name: p\n  \
         queue_config: {{batch_send_deadline: 30ms}}\n  write_relabel_configs: [{{source_labels: [__name__], regex: \
         secret, action: drop}}]\n",
        ports[0]
    );
    std::fs::write(&config, text).expect("the file is written");
    server.client().send("POST", "/-/reload", &[], b"").expect(200);
    write((0..50).map(|i| sample(&format!("m{i}"), now)).chain([sample("secret", now)]).collect());
    drained(server.client());
    // Prometheus takes no older samples, and of a request with one it takes nothing.
    let mixed = (0..50).map(|i| sample(&format!("m{i}"), if i % 10 == 7 { now - 60_000 } else { now + 1_000 }));
    write(mixed.collect());
    drained(server.client());
    // As they are: a function would drop the names, and fifty series would be one.
    let there = prometheus.client().query("{job=\"j\",zone=\"z1\"}[1d] offset -10s");
    let values = |series: &serde_json::Value| series["values"].as_array().map_or(0, Vec::len);
    assert_eq!(there.as_array().into_iter().flatten().map(values).sum::<usize>(), 95, "{there}");
    assert_eq!(prometheus.client().query("{__name__=~\"before|secret\"}").as_array().map(Vec::len), Some(0));
    assert_eq!(failed(server.client(), "p"), 5.0);
    let series = "quiver_sink_samples_total{sink=\"p\",kind=\"remote_write\",outcome=\"filtered\"}";
    assert_eq!(figure(server.client(), series), 1.0);

    std::fs::write(&config, "quiver: {node: q}\n").expect("the file is written");
    server.client().send("POST", "/-/reload", &[], b"").expect(200);
    write(vec![sample("after", now + 2_000)]);
    let page = server.client().get("/metrics").expect(200).body;
    assert!(!page.contains("quiver_sink_samples_total{sink=\"p\""), "the sink is gone");
    let places = std::fs::read_dir(dir.path().join("q/data/sinks")).expect("the folder is there");
    let names: Vec<_> = places.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect();
    assert!(names.iter().all(|name| !name.ends_with(".place")), "{names:?}");
}
