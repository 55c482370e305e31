//! Places that misbehave: whatever they answer, or do not, nothing is lost, nothing else waits for them, and no secret is told.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;

use crate::postgres::{PASSWORD, Postgres};
use crate::remote;
use crate::sinks::{Again, Load, drained, figure, in_influxdb, in_postgres, in_promql, influxdb, prometheus, quiver};
use crate::support::{Client, free_port, now_ms, wait_until};
use crate::toxic::{Mood, Toxic};

/// What a place does with a request.
#[derive(Clone, Copy)]
enum Reply {
    /// Answers so, with a header beside.
    Status(u16, &'static str),
    /// Begins to answer that all is well, and goes.
    Half,
    /// Goes.
    Nothing,
}

/// A place that does what is written down, and takes everything after that.
struct Scripted {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<VecDeque<Reply>>,
    /// Series and times of what was taken, in order.
    taken: Mutex<Vec<(String, i64)>>,
    types: Mutex<Vec<String>>,
}

impl Scripted {
    fn start(script: &[Reply]) -> Scripted {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let shared = Arc::new(Shared { script: Mutex::new(script.iter().copied().collect()), ..Shared::default() });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = serving.clone();
                std::thread::spawn(move || while serve(&client, &shared).is_some() {});
            }
        });
        Scripted { port, shared }
    }

    fn taken(&self) -> Vec<(String, i64)> {
        self.shared.taken.lock().expect("no thread of the place panics").clone()
    }
}

/// Serves one request; `None` at the end of the connection.
fn serve(client: &TcpStream, shared: &Shared) -> Option<()> {
    let mut reader = BufReader::new(client);
    let (mut length, mut content_type) = (0, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(n) = line.strip_prefix("content-length:") {
            length = n.trim().parse().ok()?;
        }
        if let Some(text) = line.strip_prefix("content-type:") {
            content_type = text.trim().to_owned();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut writer = client;
    let reply = shared.script.lock().ok()?.pop_front().unwrap_or(Reply::Status(204, ""));
    shared.types.lock().ok()?.push(content_type);
    match reply {
        Reply::Nothing => return None,
        Reply::Half => {
            writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"half").ok()?;
            return None;
        }
        Reply::Status(status, header) => {
            if status == 204 {
                let plain = wire::snappy::decode_block(&body, 1 << 20).ok()?;
                let request = remote::WriteRequest::decode(&plain[..]).ok()?;
                let mut taken = shared.taken.lock().ok()?;
                for series in request.timeseries {
                    let name = series.labels.iter().find(|l| l.name == "__name__").map_or("", |l| &l.value).to_owned();
                    taken.extend(series.samples.iter().map(|s| (name.clone(), s.timestamp)));
                }
            }
            let more = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
            let body = if status == 204 { "" } else { "no" };
            let length = if status == 204 { String::new() } else { format!("content-length: {}\r\n", body.len()) };
            writer.write_all(format!("HTTP/1.1 {status} x\r\n{more}{length}\r\n{body}").as_bytes()).ok()?;
        }
    }
    Some(())
}

fn outcome(client: &Client, sink: &str, kind: &str, outcome: &str) -> f64 {
    figure(client, &format!("quiver_sink_samples_total{{sink=\"{sink}\",kind=\"{kind}\",outcome=\"{outcome}\"}}"))
}

#[test]
fn whatever_a_place_answers_nothing_is_lost_or_told_twice() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    use Reply::{Half, Nothing, Status};
    let passing = [
        Status(500, ""),
        Status(429, "retry-after: 0"),
        Half,
        Nothing,
        Status(302, "location: http://127.0.0.1:1/login"),
        Status(408, ""),
        Status(503, "retry-after: Wed, 21 Oct 2015 07:28:00 GMT"),
        Status(413, ""),
    ];
    let place = Scripted::start(&passing);
    let old = Scripted::start(&[Status(415, "")]);
    let deaf = Scripted::start(&[]);
    let queue = "queue_config: {batch_send_deadline: 30ms, min_backoff: 1ms, max_backoff: 20ms}";
    let entry = |name: &str, port: u16, more: &str| {
        format!(
            "- {{name: {name}, url: 'http://127.0.0.1:{port}/write', {queue}{more}, metadata_config: {{send: false}}}}\n"
        )
    };
    let v2 = ", protobuf_message: io.prometheus.write.v2.Request";
    let config = format!(
        "remote_write:\n{}{}{}",
        entry("place", place.port, ""),
        entry("old", old.port, v2),
        // Says 204 to what it does not understand, as old places do.
        entry("deaf", deaf.port, v2),
    );
    let server = Again::new(quiver(&dir.path().join("q"), free_port(), &config));
    let base = now_ms() - 60_000;
    let samples = (0..20).map(|i| (base + i * 1_000, i as f64));
    let wanted: Vec<(String, i64)> = samples.clone().map(|(ts, _)| ("m".to_owned(), ts)).collect();
    let series = remote::series(&[("__name__", "m"), ("job", "j")], samples);
    assert!(matches!(remote::write(server.client(), vec![series]).status, 200 | 204));
    drained(server.client());
    assert_eq!(place.taken(), wanted, "each once, in order");
    assert_eq!(old.taken(), wanted, "415 says that it wants version 1");
    assert_eq!(outcome(server.client(), "place", "remote_write", "failed"), 0.0);
    let retries = figure(server.client(), "quiver_sink_retries_total{sink=\"place\",kind=\"remote_write\"}");
    assert_eq!(retries, 7.0, "413 is no such answer: it splits");
    let types = deaf.shared.types.lock().expect("no thread panics").clone();
    assert_eq!(types.len(), 2, "{types:?}");
    assert!(types[0].contains("v2") && !types[1].contains("v2"), "{types:?}");
    // The request that it did not understand had no samples for it.
    assert_eq!(deaf.taken(), wanted);
    assert_eq!(outcome(server.client(), "deaf", "remote_write", "sent"), 20.0);
}

