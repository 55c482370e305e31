//! The start after kill -9, on all that the load left behind.

use std::time::{Duration, Instant};

use crate::Options;
use crate::measure::now_ms;
use crate::probe::WRITE_HEADERS;
use crate::remote_body::RemoteBody;
use crate::report::Row;
use crate::server::Server;

const PATIENCE: Duration = Duration::from_secs(300);

/// Kills the server and starts it again; measures until it takes a write, and until it answers a query about what it took
/// before.
pub fn run(options: &Options, server: &mut Server, running_bytes: u64, acknowledged: u64) -> Result<Row, String> {
    eprintln!("start after kill -9, {} ...", server.kind.name());
    server.kill();
    let begin = Instant::now();
    server.spawn()?;
    let writes_ms = until(begin, || takes_a_write(server));
    let query = "count(count_over_time({job=\"node\"}[1d]))";
    let answers_ms = match server.kind.answers_promql() {
        true => until(begin, || server.number(query).is_ok_and(|found| found > 0.0)),
        false => until(begin, || server.found("").is_ok_and(|found| found > 0)),
    };
    let ready_ms = { until(begin, || server.wait_until_ready().is_ok()) };
    let peak = server.peak_bytes();
    let resident = server.resident_bytes();
    let mut row = Row::new("start after kill -9", server.kind.name(), server.kind.version(options));
    row.set("accepts_writes_s", writes_ms / 1000.0);
    row.set("answers_queries_s", answers_ms / 1000.0);
    row.set("ready_s", ready_ms / 1000.0);
    row.set("rss_mib", resident as f64 / 1_048_576.0);
    row.set("replay_peak_mib", peak as f64 / 1_048_576.0);
    row.set("replay_peak_by_running", peak as f64 / running_bytes.max(1) as f64);
    row.set("acknowledged", acknowledged as f64);
    row.set("found", server.found("job=\"node\"")? as f64);
    Ok(row)
}

/// Asks again and again until the answer is yes; gives milliseconds since the start.
fn until(begin: Instant, mut is_so: impl FnMut() -> bool) -> f64 {
    while !is_so() && begin.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    begin.elapsed().as_secs_f64() * 1000.0
}

fn takes_a_write(server: &Server) -> bool {
    let labels = vec![("__name__", "bench_probe".to_owned()), ("job", "probe".to_owned())];
    let mut body = RemoteBody::of(std::iter::once((0, labels)), now_ms());
    let bytes = body.render(now_ms(), 1_000_000_000);
    let Ok(mut client) = server.client() else { return false };
    client.request("POST", server.kind.write_path(), WRITE_HEADERS, bytes).is_ok_and(|answer| answer.is_good())
}
