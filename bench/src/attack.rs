//! Collection while hostile SQL runs: the same load, quiet and under each attack, on one server.
//!
//! What is promised: a query can take its own process down and no more. So scrapes stay on time, and what is durable and visible comes
//! as soon as it does without the attack, as far as the processor goes round.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::Options;
use crate::http::Client;
use crate::report::Row;
use crate::scrape::{self, Standing};
use crate::server::Kind;

const SECTION: &str = "collection under hostile SQL";
/// A connection that was refused is not tried again at once.
const PAUSE: Duration = Duration::from_millis(20);

/// An attack: its name, how many ask at a time, and what.
type Attack = (&'static str, usize, &'static [&'static str]);

const SORT: &str =
    "SELECT h FROM (SELECT hash(range * 31) AS h FROM range(400000000)) ORDER BY h LIMIT 5 OFFSET 200000000";
const SORT_SAMPLES: &str = "SELECT a.value FROM metrics_ts a, range(1000) WHERE a.timestamp > now() - INTERVAL '1 minute' AND a.metric_name = 'bench_probe' ORDER BY hash(a.value + range)";
const CROSS: &str = "SELECT sum(a.range * b.range % 7) FROM range(100000) a CROSS JOIN range(1000000000) b";
const CROSS_MATCH: &str =
    "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE hash(a.range) > hash(b.range)";
const CROSS_SERIES: &str =
    "SELECT count(*) FROM series a, series b, series c WHERE a.labels < b.labels AND b.labels < c.labels";
const ENDLESS: &str = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t";
const DOUBLING: &str =
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t, range(2)) SELECT count(*) FROM t";
const LISTS: &str = "SELECT list(range) FROM range(2000000000)";
const TEXT: &str = "SELECT length(string_agg(repeat('x', 1000000), '')) FROM range(100000)";
const GROUPS: &str = "SELECT count(*) FROM (SELECT hash(range) AS h, count(*) FROM range(1000000000) GROUP BY h)";
const FILES: &str = "SELECT * FROM read_csv('/etc/passwd')";
const COPY: &str = "COPY (SELECT 1) TO '/tmp/x'";
const PROMQL: &str = "SELECT count(*) FROM promql('sum(count_over_time({__name__=~\".+\"}[1h:1s]))', now() - INTERVAL '1 hour', now(), 1)";

const ATTACKS: [Attack; 6] = [
    ("huge sorts", 2, &[SORT, SORT_SAMPLES]),
    ("cross joins", 2, &[CROSS, CROSS_MATCH, CROSS_SERIES]),
    ("endless recursion", 2, &[ENDLESS, DOUBLING]),
    ("memory eaters", 2, &[LISTS, TEXT, GROUPS]),
    ("heavy PromQL in SQL", 2, &[PROMQL]),
    (
        "64 at a time, of everything",
        64,
        &[
            SORT,
            SORT_SAMPLES,
            CROSS,
            CROSS_MATCH,
            CROSS_SERIES,
            ENDLESS,
            DOUBLING,
            LISTS,
            TEXT,
            GROUPS,
            FILES,
            COPY,
            PROMQL,
        ],
    ),
];

/// What came of the statements.
#[derive(Default)]
struct Outcomes {
    answered: AtomicU64,
    refused: AtomicU64,
    other: AtomicU64,
}

/// Runs the load quiet, under each attack, and quiet again.
pub fn run(options: &Options, rows: &mut Vec<Row>) {
    if options.analytics.as_ref().is_none_or(|program| !program.exists()) {
        eprintln!("the attack in SQL is left out: name quiver-analytics with --analytics");
        return;
    }
    if let Err(error) = attacked(options, rows) {
        eprintln!("attack: {error}");
        rows.push(Row::new("failed", SECTION, error.chars().take(300).collect()));
    }
}

fn attacked(options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
    let load = scrape::Load {
        name: SECTION.to_owned(),
        targets: options.attack_series.div_ceil(options.target_series.max(1)).max(1),
        ..options.scrape_load(SECTION, options.interval)
    };
    let standing = Standing::start(options, Kind::Quiver, &load)?;
    let version = Kind::Quiver.version(options);
    let quiet = |name: &str| -> Result<Row, String> {
        let mut row = Row::new(SECTION, name, version.clone());
        standing.watch(load.seconds, &mut row)?;
        row.set("rss_mib", standing.server.resident_bytes() as f64 / 1_048_576.0);
        Ok(row)
    };
    rows.push(quiet("nobody asks")?);
    for (name, clients, statements) in ATTACKS {
        let (stop, outcomes) = (AtomicBool::new(false), Outcomes::default());
        let streams = Mutex::new(HashMap::new());
        let measured = std::thread::scope(|scope| {
            for client in 0..clients {
                let (stop, outcomes, streams, port) = (&stop, &outcomes, &streams, standing.server.port);
                scope.spawn(move || ask(port, statements, client, (stop, streams), outcomes));
            }
            let measured = quiet(name);
            stop.store(true, Ordering::Relaxed);
            // Nobody waits for the answers that are still to come; and who goes away takes his query with him.
            for stream in streams.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default().values() {
                let _: Result<(), _> = TcpStream::shutdown(stream, Shutdown::Both);
            }
            measured
        });
        let mut row = measured?;
        for (figure, count) in [
            ("sql_answered", &outcomes.answered),
            ("sql_refused", &outcomes.refused),
            ("sql_otherwise", &outcomes.other),
        ] {
            row.set(figure, count.load(Ordering::Relaxed) as f64);
        }
        rows.push(row);
    }
    rows.push(quiet("nobody asks any more")?);
    Ok(())
}

/// Asks one statement after the other until told to stop.
fn ask(
    port: u16,
    statements: &[&str],
    number: usize,
    (stop, streams): (&AtomicBool, &Mutex<HashMap<usize, TcpStream>>),
    outcomes: &Outcomes,
) {
    for statement in statements.iter().cycle().skip(number) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut client) = Client::connect(port) else {
            std::thread::sleep(PAUSE);
            continue;
        };
        if let (Ok(stream), Ok(mut all)) = (client.stream(), streams.lock()) {
            all.insert(number, stream);
        }
        // The stop may have come in between, and nobody would end this one.
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let answer =
            client.request("POST", "/api/v1/metrics/sql", "Content-Type: application/sql\r\n", statement.as_bytes());
        let counter = match answer.map(|a| a.status) {
            Ok(200) => &outcomes.answered,
            Ok(400 | 422) => &outcomes.refused,
            _ if stop.load(Ordering::Relaxed) => return,
            _ => {
                std::thread::sleep(PAUSE);
                &outcomes.other
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