#[test]
fn a_prometheus_that_knows_version_1_only_gets_version_1() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = free_port();
    let prometheus = Again::new(prometheus(dir.path(), port, ""));
    let config = format!(
        "remote_write:\n- url: http://127.0.0.1:{port}/api/v1/write\n  name: p\n  protobuf_message: \
         io.prometheus.write.v2.Request\n  queue_config: {{batch_send_deadline: 30ms}}\n"
    );
    let server = Again::new(quiver(&dir.path().join("q"), free_port(), &config));
    let load = Load::start(server.port(), now_ms() - 600_000);
    load.go_on(20);
    let wanted = load.finish();
    drained(server.client());
    assert_eq!(in_promql(prometheus.client()), wanted);
}

#[test]
fn a_bad_way_to_one_place_costs_that_place_time_and_nobody_else() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ports: [u16; 4] = std::array::from_fn(|_| free_port());
    let mut database = Postgres::start();
    database.create("m");
    let prometheus = Again::new(prometheus(dir.path(), ports[0], ""));
    let influxdb = Again::new(influxdb(dir.path(), ports[1]));
    influxdb
        .client()
        .send("POST", "/query", &[("content-type", "application/x-www-form-urlencoded")], b"q=CREATE+DATABASE+quiver")
        .expect(200);
    let second = Again::new(quiver(&dir.path().join("second"), ports[2], "quiver: {node: second}\n"));
    let ways = [ports[0], ports[1], database.port].map(Toxic::before);
    let queue = "remote_timeout: 400ms, queue_config: {batch_send_deadline: 30ms, max_backoff: 200ms}";
    let config = format!(
        "remote_write:\n- {{name: p, url: 'http://127.0.0.1:{}/api/v1/write', {queue}}}\n- {{name: free, url: \
         'http://127.0.0.1:{}/api/v1/write', {queue}}}\nquiver:\n  sinks:\n    influxdb:\n    - {{name: i, url: \
         'http://127.0.0.1:{}', database: quiver, batch_send_deadline: 30ms, remote_timeout: 400ms}}\n    postgres:\n    - \
         {{name: d, url: 'postgres://quiver@127.0.0.1:{}/m', password: {PASSWORD}, batch_send_deadline: 30ms}}\n",
        ways[0].port(),
        ports[2],
        ways[1].port(),
        ways[2].port(),
    );
    let server = Again::new(quiver(&dir.path().join("q"), ports[3], &config));
    let load = Load::start(ports[3], now_ms() - 600_000);
    load.go_on(10);
    for mood in [Mood::Late(Duration::from_millis(20)), Mood::HalfOpen, Mood::Mute, Mood::Cut] {
        ways.iter().for_each(|way| way.set(mood));
        load.go_on(15);
        let acknowledged = load.samples() as f64;
        wait_until("the place behind a good way has what was acknowledged", || {
            outcome(server.client(), "free", "remote_write", "sent") >= acknowledged
        });
        ways.iter().for_each(|way| way.set(Mood::Cut));
        ways.iter().for_each(|way| way.set(Mood::Good));
    }
    let wanted = load.finish();
    drained(server.client());
    assert_eq!(in_promql(second.client()), wanted, "the way was good");
    assert_eq!(in_promql(prometheus.client()), wanted, "Prometheus");
    assert_eq!(in_influxdb(influxdb.client()), wanted, "InfluxDB");
    assert_eq!(in_postgres(&database, "m"), wanted, "PostgreSQL");
    assert_eq!(outcome(server.client(), "d", "postgres", "failed"), 0.0);
    database.kill();
}

