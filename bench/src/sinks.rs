//! The ways out: what a million samples costs the server on its way to another store, and how fast they go.
//!
//! The other store is stopped while the samples come in, so that they wait in the queue on disk; then it is started, and what
//! is measured is the time and the CPU until it has everything. So the cost of taking samples in stands apart.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Options;
use crate::postgres::{PASSWORD, Postgres};
use crate::progress::Progress;
use crate::remote_write::NO_SCRAPES;
use crate::report::Row;
use crate::server::{Kind, Server};
use crate::ways::{self, PUSHED};

const SECTION: &str = "ways out, CPU of the server";
/// Longest time until the other store has everything.
const DRAIN_MAX: Duration = Duration::from_secs(1_800);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const QUEUE: &str = "queue_config: {batch_send_deadline: 1s, max_backoff: 100ms}, metadata_config: {send: false}";

/// A kind of place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Server(Kind, &'static str),
    Postgres(&'static str),
}

const PLACES: [(&str, Place); 6] = [
    ("remote write 1.0 to VictoriaMetrics", Place::Server(Kind::VictoriaMetrics, "prometheus.WriteRequest")),
    ("remote write 1.0 to Prometheus", Place::Server(Kind::Prometheus, "prometheus.WriteRequest")),
    ("remote write 2.0 to Quiver", Place::Server(Kind::Quiver, "io.prometheus.write.v2.Request")),
    ("InfluxDB", Place::Server(Kind::Influxdb, "")),
    ("PostgreSQL, layout tuned", Place::Postgres("tuned")),
    ("PostgreSQL, layout spec", Place::Postgres("spec")),
];

/// A place at work.
enum Running {
    Server {
        server: Box<Server>,
        /// Goes with it.
        _folder: tempfile::TempDir,
    },
    Postgres(Postgres),
}

impl Running {
    fn start(place: Place, options: &Options) -> Result<Running, String> {
        match place {
            Place::Server(kind, _) => {
                let folder = options.folder()?;
                let server = Server::start(kind, options, folder.path(), NO_SCRAPES)?;
                Ok(Running::Server { server: Box::new(server), _folder: folder })
            }
            Place::Postgres(_) => {
                let database = Postgres::start();
                database.create("bench");
                Ok(Running::Postgres(database))
            }
        }
    }

    fn stop(&mut self) -> Result<(), String> {
        match self {
            Running::Server { server, .. } => server.stop(),
            Running::Postgres(database) => {
                database.stop();
                Ok(())
            }
        }
    }

    fn resume(&mut self) -> Result<(), String> {
        match self {
            Running::Server { server, .. } => {
                server.spawn()?;
                server.wait_until_ready().map(|_| ())
            }
            Running::Postgres(database) => {
                database.resume();
                Ok(())
            }
        }
    }

    /// The configuration that leads there.
    fn config(&self, place: Place) -> String {
        match (self, place) {
            (Running::Server { server, .. }, Place::Server(Kind::Influxdb, _)) => format!(
                "quiver: {{sinks: {{influxdb: [{{name: place, url: 'http://127.0.0.1:{}', database: bench}}]}}}}\n",
                server.port
            ),
            (Running::Server { server, .. }, Place::Server(_, message)) => format!(
                "remote_write: [{{name: place, url: 'http://127.0.0.1:{}/api/v1/write', protobuf_message: {message}, {QUEUE}}}]\n",
                server.port
            ),
            (Running::Postgres(database), Place::Postgres(layout)) => format!(
                "quiver: {{sinks: {{postgres: [{{name: place, url: 'postgres://quiver@127.0.0.1:{}/bench', password: \
                 {PASSWORD}, layout: {layout}}}]}}}}\n",
                database.port
            ),
            _ => String::new(),
        }
    }

    fn found(&self) -> Result<u64, String> {
        match self {
            Running::Server { server, .. } => server.found("job=\"node\""),
            Running::Postgres(database) => {
                let text = database.ask("bench", "SELECT count(*) FROM metrics_ts");
                text.parse().map_err(|e| format!("{text}: {e}"))
            }
        }
    }
}

/// Sends the same samples to each kind of place.
pub fn run(options: &Options) -> Vec<Row> {
    let there = |place: &Place| match place {
        Place::Server(kind, _) => kind.is_installed(options),
        Place::Postgres(_) => Path::new("/usr/lib/postgresql").exists(),
    };
    let places = PLACES.iter().filter(|(_, place)| there(place));
    places
        .map(|(name, place)| {
            one(options, name, *place).unwrap_or_else(|error| {
                eprintln!("{name}: {error}");
                Row::new(SECTION, name, format!("failed: {}", error.chars().take(200).collect::<String>()))
            })
        })
        .collect()
}

fn one(options: &Options, name: &str, place: Place) -> Result<Row, String> {
    let folder = options.folder()?;
    let mut running = Running::start(place, options)?;
    running.stop()?;
    let server = Server::start(Kind::Quiver, options, folder.path(), &running.config(place))?;
    let progress = Progress::start(format!("{SECTION}: {name}"));
    let way = &PUSHED[0];
    let mut shares = ways::shares(options, way);
    let rounds = options.sink_samples.div_ceil(options.way_series.max(1)).max(1);
    let (began, cpu_before) = (Instant::now(), server.cpu_seconds()?);
    let mut samples = 0;
    for _ in 0..rounds {
        samples += ways::send(&server, way, &mut shares, Duration::ZERO, &progress)?.0;
    }
    let millions = samples as f64 / 1e6;
    let mut row = Row::new(SECTION, name, Kind::Quiver.version(options));
    row.set("series", options.way_series as f64);
    row.set("samples", samples as f64);
    row.set("taken_in_per_second", samples as f64 / began.elapsed().as_secs_f64());
    row.set("taking_in_cpu_s_per_million", (server.cpu_seconds()? - cpu_before) / millions);
    row.set("queue_bytes_per_sample", own_figure(&server, "quiver_sink_queue_bytes")? / samples as f64);
    running.resume()?;
    let (began, cpu_before) = (Instant::now(), server.cpu_seconds()?);
    while own_figure(&server, "quiver_sink_pending_batches{")? > 0.0 {
        if began.elapsed() > DRAIN_MAX {
            return Err(format!("it does not have everything after {} s", DRAIN_MAX.as_secs()));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    row.set("samples_per_second", samples as f64 / began.elapsed().as_secs_f64());
    row.set("cpu_s_per_million", (server.cpu_seconds()? - cpu_before) / millions);
    row.set("rss_mib", server.resident_bytes() as f64 / 1_048_576.0);
    // Some stores show it only after their own delay.
    std::thread::sleep(Duration::from_secs(3));
    let found = running.found()?;
    if found < samples {
        return Err(format!("{found} of {samples} samples are there"));
    }
    row.set("found", found as f64);
    Ok(row)
}

/// Reads the first of the server's own figures whose line begins so.
fn own_figure(server: &Server, begin: &str) -> Result<f64, String> {
    let answer = server.client()?.get("/metrics").map_err(|e| e.to_string())?;
    let page = answer.text();
    let line = page.lines().find(|line| line.starts_with(begin));
    let text = line.and_then(|line| line.rsplit(' ').next()).ok_or_else(|| format!("no {begin} at /metrics"))?;
    text.parse().map_err(|e| format!("{text}: {e}"))
}