#[test]
fn rows_that_a_database_refuses_cost_themselves_and_old_partitions_go() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = Postgres::start();
    database.create("m");
    let sink = |more: &str| {
        format!(
            "quiver:\n  sinks:\n    postgres:\n    - {{name: d, url: 'postgres://quiver@127.0.0.1:{}/m', password: \
             {PASSWORD}, batch_send_deadline: 30ms{more}}}\n",
            database.port
        )
    };
    let server = Again::new(quiver(&dir.path().join("q"), free_port(), &sink("")));
    let now = now_ms();
    let write = |name: &str, samples: &[(i64, f64)]| {
        let all = remote::series(&[("__name__", name), ("job", "j")], samples.iter().copied());
        assert!(matches!(remote::write(server.client(), vec![all]).status, 200 | 204));
    };
    const DAY_MS: i64 = 86_400_000;
    write("old", &[(now - 5 * DAY_MS, 1.0)]);
    drained(server.client());
    let ask = |sql: &str| database.ask("m", sql);
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'quiver_samples'::regclass";
    assert_eq!(ask(partitions), "2", "that day's, and the next one ahead");
    ask(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.value = 13 THEN RAISE EXCEPTION \
         'thirteen is not welcome'; END IF; RETURN NEW; END $$",
    );
    ask("CREATE TRIGGER refuse BEFORE INSERT ON quiver_samples FOR EACH ROW EXECUTE FUNCTION refuse()");
    let samples: Vec<(i64, f64)> = (0..50).map(|i| (now - 50_000 + i * 1_000, i as f64)).collect();
    write("m", &samples);
    drained(server.client());
    assert_eq!(ask("SELECT count(*), sum(value) FROM metrics_ts WHERE metric_name = 'm'"), "49|1212");
    assert_eq!(outcome(server.client(), "d", "postgres", "failed"), 1.0);
    assert_eq!(outcome(server.client(), "d", "postgres", "sent"), 50.0);
    // The same again behind it: what was told once is not told twice, and the sink is not stuck.
    write("after", &[(now, 1.0)]);
    drained(server.client());
    assert_eq!(ask("SELECT count(*) FROM metrics_ts WHERE metric_name = 'after'"), "1");

    std::fs::write(dir.path().join("q/quiver.yml"), sink(", retention: 2d")).expect("the file is written");
    server.client().send("POST", "/-/reload", &[], b"").expect(200);
    write("m", &[(now - 4 * DAY_MS, 2.0), (now + 1_000, 3.0)]);
    drained(server.client());
    wait_until("the old partitions are dropped", || {
        ask("SELECT count(*) FROM metrics_ts WHERE metric_name = 'old'") == "0"
    });
    assert_eq!(ask("SELECT count(*) FROM metrics_ts WHERE metric_name = 'm'"), "50");
    assert_eq!(outcome(server.client(), "d", "postgres", "filtered"), 1.0);
    assert_eq!(outcome(server.client(), "d", "postgres", "sent"), 52.0, "the figures go on over a reload");
}

#[test]
fn no_secret_of_a_place_is_told_anywhere() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = Scripted::start(&[Reply::Status(401, ""); 3]);
    let dead = free_port();
    let config = format!(
        "remote_write:\n- {{name: a, url: 'http://u:planted1@127.0.0.1:{p}/w'}}\n- {{name: b, url: \
         'http://127.0.0.1:{dead}/w', authorization: {{credentials: planted2}}}}\n- {{name: c, url: \
         'http://127.0.0.1:{dead}/w', basic_auth: {{username: u, password: planted3}}}}\n- {{url: \
         'http://u:planted4@127.0.0.1:{dead}/w'}}\nquiver:\n  sinks:\n    influxdb:\n    - {{url: \
         'http://127.0.0.1:{dead}', bucket: b, org: o, token: planted5}}\n    - {{url: 'http://u:planted6@127.0.0.1:{dead}', \
         database: d}}\n    postgres:\n    - {{url: 'postgres://u:planted7@127.0.0.1:{dead}/d', batch_send_deadline: 10ms}}\n    - \
         {{name: n, url: 'postgres://u@127.0.0.1:{dead}/d', password: planted8}}\n",
        p = place.port,
    );
    let server = Again::new(quiver(&dir.path().join("q"), free_port(), &config));
    let all = remote::series(&[("__name__", "m"), ("job", "j")], [(now_ms(), 1.0)]);
    assert!(matches!(remote::write(server.client(), vec![all]).status, 200 | 204));
    let sinks = || {
        let page = server.client().get("/metrics").expect(200).body;
        let lines = page.lines().filter(|line| line.starts_with("quiver_sink_up{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(sinks().len(), 8, "{:?}", sinks());
    wait_until("those that are away are said to be down", || {
        sinks().iter().filter(|line| line.ends_with(" 0")).count() >= 7
    });
    let pages = ["/metrics", "/api/v1/status/config", "/api/v1/status/flags", "/api/v1/status/runtimeinfo"];
    let mut said: BTreeMap<String, String> =
        pages.iter().map(|page| ((*page).to_owned(), server.client().get(page).body)).collect();
    said.insert("the log".to_owned(), server.log_text());
    for (page, text) in &said {
        assert!(!text.contains("planted"), "{page}: {text}");
    }
    assert!(said["the log"].contains("the sink takes nothing"), "{}", said["the log"]);
}
